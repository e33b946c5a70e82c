"""Mean and variance of a positive continuous variable Y rounded to the nearest count, X = floor(Y + 1/2).

With the survival function S of Y,

    E[X] = sum_k S(k + 1/2),   E[X^2] = sum_k (2 k + 1) S(k + 1/2),   k = 0, 1, 2, ...

The first 32 terms are summed; the rest is the integral from 32 on, with the first correction of the midpoint rule
(Euler and Maclaurin). What remains is below 1e-4 of the value, but where Y is above 32 and varies by less than half a
count: there the mean is that of Y, within half a count of that of X.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["rounded_moments"]

_TERMS = 32


@torch.no_grad()
def rounded_moments(
    survival: Callable[[float], Tensor],
    density: Callable[[float], Tensor],
    beyond: Callable[[float], tuple[Tensor, ...]],
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of Y rounded, each of the shape that the functions return.

    Parameters
    ----------
    survival, density
        Of Y, at a positive number.
    beyond
        The integrals of `S(y)` and of `2 y S(y)` from a number to infinity.
    """
    mean = square = torch.zeros(())
    for k in range(_TERMS):
        s = survival(k + 0.5)
        mean, square = mean + s, square + (2 * k + 1) * s
    first, second = beyond(_TERMS)
    slope = density(_TERMS)
    mean = mean + (first - slope / 24).clamp(min=0)
    square = square + (second + (survival(_TERMS) - _TERMS * slope) / 12).clamp(min=0)
    return mean, (square - mean.square()).nan_to_num(nan=torch.inf, posinf=torch.inf).clamp(min=0)
