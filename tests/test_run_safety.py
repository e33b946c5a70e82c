"""A run loses nothing that the user brought, and a part of it that fails costs that part alone."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib import pyplot as plt
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

import celbo
from celbo.data.writable import make_writable
from celbo.errors import InputError, OptionError, WriteError
from celbo.pipeline import GraphConfig, RunConfig, RunResult, SelectionConfig, pages, steps, train
from celbo.pipeline import main as job
from celbo.pipeline.ask import Asked
from celbo.pipeline.config import read_toml
from celbo.plots.style import category_colors
from celbo.report import panels
from celbo.report.build import ReportData, report_html
from celbo.training.plan import TrainConfig

mpl.use("Agg")
CONFIG = RunConfig(
    seed=1, selection=SelectionConfig(n_top_genes=60), train=TrainConfig(max_epochs=2, n_threads=1)
)  # fmt: skip


def cells(n: int = 160, genes: int = 80) -> anndata.AnnData:
    """Return simulated cells of two batches and three types, with counts alone and plain names."""
    made = celbo.datasets.simulate(n_cells=n, n_genes=genes, n_batches=2, n_cell_types=3, seed=0)
    obs = made.obs[["batch", "cell_type"]].copy()
    return anndata.AnnData(sparse.csr_matrix(made.X), obs=obs, var=pd.DataFrame(index=made.var_names))


def annotated() -> anndata.AnnData:
    """Return cells that have every slot which a run would write, filled by somebody else."""
    adata = cells()
    n, genes = adata.shape
    rng = np.random.default_rng(0)
    adata.obs["leiden"] = pd.Categorical(np.where(rng.random(n) < 0.5, "CD4 T", "B cell"))
    adata.obs["total_counts"] = np.arange(n)
    adata.obs["doublet_score"] = "mine"
    adata.var["highly_variable"] = np.arange(genes) % 2 == 0
    adata.var["highly_variable_rank"] = np.arange(genes, dtype=float)
    for slot in ("X_scvi", "X_umap", "X_umap_before", "X_pca"):
        adata.obsm[slot] = rng.normal(size=(n, 3))
    for slot in ("distances", "connectivities"):
        adata.obsp[slot] = sparse.csr_matrix(np.eye(n))
    adata.layers["lognorm"] = sparse.csr_matrix(np.ones((n, genes), np.float32))
    adata.uns |= {
        "neighbors": {"params": {"method": "snn"}},
        "leiden": {"mine": "1"},
        "leiden_colors": ["#000000", "#ffffff"],
        "umap": {"mine": "2"},
        "rank_genes_groups": {"mine": "3"},
        "filter_cells": {"mine": "4"},
        "celbo": {"mine": "5"},
        "batch_colors": ["#111111", "#222222"],
    }
    return adata


def slots_of(adata: anndata.AnnData) -> dict[tuple[str, str], Any]:
    """Return the values of all slots by place."""
    names = ("obs", "var", "obsm", "obsp", "layers", "uns")
    return {(name, key): getattr(adata, name)[key] for name in names for key in getattr(adata, name)}


def same(one: Any, other: Any) -> bool:
    """Whether two values of a slot hold the same."""
    if sparse.issparse(one):
        return bool((one != other).nnz == 0)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return np.array_equal(np.asarray(one, str), np.asarray(other, str))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """Return a run on cells in which every usual slot is taken."""
    folder = tmp_path_factory.mktemp("runs")
    annotated().write_h5ad(folder / "annotated.h5ad")
    asked = replace(CONFIG, selection=replace(CONFIG.selection, min_counts=1))
    return celbo.run(
        folder / "annotated.h5ad", config=asked, out=folder / "out", labels_key="leiden", batch_key="batch",
        progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """Return a run on cells that have none of the usual slots."""
    out = tmp_path_factory.mktemp("runs") / "out"
    return celbo.run(cells(), config=CONFIG, out=out, batch_key="batch", labels_key="cell_type", progress=False)


# --------------------------------------------------------------------------------------------------- the user's slots


def test_no_slot_of_the_user_is_changed(kept: RunResult) -> None:
    result = anndata.read_h5ad(kept.folder / "result.h5ad")
    given, found = slots_of(annotated()), slots_of(result)
    assert [place for place in given if not same(given[place], found[place])] == []
    assert (result.X != annotated().X).nnz == 0


def test_what_the_run_found_is_under_free_names(kept: RunResult) -> None:
    result = anndata.read_h5ad(kept.folder / "result.h5ad")
    assert kept.slots.clusters == "celbo_leiden"
    assert result.obsm["X_celbo_scvi"].shape == (160, 10)
    assert result.obsm["X_celbo_umap"].shape == result.obsm["X_celbo_umap_before"].shape == (160, 2)
    assert result.obs["celbo_total_counts"].tolist() == result.X.sum(1).ravel().tolist()[0]
    assert "celbo_doublet_score" not in result.obs  # batches of 80 cells have no score
    assert result.obs["n_genes_by_counts"].max() <= 80
    assert int(result.var["celbo_highly_variable"].sum()) == 60
    assert result.obsp["celbo_neighbors_connectivities"].nnz > 160
    assert result.layers["celbo_lognorm"].dtype == np.float32
    assert result.uns["celbo_filter_cells"]["n_after"] == 160
    assert {"celbo_rank_genes_groups", "celbo_leiden_colors"} <= set(result.uns)
    assert result.uns["celbo_celbo"]["slots"]["umap"] == "X_celbo_umap"


def test_agreement_is_with_the_labels_as_they_were_given(kept: RunResult) -> None:
    assert kept.ari == pytest.approx(adjusted_rand_score(annotated().obs["leiden"], kept.adata.obs["celbo_leiden"]))
    assert kept.ari is not None and kept.ari < 0.5
    table = kept.tables["clusters"]
    assert table["leiden"].tolist() == annotated().obs["leiden"].tolist()
    assert table["celbo_leiden"].tolist() == kept.adata.obs["celbo_leiden"].tolist()


def test_report_says_which_names_were_taken(kept: RunResult) -> None:
    assert "obs[&#x27;celbo_leiden&#x27;] in place of obs[&#x27;leiden&#x27;]" in kept.report.read_text()


def test_clusters_of_such_a_run_are_groups_of_a_comparison(kept: RunResult) -> None:
    asked = Asked.open(kept.folder, ())
    table = asked.count_model.differential_expression(groupby="celbo_leiden")
    assert set(table["group1"]) == set(kept.adata.obs["celbo_leiden"])


def test_usual_names_are_taken_where_they_are_free(plain: RunResult) -> None:
    usual = {"X_scvi", "X_umap", "X_umap_before", "X_pca"}
    assert set(plain.adata.obsm) == usual
    assert list(plain.adata.obs) == [
        "batch", "cell_type", "leiden", "total_counts", "n_genes_by_counts",
    ]  # fmt: skip
    assert plain.warnings == ()


def test_run_on_the_result_of_a_run_replaces_what_nobody_changed(plain: RunResult, tmp_path: Path) -> None:
    again = celbo.run(plain.folder / "result.h5ad", config=CONFIG, out=tmp_path / "2", progress=False)
    assert again.slots == plain.slots
    assert list(again.adata.obs) == list(plain.adata.obs)
    assert list(again.adata.layers) == ["lognorm"]


def test_run_on_a_result_keeps_clusters_that_were_renamed_or_are_named_as_labels(
    plain: RunResult, tmp_path: Path
) -> None:
    changed = anndata.read_h5ad(plain.folder / "result.h5ad")
    changed.obs["leiden"] = changed.obs["leiden"].cat.rename_categories(lambda name: f"type {name}")
    first = celbo.run(changed, config=CONFIG, out=tmp_path / "1", progress=False)
    assert first.adata.obs["leiden"].tolist() == changed.obs["leiden"].tolist()
    assert first.slots.clusters == "celbo_leiden" and first.slots.umap == "X_umap"
    second = celbo.run(
        plain.folder / "result.h5ad", config=CONFIG, out=tmp_path / "2", labels_key="leiden", progress=False
    )
    assert second.adata.obs["leiden"].tolist() == plain.adata.obs["leiden"].tolist()
    assert second.slots.clusters == "celbo_leiden"


def test_old_graph_of_another_program_does_not_matter(tmp_path: Path) -> None:
    adata = cells()
    adata.uns["neighbors"] = {"params": {"method": "snn"}}
    adata.obsp["distances"] = sparse.csr_matrix(np.eye(160))
    asked = replace(CONFIG, graph=GraphConfig(lognorm=False))
    done = celbo.run(adata, config=asked, out=tmp_path / "out", progress=False)
    assert done.slots.graph == "celbo_neighbors"
    assert list(done.adata.layers) == []  # as asked
    sc.tl.umap(done.adata, neighbors_key="celbo_neighbors", maxiter=5)
    assert done.adata.uns["neighbors"] == {"params": {"method": "snn"}}


# ------------------------------------------------------------------------------------------------ what scanpy is given


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_plots_of_scanpy_work_at_once(plain: RunResult) -> None:
    result = anndata.read_h5ad(plain.folder / "result.h5ad")
    genes = list(plain.tables["markers"].index[:3])
    sc.pl.rank_genes_groups_dotplot(result, n_genes=3, layer="lognorm", show=False)
    sc.pl.umap(result, color=["leiden", "cell_type", "batch", *genes], layer="lognorm", show=False)
    sc.pl.rank_genes_groups(result, show=False)
    sc.pl.matrixplot(result, genes, groupby="leiden", layer="lognorm", show=False)
    plt.close("all")
    ranked = sc.get.rank_genes_groups_df(result, group=None)
    assert set(ranked["group"]) == set(result.obs["leiden"])
    assert ranked["names"].nunique() == 60


def test_lognorm_is_what_scanpy_computes(plain: RunResult) -> None:
    layer = plain.adata.layers["lognorm"]
    theirs = cells()
    theirs.X = theirs.X.astype(np.float64)
    sc.pp.normalize_total(theirs, target_sum=1e4)
    sc.pp.log1p(theirs)
    assert layer.dtype == np.float32
    np.testing.assert_allclose(layer.toarray(), theirs.X.toarray(), rtol=1e-5)


def test_colours_are_those_of_the_report(plain: RunResult) -> None:
    result = anndata.read_h5ad(plain.folder / "result.h5ad")
    for name in ("leiden", "cell_type", "batch"):
        assert list(result.uns[f"{name}_colors"]) == category_colors(len(result.obs[name].cat.categories))


# ------------------------------------------------------------------------------------------------------- failing parts


def boom(*_: object, **__: object) -> Any:
    raise RuntimeError("boom")


PARTS: dict[str, tuple[object, str, str]] = {
    "graph": (steps, "_graph", "The graph of neighbours could not be made"),
    "leiden": (steps, "leiden_codes", "The clusters could not be made"),
    "umap": (steps, "_umap", "The map of the cells could not be made"),
    "pca": (steps, "_principal_components", "The principal components could not be made"),
    "markers": (job, "clusters_compared", "The table of marker genes could not be made"),
    "metrics": (pages, "compare_latents", "The table of mixing and separation could not be made"),
    "held-out ELBO": (pages, "_held_out_elbo", "The held-out ELBO could not be made"),
    "purity": (pages, "label_purity", "The label purity could not be made"),
    "resolutions": (pages, "resolutions_tried", "The table of resolutions could not be made"),
    "explained": (pages, "explained_by", "The share of the deviance explained could not be made"),
    "genes of the map": (pages, "_map_genes", "The genes on the map could not be made"),
    "quality": (pages, "cell_quality", "The quality of the cells could not be made"),
    "predictive": (pages, "_predictive", "The posterior predictive check could not be made"),
    "latent": (celbo.SCVI, "get_latent_representation", "The latent space could not be made"),
}


TOGETHER = (
    ("latent",),
    ("graph",),
    ("leiden", "pca", "metrics", "predictive"),
    ("umap", "markers", "held-out ELBO", "quality", "purity", "genes of the map", "resolutions", "explained"),
)
"""Parts that can fail in one run: without the latent space there is no graph, without that no clusters, ..."""


@pytest.mark.parametrize("parts", TOGETHER)
def test_part_that_fails_costs_that_part_alone(
    parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where, name, _ in map(PARTS.__getitem__, parts):
        monkeypatch.setattr(where, name, boom)
    done = celbo.run(
        cells(), config=CONFIG, out=tmp_path / "out", batch_key="batch", labels_key="cell_type", progress=False
    )
    page = done.report.read_text()
    for _, _, message in map(PARTS.__getitem__, parts):
        assert any(text.startswith(f"{message}: RuntimeError: boom.") for text in done.warnings)
        assert message in page
    for file in ("result.h5ad", "model/model.json", "tables/history.csv", "tables/clusters.csv", "celbo_mqc.json"):
        assert (done.folder / file).stat().st_size > 0
    assert "finished = true" in (done.folder / "run.toml").read_text()


def test_every_part_was_made_to_fail() -> None:
    assert {part for parts in TOGETHER for part in parts} == set(PARTS)


def test_section_that_cannot_be_drawn_costs_that_section_alone() -> None:
    def broken(section: str) -> Callable[[ReportData], str]:
        def draw(data: ReportData) -> str:
            raise RuntimeError("boom")

        draw.__name__ = section
        return draw

    data = ReportData(title="t", n_cells=3, n_genes=2, n_genes_used=2)
    with pytest.MonkeyPatch.context() as patch:
        for section in ("maps", "fit", "genes", "in_short"):
            patch.setattr(panels, section, broken(section))
        page = report_html(data)
    assert page.count("could not be drawn: RuntimeError: boom") == 4
    assert "The section 'in short' could not" in html.unescape(html.unescape(page))
    assert 'id="training"' in page and 'id="integration"' in page


def test_result_that_cannot_be_written_leaves_report_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job.results, "write_h5ad", boom)
    done = celbo.run(cells(), config=CONFIG, out=tmp_path / "out", progress=False)
    assert "result.h5ad could not be made: RuntimeError: boom." in done.report.read_text()
    assert (done.folder / "tables/latent.csv").exists()


def test_full_disk_is_an_error_after_all_that_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise WriteError("cannot be written", where="result.h5ad", value="the disk is full")

    monkeypatch.setattr(job.results, "write_h5ad", full)
    with pytest.raises(WriteError, match="the disk is full"):
        celbo.run(cells(), config=CONFIG, out=tmp_path / "out", progress=False)
    assert (tmp_path / "out" / "report.html").exists()
    monkeypatch.undo()
    done = celbo.run(config=replace(CONFIG, out=str(tmp_path / "out")), data=cells(), resume=True, progress=False)
    assert (done.folder / "result.h5ad").exists()


# ------------------------------------------------------------------------------------------------------------ few cells


@pytest.mark.parametrize(("n", "genes"), [(2, 30), (3, 30), (40, 1), (3, 1)])
def test_few_cells_and_genes_have_a_result(n: int, genes: int, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(3.0, (n, genes)) + 1
    adata = anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    adata.obs_names, adata.var_names = [f"c{i}" for i in range(n)], [f"g{i}" for i in range(genes)]
    done = celbo.run(adata, config=CONFIG, out=tmp_path / "out", progress=False)
    result = anndata.read_h5ad(done.folder / "result.h5ad")
    assert result.obsm["X_umap"].shape == result.obsm["X_umap_before"].shape == (n, 2)
    assert not [text for text in done.warnings if "could not be made" in text]


def test_single_cell_is_an_error_before_training(tmp_path: Path) -> None:
    one = anndata.AnnData(sparse.csr_matrix(np.ones((1, 20), np.float32)))
    with pytest.raises(InputError, match=r"holds a single cell.*celbo train"):
        celbo.run(one, config=CONFIG, out=tmp_path / "out", progress=False)


# ------------------------------------------------------------------------------------------- what a file cannot hold


class Odd:
    """Something that no file format knows."""


def put(place: str, name: Any, value: Any) -> Callable[[anndata.AnnData], None]:
    return lambda adata: getattr(adata, place).__setitem__(name, value)


def index_called_as_a_column(adata: anndata.AnnData) -> None:
    adata.obs["barcode"] = np.arange(5)
    adata.obs.index.name = "barcode"


def twice(adata: anndata.AnnData) -> None:
    adata.obs = pd.DataFrame(np.ones((5, 2)), index=adata.obs_names, columns=["x", "x"])


def raw_with(name: str, value: Any) -> Callable[[anndata.AnnData], None]:
    def change(adata: anndata.AnnData) -> None:
        full = adata.copy()
        full.var[name] = full.var_names.to_numpy() if value is None else value
        adata.raw = full

    return change


MIXED = np.array([1, "a", None, 2.0, True], object)
UNWRITABLE: dict[str, tuple[Callable[[anndata.AnnData], None], str]] = {
    "several types": (put("obs", "m", MIXED), r"obs\['m'\] .* written as text"),
    "truth with gaps": (put("obs", "m", np.array([True, None, False, True, True], object)), "truth values with gaps"),
    "lists": (put("obs", "m", np.array([[1], [2, 3], [], [4], [5]], object)), r"obs\['m'\]"),
    "dates": (put("obs", "d", pd.date_range("2020", periods=5)), r"obs\['d'\] .* written as text"),
    "intervals": (put("obs", "d", pd.cut(np.arange(5), 2)), r"obs\['d'\] .* written as text"),
    "floats with gaps": (put("obs", "d", pd.array([1.5, None, 2, 3, 4], "Float64")), "written as numbers"),
    "name is a number": (put("obs", 0, np.arange(5)), r"obs\[0\] .* called '0' now"),
    "reserved name": (put("obs", "_index", np.arange(5) + 7), "called 'index' now"),
    "two columns": (twice, r"called 'x_2' now"),
    "name of the index": (index_called_as_a_column, "index of obs is called 'barcode'"),
    "genes": (put("var", "m", MIXED[:4]), r"var\['m'\]"),
    "odd object": (put("uns", "o", Odd()), r"uns\['o'\] cannot be written .* without it"),
    "deep odd object": (put("uns", "a", {"b": {"o": Odd(), "k": 1}}), r"uns\['a'\]\['b'\]\['o'\]"),
    "slash": (put("obsm", "a/b", np.ones((5, 2))), r"obsm\['a/b'\] .* called 'a_b' now"),
    "frame": (put("obsm", "f", pd.DataFrame({"m": MIXED}, index=list("01234"))), r"obsm\['f'\]\['m'\]"),
    "objects": (put("obsm", "o", np.array([[1, "a"]] * 5, object)), r"obsm\['o'\] cannot be written"),
    "layer": (put("layers", "o", np.array([[1, "a", 2, 3]] * 5, object)), r"layers\['o'\] cannot be written"),
    "raw, reserved": (raw_with("_index", None), r"raw.var\['_index'\] repeats"),
    "raw, types": (raw_with("m", MIXED[:4]), r"raw.var\['m'\]"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_a_file_cannot_hold_is_named_and_the_rest_is_written(case: str, tmp_path: Path) -> None:
    change, told = UNWRITABLE[case]
    adata = anndata.AnnData(sparse.random(5, 4, density=0.5, format="csr", dtype=np.float32, random_state=0))
    adata.obs["fine"] = np.arange(5)
    adata.uns["fine"] = {"a": 1}
    change(adata)
    notes = make_writable(adata)
    assert len(notes) == 1
    assert re.search(told, notes[0])
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert read.uns["fine"] == {"a": 1}
    assert make_writable(read) == []


def test_what_can_be_written_is_left_alone() -> None:
    adata = annotated()
    before = slots_of(adata)
    assert make_writable(adata) == []
    assert all(
        slots_of(adata)[place] is value or same(slots_of(adata)[place], value) for place, value in before.items()
    )


def test_text_of_several_types_keeps_its_values_and_gaps() -> None:
    adata = anndata.AnnData(np.ones((5, 2), np.float32))
    adata.obs["m"] = MIXED
    make_writable(adata)
    assert adata.obs["m"].tolist()[:2] == ["1", "a"]
    assert adata.obs["m"].isna().tolist() == [False, False, True, False, False]


def test_run_on_such_a_file_warns_before_training_and_has_a_result(tmp_path: Path) -> None:
    adata = cells()
    adata.uns["odd"] = Odd()
    full = adata.copy()
    full.var["_index"] = full.var_names.to_numpy()
    adata.raw = full
    done = celbo.run(adata, config=CONFIG, out=tmp_path / "out", progress=False)
    assert any("uns['odd']" in text for text in done.warnings)
    assert (done.folder / "result.h5ad").exists()
    assert "odd" in adata.uns


# ------------------------------------------------------------------------------------------------------- genes to keep


def test_genes_of_a_file_are_trained_on_besides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "genes.txt").write_text("# of my rare cells\ngene_0\ngene_1\ngene_2\nNOPE\n")
    adata = cells()
    adata.var_names = [f"gene_{i}" for i in range(adata.n_vars)]
    monkeypatch.chdir(tmp_path)
    asked = replace(CONFIG, selection=SelectionConfig(n_top_genes=20, keep_genes="genes.txt"))
    with caplog.at_level("WARNING", logger="celbo"):
        model = train(adata, config=asked, out=tmp_path / "out", progress=False)
    assert {"gene_0", "gene_1", "gene_2"} <= set(model.schema.genes)
    assert 20 <= model.schema.n_genes <= 23
    assert "'NOPE'" in caplog.text
    assert read_toml(tmp_path / "out" / "run.toml")["keep_genes"] == str(tmp_path / "genes.txt")


def test_file_of_genes_to_keep_that_is_missing_is_an_error_that_names_its_flag(tmp_path: Path) -> None:
    asked = replace(CONFIG, selection=SelectionConfig(n_top_genes=20, keep_genes=str(tmp_path / "none.txt")))
    with pytest.raises(OptionError, match="Check --keep-genes"):
        train(cells(), config=asked, out=tmp_path / "out", progress=False)
