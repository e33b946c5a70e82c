"""Figures of cells: histograms and composition bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from celbo.errors import InputError
from celbo.plots.style import ACCENT, INK, PAPER, amounts, category_colors, new_axes, set_names, short, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_composition", "plot_histogram"]


def plot_histogram(
    values: ArrayLike, *, x: str = "", y: str = "cells", log: bool = False, bins: int = 48, ax: Axes | None = None
) -> Axes:
    """Draw a histogram with its median marked and written.

    Parameters
    ----------
    values
        Numbers, any shape; those that are not finite (or, with `log`, not positive) are left out.
    x, y
        Axis labels; `y` says what is counted.
    log
        Use a log axis for the values.
    bins
        Number of bars.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.
    """
    from matplotlib.ticker import LogLocator

    ax = ax or new_axes(340, 220)
    tidy(ax, x=x, y=y)
    kept = np.asarray(values, np.float64).ravel()
    kept = kept[np.isfinite(kept) & ((kept > 0) | (not log))]
    if not kept.size:
        return ax
    low, high = float(kept.min()), float(kept.max())
    if log:
        ax.set_xscale("log")
        edges = np.geomspace(low / 1.02, high * 1.02, bins + 1)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
        ax.minorticks_off()
    else:
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    ax.hist(kept, bins=edges.tolist(), color=ACCENT, alpha=0.8, edgecolor=PAPER, linewidth=0.4)
    middle = float(np.median(kept))
    ax.axvline(middle, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    right = middle < (np.sqrt(low * high) if log else (low + high) / 2)
    ax.annotate(
        f"median {short(middle)}", (middle, 1), (6 if right else -6, 0), xycoords=("data", "axes fraction"),
        textcoords="offset points", ha="left" if right else "right", va="top", fontsize=10.5, color=INK,
    )  # fmt: skip
    amounts(ax, "x")
    amounts(ax, "y")
    return ax


def plot_composition(
    counts: ArrayLike,
    *,
    groups: Sequence[str],
    parts: Sequence[str],
    palette: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what each group is made of: one bar a group, cut by parts, each bar as long as the others.

    Parameters
    ----------
    counts
        Cells of each group and part, (groups, parts).
    groups, parts
        Their names; the size of each group is written at the end of its bar.
    palette
        Colours of the parts; None takes those of the report.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.
    """
    counts = np.asarray(counts, np.float64)
    if counts.shape != (len(groups), len(parts)):
        raise InputError(
            "does not match the names",
            where="counts",
            value=f"shape {counts.shape} for {len(groups)} groups and {len(parts)} parts",
            fix="Give (groups, parts).",
        )
    ax = ax or new_axes(480, 60 + 22 * max(len(groups), 2))
    tidy(ax, x="share of the cells", grid="")
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    start = np.zeros(len(groups))
    for part, colour in enumerate(palette or category_colors(len(parts))):
        rows = np.flatnonzero(share[:, part])
        ax.barh(rows, share[rows, part], left=start[rows], color=colour, height=0.74)
        start = start + share[:, part]
    for row, total in enumerate(counts.sum(1)):
        ax.annotate(
            f"{total:,.0f}", (1, row), (6, 0), textcoords="offset points", va="center", fontsize=10, color=INK,
            annotation_clip=False,
        )  # fmt: skip
    set_names(ax, "y", groups, limit=24)
    ax.set(xlim=(0, 1), ylim=(len(groups) - 0.5, -0.5))
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25%", "50%", "75%", "100%"])
    ax.spines["bottom"].set_visible(False)
    ax.spines["left"].set_visible(False)
    return ax
