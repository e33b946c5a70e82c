"""t-SNE and UMAP: who is near whom, and where new cells go."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial.distance import cdist

from celbo.embed import TSNE, UMAP, fit_tsne, fit_umap
from celbo.errors import DependencyError, InputError, OptionError

Floats = NDArray[np.float64]
GROUPS = np.repeat(range(4), 40)


@pytest.fixture(scope="module")
def blobs() -> Floats:
    """Return a representation of four separate groups of 40 cells; (160, 5)."""
    return np.random.default_rng(1).normal(size=(160, 5)) + 8 * np.eye(4, 5)[GROUPS]


@pytest.fixture(scope="module")
def tsne(blobs: Floats) -> TSNE:
    return fit_tsne(blobs[::2], perplexity=10, seed=3)


@pytest.fixture(scope="module")
def umap(blobs: Floats) -> UMAP:
    return fit_umap(blobs[::2], n_neighbors=10, seed=3)


def nearest(points: Floats, among: Floats) -> NDArray[np.int64]:
    return cdist(points, among).argmin(1)


def own_group(points: Floats, groups: NDArray[np.int64]) -> float:
    """Return the share of cells whose nearest other cell is of their group."""
    distance = cdist(points, points) + np.diag(np.full(len(points), np.inf))
    return float((groups[distance.argmin(1)] == groups).mean())


@pytest.mark.parametrize("name", ["tsne", "umap"])
def test_groups_stay_together(name: str, request: pytest.FixtureRequest) -> None:
    fit = request.getfixturevalue(name)
    assert fit.coordinates.shape == (80, 2)
    assert own_group(fit.coordinates, GROUPS[::2]) == 1


@pytest.mark.parametrize("name", ["tsne", "umap"])
def test_new_cells_land_in_their_group_and_the_map_stays(
    name: str, request: pytest.FixtureRequest, blobs: Floats
) -> None:
    fit = request.getfixturevalue(name)
    before = fit.coordinates.copy()
    placed = fit.transform(blobs[1::2])
    assert placed.shape == (80, 2)
    assert (GROUPS[::2][nearest(placed, before)] == GROUPS[1::2]).all()
    np.testing.assert_array_equal(fit.coordinates, before)
    np.testing.assert_allclose(fit.transform(blobs[1::2]), placed, atol=1e-6)


def test_tsne_places_its_own_cells_near_their_coordinates(tsne: TSNE, blobs: Floats) -> None:
    away = np.linalg.norm(tsne.transform(blobs[::2]) - tsne.coordinates, axis=1)
    width = np.ptp(tsne.coordinates, axis=0).max()
    assert np.median(away) < 0.02 * width


def test_umap_places_its_own_cells_on_or_near_their_coordinates(umap: UMAP, blobs: Floats) -> None:
    np.testing.assert_array_equal(umap.transform(blobs[::2]), umap.coordinates)
    some = umap.transform(blobs[::2][:30])
    away = np.linalg.norm(some - umap.coordinates[:30], axis=1)
    assert np.median(away) < 0.1 * np.ptp(umap.coordinates, axis=0).max()


def test_tsne_keeps_its_map_when_it_is_far_from_the_middle(blobs: Floats) -> None:
    lopsided = np.vstack([blobs[:40], blobs[40:42] + 30])
    fit = fit_tsne(lopsided, perplexity=5)
    middle = (fit.coordinates.max(0) + fit.coordinates.min(0)) / 2
    np.testing.assert_allclose(middle, 0, atol=1e-9)
    near = nearest(fit.transform(lopsided[:40]), fit.coordinates[:40])
    assert (cdist(lopsided[:40], lopsided[:40])[np.arange(40), near] < 6).all()


def test_a_seed_gives_the_same_map_twice(blobs: Floats, tsne: TSNE, umap: UMAP) -> None:
    again = fit_tsne(blobs[::2], perplexity=10, seed=3)
    np.testing.assert_array_equal(again.coordinates, tsne.coordinates)
    np.testing.assert_array_equal(fit_umap(blobs[::2], n_neighbors=10, seed=3).coordinates, umap.coordinates)
    first, second = (fit_tsne(blobs[::2], perplexity=10, init="random", seed=s, n_iter=50) for s in (0, 1))
    assert not np.allclose(first.coordinates, second.coordinates)


def test_counts_are_reduced_to_principal_components_first(values: sparse.csr_matrix) -> None:
    fit = fit_tsne(values, n_pcs=7, perplexity=10, n_iter=20)
    assert fit.space.coordinates.shape == (120, 7)
    dense = fit_tsne(fit.space.coordinates, perplexity=10, n_iter=20)
    np.testing.assert_array_equal(dense.coordinates, fit.coordinates)
    assert fit.transform(values[:3]).shape == (3, 2)


def test_tsne_divergence_is_that_of_its_definition(blobs: Floats, tsne: TSNE) -> None:
    y = tsne.coordinates
    q = 1 / (1 + cdist(y, y, "sqeuclidean"))
    np.fill_diagonal(q, 0)
    q /= q.sum()
    p = tsne._map.affinities.P.toarray()
    has = p > 0
    want = (p[has] * np.log(p[has] / q[has])).sum()
    assert tsne.kl_divergence == pytest.approx(want, rel=0.02)  # openTSNE approximates the sum of q


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"perplexity": 30}, "perplexity must be a number from 1 to 13: 30. It is at most"),
        ({"perplexity": 0}, "perplexity must be"),
        ({"n_components": 3}, "n_components must be a whole number from 1 to 2: 3. umap has"),
        ({"init": "spectal"}, "init is unknown: 'spectal'. Did you mean 'spectral'"),
        ({"n_iter": 0}, "n_iter must be"),
        ({"learning_rate": -1}, "learning_rate must be"),
    ],
)
def test_impossible_options_of_tsne_are_named(options: dict[str, object], told: str, blobs: Floats) -> None:
    with pytest.raises(OptionError, match=told.replace(".", r"\.")):
        fit_tsne(blobs[:40], **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n_neighbors": 40}, "n_neighbors must be a whole number from 2 to 39: 40"),
        ({"n_neighbors": 1}, "n_neighbors must be"),
        ({"min_dist": 2}, "min_dist must be a number from 0 to 1: 2"),
        ({"metric": "cosin"}, "metric is unknown: 'cosin'. Did you mean 'cosine'"),
        ({"n_components": 0}, "n_components must be"),
        ({"n_epochs": 0}, "n_epochs must be"),
    ],
)
def test_impossible_options_of_umap_are_named(options: dict[str, object], told: str, blobs: Floats) -> None:
    with pytest.raises(OptionError, match=told.replace(".", r"\.")):
        fit_umap(blobs[:40], **options)


@pytest.mark.parametrize("method", [fit_tsne, fit_umap])
def test_representations_without_a_map_are_named(method, blobs: Floats) -> None:
    with pytest.raises(InputError, match="do not differ between cells"):
        method(np.ones((40, 3)))
    with pytest.raises(InputError, match=r"exceed 1e\+12 in size"):
        method(blobs * 1e20)
    with pytest.raises(OptionError, match=r"n_components must be a whole number from 1 to 1: 2\. .*init=\"random\""):
        method(blobs[:, :1], init="pca")
    with pytest.raises(OptionError, match="seed must be a whole number from 0"):
        method(blobs, seed=-1)


@pytest.mark.parametrize("method", [fit_tsne, fit_umap])
def test_values_that_are_not_finite_are_named(method, blobs: Floats) -> None:
    bad = blobs.copy()
    bad[11, 1] = np.inf
    with pytest.raises(InputError, match="not finite: first in row 11"):
        method(bad)


def test_a_missing_package_is_named_with_the_command(blobs: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(DependencyError, match=r"tsne needs the package openTSNE\. Install it: pip install"):
        fit_tsne(blobs)
