"""What the report page is made from: plain arrays, frames and strings. No AnnData and no tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from celbo.errors import InputError
from celbo.plots.compared import top_genes
from celbo.report.verdict import Explained

__all__ = [
    "Categories",
    "ClusterName",
    "DotPlot",
    "Expression",
    "ReportData",
    "cluster_names",
    "is_known",
    "top_markers",
]

_UNKNOWN = {"", "unlabelled", "unlabeled", "unknown", "unassigned", "none", "nan", "na", "n/a"}


def is_known(category: str) -> bool:
    """Whether a category's name says more than "not known"."""
    return category.strip().lower() not in _UNKNOWN


@dataclass(frozen=True)
class Categories:
    """A named category for each cell."""

    title: str
    """What the category is, as shown: the column's name, or "cluster"."""
    codes: NDArray[np.int64]
    """Position of each cell's name in `names`, -1 for none; (cells,)."""
    names: tuple[str, ...]
    palette: tuple[int, ...] = ()
    """Place of each name's colour in the palette, -1 for grey; empty gives the names that are known places in order."""

    @property
    def places(self) -> tuple[int, ...]:
        """Place of each name's colour in the palette: -1 for names that say "not known", which are grey."""
        if self.palette:
            return self.palette
        known = np.array([is_known(name) for name in self.names], bool)
        return tuple(np.where(known, np.cumsum(known) - 1, -1).tolist())

    @classmethod
    def of(cls, title: str, values: ArrayLike | pd.Series[Any] | pd.Categorical) -> Categories:
        """Encode a column: the order of a pandas categorical is kept, else names are sorted as strings.

        Parameters
        ----------
        title
            The column's name.
        values
            A name for each cell, (cells,); missing values become "none".
        """
        column = values if isinstance(values, pd.Series) else pd.Series(values)
        if not isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(object).where(column.notna(), None).map(lambda v: None if v is None else str(v))
            column = column.astype("category")
        column = column.cat.remove_unused_categories()
        return cls(title, np.asarray(column.cat.codes, np.int64), tuple(str(c) for c in column.cat.categories))

    @property
    def known_codes(self) -> NDArray[np.int64]:
        """The codes with -1 also for names like "unlabelled": what metrics should be given; (cells,)."""
        known = np.array([*map(is_known, self.names), False])
        return np.where(known[self.codes], self.codes, -1)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Cells of each category, (names,)."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names)).astype(np.int64)

    def largest(self, n: int) -> Categories:
        """Return the n largest categories in their order and colours, all others as one; itself if no more."""
        if len(self.names) <= n:
            return self
        kept = np.sort(np.argsort(-self.sizes, kind="stable")[: n - 1])
        new = np.full(len(self.names) + 1, n - 1)
        new[kept], new[-1] = np.arange(n - 1), -1  # the last entry is what code -1 finds
        names = (*[self.names[i] for i in kept], f"{len(self.names) - len(kept)} others")
        return Categories(self.title, new[self.codes], names, (*[self.places[i] for i in kept], -1))


@dataclass(frozen=True)
class ClusterName:
    """What a cluster is called on the page: its number, the known label that most of its cells have, its top genes."""

    number: str
    """Its name in the results, such as "3"."""
    label: str = ""
    """The majority label, the two largest as "A / B" where only both have half of the labelled cells, else "mixed";
    "" without labels."""
    share: float = float("nan")
    """Share of the cluster's labelled cells that have the largest label."""
    genes: tuple[str, ...] = ()
    """Its top marker genes, as shown."""

    @property
    def short(self) -> str:
        """Number and label, as in a figure: "3 CD14+ Monocytes"."""
        return f"{self.number} {self.label}".rstrip()

    def __str__(self) -> str:
        return " · ".join(part for part in (self.number, self.label, " ".join(self.genes)) if part)


def cluster_names(
    clusters: Categories,
    labels: Categories | None = None,
    markers: pd.DataFrame | None = None,
    *,
    gene_names: Mapping[str, str] | None = None,
    n_genes: int = 2,
) -> tuple[ClusterName, ...]:
    """Return what each cluster is called: "3 · CD14+ Monocytes · LYZ S100A9".

    Parameters
    ----------
    clusters
        The cluster of each cell.
    labels
        The known label of each cell; names like "unknown" count as none.
    markers
        Table as in `ReportData.markers`.
    gene_names
        What is shown in place of a gene's name in `markers`, where that is another.
    n_genes
        Genes of each cluster.

    Returns
    -------
    A name for each of `clusters.names`, in their order; different clusters may share label and genes, never a number.
    """
    named = dict(gene_names or {})
    genes: dict[str, tuple[str, ...]] = {}
    if markers is not None and len(markers) and "group1" in markers:
        for group, rows in markers.groupby("group1", sort=False, observed=True):
            genes[str(group)] = tuple(named.get(gene, gene) for gene in top_genes(rows, n_genes))
    counted = _label_counts(clusters, labels)
    return tuple(
        ClusterName(name, *_majority(row, labels), genes.get(name, ()))
        for name, row in zip(clusters.names, counted, strict=True)
    )


def _label_counts(clusters: Categories, labels: Categories | None) -> NDArray[np.int64]:
    """Cells of each cluster with each known label, (clusters, labels)."""
    table = np.zeros((len(clusters.names), 0 if labels is None else len(labels.names)), np.int64)
    if labels is not None:
        both = (clusters.codes >= 0) & (labels.known_codes >= 0)
        np.add.at(table, (clusters.codes[both], labels.known_codes[both]), 1)
    return table


def _majority(counts: NDArray[np.int64], labels: Categories | None) -> tuple[str, float]:
    total = int(counts.sum())
    if labels is None or not total:
        return "", float("nan")
    order = np.argsort(-counts, kind="stable")
    share = float(counts[order[0]]) / total
    most = order[: 1 if share >= 0.5 else 2]
    if counts[most].sum() < 0.5 * total:
        return "mixed", share
    return " / ".join(labels.names[i] for i in most), share


@dataclass(frozen=True)
class DotPlot:
    """Mean expression and detection of a few genes in each group of cells."""

    genes: tuple[str, ...]
    groups: tuple[str, ...]
    mean: NDArray[np.float64]
    """Mean of log1p(10,000 x count / library), (groups, genes)."""
    fraction: NDArray[np.float64]
    """Share of the group's cells with a count, (groups, genes)."""

    @classmethod
    def from_counts(
        cls, counts: sparse.csr_matrix, gene_names: Sequence[str], groups: Categories, genes: Sequence[str]
    ) -> DotPlot:
        """Compute the two matrices from raw counts.

        Parameters
        ----------
        counts
            Raw counts, (cells, all genes), any sparse format.
        gene_names
            Names of the columns of `counts`.
        groups
            The group of each cell.
        genes
            The genes to show, a few dozen.
        """
        chosen, few = _log_normalised(counts, gene_names, genes)
        kept = np.flatnonzero(groups.codes >= 0)
        member = sparse.csr_matrix(
            (np.ones(len(kept)), (groups.codes[kept], kept)), shape=(len(groups.names), few.shape[0])
        )
        size = np.maximum(groups.sizes, 1)[:, None]
        detected = few.copy()
        detected.data = (detected.data > 0).astype(np.float64)
        return cls(chosen, groups.names, (member @ few).toarray() / size, (member @ detected).toarray() / size)


@dataclass(frozen=True)
class Expression:
    """Log-normalised expression of a few hundred genes in the cells that the map shows."""

    genes: tuple[str, ...]
    cells: NDArray[np.int64]
    """Positions of the cells, in order; (shown cells,)."""
    values: sparse.csc_matrix
    """log1p(10,000 x count / library), (shown cells, genes)."""

    @classmethod
    def from_counts(
        cls,
        counts: sparse.csr_matrix,
        gene_names: Sequence[str],
        genes: Sequence[str],
        cells: NDArray[np.int64],
    ) -> Expression:
        """Compute the values from raw counts.

        Parameters
        ----------
        counts
            Raw counts, (cells, all genes), any sparse format.
        gene_names
            Names of the columns of `counts`.
        genes
            The genes to offer, the most telling first; those that are not there are left out.
        cells
            Positions of the cells to show, in order.
        """
        chosen, values = _log_normalised(sparse.csr_matrix(counts)[cells], gene_names, genes)
        return cls(chosen, np.asarray(cells, np.int64), sparse.csc_matrix(values, dtype=np.float32))


def _log_normalised(
    counts: sparse.csr_matrix, gene_names: Sequence[str], genes: Sequence[str]
) -> tuple[tuple[str, ...], sparse.csr_matrix]:
    """Return those of the genes that are there, and log1p(10,000 x count / library) of them."""
    position = {name: i for i, name in reversed(list(enumerate(gene_names)))}
    chosen = tuple(dict.fromkeys(g for g in genes if g in position))
    library = np.maximum(np.asarray(counts.sum(axis=1), dtype=np.float64).ravel(), 1.0)
    few = sparse.csr_matrix(sparse.csc_matrix(counts)[:, [position[g] for g in chosen]], dtype=np.float64)
    few.data = np.log1p(few.data * np.repeat(1e4 / library, np.diff(few.indptr)))
    return chosen, few


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything the report page shows. Only the first four are needed; a part whose field is None drops its panel.

    Names may hold anything: they are shown as text.
    """

    title: str
    """Heading of the page, for example the file's name."""
    n_cells: int
    n_genes: int
    """Genes in the file."""
    n_genes_used: int
    """Genes the model was trained on."""

    # what went in
    model: str = "scVI"
    """Name of the model, as shown."""
    source: str = ""
    """Path or name of what was read."""
    warnings: Sequence[str] = ()
    """Findings about the data, one sentence each."""
    notes: Sequence[str] = ()
    """What is worth knowing and no reason to doubt the result, one sentence each."""
    library: NDArray[np.float64] | None = None
    """Total counts of each cell, (cells,)."""
    detected: NDArray[np.float64] | None = None
    """Genes with a count in each cell, (cells,)."""
    zero_fraction: NDArray[np.float64] | None = None
    """Share of cells without a count for each gene, (genes,)."""
    quality: pd.DataFrame | None = None
    """One row a cell: total_counts, n_genes_by_counts, and of pct_counts_mt, pct_counts_ribo (both percent) and
    doublet_score those that there are."""
    quality_notes: Sequence[str] = ()
    """What is missing of the quality of the cells, one sentence each."""
    batch: Categories | None = None
    """Batches; None, or a single name, where there is one only."""
    labels: Categories | None = None
    """Known labels (cell types)."""
    clusters: Categories | None = None
    """The clusters found after the model."""

    # training
    history: pd.DataFrame | None = None
    """One row an epoch, with the columns of `model.history`: elbo_train, elbo_validation (nats per cell, negative),
    kl_z_train, kl_z_validation, kl_weight, learning_rate, seconds, ..."""
    stopped: str = "finished"
    """"finished", "plateau" or "interrupted"."""
    best_epoch: int | None = None
    """Epoch (a label of the history's index) whose weights were kept."""
    held_out_elbo: float | None = None
    """Nats per cell, negative."""

    # maps and numbers
    embeddings: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict)
    """Two-dimensional maps by title, each (cells, 2), in the order to show: {"Before (PCA)": ..., "After (scVI)": ...}.
    Each one a UMAP: of the principal components, and of the latent space."""
    expression: Expression | None = None
    """Genes that the map can be coloured by: `Expression.from_counts(..., map_genes(markers), map_cells(n_cells))`."""
    cell_names: Sequence[str] | None = None
    """Name of each cell, (cells,), for the map."""
    metrics: pd.DataFrame | None = None
    """`celbo.evaluate.compare_latents(...)`: columns metric, kind, before, after, best, chance, meaning."""
    purity: pd.DataFrame | None = None
    """`celbo.evaluate.label_purity(...).by_label`, and where there is a space before, `purity_before`."""
    resolutions: pd.DataFrame | None = None
    """Clusters that were tried: resolution, clusters, ari, ari_other_seed, chosen."""
    explained: Explained | None = None
    """Share of the deviance of counts explained, of held-out and of training cells."""
    ari: float | None = None
    """Adjusted Rand index of the Leiden clusters and the labels."""
    nmi: float | None = None
    """Normalised mutual information of the clusters and the labels."""
    predictive: pd.DataFrame | None = None
    """`celbo.evaluate.predictive_check(...)`, one row a gene: mean_observed, mean_predicted, variance_observed,
    variance_predicted, zeros_observed, zeros_predicted."""

    # clusters and genes
    markers: pd.DataFrame | None = None
    """Index gene; columns group1, bayes_factor, lfc_median, and of proba_de or proba_higher, lfc_lower, lfc_upper,
    expected_fdr, raw_mean1, raw_mean2, detection1, detection2 those that there are."""
    gene_names: Mapping[str, str] = field(default_factory=dict)
    """What is shown of a gene in place of its name in `markers` and `dots`, for genes where that is another: symbols
    of identifiers."""
    markers_note: str = ""
    """A sentence beside the markers, for example that only the highly variable genes were modelled."""
    dots: DotPlot | None = None
    """Top markers of each cluster: `DotPlot.from_counts(..., genes=top_markers(markers))`."""

    # how it was made
    command: str = ""
    """The exact command or call."""
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved options, plain values, possibly nested by section."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall seconds by step, in order."""
    created: str = ""
    """When, as shown; empty leaves it out (and the file reproducible)."""

    @cached_property
    def cluster_names(self) -> tuple[ClusterName, ...]:
        """What each of the clusters is called on the page; () where there are none."""
        if self.clusters is None:
            return ()
        return cluster_names(self.clusters, self.labels, self.markers, gene_names=self.gene_names)

    @property
    def called_clusters(self) -> Categories | None:
        """The clusters by number and label, in their colours."""
        found = self.clusters
        if found is None:
            return None
        return Categories(found.title, found.codes, tuple(c.short for c in self.cluster_names), found.places)

    def gene(self, name: str) -> str:
        """Return what is shown of a gene."""
        return self.gene_names.get(name, name)

    def __post_init__(self) -> None:
        """Hold the arrays of cells to one length."""
        per_cell = {
            "library": self.library,
            "detected": self.detected,
            "quality": self.quality,
            "cell_names": self.cell_names,
            **{c.title: c.codes for c in (self.batch, self.labels, self.clusters) if c is not None},
            **self.embeddings,
        }
        for name, values in per_cell.items():
            if values is not None and len(values) != self.n_cells:
                raise InputError(
                    "has the wrong length",
                    where=f"ReportData: {name!r}",
                    value=f"{len(values)} entries for {self.n_cells} cells",
                    fix="Give one entry for each cell.",
                )


def top_markers(markers: pd.DataFrame, per_group: int = 3) -> list[str]:
    """Return the `per_group` genes of each `group1` that tell it apart best, each gene once.

    The order is that of `celbo.plots.compared.ranked_genes`, which the tables have too.

    Parameters
    ----------
    markers
        Table as in `ReportData.markers`.
    per_group
        Genes of each group.
    """
    table = markers if "group1" in markers else markers.assign(group1="all")
    taken: list[str] = []
    for _, rows in table.groupby("group1", sort=False, observed=True):
        ranked = top_genes(rows, per_group + len(taken))
        taken += [gene for gene in ranked if gene not in taken][:per_group]
    return taken
