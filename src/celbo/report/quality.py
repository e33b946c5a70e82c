"""The section on the quality of the cells: violins by batch, and what thresholds would keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from celbo import plots
from celbo.plots.names import shown
from celbo.plots.style import ACCENT, new_axes
from celbo.report.data import Categories, ReportData
from celbo.report.figures import inline_svg
from celbo.report.markup import as_json, card, missing, name, palette_of, section, text

__all__ = ["quality_section", "usual_thresholds"]

MAX_BATCHES = 24
"""Violins in a figure; the smallest batches beyond them are one."""
DOUBLET = 0.25
"""Doublet score above which cells are counted."""
MAX_SCATTERED, MAX_TRIED = 20_000, 5_000
"""Cells of the scatter, and cells that the page holds to try thresholds on."""
_FEWEST_KEPT = 0.5
"""Share of the cells that a threshold in the table keeps at least."""
_LINES = 5
"""Thresholds of each kind in the table."""


@dataclass(frozen=True)
class _Filter:
    """An option of the command line that leaves cells out by one of the columns."""

    option: str
    column: str
    series: tuple[float, ...]
    """Thresholds that people use."""
    least: bool
    """Whether it keeps the cells above."""

    def kept(self, values: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
        return values >= threshold if self.least else values <= threshold


_STEPS = tuple(float(f"{m}e{e}") for e in range(1, 6) for m in (1, 2, 3, 5, 7))
_FILTERS = (
    _Filter("--min-counts", "total_counts", _STEPS, True),
    _Filter("--min-genes", "n_genes_by_counts", _STEPS, True),
    _Filter("--max-percent-mito", "pct_counts_mt", (50, 40, 30, 25, 20, 15, 10, 7, 5, 3, 2, 1), False),
)
# column, title, unit, whether on a log axis, how far the axis may reach: doublets are few and lie far out
_VIOLINS = (
    ("total_counts", "Counts per cell", "counts", True, 1.0),
    ("n_genes_by_counts", "Genes per cell", "genes with a count", True, 1.0),
    ("pct_counts_mt", "Mitochondrial share", "percent of the counts", False, 3.0),
    ("pct_counts_ribo", "Ribosomal share", "percent of the counts", False, 3.0),
    ("doublet_score", "Doublet score <small>scrublet</small>", "doublet score", False, 20.0),
)


def quality_section(data: ReportData) -> str:
    """Return the section on the quality of the cells."""
    table = data.quality
    if table is None or table.empty:
        body = [missing("The quality of the cells was not computed.")]
    else:
        batch = None if data.batch is None or len(data.batch.names) < 2 else data.batch.largest(MAX_BATCHES)
        cards = [*_violins(table, batch), *_scatter(table)]
        notes = "".join(f"<p>{text(note, 400)}</p>" for note in data.quality_notes)
        body = [
            f'<div class="grid three">{"".join(cards)}</div>',
            f'<div class="note">{notes}</div>' if notes else "",
            _doublets(table, batch),
            _thresholds(table, data.batch if batch is not None else None),
        ]
    return section(
        "quality",
        "Quality of the cells",
        see="Counts, genes, the shares of mitochondrial and ribosomal genes, and doublet scores of the cells that were "
        "kept. The dot is the median; the thick line spans the middle half of the cells.",
        look="Few counts and a high mitochondrial share: dying cells. Many counts and a high doublet score: two cells "
        "in one droplet. A batch unlike the others may need thresholds of its own.",
        body=body,
    )


def _violins(table: pd.DataFrame, batch: Categories | None) -> Iterator[str]:
    for column, title, unit, log, reach in _VIOLINS:
        if column not in table:
            continue
        values = table[column].to_numpy(np.float64)
        names, palette = (("all cells",), [ACCENT]) if batch is None else (batch.names, palette_of(batch))
        ax = new_axes(350, 84 + 24 * max(len(names), 2))
        groups = None if batch is None else batch.codes
        plots.plot_violins(values, groups, names=names, palette=palette, x=unit, log=log, reach=reach, ax=ax)
        label = f"violins of {unit}" + (" by batch" if batch is not None else "")
        yield card(title, inline_svg(ax, f"quality-{column}", label), kind="chart")


def _scatter(table: pd.DataFrame) -> Iterator[str]:
    """Yield genes against counts, the figure that shows dying cells and doublets apart."""
    rows = table if len(table) <= MAX_SCATTERED else table.sample(MAX_SCATTERED, random_state=0)
    share = rows["pct_counts_mt"].to_numpy(np.float64) if "pct_counts_mt" in rows else None
    counts, genes = (rows[column].to_numpy(np.float64) for column in ("total_counts", "n_genes_by_counts"))
    ax = plots.plot_cell_scatter(counts, genes, share, labels=("counts", "genes"), log=True, ax=new_axes(350, 250))
    dark = " <small>darker: larger mitochondrial share</small>" if share is not None else ""
    yield card(f"Genes against counts{dark}", inline_svg(ax, "quality-scatter", "genes against counts"), kind="chart")


def _doublets(table: pd.DataFrame, batch: Categories | None) -> str:
    """Return in a sentence how many cells score like doublets."""
    if "doublet_score" not in table:
        return ""
    score = table["doublet_score"].to_numpy(np.float64)
    scored, high = np.isfinite(score), score > DOUBLET
    most = ""
    if batch is not None and high.any():
        known = [i for i in range(len(batch.names)) if (scored & (batch.codes == i)).any()]
        shares = [float(high[scored & (batch.codes == i)].mean()) for i in known]
        at = int(np.argmax(shares))
        most = f", the largest share in {name(batch.names[known[at]], 40)} ({_percent(shares[at])})"
    return (
        f'<p class="note">Above a doublet score of {DOUBLET:g}, a cut that is often used: {high.sum():,} of '
        f"{scored.sum():,} cells ({_percent(high.sum() / max(scored.sum(), 1))}){most}. Two cells of one type in a "
        "droplet are not found. The scores are in tables/cells.csv and in result.h5ad; celbo leaves no cell out for "
        "them.</p>"
    )


def usual_thresholds(values: NDArray[np.float64], series: tuple[float, ...], *, least: bool) -> list[float]:
    """Return thresholds that leave out some of the cells but not most, the loosest first.

    Parameters
    ----------
    values
        A number for each cell, (cells,).
    series
        Thresholds to choose from, the loosest first.
    least
        Whether the cells above a threshold are kept.
    """
    shares = [float((values >= t if least else values <= t).mean()) for t in series]
    useful = [t for t, share in zip(series, shares, strict=True) if _FEWEST_KEPT <= share < 1]
    if len(useful) <= _LINES:
        return useful
    return [useful[round(i)] for i in np.linspace(0, len(useful) - 1, _LINES)]


def _thresholds(table: pd.DataFrame, batch: Categories | None) -> str:
    """Return the table of what thresholds would keep, with a tool to try others."""
    lines = []
    for rule in _FILTERS:
        if rule.column not in table:
            continue
        values = table[rule.column].to_numpy(np.float64)
        chosen = usual_thresholds(values, rule.series, least=rule.least)
        lines += [_line(rule, threshold, values, batch) for threshold in chosen]
        if not chosen:
            lines.append(f'<tr>{_option(rule.option)}<td colspan="3">no usual threshold matters</td></tr>')
    worst = "<th>least kept in</th>" if batch is not None else ""
    head = f'<tr><th>option</th><th class="value">keeps</th><th class="value">cells left out</th>{worst}</tr>'
    rows = f'<table class="thresholds"><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table>'
    alone = f'<h3>What thresholds would keep <small>each alone</small></h3><div class="scroll">{rows}</div>'
    return f'<div class="grid two"><div class="card">{alone}</div>{_trial(table, batch)}</div>'


def _option(words: str) -> str:
    """Return the cell of an option; what is saved as CSV has no leading dashes, which a spreadsheet would compute."""
    return f'<td data-value="{words.lstrip("-")}"><code>{words}</code></td>'


def _line(rule: _Filter, threshold: float, values: NDArray[np.float64], batch: Categories | None) -> str:
    kept = rule.kept(values, threshold)
    cells = ""
    if batch is not None:
        sizes = np.maximum(batch.sizes, 1)
        shares = np.bincount(batch.codes[kept & (batch.codes >= 0)], minlength=len(sizes)) / sizes
        at = int(np.argmin(shares))
        cells = f"<td>{_percent(float(shares[at]))} <small>{name(batch.names[at], 30)}</small></td>"
    return (
        f'<tr>{_option(f"{rule.option} {threshold:g}")}<td class="value">{_percent(float(kept.mean()))}</td>'
        f'<td class="value">{(~kept).sum():,}</td>{cells}</tr>'
    )


def _trial(table: pd.DataFrame, batch: Categories | None) -> str:
    """Return the tool that tells what thresholds keep together; the script of the page fills it."""
    rules = [rule for rule in _FILTERS if rule.column in table]
    chosen = table.index if len(table) <= MAX_TRIED else table.sample(MAX_TRIED, random_state=0).index
    at = table.index.get_indexer(chosen)
    cells = {
        "total": len(table),
        "rules": [{"option": rule.option, "least": rule.least} for rule in rules],
        "values": [[round(float(v), 2) for v in table[rule.column].to_numpy(np.float64)[at]] for rule in rules],
        "batch": [] if batch is None else batch.codes[at].tolist(),
        "names": [] if batch is None else [shown(n, 60) for n in batch.names],
    }
    fields = "".join(
        f'<label><code>{rule.option}</code><input type="number" min="0" step="any" inputmode="decimal" '
        f'data-rule="{i}" autocomplete="off"></label>'
        for i, rule in enumerate(rules)
    )
    about = "" if len(table) <= MAX_TRIED else f" <small>judged on a random {MAX_TRIED:,} of the cells</small>"
    return (
        f'<div class="card trial" data-cells="{text(as_json(cells), 10_000_000)}">'
        f'<h3>Try thresholds together{about}</h3><div class="fields">{fields}</div>'
        '<p class="kept" aria-live="polite">All cells are kept.</p><pre class="flags" hidden></pre>'
        '<noscript><p class="note">This needs JavaScript.</p></noscript></div>'
    )


def _percent(share: float) -> str:
    """Return a share in percent that is 100% or 0% only where it is so exactly."""
    if 0.9995 <= share < 1:
        return ">99.9%"
    return "<0.1%" if 0 < share < 0.0005 else f"{100 * share:.1f}%".replace(".0%", "%")
