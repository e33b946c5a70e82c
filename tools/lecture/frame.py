"""What all stops share: the cells, figures, the cache of what was computed, and the file of numbers."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

import celbo
from celbo import plots
from celbo.plots.style import GRID, INK, category_colors

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "img" / "lecture"
NUMBERS = PICTURES / "numbers.json"
CACHE = ROOT / "build" / "lecture"

Found = Mapping[str, np.ndarray]
Numbers = dict[str, str]

SHORT = {
    "CD4+/CD25 T Reg": "T regulatory",
    "CD4+/CD45RA+/CD25- Naive T": "T naive CD4",
    "CD4+/CD45RO+ Memory": "T memory CD4",
    "CD8+ Cytotoxic T": "T cytotoxic CD8",
    "CD8+/CD45RA+ Naive Cytotoxic": "T naive CD8",
    "CD56+ NK": "NK",
    "CD19+ B": "B",
    "CD14+ Monocyte": "monocyte",
    "CD34+": "progenitor",
    "Dendritic": "dendritic",
}
"""Names of the sorted types that fit beside a picture."""


@dataclass(frozen=True)
class Stop:
    """One stop of the lecture."""

    compute: Callable[[], dict[str, Any]]
    """What takes time; arrays by name."""
    draw: Callable[[Found], Numbers]
    """Save the picture and return the numbers that the page quotes."""

    def found(self, name: str, *, fresh: bool) -> Found:
        """Return what was computed before, or compute it."""
        file = CACHE / f"{name}.npz"
        if fresh or not file.exists():
            values = {key: np.asarray(value) for key, value in self.compute().items()}
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(file, **values)  # type: ignore[arg-type]
        with np.load(file, allow_pickle=False) as kept:
            return {key: kept[key] for key in kept.files}


@functools.cache
def pbmc() -> AnnData:
    """Return the 700 blood cells, one copy for all stops."""
    return celbo.datasets.pbmc()


def types() -> pd.Categorical:
    """Return the type of each blood cell by its short name, related types beside each other."""
    named = pbmc().obs["cell_type"].astype(str).map(SHORT)
    return pd.Categorical(named, categories=list(SHORT.values()))


def frame(width: int, height: int, **layout: Any) -> tuple[Figure, list[Axes]]:
    """Return a white figure of so many pixels, and its axes row by row."""
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    rows, columns = layout.pop("rows", 1), layout.pop("columns", 1)
    axes = figure.subplots(rows, columns, squeeze=False, **layout)
    return figure, list(axes.ravel())


def save(figure: Figure, name: str) -> None:
    """Write a picture with a palette, which is a third of the size and looks the same."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    PICTURES.mkdir(parents=True, exist_ok=True)
    image = Image.open(buffer).convert("RGB").quantize(colors=200, dither=Image.Dither.NONE)
    image.save(PICTURES / f"{name}.png", optimize=True)


def cells(points: np.ndarray, color: Any, title: str, ax: Axes, *, size: float = 4.2) -> Axes:
    """Draw a map of cells in a thin box, which it fills."""
    plots.plot_embedding(points, color, title=title, point_size=size, ax=ax)
    ax.set_aspect("auto")
    ax.set_axis_on()
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set(color=GRID, linewidth=1)
    return ax


def key(where: Figure | Axes, names: Iterable[str], **place: Any) -> None:
    """Draw the names of categories beside a figure or axes."""
    listed = list(names)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=name, markersize=5)
        for name, colour in zip(listed, category_colors(len(listed)), strict=True)
    ]
    look: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK, "handletextpad": 0.2}
    where.legend(handles=marks, **{**look, **place})


def titled(ax: Axes, text: str) -> Axes:
    """Write a title in the size of all others."""
    ax.set_title(text, fontsize=12, color=INK)
    return ax


def heat_table(ax: Axes, values: np.ndarray, *, rows: Sequence[str], columns: Sequence[str], turn: float = 45) -> None:
    """Draw numbers from 0 to 1 as squares."""
    from matplotlib.colors import LinearSegmentedColormap

    from celbo.plots.style import ACCENT, PAPER, set_names, tidy

    scale = LinearSegmentedColormap.from_list("share", [PAPER, ACCENT])
    ax.imshow(values, cmap=scale, vmin=0, vmax=1, aspect="auto")
    tidy(ax, grid="")
    set_names(ax, "x", columns, turn=turn)
    set_names(ax, "y", rows)


def kept_numbers() -> dict[str, Numbers]:
    """Return the numbers of the stops drawn so far."""
    return json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.exists() else {}


def keep_numbers(stop: str, numbers: Numbers) -> None:
    """Put a stop's numbers into the file of all."""
    all_of_them = kept_numbers() | {stop: numbers}
    NUMBERS.write_text(json.dumps(all_of_them, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
