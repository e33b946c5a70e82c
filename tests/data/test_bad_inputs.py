"""Every bad input gets a named error, said by celbo and not by a library below it.

`CASES` is the one list: the tests walk over it, and `docs/bad-inputs.md` is written from it by

    python tests/data/test_bad_inputs.py
"""

from __future__ import annotations

import functools
import gzip
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import celbo
from celbo.errors import (
    CategoryError,
    CelboError,
    CelboWarning,
    CountsError,
    GenesError,
    InputError,
    ModelFileError,
    NotTrainedError,
    OptionError,
    ReadError,
    SchemaError,
)

DOC = Path(__file__).resolve().parents[2] / "docs" / "bad-inputs.md"


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


def with_value(value: float) -> np.ndarray:
    matrix = counts().astype("float64")
    matrix[3, 2] = value
    return matrix


def checked(adata: Any, **keys: Any) -> None:
    celbo.check(adata, **keys).raise_if_bad()


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
    "Gene symbols that occur more than once: 1 ('LYZ')",
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


@case(FILES, "the folder above the one with the matrix", ReadError, "Pass one of its folders")
def _(folder: Path) -> object:
    mtx(folder)
    return celbo.read(folder)


@case(FILES, "a folder with two matrices", ReadError, "holds 2 matrices")
def _(folder: Path) -> object:
    text(folder, "s1_matrix.mtx", "")
    text(folder, "s2_matrix.mtx", "")
    return celbo.read(folder)


@case(FILES, "a 10x folder without barcodes", ReadError, "has no barcodes.tsv[.gz] beside it")
def _(folder: Path) -> object:
    return celbo.read(mtx(folder, barcodes_tsv=None))


@case(FILES, "a 10x folder whose barcodes have a header line", ReadError, "does not fit the names beside it")
def _(folder: Path) -> object:
    return celbo.read(mtx(folder, barcodes_tsv="barcode\nAAAC-1\nAAAG-1\nAAAT-1\n"))


@case(FILES, "a 10x folder with a matrix cut short", ReadError, "cannot be read as a Matrix Market file")
def _(folder: Path) -> object:
    return celbo.read(mtx(folder, matrix_mtx="%%MatrixMarket matrix coordinate integer general\n2 3 3\n1 1 5\n"))


@case(FILES, "a .zarr folder that holds no AnnData", ReadError, "a Zarr folder of an AnnData")
def _(folder: Path) -> object:
    (folder / "a.zarr").mkdir()
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
    (folder / "a.csv").write_bytes(b"\xff\xfe\x00\x80\x81" * 20)
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


# -- matrices --------------------------------------------------------------------------------------------------------

MATRICES = "Matrices"


@case(MATRICES, "log-transformed counts", CountsError, "It looks log-transformed; pass layer='counts'")
def _(folder: Path) -> object:
    adata = cells(np.log1p(counts()))
    adata.layers["counts"] = counts()
    return checked(adata)


@case(MATRICES, "normalised counts", CountsError, "It looks normalised; pass layer='raw'")
def _(folder: Path) -> object:
    adata = cells(counts() / counts().sum(1, keepdims=True) * 1e4)
    adata.raw = cells()
    return checked(adata)


@case(MATRICES, "scaled values", CountsError, "It looks scaled")
def _(folder: Path) -> object:
    return checked(cells(np.random.default_rng(0).normal(size=(12, 6))))


@case(MATRICES, "one negative value", CountsError, "gene 'GENE2' is -1. The other 71 values that are not zero")
def _(folder: Path) -> object:
    return checked(cells(sp.csr_matrix(with_value(-1))))


@case(MATRICES, "one fractional value", CountsError, "cell 'cell3' (row 3), gene 'GENE2' is 0.5")
def _(folder: Path) -> object:
    return checked(cells(sp.csc_matrix(with_value(0.5))))


@case(MATRICES, "one missing value", CountsError, "cell 'cell3' (row 3), gene 'GENE2' is nan")
def _(folder: Path) -> object:
    return checked(cells(with_value(np.nan)))


@case(MATRICES, "one infinite value", CountsError, "cell 'cell3' (row 3), gene 'GENE2' is inf")
def _(folder: Path) -> object:
    return checked(cells(with_value(np.inf)))


@case(MATRICES, "a missing value where the likelihood is normal", CountsError, "gene 'GENE2' is nan")
def _(folder: Path) -> object:
    return checked(cells(with_value(np.nan)), require_counts=False)


@case(MATRICES, "a value too large for a count", CountsError, "is 1e+10")
def _(folder: Path) -> object:
    return checked(cells(with_value(1e10)))


@case(MATRICES, "complex numbers", CountsError, "does not hold real numbers: dtype complex128")
def _(folder: Path) -> object:
    return checked(cells(counts().astype(complex)))


@case(MATRICES, "text as values", CountsError, "does not hold real numbers")
def _(folder: Path) -> object:
    return checked(cells(counts().astype(str)))


@case(MATRICES, "a sparse matrix that points outside its shape", CountsError, "is not a valid sparse matrix")
def _(folder: Path) -> object:
    adata = cells(sp.csr_matrix(counts()))
    adata.X.indices[5] = 99
    return checked(adata)


@case(MATRICES, "a cell without a count", CountsError, "1 of 12, the first is cell 'cell4' (row 4)")
def _(folder: Path) -> object:
    matrix = counts()
    matrix[4] = 0
    return checked(cells(matrix))


@case(MATRICES, "genes without a count", CelboWarning, "2 of 6: 'GENE1', 'GENE5'")
def _(folder: Path) -> object:
    matrix = counts()
    matrix[:, [1, 5]] = 0
    return checked(cells(matrix))


@case(
    MATRICES,
    "a gene that one batch lacks",
    CelboWarning,
    "all zero in one batch but not in the others: 1 of 6: 'GENE1'",
)
def _(folder: Path) -> object:
    matrix = counts()
    matrix[:6, 1] = 0
    return checked(cells(matrix, batch=["a"] * 6 + ["b"] * 6), batch_key="batch")


@case(MATRICES, "no cells", CountsError, "holds no cells")
def _(folder: Path) -> object:
    return checked(cells()[:0])


@case(MATRICES, "no genes", CountsError, "holds no genes")
def _(folder: Path) -> object:
    return checked(cells()[:, :0])


@case(MATRICES, "no X", SchemaError, "adata.X is empty. Pass layer= with one of 'counts'")
def _(folder: Path) -> object:
    adata = cells()
    adata.layers["counts"] = adata.X
    del adata.X
    return checked(adata)


@case(MATRICES, "a layer with a slip of the pen", SchemaError, "layer 'count' does not exist. Did you mean 'counts'?")
def _(folder: Path) -> object:
    adata = cells()
    adata.layers["counts"] = adata.X
    return checked(adata, layer="count")


@case(MATRICES, "layer='raw' without adata.raw", SchemaError, "adata.raw is not set")
def _(folder: Path) -> object:
    return checked(cells(), layer="raw")


@case(MATRICES, "a layer that is not a name", OptionError, "layer is not the name of a layer: 0")
def _(folder: Path) -> object:
    return checked(cells(), layer=0)


@case(MATRICES, "an array instead of an AnnData", OptionError, "adata is not an AnnData: a ndarray")
def _(folder: Path) -> object:
    return checked(counts())


@case(MATRICES, "a data frame instead of an AnnData", OptionError, "adata is not an AnnData: a DataFrame")
def _(folder: Path) -> object:
    return checked(pd.DataFrame(counts()))


# -- names and columns -----------------------------------------------------------------------------------------------

COLUMNS = "Names and columns"


def alternating(first: Any, second: Any) -> list[Any]:
    return [first, second] * 6


@case(COLUMNS, "two genes of one name", SchemaError, "names several genes the same: 'CD3E'")
def _(folder: Path) -> object:
    return checked(cells(genes=["CD3E", "CD3E", "A", "B", "C", "D"]))


@case(COLUMNS, "two cells of one name", SchemaError, "names several cells the same: 'AAAC', ")
def _(folder: Path) -> object:
    adata = cells()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs_names = [name for name in ("AAAC", "AAAG", "AAAT", "AACC", "AACG", "AACT") for _ in range(2)]
    return checked(adata)


@case(COLUMNS, "a gene without a name", SchemaError, "holds genes without a name: 1, the first at position 2")
def _(folder: Path) -> object:
    return checked(cells(genes=["A", "B", "", "C", "D", "E"]))


@case(COLUMNS, "a batch column with a slip of the pen", SchemaError, "Did you mean 'batch'?")
def _(folder: Path) -> object:
    return checked(cells(batch=alternating("a", "b")), batch_key="Batch")


@case(COLUMNS, "a batch column where there are no columns", SchemaError, "adata.obs is empty")
def _(folder: Path) -> object:
    return checked(cells(), batch_key="batch")


@case(COLUMNS, "a key that is not a name", OptionError, "batch_key is not the name of a column: 3")
def _(folder: Path) -> object:
    return checked(cells(), batch_key=3)


@case(COLUMNS, "a column that is there twice", SchemaError, "batch_key 'batch' names 2 columns")
def _(folder: Path) -> object:
    adata = cells(batch=alternating("a", "b"), other=alternating("a", "b"))
    adata.obs.columns = ["batch", "batch"]
    return checked(adata, batch_key="batch")


@case(COLUMNS, "a batch column without a value", SchemaError, "batch_key 'batch' has no value for any cell")
def _(folder: Path) -> object:
    return checked(cells(batch=[None] * 12), batch_key="batch")


@case(COLUMNS, "a label column without a value", SchemaError, "labels_key 'label' has no value for any cell")
def _(folder: Path) -> object:
    return checked(cells(label=np.full(12, np.nan)), labels_key="label")


@case(COLUMNS, "a batch column with gaps", SchemaError, "has missing values: 6 of 12 cells, the first is cell 'cell1'")
def _(folder: Path) -> object:
    return checked(cells(batch=alternating("a", None)), batch_key="batch")


@case(COLUMNS, "a label column with gaps", CelboWarning, "treated as one more label, 'unlabelled'")
def _(folder: Path) -> object:
    return checked(cells(label=alternating("T", None)), labels_key="label")


@case(COLUMNS, "a batch of two cells", CelboWarning, "has batches of fewer than 3 cells: 'b' (2)")
def _(folder: Path) -> object:
    return checked(cells(batch=["a"] * 10 + ["b"] * 2), batch_key="batch")


@case(COLUMNS, "a batch for every cell", CelboWarning, "looks like an identifier of cells")
def _(folder: Path) -> object:
    return checked(cells(batch=[f"b{i}" for i in range(12)]), batch_key="batch")


@case(COLUMNS, "categories 1 and '1' in one column", SchemaError, "holds different values that read the same: '1'")
def _(folder: Path) -> object:
    return checked(cells(batch=pd.Series(alternating(1, "1"), dtype=object).to_numpy()), batch_key="batch")


@case(COLUMNS, "missing values written as text", CelboWarning, "holds text that looks like a missing value: 'nan'")
def _(folder: Path) -> object:
    return checked(cells(batch=alternating("a", "nan")), batch_key="batch")


@case(COLUMNS, "lists as categories", SchemaError, "holds values that are not categories: [1]")
def _(folder: Path) -> object:
    adata = cells(batch=alternating("a", "b"))
    adata.obs["batch"] = [[1] for _ in range(12)]
    return checked(adata, batch_key="batch")


@case(COLUMNS, "a size factor of zero", SchemaError, "size_factor_key 's' is not positive: cell 'cell1' (row 1) is 0")
def _(folder: Path) -> object:
    return checked(cells(s=alternating(1.0, 0.0)), size_factor_key="s")


@case(COLUMNS, "a size factor that is missing", SchemaError, "is not finite: cell 'cell1' (row 1) is nan; 6 such cells")
def _(folder: Path) -> object:
    return checked(cells(s=alternating(1.0, np.nan)), size_factor_key="s")


@case(COLUMNS, "a size factor that is text", SchemaError, "size_factor_key 's' does not hold numbers")
def _(folder: Path) -> object:
    return checked(cells(s=alternating("1", "2")), size_factor_key="s")


@case(COLUMNS, "a continuous covariate that is infinite", SchemaError, "is not finite: cell 'cell1' (row 1) is inf")
def _(folder: Path) -> object:
    return checked(cells(age=alternating(1.0, np.inf)), continuous_covariate_keys=["age"])


@case(COLUMNS, "a continuous covariate of categories", SchemaError, "or pass it in categorical_covariate_keys")
def _(folder: Path) -> object:
    return checked(cells(sex=pd.Categorical(alternating("f", "m"))), continuous_covariate_keys=["sex"])


@case(COLUMNS, "a categorical covariate with gaps", SchemaError, "categorical_covariate_key 'sex' has missing values")
def _(folder: Path) -> object:
    return checked(cells(sex=alternating("f", None)), categorical_covariate_keys=["sex"])


@case(COLUMNS, "a covariate that is not there", SchemaError, "Did you mean 'sex'?")
def _(folder: Path) -> object:
    return checked(cells(sex=alternating("f", "m")), categorical_covariate_keys=["sexx"])


@case(COLUMNS, "one text instead of a list of covariates", OptionError, "Pass categorical_covariate_keys=('sex',)")
def _(folder: Path) -> object:
    return checked(cells(sex=alternating("f", "m")), categorical_covariate_keys="sex")


@case(COLUMNS, "a covariate named twice", OptionError, "covariates are named twice: 'sex'")
def _(folder: Path) -> object:
    return checked(cells(sex=alternating("f", "m")), categorical_covariate_keys=["sex", "sex"])


# -- models ----------------------------------------------------------------------------------------------------------

MODELS = "Models"


def batched(n: int = 24) -> AnnData:
    return cells(counts(n), batch=(["a", "b"] * n)[:n])


@functools.cache
def trained() -> Any:
    model = celbo.SCVI(batched(), batch_key="batch", n_hidden=4, n_latent=2)
    return model.train(max_epochs=1, progress=False)


def untrained() -> Any:
    return celbo.SCVI(batched(), batch_key="batch", n_hidden=4, n_latent=2)


def saved(folder: Path) -> Path:
    return Path(trained().save(folder / "model"))


@case(MODELS, "a file name instead of an AnnData", OptionError, "adata is not an AnnData: a str. celbo.read makes one")
def _(folder: Path) -> object:
    return celbo.SCVI("counts.h5ad")


@case(MODELS, "an option that does not exist", OptionError, "SCVI has no option 'n_latents'. Did you mean 'n_latent'?")
def _(folder: Path) -> object:
    return celbo.SCVI(cells(), n_latents=5)


@case(MODELS, "a likelihood that does not exist", OptionError, "is not a choice. Did you mean 'zinb'?")
def _(folder: Path) -> object:
    return celbo.SCVI(cells(), likelihood="zinbb")


@case(MODELS, "no latent dimensions", OptionError, "n_latent=0 is not a positive whole number")
def _(folder: Path) -> object:
    return celbo.SCVI(cells(), n_latent=0)


@case(MODELS, "a dropout rate of one", OptionError, "dropout_rate=1.0 is not between 0 and 1")
def _(folder: Path) -> object:
    return celbo.SCVI(cells(), dropout_rate=1.0)


@case(MODELS, "values that are not counts", CountsError, "It looks log-transformed")
def _(folder: Path) -> object:
    return celbo.SCVI(cells(np.log1p(counts())))


@case(MODELS, "a batch column that is not there", SchemaError, "is not a column of adata.obs")
def _(folder: Path) -> object:
    return celbo.SCVI(batched(), batch_key="donor")


@case(MODELS, "negative epochs", OptionError, "training option 'max_epochs' has an impossible value: -1")
def _(folder: Path) -> object:
    return untrained().train(max_epochs=-1)


@case(MODELS, "a batch size of one", OptionError, "batch norm needs two cells")
def _(folder: Path) -> object:
    return untrained().train(batch_size=1)


@case(MODELS, "a training share above one", OptionError, "It must be above 0 and at most 1")
def _(folder: Path) -> object:
    return untrained().train(train_size=1.5)


@case(MODELS, "a device that does not exist", OptionError, "device")
def _(folder: Path) -> object:
    return untrained().train(max_epochs=1, device="tpu", progress=False)


@case(MODELS, "training cells that do not exist", OptionError, "holds a position outside 24 cells: 24")
def _(folder: Path) -> object:
    return untrained().train(train_indices=[0, 1, 24])


@case(MODELS, "cells both trained on and held out", OptionError, "both")
def _(folder: Path) -> object:
    return untrained().train(max_epochs=1, train_indices=[0, 1, 2, 3], validation_indices=[3, 4], progress=False)


@case(MODELS, "resume without a checkpoint folder", OptionError, "checkpoint_dir")
def _(folder: Path) -> object:
    return untrained().train(max_epochs=1, resume=True, progress=False)


@case(MODELS, "a question before training", NotTrainedError, "Call model.train() first")
def _(folder: Path) -> object:
    return untrained().get_latent_representation()


@case(MODELS, "a mask of the wrong length", OptionError, "is a mask of 3 for 24 cells")
def _(folder: Path) -> object:
    return trained().get_elbo(indices=[True, False, True])


@case(MODELS, "positions that are not whole numbers", OptionError, "must hold positions or a boolean mask")
def _(folder: Path) -> object:
    return trained().get_elbo(indices=[0.5, 1.5])


@case(MODELS, "a gene that the model does not have", OptionError, "Did you mean 'GENE1'?")
def _(folder: Path) -> object:
    return trained().get_normalized_expression(gene_list=["GENE11"])


@case(MODELS, "a batch that the model does not have", OptionError, "names an unknown batch: 'c'")
def _(folder: Path) -> object:
    return trained().get_normalized_expression(transform_batch="c")


@case(MODELS, "new cells that lack a gene", GenesError, "lack 1 of the 6 genes of the model: 'GENE5'")
def _(folder: Path) -> object:
    return trained().get_latent_representation(batched()[:, :5].copy())


@case(MODELS, "new cells of an unseen batch", CategoryError, "that the model never saw: 'z'")
def _(folder: Path) -> object:
    return trained().get_latent_representation(cells(batch=["z"] * 12))


@case(MODELS, "saving where a model is already", InputError, "exists already")
def _(folder: Path) -> object:
    saved(folder)
    return trained().save(folder / "model")


@case(MODELS, "loading what is not a model", ModelFileError, "is not a saved model")
def _(folder: Path) -> object:
    return celbo.load(folder)


@case(MODELS, "a model whose weights were cut short", ModelFileError, "model")
def _(folder: Path) -> object:
    weights = saved(folder) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    return celbo.load(folder / "model")


@case(MODELS, "a model whose description is damaged", ModelFileError, "is damaged")
def _(folder: Path) -> object:
    text(saved(folder), "model.json", "{")
    return celbo.load(folder / "model")


# -- the tests -------------------------------------------------------------------------------------------------------


def outcome(given: Case, folder: Path) -> Exception:
    """Return what a case raises, warnings of celbo among it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if given.section == MODELS:
            trained()
        else:
            warnings.simplefilter("error", CelboWarning)
        try:
            given.run(folder)
        except (CelboError, CelboWarning) as problem:
            return problem
    raise AssertionError(f"{given.given}: nothing was raised")


def identifier(given: Case) -> str:
    return re.sub(r"\W+", "-", given.given)


@pytest.mark.parametrize("given", CASES, ids=identifier)
def test_a_bad_input_gets_its_named_error(given: Case, tmp_path: Path) -> None:
    problem = outcome(given, tmp_path)
    assert type(problem) is given.error
    assert given.message in str(problem)


@pytest.mark.parametrize("given", CASES, ids=identifier)
def test_no_bad_input_ends_in_a_traceback_from_below_celbo(given: Case, tmp_path: Path) -> None:
    problem = outcome(given, tmp_path)
    last = traceback.extract_tb(problem.__traceback__)[-1]
    assert Path(last.filename).is_relative_to(Path(celbo.__file__).parent)
    assert problem.__context__ is None or problem.__suppress_context__


def test_there_are_at_least_forty_bad_inputs() -> None:
    assert len({given.given for given in CASES}) == len(CASES) >= 40


def table() -> str:
    """Return the page that shows every bad input with what it gets."""
    lines = [
        "# Bad inputs",
        "",
        "What celbo says to each of these inputs. Work goes on after a `CelboWarning`; everything else is an error.",
        "The page is written from the tests (`python tests/data/test_bad_inputs.py`), which hold it true.",
    ]
    for section in dict.fromkeys(given.section for given in CASES):
        lines += ["", f"## {section}", "", "| input | error | message |", "|---|---|---|"]
        for given in CASES:
            if given.section == section:
                with tempfile.TemporaryDirectory() as folder:
                    message = said(outcome(given, Path(folder)), folder)
                lines.append(f"| {given.given} | `{given.error.__name__}` | {message} |")
    return "\n".join(lines) + "\n"


def said(problem: Exception, folder: str) -> str:
    """Return a message without the temporary folder and without the words of libraries, which change with them."""
    message = str(problem).replace(f"{folder}/", "").replace(folder, "folder")
    message = re.sub(r"(cannot be read as [^:]*): .*? (It is damaged, cut short)", r"\1: ... \2", message)
    return re.sub(r"([|<>*_])", r"\\\1", " ".join(message.split()))


def test_the_page_of_bad_inputs_is_up_to_date() -> None:
    assert DOC.read_text(encoding="utf-8") == table(), "run python tests/data/test_bad_inputs.py"


if __name__ == "__main__":
    DOC.write_text(table(), encoding="utf-8")
    sys.stdout.write(f"{DOC}: {len(CASES)} bad inputs\n")
