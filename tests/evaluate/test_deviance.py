"""The share of the deviance explained, against its formula in full and in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.special import xlogy

from celbo import evaluate
from celbo.errors import InputError


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray]:
    """Counts and their true rates: two groups of cells that differ in half of the genes, at many depths."""
    rng = np.random.default_rng(0)
    shares = np.exp(rng.normal(size=(2, 40)))
    shares[1, 20:] = shares[0, 20:]
    rates = (shares / shares.sum(1, keepdims=True))[np.arange(600) % 2] * rng.uniform(50, 500, (600, 1))
    return rng.poisson(rates), rates


def deviance(x: np.ndarray, mu: np.ndarray) -> float:
    return float(2 * (xlogy(x, x / mu) - x + mu).sum())


def test_it_is_the_formula(cells):
    x, rates = cells
    shares = evaluate.gene_shares(sparse.csr_matrix(x[:300]))
    null = x.sum(1, keepdims=True) * shares
    expected = 1 - deviance(x[300:], rates[300:]) / deviance(x[300:], null[300:])
    blocks = [(sparse.csr_matrix(x[i : i + 70]), rates[i : i + 70]) for i in range(300, 600, 70)]
    assert evaluate.deviance_explained(blocks, shares) == pytest.approx(expected, rel=1e-12)
    assert 0.3 < expected < 0.95


def test_shares_have_half_a_count_more_so_that_none_is_zero():
    found = evaluate.gene_shares(sparse.csr_matrix([[3, 0, 0], [1, 1, 0]]))
    assert found == pytest.approx(np.array([4.5, 1.5, 0.5]) / 6.5)


def test_the_null_model_explains_nothing_and_the_counts_themselves_all(cells):
    x = cells[0].astype(float)
    shares = evaluate.gene_shares(sparse.csr_matrix(x))
    counts = sparse.csr_matrix(x)
    null = x.sum(1, keepdims=True) * shares
    assert evaluate.deviance_explained([(counts, null)], shares) == pytest.approx(0.0, abs=1e-12)
    assert evaluate.deviance_explained([(counts, x)], shares) == pytest.approx(1.0, abs=1e-4)
    assert evaluate.deviance_explained([(counts, np.roll(null, 1, axis=1))], shares) < 0


def test_two_cells_of_two_genes_by_hand():
    # totals 4 and 4, shares 1/2 each: the null expects 2 everywhere; D0 = 2 x (2 x 4 log 2)
    counts = sparse.csr_matrix([[4, 0], [0, 4]])
    expected = np.array([[3.0, 1.0], [1.0, 3.0]])  # D = 2 x (2 x 4 log(4 / 3))
    shares = evaluate.gene_shares(counts)
    found = evaluate.deviance_explained([(counts, expected)], shares)
    assert found == pytest.approx(1 - np.log(4 / 3) / np.log(2))


def test_without_counts_there_is_nothing_to_explain():
    assert np.isnan(evaluate.deviance_explained([(sparse.csr_matrix((3, 2)), np.ones((3, 2)))], np.full(2, 0.5)))


def test_other_genes_and_negative_values_are_named_errors():
    with pytest.raises(InputError, match="do not match"):
        evaluate.deviance_explained([(sparse.csr_matrix((3, 2)), np.ones((3, 3)))], np.full(2, 0.5))
    with pytest.raises(InputError, match="negative"):
        evaluate.deviance_explained([(sparse.csr_matrix([[-1.0, 2.0]]), np.ones((1, 2)))], np.full(2, 0.5))
