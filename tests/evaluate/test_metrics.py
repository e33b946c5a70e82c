"""Integration metrics against closed forms, toy geometries and naive implementations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import silhouette_score

from celbo import evaluate
from celbo.errors import InputError


@pytest.fixture(scope="module")
def mixed() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(1200, 4)), rng.permutation(1200) % 2


@pytest.fixture(scope="module")
def apart() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    group = np.arange(900) % 3
    return rng.normal(size=(900, 4)) + 100 * np.eye(4)[group], group


def naive_neighbours(x: np.ndarray, i: int, k: int) -> np.ndarray:
    distance = np.sqrt(((x - x[i]) ** 2).sum(1))
    distance[i] = np.inf
    return np.argsort(distance, kind="stable")[:k]


def naive_lisi(x: np.ndarray, groups: np.ndarray, i: int, perplexity: float, k: int) -> float:
    near = naive_neighbours(x, i, k)
    distance = np.sqrt(((x[near] - x[i]) ** 2).sum(1))
    low, high = 1e-6, 1e6
    for _ in range(200):
        beta = np.sqrt(low * high)
        p = np.exp(-beta * (distance - distance[0]))
        p /= p.sum()
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum()
        low, high = (beta, high) if entropy > np.log(perplexity) else (low, beta)
    return 1 / sum(p[groups[near] == g].sum() ** 2 for g in np.unique(groups))


def test_mixed_batches_have_entropy_near_ln2(mixed):
    assert evaluate.batch_mixing_entropy(*mixed) == pytest.approx(np.log(2), abs=0.015)


def test_separate_batches_have_no_entropy(apart):
    assert evaluate.batch_mixing_entropy(*apart) == 0.0


def test_entropy_is_the_naive_mean(mixed):
    x, batch = mixed[0][:150], mixed[1][:150]
    share = [np.bincount(batch[naive_neighbours(x, i, 20)], minlength=2) / 20 for i in range(150)]
    naive = np.mean([-sum(p * np.log(p) for p in row if p > 0) for row in share])
    assert evaluate.batch_mixing_entropy(x, batch, n_neighbors=20) == pytest.approx(naive, rel=1e-12)


def test_ilisi_of_mixed_batches_is_near_one(mixed):
    # about 30 weighted neighbours: chance costs a few percent
    assert evaluate.ilisi(*mixed) == pytest.approx(0.94, abs=0.05)


def test_ilisi_of_separate_batches_is_zero(apart):
    assert evaluate.ilisi(*apart) == pytest.approx(0.0, abs=1e-12)


def test_clisi_of_separate_labels_is_one_and_of_random_labels_near_zero(apart, mixed):
    assert evaluate.clisi(*apart) == pytest.approx(1.0, abs=1e-12)
    assert evaluate.clisi(*mixed) == pytest.approx(0.06, abs=0.05)


def test_lisi_is_the_naive_index(mixed):
    x, batch = mixed[0][:300], mixed[1][:300]
    found = evaluate.lisi(x, batch)
    assert found[:20] == pytest.approx([naive_lisi(x, batch, i, 30, 90) for i in range(20)], rel=1e-9)


def test_lisi_of_equal_points_counts_groups_evenly():
    assert evaluate.lisi(np.zeros((40, 2)), np.zeros(40)) == pytest.approx(np.ones(40))


def test_silhouettes_are_sklearns(apart):
    x, groups = apart
    plain = silhouette_score(x, groups)
    assert evaluate.silhouette(x, groups) == pytest.approx(plain)
    assert evaluate.label_silhouette(x, groups) == pytest.approx((plain + 1) / 2)


def test_batch_silhouette_is_near_one_when_mixed_and_near_zero_when_apart(mixed, apart):
    assert evaluate.batch_silhouette(*mixed) > 0.98
    assert evaluate.batch_silhouette(*apart) < 0.05


def test_batch_silhouette_averages_labels_not_cells():
    rng = np.random.default_rng(2)
    label = np.array(["big"] * 400 + ["small"] * 40)
    batch = np.arange(440) % 2
    x = rng.normal(size=(440, 3))
    x[(label == "small") & (batch == 1)] += 1000.0  # this label's batches are apart
    assert evaluate.batch_silhouette(x, batch, label) == pytest.approx(0.5, abs=0.04)


def test_batch_silhouette_without_two_batches_in_a_label_is_nan():
    x = np.random.default_rng(0).normal(size=(20, 2))
    assert np.isnan(evaluate.batch_silhouette(x, np.arange(20) // 10, np.arange(20) // 10))


def test_neighbours_are_all_kept_under_rotation_and_few_under_shuffling(mixed):
    x = mixed[0]
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0]
    assert evaluate.neighbourhood_preservation(x, 3 * x @ turn) == pytest.approx(1.0)
    shuffled = x[np.random.default_rng(4).permutation(len(x))]
    assert evaluate.neighbourhood_preservation(x, shuffled) == pytest.approx(15 / len(x), abs=0.01)


def test_neighbours_within_batch_ignore_a_batch_shift(mixed):
    x, batch = mixed
    shifted = x + 50.0 * batch[:, None]
    assert evaluate.neighbourhood_preservation(x, shifted, batch) == pytest.approx(1.0)
    assert evaluate.neighbourhood_preservation(x, shifted) < 0.7


def test_kmeans_finds_separate_labels(apart):
    assert evaluate.kmeans_agreement(*apart, seed=1) == (pytest.approx(1.0), pytest.approx(1.0))


def test_ari_of_a_known_table():
    # pairs: 2 together in both; (3 + 3) and (1 + 3) together in one: Hubert & Arabie by hand
    assert evaluate.ari([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]) == pytest.approx((4 - 6 * 7 / 15) / (6.5 - 6 * 7 / 15))
    assert evaluate.nmi(["a", "a", "b", "b"], [1, 1, 0, 0]) == pytest.approx(1.0)


def test_missing_labels_are_left_out():
    assert evaluate.ari(np.array(["a", "a", "b", None], dtype=object), [0, 0, 1, 0]) == pytest.approx(1.0)
    assert evaluate.ari([0, 0, 1, -1], pd.Series(["x", "x", "y", "x"])) == pytest.approx(1.0)


def test_the_subset_bounds_the_cost_and_keeps_its_seed(mixed):
    few = evaluate.silhouette(*mixed, max_cells=200, seed=5)
    assert few == evaluate.silhouette(*mixed, max_cells=200, seed=5)
    assert few != evaluate.silhouette(*mixed, max_cells=200, seed=6)


def test_the_table_agrees_with_the_single_functions(apart):
    x, group = apart
    batch = np.random.default_rng(0).integers(0, 2, len(x))
    table = evaluate.integration_metrics(x, batch, group, group).set_index("metric")
    assert table.loc["mixing entropy", "value"] == evaluate.batch_mixing_entropy(x, batch)
    assert table.loc["iLISI", "value"] == evaluate.ilisi(x, batch)
    assert table.loc["batch silhouette", "value"] == evaluate.batch_silhouette(x, batch, group)
    assert table.loc["cluster ARI", "value"] == 1.0
    assert table.loc["label purity", "value"] == evaluate.label_purity(x, group).mean
    assert list(table["kind"]) == ["batch"] * 3 + ["biology"] * 7


def test_best_is_what_unequal_batches_can_reach():
    rng = np.random.default_rng(0)
    batch = (rng.permutation(4000) < 800).astype(int)
    table = evaluate.integration_metrics(rng.normal(size=(4000, 3)), batch).set_index("metric")
    assert table.loc["mixing entropy", "best"] == pytest.approx(-(0.2 * np.log(0.2) + 0.8 * np.log(0.8)))
    assert table.loc["iLISI", "best"] == pytest.approx(1 / 0.68 - 1)
    assert table.loc["iLISI", "value"] == pytest.approx(table.loc["iLISI", "best"], abs=0.07)


def test_one_batch_and_no_labels_give_an_empty_table(mixed):
    assert evaluate.integration_metrics(mixed[0], np.zeros(1200, int)).empty


def test_compare_without_batches_and_labels_tells_what_is_kept(mixed):
    table = evaluate.compare_latents({"before": mixed[0], "after": mixed[0]})
    assert list(table["metric"]) == ["neighbours kept"]
    assert table["after"].to_list() == [1.0]


def test_compare_puts_before_and_after_side_by_side(apart):
    x, group = apart
    batch = np.arange(len(x)) % 2
    table = evaluate.compare_latents({"before": x, "after": 2 * x}, batch, group, group)
    assert list(table.columns) == ["metric", "kind", "before", "after", "best", "chance", "meaning"]
    rows = table.set_index("metric")
    assert rows.loc["cLISI", "before"] == rows.loc["cLISI", "after"] == pytest.approx(1.0)
    assert np.isnan(rows.loc["cluster ARI", "before"])
    assert rows.loc["neighbours kept", "after"] == pytest.approx(1.0)


def test_non_finite_coordinates_are_a_named_error():
    with pytest.raises(InputError, match="finite"):
        evaluate.silhouette(np.full((4, 2), np.nan), [0, 1, 0, 1])


def test_a_wrong_length_is_a_named_error(mixed):
    with pytest.raises(InputError, match="1200 and 3"):
        evaluate.ilisi(mixed[0], [0, 1, 0])


def test_predictive_moments_are_numpys():
    rng = np.random.default_rng(0)
    seen, drawn = rng.poisson(0.7, (50, 6)), [rng.poisson(1.1, (50, 6)) for _ in range(2)]
    table = evaluate.predictive_check(sparse.csr_matrix(seen), [sparse.csr_matrix(d) for d in drawn], list("abcdef"))
    assert table["mean_observed"].to_numpy() == pytest.approx(seen.mean(0))
    assert table["variance_observed"].to_numpy() == pytest.approx(seen.var(0))
    assert table["zeros_predicted"].to_numpy() == pytest.approx(np.mean([(d == 0).mean(0) for d in drawn], axis=0))
    assert table["variance_predicted"].to_numpy() == pytest.approx(np.mean([d.var(0) for d in drawn], axis=0))


def test_predictive_check_refuses_other_genes():
    with pytest.raises(InputError, match="do not match"):
        evaluate.predictive_check(sparse.csr_matrix((3, 4)), sparse.csr_matrix((3, 5)), list("abcd"))
