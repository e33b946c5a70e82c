"""Where in an AnnData the counts are: in `X`, a layer or `raw`, in memory or in a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from celbo.data.repeats import Repeats, repeats_in, summed
from celbo.data.scan import Matrix, check_sparse, is_sparse, native, workable
from celbo.errors import CountsError, OptionError, ReadError, SchemaError, listed, nearest

__all__ = ["count_matrix_of", "layer_names", "matrix_name", "repeated_positions"]


def count_matrix_of(adata: AnnData, layer: str | None) -> tuple[Matrix, NDArray[np.object_]]:
    """Return the matrix of counts, in memory and not copied where it was, and the names of its genes.

    Parameters
    ----------
    adata
        The data; in memory, a view, or backed by a file (whose rows come in the order of the AnnData).
    layer
        A layer; None is `X`; "raw" is `adata.raw`, unless a layer has that name.

    Returns
    -------
    matrix
        CSR, CSC or dense; (cells, genes).
    gene_names
        (genes,) str.

    Raises
    ------
    SchemaError
        If there is no such layer, or `X` is empty.
    CountsError
        If the matrix does not hold real numbers, or is damaged.
    """
    if layer is not None and not isinstance(layer, str):
        raise OptionError("is not the name of a layer", where="layer", value=repr(layer)[:80], fix="Pass a text.")
    where = matrix_name(adata, layer)
    source: Any = adata.raw if where == "adata.raw" else adata
    if where.startswith("layer") and layer not in adata.layers:
        raise SchemaError("does not exist", where=f"layer {layer!r}", fix=_other_layers(adata, str(layer)))
    if source is None:
        fix = "Pass layer=None for adata.X, or the name of a layer."
        raise SchemaError("is not set", where="adata.raw", fix=fix)
    found = adata.layers[layer] if where.startswith("layer") else source.X
    if found is None:
        raise SchemaError("is empty", where=where, fix=_other_layers(adata, ""))
    names = np.array([_text(name) for name in source.var_names], dtype=object)
    return _in_memory(found, where), names


def matrix_name(adata: AnnData, layer: str | None) -> str:
    """Return a matrix as messages name it: "adata.X", "adata.raw" or "layer 'counts'"."""
    if layer is None:
        return "adata.X"
    return "adata.raw" if layer == "raw" and layer not in adata.layers else f"layer {layer!r}"


def layer_names(adata: AnnData) -> list[str]:
    """Return the names of the layers, without that of `X`, which anndata from 0.13 on keeps among them: None."""
    return [name for name in adata.layers if name is not None]


def _other_layers(adata: AnnData, wanted: str) -> str:
    names = [*map(str, layer_names(adata)), *(["raw"] if adata.raw is not None else [])]
    if not names:
        return "There are no layers." if wanted else "There are no layers either."
    return nearest(wanted, names) if wanted else f"Pass layer= with one of {listed(names)}."


def _text(name: object) -> str:
    return "" if pd.isna(name) is True else str(name)  # type: ignore[call-overload]


def _sound(matrix: Matrix, where: str) -> Matrix:
    """Return a sparse matrix that compiled code can follow, each position once; the same object where it is so."""
    try:
        check_sparse(matrix)
    except IndexError as problem:
        fix = "The matrix or its file is damaged; write it again."
        raise CountsError("is not a valid sparse matrix", where=where, value=str(problem), fix=fix) from None
    matrix = workable(matrix)
    return summed(matrix) if repeats_in(matrix) else matrix


def repeated_positions(adata: AnnData, layer: str | None) -> Repeats | None:
    """Return the positions that a matrix in memory lists more than once; None where there are none, or it is in a file.

    `count_matrix_of` adds them up.
    """
    where = matrix_name(adata, layer)
    found: Any = adata.layers[layer] if where.startswith("layer") else (adata.raw if where == "adata.raw" else adata).X
    return repeats_in(found) if is_sparse(found) and found.format in {"csr", "csc"} else None


def _in_memory(found: Any, where: str) -> Matrix:
    """Return a matrix that may lie in a file as CSR, CSC or a plain array."""
    try:
        if hasattr(found, "to_memory"):  # a sparse matrix in a file
            found = found.to_memory()
        elif hasattr(found, "compute"):  # Dask
            found = found.compute()
        if is_sparse(found):
            matrix = found if found.format in {"csr", "csc"} else sp.csr_matrix(found)
        else:
            matrix = np.asarray(found[()] if hasattr(found, "chunks") else found)
    except (OSError, RuntimeError, ValueError, TypeError) as problem:
        fix = "Is its file still open and whole? Read it again."
        raise ReadError("cannot be read", where=where, value=str(problem)[:200], fix=fix) from None
    if matrix.dtype.kind not in "biuf" or matrix.ndim != 2:
        fix = "Make it a matrix of integers or floats, (cells, genes)."
        value = f"dtype {matrix.dtype}" + (f", {matrix.ndim} axes" if matrix.ndim != 2 else "")
        raise CountsError("does not hold real numbers", where=where, value=value, fix=fix)
    return _sound(matrix, where) if is_sparse(matrix) else native(np.asarray(matrix))
