"""A column of `obs` as the user names it, or the same values given directly: which group each cell belongs to."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pandas as pd

from celbo.data.columns import category_codes
from celbo.errors import InputError, SchemaError, listed, nearest

__all__ = ["HasObs", "column_of", "obs_column"]


class HasObs(Protocol):
    """An AnnData, or what keeps its columns."""

    @property
    def obs(self) -> pd.DataFrame:
        """Columns that describe the cells; (cells, columns)."""


def column_of(adata: HasObs, name: str) -> pd.Series[Any]:
    """Return a column of `obs`.

    Raises
    ------
    SchemaError
        If there is none of that name, or several; the message names the nearest one.
    """
    obs = adata.obs
    if name not in obs:
        fix = nearest(name, map(str, obs.columns))
        if obs.attrs.get("kept"):
            fix = "The AnnData of the model is gone, and its columns were copied before: pass adata=... " + fix
        raise SchemaError("is not a column of obs", where=repr(name), fix=fix)
    column: Any = obs[name]
    if isinstance(column, pd.DataFrame):
        raise SchemaError("is the name of several columns of obs", where=repr(name), fix="Rename all but one.")
    found: pd.Series[Any] = column
    return found


def obs_column(adata: HasObs | None, key: Any, *, cell_names: Any, where: str) -> pd.Categorical[Any]:
    """Return the group of each cell.

    Parameters
    ----------
    adata
        The data that a column would be of; None where there is none.
    key
        Name of a column of `obs`; or one value for each cell: an array, a list, a categorical, or a Series, which is
        put into the order of the cells where its index holds their names in another one.
    cell_names
        Names of the cells; (cells,).
    where
        The argument, for the message.

    Returns
    -------
    The categories in use as text, in the order of a categorical, else sorted; missing values have code -1.

    Raises
    ------
    InputError
        If a column is named and there is no AnnData to find it in.
    SchemaError
        If there is no such column, or there is another number of values than cells.
    """
    if isinstance(key, str):
        if adata is None:
            raise InputError(
                "names a column, and there is no AnnData to look for it in",
                where=f"{where}={key!r}",
                fix="Pass adata=..., or the values themselves, one for each cell.",
            )
        column = column_of(adata, key)
    else:
        column = _as_column(key, np.asarray(cell_names, dtype=object), where)
    try:
        codes, names = category_codes(column)
    except TypeError:  # lists, dictionaries: what cannot be told apart
        kinds = listed(sorted({type(value).__name__ for value in column}), limit=3)
        raise SchemaError("holds values that name no group", where=where, value=f"they are of type {kinds}") from None
    if not names:
        raise SchemaError("has no value for any cell", where=f"{where}={key!r}" if isinstance(key, str) else where)
    found: pd.Categorical[Any] = pd.Categorical.from_codes(codes, categories=pd.Index(names))
    return found


def _as_column(values: Any, cell_names: Any, where: str) -> pd.Series[Any]:
    """Return values for each cell as a column in the order of the cells."""
    column: pd.Series[Any]
    column = values if isinstance(values, pd.Series) else pd.Series(_plain(values, where))
    if len(column) != len(cell_names):
        raise SchemaError(f"has {len(column)} values for {len(cell_names)} cells", where=where)
    if isinstance(values, pd.Series) and not isinstance(values.index, pd.RangeIndex):
        names = column.index.astype(str)
        if names.is_unique and set(names) == set(cell_names):
            return column.set_axis(names).reindex(cell_names)
        raise SchemaError(
            "has an index with other names than those of the cells",
            where=where,
            value=listed(sorted(set(names) - set(cell_names)), limit=3),
            fix="Pass its values (.to_numpy()) if they are in the order of the cells.",
        )
    return column


def _plain(values: Any, where: str) -> Any:
    """Return values that a one-dimensional column can be made of."""
    if isinstance(values, pd.Categorical):
        return values
    array = np.asarray(values)
    if array.ndim != 1:
        raise SchemaError(
            "is neither the name of a column of obs nor one value for each cell",
            where=where,
            value=f"its shape is {array.shape}",
        )
    return array
