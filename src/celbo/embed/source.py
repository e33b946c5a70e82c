"""From an AnnData to the values a reduction takes, the same way for the cells of the fit and for new ones; and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from celbo.data.check import check, count_matrix_of
from celbo.data.components import log_normalised
from celbo.data.genes import select_genes
from celbo.embed.values import Floats, Values, at_least
from celbo.errors import CountsError, GenesError, InputError, OptionError, SchemaError, listed, nearest

__all__ = ["Embedding", "Fit", "Source"]


class Fit(Protocol):
    """What every fitted reduction has."""

    @property
    def coordinates(self) -> Floats:
        """Of the cells of the fit; (cells, k)."""

    def transform(self, values: Values) -> Floats:
        """Return the coordinates of other cells; (cells, k)."""


FitT = TypeVar("FitT", bound=Fit)


@dataclass(frozen=True, eq=False)
class Source:
    """Where in an AnnData the values are, and the constants that made them of the first cells."""

    layer: str | None
    """Layer with the counts; None is `X`."""
    use_rep: str | None
    """Slot of `obsm` that is taken instead of counts."""
    genes: NDArray[np.object_]
    """All genes whose counts make the total of a cell; (all genes,). Empty with `use_rep`."""
    chosen: NDArray[np.int64]
    """Positions in `genes` of those that are reduced; (genes,)."""
    target: float
    """Counts that every cell is scaled to before the logarithm."""

    @classmethod
    def of(
        cls, adata: AnnData, *, layer: str | None, use_rep: str | None, n_top_genes: int | None
    ) -> tuple[Source, Values]:
        """Return the source and the values of the cells of the fit; the AnnData is left as it is."""
        _ask_anndata(adata)
        if use_rep is not None:
            if layer is not None:
                fix = "Counts come from layer, a representation from use_rep: pass one."
                raise OptionError("cannot both be given", where="layer and use_rep", fix=fix)
            none = np.empty(0, object), np.empty(0, np.int64)
            return cls(None, use_rep, *none, 0.0), _representation(adata, use_rep)
        matrix, genes = _counts(adata, layer)
        totals = np.asarray(matrix.sum(axis=1), np.float64).ravel()
        chosen = _chosen(matrix, genes, n_top_genes)
        source = cls(layer, None, genes, chosen, float(np.median(totals)))
        return source, log_normalised(matrix, target=source.target)[:, chosen]

    def values(self, adata: AnnData) -> Values:
        """Return the values of other cells, their genes put in the order of the fit.

        Raises
        ------
        GenesError
            If genes of the fit are missing.
        CountsError
            If values are not counts, or a cell has none of these genes.
        SchemaError
            If the layer or the slot is missing.
        """
        _ask_anndata(adata)
        if self.use_rep is not None:
            return _representation(adata, self.use_rep)
        matrix, names = _counts(adata, self.layer)
        at = pd.Index(names).get_indexer(pd.Index(self.genes))
        missing = self.genes[at < 0]
        if missing.size:
            fix = "Give data with all genes of the fit, under the same names (further genes do no harm)."
            what = f"lack {missing.size} of the {self.genes.size} genes of the fit"
            raise GenesError(what, where="the data", value=listed(missing), fix=fix)
        matrix = sparse.csr_matrix(matrix[:, at])
        empty = np.flatnonzero(np.diff(matrix.indptr) == 0)
        if empty.size:
            value, fix = listed(adata.obs_names[empty]), "Leave those cells out."
            raise CountsError(
                f"holds {empty.size} cell(s) without a count of the fit's genes", where="the data", value=value, fix=fix
            )
        return log_normalised(matrix, target=self.target)[:, self.chosen]

    def note(self) -> dict[str, Any]:
        """Return what `uns` keeps of it."""
        if self.use_rep is not None:
            return {"use_rep": self.use_rep}
        layer = {} if self.layer is None else {"layer": self.layer}
        return {**layer, "n_genes": int(self.chosen.size), "target_counts": self.target}


@dataclass(frozen=True, eq=False)
class Embedding(Generic[FitT]):
    """Coordinates of cells by one method, and the way to those of new cells where there is one."""

    fit: FitT
    """What the method found: `PCA`, `ICA`, `FactorAnalysis`, `TSNE`, `UMAP`, `ForceAtlas2` or `DiffusionMap`."""
    key: str
    """Slot of `obsm` that it was written to."""
    source: Source
    """Where the values came from."""
    parameters: Mapping[str, Any]
    """The parameters of the method, as `uns` has them."""

    @property
    def coordinates(self) -> Floats:
        """Of the cells of the fit, in their order; (cells, k) float64. The slot has them in float32."""
        return self.fit.coordinates

    @property
    def genes(self) -> NDArray[np.object_]:
        """Names of the genes that were reduced, in the order of any loadings; (genes,). Empty for a representation."""
        names: NDArray[np.object_] = self.source.genes[self.source.chosen]
        return names

    def transform(self, adata: AnnData) -> Floats:
        """Return the coordinates of the cells of an AnnData, (cells, k); nothing is written into it.

        Genes are found by name; the scale of the counts is that of the fit.

        Raises
        ------
        GenesError
            If genes of the fit are missing.
        InputError
            If the method cannot place new cells (ForceAtlas2, diffusion map), or the data cannot be used.
        """
        return self.fit.transform(self.source.values(adata))


def _ask_anndata(adata: object) -> None:
    if not isinstance(adata, AnnData):
        fix = "Pass an AnnData; celbo.read makes one of a file."
        raise OptionError("is not an AnnData", where="adata", value=f"a {type(adata).__name__}", fix=fix)


def _counts(adata: AnnData, layer: str | None) -> tuple[sparse.csr_matrix, NDArray[np.object_]]:
    """Return the counts, (cells, genes) CSR without stored zeros, and the genes' names, or raise what is wrong."""
    for found in check(adata, layer=layer).errors:
        raise found.to_error()
    given, genes = count_matrix_of(adata, layer)
    matrix = sparse.csr_matrix(given)
    if matrix.nnz and not matrix.data.all():
        matrix = matrix.copy()
        matrix.eliminate_zeros()
    return matrix, genes


def _chosen(matrix: sparse.csr_matrix, genes: NDArray[np.object_], n_top_genes: int | None) -> NDArray[np.int64]:
    """Return the positions of the most variable genes, or of all where there are no more than asked for."""
    if n_top_genes is None:
        return np.arange(len(genes))
    at_least(1, "n_top_genes", n_top_genes, fix="None takes all genes.")
    if n_top_genes >= len(genes):
        return np.arange(len(genes))
    cells = pd.DataFrame(index=pd.RangeIndex(matrix.shape[0]).astype(str))
    probe = AnnData(matrix, obs=cells, var=pd.DataFrame(index=genes))
    select_genes(probe, n_top_genes=n_top_genes)
    return np.flatnonzero(probe.var["highly_variable"])


def _representation(adata: AnnData, use_rep: str) -> NDArray[np.floating[Any]]:
    """Return a slot of `obsm` as finite numbers, (cells, dimensions)."""
    if not isinstance(use_rep, str) or use_rep not in adata.obsm:
        fix = (
            nearest(str(use_rep), adata.obsm)
            if len(adata.obsm)
            else "obsm is empty: leave use_rep out to take the counts."
        )
        raise SchemaError("does not exist", where=f"obsm[{use_rep!r}]", fix=fix)
    slot: Any = adata.obsm[use_rep]
    try:
        values = np.asarray(slot.toarray() if hasattr(slot, "toarray") else slot, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 2:
        fix = "Give numbers of (cells, dimensions)."
        raise InputError("does not hold a matrix of numbers", where=f"obsm[{use_rep!r}]", fix=fix)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        value = f"{bad.size} cell(s), the first is {str(adata.obs_names[bad[0]])[:80]!r}"
        fix = "Compute it again, or leave those cells out."
        raise InputError("holds numbers that are not finite", where=f"obsm[{use_rep!r}]", value=value, fix=fix)
    return values
