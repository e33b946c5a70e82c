"""The oracle: log-probabilities in float64, as a textbook writes them. Slow and plain on purpose.

Every function takes the counts x (cells, genes), the log of the mean (samples, cells, genes) and, where the
distribution has them, the log inverse dispersion and the logit of the zero-inflation probability, broadcastable to the
same. It returns the log-probability of each entry in nats, (samples, cells, genes), float64. Gradients are autograd's.

The gradient with respect to log theta cancels where theta is far above the mean: it is right to about 1e-15 theta nat.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = [
    "LOG_PROB",
    "bernoulli",
    "log_normal",
    "log_normal_density",
    "lomax",
    "lomax_density",
    "negative_binomial",
    "normal",
    "piecewise_categorical",
    "poisson",
    "zero_inflated_negative_binomial",
    "zero_inflated_poisson",
]


def negative_binomial(x: Tensor, log_mu: Tensor, log_theta: Tensor, dropout: Tensor | None = None) -> Tensor:
    """`Gamma(x + theta) / (Gamma(theta) x!) * (theta / (theta + mu))^theta * (mu / (theta + mu))^x`."""
    x, log_mu, log_theta = x.double(), log_mu.double(), log_theta.double()
    theta = log_theta.exp()
    log_theta_plus_mu = torch.logaddexp(log_theta, log_mu)
    zero = -theta * torch.log1p((log_mu - log_theta).clamp(max=700).exp())
    return zero + x * (log_mu - log_theta_plus_mu) + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)


def zero_inflated_negative_binomial(x: Tensor, log_mu: Tensor, log_theta: Tensor, dropout: Tensor) -> Tensor:
    """With probability `pi = sigmoid(dropout)` zero, otherwise a draw of the negative binomial."""
    return _zero_inflated(x, negative_binomial(x, log_mu, log_theta), dropout)


def zero_inflated_poisson(x: Tensor, log_mu: Tensor, log_theta: Tensor | None, dropout: Tensor) -> Tensor:
    """With probability `pi = sigmoid(dropout)` zero, otherwise a draw of the Poisson."""
    return _zero_inflated(x, poisson(x, log_mu), dropout)


def _zero_inflated(x: Tensor, log_prob: Tensor, dropout: Tensor) -> Tensor:
    kept, dropped = logsigmoid(-dropout.double()) + log_prob, logsigmoid(dropout.double())
    return torch.where(x == 0, torch.logaddexp(dropped, kept), kept)


def poisson(x: Tensor, log_mu: Tensor, log_theta: Tensor | None = None, dropout: Tensor | None = None) -> Tensor:
    """`mu^x exp(-mu) / x!`."""
    x, log_mu = x.double(), log_mu.double()
    return x * log_mu - log_mu.exp() - torch.lgamma(x + 1)


def normal(x: Tensor, log_mu: Tensor, log_theta: Tensor, dropout: Tensor | None = None) -> Tensor:
    """`exp(-((x - mu) / sigma)^2 / 2) / (sigma sqrt(2 pi))` with `sigma = theta`."""
    x, log_mu, log_sigma = x.double(), log_mu.double(), log_theta.double()
    return -0.5 * ((x - log_mu.exp()) / log_sigma.exp()) ** 2 - log_sigma - 0.5 * math.log(2 * math.pi)


def bernoulli(x: Tensor, log_mu: Tensor, log_theta: Tensor | None = None, dropout: Tensor | None = None) -> Tensor:
    """`P(x > 0) = sigmoid(log_mu)`."""
    return torch.where(x > 0, logsigmoid(log_mu.double()), logsigmoid(-log_mu.double()))


def log_normal_density(x: Tensor, log_mu: Tensor, log_theta: Tensor, dropout: Tensor | None = None) -> Tensor:
    """`exp(-((log x - log_mu) / sd)^2 / 2) / (x sd sqrt(2 pi))` with `sd = theta`; zero at zero."""
    log_x = torch.where(x > 0, x.double(), 1).log()
    z = (log_x - log_mu.double()) / log_theta.double().exp()
    value = -0.5 * z**2 - log_x - log_theta.double() - 0.5 * math.log(2 * math.pi)
    return torch.where(x > 0, value, -torch.inf)


def log_normal(x: Tensor, log_mu: Tensor, log_theta: Tensor, dropout: Tensor | None = None) -> Tensor:
    """`F((log(x + 1/2) - log_mu) / theta) - F((log(x - 1/2) - log_mu) / theta)`, the last term only for x > 0.

    Formed in the tail that is smaller; it cancels where the interval is narrow.
    """
    x, log_mu, sd = x.double(), log_mu.double(), log_theta.double().exp()
    upper = ((x + 0.5).log() - log_mu) / sd
    lower = ((x - 0.5).clamp(min=0.25).log() - log_mu) / sd
    right = upper + lower > 0
    larger, smaller = torch.where(right, -lower, upper), torch.where(right, -upper, lower)
    log_larger, log_smaller = torch.special.log_ndtr(larger), torch.special.log_ndtr(smaller)
    stored = log_larger + torch.log(-torch.expm1(log_smaller - log_larger))
    return torch.where(x > 0, stored, torch.special.log_ndtr(upper))


def lomax_density(x: Tensor, log_mu: Tensor, log_theta: Tensor, dropout: Tensor | None = None) -> Tensor:
    """`(theta / mu) (1 + x / mu)^-(theta + 1)`."""
    x, log_mu, log_theta = x.double(), log_mu.double(), log_theta.double()
    return log_theta - log_mu - (log_theta.exp() + 1) * torch.log1p(x / log_mu.exp())


def lomax(x: Tensor, log_mu: Tensor, log_theta: Tensor, dropout: Tensor | None = None) -> Tensor:
    """`S(x - 1/2) - S(x + 1/2)` with `S(y) = (1 + y / mu)^-theta`, and `1 - S(1/2)` for x = 0.

    It cancels where the interval is narrow.
    """
    x, mu, theta = x.double(), log_mu.double().exp(), log_theta.double().exp()
    above, below = (-theta * torch.log1p(y / mu) for y in (x + 0.5, (x - 0.5).clamp(min=0)))
    return below + torch.log(-torch.expm1(above - below))


def piecewise_categorical(x: Tensor, class_logits: Tensor, of_above: Tensor) -> Tensor:
    """`pi_x` for x below K, else pi_K times the probability of what is above, whose logarithm is `of_above`.

    `class_logits` is (samples, cells, genes, K + 1), `of_above` (samples, cells, genes).
    """
    log_pi, k = torch.log_softmax(class_logits.double(), -1), class_logits.shape[-1] - 1
    of_class = log_pi.gather(-1, x.clamp(max=k).long().expand(log_pi.shape[:-1])[..., None])[..., 0]
    return torch.where(x < k, of_class, of_class + of_above)


LOG_PROB: dict[str, Callable[..., Tensor]] = {
    "nb": negative_binomial,
    "zinb": zero_inflated_negative_binomial,
    "poisson": poisson,
    "zip": zero_inflated_poisson,
    "bernoulli": bernoulli,
    "lognormal": log_normal,
    "lognormal-density": log_normal_density,
    "lomax": lomax,
    "lomax-density": lomax_density,
    "normal": normal,
}
"""The functions above by the name of their likelihood."""
