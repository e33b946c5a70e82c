"""Figures of what an autoencoder's latent space is like: its directions, its holes, its widths, its bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from celbo.errors import InputError
from celbo.plots.arrays import numbers
from celbo.plots.names import shown
from celbo.plots.style import (
    ACCENT,
    INK,
    MUTED,
    PAPER,
    SECOND,
    amounts,
    category_colors,
    heat,
    legend,
    new_axes,
    set_names,
    short,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_bounds", "plot_cosines", "plot_deviations", "plot_distances", "plot_elbo_identity", "plot_field"]


def plot_cosines(cosines: ArrayLike, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the absolute cosines between directions as a table of squares; orthogonal ones leave all but the diagonal
    empty.

    Parameters
    ----------
    cosines
        Square, (k, k), from -1 to 1.
    title
        Drawn above.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.
    """
    from matplotlib.colors import LinearSegmentedColormap

    c = np.abs(numbers(cosines, "cosines"))
    if c.ndim != 2 or c.shape[0] != c.shape[1]:
        raise InputError("is not square", where="cosines", value=f"shape {c.shape}", fix="Give (k, k).")
    ax = ax or new_axes(300, 290)
    ax.imshow(c, cmap=LinearSegmentedColormap.from_list("cosine", [PAPER, ACCENT]), vmin=0, vmax=1)
    for i, j in np.ndindex(c.shape):
        if len(c) <= 12:
            dark = PAPER if c[i, j] > 0.55 else INK
            ax.text(j, i, f"{c[i, j]:.2f}", ha="center", va="center", fontsize=9, color=dark)
    tidy(ax, x="direction of the decoder", y="direction of the decoder", grid="")
    for axis in ("x", "y"):
        set_names(ax, axis, range(1, len(c) + 1))
    return _titled(ax, title)


def plot_field(
    grid: tuple[ArrayLike, ArrayLike],
    values: ArrayLike,
    codes: ArrayLike,
    *,
    threshold: float,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a latent plane: how far each point decodes from the cells, and the codes of the cells on top.

    Parameters
    ----------
    grid
        Coordinates of columns and of rows; (columns,), (rows,).
    values
        Distance of what each point decodes to from the nearest real profile; (rows, columns).
    codes
        Codes of the cells, (cells, 2).
    threshold
        Distance beyond which nothing like a cell is decoded: shaded from there on, with a line at it.
    title
        Drawn above.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.
    """
    ax = ax or new_axes(340, 330)
    x, y = (numbers(side, "grid") for side in grid)
    field, z = numbers(values, "values"), numbers(codes, "codes")
    if field.shape != (len(y), len(x)) or z.ndim != 2 or z.shape[1] != 2:
        raise InputError(
            "do not fit together", where="grid, values and codes",
            value=f"({len(x)}, {len(y)}), {field.shape}, {z.shape}", fix="Give (rows, columns) and (cells, 2).",
        )  # fmt: skip
    top = max(float(field.max()), threshold * 1.01)
    ax.contourf(x, y, field, levels=np.linspace(threshold, top, 9).tolist(), cmap=heat(), alpha=0.85, extend="max")
    if field.min() < threshold < field.max():
        ax.contour(x, y, field, levels=[threshold], colors=[MUTED], linewidths=1)
    ax.scatter(z[:, 0], z[:, 1], s=2.5, color=INK, alpha=0.45, linewidths=0, rasterized=True)
    tidy(ax, x="z1", y="z2", grid="")
    ax.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
    return _titled(ax, title)


def plot_distances(
    distances: Mapping[str, ArrayLike], *, threshold: float | None = None, x: str = "", ax: Axes | None = None
) -> Axes:
    """Draw one row of quantiles for each set of distances: 5 to 95% as a line, 25 to 75% as a bar, the median as a gap.

    Parameters
    ----------
    distances
        Sets of numbers by name, drawn from top to bottom.
    threshold
        Marked by a line.
    x
        Label of the axis.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.
    """
    ax = ax or new_axes(460, 70 + 34 * max(len(distances), 2))
    tidy(ax, x=x, grid="x")
    for row, values in enumerate(distances.values()):
        low, first, middle, third, high = np.quantile(numbers(values, "distances"), [0.05, 0.25, 0.5, 0.75, 0.95])
        ax.plot([low, high], [row, row], color=MUTED, linewidth=1.2, solid_capstyle="butt")
        ax.barh(row, third - first, left=first, height=0.5, color=ACCENT if row == 0 else SECOND)
        ax.plot([middle, middle], [row - 0.25, row + 0.25], color=PAPER, linewidth=1.8)
    if threshold is not None:
        ax.axvline(threshold, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
    set_names(ax, "y", list(distances), limit=44)
    ax.set_ylim(len(distances) - 0.5, -0.5)
    return ax


def plot_deviations(deviations: Mapping[str, ArrayLike], *, bins: int = 60, ax: Axes | None = None) -> Axes:
    """Draw histograms of posterior standard deviations over each other, on a log axis.

    Parameters
    ----------
    deviations
        Positive numbers by name, any shape.
    bins
        Number of bars over the range of all.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.
    """
    ax = ax or new_axes(400, 240)
    sets = {name: numbers(values, "deviations").ravel() for name, values in deviations.items()}
    if not sets or any(v.size == 0 or not (v > 0).all() for v in sets.values()):
        raise InputError("are not all above zero", where="deviations", fix="Give standard deviations by name.")
    tidy(ax, x="standard deviation of q(z | x)", y="share of cells and dimensions")
    edges = np.geomspace(min(v.min() for v in sets.values()) / 1.05, max(v.max() for v in sets.values()) * 1.05, bins)
    ax.set_xscale("log")
    for (name, values), colour in zip(sets.items(), category_colors(len(sets)), strict=True):
        weights = np.full(values.size, 1 / values.size)
        label = f"{shown(name)}: median {short(float(np.median(values)))}"
        ax.hist(values, bins=edges.tolist(), weights=weights, color=colour, alpha=0.65, label=label)
    amounts(ax, "x")
    legend(ax, loc="best")
    return ax


def plot_elbo_identity(terms: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw ln p(x) = ELBO + KL as one bar for each q: the ELBO's height, and the divergence that is left to ln p(x).

    Parameters
    ----------
    terms
        One row for each q, named, with the columns `evidence`, `elbo` and `kl` in nats per cell.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.
    """
    ax = ax or new_axes(400, 260)
    tidy(ax, y="nats per cell")
    elbo, kl = (terms[name].to_numpy(np.float64) for name in ("elbo", "kl"))
    evidence = float(terms["evidence"].iloc[0])
    floor = float(elbo.min()) - 0.25 * max(evidence - float(elbo.min()), 1e-9)
    at = np.arange(len(terms))
    ax.bar(at, elbo - floor, bottom=floor, width=0.6, color=ACCENT, label="ELBO")
    ax.bar(at, kl, bottom=elbo, width=0.6, color=SECOND, label="KL(q || p(z | x))")
    ax.axhline(evidence, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label="ln p(x)")
    for i, value in enumerate(kl):
        ax.annotate(
            f"KL {short(round(float(value), 9))}", (i, evidence), (0, 4), textcoords="offset points", ha="center",
            va="bottom", fontsize=10, color=INK,
        )  # fmt: skip
    ax.set_ylim(floor, evidence + 0.3 * (evidence - floor))
    set_names(ax, "x", [str(name) for name in terms.index])
    legend(ax, loc="upper left", columns=3)
    return ax


def plot_bounds(bounds: pd.DataFrame, *, evidence: float, ax: Axes | None = None) -> Axes:
    """Draw the importance-weighted bound over the number of samples, and ln p(x), which it rises to.

    Parameters
    ----------
    bounds
        Indexed by the number of samples, with the columns `bound` and `error` (standard error) in nats per cell.
    evidence
        ln p(x), nats per cell.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.
    """
    ax = ax or new_axes(380, 240)
    tidy(ax, x="samples K", y="nats per cell")
    ax.axhline(evidence, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label="ln p(x)")
    ax.errorbar(
        bounds.index.to_numpy(), bounds["bound"], yerr=2 * bounds["error"], color=ACCENT, ecolor=MUTED, marker="o",
        markersize=4, linewidth=1.8, label="bound",
    )  # fmt: skip
    ax.set_xscale("log")
    amounts(ax, "x")
    legend(ax, loc="lower right")
    return ax


def _titled(ax: Axes, title: str) -> Axes:
    if title:
        ax.set_title(shown(title, 60), fontsize=12, color=INK, parse_math=False)
    return ax
