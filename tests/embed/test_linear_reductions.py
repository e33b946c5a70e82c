"""PCA, ICA and factor analysis against dense mathematics and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse, stats
from sklearn.decomposition import FactorAnalysis as TheirFactors
from sklearn.decomposition import FastICA as TheirICA

from celbo.embed import fit_factor_analysis, fit_ica, fit_pca
from celbo.errors import CelboWarning, InputError, OptionError

Floats = NDArray[np.float64]


def correlations(a: Floats, b: Floats) -> Floats:
    """Return the largest |correlation| of each column of a with any of b."""
    k = a.shape[1]
    return np.abs(np.corrcoef(a.T, b.T)[:k, k:]).max(1)


def canonical(a: Floats, b: Floats) -> Floats:
    """Return the canonical correlations of two sets of columns."""
    qa, qb = (np.linalg.qr(x - x.mean(0))[0] for x in (a, b))
    return np.linalg.svd(qa.T @ qb)[1]


def sources(n: int = 3000) -> tuple[Floats, Floats]:
    """Return independent non-Gaussian sources (n, 4), and 30 noisy mixtures of them, (n, 30)."""
    rng = np.random.default_rng(0)
    s = np.column_stack([rng.laplace(size=n), rng.uniform(-1, 1, n), rng.exponential(size=n), rng.integers(0, 2, n)])
    return s, s @ rng.normal(size=(4, 30)) + 0.01 * rng.normal(size=(n, 30))


def factors(n: int = 4000) -> tuple[Floats, Floats]:
    """Return planted factors (n, 3), and data (n, 25) with noise of different size in each column."""
    rng = np.random.default_rng(2)
    z = rng.normal(size=(n, 3))
    return z, z @ rng.normal(size=(3, 25)) + rng.normal(size=(n, 25)) * rng.uniform(0.3, 1.5, 25) + 4


def test_pca_is_the_dense_decomposition(values: sparse.csr_matrix) -> None:
    fit = fit_pca(values, n_components=7)
    dense = values.toarray().astype(float)
    _, s, vt = np.linalg.svd(dense - dense.mean(0), full_matrices=False)
    np.testing.assert_allclose(fit.components.variance, s[:7] ** 2 / 119, rtol=1e-10)
    np.testing.assert_allclose(np.abs(fit.coordinates), np.abs((dense - dense.mean(0)) @ vt[:7].T), atol=1e-8)


@pytest.mark.parametrize("method", [fit_pca, fit_ica, fit_factor_analysis])
def test_cells_of_the_fit_get_their_coordinates_sparse_or_dense(method, values: sparse.csr_matrix) -> None:
    fit = method(values, n_components=4)
    np.testing.assert_allclose(fit.transform(values), fit.coordinates, atol=1e-10)
    np.testing.assert_allclose(fit.transform(values[5:9].toarray()), fit.coordinates[5:9], atol=1e-5)
    np.testing.assert_allclose(method(values.toarray(), n_components=4).coordinates, fit.coordinates, atol=1e-5)


@pytest.mark.parametrize("method", [fit_pca, fit_ica, fit_factor_analysis])
def test_a_seed_gives_the_same_result_twice(method, values: sparse.csr_matrix) -> None:
    first, second = (method(values, n_components=3, seed=5).coordinates for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_pca_takes_fifty_components_or_as_many_as_there_can_be(values: sparse.csr_matrix) -> None:
    assert fit_pca(values).coordinates.shape == (120, 50)
    assert fit_pca(values[:20]).coordinates.shape == (20, 19)


def test_ica_finds_the_planted_sources() -> None:
    planted, mixed = sources()
    fit = fit_ica(mixed, n_components=4)
    assert correlations(planted, fit.coordinates).min() > 0.99
    np.testing.assert_allclose(np.cov(fit.coordinates.T, ddof=0), np.eye(4), atol=1e-9)


def test_ica_is_fastica_on_the_genes() -> None:
    _, mixed = sources(800)
    theirs = TheirICA(4, whiten="unit-variance", whiten_solver="svd", tol=1e-10, max_iter=5000, random_state=0)
    found = fit_ica(mixed, n_components=4, tolerance=1e-10, max_iter=5000).coordinates
    assert correlations(theirs.fit_transform(mixed), found).min() > 1 - 1e-9


def test_ica_mixing_undoes_unmixing_and_is_ordered_by_its_size() -> None:
    _, mixed = sources(800)
    fit = fit_ica(mixed, n_components=4)
    np.testing.assert_allclose(fit.mixing.T @ fit.unmixing, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(fit.mixing, np.linalg.pinv(fit.unmixing).T, atol=1e-10)
    np.testing.assert_allclose(fit.mean + fit.coordinates @ fit.mixing.T, mixed, atol=0.1)
    size = (fit.mixing**2).sum(0)
    assert (np.diff(size) <= 0).all()
    assert (fit.mixing[np.abs(fit.mixing).argmax(0), range(4)] > 0).all()


def test_ica_that_does_not_converge_warns() -> None:
    with pytest.warns(CelboWarning, match="did not converge in 1 iterations"):
        fit_ica(sources(300)[1], n_components=4, max_iter=1, tolerance=1e-12)


def test_ica_of_too_few_directions_is_a_named_error() -> None:
    flat = np.outer(np.arange(20.0), np.ones(5)) + np.outer(np.arange(20.0) % 3, np.arange(5.0))
    with pytest.raises(InputError, match="vary in too few directions: 2 for n_components=3"):
        fit_ica(flat, n_components=3)


def test_factor_analysis_reaches_the_likelihood_of_scikit_learn() -> None:
    _, data = factors(600)
    theirs = TheirFactors(3, svd_method="lapack", tol=1e-9, max_iter=5000).fit(data)
    fit = fit_factor_analysis(data, n_components=3, tolerance=1e-12)
    assert fit.history[-1] == pytest.approx(theirs.score(data), abs=1e-7)
    np.testing.assert_allclose(fit.noise_variance, theirs.noise_variance_, rtol=1e-3)
    ours, other = (w @ w.T for w in (fit.loadings, theirs.components_.T))  # loadings are unique up to a rotation
    np.testing.assert_allclose(ours, other, atol=1e-3 * np.abs(other).max())


def test_factor_analysis_has_the_density_and_posterior_of_its_gaussian(values: sparse.csr_matrix) -> None:
    fit = fit_factor_analysis(values, n_components=3)
    covariance = fit.loadings @ fit.loadings.T + np.diag(fit.noise_variance)
    dense = values.toarray().astype(float)
    want = stats.multivariate_normal(fit.mean, covariance).logpdf(dense)
    np.testing.assert_allclose(fit.log_density(values), want, rtol=1e-10)
    np.testing.assert_allclose(fit.log_density(dense), want, rtol=1e-10)
    assert want.mean() == pytest.approx(fit.history[-1], abs=1e-9)
    gain = np.linalg.solve(covariance, fit.loadings)
    np.testing.assert_allclose(fit.coordinates, (dense - fit.mean) @ gain, atol=1e-8)
    np.testing.assert_allclose(fit.posterior_covariance(), np.eye(3) - fit.loadings.T @ gain, atol=1e-10)


def test_factor_analysis_scores_as_scikit_learn_does(values: sparse.csr_matrix) -> None:
    fit = fit_factor_analysis(values, n_components=3)
    theirs = TheirFactors(3).fit(values.toarray().astype(float))
    theirs.components_, theirs.noise_variance_, theirs.mean_ = fit.loadings.T, fit.noise_variance, fit.mean
    np.testing.assert_allclose(fit.log_density(values), theirs.score_samples(values.toarray()), rtol=1e-6)


def test_factor_analysis_rises_and_finds_planted_factors() -> None:
    planted, data = factors()
    fit = fit_factor_analysis(data, n_components=3)
    assert (np.diff(fit.history) > -1e-10).all()
    assert canonical(planted, fit.coordinates).min() > 0.95


def test_factor_analysis_of_many_genes_is_that_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 300)) + rng.normal(size=(500, 300))
    lanczos = fit_factor_analysis(data, n_components=4)
    monkeypatch.setattr("celbo.embed.factor._DENSE_GENES", 1000)
    np.testing.assert_allclose(lanczos.coordinates, fit_factor_analysis(data, n_components=4).coordinates, atol=1e-6)


def test_noise_has_a_floor() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(200, 6))
    data[:, 0] = 0  # a gene that never varies
    fit = fit_factor_analysis(data, n_components=2)
    assert fit.noise_variance.min() == pytest.approx(data.var(0).mean() / 200)
    assert np.isfinite(fit.log_density(data + 1)).all()


@pytest.mark.parametrize("method", [fit_pca, fit_ica, fit_factor_analysis])
@pytest.mark.parametrize("n_components", [0, 90.5, 200, True])
def test_impossible_numbers_of_components_are_named(method, n_components: int, values: sparse.csr_matrix) -> None:
    with pytest.raises(OptionError, match="n_components must be a whole number"):
        method(values, n_components=n_components)


@pytest.mark.parametrize("method", [fit_pca, fit_ica, fit_factor_analysis])
def test_bad_values_are_named(method) -> None:
    good = np.random.default_rng(0).normal(size=(40, 12))
    bad = good.copy()
    bad[7, 2] = np.nan
    with pytest.raises(InputError, match="not finite: first in row 7"):
        method(bad, n_components=2)
    with pytest.raises(InputError, match="at least 2 cell"):
        method(good[:1], n_components=1)
    with pytest.raises(InputError, match="do not match those of the fit: 11 columns for 12"):
        method(good, n_components=2).transform(good[:, :11])
    with pytest.raises(InputError, match="not differ between cells"):
        method(np.ones((40, 12)), n_components=2)
