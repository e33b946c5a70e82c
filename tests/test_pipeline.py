"""The main job on real cells: every file is there, the same options give the same result, a stopped run goes on."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy

import celbo
from celbo.data.datasets import simulate
from celbo.errors import CelboWarning, CountsError, GenesError, OptionError, SchemaError, WriteError
from celbo.pipeline import GraphConfig, RunConfig, RunResult, SelectionConfig, train
from celbo.pipeline.config import build, different, flat, options_of, read_genes, read_toml, to_toml
from celbo.pipeline.folder import RunFolder
from celbo.pipeline.pages import known_labels
from celbo.pipeline.steps import BUILT_IN, DOUBLE_DIPPING, markers_of
from celbo.training.plan import TrainConfig

FILES = [
    "run.toml",
    "result.h5ad",
    "model/weights.safetensors",
    "model/model.json",
    "model/history.csv",
    *(
        f"tables/{name}.{kind}"
        for name in ("latent", "clusters", "cells", "markers", "history", "metrics", "label_purity", "resolutions")
        for kind in ("csv", "parquet")
    ),
    "report.html",
    "celbo_mqc.json",
    "celbo_elbo_mqc.json",
    "versions.yml",
]
HOSTILE = "<script>alert(1)</script>"


def config(**plan: object) -> RunConfig:
    """Return options of a short run."""
    short = TrainConfig(**{"max_epochs": 4, "n_threads": 1, **plan})  # type: ignore[arg-type]
    return RunConfig(seed=3, selection=SelectionConfig(n_top_genes=300), train=short)


def cells() -> anndata.AnnData:
    """Return the blood cells with hostile names of a batch, a label and a gene, and a column that is not used."""
    adata = BUILT_IN["demo:pbmc"]()
    adata.obs["batch"] = np.where(np.arange(adata.n_obs) % 2, HOSTILE, "\u202eb\u00e4tch " + "x" * 300)
    labels = adata.obs["cell_type"].astype(str)
    labels[labels == "CD34+"] = "unlabelled"
    adata.obs["cell_type"] = labels.astype("category")
    names = adata.var_names.to_numpy(object).copy()
    names[0] = "</script><b>gene"
    adata.var_names = pd.Index(names)
    adata.obs["mine"] = np.arange(adata.n_obs)
    return adata


@pytest.fixture(scope="session")
def file_of_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "cells.h5ad"
    cells().write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, file_of_cells: Path) -> RunResult:
    """Return a finished run, for all tests that only look."""
    out = tmp_path_factory.mktemp("runs") / "first"
    return celbo.run(file_of_cells, config=config(), out=out, batch_key="batch", labels_key="cell_type", progress=False)


@pytest.mark.parametrize(
    ("n_cells", "passes"), [(9000, 5), *(pytest.param(n, None, marks=pytest.mark.slow) for n in (9000, 50_000))]
)
def test_the_main_job_of_many_cells(
    n_cells: int, passes: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 8,192 cells on, scanpy's own search for neighbours is another one; few passes over the map save a minute."""
    monkeypatch.setattr("scanpy.tl.umap", partial(scanpy.tl.umap, maxiter=passes))
    adata = simulate(n_cells=n_cells, n_genes=40, n_batches=2, n_cell_types=4, seed=0)
    result = celbo.run(adata, config=config(max_epochs=1), out=tmp_path / "many", batch_key="batch", progress=False)
    kept = anndata.read_h5ad(tmp_path / "many/result.h5ad")
    assert kept.n_obs > 0.99 * n_cells
    assert kept.obsm["X_umap"].shape == kept.obsm["X_umap_before"].shape == (kept.n_obs, 2)
    assert kept.obs["leiden"].nunique() >= 2
    assert (result.folder / "report.html").stat().st_size > 0


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_there(finished: RunResult, name: str) -> None:
    assert (finished.folder / name).stat().st_size > 0


def test_the_report_tells_the_notes_of_the_check(finished: RunResult, file_of_cells: Path) -> None:
    notes = celbo.check(file_of_cells, batch_key="batch", labels_key="cell_type").notes
    report = html.unescape((finished.folder / "report.html").read_text())
    assert any("nothing needs to be done" in note.fix for note in notes)
    assert all(note.what in report for note in notes)


def test_nothing_else_is_left_behind(finished: RunResult) -> None:
    found = {path.relative_to(finished.folder).as_posix() for path in finished.folder.rglob("*") if path.is_file()}
    assert found - set(FILES) == {"model/split.safetensors"}


def test_result_keeps_all_genes_and_the_users_columns(finished: RunResult) -> None:
    result, given = anndata.read_h5ad(finished.folder / "result.h5ad"), cells()
    assert result.shape == (700, 765)
    assert result.obs["mine"].tolist() == given.obs["mine"].tolist()
    assert (result.X != given.X).nnz == 0
    assert int(result.var["highly_variable"].sum()) == 300


def test_result_has_the_promised_slots(finished: RunResult) -> None:
    result = anndata.read_h5ad(finished.folder / "result.h5ad")
    assert result.obsm["X_scvi"].shape == (700, 10)
    assert result.obsm["X_umap"].shape == result.obsm["X_umap_before"].shape == (700, 2)
    assert result.obsm["X_pca"].shape == (700, 50)
    assert isinstance(result.obs["leiden"].dtype, pd.CategoricalDtype)
    assert result.obs["doublet_score"].between(0, 1).all()
    assert result.obs["total_counts"].tolist() == pd.read_parquet(finished.folder / "tables/cells.parquet")[
        "total_counts"
    ].tolist()  # fmt: skip
    assert result.uns["celbo"]["versions"]["celbo"] == celbo.__version__


def test_clusters_are_numbered_by_size(finished: RunResult) -> None:
    sizes = finished.adata.obs["leiden"].value_counts(sort=False)
    assert sizes.index.tolist() == [str(i) for i in range(len(sizes))]
    assert sizes.is_monotonic_decreasing


@pytest.mark.filterwarnings("ignore::celbo.errors.CelboWarning")
def test_model_on_disk_gives_the_latent_of_the_result(finished: RunResult) -> None:
    result = anndata.read_h5ad(finished.folder / "result.h5ad")
    model = celbo.load(finished.folder / "model", result)
    np.testing.assert_array_equal(model.get_latent_representation(), result.obsm["X_scvi"])


def test_tables_say_the_same_as_parquet_and_as_csv(finished: RunResult) -> None:
    for name in ("latent", "clusters", "cells", "markers", "history", "metrics"):
        parquet = pd.read_parquet(finished.folder / f"tables/{name}.parquet")
        csv = pd.read_csv(finished.folder / f"tables/{name}.csv", index_col=0, float_precision="round_trip")
        assert list(parquet.columns) == list(csv.columns)
        numbers = parquet.select_dtypes("number").columns
        np.testing.assert_allclose(parquet[numbers], csv[numbers], rtol=1e-6)


def test_tables_of_cells_are_indexed_by_cell_names(finished: RunResult) -> None:
    assert finished.tables["latent"].index.tolist() == cells().obs_names.tolist()


def test_held_out_elbo_is_that_of_the_held_out_cells(finished: RunResult) -> None:
    model = finished.model
    assert len(model.validation_indices) == 70
    assert finished.held_out_elbo == model.get_elbo(indices=model.validation_indices)


def test_cells_called_unlabelled_do_not_count_as_a_label(finished: RunResult) -> None:
    column = finished.adata.obs["cell_type"]
    assert "unlabelled" not in known_labels("cell_type", column).names
    assert finished.ari is not None
    assert -0.5 <= finished.ari <= 1


def test_hostile_names_are_text_in_the_report(finished: RunResult) -> None:
    page = finished.report.read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert "</script><b>gene" not in page


def test_report_shows_the_options_and_the_call(finished: RunResult) -> None:
    page = finished.report.read_text(encoding="utf-8")
    assert "celbo.run(" in page
    assert "n_top_genes" in page


def test_markers_are_the_models_comparison_of_each_cluster_with_the_rest(finished: RunResult) -> None:
    found, groups = finished.tables["markers"], finished.adata.obs["leiden"]
    assert isinstance(finished.model, celbo.SCVI)
    whole = finished.model.differential_expression(groupby=groups, seed=3)
    higher = whole[whole["lfc_median"] > 0].groupby("group1", sort=False, observed=True).head(100)
    pd.testing.assert_frame_equal(found, higher)
    assert set(found["group1"]) == set(groups) and found["is_de"].any()


def test_markers_of_values_that_are_no_counts_are_not_calibrated_and_say_so() -> None:
    adata = celbo.datasets.simulate(n_cells=150, n_genes=30, n_batches=1, n_cell_types=2, seed=0)
    adata.X = adata.X.astype(np.float32).multiply(0.37).tocsr()
    model = celbo.SCVI(adata, likelihood="normal", n_hidden=8, n_latent=2)
    model.train(max_epochs=2, progress=False)
    with pytest.warns(CelboWarning, match="no counts, so the probabilities of marker genes are .* not calibrated"):
        found = markers_of(model, adata.obs["cell_type"], n_samples=100, seed=1)
    plain = model.differential_expression(groupby="cell_type", calibrated=False, n_samples=100, seed=1)
    pd.testing.assert_frame_equal(found, plain[plain["lfc_median"] > 0])


def test_report_says_that_clusters_were_found_in_the_same_cells(finished: RunResult) -> None:
    page = finished.report.read_text(encoding="utf-8")
    assert DOUBLE_DIPPING in page
    data = json.loads(page.split('id="marker-data">')[1].split("</script>")[0])
    assert {"cluster", "log2 FC", "low", "high", "P(different)", "found in", "found out"} <= set(data["columns"])


def test_multiqc_files_name_the_run_and_its_numbers(finished: RunResult) -> None:
    general = json.loads((finished.folder / "celbo_mqc.json").read_text())
    assert general["plot_type"] == "generalstats"
    assert general["data"]["first"]["cells"] == 700
    assert {name for header in general["pconfig"] for name in header} == set(general["data"]["first"])
    lines = json.loads((finished.folder / "celbo_elbo_mqc.json").read_text())
    assert list(lines["data"]["first"]) == ["1", "2", "3", "4"]


def test_run_toml_holds_the_resolved_plan_and_the_versions(finished: RunResult) -> None:
    text = (finished.folder / "run.toml").read_text()
    assert read_toml(finished.folder / "run.toml")["learning_rate"] == finished.model.fitted.plan.learning_rate
    assert "finished = true" in text
    assert f'celbo = "{celbo.__version__}"' in text


def test_run_from_run_toml_gives_the_same_result(finished: RunResult, tmp_path: Path) -> None:
    again = celbo.run(
        config=build(RunConfig, read_toml(finished.folder / "run.toml")), out=tmp_path / "again", progress=False
    )
    np.testing.assert_array_equal(again.adata.obsm["X_scvi"], finished.adata.obsm["X_scvi"])
    np.testing.assert_array_equal(again.adata.obsm["X_umap"], finished.adata.obsm["X_umap"])
    assert again.adata.obs["leiden"].tolist() == finished.adata.obs["leiden"].tolist()
    pd.testing.assert_frame_equal(again.tables["markers"], finished.tables["markers"])


def test_input_is_not_altered(tmp_path: Path) -> None:
    given, before = cells(), cells()
    celbo.run(given, config=config(max_epochs=1), out=tmp_path / "out", batch_key="batch", progress=False)
    assert given.obs.columns.tolist() == before.obs.columns.tolist()
    assert (list(given.obsm), list(given.uns)) == (list(before.obsm), list(before.uns))
    assert given.var.columns.tolist() == before.var.columns.tolist()
    assert (given.X != before.X).nnz == 0


# ----------------------------------------------------------------------------------------------------- stop and go on


KILLED = """
import os, sys
import celbo.training.checkpoint as checkpoint
save = checkpoint.CheckpointFolder.save
def kill_after_second(self, snapshot):
    save(self, snapshot)
    if snapshot.epoch == 2:
        os.kill(os.getpid(), 9)
checkpoint.CheckpointFolder.save = kill_after_second
checkpoint.SECONDS_BETWEEN = 0
from celbo.cli.app import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="session")
def killed(finished: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with the options of the finished one that was killed in training."""
    out = tmp_path_factory.mktemp("runs") / "killed"
    command = ["run", "--config", str(finished.folder / "run.toml"), "--out", str(out), "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *command], capture_output=True, check=False, env={**os.environ}
    )
    assert done.returncode == -9
    return out


def test_killed_run_resumes_to_the_same_result(finished: RunResult, killed: Path) -> None:
    assert (killed / "checkpoint").is_dir()
    resumed = celbo.run(
        config=replace(build(RunConfig, read_toml(killed / "run.toml"))), out=killed, resume=True, progress=False
    )
    assert resumed.adata.uns["celbo"]["command"].startswith("celbo run --config")
    np.testing.assert_array_equal(resumed.adata.obsm["X_scvi"], finished.adata.obsm["X_scvi"])
    timing = ["seconds", "cells_per_second"]
    pd.testing.assert_frame_equal(
        resumed.model.history.drop(columns=timing), finished.model.history.drop(columns=timing)
    )
    assert not (killed / "checkpoint").exists()


def test_run_is_not_resumed_with_other_options(finished: RunResult) -> None:
    saved = build(RunConfig, read_toml(finished.folder / "run.toml"))
    other = replace(saved, seed=4, network=replace(saved.network, n_latent=5))
    with pytest.raises(OptionError, match="'seed', 'n_latent'"):
        RunFolder.open(other, resume=True)


# --------------------------------------------------------------------------------------------------------- the folder


def test_finished_run_is_not_overwritten(finished: RunResult) -> None:
    with pytest.raises(OptionError, match=r"holds a run of celbo already.*--resume.*--force"):
        RunFolder.open(replace(config(), out=str(finished.folder)))


def test_folder_with_other_files_is_left_alone_even_by_force(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(OptionError, match="is not empty and holds no run"):
        RunFolder.open(replace(config(), out=str(tmp_path)), force=True)
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


def test_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OptionError, match="is a file"):
        RunFolder.open(replace(config(), out=str(tmp_path / "out")))


def test_no_folder_is_an_error() -> None:
    with pytest.raises(OptionError, match="--out"):
        RunFolder.open(config())


# ----------------------------------------------------------------------------------------------------------- bad data


def test_values_that_are_not_counts_are_an_error_before_training(tmp_path: Path) -> None:
    adata = cells()
    adata.X = adata.X.copy()
    adata.X.data[5] = 0.5
    with pytest.raises(CountsError, match=r"is 0\.5"):
        celbo.run(adata, config=config(), out=tmp_path / "out")


def test_unknown_batch_column_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="batch"):
        celbo.run(cells(), config=config(), out=tmp_path / "out", batch_key="bach")


def test_unknown_gene_in_the_list_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("CD3E\nNOT_A_GENE\n")
    asked = replace(config(), selection=SelectionConfig(genes=str(tmp_path / "genes.txt")))
    with pytest.raises(GenesError, match="NOT_A_GENE"):
        celbo.run(cells(), config=asked, out=tmp_path / "out")


def test_something_that_is_no_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="AnnData"):
        celbo.run([np.zeros(3)], out=tmp_path / "out")  # type: ignore[list-item]


def test_counts_in_raw_are_found_with_the_genes_of_raw(tmp_path: Path) -> None:
    full = BUILT_IN["demo:pbmc"]()
    few = full[:, :100].copy()
    few.X = np.log1p(few.X.toarray())
    few.raw = full
    asked = replace(config(max_epochs=1), selection=SelectionConfig(n_top_genes=200))
    asked = replace(asked, keys=replace(asked.keys, layer="raw"))
    model = train(few, config=asked, out=tmp_path / "out", progress=False)
    assert model.schema.n_genes == 200
    assert not set(model.schema.genes) <= set(few.var_names)


def test_cells_without_a_count_of_the_chosen_genes_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adata = cells()
    matrix = adata.X.tolil()
    chosen = list(range(100))
    matrix[3, :100] = 0
    adata.X = matrix.tocsr()
    (tmp_path / "genes.txt").write_text("\n".join(adata.var_names[chosen]))
    asked = replace(config(max_epochs=1), selection=SelectionConfig(genes=str(tmp_path / "genes.txt")))
    model = train(adata, config=asked, out=tmp_path / "out", progress=False)
    assert model.data.n_cells < 700
    assert adata.obs_names[3] not in model.data.cell_names
    assert "no count of the 100 genes" in caplog.text


# ------------------------------------------------------------------------------------------------------------ options


def test_every_option_has_a_name_of_its_own() -> None:
    assert len(options_of(RunConfig)) == len(flat(RunConfig())) >= 50


def test_options_survive_toml(tmp_path: Path) -> None:
    asked = replace(
        config(kl_warmup=3, l1=(("decoder", 0.1),), restore_best=False, clip_norm=1.0),
        data=('odd "name"\n\x7f\\.h5ad', "b.h5ad"),
        keys=replace(RunConfig().keys, batch_key="b\u00e4tch \U0001f9ec", categorical_covariate_keys=("a", "b")),
    )
    (tmp_path / "run.toml").write_text(to_toml(asked, made={"finished": True}), encoding="utf-8")
    assert build(RunConfig, read_toml(tmp_path / "run.toml")) == asked


def test_options_may_stand_flat_in_toml(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('batch_key = "b"\nn_latent = 20\nkl_warmup = 5\n[train]\nmax_epochs = 7\n')
    assert read_toml(tmp_path / "a.toml") == {"batch_key": "b", "n_latent": 20, "kl_warmup": 5, "max_epochs": 7}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("n_latnt = 3", "Did you mean 'n_latent'"),
        ("[trian]\nmax_epochs = 3", "Did you mean 'train'"),
        ("[train]\nn_latent = 3", "unknown key: 'n_latent'"),
        ('n_latent = "many"', "Give an integer"),
        ("n_latent = 2.5", "Give an integer"),
        ("early_stopping = 1", "Give true or false"),
        ('likelihood = "gamma"', "'nb' or 'zinb'"),
        ("data = 3", "Give a list"),
        ("l1 = [[1, 2]]", "Give a list"),
        ("a = ", "is not TOML"),
        ("a = " + "[" * 100_000, "is not TOML"),
        ("seed = " + "9" * 5000, "is not TOML"),
        ("learning_rate = 1" + "0" * 400, "Give"),
    ],
)
def test_bad_toml_is_an_error_that_tells_the_fix(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(OptionError, match=r"bad\.toml") as caught:
        read_toml(tmp_path / "bad.toml")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (GraphConfig, "n_neighbors", 1),
        (GraphConfig, "resolution", -0.1),
        (GraphConfig, "min_dist", float("nan")),
        (SelectionConfig, "n_top_genes", -1),
        (SelectionConfig, "max_percent_mito", -5.0),
        (RunConfig, "seed", -1),
    ],
)
def test_impossible_value_is_an_error_that_names_the_option(kind: type, name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"option '{name}' has an impossible value: {value}"):
        kind(**{name: value})


def test_folder_that_cannot_be_made_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        RunFolder.open(replace(config(), out=str(tmp_path / "file" / "out")))


def test_missing_toml_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        read_toml(tmp_path / "none.toml")


def test_differing_options_are_named() -> None:
    other = replace(config(), seed=9, train=replace(config().train, max_epochs=9))
    assert different(config(), other) == ["seed", "max_epochs"]


@pytest.mark.parametrize(
    ("text", "told"), [("", "no gene name"), ("# a\n\n", "no gene name"), ("A\nB\nA\n", "twice: 'A'")]
)
def test_bad_list_of_genes_is_an_error(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "genes.txt").write_text(text)
    with pytest.raises(OptionError, match=told):
        read_genes(tmp_path / "genes.txt")


def test_interrupted_training_raises_and_tells_how_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from celbo.training.progress import Progress

    shown = Progress.epoch

    def interrupt(self: Progress, row: Mapping[str, float]) -> None:
        if self._done == 1:
            raise KeyboardInterrupt
        shown(self, row)

    monkeypatch.setattr(Progress, "epoch", interrupt)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        celbo.run(cells(), config=config(), out=tmp_path / "out", progress=False)


def test_denoise_writes_expected_counts_at_the_depth_of_the_cells() -> None:
    adata = celbo.datasets.simulate(n_cells=120, n_genes=50, n_batches=1, n_cell_types=2, seed=0)
    before = adata.X.copy()
    values = celbo.denoise(adata, method="knn")
    np.testing.assert_array_equal(adata.layers["denoised"], values)
    np.testing.assert_allclose(values.sum(1), np.asarray(before.sum(1)).ravel(), rtol=1e-3)
    assert (before != adata.X).nnz == 0
    with pytest.raises(celbo.errors.OptionError, match="Did you mean 'dca'"):
        celbo.denoise(adata, method="dcaa")


def test_denoisers_are_scored_beside_the_baselines() -> None:
    adata = celbo.datasets.simulate(n_cells=150, n_genes=60, n_batches=1, n_cell_types=3, seed=0)
    for by in ("molecules", "masking"):
        scores = celbo.denoising_scores(adata, methods=("knn", "hpf"), by=by, seeds=(0,))
        assert {"no denoising", "gene mean", "knn", "hpf"} == set(scores["method"])
    with pytest.raises(celbo.errors.OptionError, match="'genes'"):
        celbo.denoising_scores(adata, methods=("knn",), by="genes")


# ------------------------------------------------------------------------------------- a run that comes to nothing


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_key": "bacth"}, SchemaError),
        ({"labels_key": "cell_typ"}, SchemaError),
        ({"layer": "raw_counts"}, celbo.errors.InputError),
        ({"config": replace(config(), device="cuda:99")}, OptionError),
        ({"config": replace(config(), selection=SelectionConfig(genes="no_such_file.txt"))}, OptionError),
    ],
)
def test_a_typo_leaves_no_folder_behind(tmp_path: Path, options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        celbo.run(cells(), **{"config": config(), **options}, out=tmp_path / "new/out", progress=False)  # type: ignore[arg-type]
    assert not (tmp_path / "new" / "out").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(error):
        celbo.run(cells(), **{"config": config(), **options}, out=tmp_path / "mine", progress=False)  # type: ignore[arg-type]
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_file_that_is_not_there_leaves_no_folder_behind(tmp_path: Path) -> None:
    with pytest.raises(celbo.errors.InputError):
        celbo.run(tmp_path / "no.h5ad", config=config(), out=tmp_path / "out", progress=False)
    with pytest.raises(celbo.errors.InputError):
        train(tmp_path / "no.h5ad", config=config(), out=tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_typo_beside_force_keeps_the_older_run(tmp_path: Path) -> None:
    with RunFolder.open(replace(config(), out=str(tmp_path))).made():
        (tmp_path / "model").mkdir()
    before = (tmp_path / "run.toml").read_text()
    with pytest.raises(SchemaError):
        celbo.run(cells(), config=config(), out=tmp_path, batch_key="bacth", force=True, progress=False)
    assert (tmp_path / "run.toml").read_text() == before and (tmp_path / "model").exists()


def test_an_interrupt_before_the_first_epoch_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from celbo.training.progress import Progress

    def interrupt(self: Progress, n_cells: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "step", interrupt)
    with pytest.raises(KeyboardInterrupt, match="nothing is there to continue from"):
        celbo.run(cells(), config=config(), out=tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celbo.pipeline.place.os.access", lambda path, mode: False)
    with pytest.raises(WriteError, match="no permission to write in"):
        celbo.run(tmp_path / "not_looked_for.h5ad", config=config(), out=tmp_path / "a/b/c", progress=False)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_every_file_of_a_run_has_the_mode_of_the_umask(finished: RunResult) -> None:
    mask = os.umask(0o022)
    os.umask(mask)
    modes = {path.stat().st_mode & 0o777 for path in finished.folder.rglob("*") if path.is_file()}
    assert modes == {0o666 & ~mask}
