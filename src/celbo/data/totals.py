"""What totals tell: empty droplets among the cells, cells brought to one total, a sum among what it is the sum of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from celbo.data.findings import Finding, warning
from celbo.data.scan import Matrix, Scan
from celbo.errors import CountsError

__all__ = ["Droplets", "check_sums", "check_totals", "empty_droplets"]

Names = NDArray[np.object_]
_FLOOR, _LOW = 30, 100
"""A quarter and half of unfiltered barcodes have at most this many counts: what the soup leaves in an empty droplet."""
_TIMES = 20
"""Cells have at least so many times the counts of an empty droplet."""
_FEWEST_CELLS = 20
_CELLS_HOLD = 0.3
"""Share of all counts that lies in the cells, at least."""
_SAME = 0.02
"""Spread of the totals, 5% to 95%, over their median: real cells differ by far more."""
_FEWEST_COUNTS = 50


@dataclass(frozen=True)
class Droplets:
    """Two kinds of barcodes: empty droplets and cells."""

    n_empty: int
    median_empty: float
    n_cells: int
    median_cells: float
    min_counts: int
    """A total between the two."""


def empty_droplets(totals: NDArray[np.float64]) -> Droplets | None:
    """Tell unfiltered droplets by the shape of their totals: most are nearly empty, and a few hold most of the counts.

    Low totals alone are no sign: cells of a shallow data set have one kind of total.

    Parameters
    ----------
    totals
        Counts of each barcode; (barcodes,).
    """
    seen = np.sort(totals[totals > 0])
    if seen.size < 2 * _FEWEST_CELLS:
        return None
    quarter, middle = seen[seen.size // 4], seen[seen.size // 2]
    if quarter > _FLOOR or middle > _LOW:
        return None
    n_high = int((seen >= max(_TIMES * middle, 2.0 * _FLOOR)).sum())
    if not _FEWEST_CELLS <= n_high <= seen.size // 2 or seen[-n_high:].sum() < _CELLS_HOLD * seen.sum():
        return None
    between = _valley(seen, middle, float(np.median(seen[-n_high:])))
    n_cells = int((seen >= between).sum())
    empty, cells = seen[: seen.size - n_cells], seen[seen.size - n_cells :]
    n_empty = int(totals.size - n_cells)
    return Droplets(n_empty, float(np.median(empty)), n_cells, float(np.median(cells)), between)


def _valley(seen: NDArray[np.float64], low: float, high: float) -> int:
    """Return the total between two, in two digits, around which the fewest barcodes lie on the scale of logarithms."""
    edges = np.geomspace(2 * low, high, 13)
    counted = np.histogram(seen, edges)[0]
    smooth = np.convolve(counted, np.ones(3), mode="valid")
    fewest = np.flatnonzero(smooth == smooth.min())
    at = int(fewest[fewest.size // 2]) + 1  # the middle one of three
    total = float(np.sqrt(edges[at] * edges[at + 1]))
    digits = 10.0 ** (np.floor(np.log10(total)) - 1)
    return max(2, int(np.ceil(total / digits) * digits))


def check_totals(totals: NDArray[np.float64], where: str, layer: str | None) -> Iterable[Finding]:
    """Find unfiltered droplets, and cells that all have the same total.

    Parameters
    ----------
    totals
        Counts of each cell; (cells,).
    where
        The matrix, as messages name it.
    layer
        The layer it is in, for the fix.
    """
    droplets = empty_droplets(totals)
    if droplets is not None:
        yield _unfiltered(droplets, where, layer)
    same = _one_total(totals)
    if same is not None:
        fix = (
            "Were the counts downsampled, or normalised and rounded? A model takes the depth of each cell into account "
            "itself and learns more from the counts as they were measured: "
        )
        yield warning(
            CountsError,
            "gives every cell the same total",
            where=where,
            value=f"about {same:,.0f} counts",
            fix=fix + "pass layer= with these, if there are any, or read them from their file.",
            flag=fix + "name their layer with --layer, if there is one, or give the file that holds them.",
        )


def check_sums(matrix: Matrix, scan: Scan, genes: Names, cells: Names, where: str) -> Iterable[Finding]:
    """Find a gene that is the sum of all others in every cell, and a cell that is that of all others in every gene.

    Parameters
    ----------
    matrix, scan
        Counts, (cells, genes), and what a look at all of them found.
    genes, cells
        Names; (genes,) and (cells,) str.
    where
        The matrix, as messages name it.
    """
    kinds = (("gene", genes, scan.gene_totals, scan.totals), ("cell", cells, scan.totals, scan.gene_totals))
    for what, names, own, others in kinds:
        at = int(own.argmax()) if own.size else 0
        if own.size < 3 or not own[at] or 2 * own[at] != own.sum():
            continue
        line = matrix[:, [at]] if what == "gene" else matrix[[at]]
        if (2 * np.asarray(line.sum(int(what == "gene")), np.float64).ravel() == others).all():
            slot = "var" if what == "gene" else "obs"
            name = str(names[at])
            fix = f"It is the line of totals of a table, and no {what}. "
            rows = f"adata.{slot}_names != {name!r}"
            call = f"Leave it out: adata = adata[{':, ' * (what == 'gene')}{rows}].copy()."
            yield warning(
                CountsError,
                f"holds a {what} that is the sum of all others",
                where=where,
                value=repr(name[:80]),
                fix=fix + call,
                flag=fix + "Take it out of the file.",
            )


def _unfiltered(droplets: Droplets, where: str, layer: str | None) -> Finding:
    value = (
        f"{droplets.n_empty:,} of {droplets.n_empty + droplets.n_cells:,} barcodes have a median of "
        f"{droplets.median_empty:,.0f} counts, the other {droplets.n_cells:,} of {droplets.median_cells:,.0f}"
    )
    given = "" if layer is None else f", layer={layer!r}"
    fix = (
        "Most are empty droplets, not cells. Take the filtered matrix (of 10x: filtered_feature_bc_matrix), or keep "
        "the barcodes above the gap: "
    )
    return warning(
        CountsError,
        "looks like unfiltered droplets",
        where=where,
        value=value,
        fix=f"{fix}adata = celbo.filter_cells(adata, min_counts={droplets.min_counts}{given}).",
        flag=f"{fix}--min-counts {droplets.min_counts}.",
        settings={"min_counts": droplets.min_counts},
    )


def _one_total(totals: NDArray[np.float64]) -> float | None:
    """Return the total that (nearly) every cell has, or that most cells have exactly; None if there is none."""
    if totals.size < 10:
        return None
    low, middle, high = (float(each) for each in np.percentile(totals, [5, 50, 95]))
    if not np.isfinite(high) or middle < _FEWEST_COUNTS:
        return None
    exactly = float((totals == middle).mean()) > 0.5
    return middle if exactly or high - low <= _SAME * middle else None
