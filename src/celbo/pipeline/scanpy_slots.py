"""What scanpy's plots look for: quality of the cells, ranked genes, log-normalised values, the report's colours."""

from __future__ import annotations

from typing import Any

import pandas as pd

from celbo import results
from celbo.pipeline.config import RunConfig
from celbo.pipeline.pages import Found
from celbo.pipeline.slots import QUALITY
from celbo.pipeline.steps import Job, counts_of, lognorm
from celbo.plots.style import MISSING
from celbo.report.data import Categories
from celbo.report.markup import palette_of

__all__ = ["for_scanpy"]


def for_scanpy(found: Found, compared: pd.DataFrame, job: Job[RunConfig]) -> None:
    """Write quality, `rank_genes_groups`, the layer `lognorm` and the colours into the result; what fails is warned of.

    Parameters
    ----------
    found
        The numbers of the run, with its AnnData.
    compared
        The comparison of each cluster with the rest; empty where there is none.
    job
        The run.
    """
    adata, slots = found.adata, job.slots
    if found.quality is not None:
        for role in QUALITY:
            if role in found.quality.table:
                adata.obs[getattr(slots, role)] = found.quality.table[role].to_numpy()
    if not compared.empty:
        job.attempt(
            f"uns[{slots.markers!r}]",
            lambda: results.to_rank_genes_groups(compared, adata=adata, groupby=slots.clusters, key=slots.markers),
            lost="scanpy's plots of marker genes have nothing to show",
        )
    if job.config.graph.lognorm:
        made = job.attempt(
            f"The layer {slots.lognorm!r}",
            lambda: lognorm(counts_of(adata, job.keys.layer)),
            lost="result.h5ad has the counts alone",
        )
        if made is not None:
            adata.layers[slots.lognorm] = made
    job.attempt("The colours", lambda: _colour(found), lost="scanpy takes its own")


def _colour(found: Found) -> None:
    """Give clusters, labels and batches the colours of the report, where the file has none of its own for them."""
    adata, keys = found.adata, found.config.keys
    columns = {found.slots.clusters: found.clusters, keys.batch_key: found.batch, keys.labels_key: found.labels}
    for name, groups in columns.items():
        if name is None or groups is None or f"{name}_colors" in adata.uns:
            continue
        column: pd.Series[Any] = adata.obs[name]
        if not isinstance(column.dtype, pd.CategoricalDtype):
            if column.dtype.kind in "biuf":
                continue  # scanpy colours numbers by a scale
            adata.obs[name] = column = column.astype("category")  # as anndata does when it writes text
        adata.uns[f"{name}_colors"] = _in_order(column, groups)


def _in_order(column: pd.Series[Any], groups: Categories) -> list[str]:
    """Return a colour for each category of a column: the report's, and grey for what the report counts as no label."""
    colours = dict(zip(groups.names, palette_of(groups), strict=True))
    return [colours.get(str(name), MISSING) for name in column.cat.categories]
