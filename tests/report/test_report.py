"""The page: complete, self-contained, and text wherever names are shown."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from celbo.errors import CelboError, InputError
from celbo.evaluate import compare_latents, predictive_check
from celbo.plots.style import MISSING, category_colors
from celbo.report.build import Categories, DotPlot, ReportData, report_html, top_markers, write_report
from celbo.report.data import cluster_names
from celbo.report.markup import palette_of

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\u202eevil",
    "x" * 1_000_000,
    r"$\frac{a}{b}$ $x",
    "nul\x00 new\nline",
    "\ud800lone",
    "' onmouseover='x\" >",
)


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

    def ids(self) -> list[str]:
        return [a["id"] for _, a in self.elements if a.get("id")]


def minimal(**more) -> ReportData:
    return ReportData(**{"title": "tiny", "n_cells": 60, "n_genes": 9, "n_genes_used": 8, **more})


def cell_table(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "total_counts": rng.lognormal(7, 0.6, n).round(),
            "n_genes_by_counts": rng.lognormal(6, 0.4, n).round(),
            "pct_counts_mt": rng.gamma(2, 3, n),
            "pct_counts_ribo": rng.uniform(10, 40, n),
            "doublet_score": rng.beta(1, 12, n),
        }
    )


@functools.cache
def full(n: int = 60, names: tuple[str, ...] = ("T", "B", "NK")) -> ReportData:
    rng = np.random.default_rng(0)
    k = len(names)
    group = np.arange(n) % k
    counts = sparse.csr_matrix(rng.poisson(1.5, (n, 8)))
    genes = [*names, *[f"gene{i}" for i in range(8)]][:8]
    latent = rng.normal(size=(n, 2)) + 4 * np.eye(k)[group][:, :2]
    clusters = Categories("leiden", group, names)
    markers = pd.DataFrame(
        {
            "group1": [names[i % k] for i in range(8)],
            "proba_higher": np.linspace(0.99, 0.2, 8),
            "bayes_factor": [np.inf, *np.linspace(5, -2, 7)],
            "lfc_median": np.linspace(3, -1, 8),
            "detection1": 0.5,
            "detection2": 0.1,
        },
        index=genes,
    )
    epochs = 40
    curve = -500 - 100 * np.exp(-np.arange(epochs) / 5)
    history = pd.DataFrame(
        {
            "elbo_train": curve, "elbo_validation": curve - 5, "kl_z_train": 10.0, "kl_z_validation": 9.0,
            "kl_weight": 1.0, "learning_rate": 1e-3,
        }
    )  # fmt: skip
    return minimal(
        n_cells=n,
        title=names[0],
        source=names[0],
        warnings=names,
        library=np.asarray(counts.sum(1), float).ravel(),
        detected=np.asarray((counts > 0).sum(1), float).ravel(),
        zero_fraction=1 - np.asarray((counts > 0).mean(0)).ravel(),
        quality=cell_table(n),
        quality_notes=names,
        batch=Categories(names[0], np.arange(n) // 2 % k, names),
        labels=Categories(names[0], group, names),
        clusters=clusters,
        history=history,
        best_epoch=39,
        held_out_elbo=-505.0,
        embeddings={"Before (PCA)": latent, names[0]: latent},
        metrics=compare_latents({"before": latent, "after": latent}, np.arange(n) // 2 % k, group, group),
        ari=0.8,
        nmi=0.9,
        predictive=predictive_check(counts, counts, genes),
        markers=markers,
        markers_note=names[0],
        dots=DotPlot.from_counts(counts, genes, clusters, genes[:4]),
        command=names[0],
        seed=0,
        versions={names[0]: names[0]},
        config={"train": {names[0]: names[0]}},
        seconds={names[0]: 2.0, "train": 5.0},
    )


@pytest.fixture(scope="module")
def page() -> str:
    return report_html(full())


@pytest.fixture(scope="module")
def hostile() -> str:
    return report_html(full(names=HOSTILE))


def test_all_sections_are_there(page):
    sections = ["short", "maps", "integration", "clusters", "genes", "data", "quality", "training", "fit", "made"]
    assert [a["id"] for t, a in Page(page).elements if t == "section"] == sections


def test_nothing_is_fetched(page):
    for tag, attributes in Page(page).elements:
        for key in ("src", "href", "xlink:href", "action", "srcset", "data"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, key)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "http://" not in page
    assert "https://" not in page


def test_the_policy_forbids_the_network_and_allows_one_script(page):
    policy = next(a["content"] for t, a in Page(page).elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    script = re.search(r"<script>(.*?)</script>", page, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe-eval" not in policy


@pytest.mark.parametrize("which", ["page", "hostile"])
def test_only_our_script_and_its_data_and_no_handlers(which, request):
    parsed = Page(request.getfixturevalue(which))
    blocks = [{"type": "application/json", "id": name} for name in ("map-data", "marker-data")]
    assert [a for t, a in parsed.elements if t == "script"] == [*blocks, {}]
    assert not [a for _, a in parsed.elements if any(key.startswith("on") for key in a)]
    assert not [t for t, _ in parsed.elements if t in {"img", "iframe", "object", "embed", "form", "link", "base"}]


def test_hostile_names_are_shown_as_text(hostile):
    shown = " ".join(Page(hostile).text)
    for words in ("<script>alert(1)</script>", r"\u202eevil", r"nul\x00 new\nline", r"\ud800lone", r"$\frac{a}{b}$ $x"):
        assert words in shown


def test_no_control_or_direction_character_is_left(hostile):
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", hostile)


def test_long_names_are_cut(hostile):
    assert max(map(len, re.findall("x+", hostile))) <= 4000
    assert len(hostile) < 2_000_000


def test_marker_data_are_json_of_visible_names(hostile):
    block = re.search(r'id="marker-data">(.*?)</script>', hostile, re.S).group(1)
    assert "<" not in block
    data = json.loads(block)
    assert data["rows"][0][data["gene"]] == "<script>alert(1)</script>"
    assert data["rows"][0][data["columns"].index("Bayes factor")] == 1e308  # shown as infinite


@pytest.mark.parametrize("which", ["page", "hostile"])
def test_ids_are_unique(which, request):
    ids = Page(request.getfixturevalue(which)).ids()
    assert len(ids) == len(set(ids))


def test_the_same_data_give_the_same_page(page):
    assert report_html(full()) == page


def test_a_minimal_record_is_a_whole_page():
    parsed = Page(report_html(minimal()))
    words = " ".join(parsed.text)
    assert "No training history was recorded." in words
    assert "No marker genes were computed." in words
    assert [t for t, _ in parsed.elements if t == "section"] == ["section"] * 10


@pytest.mark.parametrize("only", [f.name for f in dataclasses.fields(ReportData) if f.default is None])
def test_any_part_may_be_the_only_one(only):
    alone = minimal(**{only: getattr(full(), only)})
    assert [t for t, _ in Page(report_html(alone)).elements if t == "section"] == ["section"] * 10


def test_one_batch_without_labels_says_so():
    xy = np.random.default_rng(0).normal(size=(60, 2))
    one = minimal(batch=Categories("batch", np.zeros(60, int), ("all",)), library=np.ones(60), embeddings={"after": xy})
    words = " ".join(Page(report_html(one)).text)
    assert "There is no map by batches or labels" in words
    assert "in one batch" in words


def test_ten_thousand_cells_stay_below_five_megabytes(tmp_path):
    n = 10_000
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 12, n)
    group = Categories("cluster", codes, tuple(f"type {i}" for i in range(12)))
    xy = rng.normal(size=(n, 2)) + 3 * rng.normal(size=(12, 2))[codes]
    data = minimal(n_cells=n, labels=group, batch=group, clusters=group, library=rng.lognormal(8, 1, n))
    path = write_report(dataclasses.replace(data, embeddings={"before": xy, "after": -xy}), tmp_path / "report.html")
    assert path.stat().st_size < 2.5e6


def test_two_hundred_clusters_make_a_page():
    many = Categories("cluster", np.arange(1000) % 200, tuple(map(str, range(200))))
    page = report_html(minimal(n_cells=1000, clusters=many, labels=many, embeddings={"after": np.eye(1000)[:, :2]}))
    assert "and 160 more" in page
    assert len(page) < 1e6


def test_the_smallest_categories_are_joined_as_other():
    found = Categories("x", np.array([0, 0, 0, 1, 2, 2, 3, -1]), ("a", "b", "c", "d")).largest(3)
    assert found.names == ("a", "c", "2 others")
    assert found.codes.tolist() == [0, 0, 0, 2, 1, 1, 2, -1]
    assert palette_of(found) == [*np.array(category_colors(4))[[0, 2]], MISSING]


def test_a_label_has_one_colour_in_all_figures_however_many_there_are():
    names = (*[f"type {i}" for i in range(20)], "unknown", *[f"type {i}" for i in range(20, 40)])
    of_cell = np.concatenate([np.repeat(np.arange(41), np.arange(41)), np.arange(41)])
    labels = Categories("label", of_cell, names)
    clusters = Categories("cluster", of_cell % 7, tuple("0123456"))
    maps = {"after": np.random.default_rng(0).normal(size=(len(of_cell), 2))}
    page = report_html(minimal(n_cells=len(of_cell), labels=labels, clusters=clusters, embeddings=maps))
    colours: dict[str, set[str]] = {}
    for title, colour in re.findall(r'<span title="([^"]+)"><i style="background:(#\w{6})', page):
        colours.setdefault(title, set()).add(colour)
    for title, colour in re.findall(
        r'<span title="([^"]+)"><bdi>[^<]*</bdi></span><span><i style="background:(#\w{6})', page
    ):
        colours.setdefault(title, set()).add(colour)
    of_types = [colours[f"type {i}"] for i in range(20, 40)]
    assert all(len(one) == 1 for one in of_types)
    assert len(set().union(*of_types)) == 20
    drawn = page[page.index('aria-label="clusters by label"') :]
    largest = palette_of(labels)[-1]
    assert f"fill: {largest}" in drawn[: drawn.index("</svg>")]


def test_writing_into_a_missing_folder_is_a_named_error(tmp_path):
    with pytest.raises(CelboError, match="folder"):
        write_report(minimal(), tmp_path / "no" / "report.html")


def test_arrays_of_another_length_are_a_named_error():
    with pytest.raises(InputError, match="59 entries for 60 cells"):
        minimal(library=np.ones(59))


def test_categories_keep_the_order_of_a_categorical_and_mark_the_missing():
    column = pd.Series(pd.Categorical(["b", None, "a", "b"], categories=["b", "unused", "a"]))
    found = Categories.of("x", column)
    assert found.names == ("b", "a")
    assert found.codes.tolist() == [0, -1, 1, 0]
    assert found.sizes.tolist() == [2, 1]


def test_categories_of_numbers_are_sorted_as_strings():
    assert Categories.of("x", [10, 9, 10]).names == ("10", "9")


def test_known_codes_leave_out_unlabelled():
    assert Categories.of("x", ["B", "Unlabelled", "T", "unknown"]).known_codes.tolist() == [0, -1, 1, -1]


def test_dot_plot_is_the_mean_of_log_counts_and_the_share_detected():
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.8, (30, 5))
    groups = Categories("g", np.arange(30) % 3, ("a", "b", "c"))
    found = DotPlot.from_counts(sparse.csr_matrix(counts), list("vwxyz"), groups, ["z", "absent", "w"])
    logged = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    assert found.genes == ("z", "w")
    assert found.mean[1] == pytest.approx(logged[groups.codes == 1][:, [4, 1]].mean(0))
    assert found.fraction[2] == pytest.approx((counts > 0)[groups.codes == 2][:, [4, 1]].mean(0))


def test_top_markers_are_the_called_genes_by_their_score():
    table = pd.DataFrame(
        {
            "group1": ["a"] * 5,
            "bayes_factor": [9, 5, 4, 8, 1],
            "lfc_median": [1.0, 3.0, 2.0, 9.0, 8.0],
            "marker_score": [0.3, 2.0, 1.5, 0.2, 2.5],
        },
        index=["house", "best", "second", "rare", "unsure"],
    )
    assert top_markers(table, 4) == ["best", "second", "house", "rare"]
    assert top_markers(table.sample(frac=1, random_state=0), 5) == ["best", "second", "house", "rare", "unsure"]


def test_a_cluster_is_named_by_number_majority_label_and_top_genes():
    clusters = Categories("cluster", np.repeat([0, 1, 2], 10), ("0", "1", "2"))
    kinds = np.array(["B"] * 9 + ["T"] + ["T", "B", "NK", "T", "NK"] * 2 + ["unknown"] * 10)
    table = pd.DataFrame(
        {"group1": ["0", "0", "0", "1"], "bayes_factor": 9.0, "lfc_median": [2.0, 1.0, 0.5, 1.0]},
        index=["ENSG1", "CD79A", "CD74", "CD3D"],
    )
    named = cluster_names(clusters, Categories.of("kind", kinds), table, gene_names={"ENSG1": "MS4A1"})
    assert [str(n) for n in named] == ["0 · B · MS4A1 CD79A", "1 · NK / T · CD3D", "2"]
    assert named[0].share == pytest.approx(0.9)
    assert named[1].share == pytest.approx(0.4)
    assert [str(n) for n in cluster_names(clusters)] == ["0", "1", "2"]
    many = Categories.of("kind", np.array([f"kind {i % 5}" for i in range(30)]))
    assert [n.label for n in cluster_names(clusters, many)] == ["mixed"] * 3, "two fifths are no name for a cluster"
