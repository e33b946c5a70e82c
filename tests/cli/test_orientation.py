"""--orientation: what the rows of a table are, for every command that reads one."""

from __future__ import annotations

import tomllib
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import celbo
from celbo.cli.app import main
from celbo.pipeline.config import RunConfig, TrainRunConfig
from celbo.pipeline.steps import opened


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write a table whose names tell nothing: 30 rows that are genes, 40 columns that are cells."""
    counts = np.random.default_rng(0).poisson(2.0, (30, 40)) + 1
    names = [f"r_{i}_" for i in range(30)], [f"c_{i}_" for i in range(40)]
    pd.DataFrame(counts, index=names[0], columns=names[1]).to_csv(tmp_path / "a.csv")
    return tmp_path / "a.csv"


def test_a_guess_names_the_flag_and_the_flag_is_taken(table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: print(message)
        main(["check", str(table)])
    told = capfd.readouterr()
    assert "30 cells x 40 genes" in told.out
    assert "Pass --orientation genes if that is wrong." in " ".join((told.out + told.err).split())
    assert main(["check", str(table), "--orientation", "genes"]) == 0
    assert "40 cells x 30 genes" in capfd.readouterr().out


def test_in_python_the_check_takes_the_keyword(table: Path) -> None:
    assert (celbo.check(table, orientation="genes").n_cells, celbo.check(str(table), orientation="cells").n_cells) == (
        40,
        30,
    )


@pytest.mark.parametrize("command", ["check", "compare", "de", "latent", "denoise", "embed"])
def test_every_command_that_reads_a_table_has_the_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "--orientation" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "train"])
def test_a_run_keeps_the_orientation_in_its_options(
    command: str, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(table), "--orientation", "genes", "--print-config"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["orientation"] == "genes"


@pytest.mark.parametrize("kind", [RunConfig, TrainRunConfig])
def test_the_orientation_of_the_options_is_that_of_the_cells(kind: type[TrainRunConfig], table: Path) -> None:
    assert opened(kind(data=(str(table),), orientation="genes"), None).n_obs == 40


def test_a_map_of_a_table_takes_its_orientation(table: Path) -> None:
    out = table.parent / "pca.h5ad"
    flags = ["--orientation", "genes", "--n-components", "2", "--n-top-genes", "0"]
    assert main(["embed", "pca", str(table), *flags, "--out", str(out)]) == 0
    assert anndata.read_h5ad(out).obsm["X_pca"].shape == (40, 2)


def test_an_orientation_that_does_not_exist_is_wrong_usage(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(table), "--orientation", "gene"]) == 2
    assert "genes" in capsys.readouterr().err
