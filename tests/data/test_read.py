"""Files in: every format gives the same counts, names and order."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from anndata.io import write_elem
from count_files import (
    CELLS,
    COUNTS,
    FORMATS,
    GENES,
    anndata_of,
    write_10x_h5,
    write_h5mu,
    write_loom,
    write_mtx,
    write_zarr,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celbo.data.read import read
from celbo.errors import CelboError, CelboWarning, ReadError


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_cells_genes_and_counts(kind: str, tmp_path: Path) -> None:
    adata = read(FORMATS[kind](tmp_path))
    assert (list(adata.obs_names), list(adata.var_names)) == (CELLS, GENES)
    assert adata.X.format == "csr"
    assert np.array_equal(adata.X.toarray(), COUNTS)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_was_read_can_be_written_and_read_again(kind: str, tmp_path: Path) -> None:
    read(FORMATS[kind](tmp_path)).write_h5ad(tmp_path / "again.h5ad")
    again = read(tmp_path / "again.h5ad")
    assert np.array_equal(again.X.toarray(), COUNTS)


def test_the_rna_of_a_mudata_is_read_and_the_rest_is_named(tmp_path: Path) -> None:
    with pytest.warns(CelboWarning, match="Read the modality 'rna'; left out 'prot'"):
        adata = read(write_h5mu(tmp_path))
    assert np.array_equal(adata.X.toarray(), COUNTS)
    assert list(adata.obs["donor"]) == ["x", "y", "x", "y", "x"]  # a column that all modalities share


@pytest.mark.slow  # importing loompy compiles for ten seconds
def test_a_loom_file_of_loompy_is_read(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loompy = pytest.importorskip("loompy")
        loompy.create(str(tmp_path / "a.loom"), COUNTS.T, {"Gene": np.array(GENES)}, {"CellID": np.array(CELLS)})
    adata = read(tmp_path / "a.loom")
    assert np.array_equal(adata.X.toarray(), COUNTS)
    assert list(adata.obs_names) == CELLS


def test_columns_and_layers_of_a_loom_file_come_along(tmp_path: Path) -> None:
    adata = read(write_loom(tmp_path))
    assert list(adata.obs["cell_type"]) == ["T", "B", "T", "B", "T"]
    assert np.array_equal(adata.layers["spliced"].toarray(), COUNTS)


def test_columns_layers_and_raw_of_an_h5ad_come_along(tmp_path: Path) -> None:
    adata = anndata_of()
    adata.raw = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = read(tmp_path / "a.h5ad")
    assert np.array_equal(again.layers["counts"].toarray(), COUNTS)
    assert np.array_equal(again.raw.X.toarray(), COUNTS)
    assert list(again.obs["cell_type"]) == ["T", "B", "T", "B", "T"]


# -- 10x -------------------------------------------------------------------------------------------------------------

TYPES = ["Gene Expression"] * 4 + ["Antibody Capture"] * 2


@pytest.mark.parametrize("write", [write_10x_h5, lambda d, **k: write_mtx(d / "m", **k)], ids=["h5", "mtx"])
def test_only_gene_expression_is_kept_and_the_rest_is_counted(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.warns(CelboWarning, match="Left out features that are not 'Gene Expression': 2 'Antibody Capture'"):
        adata = read(write(tmp_path, types=TYPES))
    assert list(adata.var_names) == GENES[:4]
    assert np.array_equal(adata.X.toarray(), COUNTS[:, :4])


@pytest.mark.parametrize("write", [write_10x_h5, lambda d, **k: write_mtx(d / "m", **k)], ids=["h5", "mtx"])
def test_repeated_symbols_are_made_unique_and_counted(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.warns(CelboWarning, match="Gene names that occur more than once: 1 .'LYZ'"):
        adata = read(write(tmp_path, genes=["CD3E", "LYZ", "LYZ", "MS4A1", "LYZ", "A"]))
    assert list(adata.var_names) == ["CD3E", "LYZ", "LYZ-1", "MS4A1", "LYZ-2", "A"]
    assert list(adata.var["gene_ids"]) == [f"ENSG{i}" for i in range(6)]


def test_a_matrix_of_cells_x_genes_is_told_by_the_names_beside_it(tmp_path: Path) -> None:
    with pytest.warns(CelboWarning, match="cells x genes, not genes x cells"):
        adata = read(write_mtx(tmp_path / "m", turned=True))
    assert np.array_equal(adata.X.toarray(), COUNTS)


TWICE = ["CD3E", "CD3E", "CD3E-1", *GENES[3:]]
CELLS_TWICE = [CELLS[0], CELLS[0], *CELLS[2:]]


def repeated_anndata() -> AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = anndata_of(cells=CELLS_TWICE, genes=TWICE)
        adata.raw = adata.copy()
    return adata


def write_repeated(folder: Path, kind: str) -> Path:
    """Write names that occur twice, of genes and of cells, in one of the formats."""
    path = folder / f"twice.{kind}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "h5ad":
            repeated_anndata().write_h5ad(path)
        elif kind == "zarr":
            repeated_anndata().write_zarr(path)
        elif kind == "h5mu":
            with h5py.File(path, "w") as file:
                write_elem(file, "mod/rna", repeated_anndata())
                write_elem(file, "obs", pd.DataFrame({"donor": list("xyxyx")}, index=CELLS_TWICE))
        elif kind == "csv":
            pd.DataFrame(COUNTS, index=CELLS_TWICE, columns=TWICE).to_csv(path)
        elif kind == "mtx":
            path = write_mtx(folder / "m", genes=TWICE)
            (path / "barcodes.tsv").write_text("\n".join(CELLS_TWICE))
        else:
            path = write_loom(folder)
            with h5py.File(path, "r+") as file:
                del file["row_attrs/Gene"], file["col_attrs/CellID"]
                file["row_attrs/Gene"], file["col_attrs/CellID"] = np.array(TWICE, "S"), np.array(CELLS_TWICE, "S")
                file["row_attrs/Accession"] = np.array([f"ENSG{i}" for i in range(6)], "S")
    return path


@pytest.mark.parametrize("kind", ["h5ad", "zarr", "h5mu", "csv", "mtx", "loom"])
def test_repeated_names_are_made_unique_with_a_note_in_every_format(kind: str, tmp_path: Path) -> None:
    path = write_repeated(tmp_path, kind)
    with pytest.warns(CelboWarning) as caught:
        adata = read(path)
    told = " ".join(str(warning.message) for warning in caught)
    assert "Gene names that occur more than once: 1 ('CD3E')" in told
    assert f"Cell names that occur more than once: 1 ('{CELLS[0]}')" in told
    assert list(adata.var_names) == ["CD3E", "CD3E-2", "CD3E-1", *GENES[3:]]
    assert list(adata.obs_names) == [CELLS[0], f"{CELLS[0]}-1", *CELLS[2:]]
    assert np.array_equal(adata.X.toarray(), COUNTS)
    if adata.raw is not None:
        assert list(adata.raw.var_names) == ["CD3E", "CD3E-2", "CD3E-1", *GENES[3:]]
    if kind == "h5mu":
        assert list(adata.obs["donor"]) == list("xyxyx")
    if kind == "loom":
        assert "var['Accession'] tells them apart" in told
        assert np.array_equal(adata.layers["spliced"].toarray(), COUNTS)


def test_names_that_are_empty_are_left_to_the_check(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("cell,CD3E,,\nAAACATACAACC,1,2,3\nAAACATTGAGCT,3,4,5\n")
    assert list(read(tmp_path / "a.csv").var_names) == ["CD3E", "", ""]


# -- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["h5ad", "10x h5", "10x h5 old", "loom", "csv.gz"])
def test_a_file_cut_short_is_a_read_error(kind: str, share: float, tmp_path: Path) -> None:
    path = FORMATS[kind](tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ReadError, match=path.name):
        read(path)


@pytest.mark.parametrize("kind", ["mtx", "mtx gz", "mtx old gz"])
@pytest.mark.parametrize("part", ["matrix", "barcodes", "features"])
def test_a_10x_folder_with_a_file_cut_short_is_a_read_error(kind: str, part: str, tmp_path: Path) -> None:
    folder = FORMATS[kind](tmp_path)
    path = next(p for p in folder.iterdir() if p.name.startswith(part) or (part == "features" and "genes" in p.name))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReadError, match=str(folder)):
        read(folder)


def test_damaged_compressed_counts_are_a_read_error(tmp_path: Path) -> None:
    anndata_of().write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    with h5py.File(tmp_path / "a.h5ad", "r") as file:
        where = file["X/data"].id.get_chunk_info(0).byte_offset
    damaged = bytearray((tmp_path / "a.h5ad").read_bytes())
    damaged[where : where + 8] = b"\xff" * 8
    (tmp_path / "a.h5ad").write_bytes(damaged)
    with pytest.raises(ReadError, match=r"a.h5ad cannot be read as an .h5ad file"):
        read(tmp_path / "a.h5ad")


@pytest.mark.parametrize("dataset", ["X/indices", "X/indptr", "layers/counts/indices", "raw/X/indices"])
def test_sparse_matrices_that_point_outside_their_shape_are_a_read_error(dataset: str, tmp_path: Path) -> None:
    adata = anndata_of()
    adata.raw = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file[dataset][2] = 1_000_000
    with pytest.raises(ReadError, match=r"a.h5ad"):
        read(tmp_path / "a.h5ad")


def test_a_zarr_folder_that_lacks_a_chunk_is_a_read_error(tmp_path: Path) -> None:
    path = write_zarr(tmp_path)
    chunk = next(p for p in sorted((path / "X" / "data").rglob("*")) if p.is_file() and p.name[0] not in ".z")
    chunk.unlink()
    with pytest.raises(ReadError, match="lacks files"):
        read(path)


def test_a_zarr_folder_that_lacks_its_columns_is_a_read_error(tmp_path: Path) -> None:
    path = write_zarr(tmp_path)
    shutil.rmtree(path / "obs")
    with pytest.raises(ReadError, match=r"a.zarr"):
        read(path)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.lists(
        st.sampled_from(["cell", "CD3E", "1", "-2.5", "", '"', "\n", ",", "\t", "é", "\x00", "#", "nan", "1e400"])
    )
    | st.binary(max_size=80),
    name=st.sampled_from(["a.csv", "a.tsv", "a.txt.gz", "a.h5ad", "a.mtx", "a.loom", "a.h5"]),
)
def test_whatever_a_file_holds_only_named_errors_come_out(
    content: list[str] | bytes, name: str, tmp_path: Path
) -> None:
    (tmp_path / "genes.tsv").write_text("g1\tCD3E\n")
    (tmp_path / "barcodes.tsv").write_text("AAAC-1\n")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else "".join(content).encode())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CelboWarning)
        try:
            adata = read(tmp_path / name)
        except CelboError as problem:
            assert str(tmp_path / name) in str(problem)
        else:
            assert min(adata.shape) > 0


# -- real files ------------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_real_counts_come_back_from_every_format(data_dir: Path, tmp_path: Path) -> None:
    whole = read(data_dir / "pbmc_3chemistries_symphony_1200c_1764g.h5ad")
    few = whole[:200, :300].copy()
    table = pd.DataFrame(few.X.toarray().astype(int), index=few.obs_names, columns=few.var_names)
    table.to_csv(tmp_path / "a.csv")
    table.T.to_csv(tmp_path / "b.tsv.gz", sep="\t")
    for name in ("a.csv", "b.tsv.gz"):
        again = read(tmp_path / name)
        assert list(again.obs_names) == list(few.obs_names)
        assert np.array_equal(again.X.toarray(), few.X.toarray())
