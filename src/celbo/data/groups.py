"""The groups of cells that a user wants compared: by a column of `obs`, by positions or masks, or by a query."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from celbo.data.columns import category_name
from celbo.data.obs import HasObs, obs_column
from celbo.errors import CelboWarning, InputError, OptionError, listed, nearest

__all__ = ["REST", "Comparison", "Groups", "groups_of"]

Positions = npt.NDArray[np.int64]

REST, OTHERS = "rest", "all others"
"""Name of all other groups together, and the one in its place where a group is called so."""
_MEASURED = 100
"""Most values that a column of groups may have where most cells have one of their own."""
_NAMED = 1000
"""Most values that a column may have whose names are looked up."""
_FEW = 10
"""Cells below which a group has hardly anything to say."""


@dataclass(frozen=True)
class Comparison:
    """Two sides, each one or several groups."""

    name1: str
    name2: str
    groups1: tuple[int, ...]
    groups2: tuple[int, ...]


@dataclass(frozen=True)
class Groups:
    """Groups of cells without common cells, and what is compared."""

    names: tuple[str, ...]
    cells: tuple[Positions, ...]
    """Positions of the cells of each group."""
    comparisons: tuple[Comparison, ...]

    def kept(self, cells: Sequence[Positions]) -> Groups:
        """Return the same comparisons of fewer cells of each group."""
        return Groups(self.names, tuple(cells), self.comparisons)


def groups_of(
    adata: HasObs | None,
    cell_names: Any,
    *,
    groupby: Any = None,
    group1: Any = None,
    group2: Any = None,
    idx1: Any = None,
    idx2: Any = None,
) -> Groups:
    """Find the cells of each group and what to compare.

    Parameters
    ----------
    adata
        The data whose `obs` is meant; None where there is none, and then only values and positions can be given.
    cell_names
        Names of the cells; (cells,).
    groupby
        Column of `obs`, or one value for each cell. Cells without a value are in no group.
    group1
        The group of interest, or several, each compared in turn; None is every group.
    group2
        What it is compared with; None is all other cells that have a group.
    idx1, idx2
        Instead: the cells of either side, as positions, a boolean mask (a Series of them in any order), or a query of
        `obs`, such as "age > 60 and sex == 'f'". Without `idx2`, all other cells.

    Raises
    ------
    OptionError
        If the arguments contradict each other, or name what does not exist.
    InputError
        If a group is empty, or the two share cells.
    """
    if (groupby is None) == (idx1 is None):
        found = "neither" if groupby is None else "both"
        raise OptionError(
            f"says which cells to compare, not {found}",
            where="either groupby or idx1",
            fix="Give groupby='column of obs', or idx1=...",
            flag="Give --groupby COLUMN, or --idx1 QUERY.",
        )
    if groupby is None:
        if group1 is not None or group2 is not None:
            raise OptionError("go with groupby, not with idx1", where="group1 and group2")
        groups = _by_index(adata, cell_names, idx1, idx2)
    elif idx2 is not None:
        raise OptionError("goes with idx1, not with groupby", where="idx2")
    else:
        groups = _by_column(adata, cell_names, groupby, group1, group2)
    sizes = [f"{name} ({len(cells)})" for name, cells in zip(groups.names, groups.cells, strict=True)]
    few = [size for size, cells in zip(sizes, groups.cells, strict=True) if len(cells) < _FEW]
    if few:
        text = f"Fewer than {_FEW} cells in {listed(few)}: only large differences show, and only of these few cells."
        warnings.warn(CelboWarning(text), stacklevel=3)
    return groups


def _by_column(adata: HasObs | None, cell_names: Any, groupby: Any, group1: Any, group2: Any) -> Groups:
    labels = obs_column(adata, groupby, cell_names=cell_names, where="groupby")
    names, codes = [str(name) for name in labels.categories], np.asarray(labels.codes)
    if len(names) < 2:
        where = f"groupby={groupby!r}" if isinstance(groupby, str) else "groupby"
        raise InputError("has a single group, and nothing to compare it with", where=where, value=listed(names))
    if len(names) > max(_MEASURED, len(codes) // 2):
        raise InputError(
            f"holds {len(names)} different values in {len(codes)} cells",
            where="groupby",
            fix="It is a measurement, not a group: compare its halves by a query, such as idx1='age > 60'.",
            flag="It is a measurement, not a group: compare its halves by a query, such as --idx1 'age > 60'.",
        )
    second = None if group2 is None else _one_name(group2)
    wanted = [name for name in names if name != second] if group1 is None else _names(group1)
    asked = [*wanted, *([] if second is None else [second])]
    for name in asked:
        if name not in names:
            of = f" of {groupby!r}" if isinstance(groupby, str) else ""
            raise OptionError(f"is not a group{of}", where=repr(name), fix=nearest(name, names))
    if second in wanted:
        fix = "Give two different groups as group1 and group2."
        raise OptionError("is compared with itself", where=repr(second), fix=fix)
    if len(wanted) != len(set(wanted)) or not wanted:
        raise OptionError("names no group, or one twice", where="group1", value=listed(wanted))
    # without a second group the rest is all the others; in one order always, so that to swap the sides is to negate
    used = names if second is None else [name for name in names if name in asked]
    rest = REST if REST not in names else OTHERS  # where a group has that name
    place = {name: i for i, name in enumerate(used)}
    cells = tuple(np.flatnonzero(codes == names.index(name)) for name in used)
    comparisons = []
    for name in wanted:
        others = [place[other] for other in used if other != name] if second is None else [place[second]]
        comparisons.append(Comparison(name, rest if second is None else second, (place[name],), tuple(others)))
    return Groups(tuple(used), cells, tuple(comparisons))


def _names(group1: Any) -> list[str]:
    """Return one name or several as text, as categories are: 1.0 is "1"."""
    several = isinstance(group1, Iterable) and not isinstance(group1, str)
    return [category_name(name) for name in (group1 if several else [group1])]


def _one_name(group2: Any) -> str:
    if isinstance(group2, Iterable) and not isinstance(group2, str):
        fix = "Give one name. To compare with several groups together: idx2=\"cell_type in ['a', 'b']\"."
        raise OptionError("is not one group", where="group2", value=repr(group2)[:80], fix=fix)
    return category_name(group2)


def _by_index(adata: HasObs | None, cell_names: Any, idx1: Any, idx2: Any) -> Groups:
    n_cells = len(cell_names)
    one = _cells(adata, cell_names, idx1, "idx1")
    if idx2 is None and len(one) == n_cells:
        raise InputError(
            "is true of every cell, and nothing is left to compare with", where=_asked("idx1", idx1),
            fix="Choose fewer cells, or give idx2.", flag="Choose fewer cells, or give --idx2 QUERY.",
        )  # fmt: skip
    two = np.setdiff1d(np.arange(n_cells), one) if idx2 is None else _cells(adata, cell_names, idx2, "idx2")
    for name, index, cells in (("idx1", idx1, one), ("idx2", idx2, two)):
        if len(cells) == 0:
            what = "is true of no cell" if isinstance(index, str) else "holds no cell"
            raise InputError(what, where=_asked(name, index), fix=_unknown_value(adata, index))
    both = np.intersect1d(one, two)
    if len(both):
        shared = [str(cell_names[i]) for i in both[:5]]
        raise InputError(
            f"share {len(both)} cell(s)",
            where="idx1 and idx2",
            value=listed(shared),
            fix="A cell can be on one side only: make the two exclude each other.",
        )
    sides = [("group1", one), ("group2" if idx2 is not None else REST, two)]
    first = int(one[0] > two[0])  # in one order always, so that to swap the sides is to negate
    ordered = sides[::-1] if first else sides
    comparison = Comparison(sides[0][0], sides[1][0], (first,), (1 - first,))
    return Groups(tuple(name for name, _ in ordered), tuple(cells for _, cells in ordered), (comparison,))


def _cells(adata: HasObs | None, cell_names: Any, index: Any, where: str) -> Positions:
    """Return the positions that a query, a mask or positions mean, each once and ascending."""
    n_cells = len(cell_names)
    if isinstance(index, str):
        return _queried(adata, n_cells, index, where)
    array = _as_array(index, cell_names, where)
    if array.dtype == bool:
        if array.size != n_cells:
            raise OptionError(f"is a mask of {array.size} for {n_cells} cells", where=where)
        return np.flatnonzero(array)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise OptionError(
            "must hold positions, a mask or a query", where=where, value=f"its type is {array.dtype}",
            fix="Of names of cells, adata.obs_names.isin(names) makes a mask.",
        )  # fmt: skip
    if array.size and (array.min() < -n_cells or array.max() >= n_cells):
        worst = array.min() if array.min() < -n_cells else array.max()
        raise OptionError(f"holds a position outside {n_cells} cells", where=where, value=str(worst))
    found = array.astype(np.int64)
    return np.unique(np.where(found < 0, found + n_cells, found))


def _queried(adata: HasObs | None, n_cells: int, query: str, where: str) -> Positions:
    if adata is None:
        raise InputError(
            "is a query of columns, and there is no AnnData to look for them in",
            where=where,
            fix="Pass adata=..., or a mask.",
        )
    try:
        chosen: Any = adata.obs.eval(query, engine="python", local_dict={}, global_dict={})
        mask = _without_missing(chosen)
    except Exception as error:  # pandas raises whatever the query makes it raise
        raise _no_query(adata, where, query, error) from None
    if mask.dtype != bool or mask.shape != (n_cells,):
        fix = 'Compare a column with a value (== compares): "cell_type == \'B\'", "n_genes > 500".'
        raise OptionError("is not true or false for each cell", where=_asked(where, query), fix=fix)
    return np.flatnonzero(mask)


def _asked(where: str, index: Any) -> str:
    """Return an argument as it was given, as far as it can be shown."""
    return f"{where}={index!r}" if isinstance(index, str) else where


def _no_query(adata: HasObs, where: str, query: str, error: Exception) -> OptionError:
    """Return the error of a query that pandas cannot evaluate: a column that is not there, or how to write it."""
    name = re.search(r"name '(.+?)' is not defined", str(error))
    columns = [str(column) for column in adata.obs.columns]
    if name is not None:
        fix = f"{nearest(name[1], columns)} Text is quoted, and so is a name with spaces, by `backticks`."
        return OptionError(f"names {name[1]!r}, which is not a column of obs", where=_asked(where, query), fix=fix)
    return OptionError(
        "cannot be read as a question about the columns of obs", where=_asked(where, query),
        value=f"{type(error).__name__}: {error}"[:200],
        fix="Write it like \"cell_type == 'B' and n_genes > 500\": == compares, text is quoted, a name with spaces "
        "stands in `backticks`.",
    )  # fmt: skip


def _unknown_value(adata: HasObs | None, query: Any) -> str:
    """Return why a query may be true of no cell: a quoted value that no named column has, or the range of a number."""
    if adata is None or not isinstance(query, str):
        return ""
    words = set(re.findall(r"`(.+?)`|(\w+)", re.sub(r"(['\"]).*?\1", "", query)))
    named: list[Any] = [
        adata.obs[c] for c in dict.fromkeys(max(pair, key=len) for pair in sorted(words)) if c in adata.obs
    ]
    named = [c for c in named if isinstance(c, pd.Series)]  # a name of several columns is told elsewhere
    text = [c for c in named if not pd.api.types.is_numeric_dtype(c) and c.nunique() <= _NAMED]
    known = sorted({str(value) for column in text for value in column.dropna().unique()})
    missing = [value for _, value in re.findall(r"(['\"])(.*?)\1", query) if value not in known]
    if missing and known:
        return f"{missing[0]!r} is no value of {listed([str(c.name) for c in text])}. {nearest(missing[0], known)}"
    numbers = [c.dropna() for c in named if pd.api.types.is_numeric_dtype(c) and not pd.api.types.is_bool_dtype(c)]
    ranges = [f"{c.name!r} is between {float(c.min()):g} and {float(c.max()):g}" for c in numbers if len(c)]
    return f"{', '.join(ranges)}." if ranges else "Each of its conditions may hold, but not all of them for one cell."


def _as_array(index: Any, cell_names: Any, where: str) -> npt.NDArray[Any]:
    """Return a mask or positions as an array; a mask that is a Series of named cells in the order of the cells."""
    if isinstance(index, pd.Series) and _without_missing(index).dtype == bool:
        mask = obs_column(None, index, cell_names=cell_names, where=where)
        return np.asarray(mask == "True", bool)
    try:
        array = _without_missing(index)
    except (TypeError, ValueError):
        raise OptionError("must hold positions, a mask or a query", where=where, value=repr(index)[:80]) from None
    if array.ndim != 1:
        raise OptionError("must be one-dimensional", where=where, value=f"its shape is {array.shape}")
    return array


def _without_missing(values: Any) -> npt.NDArray[Any]:
    """Return an array, in which a missing value of a nullable boolean is False."""
    nullable = isinstance(getattr(values, "dtype", None), pd.BooleanDtype)
    return values.to_numpy(bool, na_value=False) if nullable else np.asarray(values)
