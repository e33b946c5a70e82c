"""celbo check."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from celbo.data.check import check as check_data
from celbo.data.read import read
from celbo.data.schema import DataKeys
from celbo.errors import OptionError

__all__ = ["check"]

_NO_KEYS = DataKeys()


def check(*data: str, keys: Annotated[DataKeys, Parameter(name="*")] = _NO_KEYS) -> int:
    """Tell what is in a file, whether it is counts, what is wrong, and which keys to use.

    Every value is looked at. The exit code is 3 where a model cannot be trained on the data as they are.

    Parameters
    ----------
    data
        Files of counts: .h5ad, .zarr, .h5mu, 10x .h5, 10x mtx folder, .loom, .csv, .tsv. Several are joined.
    keys
        See `DataKeys`.
    """
    if not data:
        raise OptionError("are missing", where="the data", fix="Name at least one file of counts.")
    found = check_data(data[0] if len(data) == 1 else read(list(data)), **asdict(keys))
    print(found)
    return 0 if found.ok else 3
