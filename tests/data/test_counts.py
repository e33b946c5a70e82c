"""CountMatrix: any matrix in, the same counts out, its input untouched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from celbo.data.counts import CountMatrix
from celbo.data.moments import gene_moments
from celbo.errors import CountsError, InputError


def counts(n_cells: int = 60, n_genes: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(0.4, (n_cells, n_genes))


def unsorted(dense: np.ndarray) -> sparse.csr_matrix:
    """Return CSR whose genes descend within each cell, with a stored zero and a count split in two."""
    rows = sparse.csr_matrix(dense.astype(np.float32))
    data, indices, indptr = [], [], [0]
    for i in range(dense.shape[0]):
        a, b = rows.indptr[i : i + 2]
        indices += [*rows.indices[a:b][::-1], 0, *rows.indices[a:b][:1]]
        data += [*rows.data[a:b][::-1], 0, *np.zeros(min(b - a, 1))]
        indptr.append(len(data))
    return sparse.csr_matrix((np.array(data, "f4"), np.array(indices), np.array(indptr)), shape=dense.shape)


FORMATS = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "coo": sparse.coo_matrix,
    "lil": sparse.lil_matrix,
    "csr array": sparse.csr_array,
    "csc array": sparse.csc_array,
    "coo array": sparse.coo_array,
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "matrix": lambda x: sparse.csr_matrix(x).todense(),
    "unsorted": unsorted,
}
DTYPES = ("f2", "f4", "f8", ">f4", ">i4", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_rows(form: str) -> None:
    dense = counts()
    matrix = CountMatrix.from_scipy(FORMATS[form](dense))
    np.testing.assert_array_equal(matrix.rows(np.arange(60)).dense.numpy(), dense)


@pytest.mark.parametrize("block", [1, 7, 31, 1800])
@pytest.mark.parametrize("dtype", ["f2", "f4", "?", "i8"])
def test_a_dense_matrix_is_read_in_blocks_of_rows(dtype: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celbo.data.counts._BLOCK", block)
    dense = counts().astype(dtype)
    dense[[0, 30, 59]] = 0
    np.testing.assert_array_equal(CountMatrix.from_scipy(dense).to_scipy().toarray(), dense.astype("f4"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_every_dtype_gives_the_same_arrays(dtype: str, form: str) -> None:
    dense = counts()
    given = FORMATS[form](dense if form == "dense" else dense.astype(np.int64))
    if form != "dense" and dtype in {"f2", ">f4", ">i4"}:
        given.data = given.data.astype(dtype)  # SciPy does not make such, but files may hold them
    else:
        given = given.astype(dtype)
    got, expected = CountMatrix.from_scipy(given), CountMatrix.from_scipy(dense)
    for name in ("indptr", "indices", "values"):
        a, b = getattr(got, name), getattr(expected, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_booleans_are_counts_of_one() -> None:
    dense = counts() > 0
    np.testing.assert_array_equal(CountMatrix.from_scipy(dense).to_scipy().toarray(), dense)
    np.testing.assert_array_equal(CountMatrix.from_scipy(sparse.csr_matrix(dense)).to_scipy().toarray(), dense)


@pytest.mark.parametrize("form", ["unsorted", "csr", "csc", "coo", "dense"])
def test_the_input_is_left_as_it_was(form: str) -> None:
    given = FORMATS[form](counts().astype(np.float32))
    names = ("data", "indices", "indptr", "row", "col")
    arrays = [given] if form == "dense" else [getattr(given, n) for n in names if hasattr(given, n)]
    before = [(a, a.copy(), a.flags.writeable) for a in arrays]
    state = {} if form == "dense" else set(vars(given))
    CountMatrix.from_scipy(given)
    for array, copy, writeable in before:
        np.testing.assert_array_equal(array, copy)
        assert array.flags.writeable == writeable
    assert form == "dense" or set(vars(given)) == state
    after = [given] if form == "dense" else [getattr(given, n) for n in names if hasattr(given, n)]
    assert [id(a) for a in after] == [id(a) for a in arrays]


def test_nothing_is_shared_with_the_input() -> None:
    given = sparse.csr_matrix(counts().astype(np.uint8))
    matrix = CountMatrix.from_scipy(given)
    given.data[:] = 77
    assert matrix.values.max() < 77


@pytest.mark.parametrize(
    ("largest", "dtype"), [(255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4"), (4294967295, "u4")]
)
def test_values_take_the_narrowest_type(largest: int, dtype: str) -> None:
    matrix = CountMatrix.from_scipy(np.array([[0.0, largest], [1, 0]]))
    assert matrix.values.dtype == np.dtype(dtype)
    assert int(matrix.values[0]) == largest


@pytest.mark.parametrize(("n_genes", "dtype"), [(65536, "u2"), (65537, "i4")])
def test_gene_indices_take_the_narrowest_type(n_genes: int, dtype: str) -> None:
    given = sparse.csr_matrix(([3.0], ([0], [n_genes - 1])), shape=(2, n_genes))
    matrix = CountMatrix.from_scipy(given)
    assert matrix.indices.dtype == np.dtype(dtype)
    assert matrix.rows([0]).indices.tolist() == [n_genes - 1]


def test_duplicates_are_summed_beyond_their_dtype() -> None:
    given = sparse.csr_matrix((np.array([200, 100], "u1"), np.array([1, 1]), np.array([0, 2])), shape=(1, 3))
    assert CountMatrix.from_scipy(given).to_scipy().toarray().tolist() == [[0, 300, 0]]


def test_the_arrays_cannot_be_written() -> None:
    matrix = CountMatrix.from_scipy(counts())
    with pytest.raises(ValueError, match="read-only"):
        matrix.values[0] = 1


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan, np.inf, -np.inf, 4294967296.0, 1e300])
@pytest.mark.parametrize("form", ["csr", "dense"])
def test_a_value_that_is_no_count_is_named(value: float, form: str) -> None:
    dense = counts().astype(np.float64)
    dense[7, 11] = value
    with pytest.raises(CountsError, match="row 7, column 11"):
        CountMatrix.from_scipy(FORMATS[form](dense))


@pytest.mark.parametrize("value", [-1, -(2**40), 2**33])
def test_an_integer_that_is_no_count_is_named(value: int) -> None:
    dense = counts()
    dense[7, 11] = value
    with pytest.raises(CountsError, match="row 7, column 11"):
        CountMatrix.from_scipy(dense)


def test_values_that_are_not_counts_are_kept_if_asked() -> None:
    dense = np.log1p(counts()) - 0.25
    matrix = CountMatrix.from_scipy(dense, counts=False)
    assert matrix.values.dtype == np.float32
    np.testing.assert_array_equal(matrix.rows(np.arange(60)).dense.numpy(), dense.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_never_kept(value: float) -> None:
    dense = counts().astype(np.float64)
    dense[7, 11] = value
    with pytest.raises(CountsError, match="row 7, column 11"):
        CountMatrix.from_scipy(dense, counts=False)


@pytest.mark.parametrize("field", ["column", "negative", "pointer"])
def test_a_damaged_matrix_is_refused(field: str) -> None:
    given = sparse.csr_matrix(counts().astype(np.float32))
    if field == "pointer":
        given.indptr[5] = given.indptr[6] + 1
    else:
        given.indices[3] = 10_000 if field == "column" else -2
    with pytest.raises(CountsError, match="damaged"):
        CountMatrix.from_scipy(given)


def test_text_is_refused() -> None:
    with pytest.raises(CountsError, match="not numbers"):
        CountMatrix.from_scipy(np.array([["a", "b"]]))


def test_rows_come_in_the_order_asked_for_and_may_repeat() -> None:
    dense = counts()
    index = np.array([5, 59, 0, 5])
    rows = CountMatrix.from_scipy(dense).rows(index)
    np.testing.assert_array_equal(rows.dense.numpy(), dense[index])


def test_no_rows_are_an_empty_minibatch() -> None:
    assert CountMatrix.from_scipy(counts()).rows(np.empty(0, int)).dense.shape == (0, 30)


@pytest.mark.parametrize("wrong", [-1, 60, 10**9])
def test_a_cell_that_is_not_there_is_named(wrong: int) -> None:
    with pytest.raises(InputError, match=f"cell {wrong} is not among the 60 cells"):
        CountMatrix.from_scipy(counts()).rows([0, wrong])


def test_totals_of_cells_and_genes() -> None:
    dense = counts()
    matrix = CountMatrix.from_scipy(dense)
    np.testing.assert_array_equal(matrix.total_counts(), dense.sum(1))
    np.testing.assert_array_equal(matrix.gene_sums(), dense.sum(0))


@pytest.mark.parametrize("cells", [[0], [3, 1, 59], list(range(60))], ids=len)
def test_moments_of_genes_over_chosen_cells(cells: list[int]) -> None:
    mean, variance = gene_moments(CountMatrix.from_scipy(counts()), np.array(cells))
    np.testing.assert_allclose(mean, counts()[cells].mean(0), rtol=1e-12)
    np.testing.assert_allclose(variance, counts()[cells].var(0), rtol=1e-12, atol=1e-12)


def test_moments_of_a_cell_that_is_not_there() -> None:
    with pytest.raises(InputError, match="cell 60 is not among the 60 cells"):
        gene_moments(CountMatrix.from_scipy(counts()), np.array([60]))


@pytest.mark.parametrize("counts_only", [True, False])
def test_a_value_in_a_later_block_is_named(counts_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celbo.data.counts._BLOCK", 7)
    dense = counts().astype(np.float64)
    dense[51, 22] = np.inf
    with pytest.raises(CountsError, match="row 51, column 22 is inf"):
        CountMatrix.from_scipy(sparse.csr_matrix(dense), counts=counts_only)
    dense[51, 22] = 3
    matrix = CountMatrix.from_scipy(sparse.csr_matrix(dense), counts=counts_only)
    np.testing.assert_array_equal(matrix.rows(np.arange(60)).dense.numpy(), dense)


def test_totals_do_not_wrap_around() -> None:
    matrix = CountMatrix.from_scipy(np.full((2, 40), 255, np.uint8))
    assert matrix.total_counts().tolist() == [10200, 10200]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.integers(1, 12).flatmap(
        lambda g: st.lists(st.lists(st.sampled_from([0, 0, 0, 1, 2, 300]), min_size=g, max_size=g), min_size=1)
    )
)
def test_a_round_trip_keeps_any_counts(rows: list[list[int]]) -> None:
    dense = np.array(rows)
    matrix = CountMatrix.from_scipy(sparse.coo_matrix(dense))
    back = matrix.to_scipy()
    np.testing.assert_array_equal(back.toarray(), dense)
    assert back.has_canonical_format
    assert matrix.n_stored == (dense != 0).sum()
