"""Two sides of a comparison: effective counts in closed form, and differences between samples that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from celbo.errors import InputError
from celbo.posterior.contrast import contrast
from celbo.posterior.shrinkage import Evidence, OnGrid, expected_fdr, log_likelihood
from celbo.posterior.tallies import Tally, Units


def made(
    counts,
    exposure,
    *,
    group,
    batch=None,
    sample=None,
    cells=10,
    share=None,
    spread=1.0,
    df=1e6,
    common_df=None,
    sizes=None,
) -> Tally:
    """A tally of units (units, genes); a spread and df for each group."""
    counts = np.asarray(counts, np.float64)
    group = np.asarray(group)
    n_units, n_groups = len(group), int(group.max()) + 1
    cells = np.broadcast_to(cells, n_units)
    zeros = np.zeros(n_units, np.int64)
    unit = np.repeat(np.arange(n_units), cells)
    units = Units(
        np.arange(len(unit)), unit, group,
        zeros if batch is None else np.asarray(batch), zeros if sample is None else np.asarray(sample),
        np.bincount(group, cells, n_groups) if sizes is None else np.asarray(sizes, np.float64),
    )  # fmt: skip
    shape = (n_groups, counts.shape[1])

    def of_groups(values) -> np.ndarray:
        return np.array(np.broadcast_to(np.asarray(values, np.float64).reshape(-1, 1), shape))

    return Tally(
        units, counts, np.broadcast_to(exposure, counts.shape).astype(np.float64), np.ones(counts.shape),
        of_groups(1e-4) if share is None else np.asarray(share, np.float64), of_groups(1e-4), of_groups(spread),
        of_groups(df),
        np.full(counts.shape[1], np.inf if common_df is None else common_df),
    )  # fmt: skip


# over cells


def test_one_group_a_side_has_its_counts_over_their_spread() -> None:
    found = contrast(
        made([[40.0, 6.0], [90.0, 1.0]], [[1e5, 1e5], [2e5, 3e5]], group=[0, 1], spread=[2.0, 0.5], df=[30.0, 60.0]),
        [0], [1], by_batch=True,
    )  # fmt: skip
    e = found.evidence
    np.testing.assert_allclose(e.counts1, [[20, 3]])
    np.testing.assert_allclose(e.counts2, [[180, 2]])
    np.testing.assert_allclose(e.expected1, [[5e4, 5e4]])
    np.testing.assert_allclose(e.expected2, [[4e5, 6e5]])
    np.testing.assert_allclose(found.scale1, [4e-4, 6e-5])
    np.testing.assert_allclose(found.scale2, [4.5e-4, 1 / 3e5])
    assert found.overlap
    assert found.paired is None


def test_degrees_of_freedom_are_welch_and_satterthwaites() -> None:
    found = contrast(
        made([[40.0], [90.0]], 1e5, group=[0, 1], spread=[2.0, 0.5], df=[30.0, 60.0]), [0], [1], by_batch=True
    )
    v1, v2 = 1 / 20, 1 / 180  # relative variances: one over the effective counts
    assert found.evidence.df[0] == pytest.approx((v1 + v2) ** 2 / (v1**2 / 30 + v2**2 / 60))


def test_the_common_dispersion_is_an_error_of_both_sides() -> None:
    apart = made([[50.0], [50.0]], 1e5, group=[0, 1], df=[30.0, 30.0])
    together = made([[50.0], [50.0]], 1e5, group=[0, 1], df=[30.0, 30.0], common_df=20.0)
    assert contrast(apart, [0], [1], by_batch=True).evidence.df[0] == pytest.approx(60)
    assert contrast(together, [0], [1], by_batch=True).evidence.df[0] == pytest.approx(1 / (1 / 60 + 1 / 20))


@pytest.mark.parametrize("df", [5.0, 30.0])
def test_equal_sides_have_twice_the_degrees_of_freedom(df) -> None:
    found = contrast(made([[50.0], [50.0]], 1e5, group=[0, 1], df=[df, df]), [0], [1], by_batch=True)
    assert found.evidence.df[0] == pytest.approx(2 * df)


def test_batches_that_hold_both_sides_are_strata() -> None:
    tally = made([[10.0], [20.0], [30.0], [40.0]], [[1.0], [2.0], [3.0], [4.0]], group=[0, 0, 1, 1], batch=[0, 1, 0, 1])
    found = contrast(tally, [0], [1], by_batch=True)
    np.testing.assert_allclose(found.evidence.counts1, [[10], [20]])
    np.testing.assert_allclose(found.evidence.counts2, [[30], [40]])
    np.testing.assert_allclose(found.evidence.expected2, [[3], [4]])
    assert found.overlap


def test_batches_of_one_side_alone_are_left_out() -> None:
    tally = made([[10.0], [20.0], [30.0], [40.0]], 1.0, group=[0, 0, 1, 1], batch=[0, 1, 1, 2])
    found = contrast(tally, [0], [1], by_batch=True)
    np.testing.assert_allclose(found.evidence.counts1, [[20]])
    np.testing.assert_allclose(found.evidence.counts2, [[30]])
    assert found.overlap


def test_sides_without_a_common_batch_are_one_stratum_and_that_is_said() -> None:
    tally = made([[10.0], [20.0], [30.0], [40.0]], 1.0, group=[0, 0, 1, 1], batch=[0, 1, 2, 3])
    found = contrast(tally, [0], [1], by_batch=True)
    np.testing.assert_allclose(found.evidence.counts1, [[30]])
    np.testing.assert_allclose(found.evidence.counts2, [[70]])
    assert not found.overlap


def test_without_correction_the_mean_is_over_cells_however_deep_their_batch() -> None:
    # two batches of equal cells, one ten times as deep; the share differs between them
    tally = made(
        [[1000.0], [300.0], [100.0]], [[1e6], [1e5], [1e5]], group=[0, 0, 1], batch=[0, 1, 0], cells=[50, 50, 20]
    )
    found = contrast(tally, [0], [1], by_batch=False)
    assert found.evidence.counts1.shape == (1, 1)
    assert found.scale1[0] == pytest.approx(0.5 * (1e-3 + 3e-3))
    # var(mean) = (1000 / 1e12 + 300 / 1e10) / 4, and that is mean^2 / effective counts
    variance = (1000 / 1e12 + 300 / 1e10) / 4
    assert found.evidence.counts1[0, 0] == pytest.approx(0.002**2 / variance)


def test_groups_of_a_side_are_added_as_if_they_were_one() -> None:
    counts, exposure = np.array([[30.0, 5.0], [70.0, 11.0], [9.0, 9.0]]), np.array([[3e4], [3e4], [1e4]])
    apart = contrast(made(counts, exposure, group=[0, 1, 2]), [0, 1], [2], by_batch=True)
    together = contrast(
        made([counts[:2].sum(0), counts[2]], [[6e4], [1e4]], group=[0, 1], cells=[20, 10]), [0], [1], by_batch=True
    )
    for name in ("counts1", "counts2", "expected1", "expected2"):
        np.testing.assert_allclose(getattr(apart.evidence, name), getattr(together.evidence, name), rtol=1e-12)
    np.testing.assert_allclose(apart.scale1, together.scale1)


def test_groups_of_a_side_weigh_by_their_cells_in_the_data() -> None:
    # of group 1 only a tenth was counted
    tally = made([[30.0], [80.0], [9.0]], 1e4, group=[0, 1, 2], sizes=[10, 100, 10])
    found = contrast(tally, [0, 1], [2], by_batch=True)
    assert found.scale1[0] == pytest.approx((10 * 30 + 100 * 80) / 110 / 1e4)


def test_another_mixture_in_a_batch_is_brought_to_that_of_the_side() -> None:
    share = np.array([[1e-4], [4e-4], [1e-4]])
    cells = np.array([30, 10, 10, 30, 20, 20])
    exposure = cells[:, None] * 1e5
    group, batch = [0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]
    tally = made(exposure * share[group], exposure, group=group, batch=batch, cells=cells, share=share)
    e = contrast(tally, [0, 1], [2], by_batch=True).evidence
    assert (e.counts1 / e.expected1).ravel() == pytest.approx([2.5e-4, 2.5e-4])  # the mean of 40 cells of each
    assert (e.counts2 / e.expected2).ravel() == pytest.approx([1e-4, 1e-4])


def test_the_order_of_the_groups_of_a_side_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    tally = made(
        rng.poisson(30, (6, 4)), 1e5, group=[0, 0, 1, 1, 2, 2], batch=[0, 1] * 3, spread=[1, 2, 3], df=[10, 20, 30],
        share=rng.random((3, 4)),
    )  # fmt: skip
    one, two = (contrast(tally, groups, [1], by_batch=True).evidence for groups in ([0, 2], [2, 0]))
    for name in ("counts1", "expected1", "df"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-12)


def test_swapped_sides_have_the_same_evidence_the_other_way_round() -> None:
    rng = np.random.default_rng(0)
    group, batch, sample = np.repeat([0, 1], 6), np.tile([0, 1], 6), np.arange(12)
    tally = made(rng.poisson(30, (12, 40)), 1e5, group=group, batch=batch, sample=sample)
    for over_samples in (False, True):
        one = contrast(tally, [0], [1], by_batch=True, over_samples=over_samples).evidence
        two = contrast(tally, [1], [0], by_batch=True, over_samples=over_samples).evidence
        for a, b in (("counts1", "counts2"), ("expected1", "expected2"), ("df", "df")):
            np.testing.assert_allclose(getattr(one, a), getattr(two, b), rtol=1e-6)


def test_genes_without_counts_are_no_trouble() -> None:
    tally = made(np.zeros((4, 3)), 1e5, group=[0, 0, 1, 1], sample=[0, 1, 2, 3])
    for over_samples in (False, True):
        found = contrast(tally, [0], [1], by_batch=True, over_samples=over_samples)
        e = found.evidence
        assert (e.counts1 == 0).all()
        assert np.isfinite(e.df).all()
        grid = OnGrid.of(e)
        changes = grid.posterior(grid.fit_prior()).fold_changes(delta=0.25)
        assert np.isfinite(changes.mean).all()
        assert changes.p.max() < 0.05


# over samples


def samples_made(
    n1: int, n2: int, rng: np.random.Generator, *, tau2: float, depth: float, n_genes: int = 1000, between: float = 0.0,
    paired: bool = False, unequal: bool = False, batch=None, batch_effect: float = 0.0,
) -> Tally:  # fmt: skip
    """Poisson counts of samples that differ log-normally with relative variance tau2; with pairs, by `between` too."""
    n = n1 + n2
    group = np.repeat([0, 1], [n1, n2])
    sample = np.concatenate([np.arange(n1), np.arange(n2)]) if paired else np.arange(n)
    cells = rng.choice([5, 20, 50, 200, 400], n) if unequal else np.full(n, 50)
    level = depth * np.exp(rng.normal(0, 1, n_genes))
    sd = np.sqrt(np.log1p(tau2))
    own = np.exp(rng.normal(-0.5 * sd**2, sd, (n, n_genes)))
    own = own * np.exp(between * rng.normal(size=(n, n_genes)))[sample]
    if batch is not None:
        own = own * np.exp(batch_effect * rng.normal(size=(int(np.max(batch)) + 1, n_genes)))[batch]
    counts = rng.poisson(level * own * cells[:, None] / 50)
    return made(counts, cells[:, None] * 2e4, group=group, batch=batch, sample=sample, cells=cells)


def p_of_no_difference(e: Evidence) -> np.ndarray:
    """P-value of L = 0: the likelihood ratio as an F, which is what the likelihood says."""
    points = np.broadcast_to(np.linspace(-3, 3, 1201), (e.n_genes, 1201))
    log_l = log_likelihood(e, points)
    ratio = e.df * np.expm1(2 * (log_l.max(1) - log_l[:, 600]) / (e.df + 1))
    p: np.ndarray = stats.f.sf(ratio, 1, e.df)
    return p


@pytest.mark.parametrize(("n", "paired"), [(3, False), (6, False), (6, True)])
@pytest.mark.parametrize("unequal", [False, True])
def test_the_variance_between_samples_is_found(n, paired, unequal, monkeypatch) -> None:
    from celbo.posterior import contrast as module

    found = []
    common_tau2 = module._common_tau2
    monkeypatch.setattr(module, "_common_tau2", lambda *a: found.append(common_tau2(*a)) or found[-1])
    tau2 = 0.1
    tally = samples_made(
        n, n, np.random.default_rng(0), tau2=tau2, depth=100, paired=paired, between=0.8 * paired, unequal=unequal
    )
    contrast(tally, [0], [1], by_batch=False, over_samples=True)
    expected = 2 * tau2 if paired else tau2  # of a pair, that of the difference
    assert np.median(found[0]) == pytest.approx(expected, rel=0.2)


def test_samples_that_do_not_differ_need_no_variance() -> None:
    tally = samples_made(6, 6, np.random.default_rng(0), tau2=0.0, depth=100, n_genes=800)
    e = contrast(tally, [0], [1], by_batch=False, over_samples=True).evidence
    counts = tally.counts.sum(0)
    assert np.median((e.counts1 + e.counts2).sum(0) / counts) == pytest.approx(1, abs=0.05)


def test_a_deep_sample_weighs_no_more_than_samples_differ() -> None:
    tally = samples_made(6, 6, np.random.default_rng(0), tau2=0.1, depth=1000, n_genes=800)
    e = contrast(tally, [0], [1], by_batch=False, over_samples=True).evidence
    often = tally.counts.sum(0) > 2000
    # six samples with relative variance 0.1 tell the mean as well as 6 / 0.1 counts
    np.testing.assert_allclose(np.median(e.counts1.sum(0)[often]), 60, rtol=0.2)


@pytest.mark.parametrize(
    ("n1", "n2", "tau2", "depth", "unequal", "paired", "level"),
    [
        (3, 3, 0.1, 100, False, False, 0.05),
        (6, 6, 0.1, 100, True, False, 0.05),
        (4, 8, 0.1, 50, True, False, 0.05),
        (6, 6, 0.0, 100, True, False, 0.05),
        (6, 6, 0.1, 100, False, True, 0.05),
        (4, 4, 0.1, 100, True, True, 0.05),
        (6, 6, 0.1, 3, False, False, 0.06),
    ],
)
def test_samples_without_a_difference_are_called_at_the_nominal_rate(
    n1, n2, tau2, depth, unequal, paired, level
) -> None:
    tally = samples_made(
        n1, n2, np.random.default_rng(1), tau2=tau2, depth=depth, unequal=unequal, paired=paired, between=1.0 * paired
    )
    found = contrast(tally, [0], [1], by_batch=False, over_samples=True)
    assert found.paired is paired
    p = p_of_no_difference(found.evidence)
    seen = tally.counts.sum(0) >= 10
    assert (p[seen] < 0.05).mean() == pytest.approx(level, abs=0.015)
    assert (p[seen] < 0.01).mean() < 0.02
    grid = OnGrid.of(found.evidence)
    changes = grid.posterior(grid.fit_prior()).fold_changes(delta=0.25)
    assert (expected_fdr(changes.not_p) <= 0.05).sum() <= 1


def test_what_differs_between_samples_on_both_sides_cancels() -> None:
    rng = np.random.default_rng(2)
    tally = samples_made(6, 6, rng, tau2=0.0, depth=200, paired=True, between=1.0, n_genes=400)
    e = contrast(tally, [0], [1], by_batch=False, over_samples=True).evidence
    apart = Tally(
        made(tally.counts, 1.0, group=tally.units.group, sample=np.arange(12)).units,
        tally.counts, tally.exposure, tally.reference, tally.share, tally.own_share, tally.spread, tally.df,
        tally.common_df,
    )  # fmt: skip
    unpaired = contrast(apart, [0], [1], by_batch=False, over_samples=True).evidence
    total = tally.counts.sum(0)
    assert np.median((e.counts1 + e.counts2).sum(0) / total) > 0.85
    assert np.median((unpaired.counts1 + unpaired.counts2).sum(0) / total) < 0.1


@pytest.mark.parametrize(
    ("sample1", "sample2", "paired"),
    [
        ([0, 1, 2], [0, 1, 2], True),
        ([0, 1, 2], [1, 2, 3], True),  # two of four
        ([0, 1, 2], [2, 3, 4], False),
        ([0, 1, 2, 3], [2, 3, 4, 5], False),  # two of six
    ],
)
def test_samples_on_both_sides_are_compared_with_themselves(sample1, sample2, paired) -> None:
    group = [0] * len(sample1) + [1] * len(sample2)
    tally = made(np.full((len(group), 30), 20.0), 1e5, group=group, sample=sample1 + sample2)
    found = contrast(tally, [0], [1], by_batch=True, over_samples=True)
    assert found.paired is paired
    both = len(set(sample1) & set(sample2))
    assert found.evidence.counts1.shape[0] == (both if paired else 1)


def test_batch_effects_cancel_within_batches() -> None:
    batch = np.tile([0, 0, 1, 1], 3)
    tally = samples_made(6, 6, np.random.default_rng(3), tau2=0.05, depth=100, batch=batch, batch_effect=1.0)
    within = contrast(tally, [0], [1], by_batch=True, over_samples=True).evidence
    across = contrast(tally, [0], [1], by_batch=False, over_samples=True).evidence
    assert within.counts1.shape == (2, 1000)
    assert np.median(within.counts1.sum(0)) > 3 * np.median(across.counts1.sum(0))
    assert (p_of_no_difference(within) < 0.05).mean() == pytest.approx(0.05, abs=0.015)


def test_a_sample_in_two_batches_is_one_sample() -> None:
    rng = np.random.default_rng(4)
    tally = samples_made(3, 3, rng, tau2=0.2, depth=300, n_genes=600)
    half = rng.binomial(tally.counts.astype(int), 0.5)
    counts = np.stack([half, tally.counts - half], axis=1).reshape(12, -1)
    sample, group = np.repeat(np.arange(6), 2), np.repeat([0, 1], 6)
    split = made(counts, np.repeat(tally.exposure / 2, 2, 0), group=group, batch=[0, 1] * 6, sample=sample, cells=25)
    for by_batch in (False, True):
        one, two = (contrast(t, [0], [1], by_batch=by_batch, over_samples=True) for t in (tally, split))
        np.testing.assert_allclose(two.evidence.counts1, one.evidence.counts1, rtol=1e-9)
        np.testing.assert_allclose(two.evidence.df, one.evidence.df, rtol=1e-9)


@pytest.mark.parametrize("n_strata", [1, 7])
def test_the_trace_of_the_design_is_that_of_its_matrices(n_strata) -> None:
    from celbo.posterior.contrast import _rank, _trace

    rng = np.random.default_rng(0)
    stratum, side = np.repeat(np.arange(n_strata), 6), rng.integers(0, 2, 6 * n_strata)
    weight = rng.gamma(1, 1, (6 * n_strata, 5))
    design = np.concatenate([np.eye(2)[side], np.eye(n_strata)[stratum]], axis=1)
    expected = [
        np.trace(np.linalg.pinv(design.T @ (w[:, None] * design)) @ (design.T @ (w[:, None] ** 2 * design)))
        for w in weight.T
    ]
    np.testing.assert_allclose(_trace(weight, side, stratum), expected)
    assert _rank(side, stratum) == np.linalg.matrix_rank(design)


@pytest.mark.parametrize(
    ("n1", "n2", "batch", "df"),
    [(3, 4, None, 5), (4, 4, [0, 0, 1, 1, 0, 0, 1, 1], 5), (3, 3, [0, 0, 1, 0, 1, 1], 3)],
)
def test_residual_degrees_of_freedom_are_samples_less_the_rank_of_the_design(n1, n2, batch, df, monkeypatch) -> None:
    from celbo.posterior import contrast as module

    asked = []
    monkeypatch.setattr(module, "moderated", lambda v, d: asked.append(d) or (v, np.full(v.shape, float(d))))
    tally = made(
        np.full((n1 + n2, 5), 50.0), 1e5, group=np.repeat([0, 1], [n1, n2]), batch=batch, sample=np.arange(n1 + n2)
    )
    found = contrast(tally, [0], [1], by_batch=True, over_samples=True)
    assert asked == [df]
    assert (found.evidence.df == df).all()


def test_a_real_change_between_samples_is_found() -> None:
    rng = np.random.default_rng(5)
    tally = samples_made(6, 6, rng, tau2=0.05, depth=100, n_genes=1000)
    planted = np.arange(1000) < 100
    fold = np.where(planted, 2 ** rng.uniform(0.32, 2, 1000), 1.0)
    up = rng.random(1000) < 0.5
    tally.counts[:6] = rng.binomial(tally.counts[:6].astype(int), np.where(up, 1, 1 / fold))
    tally.counts[6:] = rng.binomial(tally.counts[6:].astype(int), np.where(up, 1 / fold, 1))
    found = contrast(tally, [0], [1], by_batch=False, over_samples=True)
    grid = OnGrid.of(found.evidence)
    changes = grid.posterior(grid.fit_prior()).fold_changes(delta=0.25)
    called = expected_fdr(changes.not_p) <= 0.05
    assert called[planted & (fold > 2)].mean() > 0.85
    assert called[~planted].sum() <= 0.12 * called.sum()
    right = np.sign(changes.mean) == np.where(up, 1, -1)
    assert right[planted & called].all()


@pytest.mark.parametrize(("sample", "side"), [([0, 1, 2], "group 2"), ([0, 0, 1, 2], "group 1")])
def test_one_sample_on_a_side_is_named(sample, side) -> None:
    group = [0, 0, 1] if len(sample) == 3 else [0, 0, 1, 1]
    tally = made(np.ones((len(group), 2)), 1.0, group=group, sample=sample, batch=np.arange(len(group)))
    with pytest.raises(InputError, match=f"{side} is of one sample only"):
        contrast(tally, [0], [1], by_batch=False, over_samples=True)


def test_batches_that_leave_no_freedom_are_named() -> None:
    tally = made(np.ones((4, 2)), 1.0, group=[0, 0, 1, 1], sample=[0, 1, 2, 3], batch=[0, 1, 0, 2])
    with pytest.raises(InputError, match="leave no degree of freedom"):
        contrast(tally, [0], [1], by_batch=True, over_samples=True)
