"""celbo ... --round-counts: decimals become counts wherever counts are read, and the run says so."""

from __future__ import annotations

import tomllib
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import celbo
from celbo.cli.app import main

SMALL = ["--n-hidden", "16", "--n-latent", "4", "--max-epochs", "2"]


def decimals(path: Path, *, seed: int) -> np.ndarray:
    """Write counts less a part for ambient RNA, and return them."""
    adata = celbo.datasets.simulate(n_cells=150, n_genes=60, n_batches=2, n_cell_types=2, seed=seed)
    counts = sparse.csr_matrix(adata.X, dtype=np.float32).toarray() * 2
    taken = np.random.default_rng(seed).uniform(0, 0.45, counts.shape)
    values = np.where(counts > 0, counts - taken, 0).astype("float32")
    obs, var = adata.obs[["batch"]].copy(), pd.DataFrame(index=adata.var_names)
    anndata.AnnData(sparse.csr_matrix(values), obs=obs, var=var).write_h5ad(path)
    return values


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("decimals") / "soupx.h5ad"
    decimals(path, seed=1)
    return path


@pytest.fixture(scope="module")
def folder(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rounded") / "out"
    assert main(["run", str(file), "--out", str(out), "--round-counts", "--quiet", *SMALL]) == 0
    return out


def test_without_the_flag_the_error_offers_it(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(file), "--out", str(tmp_path / "out")]) == 3
    told = capsys.readouterr().err
    assert "corrected for ambient RNA (SoupX, decontX)" in told
    assert "--round-counts" in told


def test_a_run_records_the_rounding_and_keeps_the_decimals(file: Path, folder: Path) -> None:
    assert tomllib.loads((folder / "run.toml").read_text())["keys"]["round_counts"] is True
    assert "Rounded the counts to whole numbers" in (folder / "report.html").read_text(encoding="utf-8")
    given, result = anndata.read_h5ad(file), anndata.read_h5ad(folder / "result.h5ad")
    assert np.array_equal(result.X.toarray(), given[result.obs_names].X.toarray())
    assert np.array_equal(result.layers["rounded_counts"].toarray(), np.rint(result.X.toarray()))


def test_the_model_of_such_a_run_rounds_new_cells(folder: Path, tmp_path: Path) -> None:
    decimals(tmp_path / "new.h5ad", seed=2)
    out = tmp_path / "latent.csv"
    assert main(["latent", str(folder), str(tmp_path / "new.h5ad"), "--out", str(out), "--quiet"]) == 0
    assert pd.read_csv(out, index_col=0).shape == (150, 4)


@pytest.mark.parametrize(
    "command",
    [
        ["embed", "pca", "{file}", "--out", "{out}.csv", "--n-components", "3"],
        ["denoise", "knn", "{file}", "--out", "{out}.h5ad"],
        ["compare", "{file}", "--methods", "pca", "--out", "{out}", "--n-top-genes", "0"],
    ],
)
def test_other_commands_round_too(command: list[str], file: Path, tmp_path: Path) -> None:
    argv = [word.format(file=file, out=tmp_path / "out") for word in command]
    assert main([*argv, "--quiet"]) == 3
    assert main([*argv, "--quiet", "--round-counts"]) == 0
