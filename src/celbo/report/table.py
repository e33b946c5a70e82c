"""The tables of genes: rows as JSON in the page, drawn by its script."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from celbo.plots.compared import called, comparisons_of, ranked_genes
from celbo.plots.names import shown
from celbo.report.data import ReportData
from celbo.report.markup import as_json, facts, missing, text

__all__ = [
    "COLUMNS",
    "PER_GROUP",
    "compared_choice",
    "compared_name",
    "compared_rows",
    "gene_json",
    "gene_panel",
    "marker_json",
    "marker_panel",
    "marker_rows",
    "meanings",
]

PER_GROUP = 100
"""Genes of each cluster in the page; the tables beside it hold all."""
MAX_ROWS = 5000

# column: heading, what it means, digits kept
COLUMNS = {
    "group1": ("group", "Group 1: the group of interest", 0),
    "group2": ("against", "Group 2: what group 1 is compared with", 0),
    "comparison": ("comparison", "Group 1 against group 2", 0),
    "gene": ("gene", "Name of the gene", 0),
    "call": ("call", "Whether the gene is called higher or lower in group 1; a dash means no call", 0),
    "lfc_median": ("log2 FC", "Posterior median of the log2 fold change, group 1 over group 2", 2),
    "lfc_lower": ("low", "Lower end of the credible interval of the log2 fold change", 2),
    "lfc_upper": ("high", "Upper end of the credible interval of the log2 fold change", 2),
    "proba_higher": ("P(higher)", "Posterior probability that the gene is higher in group 1", 3),
    "proba_de": ("P(different)", "Posterior probability that the gene differs by more than delta, up or down", 3),
    "bayes_factor": ("Bayes factor", "Natural log of the odds p / (1 - p) of that probability", 2),
    "expected_fdr": (
        "FDR",
        "Expected share of false calls if this gene and all with more evidence are called",
        3,
    ),
    "raw_mean1": ("mean in", "Mean count in group 1", 2),
    "raw_mean2": ("mean out", "Mean count in group 2", 2),
    "detection1": ("found in", "Share of the cells of group 1 with a count", 3),
    "detection2": ("found out", "Share of the cells of group 2 with a count", 3),
    "auroc": (
        "AUROC",
        "Probability that a cell of group 1 has more of the gene, per total count, than one of group 2",
        3,
    ),
    "marker_score": (
        "score",
        "What ranks the genes: the end of the fold change's interval nearer to 0, times the root of 2 AUROC - 1",
        2,
    ),
}
_RANK = ("marker_score", "bayes_factor", "proba_higher", "proba_de", "lfc_median")
_SMALL, _SURE = {"expected_fdr"}, {"proba_higher", "proba_de"}
"""Columns that are told as "<1e-100" near zero, and as ">0.999" near one, where rounding would say 0.000 and 1.000."""
_TEXT = {"group1", "group2", "comparison", "gene", "call"}


def marker_panel(data: ReportData) -> str:
    """Return the controls and the empty table of the marker genes that the script fills."""
    table = marker_rows(data)
    if table is None:
        return missing("No marker genes were computed.")
    groups = list(dict.fromkeys(table["group1"])) if "group1" in table else []
    kept = len(table) < len(data.markers if data.markers is not None else ())
    cut = f"up to {PER_GROUP} genes of each cluster; the full table is in the tables folder" if kept else ""
    tools = _choice(groups, "all clusters", "Cluster")
    return _card("All markers", cut, tools, "its content is in the tables folder, too")


def marker_json(data: ReportData) -> str:
    """Return what the script reads of the marker genes."""
    table = marker_rows(data)
    there = set() if table is None else set(table["gene"])
    own = {shown(name, 80): shown(gene, 80) for gene, name in data.gene_names.items() if name in there}
    return gene_json(table, {"group1": "cluster"}, as_they_come=table is not None and "group1" in table, own=own)


def gene_panel(title: str, cut: str) -> str:
    """Return the controls and the empty table of compared genes that the script fills.

    Parameters
    ----------
    title
        Heading, markup of our own.
    cut
        What is left out, a sentence; "" for nothing.
    """
    return _card(title, cut, "", "the table that was written has the same content")


def _card(title: str, cut: str, tools: str, elsewhere: str) -> str:
    kept = f" <small>{cut}</small>" if cut else ""
    return (
        f'<div class="card"><h3>{title}{kept}</h3><div class="tools">'
        '<input id="marker-gene" type="search" placeholder="Find a gene" aria-label="Find a gene" autocomplete="off">'
        f'{tools}<span class="count" id="marker-count"></span>'
        '<button type="button" id="marker-back">Back</button><button type="button" id="marker-next">Next</button></div>'
        '<div class="scroll"><table id="markers"><thead></thead><tbody></tbody></table></div>'
        f'<noscript><p class="note">This table needs JavaScript; {elsewhere}.</p></noscript></div>'
    )


def _choice(groups: list[str], everything: str, label: str) -> str:
    options = "".join(f'<option value="{text(g, 90)}">{text(g, 60)}</option>' for g in groups)
    return (
        f'<select id="marker-group" aria-label="{label}" autocomplete="off">'
        f'<option value="">{everything}</option>{options}</select>'
    )


def compared_choice(table: pd.DataFrame) -> str:
    """Return the control that chooses one comparison of a table, or all."""
    names = [compared_name(pair, table) for pair in comparisons_of(table)]
    return _choice(names, "all comparisons" if _several_seconds(table) else "all groups", "Group")


def compared_name(pair: tuple[str, str], table: pd.DataFrame) -> str:
    """Return the name that a comparison has in the page, as shown."""
    both = f"{shown(pair[0], 38)} against {shown(pair[1], 38)}"
    return both if _several_seconds(table) else shown(pair[0], 80)


def _several_seconds(table: pd.DataFrame) -> bool:
    return table["group2"].nunique() > 1


def compared_rows(table: pd.DataFrame, most: int = MAX_ROWS) -> pd.DataFrame:
    """Return the rows and columns of a table of differential expression that the page holds.

    The best ranked first (`celbo.plots.compared.ranked_genes`), at most `most` in all, as many of each comparison.
    """
    pairs = comparisons_of(table)
    per_group = max(most // max(len(pairs), 1), 25)
    parts = []
    for (one, other), rows in table.groupby(["group1", "group2"], sort=False, observed=True):
        best = ranked_genes(rows, higher=None).head(per_group)
        calls = np.array([None, "higher", "lower"], object)[called(best)]
        parts.append(best.assign(call=calls, comparison=compared_name((str(one), str(other)), table)))
    found = pd.concat(parts)
    found = found.assign(gene=found.index.astype(str), group1=found["comparison"]).reset_index(drop=True)
    drop = {"group2", "comparison"} if len(pairs) > 1 else {"group1", "group2", "comparison"}
    return found[[c for c in COLUMNS if c in found and c not in drop]]


def meanings(columns: list[str]) -> str:
    """Return what the columns of a table mean, as a list that can be opened."""
    pairs = [(COLUMNS[c][0], text(COLUMNS[c][1])) for c in columns]
    return f'<details class="card"><summary>What the columns mean</summary>{facts(pairs)}</details>'


def gene_json(
    table: pd.DataFrame | None,
    words: dict[str, str] | None = None,
    *,
    as_they_come: bool = False,
    own: dict[str, str] | None = None,
) -> str:
    """Return what the script reads: columns, which are numbers, rows.

    Parameters
    ----------
    table
        The columns and rows to show.
    words
        Headings in place of those of `COLUMNS`.
    as_they_come
        Whether the rows are in the order to show; else the first of `_RANK` that there is sorts them.
    own
        Names in the file of genes that are shown by another: both are found.
    """
    if table is None:
        return "{}"
    columns = [str(c) for c in table.columns if not _says_nothing(table, str(c))]
    table = table[columns]
    sort = -1 if as_they_come else next((columns.index(c) for c in _RANK if c in columns), 0)
    if "marker_score" in columns and (table["marker_score"] < 0).any():
        sort = -1  # genes of both sides by the size of the score, as they come
    return as_json(
        {
            "keys": columns,
            "columns": [(words or {}).get(c, COLUMNS[c][0]) for c in columns],
            "help": [COLUMNS[c][1] for c in columns],
            "number": [_is_number(c) for c in columns],
            "digits": [COLUMNS[c][2] for c in columns],
            "share": [c.startswith("detection") for c in columns],
            "small": [c in _SMALL for c in columns],
            "sure": [c in _SURE for c in columns],
            "gene": columns.index("gene"),
            "own": own or {},
            "group": columns.index("group1") if "group1" in columns else 0,
            "sort": sort,
            "rows": [[_cell(v, c) for v, c in zip(row, columns, strict=True)] for row in table.itertuples(index=False)],
        }
    )


def marker_rows(data: ReportData) -> pd.DataFrame | None:
    """Return the rows and columns of the markers that the page holds; None where there is nothing.

    Cluster by cluster, in each the genes that tell it apart best first (`celbo.plots.compared.ranked_genes`, the one
    ranking of markers), named as they are shown, at most `PER_GROUP` of them.
    """
    markers = data.markers
    if markers is None or markers.empty:
        return None
    named = markers.set_axis([str(gene) for gene in markers.index])
    if "group1" in named:
        named = named.assign(group1=[str(group) for group in named["group1"]])
        per_group = max(min(PER_GROUP, MAX_ROWS // max(named["group1"].nunique(), 1)), 5)
        parts = [_ranked(rows).head(per_group) for _, rows in named.groupby("group1", sort=False)]
    else:
        parts = [_ranked(named).head(PER_GROUP)]
    table = pd.concat(parts).head(MAX_ROWS)
    table = table.assign(gene=[data.gene(str(gene)) for gene in table.index]).reset_index(drop=True)
    if "group2" in table and table["group2"].nunique() < 2:
        table = table.drop(columns="group2")
    return table[[c for c in COLUMNS if c in table]]


def _ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one cluster in the order of the ranking, those that are lower there last."""
    rows = rows[~rows.index.duplicated()]
    if "bayes_factor" not in rows or "lfc_median" not in rows:
        by = [c for c in _RANK if c in rows]
        return rows.sort_values(by, ascending=False, kind="stable") if by else rows
    best = ranked_genes(rows)
    return pd.concat([best, rows.drop(index=best.index)])


def _is_number(column: str) -> bool:
    return column not in _TEXT


def _says_nothing(table: pd.DataFrame, column: str) -> bool:
    """Whether a column of probabilities reads the same in every row."""
    if column not in _SMALL | _SURE or len(table) < 2:
        return False
    values = table[column].to_numpy(np.float64)
    return bool((values < 1e-100).all() if column in _SMALL else (values > 0.9995).all())


def _cell(value: Any, column: str) -> str | float | None:
    """Return a value as it is in the page; infinite ones as 1e308, which the script tells as infinite."""
    if not _is_number(column):
        return shown(value, 80) if isinstance(value, str) else None
    number = float(value)
    if np.isnan(number):
        return None
    if np.isinf(number):
        return float(np.copysign(1e308, number))
    return float(f"{number:.3g}") if column in _SMALL else round(number, COLUMNS[column][2])
