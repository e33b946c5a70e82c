"""What a comparison of methods on one data set found: one row a method, and why a number is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["COLUMNS", "Column", "Comparison", "Picture"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Column:
    """One number of the table."""

    name: str
    """Name in the table."""
    title: str
    """What a reader calls it."""
    group: Literal["likelihood", "denoising", "clusters", "batches", "picture", "cost"]
    """What it speaks of."""
    better: Literal["higher", "lower"]
    """Which end is the good one."""
    meaning: str
    """One sentence: what it is, its unit, its ends."""


COLUMNS = (
    Column("log_likelihood", "Held-out log-likelihood", "likelihood", "higher",
           "ln p(counts of a cell that no training saw), nats per cell, importance-weighted; a lower bound that rises "
           "with the samples. Continuous densities are scored by the probability of each count's interval. HPF and "
           "scVI (2018) must infer a cell's total; the others are given it, which is worth some nats."),
    Column("reconstruction", "Reconstruction log-likelihood", "likelihood", "higher",
           "Log-likelihood of held-out counts given the code that an autoencoder made of these very counts, "
           "nats per cell. It is not evidence, since the model has seen these counts, and cannot be compared with the "
           "column before."),
    Column("mcv_deviance", "Denoising: Poisson deviance", "denoising", "lower",
           "Molecular cross-validation: deviance of held-out molecules under the denoised rates, as a share of that of "
           "the gene means (1: no better than each gene's mean)."),
    Column("mcv_mse", "Denoising: MSE on logs", "denoising", "lower",
           "Molecular cross-validation: mean squared error of log-normalised held-out molecules."),
    Column("ari", "k-means ARI", "clusters", "higher",
           "Adjusted Rand index of k-means clusters of the representation and the labels: 1 identical, 0 chance. "
           "The report of a run also has that of its Leiden clusters, which is another number."),
    Column("nmi", "k-means NMI", "clusters", "higher",
           "Normalised mutual information of the same clusters and the labels: 1 identical, 0 unrelated."),
    Column("label_silhouette", "Label silhouette", "clusters", "higher",
           "Silhouette of the labels in the representation, scaled to 0..1: 1 is far apart, 0.5 is overlapping."),
    Column("batch_silhouette", "Batch silhouette", "batches", "higher",
           "1 - |silhouette of the batches| within labels: 1 mixed, 0 apart (Luecken et al. 2022)."),
    Column("ilisi", "iLISI", "batches", "higher",
           "Effective number of batches around a cell, scaled: 0 is one, 1 is all alike (Korsunsky et al. 2019)."),
    Column("neighbours_kept", "Neighbours kept", "picture", "higher",
           "Share of nearest neighbours in 50 principal components of log-normalised counts that the picture keeps."),
    Column("seed_overlap", "Same under another seed", "picture", "higher",
           "Share of each cell's 15 nearest neighbours that two fits with different seeds have in common."),
    Column("seed_procrustes", "Moved by another seed", "picture", "lower",
           "Procrustes disparity of the two pictures: 0 the same but for rotation and scale, 1 unrelated."),
    Column("parameter_overlap", "Same under other parameters", "picture", "higher",
           "The same overlap between fits with the method's main parameter lower and higher."),
    Column("parameter_procrustes", "Moved by other parameters", "picture", "lower",
           "Procrustes disparity of these."),
    Column("seconds", "Seconds", "cost", "lower", "Wall seconds of one fit with its representation."),
    Column("memory", "Memory (MiB)", "cost", "lower",
           "Peak of resident memory during the fit above that before it, MiB."),
)  # fmt: skip
"""All numbers, in the order of the table."""


@dataclass(frozen=True)
class Picture:
    """A picture of the cells in the plane."""

    points: Floats
    """(cells, 2), in the order of the cells."""
    how: str
    """How it came from the representation: "its own two dimensions", "UMAP of 10 dimensions"."""
    variant: str = ""
    """Which parameter or seed differs from the first picture of the method; empty for that one."""


@dataclass(frozen=True)
class Comparison:
    """Methods side by side on one data set."""

    table: pd.DataFrame
    """One row a method (index: its name), the columns of `COLUMNS` that were computed; NaN where there is none."""
    titles: Mapping[str, str]
    """What a reader calls each method."""
    families: Mapping[str, str]
    """Kind of each method: "classical", "factorisation", "autoencoder", "variational"."""
    sentences: Mapping[str, str]
    """One sentence on each method: what it assumes."""
    reasons: Mapping[tuple[str, str], str]
    """Why a number is missing, by method and column."""
    pictures: Mapping[str, tuple[Picture, ...]]
    """Pictures of each method: the first is the method as it comes, the others under another seed or parameter."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Methods that could not be run, and why."""
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Numbers of no method ("no denoising", "gene mean"), by name and column."""

    def columns(self) -> list[Column]:
        """Return the columns that the table has, in order."""
        return [column for column in COLUMNS if column.name in self.table]

    def best(self, name: str) -> str | None:
        """Return the method that is best in a column, or None where none has a number."""
        column = next(c for c in COLUMNS if c.name == name)
        values = self.table[name].dropna() if name in self.table else pd.Series(dtype=float)
        if values.empty:
            return None
        return str(values.idxmax() if column.better == "higher" else values.idxmin())
