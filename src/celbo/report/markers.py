"""A card for each cluster: its name, its cells, what it is made of, and the ten genes that tell it apart best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from celbo.plots.names import shown
from celbo.report.data import Categories, ReportData
from celbo.report.markup import as_json, name, palette_of, text
from celbo.report.table import marker_rows

__all__ = ["marker_cards"]

N_GENES = 10
"""Genes of a card."""
MAX_CARDS = 60
"""Clusters with a card; the table has all."""
_PARTS = 6
"""Parts of a bar that have a colour of their own in a card; the smaller ones are one."""
_REST = "#b4b8bf"


def marker_cards(data: ReportData) -> str:
    """Return the cards of all clusters with the filters above them; "" where there are no markers by cluster."""
    table = marker_rows(data)
    if table is None or "group1" not in table:
        return ""
    parts = {str(group): rows for group, rows in table.groupby("group1", sort=False, observed=True)}
    found = data.clusters
    order = [n for n in found.names if n in parts] if found is not None else []
    order += [group for group in parts if group not in order]
    cards = "".join(_card(data, group, parts[group]) for group in order[:MAX_CARDS])
    more = len(order) - MAX_CARDS
    rest = f'<p class="note">{more} more clusters are in the table below.</p>' if more > 0 else ""
    return f'{_filters(table)}<div class="marker-cards">{cards}</div>{rest}'


def _filters(table: pd.DataFrame) -> str:
    """Return the fields that choose the genes of the cards and of the table."""
    fields = [
        ("lfc_median", "least", "log2 fold change at least", "0.25"),
        ("detection1", "least", "found in at least, % of the cluster", "5"),
        ("detection2", "most", "found in at most, % of the others", "5"),
    ]
    inputs = "".join(
        f'<label>{words} <input type="number" min="0" step="{step}" inputmode="decimal" autocomplete="off" '
        f'data-column="{column}" data-side="{side}"></label>'
        for column, side, words, step in fields
        if column in table
    )
    return f'<div class="tools marker-filters">{inputs}</div>' if inputs else ""


def _card(data: ReportData, group: str, rows: pd.DataFrame) -> str:
    title, cells = _title(data, group)
    best = rows.head(N_GENES)
    lines = "".join(_line({str(name): value for name, value in row.items()}) for row in best.to_dict("records"))
    copied = text(as_json([shown(gene, 80) for gene in best["gene"]]), 100_000)
    head = "<tr><th>gene</th>" + "".join(
        f'<th class="{kind}">{word}</th>'
        for column, kind, word in (("lfc_median", "number", "log2 FC"), ("detection1", "", "found in / out"))
        if column in rows
    )
    return (
        f'<article class="card marker-card" data-group="{text(shown(group, 80), 90)}"><h3>{title}</h3>{cells}'
        f'{_doubt(data.markers, group)}<table class="genes" data-unsaved><thead>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table>"
        f'<div class="save"><button type="button" data-copy="{copied}">Copy genes</button></div></article>'
    )


def _doubt(markers: pd.DataFrame | None, group: str) -> str:
    """Return a line that says so where no gene of the cluster is called higher."""
    if markers is None or not {"is_de", "lfc_median", "group1"} <= set(markers):
        return ""
    rows = markers[markers["group1"].astype(str) == group]
    if (rows["is_de"].to_numpy(bool) & (rows["lfc_median"].to_numpy() > 0)).any():
        return ""
    return '<p class="note">No gene is called higher here; these come nearest.</p>'


def _title(data: ReportData, group: str) -> tuple[str, str]:
    """Return the heading of a card, and its cells with the bars of what they are."""
    found = data.clusters
    if found is None or group not in found.names:
        return name(group, 60), ""
    code = found.names.index(group)
    named = data.cluster_names[code]
    label = f" {name(named.label, 60)}" if named.label else ""
    members = found.codes == code
    share = members.sum() / max(data.n_cells, 1)
    bars = "".join(
        _bar(groups, members, word)
        for groups, word in ((data.labels, "label"), (data.batch, "batch"))
        if groups is not None and len(groups.names) > 1
    )
    cells = f'<p class="note">{members.sum():,} cells, {100 * share:.1f}% of all</p>{bars}'
    return f'<b class="number">{name(named.number, 40)}</b>{label}', cells


def _bar(groups: Categories, members: Sequence[bool] | np.ndarray, word: str) -> str:
    """Return what a cluster's cells are as one bar with the largest parts written below."""
    codes = groups.codes[np.asarray(members)]
    counts = np.bincount(codes[codes >= 0], minlength=len(groups.names))
    total = int(counts.sum())
    if not total:
        return f'<p class="note made-of">no cell has a known {word}</p>'
    palette = palette_of(groups)
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    parts = [(palette[i], groups.names[i], int(counts[i])) for i in order[:_PARTS]]
    rest = total - sum(n for _, _, n in parts)
    if rest:
        parts.append((_REST, f"{len(order) - _PARTS} others", rest))
    bar = "".join(
        f'<i style="background:{colour};width:{100 * n / total:.2f}%" title="{text(f"{shown(title, 60)}: {n:,}")}"></i>'
        for colour, title, n in parts
    )
    told = ", ".join(f"{name(title, 24)} {100 * n / total:.0f}%" for _, title, n in parts[:2])
    return f'<div class="made-of"><div class="bar">{bar}</div><p class="note">by {word}: {told}</p></div>'


def _line(row: dict[str, object]) -> str:
    """Return one gene: its name, fold change, and how many cells of the cluster and of the others have it."""
    gene = str(row["gene"])
    out = f'<tr><td class="gene"><button type="button" data-gene="{text(gene, 80)}">{text(gene, 24)}</button></td>'
    if "lfc_median" in row:
        fold = float(row["lfc_median"])  # type: ignore[arg-type]
        out += f'<td class="number">{"–" if np.isnan(fold) else f"{fold:.2f}".replace("-", "−")}</td>'
    if "detection1" in row:
        shares = [float(row[c]) for c in ("detection1", "detection2") if c in row]  # type: ignore[arg-type]
        bars = "".join(f'<i style="width:{100 * s:.0f}%"></i>' for s in shares)
        told = " / ".join(f"{100 * s:.0f}%" for s in shares)
        out += f'<td class="found"><span class="bars">{bars}</span>{told}</td>'
    return out + "</tr>"
