"""Positions that a sparse matrix lists more than once: a cell that has a gene twice. Counted, said, and added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from celbo.data.scan import Matrix, is_sparse

__all__ = ["Repeats", "repeats_in", "summed"]

_BLOCK = 1 << 20  # positions compared at a time

_MOST = 0.01
"""Share of the stored values beyond which a matrix is not believed: no writer repeats a position on purpose."""


@dataclass(frozen=True)
class Repeats:
    """What of a matrix stands at positions that it lists already."""

    n: int
    """Values."""
    n_stored: int
    """All values that are stored."""
    row: int
    """Row of the first position that is repeated, from 0."""
    column: int

    @property
    def too_many(self) -> bool:
        """Whether the matrix should not be believed."""
        return self.n > _MOST * self.n_stored

    @property
    def value(self) -> str:
        """What an error or a warning tells of it."""
        first = f"the first is row {self.row:,}, column {self.column:,} (from 0)"
        return f"{self.n:,} of {self.n_stored:,} stored values, {first}"


def repeats_in(matrix: Matrix) -> Repeats | None:
    """Return the positions that a matrix lists more than once, None where there is none.

    Parameters
    ----------
    matrix
        CSR, CSC or COO, known to point within its shape; a dense array has none.
    """
    if not is_sparse(matrix):
        return None
    if matrix.format == "coo":
        major, indices, n_major = matrix.row, matrix.col, matrix.shape[0]
        by_row = sp.csr_matrix((np.ones(indices.size, np.int8), (major, indices)), shape=matrix.shape)
        if by_row.nnz == matrix.nnz:  # SciPy adds them up
            return None
        order = np.lexsort((indices, major))
        major, indices = major[order], indices[order]
    else:
        if _strictly_ascending(matrix):
            return None
        kind = sp.csr_matrix if matrix.format == "csr" else sp.csc_matrix
        marks = np.zeros(matrix.indices.size, np.int8)
        turned = kind((marks, matrix.indices, matrix.indptr), shape=matrix.shape, copy=False)
        turned = turned.tocsc() if matrix.format == "csr" else turned.tocsr()  # in order, and equal ones stay together
        n_major = turned.indptr.size - 1
        major, indices = np.repeat(np.arange(n_major), np.diff(turned.indptr)), turned.indices
    again = np.flatnonzero((major[1:] == major[:-1]) & (indices[1:] == indices[:-1]))
    if not again.size:
        return None
    place = int(major[again[0]]), int(indices[again[0]])
    row, column = place[::-1] if matrix.format == "csr" else place
    return Repeats(int(again.size), int(matrix.nnz), row, column)


def _strictly_ascending(matrix: Matrix) -> bool:
    """Tell whether the minor indices of each row or column ascend, from one to the next."""
    indices: NDArray[Any] = matrix.indices
    starts = np.asarray(matrix.indptr)
    for low in range(0, indices.size, _BLOCK):
        part = indices[low : low + _BLOCK + 1]
        falls = np.flatnonzero(part[1:] <= part[:-1]) + (low + 1)
        if (starts[np.minimum(np.searchsorted(starts, falls), starts.size - 1)] != falls).any():
            return False
    return True


def summed(matrix: Matrix) -> Matrix:
    """Return a CSR or CSC matrix with repeated positions added up, and what was given left as it is."""
    kind = np.float64 if matrix.dtype.kind == "f" else np.int64  # a sum of uint8 may pass 255
    made = type(matrix)((matrix.data.astype(kind), matrix.indices.copy(), matrix.indptr.copy()), shape=matrix.shape)
    made.sum_duplicates()
    back: NDArray[Any] = made.data.astype(matrix.dtype)
    if np.array_equal(back, made.data):
        made.data = back
    return made
