"""Matrices with names beside them, folders, and what a file is, whatever its name says."""

from __future__ import annotations

import bz2
import gzip
import lzma
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from count_files import (
    CELLS,
    COUNTS,
    GENES,
    write_10x_h5,
    write_h5ad,
    write_mtx,
    write_named,
    write_table,
)

from celbo.data.read import read
from celbo.errors import CelboWarning, ReadError

SYMBOLS = "".join(f"{gene}\n" for gene in GENES)
LAYOUTS: dict[str, tuple[tuple[str, str, str], dict[str, Any]]] = {
    "kallisto": (
        ("cells_x_genes.mtx", "cells_x_genes.genes.txt", "cells_x_genes.barcodes.txt"),
        {"turned": True, "genes": SYMBOLS},
    ),
    "kallisto, gzipped": (
        ("cells_x_genes.mtx.gz", "cells_x_genes.genes.txt.gz", "cells_x_genes.barcodes.txt.gz"),
        {"turned": True, "genes": SYMBOLS},
    ),
    "kallisto, total": (
        ("cells_x_genes.total.mtx", "cells_x_genes.genes.txt", "cells_x_genes.barcodes.txt"),
        {"turned": True, "genes": SYMBOLS},
    ),
    "alevin": (
        ("quants_mat.mtx.gz", "quants_mat_cols.txt", "quants_mat_rows.txt"),
        {"turned": True, "genes": SYMBOLS},
    ),
    "one column of features": (("matrix.mtx", "features.tsv", "barcodes.tsv"), {"genes": SYMBOLS}),
    "STARsolo, spliced": (("spliced.mtx", "features.tsv", "barcodes.tsv"), {}),
    "names behind": (("matrix_s1.mtx", "features_s1.tsv", "barcodes_s1.tsv"), {}),
    "other separators": (("GSM1.A-matrix.mtx.gz", "GSM1.A_features.tsv.gz", "GSM1.A_barcodes.tsv.gz"), {}),
    "features of the series": (("GSM1_A-matrix.mtx.gz", "GSE9_features.tsv.gz", "GSM1_A-barcodes.tsv.gz"), {}),
    "counts of R": (
        ("counts.mtx", "genes.csv", "barcodes.csv"),
        {
            "genes": '"","x"\n' + "".join(f'"{i + 1}","{g}"\n' for i, g in enumerate(GENES)),
            "cells": '"x"\n' + "".join(f'"{c}"\n' for c in CELLS),
        },
    ),
    "Windows line ends, a byte order mark and empty lines at the end": (
        ("matrix.mtx", "features.tsv", "barcodes.tsv"),
        {
            "genes": "\ufeff" + SYMBOLS.replace("\n", "\r\n") + "\r\n",
            "cells": "\ufeff" + "\r\n".join(CELLS) + "\r\n\r\n\r\n",
        },
    ),
}


def test_features_go_before_genes_and_what_macos_leaves_behind_is_passed_over(tmp_path: Path) -> None:
    write_mtx(tmp_path / "m", old=True)
    folder = write_mtx(tmp_path / "m")
    for name in ("matrix.mtx", "features.tsv", "barcodes.tsv"):
        (folder / name).rename(folder / f"A_{name}")
        (folder / f"._A_{name}").write_bytes(b"\x00\x05\x16\x07")
    (folder / "genes.tsv").rename(folder / "A_genes.tsv")
    adata = read(folder)
    assert "feature_types" in adata.var
    assert np.array_equal(adata.X.toarray(), COUNTS)


def test_a_matrix_that_begins_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    folder = write_mtx(tmp_path / "m")
    (folder / "matrix.mtx").write_bytes(b"\xef\xbb\xbf" + (folder / "matrix.mtx").read_bytes())
    assert np.array_equal(read(folder).X.toarray(), COUNTS)


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("which", ["the folder", "the file"])
def test_a_matrix_is_read_with_its_names_however_the_files_are_called(kind: str, which: str, tmp_path: Path) -> None:
    files, options = LAYOUTS[kind]
    folder = write_named(tmp_path / "m", *files, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*for a heading")
        adata = read(folder if which == "the folder" else folder / files[0])
    assert (list(adata.obs_names), list(adata.var_names)) == (CELLS, GENES)
    assert np.array_equal(adata.X.toarray(), COUNTS)


def test_square_counts_of_kallisto_are_cells_x_genes(tmp_path: Path) -> None:
    square = COUNTS[:, :5]
    folder = write_named(tmp_path / "m", "cells_x_genes.mtx", "cells_x_genes.genes.txt", "cells_x_genes.barcodes.txt")
    scipy.io.mmwrite(folder / "cells_x_genes.mtx", sp.coo_matrix(square))
    (folder / "cells_x_genes.genes.txt").write_text("".join(f"{gene}\n" for gene in GENES[:5]))
    assert np.array_equal(read(folder).X.toarray(), square)


def test_symbols_of_kallisto_name_the_genes(tmp_path: Path) -> None:
    ids = "".join(f"ENSG{i}\n" for i in range(6))
    files = ("cells_x_genes.mtx", "cells_x_genes.genes.txt", "cells_x_genes.barcodes.txt")
    folder = write_named(tmp_path / "m", *files, turned=True, genes=ids)
    (folder / "cells_x_genes.genes.names.txt").write_text(SYMBOLS)
    adata = read(folder)
    assert (list(adata.var_names), list(adata.var["gene_ids"])) == (GENES, [f"ENSG{i}" for i in range(6)])


def test_what_a_table_of_cells_says_comes_along(tmp_path: Path) -> None:
    cells = "bc_wells,sample,tscp_count\n" + "".join(f"{cell},s{i},{10 * i}\n" for i, cell in enumerate(CELLS))
    genes = "gene_id,gene_name,genome\n" + "".join(f"ENSG{i},{gene},hg38\n" for i, gene in enumerate(GENES))
    options = {"turned": True, "genes": genes, "cells": cells}
    with pytest.warns(CelboWarning) as caught:
        adata = read(write_named(tmp_path / "m", "DGE.mtx", "all_genes.csv", "cell_metadata.csv", **options))
    assert (list(adata.obs_names), list(adata.var_names)) == (CELLS, GENES)
    told = " ".join(str(warning.message) for warning in caught)
    assert "first line of all_genes.csv" in told
    assert "first line of cell_metadata.csv" in told
    assert list(adata.obs["sample"]) == ["s0", "s1", "s2", "s3", "s4"]
    assert list(adata.obs["tscp_count"]) == [0, 10, 20, 30, 40]


def test_a_folder_of_samples_with_one_table_of_features_is_joined(tmp_path: Path) -> None:
    for sample in ("GSM1_A", "GSM2_B"):
        write_named(tmp_path, f"{sample}-matrix.mtx.gz", "GSE9_features.tsv.gz", f"{sample}-barcodes.tsv.gz")
    with pytest.warns(CelboWarning, match="It holds 2 samples; each is a batch of its own"):
        adata = read(tmp_path)
    assert list(adata.obs["batch"]) == ["GSM1_A"] * 5 + ["GSM2_B"] * 5
    assert np.array_equal(adata.X.toarray(), np.vstack([COUNTS, COUNTS]))
    files = read([tmp_path / "GSM1_A-matrix.mtx.gz", tmp_path / "GSM2_B-matrix.mtx.gz"])
    assert list(files.obs["batch"].cat.categories) == ["GSM1_A", "GSM2_B"]


def test_of_a_raw_and_a_filtered_matrix_the_filtered_one_is_read(tmp_path: Path) -> None:
    for kind in ("raw", "filtered"):
        write_named(tmp_path, f"A_{kind}_matrix.mtx", f"A_{kind}_features.tsv", f"A_{kind}_barcodes.tsv")
    with pytest.warns(CelboWarning, match="Left out 'A_raw_matrix.mtx': there is a filtered matrix"):
        adata = read(tmp_path)
    assert adata.n_obs == 5


@pytest.mark.parametrize("names", [("spliced", "unspliced", "ambiguous"), ("mature", "nascent", "ambiguous")])
def test_matrices_of_the_same_cells_are_layers_and_x_is_their_sum(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        write_named(tmp_path, f"{name}.mtx", "features.tsv", "barcodes.tsv")
    with pytest.warns(CelboWarning, match="X is the sum of"):
        adata = read(tmp_path)
    assert set(adata.layers) == set(names)
    assert np.array_equal(adata.X.toarray(), 3 * COUNTS)
    assert np.array_equal(adata.layers[names[0]].toarray(), COUNTS)


def test_several_tables_that_could_be_meant_are_named(tmp_path: Path) -> None:
    write_named(tmp_path, "x.mtx", "a_features.tsv", "barcodes.tsv")
    (tmp_path / "b_features.tsv").write_text(SYMBOLS)
    with pytest.raises(ReadError, match=r"several files of features beside it: 'a_features.tsv', 'b_features.tsv'"):
        read(tmp_path)


def test_an_outs_folder_of_cell_ranger_gives_the_cells_that_it_called(tmp_path: Path) -> None:
    (tmp_path / "s1" / "outs").mkdir(parents=True)
    called = write_10x_h5(tmp_path).rename(tmp_path / "s1" / "outs" / "filtered_feature_bc_matrix.h5")
    write_10x_h5(tmp_path, counts=COUNTS * 0).rename(tmp_path / "s1" / "outs" / "raw_feature_bc_matrix.h5")
    for folder in (called.parent, tmp_path / "s1"):
        with pytest.warns(CelboWarning, match="raw_feature_bc_matrix.h5 holds all droplets"):
            assert np.array_equal(read(folder).X.toarray(), COUNTS)


def test_the_only_file_of_counts_in_a_folder_is_read(tmp_path: Path) -> None:
    write_10x_h5(tmp_path).rename(tmp_path / "cell_feature_matrix.h5")
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.warns(CelboWarning, match="Read cell_feature_matrix.h5, the only file of counts"):
        assert read(tmp_path).n_obs == 5


def test_a_folder_of_several_files_names_them(tmp_path: Path) -> None:
    write_h5ad(tmp_path).rename(tmp_path / "one.h5ad")
    write_h5ad(tmp_path).rename(tmp_path / "two.h5ad")
    with pytest.raises(ReadError, match=r"Pass the ones to read; several become batches: 'one.h5ad', 'two.h5ad'"):
        read(tmp_path)


# -- what a file is, whatever its name says ---------------------------------------------------------------------------


def plain_under_gz(folder: Path, kind: str) -> Path:
    if kind == "mtx":
        return write_named(folder / "m", "matrix.mtx.gz", "features.tsv.gz", "barcodes.tsv.gz")
    return write_table(folder, f"a.{kind}.gz", delimiter="," if kind == "csv" else "\t")


@pytest.mark.parametrize("kind", ["mtx", "csv", "tsv", "txt"])
def test_a_plain_file_named_gz_is_read(kind: str, tmp_path: Path) -> None:
    path = plain_under_gz(tmp_path, kind)
    for file in path.iterdir() if path.is_dir() else [path]:
        file.write_bytes(gzip.decompress(file.read_bytes()))
    assert np.array_equal(read(path).X.toarray(), COUNTS)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("kind", ["mtx", "csv", "tsv", "txt"])
def test_a_gzipped_file_without_gz_is_read(kind: str, times: int, tmp_path: Path) -> None:
    path = plain_under_gz(tmp_path, kind)
    for file in list(path.iterdir()) if path.is_dir() else [path]:
        content = file.read_bytes()
        for _ in range(times - 1):
            content = gzip.compress(content)
        file.write_bytes(content)
        file.rename(file.with_suffix(""))
    assert np.array_equal(read(path if path.is_dir() else path.with_suffix("")).X.toarray(), COUNTS)


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.mtx", "a.h5ad.gz", "a.csv.gz", "a.data"])
def test_an_hdf5_file_is_read_under_any_name(name: str, tmp_path: Path) -> None:
    assert np.array_equal(read(write_h5ad(tmp_path).rename(tmp_path / name)).X.toarray(), COUNTS)


PACKED = {
    "bzip2": (bz2.compress(b"cell,CD3E\na,1\n"), "is a bzip2 archive.*bunzip2 "),
    "xz": (lzma.compress(b"cell,CD3E\na,1\n"), "is an xz archive.*unxz "),
    "zip": (b"PK\x03\x04" + bytes(60), "is a zip archive.*unzip "),
    "Excel": (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml" + bytes(20), "is an Excel file.*as .csv"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), "is a zstd archive.*unzstd "),
    "gzipped bzip2": (gzip.compress(bz2.compress(b"cell,CD3E\na,1\n")), "is a bzip2 archive"),
}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.h5ad", "a.h5", "m/matrix.mtx", "m/barcodes.tsv"])
def test_a_file_packed_another_way_says_so(kind: str, name: str, tmp_path: Path) -> None:
    content, told = PACKED[kind]
    write_mtx(tmp_path / "m")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ReadError, match=f"{Path(name).name}.*{told}"):
        read(tmp_path / "m" if name.startswith("m/") else tmp_path / name)


@pytest.mark.parametrize("name", ["a.h5ad", "a.h5ad.gz", "a.loom.gz", "a.csv.gz"])
def test_a_gzipped_hdf5_file_says_how_to_unpack_it(name: str, tmp_path: Path) -> None:
    path = write_h5ad(tmp_path)
    content = gzip.compress(path.read_bytes())
    path.unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ReadError, match=f"{name}.*gunzip"):
        read(tmp_path / name)


def test_a_path_that_is_not_there_names_only_a_near_name(tmp_path: Path) -> None:
    write_h5ad(tmp_path)
    (tmp_path / "counts_of_kang.h5ad").write_text("")
    with pytest.raises(ReadError, match=r"does not exist. Did you mean '.*counts_of_kang.h5ad'"):
        read(tmp_path / "counts_of_kan.h5ad")
    with pytest.raises(ReadError, match=r"nosuch.h5ad does not exist. No file in '.*' has a similar name.$"):
        read(tmp_path / "nosuch.h5ad")
