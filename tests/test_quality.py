"""The quality of the cells: shares by hand, doublets that were put in, and what is said where a part is missing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from celbo.pipeline import quality
from celbo.pipeline.quality import cell_quality
from celbo.report.data import Categories

NAMES = ["MT-CO1", "RPS6", "RPS6KA1", "CD3D"]


def types(n: int, n_genes: int = 400, n_types: int = 5, seed: int = 0) -> np.ndarray:
    """Cells of distinct types, and a tenth of them two of different types in one droplet: the last ones."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.3, 1.0, (n_types, n_genes))
    rates *= 1500 / rates.sum(1, keepdims=True)
    single = rng.poisson(rates[np.arange(n) % n_types])
    pairs = rng.poisson(rates[np.arange(n // 10) % n_types] + rates[(np.arange(n // 10) + 1) % n_types])
    return np.vstack([single, pairs])


def test_shares_are_percentages_of_all_counts():
    counts = sparse.csr_matrix([[1, 2, 3, 4], [0, 0, 0, 5], [0, 0, 0, 0]])
    table = cell_quality(counts, NAMES).table
    assert table["total_counts"].tolist() == [10, 5, 0]
    assert table["n_genes_by_counts"].tolist() == [4, 1, 0]
    assert table["pct_counts_mt"].tolist() == [10, 0, 0]
    assert table["pct_counts_ribo"].tolist() == [20, 0, 0]


def test_what_is_missing_is_told():
    found = cell_quality(sparse.csr_matrix(np.eye(4)), ["a", "b", "c", "d"])
    assert list(found.table) == ["total_counts", "n_genes_by_counts"]
    assert found.notes == (
        "No mitochondrial share: no gene's name begins with MT- or mt-.",
        "No ribosomal share: no gene's name is that of a ribosomal protein (RPS..., RPL...).",
        "No doublet score: it needs at least 100 cells.",
    )


def test_decimals_have_no_doublet_score():
    found = cell_quality(sparse.csr_matrix(np.full((200, 4), 0.5)), NAMES)
    assert "doublet_score" not in found.table
    assert "No doublet score: it needs whole counts." in found.notes


def test_doublets_that_were_put_in_score_high_in_each_batch():
    one, other = types(300), types(300, seed=1)
    counts = sparse.csr_matrix(np.vstack([one, other, one[:20]]))
    batch = Categories.of("batch", ["a"] * 330 + ["b"] * 330 + ["tiny"] * 20)
    found = cell_quality(counts, [f"g{i}" for i in range(400)], batch)
    score = found.table["doublet_score"].to_numpy()
    for start in (0, 330):
        singles, pairs = score[start : start + 300], score[start + 300 : start + 330]
        assert np.median(pairs) > np.quantile(singles, 0.95)
    assert np.isnan(score[660:]).all()
    assert "No doublet score in 'tiny': it needs at least 100 cells of a batch." in found.notes


def test_scores_are_the_same_for_one_seed_and_large_batches_are_scored_in_parts(monkeypatch):
    counts = sparse.csr_matrix(types(400))
    names = [f"g{i}" for i in range(400)]
    first, again = (cell_quality(counts, names, seed=3).table["doublet_score"] for _ in range(2))
    assert first.equals(again)
    monkeypatch.setattr(quality, "AT_ONCE", 150)
    parts = cell_quality(counts, names, seed=3).table["doublet_score"].to_numpy()
    assert np.isfinite(parts).all()
    assert np.median(parts[400:]) > np.quantile(parts[:400], 0.9)


def test_of_many_cells_a_random_part_is_scored(monkeypatch):
    monkeypatch.setattr(quality, "MOST_SCORED", 220)
    found = cell_quality(sparse.csr_matrix(types(400)), [f"g{i}" for i in range(400)])
    assert np.isfinite(found.table["doublet_score"]).sum() == 220
    assert "A random 220 of the 440 cells have a doublet score, to bound the time." in found.notes


@pytest.mark.parametrize("counts", [np.ones((150, 4)), np.zeros((150, 4)), np.ones((150, 1))])
def test_a_failure_of_scrublet_costs_the_score_alone(counts):
    found = cell_quality(sparse.csr_matrix(counts), NAMES[: counts.shape[1]])
    assert len(found.table) == 150
    assert "doublet_score" not in found.table
    assert any(note.startswith("No doublet score: scrublet could not be run (") for note in found.notes)
