"""The cards of the clusters: the one ranking, what a card tells, and columns that say nothing."""

from __future__ import annotations

import json
import re
from html import unescape

import numpy as np
import pandas as pd

from celbo.plots.compared import top_genes
from celbo.report.data import Categories, ReportData
from celbo.report.markers import MAX_CARDS, marker_cards
from celbo.report.table import marker_json, marker_rows


def markers(n: int = 14, groups: tuple[str, ...] = ("0", "1")) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame(
            {
                "group1": group,
                "lfc_median": rng.uniform(0.5, 6, n),
                "lfc_lower": rng.uniform(0.1, 0.5, n),
                "bayes_factor": rng.uniform(4, 600, n),
                "proba_de": 1.0,
                "expected_fdr": rng.choice([0.0, 1e-40, 1e-120], n),
                "detection1": rng.uniform(0.3, 1, n),
                "detection2": rng.uniform(0, 0.3, n),
            },
            index=[f"g{i}" for i in range(n)],
        )
        for group in groups
    ]
    return pd.concat(parts)


def data(table: pd.DataFrame, n: int = 40, **more) -> ReportData:
    clusters = Categories.of("cluster", np.arange(n) % 4 // 3)
    return ReportData(title="t", n_cells=n, n_genes=20, n_genes_used=20, markers=table, clusters=clusters, **more)


def cards(page: str) -> dict[str, str]:
    found = re.findall(r'<article class="card marker-card" data-group="(.*?)">(.*?)</article>', page, re.S)
    return {unescape(group): body for group, body in found}


def genes(card: str) -> list[str]:
    return [unescape(gene) for gene in re.findall(r'data-gene="(.*?)"', card)]


def test_cards_table_and_dot_plot_have_the_genes_in_one_order():
    table = markers()
    page = data(table)
    for group, card in cards(marker_cards(page)).items():
        best = top_genes(table[table["group1"] == group], 10)
        assert genes(card) == best
        assert json.loads(unescape(re.search(r'data-copy="(.*?)"', card).group(1))) == best
        held = json.loads(marker_json(page))
        listed = [row[held["gene"]] for row in held["rows"] if row[held["group"]] == group]
        assert listed[:10] == best


def test_a_card_tells_number_label_cells_and_shares():
    labels = Categories.of("type", np.array(["B", "B", "T", "NK"] * 10))
    batch = Categories.of("batch", np.arange(40) // 20)
    first, second = cards(marker_cards(data(markers(), labels=labels, batch=batch))).values()
    assert "<bdi>0</bdi></b> <bdi>B</bdi>" in first
    assert "30 cells, 75.0% of all" in first
    assert "by label: <bdi>B</bdi> 67%, <bdi>T</bdi> 33%" in first
    assert "by batch: <bdi>0</bdi> 50%, <bdi>1</bdi> 50%" in second
    assert "10 cells, 25.0% of all" in second


def test_genes_are_shown_by_their_symbols():
    page = marker_cards(data(markers(), gene_names={f"g{i}": f"SYM{i}" for i in range(14)}))
    assert all(gene.startswith("SYM") for card in cards(page).values() for gene in genes(card))


def test_no_gene_of_a_card_is_lower_before_one_that_is_higher():
    table = markers(3)
    table.loc["g1", "lfc_median"] = -2.0
    assert list(marker_rows(data(table))["gene"])[2] == "g1"


def test_probabilities_that_all_read_one_or_nought_are_left_out():
    held = json.loads(marker_json(data(markers())))
    assert "P(different)" not in held["columns"]
    fdr = held["columns"].index("FDR")
    assert held["small"][fdr]
    assert {row[fdr] for row in held["rows"]} == {0.0, 1e-40, 1e-120}
    table = markers().assign(expected_fdr=1e-200)
    assert "FDR" not in json.loads(marker_json(data(table)))["columns"]
    table = markers()
    table.iloc[0, table.columns.get_loc("proba_de")] = 0.97
    held = json.loads(marker_json(data(table)))
    assert held["sure"][held["columns"].index("P(different)")]


def test_infinite_evidence_is_told_as_such():
    table = markers(2, ("0",)).assign(bayes_factor=[np.inf, -np.inf])
    held = json.loads(marker_json(data(table)))
    assert {row[held["columns"].index("Bayes factor")] for row in held["rows"]} == {1e308, -1e308}


def test_hostile_names_are_text():
    name = "</script><img src=x onerror=alert(1)>\"'"
    table = markers(2, (name,))
    table.index = [name, "=1+1"]
    found = cards(marker_cards(data(table, labels=Categories.of("type", [name] * 20 + ["b"] * 20))))
    assert "<img" not in "".join(found.values())
    assert set(genes(found[name])) == {name, "=1+1"}


def test_many_clusters_have_a_bounded_number_of_cards():
    groups = tuple(str(i) for i in range(MAX_CARDS + 5))
    page = marker_cards(data(markers(2, groups)))
    assert len(cards(page)) == MAX_CARDS
    assert "5 more clusters are in the table below." in page


def test_without_markers_there_are_no_cards():
    assert marker_cards(ReportData(title="t", n_cells=1, n_genes=1, n_genes_used=1)) == ""
    assert marker_cards(data(markers().drop(columns="group1"))) == ""


def test_a_card_says_where_no_gene_is_called():
    table = markers().assign(is_de=True)
    table.loc[table["group1"] == "1", "is_de"] = False
    told = {group: "No gene is called higher here" in card for group, card in cards(marker_cards(data(table))).items()}
    assert told == {"0": False, "1": True}
    table["is_de"] = True
    table.loc[table["group1"] == "1", "lfc_median"] *= -1
    assert "No gene is called higher here" in cards(marker_cards(data(table)))["1"], "all its calls are lower"
