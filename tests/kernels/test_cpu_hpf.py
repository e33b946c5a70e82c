"""Hierarchical Poisson factorisation: each step against the formula in NumPy, and the bound never falls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse, special, stats

from celbo.kernels import cpu_hpf as cavi
from celbo.kernels.cpu_hpf import GammaPrior, Loadings, StoredCounts

THETA, BETA = GammaPrior(0.3, 1.0, 0.05), GammaPrior(0.4, 1.5, 0.2)


def simulated(n_cells: int = 60, n_genes: int = 40, n_components: int = 4, seed: int = 0) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    theta = rng.gamma(0.3, 1, (n_cells, n_components)) * 4
    beta = rng.gamma(0.3, 1, (n_genes, n_components)) * 4
    counts = rng.poisson(theta @ beta.T)
    counts[0], counts[:, 1] = 0, 0  # an empty cell and an empty gene
    counts[3, 2] = 100_000
    return sparse.csr_matrix(counts.astype(np.float32))


def started(n: int, n_components: int, prior: GammaPrior, seed: int) -> Loadings:
    rng = np.random.default_rng(seed)

    def around(centre: float, *size: int) -> np.ndarray:
        return rng.uniform(0.5 * centre, 1.5 * centre, size)

    return Loadings(
        around(prior.shape, n, n_components), around(prior.hyper_rate, n, n_components), around(prior.hyper_rate, n)
    )


# -- the oracle: dense, float64, as the formulas are written ---------------------------------------------------------


def e_log(q: Loadings) -> np.ndarray:
    return special.digamma(q.shape) - np.log(q.rate)


def phi_of(theta: Loadings, beta: Loadings) -> np.ndarray:
    """phi, (cells, genes, components)."""
    return special.softmax(e_log(theta)[:, None] + e_log(beta)[None], axis=2)


def updated(shared: np.ndarray, other: Loadings, prior: GammaPrior, hyper_rate: np.ndarray) -> Loadings:
    h = prior.hyper_shape + shared.shape[1] * prior.shape
    shape = prior.shape + shared
    rate = (h / hyper_rate)[:, None] + (other.shape / other.rate).sum(0)
    return Loadings(shape, rate, prior.hyper_rate + (shape / rate).sum(1))


def divergence(q: Loadings, prior: GammaPrior) -> np.ndarray:
    """E_q[log q - log p] of the loadings and of the rate of a row, from expectations and entropies, (rows,)."""
    h = prior.hyper_shape + q.shape.shape[1] * prior.shape
    e_rate, e_log_rate = h / q.hyper_rate, special.digamma(h) - np.log(q.hyper_rate)
    log_p = prior.shape * e_log_rate[:, None] - special.gammaln(prior.shape)
    log_p = log_p + (prior.shape - 1) * e_log(q) - e_rate[:, None] * q.shape / q.rate
    log_p_rate = prior.hyper_shape * np.log(prior.hyper_rate) - special.gammaln(prior.hyper_shape)
    log_p_rate = log_p_rate + (prior.hyper_shape - 1) * e_log_rate - prior.hyper_rate * e_rate
    entropy = stats.gamma(q.shape, scale=1 / q.rate).entropy().sum(1)
    return -(log_p.sum(1) + log_p_rate + entropy + stats.gamma(h, scale=1 / q.hyper_rate).entropy())


def bound(counts: np.ndarray, theta: Loadings, beta: Loadings, phi: np.ndarray) -> float:
    """Every term, with the split of each count to the components as a latent variable that phi is the q of."""
    log_p = np.einsum("ig,igk,igk->", counts, phi, e_log(theta)[:, None] + e_log(beta)[None])
    log_p -= np.einsum("ik,gk->", theta.shape / theta.rate, beta.shape / beta.rate)
    entropy = -np.einsum("ig,igk->", counts, special.xlogy(phi, phi))  # its lgamma(x_k + 1) cancel with those of log p
    constant = special.gammaln(counts + 1).sum()
    return float(log_p + entropy - constant - divergence(theta, THETA).sum() - divergence(beta, BETA).sum())


# -- special functions -----------------------------------------------------------------------------------------------


def test_digamma_and_log_gamma_are_those_of_scipy():
    x = np.concatenate([np.logspace(-4, 9, 4001), np.linspace(0.9, 2.1, 1001), np.linspace(9.5, 10.5, 101)])
    ours = np.array([cavi.digamma_and_log_gamma(v) for v in x]).T
    for values, truth in zip(ours, (special.digamma(x), special.gammaln(x)), strict=True):
        assert (np.abs(values - truth) / (1 + np.abs(truth))).max() < 1e-14


# -- each step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_components", [1, 4, 10])
def test_allocation_is_the_sum_of_phi_over_the_counts(n_components):
    x = simulated()
    theta, beta = started(60, n_components, THETA, 1), started(40, n_components, BETA, 2)
    phi = phi_of(theta, beta)
    logs = x.toarray() * special.logsumexp(e_log(theta)[:, None] + e_log(beta)[None], axis=2)
    for counts, own, other, axis in (
        (StoredCounts.of(x), theta, beta, 1),
        (StoredCounts.of(x.tocsc()), beta, theta, 0),
    ):
        shared, terms = cavi.allocate(counts, own.weight, other.weight)
        np.testing.assert_allclose(shared, np.einsum("ig,igk->igk", x.toarray(), phi).sum(axis), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(terms, logs.sum(axis), rtol=1e-11, atol=1e-9)


def test_random_allocation_is_one_dirichlet_draw_a_count():
    x = simulated(300, 200)
    rows = cavi.allocate_at_random(StoredCounts.of(x), 3, 7)
    columns = cavi.allocate_at_random(StoredCounts.of(x.tocsc()), 3, 7, by_column=True)
    np.testing.assert_allclose(rows.sum(1), x.toarray().sum(1))
    np.testing.assert_allclose(rows.sum(0), columns.sum(0))  # the same draws
    ones = sparse.csr_matrix(np.ones((200_000, 1), np.float32))
    draws = cavi.allocate_at_random(StoredCounts.of(ones), 3, 0)
    assert stats.kstest(draws[:, 0], stats.beta(1, 2).cdf).pvalue > 1e-3
    assert stats.kstest(draws[:, 2], stats.beta(1, 2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.01
    assert not np.allclose(draws, cavi.allocate_at_random(StoredCounts.of(ones), 3, 1))


def test_update_and_its_divergence_are_those_of_the_formula():
    x = simulated()
    theta, beta = started(60, 4, THETA, 1), started(40, 4, BETA, 2)
    shared, _ = cavi.allocate(StoredCounts.of(x), theta.weight, beta.weight)
    ours = cavi.update(shared, beta.mean.sum(0), THETA, theta.hyper_rate)
    truth = updated(shared, beta, THETA, theta.hyper_rate)
    for name in ("shape", "rate", "hyper_rate"):
        np.testing.assert_allclose(getattr(ours, name), getattr(truth, name), rtol=1e-13)
    np.testing.assert_allclose(cavi.divergence(ours, THETA), divergence(truth, THETA), rtol=1e-10, atol=1e-9)


def test_divergence_is_an_integral():
    """The oracle itself: KL of the loading of a row with one component, by quadrature."""
    q, prior = Loadings(np.array([[2.5]]), np.array([[1.7]]), np.array([0.9])), GammaPrior(0.6, 1.2, 0.4)
    h = 1.2 + 0.6
    loading, rate = stats.gamma(2.5, scale=1 / 1.7), stats.gamma(h, scale=1 / 0.9)

    nodes, weights = np.polynomial.legendre.leggauss(200)
    log_x, log_r = 11 * nodes[:, None] - 7.5, 11 * nodes[None] - 7.5  # from e^-18.5 to e^3.5, where nothing is left
    x, r = np.exp(log_x), np.exp(log_r)
    log_p = stats.gamma.logpdf(x, 0.6, scale=1 / r) + stats.gamma.logpdf(r, 1.2, scale=1 / 0.4)
    log_q = loading.logpdf(x) + rate.logpdf(r)
    value = ((11 * weights[:, None]) * (11 * weights[None]) * x * r * np.exp(log_q) * (log_q - log_p)).sum()
    assert divergence(q, prior)[0] == pytest.approx(value, rel=1e-6)


def sweeps(x: sparse.csr_matrix, n_components: int, n: int, seed: int) -> list[tuple[float, Loadings, Loadings]]:
    """Bound, theta and beta after each sweep."""
    rows, columns = StoredCounts.of(x), StoredCounts.of(x.tocsc())
    theta = started(x.shape[0], n_components, THETA, seed)
    beta = started(x.shape[1], n_components, BETA, seed + 100)
    constant, out = special.gammaln(x.data.astype(float) + 1).sum(), []
    for_genes, _ = cavi.allocate(columns, beta.weight, theta.weight)
    for _ in range(n):
        beta = cavi.update(for_genes, theta.mean.sum(0), BETA, beta.hyper_rate)
        for_cells, _ = cavi.allocate(rows, theta.weight, beta.weight)
        theta = cavi.update(for_cells, beta.mean.sum(0), THETA, theta.hyper_rate)
        for_genes, logs = cavi.allocate(columns, beta.weight, theta.weight)
        value = logs.sum() - theta.mean.sum(0) @ beta.mean.sum(0) - constant
        value -= cavi.divergence(beta, BETA).sum() + cavi.divergence(theta, THETA).sum()
        out.append((float(value), theta, beta))
    return out


def test_sweeps_and_their_bound_are_those_of_the_oracle():
    x = simulated()
    dense = x.toarray().astype(float)
    theta, beta = started(60, 4, THETA, 3), started(40, 4, BETA, 103)
    for value, ours_theta, ours_beta in sweeps(x, 4, 5, 3):
        beta = updated((dense[:, :, None] * phi_of(theta, beta)).sum(0), theta, BETA, beta.hyper_rate)
        theta = updated((dense[:, :, None] * phi_of(theta, beta)).sum(1), beta, THETA, theta.hyper_rate)
        np.testing.assert_allclose(ours_theta.shape, theta.shape, rtol=1e-9)
        np.testing.assert_allclose(ours_beta.rate, beta.rate, rtol=1e-9)
        assert value == pytest.approx(bound(dense, theta, beta, phi_of(theta, beta)), rel=1e-11)


def test_phi_is_optimal():
    x, (theta, beta) = simulated().toarray().astype(float), (started(60, 4, THETA, 1), started(40, 4, BETA, 2))
    best = bound(x, theta, beta, phi_of(theta, beta))
    other = np.random.default_rng(0).dirichlet(np.ones(4), (60, 40))
    assert bound(x, theta, beta, 0.99 * phi_of(theta, beta) + 0.01 * other) < best


@pytest.mark.parametrize("seed", range(5))
def test_bound_never_falls(seed):
    values = np.array([value for value, *_ in sweeps(simulated(seed=seed), 5, 150, seed)])
    assert np.diff(values).min() > -1e-12 * np.abs(values).max()


def test_same_bits_on_one_and_two_threads():
    x, before, results = simulated(400, 150), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(sweeps(x, 6, 3, 0)[-1])
    finally:
        torch.set_num_threads(before)
    assert results[0][0] == results[1][0]
    assert results[0][1].rate.tobytes() == results[1][1].rate.tobytes()


# -- new rows --------------------------------------------------------------------------------------------------------


def test_projection_is_the_fixed_point_of_the_updates():
    x = simulated()
    _, _, beta = sweeps(x, 4, 30, 0)[-1]
    rows = StoredCounts.of(x)
    q = cavi.project(rows, beta.weight, beta.mean.sum(0), THETA, max_iterations=20_000, tolerance=1e-13)
    again = updated((x.toarray()[:, :, None] * phi_of(q, beta)).sum(1), beta, THETA, q.hyper_rate)
    np.testing.assert_allclose(again.shape, q.shape, rtol=1e-6)
    np.testing.assert_allclose(again.hyper_rate, q.hyper_rate, rtol=1e-8)


def test_projection_of_one_iteration_is_one_update():
    x = simulated()
    _, theta, beta = sweeps(x, 4, 3, 0)[-1]
    rows, sums = StoredCounts.of(x), beta.mean.sum(0)
    one = cavi.project(rows, beta.weight, sums, THETA, start=theta, max_iterations=1)
    expected = cavi.update(cavi.allocate(rows, theta.weight, beta.weight)[0], sums, THETA, theta.hyper_rate)
    np.testing.assert_allclose(one.shape, expected.shape, rtol=1e-13)
    np.testing.assert_allclose(one.hyper_rate, expected.hyper_rate, rtol=1e-12)


def test_log_rates_of_draws_are_those_of_the_formula():
    x, rng = simulated(), np.random.default_rng(0)
    draws, beta = rng.gamma(0.3, 1, (60, 4, 7)), rng.gamma(0.3, 1, (40, 4))
    truth = np.einsum("ig,igs->is", x.toarray(), np.log(np.einsum("iks,gk->igs", draws, beta)))
    np.testing.assert_allclose(cavi.log_rates_of_draws(StoredCounts.of(x), draws, beta), truth, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(cavi.log_rates(StoredCounts.of(x), draws[:, :, 0], beta), truth[:, 0], rtol=1e-8)


def test_ranges_of_rows_cover_each_row_once():
    counts = StoredCounts.of(simulated(500, 30))
    assert counts.bounds[0] == 0
    assert counts.bounds[-1] == 500
    assert (np.diff(counts.bounds) > 0).all()


def test_digest_of_a_row_tells_counts_and_columns_apart():
    x = sparse.csr_matrix(np.array([[1, 0, 2], [1, 0, 2], [2, 0, 1], [1, 2, 0], [0, 0, 0], [1, 0, 0]], np.uint8))
    a, b, *others = cavi.row_digests(x.indptr.astype(np.int64), x.indices.astype(np.uint16), x.data)
    assert a == b
    assert len({a, *others}) == 5
