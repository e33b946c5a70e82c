"""Principal components of sparse matrices against the dense singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import subspace_angles

from celbo.data.components import covariance, log_normalised, principal_components
from celbo.data.counts import CountMatrix
from celbo.errors import InputError, OptionError

SHAPES = {"few genes": (300, 60), "many genes": (200, 900), "many cells": (1500, 700), "all": (90, 40)}


def transformed(n_cells: int, n_genes: int, seed: int = 0) -> sparse.csr_matrix:
    """Return log-normalised counts with a gap in the spectrum after five factors."""
    rng = np.random.default_rng(seed)
    rate = np.exp(rng.normal(size=(n_cells, 5)) @ rng.normal(size=(5, n_genes)) * 0.5 - 1)
    return log_normalised(sparse.csr_matrix(rng.poisson(rate)))


def dense_svd(matrix: sparse.csr_matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return singular values and right vectors, (genes, k), of the centred matrix."""
    dense = matrix.toarray().astype(np.float64)
    _, s, vt = np.linalg.svd(dense - dense.mean(0), full_matrices=False)
    return s, vt.T


@pytest.mark.parametrize("shape", SHAPES)
def test_components_are_those_of_the_dense_decomposition(shape: str) -> None:
    matrix = transformed(*SHAPES[shape])
    k = 40 if shape == "all" else 12
    found = principal_components(matrix, k, seed=0)
    s, v = dense_svd(matrix)
    np.testing.assert_allclose(found.variance, s[:k] ** 2 / (matrix.shape[0] - 1), rtol=1e-10)
    np.testing.assert_allclose(found.variance_ratio, s[:k] ** 2 / (s**2).sum(), rtol=1e-10)
    np.testing.assert_allclose(np.abs((found.loadings * v[:, :k]).sum(0)), 1, atol=1e-10)
    assert subspace_angles(found.loadings[:, :5], v[:, :5]).max() < 1e-8
    np.testing.assert_allclose(found.loadings.T @ found.loadings, np.eye(k), atol=1e-12)


def test_covariance_is_made_of_blocks_of_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celbo.data.components._BLOCK", 7 * 60)
    matrix = transformed(300, 60)
    dense = matrix.toarray().astype(np.float64)
    np.testing.assert_allclose(covariance(matrix, dense.mean(0)), np.cov(dense.T), atol=1e-12)


def test_projected_cells_are_centred_uncorrelated_and_have_the_variances() -> None:
    matrix = transformed(400, 800)
    found = principal_components(matrix, 10, seed=0)
    scores = found.project(matrix)
    np.testing.assert_allclose(scores.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(np.cov(scores.T), np.diag(found.variance), atol=1e-11)
    np.testing.assert_allclose(found.project(matrix.toarray().astype(float)), scores, atol=1e-10)


@pytest.mark.parametrize("shape", [(400, 60), (200, 900)])
def test_sign_and_values_do_not_depend_on_the_seed_or_on_the_order_of_cells(shape: tuple[int, int]) -> None:
    matrix = transformed(*shape)
    first = principal_components(matrix, 6, seed=0)
    np.testing.assert_array_equal(first.loadings, principal_components(matrix, 6, seed=0).loadings)
    np.testing.assert_allclose(first.loadings, principal_components(matrix, 6, seed=7).loadings, atol=1e-9)
    shuffled = matrix[np.random.default_rng(1).permutation(shape[0])]
    np.testing.assert_allclose(first.loadings, principal_components(shuffled, 6, seed=0).loadings, atol=1e-9)
    assert (first.loadings[np.abs(first.loadings).argmax(0), np.arange(6)] > 0).all()


@pytest.mark.parametrize("n_genes", [50, 800])
def test_directions_without_variance_are_still_orthonormal(n_genes: int) -> None:
    rng = np.random.default_rng(0)
    matrix = sparse.csr_matrix(rng.integers(0, 3, (120, 3)) @ rng.integers(0, 2, (3, n_genes)))
    found = principal_components(matrix, 8, seed=0)
    assert found.variance[:3].min() > 1 and found.variance[3:].max() < 1e-10
    np.testing.assert_allclose(found.loadings.T @ found.loadings, np.eye(8), atol=1e-10)


def test_a_matrix_too_large_to_be_dense_is_never_made_dense() -> None:
    n_cells, n_genes = 60_000, 400_000  # 192 GB as float64
    rng = np.random.default_rng(0)
    cells, genes = rng.integers(0, n_cells, 200_000), rng.integers(0, n_genes, 200_000)
    strong = rng.random(n_cells) < 0.3
    cells = np.concatenate([cells, np.flatnonzero(strong)])
    genes = np.concatenate([genes, np.full(strong.sum(), 123)])
    matrix = sparse.csr_matrix((np.ones(cells.size, np.float32), (cells, genes)), shape=(n_cells, n_genes))
    found = principal_components(matrix, 1, seed=0)
    assert np.abs(found.loadings[:, 0]).argmax() == 123
    np.testing.assert_allclose(found.variance[0], matrix[:, [123]].toarray().var(ddof=1), rtol=1e-2)


@pytest.mark.parametrize("n_components", [0, 31, 2.5, -1])
def test_too_many_components_are_a_named_error(n_components: float) -> None:
    with pytest.raises(OptionError, match="n_components must be"):
        principal_components(transformed(31, 60), n_components, seed=0)  # type: ignore[arg-type]


def test_values_that_do_not_vary_or_are_not_finite_are_named_errors() -> None:
    with pytest.raises(InputError, match="does not differ between cells"):
        principal_components(sparse.csr_matrix(np.full((10, 4), 2.3)), 2, seed=0)
    with pytest.raises(InputError, match="not finite"):
        principal_components(sparse.csr_matrix([[1.0, np.nan], [0, 1], [2, 3]]), 1, seed=0)


def test_counts_are_scaled_to_the_median_total_and_logged() -> None:
    counts = np.random.default_rng(0).poisson(0.7, (50, 20))
    counts[3] = 0
    totals = counts.sum(1)
    want = np.log1p(counts * (np.median(totals[totals > 0]) / np.maximum(totals, 1))[:, None])
    for given in (sparse.csr_matrix(counts), CountMatrix.from_scipy(counts)):
        found = log_normalised(given)
        assert found.dtype == np.float32 and found.nnz == np.count_nonzero(counts)
        np.testing.assert_allclose(found.toarray(), want, rtol=2e-6)


def test_some_cells_with_the_target_of_all_are_as_among_all() -> None:
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(0.7, (50, 20)))
    whole = log_normalised(counts, target=1e4)
    np.testing.assert_array_equal(log_normalised(counts, target=1e4, rows=[7, 2]).toarray(), whole[[7, 2]].toarray())
    assert counts.dtype.kind == "i"


@pytest.mark.parametrize("target", [0.0, -1.0, np.nan, np.inf])
def test_an_impossible_target_is_a_named_error(target: float) -> None:
    with pytest.raises(InputError, match="target must be"):
        log_normalised(sparse.csr_matrix(np.eye(3)), target=target)
