"""The page of differential expression: which genes differ between groups of cells, in one file that opens offline."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from celbo.files import atomic_text
from celbo.plots.compared import require
from celbo.report.differential_panels import key_numbers, sections
from celbo.report.index import index
from celbo.report.markup import text
from celbo.report.table import compared_rows, gene_json
from celbo.report.whole import whole_page

__all__ = ["DifferentialPage", "differential_html", "write_differential_page"]


@dataclass(frozen=True, kw_only=True)
class DifferentialPage:
    """Everything the page shows. Names may hold anything: they are shown as text."""

    table: pd.DataFrame
    """`model.differential_expression(...)`, all genes of one or several comparisons."""
    n_cells: int
    """Cells of the data."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Cells of each group, by its name."""
    groupby: str = ""
    """Column of the groups; empty where they are queries."""
    fdr_target: float | None = 0.05
    """Expected false discovery rate of the calls; None where the calls have no such target."""
    credible_level: float = 0.95
    """Posterior probability of the credible intervals."""
    model: str = ""
    """Name of the model, as shown."""
    source: str = ""
    """Path or name of what was read."""
    warnings: Sequence[str] = ()
    """What the user should know before the results, one sentence each."""
    notes: Sequence[str] = ()
    """How to read the results, one sentence each."""
    command: str = ""
    """The exact command or call."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The options of the comparison, plain values."""
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold the table to the columns that the page needs."""
        columns = ["group1", "group2", "bayes_factor", "is_de", "lfc_median", "lfc_lower", "lfc_upper"]
        require(self.table, [*columns, *(f"{name}{side}" for name in ("scale", "detection") for side in (1, 2))])


def write_differential_page(page: DifferentialPage, path: str | os.PathLike[str]) -> Path:
    """Write the page as one self-contained HTML file, atomically.

    Parameters
    ----------
    page
        What to show.
    path
        The file to write, for example "de.html"; its folder must exist.

    Returns
    -------
    The path.

    Raises
    ------
    WriteError
        Where the file cannot be written.
    """
    atomic_text(path, differential_html(page))
    return Path(path)


def differential_html(page: DifferentialPage) -> str:
    """Return the page as a string: no network, no inline script but one of known hash, every name escaped."""
    subtitle = text(page.model, 80) + (f" on {text(page.source, 300)}" if page.source else "")
    written = sections(page)
    parts = {
        "title": text(f"Which genes differ by {page.groupby}?" if page.groupby else "Which genes differ?", 160),
        "subtitle": subtitle,
        "numbers": key_numbers(page),
        "index": index(written),
        "sections": written,
        "gene_data": gene_json(compared_rows(page.table)),
    }
    return whole_page(
        "differential.html",
        styles=["style.css", "differential.css", "save.css"],
        scripts=["script.js", "differential.js", "index.js", "files.js", "save.js"],
        parts=parts,
    )
