"""Figures of cells: histograms, violins, scatters and composition bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d

from celbo.errors import InputError
from celbo.plots.arrays import numbers
from celbo.plots.limits import limits_of, log_axis
from celbo.plots.style import ACCENT, INK, PAPER, amounts, category_colors, heat, new_axes, set_names, short, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_cell_scatter", "plot_composition", "plot_histogram", "plot_violins"]

_FEWEST = 5
"""Cells that a violin needs."""


def plot_histogram(
    values: ArrayLike, *, x: str = "", y: str = "cells", log: bool = False, bins: int = 48, ax: Axes | None = None
) -> Axes:
    """Draw a histogram with its median marked and written.

    Values far from all others do not stretch the axis; the label tells how many there are.

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
    ax = ax or new_axes(340, 220)
    tidy(ax, x=x, y=y)
    kept = numbers(values, "values").ravel()
    kept = kept[np.isfinite(kept) & ((kept > 0) | (not log))]
    if not kept.size:
        return ax
    limits = limits_of(kept, log=log)
    low, high = limits.low, limits.high
    if limits.told():
        ax.set_xlabel(f"{x}\n{limits.told(y)}")
    if log:
        log_axis(ax, "x", limits)
        edges = np.geomspace(low / 1.02, high * 1.02, bins + 1)
    else:
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    ax.hist(kept[limits.inside(kept)], bins=edges.tolist(), color=ACCENT, alpha=0.8, edgecolor=PAPER, linewidth=0.4)
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
    counts = numbers(counts, "counts")
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


def plot_violins(
    values: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    names: Sequence[str] = ("all cells",),
    palette: Sequence[str] | None = None,
    x: str = "",
    log: bool = False,
    reach: float = 1.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw how a number is spread over the cells of each group: a lying violin, its quartiles and its median.

    Values far from all others do not stretch the axis; the label tells how many there are.

    Parameters
    ----------
    values
        A number for each cell, (cells,); those that are not finite (or, with `log`, not positive) are left out.
    groups
        Position of each cell's group in `names`, -1 for none; (cells,). None is one group.
    names
        Names of the groups, the first on top.
    palette
        Colours of the groups; None takes one colour for all.
    x
        Label of the axis.
    log
        Use a log axis for the values.
    reach
        How far the axis may go beyond the middle nine tenths of the values, in their width.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.

    Raises
    ------
    InputError
        If `groups` has another length than `values`.
    """
    amount = numbers(values, "values").ravel()
    codes = np.zeros(len(amount), np.int64) if groups is None else np.asarray(groups, np.int64)
    if len(codes) != len(amount):
        told = f"{len(codes)} entries for {len(amount)} values"
        raise InputError("has the wrong length", where="groups", value=told, fix="Give one entry for each value.")
    ax = ax or new_axes(340, 60 + 26 * max(len(names), 2))
    tidy(ax, x=x, grid="x")
    limits = limits_of(amount[codes >= 0], log=log, reach=reach)
    if limits.told():
        ax.set_xlabel(f"{x}\n{limits.told()}")
    if log:
        log_axis(ax, "x", limits)
    kept = limits.inside(amount)
    for row in range(len(names)):
        _violin(ax, amount[kept & (codes == row)], row, palette[row] if palette else ACCENT, log=log)
    set_names(ax, "y", names, limit=24)
    room = 1.05 if log else 0.03 * (limits.high - limits.low or 1.0)
    ends = (limits.low / room, limits.high * room) if log else (limits.low - room, limits.high + room)
    ax.set(xlim=ends, ylim=(len(names) - 0.45, -0.55))
    amounts(ax, "x")
    return ax


def _violin(ax: Axes, values: NDArray[np.float64], row: int, colour: str, *, log: bool) -> None:
    """Draw one violin with its quartiles; few or equal values are a dot at their median."""
    if not values.size:
        return
    first, middle, last = np.percentile(values, [25, 50, 75])
    scaled = np.log(values) if log else values
    if len(values) >= _FEWEST and scaled.std() > 1e-12 * max(abs(float(scaled.mean())), 1.0):
        at, height = _density(scaled)
        at = np.exp(at) if log else at
        ax.fill_between(at, row - 0.42 * height, row + 0.42 * height, color=colour, alpha=0.55, linewidth=0)
    ax.plot([first, last], [row, row], color=INK, linewidth=2.4, solid_capstyle="butt")
    ax.plot([middle], [row], marker="o", markersize=4.6, color=PAPER, markeredgecolor=INK, markeredgewidth=1.3)


def _density(values: NDArray[np.float64], n: int = 96) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return places within the range of the values and how dense they are there, the densest being 1.

    A histogram is smoothed by a normal kernel of Silverman's width, with what would fall outside the range put back:
    no share above 100% or below 0 is drawn, and the time does not grow with cells times places.
    """
    low, high = float(values.min()), float(values.max())
    counts, edges = np.histogram(values, bins=n, range=(low, high))
    spread = min(float(values.std()), float(np.subtract(*np.percentile(values, [75, 25]))) / 1.34 or np.inf)
    width = 0.9 * spread * len(values) ** -0.2 / ((high - low) / n)
    smooth = gaussian_filter1d(counts.astype(np.float64), max(width, 0.8), mode="reflect")
    return (edges[:-1] + edges[1:]) / 2, smooth / smooth.max()


def plot_cell_scatter(
    x: ArrayLike,
    y: ArrayLike,
    color: ArrayLike | None = None,
    *,
    labels: tuple[str, str] = ("", ""),
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw two numbers of each cell against each other, coloured by a third.

    Cells far from all others do not stretch the axes; the label below tells how many there are.

    Parameters
    ----------
    x, y
        Two numbers of each cell, (cells,); cells where one is not finite (or, with `log`, not positive) are left out.
    color
        An amount of each cell, (cells,), coloured from its first to its 99th percentile; None takes one colour.
    labels
        Labels of the axes.
    log
        Use log axes.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.
    """
    across, up = (numbers(side, name).ravel() for side, name in ((x, "x"), (y, "y")))
    ax = ax or new_axes(350, 300)
    tidy(ax, x=labels[0], y=labels[1], grid="both")
    limits = limits_of(across, log=log), limits_of(up, log=log)
    shown = limits[0].inside(across) & limits[1].inside(up)
    far = int((np.isfinite(across) & np.isfinite(up) & ((not log) | ((across > 0) & (up > 0))) & ~shown).sum())
    if far:
        ax.set_xlabel(f"{labels[0]}\n{far:,} cell{'s' * (far != 1)} far from the others not drawn")
    if log:
        log_axis(ax, "x", limits[0])
        log_axis(ax, "y", limits[1])
    look: dict[str, Any] = {"s": 5, "linewidths": 0, "alpha": 0.8, "rasterized": True}
    if color is None:
        ax.scatter(across[shown], up[shown], color=ACCENT, **look)
    else:
        amount = numbers(color, "color").ravel()[shown]
        order = np.argsort(amount, kind="stable")
        low, high = np.nanpercentile(amount, [1, 99]) if np.isfinite(amount).any() else (0.0, 1.0)
        points = across[shown][order], up[shown][order]
        ax.scatter(*points, c=amount[order], cmap=heat(), vmin=low, vmax=max(high, low + 1e-9), **look)
    amounts(ax, "x")
    amounts(ax, "y")
    return ax
