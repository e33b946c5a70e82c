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

__all__ = ["LOG_PROB", "negative_binomial", "normal", "poisson", "zero_inflated_negative_binomial"]


def negative_binomial(x: Tensor, log_mu: Tensor, log_theta: Tensor, dropout: Tensor | None = None) -> Tensor:
    """`Gamma(x + theta) / (Gamma(theta) x!) * (theta / (theta + mu))^theta * (mu / (theta + mu))^x`."""
    x, log_mu, log_theta = x.double(), log_mu.double(), log_theta.double()
    theta = log_theta.exp()
    log_theta_plus_mu = torch.logaddexp(log_theta, log_mu)
    zero = -theta * torch.log1p((log_mu - log_theta).clamp(max=700).exp())
    return zero + x * (log_mu - log_theta_plus_mu) + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)


def zero_inflated_negative_binomial(x: Tensor, log_mu: Tensor, log_theta: Tensor, dropout: Tensor) -> Tensor:
    """With probability `pi = sigmoid(dropout)` zero, otherwise a draw of the negative binomial."""
    nb = negative_binomial(x, log_mu, log_theta)
    kept, dropped = logsigmoid(-dropout.double()) + nb, logsigmoid(dropout.double())
    return torch.where(x == 0, torch.logaddexp(dropped, kept), kept)


def poisson(x: Tensor, log_mu: Tensor, log_theta: Tensor | None = None, dropout: Tensor | None = None) -> Tensor:
    """`mu^x exp(-mu) / x!`."""
    x, log_mu = x.double(), log_mu.double()
    return x * log_mu - log_mu.exp() - torch.lgamma(x + 1)


def normal(x: Tensor, log_mu: Tensor, log_theta: Tensor, dropout: Tensor | None = None) -> Tensor:
    """`exp(-((x - mu) / sigma)^2 / 2) / (sigma sqrt(2 pi))` with `sigma = theta`."""
    x, log_mu, log_sigma = x.double(), log_mu.double(), log_theta.double()
    return -0.5 * ((x - log_mu.exp()) / log_sigma.exp()) ** 2 - log_sigma - 0.5 * math.log(2 * math.pi)


LOG_PROB: dict[str, Callable[..., Tensor]] = {
    "nb": negative_binomial,
    "zinb": zero_inflated_negative_binomial,
    "poisson": poisson,
    "normal": normal,
}
"""The functions above by the name of their likelihood."""
