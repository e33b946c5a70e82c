"""Numbers that are not counts any more: what was done to them, and whether rounding makes counts of them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from celbo.data.matrix import count_matrix_of, matrix_name
from celbo.data.scan import Matrix, is_sparse, scan_matrix
from celbo.errors import CountsError, OptionError

__all__ = [
    "Look",
    "counts_rounded",
    "look_at",
    "round_counts",
    "rounded",
    "rounded_logarithms",
    "with_rounded_layer",
]

_MOST_LOGARITHM = 20.0
"""A logarithm of counts is smaller."""
_TOTALS = {1e4: "to 10,000 a cell", 1e6: "to a million a cell (TPM or CPM)", 1.0: "to 1 a cell"}
Rows = list[NDArray[np.float64]]


@dataclass(frozen=True)
class Look:
    """What values that are not whole numbers look like."""

    sentence: str
    """Such as "It looks log-transformed"."""
    estimated: bool
    """Whether they are on the scale of counts, so that rounding to whole numbers makes counts of them."""


def look_at(matrix: Matrix, largest: float, *, negative: bool) -> Look:
    """Guess what was done to counts that are no longer counts, from 200 of their cells.

    Once a logarithm is undone there are whole numbers; or the values of a cell are whole multiples of its count of one;
    or the cells share one total. What is left, on the scale of counts, was corrected or estimated.

    Parameters
    ----------
    matrix
        (cells, genes).
    largest
        Its largest finite value.
    negative
        Whether it has values below 0.
    """
    if negative:
        return Look("It looks scaled, or corrected for batches", estimated=False)
    rows = _some_cells(matrix)
    if not rows:
        return Look("It was made from counts, or estimated", estimated=False)
    with np.errstate(all="ignore"):
        made = _transformation(rows, largest)
    return _estimated(rows, largest) if made is None else Look(f"It looks {made}", estimated=False)


def _transformation(rows: Rows, largest: float) -> str | None:
    """Return what was done to counts, if undoing it gives counts again."""
    total = _one_total(rows)
    if total is not None:
        known = next((text for size, text in _TOTALS.items() if abs(total - size) < 0.005 * size), "")
        return f"normalised {known or f'to {total:,.4g} a cell'}"
    undone = [[np.expm1(row) for row in rows], [np.exp2(row) - 1 for row in rows]]
    if largest < _MOST_LOGARITHM and any(_were_counts(each) for each in undone):
        return "log-transformed"
    if _all_whole([row**2 for row in rows]):
        return "like square roots of counts"
    multiples = float(np.concatenate([_most_whole(row) for row in rows]).mean()) > 0.9
    return "normalised" if multiples and _share_whole(rows) < 0.5 else None


def _estimated(rows: Rows, largest: float) -> Look:
    """Name what makes decimals of counts, by how near the values are to whole numbers."""
    values, whole = np.concatenate(rows), _share_whole(rows)
    if largest < _MOST_LOGARITHM and whole < 0.5:
        return Look("It looks transformed: no value is as large as counts are", estimated=False)
    if np.median(values) < 0.5:
        return Look("It looks normalised: most values are below one half", estimated=False)
    if whole >= 0.3:
        what = "expected counts, which share a read out among genes (RSEM, Salmon, kallisto, STARsolo's EM, alevin)"
        return Look(f"It looks like {what}", estimated=True)
    what = "counts that were corrected for ambient RNA (SoupX, decontX), or were estimated"
    return Look(f"It looks like {what}", estimated=True)


def rounded_logarithms(matrix: Matrix, largest: float) -> bool:
    """Return whether whole numbers look like rounded logarithms rather than counts.

    Of counts, whatever their means, (k + 1) n(k + 1) / n(k) does not fall with k, where n(k) is how many there are of k
    (a mixture of Poisson distributions). Of logarithms it falls steeply beyond their most frequent value, which is not
    far below the largest. Counts that come in pairs, such as the ends of ATAC fragments, fall and rise by turns.

    Parameters
    ----------
    matrix
        Whole numbers; (cells, genes).
    largest
        The largest of them.
    """
    rows = _some_cells(matrix, 100) if 3 <= largest < _MOST_LOGARITHM else []
    if not rows:
        return False
    n = np.bincount(np.concatenate(rows).astype(np.int64), minlength=4).astype(float)
    k = np.arange(1, n.size - 1)
    sure = (n[k] >= 200) & (n[k + 1] >= 50)
    mode = int(n[1:].argmax()) + 1
    if sure.sum() < 2 or mode < 2 or largest > 5 * mode or (np.diff(n[mode:]) > 0.1 * n[mode:-1].clip(50)).any():
        return False
    ratio = (k + 1)[sure] * n[k + 1][sure] / n[k][sure]
    return bool((ratio[1:] < 0.5 * np.maximum.accumulate(ratio)[:-1]).any())


# ------------------------------------------------------------------------------------------------------------ rounding


def rounded(matrix: Matrix) -> Matrix:
    """Return a matrix with each value rounded to the nearest whole number, halves to the even one; not in place."""
    if matrix.dtype.kind != "f":
        return matrix
    if not is_sparse(matrix):
        return np.rint(matrix)
    whole = matrix.copy()
    np.rint(whole.data, out=whole.data)
    whole.eliminate_zeros()
    return whole


def round_counts(adata: AnnData, *, layer: str | None = None, key_added: str | None = None) -> AnnData:
    """Make counts of values that were corrected or estimated and have decimals: SoupX, decontX, RSEM, EM counts.

    Each is rounded to the nearest whole number (halves to the even one), which moves the total of a cell by little and
    gives the same result each time; what is below one half becomes 0. A logarithm or a normalised value is no count
    with decimals, and is refused.

    Parameters
    ----------
    adata
        The data, (cells, genes); left as they are.
    layer
        Layer with the values; None is `X`.
    key_added
        Layer of the copy to write the counts to; None replaces the values.

    Returns
    -------
    A copy with whole numbers.

    Raises
    ------
    CountsError
        If a value is missing, infinite or negative, or they look like something else than counts with decimals.
    SchemaError
        If there is no such layer.
    """
    if matrix_name(adata, layer) == "adata.raw":
        raise OptionError("cannot be rounded in place", where="adata.raw", fix="Take adata.raw.to_adata() first.")
    matrix, _ = count_matrix_of(adata, layer)
    whole, _ = counts_rounded(matrix, matrix_name(adata, layer))
    copy = adata.to_memory() if adata.isbacked else adata.copy()
    if key_added is not None or layer is not None:
        copy.layers[str(key_added or layer)] = whole
    else:
        copy.X = whole
    return copy


def with_rounded_layer(adata: AnnData, layer: str | None) -> tuple[str | None, str]:
    """Write rounded counts into a free layer of the data, so that nothing is lost.

    Parameters
    ----------
    adata
        The data; the layer is added to them.
    layer
        Layer with the values; None is `X`.

    Returns
    -------
    layer
        Where the counts are now: "rounded_counts" ("rounded_counts_2", ... where there is such a layer), or the layer
        given, where it holds whole numbers already.
    told
        What was rounded, in words; "" where nothing was.
    """
    matrix, _ = count_matrix_of(adata, layer)
    whole, told = counts_rounded(matrix, matrix_name(adata, layer))
    if not told:
        return layer, told
    names = ("rounded_counts", *(f"rounded_counts_{i}" for i in range(2, len(adata.layers) + 3)))
    name = next(name for name in names if name not in adata.layers)
    adata.layers[name] = whole
    return name, told


def counts_rounded(matrix: Matrix, where: str) -> tuple[Matrix, str]:
    """Return a matrix rounded, once it is known to hold counts with decimals, and what that changed, in words.

    Parameters
    ----------
    matrix
        (cells, genes).
    where
        Its name, for messages.

    Raises
    ------
    CountsError
        If a value is missing, infinite or negative, or they look like something else than counts with decimals.
    """
    scan = scan_matrix(matrix)
    if not scan.bad:
        return matrix, ""
    kinds = set(scan.bad) - {"fractional"}
    if kinds:
        fix = "Correct these first; celbo.check names the first of them."
        flag = "Correct these first; celbo check names the first of them."
        value = ", ".join(f"{scan.bad[kind].n:,} {_BAD[kind]}" for kind in sorted(kinds))
        raise CountsError("holds values that rounding does not mend", where=where, value=value, fix=fix, flag=flag)
    decimals = scan.bad["fractional"].n
    found = look_at(matrix, scan.largest, negative=False)
    if not found.estimated and decimals >= 0.1 * scan.n_nonzero:
        fix = f"{found.sentence}: read the counts from their file, or take likelihood='normal'."
        flag = f"{found.sentence}: give the file or the --layer that holds the counts, or take --likelihood normal."
        raise CountsError("does not hold counts with decimals, so it was not rounded", where=where, fix=fix, flag=flag)
    whole = rounded(matrix)
    totals = np.asarray(whole.sum(1), np.float64).ravel()
    change = np.median(np.abs(totals - scan.totals) / np.maximum(scan.totals, 1e-9))
    told = (
        f"{decimals:,} of {scan.n_nonzero:,} values had decimals; the total of a cell changes by {change:.1%} (median)"
    )
    return whole, told


_BAD = {"nan": "missing", "inf": "infinite", "negative": "negative", "large": "too large for a count"}


# ------------------------------------------------------------------------------------------------------------- helpers


def _some_cells(matrix: Matrix, n: int = 200) -> Rows:
    """Return the positive values of up to `n` cells spread over the matrix, of those that have two or more."""
    chosen = np.unique(np.linspace(0, matrix.shape[0] - 1, min(n, matrix.shape[0])).astype(np.int64))
    rows = []
    for at in chosen:  # one by one: all of them dense would be the largest array of a check
        some: Any = matrix[[at]]
        row = np.asarray(some.toarray() if hasattr(some, "toarray") else some, np.float64).ravel()
        rows.append(row[np.isfinite(row) & (row > 0)])
    return [row for row in rows if row.size >= 2]


def _were_counts(rows: Rows) -> bool:
    return _one_total(rows) is not None or float(np.concatenate([_most_whole(row) for row in rows]).mean()) > 0.9


def _one_total(rows: Rows) -> float | None:
    totals = np.array([row.sum() for row in rows])
    shared = len(rows) > 1 and bool(totals.std() < 0.005 * totals.mean())
    return float(np.median(totals)) if shared else None


def _all_whole(rows: Rows) -> bool:
    """Return whether nearly all values are whole numbers, within single precision."""
    values = np.concatenate(rows)
    near = np.abs(values - np.round(values)) < np.minimum(1e-5 + 1e-6 * values, 0.1)
    return float(near.mean()) > 0.99


def _share_whole(rows: Rows) -> float:
    values = np.concatenate(rows)
    return float((np.floor(values) == values).mean())


def _most_whole(row: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which values of a cell are whole: as they are, or where the smallest stands for a count of 1, 2 or 3."""
    scaled = [row, *(row / row.min() * least for least in (1, 2, 3) if row.min() > 0)]
    whole = [np.abs(each - np.round(each)) < np.minimum(1e-3 + 1e-4 * each, 0.1) for each in scaled]
    return cast("NDArray[np.bool_]", max(whole, key=np.count_nonzero))
