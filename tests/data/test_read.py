"""Files in: every format gives the same counts, names and order."""

from __future__ import annotations

import csv
import gzip
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celbo.data.join import batch_names
from celbo.data.read import read
from celbo.data.tables import guess_orientation
from celbo.errors import CelboError, CelboWarning, ReadError, SchemaError

GENES = ["CD3E", "MS4A1", "NKG7", "LYZ", "MT-CO1", "RPL13"]
CELLS = [f"{barcode}-1" for barcode in ("AAACATACAACC", "AAACATTGAGCT", "AAACATTGATCA", "AAACCGTGCTTC", "AAACCGTGTATG")]
COUNTS = np.random.default_rng(0).poisson(0.4, (len(CELLS), len(GENES)))
COUNTS[:, 0] += 1


def anndata_of(counts: Any = COUNTS, cells: list[str] = CELLS, genes: list[str] = GENES) -> AnnData:
    obs = pd.DataFrame({"cell_type": pd.Categorical(["T", "B"] * 10)[: len(cells)]}, index=cells)
    return AnnData(sp.csr_matrix(counts.astype("float32")), obs=obs, var=pd.DataFrame(index=genes))


# -- writers of every format -----------------------------------------------------------------------------------------


def write_h5ad(folder: Path) -> Path:
    anndata_of().write_h5ad(folder / "a.h5ad")
    return folder / "a.h5ad"


def write_h5ad_csc(folder: Path) -> Path:
    adata = anndata_of()
    adata.X = adata.X.tocsc()
    adata.write_h5ad(folder / "a.h5ad")
    return folder / "a.h5ad"


def write_h5ad_dense(folder: Path) -> Path:
    adata = anndata_of()
    adata.X = adata.X.toarray()
    adata.write_h5ad(folder / "a.h5ad")
    return folder / "a.h5ad"


def write_zarr(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anndata_of().write_zarr(folder / "a.zarr")
    return folder / "a.zarr"


def write_h5mu(folder: Path) -> Path:
    mudata = pytest.importorskip("mudata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        protein = AnnData(np.ones((len(CELLS), 2)), obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=["p1", "p2"]))
        both = mudata.MuData({"prot": protein, "rna": anndata_of()})
        both.obs["donor"] = ["x", "y", "x", "y", "x"]
        both.write_h5mu(folder / "a.h5mu")
    return folder / "a.h5mu"


def write_10x_h5(
    folder: Path, counts: np.ndarray = COUNTS, genes: list[str] = GENES, types: list[str] | None = None
) -> Path:
    stored = sp.csr_matrix(counts)
    with h5py.File(folder / "a.h5", "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = stored.data.astype("int32"), stored.indices, stored.indptr
        group["shape"], group["barcodes"] = np.array(counts.shape[::-1]), np.array(CELLS, "S")
        group["features/name"], group["features/id"] = (
            np.array(genes, "S"),
            np.array([f"ENSG{i}" for i in range(len(genes))], "S"),
        )
        group["features/feature_type"] = np.array(types or ["Gene Expression"] * len(genes), "S")
        group["features/genome"] = np.array(["hg38"] * len(genes), "S")
    return folder / "a.h5"


def write_10x_h5_old(folder: Path) -> Path:
    stored = sp.csr_matrix(COUNTS)
    with h5py.File(folder / "a.h5", "w") as file:
        group = file.create_group("hg19")
        group["data"], group["indices"], group["indptr"] = stored.data.astype("int32"), stored.indices, stored.indptr
        group["shape"], group["barcodes"] = np.array(COUNTS.shape[::-1]), np.array(CELLS, "S")
        group["gene_names"], group["genes"] = (
            np.array(GENES, "S"),
            np.array([f"ENSG{i}" for i in range(len(GENES))], "S"),
        )
    return folder / "a.h5"


def write_mtx(
    folder: Path,
    *,
    old: bool = False,
    zipped: bool = False,
    prefix: str = "",
    turned: bool = False,
    counts: np.ndarray = COUNTS,
    genes: list[str] = GENES,
    types: list[str] | None = None,
) -> Path:
    """Write a 10x folder, old layout (genes.tsv) or new (features.tsv)."""
    folder.mkdir(exist_ok=True)
    scipy.io.mmwrite(folder / f"{prefix}matrix.mtx", sp.coo_matrix(counts if turned else counts.T))
    types = types or ["Gene Expression"] * len(genes)
    rows = [f"ENSG{i}\t{g}" + ("" if old else f"\t{t}") for i, (g, t) in enumerate(zip(genes, types, strict=True))]
    (folder / f"{prefix}{'genes' if old else 'features'}.tsv").write_text("\n".join(rows) + "\n")
    (folder / f"{prefix}barcodes.tsv").write_text("\n".join(CELLS) + "\n")
    if zipped:
        for path in list(folder.glob(f"{prefix}*")):
            with gzip.open(f"{path}.gz", "wb") as out:
                out.write(path.read_bytes())
            path.unlink()
    return folder


def write_loom(folder: Path) -> Path:
    with h5py.File(folder / "a.loom", "w") as file:
        file["matrix"] = COUNTS.T.astype("float32")
        file["row_attrs/Gene"], file["col_attrs/CellID"] = np.array(GENES, "S"), np.array(CELLS, "S")
        file["col_attrs/cell_type"] = np.array(["T", "B", "T", "B", "T"], "S")
        file["layers/spliced"] = COUNTS.T
    return folder / "a.loom"


def write_table(
    folder: Path, name: str, *, genes_first: bool = False, delimiter: str = ",", r_style: bool = False
) -> Path:
    frame = pd.DataFrame(COUNTS, index=CELLS, columns=GENES)
    text = (frame.T if genes_first else frame).to_csv(sep=delimiter, lineterminator="\n")
    text = text.removeprefix(delimiter) if r_style else text
    path = folder / name
    if name.endswith(".gz"):
        with gzip.open(path, "wt") as out:
            out.write(text)
    else:
        path.write_text(text)
    return path


FORMATS: dict[str, Callable[[Path], Path]] = {
    "h5ad": write_h5ad,
    "h5ad csc": write_h5ad_csc,
    "h5ad dense": write_h5ad_dense,
    "h5ad under another ending": lambda d: write_h5ad(d).rename(d / "a.h5"),
    "zarr": write_zarr,
    "10x h5": write_10x_h5,
    "10x h5 under another ending": lambda d: write_10x_h5(d).rename(d / "a.h5ad"),
    "10x h5 old": write_10x_h5_old,
    "mtx": lambda d: write_mtx(d / "m"),
    "mtx gz": lambda d: write_mtx(d / "m", zipped=True),
    "mtx old": lambda d: write_mtx(d / "m", old=True),
    "mtx old gz": lambda d: write_mtx(d / "m", old=True, zipped=True),
    "mtx with a prefix": lambda d: write_mtx(d / "m", prefix="GSM1_", zipped=True),
    "mtx file itself": lambda d: write_mtx(d / "m", prefix="GSM1_") / "GSM1_matrix.mtx",
    "loom": write_loom,
    "csv": lambda d: write_table(d, "a.csv"),
    "csv.gz": lambda d: write_table(d, "a.csv.gz"),
    "tsv": lambda d: write_table(d, "a.tsv", delimiter="\t"),
    "tsv of genes": lambda d: write_table(d, "a.tsv.gz", delimiter="\t", genes_first=True),
    "txt of R": lambda d: write_table(d, "a.txt", delimiter="\t", genes_first=True, r_style=True),
    "csv with semicolons": lambda d: write_table(d, "a.csv", delimiter=";"),
    "txt with spaces": lambda d: write_table(d, "a.txt", delimiter=" ", genes_first=True),
}


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
    with pytest.warns(CelboWarning, match="Gene symbols that occur more than once: 1 .'LYZ'"):
        adata = read(write(tmp_path, genes=["CD3E", "LYZ", "LYZ", "MS4A1", "LYZ", "A"]))
    assert list(adata.var_names) == ["CD3E", "LYZ", "LYZ-1", "MS4A1", "LYZ-2", "A"]
    assert list(adata.var["gene_ids"]) == [f"ENSG{i}" for i in range(6)]


def test_a_matrix_of_cells_x_genes_is_told_by_the_names_beside_it(tmp_path: Path) -> None:
    with pytest.warns(CelboWarning, match="cells x genes, not genes x cells"):
        adata = read(write_mtx(tmp_path / "m", turned=True))
    assert np.array_equal(adata.X.toarray(), COUNTS)


def test_repeated_genes_of_an_h5ad_are_left_to_the_check(tmp_path: Path) -> None:
    adata = anndata_of()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.var_names = ["CD3E", *GENES[:-1]]
        adata.write_h5ad(tmp_path / "a.h5ad")
    assert list(read(tmp_path / "a.h5ad").var_names) == ["CD3E", *GENES[:-1]]


# -- tables: which way round -----------------------------------------------------------------------------------------


def numbered(what: str, n: int) -> list[str]:
    return [f"{what}{i}" for i in range(n)]


NAMES = {
    "barcodes in the rows": (CELLS, numbered("x", 9), "cells", "100% of the row names look like barcodes"),
    "barcodes in the columns": (numbered("x", 3), CELLS, "genes", "100% of the column names look like barcodes"),
    "barcodes with a prefix": (["s1_AAACATACAACC", "s2_AAACATTGAGCT"], numbered("x", 9), "cells", "barcodes"),
    "numbered cells": (["cell_1", "cell_2"], numbered("x", 9), "cells", "barcodes"),
    "Ensembl in the rows": (["ENSG00000141510", "ENSG00000012048.1"], ["s", "t", "u"], "genes", "2 row names are gene"),
    "mouse Ensembl in the columns": (["s", "t", "u"], ["ENSMUSG00000059552"] * 2, "cells", "2 column names are gene"),
    "known genes in the rows": (["CD3E", "foo", "bar"], ["s", "t", "u", "v"], "genes", "1 row names are gene"),
    "known mouse genes in the columns": (["s", "t", "u"], ["Cd3e", "Actb"], "cells", "2 column names are gene"),
    "mitochondrial genes": (["MT-CO1", "x"], ["s", "t"], "genes", "gene identifiers"),
    "symbols by their shape": (
        ["ZNF263", "TP53I3", "HLA-DRA"],
        ["a_1_x", "b_2_y", "c_3_z"],
        "genes",
        "100% of the row",
    ),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_tell_which_way_round_a_table_is(kind: str) -> None:
    rows, columns, expected, reason = NAMES[kind]
    taken, why, sure = guess_orientation(rows, columns)
    assert (taken, sure) == (expected, True)
    assert reason in why


@pytest.mark.parametrize(("shape", "expected"), [((50, 9), "genes"), ((9, 50), "cells"), ((9, 9), "cells")])
def test_names_that_tell_nothing_leave_it_to_the_sizes(shape: tuple[int, int], expected: str) -> None:
    taken, _, sure = guess_orientation([f"r_{i}_" for i in range(shape[0])], [f"c_{i}_" for i in range(shape[1])])
    assert (taken, sure) == (expected, False)


def test_a_guess_by_the_sizes_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,q_1_,q_2_,q_3_\nr_1_,1,2,0\nr_2_,1,0,3\n")
    with pytest.warns(CelboWarning, match="Took the rows as cells.*orientation='genes'"):
        adata = read(tmp_path / "a.csv")
    assert list(adata.obs_names) == ["r_1_", "r_2_"]


@pytest.mark.parametrize("orientation", ["cells", "genes"])
def test_the_orientation_asked_for_is_taken(orientation: str, tmp_path: Path) -> None:
    adata = read(write_table(tmp_path, "a.csv"), orientation=orientation)
    assert list(adata.obs_names) == (CELLS if orientation == "cells" else GENES)


def test_what_was_taken_and_why_is_kept_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "celbo"):
        facts = read(write_table(tmp_path, "a.csv", genes_first=True)).uns["celbo_read"]
    assert (facts["orientation"], facts["reason"]) == ("genes", "100% of the column names look like barcodes")
    assert "rows taken as genes (100% of the column names look like barcodes)" in caplog.text


def test_repeated_columns_of_a_table_keep_their_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("cell,CD3E,CD3E\nAAACATACAACC,1,2\nAAACATTGAGCT,3,4\n")
    adata = read(tmp_path / "a.csv")
    assert list(adata.var_names) == ["CD3E", "CD3E"]
    assert adata.X.sum() == 10


def test_quoted_names_comments_empty_lines_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    text = '\ufeff# made by hand\r\n"cell","CD3E","a, b"\r\n\r\n"AAACATACAACC",1,2\r\n"AAACATTGAGCT",3,4'
    (tmp_path / "a.csv").write_bytes(text.encode())
    adata = read(tmp_path / "a.csv")
    assert (list(adata.obs_names), list(adata.var_names)) == (["AAACATACAACC", "AAACATTGAGCT"], ["CD3E", "a, b"])
    assert adata.X.toarray().tolist() == [[1, 2], [3, 4]]


def test_names_with_quotes_in_them_and_gaps_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('cell,CD3E,LYZ\n"AAACATACAACC ""x"", 1",1,\n"AAACATTGAGCT",3,"4"\n')
    adata = read(tmp_path / "a.csv")
    assert list(adata.obs_names) == ['AAACATACAACC "x", 1', "AAACATTGAGCT"]
    assert np.array_equal(adata.X.toarray(), [[1, np.nan], [3, 4]], equal_nan=True)


@pytest.mark.parametrize(("text", "values"), [("cell,A\nx,1\ny,\n", [[1], [np.nan]]), ("cell,A\nx,\n", [[np.nan]])])
def test_a_line_without_a_number_is_kept(text: str, values: list[list[float]], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    np.testing.assert_array_equal(read(tmp_path / "a.csv", orientation="cells").X.toarray(), values)


def test_a_long_table_is_read_in_parts_of_few_lines(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(0.3, (1500, 7))
    with (tmp_path / "a.tsv").open("w", newline="") as file:
        out = csv.writer(file, delimiter="\t")
        out.writerow(["", *GENES, "X"])
        out.writerows([f"cell{i}", *row] for i, row in enumerate(counts))
    assert np.array_equal(read(tmp_path / "a.tsv").X.toarray(), counts)


def test_large_and_fractional_values_of_a_table_are_exact(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("cell,CD3E,LYZ\nAAACATACAACC,16777217,0.1\nAAACATTGAGCT,0,\n")
    values = read(tmp_path / "a.csv").X.toarray()
    assert (values[0].tolist(), values[1, 0], np.isnan(values[1, 1])) == ([16777217, 0.1], 0, True)


# -- several files ---------------------------------------------------------------------------------------------------


def write_two(folder: Path, second: AnnData) -> list[Path]:
    anndata_of().write_h5ad(folder / "one.h5ad")
    second.write_h5ad(folder / "two.h5ad")
    return [folder / "one.h5ad", folder / "two.h5ad"]


def test_files_are_joined_on_the_genes_they_share_in_the_order_of_the_first(tmp_path: Path) -> None:
    genes = ["NEW", "LYZ", "CD3E", "NKG7", "OTHER", "MS4A1"]
    with pytest.warns(CelboWarning, match="Kept the 4 genes that all files share, of 6, 6"):
        adata = read(write_two(tmp_path, anndata_of(genes=genes)))
    assert list(adata.var_names) == ["CD3E", "MS4A1", "NKG7", "LYZ"]
    assert np.array_equal(adata.X.toarray(), np.vstack([COUNTS[:, :4], COUNTS[:, [2, 5, 3, 1]]]))
    assert adata.X.format == "csr"


def test_the_file_is_the_batch_and_begins_the_names_of_its_cells(tmp_path: Path) -> None:
    adata = read(write_two(tmp_path, anndata_of()))
    assert list(adata.obs["batch"]) == ["one"] * 5 + ["two"] * 5
    assert list(adata.obs_names) == [f"one_{c}" for c in CELLS] + [f"two_{c}" for c in CELLS]


def test_a_column_that_only_one_file_has_is_empty_in_the_other(tmp_path: Path) -> None:
    second = anndata_of()
    second.obs["doublet"] = [True, False, True, False, True]
    adata = read(write_two(tmp_path, second))
    assert adata.obs["doublet"].isna().tolist() == [True] * 5 + [False] * 5
    adata.write_h5ad(tmp_path / "joined.h5ad")
    assert read(tmp_path / "joined.h5ad").n_obs == 10


def test_a_batch_column_of_the_files_is_kept_under_another_name(tmp_path: Path) -> None:
    second = anndata_of()
    second.obs["batch"] = "lane 3"
    with pytest.warns(CelboWarning, match="batch_in_file"):
        adata = read(write_two(tmp_path, second))
    assert adata.obs["batch_in_file"].tolist()[5:] == ["lane 3"] * 5


def test_files_of_different_formats_are_joined(tmp_path: Path) -> None:
    paths = [write_mtx(tmp_path / "m"), write_10x_h5(tmp_path), write_table(tmp_path, "t.csv")]
    adata = read(paths)
    assert np.array_equal(adata.X.toarray(), np.vstack([COUNTS] * 3))
    assert list(adata.obs["batch"].cat.categories) == ["m", "a", "t"]


def test_files_that_share_no_genes_say_how_each_begins(tmp_path: Path) -> None:
    paths = write_two(tmp_path, anndata_of(genes=[f"ENSG{i}" for i in range(6)]))
    with pytest.raises(
        ReadError, match=r"share too few genes: 0 of 6; one.h5ad begins 'CD3E', two.h5ad begins 'ENSG0'"
    ):
        read(paths)


def test_a_file_with_repeated_genes_is_not_joined(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("cell,CD3E,CD3E\nAAACATACAACC,1,2\nAAACATTGAGCT,3,4\n")
    with pytest.raises(SchemaError, match=r"a.csv names several genes the same: 'CD3E'"):
        read([write_h5ad(tmp_path), tmp_path / "a.csv"])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/pbmc.h5ad", "x/tonsil.csv.gz"], ["pbmc", "tonsil"]),
        (["x/a.h5ad", "y/a.h5ad"], ["x_a", "y_a"]),
        (["s1/outs/filtered_feature_bc_matrix", "s2/outs/filtered_feature_bc_matrix.h5"], ["s1", "s2"]),
        (["x/GSM1_matrix.mtx.gz", "x/GSM2_matrix.mtx.gz"], ["GSM1", "GSM2"]),
        (["x/a.h5ad", "x/a.csv"], ["x_a", "x_a-2"]),
        (["v1.2.h5ad", "v1.3.h5ad"], ["v1.2", "v1.3"]),
    ],
)
def test_the_name_of_a_batch_is_the_shortest_that_tells(paths: list[str], names: list[str]) -> None:
    assert batch_names([Path(path) for path in paths]) == names


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
