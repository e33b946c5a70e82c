"""Denoising by means: closed forms, a naive implementation, and real counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from celbo import evaluate
from celbo.data.components import log_normalised, principal_components
from celbo.errors import CountsError, InputError, OptionError
from celbo.evaluate import baselines


@pytest.fixture(scope="module")
def rates() -> np.ndarray:
    """Return rates of 600 cells in four groups of very different depths; (cells, 80 genes)."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(80, 0.5), size=4)
    return rng.lognormal(5.5, 0.4, size=(600, 1)) * shares[np.arange(600) % 4]


@pytest.fixture(scope="module")
def counts(rates) -> sparse.csr_matrix:
    return sparse.csr_matrix(np.random.default_rng(1).poisson(rates))


def test_gene_mean_is_the_rank_one_product(counts):
    x = counts.toarray()
    found = np.vstack(list(evaluate.gene_mean(counts)))
    assert found == pytest.approx(np.outer(x.sum(1), x.sum(0)) / x.sum(), rel=1e-12)
    assert found.sum(1) == pytest.approx(x.sum(1))
    assert found.sum(0) == pytest.approx(x.sum(0))


def test_smoothing_is_the_naive_mean(counts, monkeypatch):
    x = counts.toarray().astype(float)
    values = log_normalised(counts)
    z = principal_components(values, 6, seed=0).project(values)
    library, share = x.sum(1), x.sum(0) / x.sum()
    prior = 2.0 * np.median(library)
    monkeypatch.setattr(baselines, "BLOCK", 13 * 80)
    found = np.vstack(list(evaluate.knn_smoothing(counts, n_neighbors=9, n_components=6, prior_cells=2.0)))
    for i in range(0, 600, 37):
        near = np.argsort(((z - z[i]) ** 2).sum(1), kind="stable")[:10]  # the cell itself is the nearest
        naive = library[i] * (x[near].sum(0) + prior * share) / (library[near].sum() + prior)
        assert found[i] == pytest.approx(naive, rel=1e-10)


def test_smoothing_keeps_the_total_of_each_cell(counts):
    found = np.vstack(list(evaluate.knn_smoothing(counts)))
    assert found.sum(1) == pytest.approx(np.asarray(counts.sum(1)).ravel(), rel=1e-12)


def test_cells_of_one_profile_are_recovered(counts, rates):
    """Pooled over 51 cells the error would be that of 51 times the counts, 1/7; choosing them by it costs some."""
    found = np.vstack(list(evaluate.knn_smoothing(counts, n_neighbors=50, n_components=3, prior_cells=0.0)))
    raw, smooth = (np.abs(e - rates).sum() / rates.sum() for e in (counts.toarray(), found))
    assert smooth < raw / 4


def test_the_prior_leaves_no_seen_gene_at_zero(counts):
    seen = np.asarray(counts.sum(0)).ravel() > 0
    plain, held = (
        np.vstack(list(evaluate.knn_smoothing(counts, n_neighbors=3, prior_cells=p)))[:, seen] for p in (0, 1)
    )
    assert (plain == 0).any()
    assert (held > 0).all()


def test_smoothing_beats_the_baselines_on_groups_of_cells(counts):
    table = evaluate.molecular_cross_validation({"kNN": evaluate.knn_smoothing}, counts).set_index("method")
    assert table["deviance"].idxmin() == table["mse_sqrt"].idxmin() == "kNN"


def test_cells_without_counts_are_expected_to_stay_so(counts):
    holed = counts.tolil()
    holed[5] = 0
    found = np.vstack(list(evaluate.knn_smoothing(holed.tocsr())))
    assert (found[5] == 0).all()
    assert np.isfinite(found).all()


def test_few_cells_and_genes_are_enough():
    x = sparse.csr_matrix([[3, 1], [1, 2], [0, 4]])
    assert np.vstack(list(evaluate.knn_smoothing(x, n_neighbors=10))).shape == (3, 2)


def test_no_dense_array_of_all_cells_is_made(counts, monkeypatch):
    monkeypatch.setattr(baselines, "BLOCK", 50 * 80)
    for denoiser in (evaluate.gene_mean, evaluate.knn_smoothing):
        assert {len(block) for block in denoiser(counts)} == {50}


def test_bad_input_is_named(counts):
    with pytest.raises(OptionError, match="n_neighbors is too small: 0"):
        evaluate.knn_smoothing(counts, n_neighbors=0)
    with pytest.raises(OptionError, match=r"prior_cells is too small: -1\.0"):
        evaluate.knn_smoothing(counts, prior_cells=-1.0)
    with pytest.raises(InputError, match="too few cells"):
        evaluate.knn_smoothing(counts[:1])
    with pytest.raises(CountsError, match=r"row 0, column 0 is 0\.5"):
        evaluate.knn_smoothing(sparse.csr_matrix([[0.5, 1.0]]))
    with pytest.raises(InputError, match="are all zero"):
        list(evaluate.gene_mean(sparse.csr_matrix((3, 2), dtype=int)))


@pytest.mark.parametrize("name", ["mouse_bladder_top2000", "paul15_hematopoiesis"])
def test_on_real_counts_smoothing_is_better_than_none_and_than_the_mean(data_dir: Path, name: str):
    import anndata as ad

    counts = ad.read_h5ad(data_dir / f"{name}.h5ad").X[:1500]
    table = evaluate.molecular_cross_validation({"kNN": evaluate.knn_smoothing}, counts).set_index("method")
    assert table.loc["kNN", "deviance"] < 0.96 * table.loc["gene mean", "deviance"]
    assert table.loc["kNN", "deviance"] < 0.55 * table.loc["no denoising", "deviance"]
    assert table["mse_sqrt"].idxmin() == "kNN"
    assert table["legacy_poisson"].idxmin() != "kNN"  # the faulty score would rank otherwise
