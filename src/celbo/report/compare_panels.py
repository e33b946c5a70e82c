"""The sections of the page of a comparison, one function each: ComparePage in, markup out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from celbo.evaluate.comparison import Comparison
from celbo.plots.style import MISSING
from celbo.report import compare_figures as figures
from celbo.report.compare_table import comparison_table, in_families, reason_of, written
from celbo.report.compare_verdict import RULES, Finding, findings, headline, value_of
from celbo.report.data import Categories
from celbo.report.markup import card, facts, legend, missing, name, palette_of, section, text

if TYPE_CHECKING:
    from celbo.report.compare import ComparePage

__all__ = ["key_numbers", "sections"]

Points = NDArray[np.floating[Any]]
Positions = NDArray[np.int64]

_LARGE, _SMALL = 460, 300
"""Pixels of the pictures: of the labels, and of the batches and variants."""


def sections(page: ComparePage) -> str:
    """Return all sections, in order."""
    parts = (which, table, pictures, stability, cost, made)
    return "\n".join(part(page) for part in parts)


def key_numbers(page: ComparePage) -> str:
    """Return the numbers of the header."""
    found = page.comparison
    n, failed = len(found.table), len(found.failures)
    items = [
        ("cells", f"{page.n_cells:,}", _of_what(page)),
        ("genes compared on", f"{page.n_genes_used:,}", f"of {page.n_genes:,} in the data"),
        ("held-out cells", f"{page.n_test:,}", "judge the likelihood"),
        ("methods", f"{n:,}", f"{failed} could not be run" if failed else "all could be run"),
    ]
    return "\n".join(
        f'<div><dt>{title}</dt><dd class="big">{value}</dd><dd class="more">{more}</dd></div>'
        for title, value, more in items
    )


def which(page: ComparePage) -> str:
    """Return the verdicts: one card a purpose."""
    made = findings(page.comparison)
    cards = "".join(_finding(finding) for finding in made)
    rules = "".join(
        f"<dt>{text(f.purpose)}</dt><dd>{text(rule, 600)}</dd>" for f, rule in zip(made, RULES, strict=True)
    )
    return (
        '<section id="which"><h2>Which one for your data?</h2>'
        f'<p class="headline">{text(headline(page.comparison, made), 600)}</p>'
        f'<div class="grid three answers">{cards}</div>'
        '<details class="rules"><summary>How the best was chosen, and what “close” means</summary>'
        f'<dl class="facts">{rules}</dl></details></section>'
    )


def table(page: ComparePage) -> str:
    """Return the table of all numbers."""
    found = page.comparison
    failed = "".join(f"<li><b>{text(title, 60)}</b>: {text(why, 400)}</li>" for title, why in found.failures.items())
    box = f'<div class="warnings"><h3>Could not be run</h3><ul>{failed}</ul></div>' if failed else ""
    return section(
        "table",
        "All numbers",
        see="One method in each row, one measure in each column. Every method saw the same genes of the same cells.",
        look="Start with the column that matters to you. Darker cells rank closer to the best of their column, which "
        "may lead by only a little.",
        body=[box, comparison_table(found), _not_judged(page)],
    )


def pictures(page: ComparePage) -> str:
    """Return the first picture of each method, by label or batch, and small ones by batch where both are known."""
    found, cells = page.comparison, figures.drawn_cells(page.n_cells)
    labels, batch = _several(page.labels), _several(page.batch)
    body = [_maps(found, labels or batch, cells)]
    if labels is not None and batch is not None:
        body.append(_small_maps(found, batch, cells))
    if not any(body):
        body = [missing("No picture was made.")]
    elif page.n_cells > len(cells):
        body.append(f'<p class="note">A random {len(cells):,} of the {page.n_cells:,} cells are drawn.</p>')
    return section(
        "pictures",
        "The pictures",
        see="Each dot is a cell. Methods that give two dimensions are drawn as they are, the others by a UMAP.",
        look="Cell types in one piece and apart, batches on top of each other. The sizes of groups and the distances "
        "between them mean little in any of these pictures.",
        body=body,
    )


def stability(page: ComparePage) -> str:
    """Return the chart over all methods, and the variants of the pictures with their numbers."""
    found, cells = page.comparison, figures.drawn_cells(page.n_cells)
    groups, chart = _several(page.labels) or _several(page.batch), figures.overlap_chart(page.comparison)
    body = [card("Neighbours that stay", chart, kind="chart")] if chart else []
    several = [method for method in _pictured(found) if len(found.pictures[method]) > 1]
    if several:
        body.append(
            '<h3 class="sub">The same cells, drawn again</h3><p class="note">Each picture was shifted, turned, '
            f"mirrored and scaled to match the first as closely as possible.</p>{_key_of(groups)}"
        )
        body += [_variants(found, method, groups, cells) for method in several]
    return section(
        "stability",
        "How much depends on seed and parameters",
        see="Each method was fitted again with another seed, and with its main parameter lower and higher. For methods "
        "with more than two dimensions, the numbers describe these dimensions, not the UMAP.",
        look="Bars near 100%. Where they are short, the positions of single cells are down to chance; the groups may "
        "still be stable, as the pictures show.",
        body=body or [missing("Each method was fitted once, so its stability is not known.")],
    )


def cost(page: ComparePage) -> str:
    """Return seconds and memory."""
    chart = figures.cost_chart(page.comparison)
    body = [f'<div class="card chart"><div class="grid two">{chart}</div></div>'] if chart else []
    return section(
        "cost",
        "What it costs",
        see="One fit and the representation of all cells, on the machine that made this page: seconds, and memory on "
        "top of what was in use before.",
        look="The axes are logarithmic. A method that runs in seconds can be tried with several settings. Very little "
        "memory may mean that a method reused what an earlier one had freed.",
        body=body or [missing("No times were recorded.")],
    )


def made(page: ComparePage) -> str:
    """Return how it was done."""
    cards = [card("What was done", facts([(key, text(value, 400)) for key, value in _steps(page)]))]
    if page.command:
        cards.append(card("Command <small>click to select</small>", f"<pre>{text(page.command, 4000)}</pre>"))
    known = [("seed", f"<code>{text(page.seed, 40)}</code>")]
    known += [(key, f"<code>{text(value, 80)}</code>") for key, value in page.versions.items()]
    cards.append(card("Seed and versions", facts(known, "facts tight")))
    return section(
        "made",
        "How it was done",
        see="Everything that is needed to make this page again.",
        look="Every method ran with its own defaults and a limited budget; tuned to your data, it may do better.",
        body=cards,
    )


def _steps(page: ComparePage) -> list[tuple[str, str]]:
    """Return what was done, by what it serves; steps that were left out are not told."""
    n_samples = f"{page.n_samples} importance samples" if page.n_samples else "importance samples"
    chosen = f", the most variable of {page.n_genes:,}" if page.n_genes_used < page.n_genes else ""
    share = 100 * page.n_test / max(page.n_cells, 1)
    columns = page.comparison.table.columns
    told = {
        "n_cells": (
            "Data",
            f"{page.n_cells:,} cells and {page.n_genes_used:,} genes{chosen}, the same for all methods",
        ),
        "log_likelihood": (
            "Likelihood",
            f"{page.n_test:,} cells ({share:.0f}%) were held out wherever a method can place new cells; the "
            f"probability of each is estimated with {n_samples}",
        ),
        "ari": (
            "Cell types",
            "k-means on the representation of all cells, with as many clusters as labels; no method saw the labels",
        ),
        "ilisi": ("Batches", "models that can use batches were given them; classical methods cannot"),
        "mcv_deviance": (
            "Denoising",
            "molecular cross-validation: a fit to nine tenths of each cell's molecules, scored on the others",
        ),
        "seed_overlap": ("Stability", "a second fit with another seed"),
        "parameter_overlap": ("Stability", "fits with the main parameter lower and higher"),
    }
    return [line for column, line in told.items() if column == "n_cells" or column in columns]


# --------------------------------------------------------------------------------------------------------------- pieces


def _finding(finding: Finding) -> str:
    winner = f'<p class="winner">{name(finding.winner, 40)}</p>' if finding.winner else (
        '<p class="winner open">Cannot be judged</p>'
    )  # fmt: skip
    value = f'<p class="value">{text(finding.value)}</p>' if finding.value else ""
    caution = f'<p class="caution">{text(finding.caution, 400)}</p>' if finding.caution else ""
    return (
        f'<article class="card answer {finding.level}" id="for-{finding.key}"><h3>{text(finding.purpose)}</h3>'
        f"{winner}{value}<p>{text(finding.sentence, 700)}</p>{caution}</article>"
    )


def _of_what(page: ComparePage) -> str:
    told = []
    for groups, one, many in ((page.batch, "batch", "batches"), (page.labels, "label", "labels")):
        if groups is not None:
            n = len(groups.names)
            told.append(f"{n:,} {one if n == 1 else many}")
    return ", ".join(told) or "no batches or labels given"


def _not_judged(page: ComparePage) -> str:
    told = []
    if _several(page.labels) is None:
        told.append("No column judges cell types: fewer than two labels are known (--labels-key).")
    if _several(page.batch) is None:
        told.append("No column judges mixing: there are fewer than two batches (--batch-key).")
    return f'<p class="note">{" ".join(told)}</p>' if told else ""


def _several(groups: Categories | None) -> Categories | None:
    return None if groups is None or len(groups.names) < 2 else groups


def _key_of(groups: Categories | None) -> str:
    if groups is None:
        return '<p class="note">Neither labels nor batches are known, so all cells have one colour.</p>'
    grey = (groups.codes < 0).any()
    none = f'<span class="none"><i style="background:{MISSING}"></i>not known</span>' if grey else ""
    return f'<div class="map-key"><b>{name(groups.title, 40)}</b>{legend(groups, palette_of(groups))}{none}</div>'


def _pictured(found: Comparison) -> list[str]:
    """Return the methods that have a picture, by family."""
    return [method for members in in_families(found).values() for method in members if found.pictures.get(method)]


def _map(title: str, points: Points, groups: Categories | None, cells: Positions, *, side: int) -> str:
    palette = [] if groups is None else palette_of(groups)
    return figures.small_map(points, groups, cells, palette=palette, side=side, label=f"map of cells, {title}")


def _maps(found: Comparison, groups: Categories | None, cells: Positions) -> str:
    panels = []
    for method in _pictured(found):
        first, title = found.pictures[method][0], found.titles.get(method, method)
        sentence = found.sentences.get(method, "")
        panels.append(
            f'<figure class="card">{_map(title, first.points, groups, cells, side=_LARGE)}<figcaption>{name(title, 40)}'
            f" <small>{text(first.how, 80)}</small></figcaption>{f'<p>{text(sentence, 300)}</p>' if sentence else ''}"
            "</figure>"
        )
    return f'{_key_of(groups)}<div class="maps">{"".join(panels)}</div>' if panels else ""


def _small_maps(found: Comparison, batch: Categories, cells: Positions) -> str:
    panels = []
    for method in _pictured(found):
        title = found.titles.get(method, method)
        drawn = _map(f"{title}, by batch", found.pictures[method][0].points, batch, cells, side=_SMALL)
        panels.append(f"<figure>{drawn}<figcaption>{name(title, 40)}</figcaption></figure>")
    if not panels:
        return ""
    return f'<h3 class="sub">The same by batch</h3>{_key_of(batch)}<div class="card maps small">{"".join(panels)}</div>'


def _variants(found: Comparison, method: str, groups: Categories | None, cells: Positions) -> str:
    """Return the pictures of one method side by side, with what is known of their difference."""
    first, *others = found.pictures[method]
    title = found.titles.get(method, method)
    points = [first.points, *(figures.aligned(other.points, first.points) for other in others)]
    names = ["as it comes", *(other.variant for other in others)]
    panels = "".join(
        f"<figure>{_map(f'{title}, {variant}', xy, groups, cells, side=_SMALL)}"
        f"<figcaption>{text(variant, 60)}</figcaption></figure>"
        for variant, xy in zip(names, points, strict=True)
    )
    told = "".join(f"<p>{line}</p>" for line in _moved(found, method))
    return (
        f'<div class="card variants"><div><h3>{name(title, 40)}</h3>{told}</div><div class="row">{panels}</div></div>'
    )


def _moved(found: Comparison, method: str) -> Iterator[str]:
    for what, told in (("seed", "Another seed"), ("parameter", "Lower against higher parameter")):
        overlap, moved = f"{what}_overlap", f"{what}_procrustes"
        if overlap not in found.table:
            continue
        value, distance = value_of(found, method, overlap), value_of(found, method, moved)
        line = f"{100 * value:.0f}% of neighbours stay; Procrustes {written(moved, distance)}"
        yield f"<b>{told}</b>{text(reason_of(found, method, overlap), 300) if np.isnan(value) else line}"
