"""What of an AnnData a .h5ad file can hold, found slot by slot before the work whose end is to write it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, MutableMapping
from functools import cache
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import write_elem

__all__ = ["free_name", "make_writable", "writable_frame"]

_ALIGNED = ("obsm", "varm", "obsp", "varp", "layers")
_RESERVED = "_index"
"""Name of the index of a frame in the file, which no column may have."""
_CONVERTED = ("obs[", "var[", "raw.var[")
"""Frames whose text anndata writes as categoricals."""
_TYPES = "values of several types, or of one that the format does not know"


def make_writable(adata: AnnData) -> list[str]:
    """Change what a .h5ad file cannot hold into what it can, or take it out; `X` and the names of cells and genes stay.

    Columns of several types become text, whole numbers and truth values with gaps their pandas type with gaps; names
    that are not text or hold a "/" are changed; what then still has no place in the format is taken out. Each slot is
    tried by writing it, or a few of its rows, to memory.

    Parameters
    ----------
    adata
        Altered in place.

    Returns
    -------
    One sentence for each slot that was altered, the slot named as the user would write it.
    """
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that a later format refuses, and of views that become copies
        for axis in ("obs", "var"):
            frame: pd.DataFrame = getattr(adata, axis)
            if (changed := _frame(frame, axis, notes)) is not frame:
                setattr(adata, axis, changed)
        for name in _ALIGNED:
            _entries(getattr(adata, name), name, notes)
        _entries(adata.uns, "uns", notes)
        _raw(adata, notes)
    return notes


def writable_frame(frame: pd.DataFrame, place: str) -> tuple[pd.DataFrame, list[str]]:
    """Return a table of cells or genes as a file can hold it, and one sentence for each column that was altered.

    Parameters
    ----------
    frame
        Left as it is.
    place
        What it is called in the sentences, such as "obs".
    """
    notes: list[str] = []
    return _frame(frame, place, notes), notes


def free_name(name: str, taken: Callable[[str], bool]) -> str:
    """Return a name that is not taken: the name itself, or with the first free number behind it."""
    at = 1
    while taken(found := name if at == 1 else f"{name}_{at}"):
        at += 1
    return found


def _why_not(value: Any) -> str:
    """Return why a value cannot be written, or "" where it can."""
    with h5py.File("try", "w", driver="core", backing_store=False) as file:
        try:
            write_elem(file, "value", value)
        except Exception as error:  # what the format cannot hold has errors of many kinds
            lines = str(error).strip().splitlines() or [type(error).__name__]
            known = type(error).__name__ == "IORegistryError" or "non-string objects" in lines[0]
            return _TYPES if known else lines[0][:120].rstrip(".")
    return ""


def _left_out(place: str, why: str) -> str:
    return f"{place} cannot be written as .h5ad ({why}): the result is without it, and what was given still has it."


# -------------------------------------------------------------------------------------------------------------- frames


def _frame(frame: pd.DataFrame, place: str, notes: list[str]) -> pd.DataFrame:
    """Return a frame that can be written; the same one where it can be."""
    before, columns = len(notes), {}
    for name, column in _named(frame, place, notes):
        kept = _column(column, f"{place}[{name!r}]", notes)
        if kept is not None:
            columns[name] = kept
    index = frame.index
    clash = index.name in columns and not np.array_equal(columns[str(index.name)].to_numpy(object), index)
    if index.name is not None and (clash or not isinstance(index.name, str)):
        notes.append(
            f"The index of {place} is called {index.name!r}, which .h5ad cannot hold there: it has no name now."
        )
        index = index.rename(None)
    return frame if len(notes) == before else pd.DataFrame(columns, index=index)


def _named(frame: pd.DataFrame, place: str, notes: list[str]) -> Iterator[tuple[str, pd.Series[Any]]]:
    """Yield each column with a name of its own that is text."""
    texts = {name for name in frame.columns if isinstance(name, str)}
    seen: set[str] = set()
    for at, given in enumerate(frame.columns):
        column = frame.iloc[:, at]
        if given == _RESERVED and _same(column, frame.index):
            notes.append(f"{place}['_index'] repeats the row names under a name that .h5ad reserves: it is left out.")
            continue
        fits = isinstance(given, str) and given not in seen and given != _RESERVED and "\0" not in given
        name = str(given)
        if not fits:
            name = free_name("index" if given == _RESERVED else name.replace("\0", "_"), (texts | seen).__contains__)
            notes.append(f"{place}[{given!r}] has a name that .h5ad cannot hold there: it is called {name!r} now.")
        seen.add(name)
        yield name, column


def _same(column: pd.Series[Any], index: pd.Index[Any]) -> bool:
    return bool(np.array_equal(column.astype(str).to_numpy(), index.astype(str).to_numpy()))


def _column(column: pd.Series[Any], place: str, notes: list[str]) -> pd.Series[Any] | None:
    """Return a column that can be written, or None where there is no such form of it."""
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
        return column
    if pd.api.types.infer_dtype(column) == "string" and place.startswith(_CONVERTED):
        why = _why_not(pd.DataFrame({"column": pd.Categorical(column)}))
    else:
        why = _why_not(pd.DataFrame({"column": column.array}))
    if not why:
        return column
    for change in (_with_gaps, _as_text):
        changed = change(column)
        if changed is not None and not _why_not(pd.DataFrame({"column": changed.array})):
            notes.append(f"{place} holds {why}: it is written as {_kind(changed)}.")
            return changed
    notes.append(_left_out(place, why))
    return None


def _with_gaps(column: pd.Series[Any]) -> pd.Series[Any] | None:
    """Return whole numbers, truth values and numbers among missing values as the pandas type for them."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return None
    found = column.convert_dtypes()
    if pd.api.types.is_float_dtype(found.dtype):
        return found.astype(np.float64)
    return found if pd.api.types.is_integer_dtype(found.dtype) or pd.api.types.is_bool_dtype(found.dtype) else None


def _as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    texts = column.astype(object).map(str).where(column.notna(), None)
    return texts.astype("category")  # text with gaps has no other place in the format


def _kind(column: pd.Series[Any]) -> str:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return "text"
    return "truth values with gaps" if pd.api.types.is_bool_dtype(column.dtype) else "numbers"


# ------------------------------------------------------------------------------------------------------------- entries


def _entries(entries: MutableMapping[Any, Any], place: str, notes: list[str]) -> None:
    """Give the entries of a mapping names and values that can be written, and take out those that have none."""
    for given in list(entries):
        if given is None and place == "layers" and _x_is_a_layer():
            continue
        value, where = entries[given], f"{place}[{given!r}]"
        name = str(given).replace("/", "_")
        if name in {"", "."} or "\0" in name:
            notes.append(_left_out(where, "its name"))
            del entries[given]
            continue
        if name != given:
            name = free_name(name, {other for other in entries if isinstance(other, str)}.__contains__)
            notes.append(f"{where} has a name that .h5ad cannot hold: it is called {name!r} now.")
        kept = _value(value, where, notes)
        if name != given or kept is None:
            del entries[given]
        if kept is not None and (name != given or kept is not value):
            entries[name] = kept


@cache
def _x_is_a_layer() -> bool:
    """Whether anndata keeps `X` as `layers[None]`, as it does from 0.13 on."""
    return None in AnnData(np.ones((1, 1), np.float32)).layers


def _value(value: Any, place: str, notes: list[str]) -> Any:
    """Return a value that can be written, the same one where it can be, or None, which stands for what cannot."""
    before = len(notes)
    if isinstance(value, MutableMapping):
        copied = dict(value)  # the caller's own may be shared
        _entries(copied, place, notes)
        return value if len(notes) == before else copied
    if isinstance(value, pd.DataFrame):
        return _frame(value, place, notes)
    if _plain(value):
        return value
    changed: Any = list(value) if isinstance(value, tuple | set | frozenset) else value
    if hasattr(value, "tocsr"):
        changed = value.tocsr()
    why = _why_not(changed)
    if why and isinstance(changed, list) and not _why_not(as_text := [str(item) for item in changed]):
        notes.append(f"{place} holds {why}: it is written as text.")
        return as_text
    if not why:
        return changed
    notes.append(_left_out(place, why))
    return None


def _plain(value: Any) -> bool:
    """Whether a value is a matrix of numbers, which need not be tried."""
    numbers = isinstance(getattr(value, "dtype", None), np.dtype) and value.dtype.kind in "biuf"
    return numbers and (isinstance(value, np.ndarray) or getattr(value, "format", "") in {"csr", "csc"})


def _raw(adata: AnnData, notes: list[str]) -> None:
    """Do the same to the genes of `raw`."""
    if adata.raw is None:
        return
    raw, before = adata.raw.to_adata(), len(notes)
    frame = _frame(raw.var, "raw.var", notes)
    varm = dict(raw.varm)
    _entries(varm, "raw.varm", notes)
    if len(notes) > before:
        adata.raw = AnnData(raw.X, obs=pd.DataFrame(index=adata.obs_names), var=frame, varm=varm)
