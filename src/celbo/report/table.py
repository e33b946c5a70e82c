"""The marker table: rows as JSON in the page, drawn by its script."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from celbo.plots.names import shown
from celbo.report.data import ReportData
from celbo.report.markup import as_json, missing, text

__all__ = ["PER_GROUP", "marker_json", "marker_panel"]

PER_GROUP = 100
"""Genes of each cluster in the page; the tables beside it hold all."""
MAX_ROWS = 5000

# column: heading, what it means, digits kept
_COLUMNS = {
    "group1": ("cluster", "Cluster that is compared with the rest", 0),
    "group2": ("against", "What it is compared with", 0),
    "gene": ("gene", "Name of the gene", 0),
    "proba_higher": ("P(higher)", "Posterior probability that the gene is higher in the cluster", 3),
    "proba_de": ("P(different)", "Posterior probability that the gene differs by more than the threshold", 3),
    "bayes_factor": ("Bayes factor", "Natural log of the odds that it is higher", 2),
    "lfc_median": ("log2 fold change", "Median of the posterior log2 ratio of expression", 2),
    "raw_mean1": ("mean in", "Mean count in the cluster", 2),
    "raw_mean2": ("mean out", "Mean count in the rest", 2),
    "detection1": ("found in", "Share of the cluster's cells with a count", 3),
    "detection2": ("found out", "Share of the other cells with a count", 3),
}
_RANK = ("bayes_factor", "proba_higher", "proba_de", "lfc_median")


def marker_panel(data: ReportData) -> str:
    """Return the controls and the empty table that the script fills."""
    table = _prepared(data.markers)
    if table is None:
        return missing("No marker genes were computed.")
    groups = [shown(g, 80) for g in dict.fromkeys(table["group1"])] if "group1" in table else []
    options = "".join(f'<option value="{text(g, 90)}">{text(g, 60)}</option>' for g in groups)
    kept = "" if len(table) == len(data.markers if data.markers is not None else ()) else (
        f" <small>the first {PER_GROUP} of each cluster at most; the tables folder has all</small>"
    )  # fmt: skip
    return (
        f'<div class="card"><h3>All markers{kept}</h3><div class="tools">'
        '<input id="marker-gene" type="search" placeholder="Find a gene" aria-label="Find a gene" autocomplete="off">'
        f'<select id="marker-group" aria-label="Cluster"><option value="">all clusters</option>{options}</select>'
        '<span class="count" id="marker-count"></span>'
        '<button type="button" id="marker-back">Back</button><button type="button" id="marker-next">Next</button></div>'
        '<div class="scroll"><table id="markers"><thead></thead><tbody></tbody></table></div>'
        '<noscript><p class="note">This table needs JavaScript; the tables folder has the same.</p></noscript></div>'
    )


def marker_json(data: ReportData) -> str:
    """Return what the script reads: columns, which are numbers, rows."""
    table = _prepared(data.markers)
    if table is None:
        return "{}"
    columns = list(table.columns)
    sort = next((columns.index(c) for c in _RANK if c in columns), 0)
    return as_json(
        {
            "columns": [_COLUMNS[c][0] for c in columns],
            "help": [_COLUMNS[c][1] for c in columns],
            "number": [_is_number(c) for c in columns],
            "digits": [_COLUMNS[c][2] for c in columns],
            "share": [c.startswith("detection") for c in columns],
            "gene": columns.index("gene"),
            "group": columns.index("group1") if "group1" in columns else 0,
            "sort": sort,
            "rows": [[_cell(v, c) for v, c in zip(row, columns, strict=True)] for row in table.itertuples(index=False)],
        }
    )


def _prepared(markers: pd.DataFrame | None) -> pd.DataFrame | None:
    """The columns that are shown, best genes first, cut to `PER_GROUP` a cluster; None where there is nothing."""
    if markers is None or markers.empty:
        return None
    table = markers.reset_index(drop=True).assign(gene=[str(g) for g in markers.index])
    by = [c for c in _RANK if c in table]
    if by:
        table = table.sort_values(by, ascending=False, kind="stable")
    per_group = PER_GROUP
    if "group1" in table:
        table["group1"] = [str(g) for g in table["group1"]]
        per_group = max(min(PER_GROUP, MAX_ROWS // max(table["group1"].nunique(), 1)), 5)
        table = table.groupby("group1", sort=False, observed=True).head(per_group)
    if "group2" in table and table["group2"].nunique() < 2:
        table = table.drop(columns="group2")
    return table.head(MAX_ROWS)[[c for c in _COLUMNS if c in table]]


def _is_number(column: str) -> bool:
    return column not in {"group1", "group2", "gene"}


def _cell(value: Any, column: str) -> str | float | None:
    if not _is_number(column):
        return shown(value, 80)
    kept = round(float(value), _COLUMNS[column][2]) if np.isfinite(value) else None
    return kept
