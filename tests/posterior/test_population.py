"""Draws of populations of cells: which cells, under which batches, and that they are draws of the posterior."""

from __future__ import annotations

import numpy as np
import pytest

from celbo.posterior.expression import normalized_expression
from celbo.posterior.population import apportioned, draw_scales, gene_slices, plan_draws, raw_statistics


@pytest.mark.parametrize("n", [1, 10, 997])
def test_positions_are_apportioned_by_weight(n) -> None:
    weights = np.array([0.5, 0.0, 0.3, 0.2])
    chosen = apportioned(weights, n, np.random.default_rng(0))
    assert len(chosen) == n
    assert np.abs(np.bincount(chosen, minlength=4) - n * weights).max() < 1


def test_every_cell_is_drawn_equally_often_up_to_one(asked) -> None:
    groups = [np.arange(7), np.arange(100, 300)]
    draws = plan_draws(asked.data, groups, n_samples=1000, batches=[0, 1], seed=0)
    assert draws.shape == (2, 1000)
    assert sorted(np.bincount(draws.cells[0]).tolist()) == [142] + [143] * 6
    assert (np.bincount(draws.cells[1], minlength=300)[100:] == 5).all()


def test_fewer_draws_than_cells_take_different_cells(asked) -> None:
    draws = plan_draws(asked.data, [asked.every], n_samples=50, batches=None, seed=0)
    assert len(np.unique(draws.cells)) == 50


def test_pairs_share_a_batch_and_batches_have_their_proportions(asked) -> None:
    draws = plan_draws(asked.data, [np.arange(150), np.arange(150, 300)], n_samples=1000, batches=[0, 1], seed=0)
    assert (draws.batch[0] == draws.batch[1]).all()
    assert np.bincount(draws.batch[0]).tolist() == [700, 300]  # 210 and 90 cells


def test_batches_that_no_cell_is_of_are_taken_alike(asked) -> None:
    small = np.flatnonzero(asked.data.batch == 1)
    draws = plan_draws(asked.data, [small[:40], small[40:]], n_samples=100, batches=[0], seed=0)
    assert (draws.batch == 0).all()


def test_without_correction_cells_keep_their_batch(asked) -> None:
    draws = plan_draws(asked.data, [asked.every], n_samples=500, batches=None, seed=0)
    assert (draws.batch == asked.data.batch[draws.cells]).all()


def test_the_seed_decides_the_draws(asked) -> None:
    one, again, other = (plan_draws(asked.data, [asked.every], n_samples=90, batches=[0, 1], seed=s) for s in (0, 0, 1))
    assert (one.cells == again.cells).all()
    assert (one.cells != other.cells).any()


@pytest.mark.parametrize("importance_weighting", [False, True])
def test_draws_of_a_gene_do_not_depend_on_which_genes_are_kept(asked, importance_weighting) -> None:
    draws = plan_draws(asked.data, [asked.every[:9], asked.every[9:]], n_samples=200, batches=[0, 1], seed=0)
    whole, part = (
        draw_scales(
            asked.network, asked.data, draws, genes=genes, importance_weighting=importance_weighting, seed=3
        )
        for genes in (slice(0, 120), slice(30, 50))
    )  # fmt: skip
    assert (whole[..., 30:50] == part).all()
    assert whole.sum(-1) == pytest.approx(np.ones((2, 200)), rel=1e-5)


def test_repeated_draws_of_a_cell_are_draws_of_its_posterior(asked) -> None:
    draws = plan_draws(asked.data, [asked.every[:1]], n_samples=3000, batches=[1], seed=0)
    scales = draw_scales(asked.network, asked.data, draws, genes=slice(0, 120), seed=3)[0]
    expected = normalized_expression(asked.network, asked.data, np.array([0]), transform_batch=[1], n_samples=3000)[0]
    assert scales.std(0).min() > 0
    assert np.abs((scales.mean(0) - expected) / (scales.std(0) * np.sqrt(2 / 3000))).max() < 4.5


def test_slices_of_genes_cover_all_within_the_bound() -> None:
    slices = gene_slices(1000, 5000, max_bytes=4 * 5000 * 300)
    assert [(s.start, s.stop) for s in slices] == [(0, 300), (300, 600), (600, 900), (900, 1000)]
    assert [(s.start, s.stop) for s in gene_slices(2, 10**9, max_bytes=8)] == [(0, 1), (1, 2)]


def test_raw_statistics_are_those_of_the_counts(asked) -> None:
    groups = [np.arange(10), np.array([200, 3, 5])]
    mean, detection = raw_statistics(asked.data, groups)
    counts = asked.data.counts.to_scipy().toarray()
    assert mean == pytest.approx(np.stack([counts[g].mean(0) for g in groups]))
    assert detection == pytest.approx(np.stack([(counts[g] > 0).mean(0) for g in groups]))
