"""The section on the quality of the cells: thresholds by hand, and what is said of batches and doublets."""

from __future__ import annotations

import json
import re
from html import unescape

import numpy as np
import pandas as pd
import pytest

from celbo.report import quality
from celbo.report.data import Categories, ReportData
from celbo.report.quality import quality_section, usual_thresholds


def data(table: pd.DataFrame, **more) -> ReportData:
    return ReportData(title="t", n_cells=len(table), n_genes=9, n_genes_used=9, quality=table, **more)


def cells(n: int = 100) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "total_counts": np.arange(1, n + 1) * 10.0,
            "n_genes_by_counts": np.arange(1, n + 1),
            "pct_counts_mt": np.linspace(0, 20, n),
            "doublet_score": np.where(np.arange(n) < 97, 0.1, 0.4),
        }
    )


def rows(page: str) -> dict[str, list[str]]:
    table = re.search(r'<table class="thresholds">(.*?)</table>', page, re.S).group(1)
    lines = re.findall(r"<tr>(<td.*?)</tr>", table, re.S)
    told = [[unescape(re.sub("<.*?>", "", cell)) for cell in re.findall("<td.*?</td>", line, re.S)] for line in lines]
    return {line[0]: line[1:] for line in told}


def test_thresholds_tell_what_each_would_keep():
    found = rows(quality_section(data(cells())))
    assert found["--min-counts 20"] == ["99%", "1"]
    assert found["--min-counts 500"] == ["51%", "49"]
    assert found["--min-genes 30"] == ["71%", "29"]
    assert found["--max-percent-mito 15"] == ["75%", "25"]
    assert not any(line.startswith("--min-counts 700") for line in found)


def test_the_batch_that_loses_most_is_named():
    batch = Categories.of("batch", ["low"] * 50 + ["high"] * 50)
    found = rows(quality_section(data(cells(), batch=batch)))
    assert found["--min-counts 200"] == ["81%", "19", "62% low"]


def test_thresholds_leave_some_out_but_not_most():
    values = np.arange(100.0)
    assert usual_thresholds(values, (0, 1, 50, 51), least=True) == [1, 50]
    assert usual_thresholds(values, (99, 98, 10), least=False) == [98]
    assert usual_thresholds(values, tuple(range(1, 51)), least=True) == [1, 13, 25, 38, 50]


def test_shares_that_are_nearly_all_or_none_are_not_rounded_to_them():
    table = pd.DataFrame({"total_counts": np.append(np.full(4999, 900.0), 1), "n_genes_by_counts": 200})
    assert rows(quality_section(data(table)))["--min-counts 10"] == [">99.9%", "1"]


def test_cells_like_doublets_are_counted():
    batch = Categories.of("batch", ["a"] * 50 + ["b"] * 50)
    assert "3 of 100 cells (3%), the largest share in <bdi>b</bdi> (6%)" in quality_section(data(cells(), batch=batch))


def test_the_tool_holds_the_cells_and_the_names_as_text():
    batch = Categories.of("batch", ["</script><b>"] * 50 + ["'\" x"] * 50)
    page = quality_section(data(cells(), batch=batch))
    held = json.loads(unescape(re.search(r'data-cells="(.*?)"', page).group(1)))
    assert held["total"] == 100
    assert [rule["option"] for rule in held["rules"]] == ["--min-counts", "--min-genes", "--max-percent-mito"]
    assert held["values"][1] == list(range(1, 101))
    assert sorted(held["names"]) == ["'\" x", "</script><b>"]
    assert "</script>" not in page


def test_of_many_cells_the_tool_holds_a_part(monkeypatch):
    monkeypatch.setattr(quality, "MAX_TRIED", 40)
    page = quality_section(data(cells()))
    held = json.loads(unescape(re.search(r'data-cells="(.*?)"', page).group(1)))
    assert len(held["values"][0]) == 40
    assert "judged on a random 40 of the cells" in page


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_few_cells_are_a_section(n):
    assert "Quality of the cells" in quality_section(data(cells(n)))


def test_notes_say_what_is_missing():
    table = cells().drop(columns=["pct_counts_mt", "doublet_score"])
    page = quality_section(data(table, quality_notes=("No mitochondrial share: <none>.",)))
    assert "<p>No mitochondrial share: &lt;none&gt;.</p>" in page
    assert "Mitochondrial share" not in page
    assert "doublet" not in page.split("</div>", 1)[1].lower().replace("doublet scores of the cells", "")
