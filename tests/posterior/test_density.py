"""The densest cells of a group, on a model whose latent means are known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from celbo.errors import CelboWarning
from celbo.posterior.density import densest_cells
from celbo.posterior.latent import latent_representation
from linear_gaussian import LinearGaussian, as_cells, make_truth


def cells_at(z: np.ndarray):
    """Return a network and cells whose latent means are close to these states."""
    loadings, offset = make_truth()
    return LinearGaussian(loadings, offset), as_cells(z @ loadings.T + offset)


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(400, 3))


@pytest.mark.parametrize("share", [0.25, 0.8, 1.0])
def test_the_share_asked_for_is_kept_in_order(states, share) -> None:
    network, data = cells_at(states)
    group = np.arange(50, 350)
    kept = densest_cells(network, data, group, share, seed=0)
    assert len(kept) == round(300 * share)
    assert (np.diff(kept) > 0).all()
    assert np.isin(kept, group).all()


def test_one_cell_at_least_is_kept(states) -> None:
    network, data = cells_at(states)
    assert len(densest_cells(network, data, np.arange(20), 0.01, seed=0)) == 1


def test_the_cells_kept_are_those_nearest_to_the_middle(states) -> None:
    network, data = cells_at(states)
    kept = densest_cells(network, data, np.arange(400), 0.5, seed=0)
    means = latent_representation(network, data, np.arange(400)).astype(np.float64)
    distance = np.einsum("ni,ij,nj->n", means, np.linalg.inv(np.cov(means.T)), means)
    nearest = np.argsort(distance)[:200]
    assert len(np.intersect1d(kept, nearest)) > 180


def test_outliers_are_dropped_even_where_they_are_many(states) -> None:
    moved = states.copy()
    moved[:80] += 8  # a fifth of another kind: they would stretch an ordinary covariance
    network, data = cells_at(moved)
    kept = densest_cells(network, data, np.arange(400), 0.7, seed=0)
    assert kept.min() >= 80


def test_few_cells_are_all_kept_and_that_is_said(states) -> None:
    network, data = cells_at(states)
    with pytest.warns(CelboWarning, match="14 cells are too few to tell the densest of them in 3 dimensions"):
        kept = densest_cells(network, data, np.arange(14), 0.5, seed=0)
    assert kept.tolist() == list(range(14))


def test_large_groups_are_fitted_to_some_of_their_cells(states, monkeypatch) -> None:
    from celbo.posterior import density

    network, data = cells_at(states)
    whole = densest_cells(network, data, np.arange(400), 0.5, seed=0)
    monkeypatch.setattr(density, "_FITTED", 150)
    some = densest_cells(network, data, np.arange(400), 0.5, seed=0)
    assert len(some) == 200
    assert len(np.intersect1d(whole, some)) > 170


def test_states_that_do_not_use_a_dimension_are_no_trouble(states) -> None:
    flat = states.copy()
    flat[:, 2] = 0
    network, data = cells_at(flat)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = densest_cells(network, data, np.arange(400), 0.5, seed=0)
    assert (states[kept, :2] ** 2).sum(1).mean() < (states[:, :2] ** 2).sum(1).mean()


def test_cells_that_are_all_alike_are_no_trouble() -> None:
    network, data = cells_at(np.ones((40, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(densest_cells(network, data, np.arange(40), 0.5, seed=0)) == 20


def test_the_seed_decides(states) -> None:
    network, data = cells_at(states)
    one, again = (densest_cells(network, data, np.arange(400), 0.5, seed=3) for _ in range(2))
    assert (one == again).all()
