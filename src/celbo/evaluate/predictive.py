"""Posterior predictive check by gene, of counts that were drawn already: does a model draw counts like those it saw?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from celbo.errors import InputError
from celbo.posterior.summaries import GeneSums, predictive_table

__all__ = ["predictive_check"]


def predictive_check(
    observed: sparse.csr_matrix,
    predicted: sparse.csr_matrix | Sequence[sparse.csr_matrix],
    gene_names: Sequence[str],
    *,
    level: float = 0.9,
) -> pd.DataFrame:
    """Mean, variance and zero fraction of each gene, observed and drawn from a model.

    `model.posterior_predictive_check` draws and compares in bounded memory; this takes draws from anywhere.

    Parameters
    ----------
    observed
        Counts, (cells, genes).
    predicted
        Posterior predictive counts of the same cells and genes, one draw or several.
    gene_names
        Names of the columns.
    level
        Of the interval of the draws; it needs 2 / (1 - level) - 1 of them: 19 for 0.9.

    Returns
    -------
    One row a gene: mean_observed, mean_predicted (counts), variance_observed, variance_predicted (counts squared,
    over cells), zeros_observed, zeros_predicted (share of cells without a count), the average over the draws; with
    draws enough for the level also the columns _lower, _upper and _p of each, as `posterior_predictive_check` has them.
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
    centre = np.asarray(observed.mean(0), np.float64).ravel()
    seen, *drawn = (_moments(counts, centre) for counts in (observed, *draws))
    return predictive_table(seen, {name: np.stack([d[name] for d in drawn]) for name in seen}, gene_names, level=level)


def _moments(counts: sparse.csr_matrix, centre: np.ndarray) -> dict[str, np.ndarray]:
    sums = GeneSums(centre)
    sums.add(sparse.csr_matrix(counts))
    return sums.moments()
