"""Is it counts? What `celbo.check` finds, in whatever form the matrix and the columns come."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celbo.data.check import check, count_matrix_of, require
from celbo.data.columns import category_codes, numeric_values
from celbo.data.scan import scan_matrix
from celbo.data.schema import DataKeys
from celbo.errors import CelboError, CelboWarning, CountsError, SchemaError

N_CELLS, N_GENES = 40, 12


def table_of_counts(seed: int = 0, shape: tuple[int, int] = (N_CELLS, N_GENES)) -> np.ndarray:
    counts = np.random.default_rng(seed).poisson(2.0, shape)
    counts[:, 0] += 1  # no cell is empty
    return counts


def anndata_of(matrix: Any, **obs: Any) -> AnnData:
    n_cells, n_genes = matrix.shape
    cells, genes = [f"cell{i}" for i in range(n_cells)], [f"GENE{i}" for i in range(n_genes)]
    return AnnData(matrix, obs=pd.DataFrame(obs, index=cells), var=pd.DataFrame(index=genes))


def unsorted_csr(dense: np.ndarray) -> sp.csr_matrix:
    matrix = sp.csr_matrix(dense)
    for low, high in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        matrix.indices[low:high] = matrix.indices[low:high][::-1].copy()
        matrix.data[low:high] = matrix.data[low:high][::-1].copy()
    matrix.has_sorted_indices = False
    return matrix


def with_explicit_zeros(dense: np.ndarray) -> sp.csr_matrix:
    matrix = sp.csr_matrix(dense + 1)
    matrix.data -= 1
    return matrix


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "csr": sp.csr_matrix,
    "csr unsorted": unsorted_csr,
    "csr with zeros": with_explicit_zeros,
    "csc": sp.csc_matrix,
    "dense": np.ascontiguousarray,
    "dense by column": np.asfortranarray,
    "csr array": sp.csr_array,
}
DTYPES = ["int8", "uint8", "int32", "int64", "uint64", "float32", "float64"]


def dense_of(matrix: Any) -> np.ndarray:
    return np.asarray(matrix.toarray() if sp.issparse(matrix) else matrix)


# -- every form of matrix gives the same numbers ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_and_type_holds_the_same_counts(form: str, dtype: str) -> None:
    counts = table_of_counts()
    adata = anndata_of(FORMS[form](counts.astype(dtype)))
    result = check(adata)
    assert (result.ok, result.n_stored, result.median_counts) == (True, (counts > 0).sum(), np.median(counts.sum(1)))
    assert np.array_equal(dense_of(count_matrix_of(adata, None)[0]), counts)


@pytest.mark.parametrize("form", ["csr", "csr unsorted", "csc", "dense"])
@pytest.mark.parametrize("rows", ["all", "shuffled", "mask", "slice"])
def test_backed_data_come_in_the_order_of_the_rows(form: str, rows: str, tmp_path: Path) -> None:
    counts = table_of_counts().astype("float32")
    adata = anndata_of(FORMS[form](counts))
    adata.raw = adata.copy()
    adata.write_h5ad(tmp_path / "a.h5ad")
    rng = np.random.default_rng(1)
    chosen = {
        "all": np.arange(N_CELLS),
        "shuffled": rng.permutation(N_CELLS)[:15],
        "mask": np.flatnonzero(rng.random(N_CELLS) < 0.5),
        "slice": np.arange(5, 20),
    }[rows]
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    view = backed if rows == "all" else backed[chosen]
    assert np.array_equal(dense_of(count_matrix_of(view, None)[0]), counts[chosen])
    assert np.array_equal(dense_of(count_matrix_of(view, "raw")[0]), counts[chosen])
    backed.file.close()


@pytest.mark.parametrize("form", FORMS)
def test_a_view_comes_in_the_order_of_its_rows(form: str) -> None:
    counts = table_of_counts()
    view = anndata_of(FORMS[form](counts))[[7, 3, 30], [5, 0]]
    matrix, genes = count_matrix_of(view, None)
    assert np.array_equal(dense_of(matrix), counts[[7, 3, 30]][:, [5, 0]])
    assert list(genes) == ["GENE5", "GENE0"]


def test_the_layer_named_raw_wins_over_adata_raw() -> None:
    adata = anndata_of(table_of_counts(0))
    adata.raw = anndata_of(table_of_counts(1))
    assert np.array_equal(dense_of(count_matrix_of(adata, "raw")[0]), table_of_counts(1))
    adata.layers["raw"] = table_of_counts(2)
    assert np.array_equal(count_matrix_of(adata, "raw")[0], table_of_counts(2))


def test_raw_brings_its_own_genes() -> None:
    adata = anndata_of(sp.csr_matrix(table_of_counts()))
    adata.raw = adata.copy()
    few = adata[:, :3].copy()
    assert (len(count_matrix_of(few, None)[1]), len(count_matrix_of(few, "raw")[1])) == (3, N_GENES)
    assert check(few, layer="raw").n_genes == N_GENES


@pytest.mark.parametrize("form", FORMS)
def test_the_check_does_not_change_the_data(form: str) -> None:
    adata = anndata_of(FORMS[form](table_of_counts().astype("float32")), batch=["a", "b"] * 20)
    before = adata.copy()
    check(adata, batch_key="batch")
    if sp.issparse(adata.X):
        assert np.array_equal(adata.X.indices, before.X.indices)
    assert np.array_equal(dense_of(adata.X), dense_of(before.X))
    assert list(adata.obs) == list(before.obs)
    assert not adata.uns


# -- bad values ------------------------------------------------------------------------------------------------------

BAD = {"nan": np.nan, "inf": np.inf, "negative": -3.0, "fractional": 2.5, "large": 2.0**33}
WORDS = {
    "nan": "missing (NaN)",
    "inf": "infinite",
    "negative": "negative",
    "fractional": "not whole",
    "large": "too large",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", BAD)
def test_the_first_bad_value_is_named_with_its_cell_and_gene(kind: str, form: str) -> None:
    counts = table_of_counts().astype("float64")
    counts[31, 2] = counts[12, 9] = counts[12, 4] = BAD[kind]
    found = check(anndata_of(FORMS[form](counts))).errors[0]
    assert found.error is CountsError
    assert "cell 'cell12' (row 12), gene 'GENE4' is" in found.message
    assert f"3 values are {WORDS[kind]}" in found.message


@pytest.mark.parametrize("values", ["counts", "with an empty cell", "normal", "bad"])
@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_a_block_that_cuts_a_cell_changes_nothing(
    form: str, n_groups: int, values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = table_of_counts().astype("float32")
    if values == "with an empty cell":
        dense[[0, 5, 6, 39]] = 0
    elif values == "normal":
        dense -= 1.5
    elif values == "bad":
        dense[31, 2] = dense[12, 9] = np.nan
    groups = np.arange(N_CELLS) % n_groups
    monkeypatch.setattr("celbo.data.scan.BLOCK", 7)
    scan = scan_matrix(FORMS[form](dense), groups=groups, n_groups=n_groups)
    assert scan.n_nonzero == np.count_nonzero(dense)
    assert sum(bad.n for bad in scan.bad.values()) == ((dense < 0) | (dense != np.floor(dense))).sum()
    assert scan.largest == np.nanmax(dense)
    np.testing.assert_allclose(scan.totals, dense.sum(1, dtype="f8"), atol=1e-5)
    np.testing.assert_array_equal(scan.occupied, (dense != 0).any(1))
    np.testing.assert_array_equal(scan.detected, [(dense[groups == g] != 0).any(0) for g in range(n_groups)])


def test_one_bad_value_among_millions_is_found() -> None:
    matrix = sp.random(2000, 3000, density=0.3, format="csr", dtype="float32", random_state=0)
    matrix.data[:] = 1
    matrix.data[1_500_001] = 0.5
    row = int(np.searchsorted(matrix.indptr, 1_500_001, "right")) - 1
    bad = scan_matrix(matrix).bad["fractional"]
    assert (bad.n, bad.cell, bad.gene, bad.value) == (1, row, matrix.indices[1_500_001], 0.5)


def test_fractions_and_negatives_are_for_the_normal_likelihood_only() -> None:
    values = np.random.default_rng(0).normal(size=(20, 5)) + 0.1
    assert not check(anndata_of(values)).ok
    assert check(anndata_of(values), require_counts=False).ok


def test_missing_values_are_for_no_likelihood() -> None:
    values = np.random.default_rng(0).normal(size=(20, 5))
    values[3, 1] = np.nan
    assert "gene 'GENE1' is nan" in check(anndata_of(values), require_counts=False).errors[0].message


@pytest.mark.parametrize("of", ["all genes", "some genes"])
@pytest.mark.parametrize("base", ["e", "2"])
def test_log_transformed_counts_are_recognised(of: str, base: str) -> None:
    counts = table_of_counts(shape=(60, 40)).astype("float32")
    shares = counts / counts.sum(1, keepdims=True) * 1e4
    logs = np.log1p(shares) if base == "e" else np.log2(1 + shares)
    kept = slice(None) if of == "all genes" else slice(5, 25)
    assert "It looks log-transformed" in check(anndata_of(sp.csr_matrix(logs[:, kept]))).errors[0].message


def test_log_of_plain_counts_is_recognised() -> None:
    assert "It looks log-transformed" in check(anndata_of(np.log1p(table_of_counts()))).errors[0].message


@pytest.mark.parametrize("kept", [slice(None), slice(5, 25)])
def test_normalised_counts_are_recognised(kept: slice) -> None:
    counts = table_of_counts(shape=(60, 40)).astype("float32")
    shares = counts / counts.sum(1, keepdims=True) * 1e6
    assert "It looks normalised" in check(anndata_of(shares[:, kept])).errors[0].message


def test_scaled_values_are_recognised() -> None:
    values = np.random.default_rng(0).normal(size=(30, 8))
    assert "It looks scaled" in check(anndata_of(values)).errors[0].message


def test_the_matrix_that_does_hold_counts_is_named() -> None:
    adata = anndata_of(np.log1p(table_of_counts()))
    adata.layers["spliced"] = np.log1p(table_of_counts())
    adata.layers["umi"] = sp.csr_matrix(table_of_counts())
    adata.raw = anndata_of(table_of_counts())
    result = check(adata)
    assert result.layers_with_counts == ("umi", "raw")
    assert "pass layer='umi' or layer='raw' (adata.raw)" in result.errors[0].message


def test_x_is_named_where_the_layer_does_not_hold_counts() -> None:
    adata = anndata_of(table_of_counts())
    adata.layers["log"] = np.log1p(table_of_counts())
    assert "pass layer=None" in check(adata, layer="log").errors[0].message


@pytest.mark.parametrize("indices", [[0, 99], [0, -1]])
def test_a_damaged_sparse_matrix_is_an_error(indices: list[int]) -> None:
    matrix = sp.csr_matrix(np.ones((2, 3), "float32"))
    adata = anndata_of(matrix)
    adata.X.indices[:2] = indices
    assert "not a valid sparse matrix" in check(adata).errors[0].message


# -- cells, genes, batches -------------------------------------------------------------------------------------------


def test_an_empty_cell_is_an_error_that_names_the_first() -> None:
    counts = table_of_counts()
    counts[[5, 9]] = 0
    found = check(anndata_of(sp.csr_matrix(counts))).errors[0]
    assert "2 of 40, the first is cell 'cell5' (row 5)" in found.message
    assert "celbo.filter_cells(adata, min_counts=1)" in found.message


def test_genes_without_a_count_are_a_note_that_counts_them() -> None:
    counts = table_of_counts()
    counts[:, [3, 7]] = 0
    result = check(anndata_of(counts))
    assert result.ok
    assert not result.warnings
    assert "2 of 12: 'GENE3', 'GENE7'" in result.notes[-1].message


@pytest.mark.parametrize("form", FORMS)
def test_genes_zero_in_one_batch_only_are_counted(form: str) -> None:
    counts = table_of_counts()
    counts[1::2, [4, 6, 8]] = 0
    counts[:, 5] = 0  # zero everywhere: not one of them
    result = check(anndata_of(FORMS[form](counts), batch=["a", "b"] * 20), batch_key="batch")
    assert "3 of 12: 'GENE4', 'GENE6', 'GENE8'" in result.notes[-1].message


def test_a_batch_of_two_cells_is_a_warning() -> None:
    batch = ["a"] * 20 + ["b"] * 2 + ["c"] * 18
    found = check(anndata_of(table_of_counts() + 1, batch=batch), batch_key="batch").warnings
    assert ["'b' (2)" in f.message for f in found] == [True]


def test_a_column_of_identifiers_is_no_batch() -> None:
    adata = anndata_of(table_of_counts() + 1, donor=[f"d{i}" for i in range(N_CELLS)])
    found = check(adata, batch_key="donor").warnings
    assert [f.what for f in found] == ["looks like an identifier of cells, not a batch"]


def test_cells_without_a_label_are_one_more_label() -> None:
    adata = anndata_of(table_of_counts(), label=["T", "B", None, "T"] * 10)
    result = check(adata, labels_key="label")
    assert result.labels == {"B": 10, "T": 20, "unlabelled": 10}
    assert "10 of 40 cells, the first is cell 'cell2' (row 2)" in result.warnings[0].message


def test_the_facts_name_the_batches_with_their_sizes() -> None:
    adata = anndata_of(table_of_counts() + 1, batch=pd.Categorical(["b", "a", "b", "b"] * 10, ["c", "b", "a"]))
    assert check(adata, batch_key="batch").batches == {"b": 30, "a": 10}


def test_columns_that_look_like_batches_and_labels_are_suggested() -> None:
    adata = anndata_of(
        table_of_counts(),
        donor_id=["x", "y"] * 20,
        cell_type=["T", "B", "NK", "T"] * 10,
        barcode_batch=[f"c{i}" for i in range(N_CELLS)],  # as many as cells
        batch_score=np.linspace(0, 1, N_CELLS),
        n_counts=np.arange(N_CELLS),
    )
    result = check(adata)
    assert (result.suggested_batch_keys, result.suggested_labels_keys) == (("donor_id",), ("cell_type",))


def test_the_page_says_what_is_there_and_that_it_is_fine() -> None:
    page = str(check(anndata_of(table_of_counts() + 1, batch=["a", "b"] * 20), batch_key="batch"))
    assert "40 cells x 12 genes" in page
    assert "a (20), b (20)" in page
    assert "OK: these are counts that a model can be trained on." in page


def test_check_reads_a_file(tmp_path: Path) -> None:
    anndata_of(table_of_counts()).write_h5ad(tmp_path / "a.h5ad")
    result = check(tmp_path / "a.h5ad")
    assert (result.ok, result.source) == (True, str(tmp_path / "a.h5ad"))


def test_require_raises_the_first_error_and_warns_otherwise() -> None:
    counts = table_of_counts()
    few = anndata_of(counts, batch=["a"] * (N_CELLS - 1) + ["b"])
    with pytest.warns(CelboWarning, match="has batches of fewer than 3 cells"):
        require(few, DataKeys(batch_key="batch"))
    with pytest.raises(SchemaError, match="Did you mean 'batch'"):
        require(anndata_of(counts, batch=["a"] * N_CELLS), DataKeys(batch_key="bacth"))


# -- columns ---------------------------------------------------------------------------------------------------------

COLUMNS = {
    "text": (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
    "category": (pd.Categorical(["b", "a", "b"], ["z", "b", "a"]), ("b", "a"), [0, 1, 0]),
    "integer": ([10, 9, 10], ("9", "10"), [1, 0, 1]),
    "whole float": ([10.0, 9.0, np.nan], ("9", "10"), [1, 0, -1]),
    "boolean": ([True, False, True], ("False", "True"), [1, 0, 1]),
    "missing": (["b", None, "b"], ("b",), [0, -1, 0]),
    "nullable": (pd.array([3, None, 1], dtype="Int64"), ("1", "3"), [1, -1, 0]),
    "string type": (pd.array(["b", "a", None], dtype="string"), ("a", "b"), [1, 0, -1]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_becomes_codes_in_a_fixed_order(kind: str) -> None:
    values, names, codes = COLUMNS[kind]
    got_codes, got_names = category_codes(pd.Series(values))
    assert (got_names, got_codes.tolist()) == (names, codes)


def test_missing_values_become_the_category_asked_for() -> None:
    codes, names = category_codes(pd.Series(["b", None, "a"]), missing="unlabelled")
    assert (names, codes.tolist()) == (("a", "b", "unlabelled"), [1, 2, 0])


def test_a_category_of_the_name_for_missing_values_takes_them_in() -> None:
    codes, names = category_codes(pd.Series(["unlabelled", None, "z"]), missing="unlabelled")
    assert (names, codes.tolist()) == (("unlabelled", "z"), [0, 0, 1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], [1.0, 2.0]),
        ([True, False], [1.0, 0.0]),
        (pd.array([1, None], dtype="Int64"), [1.0, np.nan]),
        ([1.5, None], [1.5, np.nan]),
        (["1", "2"], None),
        (pd.Categorical([1, 2]), None),
        (pd.to_datetime(["2020-01-01", "2021-01-01"]), None),
    ],
)
def test_only_numbers_are_numbers(values: Any, expected: list[float] | None) -> None:
    got = numeric_values(pd.Series(values))
    assert (got is None) if expected is None else np.array_equal(got, expected, equal_nan=True)


# -- nothing but named errors ----------------------------------------------------------------------------------------

TEXTS = st.text(max_size=6) | st.sampled_from(
    ["", "nan", "<script>", "\u202etset", "a" * 300, "\x00", "\ud83d\ude00"[:0]]
)
VALUES = st.sampled_from([0, 1, 2, 7, -1, 0.5, np.nan, np.inf, -np.inf, 1e30, 2.0**32])


@st.composite
def any_anndata(draw: st.DrawFn) -> AnnData:
    shape = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dense = rng.poisson(0.8, shape).astype(draw(st.sampled_from(["float32", "float64", "int32", "uint8", "bool"])))
    if dense.dtype.kind == "f":
        dense[draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))] = draw(VALUES)
    names = [draw(TEXTS) for _ in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = AnnData(
            FORMS[draw(st.sampled_from(sorted(FORMS)))](dense),
            obs=pd.DataFrame(index=[draw(st.sampled_from(names)) + str(i // 2) for i in range(shape[0])]),
            var=pd.DataFrame(index=[draw(st.sampled_from(names)) + str(i) for i in range(shape[1])]),
        )
        entries = st.none() | TEXTS | st.integers(-2, 2) | st.floats(width=32) | st.booleans() | st.just(pd.NA)
        adata.obs["column"] = pd.Series(
            [draw(entries) for _ in range(shape[0])], index=adata.obs_names, dtype=object
        ).values
        return adata[:: draw(st.sampled_from([1, 2, -1]))] if draw(st.booleans()) else adata


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(adata=any_anndata(), data=st.data())
def test_whatever_comes_in_only_named_errors_come_out(adata: AnnData, data: st.DataObject) -> None:
    keys = data.draw(
        st.sampled_from(
            [
                {},
                {"batch_key": "column"},
                {"labels_key": "column"},
                {"size_factor_key": "column"},
                {"categorical_covariate_keys": ("column",)},
                {"continuous_covariate_keys": ("column",)},
            ]
        )
    )
    result = check(adata, **keys)
    assert str(result).startswith("adata: ")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CelboWarning)
        try:
            require(adata, DataKeys(**keys))
        except CelboError as problem:
            assert str(problem) == result.errors[0].message
        else:
            assert result.ok


# -- speed -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_1e8_stored_values_are_checked_in_3_seconds() -> None:
    n_cells, per_cell, n_genes = 20_000, 5_000, 30_000
    rng = np.random.default_rng(0)
    indices = np.tile(np.sort(rng.permutation(n_genes)[:per_cell]).astype("int32"), n_cells)
    values = np.resize(rng.integers(1, 9, 1_000_003).astype("float32"), n_cells * per_cell)
    indptr = np.arange(n_cells + 1, dtype="int64") * per_cell
    adata = anndata_of(
        sp.csr_matrix((values, indices, indptr), shape=(n_cells, n_genes)), batch=rng.integers(0, 5, n_cells)
    )
    start = time.process_time()  # of all threads together: what an idle machine needs at most, whatever else runs on it
    assert check(adata, batch_key="batch").n_stored == 10**8
    assert time.process_time() - start < 3.0
