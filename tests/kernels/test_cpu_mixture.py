"""Mixtures of normals as a common prior: masses and posteriors against scipy, weights against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from celbo.kernels.cpu_mixture import mixture_log_posterior, mixture_marginals, mixture_weights

SDS = np.array([0.01, 0.3, 2.0])


def grids(n: int, cells: int = 40, seed: int = 0) -> np.ndarray:
    """Ascending boundaries, some of them equal, on one side of 0 and on both."""
    rng = np.random.default_rng(seed)
    boundaries = np.sort(rng.normal(rng.normal(0, 2, (n, 1)), rng.gamma(1, 1, (n, 1)), (n, cells + 1)), axis=1)
    boundaries[0, 3] = boundaries[0, 4]
    boundaries[1] = np.linspace(0, 4, cells + 1)
    boundaries[2] = np.linspace(-4, 0, cells + 1)
    boundaries[3] = np.linspace(-1, 1, cells + 1)
    return boundaries


def normal_masses(boundaries: np.ndarray, sd: float) -> np.ndarray:
    """Mass of each cell, the outer two to infinity; by the nearer tail, so that no digits are lost."""
    ends = np.concatenate([[-np.inf], boundaries[1:-1], [np.inf]])
    low, high = ends[:-1], ends[1:]
    below = stats.norm.cdf(high / sd) - stats.norm.cdf(low / sd)
    above = stats.norm.sf(low / sd) - stats.norm.sf(high / sd)
    return np.where(low >= 0, above, below)


def test_the_mass_of_each_cell_is_the_normal_one() -> None:
    boundaries = grids(6)
    for j in range(40):  # a likelihood of one in a single cell leaves its mass
        likelihood = np.zeros((6, 40))
        likelihood[:, j] = 1
        found = mixture_marginals(likelihood, boundaries, SDS)
        expected = [[normal_masses(row, sd)[j] for sd in SDS] for row in boundaries]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-16)


def test_all_mass_is_in_the_cells() -> None:
    found = mixture_marginals(np.ones((6, 40)), grids(6), SDS)
    np.testing.assert_allclose(found, 1, rtol=1e-13)


@pytest.mark.parametrize("at", [5.0, 20.0, 37.0])
def test_far_tails_keep_their_digits(at) -> None:
    boundaries = np.array([[-1.0, 0.0, at, at + 0.5, at + 9], [-at - 9, -at - 0.5, -at, 0.0, 1.0]])
    likelihood = np.array([[0.0, 0, 1, 0], [0, 1.0, 0, 0]])
    expected = stats.norm.sf(at) - stats.norm.sf(at + 0.5)
    np.testing.assert_allclose(mixture_marginals(likelihood, boundaries, np.ones(1))[:, 0], expected, rtol=1e-11)


def test_beyond_all_tails_there_is_nothing() -> None:
    boundaries = np.array([[0.0, 1.0, 50.0, 60.0, 70.0]])
    found = mixture_marginals(np.array([[0.0, 0.0, 1.0, 1.0]]), boundaries, np.ones(1))
    assert found[0, 0] == 0


def test_a_marginal_tends_to_the_integral_as_cells_shrink() -> None:
    boundaries = np.linspace(-8, 9, 4001)[None]
    likelihood = stats.norm.pdf(0.5 * (boundaries[:, 1:] + boundaries[:, :-1]), 0.7, 0.4)
    expected = [
        integrate.quad(lambda x, sd=sd: stats.norm.pdf(x, 0.7, 0.4) * stats.norm.pdf(x, 0, sd), -8, 9, points=[0, 0.7])[
            0
        ]
        for sd in SDS
    ]
    np.testing.assert_allclose(mixture_marginals(likelihood, boundaries, SDS)[0], expected, rtol=2e-3)
    exact = stats.norm.pdf(0.7, 0, np.sqrt(0.4**2 + SDS**2))
    np.testing.assert_allclose(mixture_marginals(likelihood, boundaries, SDS)[0], exact, rtol=2e-3)


def plain_weights(marginals: np.ndarray, penalty: np.ndarray, rounds: int) -> np.ndarray:
    weights = penalty / penalty.sum()
    for _ in range(rounds):
        shares = weights * marginals
        weights = (shares / shares.sum(1, keepdims=True)).sum(0) + penalty - 1
        weights = weights / weights.sum()
    return weights


def test_weights_are_those_that_plain_expectation_maximisation_ends_at() -> None:
    marginals = np.random.default_rng(0).gamma(1, 1, (200, 3))
    penalty = np.array([10.0, 1.0, 1.0])
    found = mixture_weights(marginals, penalty, 1000, 1e-10)
    np.testing.assert_allclose(found, plain_weights(marginals, penalty, 20_000), rtol=1e-6)


def test_weights_make_the_penalised_likelihood_largest() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, np.sqrt(SDS[rng.choice(3, 3000, p=[0.5, 0.3, 0.2])] ** 2 + 0.05**2))
    marginals = stats.norm.pdf(values[:, None], 0, np.sqrt(SDS**2 + 0.05**2))
    penalty = np.array([10.0, 1.0, 1.0])
    found = mixture_weights(marginals, penalty, 5000, 1e-12)

    def objective(weights: np.ndarray) -> float:
        return float(np.log(marginals @ weights).sum() + ((penalty - 1) * np.log(weights)).sum())

    best = objective(found)
    for i, j in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)]:
        moved = found.copy()
        moved[i] += 1e-3
        moved[j] -= 1e-3
        assert objective(moved) < best
    np.testing.assert_allclose(found, [0.5, 0.3, 0.2], atol=0.04)


def test_without_likelihoods_the_penalty_decides() -> None:
    found = mixture_weights(np.empty((0, 3)), np.array([10.0, 1.0, 1.0]), 100, 1e-9)
    assert found.tolist() == [1, 0, 0]


def test_likelihoods_without_mass_anywhere_are_no_division_by_zero() -> None:
    found = mixture_weights(np.array([[0.0, 0, 0], [1.0, 2, 3]]), np.array([10.0, 1.0, 1.0]), 100, 1e-9)
    assert np.isfinite(found).all()
    posterior = mixture_log_posterior(np.full((1, 4), -np.inf), np.array([[-1.0, 0, 1, 2, 3]]), SDS, np.full(3, 1 / 3))
    assert np.exp(posterior).tolist() == [[0, 0, 0, 0]]


def test_the_posterior_is_likelihood_times_prior_and_sums_to_one() -> None:
    boundaries = grids(6)
    likelihood = np.random.default_rng(2).random((6, 40))
    weights = np.array([0.7, 0.0, 0.3])
    found = np.exp(mixture_log_posterior(np.log(likelihood), boundaries, SDS, weights))
    prior = np.array(
        [sum(w * normal_masses(row, sd) for w, sd in zip(weights, SDS, strict=True)) for row in boundaries]
    )
    expected = likelihood * prior
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-13)


def test_a_flat_likelihood_leaves_the_prior() -> None:
    boundaries = grids(6)
    found = np.exp(mixture_log_posterior(np.full((6, 40), -3.0), boundaries, SDS, np.array([0.0, 1.0, 0.0])))
    np.testing.assert_allclose(found, [normal_masses(row, 0.3) for row in boundaries], rtol=1e-11, atol=1e-15)
