"""The columns of `obs` that describe the cells of a model, for as long as they can be found."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Described"]

_FEW_NAMES = 100
"""Different texts that a column may have on any number of cells; beyond, at most one on two cells."""


class Described:
    """Where the columns are: in the AnnData itself, in the one it is a slice of, or in a copy.

    Both are held weakly, so that a model keeps no AnnData alive. Columns that come into them after the model was made
    are found; when both are gone, or have other cells, those are left that there were at the beginning.

    Parameters
    ----------
    adata
        The cells of the model.
    """

    def __init__(self, adata: AnnData) -> None:
        parent: Any = getattr(adata, "_adata_ref", None) if adata.is_view else None
        self._own = weakref.ref(adata)
        self._parent = None if parent is None else weakref.ref(parent)
        self._names: npt.NDArray[Any] = np.asarray(adata.obs_names, str)
        self._kept = _kept(adata.obs)

    def is_of(self, adata: AnnData) -> bool:
        """Whether this is the very AnnData, with the cells it had: it may have been cut in place."""
        is_it = self._own() is adata
        return is_it and np.array_equal(np.asarray(adata.obs_names, str), self._names)

    @property
    def obs(self) -> pd.DataFrame:
        """The columns there are, (cells, columns), in the order of the cells of the model."""
        own = self._own()
        if own is not None and self.is_of(own):
            frame: pd.DataFrame = own.obs
            return frame
        parent: Any = None if self._parent is None else self._parent()
        if parent is not None and parent.obs_names.is_unique:
            at = pd.Index(np.asarray(parent.obs_names, str)).get_indexer(pd.Index(self._names))
            if (at >= 0).all():
                rows: pd.DataFrame = parent.obs.iloc[at]
                return rows
        return self._kept


def _kept(obs: pd.DataFrame) -> pd.DataFrame:
    """Copy the columns that a group or a query can be made of: categories, truth values, numbers and repeated text."""
    columns = {}
    most = max(_FEW_NAMES, len(obs) // 2)
    for at, name in enumerate(obs.columns):
        column = obs.iloc[:, at]
        plain = isinstance(column.dtype, pd.CategoricalDtype) or pd.api.types.is_numeric_dtype(column.dtype)
        if plain:
            columns[name] = column.copy()
        elif pd.api.types.infer_dtype(column) == "string" and column.nunique() <= most:
            columns[name] = column.astype("category")
    frame = pd.DataFrame(columns, index=obs.index)
    frame.attrs["kept"] = True
    return frame
