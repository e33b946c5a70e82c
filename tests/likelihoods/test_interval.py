"""Probability of a count under a continuous density: sums to one, exact in the far tails, additive over genes."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from celbo.data.minibatch import SparseRows
from celbo.errors import CountsError, OptionError
from celbo.likelihoods import interval
from celbo.likelihoods.interval import interval_log_prob, log_normal_interval, normal_interval


def problem(*, samples=3, cells=4, genes=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    counts = torch.poisson(torch.rand(cells, genes, generator=g, dtype=torch.float64) * 5, generator=g)
    mean = torch.rand(samples, cells, genes, generator=g, dtype=torch.float64) * 2
    sd = torch.rand(genes, generator=g, dtype=torch.float64) + 0.1
    scale = torch.rand(cells, generator=g, dtype=torch.float64) * 3 + 0.1
    return counts, mean, sd, scale


def by_scipy(counts, mean, sd, scale, f):
    x, s = counts.numpy(), scale.numpy()[:, None]
    dist = stats.norm(mean.numpy(), sd.numpy())
    lower = np.where(x > 0, dist.cdf(f((np.maximum(x, 1) - 0.5) * s)), 0)
    return np.log(dist.cdf(f((x + 0.5) * s)) - lower).sum(-1)


@pytest.mark.parametrize(("transform", "f"), [("log1p", np.log1p), ("identity", lambda y: y)])
def test_it_is_the_difference_of_scipys_distribution_function(transform, f):
    counts, mean, sd, scale = problem()
    sd = sd + (2 if transform == "identity" else 0.2)  # SciPy's difference is zero in the tails
    ours = interval_log_prob(counts, mean, sd, scale, transform=transform)
    np.testing.assert_allclose(ours.numpy(), by_scipy(counts, mean, sd, scale, f), rtol=1e-7)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    mean=st.floats(-3, 6),
    sd=st.floats(0.05, 1.5),
    scale=st.floats(0.01, 100),
    transform=st.sampled_from(["log1p", "identity"]),
)
def test_the_probabilities_of_all_counts_sum_to_one(mean, sd, scale, transform):
    """The counts go so far that less than 1e-9 lies above."""
    far = mean + 6.5 * sd
    top = (np.expm1(far) if transform == "log1p" else far) / scale + 2
    if top > 200_000:
        scale *= top / 200_000
        top = 200_000
    k = torch.arange(int(max(top, 2)), dtype=torch.float64)[:, None]
    total = interval_log_prob(
        k,
        torch.full((1, k.shape[0], 1), mean, dtype=torch.float64),
        torch.tensor(sd, dtype=torch.float64),
        torch.full((k.shape[0],), scale, dtype=torch.float64),
        transform=transform,
    )
    assert abs(total.exp().sum().item() - 1) < 1e-9


def interval_truth(lower, width):
    """log P, and its derivatives by lower and by width, to many digits."""
    with mp.workdps(60):
        a, b = mp.mpf(lower), mp.mpf(lower) + mp.mpf(width)
        low, high = (-b, -a) if a + b < 0 else (a, b)
        if low > 0:
            p = (mp.erfc(low / mp.sqrt(2)) - mp.erfc(high / mp.sqrt(2))) / 2
            log_p = mp.log(p)
        else:
            outside = (mp.erfc(-low / mp.sqrt(2)) + mp.erfc(high / mp.sqrt(2))) / 2
            p = (mp.erf(high / mp.sqrt(2)) - mp.erf(low / mp.sqrt(2))) / 2
            log_p = mp.log1p(-outside) if p > 0.5 else mp.log(p)
        density = [mp.exp(-t * t / 2) / mp.sqrt(2 * mp.pi) / p for t in (a, b)]
        return float(log_p), float(density[1] - density[0]), float(density[1])


def test_far_tails_and_narrow_intervals_are_exact():
    """Ends to 1e5 standard deviations from the mean, widths from 1e-8 on: value and derivatives to 1e-9."""
    rng = np.random.default_rng(0)
    lower = rng.choice([-1, 1], 1500) * 10 ** rng.uniform(-3, 5, 1500)
    width = 10 ** rng.uniform(-8, 2, 1500)
    truth = np.array([interval_truth(*p) for p in zip(lower, width, strict=True)]).T
    ours = normal_interval(torch.tensor(lower), torch.tensor(width))
    for value, true in zip(ours, truth, strict=True):
        np.testing.assert_allclose(value.numpy(), true, rtol=1e-9, atol=1e-290)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(lower=st.floats(-1e8, 1e8), width=st.floats(1e-10, 1e10))
def test_any_interval_is_right_in_its_logarithm(lower, width):
    ours = normal_interval(torch.tensor(lower, dtype=torch.float64), torch.tensor(width, dtype=torch.float64))
    assert all(t.isfinite() for t in ours)
    assert ours[0].item() == pytest.approx(interval_truth(lower, width)[0], rel=1e-6, abs=1e-290)


def test_the_plain_difference_fails_in_the_tails():
    """The test can fail: SciPy's F(b) - F(a) is zero from eight standard deviations on."""
    with np.errstate(divide="ignore"):
        assert np.log(stats.norm.cdf(10.1) - stats.norm.cdf(10.0)) == -np.inf
    assert interval_truth(10.0, 0.1)[0] == pytest.approx(-53.69, abs=0.1)


def test_gradcheck_of_an_interval():
    rng = np.random.default_rng(1)
    lower = torch.tensor(rng.normal(0, 3, 30), requires_grad=True)
    width = torch.tensor(10 ** rng.uniform(-3, 0.5, 30), requires_grad=True)
    assert torch.autograd.gradcheck(log_normal_interval, (lower, width), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("transform", ["log1p", "identity"])
def test_gradcheck_by_mean_and_sd(transform):
    counts, mean, sd, scale = problem(samples=1, cells=2, genes=4)
    assert torch.autograd.gradcheck(
        lambda m, s: interval_log_prob(counts, m, s, scale, transform=transform),
        (mean.requires_grad_(), sd.requires_grad_()),
    )


def test_genes_add_up_over_blocks_of_the_caller():
    counts, mean, sd, scale = problem()
    rows = SparseRows.from_dense(counts)
    whole = interval_log_prob(rows, mean, sd, scale)
    parts = [interval_log_prob(rows, mean[..., a:b], sd[a:b], scale, first_gene=a) for a, b in ((0, 4), (4, 5), (5, 9))]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)


def test_the_blocks_within_change_nothing(monkeypatch):
    counts, mean, sd, scale = problem()
    whole = interval_log_prob(counts, mean, sd, scale)
    monkeypatch.setattr(interval, "_BLOCK", 25)  # two genes at a time
    torch.testing.assert_close(interval_log_prob(counts, mean, sd, scale), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(), (9,), (4, 9), (3, 4, 9)])
def test_sd_may_have_any_shape_that_broadcasts(shape):
    counts, mean, _, scale = problem()
    sd = torch.rand(shape, dtype=torch.float64) + 0.1
    wide = interval_log_prob(counts, mean, sd.expand(3, 4, 9).contiguous(), scale)
    torch.testing.assert_close(interval_log_prob(counts, mean, sd, scale), wide)


def test_float32_parameters_are_computed_in_float64():
    counts, mean, sd, scale = problem()
    mean, sd, scale = mean.float(), sd.float(), scale.float()
    ours = interval_log_prob(SparseRows.from_dense(counts.float()), mean, sd, scale)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, interval_log_prob(counts, mean.double(), sd.double(), scale.double()))


def test_a_linear_map_after_the_logarithm_is_undone_by_the_caller():
    """A model of (log1p(x) - a) / b says the same about the counts as one of log1p(x) with mean b m + a."""
    x, m, sd, a, b = 3.0, 0.4, 0.7, 0.9, 2.5
    low, high = ((np.log1p(x + h) - a) / b for h in (-0.5, 0.5))
    truth = np.log(stats.norm(m, sd).cdf(high) - stats.norm(m, sd).cdf(low))
    one = torch.tensor([[[b * m + a]]], dtype=torch.float64)
    ours = interval_log_prob(torch.tensor([[x]], dtype=torch.float64), one, torch.tensor(b * sd, dtype=torch.float64))
    assert ours.item() == pytest.approx(truth, rel=1e-12)


def test_what_does_not_fit_is_a_named_error():
    counts, mean, sd, scale = problem()
    with pytest.raises(OptionError, match="'sqrt'"):
        interval_log_prob(counts, mean, sd, scale, transform="sqrt")
    with pytest.raises(OptionError, match="from gene 3 on"):
        interval_log_prob(counts, mean, sd, scale, first_gene=3)
    with pytest.raises(OptionError, match="4 cells x 9 genes"):
        interval_log_prob(counts, mean[:, :2], sd, scale)
    with pytest.raises(CountsError, match=r"are not counts: \d\.25"):
        interval_log_prob(counts + 0.25, mean, sd, scale)
