"""What figures are given, as numbers; and a named error where it is something else, such as an AnnData."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celbo.errors import InputError

__all__ = ["numbers"]


def numbers(values: ArrayLike, where: str, *, slot: str = "adata.obs['n_counts']") -> NDArray[np.float64]:
    """Return values as float64, in their shape.

    Parameters
    ----------
    values
        Numbers; missing ones as NaN.
    where
        Name of the argument, for the error.
    slot
        What to pass in place of a whole AnnData.

    Raises
    ------
    InputError
        If they are not numbers.
    """
    if hasattr(values, "obs_names"):
        fix = f"Pass an array of it, such as {slot}."
        raise InputError("is an AnnData, not an array", where=where, fix=fix)
    if hasattr(values, "toarray"):
        values = values.toarray()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        value, fix = repr(values)[:60], "Pass an array of numbers."
        raise InputError("does not hold numbers", where=where, value=value, fix=fix) from None
