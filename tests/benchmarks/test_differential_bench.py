"""The arithmetic of the benchmark of differential expression: scores against closed forms, data whose truth is true."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import false_discovery_control

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
CALLED = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
TRUTH = np.array([2.0, -0.6, 0.3, 0.0, 1.0, -0.4, 0.0, 0.0])  # called: three rightly and one wrongly


@pytest.fixture(scope="module")
def scores() -> Iterator[ModuleType]:
    yield from _imported("differential_scores")


@pytest.fixture(scope="module")
def sets() -> Iterator[ModuleType]:
    yield from _imported("differential_sets")


def _imported(name: str) -> Iterator[ModuleType]:
    if not FOLDER.is_dir():
        pytest.skip("an installed package has no benchmarks")
    sys.path.insert(0, str(FOLDER))
    try:
        yield __import__(name)
    finally:
        sys.path.remove(str(FOLDER))


def _evidence(scores: ModuleType, **other: object) -> object:
    targets = dict.fromkeys(scores.TARGETS, CALLED)
    return scores.Evidence(score=np.arange(8.0)[::-1], calls=targets, **other)


def test_adjusted_p_values_are_those_of_scipy(scores: ModuleType) -> None:
    p = np.random.default_rng(0).random(500) ** 3
    np.testing.assert_allclose(scores.benjamini_hochberg(p), false_discovery_control(p), rtol=1e-12)


def test_a_p_value_that_is_not_there_counts_as_one(scores: ModuleType) -> None:
    np.testing.assert_allclose(scores.benjamini_hochberg(np.array([np.nan, 0.01])), [1.0, 0.02])


def test_ranks_break_ties_by_the_second_number_and_keep_those_left(scores: ModuleType) -> None:
    first, tie = np.array([1.0, 1.0, 0.5, 1.0]), np.array([3.0, 5.0, 9.0, 3.0])
    assert scores.ranked(first, tie).tolist() == [1.0, 2.0, 0.0, 1.0]


def test_false_discoveries_are_counted_among_calls(scores: ModuleType) -> None:
    assert scores.false_discovery_proportion(CALLED, TRUTH != 0) == 1 / 4
    assert scores.false_discovery_proportion(np.zeros(8, bool), TRUTH != 0) == 0.0


def test_scores_of_one_answer(scores: ModuleType) -> None:
    told = scores.scored(_evidence(scores), TRUTH)
    assert told["fdp@0.05"] == 0.25
    assert told["power_all@0.05"] == 3 / 5
    assert told["power@0.05"] == pytest.approx(2 / 3, abs=1e-4)  # 2, -0.6 and 1 are strong
    assert (told["power 0.25 to 0.5"], told["power 1.5 to inf"], told["power 1 to 1.5"]) == (0.5, 1.0, 0.0)
    # the changed genes have ranks 1, 2, 3, 5, 6
    assert told["auprc"] == pytest.approx((1 + 1 + 1 + 4 / 5 + 5 / 6) / 5, abs=1e-4)


def test_ties_take_no_side_in_the_ranking(scores: ModuleType) -> None:
    tied = scores.Evidence(score=np.zeros(8), calls=dict.fromkeys(scores.TARGETS, CALLED))
    assert scores.scored(tied, TRUTH)["auprc"] == 5 / 8


def test_coverage_and_direction_are_of_the_true_fold_changes(scores: ModuleType) -> None:
    lfc = np.array([1.5, 0.2, 0.3, 0.0, 1.0, -0.4, 0.0, 0.0])  # the second with the wrong sign
    told = scores.scored(_evidence(scores, lfc=lfc, interval=(lfc - 0.5, lfc + 0.5)), TRUTH)
    assert told["wrong_sign@0.05"] == 1
    assert told["coverage"] == 7 / 8
    assert told["coverage_changed"] == 4 / 5
    assert told["lfc_rmse"] == pytest.approx(np.sqrt((0.25 + 0.64) / 5), abs=1e-4)


def test_a_rate_is_held_within_two_standard_errors(scores: ModuleType) -> None:
    rows = [{"fdp@0.05": v, "power@0.05": None} for v in (0.0, 0.08, 0.1)]
    told = scores.summed_up(rows)
    error = np.std([0.0, 0.08, 0.1], ddof=1) / np.sqrt(3)
    assert told["fdp@0.05"] == 0.06
    assert told["fdp@0.05 s.e."] == pytest.approx(error, rel=0.05)
    assert told["fdp@0.05 held"] and "power@0.05" not in told
    assert not scores.summed_up([{"fdp@0.05": v} for v in (0.061, 0.06, 0.062)])["fdp@0.05 held"]


def test_nulls_sum_up_to_the_share_of_splits_with_any_call(scores: ModuleType) -> None:
    told = scores.null_summary([0, 0, 3, 0, 1])
    assert (told["share_with_calls"], told["mean_calls"], told["most_calls"]) == (0.4, 0.8, 3)
    assert told["s.e."] == pytest.approx(np.sqrt(0.4 * 0.6 / 5), rel=0.01)


def test_planted_sets_have_the_sizes_and_the_share_of_changed_genes(sets: ModuleType) -> None:
    for name in ("150 v 340, deep", "30 v 30 among 1,000, deep", "types uneven over batches, shallow"):
        setting = sets.PLANTED[name]
        question = setting.make(0)
        assert (len(question.first), len(question.second)) == setting.sizes
        assert (question.truth != 0).mean() == pytest.approx(setting.changed, rel=0.15)
        assert question.adata.n_obs == sum(setting.sizes) + setting.background
    assert not sets.PLANTED["nothing differs, shallow"].make(0).truth.any()


def test_true_fold_changes_are_those_of_the_counts(sets: ModuleType) -> None:
    question = sets.Planted("x", (1_000, 1_000), inverse_dispersion=20.0).make(1)
    batch = question.adata.obs["batch"].astype(str).to_numpy()
    x = question.adata.X.toarray()
    in_batches = []
    for name in np.unique(batch):
        sums = [x[group[batch[group] == name]].sum(0) for group in (question.first, question.second)]
        in_batches.append([s / s.sum() for s in sums])
    shares = np.mean(in_batches, axis=0)
    seen = x.sum(0) > 10_000
    assert seen.sum() > 30
    np.testing.assert_allclose(np.log2(shares[0] / shares[1])[seen], question.truth[seen], atol=0.12)


def test_thinning_keeps_the_share_asked_for_in_group_one_alone(sets: ModuleType) -> None:
    whole, thin = (sets.Planted("x", (100, 100), thinned=share).make(0) for share in (1.0, 0.3))
    ratios = [thin.adata.X[g].sum() / whole.adata.X[g].sum() for g in (thin.first, thin.second)]
    assert ratios == pytest.approx([0.3, 1.0], abs=0.01)


def test_donors_are_on_one_side_only_and_as_many_of_each_batch(sets: ModuleType) -> None:
    question = sets.DONORS["6 v 6 donors of 3 batches, null"].make(0)
    of = [
        question.adata.obs.iloc[group][["batch", "sample"]].drop_duplicates()
        for group in (question.first, question.second)
    ]
    assert not set(of[0]["sample"]) & set(of[1]["sample"])
    assert [part.groupby("batch", observed=True).size().tolist() for part in of] == [[2, 2, 2], [2, 2, 2]]
