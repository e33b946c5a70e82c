"""The page of differential expression: its finding in words, its parts, and names as text."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from celbo.errors import CelboError, InputError
from celbo.report.differential import DifferentialPage, differential_html, write_differential_page
from made_tables import compared, one_versus_rest, vanilla

HOSTILE = (
    "<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>", "\u202eevil", "x" * 1_000_000,
    r"$\frac{a}{b}$ $x", "nul\x00 new\nline", "\ud800lone", "' onmouseover='x\" >",
)  # fmt: skip


class Page(HTMLParser):
    """Collects elements, attributes and text, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def words(page: str) -> str:
    """Return the text of a page, white space as single spaces."""
    return " ".join("".join(Page(page).text).split())


def made(table: pd.DataFrame, **more) -> str:
    return differential_html(DifferentialPage(**{"table": table, "n_cells": 500, **more}))


def rows_of(page: str) -> dict:
    return json.loads(re.search(r'id="marker-data">(.*?)</script>', page, re.S).group(1))


ONE = compared("T cells", "B cells", n_genes=300)
SEVERAL = one_versus_rest(["T cells", "B cells", "NK"], n_genes=200)


@functools.cache
def one() -> str:
    return made(
        ONE, groupby="cell_type", model="scVI", warnings=["Group 'B cells' is small."], notes=["Cells, not samples."],
        command="celbo de m", settings={"delta": None, "calibrated": True}, versions={"celbo": "1"},
    )  # fmt: skip


@functools.cache
def several() -> str:
    return made(SEVERAL, groupby="cell_type", sizes={"T cells": 321})


@functools.cache
def hostile() -> str:
    table = one_versus_rest(list(HOSTILE), n_genes=40, share=0.5, genes=[*HOSTILE, *map(str, range(32))])
    return made(
        table, groupby=HOSTILE[0], sizes=dict.fromkeys(HOSTILE, 1), model=HOSTILE[0], source=HOSTILE[1],
        warnings=HOSTILE, notes=HOSTILE, command=HOSTILE[0], settings={HOSTILE[0]: HOSTILE[1]},
        versions={HOSTILE[0]: HOSTILE[1]},
    )  # fmt: skip


PAGES = {"one": one, "several": several, "hostile": hostile}


def test_the_finding_of_one_comparison_is_a_sentence():
    up, down = ((ONE["is_de"] & (np.sign(ONE["lfc_median"]) == sign)).sum() for sign in (1, -1))
    assert up > 1 and down > 1
    assert (
        f"Of 300 genes, {up + down} differ by more than 1.19-fold (delta 0.25 in log2) between T cells and B cells, "
        f"at an expected false discovery rate of 5%: {up} are higher in T cells, {down} lower."
    ) in words(one())


def test_the_finding_of_several_comparisons_counts_each_gene_once():
    found = SEVERAL.index[SEVERAL["is_de"]].nunique()
    assert found < SEVERAL["is_de"].sum()
    assert f"Of 200 genes, {found} differ by more than 1.19-fold (delta 0.25 in log2) in at least one of 3" in words(
        several()
    )


def test_groups_that_are_numbers_are_told_with_the_name_of_their_column():
    assert "between leiden 3 and leiden 1, at" in words(made(compared("3", "1", n_genes=90), groupby="leiden"))
    assert "between leiden 3 and the rest, at" in words(made(compared("3", n_genes=90), groupby="leiden"))


@pytest.mark.parametrize(
    ("table", "more", "told"),
    [
        (ONE.assign(is_de=False), {}, "Of 300 genes, 0 differ by more than 1.19-fold"),
        (ONE.assign(is_de=np.arange(300) == 0), {"fdr_target": 0.01}, "1 differs by more than 1.19-fold"),
        (ONE.assign(delta=1.0), {"fdr_target": 0.125}, "2.00-fold (delta 1 in log2) between T cells and B cells, at an"
         " expected false discovery rate of 12.5%"),
        (vanilla(n_genes=90), {"fdr_target": None}, "have odds above 20 to 1 (a Bayes factor above 3) for one"),
        (SEVERAL.assign(delta=np.repeat([0.25, 0.5, 1.0], 200)), {}, "1.19 to 2.00-fold (delta 0.25 to 1 in log2)"),
    ],
)  # fmt: skip
def test_the_finding_says_what_was_asked(table, more, told):
    assert told in words(made(table, **more))


def test_mode_vanilla_promises_no_false_discovery_rate():
    assert "false discovery rate" not in words(made(vanilla(n_genes=90), fdr_target=None))


def test_all_sections_are_there():
    def of(page):
        return [a["id"] for t, a in Page(page).elements if t == "section"]

    assert of(one()) == ["short", "genes", "made"]
    assert of(several()) == ["short", "groups", "genes"]


def test_warnings_settings_and_the_command_are_shown():
    shown = words(one())
    for told in ("Group 'B cells' is small.", "Cells, not samples.", "celbo de m", "chosen from the data", "yes"):
        assert told in shown


def test_each_comparison_has_its_figures_and_one_panel_is_of_all():
    panels = [a["data-group"] for _, a in Page(several()).elements if a.get("class") == "compared"]
    assert panels == ["", "T cells", "B cells", "NK"]
    options = [a["value"] for t, a in Page(several()).elements if t == "option"]
    assert options == panels
    figures = [a for t, a in Page(several()).elements if t == "svg" and a.get("class") == "plot"]
    assert len(figures) == 1 + 3 * 3


def test_one_comparison_needs_no_choice():
    assert "marker-group" not in [a.get("id") for _, a in Page(one()).elements]
    assert "group" not in rows_of(one())["columns"]


def test_the_table_of_groups_counts_cells_and_calls():
    rows = SEVERAL[SEVERAL["group1"] == "T cells"]
    up, down = ((rows["is_de"] & (np.sign(rows["lfc_median"]) == sign)).sum() for sign in (1, -1))
    line = re.search(r'<button type="button" data-group="T cells">.*?</tr>', several()).group()
    assert re.findall(r'class="number[^"]*">([^<]*)<', line) == ["321", str(up), str(down)]


def test_the_table_has_the_numbers_of_the_comparison():
    data = rows_of(one())
    found = pd.DataFrame(data["rows"], columns=data["columns"]).set_index("gene")
    rows = ONE.loc[found.index]
    for heading, column in (("log2 FC", "lfc_median"), ("low", "lfc_lower"), ("high", "lfc_upper")):
        np.testing.assert_allclose(found[heading], rows[column], atol=0.006)
    np.testing.assert_allclose(found["P(different)"], rows["proba_de"], atol=6e-4)
    assert found["call"].notna().tolist() == rows["is_de"].tolist()
    assert set(found["call"].dropna()) == {"higher", "lower"}
    assert len(found) == 300


def test_all_comparisons_have_rows_and_the_filter_names_them():
    data = rows_of(several())
    assert {row[data["group"]] for row in data["rows"]} == {"T cells", "B cells", "NK"}


def test_comparisons_of_pairs_have_names_of_both():
    pairs = pd.concat([compared("T", "B", n_genes=50), compared("T", "NK", n_genes=50)])
    data = rows_of(made(pairs))
    assert {row[data["group"]] for row in data["rows"]} == {"T against B", "T against NK"}


def test_a_long_table_is_cut_by_rank_and_says_so():
    page = made(one_versus_rest(["T", "B", "NK"], n_genes=2000))
    data = rows_of(page)
    assert len(data["rows"]) == 3 * (5000 // 3)
    assert "the first 1,666 of each; the table that was written has all" in words(page)
    scores = [abs(row[data["columns"].index("score")]) for row in data["rows"][:1666]]
    called = [row[data["columns"].index("call")] is not None for row in data["rows"][:1666]]
    ranks = list(zip(called, scores, strict=True))
    assert ranks == sorted(ranks, reverse=True) and data["sort"] == -1


def test_comparisons_beyond_the_first_have_no_figures_and_say_so(monkeypatch):
    monkeypatch.setattr("celbo.report.differential_panels.MAX_DRAWN", 1)
    page = made(one_versus_rest(["T", "B"], n_genes=60))
    assert "Only the first 1 comparisons have figures" in words(page)
    assert len([a for t, a in Page(page).elements if t == "svg" and a.get("class") == "plot"]) == 1 + 3


@pytest.mark.slow
def test_thirty_groups_are_a_page_of_a_few_megabytes():
    table = one_versus_rest([f"group {i}" for i in range(30)], n_genes=2000)
    assert len(made(table)) < 7e6


@pytest.mark.parametrize("which", PAGES)
def test_nothing_is_fetched_and_one_script_may_run(which):
    page = PAGES[which]()
    parsed = Page(page)
    for tag, attributes in parsed.elements:
        for key in ("src", "href", "xlink:href", "action", "srcset", "data"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, key)
    assert not re.search(r"@import|url\((?!#)|https?://", page)
    assert [a for t, a in parsed.elements if t == "script"] == [{"type": "application/json", "id": "marker-data"}, {}]
    assert not [a for _, a in parsed.elements if any(key.startswith("on") for key in a)]
    assert not [t for t, _ in parsed.elements if t in {"img", "iframe", "object", "embed", "form", "link", "base"}]
    policy = next(a["content"] for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    script = re.search(r"<script>(.*?)</script>", page, re.S).group(1)
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


@pytest.mark.parametrize("which", PAGES)
def test_ids_are_unique(which):
    ids = [a["id"] for _, a in Page(PAGES[which]()).elements if a.get("id")]
    assert len(ids) == len(set(ids))


def test_hostile_names_are_shown_as_text():
    shown = " ".join(Page(hostile()).text)
    for name in ("<script>alert(1)</script>", r"\u202eevil", r"nul\x00 new\nline", r"\ud800lone", r"$\frac{a}{b}$ $x"):
        assert name in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", hostile())
    assert len(hostile()) < 3e6


def test_the_same_table_gives_the_same_page():
    assert made(SEVERAL, groupby="cell_type", sizes={"T cells": 321}) == several()


def test_what_is_no_table_of_differential_expression_is_a_named_error():
    with pytest.raises(InputError, match="lacks columns: 'lfc_lower'"):
        DifferentialPage(table=ONE.drop(columns="lfc_lower"), n_cells=1)


def test_writing_into_a_missing_folder_is_a_named_error(tmp_path):
    with pytest.raises(CelboError, match="folder"):
        write_differential_page(DifferentialPage(table=ONE, n_cells=1), tmp_path / "no" / "de.html")
