"""celbo de: what is compared, what is written, and what it says of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import celbo
from celbo.cli.app import main
from celbo.pipeline.steps import DOUBLE_DIPPING
from made_tables import COLUMNS

FAST = ("--n-samples", "100", "--quiet")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of counts of two types in two batches of two donors each, and one like a clustering."""
    adata = celbo.datasets.simulate(n_cells=240, n_genes=60, n_batches=2, n_cell_types=2, seed=1)
    obs = adata.obs[["batch", "cell_type"]].copy()
    obs["donor"] = [f"{batch}-{i % 2}" for i, batch in enumerate(obs["batch"])]
    obs["leiden"] = obs["cell_type"].astype(str)
    obs["depth"] = np.asarray(adata.X.sum(1)).ravel()
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    anndata.AnnData(adata.X, obs=obs, var=pd.DataFrame(index=adata.var_names)).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def saved(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("saved") / "out"
    options = ["--batch-key", "batch", "--n-hidden", "16", "--n-latent", "4", "--max-epochs", "20", "--quiet"]
    assert main(["train", str(cells), "--out", str(out), "--n-top-genes", "0", *options]) == 0
    return out


@pytest.fixture(scope="module")
def types(cells: Path) -> list[str]:
    return sorted(anndata.read_h5ad(cells).obs["cell_type"].astype(str).unique())


def asked(saved: Path, cells: Path, out: Path, *flags: str, code: int = 0) -> pd.DataFrame:
    """Run the command, and return the table it wrote."""
    assert main(["de", str(saved), str(cells), *flags, *FAST, "--out", str(out)]) == code
    return pd.read_csv(out, index_col="gene") if out.exists() else pd.DataFrame()


def test_the_table_is_that_of_the_model(saved: Path, cells: Path, tmp_path: Path) -> None:
    out = tmp_path / "de.parquet"
    assert main(["de", str(saved), str(cells), "--groupby", "cell_type", *FAST, "--out", str(out)]) == 0
    found = pd.read_parquet(out)
    adata = anndata.read_h5ad(cells)
    model = celbo.load(saved / "model", adata)
    pd.testing.assert_frame_equal(found, model.differential_expression(groupby="cell_type", n_samples=100, seed=0))
    assert set(COLUMNS) <= set(found.columns)


@pytest.mark.parametrize(
    ("flags", "column", "expected"),
    [
        (("--delta", "0.5"), "delta", 0.5),
        (("--pseudocount", "1e-3"), "pseudocount", 1e-3),
        (("--fdr-target", "0.01"), "is_de", None),
        (("--credible-level", "0.5"), "lfc_lower", None),
        (("--no-calibrated",), "lfc_mean", None),
        (("--no-batch-correction",), "lfc_mean", None),
        (("--sample-key", "donor"), "lfc_std", None),
        (("--seed", "1", "--no-calibrated"), "lfc_mean", None),
    ],
)
def test_every_option_reaches_the_model(
    saved: Path, cells: Path, tmp_path: Path, flags: tuple[str, ...], column: str, expected: float | None
) -> None:
    plain = asked(saved, cells, tmp_path / "a.csv", "--groupby", "cell_type")
    other = asked(saved, cells, tmp_path / "b.csv", "--groupby", "cell_type", *flags)
    assert not np.array_equal(other[column], plain.loc[other.index, column])
    assert expected is None or set(other[column]) == {expected}


def test_mode_vanilla_has_its_own_columns(saved: Path, cells: Path, tmp_path: Path) -> None:
    found = asked(saved, cells, tmp_path / "a.csv", "--groupby", "cell_type", "--mode", "vanilla")
    assert "proba_higher" in found and "expected_fdr" not in found


def test_cells_are_chosen_by_queries(saved: Path, cells: Path, types: list[str], tmp_path: Path) -> None:
    one, two = types
    sides = ("--idx1", f"cell_type == '{one}'", "--idx2", f"cell_type == '{two}'")
    found = asked(saved, cells, tmp_path / "a.csv", *sides)
    column = asked(saved, cells, tmp_path / "b.csv", "--groupby", "cell_type", "--group1", one, "--group2", two)
    np.testing.assert_allclose(found.loc[column.index, "lfc_mean"], column["lfc_mean"])


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        ((), 2, "Give --groupby COLUMN, or --idx1 QUERY."),
        (("--groupby", "cell_type", "--group2", "B"), 2, "--group2 needs --group1 beside it"),
        (("--idx2", "depth > 3"), 2, "--groupby"),
        (("--groupby", "cel_type"), 3, "Did you mean 'cell_type'?"),
        (("--groupby", "cell_type", "--group1", "?"), 2, "'?'"),
        (("--idx1", "depht > 3"), 2, "depht"),
        (("--idx1", "depth >"), 2, "depth >"),
        (("--idx1", "depht > 3"), 2, "names 'depht', which is not a column of obs. Did you mean 'depth'?"),
        (("--idx1", "cell_type = 'type_1'"), 2, "Compare a column with a value"),
        (("--idx1", "depth"), 2, "is not true or false for each cell. Compare a column with a value"),
        (("--idx1", "cell_type == 'tipe_1'"), 3, "'tipe_1' is no value of 'cell_type'. Did you mean 'type_1'?"),
        (("--idx1", "batch == 'batch_1' and batch == 'batch_2'"), 3, "not all of them for one cell"),
        (("--idx1", "depth > 0"), 3, "Choose fewer cells, or give --idx2 QUERY."),
        (("--idx1", "depth > 1", "--idx2", "batch == 'batch_1'"), 3, "make the two exclude each other"),
        (("--groupby", "cell_type", "--idx1", "depth > 1"), 2, "--groupby and --idx1 both say which cells"),
        (("--group1", "B", "--idx1", "depth > 1"), 2, "--group1 goes with --groupby, not with --idx1"),
        (("--groupby", "cell_type", "--group1", "type_1", "--group2", "type_1"), 2, "is compared with itself"),
        (("--groupby", "depth"), 3, "--idx1 'age > 60'"),
        (("--groupby", "cell_type", "--sample-key", "cell_type"), 3, "or give no --sample-key"),
        (("--groupby", "cell_type", "--sample-key", "donor", "--mode", "vanilla"), 2, "Leave out --mode"),
        (("--groupby", "cell_type", "--fdr-target", "2"), 2, "fdr_target"),
        (("--groupby", "cell_type", "--out", "x.xlsx"), 2, "Use .csv, .tsv or .parquet."),
    ],
)
def test_wrong_questions_are_told_in_a_line(
    saved: Path, cells: Path, flags: tuple[str, ...], code: int, told: str, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found = main(["de", str(saved), str(cells), *flags, *FAST])
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said
    assert found == code
    assert list(tmp_path.iterdir()) == []


def test_the_page_tells_what_the_table_holds(
    saved: Path, cells: Path, types: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "de.html"
    found = asked(saved, cells, tmp_path / "de.csv", "--groupby", "cell_type", "--report", str(page))
    said, text = capsys.readouterr().out, page.read_text()
    called = found.index[found["is_de"]].nunique()
    assert f"<b>{called:,}</b>" in text and f"{called} of 60 genes" in said and str(page) in said
    data = json.loads(re.search(r'id="marker-data">(.*?)</script>', text, re.S).group(1))
    assert len(data["rows"]) == len(found) == 120
    sizes = anndata.read_h5ad(cells).obs["cell_type"].value_counts()
    assert all(f'<td class="number">{sizes[name]}</td>' in text for name in types)
    assert "Cells were compared, not samples" in text and DOUBLE_DIPPING not in text


def test_the_page_warns_of_groups_that_were_found_in_the_cells(saved: Path, cells: Path, tmp_path: Path) -> None:
    page = tmp_path / "de.html"
    asked(saved, cells, tmp_path / "de.csv", "--groupby", "leiden", "--sample-key", "donor", "--report", str(page))
    assert DOUBLE_DIPPING in page.read_text() and "Cells were compared, not samples" not in page.read_text()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--no-calibrated",), "the false discovery rate is not held"),
        (("--mode", "vanilla"), "It bounds no error rate"),
    ],
)
def test_the_page_says_where_no_rate_is_held(
    saved: Path, cells: Path, tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    page = tmp_path / "de.html"
    asked(saved, cells, tmp_path / "de.csv", "--groupby", "cell_type", *flags, "--report", str(page))
    assert told in page.read_text()


def test_warnings_of_the_comparison_are_on_the_page_and_in_the_log(
    saved: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, out = tmp_path / "de.html", tmp_path / "de.csv"
    batches = sorted(anndata.read_h5ad(cells).obs["batch"].astype(str).unique())
    command = ["--groupby", "batch", "--group1", batches[0], "--report", str(page), "--out", str(out)]
    assert main(["de", str(saved), str(cells), *command, "--n-samples", "100"]) == 0
    assert "No batch holds enough cells" in page.read_text()
    assert len(re.findall("warning: No batch holds enough cells", capsys.readouterr().err)) == 1
