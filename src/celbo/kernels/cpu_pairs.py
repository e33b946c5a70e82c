"""Products of all pairs of two sets of normal distributions, integrated, on the CPU. Serial, without the GIL."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from celbo.kernels.compile import SPLIT_SUMS, compiled

__all__ = ["log_products"]

Doubles = npt.NDArray[np.float64]

_FACTORS = 16
"""Variances multiplied before a logarithm is taken: few enough that no product leaves the range."""


@compiled(flags=SPLIT_SUMS)
def log_products(mean1: Doubles, variance1: Doubles, mean2: Doubles, variance2: Doubles) -> Doubles:
    """Return log Normal(m1; m2, v1 + v2), the log integral of the product of each pair, up to D/2 log 2 pi.

    Parameters
    ----------
    mean1, variance1
        Diagonal normal distributions by dimension; (D, n) each.
    mean2, variance2
        Others; (D, m) each. The variances of one side may be 0.

    Returns
    -------
    (n, m), in nats.
    """
    n_latent, n = mean1.shape
    m = mean2.shape[1]
    out = np.zeros((n, m))
    product = np.empty(m)
    for i in range(n):
        row = out[i]
        product[:] = 1.0
        for d in range(n_latent):
            at, spread = mean1[d, i], variance1[d, i]
            means, variances = mean2[d], variance2[d]
            for j in range(m):
                variance = spread + variances[j]
                distance = at - means[j]
                row[j] += distance * distance / variance
                product[j] *= variance
            if d % _FACTORS == _FACTORS - 1 or d == n_latent - 1:
                for j in range(m):
                    row[j] += np.log(product[j])
                    product[j] = 1.0
        for j in range(m):
            row[j] *= -0.5
    return out
