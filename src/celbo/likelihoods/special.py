"""The few special functions of the likelihoods, each free of cancellation, in plain torch.

With Stirling's formula `log z! = (z + 1/2) log z - z + log(2 pi)/2 + stirling_error(z)` the large terms of a
log-probability cancel on paper instead of on the machine (Loader 2000, "Fast and accurate computation of binomial
probabilities").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["digamma_error", "log1p_excess", "log_softplus", "stirling_error", "working_dtype"]

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_SERIES_BELOW = 0.1  # direct evaluation loses a factor 2/|u| of precision: 20 here
_ARTANH = (-2 / 3, -2 / 5, -2 / 7, -2 / 9, -2 / 11)
_ASYMPTOTIC_ABOVE = 10.0  # eight terms are exact to 1e-16 from there on
# B_2k / (2k (2k-1)) and B_2k / 2k, the Bernoulli series of log z! and of digamma
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400)
_DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12, -3617 / 8160)


def working_dtype(device: torch.device) -> torch.dtype:
    """Return the precision of the stored counts' terms: float64 on every device that has it (all but Apple's mps)."""
    return torch.float32 if device.type == "mps" else torch.float64


def log1p_excess(u: Tensor, log1p_u: Tensor) -> Tensor:
    """Return `u - log(1 + u)` to a few ulp for u > -1, given `log(1 + u)` from whatever form is accurate there."""
    # with v = u/(2+u), log(1 + u) = 2 artanh v = 2 (v + v^3/3 + ...): u v - 2 v^3/3 - 2 v^5/5 - ...
    v = u / (u + 2)
    v2 = v * v
    tail = _polynomial(v2, _ARTANH).mul_(v2).mul_(v)
    return torch.where(u.abs() < _SERIES_BELOW, tail.addcmul_(u, v), u - log1p_u)


def stirling_error(z: Tensor) -> Tensor:
    """Return `log z! - (z + 1/2) log z + z - log(2 pi)/2` for z > 0."""
    small = z.clamp(max=_ASYMPTOTIC_ABOVE)
    direct = torch.lgamma(small + 1) - (small + 0.5) * small.log() + small - HALF_LOG_2PI
    inverse = 1 / z.clamp(min=_ASYMPTOTIC_ABOVE)
    return torch.where(z < _ASYMPTOTIC_ABOVE, direct, inverse * _polynomial(inverse * inverse, _STIRLING))


def digamma_error(z: Tensor) -> Tensor:
    """Return `log z - 1/(2 z) - digamma(z)` for z > 0."""
    small = z.clamp(max=_ASYMPTOTIC_ABOVE)
    direct = small.log() - 0.5 / small - torch.digamma(small)
    inverse2 = z.clamp(min=_ASYMPTOTIC_ABOVE).pow(-2)
    return torch.where(z < _ASYMPTOTIC_ABOVE, direct, inverse2 * _polynomial(inverse2, _DIGAMMA))


def log_softplus(a: Tensor) -> Tensor:
    """Return `log(log(1 + exp(a)))`, finite and differentiable for every finite a."""
    # Below -20, log(1 + e^a) = e^a (1 - e^a/2 + ...): the logarithm is a - e^a/2 to 1e-18.
    low = a.clamp(max=-20)
    return torch.where(a < -20, low - low.exp() / 2, torch.nn.functional.softplus(a.clamp(min=-20), threshold=40).log())


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Return the polynomial with these coefficients, lowest power first (Horner)."""
    total = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total.mul_(x).add_(c)
    return total
