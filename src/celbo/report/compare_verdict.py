"""Which method for what: a comparison turned into a few sentences. The rules are the constants below, and nothing else.

Nothing is claimed beyond the numbers: a purpose without numbers is said to be open, a small difference is said to be
small, and where a baseline without a model does as well, the baseline wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from celbo.evaluate.comparison import Comparison
from celbo.report.verdict import Level, metric_level

__all__ = ["RULES", "Finding", "draws_itself", "duration", "findings", "headline", "spelled", "value_of"]

CLOSE_LIKELIHOOD = 0.002
"""Share of the best log-likelihood within which another is close to it."""
CLOSE_TYPES = 0.03
"""Difference of the mean of ARI and NMI that is small."""
LOST_TYPES = 0.05
"""A mean of ARI and NMI that is further than this below the best is a loss, and is told."""
OF_TYPES = 0.6
"""Weight of the cell types beside the batches, which have the rest (Luecken et al. 2022)."""
CLOSE_MIXING = 0.03
"""Difference of the weighed mean of types and mixing that is small."""
CLOSE_DENOISING = 0.005
"""Difference of the deviance, as a share of that of the gene means, that is small."""
KEEPS_NEIGHBOURS = 0.5
"""A picture is considered if it keeps at least this share of the neighbours that the best picture keeps."""
CLOSE_OVERLAP = 0.03
"""Difference of the mean overlap that is small."""
CLOSE_SECONDS = 1.5
"""Factor of the fastest method's seconds up to which another is close."""

RULES = (
    f"A log-likelihood is close if it is within {100 * CLOSE_LIKELIHOOD:g}% of the best.",
    f"The mean of k-means ARI and NMI decides; close is within {CLOSE_TYPES:g}.",
    f"The mean of k-means ARI and NMI counts {100 * OF_TYPES:g}%, of batch silhouette and iLISI "
    f"{100 - 100 * OF_TYPES:g}%: the weights of Luecken et al. 2022; close is within {CLOSE_MIXING:g}. Without labels, "
    "the mixing alone decides.",
    f"The deviance decides, not the error on logs, which is biased where counts are few; close is within "
    f"{CLOSE_DENOISING:g}.",
    f"The mean overlap under another seed and under other parameters decides, among the methods that draw their own "
    f"picture and keep at least {100 * KEEPS_NEIGHBOURS:g}% of the neighbours that the best of them keeps; close is "
    f"within {CLOSE_OVERLAP:g}.",
    f"Seconds decide; close is up to {CLOSE_SECONDS:g} times the fastest.",
)
"""What decides, and what counts as a small difference; one sentence a finding."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The answer for one purpose, in plain text."""

    key: str = ""
    purpose: str = ""
    level: Level = "none"
    """"good", "fair" and "poor" judge the best method; "none": the purpose cannot be judged."""
    winner: str = ""
    """What to call the best; empty where none can be named."""
    value: str = ""
    """Its number, with what it is."""
    sentence: str
    caution: str = ""
    methods: tuple[str, ...] = ()
    """The best method and those close to it, by their names in the table."""


def findings(found: Comparison) -> list[Finding]:
    """Return one finding a purpose, in the order of `RULES`."""
    judges: tuple[tuple[str, str, Callable[[Comparison], Finding]], ...] = (
        ("explain", "Explain the counts", _explain),
        ("types", "Find cell types", _types),
        ("mix", "Mix batches, keep types", _mix),
        ("denoise", "Denoise", _denoise),
        ("stay", "A stable picture", _stay),
        ("cost", "Cost little", _cost),
    )
    return [replace(judge(found), key=key, purpose=purpose) for key, purpose, judge in judges]


def headline(found: Comparison, made: Sequence[Finding]) -> str:
    """Return one sentence on all purposes but the cost."""
    if found.table.empty:
        return "No method could be run."
    if len(found.table) == 1:
        return "One method was run: there is nothing to compare it with."
    judged = [finding for finding in made if finding.key != "cost" and finding.level != "none"]
    counts = pd.Series(0, index=found.table.index)
    for finding in judged:
        counts[list(finding.methods)] += 1
    if not counts.any():
        return "On these data, no method is shown to be best at anything but its cost."
    top = [str(method) for method in counts.index[counts == counts.max()]]
    times, of = int(counts.max()), len(judged)
    if times == 1 < min(of, len(top)):
        return (
            f"No method is best for more than one of the {of} purposes that could be judged: choose by what you need."
        )
    share = f"{times} of the {of} purposes that could be judged" if of > 1 else "the one purpose that could be judged"
    who, verb = spelled(_titles(found, top)), "is" if len(top) == 1 else "are each"
    rest = " No method leads everywhere: choose by what you need." if times < of else ""
    return f"{who} {verb} best, or close to the best, for {share}.{rest}"


def draws_itself(found: Comparison, method: str) -> bool:
    """Whether the picture of a method is its own, not a UMAP of its dimensions."""
    pictures = found.pictures.get(method, ())
    return bool(pictures) and not pictures[0].how.startswith("UMAP")


def spelled(names: Sequence[str]) -> str:
    """Return "a", "a and b", or "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def value_of(found: Comparison, method: str, column: str) -> float:
    """Return one number of the table; NaN where there is none."""
    return float(found.table[column].to_dict()[method]) if column in found.table else float("nan")


def duration(seconds: float) -> str:
    """Return seconds as one says them."""
    if seconds < 0.1:
        return "under 0.1 s"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ------------------------------------------------------------------------------------------------------- the purposes


def _explain(found: Comparison) -> Finding:
    values = _ranked(found, "log_likelihood")
    if values.empty:
        return Finding(sentence="No method here has a likelihood of counts.")
    best, title = float(values.iloc[0]), _title(found, values.index[0])
    value = f"{_minus(best, 1)} nats per cell"
    if len(values) == 1:
        return Finding(value=value, sentence=f"{title} is the only method here that has a likelihood of counts.")
    close = _close(values, CLOSE_LIKELIHOOD * abs(best))
    told = f"{title} gives the highest probability to cells that it has not seen."
    told += _behind(found, values, close, lambda v: f"{best - v:,.1f} nats per cell below")
    left = len(found.table) - len(values)
    told += f" {left} of the {len(found.table)} methods have no likelihood of counts." if left else ""
    return Finding(level="good", winner=title, value=value, sentence=told, methods=_names(values, close))


def _types(found: Comparison) -> Finding:
    values = _ranked(found, "ari", "nmi")
    if values.empty:
        return Finding(
            sentence="Known labels are needed to judge this, at least two; name their column with --labels-key."
        )
    best = str(values.index[0])
    close = _close(values, CLOSE_TYPES)
    ari, nmi = _numbers(found, best, "ari", "nmi")
    level = metric_level("k-means ARI", ari, 1.0)
    told = "Clusters of its cells agree best with the known labels." + _behind(found, values, close, _lower(values))
    caution = ""
    if level == "poor":
        caution = "Even this agreement is poor: no method here finds the known labels by clustering."
    elif "poor" in _mixing_levels(found, best):
        caution = "But it keeps the batches apart: see the next card."
    return Finding(
        level="fair" if caution and level == "good" else level,
        winner=_title(found, best),
        value=f"k-means ARI {ari:.2f}, NMI {nmi:.2f}",
        sentence=told,
        caution=caution,
        methods=_names(values, close),
    )


def _mix(found: Comparison) -> Finding:
    mixing, types = _ranked(found, "batch_silhouette", "ilisi"), _ranked(found, "ari", "nmi")
    if mixing.empty:
        return Finding(sentence="At least two batches are needed to judge this; name their column with --batch-key.")
    both = mixing if types.empty else (OF_TYPES * types + (1 - OF_TYPES) * mixing).dropna()
    values = both.sort_values(ascending=False, kind="stable")
    if values.empty:
        return Finding(sentence="No method has both numbers on batches and on cell types.")
    best = str(values.index[0])
    close, levels = _close(values, CLOSE_MIXING), _mixing_levels(found, best)
    level: Level = "poor" if "poor" in levels else "fair" if "fair" in levels or types.empty else "good"
    told = "It is best when cell types and mixing are weighed together." if len(types) else "It mixes the batches best."
    silhouette, ilisi = _numbers(found, best, "batch_silhouette", "ilisi")
    return Finding(
        level=level,
        winner=_title(found, best),
        value=f"batch silhouette {silhouette:.2f}, iLISI {ilisi:.2f}",
        sentence=told + _behind(found, values, close, _lower(values)) + _uncorrected(found, best),
        caution=_mixing_caution(found, types, best, level),
        methods=_names(values, close),
    )


def _mixing_levels(found: Comparison, method: str) -> list[Level]:
    """Judge the two numbers on batches of a method."""
    silhouette, ilisi = _numbers(found, method, "batch_silhouette", "ilisi")
    return [metric_level("batch silhouette", silhouette, 1.0), metric_level("iLISI", ilisi, 1.0)]


def _mixing_caution(found: Comparison, types: pd.Series[float], winner: str, level: Level) -> str:
    """Say what the numbers of the winner leave open."""
    if types.empty:
        return "Without labels it cannot be told whether cell types were mixed along with the batches."
    if level == "poor":
        return "Even here batches stay apart; a type found in one batch only cannot mix. See the pictures by batch."
    best = str(types.index[0])
    if types[best] - types[winner] <= LOST_TYPES:
        return ""
    other = f"against {types[best]:.2f} with {_title(found, best)}"
    return f"Some agreement with the labels is lost: the mean of ARI and NMI is {types[winner]:.2f}, {other}."


def _uncorrected(found: Comparison, winner: str) -> str:
    """Return what PCA, which knows of no batches, reaches."""
    if winner == "pca" or "pca" not in found.table.index:
        return ""
    silhouette, ilisi = _numbers(found, "pca", "batch_silhouette", "ilisi")
    if not np.isfinite(silhouette + ilisi):
        return ""
    return f" {_title(found, 'pca')}, which ignores batches, has {silhouette:.2f} and {ilisi:.2f}."


def _denoise(found: Comparison) -> Finding:
    values = _ranked(found, "mcv_deviance", higher=False)
    if values.empty:
        return Finding(sentence="No method here was asked to denoise, or none can.")
    best, title = float(values.iloc[0]), _title(found, values.index[0])
    given = {name: float(numbers.get("mcv_deviance", np.nan)) for name, numbers in found.baselines.items()}
    plain = pd.Series({name: value for name, value in given.items() if np.isfinite(value)}, dtype=float).sort_values()
    if len(plain) and plain.iloc[0] <= best:
        return Finding(
            level="poor",
            winner=str(plain.index[0]),
            value=_deviance(float(plain.iloc[0])),
            sentence=f"This needs no model, and no method beats it: the best, {title}, reaches {best:.3f}.",
            caution="For denoising, no model is needed here.",
        )
    close = _close(values, CLOSE_DENOISING, 3)
    told = f"It predicts held-out molecules best.{_behind(found, values, close, lambda v: f'{v:.3f}')}"
    if len(plain):
        others = [f"{name} {value:.3f}" for name, value in plain.items()]
        told += f" Without a model: {spelled(others)}."
    near = len(plain) > 0 and plain.iloc[0] - best <= CLOSE_DENOISING
    return Finding(
        level="fair" if near else "good",
        winner=title,
        value=_deviance(best),
        sentence=told,
        caution=f"But {plain.index[0]}, which needs no model, is close." if near else "",
        methods=_names(values, close),
    )


def _deviance(value: float) -> str:
    return f"{value:.3f} of the deviance of gene means"


def _stay(found: Comparison) -> Finding:
    overlap = _ranked(found, "seed_overlap", "parameter_overlap")
    if overlap.empty:
        return Finding(sentence="Methods were fitted once, or have no main parameter to change.")
    maps = overlap[[draws_itself(found, str(method)) for method in overlap.index]]
    others = overlap.drop(maps.index)
    kept = pd.Series({method: value_of(found, str(method), "neighbours_kept") for method in maps.index}, dtype=float)
    values = maps[(kept >= KEEPS_NEIGHBOURS * kept.max()).to_numpy(bool)]
    steady = "" if others.empty else (
        f" Among methods that give dimensions rather than a picture, {_title(found, others.index[0])} changes least "
        f"({100 * others.iloc[0]:.0f}% stay); UMAPs of them were not judged."
    )  # fmt: skip
    if values.empty:
        return Finding(sentence=f"No method here that draws its own picture can be judged.{steady}")
    best, share = str(values.index[0]), float(values.iloc[0])
    close = _close(values, CLOSE_OVERLAP)
    told = "Its picture changes least under another seed and other parameters"
    if len(values) == 1:
        told = "It is the only map here" if len(maps) == 1 else "The other maps keep less than half as many neighbours"
    told += f"; it keeps {100 * kept[best]:.0f}% of the neighbours in the counts."
    told += _behind(found, values, close, lambda v: f"{100 * v:.0f}% stay") + steady
    caution = "Even here most neighbours of a cell change: trust groups, not the places of single cells."
    return Finding(
        level="good" if share >= 0.5 else "fair",
        winner=_title(found, best),
        value=f"{100 * share:.0f}% of a cell's neighbours stay",
        sentence=told,
        caution="" if share >= 0.5 else caution,
        methods=_names(values, close),
    )


def _cost(found: Comparison) -> Finding:
    values = _ranked(found, "seconds", higher=False)
    if values.empty:
        return Finding(sentence="No method was timed.")
    least = max(float(values.iloc[0]), 1e-9)
    close = [str(method) for method in values.index[1:] if values[method] <= CLOSE_SECONDS * least]
    told = "It was fitted fastest."
    if close:
        told += f" {spelled(_titles(found, close))} {'is' if len(close) == 1 else 'are'} close."
    slowest = str(values.index[-1])
    if slowest != values.index[0] and slowest not in close:
        told += f" The slowest, {_title(found, slowest)}, took {duration(float(values.iloc[-1]))}."
    memory = _ranked(found, "memory")
    if len(memory) and memory.iloc[0] >= 1:
        told += f" Most memory: {_title(found, memory.index[0])}, {memory.iloc[0]:,.0f} MiB."
    title, value = _title(found, values.index[0]), duration(least)
    return Finding(level="good", winner=title, value=value, sentence=told, methods=_names(values, close))


# -------------------------------------------------------------------------------------------------------- small parts


def _ranked(found: Comparison, *columns: str, higher: bool = True) -> pd.Series[float]:
    """Return the mean of the columns for the methods that have all of them, best first."""
    if any(column not in found.table for column in columns):
        return pd.Series(dtype=float)
    table = found.table[list(columns)].replace([np.inf, -np.inf], np.nan).dropna()
    return table.mean(axis=1).sort_values(ascending=not higher, kind="stable")


def _numbers(found: Comparison, method: str, *columns: str) -> list[float]:
    return [value_of(found, method, column) for column in columns]


def _close(values: pd.Series[float], within: float, digits: int = 2) -> list[str]:
    """Return the methods that differ from the first by little, as far as the digits that are shown tell."""
    gap = (values - values.iloc[0]).abs().round(digits)
    return [str(name) for name in values.index[1:] if gap[name] <= within]


def _names(values: pd.Series[float], close: Sequence[str]) -> tuple[str, ...]:
    return (str(values.index[0]), *close)


def _behind(found: Comparison, values: pd.Series[float], close: Sequence[str], say: Callable[[float], str]) -> str:
    """Return a sentence on those that are close, or else on the next."""
    if len(values) < 2:
        return ""
    if not close:
        return f" Next is {_title(found, values.index[1])} ({say(float(values.iloc[1]))})."
    told = [f"{_title(found, name)} ({say(float(values[name]))})" for name in close]
    return f" Close: {spelled(told)}."


def _lower(values: pd.Series[float]) -> Callable[[float], str]:
    """Return a way to say how far below the first a score is."""
    return lambda value: f"{abs(float(values.iloc[0]) - value):.2f} lower"


def _title(found: Comparison, name: object) -> str:
    return str(found.titles.get(str(name), name))


def _titles(found: Comparison, names: Sequence[str]) -> list[str]:
    return [_title(found, name) for name in names]


def _minus(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace("-", "\u2212")
