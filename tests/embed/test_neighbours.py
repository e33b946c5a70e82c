"""Neighbours beyond scanpy's own exact search: 8,192 cells and more, and where pynndescent is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from celbo.embed import neighbour_graph, neighbours
from celbo.embed.neighbours import approximate_neighbours, write_neighbours

Floats = NDArray[np.float32]


def groups(n_cells: int, seed: int = 0) -> Floats:
    """Return cells in five groups; (cells, 6)."""
    rng = np.random.default_rng(seed)
    centres = 4 * rng.normal(size=(5, 6))
    return (centres[rng.integers(0, 5, n_cells)] + rng.normal(size=(n_cells, 6))).astype(np.float32)


def exact(values: Floats, k: int) -> NDArray[np.int64]:
    found = NearestNeighbors(n_neighbors=k).fit(values.astype(np.float64)).kneighbors(values, return_distance=False)
    return np.asarray(found, np.int64)


def test_the_graph_of_9000_cells_is_exact() -> None:
    adata = AnnData(groups(9000))
    write_neighbours(adata, "X", n_neighbors=10, seed=0)
    distances = adata.obsp["distances"]
    assert (np.diff(distances.indptr) == 9).all()
    found = np.sort(distances.indices.reshape(9000, 9), axis=1)
    np.testing.assert_array_equal(found, np.sort(exact(adata.X, 10)[:, 1:], axis=1))
    assert adata.uns["neighbors"]["params"]["n_neighbors"] == 10


class Exact:
    """In pynndescent's place: exact neighbours."""

    def __init__(self, values: Floats, *, n_neighbors: int, random_state: int, n_trees: int, n_iters: int) -> None:
        distance, index = NearestNeighbors(n_neighbors=n_neighbors).fit(values).kneighbors(values)
        self.neighbor_graph = index.astype(np.int32), distance.astype(np.float32)


class Found:
    """In pynndescent's place: exact neighbours of all cells but two, one of which misses itself."""

    def __init__(self, values: Floats, **options: int) -> None:
        index, distance = Exact(values, **options).neighbor_graph
        index[3, -2:], distance[3, -2:] = -1, np.inf
        index[7], distance[7] = np.roll(index[7], -1), np.roll(distance[7], -1)
        index[7, -1], distance[7, -1] = 0, 100.0
        self.neighbor_graph = index, distance


def test_too_few_neighbours_are_filled_and_a_cell_is_its_own_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pynndescent.NNDescent", Found)
    values = groups(300)
    index, distance = approximate_neighbours(values, n_neighbors=8, seed=0)
    np.testing.assert_array_equal(index, exact(values, 8))
    assert (distance[:, 0] == 0).all()
    assert (np.diff(distance, axis=1) >= 0).all()


def test_cells_that_are_equal_are_their_own_first_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pynndescent.NNDescent", Found)
    values = np.repeat(groups(60), 5, axis=0)
    index, distance = approximate_neighbours(values, n_neighbors=4, seed=0)
    np.testing.assert_array_equal(index[:, 0], np.arange(300))
    assert all(len(set(row)) == 4 for row in index.tolist())
    assert distance[10:].max() == 0


@pytest.fixture
def beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the exact search to fewer cells than the tests have."""
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", 100)


@pytest.mark.usefixtures("beyond")
def test_the_graph_of_an_approximate_search_is_that_of_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pynndescent.NNDescent", Exact)
    values = groups(300)
    found = neighbour_graph(values, n_neighbors=8, seed=0)
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", 1000)
    np.testing.assert_allclose(found.toarray(), neighbour_graph(values, n_neighbors=8, seed=0).toarray(), atol=1e-5)


@pytest.mark.slow  # pynndescent compiles for a minute
@pytest.mark.usefixtures("beyond")
def test_pynndescent_finds_nearly_all_neighbours_and_the_same_twice() -> None:
    values: Any = groups(9000)
    index = approximate_neighbours(values, n_neighbors=15, seed=0)[0]
    true = exact(values, 15)
    hits = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(index.tolist(), true.tolist(), strict=True)])
    assert hits > 0.95
    first, second = (neighbour_graph(values, n_neighbors=15, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_array_equal(first.data, second.data)
