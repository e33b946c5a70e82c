"""P(rho_a > rho_b): its arithmetic, its draws, and what it finds where the truth is known."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
import torch

import celbo
from celbo.errors import CategoryError, InputError, OptionError
from celbo.posterior import differential
from celbo.posterior.differential import (
    compare_scales,
    default_pseudocount,
    one_versus_rest,
    probability_of_higher_expression,
)
from celbo.posterior.population import apportioned, draw_scales, gene_slices, plan_draws, raw_statistics

COLUMNS = [
    "group1", "group2", "proba_higher", "bayes_factor", "lfc_mean", "lfc_median", "scale1", "scale2",
    "raw_mean1", "raw_mean2", "detection1", "detection2",
]  # fmt: skip


@pytest.fixture
def types(simulated) -> np.ndarray:
    return simulated.obs["cell_type"].to_numpy()


def test_probabilities_and_fold_changes_are_those_of_the_pairs() -> None:
    a = np.array([[4.0, 1.0], [8.0, 1.0], [1.0, 1.0], [2.0, 1.0]], np.float32)
    b = np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 1.0], [1.0, 1.0]], np.float32)
    found = compare_scales(a, b, pseudocount=0.0)
    assert found["proba_higher"].tolist() == [0.75, 0.5]  # equal draws count half
    assert found["lfc_mean"].tolist() == [1.25, 0.0]
    assert found["lfc_median"].tolist() == [1.5, 0.0]
    assert found["scale1"].tolist() == [3.75, 1.0]
    assert found["scale2"].tolist() == [1.25, 1.0]


def test_the_pseudocount_is_added_to_both_sides() -> None:
    found = compare_scales(np.full((5, 1), 3.0, np.float32), np.zeros((5, 1), np.float32), pseudocount=1.0)
    assert found["lfc_mean"].tolist() == [2.0]


def test_genes_are_compared_alike_in_blocks_of_any_size(monkeypatch) -> None:
    a, b = np.random.default_rng(0).random((2, 50, 300), np.float32)
    whole = compare_scales(a, b, pseudocount=1e-3)
    monkeypatch.setattr(differential, "_GENES", 7)
    parts = compare_scales(a, b, pseudocount=1e-3)
    assert all(np.allclose(whole[name], parts[name], rtol=1e-6) for name in whole)


@pytest.mark.parametrize("n", [1, 10, 997])
def test_positions_are_apportioned_by_weight(n) -> None:
    weights = np.array([0.5, 0.0, 0.3, 0.2])
    chosen = apportioned(weights, n, np.random.default_rng(0))
    assert len(chosen) == n
    assert np.abs(np.bincount(chosen, minlength=4) - n * weights).max() < 1


def test_every_cell_is_drawn_equally_often_up_to_one(asked) -> None:
    groups = [np.arange(7), np.arange(100, 300)]
    draws = plan_draws(asked.data, groups, n_samples=1000, batches=[0, 1], seed=0)
    assert sorted(np.bincount(draws.cells[0]).tolist()) == [142] + [143] * 6
    assert (np.bincount(draws.cells[1], minlength=300)[100:] == 5).all()


def test_pairs_share_a_batch_and_batches_have_their_proportions(asked) -> None:
    draws = plan_draws(asked.data, [np.arange(150), np.arange(150, 300)], n_samples=1000, batches=[0, 1], seed=0)
    assert (draws.batch[0] == draws.batch[1]).all()
    assert np.bincount(draws.batch[0]).tolist() == [700, 300]  # 210 and 90 cells


def test_without_correction_cells_keep_their_batch(asked) -> None:
    draws = plan_draws(asked.data, [asked.every], n_samples=500, batches=None, seed=0)
    assert (draws.batch == asked.data.batch[draws.cells]).all()


def test_draws_of_a_gene_do_not_depend_on_which_genes_are_kept(asked) -> None:
    draws = plan_draws(asked.data, [asked.every[:9], asked.every[9:]], n_samples=700, batches=[0, 1], seed=0)
    whole = draw_scales(asked.network, asked.data, draws, genes=slice(0, 120), seed=3)
    part = draw_scales(asked.network, asked.data, draws, genes=slice(30, 50), seed=3)
    assert (whole[..., 30:50] == part).all()
    assert whole.sum(-1) == pytest.approx(np.ones((2, 700)), rel=1e-5)


def test_repeated_draws_of_a_cell_are_draws_of_its_posterior(asked) -> None:
    draws = plan_draws(asked.data, [asked.every[:1]], n_samples=3000, batches=[1], seed=0)
    scales = draw_scales(asked.network, asked.data, draws, genes=slice(0, 120), seed=3)[0]
    expected = celbo_expression(asked, [0], transform_batch=[1], n_samples=3000)[0]
    assert scales.std(0).min() > 0
    assert np.abs((scales.mean(0) - expected) / (scales.std(0) * np.sqrt(2 / 3000))).max() < 4.5


def celbo_expression(asked, cells, **options) -> np.ndarray:
    from celbo.posterior.expression import normalized_expression

    return normalized_expression(asked.network, asked.data, np.array(cells), **options)


def test_slices_of_genes_cover_all_within_the_bound() -> None:
    slices = gene_slices(1000, 5000, max_bytes=4 * 5000 * 300)
    assert [(s.start, s.stop) for s in slices] == [(0, 300), (300, 600), (600, 900), (900, 1000)]


def test_a_comparison_in_slices_is_the_comparison(asked, types, monkeypatch) -> None:
    whole = one_versus_rest(asked.network, asked.data, types, n_samples=300)
    monkeypatch.setattr(differential, "gene_slices", lambda n_genes, n_draws: gene_slices(n_genes, 1, max_bytes=4 * 50))
    pd.testing.assert_frame_equal(whole, one_versus_rest(asked.network, asked.data, types, n_samples=300))


def test_raw_statistics_are_those_of_the_counts(asked) -> None:
    groups = [np.arange(10), np.array([200, 3, 5])]
    mean, detection = raw_statistics(asked.data, groups)
    counts = asked.data.counts.to_scipy().toarray()
    assert mean == pytest.approx(np.stack([counts[g].mean(0) for g in groups]))
    assert detection == pytest.approx(np.stack([(counts[g] > 0).mean(0) for g in groups]))


def test_the_pseudocount_is_the_share_of_one_count_in_a_hundred_cells(asked) -> None:
    assert default_pseudocount(asked.data, asked.every) == pytest.approx(0.01 / asked.data.library.mean())


def test_the_table_has_a_row_a_gene_and_group_the_strongest_first(asked, types) -> None:
    table = one_versus_rest(asked.network, asked.data, types, n_samples=200)
    assert list(table.columns) == COLUMNS
    assert table.index.name == "gene"
    assert list(table["group1"].unique()) == sorted(set(types))
    assert set(table["group2"]) == {"rest"}
    for _, part in table.groupby("group1"):
        assert sorted(part.index) == sorted(asked.data.schema.genes)
        assert part["bayes_factor"].is_monotonic_decreasing


def test_columns_follow_from_the_probability(asked, types) -> None:
    table = one_versus_rest(asked.network, asked.data, types, n_samples=200)
    p = table["proba_higher"]
    assert table["bayes_factor"].to_numpy() == pytest.approx(np.log((p + 0.0025) / (1 - p + 0.0025)).to_numpy())
    assert table["bayes_factor"].abs().max() <= np.log(401) + 1e-9


def test_the_rest_of_two_groups_is_the_other_group(asked, types) -> None:
    two = np.where(types == types[0], "a", "b")
    table = one_versus_rest(asked.network, asked.data, two, n_samples=500)
    a, b = (table[table["group1"] == g].sort_index() for g in "ab")
    assert (a["proba_higher"] + b["proba_higher"]).to_numpy() == pytest.approx(np.ones(120))
    assert a["lfc_median"].to_numpy() == pytest.approx(-b["lfc_median"].to_numpy(), abs=1e-5)
    assert a["raw_mean1"].to_numpy() == pytest.approx(b["raw_mean2"].to_numpy())


def test_the_rest_has_the_proportions_of_its_cells(asked, types) -> None:
    table = one_versus_rest(asked.network, asked.data, types, n_samples=200).query("group1 == @types[0]").sort_index()
    counts = asked.data.counts.to_scipy().toarray()[types != types[0]]
    order = np.argsort(asked.data.schema.genes)
    assert table["raw_mean2"].to_numpy() == pytest.approx(counts.mean(0)[order])
    assert table["detection2"].to_numpy() == pytest.approx((counts > 0).mean(0)[order])


def test_cells_without_a_group_are_left_out(asked, types) -> None:
    some = pd.Categorical(np.where(np.arange(300) < 200, types, None), categories=sorted(set(types), reverse=True))
    table = one_versus_rest(asked.network, asked.data, some, n_samples=100)
    assert list(table["group1"].unique()) == sorted(set(types), reverse=True)  # the order of the categories
    first = table[table["group1"] == types[0]].sort_index()
    counts = asked.data.counts.to_scipy().toarray()[:200][types[:200] == types[0]]
    assert first["raw_mean1"].to_numpy() == pytest.approx(counts.mean(0)[np.argsort(asked.data.schema.genes)])


def test_the_seed_decides_the_table(asked, types) -> None:
    one, again, other = (one_versus_rest(asked.network, asked.data, types, n_samples=100, seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(one, again)
    assert (one.sort_index()["scale1"] != other.sort_index()["scale1"]).any()


def test_batch_correction_removes_an_effect_that_is_the_batch() -> None:
    alike = celbo.datasets.simulate(n_cells=300, n_genes=120, n_batches=2, n_cell_types=1, batch_effect=0.0, seed=2)
    alike = alike[:, np.asarray(alike.X.sum(0)).ravel() > 0].copy()
    model = celbo.SCVI(alike, batch_key="batch", n_hidden=16, n_latent=4, seed=0)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "tables" in name:  # what the decoder adds for a batch
                parameter.mul_(30)
    groups = [np.flatnonzero(model.data.batch == code) for code in (0, 1)]
    corrected = probability_of_higher_expression(model.network, model.data, *groups, n_samples=2000)
    observed = probability_of_higher_expression(
        model.network, model.data, *groups, n_samples=2000, batch_correction=False
    )
    assert (observed["proba_higher"] - 0.5).abs().median() > 0.45
    assert (corrected["proba_higher"] - 0.5).abs().max() < 0.1


def test_halves_of_one_type_do_not_differ(pbmc) -> None:
    cells = np.random.default_rng(0).permutation(700)
    table = probability_of_higher_expression(pbmc.network, pbmc.data, cells[:350], cells[350:])
    assert table["bayes_factor"].abs().max() < 0.5


def test_planted_fold_changes_are_found() -> None:
    adata = celbo.datasets.simulate(n_cells=600, n_genes=150, n_batches=2, n_cell_types=3, seed=3)
    model = celbo.SCVI(adata, batch_key="batch", seed=0)
    model.train(max_epochs=25, early_stopping=False, n_threads=1, device="cpu", progress=False)
    table = one_versus_rest(model.network, model.data, adata.obs["cell_type"], n_samples=1000)
    truth = adata.uns["truth"]["log2_fold_change"]
    often = np.asarray(adata.X.mean(0)).ravel() > 0.5
    for name in truth.columns:
        planted = truth[name].to_numpy()[often]
        found = table[table["group1"] == str(name)].loc[adata.var_names[often], "lfc_median"].to_numpy()
        changed = np.abs(planted) > 1
        assert (np.sign(found[changed]) == np.sign(planted[changed])).mean() > 0.9


@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        (["a"] * 300, InputError, "at least two groups: found 'a'"),
        ([None] * 300, InputError, "at least two groups: found none"),
        (["a", "b"], InputError, "names the groups of 2 cells, not of 300"),
    ],
)
def test_groups_that_cannot_be_compared_are_named(asked, groups, error, words) -> None:
    with pytest.raises(error, match=words):
        one_versus_rest(asked.network, asked.data, groups)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_samples": 0}, OptionError, "n_samples=0"),
        ({"transform_batch": [5]}, CategoryError, "Known: 'large', 'small'"),
        ({"transform_batch": [0], "batch_correction": False}, OptionError, "makes no sense without batch correction"),
        ({"pseudocount": -1.0}, OptionError, "pseudocount=-1.0"),
        ({"seed": -1}, OptionError, "seed=-1"),
    ],
)
def test_impossible_options_are_named(asked, options, error, words) -> None:
    with pytest.raises(error, match=words):
        probability_of_higher_expression(asked.network, asked.data, np.arange(5), np.arange(5, 9), **options)


def test_an_empty_group_is_named(asked) -> None:
    with pytest.raises(InputError, match="group 'mine' has no cells"):
        probability_of_higher_expression(
            asked.network, asked.data, np.array([], np.int64), asked.every, names=("mine", "all")
        )


@pytest.mark.slow
def test_twelve_groups_of_twenty_thousand_cells_take_seconds() -> None:
    adata = celbo.datasets.simulate(n_cells=20_000, n_genes=2000, n_batches=3, n_cell_types=12, seed=0)
    model = celbo.SCVI(adata, batch_key="batch", seed=0)
    start = time.process_time()
    table = one_versus_rest(model.network, model.data, adata.obs["cell_type"])
    assert len(table) == 24_000
    assert time.process_time() - start < 30
