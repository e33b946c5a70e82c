"""The sections of the page, one function each: ReportData in, markup out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from celbo import plots
from celbo.errors import logger_of
from celbo.plots.names import shown
from celbo.plots.style import new_axes
from celbo.report import verdict
from celbo.report.data import Categories, ReportData
from celbo.report.figures import inline_svg
from celbo.report.map import maps
from celbo.report.markers import marker_cards
from celbo.report.markup import card, facts, legend, missing, number, palette_of, ramp, section, sizes, strip, text
from celbo.report.provenance import provenance
from celbo.report.purity_table import purity_table
from celbo.report.quality import quality_section
from celbo.report.table import marker_panel
from celbo.report.verdict import Verdict

__all__ = ["dot_key", "drawn", "key_numbers", "sections"]

_log = logger_of("celbo.report")
_KINDS = {
    "batch": "Batches: mixed is good",
    "biology": "Cell types: apart is good",
    "structure": "Structure: how much stays as it was",
}
MAX_GROUPS, MAX_PARTS = 60, 60
"""Clusters in a figure, and colours of a bar; the smallest beyond them are one, "other"."""
MAX_DOTS = 120
"""Genes of the dot plot."""


def sections(data: ReportData) -> str:
    """Return all sections, in order."""
    parts = (in_short, maps, integration, clusters, genes, went_in, quality_section, training, fit, provenance)
    return "\n".join(drawn(part, data) for part in parts)


def drawn(part: Callable[[ReportData], str], data: ReportData, *, instead: str | None = None) -> str:
    """Return a part of the page; where it cannot be drawn, the page lacks that part alone.

    Parameters
    ----------
    part
        Draws it.
    data
        What is shown.
    instead
        What then takes its place; None is a card that says why.
    """
    try:
        return part(data)
    except Exception as error:
        if os.environ.get("CELBO_DEBUG"):
            raise
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        name = part.__name__.replace("_", " ")
        _log.warning("The part %r of the report could not be drawn: %s", name, why)
        if instead is not None:
            return instead
        return f"<section>{missing(f'The section {text(name)!r} could not be drawn: {text(why, 300)}')}</section>"


def key_numbers(data: ReportData) -> str:
    """Return the few numbers of the header."""
    items = [
        ("cells", f"{data.n_cells:,}", _batches_word(data)),
        ("genes modelled", f"{data.n_genes_used:,}", f"of {data.n_genes:,} in the file"),
    ]
    if data.explained is not None:
        cells = f"{data.explained.n_held_out:,} held-out cell{'s' * (data.explained.n_held_out != 1)}"
        items.append(("deviance explained", _percent(data.explained.held_out), f"of the counts of {cells}"))
    if data.clusters is not None:
        found = len(data.clusters.names)
        known = 0 if data.labels is None else len(data.labels.names)
        labels = f"{known or 'no'} known label{'s' * (known != 1)}"
        items.append(("clusters", f"{found}", labels))
    pure = _metric(data.metrics, "label purity")
    if pure is not None:
        items.append(("label purity", _percent(pure), "of a cell's nearest neighbours have its label"))
    if data.ari is not None:
        items.append(("Leiden ARI", number(data.ari), "1 is identical to the labels, 0 is chance"))
    elif data.seconds:
        items.append(("time", _duration(sum(data.seconds.values())), "from file to report"))
    return "\n".join(
        f'<div><dt>{title}</dt><dd class="big">{value}</dd><dd class="more">{more}</dd></div>'
        for title, value, more in items
    )


def in_short(data: ReportData) -> str:
    """Return the verdicts of all sections, each linked to its own."""
    n = len(data.warnings)
    first = shown(data.warnings[0], 220) if n else "No warning about the data."
    found = f"{first} ({n - 1} more below.)" if n > 1 else first
    look = Verdict("fair" if n else "good", f"{n} warning{'s' * (n != 1)}" if n else "clean", found)
    rows: list[tuple[str, str, Verdict | None]] = [
        ("data", "Data", look),
        ("training", "Training", None if data.history is None else _training_verdict(data)),
        ("integration", "Batches", verdict.mixing(data.metrics)),
        ("integration", "Labels", _biology(data)),
        ("fit", "Model fit", _fit(data)),
    ]
    lines = "".join(
        f'<li><a href="#{key}">{title}</a><span class="badge {v.level}">{text(v.word)}</span>'
        f"<p>{text(v.sentence, 400)} <span>{text(v.advice, 400) if v.advice else ''}</span></p></li>"
        for key, title, v in rows
        if v is not None
    )
    return f'<section id="short"><h2>In short</h2><ul class="card short">{lines}</ul>{_warnings(data)}</section>'


def went_in(data: ReportData) -> str:
    """Return the section on the data."""
    modelled = "" if data.n_genes_used == data.n_genes else f" <small>({data.n_genes_used:,} of them modelled)</small>"
    known = [("Cells", f"{data.n_cells:,}"), ("Genes", f"{data.n_genes:,}{modelled}")]
    if data.library is not None and len(data.library):
        known.append(("Counts per cell", _spread(data.library)))
    if data.detected is not None and len(data.detected):
        known.append(("Genes per cell", _spread(data.detected)))
    if data.zero_fraction is not None and len(data.zero_fraction):
        known.append(("Zeros in the matrix", f"{100 * float(np.mean(data.zero_fraction)):.1f}%"))
    if data.batch is None or len(data.batch.names) < 2:
        known.append(("Batches", "one"))
    if data.labels is None:
        known.append(("Known labels", "none given"))
    cards = [card("The file", facts(known, "facts stacked"))]
    for group, title in ((data.batch, "Cells by batch"), (data.labels, "Cells by label")):
        if group is not None and (len(group.names) > 1 or title.endswith("label")):
            cards.append(card(title + _column(group, title), sizes(group, palette_of(group))))
    return section(
        "data",
        "What went in",
        see="The counts as they were read, before any model.",
        look="Two humps in counts or genes per cell point to empty droplets, doublets, or batches of different depth.",
        body=[
            "".join(f'<p class="note">{text(note, 600)}</p>' for note in data.notes),
            f'<div class="grid {"three" if len(cards) == 3 else "two"}">{"".join(cards)}</div>',
            f'<div class="grid three">{"".join(_histograms(data))}</div>',
        ],
    )


def training(data: ReportData) -> str:
    """Return the section on training."""
    history = data.history
    body: list[str] = []
    if history is None or history.empty:
        body.append(missing("No training history was recorded."))
    else:
        body.append(strip(_training_verdict(data)))
        panels = [
            ("objective", "Objective <small>the loss with its sign changed</small>", "objective_"),
            ("elbo", "ELBO <small>evidence lower bound</small>", "elbo_"),
            ("kl", "KL divergence <small>information in the latent space</small>", "kl_z"),
            ("learning_rate", "Learning rate", "learning_rate"),
        ]
        cards = []
        for what, title, column in panels:
            if any(str(c).startswith(column) and history[c].notna().any() for c in history):
                best = data.best_epoch if what in ("elbo", "objective") else None
                ax = plots.plot_training(history, what, best_epoch=best, ax=new_axes(350, 240))  # type: ignore[arg-type]
                cards.append(_chart(title, inline_svg(ax, f"training-{what}", f"{what} over epochs")))
        body.append(f'<div class="grid three">{"".join(cards)}</div>')
    return section(
        "training",
        "Training",
        see="What training maximises (the ELBO, where the model has one), for training cells and for held-out cells.",
        look="Both curves flat at the end and close together, no jumps. A falling validation curve means overfitting.",
        body=body,
    )


def integration(data: ReportData) -> str:
    """Return the section of the integration metrics."""
    body: list[str] = []
    table = data.metrics
    if table is None or table.empty:
        body.append(missing("There is nothing to compare: this needs at least two batches or two known labels."))
    else:
        body += [strip(v) for v in (verdict.mixing(table), _biology(data)) if v is not None]
        key = '<i class="key"></i>before<i class="key full"></i>after' if "before" in table else ""
        body.append(
            f'<div class="card"><table class="metrics"><tr><th></th><th>{key}</th><th class="value">before</th>'
            f'<th class="value">after</th><th>reading</th></tr>{"".join(_metric_rows(table))}</table></div>'
        )
        body.append(purity_table(data.purity))
        lacking = set(_KINDS) - set(table["kind"])
        words = {
            "batch": "With one batch there is no mixing to measure.",
            "biology": "Fewer than two labels are known, so nothing can be said of how labels separate.",
        }
        body += [missing(sentence) for kind, sentence in words.items() if kind in lacking]
    return section(
        "integration",
        _question(data),
        see="Each bar runs from the worst value to the best that these cells allow.",
        look="Filled dots far to the right, in every group. If batches mix but labels blur, the model has removed "
        "differences between cell types along with those between batches.",
        body=body,
    )


def fit(data: ReportData) -> str:
    """Return the section of the posterior predictive check."""
    judged = _fit(data)
    body: list[str] = []
    if data.predictive is None or judged is None:
        body.append(missing("No posterior predictive check was made."))
    else:
        titles = {
            "mean": "Mean <small>counts</small>",
            "variance": "Variance <small>over cells</small>",
            "zeros": "Zeros <small>share of cells</small>",
        }
        cards = []
        for what, title in titles.items():
            ax = plots.plot_ppc(data.predictive, what, ax=new_axes(330, 310))
            cards.append(
                _chart(title, inline_svg(ax, f"ppc-{what}", f"predicted against observed {what} of each gene"))
            )
        body += [strip(judged), f'<div class="grid three">{"".join(cards)}</div>']
    return section(
        "fit",
        "Does the model fit the counts?",
        see="Each dot is a gene: its observed counts, and counts drawn from the trained model for the same cells.",
        look="Dots on the dashed line. Above it the model predicts too much, below it too little.",
        body=body,
    )


def clusters(data: ReportData) -> str:
    """Return the section of cluster composition."""
    body: list[str] = []
    found = data.called_clusters
    if found is None:
        body.append(missing("No clusters were computed."))
    else:
        parts = [(g, t) for g, t in ((data.batch, "batch"), (data.labels, "label")) if not _few(g) and g is not None]
        cards = [_composition(found, group, title) for group, title in parts]
        if len(cards) < 2:
            cards.append(card("Cells by cluster", sizes(found, palette_of(found), limit=40)))
        body.append(f'<div class="grid two">{"".join(cards)}</div>')
    return section(
        "clusters",
        "What the clusters are made of",
        see="One bar for each cluster, divided by batch or label, with the number of cells at its end.",
        look="Clusters from one batch are often a batch effect. Clusters of several labels may need more resolution.",
        body=body,
    )


def genes(data: ReportData) -> str:
    """Return the section of marker genes: dot plot and table."""
    body: list[str] = [f'<p class="note">{text(data.markers_note, 400)}</p>'] if data.markers_note else []
    dots = data.dots
    if dots is not None and len(dots.genes):
        wide, high = min(len(dots.genes), MAX_DOTS), min(len(dots.groups), MAX_GROUPS)
        step = float(np.clip(980 / wide, 19, 30))
        few = slice(MAX_GROUPS), slice(MAX_DOTS)
        named = [data.gene(gene) for gene in dots.genes[:MAX_DOTS]]
        called = {one.number: one.short for one in data.cluster_names}
        groups = [called.get(group, group) for group in dots.groups[:MAX_GROUPS]]
        beside = 92 + 6.2 * min(max(map(len, groups)), 28)
        ax = new_axes(beside + step * max(wide, 4), 96 + 21 * max(high, 2))
        plots.plot_dotplot(dots.mean[few], dots.fraction[few], genes=named, groups=groups, ax=ax)
        drawn = inline_svg(ax, "dots", "mean expression and detection of top markers in each cluster")
        body.append(_chart("Top markers of each cluster", f'<div class="scroll">{drawn}</div>{dot_key()}'))
    body += [marker_cards(data), marker_panel(data)]
    return section(
        "genes",
        "Marker genes",
        see="Genes that are higher in a cluster than in all other cells. Each card has the ten that set its cluster "
        "apart best; the table below has more, with the credible interval of the log2 fold change (low to high).",
        look="A dark diagonal in the dot plot: genes strong in their own cluster and faint elsewhere. In the cards: "
        "genes found in many cells of the cluster and in few others.",
        body=body,
    )


def _training_verdict(data: ReportData) -> Verdict:
    return verdict.training(
        data.history,
        stopped=data.stopped,
        best_epoch=data.best_epoch,
        explained=data.explained,
        n_cells=data.n_cells,
    )


def _question(data: ReportData) -> str:
    """Return the heading of the section on batches and labels."""
    if _few(data.labels) and not _few(data.batch):
        return "Do batches mix?"
    return "Do the known labels separate?" if _few(data.batch) else "Do batches mix and labels separate?"


def _biology(data: ReportData) -> Verdict | None:
    return verdict.biology(data.metrics, data.purity, data.resolutions)


def _fit(data: ReportData) -> Verdict | None:
    return verdict.fit(data.predictive, data.n_cells, explained=data.explained)


def _metric(table: pd.DataFrame | None, metric: str) -> float | None:
    """Return a metric of the latent space; None where there is none."""
    if table is None or table.empty or metric not in set(table["metric"]):
        return None
    return float(table.set_index("metric")["after"].to_dict()[metric])


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%".replace("-", "−")


def _chart(title: str, body: str) -> str:
    return card(title, body, kind="chart")


def _column(group: Categories, title: str) -> str:
    """The column's own name, where it is not the word that is already there."""
    return "" if group.title.lower() in title.lower() else f" <small>{text(group.title, 40)}</small>"


def _few(group: Categories | None) -> bool:
    return group is None or len(group.names) < 2


def _batches_word(data: ReportData) -> str:
    return "in one batch" if data.batch is None or _few(data.batch) else f"in {len(data.batch.names)} batches"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _spread(values: NDArray[np.float64]) -> str:
    low, middle, high = np.percentile(values, [5, 50, 95])
    return f"median {middle:,.0f} <small>(90% in {low:,.0f}–{high:,.0f})</small>"


def _warnings(data: ReportData, limit: int = 30) -> str:
    if not data.warnings:
        return ""
    items = "".join(f"<li>{text(w, 500)}</li>" for w in data.warnings[:limit])
    more = f"<li>and {len(data.warnings) - limit} more</li>" if len(data.warnings) > limit else ""
    return f'<div class="warnings"><h3>Before you trust what follows</h3><ul>{items}{more}</ul></div>'


def _histograms(data: ReportData) -> Iterator[str]:
    for values, title, x, y, log in (
        (data.library, "Library size", "counts per cell", "cells", True),
        (data.detected, "Genes per cell", "genes with a count", "cells", False),
        (data.zero_fraction, "Zeros per gene", "share of cells without a count", "genes", False),
    ):
        if values is not None and len(values):
            ax = plots.plot_histogram(values, x=x, y=y, log=log, ax=new_axes(350, 210))
            yield _chart(title, inline_svg(ax, f"histogram-{title}", f"histogram: {x}"))


def _metric_rows(table: pd.DataFrame) -> Iterator[str]:
    words = {"good": "good", "fair": "fair", "poor": "poor"}
    for kind, rows in table.groupby("kind", sort=False):
        yield f'<tr class="kind"><th colspan="5">{_KINDS.get(str(kind), "")}</th></tr>'
        for _, row in rows.iterrows():
            after, best = float(row["after"]), float(row["best"])
            before = float(row["before"]) if "before" in row and pd.notna(row["before"]) else float("nan")
            chance = float(row["chance"]) if "chance" in row and pd.notna(row["chance"]) else 0.0
            level = verdict.metric_level(str(row["metric"]), after, best, chance)
            by_chance = f" By chance: {number(chance)}." if chance > 0 else ""
            badge = f'<span class="badge {level}">{words[level]}</span>' if level in words else ""
            yield (
                f"<tr><td><b>{text(row['metric'])}</b><span>{text(row['meaning'], 300)}{by_chance}</span></td>"
                f'<td>{_track(before, after, best)}</td><td class="value">{number(before)}</td>'
                f'<td class="value"><b>{number(after)}</b></td>'
                f"<td>{badge}</td></tr>"
            )


def _track(before: float, after: float, best: float) -> str:
    """A bar from 0 to the best value, with a ring where it was before and a dot where it is."""
    spots = [8 + 224 * float(np.clip(v / best, 0, 1)) if np.isfinite(v) else None for v in (before, after)]
    was, now = spots
    out = '<path d="M8 11H232" stroke="var(--grid)" stroke-width="6" stroke-linecap="round"/>'
    if was is not None and now is not None:
        out += f'<path d="M{was:.0f} 11H{now:.0f}" stroke="var(--accent)" stroke-width="3" opacity=".45"/>'
    if was is not None:
        ring = 'r="5.5" fill="var(--paper)" stroke="var(--accent)" stroke-width="2"'
        out += f'<circle cx="{was:.0f}" cy="11" {ring}/>'
    if now is not None:
        out += f'<circle cx="{now:.0f}" cy="11" r="6.5" fill="var(--accent)"/>'
    return f'<svg class="track" viewBox="0 0 240 22" aria-hidden="true">{out}</svg>'


def _composition(found: Categories, group: Categories, title: str) -> str:
    found, group = found.largest(MAX_GROUPS), group.largest(MAX_PARTS)
    has = (found.codes >= 0) & (group.codes >= 0)
    table = np.zeros((len(found.names), len(group.names)))
    np.add.at(table, (found.codes[has], group.codes[has]), 1)
    palette = palette_of(group)
    ax = new_axes(530, 56 + 23 * max(len(found.names), 2))
    plots.plot_composition(table, groups=found.names, parts=group.names, palette=palette, ax=ax)
    drawn = inline_svg(ax, f"composition-{title}", f"clusters by {title}")
    return _chart(f"Clusters by {title}", drawn + legend(group, palette))


def dot_key(group: str = "cluster") -> str:
    """Return what colour and size of the dots mean."""
    dots = "".join(
        f'<svg width="{d}" height="{d}" viewBox="-1 -1 2 2"><circle r="1" fill="var(--muted)"/></svg>{share}%'
        for share, d in ((10, 4.7), (50, 10.6), (100, 15.0))
    )
    return (
        f'<div class="ramp"><b>colour</b> each gene\'s lowest {group}{ramp()}its highest<span class="gap"></span>'
        f"<b>size</b> cells with a count {dots}</div>"
    )
