"""Figures of genes: the dot plots and the posterior predictive check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from celbo.errors import InputError, OptionError, listed
from celbo.plots.arrays import numbers
from celbo.plots.compared import expression_of
from celbo.plots.limits import Limits, limits_of, log_axis
from celbo.plots.style import ACCENT, INK, amounts, heat, new_axes, set_names, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_dotplot", "plot_ppc", "plot_top_genes"]

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
    mean, fraction = numbers(mean, "mean"), numbers(fraction, "fraction")
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


def plot_top_genes(
    table: pd.DataFrame, n_genes: int = 3, *, genes: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the dot plot of the genes that stand for each group of a table of differential expression.

    Parameters
    ----------
    table
        `model.differential_expression(...)`, with all genes of each comparison.
    n_genes
        Genes of each group: called higher there, found in a quarter of its cells, and of those the surely largest fold
        changes (by the lower end of their credible intervals).
    genes
        Names of genes to draw instead.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes; see `plot_dotplot`. The mean is log1p of the expected share times 10,000.

    Raises
    ------
    InputError
        If the table lacks a column, or one of the genes in a comparison.
    """
    if n_genes < 1:
        raise OptionError("is not a number of at least 1", where=f"n_genes={n_genes!r}")
    mean, fraction = expression_of(table, genes, n_genes=n_genes)
    return plot_dotplot(mean, fraction, genes=list(mean.columns), groups=list(mean.index), ax=ax)


def plot_ppc(check: pd.DataFrame, what: str = "mean", *, ax: Axes | None = None) -> Axes:
    """Draw what the model predicts for each gene against what was observed, with the line of equality.

    Parameters
    ----------
    check
        `model.posterior_predictive_check(...)` or `celbo.evaluate.predictive_check(...)`, one row a gene. Where it has
        intervals of the draws, they are drawn too.
    what
        "mean" (counts), "variance" (counts squared), both on log axes, "zeros" (share of cells without a count), or any
        other statistic of the table.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.

    Raises
    ------
    OptionError
        If the table does not have the statistic.
    """
    known = [str(name).removesuffix("_observed") for name in check.columns if str(name).endswith("_observed")]
    if what not in known:
        raise OptionError("is not in the table", where="what", value=repr(what), fix=f"It has {listed(known)}.")
    ax = ax or new_axes(300, 300)
    tidy(ax, x="observed", y="predicted", grid="both")
    log = what in {"mean", "variance"}
    seen, drawn = (check[f"{what}_{side}"].to_numpy(np.float64) for side in ("observed", "predicted"))
    kept = np.isfinite(seen) & np.isfinite(drawn) & ((not log) | ((seen > 0) & (drawn > 0)))
    alpha = 0.35 if kept.sum() > 500 else 0.6
    low, high = _ends(np.concatenate([seen[kept], drawn[kept]]), log=log, bounded=what == "zeros")
    for axis in ("x", "y") if log else ():
        log_axis(ax, axis, Limits(low, high))
    room = (low * 0.4, high * 1.5) if log else (0.03 * (high - low or 1.0),) * 2
    ends = (low - room[0], high + room[1])
    ax.scatter(seen[kept], drawn[kept], s=12, color=ACCENT, alpha=alpha, linewidths=0, rasterized=True)
    if f"{what}_lower" in check:
        bounds = (check[f"{what}_{side}"].to_numpy(np.float64)[kept].clip(*ends) for side in ("lower", "upper"))
        ax.vlines(seen[kept], *bounds, color=ACCENT, alpha=alpha / 2, linewidth=0.8, rasterized=True)
    ax.plot(ends, ends, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), zorder=3)
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    if told := _not_drawn(np.column_stack([seen, drawn]), kept, ends):
        ax.set_xlabel(f"observed\n{told}")
    amounts(ax, "x")
    amounts(ax, "y")
    return ax


def _ends(values: NDArray[np.float64], *, log: bool, bounded: bool) -> tuple[float, float]:
    """Return the first and last value to draw; of shares, which one odd gene cannot stretch, all."""
    if bounded and values.size:
        return float(values.min()), float(values.max())
    limits = limits_of(values, log=log)
    return limits.low, limits.high


def _not_drawn(pairs: NDArray[np.float64], kept: NDArray[np.bool_], ends: tuple[float, float]) -> str:
    """Return in words which genes have no place in the figure; "" where all have."""
    far = int(((pairs[kept] < ends[0]) | (pairs[kept] > ends[1])).any(axis=1).sum())
    zero = int((np.isfinite(pairs).all(axis=1) & ~kept).sum())
    parts = [
        f"{n:,} {'gene' if n == 1 else 'genes'} {why}"
        for n, why in ((far, "far from all others"), (zero, "at zero"))
        if n
    ]
    return " and ".join(parts) + " not drawn" if parts else ""
