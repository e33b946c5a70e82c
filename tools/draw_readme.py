"""Draw docs/img/demo.png, the README's picture, from the folder of a run of the demo: draw_readme.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import anndata
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from celbo import plots
from celbo.plots.style import INK, MUTED, category_colors

OUT = Path(__file__).resolve().parents[1] / "docs" / "img" / "demo.png"


def main(folder: str) -> None:
    """Draw the map before and after the model by batch, and after it by known cell type."""
    adata = anndata.read_h5ad(Path(folder) / "result.h5ad")
    figure = Figure(figsize=(12.5, 4.0), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    panels = (
        ("X_umap_before", "batch", "Two runs before the model"),
        ("X_umap", "batch", "The same cells in its latent space"),
        ("X_umap", "cell_type", "By the types known before"),
    )
    for ax, (slot, column, title) in zip(axes, panels, strict=True):
        groups = adata.obs[column].astype("category")
        plots.plot_embedding(adata.obsm[slot], groups, title=title, ax=ax)
        ax.set_aspect("auto")
        if slot == "X_umap":
            beside = column == "cell_type"
            where = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if beside else {"loc": "lower right"}
            _add_legend(ax, list(groups.cat.categories), **where)
    figure.supxlabel("made by `make demo`", fontsize=8, color=MUTED, x=0.99, ha="right")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT)


def _add_legend(ax: Axes, names: list[str], **where: object) -> None:
    marks = [
        Line2D([], [], marker="o", linestyle="", color=c, label=n, markersize=5)
        for n, c in zip(names, category_colors(len(names)), strict=True)
    ]
    ax.legend(handles=marks, frameon=False, fontsize=8.5, labelcolor=INK, **where)


if __name__ == "__main__":
    main(sys.argv[1])
