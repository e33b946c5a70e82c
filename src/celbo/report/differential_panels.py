"""The sections of the page of differential expression, one function each: what was found in, markup out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from celbo import plots
from celbo.plots.compared import (
    REST,
    called,
    comparisons_of,
    expression_of,
    one_comparison,
    ranked_genes,
    top_genes,
)
from celbo.plots.style import new_axes
from celbo.report.figures import inline_svg
from celbo.report.markup import card, facts, missing, name, section, text
from celbo.report.panels import dot_key
from celbo.report.table import COLUMNS, compared_choice, compared_name, compared_rows, gene_panel, meanings

if TYPE_CHECKING:
    from celbo.report.differential import DifferentialPage

__all__ = ["headline", "key_numbers", "sections"]

MAX_DRAWN = 40
"""Comparisons with figures of their own; the table has all."""
MAX_GROUPS, MAX_DOTS = 60, 120
"""Groups and genes of the dot plot."""


def sections(page: DifferentialPage) -> str:
    """Return all sections, in order."""
    parts = (in_short, groups, genes, made)
    return "\n".join(part(page) for part in parts)


def key_numbers(page: DifferentialPage) -> str:
    """Return the numbers of the header."""
    table, pairs = page.table, comparisons_of(page.table)
    n_genes = int(table.index.nunique())
    more = "higher or lower" if len(pairs) == 1 else f"in at least one of {len(pairs)} groups"
    items = [
        ("cells", f"{page.n_cells:,}", "in the data"),
        ("genes", f"{n_genes:,}", "that the model knows"),
        ("groups" if len(pairs) > 1 else "comparison", f"{len(pairs):,}", _against(pairs)),
        ("genes called", f"{table.index[table['is_de'].to_numpy(bool)].nunique():,}", more),
    ]
    if page.fdr_target is not None:
        items.append(("expected false", _percent(page.fdr_target), "of the calls, at most"))
    return "\n".join(
        f'<div><dt>{title}</dt><dd class="big">{value}</dd><dd class="more">{under}</dd></div>'
        for title, value, under in items
    )


def headline(page: DifferentialPage) -> str:
    """Return what was found in one or two sentences, as markup."""
    table, pairs = page.table, comparisons_of(page.table)
    n, found = int(table.index.nunique()), int(table.index[table["is_de"].to_numpy(bool)].nunique())
    if len(pairs) > 1:
        among = f"in at least one of {len(pairs)} comparisons ({_against(pairs)})"
    else:
        first, second = (_titled(page, group) for group in pairs[0])
        among = f"between {name(first)} and {name(second)}"
    rule = _rule(page, found)
    target = "" if page.fdr_target is None else f", at an expected false discovery rate of {_percent(page.fdr_target)}"
    target += " in each of them" if target and len(pairs) > 1 else ""
    told = f"Of {n:,} genes, <b>{found:,}</b> {rule} {among}{target}"
    if len(pairs) > 1:
        return f"{told}.{_batches(page)}"
    calls, first = called(table), _titled(page, pairs[0][0])
    higher, lower = int((calls > 0).sum()), int((calls < 0).sum())
    return (
        f"{told}: {higher:,} {'is' if higher == 1 else 'are'} higher in {name(first)}, {lower:,} lower.{_batches(page)}"
    )


def _batches(page: DifferentialPage) -> str:
    """Return what the finding says of batches that are the groups, as markup."""
    table = page.table
    if "confounded" not in table or not table["confounded"].any():
        return ""
    alone = comparisons_of(table[table["confounded"].to_numpy(bool)])
    if len(alone) == len(comparisons_of(table)):
        return " <b>No batch holds both groups, so this includes the difference of their batches.</b>"
    return (
        f" <b>For {', '.join(name(_titled(page, first)) for first, _ in alone[:8])} no batch holds both groups: "
        "what is told of these includes the difference of the batches.</b>"
    )


def _rule(page: DifferentialPage, found: int) -> str:
    """Return what a called gene does."""
    one = found == 1
    if "proba_higher" in page.table:
        return f"{'has' if one else 'have'} odds above 20 to 1 (a Bayes factor above 3) for one direction"
    deltas = page.table["delta"].dropna().unique() if "delta" in page.table else np.empty(0)
    if len(deltas) == 0 or float(deltas.max()) <= 0:
        return "differs" if one else "differ"
    low, high = (f"{2 ** float(d):.2f}" for d in (deltas.min(), deltas.max()))
    fold = f"{low}-fold" if low == high else f"{low} to {high}-fold"
    size = f"{float(deltas.min()):.3g}" if low == high else f"{float(deltas.min()):.3g} to {float(deltas.max()):.3g}"
    return f"{'differs' if one else 'differ'} by more than {fold} (delta {size} in log2)"


def in_short(page: DifferentialPage) -> str:
    """Return the finding, the warnings, and how to read it."""
    items = "".join(f"<li>{text(w, 600)}</li>" for w in page.warnings)
    warned = f'<div class="warnings"><h3>Before you trust what follows</h3><ul>{items}</ul></div>' if items else ""
    notes = "".join(f'<p class="note">{text(n, 600)}</p>' for n in page.notes)
    return (
        f'<section id="short"><h2>In short</h2><p class="headline">{headline(page)}</p>{warned}'
        f'<div class="notes">{notes}</div></section>'
    )


def groups(page: DifferentialPage) -> str:
    """Return one line a comparison; nothing where there is one only."""
    pairs = comparisons_of(page.table)
    if len(pairs) < 2:
        return ""
    head = "".join(
        f'<th scope="col"{kind}>{title}</th>'
        for title, kind in (
            ("group", ""), ("cells", ' class="number"'), ("higher", ' class="number"'), ("lower", ' class="number"'),
            ("top genes", ""),
        )
    )  # fmt: skip
    body = "".join(_group_row(page, pair) for pair in pairs)
    return section(
        "groups",
        "The groups",
        see="One row for each group: its cells, how many genes are called higher and lower in it, and its top genes.",
        look="Click a group to see its figures and genes. Few calls in a small group may be for want of cells.",
        body=[f'<div class="card"><div class="scroll"><table id="group-table"><thead><tr>{head}</tr></thead>'
              f"<tbody>{body}</tbody></table></div></div>"],
    )  # fmt: skip


def _group_row(page: DifferentialPage, pair: tuple[str, str]) -> str:
    rows, shown = one_comparison(page.table, pair), text(compared_name(pair, page.table), 90)
    calls = called(rows)
    size = f"{page.sizes[pair[0]]:,}" if pair[0] in page.sizes else "–"
    best = "".join(f"<bdi>{text(gene, 24)}</bdi>" for gene in top_genes(rows[calls > 0], 6)) or "none called"
    return (
        f'<tr><th scope="row"><button type="button" data-group="{shown}">{shown}</button></th>'
        f'<td class="number">{size}</td><td class="number up">{(calls > 0).sum():,}</td>'
        f'<td class="number down">{(calls < 0).sum():,}</td><td class="names">{best}</td></tr>'
    )


def genes(page: DifferentialPage) -> str:
    """Return the figures of each comparison, one shown at a time, and the table of all."""
    pairs = comparisons_of(page.table)
    shown = compared_rows(page.table)
    cut = "" if len(shown) == len(page.table) else (
        f"the first {len(shown) // len(pairs):,}{' of each' * (len(pairs) > 1)}; the table that was written has all"
    )  # fmt: skip
    level = _percent(page.credible_level)
    choose = f'<div class="tools choose"><b>Show</b>{compared_choice(page.table)}</div>' if len(pairs) > 1 else ""
    panels = [_dots(page.table, alone=len(pairs) == 1), *_figures(page, pairs, level)]
    columns = [c for c in COLUMNS if c in shown]
    return section(
        "genes",
        "The genes",
        see="Each point is a gene: orange ones are called higher in the group, blue ones lower, grey ones not at all. "
        f"The log2 fold change shown is the one that was tested; bars are {level} credible intervals.",
        look="Calls on both sides and over the whole range of expression. Genes between the dashed lines (the band) "
        "change by less than delta.",
        body=[choose, *panels, gene_panel("All genes", cut), meanings(columns)],
    )


def _dots(table: pd.DataFrame, *, alone: bool) -> str:
    """Return the dot plot: the panel of all groups together."""
    mean, fraction = expression_of(table, n_genes=10 if alone else 3)
    mean, fraction = mean.iloc[:MAX_GROUPS, :MAX_DOTS], fraction.iloc[:MAX_GROUPS, :MAX_DOTS]
    if not mean.shape[1]:
        return missing("No gene has a fold change.")
    step = float(np.clip(980 / mean.shape[1], 19, 30))
    ax = new_axes(110 + step * max(mean.shape[1], 4), 96 + 21 * max(len(mean), 2))
    plots.plot_dotplot(mean, fraction, genes=list(mean.columns), groups=list(mean.index), ax=ax)
    drawn = inline_svg(ax, "dots", "expected expression and detection of the top genes in each group")
    body = card("Top genes of each group", f'<div class="scroll">{drawn}</div>{dot_key("group")}', kind="chart")
    return f'<div class="compared" data-group="{"*" if alone else ""}">{body}</div>'


def _figures(page: DifferentialPage, pairs: list[tuple[str, str]], level: str) -> Iterator[str]:
    """Yield volcano, MA and intervals of each comparison."""
    table = page.table
    for i, pair in enumerate(pairs[:MAX_DRAWN]):
        rows = ranked_genes(one_comparison(table, pair), higher=None)
        between = f"{pair[0]} against {_other(pair[1])}"
        drawn = (
            (plots.plot_volcano(rows, ax=new_axes(350, 320)), "volcano", "Evidence <small>against fold change</small>"),
            (plots.plot_ma(rows, ax=new_axes(350, 320)), "ma", "Fold change <small>against expression</small>"),
            (plots.plot_lfc_intervals(rows, 15, ax=new_axes(350, 320)), "intervals",
             f"Top genes <small>{level} credible intervals</small>"),
        )  # fmt: skip
        cards = "".join(
            card(title, inline_svg(ax, f"{kind}-{i}", f"{kind}: {between}"), kind="chart") for ax, kind, title in drawn
        )
        which = text(compared_name(pair, table), 90)
        first, second = (name(_titled(page, group)) for group in pair)
        head = f"<h3>{first} <small>against {second}</small></h3>" if len(pairs) > 1 else ""
        yield f'<div class="compared" data-group="{which}">{head}<div class="grid three">{cards}</div></div>'
    for pair in pairs[MAX_DRAWN:]:
        which = text(compared_name(pair, table), 90)
        words = f"Only the first {MAX_DRAWN} comparisons have figures; the table below has the genes of all."
        yield f'<div class="compared" data-group="{which}">{missing(words)}</div>'


def made(page: DifferentialPage) -> str:
    """Return how it was made."""
    parts = []
    if page.command:
        parts.append(f'<div class="card"><h3>Command</h3><pre>{text(page.command, 4000)}</pre></div>')
    cards = []
    if page.settings:
        cards.append(card("Settings", facts((k, text(_plain(v), 200)) for k, v in page.settings.items())))
    if page.versions:
        cards.append(card("Versions", facts((k, text(v, 60)) for k, v in page.versions.items())))
    if cards:
        parts.append(f'<div class="grid two">{"".join(cards)}</div>')
    return f'<section id="made"><h2>How it was made</h2>{"".join(parts)}</section>' if parts else ""


def _against(pairs: list[tuple[str, str]]) -> str:
    """Return what the groups are compared with, as markup."""
    others = list(dict.fromkeys(other for _, other in pairs))
    if len(others) > 1:
        return "two by two"
    return f"{'each against ' if len(pairs) > 1 else 'against '}{name(_other(others[0]), 40)}"


def _other(group2: str) -> str:
    return "the rest" if group2 == REST else group2


def _titled(page: DifferentialPage, group: str) -> str:
    """Return the name of a group; of one that is a number, with the column's name before it."""
    return f"{page.groupby} {group}" if group.isdecimal() and page.groupby else _other(group)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "chosen from the data" if value is None else str(value)


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
