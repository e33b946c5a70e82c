"""Nearest neighbours of cells, and scanpy's graph of them, by a search that celbo chooses itself.

scanpy leaves the search to pynndescent from 8,192 cells on. Here it is exact up to `EXACT_UP_TO` cells (scikit-learn,
all pairs), which is also faster: pynndescent compiles for a minute of CPU in every process. Beyond, pynndescent's index
is asked directly, so that nothing depends on the kind of sparse matrix that its wrapper for scikit-learn returns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from celbo.embed.values import imported, quiet
from celbo.kernels.forked import refuse_forked

__all__ = ["EXACT_UP_TO", "approximate_neighbours", "write_neighbours"]

EXACT_UP_TO = 100_000
"""Cells up to which all pairs are looked at: 11 s of CPU at 50,000 cells of 10 dimensions, 44 s at 100,000."""


def write_neighbours(adata: AnnData, slot: str, *, n_neighbors: int, seed: int) -> None:
    """Write scanpy's graph of the nearest neighbours into `obsp` and `uns["neighbors"]`.

    Parameters
    ----------
    adata
        Cells; distances are Euclidean.
    slot
        Where their coordinates are: a key of `obsm`, or "X".
    n_neighbors
        Neighbours of each cell, itself among them; fewer than the cells.
    seed
        Of the search, where there are more than `EXACT_UP_TO` cells.
    """
    refuse_forked("The graph of neighbours")
    sc = imported("scanpy", package="scanpy", method="the graph of neighbours")
    search: Any = "sklearn" if adata.n_obs <= EXACT_UP_TO else _Search(n_neighbors, seed)
    with quiet():
        sc.pp.neighbors(adata, n_neighbors=n_neighbors, use_rep=slot, transformer=search, random_state=seed)


def approximate_neighbours(
    coordinates: NDArray[np.floating[Any]], *, n_neighbors: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return each cell's nearest neighbours as pynndescent finds them, the cell itself first.

    Parameters
    ----------
    coordinates
        (cells, dimensions).
    n_neighbors
        Neighbours of each cell, itself among them.
    seed
        Of the search.

    Returns
    -------
    Positions and Euclidean distances, ascending; (cells, n_neighbors) each. A cell for which pynndescent finds too few
    has its exact neighbours.
    """
    pynndescent = imported("pynndescent", package="pynndescent", method="the search for neighbours")
    values = np.ascontiguousarray(coordinates, np.float32)
    n_cells = len(values)
    size = {"n_trees": min(64, 5 + round(n_cells**0.5 / 20)), "n_iters": max(5, round(np.log2(n_cells)))}  # as UMAP's
    with quiet():
        found = pynndescent.NNDescent(values, n_neighbors=n_neighbors + 1, random_state=seed, **size).neighbor_graph
    index, distance = (np.array(part) for part in found)
    few = np.flatnonzero((index < 0).any(axis=1))
    if len(few):
        from sklearn.neighbors import NearestNeighbors

        exact = NearestNeighbors(n_neighbors=n_neighbors + 1, algorithm="brute").fit(values).kneighbors(values[few])
        distance[few], index[few] = exact
    return _itself_first(index.astype(np.int64), distance.astype(np.float32), n_neighbors)


def _itself_first(
    index: NDArray[np.int64], distance: NDArray[np.float32], n_neighbors: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Put each cell before its neighbours: among equal cells it may be found later, or not at all."""
    itself = np.arange(len(index))[:, None]
    order = np.argsort(index != itself, axis=1, kind="stable")
    index = np.take_along_axis(index, order, axis=1)
    distance = np.take_along_axis(distance, order, axis=1)
    missing = index[:, 0] != itself[:, 0]
    index[missing] = np.roll(index[missing], 1, axis=1)
    distance[missing] = np.roll(distance[missing], 1, axis=1)
    index[:, 0], distance[:, 0] = itself[:, 0], 0.0
    return index[:, :n_neighbors], distance[:, :n_neighbors]


class _Search:
    """What scanpy asks for neighbours: two methods of scikit-learn's transformers."""

    def __init__(self, n_neighbors: int, seed: int) -> None:
        self.n_neighbors, self.seed = n_neighbors, seed

    def get_params(self) -> dict[str, int]:
        """Return the options that scanpy reads."""
        return {"n_neighbors": self.n_neighbors}

    def fit_transform(self, coordinates: NDArray[np.floating[Any]]) -> sparse.csr_matrix:
        """Return the distances of neighbours, (cells, cells); a cell's own is stored too, as zero."""
        index, distance = approximate_neighbours(coordinates, n_neighbors=self.n_neighbors, seed=self.seed)
        ends = np.arange(0, index.size + 1, index.shape[1])
        return sparse.csr_matrix((distance.ravel(), index.ravel(), ends), shape=(len(index), len(index)))
