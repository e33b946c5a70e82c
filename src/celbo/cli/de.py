"""celbo de: which genes groups of cells express differently."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from celbo.cli.options import DEFAULT_LOG, LogOptions, logged, table
from celbo.data.schema import Orientation
from celbo.errors import say
from celbo.pipeline.options import DifferentialConfig

__all__ = ["de"]

Flat = Parameter(name="*")
_DEFAULT = DifferentialConfig()


def de(
    model: Path,
    *data: str,
    options: Annotated[DifferentialConfig, Flat] = _DEFAULT,
    out: Path = Path("de.csv"),
    orientation: Orientation = "auto",
    report: Path | None = None,
    layer: str | None = None,
    log: Annotated[LogOptions, Flat] = DEFAULT_LOG,
) -> int:
    """Write the genes that groups of cells express differently, by the model's posterior.

    Fold changes with credible intervals, the probability of a difference, and calls at an expected false discovery
    rate. With --groupby alone, each group against all others.

    Parameters
    ----------
    model
        Folder of a model or of a run.
    data
        Files of counts; by default the cells of the run.
    options
        See `DifferentialConfig`.
    out
        Table to write: .csv, .tsv or .parquet.
    orientation
        What the rows of a text table (.csv, .tsv, .txt) are; auto tells by their names.
    report
        Page to write: .html, with figures and a table that can be sorted and searched.
    layer
        Layer with the counts, X for X; by default that of the model, or X where it is missing.
    log
        See `LogOptions`.
    """
    options.require_groups()
    from celbo.pipeline.ask import Asked
    from celbo.pipeline.de import compare_groups, differential_page
    from celbo.report.differential import write_differential_page
    from celbo.results import refuse_inputs, table_path, write_frame

    table_path(out)
    for path in (out, report):
        if path is not None:
            refuse_inputs(path, model, data)
    with logged(log):
        asked = Asked.open(model, data, layer=layer, orientation=orientation)
        found = compare_groups(asked, options)
        write_frame(found.table, out)
        if report is not None:
            source, command = ", ".join(data) or str(model), shlex.join(["celbo", *sys.argv[1:]])
            page = differential_page(asked, options, found, source=source, command=command)
            write_differential_page(page, report)
    written = [("table", str(out)), ("report", str(report or ""))]
    say(table([("called", found.in_short), *((name, path) for name, path in written if path)]))
    return 0
