"""Walks over rows of a CSR matrix against NumPy on the dense one, in every type that counts are kept in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from celbo.kernels.gather import (
    column_moments,
    column_sums,
    first_outside,
    gather_elements,
    gather_rows,
    row_sums,
)

TYPES = [(genes, values) for genes in ("u2", "i4") for values in ("u1", "u2", "u4", "f4")]
ROWS = [[], [0], [5, 59, 0, 5], list(range(60)), [17] * 40]


def arrays(dense: np.ndarray, genes: str, values: str) -> tuple[np.ndarray, ...]:
    rows: Any = sparse.csr_matrix(dense)
    return rows.indptr.astype(np.int64), rows.indices.astype(genes), rows.data.astype(values)


def counts() -> np.ndarray:
    dense = np.random.default_rng(0).poisson(0.4, (60, 30))
    dense[17] = 0  # an empty row
    dense[59, 29] = 200
    return dense


@pytest.mark.parametrize(("genes", "values"), TYPES)
@pytest.mark.parametrize("rows", ROWS, ids=len)
def test_rows_come_in_the_order_asked_for(rows: list[int], genes: str, values: str) -> None:
    index = np.array(rows, np.int64)
    indptr, indices, stored = gather_rows(*arrays(counts(), genes, values), index)
    expected = sparse.csr_matrix(counts()[index])
    assert (indptr.dtype, indices.dtype, stored.dtype) == (np.int64, np.int64, np.float32)
    np.testing.assert_array_equal(indptr, expected.indptr)
    np.testing.assert_array_equal(indices, expected.indices)
    np.testing.assert_array_equal(stored, expected.data)


@pytest.mark.parametrize(("genes", "values"), TYPES)
@pytest.mark.parametrize("rows", ROWS, ids=len)
def test_moments_of_columns(rows: list[int], genes: str, values: str) -> None:
    index = np.array(rows, np.int64)
    sums, squares = column_moments(*arrays(counts(), genes, values), index, 30)
    assert sums.dtype == squares.dtype == np.float64
    np.testing.assert_array_equal(sums, counts()[index].sum(0))
    np.testing.assert_array_equal(squares, (counts()[index] ** 2).sum(0))


def test_the_square_of_a_large_count_is_exact() -> None:
    sums, squares = column_moments(*arrays(np.array([[0, 2**32 - 1]]), "u2", "u4"), np.zeros(1, np.int64), 2)
    assert sums.tolist() == [0, 2**32 - 1]
    assert squares.tolist() == [0, float((2**32 - 1) ** 2)]


@pytest.mark.parametrize(("genes", "values"), TYPES)
def test_sums_of_rows_and_of_columns(genes: str, values: str) -> None:
    indptr, indices, stored = arrays(counts(), genes, values)
    np.testing.assert_array_equal(row_sums(indptr, stored), counts().sum(1))
    np.testing.assert_array_equal(column_sums(indices, stored, 30), counts().sum(0))


@pytest.mark.parametrize(
    ("rows", "first"), [([], -1), ([0, 59], -1), ([3, 60, -1], 1), ([-1], 0), ([0, 2**62], 1), ([-(2**63)], 0)]
)
def test_the_first_row_that_is_not_there(rows: list[int], first: int) -> None:
    assert first_outside(np.array(rows, np.int64), 60) == first


@pytest.mark.parametrize("columns", [(0, 0), (2, 0), (1, 3)])
@pytest.mark.parametrize("at", ROWS, ids=len)
def test_elements_are_those_of_numpy(at: list[int], columns: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    index = np.array(at, np.int64)
    given = [rng.random(60, np.float32), np.arange(60), np.arange(60)[::-1].copy()]
    given += [rng.integers(0, 9, (60, columns[0])), rng.random((60, columns[1]), np.float32)]
    taken, *rest = gather_elements(index, *given)
    np.testing.assert_array_equal(taken, index)
    assert not np.shares_memory(taken, index)
    for got, whole in zip(rest, given, strict=True):
        assert (got.dtype, got.shape) == (whole.dtype, (len(at), *whole.shape[1:]))
        np.testing.assert_array_equal(got, whole[index])
