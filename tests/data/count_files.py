"""Small files of counts in every format, for the tests of the readers."""

from __future__ import annotations

import gzip
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


def write_named(
    folder: Path, matrix: str, features: str, barcodes: str, *, turned: bool = False, genes: str = "", cells: str = ""
) -> Path:
    """Write a matrix of the usual counts with its names under any names of files; gzipped where they end so."""
    folder.mkdir(exist_ok=True)
    stored = folder / "stored.mtx"
    scipy.io.mmwrite(stored, sp.coo_matrix(COUNTS if turned else COUNTS.T))
    contents = {
        matrix: stored.read_text(),
        features: genes or "".join(f"ENSG{i}\t{g}\tGene Expression\n" for i, g in enumerate(GENES)),
        barcodes: cells or "".join(f"{cell}\n" for cell in CELLS),
    }
    stored.unlink()
    for name, content in contents.items():
        with gzip.open(folder / name, "wt") if name.endswith(".gz") else (folder / name).open("w") as file:
            file.write(content)
    return folder
