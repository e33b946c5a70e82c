"""Which genes and cells to work on: highly variable genes, and simple quality filters."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData

from celbo.data.check import check, count_matrix_of
from celbo.data.columns import category_codes
from celbo.data.families import mitochondrial
from celbo.data.matrix import matrix_name
from celbo.data.symbols import display_names
from celbo.errors import CelboWarning, CountsError, GenesError, InputError, OptionError, listed, nearest

__all__ = ["filter_cells", "select_genes"]

Floats = npt.NDArray[np.float64]


def select_genes(
    adata: AnnData,
    *,
    n_top_genes: int = 2000,
    batch_key: str | None = None,
    layer: str | None = None,
    genes: Sequence[str] | None = None,
    keep: Sequence[str] = (),
    key_added: str = "highly_variable",
) -> None:
    """Mark the genes to work on in `adata.var`; none is removed.

    The most variable genes are those whose variance is farthest above what their mean explains, by the median of
    their ranks over the batches (scanpy's `seurat_v3`, on raw counts; Stuart et al. 2019,
    doi:10.1016/j.cell.2019.05.031). Written are `var["highly_variable"]` (bool) and `var["highly_variable_rank"]` (0 is
    the most variable, or the first of `genes`; NaN where there is no rank), as scanpy does: columns of these names are
    replaced. `key_added` names others.

    Parameters
    ----------
    adata
        Counts, (cells, genes).
    n_top_genes
        How many genes to mark; all of them where there are fewer.
    batch_key
        Column of `obs` with the batch of each cell. Where the trend of variance on mean cannot be fitted, for want of
        cells, the batches it fails on are left out if they hold under half of the cells; else a smoother trend is
        fitted, or none. A warning tells.
    layer
        Layer with the counts; None is `X`, "raw" is `adata.raw`.
    genes
        Names of the genes to mark, instead of the most variable.
    keep
        Names of genes to mark besides, such as the markers of a rare cell type. A warning names those that the data do
        not have.
    key_added
        Column of `var` to write; the ranks are in the one with `_rank` behind its name.

    Raises
    ------
    CountsError
        If the values are not counts.
    SchemaError
        If the layer or the batch column is missing or malformed.
    GenesError
        If `genes` names one that is not there, or the data have none of `keep`.
    OptionError
        If `n_top_genes` is below 1 or `genes` is not a list of names.
    """
    _ask_anndata(adata)
    kept = _kept(adata.var_names, keep)
    if genes is not None:
        rank = _rank_of_given(adata.var_names, genes)
        return _mark(adata, np.isfinite(rank) | kept, rank, key_added)
    if not isinstance(n_top_genes, int | np.integer) or n_top_genes < 1:
        raise OptionError("must be a whole number of at least 1", where="n_top_genes", value=repr(n_top_genes)[:80])
    for found in check(adata, layer=layer, batch_key=batch_key).errors:
        raise found.to_error()
    matrix, names = count_matrix_of(adata, layer)
    if n_top_genes >= len(names):
        return _mark(adata, adata.var_names.isin(names), np.full(adata.n_vars, np.nan), key_added)
    one = (np.zeros(adata.n_obs, np.int64), ("all",))
    codes, batches = one if batch_key is None else category_codes(adata.obs[batch_key])
    chosen, rank = _most_variable(matrix, codes, batches, n_top_genes)
    at = pd.Index(names).get_indexer(adata.var_names)  # `raw` has genes of its own, which `var` may lack
    return _mark(adata, (at >= 0) & chosen[at] | kept, np.where(at >= 0, rank[at], np.nan), key_added)


def _ask_anndata(adata: object) -> None:
    if not isinstance(adata, AnnData):
        fix = "Pass an AnnData; celbo.read makes one of a file."
        raise OptionError("is not an AnnData", where="adata", value=f"a {type(adata).__name__}", fix=fix)


def _mark(adata: AnnData, chosen: npt.NDArray[np.bool_], rank: Floats, key: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a view becomes a copy here, which is what is wanted
        adata.var[key] = chosen
        adata.var[f"{key}_rank"] = rank


def _kept(known: pd.Index[Any], keep: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which genes are to be kept by name, (genes,); warn of names that are not there."""
    if isinstance(keep, str):
        raise OptionError("must be a list of gene names", where="keep", value=repr(keep)[:80])
    wanted = list(dict.fromkeys(str(gene) for gene in keep))
    unknown = [gene for gene in wanted if gene not in known]
    if not unknown:
        return np.asarray(known.isin(wanted), bool)
    what = f"names {len(unknown)} of {len(wanted)} gene(s) that the data do not have"
    fix = f"For {unknown[0]!r}: {nearest(unknown[0], [str(name) for name in known])}"
    if len(unknown) == len(wanted):
        raise GenesError(what, where="the list of genes to keep", value=listed(unknown), fix=fix)
    text = str(GenesError(what, where="The list of genes to keep", value=listed(unknown), fix=fix))
    warnings.warn(CelboWarning(text), stacklevel=3)
    return np.asarray(known.isin(wanted), bool)


def _rank_of_given(known: pd.Index[Any], genes: Sequence[str]) -> Floats:
    """Return the position of each known gene in the list, NaN for the others; (genes,)."""
    if isinstance(genes, str) or len(genes) == 0:
        raise OptionError("must be a list of gene names", where="genes", value=repr(genes)[:80])
    wanted = list(dict.fromkeys(str(gene) for gene in genes))
    unknown = [gene for gene in wanted if gene not in known]
    if unknown:
        raise GenesError(
            f"names {len(unknown)} of {len(wanted)} gene(s) that the data do not have",
            where="genes",
            value=listed(unknown),
            fix=f"For {unknown[0]!r}: {nearest(unknown[0], [str(name) for name in known])}",
        )
    at = pd.Index(wanted).get_indexer(known)
    return np.where(at >= 0, at.astype(np.float64), np.nan)


def _most_variable(
    matrix: Any, codes: npt.NDArray[np.int64], batches: Sequence[str], n_top: int
) -> tuple[npt.NDArray[np.bool_], Floats]:
    """Return which genes are chosen and their ranks; (genes,) each."""
    scores = _seurat_v3(matrix, codes, n_top)
    if scores is None:
        works = np.array([_seurat_v3(matrix[codes == c], None, n_top) is not None for c in range(len(batches))])
        cells = works[codes]
        if cells.mean() > 0.5:
            _warn(f"batches {listed(np.asarray(batches)[~works].tolist())}", "They have no say in the selection.")
            scores = _seurat_v3(matrix[cells], codes[cells], n_top)
    for span in (0.5, 0.8, 1.0):
        if scores is None and (scores := _seurat_v3(matrix, codes, n_top, span=span)) is not None:
            _warn("data", f"A smoother one, over {span:.0%} of the genes at a time, is used.")
    if scores is None:
        _warn("data", "Genes are ranked by variance over mean.")
        scores = _by_fano(matrix, n_top)
    return scores["highly_variable"].to_numpy(bool), scores["highly_variable_rank"].to_numpy(np.float64)


def _warn(where: str, instead: str) -> None:
    text = f"The trend of variance on mean cannot be fitted to the {where}: too few cells or genes. {instead}"
    warnings.warn(CelboWarning(text), stacklevel=4)


def _seurat_v3(
    matrix: Any, codes: npt.NDArray[np.int64] | None, n_top: int, *, span: float = 0.3
) -> pd.DataFrame | None:
    """Return scanpy's table of the genes, or None where its fit of variance on mean fails."""
    import scanpy as sc

    codes = np.zeros(matrix.shape[0], np.int64) if codes is None else codes
    # its compiled code reads outside its arrays, and the process dies, where the span holds no gene
    if any(_n_varying(matrix, np.flatnonzero(codes == code)) * span < 3 for code in np.unique(codes)):
        return None
    batch = pd.Categorical(codes)
    obs = pd.DataFrame({"batch": batch}, index=[str(i) for i in range(matrix.shape[0])])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            table: pd.DataFrame = sc.pp.highly_variable_genes(
                AnnData(X=matrix, obs=obs),
                flavor="seurat_v3",
                n_top_genes=n_top,
                batch_key="batch",
                span=span,
                inplace=False,
            )
        except (ValueError, ZeroDivisionError):
            return None
    return table if int(table["highly_variable"].sum()) == n_top else None


def _n_varying(matrix: Any, cells: npt.NDArray[np.int64]) -> int:
    """Return how many genes differ between cells, or at least 100: then the first few cells are enough to look at."""
    n = 0
    for some in (cells[:500], cells):
        part = matrix[some]
        highest, lowest = (m.toarray() if hasattr(m, "toarray") else m for m in (part.max(axis=0), part.min(axis=0)))
        n = int((highest != lowest).sum())
        if n >= 100:
            break
    return n


def _by_fano(matrix: Any, n_top: int) -> pd.DataFrame:
    """Rank genes by variance over mean: 1 for Poisson noise."""
    values = matrix.astype(np.float64)
    squares = values.multiply(values) if hasattr(values, "multiply") else values**2
    mean, second = (np.asarray(part.mean(axis=0), dtype=np.float64).ravel() for part in (values, squares))
    fano = (second - mean**2) / np.maximum(mean, 1e-12)
    rank = np.empty(fano.size)
    rank[np.argsort(-fano, kind="stable")] = np.arange(fano.size)
    return pd.DataFrame({"highly_variable": rank < n_top, "highly_variable_rank": np.where(rank < n_top, rank, np.nan)})


def filter_cells(
    adata: AnnData,
    *,
    min_counts: int | None = None,
    min_genes: int | None = None,
    max_percent_mito: float | None = None,
    layer: str | None = None,
) -> AnnData:
    """Return a copy without the cells that fail; with nothing asked for, all cells.

    Parameters
    ----------
    adata
        Counts, (cells, genes); left as it is.
    min_counts
        Least total (counts).
    min_genes
        Least number of genes with a count.
    max_percent_mito
        Largest share of counts from mitochondrial genes (percent): those whose symbols begin with MT- or mt-, or that
        have the Ensembl identifiers of the human or mouse ones (see `celbo.data.families.mitochondrial`).
    layer
        Layer with the counts; None is `X`, "raw" is `adata.raw`.

    Returns
    -------
    AnnData
        The cells that pass every filter. `uns["filter_cells"]` tells `n_before`, `n_after`, and how many cells fail
        each filter.

    Raises
    ------
    OptionError
        If a threshold is out of range.
    CountsError
        If values are negative or not finite.
    InputError
        If no cell is left.
    """
    _ask_anndata(adata)
    thresholds = {"min_counts": min_counts, "min_genes": min_genes, "max_percent_mito": max_percent_mito}
    asked = {name: value for name, value in thresholds.items() if value is not None}
    for name, value in asked.items():
        most = 100 if name == "max_percent_mito" else np.inf
        if not isinstance(value, int | float | np.number) or not 0 <= value <= most:
            raise OptionError(f"must be a number from 0 to {most}", where=name, value=repr(value)[:80])
    if not asked:
        return adata.to_memory() if adata.isbacked else adata.copy()
    matrix, names = count_matrix_of(adata, layer)
    _refuse_non_counts(matrix, matrix_name(adata, layer))
    fails = _failing(matrix, _symbols(adata, layer, names), **asked)
    keep = ~np.any(list(fails.values()), axis=0)
    removed = {name: int(fail.sum()) for name, fail in fails.items()}
    if not keep.any():
        told = ", ".join(f"{n} fail {name}={asked[name]}" for name, n in removed.items())
        raise InputError(f"would remove all {keep.size} cells", where="the filter", value=told, fix="Loosen it.")
    kept = adata[keep].to_memory() if adata.isbacked else adata[keep].copy()
    kept.uns["filter_cells"] = {"n_before": keep.size, "n_after": int(keep.sum()), **removed}
    return kept


def _symbols(adata: AnnData, layer: str | None, names: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """Return what people call the genes of a matrix, (genes,)."""
    raw = layer == "raw" and layer not in adata.layers and adata.raw is not None
    var = adata.raw.var if raw else adata.var
    return display_names(var) if len(var) == len(names) else names


def _refuse_non_counts(matrix: Any, where: str) -> None:
    values = matrix.data if hasattr(matrix, "indptr") else matrix
    if values.size and not (values.min() >= 0 and np.isfinite(values.max())):
        raise CountsError(
            "holds values that are negative or not finite", where=where, fix="Run celbo.check to find them."
        )


def _failing(
    matrix: Any,
    names: npt.NDArray[np.object_],
    min_counts: float | None = None,
    min_genes: float | None = None,
    max_percent_mito: float | None = None,
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which cells fail each filter that is asked for; (cells,) each."""

    def totals(part: Any) -> Floats:
        return np.asarray(part.sum(axis=1), dtype=np.float64).ravel()

    fails = {}
    total = totals(matrix)
    if min_counts is not None:
        fails["min_counts"] = total < min_counts
    if min_genes is not None:
        fails["min_genes"] = totals(matrix != 0) < min_genes
    if max_percent_mito is not None:
        mito = mitochondrial(names)
        if not mito.any():
            text = "No gene's name begins with MT- or mt-, so max_percent_mito removes no cell."
            warnings.warn(CelboWarning(text), stacklevel=3)
        fails["max_percent_mito"] = 100 * totals(matrix[:, np.flatnonzero(mito)]) > max_percent_mito * total
    return fails
