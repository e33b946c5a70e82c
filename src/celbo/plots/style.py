"""The look that all figures share: colours that colour-blind readers can tell apart, thin axes, plain type."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

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
    """Return n colours as "#rrggbb", the first of them the same for every n.

    Sixteen are chosen by hand. Each further one is the one of a grid of tones, visible on white and on near-black, that
    lies farthest in OKLab (Ottosson 2020) from all before it and from the greys. Beyond some four hundred they repeat.
    """
    found = _BASE if n <= len(_BASE) else _extended()
    return [found[i % len(found)] for i in range(n)]


@cache
def _extended() -> tuple[str, ...]:
    """Return the colours by hand and after them all of the grid, the most distinct first."""
    grid = [
        (lightness, chroma * np.cos(hue), chroma * np.sin(hue))
        for lightness in np.linspace(0.44, 0.82, 5)
        for chroma in (0.08, 0.12, 0.17)
        for hue in np.linspace(0, 2 * np.pi, 40, endpoint=False)
    ]
    rgb = _from_oklab(np.array(grid))
    inside = ((rgb >= 0) & (rgb <= 1)).all(1)
    free, tones = np.array(grid)[inside], np.round(255 * rgb[inside]).astype(int)
    used = np.array([[int(tone[i : i + 2], 16) / 255 for i in (1, 3, 5)] for tone in (*_BASE, MUTED, MISSING, ACCENT)])
    nearest = np.linalg.norm(free[:, None] - _to_oklab(used), axis=2).min(1)
    found = list(_BASE)
    while nearest.max() > 0:
        farthest = int(nearest.argmax())
        found.append("#{:02x}{:02x}{:02x}".format(*tones[farthest]))
        nearest = np.minimum(nearest, np.linalg.norm(free - free[farthest], axis=1))
    return tuple(dict.fromkeys(found))


_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _to_oklab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return OKLab coordinates of sRGB colours from 0 to 1; (colours, 3) each."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _LMS.T) @ _OKLAB.T)


def _from_oklab(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sRGB colours of OKLab coordinates, outside of 0 to 1 where no screen shows them; (colours, 3) each."""
    linear = (lab @ np.linalg.inv(_OKLAB).T) ** 3 @ np.linalg.inv(_LMS).T
    light = np.clip(linear, 0.0031308, None)
    return np.asarray(np.where(linear <= 0.0031308, linear * 12.92, 1.055 * light ** (1 / 2.4) - 0.055))


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
