"""The map: what its script decodes is what was computed, in few bytes, and a picture is there without it."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from celbo.plots.style import heat
from celbo.report.build import Categories, DotPlot, Expression, ReportData, report_html
from celbo.report.index import index
from celbo.report.map import MAX_CELLS, map_cells, map_genes
from celbo.report.markup import HEAT_STEPS, as_json
from celbo.report.places import places

HOSTILE = ("<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>", "\u202eevil")
PAGE = files("celbo.report") / "page"


def data_of(n: int = 300, n_genes: int = 12, names: tuple[str, ...] = ("T", "B", "NK"), **more) -> ReportData:
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(0.7, (n, n_genes)))
    genes = [f"ENSG{i:011d}" for i in range(n_genes)]
    group = Categories("kind", np.arange(n) % (len(names) + 1) - 1, names)
    return ReportData(
        **{
            "title": "t",
            "n_cells": n,
            "n_genes": n_genes,
            "n_genes_used": n_genes,
            "clusters": group,
            "labels": group,
            "batch": group,
            "library": np.asarray(counts.sum(1), float).ravel(),
            "embeddings": {"before": rng.normal(size=(n, 2)), "after": rng.normal(size=(n, 2)) * [3, 1]},
            "expression": Expression.from_counts(counts, genes, genes[::-1], map_cells(n)),
            "gene_names": {genes[0]: "CD3D"},
            "cell_names": [f"cell {i}" for i in range(n)],
            **more,
        }
    )


def block(page: str) -> dict:
    return json.loads(re.search(r'id="map-data">(.*?)</script>', page, re.S).group(1))


def numbers(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_places_codes_amounts_and_genes_are_those_that_were_computed():
    data = data_of()
    found = block(report_html(data))
    xy = numbers(found["spaces"][1]["xy"], "<u2").reshape(-1, 2).astype(float)
    given = data.embeddings["after"]
    side = np.ptp(given, axis=0).max()
    assert np.abs((xy - xy.mean(0)) / 65535 - (given - given.mean(0)) / side).max() < 2e-5
    assert np.array_equal(numbers(found["groups"][0]["codes"], "u1").astype(int) - 1, data.clusters.codes)
    assert np.array_equal(numbers(found["amounts"][0]["values"], "<f4"), data.library)
    assert found["cells"][7] == "cell 7"
    for k, gene in enumerate(found["genes"]):
        raw = numbers(gene["values"], "u1")
        has = np.unpackbits(raw[: -(-300 // 8)], bitorder="little")[:300].astype(bool)
        values = np.zeros(300)
        values[has] = raw[-(-300 // 8) :] / 255 * gene["top"]
        true = data.expression.values[:, k].toarray().ravel()
        assert np.array_equal(has, true > 0)
        assert np.abs(values - true).max() < 0.5 / 255 * true.max() + 1e-4
    assert (found["genes"][-1]["name"], found["genes"][-1]["id"]) == ("CD3D", "ENSG00000000000")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize("n_groups", [3, 300])
def test_the_script_decodes_what_was_written(tmp_path: Path, n_groups: int):
    data = data_of(n=1000, names=tuple(map(str, range(n_groups))))
    (tmp_path / "data.json").write_text(as_json(block(report_html(data))), encoding="utf-8")
    code = (PAGE / "decode.js").read_text(encoding="utf-8") + (
        "const d = JSON.parse(require('fs').readFileSync(process.argv[1]));"
        "const g = d.groups[0], all = celboNumbers;"
        "console.log(JSON.stringify({places: [...all.places(d.spaces[0].xy)], codes: [...all.codes(g.codes, g.wide)],"
        "amounts: [...all.amounts(d.amounts[0].values)],"
        "genes: d.genes.map((x) => [...all.gene(x.values, d.n, x.top)])}))"
    )
    told = subprocess.run(
        ["node", "-e", code, str(tmp_path / "data.json")], capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(told.stdout)
    assert found["codes"] == data.clusters.codes.tolist()
    assert found["amounts"] == data.library.tolist()
    xy = np.reshape(found["places"], (-1, 2))
    given = data.embeddings["before"]
    assert np.abs(xy - xy.mean(0) - (given - given.mean(0)) / np.ptp(given, axis=0).max()).max() < 2e-5
    true = data.expression.values.toarray().T
    assert np.abs(np.array(found["genes"]) - true).max() < 0.5 / 255 * true.max() + 1e-4


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_all_scripts_of_the_pages_are_sound():
    for name in ("script.js", "index.js", "decode.js", "map.js", "compare.js", "differential.js"):
        code = (PAGE / name).read_text(encoding="utf-8")
        subprocess.run(["node", "--check", "-"], input=code, text=True, check=True, capture_output=True, timeout=60)


def test_without_a_script_there_are_pictures_in_both_colourings():
    page = report_html(data_of())
    still = re.search(r'<section id="maps">.*?<noscript>(.*?)</noscript>', page, re.S).group(1)
    assert still.count("data:image/png;base64,") == 4  # by label and by batch, before and after
    assert '<div class="card" id="cell-map" hidden>' in page


def test_hostile_names_of_cells_genes_and_groups_are_text_in_the_data():
    names = [*HOSTILE, "x" * 100_000] * 75
    page = report_html(data_of(names=HOSTILE, gene_names={"ENSG00000000000": HOSTILE[0]}, cell_names=names))
    inner = re.search(r'id="map-data">(.*?)</script>', page, re.S).group(1)
    assert "<" not in inner
    assert "\u202e" not in inner
    found = json.loads(inner)
    assert found["cells"][0] == HOSTILE[0]
    assert found["groups"][1]["names"][2] == [r"\u202eevil"]
    assert max(map(len, found["cells"])) <= 60


def test_fifty_thousand_cells_and_three_hundred_genes_stay_below_five_megabytes():
    n = 50_000
    rng = np.random.default_rng(0)
    counts = sparse.random(n, 320, 0.35, "csr", rng=rng, data_rvs=lambda k: rng.integers(1, 9, k))
    genes = [f"g{i}" for i in range(320)]
    page = report_html(
        data_of(
            n=n,
            names=tuple(map(str, range(20))),
            library=np.ones(n),
            expression=Expression.from_counts(counts, genes, genes, map_cells(n)),
            gene_names={},
        )
    )
    found = block(page)
    assert found["n"] == MAX_CELLS
    assert len(page) < 5e6
    assert 150 < len(found["genes"]) < 300  # the last ones are left out for their size
    assert "A random 20,000 of the 50,000 cells are drawn." in page


def test_a_cell_without_a_place_is_left_out_of_the_map():
    data = data_of()
    data.embeddings["after"][5] = np.nan
    found = block(report_html(data))
    assert found["n"] == 299
    assert "cell 5" not in found["cells"]
    assert len(numbers(found["groups"][0]["codes"], "u1")) == 299


def test_genes_are_offered_in_turns_of_the_clusters():
    table = pd.DataFrame(
        {"group1": list("aaabbc"), "bayes_factor": 9.0, "lfc_median": [3.0, 2.0, 1.0, 3.0, 2.0, 1.0]},
        index=["a1", "a2", "a3", "b1", "a1", "c1"],
    )
    assert map_genes(table, 5) == ["a1", "b1", "c1", "a2", "a3"]
    assert map_genes(table, 2) == ["a1", "b1"]
    assert map_genes(None) == []


def test_the_highest_amount_is_darkest_on_white_and_brightest_on_black():
    style = (PAGE / "style.css").read_text(encoding="utf-8")
    tones = np.array([[int(hex_[i : i + 2], 16) for i in (0, 2, 4)] for hex_ in re.findall(r"--h\d+: #(\w{6})", style)])
    light, dark = tones[:HEAT_STEPS] @ [0.2126, 0.7152, 0.0722], tones[HEAT_STEPS:] @ [0.2126, 0.7152, 0.0722]
    assert len(tones) == 2 * HEAT_STEPS
    assert (np.diff(light) < 4).all()
    assert light[-1] < 0.4 * light[0]
    assert (np.diff(dark) > 0).all()
    assert np.allclose(tones[0] / 255, heat()(0.0)[:3], atol=0.01)
    assert np.allclose(tones[HEAT_STEPS - 1] / 255, heat()(1.0)[:3], atol=0.01)


def test_the_index_names_every_section_of_a_page():
    bar = index('<section id="maps">\n<h2>The map of cells</h2></section><section id="x"><h2>Own &amp; <b>new</b></h2>')
    assert '<a href="#maps">Map</a>' in bar
    assert '<a href="#x">Own &amp; new</a>' in bar
    page = report_html(data_of())
    assert re.findall(r'<a href="#(\w+)">', bar + re.search(r"<nav.*?</nav>", page, re.S)[0])[2:] == re.findall(
        r'<section id="(\w+)"', page
    )


@pytest.mark.parametrize("n_groups", [5, 35])
def test_names_on_a_still_map_cover_neither_each_other_nor_cells(n_groups: int):
    rng = np.random.default_rng(1)
    middles = rng.uniform(90, 510, (n_groups, 2))
    members = np.arange(2000) % n_groups
    where = middles[members] + 9 * rng.normal(size=(2000, 2))
    halves = rng.uniform(20, 70, n_groups)
    found = places(where, [np.flatnonzero(members == k) for k in range(n_groups)], halves, 600)
    assert len(found) > 0.6 * n_groups
    for a in found:
        covered = (np.abs(where - [a.x, a.y]) < [a.half, 13]).all(1)
        assert covered.sum() <= 5
        assert a.half <= a.x <= 600 - a.half
        assert np.linalg.norm(where[members == a.item] - [a.cells_x, a.cells_y], axis=1).min() < 9
        for b in found:
            assert a is b or abs(a.x - b.x) >= a.half + b.half or abs(a.y - b.y) >= 26


def test_a_name_without_a_free_place_is_left_to_the_legend():
    where = np.random.default_rng(0).uniform(0, 100, (4000, 2))
    assert places(where, [np.arange(4000)], [40.0], 100) == []


def test_symbols_and_names_of_clusters_stand_in_figures_and_both_names_of_a_gene_are_in_the_table():
    genes = [f"ENSG{i:011d}" for i in range(4)]
    table = pd.DataFrame({"group1": ["T", "B", "NK", "T"], "bayes_factor": 9.0, "lfc_median": 2.0}, index=genes)
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (300, 4)))
    data = data_of(gene_names={genes[0]: "CD3D"}, markers=table)
    page = report_html(dataclasses.replace(data, dots=DotPlot.from_counts(counts, genes, data.clusters, genes)))
    figure = re.search(r'aria-label="mean expression and detection.*?</svg>', page, re.S).group(0)
    assert ">CD3D<" in figure
    assert ">NK NK<" in figure  # the cluster's number, here a word, and the label of most of its cells
    rows = json.loads(re.search(r'id="marker-data">(.*?)</script>', page, re.S).group(1))
    assert rows["own"] == {"CD3D": genes[0]}
