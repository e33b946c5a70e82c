"""Figures of genes: the dot plot and the posterior predictive check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from celbo.errors import InputError, OptionError
from celbo.plots.style import ACCENT, INK, amounts, heat, new_axes, set_names, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_dotplot", "plot_ppc"]

_STEP = 19
"""Pixels between neighbouring genes or groups of a dot plot."""


def plot_dotplot(
    mean: ArrayLike, fraction: ArrayLike, *, genes: Sequence[str], groups: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Draw a dot for each group and gene: its area the share of cells that express it, its colour the mean.

    Parameters
    ----------
    mean
        Mean expression, (groups, genes); each gene is coloured from its lowest group to its highest.
    fraction
        Share of cells with a count, (groups, genes).
    genes, groups
        Their names.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.
    """
    mean, fraction = np.asarray(mean, np.float64), np.asarray(fraction, np.float64)
    if mean.shape != fraction.shape or mean.shape != (len(groups), len(genes)):
        raise InputError(
            "do not match",
            where="mean, fraction and names",
            value=f"{mean.shape}, {fraction.shape} and {(len(groups), len(genes))}",
            fix="Give one entry for each group and gene.",
        )
    ax = ax or new_axes(150 + _STEP * max(len(genes), 4), 110 + _STEP * max(len(groups), 2))
    tidy(ax, grid="both")
    column, row = np.meshgrid(np.arange(len(genes)), np.arange(len(groups)))
    low, high = mean.min(axis=0, initial=np.inf), mean.max(axis=0, initial=0.0)
    relative = (mean - low) / np.maximum(high - low, 1e-12)
    ax.scatter(column, row, s=(15 * np.sqrt(fraction)) ** 2, c=relative, cmap=heat(), vmin=0, vmax=1, linewidths=0)
    set_names(ax, "x", genes, limit=18, turn=90 if len(genes) > 12 else 45)
    set_names(ax, "y", groups, limit=24)
    ax.set_xlim(-0.7, len(genes) - 0.3)
    ax.set_ylim(len(groups) - 0.3, -0.7)
    return ax


def plot_ppc(
    check: pd.DataFrame, what: Literal["mean", "variance", "zeros"] = "mean", *, ax: Axes | None = None
) -> Axes:
    """Draw what the model predicts for each gene against what was observed, with the line of equality.

    Parameters
    ----------
    check
        `celbo.evaluate.predictive_check(...)`, one row a gene.
    what
        "mean" (counts), "variance" (counts squared), both on log axes, or "zeros" (share of cells without a count).
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.
    """
    if what not in {"mean", "variance", "zeros"}:
        raise OptionError("does not exist", where="what", value=repr(what), fix="Known: mean, variance, zeros.")
    ax = ax or new_axes(300, 300)
    tidy(ax, x="observed", y="predicted", grid="both")
    seen, drawn = (check[f"{what}_{side}"].to_numpy(np.float64) for side in ("observed", "predicted"))
    kept = np.isfinite(seen) & np.isfinite(drawn) & ((what == "zeros") | ((seen > 0) & (drawn > 0)))
    if what != "zeros":
        ax.set(xscale="log", yscale="log")
        ax.minorticks_off()
    ax.scatter(
        seen[kept],
        drawn[kept],
        s=12,
        color=ACCENT,
        alpha=0.35 if kept.sum() > 500 else 0.6,
        linewidths=0,
        rasterized=True,
    )
    both = np.concatenate([seen[kept], drawn[kept]])
    low, high = (both.min(), both.max()) if both.size else (0.1, 1.0)
    room = (0.03, 0.03) if what == "zeros" else (low * 0.4, high * 1.5)
    ends = (low - room[0], high + room[1])
    ax.plot(ends, ends, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), zorder=3)
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    amounts(ax, "x")
    amounts(ax, "y")
    return ax
