"""The report: one HTML file that opens offline, made for a person who looks rather than reads."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from celbo.files import atomic_text
from celbo.report.data import Categories, DotPlot, Expression, ReportData, top_markers
from celbo.report.index import index
from celbo.report.map import map_json
from celbo.report.markup import text
from celbo.report.panels import drawn, key_numbers, sections
from celbo.report.table import marker_json
from celbo.report.whole import whole_page

__all__ = ["Categories", "DotPlot", "Expression", "ReportData", "report_html", "top_markers", "write_report"]


def write_report(data: ReportData, path: str | os.PathLike[str]) -> Path:
    """Write the report as one self-contained HTML file, atomically.

    Parameters
    ----------
    data
        What to show.
    path
        The file to write, for example "report.html"; its folder must exist.

    Returns
    -------
    The path.

    Raises
    ------
    WriteError
        Where the file cannot be written.
    """
    atomic_text(path, report_html(data))
    return Path(path)


def report_html(data: ReportData) -> str:
    """Return the page as a string: no network, no inline script but one of known hash, every name escaped."""
    subtitle = text(data.model, 80) + (f" on {text(data.source, 200)}" if data.source else "")
    written = sections(data)
    parts = {
        "title": text(data.title, 120),
        "subtitle": subtitle,
        "numbers": drawn(key_numbers, data, instead=""),
        "index": index(written),
        "sections": written,
        "made": f" on {text(data.created, 60)}" if data.created else "",
        "map_data": drawn(map_json, data, instead="{}"),
        "marker_data": drawn(marker_json, data, instead=marker_json(replace(data, markers=None))),
    }
    return whole_page(
        "template.html",
        styles=["style.css", "quality.css", "map.css", "markers.css", "save.css"],
        scripts=["script.js", "quality.js", "markers.js", "index.js", "decode.js", "files.js", "map.js", "save.js"],
        parts=parts,
    )
