"""celbo embed: what it writes, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy import sparse

import celbo
from celbo.cli.app import main
from celbo.embed.methods import key_beside
from celbo.errors import CelboWarning


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of counts of 100 cells x 50 genes, with a representation."""
    rng = np.random.default_rng(0)
    adata = AnnData(sparse.csr_matrix(rng.poisson(rng.gamma(2, 1, (100, 50))).astype(np.float32)))
    adata.obsm["X_rep"] = rng.normal(size=(100, 4))
    path = tmp_path_factory.mktemp("embed") / "counts.h5ad"
    adata.write_h5ad(path)
    return path


def test_h5ad_has_the_data_and_the_slot(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.h5ad"
    assert main(["embed", str(file), "--method", "pca", "--n-components", "6", "--out", str(out), "--quiet"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    found, want = read_h5ad(out), read_h5ad(file)
    celbo.embed.pca(want, n_components=6)
    np.testing.assert_array_equal(found.obsm["X_pca"], want.obsm["X_pca"])
    np.testing.assert_array_equal(found.varm["PCs"], want.varm["PCs"])
    assert (found.X != want.X).nnz == 0


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_tables_have_one_row_a_cell(ending: str, file: Path, tmp_path: Path) -> None:
    out = tmp_path / f"out{ending}"
    options = ["--method", "tsne", "--perplexity", "8", "--n-iter", "20", "--use-rep", "X_rep", "--seed", "3"]
    assert main(["embed", str(file), *options, "--out", str(out), "--quiet"]) == 0
    found = pd.read_parquet(out) if ending == ".parquet" else pd.read_csv(out, index_col="cell")
    want = read_h5ad(file)
    celbo.embed.tsne(want, perplexity=8, n_iter=20, use_rep="X_rep", seed=3)
    assert list(found.columns) == ["tsne_1", "tsne_2"]
    assert list(found.index.astype(str)) == list(want.obs_names)
    np.testing.assert_allclose(found.to_numpy(), want.obsm["X_tsne"], rtol=1e-6)


def test_several_files_are_joined_and_the_table_is_named_by_the_method(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = tmp_path / "second.h5ad"
    second.write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    options = ["--method", "diffusion_map", "--drop-trivial", "--n-components", "3", "--n-top-genes", "0", "--quiet"]
    assert main(["embed", str(file), str(second), *options]) == 0
    assert pd.read_csv(tmp_path / "diffusion_map.csv", index_col=0).shape == (200, 3)


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        ([], 2, "Name at least one file"),
        (["FILE", "--method", "umpa"], 2, "umap"),
        (["FILE", "--method", "pca", "--perplexity", "5"], 2, "--perplexity is not an option of pca. It has '--layer'"),
        (["FILE", "--method", "tsne", "--perplexity", "99"], 2, "perplexity must be a number from 1 to 33"),
        (["FILE", "--out", "map.png"], 2, "'map.png' has an unknown ending"),
        (["FILE", "--use-rep", "X_scvi"], 3, "obsm['X_scvi'] does not exist"),
        (["none.h5ad"], 3, "none.h5ad does not exist"),
    ],
)
def test_wrong_use_is_told(
    argv: list[str], code: int, told: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", *(str(file) if word == "FILE" else word for word in argv)]) == code
    said = capsys.readouterr()
    assert told in said.err
    assert said.out == ""
    assert "Traceback" not in said.err


def test_the_method_may_stand_before_the_file(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert main(["embed", "pca", str(file), "--n-components", "3", "--out", str(out), "--quiet"]) == 0
    assert list(pd.read_csv(out, index_col="cell").columns) == ["pca_1", "pca_2", "pca_3"]


def test_two_methods_are_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "pca", str(file), "--method", "umap"]) == 2
    assert "names two methods" in capsys.readouterr().err


def test_a_file_that_is_called_as_a_method_is_a_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pca").mkdir()
    assert main(["embed", "pca", "--method", "tsne"]) == 3
    assert "pca" in capsys.readouterr().err


def test_slots_of_the_file_stay_and_another_is_written(file: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "1.h5ad", tmp_path / "2.h5ad"
    options = ["--method", "pca", "--quiet", "--n-components"]
    assert main(["embed", str(file), *options, "6", "--out", str(once)]) == 0
    assert main(["embed", str(once), *options, "3", "--out", str(twice)]) == 0
    first, second = read_h5ad(once), read_h5ad(twice)
    np.testing.assert_array_equal(second.obsm["X_pca"], first.obsm["X_pca"])
    np.testing.assert_array_equal(second.varm["PCs"], first.varm["PCs"])
    assert second.obsm["X_celbo_pca"].shape == (100, 3)


def test_name_that_is_taken_is_refused(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["embed", str(file), "--method", "pca", "--key-added", "X_rep", "--out", str(tmp_path / "out.h5ad")]
    assert main(command) == 2
    assert "--key-added X_rep is a slot of the file already" in capsys.readouterr().err


def test_file_that_is_read_is_not_written_over(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = file.read_bytes()
    assert main(["embed", str(file), "--method", "pca", "--out", str(file)]) == 2
    assert "would be written over" in capsys.readouterr().err
    assert main(["denoise", "knn", str(file), "--out", str(file)]) == 2
    assert file.read_bytes() == before


def test_column_that_no_file_can_hold_is_written_as_text(tmp_path: Path) -> None:
    adata = AnnData(sparse.csr_matrix(np.random.default_rng(0).poisson(2.0, (30, 10)).astype(np.float32)))
    adata.obs["odd"] = [1, "a", None] * 10
    with pytest.warns(CelboWarning, match=r"obs\['odd'\] .* written as text"):
        assert key_beside(adata, "pca") is None
    adata.write_h5ad(tmp_path / "a.h5ad")
