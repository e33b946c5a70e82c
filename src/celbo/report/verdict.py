"""Numbers turned into one sentence each: the rules are the constants below, and nothing else decides.

The rules of training follow CellBender's report (spike, end dip, too short), with "still improving" in place of its
test-set comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["Level", "Verdict", "biology", "fit", "metric_level", "mixing", "training"]

Level = Literal["good", "fair", "poor", "none"]
_ORDER: tuple[Level, Level, Level] = ("poor", "fair", "good")

MIN_EPOCHS = 10
"""Fewer epochs than this are too few to judge."""
SPIKE = 0.5
"""A fall of the ELBO in one epoch by more than this share of its 5-95% range is a spike ..."""
SPIKE_AFTER = 0.2
"""... once this share of the epochs is over."""
TAIL = 0.2
"""Share of the epochs, at the end, in which the gain is measured: its second half against its first."""
STILL_IMPROVING = 0.02
"""A gain over the tail above this share of the 5-95% range, and above ..."""
WORTH = 5e-4
"""... this share of the ELBO itself, is worth more epochs."""
DIP_SD = 5.0
"""A smoothed end below the best by more than this many s.d. of the noise, and by more than `WORTH`, is a decline."""

LEVELS: dict[str, tuple[float, float]] = {
    "mixing entropy": (0.8, 0.5),
    "iLISI": (0.6, 0.25),
    "batch silhouette": (0.85, 0.75),
    "label silhouette": (0.55, 0.5),
    "cLISI": (0.95, 0.85),
    "k-means ARI": (0.6, 0.3),
    "k-means NMI": (0.7, 0.5),
    "cluster ARI": (0.6, 0.3),
    "cluster NMI": (0.7, 0.5),
}
"""From which share of the best possible value a metric is good, and from which it is fair."""

FIT_MEAN = (0.2, 0.5)
"""Median |log2(predicted / observed)| of the gene means, up to which the fit is good, and fair."""
FIT_VARIANCE = (0.4, 1.0)
"""The same of the variances."""
FIT_ZEROS = (0.02, 0.05)
"""Typical difference of the zero fractions beyond chance, up to which the fit is good, and fair."""
FIT_COUNTS = 50
"""Genes with fewer counts in all are left out of the fit: their moments are chance."""


@dataclass(frozen=True)
class Verdict:
    """A judgement in words."""

    level: Level
    word: str
    """One or two words, as on a badge."""
    sentence: str
    advice: str = ""
    """What to do, a full sentence; empty where nothing is to be done."""


def training(history: pd.DataFrame | None, *, stopped: str = "finished", best_epoch: int | None = None) -> Verdict:
    """Judge a training history: converged, still improving, unstable, past its best, interrupted or too short.

    Parameters
    ----------
    history
        `model.history`, one row an epoch; the validation ELBO decides, or the training ELBO where there is none.
    stopped
        "finished", "plateau" or "interrupted".
    best_epoch
        Epoch whose weights were kept.
    """
    which, elbo = _curve(history)
    return _cut_short(elbo, stopped) or _shape(which, elbo, stopped, best_epoch)


_HALVE = "Train again with half the learning rate, and look for cells with extreme counts."


def _cut_short(elbo: NDArray[np.float64], stopped: str) -> Verdict | None:
    """Verdicts that need no shape: broken, interrupted, too short."""
    n = len(elbo)
    epochs = f"{n} epoch{'s' * (n != 1)}"
    if n and not np.isfinite(elbo).all():
        return Verdict("poor", "unstable", "The ELBO became infinite or undefined.", _HALVE)
    if stopped == "interrupted":
        return Verdict("fair", "interrupted", f"Training was interrupted after {epochs}.", "Resume it to finish.")
    if n < MIN_EPOCHS:
        few = f"Training had {epochs}, too few to judge."
        return Verdict("none", "too short", few, f"Train for at least {MIN_EPOCHS} epochs.")
    return None


def _shape(which: str, elbo: NDArray[np.float64], stopped: str, best_epoch: int | None) -> Verdict:
    """Verdicts on the curve: a spike, a decline, a rise at the end, or none of these."""
    low, high = np.quantile(elbo, [0.05, 0.95])
    span, worth = max(float(high - low), 1e-12), WORTH * abs(float(elbo[-1]))
    fall, gain, smooth = _largest_fall(elbo), _tail_gain(elbo), _smooth(elbo)
    lost = float(smooth.max() - smooth[-1])
    if fall > max(SPIKE * span, worth):
        jump = f"The {which} fell by {fall:,.1f} nats within one epoch."
        return Verdict("poor", "unstable", jump, _HALVE)
    if lost > max(DIP_SD * _noise(elbo), worth):
        return _past_best(which, lost, best_epoch)
    if stopped != "plateau" and gain > max(STILL_IMPROVING * span, worth):
        rising = f"The {which} still rose by {gain:,.1f} nats per cell at the end."
        return Verdict("fair", "still improving", rising, "Train for about twice as many epochs.")
    how = "stopped improving, and training ended" if stopped == "plateau" else "is flat at the end,"
    kept = f"; the weights of epoch {best_epoch} were kept" if best_epoch is not None else ""
    return Verdict("good", "converged", f"The {which} {how} after {len(elbo)} epochs{kept}.")


def _curve(history: pd.DataFrame | None) -> tuple[str, NDArray[np.float64]]:
    """Name and values of the deciding curve; epochs without a value are dropped, non-finite values stay at the end."""
    raised = "elbo" if history is None or "objective_train" not in history else "objective"
    shown = "ELBO" if raised == "elbo" else "objective"
    for side in ("validation", "train"):
        column = f"{raised}_{side}"
        if history is not None and column in history and history[column].notna().any():
            last_bad = pd.isna(history[column].iloc[-1]) and pd.isna(
                history.get(f"{raised}_train", history[column]).iloc[-1]
            )
            values = history[column].dropna().to_numpy(np.float64)
            return f"{'validation' if side == 'validation' else 'training'} {shown}", (
                np.append(values, np.nan) if last_bad else values
            )
    return f"training {shown}", np.empty(0)


def _largest_fall(elbo: NDArray[np.float64]) -> float:
    """Largest drop from one epoch to the next once training is under way."""
    steps = np.diff(elbo)[int(SPIKE_AFTER * len(elbo)) :]
    return float(max(-steps.min(initial=0.0), 0.0))


def _smooth(elbo: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of neighbouring epochs, a twentieth of training at a time (at least three)."""
    width = max(len(elbo) // 20, 3)
    return np.convolve(elbo, np.full(width, 1 / width), "valid")


def _noise(elbo: NDArray[np.float64]) -> float:
    """Standard deviation of the third quarter around its own straight line."""
    n = len(elbo)
    part = elbo[n // 2 : max(3 * n // 4, n // 2 + 3)]
    line = np.polyval(np.polyfit(np.arange(len(part)), part, 1), np.arange(len(part)))
    return float((part - line).std())


def _tail_gain(elbo: NDArray[np.float64]) -> float:
    """Median of the second half of the tail less that of its first half."""
    tail = elbo[-max(int(TAIL * len(elbo)), 4) :]
    half = len(tail) // 2
    return float(np.median(tail[-half:]) - np.median(tail[:half]))


def _past_best(which: str, lost: float, best_epoch: int | None) -> Verdict:
    fell = f"The {which} ended {lost:,.1f} nats per cell below its best"
    if best_epoch is not None:
        return Verdict("good", "best kept", f"{fell}; the weights of epoch {best_epoch} were kept.", "")
    return Verdict(
        "fair", "past its best", f"{fell}, a sign of overfitting.", "Keep the best weights, or stop earlier."
    )


def metric_level(metric: str, value: float, best: float) -> Level:
    """Judge one metric by the share of its best possible value that it reaches; "none" where there is no rule."""
    if metric not in LEVELS or not np.isfinite(value) or not best > 0:
        return "none"
    good, fair = LEVELS[metric]
    share = value / best
    return "good" if share >= good else "fair" if share >= fair else "poor"


def mixing(metrics: pd.DataFrame | None) -> Verdict | None:
    """Judge how well batches mix, from `celbo.evaluate.compare_latents`; None without batches."""
    rows = _rows(metrics)
    if "mixing entropy" not in rows.index:
        return None
    after, best = _value(rows, "mixing entropy", "after"), _value(rows, "mixing entropy", "best")
    share, level = after / best, metric_level("mixing entropy", after, best)
    was = _value(rows, "mixing entropy", "before") / best
    before = f" (before: {_percent(was)})" if np.isfinite(was) else ""
    word = {"good": "well mixed", "fair": "partly mixed", "poor": "apart"}.get(level, "unknown")
    sentence = f"Batches reach {_percent(share)} of the mixing that their sizes allow{before}."
    advice = (
        "" if level == "good"
        else "See in the map by batch whether whole cell types stay apart; a type found in one batch only cannot mix."
    )  # fmt: skip
    return Verdict(level, word, sentence, advice)


def biology(metrics: pd.DataFrame | None) -> Verdict | None:
    """Judge how well known labels separate: the lower level of label silhouette and cLISI; None without labels."""
    rows = _rows(metrics)
    levels = {
        m: metric_level(m, _value(rows, m, "after"), 1.0) for m in ("label silhouette", "cLISI") if m in rows.index
    }
    ranks = [_ORDER.index(x) for x in levels.values() if x != "none"]
    if not ranks:
        return None
    level = _ORDER[min(ranks)]
    word = {"good": "labels apart", "fair": "labels partly apart", "poor": "labels overlap"}[level]
    sentence = f"Neighbourhoods are {_percent(_value(rows, 'cLISI', 'after'))} pure by label (cLISI)"
    agreement = next((m for m in ("cluster ARI", "k-means ARI") if m in rows.index), None)
    advice = "" if level == "good" else "See in the map by label which types overlap; close types may need more genes."
    if agreement is not None:
        who, found = agreement.split()[0], _value(rows, agreement, "after")
        who = "the clusters agree" if who == "cluster" else "k-means agrees"
        sentence += f", and {who} with the labels at ARI {found:.2f} (1 is equal, 0 is chance)"
        if level == "good" and metric_level(agreement, found, 1.0) != "good":
            advice = "The clusters are cut finer or coarser than the labels: another resolution would agree better."
    return Verdict(level, word, f"{sentence}.", advice)


def fit(check: pd.DataFrame | None, n_cells: int) -> Verdict | None:
    """Judge a posterior predictive check by the worst of mean, variance and zeros; None without one."""
    if check is None or check.empty:
        return None
    used = check[check["mean_observed"] * n_cells >= FIT_COUNTS]
    if used.empty:
        return Verdict("none", "too few counts", "No gene has enough counts to judge the fit.")
    off = {
        "mean": (_log_error(used, "mean"), FIT_MEAN),
        "variance": (_log_error(used, "variance"), FIT_VARIANCE),
        "zero fraction": (_zeros_error(used, n_cells), FIT_ZEROS),
    }
    ranks = {name: 0 if e <= good else 1 if e <= fair else 2 for name, (e, (good, fair)) in off.items()}
    worst = max(ranks.values())
    level = _ORDER[2 - worst]
    mean, variance = (_factor(off[k][0]) for k in ("mean", "variance"))
    zeros = f"{off['zero fraction'][0] * 100:.1f} points"
    sentence = (
        f"For a typical gene the mean is off by {mean}, the variance by {variance}, the share of zeros by {zeros}."
    )
    amiss = " and ".join(name for name, rank in ranks.items() if rank == worst)
    word = ("fits the counts", "fits roughly", "fits poorly")[worst]
    advice = "" if worst == 0 else f"The {amiss} is off most; try another likelihood or dispersion."
    return Verdict(level, word, sentence, advice)


def _log_error(check: pd.DataFrame, what: str) -> float:
    """Median |log2(predicted / observed)| over genes; a gene never drawn counts as off by a factor of 16."""
    ratio = check[f"{what}_predicted"].to_numpy(np.float64) / check[f"{what}_observed"].to_numpy(np.float64)
    return float(np.median(np.abs(np.log2(np.clip(ratio, 1 / 16, 16)))))


def _zeros_error(check: pd.DataFrame, n_cells: int) -> float:
    """Mean difference of the zero fractions, less (in squares) the binomial noise that both have with so few cells."""
    seen, drawn = (check[f"zeros_{side}"].to_numpy(np.float64) for side in ("observed", "predicted"))
    noise = float((seen * (1 - seen) + drawn * (1 - drawn)).mean()) / max(n_cells, 1)
    difference = float(np.abs(seen - drawn).mean())
    return float(np.sqrt(max(difference**2 - noise * 2 / np.pi, 0.0)))  # E|d| = sd sqrt(2 / pi) for normal noise


def _factor(log2: float) -> str:
    return f"{(2**log2 - 1) * 100:.0f}%" if log2 < 1 else f"a factor of {2**log2:.1f}"


def _rows(metrics: pd.DataFrame | None) -> pd.DataFrame:
    if metrics is None or metrics.empty:
        return pd.DataFrame({"metric": []}).set_index("metric")
    return metrics.set_index("metric")


def _value(rows: pd.DataFrame, metric: str, column: str) -> float:
    return float(rows[column].to_dict()[metric]) if column in rows else float("nan")


def _percent(share: float) -> str:
    return f"{min(max(100 * share, 0), 100):.0f}%"
