"""The look that all figures share: colours that colour-blind readers can tell apart, thin axes, plain type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from celbo.plots.names import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

__all__ = [
    "ACCENT",
    "GRID",
    "INK",
    "MISSING",
    "MUTED",
    "PAPER",
    "SECOND",
    "amounts",
    "category_colors",
    "heat",
    "legend",
    "new_axes",
    "set_names",
    "short",
    "tidy",
]

# The report replaces the first five by its own light and dark tones, so no category may have one of them.
INK, MUTED, GRID, PAPER, ACCENT = "#1d2129", "#6a7280", "#e4e6ea", "#fefefe", "#0071b3"
SECOND, MISSING = "#d9730d", "#b4b8bf"

# Okabe & Ito 2008, without black and yellow (which vanish on dark and on white), then Tol 2021, ordered by contrast
_BASE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8f7a00", "#7b52ab", "#9c3b4f", "#44aa99",
    "#a6761d", "#ee99aa", "#6b8e23", "#5567c9", "#c2a5cf", "#b8b03a",
)  # fmt: skip


def category_colors(n: int) -> list[str]:
    """Return n colours as "#rrggbb": sixteen, and beyond them the same lighter and darker in turn."""
    from matplotlib.colors import to_hex, to_rgb

    out = []
    for i in range(n):
        base, turn = np.array(to_rgb(_BASE[i % len(_BASE)])), i // len(_BASE)
        toward = 1.0 if turn % 2 else 0.15
        strength = 0.0 if turn == 0 else min(0.3 + 0.12 * (turn // 2), 0.6)
        out.append(to_hex(tuple(base * (1 - strength) + toward * strength)))
    return out


def heat() -> Colormap:
    """Return the colour scale of amounts: even steps of lightness, readable on white and on near-black."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = ["#c6dbea", "#8fc0de", "#5f9ed6", "#6a75cf", "#8a4bb8", "#a3208b"]
    return LinearSegmentedColormap.from_list("celbo", stops)


def new_axes(width: float = 360, height: float = 280) -> Axes:
    """Return axes on a figure of their own, sized in pixels at 72 to the inch; pyplot is not involved."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained", facecolor="none")
        FigureCanvasAgg(figure)
        axes: Axes = figure.add_subplot()
    axes.set_facecolor("none")
    return axes


def tidy(ax: Axes, *, x: str = "", y: str = "", grid: Literal["x", "y", "both", ""] = "y") -> Axes:
    """Set labels, thin spines, small grey ticks and a faint grid ("x", "y", "both" or "")."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set(color=GRID, linewidth=1)
    ax.tick_params(length=0, pad=5, labelsize=10.5, labelcolor=MUTED)
    ax.tick_params(which="minor", length=0)
    ax.set_xlabel(x, fontsize=11, color=INK, labelpad=6)
    ax.set_ylabel(y, fontsize=11, color=INK, labelpad=6)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(visible=True, axis=grid, color=GRID, linewidth=0.8)
    return ax


def legend(ax: Axes, *, loc: Any = "best", columns: int = 1) -> None:
    """Draw a frameless legend in ink, its names as plain text."""
    look: dict[str, Any] = {"frameon": False, "fontsize": 10.5, "labelcolor": INK, "handlelength": 1.4}
    drawn = ax.legend(loc=loc, ncols=columns, **look)
    for text in drawn.get_texts():
        text.set_parse_math(False)


def set_names(ax: Axes, axis: Literal["x", "y"], names: Sequence[object], *, limit: int = 28, turn: float = 0) -> None:
    """Put one tick a name on an axis, as text in which `$` means nothing, turned by `turn` degrees."""
    ticks = ax.xaxis if axis == "x" else ax.yaxis
    ticks.set_ticks(np.arange(len(names)).tolist(), labels=[shown(n, limit) for n in names])
    for label in ticks.get_ticklabels():
        label.set(parse_math=False, rotation=turn, color=INK)
        if turn:
            label.set(
                horizontalalignment="right" if turn < 90 else "center", rotation_mode="anchor" if turn < 90 else None
            )


def amounts(ax: Axes, axis: Literal["x", "y"]) -> None:
    """Write the ticks of a (log) axis as 0.01, 1, 100, 10k, 1M."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    ticks = ax.xaxis if axis == "x" else ax.yaxis
    ticks.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ticks.set_minor_formatter(NullFormatter())


def short(value: float) -> str:
    """Return a number as a reader says it: 0.01, 0.5, 12, 1.5k, 20k, 3M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}".replace("e-0", "e-")
