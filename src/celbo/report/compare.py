"""The page of a comparison: which method to use for these data, in one HTML file that opens offline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from celbo.errors import InputError
from celbo.evaluate.comparison import Comparison
from celbo.files import atomic_text
from celbo.report.compare_panels import key_numbers, sections
from celbo.report.data import Categories
from celbo.report.index import index
from celbo.report.markup import text
from celbo.report.whole import whole_page

__all__ = ["ComparePage", "compare_html", "write_compare_page"]


@dataclass(frozen=True, kw_only=True)
class ComparePage:
    """Everything the page of a comparison shows. Names may hold anything: they are shown as text."""

    comparison: Comparison
    n_cells: int
    """Cells that were compared on."""
    n_genes: int
    """Genes in the data."""
    n_genes_used: int
    """Genes that were compared on."""
    n_test: int
    """Cells that judged the likelihood."""
    labels: Categories | None = None
    """Known labels of the cells."""
    batch: Categories | None = None
    source: str = ""
    """Path or name of what was read."""
    command: str = ""
    """The exact command."""
    seed: int = 0
    n_samples: int | None = None
    """Importance samples of a cell behind the held-out log-likelihood."""
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold the arrays of cells to one length."""
        per_cell = {c.title: len(c.codes) for c in (self.labels, self.batch) if c is not None}
        for method, pictures in self.comparison.pictures.items():
            per_cell |= {f"{method}, picture {i}": len(p.points) for i, p in enumerate(pictures, 1)}
        for name, n in per_cell.items():
            if n != self.n_cells:
                raise InputError(
                    "has the wrong length",
                    where=f"ComparePage: {name!r}",
                    value=f"{n} entries for {self.n_cells} cells",
                    fix="Give one entry for each cell.",
                )


def write_compare_page(page: ComparePage, path: str | os.PathLike[str]) -> Path:
    """Write the page as one self-contained HTML file, atomically.

    Parameters
    ----------
    page
        What to show.
    path
        The file to write, for example "compare.html"; its folder must exist.

    Returns
    -------
    The path.

    Raises
    ------
    WriteError
        Where the file cannot be written.
    """
    atomic_text(path, compare_html(page))
    return Path(path)


def compare_html(page: ComparePage) -> str:
    """Return the page as a string: no network, no inline script but one of known hash, every name escaped."""
    written = sections(page)
    parts = {
        "title": text(f"Which method for {_name(page.source)}?", 160),
        "subtitle": text(page.source, 300) if page.source else "cells given in memory",
        "numbers": key_numbers(page),
        "index": index(written),
        "sections": written,
    }
    return whole_page(
        "compare.html",
        styles=["style.css", "compare.css", "save.css"],
        scripts=["compare.js", "index.js", "files.js", "save.js"],
        parts=parts,
    )


def _name(source: str) -> str:
    """Return the name of the first file, and how many more there are."""
    names = [Path(part).name or part for part in source.split(", ") if part]
    if not names:
        return "these cells"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
