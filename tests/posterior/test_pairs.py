"""The published comparison: the arithmetic of pairs of draws, and what the sides are made of."""

from __future__ import annotations

import numpy as np
import pytest

from celbo.data.groups import Comparison, Groups
from celbo.posterior import pairs
from celbo.posterior.pairs import compare_draws, compare_pairs, default_pseudocount
from celbo.posterior.population import draw_scales, gene_slices, plan_draws

FIELDS = ("mean", "median", "sd", "lower", "upper", "p", "not_p")


def draws(*values) -> np.ndarray:
    """One row a draw, one column a gene."""
    return np.array(values, np.float32)


def test_probabilities_and_fold_changes_are_those_of_the_pairs() -> None:
    a = draws([4, 1], [8, 1], [1, 1], [2, 1])
    b = draws([1, 1], [1, 1], [2, 1], [1, 1])
    found = compare_draws(a, b, delta=1.0, pseudocount=0.0)
    assert found.higher.tolist() == [0.75, 0.5]  # equal draws count half
    assert found.changes.mean.tolist() == [1.25, 0]  # of 2, 3, -1, 1
    assert found.changes.median.tolist() == [1.5, 0]
    assert found.changes.sd == pytest.approx([np.std([2, 3, -1, 1]), 0])
    assert found.changes.p.tolist() == [0.75, 0]
    assert found.changes.not_p.tolist() == [0.25, 1]
    assert found.scale1.tolist() == [3.75, 1]
    assert found.scale2.tolist() == [1.25, 1]


@pytest.mark.parametrize(
    ("delta", "three", "two"), [(0.5, 0.5, 1.0), (1.5, 0.5, 0.75), (4.0, 0.0, 0.0), (0.0, 0.5, 1.0)]
)
def test_one_direction_or_both(delta, three, two) -> None:
    a, b = draws([4.0], [8], [1], [1]), draws([1.0], [1], [8], [2])  # 2, 3, -3, -1
    assert compare_draws(a, b, delta=delta, pseudocount=0.0).changes.p.tolist() == [three]
    assert compare_draws(a, b, delta=delta, pseudocount=0.0, test_mode="two").changes.p.tolist() == [two]


def test_draws_at_delta_count_on_both_sides_of_nothing() -> None:
    found = compare_draws(draws([1.0], [1]), draws([1.0], [1]), delta=0.0, pseudocount=0.0, test_mode="two").changes
    assert found.p.tolist() == [1]  # a change of at least nothing, once and not twice


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_has_equal_tails(level) -> None:
    a, b = np.random.default_rng(0).gamma(2, 1, (2, 400, 5)).astype(np.float32)
    found = compare_draws(a, b, delta=0.25, pseudocount=0.0, level=level).changes
    lfc = np.log2(a.astype(np.float64) / b)
    assert found.lower == pytest.approx(np.quantile(lfc, (1 - level) / 2, axis=0), abs=1e-5)
    assert found.upper == pytest.approx(np.quantile(lfc, (1 + level) / 2, axis=0), abs=1e-5)
    assert found.median == pytest.approx(np.median(lfc, axis=0), abs=1e-5)


def test_the_pseudocount_is_added_to_both_sides() -> None:
    found = compare_draws(np.full((5, 1), 3, np.float32), np.zeros((5, 1), np.float32), delta=0.25, pseudocount=1.0)
    assert found.changes.mean.tolist() == [2]


def test_shares_of_zero_without_a_pseudocount_have_finite_fold_changes() -> None:
    found = compare_draws(draws([0, 0.1]), draws([0, 0]), delta=0.25, pseudocount=0.0)
    assert found.changes.mean[0] == 0
    assert found.changes.p.tolist() == [0, 1]
    assert np.isfinite(found.changes.mean).all()


def test_swapped_sides_have_the_opposite_changes() -> None:
    a, b = np.random.default_rng(0).gamma(2, 1, (2, 400, 5)).astype(np.float32)
    one, two = (compare_draws(*sides, delta=0.25, pseudocount=0.1) for sides in ((a, b), (b, a)))
    assert one.higher == pytest.approx(1 - two.higher)
    assert one.changes.mean == pytest.approx(-two.changes.mean, abs=1e-6)
    assert one.changes.lower == pytest.approx(-two.changes.upper, abs=1e-5)
    assert one.changes.p.tolist() == two.changes.p.tolist()


def test_genes_are_compared_alike_in_blocks_of_any_size(monkeypatch) -> None:
    a, b = np.random.default_rng(0).random((2, 50, 300), np.float32)
    whole = compare_draws(a, b, delta=0.25, pseudocount=1e-3)
    monkeypatch.setattr(pairs, "_GENES", 7)
    parts = compare_draws(a, b, delta=0.25, pseudocount=1e-3)
    for field in FIELDS:
        np.testing.assert_allclose(getattr(whole.changes, field), getattr(parts.changes, field), rtol=1e-6)
    np.testing.assert_array_equal(whole.higher, parts.higher)


OPTIONS = {
    "n_samples": 300, "batches": [0, 1], "delta": 0.25, "pseudocount": 1e-4, "level": 0.95, "test_mode": "three",
    "importance_weighting": False, "seed": 4,
}  # fmt: skip
CELLS = (np.arange(60), np.arange(60, 90), np.arange(90, 300))


def three_groups(*comparisons: Comparison) -> Groups:
    return Groups(("a", "b", "c"), CELLS, comparisons)


def test_a_comparison_is_that_of_the_draws_of_its_groups(asked) -> None:
    found = compare_pairs(asked.network, asked.data, three_groups(Comparison("a", "b", (0,), (1,))), **OPTIONS)
    planned = plan_draws(asked.data, CELLS, n_samples=300, batches=[0, 1], seed=4)
    scales = draw_scales(asked.network, asked.data, planned, genes=slice(0, 120), seed=4)
    expected = compare_draws(scales[0], scales[1], delta=0.25, pseudocount=1e-4)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(found[0].changes, field), getattr(expected.changes, field))
    np.testing.assert_array_equal(found[0].higher, expected.higher)


def test_comparisons_share_their_draws(asked) -> None:
    both = three_groups(
        Comparison("a", "b", (0,), (1,)), Comparison("b", "a", (1,), (0,)), Comparison("a", "c", (0,), (2,))
    )
    one, other, third = compare_pairs(asked.network, asked.data, both, **OPTIONS)
    assert one.higher == pytest.approx(1 - other.higher)
    np.testing.assert_array_equal(one.scale1, other.scale2)
    np.testing.assert_array_equal(one.scale1, third.scale1)


def test_the_rest_takes_draws_in_proportion_to_cells(asked) -> None:
    source = pairs._sources((1, 2), np.array([60.0, 30, 210]), 800, np.random.default_rng(0))
    assert np.bincount(source).tolist() == [0, 100, 700]
    alone, rest = compare_pairs(
        asked.network,
        asked.data,
        three_groups(Comparison("b", "c", (1,), (2,)), Comparison("a", "rest", (0,), (1, 2))),
        **OPTIONS | {"n_samples": 2400},
    )
    expected = (30 * alone.scale1 + 210 * alone.scale2) / 240
    np.testing.assert_allclose(rest.scale2, expected, rtol=0.1)


def test_a_comparison_in_slices_of_genes_is_the_comparison(asked, monkeypatch) -> None:
    groups = three_groups(Comparison("a", "rest", (0,), (1, 2)))
    whole = compare_pairs(asked.network, asked.data, groups, **OPTIONS)[0]
    monkeypatch.setattr(pairs, "gene_slices", lambda n_genes, n_draws: gene_slices(n_genes, 1, max_bytes=4 * 50))
    parts = compare_pairs(asked.network, asked.data, groups, **OPTIONS)[0]
    for field in FIELDS:
        np.testing.assert_allclose(getattr(whole.changes, field), getattr(parts.changes, field), rtol=1e-6, atol=1e-7)


def test_the_default_pseudocount_is_the_share_of_one_count_in_a_hundred_cells(asked, make_asked) -> None:
    assert default_pseudocount(asked.data, asked.every) == pytest.approx(0.01 / asked.data.library.mean())
    some = np.arange(20)
    assert default_pseudocount(asked.data, some) == pytest.approx(0.01 / asked.data.library[some].mean())
    sized = make_asked(size_factor_key="size").data
    assert default_pseudocount(sized, some) == pytest.approx(0.01 / sized.size_factor[some].mean())
