"""celbo check."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from celbo.cli.options import LogOptions, Switch, logged
from celbo.data.schema import DataKeys, Orientation
from celbo.errors import OptionError, say

__all__ = ["check"]

_NO_KEYS = DataKeys()


def check(
    *data: str,
    keys: Annotated[DataKeys, Parameter(name="*")] = _NO_KEYS,
    orientation: Orientation = "auto",
    as_json: Annotated[Switch, Parameter(name="--json")] = False,
) -> int:
    """Tell what is in a file, whether it is counts, what is wrong, and the command to run.

    Every value is looked at. The exit code is 3 where a model cannot be trained on the data as they are.

    Parameters
    ----------
    data
        Files of counts: .h5ad, .zarr, .h5mu, 10x .h5, 10x mtx folder, .loom, .csv, .tsv. Several are joined.
    keys
        See `DataKeys`.
    orientation
        What the rows of a text table (.csv, .tsv, .txt) are; auto tells by their names.
    as_json
        Print one JSON object, for programs to read: ok, n_cells, n_genes, batches, labels, findings, settings,
        command, forecast, ...
    """
    from celbo.data.check import check as check_data

    if not data:
        raise OptionError("are missing", where="the data", fix="Name at least one file of counts.")
    with logged(LogOptions(quiet=True)):
        found = check_data(list(data), **asdict(keys), orientation=orientation)
    say(json.dumps(found.to_dict(), indent=2) if as_json else found)
    return 0 if found.ok else 3
