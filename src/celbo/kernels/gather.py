"""Walks over the rows of a CSR matrix on the CPU.

All are serial and release the GIL, so that a prefetching thread may run them beside a parallel kernel: numba's
workqueue threading layer aborts where two threads start parallel regions at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from celbo.kernels.compile import compiled

__all__ = ["column_moments", "column_sums", "first_outside", "gather_elements", "gather_rows", "row_sums"]

Array = npt.NDArray[Any]


@compiled()
def first_outside(rows: npt.NDArray[np.int64], n_rows: int) -> int:
    """Return the position in `rows` of the first that is not from 0 to n_rows - 1, or -1."""
    for i in range(rows.shape[0]):
        if rows[i] < 0 or rows[i] >= n_rows:
            return i
    return -1


@compiled()
def gather_rows(
    indptr: Array, indices: Array, values: Array, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return some rows of a CSR matrix as a new one: indptr and indices int64, values float32.

    The caller vouches that `rows` lie within the matrix: the loop does not look.
    """
    starts = np.zeros(rows.shape[0] + 1, dtype=np.int64)
    for i in range(rows.shape[0]):
        starts[i + 1] = starts[i] + indptr[rows[i] + 1] - indptr[rows[i]]
    genes = np.empty(starts[-1], dtype=np.int64)
    out = np.empty(starts[-1], dtype=np.float32)
    for i in range(rows.shape[0]):
        first, last = indptr[rows[i]], indptr[rows[i] + 1]
        # slices, and a loop each: then LLVM sees that nothing overlaps or wraps around, and makes vector code
        to_genes, from_genes = genes[starts[i] : starts[i + 1]], indices[first:last]
        for k in range(to_genes.size):
            to_genes[k] = from_genes[k]
        to_out, from_values = out[starts[i] : starts[i + 1]], values[first:last]
        for k in range(to_out.size):
            to_out[k] = from_values[k]
    return starts, genes, out


@compiled()
def gather_elements(
    at: npt.NDArray[np.int64], first: Array, second: Array, third: Array, fourth: Array, fifth: Array
) -> tuple[npt.NDArray[np.int64], Array, Array, Array, Array, Array]:
    """Return a copy of `at`, and what three vectors (n,) and two matrices (n, columns) hold there, in their types.

    One call, as in a training step each call of NumPy costs more than these few numbers. The caller vouches that `at`
    lies within them.
    """
    n = at.shape[0]
    positions = np.empty(n, np.int64)
    one, two, three = np.empty(n, first.dtype), np.empty(n, second.dtype), np.empty(n, third.dtype)
    four = np.empty((n, fourth.shape[1]), fourth.dtype)
    five = np.empty((n, fifth.shape[1]), fifth.dtype)
    for i in range(n):
        k = at[i]
        positions[i], one[i], two[i], three[i] = k, first[k], second[k], third[k]
        for j in range(fourth.shape[1]):
            four[i, j] = fourth[k, j]
        for j in range(fifth.shape[1]):
            five[i, j] = fifth[k, j]
    return positions, one, two, three, four, five


@compiled()
def row_sums(indptr: Array, values: Array) -> npt.NDArray[np.float64]:
    """Return the sum of each row; (rows,) float64."""
    sums = np.zeros(indptr.shape[0] - 1, dtype=np.float64)
    for i in range(sums.shape[0]):
        for k in range(indptr[i], indptr[i + 1]):
            sums[i] += values[k]
    return sums


@compiled()
def column_moments(
    indptr: Array, indices: Array, values: Array, rows: npt.NDArray[np.int64], n_columns: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the sums of each column over some rows, of the values and of their squares; (columns,) float64 each.

    The caller vouches that `rows` lie within the matrix.
    """
    sums, squares = np.zeros(n_columns, dtype=np.float64), np.zeros(n_columns, dtype=np.float64)
    for i in range(rows.shape[0]):
        first, last = indptr[rows[i]], indptr[rows[i] + 1]
        columns, stored = indices[first:last], values[first:last]
        for k in range(columns.size):
            value = np.float64(stored[k])
            sums[columns[k]] += value
            squares[columns[k]] += value * value
    return sums, squares


@compiled()
def column_sums(indices: Array, values: Array, n_columns: int) -> npt.NDArray[np.float64]:
    """Return the sum of each column; (columns,) float64."""
    sums = np.zeros(n_columns, dtype=np.float64)
    for k in range(indices.shape[0]):
        sums[indices[k]] += values[k]
    return sums
