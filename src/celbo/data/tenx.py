"""The 10x folder: `matrix.mtx`, names of genes or features, barcodes; old and new layout, plain or gzipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp
from numpy.typing import NDArray

from celbo.data.loaded import Loaded, gene_expression_only, reading, with_symbols
from celbo.data.scan import Matrix
from celbo.errors import ReadError, listed

__all__ = ["matrices_in", "read_mtx"]

_ENDS = ("matrix.mtx", "matrix.mtx.gz")


def matrices_in(folder: Path) -> list[Path]:
    """Return the matrix files of a folder: `matrix.mtx`, perhaps with a prefix, perhaps gzipped."""
    plain = [folder / end for end in _ENDS if (folder / end).is_file()]
    return plain[:1] or sorted(path for path in folder.iterdir() if path.name.endswith(_ENDS) and path.is_file())


def read_mtx(matrix: Path) -> Loaded:
    """Read a Matrix Market file with the names beside it.

    Parameters
    ----------
    matrix
        `matrix.mtx` or `matrix.mtx.gz`, perhaps with a prefix that the files of names share.
    """
    prefix = next((matrix.name.removesuffix(end) for end in _ENDS if matrix.name.endswith(end)), "")
    features_path = _beside(matrix, prefix, ("features.tsv", "genes.tsv"))
    barcodes_path = _beside(matrix, prefix, ("barcodes.tsv",))
    features, cells = _table(features_path), _table(barcodes_path)[0].to_numpy(object)
    with reading(matrix, "a Matrix Market file"):
        counts, turned = _by_cell(scipy.io.mmread(matrix), len(cells), len(features), matrix)
    ids = features[0].to_numpy(object)
    symbols = features[1].to_numpy(object) if features.shape[1] > 1 else ids
    types = features[2].to_numpy(object) if features.shape[1] > 2 else None
    keep, notes = gene_expression_only(types, len(ids), features_path)
    var = {"gene_ids": ids[keep], **({} if types is None else {"feature_types": types[keep]})}
    adata, more = with_symbols(counts if keep.all() else counts[:, keep], cells, symbols[keep], var)
    turned_note = ["The matrix is cells x genes, not genes x cells as 10x writes it."] if turned else []
    return Loaded(adata, "10x mtx", [*turned_note, *notes, *more])


def _beside(matrix: Path, prefix: str, names: tuple[str, ...]) -> Path:
    for name in names:
        for ending in ("", ".gz"):
            path = matrix.parent / f"{prefix}{name}{ending}"
            if path.is_file():
                return path
    wanted = " or ".join(f"{prefix}{name}[.gz]" for name in names)
    fix = "The three files belong into one folder, with the same prefix if they have one."
    raise ReadError(f"has no {wanted} beside it", where=str(matrix), fix=fix)


def _table(path: Path) -> pd.DataFrame:
    """Read a table of names without a header."""
    with reading(path, "a table of names"):
        if path.stat().st_size == 0:
            raise ReadError("is empty", where=str(path), fix="Copy or download it again.")
        return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3, encoding="utf-8")


def _by_cell(found: Matrix, n_cells: int, n_features: int, path: Path) -> tuple[Matrix, bool]:
    """Return the matrix as (cells, features) CSR, and whether the file had it that way round already."""
    shape = found.shape
    if shape not in {(n_features, n_cells), (n_cells, n_features)}:
        value = f"it is {shape[0]:,} x {shape[1]:,}, the names are of {n_features:,} features and {n_cells:,} barcodes"
        fix = "Do the files belong together, and has none of them a header line?"
        raise ReadError("does not fit the names beside it", where=str(path), value=value, fix=fix)
    turned = shape != (n_features, n_cells)
    counts = sp.csr_matrix(found if turned else found.T)
    counts.sort_indices()
    return _narrowed(counts), turned


def _narrowed(counts: Matrix) -> Matrix:
    """Return values as float32 where that is exact, which is what scanpy's functions expect."""
    narrow: NDArray[np.float32] = counts.data.astype(np.float32)
    if np.array_equal(narrow, counts.data):
        counts.data = narrow
    return counts


def folder_fix(folder: Path) -> str:
    """Return what to do about a folder without a matrix: name the folders below that have one."""
    below = [
        path.parent for end in _ENDS for path in sorted(folder.glob(f"*/{end}")) + sorted(folder.glob(f"*/*/{end}"))
    ]
    if below:
        return f"Pass one of its folders: {listed(map(str, below), limit=5)}."
    return "Pass a file, or the folder with matrix.mtx[.gz], features.tsv[.gz] and barcodes.tsv[.gz] in it."
