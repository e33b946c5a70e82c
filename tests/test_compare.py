"""A comparison end to end: what is compared is the same for all, gaps are explained, a stopped one goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import celbo
from celbo.errors import CountsError, OptionError, SchemaError, TrainingError
from celbo.evaluate.comparison import COLUMNS
from celbo.pipeline.compare import CompareConfig
from celbo.pipeline.methods import METHODS, Cells, Fitted, _Classical, _FactorAnalysis, _reduction

NAMES = ["pca", "factor_analysis", "tsne"]
CONFIG = CompareConfig(n_top_genes=50, seed=3)


def cells() -> anndata.AnnData:
    """Return simulated cells in two batches of three types, some of them without a label."""
    adata = celbo.datasets.simulate(n_cells=340, n_genes=60, n_batches=2, n_cell_types=3, seed=1)
    labels = adata.obs["cell_type"].astype(str).to_numpy(object)
    labels[:5] = "unknown"
    obs = pd.DataFrame({"batch": adata.obs["batch"].to_numpy(), "cell_type": labels}, index=adata.obs_names)
    return anndata.AnnData(adata.X, obs=obs, var=pd.DataFrame(index=adata.var_names))


def run(out: Path | None = None, *, methods: list[str] = NAMES, **more: object) -> pd.DataFrame:
    """Compare a few methods on the simulated cells."""
    given = {"config": CONFIG, "batch_key": "batch", "labels_key": "cell_type", **more}
    return celbo.compare(cells(), methods=methods, out=out, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def without_umap() -> Iterator[None]:
    """Let linear methods give two dimensions, which are a picture: compiling UMAP takes longer than all else."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pca", "factor_analysis"):
            few = dataclasses.replace(
                METHODS[name],
                fit=_reduction(name, {"pca": _Classical, "factor_analysis": _FactorAnalysis}[name], n_components=2),
                variants=(("1", {"n_components": 1}), ("3", {"n_components": 3})),
            )
            patch.setitem(METHODS, name, few)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """Return the folder of a comparison and what it found, for all tests that only look."""
    out = tmp_path_factory.mktemp("compared") / "out"
    return out, run(out)


def failing(name: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a method fail."""

    def fit(*_: object) -> Fitted:
        raise error

    monkeypatch.setitem(METHODS, name, dataclasses.replace(METHODS[name], fit=fit))


def test_one_row_a_method_and_the_columns_that_the_data_allow(finished: tuple[Path, pd.DataFrame]) -> None:
    table = finished[1]
    assert list(table.index) == NAMES
    assert list(table.columns) == [c.name for c in COLUMNS if c.name in table]
    assert set(table) >= {"log_likelihood", "ari", "nmi", "ilisi", "neighbours_kept", "seed_overlap", "seconds"}
    assert np.isfinite(table.loc["factor_analysis", "log_likelihood"])
    assert table["ari"].between(-0.5, 1).all()
    assert table["seed_overlap"].between(0, 1).all()
    assert table.loc["pca", "seed_overlap"] == 1  # it has no chance in it
    assert (table["seconds"] > 0).all()


def test_the_frame_says_what_its_columns_mean_and_why_numbers_are_missing(
    finished: tuple[Path, pd.DataFrame],
) -> None:
    table = finished[1]
    assert set(table.attrs["columns"]) == set(table.columns)
    assert table.attrs["reasons"]["tsne, mcv_deviance"] == "It does not denoise."
    assert table.attrs["failures"] == {}
    baselines = table.attrs["baselines"]
    assert baselines["gene mean"]["mcv_deviance"] == pytest.approx(1)  # it is what the others are divided by
    assert set(baselines) == {"no denoising", "gene mean", "kNN smoothing"}


def test_every_file_is_there(finished: tuple[Path, pd.DataFrame]) -> None:
    out, table = finished
    written = pd.read_csv(out / "tables" / "compare.csv", index_col="method")
    pd.testing.assert_frame_equal(written, table, check_flags=False)
    meanings = pd.read_parquet(out / "tables" / "columns.parquet")
    assert list(meanings.index) == list(table.columns)
    page = (out / "compare.html").read_text()
    assert all(METHODS[name].title in page for name in NAMES)
    assert "celbo:" in (out / "versions.yml").read_text()


def test_the_pictures_are_of_all_cells_and_maps_are_drawn_again(finished: tuple[Path, pd.DataFrame]) -> None:
    drawn = {}
    for name in NAMES:
        with np.load(finished[0] / "parts" / f"{name}.npz", allow_pickle=False) as arrays:
            drawn[name] = [arrays[key].shape for key in sorted(arrays)]
    assert drawn == {"pca": [(340, 2)], "factor_analysis": [(340, 2)], "tsne": [(340, 2)] * 4}


def test_the_cells_given_are_not_altered(tmp_path: Path) -> None:
    given = cells()
    celbo.compare(given, methods=["pca"], config=dataclasses.replace(CONFIG, repeats=False, denoise=False))
    assert list(given.var.columns) == []
    assert list(given.obsm) == []
    assert (given.X != cells().X).nnz == 0


def test_a_comparison_that_was_stopped_goes_on_with_what_is_missing(
    finished: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    (out / "parts" / "pca.json").unlink()
    (out / "compare.html").unlink()
    failing("tsne", AssertionError("was run again"), monkeypatch)
    again = run(out, resume=True)
    same = [c for c in again if c not in ("seconds", "memory")]
    pd.testing.assert_frame_equal(again[same], finished[1][same])
    assert (out / "compare.html").is_file()


def test_a_parameter_that_the_data_do_not_allow_is_a_reason_not_a_failure() -> None:
    few = cells()[:120].copy()
    table = celbo.compare(few, methods=["tsne"], config=dataclasses.replace(CONFIG, denoise=False))
    assert np.isfinite(table.loc["tsne", "seed_overlap"])
    assert "parameter_overlap" not in table
    assert "perplexity must be a number" in table.attrs["reasons"]["tsne, parameter_overlap"]


def test_a_folder_in_use_is_kept_unless_forced(
    finished: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    with pytest.raises(OptionError, match="holds a comparison"):
        run(out)
    with pytest.raises(OptionError, match=r"was started with other options: 'seed'"):
        run(out, config=dataclasses.replace(CONFIG, seed=4), resume=True)
    failing("pca", TrainingError("stopped"), monkeypatch)
    forced = run(out, methods=["pca"], force=True)
    assert forced.empty
    assert sorted(p.name for p in (out / "parts").iterdir()) == ["compare.json", "pca.json", "pca.npz"]


def test_a_folder_of_something_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="holds no comparison"):
        run(tmp_path, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_method_that_fails_is_named_and_the_others_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CELBO_DEBUG", raising=False)
    failing("ica", TrainingError("did not converge", where="ICA"), monkeypatch)
    fast = dataclasses.replace(CONFIG, repeats=False, denoise=False)
    table = run(tmp_path / "out", methods=["pca", "ica"], config=fast)
    assert list(table.index) == ["pca"]
    assert table.attrs["failures"] == {"ICA": "ICA did not converge."}
    assert "ICA did not converge." in (tmp_path / "out" / "compare.html").read_text()
    saved = json.loads((tmp_path / "out" / "parts" / "ica.json").read_text())
    assert saved["failure"] == "ICA did not converge."


def test_a_number_that_cannot_be_had_is_explained_and_the_others_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELBO_DEBUG", raising=False)

    class Half(Fitted):
        def latent(self, cells: Cells) -> np.ndarray:
            return np.random.default_rng(0).normal(size=(cells.adata.n_obs, 2))

        def log_likelihood(self, cells: Cells) -> np.ndarray:
            raise ValueError("no likelihood today")

    half = dataclasses.replace(METHODS["pca"], fit=lambda *_: Half(), reasons={})
    monkeypatch.setitem(METHODS, "pca", half)
    table = run(methods=["pca"], config=dataclasses.replace(CONFIG, repeats=False))
    assert table.attrs["reasons"]["pca, log_likelihood"] == "ValueError: no likelihood today"
    assert table.attrs["reasons"]["pca, mcv_deviance"] == "It does not denoise."
    assert np.isfinite(table.loc["pca", ["ari", "ilisi", "neighbours_kept"]].to_numpy(float)).all()


def test_without_labels_and_batches_their_columns_are_left_out() -> None:
    fast = dataclasses.replace(CONFIG, repeats=False, denoise=False)
    table = celbo.compare(cells(), methods=["pca"], config=fast)
    assert not {"ari", "nmi", "label_silhouette", "batch_silhouette", "ilisi"} & set(table)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"held_out": 1.0}, "held_out must be above 0 and below 1: 1.0"),
        ({"n_top_genes": -1}, "n_top_genes must be at least 0: -1"),
        ({"methods": ("umpa",)}, "'umpa'. Did you mean 'umap'?"),
        ({"methods": ()}, "names no method"),
    ],
)
def test_impossible_options_are_named(options: dict[str, object], told: str) -> None:
    with pytest.raises(OptionError) as error:
        CompareConfig(**options)  # type: ignore[arg-type]
    assert told in str(error.value)


def test_bad_data_are_named_before_anything_is_run(tmp_path: Path) -> None:
    negative = cells()
    negative.X[3, 2] = -1
    with pytest.raises(CountsError):
        celbo.compare(negative, methods=["pca"], out=tmp_path / "out")
    with pytest.raises(SchemaError, match="bacth"):
        celbo.compare(cells(), methods=["pca"], batch_key="bacth", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
