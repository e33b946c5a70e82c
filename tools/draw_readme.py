"""Draw docs/img/demo.png, the README's picture, from the folder of a run of the demo: draw_readme.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from celbo import plots
from celbo.plots.style import INK, MUTED, category_colors

OUT = Path(__file__).resolve().parents[1] / "docs" / "img" / "demo.png"


def main(folder: str) -> None:
    """Draw the map by known cell type and by cluster, and the training curve."""
    run = Path(folder)
    adata = anndata.read_h5ad(run / "result.h5ad")
    history = pd.read_csv(run / "tables" / "history.csv", index_col=0)
    figure = Figure(figsize=(12.5, 4.2), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    types, clusters, curve = figure.subplots(1, 3, width_ratios=[1.15, 1.15, 0.9])
    labels = adata.obs["cell_type"].astype("category")
    plots.plot_embedding(adata.obsm["X_umap"], labels, title="700 blood cells by known type", ax=types)
    names = list(labels.cat.categories)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=c, label=n, markersize=5)
        for n, c in zip(names, category_colors(len(names)), strict=True)
    ]
    types.legend(
        handles=marks, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8.5, labelcolor=INK
    )
    plots.plot_embedding(
        adata.obsm["X_umap"], adata.obs["leiden"], title="Clusters found in the latent space", ax=clusters
    )
    for name in adata.obs["leiden"].cat.categories:
        middle = np.median(adata.obsm["X_umap"][adata.obs["leiden"] == name], axis=0)
        clusters.annotate(str(name), middle, ha="center", va="center", fontsize=11, fontweight="bold", color=INK)
    for ax in (types, clusters):
        ax.set_aspect("auto")
    plots.plot_training(history, best_epoch=int(history["elbo_validation"].idxmax()), ax=curve)
    curve.set_title("Evidence lower bound", fontsize=12, color=INK)
    figure.supxlabel("made by `make demo`", fontsize=8, color=MUTED, x=0.99, ha="right")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT)


if __name__ == "__main__":
    main(sys.argv[1])
