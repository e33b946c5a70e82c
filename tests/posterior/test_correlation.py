"""Correlations of genes over draws of the expression, against NumPy's and SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from celbo.errors import GenesError, OptionError
from celbo.posterior import correlation, stream
from celbo.posterior.correlation import correlation_matrix
from celbo.posterior.expression import normalized_expression
from linear_gaussian import LinearGaussian, make_data, make_truth


def matrix(asked, **options) -> np.ndarray:
    return correlation_matrix(asked.network, asked.data, asked.every, **options)


def draws(asked, **options) -> np.ndarray:
    """Return the draws that a correlation with one draw a cell is of; (cells, genes)."""
    return normalized_expression(asked.network, asked.data, asked.every, n_samples=1, **options).astype(np.float64)


def test_pearson_is_numpys_of_the_expression(asked) -> None:
    expected = np.corrcoef(draws(asked, seed=3), rowvar=False)
    found = matrix(asked, correlation_type="pearson", n_samples=1, seed=3)
    assert np.abs(found - expected).max() < 1e-6
    assert np.abs(found[np.triu_indices(120, 1)]).max() > 0.3  # there is something to correlate


def test_spearman_is_scipys_of_the_expression(asked) -> None:
    expected = stats.spearmanr(draws(asked, seed=3)).statistic
    assert np.abs(matrix(asked, n_samples=1, seed=3) - expected).max() < 1e-6


def test_all_draws_of_all_cells_are_observations(asked) -> None:
    several = normalized_expression(
        asked.network, asked.data, asked.every, n_samples=4, return_mean=False, batch_size=300, seed=1
    )
    expected = np.corrcoef(several.reshape(-1, 120).astype(np.float64), rowvar=False)
    found = matrix(asked, correlation_type="pearson", n_samples=4, batch_size=300, seed=1)
    assert np.abs(found - expected).max() < 1e-6


def test_blocks_that_differ_in_mean_are_put_together_rightly(asked) -> None:
    order = np.argsort(asked.data.library)
    expected = np.corrcoef(
        normalized_expression(asked.network, asked.data, order, batch_size=7, seed=2).astype(np.float64), rowvar=False
    )
    found = correlation_matrix(
        asked.network, asked.data, order, correlation_type="pearson", n_samples=1, batch_size=7, seed=2
    )
    assert np.abs(found - expected).max() < 1e-6


def test_ranks_are_scipys_with_ties() -> None:
    values = np.random.default_rng(0).integers(0, 40, 500).astype(np.float32)
    assert (correlation._ranks(values) == stats.rankdata(values)).all()


def test_several_batches_give_the_mean_of_their_matrices(asked) -> None:
    one, two = (matrix(asked, transform_batch=[code]) for code in (0, 1))
    assert np.abs(one - two).max() > 0.01
    assert matrix(asked, transform_batch=[0, 1]) == pytest.approx((one + two) / 2, abs=1e-12)


def test_a_number_as_library_size_changes_nothing_and_the_cells_own_does(asked) -> None:
    shares = matrix(asked, correlation_type="pearson")
    assert np.abs(matrix(asked, correlation_type="pearson", library_size=1e4) - shares).max() < 1e-6
    assert np.abs(matrix(asked, correlation_type="pearson", library_size="latent") - shares).max() > 0.1


def test_some_genes_are_a_part_of_all(asked) -> None:
    genes = np.array([7, 3, 99])
    whole = matrix(asked, correlation_type="pearson")
    assert matrix(asked, correlation_type="pearson", genes=genes) == pytest.approx(
        whole[np.ix_(genes, genes)], abs=1e-9
    )


def test_pearson_tends_to_the_closed_form_of_a_linear_model() -> None:
    data, _ = make_data(400)
    loadings, offset = make_truth()
    network = LinearGaussian(loadings * 0.1, offset * 0.1)  # so small that exp(W z + b) is all but linear
    mean, sd = _posterior_of(network, data)
    rate = np.exp(offset * 0.1 + mean @ loadings.T * 0.1)
    covariance = np.cov(rate, rowvar=False, bias=True)
    gradient = rate[:, :, None] * loadings * 0.1  # (cells, genes, latent)
    covariance += np.einsum("ngd,d,nhd->gh", gradient, sd**2, gradient) / len(rate)
    scale = np.sqrt(np.diag(covariance))
    found = correlation_matrix(network, data, np.arange(400), correlation_type="pearson", n_samples=200)
    assert np.abs(found - covariance / scale / scale[:, None]).max() < 0.02


def _posterior_of(network, data) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        z = network.encode(data.minibatch(np.arange(data.n_cells)).to("cpu", torch.float64)).z
    return z.mean.numpy(), z.scale[0].numpy()


def test_overdispersion_takes_correlations_towards_zero_as_the_gamma_says(asked) -> None:
    """Cov(w_g, w_h) = Cov(mu_g, mu_h), and Var(w_g) = Var(mu_g) + E[mu_g^2] / theta_g."""
    genes = np.arange(8)
    with torch.no_grad():
        theta = asked.network.log_theta[0].exp().numpy()[genes].astype(np.float64)
    mu = normalized_expression(
        asked.network, asked.data, asked.every, genes=genes, n_samples=400, return_mean=False
    ).reshape(-1, 8).astype(np.float64)  # fmt: skip
    scale = np.sqrt(mu.var(0) + (mu**2).mean(0) / theta)
    expected = np.cov(mu, rowvar=False, bias=True) / scale / scale[:, None]
    np.fill_diagonal(expected, 1)
    found = matrix(asked, genes=genes, correlation_type="pearson", overdispersion=True, n_samples=400)
    assert np.abs(found - expected).max() < 0.02
    assert np.abs(found - np.corrcoef(mu, rowvar=False)).max() > 0.1


def test_a_likelihood_without_overdispersion_is_a_named_error(make_asked) -> None:
    with pytest.raises(OptionError, match="negative binomial: the likelihood is 'poisson'"):
        matrix(make_asked(likelihood="poisson"), overdispersion=True)


def test_spearman_keeps_no_more_values_than_it_may(asked, monkeypatch) -> None:
    whole = matrix(asked, n_samples=3)
    seen: list[int] = []
    original = correlation._receive
    monkeypatch.setattr(
        correlation, "_receive", lambda n, d, a, r: (seen.append(len(a.cells) * a.n_samples), original(n, d, a, r))
    )
    monkeypatch.setattr(correlation, "_KEPT", 120 * 700)
    fewer_draws = matrix(asked, n_samples=10)
    monkeypatch.setattr(correlation, "_KEPT", 120 * 200)
    fewer_cells = matrix(asked, n_samples=10)
    assert seen == [600, 200]
    assert np.abs(fewer_draws - whole).mean() < 0.05
    assert np.abs(fewer_cells - whole).mean() < 0.1


def test_pearson_sees_blocks_only(asked, monkeypatch) -> None:
    monkeypatch.setitem(stream._ENTRIES, "cpu", 20 * 120)
    sizes: list[int] = []
    add = correlation._CoMoments.add
    monkeypatch.setattr(correlation._CoMoments, "add", lambda self, v: (sizes.append(v.size), add(self, v))[1])
    matrix(asked, correlation_type="pearson", n_samples=5)
    assert max(sizes) <= 20 * 120
    assert sum(sizes) == 300 * 5 * 120


def test_a_gene_that_does_not_vary_has_no_correlation() -> None:
    data, _ = make_data(50)
    loadings, offset = make_truth()
    loadings[4] = 0
    found = correlation_matrix(LinearGaussian(loadings * 0.1, offset), data, np.arange(50))
    assert np.isnan(found[4]).all()
    assert np.isnan(found[:, 4]).all()
    assert np.isfinite(np.delete(np.delete(found, 4, 0), 4, 1)).all()


def test_the_same_seed_gives_the_same_and_another_another(asked) -> None:
    assert (matrix(asked, seed=1) == matrix(asked, seed=1)).all()
    assert (matrix(asked, seed=1) != matrix(asked, seed=2)).any()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"correlation_type": "kendal"}, OptionError, "spearman"),
        ({"n_samples": 0}, OptionError, "n_samples=0"),
        ({"library_size": -1.0}, OptionError, "library_size"),
        ({"genes": np.array([500])}, GenesError, "500"),
    ],
    ids=str,
)
def test_impossible_options_are_named_errors(asked, options, error, words) -> None:
    with pytest.raises(error, match=words):
        matrix(asked, **options)


def test_one_cell_has_no_correlation_over_cells(asked) -> None:
    with pytest.raises(OptionError, match="not enough"):
        correlation_matrix(asked.network, asked.data, np.array([3]))
