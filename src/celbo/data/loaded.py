"""What a reader of one file returns, and how whatever goes wrong below becomes one named error."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from celbo.data.repeats import repeats_in, summed
from celbo.data.scan import Matrix, check_sparse, is_sparse, native, workable
from celbo.errors import CelboError, CelboWarning, ReadError

__all__ = [
    "Loaded",
    "as_csr",
    "check_whole",
    "gene_expression_only",
    "named",
    "reading",
    "repeats_told",
    "whole",
    "with_symbols",
]

GENE_EXPRESSION = "Gene Expression"


@dataclass
class Loaded:
    """One file as an AnnData, and what the user should hear about it."""

    adata: AnnData
    format: str
    notes: list[str | CelboWarning] = field(default_factory=list)
    """Sentences to warn of; a `CelboWarning` where the fix has other words on the command line."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further entries of `adata.uns['celbo_read']`."""


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn anything that a library raises while it reads a file into a `ReadError` that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries; what matters in them `check` says by name
            yield
    except (CelboError, KeyboardInterrupt):
        raise
    except PermissionError:
        fix = "Ask for the right to read it, or copy it."
        raise ReadError("may not be read", where=str(path), fix=fix) from None
    except MemoryError:
        fix = "It is damaged, or needs a larger machine."
        raise ReadError("does not fit into memory", where=str(path), fix=fix) from None
    except Exception as problem:
        reason = next(iter(str(problem).strip().splitlines()), "")[:200]
        value = f"{type(problem).__name__}: {reason}" if reason else type(problem).__name__
        fix = "It is damaged, cut short, or of another format; copy or download it again."
        raise ReadError(f"cannot be read as {what}", where=str(path), value=value, fix=fix) from None


def as_csr(matrix: Matrix) -> Matrix:
    """Return a matrix, known to be whole, as CSR; a dense one with fewer than half zeros is left as it is."""
    if is_sparse(matrix):
        return matrix if matrix.format == "csr" else matrix.tocsr()
    if isinstance(matrix, np.ndarray) and matrix.dtype.kind in "biuf" and matrix.ndim == 2:
        matrix = native(matrix)
        return sp.csr_matrix(matrix) if np.count_nonzero(matrix) <= matrix.size / 2 else matrix
    return matrix


def check_whole(matrix: Matrix, path: Path) -> None:
    """Raise a `ReadError` if a matrix is sparse and points outside its shape."""
    if not is_sparse(matrix):
        return
    try:
        check_sparse(matrix)
        if matrix.data.size > matrix.indptr[-1]:
            raise IndexError(f"{matrix.data.size - int(matrix.indptr[-1]):,} of its values belong to no row or column")
    except IndexError as problem:
        raise ReadError("holds a damaged matrix", where=str(path), value=str(problem), fix="Copy it again.") from None


def whole(matrix: Matrix, path: Path, *, where: str = "") -> tuple[Matrix, list[str]]:
    """Return a matrix with each position once and pointers that compiled code can follow, and what to say of it.

    Raises
    ------
    ReadError
        If a sparse matrix points outside its shape, or lists the same positions again and again.
    """
    if not is_sparse(matrix):
        return matrix, []
    check_whole(matrix, path)
    matrix = workable(matrix)
    notes = repeats_told(matrix, path, where=where)
    return (summed(matrix) if notes else matrix), notes


def repeats_told(matrix: Matrix, path: Path, *, where: str = "") -> list[str]:
    """Return a note where a matrix lists positions more than once; whoever reads it is to add them up.

    Raises
    ------
    ReadError
        If it does so for more of its values than a slip can be.
    """
    found = repeats_in(matrix)
    if found is None:
        return []
    if found.too_many:
        fix = "A matrix lists each cell and gene once. Add them up where you write it, if that is what they mean."
        place = f"{path}{where and ', '}{where}"
        raise ReadError("lists the same positions again and again", where=place, value=found.value, fix=fix)
    return [
        f"Values at positions that are listed more than once were added up{where and f' in {where}'}: {found.value}."
    ]


def named(counts: Matrix, obs: pd.DataFrame, var: pd.DataFrame) -> AnnData:
    """Return counts as an AnnData; names may be repeated here, `read` makes them unique."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AnnData(counts, obs=obs, var=var)


def with_symbols(
    counts: Matrix, cells: NDArray[np.object_], symbols: NDArray[np.object_], var: dict[str, NDArray[np.object_]]
) -> AnnData:
    """Return counts as an AnnData named by gene symbols; one without a symbol is named by its identifier."""
    names = np.where(symbols == "", var["gene_ids"], symbols) if "gene_ids" in var else symbols
    obs = pd.DataFrame(index=pd.Index(cells.astype(object)))
    return named(counts, obs, pd.DataFrame(var, index=pd.Index(names.astype(object))))


def gene_expression_only(
    types: NDArray[np.object_] | None, n_genes: int, path: Path
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which features are genes, (features,), and a note of the others that are left out."""
    if types is None:
        return np.ones(n_genes, bool), []
    keep: NDArray[np.bool_] = types == GENE_EXPRESSION
    names, sizes = np.unique(types[~keep].astype(str), return_counts=True)
    others = ", ".join(f"{size:,} {str(name)!r}" for name, size in zip(names, sizes, strict=True))
    if not keep.any():
        fix = "celbo models gene counts; give the matrix that holds them."
        raise ReadError(f"holds no {GENE_EXPRESSION!r} features", where=str(path), value=others, fix=fix)
    return keep, [f"Left out features that are not {GENE_EXPRESSION!r}: {others}."] if others else []
