"""What a person would see at a glance: each on data where it is so, and on real-like data where it is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from celbo.cli.app import main
from celbo.data.advice import forecast
from celbo.data.check import check
from celbo.data.datasets import pbmc, simulate
from celbo.data.findings import CheckResult
from celbo.data.names import genomes_of
from celbo.data.totals import empty_droplets
from celbo.errors import in_flags

HUMAN = ["CD3E", "MS4A1", "LYZ", "NKG7", "HLA-DRA", "C1orf112", "MARCH1", "SEPT2", "DEC1", "RP11-34P13.7", "MT-CO1"]
MOUSE = ["Cd3e", "Ms4a1", "Lyz2", "Nkg7", "Gm1992", "1700001C02Rik", "Sep15", "Rp1", "mt-Co1", "H2-K1", "AC149090.1"]


def cells_of(matrix: np.ndarray, genes: list[str] | None = None, **columns: Any) -> AnnData:
    n_cells, n_genes = matrix.shape
    names = genes if genes is not None else [f"{HUMAN[i % 11]}{i}" for i in range(n_genes)]
    barcodes = ["".join(np.random.default_rng(i).choice(list("ACGT"), 12)) + f"-{i}" for i in range(n_cells)]
    return AnnData(
        sp.csr_matrix(matrix.astype("float32")),
        obs=pd.DataFrame(columns, index=barcodes),
        var=pd.DataFrame(index=pd.Index(names)),
    )


def counts_of(n_cells: int = 300, n_genes: int = 60, depth: float = 300.0, seed: int = 0) -> np.ndarray:
    """Counts as cells have them: genes of very different means, cells of different depth."""
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(rng.gamma(0.4, size=n_genes) + 1e-3)
    matrix = rng.poisson(depth * rng.lognormal(0, 0.5, (n_cells, 1)) * share)
    matrix[:, 0] += 1
    matrix[np.arange(n_genes), np.arange(n_genes)] += 1
    return matrix


def named(result: CheckResult) -> set[str]:
    return {found.what for found in (*result.warnings, *result.notes)}


def with_genes(names: list[str]) -> CheckResult:
    fill = [f"GENE{'ABCDEFGHIJ'[i % 10]}{i}L" for i in range(60 - len(names))]
    return check(cells_of(counts_of(), names + fill))


# -- what real cells are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [pbmc, lambda: simulate(n_cells=600, n_genes=400, n_batches=3, seed=0)])
def test_nothing_is_wrong_with_data_as_they_should_be(make: Any) -> None:
    assert check(make()).warnings == ()


@pytest.mark.parametrize("depth", [5.0, 30.0, 150.0, 3000.0])
def test_low_depth_alone_is_no_sign_of_empty_droplets(depth: float) -> None:
    assert empty_droplets(counts_of(3000, depth=depth).sum(1).astype(float)) is None


def test_a_few_deep_cells_among_shallow_ones_are_no_sign_of_empty_droplets() -> None:
    shallow, deep = counts_of(2000, depth=150).sum(1), counts_of(150, depth=14_000).sum(1)
    assert empty_droplets(np.r_[shallow, deep].astype(float)) is None


@pytest.mark.parametrize("names", [HUMAN, MOUSE])
def test_names_of_real_genes_are_in_order(names: list[str]) -> None:
    assert with_genes(names).warnings == ()


# -- unfiltered droplets ---------------------------------------------------------------------------------------------


def droplets(ambient: float = 3.0, n_empty: int = 4000, n_blank: int = 0) -> np.ndarray:
    parts = [counts_of(200, depth=600), counts_of(n_empty, depth=ambient, seed=1) - np.eye(1, 60, 0, dtype=int)]
    return np.vstack([*parts, np.zeros((n_blank, 60), int)])


def test_unfiltered_droplets_are_named_with_a_total_between_the_two_kinds() -> None:
    result = check(cells_of(droplets(n_empty=3000)))
    found = next(each for each in result.warnings if each.what == "looks like unfiltered droplets")
    least = found.settings["min_counts"]
    totals = droplets(n_empty=3000).sum(1)
    assert (totals[:200] >= least).all()
    assert (totals[200:] < least).all()
    assert f"min_counts={least}" in found.message
    with in_flags():
        assert f"--min-counts {least}" in found.message


def test_barcodes_without_a_count_are_empty_droplets_too() -> None:
    result = check(cells_of(droplets(n_empty=1000, n_blank=500)))
    assert "looks like unfiltered droplets" in named(result)
    empty = next(each for each in result.errors if "without a single count" in each.what)
    assert empty.settings["min_counts"] > 10  # 1 would keep the droplets with a few counts


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (['"CD3E"', '"LYZ"'], "holds genes in quotes"),
        (["b'CD3E'", "b'LYZ'"], "holds genes in quotes"),
        ([" CD3E", "LYZ "], "holds genes with blanks before or after the name"),
        (["1-Mar", "2-Sep"], "holds gene names that are dates"),
        (["Sep-02", "Mar-01"], "holds gene names that are dates"),
        (["2020-03-01", "2020-09-02 00:00:00"], "holds gene names that are dates"),
        (["01.Mrz", "2.31E+19"], "holds gene names that are dates"),
        (["17", "18", "19"], "holds numbers in place of gene names"),
        (["chr1:100-200", "chr1:300-420"], "holds peaks among the genes"),
        (["chrX-2345-2999", "GL000194.1_114519_115365"], "holds peaks among the genes"),
        (["ADT_CD3", "ADT_CD19"], "holds antibodies among the genes"),
        (["HTO-A", "HTO-B"], "holds antibodies among the genes"),
        (["CD3_TotalSeqB", "CD4_TotalSeqB"], "holds antibodies among the genes"),
        (["Hashtag1", "Hashtag2"], "holds antibodies among the genes"),
        (["sgRNA_KRAS_1", "non-targeting_3"], "holds guide RNAs among the genes"),
        (["ERCC-00002", "ERCC-00003"], "holds spike-ins among the genes"),
        (["__no_feature", "__ambiguous"], "holds sums or reads without a gene among the genes"),
        (["N_unmapped"], "holds sums or reads without a gene among the genes"),
        (["Total"], "holds sums or reads without a gene among the genes"),
    ],
)
def test_names_that_are_none_of_genes(names: list[str], what: str) -> None:
    assert named(with_genes(names)) == {what}


def test_a_line_of_totals_is_no_gene_and_no_cell() -> None:
    counts = np.asarray(counts_of())
    with_gene = np.column_stack([counts, counts.sum(1)])
    assert "holds a gene that is the sum of all others" in named(check(cells_of(with_gene)))
    with_cell = cells_of(np.vstack([counts, counts.sum(0)]))
    assert "holds a cell that is the sum of all others" in named(check(with_cell))
    with_gene[0, -1] += 1
    with_gene[1, -1] -= 1
    assert not any("sum of all others" in what for what in named(check(cells_of(with_gene))))


def test_cells_in_quotes_and_cells_with_numbers_for_names() -> None:
    adata = cells_of(counts_of())
    adata.obs_names = [f'"{name}"' for name in adata.obs_names]
    assert named(check(adata)) == {"holds cells in quotes"}
    adata.obs_names = [str(i) for i in range(adata.n_obs)]
    assert named(check(adata)) == {"holds numbers in place of cell names"}


def test_the_column_with_the_names_of_the_genes_is_named() -> None:
    adata = cells_of(counts_of(), [str(i) for i in range(60)])
    adata.var["symbol"] = [f"GENE{i}" for i in range(60)]
    assert "adata.var_names = adata.var['symbol'].astype(str)" in check(adata).warnings[0].message


def test_features_are_told_by_their_column() -> None:
    adata = cells_of(counts_of())
    adata.var["feature_types"] = ["Gene Expression"] * 40 + ["Antibody Capture"] * 20
    found = check(adata).warnings
    assert [each.value for each in found] == ["20 'Antibody Capture' of 60"]
    adata.var["feature_types"] = "Gene Expression"
    assert check(adata).warnings == ()


# -- two species -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([f"CD{i}E" for i in range(30)], [f"Cd{i}e" for i in range(30)]),
        ([f"ENSG{i:011d}" for i in range(30)], [f"ENSMUSG{i:011d}" for i in range(30)]),
        ([f"GRCh38_CD{i}" for i in range(30)], [f"mm10___Cd{i}" for i in range(30)]),
    ],
)
def test_two_species_are_told_with_the_cells_of_each(one: list[str], other: list[str]) -> None:
    matrix = counts_of()
    matrix[:200, 30:] = 0
    matrix[200:, :30] = 0
    matrix[:, [0, 30]] += np.repeat([[1, 0], [0, 1]], [200, 100], axis=0)
    found = next(each for each in check(cells_of(matrix, one + other)).warnings if each.what == "holds two species")
    assert "200 cells are of the first by nine tenths of their counts, 100 of the second, 0 of both" in found.value


def test_one_species_with_identifiers_for_genes_without_a_symbol_is_one() -> None:
    mouse = [f"Gene{i}a" for i in range(900)] + [f"ENSMUSG{i:011d}" for i in range(200)]
    assert genomes_of(np.array([*mouse, *(f"AC{i:06d}.1" for i in range(100))], dtype=object)) is None
    human = [f"GENE{i}A" for i in range(900)] + [f"ENSG{i:011d}" for i in range(200)] + ["eGFP", "Cre", "tdTomato"]
    assert genomes_of(np.array(human, dtype=object)) is None


# -- totals ----------------------------------------------------------------------------------------------------------


def test_one_total_in_every_cell_is_told() -> None:
    rng = np.random.default_rng(0)
    share = counts_of().sum(0) / counts_of().sum()
    same = rng.multinomial(1000, share, size=300)
    assert "gives every cell the same total" in named(check(cells_of(same)))
    counts = counts_of(depth=3000)
    rounded = np.rint(counts / counts.sum(1, keepdims=True) * 1e4)
    assert "gives every cell the same total" in named(check(cells_of(rounded)))


# -- panels ----------------------------------------------------------------------------------------------------------


def test_a_panel_that_a_batch_lacks_is_named() -> None:
    matrix = counts_of(depth=3000)
    matrix[::3, 20:50] = 0
    result = check(cells_of(matrix, batch=["x", "y", "z"] * 100), batch_key="batch")
    assert result.warnings[0].value.startswith("'x' lacks ")
    assert "'y' lacks" not in result.warnings[0].value


def test_rare_genes_that_a_batch_lacks_by_chance_are_a_note() -> None:
    matrix = np.hstack([counts_of(depth=3000), np.random.default_rng(0).poisson(0.01, (300, 300))])
    result = check(cells_of(matrix, batch=["x", "y", "z"] * 100), batch_key="batch")
    assert result.warnings == ()
    assert "all zero in one batch" in result.notes[-1].message


def test_conditions_are_no_batches() -> None:
    adata = cells_of(counts_of(), batch=["kang_ctrl", "kang_stim"] * 150)
    assert "names conditions" in named(check(adata))
    adata.obs["batch"] = ["P9A", "P11B"] * 150
    assert "names conditions" not in named(check(adata))


def test_labels_of_doublets_and_of_another_species_are_told() -> None:
    adata = cells_of(counts_of(), cell_type=["B cell", "Mouse", "B_T_doublets"] * 100)
    found = next(each for each in check(adata).notes if "doublets" in each.what)
    assert found.value == "'B_T_doublets' (100 cells), 'Mouse' (100 cells)"
    adata.obs["cell_type"] = ["B cell", "Dendritic", "Mouse-like"] * 100
    assert not any("doublets" in each.what for each in check(adata).notes)


# -- the command line ------------------------------------------------------------------------------------------------


def test_the_page_ends_with_a_command_that_fits_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adata = cells_of(
        np.log1p(counts_of()),
        donor=["a", "b"] * 150,
        cell_type=["T"] * 150 + ["unknown"] * 150,
        patient=["x", None] * 150,
    )
    counts = counts_of()
    counts[7] = 0
    adata.layers["raw counts"] = sp.csr_matrix(counts)
    file = tmp_path / "my cells.h5ad"
    adata.write_h5ad(file)
    assert main(["check", str(file)]) == 3
    told = capsys.readouterr().out
    assert "pass --layer 'raw counts'" in told
    assert "adata" not in told
    assert "unlabelled     150 cells (50.0%)" in told
    assert "donor: a (150), b (150)" in told
    assert main(["check", str(file), "--layer", "raw counts"]) == 3
    lines = capsys.readouterr().out.splitlines()
    command = next(line for line in lines if line.startswith("  celbo run"))
    assert f"'{file}' --layer 'raw counts' --batch-key donor --labels-key cell_type --min-counts 1" in command
    assert "GB of memory" in lines[-1]


def test_json_says_the_same_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cells.h5ad"
    cells_of(counts_of(), [f"g{i}" for i in range(60)], batch=["a", "b"] * 150).write_h5ad(file)
    assert main(["check", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["n_cells"], told["batches"]) == (True, 300, {"a": 150, "b": 150})
    assert told["command"].startswith(f"celbo run {file} --batch-key batch --out cells_run")
    assert told["settings"] == {"batch_key": "batch"}
    assert set(told["forecast"]) == {"seconds_from", "seconds_to", "memory_bytes", "basis"}
    assert set(told["findings"][0]) == {
        "level", "error", "what", "where", "value", "fix", "flag", "settings", "message",
    }  # fmt: skip


def test_the_forecast_grows_with_the_data_and_is_that_of_the_runs_it_was_made_from() -> None:
    for n_cells, n_stored, seconds, memory in (
        (2_000, 1.4e6, 55, 0.82e9),
        (4_870, 5.1e6, 77, 1.07e9),
        (7_564, 2.2e6, 90, 0.91e9),
    ):
        told = forecast(n_cells=n_cells, n_stored=int(n_stored))
        assert told.seconds_from < seconds < told.seconds_to
        assert memory < told.memory_bytes < 1.5 * memory
    assert "minutes and" in str(forecast(n_cells=50_000, n_stored=100_000_000))
    assert "hours and" in str(forecast(n_cells=2_000_000, n_stored=4_000_000_000))


@pytest.mark.parametrize("package", ["torch", "numba", "scanpy", "sklearn", "matplotlib"])
def test_a_check_imports_no_heavy_package(package: str) -> None:
    code = f"import sys, celbo.cli.check, celbo.data.read; sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_in_python_the_page_ends_with_a_call() -> None:
    counts = counts_of()
    counts[7] = 0
    page = str(check(cells_of(counts, batch=["a", "b"] * 150)))
    assert "adata = celbo.filter_cells(adata, min_counts=1); celbo.run(adata, batch_key='batch', out=" in page


def test_keys_are_named_as_flags_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cells.h5ad"
    cells_of(counts_of(), batch=["a", "b"] * 150).write_h5ad(file)
    assert main(["check", str(file), "--batch-key", "bacth"]) == 3
    assert "--batch-key 'bacth' is not a column of obs. Did you mean 'batch'?" in capsys.readouterr().out
