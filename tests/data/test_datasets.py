"""The real cells that ship inside scanpy's package."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData

import celbo


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return celbo.datasets.pbmc()


@pytest.fixture(scope="module")
def shipped() -> AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sc.datasets.pbmc68k_reduced()


def scaled(cells: AnnData, totals: np.ndarray) -> np.ndarray:
    """Return each stored count as counts in 10,000 of its cell."""
    return cells.X.data.astype(np.float64) * 1e4 / np.repeat(totals, np.diff(cells.X.indptr))


def test_the_counts_give_back_what_is_shipped_to_its_last_decimal(cells: AnnData, shipped: AnnData) -> None:
    again = np.log1p(scaled(cells, shipped.obs["n_counts"].to_numpy(np.float64)))
    assert np.abs(again - shipped.raw.X.data).max() <= 0.5e-3 + 1e-6  # it is rounded to three decimals


def test_no_other_whole_number_would(cells: AnnData, shipped: AnnData) -> None:
    totals = shipped.obs["n_counts"].to_numpy(np.float64)
    for step in (-1, 1):
        other = cells.copy()
        other.X.data += step
        assert np.abs(np.log1p(scaled(other, totals)) - shipped.raw.X.data).min() > 2 * 0.5e-3


def test_the_totals_implied_by_the_counts_are_those_shipped(cells: AnnData, shipped: AnnData) -> None:
    share = np.expm1(shipped.raw.X.data.astype(np.float64)) / 1e4
    row = np.repeat(np.arange(700), np.diff(cells.X.indptr))
    implied = np.bincount(row, cells.X.data * share) / np.bincount(row, share**2)
    np.testing.assert_allclose(implied, shipped.obs["n_counts"], rtol=5e-4)


def test_shape_and_sum(cells: AnnData) -> None:
    assert cells.shape == (700, 765)
    assert cells.X.format == "csr"
    assert cells.X.sum() == 486_651
    assert cells.X.data.min() == 1
    assert cells.X.data.max() == 259


def test_cell_types_are_there(cells: AnnData, shipped: AnnData) -> None:
    assert cells.obs["cell_type"].nunique() == 10
    assert list(cells.obs["cell_type"]) == list(shipped.obs["bulk_labels"])
    assert {"phase", "louvain", "n_counts", "n_genes", "percent_mito"} < set(cells.obs.columns)


def test_the_source_is_told(cells: AnnData) -> None:
    assert "10.1038/ncomms14049" in cells.uns["source"]


def test_two_calls_share_nothing(cells: AnnData) -> None:
    other = celbo.datasets.pbmc()
    other.X.data[:] = 0
    assert cells.X.sum() == 486_651


def test_data_sets_need_no_torch() -> None:
    code = "import sys, celbo; celbo.datasets.simulate(n_cells=20, n_genes=50); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_second_run_lost_molecules_as_planted():
    """Real cells in two runs: the first as they were, the second thinned gene by gene with the efficiency given."""
    whole, runs = celbo.datasets.pbmc(), celbo.datasets.pbmc_two_runs(seed=0)
    second = (runs.obs["batch"] == "run 2").to_numpy()
    assert second.sum() == 350 and list(runs.obs["cell_type"]) == list(whole.obs["cell_type"])
    assert abs(runs[~second].X - whole[~second].X).sum() == 0
    before = np.asarray(whole[second].X.sum(0)).ravel()
    after = np.asarray(runs[second].X.sum(0)).ravel()
    efficiency = runs.var["efficiency"].to_numpy()
    assert (after <= before).all() and (runs.X.data > 0).all()
    deviation = (after - efficiency * before) / np.sqrt(np.maximum(efficiency * (1 - efficiency) * before, 1e-12))
    usual = (before >= 20) & (efficiency < 1)
    assert abs(deviation[usual].mean()) < 0.2 and 0.8 < deviation[usual].std() < 1.2
    assert (after == before)[efficiency == 1].all()
