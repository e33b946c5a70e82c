"""Numbers turned into one sentence each: the rules are the constants below, and nothing else decides.

The rules of training follow CellBender's report (spike, end dip, too short), with "still improving" in place of its
test-set comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["Explained", "Level", "Verdict", "biology", "fit", "metric_level", "mixing", "training"]

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
"""A smoothed end below the best by more than this many s.d. of the noise, and by more than `WORTH`, is a decline ..."""
OVERFIT_DECLINE = 0.01
"""... and, of the validation curve, overfitting where it is above this share of the best value."""
OVERFIT_GAP = (0.15, 0.25)
"""Overfitting: the deviance explained of training cells is above that of held-out cells by more than the first; poor
from the second on. Ten data sets of 700 cells and more had 0.01 to 0.12, subsets of 60 to 200 cells 0.2 to 0.5."""
FEW_CELLS = 1000
"""Fewer cells than this are few for a deep model."""
RESOLUTION_GAIN = 0.05
"""Another resolution is named if its ARI is higher by at least this, with each of two seeds."""
BLURS = 0.5
"""A label blurs if its neighbourhoods are less than this far on the way from chance to pure."""
MOST = 0.95
"""A best purity below this is told: then labels of few cells keep it down."""
NAMED = 3
"""Most labels that a sentence names."""

LEVELS: dict[str, tuple[float, float]] = {
    "label purity": (0.8, 0.5),
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
"""From which share of the way from chance (or 0) to the best possible value a metric is good, and from which fair."""

FIT_MEAN = (0.2, 0.5)
"""Median |log2(predicted / observed)| of the gene means, up to which the fit is good, and fair."""
FIT_VARIANCE = (0.4, 1.0)
"""The same of the variances."""
FIT_ZEROS = (0.02, 0.05)
"""Typical difference of the zero fractions beyond chance, up to which the fit is good, and fair."""
FIT_COUNTS = 50
"""Genes with fewer counts in all are left out of the fit: their moments are chance."""


class Explained(NamedTuple):
    """Share of the deviance of counts that a model explains (`celbo.evaluate.deviance_explained`)."""

    held_out: float
    """Of cells that training did not see."""
    train: float
    """Of cells of the training."""
    n_held_out: int
    """Held-out cells that were looked at."""


@dataclass(frozen=True)
class Verdict:
    """A judgement in words."""

    level: Level
    word: str
    """One or two words, as on a badge."""
    sentence: str
    advice: str = ""
    """What to do, a full sentence; empty where nothing is to be done."""


def training(
    history: pd.DataFrame | None,
    *,
    stopped: str = "finished",
    best_epoch: int | None = None,
    explained: Explained | None = None,
    n_cells: int | None = None,
) -> Verdict:
    """Judge a training: converged, overfitted, still improving, unstable, past its best, interrupted or too short.

    Parameters
    ----------
    history
        `model.history`, one row an epoch; the validation ELBO decides, or the training ELBO where there is none.
    stopped
        "finished", "plateau" or "interrupted".
    best_epoch
        Epoch whose weights were kept, a label of the history's index; told as its number from 1.
    explained
        What the model explains of training and of held-out cells; None where it is not known.
    n_cells
        Cells of the training, for the advice.
    """
    which, elbo = _curve(history)
    kept = "" if best_epoch is None else f"; the weights of epoch {_counted(history, best_epoch)} were kept"
    return (
        _cut_short(elbo, stopped)
        or _spike(which, elbo)
        or _overfitted(_decline(which, elbo, kept), which, elbo, explained, n_cells)
        or _end(which, elbo, stopped, kept)
    )


def _counted(history: pd.DataFrame | None, epoch: int) -> int:
    """Return the number of an epoch as people count, from 1."""
    labels = [] if history is None else history.index.to_list()
    return 1 + (labels.index(epoch) if epoch in labels else epoch)


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


def _worth(elbo: NDArray[np.float64]) -> float:
    return WORTH * abs(float(elbo[-1]))


def _span(elbo: NDArray[np.float64]) -> float:
    low, high = np.quantile(elbo, [0.05, 0.95])
    return max(float(high - low), 1e-12)


def _spike(which: str, elbo: NDArray[np.float64]) -> Verdict | None:
    fall = _largest_fall(elbo)
    if fall <= max(SPIKE * _span(elbo), _worth(elbo)):
        return None
    jump = f"The {which} fell by {fall:,.1f} nats per cell within one epoch."
    return Verdict("poor", "unstable", jump, _HALVE)


def _lost(elbo: NDArray[np.float64]) -> float:
    """How far the smoothed curve ends below its best, where noise does not explain it; else 0."""
    smooth = _smooth(elbo)
    lost = float(smooth.max() - smooth[-1])
    return lost if lost > max(DIP_SD * _noise(elbo), _worth(elbo)) else 0.0


def _decline(which: str, elbo: NDArray[np.float64], kept: str) -> str:
    lost = _lost(elbo)
    return f"The {which} ended {lost:,.1f} nats per cell below its best{kept}." if lost else ""


def _end(which: str, elbo: NDArray[np.float64], stopped: str, kept: str) -> Verdict:
    """Verdicts on the end of the curve: a decline, a rise, or neither."""
    if fell := _decline(which, elbo, kept):
        return _past_best(which, fell, kept)
    gain = _tail_gain(elbo)
    if stopped != "plateau" and gain > max(STILL_IMPROVING * _span(elbo), _worth(elbo)):
        rising = f"The {which} was still rising at the end, by {gain:,.1f} nats per cell."
        return Verdict("fair", "still improving", rising, "Train for about twice as many epochs.")
    how = "stopped improving, and training ended" if stopped == "plateau" else "is flat at the end,"
    return Verdict("good", "converged", f"The {which} {how} after {len(elbo)} epochs{kept}.")


def _overfits(explained: Explained | None) -> bool:
    return explained is not None and explained.train - explained.held_out > OVERFIT_GAP[0]


def _overfitted(
    fell: str, which: str, elbo: NDArray[np.float64], explained: Explained | None, n_cells: int | None
) -> Verdict | None:
    """Say by how much the model knows the training cells better than others, and what helps; None where it does not."""
    far = which.startswith("validation") and _lost(elbo) > OVERFIT_DECLINE * abs(float(elbo.max()))
    known = explained if _overfits(explained) else None
    if known is None and not far:
        return None
    by_heart = "" if known is None else (
        f"The model explains {_percent(known.train)} of the deviance of the cells it was trained on, but only "
        f"{_percent(known.held_out)} of that of held-out cells."
    )  # fmt: skip
    level: Level = "poor" if known is not None and known.train - known.held_out > OVERFIT_GAP[1] else "fair"
    few = n_cells is not None and n_cells < FEW_CELLS
    cells = f"It overfits: {n_cells:,} cells are few for it." if few else "It overfits."
    return Verdict(level, "overfitted", f"{by_heart} {fell}".strip(), f"{cells} {_AGAINST_OVERFITTING}")


_AGAINST_OVERFITTING = "More cells help most; training on fewer genes may help too."


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


def _past_best(which: str, fell: str, kept: str) -> Verdict:
    if kept:
        return Verdict("good", "best kept", fell)
    if which.startswith("training"):
        return Verdict("fair", "past its best", fell, "Train again with half the learning rate.")
    advice = "Keep the best weights, or stop earlier."
    return Verdict("fair", "past its best", f"{fell} This may be overfitting.", advice)


def metric_level(metric: str, value: float, best: float, chance: float = 0.0) -> Level:
    """Judge one metric by how far it is on the way from chance to its best possible value; "none" without a rule.

    Rows on clusters have the rule of "cluster ARI" and "cluster NMI", whatever made the clusters.
    """
    rule = metric if metric in LEVELS else f"cluster {metric.rpartition(' ')[2]}"
    chance = chance if np.isfinite(chance) else 0.0
    if rule not in LEVELS or not np.isfinite(value) or not best > chance:
        return "none"
    good, fair = LEVELS[rule]
    share = (value - chance) / (best - chance)
    return "good" if share >= good else "fair" if share >= fair else "poor"


def mixing(metrics: pd.DataFrame | None) -> Verdict | None:
    """Judge how well batches mix, from `celbo.evaluate.compare_latents`; None without batches.

    The mixing entropy decides; where most of the rows on batches are worse, they do.
    """
    rows = _rows(metrics)
    if "mixing entropy" not in rows.index:
        return None
    after, best = _value(rows, "mixing entropy", "after"), _value(rows, "mixing entropy", "best")
    was = _value(rows, "mixing entropy", "before") / best
    before = f" (before the model: {_percent(was)})" if np.isfinite(was) else ""
    sentence = f"Batches reach {_percent(after / best)} of the mixing entropy that their sizes allow{before}."
    if _confounded(rows):
        return Verdict("none", "cannot be told", f"{sentence} {_CONFOUNDED}", "Mixing them would mix the labels.")
    level = _no_better_than_most(metric_level("mixing entropy", after, best), rows, "batch")
    word = {"good": "well mixed", "fair": "partly mixed", "poor": "apart"}.get(level, "unknown")
    advice = (
        "" if level == "good"
        else "See in the map by batch whether whole cell types stay apart; a type found in one batch only cannot mix."
    )  # fmt: skip
    return Verdict(level, word, sentence, advice)


_CONFOUNDED = "Each label is found in one batch only, so batches and labels cannot be told apart."


def _confounded(rows: pd.DataFrame) -> bool:
    """Whether no label has cells of two batches: then their silhouette within labels is not defined."""
    has = {"batch silhouette", "label purity"} <= set(rows.index)
    return has and not np.isfinite(_value(rows, "batch silhouette", "after"))


def _no_better_than_most(level: Level, rows: pd.DataFrame, kind: str) -> Level:
    """Return a level, or that which most rows of a kind do not pass, if it is lower."""
    judged = [_row_level(rows, str(m)) for m in rows.index[rows["kind"] == kind]]
    ranks = sorted(_ORDER.index(x) for x in judged if x != "none")
    if level == "none" or not ranks:
        return level
    return _ORDER[min(_ORDER.index(level), ranks[(len(ranks) - 1) // 2])]


def _row_level(rows: pd.DataFrame, metric: str) -> Level:
    return metric_level(metric, *(_value(rows, metric, column) for column in ("after", "best", "chance")))


def biology(
    metrics: pd.DataFrame | None, by_label: pd.DataFrame | None = None, resolutions: pd.DataFrame | None = None
) -> Verdict | None:
    """Judge how well known labels separate; None without labels.

    The label purity decides; where most of the rows on labels are worse, they do.

    Parameters
    ----------
    metrics
        `celbo.evaluate.compare_latents`.
    by_label
        `celbo.evaluate.LabelPurity.by_label`, to name the labels that blur.
    resolutions
        Columns resolution, clusters, ari, ari_other_seed, chosen: clusters that were tried.
    """
    rows = _rows(metrics)
    if "label purity" not in rows.index:
        return None
    level = _no_better_than_most(_row_level(rows, "label purity"), rows, "biology")
    if level == "none":
        few = "Each label has too few cells, or too many of all cells, to judge neighbourhoods."
        return Verdict("none", "cannot be told", few)
    told = [_purity_sentence(rows), _blurred(by_label, level), _agreement(rows)]
    advice = "" if level == "good" or by_label is None else "The table of labels shows which ones blur."
    if _confounded(rows):
        effect = " Neighbourhoods may be pure because batches are apart." if level != "poor" else ""
        level, advice = _ORDER[min(_ORDER.index(level), 1)], f"{_CONFOUNDED}{effect}"
    word = {"good": "labels apart", "fair": "labels partly apart", "poor": "labels overlap"}[level]
    better = _better_resolution(resolutions)
    return Verdict(level, word, " ".join(t for t in told if t), f"{advice} {better}".strip())


def _purity_sentence(rows: pd.DataFrame) -> str:
    found, chance = (_value(rows, "label purity", column) for column in ("after", "chance"))
    k = str(rows["meaning"].to_dict()["label purity"]) if "meaning" in rows else ""
    many = next((word for word in k.split() if word.isdecimal()), "30")
    best = _value(rows, "label purity", "best")
    most = f"; at most: {_percent(best)}, since some labels have few cells" if best < MOST else ""
    by_chance = f" (by chance: {_percent(chance)}{most})" if np.isfinite(chance) else ""
    return f"On average {_percent(found)} of a cell's {many} nearest neighbours have its label{by_chance}."


def _blurred(by_label: pd.DataFrame | None, level: Level) -> str:
    """Name the labels that blur and what into; where none does and the whole is not good, the least pure one."""
    if by_label is None or by_label.empty:
        return ""
    room = (by_label["best"] - by_label["chance"]).clip(lower=1e-12)
    way = ((by_label["purity"] - by_label["chance"]) / room)[by_label["best"] > by_label["chance"]].sort_values()
    names = way.index[way < BLURS]
    if names.empty:
        return "" if level == "good" or way.empty else f"Least pure: {_of_label(by_label, way.index[0])}."
    more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"Blurred: {'; '.join(_of_label(by_label, name) for name in names[:NAMED])}{more}."


def _of_label(by_label: pd.DataFrame, name: object) -> str:
    row = by_label.loc[name]  # type: ignore[call-overload]
    other = f", {_percent(row['neighbour_share'])} {row['neighbour']}" if row["neighbour"] else ""
    return f"{name} ({_percent(row['purity'])} its own{other})"


def _agreement(rows: pd.DataFrame) -> str:
    indices = [str(m) for m in rows.index if str(m).endswith(" ARI")]
    ranked = sorted(indices, key=lambda m: m.startswith("k-means"))
    if not ranked:
        return ""
    who = ranked[0].removesuffix(" ARI")
    clusters = "The clusters" if who == "cluster" else f"{who[0].upper()}{who[1:]} clusters"
    found = _value(rows, ranked[0], "after")
    return f"{clusters} and labels agree at an ARI of {found:.2f} (1 is identical, 0 is chance)."


def _better_resolution(resolutions: pd.DataFrame | None) -> str:
    """Name the resolution whose clusters agree best with the labels, if the gain is worth it with both seeds."""
    if resolutions is None or resolutions.empty:
        return ""
    here = resolutions[resolutions["chosen"]].iloc[0]
    sure = np.minimum(resolutions["ari"] - here["ari"], resolutions["ari_other_seed"] - here["ari_other_seed"])
    good = resolutions[sure >= RESOLUTION_GAIN]
    if good.empty:
        return ""
    best = good.loc[good["ari"].idxmax()]
    return (
        f"Of the {len(resolutions)} resolutions tried, {best['resolution']:g} agrees best with the labels: "
        f"{best['clusters']:.0f} clusters, ARI {best['ari']:.2f}."
    )


def fit(check: pd.DataFrame | None, n_cells: int, *, explained: Explained | None = None) -> Verdict | None:
    """Judge a posterior predictive check by the worst of mean, variance and zeros; None without one.

    Parameters
    ----------
    check
        `celbo.evaluate.predictive_check(...)`.
    n_cells
        Cells of the data.
    explained
        What the model explains, so that overfitting is not mended by another likelihood.
    """
    if check is None or check.empty:
        return None
    used = check[check["mean_observed"] * n_cells >= FIT_COUNTS]
    if used.empty:
        return Verdict("none", "too few counts", "No gene has enough counts to judge the fit.")
    off = {
        "mean": (_log_error(used, "mean"), FIT_MEAN),
        "variance": (_log_error(used, "variance"), FIT_VARIANCE),
        "share of zeros": (_zeros_error(used, n_cells), FIT_ZEROS),
    }
    ranks = {name: 0 if e <= good else 1 if e <= fair else 2 for name, (e, (good, fair)) in off.items()}
    worst = max(ranks.values())
    mean, variance = (_factor(off[k][0]) for k in ("mean", "variance"))
    zeros = f"{off['share of zeros'][0] * 100:.1f} percentage points"
    sentence = (
        f"For a typical gene the mean is off by {mean}, the variance by {variance}, the share of zeros by {zeros}."
    )
    advice = "" if worst == 0 else _cure([name for name, rank in ranks.items() if rank == worst], n_cells, explained)
    return Verdict(_ORDER[2 - worst], ("fits the counts", "fits roughly", "fits poorly")[worst], sentence, advice)


def _cure(amiss: list[str], n_cells: int, explained: Explained | None) -> str:
    """Say what may mend a misfit: with few cells no other likelihood will."""
    off = f"The {' and '.join(amiss)} {'is' if len(amiss) == 1 else 'are'} off most"
    if _overfits(explained):
        return f"{off}; the model overfits, so see Training first."
    if n_cells < FEW_CELLS:
        return f"{off}; with {n_cells:,} cells, more cells help most."
    return f"{off}; another likelihood or dispersion may fit better."


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
    """Say a typical |log2 ratio|: as percent, or as a factor from 2 on."""
    return f"{(2**log2 - 1) * 100:.0f}%" if log2 < 1 else f"a factor of {2**log2:.1f}"


def _rows(metrics: pd.DataFrame | None) -> pd.DataFrame:
    if metrics is None or metrics.empty:
        return pd.DataFrame({"metric": []}).set_index("metric")
    return metrics.set_index("metric")


def _value(rows: pd.DataFrame, metric: str, column: str) -> float:
    return float(rows[column].to_dict()[metric]) if column in rows else float("nan")


def _percent(share: float) -> str:
    return f"{min(max(100 * share, 0), 100):.0f}%"
