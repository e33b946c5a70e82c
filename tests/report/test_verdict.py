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
    assert "the weights of epoch 77 were kept" in sentence


def test_a_rise_at_the_end_is_still_improving():
    found = judged(-2000 + 8.0 * EPOCH + NOISE)
    assert (found.level, found.word) == ("fair", "still improving")
    assert "nats per cell at the end" in found.sentence
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
    decline = RISE - np.maximum(EPOCH - 60, 0) * 0.8 + NOISE
    assert judged(decline).word == "past its best"
    kept = judged(decline, best_epoch=60)
    assert (kept.level, kept.word) == ("good", "best kept")


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
        ("label silhouette", 0.49, 1.0, "poor"),
        ("neighbours kept", 0.3, 1.0, "none"),
        ("iLISI", float("nan"), 1.0, "none"),
    ],
)
def test_levels_of_metrics(metric, value, best, level):
    assert verdict.metric_level(metric, value, best) == level


def metrics(**after) -> pd.DataFrame:
    rows = {"mixing": ("mixing entropy", np.log(2)), "sil": ("label silhouette", 1.0), "clisi": ("cLISI", 1.0)}
    rows["ari"] = ("cluster ARI", 1.0)
    return pd.DataFrame(
        [{"metric": rows[k][0], "kind": "x", "before": 0.0, "after": v, "best": rows[k][1]} for k, v in after.items()]
    )


def test_mixing_is_told_as_a_share_of_the_best():
    found = verdict.mixing(metrics(mixing=0.9 * np.log(2)))
    assert (found.level, found.word) == ("good", "well mixed")
    assert "90%" in found.sentence
    assert "(before: 0%)" in found.sentence


def test_without_batches_or_labels_there_is_no_verdict():
    assert verdict.mixing(None) is None
    assert verdict.mixing(metrics(sil=0.6)) is None
    assert verdict.biology(metrics(mixing=0.6)) is None


def test_the_lower_of_silhouette_and_purity_decides_on_labels():
    assert verdict.biology(metrics(sil=0.6, clisi=0.99, ari=0.9)).level == "good"
    assert verdict.biology(metrics(sil=0.6, clisi=0.5, ari=0.9)).level == "poor"


def test_clear_labels_with_other_clusters_advise_another_resolution():
    found = verdict.biology(metrics(sil=0.6, clisi=0.99, ari=0.4))
    assert found.level == "good"
    assert "resolution" in found.advice


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
    assert verdict.fit(predictive(variance=3.0), 1000).advice.startswith("The variance is off most")
    assert "a factor of 3.0" in verdict.fit(predictive(variance=3.0), 1000).sentence


def test_genes_with_few_counts_do_not_decide():
    assert verdict.fit(predictive(mean=9.0), 10).level == "none"
    assert verdict.fit(None, 10) is None
