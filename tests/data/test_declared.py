"""A file is not believed beyond its bytes, and nothing outside it is read."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from anndata.utils import make_index_unique
from count_files import (
    CELLS,
    COUNTS,
    GENES,
    write_10x_h5,
    write_h5ad,
    write_h5ad_csc,
    write_h5ad_dense,
    write_loom,
    write_zarr,
)

import celbo
from celbo.data import declared
from celbo.data.naming import _made_unique
from celbo.data.repeats import repeats_in
from celbo.errors import CelboWarning, CountsError, ReadError

Change = Callable[[h5py.File], object]


def changed(path: Path, change: Change) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replaced(name: str, value: Any, **options: Any) -> Change:
    def change(file: h5py.File) -> None:
        attributes = dict(file[name].attrs)
        del file[name]
        made = file.create_dataset(name, data=value, **options)
        made.attrs.update(attributes)

    return change


def refused(path: Path, what: str) -> None:
    for asked in (celbo.read, celbo.check):
        with pytest.raises(ReadError, match=what):
            asked(path)


# -- other files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["X/data", "obs/cell_type", "uns/secret"])
def test_a_link_to_another_file_is_refused(tmp_path: Path, name: str) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["inside"] = np.arange(5.0)

    def link(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = h5py.ExternalLink("other.h5", "inside")

    refused(changed(write_h5ad(tmp_path), link), "links to another file")


def test_values_in_another_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(range(200)))

    def external(file: h5py.File) -> None:
        shape = file["matrix/data"].shape
        del file["matrix/data"]
        file.create_dataset("matrix/data", shape, "u1", external=[(str(tmp_path / "secret.bin"), 0, 200)])

    refused(changed(write_10x_h5(tmp_path), external), "has values that lie in another file")


def test_a_virtual_dataset_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["matrix"] = np.ones((len(GENES), len(CELLS)))

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout(file["matrix"].shape, "f8")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "matrix", file["matrix"].shape)
        del file["matrix"]
        file.create_virtual_dataset("matrix", layout)

    refused(changed(write_loom(tmp_path), virtual), "virtual dataset")


def test_a_link_in_a_zarr_folder_is_refused(tmp_path: Path) -> None:
    folder = write_zarr(tmp_path)
    (tmp_path / "secret").write_text("secret")
    (folder / "X" / "c0").symlink_to(tmp_path / "secret")
    refused(folder, "links to another place")


def test_a_zarr_folder_runs_no_pickle(tmp_path: Path) -> None:
    folder = write_zarr(tmp_path)
    described = sorted([*folder.rglob(".zarray"), *folder.rglob("zarr.json")])
    path = next(path for path in described if path.parent.name == "data" and path.parent.parent.name == "X")
    told = json.loads(path.read_text())
    if path.name == ".zarray":
        told["compressor"] = {"id": "pickle"}
    else:
        told["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})
    path.write_text(json.dumps(told))
    refused(folder, "names a codec that celbo does not use")


def test_names_that_lie_elsewhere_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "tenx"
    folder.mkdir()
    (folder / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n2 2 2\n1 1 5\n2 2 1\n")
    (folder / "barcodes.tsv").write_text("AAAC-1\nAAAG-1\n")
    (tmp_path / "elsewhere.tsv").write_text("secret1\nsecret2\n")
    (folder / "features.tsv").symlink_to(tmp_path / "elsewhere.tsv")
    with pytest.warns(CelboWarning, match=r"features.tsv is a link to .*elsewhere.tsv"):
        celbo.read(folder)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(ReadError, match="is neither a file nor a folder"):
        celbo.read(tmp_path / "a.csv")


# -- sizes ------------------------------------------------------------------------------------------------------------


def never_written(name: str, n: int = 2**28) -> Change:
    def change(file: h5py.File) -> None:
        kind, attributes = file[name].dtype, dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, (n,), kind, chunks=(2**20,)).attrs.update(attributes)

    return change


@pytest.mark.parametrize("name", ["X/indptr", "X/data", "X/indices", "obs/cell_type/codes", "obs/_index"])
def test_rows_that_were_never_written_take_no_memory(tmp_path: Path, name: str) -> None:
    refused(changed(write_h5ad(tmp_path), never_written(name)), "declares values that were never written")


def test_a_file_with_some_chunks_missing_is_refused(tmp_path: Path) -> None:
    def grow(file: h5py.File) -> None:
        data = file["X/data"][()]
        del file["X/data"]
        made = file.create_dataset("X/data", data=data, chunks=(2,), maxshape=(None,))
        made.resize((data.size + 10,))

    refused(changed(write_h5ad(tmp_path), grow), "chunks are there")


def test_far_more_values_than_bytes_are_refused(tmp_path: Path) -> None:
    zeros = np.zeros(40_000_000)
    change = replaced("X/data", zeros, compression="gzip", chunks=(1_000_000,))
    refused(changed(write_h5ad(tmp_path), change), "holds more than is believed of its size")


@pytest.mark.parametrize(
    ("shape", "what"), [((2**40, 6), "pointers"), ((5, 2**40), "names of genes"), ((5,), "no shape")]
)
def test_a_shape_that_boasts_is_refused(tmp_path: Path, shape: tuple[int, ...], what: str) -> None:
    def boast(file: h5py.File) -> None:
        file["X"].attrs["shape"] = np.array(shape)

    refused(changed(write_h5ad(tmp_path), boast), what)


def test_groups_without_end_are_refused(tmp_path: Path) -> None:
    def inside_itself(file: h5py.File) -> None:
        file["uns/again"] = file["uns"]

    def doubling(file: h5py.File) -> None:
        below = file.create_group("uns/g0")
        for level in range(30):
            above = file.create_group(f"uns/h{level}")
            above["a"] = above["b"] = below
            below = above

    refused(changed(write_h5ad(tmp_path), inside_itself), "holds a group within itself")
    (tmp_path / "b").mkdir()
    refused(changed(write_h5ad(tmp_path / "b"), doubling), "without end")


# -- sparse matrices --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("indptr", np.arange(6.0), "indptr holds float64"),
        ("indptr", np.array(list("abcdef"), object), "indptr holds object"),
        ("indptr", np.arange(5), "asks for 6 pointers, it has 5"),
        ("indptr", np.array([0, 2, 1, 3, 4, 5]), "out of order"),
        ("indices", np.zeros((2, 2), int), "indices is not one row"),
        ("indices", np.arange(3), "values and 3 positions"),
        ("data", np.array(["a", "b"], object), "data holds object"),
    ],
)
def test_a_sparse_matrix_that_contradicts_itself_is_refused(tmp_path: Path, name: str, value: Any, what: str) -> None:
    options = {"dtype": h5py.string_dtype()} if value.dtype == object else {}
    refused(changed(write_h5ad(tmp_path), replaced(f"X/{name}", value, **options)), what)
    if name != "indptr" or "5" not in what:
        (tmp_path / "x").mkdir()
        refused(
            changed(write_10x_h5(tmp_path / "x"), replaced(f"matrix/{name}", value, **options)), "contradicts|damaged"
        )


@pytest.mark.parametrize("kind", [np.uint64, np.uint32, np.int8, np.uint16, ">i8"])
def test_pointers_of_any_whole_number_train(tmp_path: Path, kind: Any) -> None:
    path = write_h5ad(tmp_path)
    with h5py.File(path) as file:
        starts, places = (file[f"X/{name}"][()].astype(kind) for name in ("indptr", "indices"))
    changed(path, replaced("X/indptr", starts))
    changed(path, replaced("X/indices", places))
    read = celbo.read(path)
    assert celbo.check(path).ok
    np.testing.assert_array_equal(read.X.toarray(), COUNTS)
    model = celbo.SCVI(read, n_latent=2)
    np.testing.assert_array_equal(model.data.counts.to_scipy().toarray(), COUNTS)


@pytest.mark.parametrize("kind", ["f2", "g", ">f4", ">i4", "u8", "?", "i1"])
@pytest.mark.parametrize("write", [write_h5ad, write_h5ad_csc, write_h5ad_dense, write_10x_h5, write_loom])
def test_values_of_any_number_type_train(tmp_path: Path, kind: str, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    with h5py.File(path) as file:
        name = next(
            name for name in ("X/data", "X", "matrix/data", "matrix") if isinstance(file.get(name), h5py.Dataset)
        )
        values = file[name][()]
    changed(path, replaced(name, values.astype(kind)))
    try:
        read = celbo.read(path)
    except ReadError as error:  # of SciPy, in anndata's hands; older ones read them
        assert name in {"X/data", "matrix/data"}
        assert "does not support dtype" in str(error) or "holds float" in str(error)
        return
    assert celbo.check(read).ok
    wanted = COUNTS > 0 if kind == "?" else COUNTS
    np.testing.assert_array_equal(read.X.toarray() if sp.issparse(read.X) else read.X, wanted)
    assert (read[:, GENES[:3]].X != 0).sum() == (COUNTS[:, :3] > 0).sum()
    model = celbo.SCVI(read, n_latent=2)
    np.testing.assert_array_equal(model.data.counts.to_scipy().toarray(), wanted)


# -- repeated positions -----------------------------------------------------------------------------------------------


def repeating(times: int) -> Any:
    """Return an AnnData of 50 x 40 whose cell 3 lists gene 7 again, and unsorted."""
    matrix = sp.csr_matrix(np.ones((50, 40), np.float32))
    at = int(matrix.indptr[3])
    matrix.data = np.insert(matrix.data, at, [5] * times)
    matrix.indices = np.insert(matrix.indices, at, [7] * times)
    matrix.indptr = matrix.indptr + np.where(np.arange(51) > 3, times, 0).astype(matrix.indptr.dtype)
    genes, cells = [f"CD{i}" for i in range(40)], [f"AAAC{i}-1" for i in range(50)]
    return AnnData(matrix, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes))


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_repeats_are_counted(form: str) -> None:
    matrix = repeating(3).X
    found = repeats_in(matrix if form == "csr" else matrix.tocsc())
    assert found is not None
    assert (found.n, found.row, found.column) == (3, 3, 7)
    matrix.sum_duplicates()
    assert repeats_in(matrix) is None


def test_repeats_in_a_file_are_said_and_added_up(tmp_path: Path) -> None:
    repeating(3).write_h5ad(tmp_path / "a.h5ad")
    with pytest.warns(CelboWarning, match="added up: 3 of 2,003 stored values, the first is row 3, column 7"):
        read = celbo.read(tmp_path / "a.h5ad")
    assert read.X[3, 7] == 16
    assert read.X.nnz == 2000


def test_repeats_in_memory_are_said_and_added_up() -> None:
    adata = repeating(3)
    found = celbo.check(adata)
    assert "3 of 2,003" in found.warnings[0].message
    with pytest.warns(CelboWarning, match="lists positions more than once"):
        model = celbo.SCVI(adata, n_latent=2)
    assert model.data.counts.to_scipy()[3, 7] == 16
    assert adata.X.nnz == 2003


def test_too_many_repeats_are_refused(tmp_path: Path) -> None:
    adata = repeating(30)
    with pytest.raises(CountsError, match="lists the same positions again and again"):
        celbo.SCVI(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    refused(tmp_path / "a.h5ad", "lists the same positions again and again")


def test_a_zarr_folder_that_boasts_is_refused(tmp_path: Path) -> None:
    folder = write_zarr(tmp_path)
    for path in [*folder.rglob(".zarray"), *folder.rglob("zarr.json")]:
        told = json.loads(path.read_text())
        if path.parent.name == "indptr" and "shape" in told:
            told["shape"] = [2**33]
            path.write_text(json.dumps(told))
    for consolidated in folder.rglob(".zmetadata"):
        consolidated.unlink()
    path = folder / "zarr.json"
    if path.exists():
        told = json.loads(path.read_text())
        told.pop("consolidated_metadata", None)
        path.write_text(json.dumps(told))
    refused(folder, "holds more than is believed|contradicts itself")
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["V8", "?", "f8"])
def test_names_that_are_not_text_are_refused(tmp_path: Path, kind: str) -> None:
    names = np.zeros(len(GENES), kind)
    refused(changed(write_10x_h5(tmp_path), replaced("matrix/features/name", names)), "names that are not text")
    (tmp_path / "loom").mkdir()
    refused(changed(write_loom(tmp_path / "loom"), replaced("row_attrs/Gene", names)), "not text|neither text")


def test_values_without_a_cell_are_refused(tmp_path: Path) -> None:
    with h5py.File(write_h5ad(tmp_path)) as file:
        starts = file["X/indptr"][()]
    starts[-1] -= 1
    refused(changed(tmp_path / "a.h5ad", replaced("X/indptr", starts)), "1 of its values belong to no row")


def test_the_first_number_that_is_too_large_is_found_in_single_precision() -> None:
    matrix = np.ones((12, 6), np.float32)
    matrix[3, 2] = 2.0**32
    for form in (matrix, sp.csr_matrix(matrix)):
        found = celbo.check(AnnData(form))
        assert "is 4.29497e+09" in str(found.errors)
    matrix[3, 2] = 2.0**32 - 256
    assert not any("not counts" in error.what for error in celbo.check(AnnData(matrix)).errors)


def test_names_are_made_unique_as_anndata_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        names = pd.Index(rng.choice(["a", "b", "a-1", "b-1", "c"], rng.integers(1, 12)).astype(str))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert list(_made_unique(names)) == list(make_index_unique(names))


def test_a_table_of_more_than_its_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared, "_FEWEST_BYTES", 1 << 20)
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write("cell,CD3E,LYZ\n" + "c,0,0\n" * 50_000)
    refused(tmp_path / "a.csv.gz", "holds more than is believed of its size")


@pytest.mark.parametrize("kind", ["V8", "c16", [("a", "i4"), ("b", "f8")]])
def test_a_column_that_is_neither_text_nor_numbers_is_refused(tmp_path: Path, kind: Any) -> None:
    def add(file: h5py.File) -> None:
        file["col_attrs/batch"] = np.zeros(len(CELLS), kind)

    refused(changed(write_loom(tmp_path), add), "neither text nor numbers")
