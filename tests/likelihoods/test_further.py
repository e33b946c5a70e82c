"""The likelihoods of scVAE against SciPy's distributions, over one table of parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from celbo.data.minibatch import SparseRows
from celbo.errors import OptionError
from celbo.likelihoods import CountParameters, Likelihood, PiecewiseCategorical, make_likelihood


class Discrete:
    """A distribution on 0, 1, 2, ... given by its probabilities, with its moments by plain sums."""

    def __init__(self, pmf, top):
        self.k = np.arange(top)
        self.p = pmf(self.k)
        assert abs(self.p.sum() - 1) < 1e-6

    def logpmf(self, x):
        with np.errstate(divide="ignore"):
            return np.log(np.append(self.p, 0))[np.minimum(x, self.p.size).astype(int)]

    def mean(self):
        return (self.k * self.p).sum()

    def var(self):
        return (self.k**2 * self.p).sum() - self.mean() ** 2


def rounded(dist, top):
    """SciPy's continuous distribution rounded to the nearest count."""
    return Discrete(lambda k: np.where(k < dist.median(), *_by_both_tails(dist, k)), top)


def _by_both_tails(dist, k):
    lower = np.where(k == 0, 0.0, k - 0.5)
    return dist.cdf(k + 0.5) - dist.cdf(lower), dist.sf(lower) - dist.sf(k + 0.5)


def inflated(dist, pi, top):
    return Discrete(lambda k: pi * (k == 0) + (1 - pi) * dist.pmf(k), top)


def lognorm(m, sd):
    return stats.lognorm(sd, scale=np.exp(m))


# name, log_mean, theta, pi, SciPy's distribution
TABLE = [
    ("zip", np.log(0.5), None, 0.3, inflated(stats.poisson(0.5), 0.3, 60)),
    ("zip", np.log(9.0), None, 0.02, inflated(stats.poisson(9), 0.02, 100)),
    ("zip", np.log(300.0), None, 0.8, inflated(stats.poisson(300), 0.8, 700)),
    ("constrained-poisson", np.log(3.0), None, None, stats.poisson(3)),
    ("bernoulli", -1.7, None, None, stats.bernoulli(1 / (1 + np.exp(1.7)))),
    ("bernoulli", 3.0, None, None, stats.bernoulli(1 / (1 + np.exp(-3.0)))),
    ("lognormal", -2.0, 1.1, None, rounded(lognorm(-2, 1.1), 2000)),
    ("lognormal", 1.0, 0.4, None, rounded(lognorm(1, 0.4), 200)),
    ("lognormal", 4.0, 0.5, None, rounded(lognorm(4, 0.5), 20_000)),
    ("lognormal", 2.0, 0.02, None, rounded(lognorm(2, 0.02), 100)),
    ("lomax", np.log(0.6), 3.5, None, rounded(stats.lomax(3.5, scale=0.6), 200_000)),
    ("lomax", np.log(40.0), 9.0, None, rounded(stats.lomax(9, scale=40), 20_000)),
    ("lomax", 9.0, np.exp(8.0), None, rounded(stats.lomax(np.exp(8), scale=np.exp(9)), 1000)),
    ("lognormal-density", -1.0, 1.1, None, lognorm(-1, 1.1)),
    ("lognormal-density", 3.0, 0.4, None, lognorm(3, 0.4)),
    ("lomax-density", np.log(0.6), 3.5, None, stats.lomax(3.5, scale=0.6)),
    ("lomax-density", np.log(40.0), 9.0, None, stats.lomax(9, scale=40)),
]


def parameters(log_mean, theta, pi, shape=(1, 1, 1), dtype=torch.float64):
    def full(value):
        return torch.full(shape, float(value), dtype=dtype)

    return CountParameters(
        logits=full(log_mean - 1.5),
        log_scale=torch.full(shape[:2], 1.5, dtype=dtype),
        log_theta=None if theta is None else full(np.log(theta)),
        dropout_logits=None if pi is None else full(np.log(pi / (1 - pi))),
        link="exp",
    )


def support(dist, name):
    if name == "bernoulli":
        return np.array([0.0, 1.0])
    if name.endswith("density"):
        return np.concatenate([[0.0], np.arange(1, 40)])
    top = dist.mean() + 6 * np.sqrt(dist.var())
    return np.unique(np.concatenate([np.arange(12), np.linspace(0, top, 40).round()]))


@pytest.mark.parametrize("route", ["torch", "reference"])
@pytest.mark.parametrize(("name", "log_mean", "theta", "pi", "dist"), TABLE)
def test_log_prob_is_scipys(name, log_mean, theta, pi, dist, route):
    x = support(dist, name)
    with np.errstate(divide="ignore"):
        truth = dist.logpdf(x) if name.endswith("density") else dist.logpmf(x)
    rows = SparseRows.from_dense(torch.from_numpy(x)[:, None])
    ours = make_likelihood(name).log_prob(parameters(log_mean, theta, pi, (1, x.size, 1)), rows, route=route)[0].numpy()
    said = truth > np.log(1e-13)  # SciPy's own differences of two tails end there
    assert said.sum() >= 2
    assert (ours[~said] < np.log(2e-13)).all()
    allowed = 1e-8 + 1e-9 * np.abs(truth[said]) + 4e-16 / np.exp(np.minimum(truth[said], 0))
    assert (np.abs(ours[said] - truth[said]) <= allowed).all()


@pytest.mark.parametrize(("name", "log_mean", "theta", "pi", "dist"), TABLE)
def test_mean_and_variance_are_scipys(name, log_mean, theta, pi, dist):
    p, likelihood = parameters(log_mean, theta, pi), make_likelihood(name)
    close = 1e-4 if name in {"lognormal", "lomax"} else 1e-9
    np.testing.assert_allclose(likelihood.mean(p).item(), dist.mean(), rtol=close)
    np.testing.assert_allclose(likelihood.variance(p).item(), dist.var(), rtol=20 * close, atol=1e-6)


@pytest.mark.parametrize(("name", "log_mean", "theta", "pi", "dist"), TABLE)
def test_draws_follow_the_distribution(name, log_mean, theta, pi, dist):
    p = parameters(log_mean, theta, pi, (4, 50, 100), dtype=torch.float32)
    draws = make_likelihood(name).sample(p, torch.Generator().manual_seed(3)).double().numpy().ravel()
    if name.endswith("density"):
        assert stats.kstest(draws, dist.cdf).pvalue > 1e-3
    else:
        assert chi_square(draws, dist) > 1e-3


def chi_square(draws, dist):
    """P-value of the counts of draws, values joined until each bin expects 10."""
    top = int(draws.max()) + 1
    expected = np.exp(dist.logpmf(np.arange(top))) * draws.size
    observed = np.bincount(draws.astype(int), minlength=top)
    bins = np.minimum((np.cumsum(expected) / 10).astype(int), int((expected.sum() - 10) / 10))
    seen, wanted = np.bincount(bins, weights=observed), np.bincount(bins, weights=expected)
    wanted[-1] += draws.size - expected.sum()
    kept = wanted > 1e-6
    assert seen[~kept].sum() == 0
    if kept.sum() == 1:
        return 1.0
    return stats.chisquare(seen[kept], wanted[kept]).pvalue


@pytest.mark.parametrize("name", ["lognormal", "lomax"])
def test_a_rounded_distribution_is_a_probability_of_counts(name):
    """Its probabilities of all counts add up to one; of its density, those of the positive counts alone exceed it."""
    x = torch.arange(0, 300_000, dtype=torch.float64)[:, None]
    theta = 0.15 if name == "lognormal" else 40.0
    p = parameters(np.log(1.0) if name == "lognormal" else np.log(2.0), theta, None, (1, x.shape[0], 1))
    total = make_likelihood(name).log_prob_entries(p, x).exp().sum().item()
    assert abs(total - 1) < 1e-9
    assert make_likelihood(f"{name}-density").log_prob_entries(p, x).exp().sum().item() > 1.5


def test_a_log_normal_density_has_nothing_at_zero_and_says_so():
    p = parameters(0.3, 1.2, None, (1, 2, 1)).map(lambda t: t.requires_grad_())
    likelihood = make_likelihood("lognormal-density")
    value = likelihood.log_prob(p, SparseRows.from_dense(torch.tensor([[0.0], [2.0]], dtype=torch.float64)))
    assert value[0].tolist() == [-np.inf, pytest.approx(lognorm(0.3, 1.2).logpdf(2))]
    assert not likelihood.comparable


@pytest.mark.parametrize(("concentration", "mean", "variance"), [(0.8, np.inf, np.inf), (1.7, 1 / 0.7, np.inf)])
def test_moments_of_a_lomax_that_are_infinite_are(concentration, mean, variance):
    p = parameters(0.0, concentration, None)
    assert make_likelihood("lomax-density").mean(p).item() == pytest.approx(mean)
    assert make_likelihood("lomax-density").variance(p).item() == variance
    assert np.isinf(make_likelihood("lomax").mean(p).item()) == np.isinf(mean)
    assert make_likelihood("lomax").variance(p).item() == variance


def test_the_bernoulli_sees_only_whether_a_count_is_there():
    p = parameters(0.4, None, None, (1, 3, 1))
    seen = 1 / (1 + np.exp(-0.4))
    value = make_likelihood("bernoulli").log_prob_entries(p, torch.tensor([[1.0], [7.0], [0.0]], dtype=torch.float64))
    np.testing.assert_allclose(value[0, :, 0].numpy(), np.log([seen, seen, 1 - seen]))


def test_the_constrained_poisson_shares_the_cells_total():
    """scVAE: rate N softmax(logits), so that the means of a cell add up to its count N."""
    logits, total = torch.randn(1, 3, 9, dtype=torch.float64), torch.tensor([5.0, 80.0, 2000.0], dtype=torch.float64)
    p = CountParameters(logits, total.log()[None], link="softmax")
    likelihood = make_likelihood("constrained-poisson")
    np.testing.assert_allclose(likelihood.mean(p).sum(-1)[0].numpy(), total.numpy())
    x = torch.poisson(likelihood.mean(p)[0])
    rate = total.numpy()[:, None] * np.exp(logits[0].numpy()) / np.exp(logits[0].numpy()).sum(1, keepdims=True)
    truth = stats.poisson(rate).logpmf(x.numpy()).sum(1)
    np.testing.assert_allclose(likelihood.log_prob(p, SparseRows.from_dense(x))[0].numpy(), truth, rtol=1e-10)


@pytest.mark.parametrize("dropout", [False, True])
def test_r_and_p_are_scvaes_negative_binomial(dropout):
    """TensorFlow's `NegativeBinomial(total_count=r, probs=p)` is SciPy's nbinom(r, 1 - p)."""
    g = torch.Generator().manual_seed(2)
    log_r, logit_p, d = (torch.randn(2, 6, 8, generator=g, dtype=torch.float64) * 2 for _ in range(3))
    p = CountParameters.of_r_and_p(log_r=log_r, logit_p=logit_p, dropout_logits=d if dropout else None)
    likelihood = make_likelihood("zinb" if dropout else "nb")
    truth = stats.nbinom(np.exp(log_r.numpy()), 1 / (1 + np.exp(logit_p.numpy())))
    pi = 1 / (1 + np.exp(-d.numpy())) if dropout else 0.0
    np.testing.assert_allclose(likelihood.mean(p).numpy(), (1 - pi) * truth.mean(), rtol=1e-10)
    x = torch.poisson(torch.full((6, 8), 3.0, dtype=torch.float64), generator=g)
    pmf = pi * (x.numpy() == 0) + (1 - pi) * truth.pmf(x.numpy())
    np.testing.assert_allclose(likelihood.log_prob_entries(p, x).numpy(), np.log(pmf), rtol=1e-9)


def class_logits(shape, n_classes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, n_classes + 1, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("base", ["nb", "poisson", "zinb", "zip", "lognormal", "lomax"])
@pytest.mark.parametrize("n_classes", [1, 4])
def test_the_piecewise_categorical_by_hand(base, n_classes):
    """Log-probabilities, moments and draws against the sum over the classes and SciPy-checked bases."""
    theta = None if base in {"poisson", "zip"} else 2.5
    pi = 0.3 if base in {"zinb", "zip"} else None
    p = parameters(0.9, theta, pi)
    logits = class_logits((1, 1, 1), n_classes)
    top = 2_000
    k = torch.arange(top, dtype=torch.float64)[:, None]
    many = parameters(0.9, theta, pi, (1, top, 1))
    of_base = make_likelihood(base).log_prob_entries(many, k)[0, :, 0].exp().numpy()
    classes = torch.softmax(logits, -1).flatten().numpy()
    truth = np.concatenate([classes[:-1], classes[-1] * of_base[:-n_classes]])
    likelihood = make_likelihood(base, n_classes=n_classes)
    assert isinstance(likelihood, PiecewiseCategorical) and likelihood.n_classes == n_classes
    many = CountParameters(**{**fields(many), "class_logits": logits.expand(1, top, 1, n_classes + 1)})
    rows = SparseRows.from_dense(k)
    for route in ("torch", "reference"):
        ours = likelihood.log_prob(many, rows, route=route)[0].exp().numpy()
        np.testing.assert_allclose(ours[:60], truth[:60], rtol=1e-9)
    p = CountParameters(**{**fields(p), "class_logits": logits})
    base_mean, base_var = make_likelihood(base).mean(p).item(), make_likelihood(base).variance(p).item()
    ks = np.arange(n_classes)
    mean = (ks * classes[:-1]).sum() + classes[-1] * (n_classes + base_mean)
    second = (ks**2 * classes[:-1]).sum() + classes[-1] * (base_var + (n_classes + base_mean) ** 2)
    np.testing.assert_allclose(likelihood.mean(p).item(), mean, rtol=1e-12)
    np.testing.assert_allclose(likelihood.variance(p).item(), second - mean**2, rtol=1e-9)
    wide = p.map(lambda t: t.repeat(200, 50, *[1] * (t.dim() - 2)))
    draws = likelihood.sample(wide, torch.Generator().manual_seed(1)).numpy().ravel()
    assert chi_square(draws, Discrete(lambda k: truth / truth.sum(), top)) > 1e-3


def fields(p):
    return {n: getattr(p, n) for n in ("logits", "log_scale", "log_theta", "dropout_logits", "link", "class_logits")}


def test_with_no_inflation_the_mean_is_that_of_what_was_drawn():
    p = parameters(0.9, None, 0.25)
    assert make_likelihood("zip").mean_without_inflation(p).item() == pytest.approx(np.exp(0.9))
    assert make_likelihood("zip").mean(p).item() == pytest.approx(0.75 * np.exp(0.9))
    p = CountParameters(**{**fields(p), "class_logits": torch.zeros(1, 1, 1, 3, dtype=torch.float64)})
    of_classes = make_likelihood("zip", n_classes=2).mean_without_inflation(p).item()
    assert of_classes == pytest.approx((0 + 1 + 2 + np.exp(0.9)) / 3)


@pytest.mark.parametrize(("name", "n_classes", "said"), [("normal", 3, "above its classes"), ("nb", -1, "below 1"),
                                                         ("bernoulli", 2, "above its classes")])  # fmt: skip
def test_classes_that_do_not_fit_are_a_named_error(name, n_classes, said):
    with pytest.raises(OptionError, match=said):
        make_likelihood(name, n_classes=n_classes)


def test_only_probabilities_of_counts_are_comparable():
    said = {n: make_likelihood(n).comparable for n in (row[0] for row in TABLE)}
    assert said == {
        "zip": True, "constrained-poisson": True, "bernoulli": False, "lognormal": True, "lomax": True,
        "lognormal-density": False, "lomax-density": False,
    }  # fmt: skip
    assert not make_likelihood("normal").comparable
    assert all(isinstance(make_likelihood(n), Likelihood) for n in said)
