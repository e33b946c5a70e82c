"""How good are calls of differential expression? Scores against known truth, and what they sum up to.

A method answers with `Evidence`: one number a gene to rank by, and the genes that it calls at each target. The truth is
the log2 fold change of every gene, exactly 0 where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from machine import significant
from sklearn.metrics import average_precision_score

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

TARGETS = (0.01, 0.05, 0.1)
STRONG = 0.5
"""Size of log2 fold change from which power is counted."""
BINS = ((0.25, 0.5), (0.5, 1.0), (1.0, 1.5), (1.5, math.inf))
"""Sizes of log2 fold change that power is told for."""


@dataclass(frozen=True)
class Evidence:
    """What a method says of each gene, in the order of the genes."""

    score: Doubles
    """Higher is more evidence of a difference, up or down; (genes,)."""
    calls: Mapping[float, Flags]
    """Genes called at each target; (genes,) each."""
    lfc: Doubles | None = None
    """log2 fold changes; (genes,)."""
    interval: tuple[Doubles, Doubles] | None = None
    """Ends of the 95% credible intervals of the log2 fold changes; (genes,) each."""
    notes: Mapping[str, float] = field(default_factory=dict)


def benjamini_hochberg(p: Doubles) -> Doubles:
    """Return the p-values adjusted for the false discovery rate (Benjamini and Hochberg 1995); NaN counts as 1."""
    p = np.nan_to_num(np.asarray(p, np.float64), nan=1.0)
    order = np.argsort(-p, kind="stable")
    ranks = np.arange(p.size, 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(p[order] * p.size / ranks))
    return adjusted


def ranked(first: Doubles, tie: Doubles) -> Doubles:
    """Return a number a gene that orders by `first`, and by `tie` where `first` is equal; equal in both stay equal."""
    pairs = np.column_stack([np.nan_to_num(np.asarray(values, np.float64), nan=-np.inf) for values in (first, tie)])
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1).astype(np.float64)


def false_discovery_proportion(called: Flags, changed: Flags) -> float:
    """Return the share of the calls that are wrong; 0 where nothing is called."""
    return float((called & ~changed).sum() / max(int(called.sum()), 1))


def power(called: Flags, asked: Flags) -> float | None:
    """Return the share of the genes asked for that are called; None where none is asked for."""
    return float(called[asked].mean()) if asked.any() else None


def scored(evidence: Evidence, truth: Doubles) -> dict[str, Any]:
    """Return the scores of one answer against the true log2 fold changes."""
    changed, size = truth != 0, np.abs(truth)
    out: dict[str, Any] = {"changed": int(changed.sum()), "genes": int(truth.size)}
    if changed.any() and not changed.all():
        out["auprc"] = float(average_precision_score(changed, evidence.score))
    for target, called in evidence.calls.items():
        out[f"calls@{target}"] = int(called.sum())
        out[f"fdp@{target}"] = false_discovery_proportion(called, changed)
        out[f"power@{target}"] = power(called, size >= STRONG)
        out[f"power_all@{target}"] = power(called, changed)
    called = evidence.calls[0.05]
    for low, high in BINS:
        out[f"power {low:g} to {high:g}"] = power(called, (size >= low) & (size < high))
    if evidence.lfc is not None:
        # a call in the wrong direction is no discovery
        found = called & changed
        out["wrong_sign@0.05"] = int((np.sign(evidence.lfc[found]) != np.sign(truth[found])).sum())
        if changed.any():
            out["lfc_rmse"] = float(np.sqrt(np.mean((evidence.lfc - truth)[changed] ** 2)))
    if evidence.interval is not None:
        low_end, high_end = evidence.interval
        inside = (low_end <= truth) & (truth <= high_end)
        out["coverage"] = float(inside.mean())
        if changed.any():
            out["coverage_changed"] = float(inside[changed].mean())
    return {k: significant(v) if isinstance(v, float) else v for k, v in (out | dict(evidence.notes)).items()}


def mean_and_error(values: Iterable[float | None]) -> tuple[float, float | None]:
    """Return the mean of what is there and its standard error; no error of fewer than two values."""
    there = np.array([v for v in values if v is not None], np.float64)
    if there.size == 0:
        return math.nan, None
    error = float(there.std(ddof=1) / math.sqrt(there.size)) if there.size > 1 else None
    return float(there.mean()), error


def summed_up(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means over data sets of one setting and method; whether the FDP is within target + 2 s.e."""
    out: dict[str, Any] = {"data_sets": len(rows)}
    names = [n for n, v in rows[0].items() if isinstance(v, float | int) and n not in ("seed", "genes")]
    names += [n for n in rows[0] if n.startswith("power") and n not in names]
    for name in names:
        mean, error = mean_and_error(row.get(name) for row in rows)
        if not math.isnan(mean):
            out[name] = significant(mean)
        if name.startswith("fdp@"):
            target = float(name.partition("@")[2])
            out[f"{name} s.e."] = None if error is None else significant(error, 2)
            out[f"{name} held"] = within(mean, error, target)
    return out


def within(mean: float, error: float | None, target: float) -> bool:
    """Say whether a mean is at most the target and two standard errors."""
    return bool(mean <= target + 2 * (error or 0.0))


def null_summary(calls: Sequence[int]) -> dict[str, Any]:
    """Return what calls in comparisons where nothing differs sum up to: any of them is false."""
    counts = np.asarray(calls)
    share = float((counts > 0).mean())
    return {
        "splits": int(counts.size),
        "share_with_calls": significant(share),
        "s.e.": significant(math.sqrt(share * (1 - share) / counts.size), 2),
        "mean_calls": significant(float(counts.mean())),
        "most_calls": int(counts.max()),
    }
