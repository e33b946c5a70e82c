"""Data that need no download: real cells that ship inside scanpy's package, and simulated ones with known truth."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from celbo.data.simulate import simulate

__all__ = ["pbmc", "pbmc_two_runs", "simulate"]

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


def pbmc_two_runs(*, seed: int = 0) -> AnnData:
    """Return the real blood cells of `pbmc` as if they had been sequenced in two runs, the second less efficiently.

    The cells are dealt to the runs at random. In the second, each molecule of a gene is kept with a probability that
    is the gene's own: log-normal around 0.5 (standard deviation 0.8 in ln), at most 1. So the runs look different, as
    those of two chemistries do, and it is known that they are not: a good integration mixes them completely and keeps
    the cell types apart.

    Parameters
    ----------
    seed
        Seed of the dealing and of the molecules that are lost.

    Returns
    -------
    AnnData
        700 cells x 765 genes. `X`: counts, CSR float32. `obs`: `cell_type`, `batch` ("run 1", "run 2"). `var`:
        `efficiency`, the share of a gene's molecules that run 2 keeps. `uns["source"]`: what this is.
    """
    cells = pbmc()
    rng = np.random.default_rng(seed)
    second = rng.permutation(cells.n_obs) % 2 == 1
    efficiency = np.minimum(np.exp(rng.normal(np.log(0.5), 0.8, cells.n_vars)), 1.0)
    counts = cells.X.copy()
    lossy = np.repeat(second, np.diff(counts.indptr))
    kept = rng.binomial(counts.data[lossy].astype(np.int64), efficiency[counts.indices[lossy]])
    counts.data[lossy] = kept.astype(np.float32)
    counts.eliminate_zeros()
    obs = cells.obs[["cell_type"]].assign(batch=pd.Categorical(np.where(second, "run 2", "run 1")))
    source = f"{_SOURCE}; half of the cells thinned gene by gene, to stand for a second, less efficient run"
    return AnnData(X=counts, obs=obs, var=cells.var.assign(efficiency=efficiency), uns={"source": source})
