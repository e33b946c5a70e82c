"""What ranks marker genes: the AUROC of counts, and the score made of it and of the sure fold change."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from celbo.data.cells import CellData, open_anndata
from celbo.data.groups import Comparison, Groups
from celbo.data.schema import DataKeys
from celbo.posterior import markers
from celbo.posterior.markers import aurocs, marker_score


@pytest.fixture(scope="module")
def data() -> CellData:
    """Return 900 cells of 30 genes with means from 0.01 to 3,000 counts, in three groups, the second with more."""
    import anndata

    rng = np.random.default_rng(0)
    mean = np.geomspace(0.01, 3000, 30) * np.where(np.arange(900) // 300 == 1, 1.5, 1.0)[:, None]
    counts = rng.poisson(rng.gamma(3, 1 / 3, mean.shape) * mean).astype(np.float32)
    return open_anndata(anndata.AnnData(counts), DataKeys())


FEW = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)
GROUPS = Groups(
    ("a", "b", "c"),
    tuple(np.arange(900).reshape(3, 300)),
    (Comparison("a", "b", (0,), (1,)), Comparison("b", "rest", (1,), (0, 2))),
)


@pytest.mark.parametrize("max_bytes", [64 << 20, 10_000])
def test_the_auroc_is_that_of_counts_per_total(data, max_bytes, monkeypatch) -> None:
    monkeypatch.setattr(markers, "_MAX_BYTES", max_bytes)
    share = data.counts.to_scipy().toarray() / data.library[:, None]
    for found, (one, two) in zip(aurocs(data, GROUPS), (([0], [1]), ([1], [0, 2])), strict=True):
        cells = [np.concatenate([GROUPS.cells[i] for i in side]) for side in (one, two)]
        truth = np.repeat([1, 0], [len(side) for side in cells])
        expected = [roc_auc_score(truth, share[np.concatenate(cells), gene]) for gene in range(30)]
        assert found == pytest.approx(expected, abs=0.015)


def test_counts_are_per_total_and_a_gene_without_any_tells_nothing() -> None:
    import anndata

    none = open_anndata(anndata.AnnData(FEW), DataKeys())
    groups = Groups(("a", "b"), (np.array([0, 3]), np.array([1, 2])), (Comparison("a", "b", (0,), (1,)),))
    assert aurocs(none, groups)[0].tolist() == [0.75, 0.125, 0.625, 0.5]


def test_a_marker_leads_a_gene_that_all_cells_have() -> None:
    low = np.array([0.75, 3.0, 3.0, 0.0, -0.2, -9.0])
    high = np.array([0.85, 4.0, 4.0, 2.0, 0.3, -2.0])
    auroc = np.array([0.85, 0.95, 0.51, 0.9, 0.9, 0.3])
    score = marker_score(low, high, auroc)
    assert score == pytest.approx([0.75 * 0.7**0.5, 3 * 0.9**0.5, 3 * 0.02**0.5, 0, 0, -2 * 0.4**0.5])
    assert marker_score(-high, -low, 1 - auroc) == pytest.approx(-score)
