"""Every likelihood against SciPy's distribution of the same name, over one table of parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from celbo.data.minibatch import SparseRows
from celbo.errors import OptionError
from celbo.likelihoods import CountParameters, make_likelihood


class ScipyZeroInflated:
    """SciPy has no zero-inflated negative binomial: the mixture by hand."""

    def __init__(self, mu, theta, pi):
        self.nb, self.pi = stats.nbinom(theta, theta / (theta + mu)), pi

    def logpmf(self, x):
        return np.log(np.where(x == 0, self.pi, 0) + (1 - self.pi) * self.nb.pmf(x))

    def mean(self):
        return (1 - self.pi) * self.nb.mean()

    def var(self):
        return (1 - self.pi) * (self.nb.var() + self.nb.mean() ** 2) - self.mean() ** 2


# likelihood, mean, theta (the normal's standard deviation), pi, SciPy's distribution
TABLE = [
    ("nb", 0.03, 0.2, None, stats.nbinom(0.2, 0.2 / 0.23)),
    ("nb", 4.0, 0.7, None, stats.nbinom(0.7, 0.7 / 4.7)),
    ("nb", 250.0, 12.0, None, stats.nbinom(12, 12 / 262)),
    ("nb", 3.0, 1e5, None, stats.nbinom(1e5, 1e5 / 100003)),
    ("zinb", 0.5, 2.0, 0.3, ScipyZeroInflated(0.5, 2, 0.3)),
    ("zinb", 6.0, 1.3, 0.02, ScipyZeroInflated(6, 1.3, 0.02)),
    ("zinb", 40.0, 30.0, 0.9, ScipyZeroInflated(40, 30, 0.9)),
    ("poisson", 0.2, None, None, stats.poisson(0.2)),
    ("poisson", 7.5, None, None, stats.poisson(7.5)),
    ("poisson", 400.0, None, None, stats.poisson(400)),
    ("normal", 0.1, 1.7, None, stats.norm(0.1, 1.7)),
    ("normal", 55.0, 0.4, None, stats.norm(55, 0.4)),
]


def parameters(mu, theta, pi, shape=(1, 1, 1), dtype=torch.float64):
    def full(value):
        return torch.full(shape, float(value), dtype=dtype)

    return CountParameters(
        logits=full(np.log(mu) - 1.5),
        log_scale=torch.full(shape[:2], 1.5, dtype=dtype),
        log_theta=None if theta is None else full(np.log(theta)),
        dropout_logits=None if pi is None else full(np.log(pi / (1 - pi))),
        link="exp",
    )


def support(scipy_dist, name):
    if name == "normal":
        return np.concatenate([[0.0], scipy_dist.mean() + np.linspace(-4, 4, 9) * np.sqrt(scipy_dist.var())])
    top = scipy_dist.mean() + 6 * np.sqrt(scipy_dist.var())
    return np.unique(np.concatenate([np.arange(12), np.linspace(0, top, 40).round()]))


@pytest.mark.parametrize(("name", "mu", "theta", "pi", "scipy_dist"), TABLE)
def test_log_prob_is_scipys(name, mu, theta, pi, scipy_dist):
    x = support(scipy_dist, name)
    ours = make_likelihood(name).log_prob_entries(
        parameters(mu, theta, pi, (1, x.size, 1)), torch.from_numpy(x)[:, None]
    )
    theirs = scipy_dist.logpdf(x) if name == "normal" else scipy_dist.logpmf(x)
    np.testing.assert_allclose(ours[0, :, 0].numpy(), theirs, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(("name", "mu", "theta", "pi", "scipy_dist"), TABLE)
def test_the_reference_is_scipys(name, mu, theta, pi, scipy_dist):
    x = support(scipy_dist, name)
    rows = SparseRows.from_dense(torch.from_numpy(x)[:, None])
    ours = make_likelihood(name).log_prob(parameters(mu, theta, pi, (1, x.size, 1)), rows, route="reference")
    theirs = scipy_dist.logpdf(x) if name == "normal" else scipy_dist.logpmf(x)
    np.testing.assert_allclose(ours[0].numpy(), theirs, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(("name", "mu", "theta", "pi", "scipy_dist"), TABLE)
def test_mean_and_variance_are_scipys(name, mu, theta, pi, scipy_dist):
    p, likelihood = parameters(mu, theta, pi), make_likelihood(name)
    np.testing.assert_allclose(likelihood.mean(p).item(), scipy_dist.mean(), rtol=1e-12)
    np.testing.assert_allclose(likelihood.variance(p).item(), scipy_dist.var(), rtol=1e-9)


@pytest.mark.parametrize(("name", "mu", "theta", "pi", "scipy_dist"), TABLE)
def test_draws_follow_the_distribution(name, mu, theta, pi, scipy_dist):
    p = parameters(mu, theta, pi, (4, 50, 100), dtype=torch.float32)
    draws = make_likelihood(name).sample(p, torch.Generator().manual_seed(3)).double().numpy().ravel()
    if name == "normal":
        assert stats.kstest(draws, scipy_dist.cdf).pvalue > 1e-3
    else:
        assert chi_square(draws, scipy_dist) > 1e-3


def chi_square(draws, scipy_dist):
    """P-value of the counts of draws, neighbouring values joined until each bin expects at least 10."""
    top = int(draws.max()) + 1
    expected = np.exp(scipy_dist.logpmf(np.arange(top))) * draws.size
    observed = np.bincount(draws.astype(int), minlength=top)
    bins = np.minimum((np.cumsum(expected) / 10).astype(int), int((expected.sum() - 10) / 10))
    seen, wanted = np.bincount(bins, weights=observed), np.bincount(bins, weights=expected)
    wanted[-1] += draws.size - expected.sum()  # what lies above the largest draw
    kept = wanted > 0
    return stats.chisquare(seen[kept], wanted[kept]).pvalue


def test_the_chi_square_rejects_a_wrong_dispersion():
    draws = stats.nbinom(0.8, 0.8 / 4.8).rvs(20_000, random_state=1).astype(float)
    assert chi_square(draws, stats.nbinom(0.7, 0.7 / 4.7)) < 1e-3


def test_draws_of_a_tiny_dispersion_have_the_mean():
    p = parameters(50.0, 0.01, None, (1, 1000, 1000), dtype=torch.float32)
    draws = make_likelihood("nb").sample(p, torch.Generator().manual_seed(0)).double()
    standard_error = np.sqrt((50 + 50**2 / 0.01) / draws.numel())
    assert abs(draws.mean().item() - 50) < 4 * standard_error


def test_draws_of_an_enormous_mean_are_finite_and_have_the_mean():
    p = parameters(1e25, None, None, (1, 10, 10), dtype=torch.float32)
    draws = make_likelihood("poisson").sample(p, torch.Generator().manual_seed(0)).double()
    np.testing.assert_allclose(draws.numpy(), 1e25, rtol=1e-5)


def test_the_same_generator_seed_gives_the_same_draws():
    p = parameters(4.0, 0.7, 0.2, (2, 30, 20), dtype=torch.float32)
    first, second = (make_likelihood("zinb").sample(p, torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(first, second)


def test_an_unknown_likelihood_is_a_named_error():
    with pytest.raises(OptionError, match="Did you mean 'zinb'"):
        make_likelihood("zimb")


def test_an_unknown_route_is_a_named_error():
    with pytest.raises(OptionError, match="'fast'"):
        make_likelihood("poisson").log_prob(
            parameters(1.0, None, None), SparseRows.from_dense(torch.ones(1, 1)), route="fast"
        )
