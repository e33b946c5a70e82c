"""celbo latent, denoise and de on cells whose counts are elsewhere than those of the model."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import celbo
from celbo.cli.app import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model trained on a layer, and its cells with counts in X, and in another layer."""
    folder = tmp_path_factory.mktemp("ask")
    adata = celbo.datasets.simulate(n_cells=120, n_genes=40, n_batches=1, n_cell_types=2, seed=1)
    plain = anndata.AnnData(adata.X.astype(np.float32), obs=adata.obs[["cell_type"]], var=adata.var[[]])
    log = plain.copy()
    log.layers["counts"], log.X = plain.X.copy(), plain.X.log1p()
    other = log.copy()
    other.layers["umi"] = other.layers.pop("counts")
    for name, cells in (("log", log), ("x", plain), ("umi", other)):
        cells.write_h5ad(folder / f"{name}.h5ad")
    options = ["--layer", "counts", "--n-top-genes", "0", "--n-latent", "2", "--max-epochs", "1", "--quiet"]
    assert main(["train", str(folder / "log.h5ad"), "--out", str(folder / "run"), *options]) == 0
    return folder


def latent(folder: Path, cells: str, *flags: str, code: int = 0) -> pd.DataFrame | None:
    out = folder / f"{cells}{len(flags)}.csv"
    assert main(["latent", str(folder / "run"), str(folder / f"{cells}.h5ad"), *flags, "--out", str(out)]) == code
    return pd.read_csv(out, index_col="cell") if code == 0 else None


def test_counts_are_taken_from_x_or_a_named_layer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = latent(folder, "log")
    pd.testing.assert_frame_equal(latent(folder, "x"), wanted)
    assert "Their X holds counts, and is used. To name it: --layer X." in capsys.readouterr().err
    pd.testing.assert_frame_equal(latent(folder, "x", "--layer", "X"), wanted)
    assert "holds counts, and is used" not in capsys.readouterr().err
    pd.testing.assert_frame_equal(latent(folder, "umi", "--layer", "umi"), wanted)


def test_layer_that_is_nowhere_is_an_error_with_the_layers_there_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latent(folder, "umi", code=3)
    assert "layer 'counts' does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["denoise", "de"])
def test_other_commands_take_the_layer_too(command: str, folder: Path, tmp_path: Path) -> None:
    more = {"denoise": ["--out", "d.h5ad"], "de": ["--groupby", "cell_type", "--n-samples", "50", "--out", "d.csv"]}
    *options, name = more[command]
    given = [str(folder / "run"), str(folder / "umi.h5ad"), "--layer", "umi", *options, str(tmp_path / name)]
    assert main([command, *given, "--quiet"]) == 0
    assert (tmp_path / name).stat().st_size > 0
