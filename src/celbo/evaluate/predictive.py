"""Posterior predictive check by gene: does the model draw counts like those it saw?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from celbo.errors import InputError

__all__ = ["predictive_check"]


def predictive_check(
    observed: sparse.csr_matrix,
    predicted: sparse.csr_matrix | Sequence[sparse.csr_matrix],
    gene_names: Sequence[str],
) -> pd.DataFrame:
    """Mean, variance and zero fraction of each gene, observed and drawn from the model.

    Parameters
    ----------
    observed
        Counts, (cells, genes).
    predicted
        Posterior predictive counts of the same cells and genes, one draw or several; several are averaged.
    gene_names
        Names of the columns.

    Returns
    -------
    One row a gene: mean_observed, mean_predicted (counts), variance_observed, variance_predicted (counts squared,
    over cells), zeros_observed, zeros_predicted (share of cells without a count).
    """
    draws = [predicted] if sparse.issparse(predicted) else list(predicted)
    for draw in draws:
        if draw.shape != observed.shape or observed.shape[1] != len(gene_names):
            raise InputError(
                "do not match",
                where="observed and predicted counts",
                value=f"{observed.shape}, {draw.shape} and {len(gene_names)} names",
                fix="Give the same cells and genes.",
            )
    seen = _moments(observed)
    drawn = np.mean([_moments(draw) for draw in draws], axis=0)
    table = {
        f"{name}_{side}": values[i]
        for i, name in enumerate(("mean", "variance", "zeros"))
        for side, values in (("observed", seen), ("predicted", drawn))
    }
    return pd.DataFrame(table, index=pd.Index(list(gene_names), name="gene"))


def _moments(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Mean, variance and zero fraction of each column; (3, genes)."""
    n_cells, n_genes = counts.shape
    matrix = sparse.csr_matrix(counts)
    column, value = np.asarray(matrix.indices, np.int64), np.asarray(matrix.data, np.float64)
    mean = np.bincount(column, value, n_genes) / n_cells
    # around the mean, so that deep genes lose no digits: stored entries, then the zeros, each at distance `mean`
    stored = np.bincount(column, minlength=n_genes)
    spread = np.bincount(column, (value - mean[column]) ** 2, n_genes) + (n_cells - stored) * mean**2
    zeros = 1 - np.bincount(column, value != 0, n_genes) / n_cells
    return np.stack([mean, spread / n_cells, zeros])
