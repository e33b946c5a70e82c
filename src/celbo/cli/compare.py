"""celbo compare: several methods on one data set."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from celbo.cli.options import DEFAULT_LOG, LogOptions, Switch, logged
from celbo.data.schema import Orientation
from celbo.errors import OptionError, say
from celbo.pipeline.options import CompareConfig

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare"]

Flat = Parameter(name="*")
_DEFAULT = CompareConfig()
_SHORT = {
    "log_likelihood": ("held-out ll", 1),
    "mcv_deviance": ("denoising", 3),
    "ari": ("k-means ARI", 2),
    "batch_silhouette": ("mixing", 2),
    "seed_overlap": ("other seed", 2),
    "parameter_overlap": ("other par.", 2),
    "seconds": ("seconds", 1),
}
"""Columns that are printed: heading and digits."""


def compare(
    *data: str,
    out: Path,
    layer: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    round_counts: Switch = False,
    orientation: Orientation = "auto",
    options: Annotated[CompareConfig, Flat] = _DEFAULT,
    resume: Switch = False,
    force: Switch = False,
    log: Annotated[LogOptions, Flat] = DEFAULT_LOG,
) -> int:
    """Compare methods on your data: which explains the counts, denoises, finds cell types, mixes batches, stays put.

    Every method sees the same genes and the same cells. The folder --out holds compare.html, tables/ and versions.yml.

    Parameters
    ----------
    data
        Files of counts, named before --methods: .h5ad, .zarr, .h5mu, 10x .h5, 10x mtx folder, .loom, .csv, .tsv.
        Several are joined.
    out
        Folder to write to.
    layer
        Layer with the counts; by default X.
    batch_key
        Column of obs with the batch of each cell.
    labels_key
        Column of obs with the known label (cell type) of each cell, used to judge the methods only.
    round_counts
        Round decimals (of SoupX, decontX, RSEM, EM counts) to the nearest whole numbers.
    orientation
        What the rows of a text table (.csv, .tsv, .txt) are; auto tells by their names.
    options
        See `CompareConfig`.
    resume
        Continue the comparison in --out where it was stopped.
    force
        Replace the comparison in --out, once this one is finished.
    log
        See `LogOptions`.
    """
    if not data:
        raise OptionError("names no file", where="celbo compare", fix="Name the files of counts before --methods.")
    from celbo.pipeline.compare import compare as compare_methods

    with logged(log):
        found = compare_methods(
            list(data),
            config=options,
            layer=layer,
            batch_key=batch_key,
            labels_key=labels_key,
            round_counts=round_counts,
            orientation=orientation,
            out=out,
            resume=resume,
            force=force,
            command=shlex.join(["celbo", *sys.argv[1:]]),
        )
    say(in_short(found))
    say(f"\n{out / 'compare.html'}")
    return 0


def in_short(table: pd.DataFrame) -> str:
    """Return the main columns as text, the best number of each marked by a star, and what failed.

    Parameters
    ----------
    table
        What `celbo.compare` returns.
    """
    from celbo.evaluate.comparison import COLUMNS

    better = {column.name: column.better for column in COLUMNS}
    cells: dict[str, list[str]] = {}
    for name, (heading, digits) in _SHORT.items():
        if name in table and table[name].notna().any():
            best = table[name].max() if better[name] == "higher" else table[name].min()
            sign = "+" if better[name] == "higher" else "-"
            cells[f"{heading} {sign}"] = [_number(value, digits, value == best) for value in table[name]]
    lines = ["No method could be run."]
    if len(table):
        names = [str(name) for name in table.index]
        first = max(map(len, [*names, "method"]))
        widths = [max(map(len, [heading, *column])) for heading, column in cells.items()]
        rows = zip(["method", *names], *([heading + " ", *column] for heading, column in cells.items()), strict=True)
        lines = [
            "  ".join([f"{row[0]:<{first}}", *(f"{c:>{w + 1}}" for c, w in zip(row[1:], widths, strict=True))]).rstrip()
            for row in rows
        ]
        lines.append("\n+ more is better, - less is better, * the best")
    failures: dict[str, Any] = table.attrs.get("failures", {})
    return "\n".join([*lines, *(f"failed: {name}: {why}" for name, why in failures.items())])


def _number(value: float, digits: int, is_best: bool) -> str:
    return "- " if math.isnan(value) else f"{value:,.{digits}f}{'*' if is_best else ' '}"
