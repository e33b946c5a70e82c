"""Posteriors of fold changes against dense integration, their calibration, and variances shared over genes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, special, stats

from celbo.posterior.shrinkage import (
    PRIOR_SD,
    Evidence,
    FoldChanges,
    OnGrid,
    expected_fdr,
    log_likelihood,
    moderated,
)

WEIGHTS = np.zeros(len(PRIOR_SD))
WEIGHTS[[0, 3, 6, 9]] = [0.6, 0.15, 0.15, 0.1]
EXACT = 1e9  # degrees of freedom


def evidence(x1, x2, e1=1.0, e2=1.0, df=EXACT) -> Evidence:
    """One stratum, a gene an entry; or (strata, genes)."""
    counts = [np.atleast_2d(np.asarray(x, np.float64)) for x in (x1, x2)]
    expected = [np.broadcast_to(np.asarray(e, np.float64), counts[0].shape) for e in (e1, e2)]
    return Evidence(*counts, *expected, np.broadcast_to(np.asarray(df, np.float64), counts[0].shape[1:]))


def asked(data: Evidence, weights=WEIGHTS, delta=0.25, **options) -> FoldChanges:
    return OnGrid.of(data).posterior(weights).fold_changes(delta=delta, **options)


# the likelihood


@pytest.mark.parametrize(("x1", "x2", "e1", "e2"), [(7, 12, 1.0, 1.0), (0, 5, 3.0, 0.5), (400, 380, 1e4, 2e4)])
@pytest.mark.parametrize("df", [EXACT, np.inf])
def test_with_a_known_divisor_the_likelihood_is_binomial(x1, x2, e1, e2, df) -> None:
    log_ratio = np.linspace(-2, 2, 41)
    found = log_likelihood(evidence([x1], [x2], e1, e2, df), log_ratio[None])[0]
    chance = special.expit(log_ratio + np.log(e1 / e2))
    expected = stats.binom.logpmf(x1, x1 + x2, chance)
    np.testing.assert_allclose(found, expected - expected.max(), atol=1e-4, rtol=1e-3)


def test_strata_multiply_and_one_sided_strata_say_nothing() -> None:
    log_ratio = np.linspace(-1, 1, 21)
    x1, x2 = np.array([[5.0], [9.0], [100.0]]), np.array([[8.0], [2.0], [0.0]])
    e1, e2 = np.array([[1.0], [2.0], [5.0]]), np.array([[3.0], [1.0], [0.0]])
    found = log_likelihood(evidence(x1, x2, e1, e2), log_ratio[None])[0]
    expected = sum(
        stats.binom.logpmf(a, a + b, special.expit(log_ratio + np.log(c / d)))
        for a, b, c, d in [(5, 8, 1, 3), (9, 2, 2, 1)]
    )
    np.testing.assert_allclose(found, expected - expected.max(), atol=1e-4)


@pytest.mark.parametrize("df", [2.0, 7.0, 40.0])
def test_the_likelihood_is_integrated_over_the_divisor(df) -> None:
    log_ratio = np.linspace(-1.5, 1.5, 13)
    data = evidence([30.0], [40.0], df=df)
    log_l = stats.binom.logpmf(30, 70, special.expit(log_ratio))
    deviance = 2 * (log_l.max() - log_l)

    def integral(d: float) -> float:
        # of one quadratic observation with divisor phi, and df / phi ~ chi-square(df)
        def integrand(inverse: float) -> float:
            return np.sqrt(inverse) * np.exp(-0.5 * d * inverse) * stats.chi2.pdf(df * inverse, df) * df

        return integrate.quad(integrand, 0, np.inf, limit=200)[0]

    expected = np.array([integral(d) for d in deviance])
    found = np.exp(log_likelihood(data, log_ratio[None])[0])
    np.testing.assert_allclose(found, expected / expected.max(), rtol=1e-5, atol=1e-12)


# the posterior of one gene


def by_brute_force(x1, x2, e1, e2, df, weights=WEIGHTS, delta=0.25) -> dict[str, float]:
    """Moments, quantiles and probabilities by the trapezium rule on 10^5 points and more."""
    centre = np.log((x1 + 0.5) / (x2 + 0.5) * e2 / e1)
    own = centre + np.linspace(-14, 14, 100_001) / np.sqrt(min(x1, x2) + 0.1)
    points = np.unique(np.concatenate([np.linspace(-25, 25, 100_001), np.linspace(-0.2, 0.2, 20_001), own]))
    eta = points + np.log(e1 / e2)
    log_l = x1 * eta - (x1 + x2) * np.logaddexp(0, eta)
    log_l = -0.5 * (df + 1) * np.log1p(2 * (log_l.max() - log_l) / df)
    density = np.exp(log_l) * sum(w * stats.norm.pdf(points, 0, sd) for w, sd in zip(weights, PRIOR_SD, strict=True))
    mass, middle = 0.5 * (density[1:] + density[:-1]) * np.diff(points), 0.5 * (points[1:] + points[:-1]) / np.log(2)
    mass /= mass.sum()
    mean = (mass * middle).sum()
    lower, median, upper = (middle[np.searchsorted(np.cumsum(mass), q)] for q in (0.025, 0.5, 0.975))
    return {
        "mean": mean, "sd": np.sqrt((mass * (middle - mean) ** 2).sum()), "median": median, "lower": lower,
        "upper": upper, "p": max(mass[middle >= delta].sum(), mass[middle <= -delta].sum()),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("x1", "x2", "e1", "e2", "df"),
    [
        (0, 0, 1, 1, 40), (0, 3, 1, 1, 40), (0, 30, 1, 1, 40), (5, 0, 1, 2, 40), (1, 1, 1, 1, EXACT), (3, 8, 1, 1, 40),
        (0.2, 0.1, 1, 1, 30), (20, 35, 1, 1, 40), (50, 49, 1, 1, 5), (200, 260, 1, 1, 8), (300, 270, 2, 3, 40),
        (2000, 2600, 1, 1, 40), (1e6, 1.2e6, 1, 1, 30), (1e6, 1.2e6, 1, 1, EXACT), (1e8, 1.0001e8, 1e9, 1e9, EXACT),
    ],
)  # fmt: skip
def test_the_posterior_is_that_of_dense_integration(x1, x2, e1, e2, df) -> None:
    found, expected = asked(evidence([x1], [x2], e1, e2, df)), by_brute_force(x1, x2, e1, e2, df)
    assert found.p[0] == pytest.approx(expected["p"], abs=0.004)
    assert found.sd[0] == pytest.approx(expected["sd"], rel=0.02)
    assert found.mean[0] == pytest.approx(expected["mean"], abs=0.01 * expected["sd"])
    for name in ("lower", "median", "upper"):
        assert getattr(found, name)[0] == pytest.approx(expected[name], abs=0.03 * expected["sd"])


def test_the_probability_of_being_wrong_keeps_its_digits() -> None:
    data = evidence([2000.0, 4000.0], [1400.0, 2800.0], df=EXACT)
    found = asked(data)
    for gene, (x1, x2) in enumerate([(2000.0, 1400.0), (4000.0, 2800.0)]):
        low, high = -0.3, 0.25 * np.log(2)

        def density(at, x1=x1, x2=x2):
            log_l = x1 * at - (x1 + x2) * np.logaddexp(0, at)
            best = x1 * np.log(x1 / (x1 + x2)) + x2 * np.log(x2 / (x1 + x2))
            return np.exp(log_l - best) * sum(
                w * stats.norm.pdf(at, 0, sd) for w, sd in zip(WEIGHTS, PRIOR_SD, strict=True)
            )

        below = integrate.quad(density, low, high, points=[0, 0.05, 0.1], epsabs=0)[0]
        above = integrate.quad(density, high, 1.0, points=[np.log(x1 / x2)])[0]
        assert found.not_p[gene] == pytest.approx(below / (above + below), rel=0.8)  # cells are wide so far out
    assert found.not_p[1] < 1e-12
    assert asked(evidence([4000.0], [1000.0])).p[0] == pytest.approx(1, abs=1e-12)
    assert asked(evidence([4000.0], [1000.0])).not_p[0] < 1e-100
    assert (found.not_p > 0).all()


def test_two_sided_probabilities_add_both_directions() -> None:
    data = evidence([0.0, 2.0, 40.0, 900.0], [0.0, 1.0, 60.0, 600.0], df=30)
    three, two = asked(data), asked(data, test_mode="two")
    posterior = OnGrid.of(data).posterior(WEIGHTS)
    up = posterior.fold_changes(delta=0.25).p
    assert two.p[0] == pytest.approx(2 * three.p[0])  # nothing known: as much up as down
    assert (two.p >= three.p).all()
    np.testing.assert_allclose(two.p + two.not_p, 1, atol=1e-12)
    np.testing.assert_allclose(three.p + three.not_p, 1, atol=1e-12)
    assert (up <= 1 + 1e-12).all()


def test_without_counts_the_prior_remains() -> None:
    found = asked(evidence([0.0], [0.0]), delta=0.5, test_mode="two")
    tail = sum(w * 2 * stats.norm.sf(0.5 * np.log(2), 0, sd) for w, sd in zip(WEIGHTS, PRIOR_SD, strict=True))
    assert found.p[0] == pytest.approx(tail, abs=0.003)
    assert found.mean[0] == pytest.approx(0, abs=1e-9)
    assert found.sd[0] * np.log(2) == pytest.approx(np.sqrt((WEIGHTS * PRIOR_SD**2).sum()), rel=0.02)


def test_a_gene_without_counts_is_not_called_at_any_delta() -> None:
    data = evidence([0.0], [0.0])
    for pseudocount in (0.0, 1e-6):
        assert asked(data, delta=0.0, pseudocount=pseudocount).p[0] == pytest.approx(0.5, abs=1e-9)
        assert asked(data, delta=0.1, pseudocount=pseudocount).p[0] < 0.3


# pseudocounts


def test_a_pseudocount_moves_the_posterior_by_the_same_map() -> None:
    data = evidence([30.0], [10.0], 1e4, 1e4, 40)
    plain, moved = asked(data), asked(data, pseudocount=1e-3)

    def changed(lfc: float) -> float:  # with e1 m1 + e2 m2 = 40
        m2 = 40 / (1e4 * 2**lfc + 1e4)
        return float(np.log2((m2 * 2**lfc + 1e-3) / (m2 + 1e-3)))

    for name in ("lower", "median", "upper"):
        assert getattr(moved, name)[0] == pytest.approx(changed(getattr(plain, name)[0]), abs=0.02 * plain.sd[0])
    assert asked(data, pseudocount=1e-12).mean[0] == pytest.approx(plain.mean[0], rel=1e-6)


def test_larger_pseudocounts_give_smaller_changes() -> None:
    data = evidence([30.0, 3.0, 0.0], [10.0, 9.0, 40.0], 1e4, 2e4, 40)
    found = [np.abs(asked(data, pseudocount=c).mean) for c in (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1.0)]
    assert (np.diff(found, axis=0) < 0).all()


def test_genes_of_few_counts_fade_under_a_pseudocount() -> None:
    found = asked(evidence([1.0, 1000.0], [0.0, 500.0], 1e6, 1e6, 40), pseudocount=1e-4)
    assert np.abs(found.mean[0]) < 0.02
    assert found.mean[1] == pytest.approx(np.log2(1.1e-3 / 6e-4), abs=0.05)


# symmetry and order


def random_evidence(n: int, seed: int = 0, strata: int = 2) -> Evidence:
    rng = np.random.default_rng(seed)
    rate, fold = np.exp(rng.normal(1.5, 2, n)), np.exp(rng.normal(0, 0.5, n) * (rng.random(n) < 0.3))
    e1, e2 = rng.uniform(0.2, 3, (2, strata, 1)) * np.ones(n)
    return Evidence(
        rng.poisson(rate * fold * e1).astype(float), rng.poisson(rate * e2).astype(float), e1, e2, rng.uniform(5, 90, n)
    )


FIELDS = ("mean", "median", "sd", "lower", "upper", "p", "not_p")


@pytest.mark.parametrize("pseudocount", [0.0, 0.1])
def test_swapped_sides_have_the_opposite_fold_change(pseudocount) -> None:
    data = random_evidence(300)
    swapped = Evidence(data.counts2, data.counts1, data.expected2, data.expected1, data.df)
    grid, other = OnGrid.of(data), OnGrid.of(swapped)
    weights = grid.fit_prior()
    np.testing.assert_allclose(other.fit_prior(), weights, atol=1e-8)
    one, two = (g.posterior(weights).fold_changes(delta=0.25, pseudocount=pseudocount) for g in (grid, other))
    for name, opposite in (("mean", "mean"), ("median", "median"), ("lower", "upper"), ("upper", "lower")):
        np.testing.assert_allclose(getattr(one, name), -getattr(two, opposite), atol=1e-7)
    for name in ("sd", "p", "not_p"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-6, atol=1e-9)


def test_genes_do_not_depend_on_their_order_or_on_those_beside_them() -> None:
    data = random_evidence(2500)  # more than are evaluated at a time
    order = np.random.default_rng(1).permutation(2500)
    shuffled = Evidence(
        *(getattr(data, n)[:, order] for n in ("counts1", "counts2", "expected1", "expected2")), data.df[order]
    )
    weights = OnGrid.of(data).fit_prior()
    np.testing.assert_allclose(OnGrid.of(shuffled).fit_prior(), weights, atol=1e-9)
    whole, other = asked(data, weights), asked(shuffled, weights)
    part = asked(data.genes(slice(1000, 1100)), weights)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(whole, name)[order], getattr(other, name))
        np.testing.assert_array_equal(getattr(whole, name)[1000:1100], getattr(part, name))


# calibration: what is called is right as often as it says


def drawn(n: int, rng: np.random.Generator, weights=WEIGHTS) -> tuple[np.ndarray, Evidence]:
    """True L of the prior, and binomial counts of a wide range of depths."""
    truth = rng.normal(0, PRIOR_SD[rng.choice(len(PRIOR_SD), n, p=weights)])
    total = rng.poisson(np.exp(rng.normal(4, 1.8, n)))
    e1, e2 = 1.0, 1.7
    x1 = rng.binomial(total, special.expit(truth + np.log(e1 / e2)))
    return truth, evidence(x1, total - x1, e1, e2)


def test_intervals_cover_and_calls_keep_the_false_discovery_rate() -> None:
    rng = np.random.default_rng(0)
    covered, proportions = [], {0.01: [], 0.05: [], 0.1: []}
    for _ in range(12):
        truth, data = drawn(1500, rng)
        grid = OnGrid.of(data)
        found = grid.posterior(grid.fit_prior()).fold_changes(delta=0.25)
        lfc = truth / np.log(2)
        covered.append(((found.lower <= lfc) & (lfc <= found.upper)).mean())
        fdr = expected_fdr(found.not_p)
        for target, kept in proportions.items():
            called = fdr <= target
            right = np.where(found.mean > 0, lfc >= 0.25, lfc <= -0.25)
            assert called.sum() > 30
            kept.append(1 - right[called].mean())
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
    for target, kept in proportions.items():
        assert np.mean(kept) <= target + 2 * np.std(kept, ddof=1) / np.sqrt(len(kept))
        assert np.mean(kept) >= target / 4  # and power is not given away


def test_the_prior_is_found_from_the_genes() -> None:
    truth, data = drawn(20_000, np.random.default_rng(1))
    weights = OnGrid.of(data).fit_prior()
    assert (weights[PRIOR_SD <= 0.05]).sum() == pytest.approx(0.6, abs=0.1)
    assert (weights * PRIOR_SD**2).sum() == pytest.approx((truth**2).mean(), rel=0.15)


def test_without_differences_hardly_anything_is_called() -> None:
    rng = np.random.default_rng(2)
    none = np.eye(len(PRIOR_SD))[0]
    calls = []
    for _ in range(10):
        _, data = drawn(1000, rng, none)
        grid = OnGrid.of(data)
        found = grid.posterior(grid.fit_prior()).fold_changes(delta=0.25)
        calls.append((expected_fdr(found.not_p) <= 0.05).sum())
    assert np.mean(calls) <= 0.1


def test_genes_that_nobody_has_seen_do_not_enter_the_prior() -> None:
    data = random_evidence(200)
    empty = np.zeros((2, 100))
    more = Evidence(
        np.concatenate([data.counts1, empty], 1), np.concatenate([data.counts2, empty], 1),
        np.concatenate([data.expected1, empty + 1], 1), np.concatenate([data.expected2, empty + 1], 1),
        np.concatenate([data.df, np.full(100, 30.0)]),
    )  # fmt: skip
    np.testing.assert_allclose(OnGrid.of(more).fit_prior(), OnGrid.of(data).fit_prior(), atol=1e-12)


# expected false discovery rate


def test_the_expected_rate_is_the_running_mean_of_the_best_first() -> None:
    found = expected_fdr(np.array([0.5, 0.01, 0.1, 0.02]))
    np.testing.assert_allclose(found, [0.63 / 4, 0.01, 0.13 / 3, 0.015])


# variances of many genes


def limma(variance: np.ndarray, df: np.ndarray) -> tuple[float, float]:
    """d0 and s0^2 by the formulas of Smyth (2004), 6.2, with a root finder."""
    from scipy.optimize import brentq

    e = np.log(variance) - special.digamma(df / 2) + np.log(df / 2)
    excess = e.var(ddof=1) - special.polygamma(1, df / 2).mean()
    d0 = 2 * brentq(lambda x: special.polygamma(1, x) - excess, 1e-3, 1e7)
    return d0, float(np.exp(e.mean() + special.digamma(d0 / 2) - np.log(d0 / 2)))


@pytest.mark.parametrize(("d0", "s02"), [(3.0, 2.0), (10.0, 0.5), (40.0, 1.0)])
def test_variances_are_moderated_as_limma_does(d0, s02) -> None:
    rng = np.random.default_rng(0)
    df = rng.integers(2, 9, 20_000).astype(float)
    truth = d0 * s02 / rng.chisquare(d0, 20_000)
    variance = truth * rng.chisquare(df) / df
    found, total = moderated(variance, df)
    prior_df, centre = limma(variance, df)
    assert prior_df == pytest.approx(d0, rel=0.4)
    assert centre == pytest.approx(s02, rel=0.05)
    np.testing.assert_allclose(total, prior_df + df, rtol=1e-6)
    np.testing.assert_allclose(found, (prior_df * centre + df * variance) / (prior_df + df), rtol=1e-6)
    t = rng.normal(0, np.sqrt(truth)) / np.sqrt(found)
    assert (2 * stats.t.sf(np.abs(t), total) < 0.05).mean() == pytest.approx(0.05, abs=0.006)


def test_variances_that_differ_by_chance_only_have_one_value() -> None:
    rng = np.random.default_rng(1)
    found, total = moderated(np.full(50, 3.0), 6)
    assert np.ptp(found) == 0
    assert total.min() >= 1e6
    assert found[0] == pytest.approx(3.0 * np.exp(np.log(3.0) - special.digamma(3.0)))
    found, total = moderated(2.0 * rng.chisquare(5, 20_000) / 5, 5)
    assert found.mean() == pytest.approx(2.0, rel=0.02)
    assert total.min() > 500


def test_hardly_any_genes_are_left_as_they_are() -> None:
    found, total = moderated(np.array([2.0, 5.0, 0.0]), 4)
    assert found.tolist() == [2.0, 5.0, 1e-12]
    assert total.tolist() == [4, 4, 4]


# -- many strata -------------------------------------------------------------------------------------------------------


def many_strata(n_strata: int, log_ratio: float, n_genes: int = 60) -> Evidence:
    rng = np.random.default_rng(1)
    e1, e2 = rng.gamma(0.5, 2000, (2, n_strata, n_genes))
    e1[rng.random(e1.shape) < 0.2] = 0
    share = rng.lognormal(-6.5, 1, (1, n_genes)) * rng.lognormal(0, 0.3, (n_strata, 1))
    x1, x2 = rng.poisson(e1 * share * np.exp(log_ratio)), rng.poisson(e2 * share)
    return Evidence(x1.astype(float), x2.astype(float), e1, e2, np.full(n_genes, 1e6))


@pytest.mark.parametrize("log_ratio", [0.0, 1.0, -3.0])
def test_strata_put_together_say_what_they_said_apart(log_ratio) -> None:
    apart = many_strata(500, log_ratio)
    together = apart.merged(16)
    assert together.counts1.shape == (16, 60)
    np.testing.assert_allclose(together.counts1.sum(0), np.where(apart.shared, apart.counts1, 0).sum(0), rtol=0.2)
    np.testing.assert_allclose(together.expected2.sum(0), np.where(apart.shared, apart.expected2, 0).sum(0), rtol=0.2)
    one, other = (OnGrid.of(e).posterior(np.full(13, 1 / 13)).fold_changes(delta=0.25) for e in (apart, together))
    assert (np.abs(one.mean - other.mean) < one.sd / 8).all()
    np.testing.assert_allclose(other.sd, one.sd, rtol=0.03)


def test_few_strata_stay_as_they_are() -> None:
    few = many_strata(5, 0.0)
    assert few.merged(16) is few
