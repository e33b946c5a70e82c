"""Names beside points of a figure, placed so that they cover neither each other nor, where there is room, points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celbo.plots.names import shown
from celbo.plots.style import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

__all__ = ["label_points"]

Box = tuple[float, float, float, float]

_WAYS = ((1, 0), (-1, 0), (0, 1), (1, 1), (-1, 1), (0, -1), (1, -1), (-1, -1))
"""Where a name may stand beside its point, in the order they are tried."""
_REACH = (5, 13, 23, 34)
"""Points of distance; beyond the first a line leads to the name."""


def label_points(
    ax: Axes, x: ArrayLike, y: ArrayLike, names: Sequence[object], chosen: Sequence[int], *, limit: int = 18
) -> list[str]:
    """Write names beside some of the points; a name for which there is no room is left out.

    The limits and scales of the axes must be final.

    Parameters
    ----------
    ax
        The axes, with the points drawn.
    x, y
        All points, (points,): those that names should not cover.
    names
        Name of each point.
    chosen
        Positions of the points to name, the most important first.
    limit
        Longest name in characters.

    Returns
    -------
    The names written, as shown.
    """
    from matplotlib.text import Text

    figure: Any = ax.figure
    figure.draw_without_rendering()  # the layout decides where the axes are
    renderer, frame = figure.canvas.get_renderer(), ax.get_window_extent()
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    points = ax.transData.transform(np.column_stack([x, y]))
    written: list[str] = []
    taken: list[Box] = []
    for i in chosen:
        made = _annotation(ax, (float(x[i]), float(y[i])), shown(names[i], limit))
        size = Text.get_window_extent(made, renderer)  # without the line to the point
        boxes = {
            (right, up, reach): _box(points[i], (size.width, size.height), right, up, reach * figure.dpi / 72)
            for reach in _REACH
            for right, up in _WAYS
        }
        free = {place: box for place, box in boxes.items() if _fits(box, frame, taken)}
        if not free:
            made.remove()
            continue
        place = min(free, key=lambda place: (_covered(free[place], points), place[2]))
        taken.append(free[place])
        _put(made, *place)
        written.append(made.get_text())
    return written


def _annotation(ax: Axes, at: tuple[float, float], name: str) -> Annotation:
    line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2.5}
    made = ax.annotate(name, at, (0, 0), textcoords="offset points", fontsize=9.5, color=INK, arrowprops=line, zorder=5)
    made.set_parse_math(False)
    made.set_in_layout(False)
    return made


def _box(point: Any, size: tuple[float, float], right: int, up: int, reach: float) -> Box:
    """Return the pixels that a name takes at a place: left, bottom, right, top."""
    away = reach if 0 in (right, up) else 0.75 * reach
    x, y = point[0] + right * away - size[0] * (1 - right) / 2, point[1] + up * away - size[1] * (1 - up) / 2
    return x - 1, y - 1, x + size[0] + 1, y + size[1] + 1


def _fits(box: Box, frame: Any, taken: Sequence[Box]) -> bool:
    """Whether a name there is inside the axes and meets no other name."""
    x0, y0, x1, y1 = box
    inside = x0 >= frame.x0 and y0 >= frame.y0 and x1 <= frame.x1 and y1 <= frame.y1
    return inside and not any(x0 < c and a < x1 and y0 < d and b < y1 for a, b, c, d in taken)


def _covered(box: Box, points: NDArray[np.float64]) -> int:
    """Return how many points a name there would cover."""
    x0, y0, x1, y1 = box
    return int(((points[:, 0] > x0) & (points[:, 0] < x1) & (points[:, 1] > y0) & (points[:, 1] < y1)).sum())


def _put(made: Annotation, right: int, up: int, reach: int) -> None:
    away = reach if 0 in (right, up) else 0.75 * reach
    made.set_position((right * away, up * away))
    made.set(ha={1: "left", 0: "center", -1: "right"}[right], va={1: "bottom", 0: "center", -1: "top"}[up])
    if made.arrow_patch is not None:
        made.arrow_patch.set_visible(reach > _REACH[0])
