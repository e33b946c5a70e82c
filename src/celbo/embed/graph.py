"""ForceAtlas2 and diffusion maps: coordinates made from the graph of nearest neighbours, for the cells in it alone.

ForceAtlas2: Jacomy et al. 2014 (doi:10.1371/journal.pone.0098679), by fa2-modified, the library that scanpy uses.
Diffusion maps: Coifman & Lafon 2006 (doi:10.1016/j.acha.2006.04.006), for cells Haghverdi et al. 2015
(doi:10.1093/bioinformatics/btv325). The graph is scanpy's: UMAP's connectivities of the nearest neighbours.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, NoReturn

import numpy as np
from anndata import AnnData
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh

from celbo.data.components import principal_components, with_signs
from celbo.embed.neighbours import write_neighbours
from celbo.embed.values import Floats, Values, at_least, imported, one_of, quiet, space_of
from celbo.errors import CelboWarning, InputError

__all__ = ["DiffusionMap", "ForceAtlas2", "fit_diffusion_map", "fit_forceatlas2", "neighbour_graph"]


@dataclass(frozen=True, eq=False)
class ForceAtlas2:
    """A drawing of the graph of neighbours."""

    coordinates: Floats
    """Positions of the cells; (cells, 2)."""

    def transform(self, values: Values) -> NoReturn:
        """Raise an `InputError`: a drawing has no place for cells that are not in its graph."""
        _cannot_place("forceatlas2", "positions balance the forces between all cells of the graph")


@dataclass(frozen=True, eq=False)
class DiffusionMap:
    """The slowest directions of a random walk between neighbours."""

    coordinates: Floats
    """Eigenvectors, (cells, k), by descending eigenvalue; the first is the trivial one unless it was dropped."""
    eigenvalues: Floats
    """Of the transitions, descending; (k,). The trivial one is 1."""
    n_connected: int
    """Parts of the graph without an edge between them; each has an eigenvalue 1 of its own."""

    def transform(self, values: Values) -> NoReturn:
        """Raise an `InputError`: eigenvectors of the cells' own graph have no entry for others."""
        _cannot_place("diffusion_map", "its coordinates are eigenvectors with one entry for each cell of the graph")


def _cannot_place(method: str, reason: str) -> NoReturn:
    fix = "Compute it for all cells together, or use pca, umap or tsne, which can."
    raise InputError("cannot place new cells", where=method, value=reason, fix=fix)


def neighbour_graph(coordinates: Floats, *, n_neighbors: int, seed: int) -> sparse.csr_matrix:
    """Return scanpy's connectivities of the nearest neighbours, (cells, cells), symmetric, 0 to 1.

    Parameters
    ----------
    coordinates
        (cells, dimensions); distances are Euclidean.
    n_neighbors
        Neighbours of each cell, itself among them; fewer than the cells.
    seed
        Of the search, which is exact up to 100,000 cells.
    """
    n_cells = len(coordinates)
    at_least(2, "n_neighbors", n_neighbors, most=n_cells - 1, fix=f"There are {n_cells} cells.")
    holder = AnnData(np.asarray(coordinates, np.float32))
    write_neighbours(holder, "X", n_neighbors=n_neighbors, seed=seed)
    return sparse.csr_matrix(holder.obsp["connectivities"])


def fit_forceatlas2(
    values: Values,
    *,
    n_neighbors: int = 15,
    n_iter: int = 500,
    gravity: float = 1.0,
    scaling: float = 2.0,
    strong_gravity: bool = False,
    init: Literal["pca", "random"] = "pca",
    n_pcs: int = 50,
    seed: int = 0,
) -> ForceAtlas2:
    """Draw the graph of neighbours: edges pull, cells push each other away, gravity keeps parts together.

    Parameters
    ----------
    values
        (cells, genes) CSR of log-normalised counts, reduced to `n_pcs` principal components first, or a dense
        representation (cells, dimensions), taken as it is.
    n_neighbors
        Neighbours of each cell, itself among them.
    n_iter
        Iterations; scanpy has 500.
    gravity, scaling, strong_gravity
        Of ForceAtlas2: pull to the middle, strength of the pushing, and whether the pull grows with the distance.
    init
        First positions: the first two principal components of the space, or random ones, as scanpy has them.
    n_pcs
        Principal components of a CSR matrix.
    seed
        Of the search for neighbours and of random first positions. The same seed gives the same drawing up to 100,000
        cells; beyond, the search for neighbours is approximate and runs on several threads.

    Raises
    ------
    OptionError
        If an option is impossible, or `n_neighbors` too large for the cells.
    InputError
        If values are not finite.
    DependencyError
        If fa2-modified is not installed.
    """
    forceatlas2 = imported("fa2_modified", package="fa2-modified", method="forceatlas2")
    one_of("init", init, ("pca", "random"))
    at_least(1, "n_iter", n_iter)
    at_least(0, "gravity", gravity, kind="any")
    at_least(1e-6, "scaling", scaling, kind="any")
    space = space_of(values, n_pcs=n_pcs, seed=seed)
    graph = neighbour_graph(space.coordinates, n_neighbors=n_neighbors, seed=seed)
    layout = forceatlas2.ForceAtlas2(
        gravity=gravity, scalingRatio=scaling, strongGravityMode=strong_gravity, barnesHutTheta=1.2, verbose=False
    )
    with quiet():
        positions = layout.forceatlas2(graph, pos=_first_positions(space.coordinates, init, seed), iterations=n_iter)
    return ForceAtlas2(np.array(positions, dtype=np.float64))


def _first_positions(coordinates: Floats, init: str, seed: int) -> Floats:
    """Return (cells, 2) within a square of side 1."""
    if init == "random":
        return np.random.default_rng(seed).random((len(coordinates), 2))
    flat = sparse.csr_matrix(coordinates)
    found = principal_components(flat, min(2, coordinates.shape[1]), seed=seed).project(coordinates)
    first = np.zeros((len(coordinates), 2))
    first[:, : found.shape[1]] = found / np.abs(found).max() / 2
    return first


def fit_diffusion_map(
    values: Values,
    *,
    n_components: int = 15,
    n_neighbors: int = 15,
    eigenvectors: Literal["symmetric", "right"] = "symmetric",
    drop_trivial: bool = False,
    n_pcs: int = 50,
    seed: int = 0,
) -> DiffusionMap:
    """Diffusion map of the graph of neighbours.

    With connectivities K and q = K 1: K' = K / (q q^T) takes the density of cells out, z = sqrt(K' 1), and the
    transitions are S = K' / (z z^T), similar to the random walk P = K' / z^2.

    Parameters
    ----------
    values
        As in `fit_forceatlas2`.
    n_components
        Eigenvectors, the trivial one among them unless it is dropped.
    n_neighbors
        Neighbours of each cell, itself among them.
    eigenvectors
        "symmetric" are those of S, of length 1, as scanpy's `diffmap` and `dpt` have them (Haghverdi et al. 2016,
        doi:10.1038/nmeth.3971). "right" are those of the random walk P, the coordinates of Coifman & Lafon: the former
        over z, scaled to a mean square of 1; their trivial one is constant.
    drop_trivial
        Whether to leave the first eigenvector out: it tells of no direction, but scanpy's slot has it.
    n_pcs
        Principal components of a CSR matrix.
    seed
        Of the search for neighbours and the first Lanczos vector. The same seed gives the same coordinates up to
        100,000 cells; beyond, the search for neighbours is approximate and runs on several threads.

    Raises
    ------
    OptionError
        If an option is impossible, or there are too many components for the cells.
    InputError
        If values are not finite.

    Notes
    -----
    scanpy takes the eigenvalues of largest size and rounds to float32; here they are the largest in float64, which is
    the same where none is near -1. The entry of largest size in each column is positive. A warning tells where the
    graph falls apart: then eigenvectors of eigenvalue 1 tell its parts apart and are not unique.
    """
    one_of("eigenvectors", eigenvectors, ("symmetric", "right"))
    space = space_of(values, n_pcs=n_pcs, seed=seed)
    n_cells = len(space.coordinates)
    n_wanted = n_components + bool(drop_trivial) if isinstance(n_components, int | np.integer) else n_components
    at_least(1, "n_components", n_components, most=max(1, n_cells - 2), fix=f"There are {n_cells} cells.")
    graph = neighbour_graph(space.coordinates, n_neighbors=n_neighbors, seed=seed).astype(np.float64)
    parts = int(connected_components(graph, directed=False)[0])
    if parts > 1:
        text = (
            f"The graph of neighbours has {parts} parts: the first {parts} diffusion components only tell them apart."
        )
        warnings.warn(CelboWarning(text), stacklevel=2)
    transitions, z = _transitions(graph)
    start = np.random.default_rng(seed).standard_normal(n_cells)
    found, vectors = eigsh(transitions, k=n_wanted, which="LA", v0=start)
    order = np.argsort(found)[::-1][int(drop_trivial) :]
    chosen = vectors[:, order]
    if eigenvectors == "right":
        chosen = chosen / z[:, None]
        chosen = chosen / np.sqrt((chosen**2).mean(axis=0))
    return DiffusionMap(with_signs(np.ascontiguousarray(chosen)), found[order], parts)


def _transitions(graph: sparse.csr_matrix) -> tuple[sparse.csr_matrix, Floats]:
    """Return the symmetric transitions, (cells, cells), and z, (cells,)."""
    density = np.asarray(graph.sum(axis=0)).ravel()
    scaled = sparse.diags_array(1 / density) @ graph @ sparse.diags_array(1 / density)
    z = np.sqrt(np.asarray(scaled.sum(axis=0)).ravel())
    return sparse.csr_matrix(sparse.diags_array(1 / z) @ scaled @ sparse.diags_array(1 / z)), z
