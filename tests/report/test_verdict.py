"""The rules that turn numbers into sentences."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from celbo.report import verdict

N = 100
EPOCH = np.arange(N)
RISE = -1000 - 300 * np.exp(-EPOCH / 10)
NOISE = np.random.default_rng(0).normal(0, 0.3, N)


def judged(validation, **given):
    return verdict.training(
        pd.DataFrame({"elbo_train": RISE[: len(validation)], "elbo_validation": validation}), **given
    )


def test_a_flat_end_is_converged():
    found = judged(RISE + NOISE)
    assert (found.level, found.word) == ("good", "converged")
    assert found.sentence == "The validation ELBO is flat at the end, after 100 epochs."


def test_a_plateau_is_converged_and_says_which_weights_were_kept():
    sentence = judged(RISE + NOISE, stopped="plateau", best_epoch=77).sentence
    assert "stopped improving" in sentence
    assert "the weights of epoch 78 were kept" in sentence


def test_a_rise_at_the_end_is_still_improving():
    found = judged(-2000 + 8.0 * EPOCH + NOISE)
    assert (found.level, found.word) == ("fair", "still improving")
    assert "was still rising at the end, by 80" in found.sentence
    assert "twice as many epochs" in found.advice


@pytest.mark.parametrize(("share", "word"), [(0.45, "converged"), (0.55, "unstable")])
def test_a_spike_is_a_fall_above_half_the_range(share, word):
    curve = -1000 - 300.0 * (1 - EPOCH / 70).clip(0)  # 5-95% range known up to a small share, flat from epoch 70
    span = np.diff(np.quantile(curve, [0.05, 0.95]))[0]
    curve[80] -= share * span
    assert judged(curve).word == word


def test_a_fall_in_the_first_fifth_is_no_spike():
    curve = RISE.copy()
    curve[5] -= 500
    assert judged(curve + NOISE).word == "converged"


def test_a_decline_is_past_its_best_unless_the_best_was_kept():
    decline = RISE - np.maximum(EPOCH - 60, 0) * 0.2 + NOISE
    assert judged(decline).word == "past its best"
    kept = judged(decline, best_epoch=60)
    assert (kept.level, kept.word) == ("good", "best kept")
    assert "the weights of epoch 61 were kept" in kept.sentence


def test_a_long_decline_of_the_validation_curve_is_overfitting_though_the_best_was_kept():
    decline = RISE - np.maximum(EPOCH - 60, 0) * 0.8 + NOISE
    found = judged(decline, best_epoch=60, n_cells=60)
    assert (found.level, found.word) == ("fair", "overfitted")
    assert "nats per cell below its best; the weights of epoch 61 were kept." in found.sentence
    assert found.advice.startswith("It overfits: 60 cells are few for it. More cells help most")


def test_a_decline_of_the_training_curve_is_not_called_overfitting():
    decline = RISE - np.maximum(EPOCH - 60, 0) * 0.8 + NOISE
    found = verdict.training(pd.DataFrame({"elbo_train": decline}))
    assert found.word == "past its best"
    assert "overfit" not in found.sentence + found.advice


@pytest.mark.parametrize(
    ("held_out", "train", "level", "word"),
    [
        (0.42, 0.48, "good", "converged"),
        (0.30, 0.44, "good", "converged"),
        (0.30, 0.46, "fair", "overfitted"),
        (0.29, 0.56, "poor", "overfitted"),
        (0.45, 0.30, "good", "converged"),
    ],
)
def test_what_is_explained_of_training_cells_alone_is_overfitting(held_out, train, level, word):
    found = judged(RISE + NOISE, explained=verdict.Explained(held_out, train, 50), n_cells=5000)
    assert (found.level, found.word) == (level, word)
    told = f"explains {100 * train:.0f}% of the deviance of the cells it was trained on, but only {100 * held_out:.0f}%"
    assert (told in found.sentence) == (word == "overfitted")
    assert "are few" not in found.advice


def test_overfitting_is_not_answered_with_more_epochs():
    rising = judged(-2000 + 8.0 * EPOCH + NOISE, explained=verdict.Explained(0.2, 0.6, 6))
    assert rising.word == "overfitted"
    assert "epochs" not in rising.advice


def test_an_undefined_elbo_is_unstable():
    history = pd.DataFrame({"elbo_train": [*RISE[:30], np.nan], "elbo_validation": [*RISE[:30], np.nan]})
    assert verdict.training(history).level == "poor"
    assert judged([*RISE[:30], -np.inf]).word == "unstable"


def test_nine_epochs_are_too_few_and_ten_are_enough():
    assert judged(RISE[:9]).word == "too short"
    assert judged(RISE[:10]).word != "too short"


def test_no_history_and_one_epoch_are_too_few():
    assert verdict.training(None).level == "none"
    assert "1 epoch," in judged(RISE[:1]).sentence


def test_an_interrupted_run_says_how_to_go_on():
    found = judged(RISE[:30], stopped="interrupted")
    assert (found.word, found.advice) == ("interrupted", "Resume it to finish.")


def test_without_validation_the_training_curve_decides():
    history = pd.DataFrame({"elbo_train": RISE + NOISE, "elbo_validation": np.nan})
    assert verdict.training(history).sentence.startswith("The training ELBO is flat")


def test_validation_every_third_epoch_is_enough():
    curve = np.where(EPOCH % 3 == 0, RISE, np.nan)
    assert judged(curve).word == "converged"


@pytest.mark.parametrize(
    ("metric", "value", "best", "level"),
    [
        ("mixing entropy", 0.56, 0.69, "good"),
        ("mixing entropy", 0.40, 0.69, "fair"),
        ("mixing entropy", 0.10, 0.69, "poor"),
        ("iLISI", 0.30, 0.47, "good"),
        ("cLISI", 0.95, 1.0, "good"),
        ("label purity", 0.95, 1.0, "good"),
        ("Leiden ARI", 0.45, 1.0, "fair"),
        ("Leiden NMI", 0.45, 1.0, "poor"),
        ("label silhouette", 0.49, 1.0, "poor"),
        ("neighbours kept", 0.3, 1.0, "none"),
        ("iLISI", float("nan"), 1.0, "none"),
    ],
)
def test_levels_of_metrics(metric, value, best, level):
    assert verdict.metric_level(metric, value, best) == level


ROWS = {
    "mixing": ("mixing entropy", "batch", np.log(2), np.nan),
    "ilisi": ("iLISI", "batch", 1.0, np.nan),
    "overlap": ("batch silhouette", "batch", 1.0, np.nan),
    "purity": ("label purity", "biology", 1.0, 0.2),
    "sil": ("label silhouette", "biology", 1.0, np.nan),
    "clisi": ("cLISI", "biology", 1.0, np.nan),
    "kmeans": ("k-means ARI", "biology", 1.0, 0.0),
    "ari": ("Leiden ARI", "biology", 1.0, 0.0),
}


def metrics(**after) -> pd.DataFrame:
    meaning = "Mean share of a cell's 30 nearest neighbours that have its own label."
    return pd.DataFrame(
        [
            dict(zip(("metric", "kind", "best", "chance"), ROWS[k], strict=True))
            | {"before": 0.0, "after": v, "meaning": meaning}
            for k, v in after.items()
        ]
    )


def labels(**purity) -> pd.DataFrame:
    table = {"cells": 100, "purity": list(purity.values()), "chance": 0.2, "best": 1.0, "neighbour": "other"}
    return pd.DataFrame(table | {"neighbour_share": [(1 - p) / 2 for p in purity.values()]}, index=list(purity))


def resolutions(here: float, there: float, other_seed: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "resolution": [0.3, 0.5], "clusters": [7, 12], "ari": [there, here], "ari_other_seed": [other_seed, here],
            "chosen": [False, True],
        }
    )  # fmt: skip


def test_mixing_is_told_as_a_share_of_the_best():
    found = verdict.mixing(metrics(mixing=0.9 * np.log(2)))
    assert (found.level, found.word, found.advice) == ("good", "well mixed", "")
    assert found.sentence == ("Batches reach 90% of the mixing entropy that their sizes allow (before the model: 0%).")


def test_batches_apart_are_told_as_such():
    found = verdict.mixing(metrics(mixing=0.1 * np.log(2)))
    assert (found.level, found.word) == ("poor", "apart")
    assert "reach 10%" in found.sentence
    assert found.advice.startswith("See in the map by batch")


def test_no_green_tick_over_rows_on_batches_that_are_mostly_not_good():
    assert verdict.mixing(metrics(mixing=0.9 * np.log(2), ilisi=0.3, overlap=0.8)).word == "partly mixed"
    assert verdict.mixing(metrics(mixing=0.9 * np.log(2), ilisi=0.7, overlap=0.8)).word == "well mixed"


def test_where_each_label_is_in_one_batch_nothing_is_claimed_of_mixing_or_labels():
    table = metrics(mixing=0.0, overlap=np.nan, purity=0.99, sil=0.9)
    mixed, apart = verdict.mixing(table), verdict.biology(table)
    assert (mixed.level, mixed.word) == ("none", "cannot be told")
    assert "Each label is found in one batch only" in mixed.sentence
    assert apart.level == "fair"
    assert "Neighbourhoods may be pure because batches are apart." in apart.advice
    mixed_up = verdict.biology(metrics(mixing=0.6, overlap=np.nan, purity=0.3, sil=0.5))
    assert "may be pure" not in mixed_up.advice
    clear = metrics(mixing=0.5, overlap=0.9, purity=0.99, sil=0.9)
    assert "one batch only" not in verdict.mixing(clear).sentence + verdict.biology(clear).advice


def test_without_batches_or_labels_there_is_no_verdict():
    assert verdict.mixing(None) is None
    assert verdict.mixing(metrics(purity=0.6)) is None
    assert verdict.biology(metrics(mixing=0.6)) is None


@pytest.mark.parametrize(
    ("purity", "level", "word"),
    [
        (0.9, "good", "labels apart"),
        (0.68, "fair", "labels partly apart"),
        (0.45, "poor", "labels overlap"),
        (0.2, "poor", "labels overlap"),
    ],
)
def test_the_mean_purity_decides_on_labels_and_is_what_is_printed(purity, level, word):
    found = verdict.biology(metrics(purity=purity, sil=0.6, clisi=0.97))
    assert (found.level, found.word) == (level, word)
    assert found.sentence.startswith(
        f"On average {100 * purity:.0f}% of a cell's 30 nearest neighbours have its label (by chance: 20%)."
    )
    assert "cLISI" not in found.sentence


def test_the_number_of_neighbours_is_that_of_the_metric():
    table = metrics(purity=0.6)
    table["meaning"] = "Mean share of a cell's 12 nearest neighbours that have its own label."
    assert "a cell's 12 nearest neighbours" in verdict.biology(table).sentence


def test_labels_of_few_cells_are_told_to_keep_the_purity_down():
    table = metrics(purity=0.3)
    table["best"] = 0.34
    found = verdict.biology(table)
    assert found.level == "fair"
    assert "(by chance: 20%; at most: 34%, since some labels have few cells)" in found.sentence
    assert "at most" not in verdict.biology(metrics(purity=0.3)).sentence


def test_a_purity_near_that_of_chance_is_poor_however_high():
    table = metrics(purity=0.91)
    table["chance"] = 0.9
    assert verdict.biology(table).level == "poor"


def test_no_green_tick_over_rows_on_labels_that_are_mostly_not_good():
    assert verdict.biology(metrics(purity=0.9, sil=0.52, clisi=0.9, kmeans=0.4)).level == "fair"
    assert verdict.biology(metrics(purity=0.9, sil=0.52, clisi=0.97, kmeans=0.7)).level == "good"


def test_labels_that_blur_are_named_with_what_they_blur_into():
    found = verdict.biology(metrics(purity=0.7), labels(B=0.95, CD8=0.5, CD4=0.4, NK=0.7))
    assert "Blurred: CD4 (40% its own, 30% other); CD8 (50% its own, 25% other)." in found.sentence
    assert "NK" not in found.sentence
    assert found.advice == "The table of labels shows which ones blur."


def test_many_blurred_labels_are_counted():
    found = verdict.biology(metrics(purity=0.3), labels(**{f"t{i}": 0.3 for i in range(9)}))
    assert found.sentence.count("% its own") == 3
    assert "; and 6 more." in found.sentence


def test_labels_that_do_not_blur_are_not_named_and_the_least_pure_one_only_where_not_all_is_good():
    apart = verdict.biology(metrics(purity=0.95), labels(B=0.95, NK=0.94))
    assert "Blurred" not in apart.sentence
    assert "Least pure" not in apart.sentence
    assert apart.advice == ""
    partly = verdict.biology(metrics(purity=0.75), labels(B=0.9, NK=0.65))
    assert "Blurred" not in partly.sentence
    assert "Least pure: NK (65% its own" in partly.sentence


def test_the_agreement_is_named_by_what_made_the_clusters():
    assert (
        "Leiden clusters and labels agree at an ARI of 0.40" in verdict.biology(metrics(purity=0.9, ari=0.4)).sentence
    )
    both = verdict.biology(metrics(purity=0.9, kmeans=0.3, ari=0.8)).sentence
    assert "Leiden clusters and labels agree at an ARI of 0.80" in both
    assert "0.30" not in both
    assert (
        "K-means clusters and labels agree at an ARI of 0.30"
        in verdict.biology(metrics(purity=0.9, kmeans=0.3)).sentence
    )
    assert "ARI" not in verdict.biology(metrics(purity=0.9)).sentence


@pytest.mark.parametrize(
    ("there", "other_seed", "told"), [(0.71, 0.7, True), (0.505, 0.505, False), (0.71, 0.51, False), (0.3, 0.3, False)]
)
def test_another_resolution_is_named_only_if_it_was_tried_and_gains_with_both_seeds(there, other_seed, told):
    found = verdict.biology(metrics(purity=0.9, ari=0.5), None, resolutions(0.5, there, other_seed))
    sentence = "Of the 2 resolutions tried, 0.3 agrees best with the labels: 7 clusters, ARI 0.71."
    assert found.advice == (sentence if told else "")


def test_low_agreement_alone_says_nothing_of_resolutions():
    assert "resolution" not in verdict.biology(metrics(purity=0.9, ari=0.2)).advice


def test_labels_too_small_to_judge_are_not_judged():
    table = metrics(purity=0.0)
    table["best"] = 0.0
    assert verdict.biology(table).level == "none"


def predictive(mean=1.0, variance=1.0, zeros=0.0) -> pd.DataFrame:
    seen = np.linspace(0.5, 3, 50)
    return pd.DataFrame(
        {
            "mean_observed": seen, "mean_predicted": seen * mean, "variance_observed": seen,
            "variance_predicted": seen * variance, "zeros_observed": 0.5, "zeros_predicted": 0.5 + zeros,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ({}, "good"),
        ({"mean": 2**0.19}, "good"),
        ({"mean": 2**-0.4}, "fair"),
        ({"variance": 2**1.1}, "poor"),
        ({"zeros": 0.04}, "fair"),
        ({"zeros": -0.07}, "poor"),
    ],
)
def test_the_worst_of_mean_variance_and_zeros_decides_the_fit(given, level):
    assert verdict.fit(predictive(**given), 1000).level == level


def test_chance_in_few_cells_is_no_misfit():
    rng = np.random.default_rng(0)
    check = predictive().assign(
        zeros_observed=rng.binomial(400, 0.5, 50) / 400, zeros_predicted=rng.binomial(400, 0.5, 50) / 400
    )
    assert (check["zeros_observed"] - check["zeros_predicted"]).abs().mean() > verdict.FIT_ZEROS[0]
    assert verdict.fit(check, 400).level == "good"


def test_the_fit_names_what_is_off():
    found = verdict.fit(predictive(variance=3.0), 1000)
    assert found.advice == "The variance is off most; another likelihood or dispersion may fit better."
    assert "the variance by a factor of 3.0" in found.sentence
    both = verdict.fit(predictive(mean=2.0, variance=3.0), 1000)
    assert both.advice.startswith("The mean and variance are off most")


def test_a_good_fit_has_no_advice():
    found = verdict.fit(predictive(), 1000)
    assert (found.word, found.advice) == ("fits the counts", "")
    assert "the mean is off by 0%, the variance by 0%, the share of zeros by 0.0 percentage points" in found.sentence


def test_with_few_cells_or_overfitting_no_other_likelihood_is_advised():
    few = verdict.fit(predictive(variance=3.0), 60)
    assert few.advice == "The variance is off most; with 60 cells, more cells help most."
    overfitted = verdict.fit(predictive(variance=3.0), 3000, explained=verdict.Explained(0.2, 0.6, 300))
    assert overfitted.advice == "The variance is off most; the model overfits, so see Training first."


def test_genes_with_few_counts_do_not_decide():
    assert verdict.fit(predictive(mean=9.0), 10).level == "none"
    assert verdict.fit(None, 10) is None
