"""Data that need no download: real cells that ship inside scanpy's package, and simulated ones with known truth."""

from __future__ import annotations

import warnings

import numpy as np
from anndata import AnnData
from scipy import sparse

from celbo.data.simulate import simulate

__all__ = ["pbmc", "simulate"]

_SOURCE = (
    "700 peripheral blood mononuclear cells of Zheng et al. 2017 (doi:10.1038/ncomms14049), 765 genes, as in scanpy's "
    "pbmc68k_reduced; counts recovered as round(expm1(raw) * n_counts / 1e4)"
)


def pbmc() -> AnnData:
    """Return the exact counts of 700 real blood cells.

    scanpy ships them log-normalised to 10,000 counts a cell and rounded to three decimals, with the total of each cell
    beside; undoing that gives back whole numbers, for the largest count is far below the 1,000 where three decimals
    would leave a doubt.

    Returns
    -------
    AnnData
        700 cells x 765 genes. `X`: counts, CSR float32. `obs`: `cell_type` (10 types sorted by antibodies),
        `n_counts`, `n_genes`, `percent_mito` (over all genes sequenced), `phase`, `louvain`. `uns["source"]`: what
        this is.
    """
    import scanpy as sc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a file whose format we cannot change
        old = sc.datasets.pbmc68k_reduced()
    log_scaled = old.raw.X.tocsr()
    per_count = np.repeat(old.obs["n_counts"].to_numpy(np.float64) / 1e4, np.diff(log_scaled.indptr))
    counts = np.round(np.expm1(log_scaled.data.astype(np.float64)) * per_count)
    matrix = sparse.csr_matrix(
        (counts.astype(np.float32), log_scaled.indices, log_scaled.indptr), shape=log_scaled.shape
    )
    obs = old.obs.rename(columns={"bulk_labels": "cell_type"})
    obs = obs[["cell_type", "n_counts", "n_genes", "percent_mito", "phase", "louvain"]].rename_axis(None)
    return AnnData(X=matrix, obs=obs, var=old.raw.var[[]].rename_axis(None), uns={"source": _SOURCE})
