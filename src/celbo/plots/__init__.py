"""Matplotlib figures of what a model found. Each function returns its Axes; `ax.figure.savefig("figure.png")` saves it.

No function opens a window or touches pyplot: without `ax=` each makes a figure of its own. Names are drawn as plain
text, whatever they hold.
"""

from celbo.plots.calibration import plot_calibration
from celbo.plots.cells import plot_cell_scatter, plot_composition, plot_histogram, plot_violins
from celbo.plots.differential import plot_lfc_intervals, plot_ma, plot_volcano
from celbo.plots.embedding import plot_embedding
from celbo.plots.genes import plot_dotplot, plot_ppc, plot_top_genes
from celbo.plots.latent import (
    plot_bounds,
    plot_cosines,
    plot_deviations,
    plot_distances,
    plot_elbo_identity,
    plot_field,
)
from celbo.plots.training import plot_training

__all__ = [
    "plot_bounds",
    "plot_calibration",
    "plot_cell_scatter",
    "plot_composition",
    "plot_cosines",
    "plot_deviations",
    "plot_distances",
    "plot_dotplot",
    "plot_elbo_identity",
    "plot_embedding",
    "plot_field",
    "plot_histogram",
    "plot_lfc_intervals",
    "plot_ma",
    "plot_ppc",
    "plot_top_genes",
    "plot_training",
    "plot_violins",
    "plot_volcano",
]
