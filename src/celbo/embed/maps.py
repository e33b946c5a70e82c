"""t-SNE and UMAP: maps of neighbourhoods, which place new cells among those of the fit.

t-SNE: van der Maaten & Hinton 2008, as in openTSNE (Policar et al. 2024, doi:10.18637/jss.v109.i03), whose defaults
are those of Kobak & Berens 2019 (doi:10.1038/s41467-019-13056-x): first positions by PCA, a learning rate that grows
with the cells. UMAP: McInnes et al. 2018 (arXiv:1802.03426), by the authors' umap-learn. Distances across such a map,
sizes of clusters and gaps between them mean little; who is near whom is what it keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from celbo.embed.values import Floats, Space, Values, at_least, imported, one_of, quiet, space_of
from celbo.kernels.forked import refuse_forked

__all__ = ["TSNE", "UMAP", "fit_tsne", "fit_umap"]


@dataclass(frozen=True, eq=False)
class TSNE:
    """A fitted t-SNE map."""

    coordinates: Floats
    """Positions of the cells of the fit; (cells, 1 or 2)."""
    space: Space
    """Where the neighbours were looked for."""
    kl_divergence: float
    """What t-SNE minimises, nats: between the neighbour probabilities of the space and of the map."""
    _map: Any = field(repr=False)

    def transform(self, values: Values) -> Floats:
        """Return the positions of cells in the map, (cells, 1 or 2): each beside its neighbours, the map held fixed.

        Cells of the fit come near their coordinates, not exactly onto them.
        """
        perplexity = min(5.0, (len(self.coordinates) - 1) / 3)
        with quiet():
            placed = self._map.transform(self.space.transform(values), perplexity=perplexity)
        return np.array(placed, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class UMAP:
    """A fitted UMAP."""

    coordinates: Floats
    """Positions of the cells of the fit; (cells, k)."""
    space: Space
    """Where the neighbours were looked for."""
    a: float
    """Of the curve 1 / (1 + a d^(2 b)) that `min_dist` and `spread` choose."""
    b: float
    """See `a`."""
    _map: Any = field(repr=False)

    def transform(self, values: Values) -> Floats:
        """Return the positions of cells in the map, (cells, k): each beside its neighbours, the map held fixed.

        Exactly the cells of the fit, all and in order, get their coordinates; in other company they come near them.
        """
        with quiet():
            return np.array(self._map.transform(self.space.transform(values).astype(np.float32)), dtype=np.float64)


def fit_tsne(
    values: Values,
    *,
    n_components: int = 2,
    perplexity: float = 30.0,
    exaggeration: float | None = None,
    learning_rate: float | None = None,
    n_iter: int = 500,
    init: Literal["pca", "spectral", "random"] = "pca",
    n_pcs: int = 50,
    n_jobs: int = 1,
    seed: int = 0,
) -> TSNE:
    """t-SNE by openTSNE.

    Parameters
    ----------
    values
        (cells, genes) CSR of log-normalised counts, reduced to `n_pcs` principal components first, or a dense
        representation (cells, dimensions), taken as it is.
    n_components
        Dimensions of the map, 1 or 2.
    perplexity
        Effective number of neighbours of a cell; at most (cells - 1) / 3.
    exaggeration
        Factor of the attraction in the main phase; None is 1. The early phase of 250 iterations has 12.
    learning_rate
        None is cells / exaggeration, at least 200.
    n_iter
        Iterations of the main phase.
    init
        First positions. "random" loses the coarse arrangement; "pca" keeps it.
    n_pcs
        Principal components of a CSR matrix.
    n_jobs
        Threads. The same seed gives the same map with 1; with more the search for neighbours need not.
    seed
        Of the search for neighbours and the first positions.

    Raises
    ------
    OptionError
        If an option is impossible, or `perplexity` too large for the cells.
    InputError
        If values are not finite.
    DependencyError
        If openTSNE is not installed.
    """
    opentsne = imported("openTSNE", package="openTSNE", method="tsne")
    at_least(1, "n_components", n_components, most=2, fix="umap has maps of more dimensions.")
    at_least(1, "n_iter", n_iter)
    at_least(1, "n_jobs", n_jobs)
    one_of("init", init, ("pca", "spectral", "random"))
    for name, value in (("exaggeration", exaggeration), ("learning_rate", learning_rate)):
        if value is not None:
            at_least(1e-3, name, value, kind="any")
    space = space_of(values, n_pcs=n_pcs, seed=seed)
    _enough_for_pca(init, n_components, space)
    most = (len(space.coordinates) - 1) / 3
    fix = f"It is at most (cells - 1) / 3, here of {len(space.coordinates)} cells."
    at_least(1, "perplexity", perplexity, most=most, fix=fix, kind="any")
    method = opentsne.TSNE(
        n_components=n_components,
        perplexity=float(perplexity),
        exaggeration=exaggeration,
        learning_rate="auto" if learning_rate is None else learning_rate,
        n_iter=n_iter,
        initialization=init,
        n_jobs=n_jobs,
        random_state=seed,
    )
    with quiet():
        found = method.fit(space.coordinates)
    # transform() of openTSNE centres the map in place before it places cells: done now, the coordinates stay valid
    found -= (found.max(axis=0) + found.min(axis=0)) / 2
    return TSNE(np.array(found, dtype=np.float64), space, float(found.kl_divergence), found)


def fit_umap(
    values: Values,
    *,
    n_components: int = 2,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    spread: float = 1.0,
    metric: str = "euclidean",
    n_epochs: int | None = None,
    init: Literal["spectral", "pca", "random"] = "spectral",
    n_pcs: int = 50,
    seed: int = 0,
) -> UMAP:
    """UMAP by umap-learn, on one thread: the same seed gives the same map.

    Parameters
    ----------
    values
        As in `fit_tsne`.
    n_components
        Dimensions of the map.
    n_neighbors
        Neighbours of each cell, itself among them; fewer than the cells.
    min_dist
        Smallest distance between points in the map; at most `spread`. scanpy has 0.5, umap-learn 0.1.
    spread
        Scale of the map.
    metric
        Distance in the representation: "euclidean", "cosine", "correlation" or "manhattan".
    n_epochs
        Passes over the edges; None is 500 below 10,000 cells, else 200.
    init
        First positions.
    n_pcs
        Principal components of a CSR matrix.
    seed
        Of the search for neighbours, the first positions and the sampling of edges.

    Raises
    ------
    OptionError
        If an option is impossible, or `n_neighbors` too large for the cells.
    InputError
        If values are not finite.
    """
    refuse_forked("umap")
    umap = imported("umap", package="umap-learn", method="umap")
    one_of("init", init, ("spectral", "pca", "random"))
    one_of("metric", metric, ("euclidean", "cosine", "correlation", "manhattan"))
    at_least(1e-3, "spread", spread, kind="any")
    at_least(0, "min_dist", min_dist, most=spread, kind="any", fix="It is at most spread.")
    if n_epochs is not None:
        at_least(1, "n_epochs", n_epochs)
    space = space_of(values, n_pcs=n_pcs, seed=seed)
    _enough_for_pca(init, n_components, space)
    n_cells = len(space.coordinates)
    at_least(2, "n_neighbors", n_neighbors, most=n_cells - 1, fix=f"There are {n_cells} cells.")
    at_least(1, "n_components", n_components, most=max(1, n_cells - 2))
    method = umap.UMAP(
        n_components=n_components,
        n_neighbors=n_neighbors,
        min_dist=min_dist,
        spread=spread,
        metric=metric,
        n_epochs=n_epochs,
        init=init,
        n_jobs=1,
        random_state=seed,
        transform_seed=seed,
    )
    with quiet():
        found = np.array(method.fit_transform(space.coordinates.astype(np.float32)), dtype=np.float64)
    return UMAP(found, space, float(method._a), float(method._b), method)


def _enough_for_pca(init: str, n_components: int, space: Space) -> None:
    """Raise an `OptionError` where first positions by PCA have fewer dimensions than the map."""
    if init == "pca":
        fix = 'The representation has no more dimensions: take init="random".'
        at_least(1, "n_components", n_components, most=min(space.coordinates.shape), fix=fix)
