"""The report: one HTML file that opens offline, made for a person who looks rather than reads."""

from __future__ import annotations

from celbo.report.data import Categories, DotPlot, ReportData, top_markers

__all__ = ["Categories", "DotPlot", "ReportData", "top_markers"]
