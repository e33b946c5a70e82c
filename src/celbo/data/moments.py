"""Moments of genes over chosen cells, a block of cells at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from celbo.data.counts import CountMatrix

__all__ = ["gene_moments"]

_BLOCK = 8192  # cells gathered at a time


def gene_moments(
    counts: CountMatrix, cells: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and variance of each gene over some cells; (genes,) each, in counts and counts squared."""
    total, squares = np.zeros(counts.n_genes), np.zeros(counts.n_genes)
    for start in range(0, cells.size, _BLOCK):
        rows = counts.rows(cells[start : start + _BLOCK])
        genes, values = rows.indices.numpy(), rows.values.numpy().astype(np.float64)
        total += np.bincount(genes, values, counts.n_genes)
        squares += np.bincount(genes, values**2, counts.n_genes)
    mean = total / max(cells.size, 1)
    return mean, np.maximum(squares / max(cells.size, 1) - mean**2, 0.0)
