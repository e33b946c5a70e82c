"""What an HDF5 file declares, looked at before any of it is believed: links, layouts, sizes, sparse matrices.

HDF5 can say "these bytes lie in that other file", "this array has 2^40 values" (of which none was ever written), and
"this group is inside itself". All of that is read without a word by the libraries above it, so it is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from celbo.errors import ReadError

__all__ = ["check_hdf5", "check_shapes", "most_believed", "refuse_boast", "sparse_problem", "walk_hdf5"]

_TIMES, _FEWEST_BYTES = 100, 1 << 28
"""How many times its own size a file may hold when it is unpacked, and what any may. Columns and sparse matrices pack
to a third or a tenth, dense matrices of few counts to a fiftieth."""
_STREAMED, _FEWEST_STREAMED = 300, 1 << 30
"""The same for dense matrices that are read in blocks, of which zeros take no memory."""
_DEEPEST = 64
_SMALL = 1 << 24  # bytes of a file of which all is read twice
_FIX = "Copy or download it again, or write it again from its source."
_SPARSE = "If it is what you think it is, write its matrices as sparse ones, or without compression."
_LINKED = "celbo reads what is in the file itself: copy the values into it, as `h5copy` or a new write does."

Node = tuple[str, Any]
"""Name within the file, and what is there."""


def check_hdf5(file: h5py.File, path: Path, *, streamed: tuple[str, ...] = ()) -> list[Node]:
    """Raise where a file points outside itself or declares what its bytes cannot hold.

    Parameters
    ----------
    file
        The file, open.
    path
        Where it is.
    streamed
        Names, or what they begin with, of matrices that are read in blocks: of these more may be zeros.

    Returns
    -------
    All groups and arrays with their names.

    Raises
    ------
    ReadError
        For links to other files, values that lie in other files, groups within themselves, arrays that were never
        written, sizes beyond what the file's own can be unpacked to, and sparse matrices that contradict themselves.
    """
    size = path.stat().st_size
    whole = in_blocks = 0
    nodes = list(_nodes(file, path, most=max(1000, size // 128)))  # all links are looked at before any is followed
    for name, node in nodes:
        if isinstance(node, h5py.Dataset):
            n_bytes = _checked_bytes(name, node, path)
            if streamed and name.startswith(streamed):
                in_blocks += n_bytes
                n_bytes = math.prod(node.chunks or (0,)) * node.dtype.itemsize
            whole += n_bytes
    refuse_boast(whole, size, path)
    if in_blocks > max(_FEWEST_STREAMED, _STREAMED * size):
        refuse_boast(in_blocks, size, path)
    for name, node in nodes:
        if isinstance(node, h5py.Group):
            _check_sparse(name, node, path)
    return nodes


def walk_hdf5(path: Path) -> None:
    """Look at all that a file holds, and at the values of a small one, to see whether the library can."""
    with h5py.File(path, "r") as file:
        for _, node in check_hdf5(file, path, streamed=("/matrix", "/layers/")):
            dict(node.attrs)
            if isinstance(node, h5py.Dataset) and path.stat().st_size < _SMALL and node.nbytes < 4 * _SMALL:
                node[()]


def most_believed(size: int) -> int:
    """Return how many bytes a file or a folder of `size` bytes is believed to hold when it is unpacked."""
    return max(_FEWEST_BYTES, _TIMES * size)


def refuse_boast(n_bytes: int, size: int, path: Path) -> None:
    """Raise where a file or a folder of `size` bytes says that it holds `n_bytes`, and cannot."""
    if n_bytes > most_believed(size):
        value = f"{n_bytes:,} bytes of values, stored in {size:,}"
        raise ReadError("holds more than is believed of its size", where=str(path), value=value, fix=_SPARSE)


def _nodes(file: h5py.File, path: Path, *, most: int) -> Iterator[Node]:
    """Yield all groups and datasets of a file; each that has several names is yielded under each of them.

    Raises
    ------
    ReadError
        For a link to another file, and for groups that hold themselves or each other over and over.
    """
    waiting: list[tuple[str, Any, tuple[Any, ...]]] = [("/", file, (_address(file),))]
    seen = 0
    while waiting:
        name, node, above = waiting.pop()
        yield name, node
        seen += 1
        if seen > most or len(above) > _DEEPEST:
            value = f"more than {most:,} names" if seen > most else f"groups {_DEEPEST} deep"
            raise ReadError("holds groups within groups without end", where=str(path), value=value, fix=_FIX)
        if not isinstance(node, h5py.Group):
            continue
        for key in node:
            inside = f"{name.rstrip('/')}/{key}"
            _check_link(node.get(key, getlink=True), inside, path)
            child = node[key]
            address = _address(child)
            if address in above:
                raise ReadError("holds a group within itself", where=str(path), value=inside[:200], fix=_FIX)
            waiting.append((inside, child, (*above, address)))


def _address(node: Any) -> Any:
    return h5py.h5o.get_info(node.id).addr


def _check_link(link: object, name: str, path: Path) -> None:
    if isinstance(link, h5py.ExternalLink):
        value = f"{name[:200]!r} is {link.path[:80]!r} in {link.filename[:200]!r}"
        raise ReadError("links to another file", where=str(path), value=value, fix=_LINKED)


def _checked_bytes(name: str, dataset: h5py.Dataset, path: Path) -> int:
    """Return the bytes of an array when it is unpacked, once it is known that all of it was written to this file."""
    if dataset.external:
        value = f"{name[:200]!r} lies in {str(dataset.external[0][0])[:200]!r}"
        raise ReadError("has values that lie in another file", where=str(path), value=value, fix=_LINKED)
    if dataset.is_virtual:
        what = "has values that are a view of other arrays or files (a virtual dataset)"
        raise ReadError(what, where=str(path), value=repr(name[:200]), fix=_LINKED)
    if not dataset.size:  # none, or no dataspace
        return 0
    n_bytes: int = math.prod(map(int, dataset.shape)) * dataset.id.get_type().get_size()
    missing = _missing(dataset, n_bytes)
    if missing:
        value = f"{name[:200]!r} of shape {dataset.shape}: {missing}"
        raise ReadError("declares values that were never written", where=str(path), value=value, fix=_FIX)
    return n_bytes


def _missing(dataset: h5py.Dataset, n_bytes: int) -> str:
    """Return what of an array is not in the file, as text; "" where all of it is."""
    layout = dataset.id.get_create_plist().get_layout()
    if layout == h5py.h5d.COMPACT:
        return ""
    if layout == h5py.h5d.CONTIGUOUS:
        stored = dataset.id.get_storage_size()
        return "" if stored >= n_bytes else f"{stored:,} of {n_bytes:,} bytes are there"
    declared = 1
    for n, step in zip(dataset.shape, dataset.chunks, strict=True):
        declared *= -(-int(n) // int(step))
    if dataset.id.get_storage_size() == 0:
        return f"none of {declared:,} chunks is there"
    there = int(dataset.id.get_num_chunks())
    return "" if there >= declared else f"{there:,} of {declared:,} chunks are there"


def _n_rows(table: Any) -> int | None:
    """Return how many rows a table of an AnnData declares, from a group or an old compound array; None if it is odd."""
    if not hasattr(table, "keys"):
        return int(table.shape[0]) if getattr(table, "shape", None) else None
    index = table.attrs.get("_index", "_index" if "_index" in table else "index")
    index = index.decode("utf-8", "replace") if isinstance(index, bytes) else index
    names = table[index] if isinstance(index, str) and index in table else None
    if names is not None and hasattr(names, "keys"):  # categories, or text with gaps
        names = next((names[key] for key in ("codes", "values") if key in names), None)
    return int(names.shape[0]) if names is not None and len(names.shape or ()) == 1 else None


def _check_sparse(name: str, group: h5py.Group, path: Path) -> None:
    problem = sparse_problem(group)
    if problem:
        where = f"{path}, {name[:200]!r}"
        raise ReadError("is a sparse matrix that contradicts itself", where=where, value=problem, fix=_FIX)


def sparse_problem(group: Any) -> str:
    """Return what the parts of a sparse matrix say against each other, "" where they fit or it is none.

    Parameters
    ----------
    group
        Of an HDF5 file or a Zarr folder. A 10x group has its shape as an array, genes first, and its rows are cells.
    """
    if not {"data", "indices", "indptr"} <= set(group.keys()):
        return ""
    parts = {name: group[name] for name in ("data", "indices", "indptr")}
    odd = next((told for name, part in parts.items() if (told := _part_problem(name, part))), "")
    if odd:
        return odd
    n_data, n_indices, n_pointers = (int(part.shape[0]) for part in parts.values())
    if n_data != n_indices:
        return f"it has {n_data:,} values and {n_indices:,} positions"
    shape, n_major = _declared_shape(group)
    if shape is None:
        return "it has no shape of two whole numbers"
    if n_pointers != n_major + 1:
        return f"its shape {shape} asks for {n_major + 1:,} pointers, it has {n_pointers:,}"
    return ""


def _part_problem(name: str, part: Any) -> str:
    if hasattr(part, "keys") or len(part.shape or ()) != 1:
        return f"{name} is not one row of values"
    kinds = "biuf" if name == "data" else "iu"
    if part.dtype.kind not in kinds or part.dtype.itemsize > 8:
        return f"{name} holds {part.dtype}, not {'numbers' if name == 'data' else 'whole numbers'}"
    return ""


def _declared_shape(group: Any) -> tuple[tuple[int, ...] | None, int]:
    """Return the shape that a sparse matrix declares, if it does, and the length of the axis that has pointers."""
    told = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    kind = str(group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", "csr")))
    by_column = "csc" in kind
    if told is None and "shape" in group and getattr(group["shape"], "shape", None) == (2,):
        told, by_column = group["shape"][()], True  # of 10x: genes x cells, by cell
    try:
        shape = tuple(int(n) for n in np.asarray(told).ravel())
    except (TypeError, ValueError, OverflowError):
        return None, 0
    if len(shape) != 2 or min(shape) < 0 or not np.array_equal(np.asarray(told).ravel(), shape):
        return None, 0
    return shape, shape[1 if by_column else 0]


def check_shapes(store: Any, path: Path) -> None:
    """Raise where a matrix of an AnnData declares another shape than its tables of cells and genes have rows.

    Parameters
    ----------
    store
        An HDF5 or Zarr group with `obs` and `var`.
    path
        The file, for the message.
    """
    n_cells, n_genes = _n_rows(store["obs"]), _n_rows(store["var"])
    inside = [f"layers/{name}" for name in store["layers"]] if hasattr(store.get("layers"), "keys") else []
    for name in ("X", *inside):
        _check_shape(store, name, (n_cells, n_genes), path)
    raw = store.get("raw")
    if hasattr(raw, "keys") and "var" in raw:
        _check_shape(store, "raw/X", (n_cells, _n_rows(raw["var"])), path)


def _check_shape(store: Any, name: str, sizes: tuple[int | None, int | None], path: Path) -> None:
    if name not in store:
        return
    matrix = store[name]
    told = _declared_shape(matrix)[0] if hasattr(matrix, "keys") else tuple(matrix.shape or ())
    for axis, (n, what) in enumerate(zip(sizes, ("cells", "genes"), strict=True)):
        if told and n is not None and (len(told) != 2 or told[axis] != n):
            value = f"{name} is {' x '.join(f'{size:,}' for size in told)}, there are {n:,} names of {what}"
            raise ReadError("contradicts itself", where=str(path), value=value, fix=_FIX)
