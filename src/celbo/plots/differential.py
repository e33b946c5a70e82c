"""Figures of differential expression: volcano, MA, and the credible intervals of the top genes.

All take the table of `model.differential_expression(...)`. Colours are the same in all: called higher in group 1,
called lower, not called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from celbo.errors import InputError, OptionError, listed
from celbo.plots.compared import called, evidence, one_comparison, require
from celbo.plots.labels import label_points
from celbo.plots.names import shown
from celbo.plots.style import ACCENT, GRID, INK, MISSING, MUTED, SECOND, amounts, new_axes, set_names, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_lfc_intervals", "plot_ma", "plot_volcano"]

Comparison = str | Sequence[str] | None
_COLOURS = {0: MISSING, -1: ACCENT, 1: SECOND}
_NEEDED = ("lfc_median", "bayes_factor")
_DASHED: Any = (0, (4, 3))
_LINEAR, _LONG = 10.0, 40.0
"""Log odds up to which a long axis is linear, and from which it is long."""


def plot_volcano(
    table: pd.DataFrame, *, comparison: Comparison = None, n_labels: int = 12, ax: Axes | None = None
) -> Axes:
    """Draw fold change against evidence, one point a gene.

    The evidence is the column `bayes_factor`: the natural log odds that the gene differs by more than delta (in mode
    "vanilla", that the direction is right). Where it goes beyond 40 the axis is linear up to 10, where the calls begin,
    and logarithmic above. Infinite odds stand at the upper end. Dashed lines are at plus and minus delta.

    Parameters
    ----------
    table
        `model.differential_expression(...)`.
    comparison
        Name of group 1, or of both groups; None where the table holds one comparison only.
    n_labels
        Called genes that are named, half of them on either side while there are; fewer where there is no room.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.

    Raises
    ------
    OptionError
        If there are several comparisons and none is named.
    InputError
        If the table lacks a column.
    """
    require(table, _NEEDED)
    rows = one_comparison(table, comparison)
    ax = ax or new_axes(430, 340)
    x, y = rows["lfc_median"].to_numpy(np.float64), _finite(evidence(rows))
    what = "that the direction is right" if "proba_higher" in rows else "of a difference"
    _axes(ax, rows, x=_fold_change(rows), y=f"log odds {what}")
    _scatter(ax, x, y, called(rows))
    reach = 1.08 * max(float(np.nanmax(np.abs(x), initial=0.0)), 2 * _delta(rows), 0.1)
    low, high = float(np.nanmin(y, initial=0.0)), float(np.nanmax(y, initial=1.0))
    ax.set(xlim=(-reach, reach), ylim=(low - 0.04 * (high - low), high + 0.07 * (high - low)))
    if high > _LONG:
        _bend(ax, low, high)
    if _delta(rows):
        for at in (-_delta(rows), _delta(rows)):
            ax.axvline(at, color=MUTED, linewidth=1, linestyle=_DASHED, zorder=1)
    label_points(ax, x, y, list(rows.index), _to_name(rows, n_labels))
    return ax


def plot_ma(table: pd.DataFrame, *, comparison: Comparison = None, n_labels: int = 12, ax: Axes | None = None) -> Axes:
    """Draw mean expression against fold change, one point a gene, with the band of changes within delta.

    The mean is that of the expected shares of both groups (`scale1`, `scale2`), per 10,000 counts, on a log axis.

    Parameters
    ----------
    table, comparison, n_labels, ax
        See `plot_volcano`.

    Returns
    -------
    The axes.

    Raises
    ------
    OptionError
        If there are several comparisons and none is named.
    InputError
        If the table lacks a column.
    """
    require(table, [*_NEEDED, "scale1", "scale2"])
    rows = one_comparison(table, comparison)
    ax = ax or new_axes(430, 340)
    mean = 5e3 * (rows["scale1"].to_numpy(np.float64) + rows["scale2"].to_numpy(np.float64))
    rows = rows[mean > 0]  # a log axis has no place for the others
    x, y = mean[mean > 0], rows["lfc_median"].to_numpy(np.float64)
    _axes(ax, rows, x="mean expression per 10,000", y=_fold_change(rows))
    ax.set_xscale("log")
    ax.minorticks_off()
    amounts(ax, "x")
    _scatter(ax, x, y, called(rows))
    reach = 1.08 * max(float(np.nanmax(np.abs(y), initial=0.0)), 2 * _delta(rows), 0.1)
    ax.set_ylim(-reach, reach)
    if _delta(rows):
        ax.axhspan(-_delta(rows), _delta(rows), color=GRID, alpha=0.6, linewidth=0, zorder=0)
    ax.axhline(0, color=MUTED, linewidth=1, zorder=1)
    label_points(ax, x, y, list(rows.index), _to_name(rows, n_labels))
    return ax


def plot_lfc_intervals(
    table: pd.DataFrame,
    n_genes: int = 20,
    *,
    comparison: Comparison = None,
    genes: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the fold changes of genes with their credible intervals, in the order of the table from the top.

    Parameters
    ----------
    table, comparison, ax
        See `plot_volcano`.
    n_genes
        Genes drawn, from the top of the table.
    genes
        Names of genes to draw instead, in this order.

    Returns
    -------
    The axes.

    Raises
    ------
    OptionError
        If there are several comparisons and none is named.
    InputError
        If the table lacks a column or one of the genes.
    """
    require(table, [*_NEEDED, "lfc_lower", "lfc_upper"])
    rows = one_comparison(table, comparison)
    if genes is None:
        if n_genes < 1:
            raise OptionError("is not a number of at least 1", where=f"n_genes={n_genes!r}")
        rows = rows.head(n_genes)
    else:
        absent = [gene for gene in genes if gene not in rows.index]
        if absent:
            raise InputError(f"lacks genes: {listed(absent)}", where="the table of differential expression")
        rows = rows[~rows.index.duplicated()].loc[list(genes)]
    ax = ax or new_axes(430, 62 + 17 * max(len(rows), 3))
    tidy(ax, x=_fold_change(rows), grid="x")
    at = np.arange(len(rows))
    middle, low, high = (rows[f"lfc_{name}"].to_numpy(np.float64) for name in ("median", "lower", "upper"))
    calls = called(rows)
    for call, colour in _COLOURS.items():
        own = calls == call
        ax.hlines(at[own], low[own], high[own], color=colour, linewidth=2.2, alpha=0.55, zorder=2)
        ax.plot(middle[own], at[own], "o", color=colour, markersize=5.5, zorder=3)
    ax.axvline(0, color=INK, linewidth=1, zorder=1)
    for line in (-_delta(rows), _delta(rows)) if _delta(rows) else ():
        ax.axvline(line, color=MUTED, linewidth=1, linestyle=_DASHED, zorder=1)
    set_names(ax, "y", list(rows.index), limit=18)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.xaxis.label.set_parse_math(False)
    return ax


def _axes(ax: Axes, rows: pd.DataFrame, *, x: str, y: str) -> None:
    """Set labels, and write how many genes are called on either side."""
    tidy(ax, x=x, y=y, grid="both")
    ax.xaxis.label.set_parse_math(False)
    ax.yaxis.label.set_parse_math(False)
    calls = called(rows)
    for call, side, word in ((-1, "left", "lower"), (1, "right", "higher")):
        ax.text(
            float(call > 0), 1.015, f"{(calls == call).sum():,} {word}", transform=ax.transAxes, fontsize=10.5,
            color=_COLOURS[call], horizontalalignment=side, verticalalignment="bottom",
        )  # fmt: skip


def _scatter(ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], calls: NDArray[np.int64]) -> None:
    """Draw the points, called ones above the others."""
    for call, colour in _COLOURS.items():
        own = calls == call
        few: Any = {"s": 13, "alpha": 0.75} if call else {"s": 9, "alpha": 0.45}
        ax.scatter(x[own], y[own], color=colour, linewidths=0, rasterized=True, zorder=2 + (call != 0), **few)


def _fold_change(rows: pd.DataFrame) -> str:
    one, other = (shown(rows[name].iloc[0], 22) for name in ("group1", "group2"))
    return f"log2 fold change\n{one} over {other}"


def _delta(rows: pd.DataFrame) -> float:
    """The threshold of the comparison; 0 where there is none."""
    delta = float(rows["delta"].iloc[0]) if "delta" in rows and len(rows) else 0.0
    return delta if np.isfinite(delta) and delta > 0 else 0.0


def _finite(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put infinite odds at the ends of the finite ones."""
    finite = odds[np.isfinite(odds)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return np.clip(np.nan_to_num(odds, nan=low, posinf=np.inf, neginf=-np.inf), low, high)


def _bend(ax: Axes, low: float, high: float) -> None:
    """Make the axis of the evidence logarithmic above `_LINEAR`."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ax.set_yscale("symlog", linthresh=_LINEAR, linscale=1.3)
    marks = [-10.0, -5.0, 0.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0]
    ax.yaxis.set_major_locator(FixedLocator([m for m in marks if low - 1 <= m <= 1.3 * high]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}".replace("-", "\N{MINUS SIGN}")))
    ax.set_ylim(low - 1, high * 1.35)


def _to_name(rows: pd.DataFrame, n_labels: int) -> list[int]:
    """Return positions of the called genes to name: by evidence, then by size, half on either side while there are."""
    calls = called(rows)
    order = np.lexsort((-np.abs(rows["lfc_median"].to_numpy(np.float64)), -evidence(rows)))
    sides = [[int(i) for i in order if calls[i] == call][:n_labels] for call in (1, -1)]
    turns = [side[i] for i in range(n_labels) for side in sides if i < len(side)]
    return turns[:n_labels]
