"""Figures of the page of a comparison: small maps, and two charts over all methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from celbo.evaluate.comparison import Comparison
from celbo.plots.style import ACCENT, INK, MUTED, SECOND, new_axes, set_names, short, tidy
from celbo.report.compare_verdict import duration
from celbo.report.data import Categories
from celbo.report.figures import cloud, inline_svg
from celbo.report.markup import text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MAX_POINTS", "aligned", "cost_chart", "drawn_cells", "overlap_chart", "small_map"]

MAX_POINTS = 20_000
"""Cells drawn in a map; more are a random subset, the same in all maps."""

Points = NDArray[np.floating[Any]]


def drawn_cells(n_cells: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the positions of the cells that the maps show, at most `MAX_POINTS`."""
    if n_cells <= MAX_POINTS:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(seed).choice(n_cells, MAX_POINTS, replace=False)).astype(np.int64)


def aligned(points: Points, first: Points) -> Points:
    """Return a picture moved, turned, mirrored and scaled so that it lies on another as well as it can (Procrustes).

    Parameters
    ----------
    points, first
        Coordinates of the same cells, (cells, 2).
    """
    from scipy.linalg import orthogonal_procrustes

    one, other = (np.asarray(p, np.float64) - np.mean(p, axis=0, dtype=np.float64) for p in (points, first))
    if not (np.isfinite(one).all() and np.isfinite(other).all() and one.any() and other.any()):
        return np.asarray(points, np.float64)
    turn, strength = orthogonal_procrustes(one, other)
    return np.asarray(one @ turn * (strength / (one**2).sum()) + np.mean(first, axis=0, dtype=np.float64))


def small_map(
    points: Points, groups: Categories | None, cells: NDArray[np.int64], *, palette: list[str], side: int, label: str
) -> str:
    """Return a map of some cells as an SVG element.

    Parameters
    ----------
    points
        Coordinates of all cells, (cells, 2).
    groups
        The category of each cell; None draws one colour.
    cells
        Positions of the cells to draw; those without finite coordinates are left out.
    palette
        Colours of the categories.
    side
        Pixels of the picture.
    label
        What the map shows, for readers who cannot see it.
    """
    xy = np.asarray(points, np.float64)[cells]
    has = np.isfinite(xy).all(axis=1)
    color = None
    if groups is not None:
        codes = groups.codes[cells][has]
        known: Any = [int(code) if code >= 0 else None for code in codes]
        color = pd.Series(pd.Categorical(known, categories=range(len(groups.names))))
    uri, _ = cloud(xy[has], color, palette if groups is not None else None, side)
    return (
        f'<svg class="map" role="img" aria-label="{text(label, 300)}" viewBox="0 0 {side} {side}">'
        f'<image width="{side}" height="{side}" href="{uri}"/></svg>'
    )


def overlap_chart(found: Comparison) -> str:
    """Return bars: the share of neighbours that stay under another seed and under other parameters; "" without any."""
    columns = [name for name in ("seed_overlap", "parameter_overlap") if name in found.table]
    table = found.table[columns].dropna(how="all")
    if table.empty or not columns:
        return ""
    table = table.loc[table.mean(axis=1).sort_values(kind="stable").index]
    ax = new_axes(900, 60 + 32 * len(table))
    looks = {"seed_overlap": ("another seed", ACCENT, 0.19), "parameter_overlap": ("other parameters", SECOND, -0.19)}
    for name in columns:
        label, color, lift = looks[name]
        at, values = np.arange(len(table)) + lift, table[name].to_numpy(np.float64)
        ax.barh(at, np.nan_to_num(values), height=0.32, color=color, label=label)
        for y, value in zip(at, values, strict=True):
            told = "not known" if np.isnan(value) else f"{100 * value:.0f}%"
            ax.text((0 if np.isnan(value) else value) + 0.008, y, told, va="center", fontsize=9.5, color=MUTED)
    ax.set_xlim(0, 1.06)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25%", "50%", "75%", "100%"])
    set_names(ax, "y", [found.titles.get(str(name), name) for name in table.index])
    tidy(ax, x="of a cell's 15 nearest neighbours stay", grid="x")
    ax.tick_params(axis="y", labelcolor=INK)
    ax.figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=10.5, labelcolor=INK, handlelength=1.2)
    return inline_svg(ax, "overlap", "share of neighbours that stay under another seed and under other parameters")


def cost_chart(found: Comparison) -> str:
    """Return points on log scales: seconds and memory of each method, fastest first; "" without any."""
    if "seconds" not in found.table:
        return ""
    order = found.table["seconds"].dropna().sort_values(ascending=False, kind="stable").index
    drawn = []
    for column, title, floor in (("seconds", "seconds of one fit", 0.01), ("memory", "memory of one fit, MiB", 1.0)):
        if column not in found.table or found.table.loc[order, column].dropna().empty:
            continue
        ax = new_axes(430, 52 + 21 * max(len(order), 2))
        values = found.table.loc[order, column].clip(lower=floor).to_numpy(np.float64)
        _dots(ax, values, [found.titles.get(str(name), str(name)) for name in order], column, floor)
        tidy(ax, x=f"{title}, log scale", grid="x")
        ax.tick_params(axis="y", labelcolor=INK)
        drawn.append(f"<div>{inline_svg(ax, f'cost-{column}', f'{title} of each method')}</div>")
    return "".join(drawn)


def _dots(ax: Axes, values: Points, names: list[str], column: str, floor: float) -> None:
    """Draw one dot a method with its number beside it, on a log axis."""
    from celbo.plots.style import amounts

    at = np.arange(len(values))
    low, high = 10 ** np.floor(np.log10(np.nanmin(values))), np.nanmax(values)
    ax.hlines(at, low, values, color=ACCENT, linewidth=1.6, alpha=0.35)
    ax.plot(values, at, "o", color=ACCENT, markersize=6.5)
    for y, value in zip(at, values, strict=True):
        if np.isfinite(value):
            told = (
                duration(value)
                if column == "seconds"
                else f"{short(round(float(value)))} MiB"
                if value > floor
                else "under 1 MiB"
            )
            ax.annotate(told, (value, y), (8, 0), textcoords="offset points", va="center", fontsize=9.5, color=MUTED)
    ax.set_xscale("log")
    ax.set_xlim(low * 0.9, max(high, 10 * low) * (high / low) ** 0.22 * 1.6)
    amounts(ax, "x")
    set_names(ax, "y", names)
