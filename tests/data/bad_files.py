"""Bad inputs, first part: what a case is, and files that cannot be read."""

from __future__ import annotations

import gzip
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

import celbo
from celbo.errors import CelboWarning, DependencyError, OptionError, ReadError


@dataclass(frozen=True)
class Case:
    """One bad input, what it raises (or warns of), and a part of the message."""

    section: str
    given: str
    error: type[Exception]
    message: str
    run: Callable[[Path], object]


CASES: list[Case] = []


def case(
    section: str, given: str, error: type[Exception], message: str
) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    def add(run: Callable[[Path], object]) -> Callable[[Path], object]:
        CASES.append(Case(section, given, error, message, run))
        return run

    return add


def counts(n_cells: int = 12, n_genes: int = 6) -> np.ndarray:
    return np.random.default_rng(0).poisson(2.0, (n_cells, n_genes)).astype("float32") + 1


def cells(matrix: Any = None, genes: list[str] | None = None, **obs: Any) -> AnnData:
    matrix = counts() if matrix is None else matrix
    names = [f"cell{i}" for i in range(matrix.shape[0])]
    genes = genes or [f"GENE{i}" for i in range(matrix.shape[1])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AnnData(matrix, obs=pd.DataFrame(obs, index=names), var=pd.DataFrame(index=genes))


# -- files -----------------------------------------------------------------------------------------------------------

FILES = "Files"


def text(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder / name


def mtx(folder: Path, **replaced: str | None) -> Path:
    """Write a 10x folder of 2 genes and 3 cells; a file given as None is left out."""
    files: dict[str, str | None] = {
        "matrix.mtx": "%%MatrixMarket matrix coordinate integer general\n2 3 3\n1 1 5\n2 2 1\n2 3 4\n",
        "features.tsv": "ENSG1\tCD3E\tGene Expression\nENSG2\tLYZ\tGene Expression\n",
        "barcodes.tsv": "AAAC-1\nAAAG-1\nAAAT-1\n",
    }
    files |= {name.replace("_", "."): content for name, content in replaced.items()}
    (folder / "tenx").mkdir()
    for name, content in files.items():
        if content is not None:
            text(folder / "tenx", name, content)
    return folder / "tenx"


def h5ad(folder: Path, name: str = "a.h5ad") -> Path:
    cells(sp.csr_matrix(counts())).write_h5ad(folder / name)
    return folder / name


def tenx_h5(folder: Path, **replaced: Any) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        datasets = {
            "data": [5, 1, 4],
            "indices": [0, 1, 1],
            "indptr": [0, 1, 2, 3],
            "shape": [2, 3],
            "barcodes": np.array(["AAAC-1", "AAAG-1", "AAAT-1"], "S"),
            "features/id": np.array(["ENSG1", "ENSG2"], "S"),
            "features/name": np.array(["CD3E", "LYZ"], "S"),
            "features/feature_type": np.array(["Gene Expression"] * 2, "S"),
        } | {name.replace("__", "/"): value for name, value in replaced.items()}
        for name, value in datasets.items():
            if value is not None:
                file[f"matrix/{name}"] = value
    return folder / "a.h5"


@case(FILES, "a path that is not there", ReadError, "does not exist")
def _(folder: Path) -> object:
    return celbo.read(folder / "counts.h5ad")


@case(FILES, "a path with a slip of the pen", ReadError, "Did you mean")
def _(folder: Path) -> object:
    h5ad(folder, "counts.h5ad")
    return celbo.read(folder / "cuonts.h5ad")


@case(FILES, "a folder that is not there", ReadError, "There is no folder")
def _(folder: Path) -> object:
    return celbo.read(folder / "data" / "counts.h5ad")


@case(FILES, "an empty file", ReadError, "is empty")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "a.h5ad", ""))


@case(FILES, "a .h5ad that is a text file", ReadError, "is not an HDF5 file")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "a.h5ad", "<html>404 not found</html>"))


@case(FILES, "a .h5ad cut short", ReadError, "cannot be read as an HDF5 file")
def _(folder: Path) -> object:
    path = h5ad(folder)
    path.write_bytes(path.read_bytes()[:5000])
    return celbo.read(path)


@case(FILES, "a .h5ad with damaged compressed values", ReadError, "cannot be read as an .h5ad file")
def _(folder: Path) -> object:
    cells(sp.csr_matrix(counts())).write_h5ad(folder / "a.h5ad", compression="gzip")
    with h5py.File(folder / "a.h5ad", "r") as file:
        where = file["X/data"].id.get_chunk_info(0).byte_offset
    damaged = bytearray((folder / "a.h5ad").read_bytes())
    damaged[where : where + 8] = b"\xff" * 8
    (folder / "a.h5ad").write_bytes(damaged)
    return celbo.read(folder / "a.h5ad")


@case(FILES, "a .h5ad whose matrix points outside its shape", ReadError, "holds a damaged matrix")
def _(folder: Path) -> object:
    path = h5ad(folder)
    with h5py.File(path, "r+") as file:
        file["X/indices"][0] = 1_000_000
    return celbo.read(path)


@case(FILES, "an HDF5 file of something else", ReadError, "without a count matrix that celbo knows")
def _(folder: Path) -> object:
    with h5py.File(folder / "a.h5", "w") as file:
        file["model_weights"] = [1.0]
    return celbo.read(folder / "a.h5")


@case(FILES, "a 10x .h5 without the names of its features", ReadError, "KeyError")
def _(folder: Path) -> object:
    return celbo.read(tenx_h5(folder, features__name=None))


@case(FILES, "a 10x .h5 whose shape contradicts its names", ReadError, "contradicts itself")
def _(folder: Path) -> object:
    return celbo.read(tenx_h5(folder, shape=[2, 4]))


@case(FILES, "a 10x .h5 with antibodies only", ReadError, "holds no 'Gene Expression' features")
def _(folder: Path) -> object:
    return celbo.read(tenx_h5(folder, features__feature_type=np.array(["Antibody Capture"] * 2, "S")))


@case(FILES, "a 10x .h5 of version 2 with two genomes", ReadError, "holds several genomes: 'hg19', 'mm10'")
def _(folder: Path) -> object:
    with h5py.File(folder / "a.h5", "w") as file:
        file["hg19/barcodes"] = file["mm10/barcodes"] = np.array(["AAAC-1"], "S")
    return celbo.read(folder / "a.h5")


@case(
    FILES,
    "a 10x .h5 in which a gene symbol occurs twice",
    CelboWarning,
    "Gene names that occur more than once: 1 ('LYZ')",
)
def _(folder: Path) -> object:
    return celbo.read(tenx_h5(folder, features__name=np.array(["LYZ", "LYZ"], "S")))


@case(FILES, "a loom file that does not name its cells", ReadError, "does not name its cells")
def _(folder: Path) -> object:
    with h5py.File(folder / "a.loom", "w") as file:
        file["matrix"] = counts().T
        file["row_attrs/Gene"] = np.array([f"GENE{i}" for i in range(6)], "S")
        file.create_group("col_attrs")
    return celbo.read(folder / "a.loom")


@case(FILES, "a MuData without RNA", ReadError, "has no RNA: modalities 'atac', 'prot'")
def _(folder: Path) -> object:
    with h5py.File(folder / "a.h5mu", "w") as file:
        file.create_group("mod/atac")
        file.create_group("mod/prot")
    return celbo.read(folder / "a.h5mu")


@case(FILES, "a folder without a matrix", ReadError, "is a folder without a matrix")
def _(folder: Path) -> object:
    (folder / "empty").mkdir()
    return celbo.read(folder / "empty")


@case(FILES, "the folder above the one with the matrix", ReadError, "Pass the ones to read")
def _(folder: Path) -> object:
    mtx(folder)
    return celbo.read(folder)


@case(FILES, "a folder with two matrices", ReadError, "holds 2 matrices of the same cells")
def _(folder: Path) -> object:
    for name in ("s1_matrix.mtx", "s2_matrix.mtx", "features.tsv", "barcodes.tsv"):
        text(folder, name, "x")
    return celbo.read(folder)


@case(FILES, "a 10x folder without barcodes", ReadError, "has no barcodes.tsv[.gz] beside it")
def _(folder: Path) -> object:
    return celbo.read(mtx(folder, barcodes_tsv=None))


@case(FILES, "a 10x folder whose barcodes have a header line", CelboWarning, "first line of barcodes.tsv for a heading")
def _(folder: Path) -> object:
    return celbo.read(mtx(folder, barcodes_tsv="barcode\nAAAC-1\nAAAG-1\nAAAT-1\n"))


@case(FILES, "a 10x folder with too few barcodes", ReadError, "does not fit the names beside it")
def _(folder: Path) -> object:
    return celbo.read(mtx(folder, barcodes_tsv="AAAC-1\nAAAG-1\n"))


@case(FILES, "a 10x folder with a matrix cut short", ReadError, "cannot be read as a Matrix Market file")
def _(folder: Path) -> object:
    return celbo.read(mtx(folder, matrix_mtx="%%MatrixMarket matrix coordinate integer general\n2 3 3\n1 1 5\n"))


@case(FILES, "a .zarr folder that holds no AnnData", ReadError, "a Zarr folder of an AnnData")
def _(folder: Path) -> object:
    (folder / "a.zarr").mkdir()
    return celbo.read(folder / "a.zarr")


@case(FILES, "a .zarr folder where zarr is not installed", DependencyError, "pip install 'celbo[zarr]'")
def _(folder: Path) -> object:
    (folder / "a.zarr").mkdir()
    with mock.patch.dict(sys.modules, {"zarr": None}):
        return celbo.read(folder / "a.zarr")


@case(FILES, "a table of names without counts", ReadError, "holds no counts")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "a.csv", "cell,CD3E,LYZ\n"))


@case(FILES, "a table with text among the counts", ReadError, "row 'AAAC-1', column 'LYZ' is 'high'")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "a.csv", "cell,CD3E,LYZ\nAAAC-1,1,high\nAAAG-1,2,0\n"))


@case(FILES, "a table cut short within a line", ReadError, "line 3 has 2 fields, the first 3")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "a.csv", "cell,CD3E,LYZ\nAAAC-1,1,3\nAAAG-1,2"))


@case(FILES, "a table without names of columns", ReadError, "has no line of names")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "a.tsv", "0\t1\t2\n3\t4\t5\n"))


@case(FILES, "a table without names of rows", ReadError, "has no column of names")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "a.csv", "CD3E,LYZ,NKG7\n1,0,2\n1,3,0\n"))


@case(FILES, "a table with separators of thousands that are those of its fields", ReadError, "a number (1,160)")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "a.csv", "cell,CD3E,LYZ\nAAAC-1,1,3\nAAAG-1,1,160,4\n"))


@case(FILES, "a table that uses commas in two ways", ReadError, "uses commas in numbers in two ways")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "a.tsv", "cell\tCD3E\tLYZ\nAAAC-1\t1,160,200\t3\nAAAG-1\t1,5\t4\n"))


@case(FILES, "a table of text", ReadError, "holds no counts")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "a.csv", "cell,type,donor\nAAAC-1,T,x\nAAAG-1,B,y\n"))


@case(FILES, "a text file that is no table", ReadError, "is not a table")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "notes.txt", "Remember:\nmilk\n"))


@case(FILES, "a .csv.gz cut short", ReadError, "cannot be read as a table of counts")
def _(folder: Path) -> object:
    whole = gzip.compress(b"cell,CD3E,LYZ\nAAAC-1,1,3\nAAAG-1,2,1\n")
    (folder / "a.csv.gz").write_bytes(whole[:-12])
    return celbo.read(folder / "a.csv.gz")


@case(FILES, "a .csv that is binary", ReadError, "cannot be read as a table of counts")
def _(folder: Path) -> object:
    (folder / "a.csv").write_bytes(b"\xff\xfd\x00\x80\x81" * 20)
    return celbo.read(folder / "a.csv")


@case(FILES, "a table whose names do not tell genes from cells", CelboWarning, "Took the rows as cells")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "a.csv", "x,q_1_,q_2_,q_3_\nr_1_,1,2,0\nr_2_,1,0,3\n"))


@case(FILES, "an R object", ReadError, "Convert it in R")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "seurat.rds", "x"))


@case(FILES, "a pickle", ReadError, "celbo reads no pickles")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "a.pkl", "x"))


@case(FILES, "an ending that celbo does not know", ReadError, "celbo reads .h5ad, .zarr")
def _(folder: Path) -> object:
    return celbo.read(text(folder, "a.docx", "x"))


@case(FILES, "an empty list of paths", OptionError, "path_or_paths is not a path")
def _(folder: Path) -> object:
    return celbo.read([])


@case(FILES, "something that is not a path", OptionError, "path_or_paths is not a path: 7")
def _(folder: Path) -> object:
    return celbo.read(7)  # type: ignore[arg-type]


@case(FILES, "the same file twice", OptionError, "names a file twice")
def _(folder: Path) -> object:
    return celbo.read([h5ad(folder), folder / "a.h5ad"])


@case(FILES, "an orientation that does not exist", OptionError, "Did you mean 'cells'?")
def _(folder: Path) -> object:
    return celbo.read(folder / "a.csv", orientation="cell")  # type: ignore[arg-type]


@case(FILES, "two files that name genes differently", ReadError, "share too few genes: 0 of 6")
def _(folder: Path) -> object:
    cells(genes=[f"ENSG{i}" for i in range(6)]).write_h5ad(folder / "b.h5ad")
    return celbo.read([h5ad(folder), folder / "b.h5ad"])
