"""celbo compare: what is passed on, what is printed, and how wrong usage is answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import celbo.pipeline.compare as pipeline
from celbo.cli.app import main
from celbo.cli.compare import in_short
from celbo.errors import InputError
from celbo.pipeline.options import CompareConfig

NAN = float("nan")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Return what the comparison is asked for; it is not made."""
    seen: list[dict[str, object]] = []

    def compare(data: list[str], **options: object) -> pd.DataFrame:
        seen.append({"data": data, **options})
        return pd.DataFrame({"ari": [0.5], "seconds": [1.0]}, index=["pca"])

    monkeypatch.setattr(pipeline, "compare", compare)
    return seen


@pytest.mark.parametrize(
    "methods",
    [["--methods", "pca", "umap"], ["--methods", "pca", "--methods", "umap"], ["--methods=pca", "--methods=umap"]],
)
def test_methods_may_follow_each_other_or_be_repeated(methods: list[str], asked: list[dict[str, object]]) -> None:
    assert main(["compare", "a.h5ad", "b.h5ad", *methods, "--out", "out"]) == 0
    assert asked[0]["data"] == ["a.h5ad", "b.h5ad"]
    assert asked[0]["config"] == CompareConfig(methods=("pca", "umap"))


def test_every_option_is_passed_on(asked: list[dict[str, object]], capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["--layer", "counts", "--batch-key", "b", "--labels-key", "l"]
    rest = ["--no-repeats", "--no-denoise", "--held-out", "0.2", "--n-top-genes", "500", "--seed", "7", "--resume"]
    assert main(["compare", "a.h5ad", *keys, *rest, "--out", "out"]) == 0
    config = CompareConfig(repeats=False, denoise=False, held_out=0.2, n_top_genes=500, seed=7)
    given = {name: value for name, value in asked[0].items() if name != "command"}
    assert given == {
        "data": ["a.h5ad"], "config": config, "layer": "counts", "batch_key": "b", "labels_key": "l",
        "out": Path("out"), "resume": True, "force": False, "orientation": "auto", "round_counts": False,
    }  # fmt: skip
    assert str(Path("out") / "compare.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["a.h5ad", "--out", "x", "--methods", "pca", "umpa"], "'umpa'. Did you mean 'umap'?"),
        (["--out", "x", "--methods", "pca", "a.h5ad"], "'a.h5ad'. Name the files before --methods."),
        (["--out", "x"], "Name the files of counts"),
        (["a.h5ad"], "--out"),
        (["a.h5ad", "--out", "x", "--held-out", "1.5"], "held_out must be above 0 and below 1: 1.5"),
        (["a.h5ad", "--out", "x", "--n-top-genes", "many"], "--n-top-genes is not a whole number: 'many'"),
        (["a.h5ad", "--out", "x", "--method", "pca"], "--methods"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_told_in_two_lines(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *argv]) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert said.out == ""
    assert len(said.err.splitlines()) <= 2


def test_bad_data_are_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(tmp_path / "none.h5ad"), "--out", str(tmp_path / "out")]) == 3
    assert "none.h5ad" in capsys.readouterr().err

    def broken(*_: object, **__: object) -> pd.DataFrame:
        raise InputError("has fewer than 100 cells with counts", where="the data", value="7")

    monkeypatch.setattr(pipeline, "compare", broken)
    assert main(["compare", "a.h5ad", "--out", "x"]) == 3
    assert "the data has fewer than 100 cells with counts: 7." in capsys.readouterr().err


def test_the_table_in_short_marks_the_best_and_leaves_gaps() -> None:
    table = pd.DataFrame(
        {"log_likelihood": [NAN, -1234.56], "ari": [0.5, 0.5], "nmi": [0.9, 0.1], "seconds": [0.25, 30.0]},
        index=["pca", "scvi"],
    )
    table.attrs["failures"] = {"VASC": "it broke"}
    assert in_short(table).splitlines() == [
        "method  held-out ll +   k-means ARI +   seconds -",
        "pca                 -            0.50*        0.2*",
        "scvi         -1,234.6*           0.50*       30.0",
        "",
        "+ more is better, - less is better, * the best",
        "failed: VASC: it broke",
    ]


def test_nothing_that_ran_is_told() -> None:
    table = pd.DataFrame()
    table.attrs["failures"] = {"PCA": "it broke"}
    assert in_short(table).splitlines() == ["No method could be run.", "failed: PCA: it broke"]


def test_a_column_without_a_number_is_not_printed() -> None:
    table = pd.DataFrame({"mcv_deviance": [np.nan], "seconds": [1.0]}, index=["pca"])
    assert "denoising" not in in_short(table)
