"""How much of the differences between cells a model explains: the share of the Poisson deviance of their counts.

The null model knows each cell's total and each gene's share of all counts: mu0[i, g] = total[i] x share[g]. With the
Poisson deviance D(mu) = 2 sum over cells and genes of (x log(x / mu) - x + mu), the share explained is
1 - D(mu) / D(mu0): 0 is no better than the gene means, 1 would be the counts themselves. Counting noise keeps it well
below 1 where counts are few, even for the true rates.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from celbo.errors import InputError

__all__ = ["deviance_explained", "gene_shares"]

Floats = NDArray[np.floating]
_HALF = 0.5
_FLOOR = 1e-6
"""Least expected count: one of zero where something was counted would cost an infinite deviance."""


def gene_shares(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Return each gene's share of all counts, (genes,), half a count added to each so that none is zero.

    Parameters
    ----------
    counts
        Counts of the cells that the null model is made from, (cells, genes): those of training.
    """
    totals = np.asarray(counts.sum(0), np.float64).ravel() + _HALF
    return np.asarray(totals / totals.sum())


def deviance_explained(blocks: Iterable[tuple[sparse.csr_matrix, Floats]], shares: NDArray[np.float64]) -> float:
    """Return the share of the Poisson deviance of counts that a model explains beyond gene means and totals of cells.

    Parameters
    ----------
    blocks
        Some cells at a time: their counts and what the model expects of them, in counts; (cells, genes) each.
    shares
        Each gene's share of all counts, (genes,): see `gene_shares`.

    Returns
    -------
    1 - D(expected) / D(null): at most 1, below 0 where gene means are better; NaN where there is nothing to explain.

    Raises
    ------
    InputError
        If a block has other genes, or counts below zero.
    """
    left, null = 0.0, 0.0
    for counts, expected in blocks:
        x = sparse.csr_matrix(counts)
        if x.shape != np.shape(expected) or x.shape[1] != len(shares):
            value = f"{x.shape}, {np.shape(expected)} and {len(shares)} genes"
            fix = "Give the same cells and genes."
            raise InputError("do not match", where="counts, expected counts and shares", value=value, fix=fix)
        if x.nnz and x.data.min() < 0:
            raise InputError("are negative", where="counts", value=f"{x.data.min():g}", fix="Give raw counts.")
        totals = np.asarray(x.sum(1), np.float64).ravel()
        rate = np.maximum(np.asarray(expected, np.float64), _FLOOR)
        cell = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
        left += _deviance(x.data.astype(np.float64), rate[cell, x.indices], float(rate.sum()))
        null += _deviance(x.data.astype(np.float64), totals[cell] * shares[x.indices], float(totals.sum()))
    return 1 - left / null if null > 0 else float("nan")


def _deviance(stored: NDArray[np.floating], rate: NDArray[np.float64], sum_of_rates: float) -> float:
    """Return the Poisson deviance from the stored counts, their rates, and the sum of the rates of all counts."""
    x = stored[stored > 0]
    return 2 * (float((x * np.log(x / rate[stored > 0])).sum()) - float(x.sum()) + sum_of_rates)
