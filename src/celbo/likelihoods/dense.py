"""Distributions and losses of dense values: log-normalised counts, scores of principal components, shares in [0, 1].

Each takes x (cells, features) and the decoder's output (samples, cells, features), sums over features, and returns
(samples, cells). A name that ends in `log_prob` is a log-density in nats; the others are losses, positive, and no
log-probability of anything:

    gaussian_log_prob      sum -((x - mean) / sd)^2 / 2 - log sd - log(2 pi) / 2
    student_t_log_prob     sum log G((v + 1) / 2) - log G(v / 2) - log(v pi) / 2 - log s
                               - (v + 1) / 2 log(1 + ((x - mean) / s)^2 / v)
    squared_error          sum (x - mean)^2: the Gaussian's loss for sd^2 = 1/2, without its constant
    binary_cross_entropy   sum -x log y - (1 - x) log(1 - y)

A density of transformed counts cannot stand beside a probability of counts; `celbo.likelihoods.interval` is for that.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from celbo.likelihoods.special import HALF_LOG_2PI, stirling_error

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_of_probability",
    "gaussian_log_prob",
    "squared_error",
    "student_t_log_prob",
]


def gaussian_log_prob(x: Tensor, mean: Tensor, log_sd: Tensor) -> Tensor:
    """Return the log-density of each cell under independent Gaussians, (samples, cells), in nats.

    Parameters
    ----------
    x
        Values, (cells, features).
    mean
        (samples, cells, features).
    log_sd
        Log standard deviation, broadcastable to `mean`: a scalar, (features,), or an entry each.
    """
    z = (x - mean) * (-log_sd).exp()
    return (-0.5 * z.square() - log_sd - HALF_LOG_2PI).sum(-1)


def student_t_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor, dof: Tensor) -> Tensor:
    """Return the log-density of each cell under independent Student's t, (samples, cells), in nats.

    Right to the last digits for every number of degrees of freedom, and the Gaussian in the limit: with
    `h = dof / 2`, `log G(h + 1/2) - log G(h) - log(h) / 2 = h log(1 + 1 / (2 h)) - 1/2 + d(h + 1/2) - d(h)` and
    Stirling's errors d.

    Parameters
    ----------
    x
        Values, (cells, features).
    mean
        Location, (samples, cells, features).
    log_scale
        Log scale, broadcastable to `mean`; half the log of what scvis (Ding et al. 2018,
        doi:10.1038/s41467-018-04368-5) calls sigma squared.
    dof
        Degrees of freedom, above zero, broadcastable to `mean`; one for each feature in scvis.
    """
    h = 0.5 * dof.double()
    constant = h * torch.log1p(0.5 / h) - 0.5 + stirling_error(h + 0.5) - stirling_error(h) - HALF_LOG_2PI
    z = (x - mean) * (-log_scale).exp()
    tail = 0.5 * (dof + 1) * _log1p_square(z, dof)
    return (constant.to(mean.dtype) - log_scale - tail).sum(-1)


def _log1p_square(z: Tensor, dof: Tensor) -> Tensor:
    """Return `log(1 + z^2 / dof)`, also where the square is beyond the range of the dtype."""
    root = z.abs() * dof.rsqrt()
    far = root > 1e6
    near = torch.log1p(root.masked_fill(far, 1).square())
    return torch.where(far, 2 * root.masked_fill(~far, 1).log(), near)


def squared_error(x: Tensor, mean: Tensor) -> Tensor:
    """Return the sum of squared errors of each cell, (samples, cells): a loss, no log-probability.

    Parameters
    ----------
    x
        Values, (cells, features).
    mean
        Reconstruction, (samples, cells, features).
    """
    return (x - mean).square().sum(-1)


def binary_cross_entropy(x: Tensor, logits: Tensor) -> Tensor:
    """Return the cross entropy of each cell, (samples, cells): a loss, in nats.

    For x of 0 and 1 it is minus the log-probability of a Bernoulli; for x between, it is that of no density.

    Parameters
    ----------
    x
        Values in [0, 1], (cells, features).
    logits
        Logit of the reconstruction, (samples, cells, features).
    """
    return (softplus(logits, threshold=40) - x * logits).sum(-1)


def binary_cross_entropy_of_probability(x: Tensor, probability: Tensor, *, clip: float = 1e-7) -> Tensor:
    """Return the cross entropy of each cell as Keras computes it: from probabilities, clipped; (samples, cells).

    For reconstructions that have no logit, such as a sigmoid with some entries set to zero.

    Parameters
    ----------
    x
        Values in [0, 1], (cells, features).
    probability
        Reconstruction in [0, 1], (samples, cells, features).
    clip
        Distance that probabilities keep from 0 and from 1; where they are clipped the gradient is zero.
    """
    y = probability.clamp(clip, 1 - clip)
    return -(x * y.log() + (1 - x) * torch.log1p(-y)).sum(-1)
