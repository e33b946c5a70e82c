"""Other resolutions are tried on the graph of the run."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from celbo.evaluate import ari
from celbo.pipeline import resolutions


@pytest.fixture(scope="module")
def graph() -> tuple[sparse.csr_matrix, np.ndarray]:
    """A graph of four groups that come in two pairs, and the pair of each cell."""
    rng = np.random.default_rng(0)
    group = np.arange(400) % 4
    x = rng.normal(size=(400, 4)) + np.array([[0, 0], [4, 0], [40, 0], [44, 0]])[group] @ np.eye(2, 4)
    adata = anndata.AnnData(x.astype(np.float32), obs=pd.DataFrame(index=np.arange(400).astype(str)))
    sc.pp.neighbors(adata, use_rep="X", random_state=0)
    return sparse.csr_matrix(adata.obsp["connectivities"]), (group // 2).astype(np.int64)


def test_clusters_are_those_of_scanpys_leiden_and_the_largest_is_zero(graph):
    matrix, _ = graph
    plain = anndata.AnnData(obs=pd.DataFrame(index=np.arange(400).astype(str)))
    options = {"flavor": "igraph", "n_iterations": 2, "directed": False, "random_state": 3}
    sc.tl.leiden(plain, resolution=1.0, adjacency=matrix, **options)
    found = resolutions.leiden_codes(matrix, resolution=1.0, seed=3)
    assert ari(found, plain.obs["leiden"]) == 1.0
    assert (np.diff(np.bincount(found)) <= 0).all()


def test_coarse_labels_agree_best_at_a_low_resolution(graph):
    matrix, pairs = graph
    table = resolutions.resolutions_tried(matrix, pairs, resolution=1.1, seed=0)
    assert len(table) == 13
    assert table.loc[table["chosen"], "resolution"].to_list() == [1.1]
    best = table.loc[table["ari"].idxmax()]
    assert best["ari"] == pytest.approx(1.0)
    assert best["resolution"] < 1.1
    again = resolutions.leiden_codes(matrix, resolution=float(best["resolution"]), seed=0)
    assert ari(pairs, again) == best["ari"]
    assert len(np.unique(again)) == best["clusters"]


def test_one_label_or_too_many_cells_are_not_tried(graph, monkeypatch):
    matrix, pairs = graph
    assert resolutions.resolutions_tried(matrix, np.zeros(400, np.int64), resolution=0.5, seed=0) is None
    monkeypatch.setattr(resolutions, "_SOME_BELOW", 399)
    assert resolutions.resolutions_tried(matrix, pairs, resolution=0.5, seed=0) is None


def test_with_many_cells_fewer_are_tried(graph, monkeypatch):
    matrix, pairs = graph
    monkeypatch.setattr(resolutions, "_ALL_BELOW", 399)
    table = resolutions.resolutions_tried(matrix, pairs, resolution=0.5, seed=0)
    assert table["resolution"].to_list() == [0.25, 0.5, 1.0, 2.0]
