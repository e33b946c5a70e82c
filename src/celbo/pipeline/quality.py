"""The quality of each cell: its counts and genes, what mitochondria and ribosomes have of them, and a doublet score."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from celbo.data.families import mitochondrial, ribosomal
from celbo.errors import listed
from celbo.report.data import Categories

__all__ = ["CellQuality", "cell_quality"]

Floats = NDArray[np.float64]

FEWEST = 100
"""Cells of a batch below which its cells get no doublet score: their neighbours would be chance."""
AT_ONCE = 4000
"""Cells scored together; a larger batch is scored in random parts, so that time grows with the cells alone."""
MOST_SCORED = 50_000
"""Cells scored for doublets; of larger data a random part of each batch."""


@dataclass(frozen=True)
class CellQuality:
    """What is known of the quality of each cell."""

    table: pd.DataFrame
    """One row a cell, in scanpy's names: total_counts, n_genes_by_counts, and of pct_counts_mt, pct_counts_ribo
    (percent) and doublet_score (0 to 1) those that could be computed."""
    notes: tuple[str, ...]
    """What is missing and why, one sentence each."""


def cell_quality(
    counts: sparse.csr_matrix, names: Iterable[object], batch: Categories | None = None, *, seed: int = 0
) -> CellQuality:
    """Compute the quality of each cell; what cannot be computed is left out with a sentence.

    Parameters
    ----------
    counts
        Counts of all genes, (cells, genes).
    names
        Symbols of the genes, or their identifiers.
    batch
        The batch of each cell: doublets form within one.
    seed
        Seed of the simulated doublets.
    """
    names = [str(name) for name in names]
    total = _totals(counts)
    table = pd.DataFrame({"total_counts": total, "n_genes_by_counts": np.diff(counts.indptr).astype(np.int64)})
    notes: list[str] = []
    families = (
        ("pct_counts_mt", mitochondrial(names), "mitochondrial", "begins with MT- or mt-"),
        ("pct_counts_ribo", ribosomal(names), "ribosomal", "is that of a ribosomal protein (RPS..., RPL...)"),
    )
    for column, members, word, looks in families:
        if not members.any():
            notes.append(f"No {word} share: no gene's name {looks}.")
        elif counts.data.size and counts.data.min() < 0:
            notes.append(f"No {word} share: there are negative values.")
        else:
            share = 100 * _totals(counts[:, np.flatnonzero(members)])
            table[column] = np.divide(share, total, out=np.zeros_like(share), where=total > 0)
    scores, more = _doublets(counts, batch, seed)
    if np.isfinite(scores).any():
        table["doublet_score"] = scores
    return CellQuality(table, (*notes, *more))


def _totals(counts: sparse.csr_matrix) -> Floats:
    return np.asarray(counts.sum(axis=1), np.float64).ravel()


def _doublets(counts: sparse.csr_matrix, batch: Categories | None, seed: int) -> tuple[Floats, list[str]]:
    """Return the doublet score of each cell, NaN for none, and what is missing."""
    n = counts.shape[0]
    scores = np.full(n, np.nan)
    if counts.data.size and (counts.data.min() < 0 or not np.array_equal(counts.data, np.rint(counts.data))):
        return scores, ["No doublet score: it needs whole counts."]
    rng = np.random.default_rng(seed)
    failures: list[tuple[str, str]] = []
    few: list[str] = []
    for name, cells in _by_batch(batch, n):
        chosen = cells if n <= MOST_SCORED else rng.permutation(cells)[: round(len(cells) * MOST_SCORED / n)]
        if len(chosen) < FEWEST:
            few.append(name)
            continue
        parts = np.array_split(rng.permutation(chosen), -(-len(chosen) // AT_ONCE))
        try:
            found = [_scrublet(counts[np.sort(part)], seed) for part in parts]
        except Exception as error:  # scanpy's own, of many kinds: few genes, cells that are alike, ...
            failures.append((name, f"{error}".splitlines()[0] if f"{error}" else type(error).__name__))
            continue
        for part, score in zip(parts, found, strict=True):
            scores[np.sort(part)] = score
    return scores, _missing(few, failures, n, batch is not None)


def _by_batch(batch: Categories | None, n: int) -> list[tuple[str, NDArray[np.int64]]]:
    """Return the names of the batches with the positions of their cells."""
    if batch is None or len(batch.names) < 2:
        return [("all cells", np.arange(n))]
    return [(name, np.flatnonzero(batch.codes == code)) for code, name in enumerate(batch.names)]


def _missing(few: list[str], failures: list[tuple[str, str]], n: int, several: bool) -> list[str]:
    notes = []
    where = f" in {listed(few, limit=5)}" if several else ""
    if few:
        notes.append(f"No doublet score{where}: it needs at least {FEWEST} cells{' of a batch' if several else ''}.")
    if failures:
        where = f" in {listed([name for name, _ in failures], limit=5)}" if several else ""
        notes.append(f"No doublet score{where}: scrublet could not be run ({failures[0][1]}).")
    if n > MOST_SCORED:
        notes.append(f"A random {MOST_SCORED:,} of the {n:,} cells have a doublet score, to bound the time.")
    return notes


def _scrublet(counts: sparse.csr_matrix, seed: int) -> Floats:
    """Return scrublet's score of each cell, (cells,).

    Genes are not centred, so that the matrix stays sparse: on 2,700 and 4,870 blood cells half the time, half the
    memory, and scores that correlate by 0.99. The neighbours are exact. No cell is called: scrublet's threshold, the
    valley between two humps of simulated scores, is chance in a few hundred cells, and needs scikit-image.
    """
    import scanpy as sc
    from anndata import AnnData

    cells = AnnData(
        counts.astype(np.float32),
        obs=pd.DataFrame(index=[str(i) for i in range(counts.shape[0])]),
        var=pd.DataFrame(index=[str(i) for i in range(counts.shape[1])]),
    )
    options: dict[str, Any] = {"mean_center": False, "use_approx_neighbors": False, "threshold": 1.0, "verbose": False}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        sc.pp.scrublet(cells, n_prin_comps=min(30, min(counts.shape) - 2), random_state=seed, **options)
    return np.asarray(cells.obs["doublet_score"], np.float64)
