"""The slots that a run writes into the AnnData of its result: names that nothing the user brought has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from celbo.data.writable import free_name

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["QUALITY", "Slots"]

_NOTE = "celbo"
_USUAL = {
    "latent": "X_{model}",
    "clusters": "leiden",
    "umap": "X_umap",
    "umap_before": "X_umap_before",
    "pca": "X_pca",
    "graph": "neighbors",
    "markers": "rank_genes_groups",
    "lognorm": "lognorm",
    "genes": "highly_variable",
    "filter": "filter_cells",
    "total_counts": "total_counts",
    "n_genes_by_counts": "n_genes_by_counts",
    "pct_counts_mt": "pct_counts_mt",
    "pct_counts_ribo": "pct_counts_ribo",
    "doublet_score": "doublet_score",
    "note": _NOTE,
}
"""The name of each slot where nothing else has it."""
QUALITY = ("total_counts", "n_genes_by_counts", "pct_counts_mt", "pct_counts_ribo", "doublet_score")
"""The roles that are the quality of the cells: columns of `obs`, and of the table of cells."""


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Where a run writes what. Each has its usual name, or where the data have that already, `celbo_` before it."""

    latent: str
    """Key of `obsm`: the latent state."""
    clusters: str
    """Column of `obs`: the Leiden clusters. `uns` has their colours and parameters under the same name."""
    umap: str
    """Key of `obsm`: the map of the latent space."""
    umap_before: str
    """Key of `obsm`: the map of the principal components."""
    pca: str
    """Key of `obsm`: principal components of log-normalised counts."""
    graph: str
    """Key of `uns`: the graph of neighbours in the latent space, as scanpy keeps it (`neighbors_key`)."""
    markers: str
    """Key of `uns`: the comparison of each cluster with the rest, as scanpy keeps it."""
    lognorm: str
    """Layer: log-normalised counts."""
    genes: str
    """Column of `var`: whether the model was trained on the gene; with `_rank` behind it, in which order."""
    filter: str
    """Key of `uns`: how many cells each quality filter left out."""
    total_counts: str
    """Column of `obs`: counts of each cell. It and the next four have scanpy's names."""
    n_genes_by_counts: str
    """Column of `obs`: genes with a count."""
    pct_counts_mt: str
    """Column of `obs`: percent of the counts in mitochondrial genes."""
    pct_counts_ribo: str
    """Column of `obs`: percent of the counts in ribosomal genes."""
    doublet_score: str
    """Column of `obs`: scrublet's score within the batch; missing for cells that were not scored."""
    note: str
    """Key of `uns`: what made the result."""

    @classmethod
    def of(cls, adata: AnnData, *, model: str, kept: Iterable[str] = ()) -> Slots:
        """Return free names, and take out what an earlier run of celbo left there, unless it was changed since.

        Parameters
        ----------
        adata
            The data of the run, altered in place.
        model
            Name of the model, such as "scvi".
        kept
            Columns and layers that the user names: they stay, whoever wrote them.
        """
        _remove_earlier(adata, set(kept))
        usual = {role: name.format(model=model) for role, name in _USUAL.items()}
        return cls(**{role: _free(adata, role, name) for role, name in usual.items()})

    @property
    def graph_parts(self) -> tuple[str, str]:
        """The keys of `obsp` of the graph: distances, connectivities."""
        distances, connectivities = (name for at, name in _places("graph", self.graph) if at == "obsp")
        return distances, connectivities

    def renamed(self, model: str) -> dict[str, str]:
        """Return the slots that have another name than usual, as `{"obs['leiden']": "obs['celbo_leiden']"}`."""
        found = {}
        for role, name in asdict(self).items():
            usual = _USUAL[role].format(model=model)
            if name != usual:
                at = _places(role, name)[0][0]
                found[f"{at}[{usual!r}]"] = f"{at}[{name!r}]"
        return found

    def describe(self, adata: AnnData) -> dict[str, Any]:
        """Return what `uns` keeps: the name of each slot that was written, and what tells whether it was changed."""
        there = {role: name for role, name in asdict(self).items() if _found(adata, role, name) is not None}
        return {"slots": there, "digests": {role: _digest(_found(adata, role, name)) for role, name in there.items()}}


def _places(role: str, name: str) -> list[tuple[str, str]]:
    """Return the slots that are written for a role, (attribute, key), that which holds the result first."""
    usual = name == _USUAL[role]
    if role in {"latent", "pca", "umap_before"}:
        return [("obsm", name)]
    if role == "umap":
        return [("obsm", name), ("uns", name.removeprefix("X_"))]
    if role == "clusters":
        return [("obs", name), ("uns", name), ("uns", f"{name}_colors")]
    if role == "genes":
        return [("var", name), ("var", f"{name}_rank")]
    if role == "graph":
        parts = [f"{'' if usual else name + '_'}{part}" for part in ("distances", "connectivities")]
        return [("uns", name), *(("obsp", part) for part in parts)]
    at = "obs" if role in QUALITY else "layers" if role == "lognorm" else "uns"
    return [(at, name)]


def _free(adata: AnnData, role: str, usual: str) -> str:
    """Return the usual name, or one with `celbo_` before it, of which no slot of the role is taken."""

    def taken(name: str) -> bool:
        return any(key in getattr(adata, at) for at, key in _places(role, name))

    if not taken(usual):
        return usual
    ours = f"X_celbo_{usual.removeprefix('X_')}" if usual.startswith("X_") else f"celbo_{usual}"
    return free_name(ours, taken)


def _found(adata: AnnData, role: str, name: str) -> Any:
    """Return what a slot holds; None where it is not there. Of a graph that is its weights."""
    at, key = _places(role, name)[-1 if role == "graph" else 0]
    return getattr(adata, at).get(key)


def _remove_earlier(adata: AnnData, kept: set[str]) -> None:
    """Take out what an earlier run wrote, where it is still what was written."""
    note = adata.uns.get(_NOTE)
    if not isinstance(note, Mapping) or "options" not in note:
        return
    slots, digests = note.get("slots"), note.get("digests")
    if isinstance(slots, Mapping) and isinstance(digests, Mapping):
        for role in set(slots) & set(digests) & set(_USUAL):
            name = str(slots[role])
            value = _found(adata, role, name)
            if value is not None and name not in kept and _digest(value) == digests[role]:
                for at, key in _places(role, name):
                    if key in getattr(adata, at):
                        del getattr(adata, at)[key]
    del adata.uns[_NOTE]


def _digest(value: Any) -> str:
    """Return what tells one value of a slot from another, the same before and after a file was written and read."""
    return hashlib.sha256(_content(value)).hexdigest()[:32]


def _content(value: Any) -> bytes:
    if isinstance(value, Mapping):
        return b"".join(str(key).encode() + _content(value[key]) for key in sorted(value, key=str))
    if isinstance(value, pd.DataFrame):
        return b"".join(str(name).encode() + _content(value[name]) for name in value)
    if hasattr(value, "tocsr"):
        matrix = value.tocsr()
        return bytes(matrix.data.astype(np.float32).tobytes() + matrix.indices.astype(np.int64).tobytes())
    array = np.asarray(value)
    if array.dtype.kind in "biuf":
        return np.ascontiguousarray(array, np.float32).tobytes()
    return "\0".join(map(str, array.ravel().tolist())).encode(errors="replace")
