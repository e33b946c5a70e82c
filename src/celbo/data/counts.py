"""Counts in memory: an immutable CSR matrix in the narrowest types that hold it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from celbo.data.minibatch import SparseRows
from celbo.errors import CountsError, InputError
from celbo.kernels.gather import column_sums, first_outside, gather_rows, row_sums

__all__ = ["CountMatrix"]

Array = npt.NDArray[Any]
_BLOCK = 1 << 18  # stored values converted at a time: bounds the temporaries of a large matrix


@dataclass(frozen=True, eq=False)
class CountMatrix:
    """Counts of cells x genes as CSR: genes ascending within a cell, no duplicates, no stored zeros.

    The arrays are read-only. Make one with `from_scipy`.
    """

    indptr: npt.NDArray[np.int64]
    """Start of each cell in `indices`; (cells + 1,) int64."""
    indices: Array
    """Gene of each stored count; (stored,) uint16 where the genes fit, else int32."""
    values: Array
    """The counts; (stored,) the narrowest of uint8, uint16 and uint32; float32 where they are not counts."""
    shape: tuple[int, int]
    """Cells, genes."""

    @classmethod
    def from_scipy(cls, matrix: Any, *, counts: bool = True) -> CountMatrix:
        """Copy a matrix, which is left as it is.

        Parameters
        ----------
        matrix
            (cells, genes) SciPy sparse matrix or array of any format and dtype, or a dense array.
        counts
            Whether the values must be counts. False keeps any finite value, as float32 (likelihood "normal").

        Raises
        ------
        CountsError
            If a value is not a whole number of at least 0 (with `counts`), not finite, or over 2^32 - 1.
        """
        rows = _canonical(matrix)
        n_cells, n_genes = rows.shape
        values = _narrowed(rows) if counts else _finite(rows)
        indices = rows.indices.astype(np.uint16 if n_genes <= 1 << 16 else np.int32)
        arrays = (rows.indptr.astype(np.int64), indices, values)
        for array in arrays:
            array.flags.writeable = False
        return cls(*arrays, shape=(int(n_cells), int(n_genes)))

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.shape[0]

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self.shape[1]

    @property
    def n_stored(self) -> int:
        """Number of counts that are not 0."""
        return int(self.values.shape[0])

    def positions(self, index: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return positions of cells as (n,) int64, contiguous, once they are known to lie within the matrix.

        Raises
        ------
        InputError
            If one does not; the message names it.
        """
        rows = np.ascontiguousarray(index, dtype=np.int64)
        wrong = first_outside(rows, self.n_cells)
        if wrong >= 0:
            raise InputError(
                f"is not among the {self.n_cells} cells",
                where=f"cell {rows[wrong]}",
                fix="Positions of cells start at 0.",
            )
        return rows

    def rows(self, index: npt.ArrayLike) -> SparseRows:
        """Return the counts of some cells, in the order asked for, on the CPU in float32.

        Parameters
        ----------
        index
            Positions of the cells; (n,) integers from 0. A cell may be asked for more than once.

        Raises
        ------
        InputError
            If there is no such cell.
        """
        indptr, genes, values = gather_rows(self.indptr, self.indices, self.values, self.positions(index))
        return SparseRows(
            torch.from_numpy(indptr), torch.from_numpy(genes), torch.from_numpy(values), n_genes=self.n_genes
        )

    def total_counts(self) -> npt.NDArray[np.float64]:
        """Return the total of each cell; (cells,) counts."""
        return row_sums(self.indptr, self.values)

    def gene_sums(self) -> npt.NDArray[np.float64]:
        """Return the total of each gene over all cells; (genes,) counts."""
        return column_sums(self.indices, self.values, self.n_genes)

    def to_scipy(self) -> sparse.csr_matrix:
        """Return a copy as a SciPy CSR matrix, (cells, genes) float32."""
        narrow = self.n_stored < np.iinfo(np.int32).max
        index = np.int32 if narrow else np.int64  # SciPy wants one index type for both
        values: Array = self.values.astype(np.float32)
        return sparse.csr_matrix((values, self.indices.astype(index), self.indptr.astype(index)), shape=self.shape)


def _canonical(matrix: Any) -> sparse.csr_matrix:
    """Return the matrix as canonical CSR; it may share arrays with its input, but never changes them."""
    if not sparse.issparse(matrix):
        return _from_dense(np.asarray(matrix))
    rows: sparse.csr_matrix = _sound(matrix).tocsr()
    if not rows.has_canonical_format:
        kind = np.float64 if rows.dtype.kind == "f" else np.int64  # a sum of uint8 duplicates may pass 255
        rows = sparse.csr_matrix((rows.data.astype(kind), rows.indices.copy(), rows.indptr.copy()), shape=rows.shape)
        rows.sum_duplicates()
    if rows.nnz and not rows.data.all():
        rows = rows.copy()
        rows.eliminate_zeros()
    return rows


def _from_dense(matrix: Array) -> sparse.csr_matrix:
    """Return a dense matrix as CSR, which is canonical, some rows at a time: at once SciPy takes 24 bytes a count."""
    if matrix.size <= _BLOCK or matrix.ndim != 2:
        return sparse.csr_matrix(_plain(matrix))
    n_rows = max(1, _BLOCK // matrix.shape[1])
    blocks = (matrix[low : low + n_rows] for low in range(0, matrix.shape[0], n_rows))
    rows: sparse.csr_matrix = sparse.vstack([sparse.csr_matrix(_plain(block)) for block in blocks], format="csr")
    return rows


def _sound(matrix: Any) -> Any:
    """Return a new sparse matrix on the same arrays, once its pointers are known to lie within them.

    New, because SciPy keeps what it learns of the order in the object, and that one is the user's; checked, because
    compiled loops that follow a damaged file's pointers write where they should not.
    """
    if matrix.format not in {"csr", "csc"}:
        matrix = matrix.tocsr()
    kind = sparse.csr_matrix if matrix.format == "csr" else sparse.csc_matrix
    try:
        fresh = kind((_plain(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape, copy=False)
        fresh.check_format(full_check=True)
    except ValueError as error:
        raise CountsError(
            "is damaged", where="the sparse matrix", value=str(error), fix="Write the file again from its source."
        ) from error
    return fresh


def _plain(values: Array) -> Array:
    """Return values in a dtype SciPy's sparse code knows: no bool, half precision, object or foreign byte order."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind not in "iuf":
        try:
            return values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise CountsError(
                "holds values that are not numbers", where="the matrix", value=f"its dtype is {values.dtype}"
            ) from error
    if values.dtype.itemsize == 2 and values.dtype.kind == "f":
        return values.astype(np.float32)
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def _narrowed(rows: sparse.csr_matrix) -> Array:
    """Return the stored values in the narrowest unsigned type, or raise for the first that is not a count."""
    largest = rows.data.max() if rows.data.size else 0
    kind = next((k for k in (np.uint8, np.uint16, np.uint32) if largest <= np.iinfo(k).max), np.uint32)
    return _converted(rows, np.dtype(kind), lambda got, given: got != given, "values that are not counts")


def _finite(rows: sparse.csr_matrix) -> Array:
    """Return the stored values as float32, or raise for the first that is not finite."""
    what = "values that are not finite in single precision"
    return _converted(rows, np.dtype(np.float32), lambda got, _: ~np.isfinite(got), what)


def _converted(
    rows: sparse.csr_matrix, kind: np.dtype[Any], wrong: Callable[[Array, Array], Array], what: str
) -> Array:
    """Return the stored values in another type, a block at a time, or raise for the first that is wrong in it."""
    out = np.empty(rows.data.shape, dtype=kind)
    for start in range(0, out.size, _BLOCK):
        block, part = rows.data[start : start + _BLOCK], out[start : start + _BLOCK]
        with np.errstate(invalid="ignore", over="ignore"):  # casting what does not fit; found just below
            part[:] = block
        found = wrong(part, block)
        if found.any():
            _refuse(rows, start + int(found.argmax()), what)
    return out


def _refuse(rows: sparse.csr_matrix, at: int, what: str) -> None:
    row = int(np.searchsorted(rows.indptr, at, side="right")) - 1
    raise CountsError(
        f"holds {what}",
        where="the matrix",
        value=f"row {row}, column {rows.indices[at]} is {rows.data[at]:g}",
        fix="Raw counts are whole numbers from 0 to 4294967295; celbo.check tells more.",
    )
