"""Figures of the page: matplotlib axes as inline SVG in the page's colours, point clouds as PNG under SVG labels."""

from __future__ import annotations

import base64
import io
import re
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celbo.plots import plot_embedding
from celbo.plots.names import shown
from celbo.plots.style import ACCENT, GRID, INK, MUTED, PAPER, heat, new_axes
from celbo.report.data import Categories, is_known
from celbo.report.markup import HEAT_STEPS, text
from celbo.report.places import places

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["cloud", "inline_svg", "map_svg"]

_SIDE = 600
_TONES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", ACCENT: "accent"}


def inline_svg(ax: Axes, name: str, label: str) -> str:
    """Return a figure as an SVG element whose inks follow the page's light or dark tones; its text stays text.

    Parameters
    ----------
    ax
        Any axes of the figure.
    name
        Unique in the page: the ids inside are made from it.
    label
        What the figure shows, for readers who cannot see it.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        none = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure: Any = ax.figure
        figure.savefig(buffer, format="svg", dpi=160, transparent=True, metadata=none)
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].strip()
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.S)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn).groups()  # type: ignore[union-attr]
    head = (
        f'<svg class="plot" role="img" aria-label="{text(label, 300)}" viewBox="0 0 {width} {height}" width="{width}">'
    )
    drawn = head + drawn[drawn.index(">") + 1 :]
    used = set(re.findall(r"#([\w.-]+)", drawn))  # all other ids are matplotlib's names of groups, alike in all figures
    drawn = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", drawn)
    for tone, variable in _TONES.items():
        drawn = drawn.replace(tone, f"var(--{variable})")
    tones = _heat_tones()
    drawn = re.sub(r"#[0-9a-f]{6}\b", lambda found: tones.get(found[0], found[0]), drawn)
    drawn = re.sub(r"(\.\d\d)\d+", r"\1", drawn)  # a hundredth of a point is not seen, and halves a plot of dots
    return re.sub(r"\s*\n\s*", "\n", drawn)


@cache
def _heat_tones() -> dict[str, str]:
    """The style sheet's tone for each colour of the scale of amounts."""
    from matplotlib.colors import to_hex

    scale = heat()
    steps = {to_hex(scale(i)): round(i / (scale.N - 1) * (HEAT_STEPS - 1)) for i in range(scale.N)}
    return {colour: f"var(--h{step})" for colour, step in steps.items()}


def cloud(
    xy: NDArray[Any], color: Any, palette: list[str] | None, side: int = _SIDE, margin: float = 0.02
) -> tuple[str, NDArray[np.float64]]:
    """Draw a point cloud, as the data URI of a square PNG, and where its cells lie in it, (cells, 2) in pixels.

    Around the cells is left a share `margin` of their width.
    """
    from PIL import Image

    ax = new_axes(side / 2, side / 2)
    figure: Any = ax.figure
    figure.set_layout_engine("none")
    ax.set_position((0.0, 0.0, 1.0, 1.0))
    point = None if side == _SIDE else float(np.clip(170 / np.sqrt(max(len(xy), 1)), 1.0, 5.0)) * (side / _SIDE) ** 0.5
    plot_embedding(xy, color, palette=palette, point_size=point, ax=ax)
    ax.margins(margin)
    figure.set_dpi(144)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba()))
    buffer = io.BytesIO()
    # 256 colours halve the file and are not seen; octree is the one method that keeps transparency
    picture.quantize(256, method=Image.Quantize.FASTOCTREE).save(buffer, "PNG", optimize=True)
    where = ax.transData.transform(xy) * [1, -1] + [0, side]
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(), where


def map_svg(xy: NDArray[Any], color: Any, *, palette: list[str] | None, names: Categories | None, label: str) -> str:
    """Return a map as an SVG element: the cloud, and the names of its categories beside their cells where they fit.

    Parameters
    ----------
    xy
        Coordinates, (cells, 2).
    color
        A category or an amount for each cell.
    palette
        Colours of the categories.
    names
        Categories to write on the map; None writes none.
    label
        What the map shows, for readers who cannot see it.
    """
    uri, where = cloud(xy, color, palette, margin=0.02 if names is None else 0.09)
    written = "" if names is None else _names_on_map(where, names)
    return (
        f'<svg class="map" role="img" aria-label="{text(label, 300)}" viewBox="0 0 {_SIDE} {_SIDE}">'
        f'<image width="{_SIDE}" height="{_SIDE}" href="{uri}"/>{written}</svg>'
    )


def _names_on_map(where: NDArray[np.float64], names: Categories) -> str:
    """Text elements, and lines to the cells of a name that stands apart; what has no place is left to the legend."""
    known = [code for code, name in enumerate(names.names) if is_known(name)]
    words = [shown(names.names[code], 18) for code in known]
    members = [np.flatnonzero(names.codes == code) for code in known]
    spots = places(where, members, [12.6 * len(word) / 2 + 5 for word in words], _SIDE)
    lines = "".join(
        f'<path d="M{s.x:.0f} {s.y + np.sign(s.cells_y - s.y) * 13 * (abs(s.cells_y - s.y) > 13):.0f}'
        f'L{s.cells_x:.0f} {s.cells_y:.0f}"/>'
        for s in spots
        if s.apart
    )
    return lines + "".join(f'<text x="{s.x:.0f}" y="{s.y:.0f}">{text(words[s.item], 18)}</text>' for s in spots)
