"""Moments of genes over chosen cells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from celbo.data.counts import CountMatrix
from celbo.kernels.gather import column_moments

__all__ = ["gene_moments"]


def gene_moments(
    counts: CountMatrix, cells: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and variance of each gene over some cells; (genes,) each, in counts and counts squared."""
    rows = counts.positions(cells)
    total, squares = column_moments(counts.indptr, counts.indices, counts.values, rows, counts.n_genes)
    mean = total / max(rows.size, 1)
    return mean, np.maximum(squares / max(rows.size, 1) - mean**2, 0.0)
