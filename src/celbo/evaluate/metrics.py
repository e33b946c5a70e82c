"""How well batches mix and labels separate in a latent space: numbers between named ends, tables only.

The definitions are those of Luecken et al. 2022 (scIB, doi:10.1038/s41592-021-01336-8), Korsunsky et al. 2019 (LISI,
doi:10.1038/s41592-019-0619-0) and Lopez et al. 2018 (mixing entropy, doi:10.1038/s41592-018-0229-2). LISI is computed
from exact nearest neighbours, without a graph. The values are not those of scib-metrics, which defines them otherwise.

Cells whose label or batch is missing (None, NaN, or -1 among integers) are left out of what needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from celbo.errors import InputError
from celbo.evaluate.neighbours import Codes, Floats, choice, codes_of, coordinates, inverse_simpson, mixing, neighbours
from celbo.evaluate.purity import LabelPurity, label_purity

__all__ = [
    "Agreement",
    "ari",
    "batch_mixing_entropy",
    "batch_silhouette",
    "clisi",
    "compare_latents",
    "ilisi",
    "integration_metrics",
    "kmeans_agreement",
    "label_silhouette",
    "lisi",
    "neighbourhood_preservation",
    "nmi",
    "silhouette",
]


class Agreement(NamedTuple):
    """How far two partitions of the same cells agree."""

    ari: float
    """Adjusted Rand index: 1 equal, 0 as by chance."""
    nmi: float
    """Normalised mutual information (arithmetic mean): 1 equal, 0 unrelated."""


def ari(a: ArrayLike, b: ArrayLike) -> float:
    """Adjusted Rand index of two partitions, each (cells,): 1 is equal, 0 is as by chance (Hubert & Arabie 1985)."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_both(a, b)))


def nmi(a: ArrayLike, b: ArrayLike) -> float:
    """Mutual information of two partitions, each (cells,), over the arithmetic mean of their entropies: 0 to 1."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_both(a, b)))


def silhouette(latent: ArrayLike, groups: ArrayLike, *, max_cells: int = 10_000, seed: int = 0) -> float:
    """Mean silhouette width (Rousseeuw 1987), -1 to 1; NaN with fewer than two groups.

    Parameters
    ----------
    latent
        Coordinates, (cells, dimensions); distances are Euclidean.
    groups
        Group of each cell, (cells,).
    max_cells
        Above this a random subset of this size is taken.
    seed
        Of that subset.
    """
    x, codes = _subset(latent, groups, max_cells, seed)
    widths = _silhouette_widths(x, codes)
    return float(widths.mean()) if widths.size else float("nan")


def label_silhouette(latent: ArrayLike, labels: ArrayLike, *, max_cells: int = 10_000, seed: int = 0) -> float:
    """Label ASW of scIB, (s + 1) / 2: 1 is compact labels far apart, 0.5 is overlap. Parameters as in `silhouette`."""
    return (silhouette(latent, labels, max_cells=max_cells, seed=seed) + 1) / 2


def batch_silhouette(
    latent: ArrayLike, batch: ArrayLike, labels: ArrayLike | None = None, *, max_cells: int = 10_000, seed: int = 0
) -> float:
    """Batch ASW of scIB: the mean of 1 - |s| over the cells of a label, then over labels; 1 is perfectly mixed.

    Parameters
    ----------
    latent
        Coordinates, (cells, dimensions).
    batch
        Batch of each cell, (cells,).
    labels
        Label of each cell, (cells,); None takes all cells as one label.
    max_cells, seed
        As in `silhouette`.

    Returns
    -------
    0 to 1; NaN where no label has two batches.
    """
    x, codes, inside = _subset_two(latent, batch, labels, max_cells, seed)
    within = [_silhouette_widths(x[inside == k], codes[inside == k]) for k in np.unique(inside)]
    means = [float((1 - np.abs(s)).mean()) for s in within if s.size]
    return float(np.mean(means)) if means else float("nan")


def batch_mixing_entropy(
    latent: ArrayLike, batch: ArrayLike, *, n_neighbors: int = 50, max_cells: int = 10_000, seed: int = 0
) -> float:
    """Mean entropy (nats) of the batches among each cell's nearest neighbours (Lopez et al. 2018).

    0 is separated batches; the entropy of the batch proportions (ln 2 for two of one size) is perfectly mixed.

    Parameters
    ----------
    latent
        Coordinates, (cells, dimensions).
    batch
        Batch of each cell, (cells,).
    n_neighbors
        Neighbours of each cell, itself not among them.
    max_cells, seed
        As in `silhouette`.
    """
    x, codes = _subset(latent, batch, max_cells, seed)
    return mixing(codes[neighbours(x, n_neighbors)[1]], int(codes.max(initial=0)) + 1)


def lisi(latent: ArrayLike, groups: ArrayLike, *, n_neighbors: int = 90, perplexity: float = 30.0) -> Floats:
    """Local inverse Simpson index of each cell: the effective number of groups around it (Korsunsky et al. 2019).

    Parameters
    ----------
    latent
        Coordinates, (cells, dimensions).
    groups
        Group of each cell, (cells,), none missing.
    n_neighbors
        Nearest neighbours that count, weighted by exp(-beta x distance) as the authors' code does.
    perplexity
        Of these weights; it fixes beta for each cell.

    Returns
    -------
    (cells,), from 1 to the number of groups.
    """
    x, codes = _matched(latent, groups)
    distance, index = neighbours(x, n_neighbors)
    return inverse_simpson(distance, codes[index], perplexity, int(codes.max(initial=0)) + 1)


def ilisi(latent: ArrayLike, batch: ArrayLike, *, max_cells: int = 10_000, seed: int = 0) -> float:
    """Batch LISI scaled as in scIB, (median - 1) / (batches - 1): 0 is separated, 1 is perfectly mixed, equal batches.

    Unequal batches cannot reach 1: see `best` in `integration_metrics`. Parameters as in `silhouette`.
    """
    x, codes = _subset(latent, batch, max_cells, seed)
    return _scaled_ilisi(lisi(x, codes), int(codes.max(initial=0)) + 1)


def clisi(latent: ArrayLike, labels: ArrayLike, *, max_cells: int = 10_000, seed: int = 0) -> float:
    """Label LISI scaled as in scIB, (labels - median) / (labels - 1): 1 is pure neighbourhoods, 0 is random ones.

    Parameters as in `silhouette`.
    """
    x, codes = _subset(latent, labels, max_cells, seed)
    return _scaled_clisi(lisi(x, codes), int(codes.max(initial=0)) + 1)


def neighbourhood_preservation(
    before: ArrayLike,
    after: ArrayLike,
    batch: ArrayLike | None = None,
    *,
    n_neighbors: int = 15,
    max_cells: int = 10_000,
    seed: int = 0,
) -> float:
    """Share of each cell's nearest neighbours in one space that are still its neighbours in another, mean over cells.

    Parameters
    ----------
    before, after
        Coordinates of the same cells, (cells, dimensions of each).
    batch
        Batch of each cell; when given, neighbours are looked for within the batch, since mixing batches is wanted.
    n_neighbors
        Neighbours of each cell, itself not among them.
    max_cells, seed
        As in `silhouette`.

    Returns
    -------
    0 to 1; about n_neighbors / cells where nothing is kept.
    """
    first, codes = _matched(before, np.zeros(len(np.asarray(before)), int) if batch is None else batch)
    second = _matched(after, codes)[0]
    chosen = np.flatnonzero(codes >= 0)
    chosen = chosen[choice(len(chosen), max_cells, seed)]
    kept, n = 0.0, 0
    for group in np.unique(codes[chosen]):
        rows = chosen[codes[chosen] == group]
        if len(rows) < 3:
            continue
        a, b = (neighbours(space[rows], n_neighbors)[1] for space in (first, second))
        kept += float((a[:, :, None] == b[:, None, :]).any(-1).mean(1).sum())
        n += len(rows)
    return kept / n if n else float("nan")


def kmeans_agreement(latent: ArrayLike, labels: ArrayLike, *, seed: int = 0, max_cells: int = 10_000) -> Agreement:
    """Agreement of the labels with k-means of the latent space, k the number of labels, best of 10 starts.

    Parameters
    ----------
    latent
        Coordinates, (cells, dimensions).
    labels
        Label of each cell, (cells,).
    seed
        Of k-means and of the subset.
    max_cells
        As in `silhouette`.
    """
    from sklearn.cluster import KMeans

    x, codes = _subset(latent, labels, max_cells, seed)
    k = int(codes.max(initial=0)) + 1
    found = KMeans(n_clusters=min(k, len(x)), n_init=10, random_state=seed).fit_predict(x)
    return Agreement(ari(codes, found), nmi(codes, found))


def integration_metrics(
    latent: ArrayLike,
    batch: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    *,
    clusters_name: str = "cluster",
    seed: int = 0,
    max_cells: int = 10_000,
) -> pd.DataFrame:
    """Every metric that the given columns allow, one row each.

    Parameters
    ----------
    latent
        Coordinates, (cells, dimensions).
    batch, labels, clusters
        A category of each cell, (cells,), or None; with fewer than two categories it is left out.
    clusters_name
        What made the clusters, as the names of their two rows begin: "Leiden" gives "Leiden ARI" and "Leiden NMI".
    seed
        Of the subset and of k-means.
    max_cells
        Above this many cells one random subset is taken for all but the label purity, which looks at as many cells but
        for their neighbours among all, and the agreement of the clusters. This bounds the cost.

    Returns
    -------
    Columns metric, kind ("batch", "biology" or "structure"), value, best (what perfect mixing of these batch sizes or
    perfect separation would give), chance (what neighbours or clusters drawn at random would give; NaN where no such
    number is known) and meaning.
    """
    x = coordinates(latent)
    batch, labels, clusters = (_useful(c, len(x)) for c in (batch, labels, clusters))
    chosen = choice(len(x), max_cells, seed)
    rows: list[_Row] = []
    if batch is not None:
        rows += _batch_rows(x[chosen], batch[chosen], None if labels is None else labels[chosen])
    if labels is not None:
        has = labels >= 0
        rows.append(_purity_row(label_purity(x[has], labels[has], max_cells=max_cells, seed=seed)))
        rows += _label_rows(x[chosen], labels[chosen], seed)
    if labels is not None and clusters is not None:
        rows += [
            _Row(f"{clusters_name} ARI", ari(labels, clusters), 1.0, 0.0),
            _Row(f"{clusters_name} NMI", nmi(labels, clusters), 1.0),
        ]
    return _table(rows)


def compare_latents(
    latents: Mapping[str, ArrayLike],
    batch: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    *,
    clusters_name: str = "cluster",
    seed: int = 0,
    max_cells: int = 10_000,
) -> pd.DataFrame:
    """`integration_metrics` of several spaces of the same cells, side by side.

    Parameters
    ----------
    latents
        Coordinates by name, each (cells, dimensions); the report wants {"before": ..., "after": ...}. The clusters
        are taken to come from the last, which also gets the share of the first one's neighbourhoods that it keeps.
    batch, labels, clusters, clusters_name, seed, max_cells
        As in `integration_metrics`.

    Returns
    -------
    Columns metric, kind, one of each name, best, chance, meaning.
    """
    names = list(latents)
    how: dict[str, Any] = {"clusters_name": clusters_name, "seed": seed, "max_cells": max_cells}
    tables = {
        n: integration_metrics(latents[n], batch, labels, clusters if n == names[-1] else None, **how) for n in names
    }
    table = tables[names[-1]]
    if len(names) > 1:
        kept = neighbourhood_preservation(
            latents[names[0]],
            latents[names[-1]],
            _useful(batch, len(coordinates(latents[names[0]]))),
            seed=seed,
            max_cells=max_cells,
        )
        row = _table([_Row("neighbours kept", kept, 1.0)])
        table = row if table.empty else pd.concat([table, row], ignore_index=True)
    for at, n in enumerate(names[:-1]):
        table.insert(2 + at, n, table["metric"].map(tables[n].set_index("metric")["value"]).astype(float))
    return table.rename(columns={"value": names[-1]})


_MEANING: dict[str, tuple[Literal["batch", "biology", "structure"], str]] = {
    "mixing entropy": ("batch", "How mixed the batches are among a cell's 50 nearest neighbours, in nats; 0 is apart."),
    "iLISI": ("batch", "Effective number of batches around a cell, scaled: 0 is one batch, 1 is all in equal parts."),
    "batch silhouette": (
        "batch",
        "Overlap of batches within each label: 1 is one cloud, low values are shifted clouds.",
    ),
    "label purity": ("biology", "Mean share of a cell's {k} nearest neighbours that have its own label."),
    "label silhouette": ("biology", "Compactness of the labels: 1 is tight and far apart, 0.5 is overlapping."),
    "cLISI": (
        "biology",
        "Effective number of labels around the median cell, scaled: 1 is one label, 0 is all in equal parts. With many "
        "labels it is near 1 even where neighbourhoods hold several.",
    ),
    "k-means ARI": ("biology", "Agreement of k-means clusters with the labels: 1 is identical, 0 is chance."),
    "k-means NMI": ("biology", "Information shared by k-means clusters and the labels: 1 is all, 0 is none."),
    "cluster ARI": ("biology", "Agreement of the {clusters} with the labels: 1 is identical, 0 is chance."),
    "cluster NMI": ("biology", "Information shared by the {clusters} and the labels: 1 is all, 0 is none."),
    "neighbours kept": (
        "structure",
        "Share of a cell's 15 nearest neighbours within its batch that are the same before and after.",
    ),
}


class _Row(NamedTuple):
    metric: str
    value: float
    best: float
    chance: float = float("nan")
    n_neighbors: int = 30


def _table(rows: list[_Row]) -> pd.DataFrame:
    return pd.DataFrame(
        [(row.metric, *_kind_and_meaning(row), row.value, row.best, row.chance) for row in rows],
        columns=["metric", "kind", "meaning", "value", "best", "chance"],
    )[["metric", "kind", "value", "best", "chance", "meaning"]]


def _kind_and_meaning(row: _Row) -> tuple[str, str]:
    name, _, index = row.metric.rpartition(" ")
    known = row.metric in _MEANING and name != "cluster"
    kind, meaning = _MEANING[row.metric if known else f"cluster {index}"]
    clusters = "clusters" if name == "cluster" else f"{name} clusters"
    return kind, meaning.replace("{k}", str(row.n_neighbors)).replace("{clusters}", clusters)


def _purity_row(found: LabelPurity) -> _Row:
    return _Row("label purity", found.mean, found.best, found.chance, found.n_neighbors)


def _batch_rows(x: Floats, batch: Codes, labels: Codes | None) -> list[_Row]:
    """The three batch metrics from one neighbour search; cells without a batch are dropped."""
    has = batch >= 0
    x, batch, labels = x[has], batch[has], None if labels is None else labels[has]
    n = int(batch.max(initial=0)) + 1
    share = np.bincount(batch, minlength=n) / len(batch)
    distance, index = neighbours(x, 90)
    around = batch[index]
    mixed = _scaled_ilisi(inverse_simpson(distance, around, 30.0, n), n)
    best_mixed = (1 / float((share**2).sum()) - 1) / (n - 1)
    return [
        _Row("mixing entropy", mixing(around[:, :50], n), float(-(share * np.log(np.maximum(share, 1e-300))).sum())),
        _Row("iLISI", mixed, best_mixed),
        _Row("batch silhouette", batch_silhouette(x, batch, labels, max_cells=len(x)), 1.0),
    ]


def _label_rows(x: Floats, labels: Codes, seed: int) -> list[_Row]:
    x, labels = x[labels >= 0], labels[labels >= 0]
    agreement = kmeans_agreement(x, labels, seed=seed, max_cells=len(x))
    return [
        _Row("label silhouette", label_silhouette(x, labels, max_cells=len(x)), 1.0),
        _Row("cLISI", clisi(x, labels, max_cells=len(x)), 1.0),
        _Row("k-means ARI", agreement.ari, 1.0, 0.0),
        _Row("k-means NMI", agreement.nmi, 1.0),
    ]


def _scaled_ilisi(index: Floats, n: int) -> float:
    return float((np.median(index) - 1) / (n - 1)) if n > 1 else float("nan")


def _scaled_clisi(index: Floats, n: int) -> float:
    return float((n - np.median(index)) / (n - 1)) if n > 1 else float("nan")


def _silhouette_widths(x: Floats, codes: Codes) -> Floats:
    """Silhouette width of each cell; empty with fewer than two groups or as many groups as cells."""
    from sklearn.metrics import silhouette_samples

    n_groups = len(np.unique(codes))
    if n_groups < 2 or n_groups >= len(x):
        return np.empty(0)
    return np.asarray(silhouette_samples(x, codes), dtype=np.float64)


def _matched(latent: ArrayLike, groups: ArrayLike) -> tuple[Floats, Codes]:
    x, codes = coordinates(latent), codes_of(groups)
    if len(x) != len(codes):
        raise InputError(
            "do not match",
            where="latent and groups",
            value=f"{len(x)} and {len(codes)} cells",
            fix="Give one group a cell.",
        )
    return x, codes


def _subset(latent: ArrayLike, groups: ArrayLike, max_cells: int, seed: int) -> tuple[Floats, Codes]:
    """The cells that have a group, at most `max_cells` of them; codes of the groups that are left, without gaps."""
    x, codes = _matched(latent, groups)
    x, codes = x[codes >= 0], codes[codes >= 0]
    chosen = choice(len(x), max_cells, seed)
    return x[chosen], codes_of(codes[chosen])


def _subset_two(
    latent: ArrayLike, batch: ArrayLike, labels: ArrayLike | None, max_cells: int, seed: int
) -> tuple[Floats, Codes, Codes]:
    x, codes = _matched(latent, batch)
    inside = np.zeros(len(x), np.int64) if labels is None else _matched(x, labels)[1]
    has = np.flatnonzero((codes >= 0) & (inside >= 0))
    has = has[choice(len(has), max_cells, seed)]
    return x[has], codes[has], inside[has]


def _both(a: ArrayLike, b: ArrayLike) -> tuple[Codes, Codes]:
    first, second = codes_of(a), codes_of(b)
    if len(first) != len(second):
        raise InputError(
            "do not match",
            where="the two partitions",
            value=f"{len(first)} and {len(second)} cells",
            fix="Give the same cells.",
        )
    has = (first >= 0) & (second >= 0)
    return first[has], second[has]


def _useful(groups: ArrayLike | None, n: int) -> Codes | None:
    """Codes of a column with at least two categories, else None."""
    if groups is None:
        return None
    codes = codes_of(groups)
    if len(codes) != n:
        raise InputError(
            "do not match", where="latent and a column", value=f"{n} and {len(codes)} cells", fix="Give one a cell."
        )
    return codes if len(np.unique(codes[codes >= 0])) > 1 else None
