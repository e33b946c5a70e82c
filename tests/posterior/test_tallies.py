"""Counts of units beside what the model expects, on a network whose latent states are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from celbo.data.cells import CellData
from celbo.data.counts import CountMatrix
from celbo.data.schema import Schema
from celbo.likelihoods.base import CountParameters
from celbo.likelihoods.negative_binomial import NegativeBinomial
from celbo.nn.latent import GaussianPosterior, Latent
from celbo.posterior import tallies
from celbo.posterior.contrast import contrast
from celbo.posterior.shrinkage import OnGrid, expected_fdr, log_likelihood
from celbo.posterior.tallies import Tally, Units, tally

G, K = 60, 3
EXACT_SD = 1e-7


class KnownStates(nn.Module):
    """Softmax of a linear map of a state that stands in the continuous covariates, plus what a batch adds."""

    def __init__(self, loadings: np.ndarray, offset: np.ndarray, of_batch: np.ndarray) -> None:
        super().__init__()
        self.likelihood = NegativeBinomial()
        self.loadings = nn.Parameter(torch.from_numpy(loadings))  # (latent, genes)
        self.offset = nn.Parameter(torch.from_numpy(offset))
        self.of_batch = nn.Parameter(torch.from_numpy(of_batch))  # (batches, genes)

    def encode(self, batch) -> Latent:
        mean = batch.continuous.to(self.loadings.dtype)
        return Latent(GaussianPosterior(mean, torch.full_like(mean, EXACT_SD)))

    def sample_latent(self, latent, batch, n_samples, generator):
        return latent.z.sample(n_samples, generator), batch.library.log()[None].to(self.loadings.dtype)

    def decode(self, z, log_library, batch) -> CountParameters:
        logits = z @ self.loadings + self.offset + self.of_batch[batch.batch]
        return CountParameters(logits, log_library, torch.zeros(1, self.loadings.shape[1]))


class World:
    """Cells with states, batches and depths, and the counts that the network itself would give them."""

    def __init__(
        self, n: int = 700, *, n_genes: int = G, theta: float | np.ndarray = 2.0, seed: int = 0, spread: float = 0.4,
        batch_effect: float = 0.5, library: float = 2000.0,
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(seed)
        self.loadings = rng.normal(0, spread, (K, n_genes))
        self.offset = rng.normal(0, 1.2, n_genes)
        self.of_batch = batch_effect * rng.normal(size=(2, n_genes))
        self.batch = rng.integers(0, 2, n)
        self.z = rng.normal(size=(n, K)).astype(np.float32)
        # depths are whole numbers, and the data's own size factor
        self.size = np.round(library * np.exp(rng.normal(0, 0.4, n)) * np.where(self.batch == 0, 1, 0.4)).astype(
            np.float32
        )
        self.theta = np.broadcast_to(theta, n_genes)
        mu = self.size[:, None] * self.shares()
        self.counts = rng.poisson(rng.gamma(self.theta, mu / self.theta))
        self.network = KnownStates(self.loadings.copy(), self.offset.copy(), self.of_batch.copy())
        self.data = self.as_data(self.counts)

    def shares(self, batch: int | None = None) -> np.ndarray:
        logits = self.z @ self.loadings + self.offset + self.of_batch[self.batch if batch is None else batch]
        shares = np.exp(logits)
        return shares / shares.sum(1, keepdims=True)

    def as_data(self, counts: np.ndarray) -> CellData:
        n, n_genes = counts.shape
        return CellData(
            counts=CountMatrix.from_scipy(counts.astype(np.float32)),
            schema=Schema(features={"rna": tuple(f"g{i}" for i in range(n_genes))}, batches=("a", "b")),
            batch=self.batch.astype(np.int64),
            labels=np.zeros(n, np.int64),
            categorical=np.empty((n, 0), np.int64),
            continuous=self.z,
            size_factor=self.size,
            library=self.size,
            cell_names=np.array([f"c{i}" for i in range(n)], dtype=object),
        )


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def groups_of(n: int, *cuts: int) -> list[np.ndarray]:
    return [np.arange(a, b) for a, b in zip((0, *cuts), (*cuts, n), strict=True)]


# units


def test_units_hold_each_cell_once_sorted_by_group_batch_and_sample(world) -> None:
    sample = np.arange(700) % 5
    units = Units.of(world.data, groups_of(700, 200), samples=sample, at_most=1000, seed=0)
    assert sorted(units.cells.tolist()) == list(range(700))
    assert (np.diff(units.unit) >= 0).all()
    keys = list(zip(units.group.tolist(), units.batch.tolist(), units.sample.tolist(), strict=True))
    assert keys == sorted(set(keys))
    assert len(keys) == 20
    assert (units.group[units.unit] == (units.cells >= 200)).all()
    assert (units.batch[units.unit] == world.data.batch[units.cells]).all()
    assert (units.sample[units.unit] == sample[units.cells]).all()
    assert units.sizes.tolist() == [200, 500]
    assert units.n_cells.sum() == 700


def test_large_groups_are_sampled_and_keep_their_size(world) -> None:
    units = Units.of(world.data, groups_of(700, 50), samples=None, at_most=100, seed=0)
    assert units.sizes.tolist() == [50, 650]
    counted = np.bincount(units.group[units.unit])
    assert counted.tolist() == [50, 100]
    assert len(np.unique(units.cells)) == 150
    again, other = (Units.of(world.data, groups_of(700, 50), samples=None, at_most=100, seed=s).cells for s in (0, 1))
    assert (units.cells == again).all()
    assert set(units.cells) != set(other)


def test_cells_without_a_sample_are_left_out(world) -> None:
    sample = np.where(np.arange(700) % 3 == 0, -1, np.arange(700) % 3)
    units = Units.of(world.data, groups_of(700, 300), samples=sample, at_most=1000, seed=0)
    assert (sample[units.cells] >= 0).all()
    assert units.sizes.tolist() == [200, 266]
    assert set(units.sample.tolist()) == {1, 2}


# the tally


def dense(world: World, units: Units, found_theta: np.ndarray, batches: list[int] | None) -> dict[str, np.ndarray]:
    """X, S / m and m by loops over the units, in float64."""
    x, size = world.counts.astype(np.float64), world.size.astype(np.float64)
    own = world.shares()
    n_units, n_groups = len(units.group), len(units.sizes)
    rate = np.array(
        [x[c].sum(0) / size[c].sum() for c in (units.cells[units.group[units.unit] == g] for g in range(n_groups))]
    )
    totals = np.bincount(world.batch[units.cells], minlength=2).astype(float)
    counts, exposure, reference = np.zeros((3, n_units, x.shape[1]))
    for u in range(n_units):
        cells = units.cells[units.unit == u]
        weight = 1 / (1 + size[cells][:, None] * rate[units.group[u]] * found_theta)
        counts[u] = (weight * x[cells]).sum(0)
        expected = (weight * size[cells][:, None] * own[cells]).sum(0)
        reference[u] = own[cells].mean(0)
        if batches is not None:
            members = units.cells[
                (units.group == units.group[u])[units.unit] & (world.batch[units.cells] == units.batch[u])
            ]
            shares = totals[batches] / totals[batches].sum()
            under = sum(s * world.shares(b)[members].mean(0) for s, b in zip(shares, batches, strict=True))
            reference[u] *= under / own[members].mean(0)
        exposure[u] = expected / reference[u]
    share = np.array(
        [
            np.average(reference[units.group == g], axis=0, weights=units.n_cells[units.group == g])
            for g in range(n_groups)
        ]
    )
    return {"counts": counts, "exposure": exposure, "share": share}


def theta_of(world: World, units: Units) -> np.ndarray:
    raw = tallies._raw_moments(world.data, units, world.size.astype(np.float64), slice(0, world.counts.shape[1]))
    inverse_theta: np.ndarray = tallies._dispersion(raw, units.n_cells)
    return inverse_theta


@pytest.mark.parametrize("batches", [None, [0, 1], [1]])
@pytest.mark.parametrize("samples", [False, True])
def test_a_tally_is_that_of_direct_sums(world, batches, samples, monkeypatch) -> None:
    monkeypatch.setattr(tallies, "_UNDER_EACH", 10_000)  # all cells under every batch
    sample = np.arange(700) % 4 if samples else None
    units = Units.of(world.data, groups_of(700, 200, 230), samples=sample, at_most=1000, seed=0)
    found = tally(world.network, world.data, units, batches=batches, seed=0)
    expected = dense(world, units, theta_of(world, units), batches)
    brought = replace(found, exposure=found.exposure / found.reference)  # to the batches asked for
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(brought, name), values, rtol=2e-5, atol=1e-12)
    if batches is None:
        assert (found.reference == 1).all()


def test_few_cells_tell_what_a_batch_does(world) -> None:
    units = Units.of(world.data, groups_of(700, 300), samples=None, at_most=1000, seed=0)
    found = tally(world.network, world.data, units, batches=[0, 1], seed=0)
    expected = dense(world, units, theta_of(world, units), [0, 1])
    np.testing.assert_allclose(found.share, expected["share"], rtol=0.05)


def test_blocks_of_any_size_count_the_same(world, monkeypatch) -> None:
    units = Units.of(world.data, groups_of(700, 200), samples=None, at_most=1000, seed=0)
    whole = tally(world.network, world.data, units, batches=[0, 1], seed=0)
    monkeypatch.setattr(tallies, "cells_at_once", lambda network, n_genes: 37)
    parts = tally(world.network, world.data, units, batches=[0, 1], seed=0)
    for name in ("counts", "exposure", "reference", "share", "spread", "df"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=2e-5)


def test_if_the_model_is_right_counts_are_what_it_expects() -> None:
    world = World(6000, n_genes=40, seed=3)
    units = Units.of(world.data, groups_of(6000, 3000), samples=None, at_most=6000, seed=0)
    found = tally(world.network, world.data, units, batches=[0, 1], seed=0)
    expected = (
        found.exposure / found.reference * found.share[units.group]
    )  # but for the mixtures of states in the two batches
    assert np.abs(found.counts / expected - 1).mean() < 0.03
    error = (found.counts - expected) / np.sqrt(expected * found.spread[units.group])
    assert 0.7 < error.std() < 1.1  # the spread holds what states vary within a unit, which the ratio is free of
    together = contrast(found, [0], [1], by_batch=True)
    expected = np.mean(
        [world.shares(b) * w for b, w in zip((0, 1), np.bincount(world.batch) / 3000, strict=True)], axis=0
    )
    np.testing.assert_allclose(together.scale1, expected[:3000].mean(0), rtol=0.08)


def test_counts_correct_a_model_that_is_wrong() -> None:
    world = World(4000, n_genes=40, seed=4, batch_effect=0.0)
    with torch.no_grad():  # the decoder believes that genes have the shares of other genes
        world.network.offset.copy_(world.network.offset.flip(0))
        world.network.loadings.zero_()
    units = Units.of(world.data, groups_of(4000, 2000), samples=None, at_most=6000, seed=0)
    found = contrast(tally(world.network, world.data, units, batches=None, seed=0), [0], [1], by_batch=False)
    truth = world.shares()
    np.testing.assert_allclose(found.scale1, truth[:2000].mean(0), rtol=0.15)
    np.testing.assert_allclose(found.scale2, truth[2000:].mean(0), rtol=0.15)


# dispersion and spread


def alike(n: int, *, n_genes: int, theta, seed: int = 0, library: float = 2000.0) -> World:
    """Cells of one state and no batch effect: all variation is the negative binomial's."""
    return World(n, n_genes=n_genes, theta=theta, seed=seed, spread=0.0, batch_effect=0.0, library=library)


@pytest.mark.parametrize("theta", [0.5, 2.0, 20.0])
def test_a_known_dispersion_is_found(theta) -> None:
    world = alike(3000, n_genes=200, theta=theta)
    units = Units.of(world.data, groups_of(3000, 1500), samples=None, at_most=6000, seed=0)
    often = world.counts.mean(0) > 1
    assert np.median(theta_of(world, units)[often]) * theta == pytest.approx(1, rel=0.1)


def test_poisson_counts_have_no_dispersion() -> None:
    world = alike(2000, n_genes=100, theta=1e6)
    units = Units.of(world.data, groups_of(2000, 1000), samples=None, at_most=6000, seed=0)
    assert np.median(theta_of(world, units)) < 0.02


@pytest.mark.parametrize("n", [40, 400])
@pytest.mark.parametrize("theta", [0.7, 5.0])
def test_weighted_counts_vary_as_their_spread_says(n, theta) -> None:
    errors, spreads = [], []
    for seed in range(6):
        world = alike(2 * n, n_genes=150, theta=theta, seed=seed)
        units = Units.of(world.data, groups_of(2 * n, n), samples=None, at_most=6000, seed=0)
        found = tally(world.network, world.data, units, batches=None, seed=0)
        often = world.counts.mean(0) > 0.2
        one = contrast(found, [0], [1], by_batch=True)
        e1, e2 = one.evidence.counts1.sum(0), one.evidence.counts2.sum(0)
        lfc = np.log(one.scale1 / one.scale2)
        errors.append((lfc / np.sqrt(1 / e1 + 1 / e2))[often])
        spreads.append(found.spread[:, often].mean())
    assert np.mean(spreads) == pytest.approx(1, abs=0.06)
    assert np.concatenate(errors).std() == pytest.approx(1, abs=0.1)


def test_many_cells_know_their_spread_well_and_few_do_not() -> None:
    df = []
    for n in (10, 100, 1000):
        world = alike(2 * n, n_genes=100, theta=2.0)
        units = Units.of(world.data, groups_of(2 * n, n), samples=None, at_most=6000, seed=0)
        df.append(np.median(tally(world.network, world.data, units, batches=None, seed=0).df))
    assert df[0] < df[1] < df[2]
    assert df[2] > 100


def test_a_group_that_varies_more_has_a_larger_spread() -> None:
    world = alike(4000, n_genes=100, theta=5.0)
    rng = np.random.default_rng(0)
    mu = world.size[2000:, None] * world.shares()[2000:]
    world.counts[2000:] = rng.poisson(rng.gamma(0.3, mu / 0.3))
    world.data = world.as_data(world.counts)
    units = Units.of(world.data, groups_of(4000, 2000), samples=None, at_most=6000, seed=0)
    found = tally(world.network, world.data, units, batches=None, seed=0)
    often = world.counts.mean(0) > 1
    assert np.median(found.spread[0, often]) < 0.7
    assert np.median(found.spread[1, often]) > 1.3


# edges


def whole_and_finite(found: Tally) -> bool:
    return all(np.isfinite(getattr(found, name)).all() for name in ("counts", "exposure", "share", "spread", "df"))


def test_groups_and_units_of_one_cell_are_counted(world) -> None:
    units = Units.of(
        world.data, [np.array([3]), np.arange(10, 16), np.arange(20, 200)], samples=np.arange(700), at_most=99, seed=0
    )
    found = tally(world.network, world.data, units, batches=[0, 1], seed=0)
    assert whole_and_finite(found)
    assert (found.spread > 0).all()
    assert (found.df >= 1).all()


def test_a_gene_never_seen_is_counted_as_nothing(world) -> None:
    counts = world.counts.copy()
    counts[:, 7] = 0
    data = world.as_data(counts)
    units = Units.of(data, groups_of(700, 300), samples=None, at_most=1000, seed=0)
    found = tally(world.network, data, units, batches=[0, 1], seed=0)
    assert (found.counts[:, 7] == 0).all()
    assert (found.exposure[:, 7] > 0).all()
    assert whole_and_finite(found)
    assert found.spread[:, 7].tolist() == [1, 1]


def test_some_genes_are_counted_as_all_are(world) -> None:
    units = Units.of(world.data, groups_of(700, 300), samples=None, at_most=1000, seed=0)
    whole = tally(world.network, world.data, units, batches=[0, 1], seed=0)
    part = tally(world.network, world.data, units, batches=[0, 1], genes=slice(10, 25), seed=0)
    np.testing.assert_allclose(part.share, whole.share[:, 10:25], rtol=1e-6)
    # weights depend on the trend of dispersions, the means do not
    np.testing.assert_allclose(part.counts / part.exposure, (whole.counts / whole.exposure)[:, 10:25], rtol=0.1)


def test_importance_weighting_draws_from_the_same_exact_posterior(world) -> None:
    class WithDensities(KnownStates):
        def log_prior(self, z, log_library, batch):
            return torch.zeros(z.shape[:2])

        def log_posterior(self, z, log_library, latent):
            return torch.zeros(z.shape[:2])

    network = WithDensities(world.loadings.copy(), world.offset.copy(), world.of_batch.copy())
    units = Units.of(world.data, groups_of(700, 300), samples=None, at_most=1000, seed=0)
    one = tally(world.network, world.data, units, batches=None, seed=0)
    two = tally(network, world.data, units, batches=None, importance_weighting=True, seed=0)
    np.testing.assert_allclose(two.exposure, one.exposure, rtol=1e-4)  # the states are known to seven digits


def test_the_seed_decides_the_draws(asked) -> None:
    units = Units.of(asked.data, [asked.every[:100], asked.every[100:]], samples=None, at_most=1000, seed=0)
    one, again, other = (tally(asked.network, asked.data, units, batches=[0, 1], seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.exposure, again.exposure)
    assert (one.exposure != other.exposure).any()
    np.testing.assert_array_equal(one.counts, other.counts)


# from counts to calls, where the truth is known


@pytest.mark.parametrize(("n1", "n2", "theta"), [(30, 30, 2.0), (30, 300, 0.3), (300, 300, 0.3)])
def test_groups_that_do_not_differ_are_not_called(n1, n2, theta) -> None:
    small, calls = [], 0
    for seed in range(3):
        log_theta = np.random.default_rng(seed).normal(np.log(theta), 0.7, 500)
        world = alike(n1 + n2, n_genes=500, theta=np.exp(log_theta), seed=seed)
        units = Units.of(world.data, groups_of(n1 + n2, n1), samples=None, at_most=5000, seed=0)
        found = contrast(tally(world.network, world.data, units, batches=[0, 1], seed=0), [0], [1], by_batch=True)
        grid = OnGrid.of(found.evidence)
        points = np.broadcast_to(np.linspace(-3, 3, 601), (500, 601))
        log_l = log_likelihood(found.evidence, points)
        df = found.evidence.df
        ratio = df * np.expm1(2 * (log_l.max(1) - log_l[:, 300]) / (df + 1))
        small.append((stats.f.sf(ratio, 1, df) < 0.05)[world.counts.sum(0) >= 20])
        changes = grid.posterior(grid.fit_prior()).fold_changes(delta=0.25)
        calls += int((expected_fdr(changes.not_p) <= 0.05).sum())
    assert 0.02 < np.concatenate(small).mean() < 0.075
    assert calls <= 1


@pytest.mark.parametrize(("n1", "n2"), [(300, 300), (30, 300)])
def test_planted_changes_are_called_at_the_rate_promised(n1, n2) -> None:
    proportions: dict[float, list[float]] = {0.01: [], 0.05: [], 0.1: []}
    covered, power = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        world = World(n1 + n2, n_genes=500, theta=np.exp(rng.normal(0.4, 0.7, 500)), seed=seed, spread=0.0)
        lfc = np.where(rng.random(500) < 0.15, rng.choice([-1, 1], 500) * rng.uniform(0.32, 2, 500), 0.0)
        mu = world.size[:, None] * world.shares()
        mu[:n1] *= 2**lfc
        world.counts = rng.poisson(rng.gamma(world.theta, mu / world.theta))
        world.data = world.as_data(world.counts)
        units = Units.of(world.data, groups_of(n1 + n2, n1), samples=None, at_most=5000, seed=0)
        found = contrast(tally(world.network, world.data, units, batches=[0, 1], seed=0), [0], [1], by_batch=True)
        grid = OnGrid.of(found.evidence)
        changes = grid.posterior(grid.fit_prior()).fold_changes(delta=0.25)
        covered.append(((changes.lower <= lfc) & (lfc <= changes.upper)).mean())
        for target, kept in proportions.items():
            called = expected_fdr(changes.not_p) <= target
            right = np.where(changes.mean > 0, lfc >= 0.25, lfc <= -0.25)
            kept.append(1 - right[called].mean() if called.any() else 0.0)
        power.append((expected_fdr(changes.not_p) <= 0.05)[np.abs(lfc) >= 0.5].mean())
    for target, kept in proportions.items():
        assert np.mean(kept) <= target + 2 * np.std(kept, ddof=1) / np.sqrt(len(kept))
    assert 0.94 < np.mean(covered) <= 1
    assert np.mean(power) > (0.85 if n1 == 300 else 0.3)


# many batches


class ManyBatches(World):
    """Cells of a world in many batches, whose effects are known."""

    def __init__(self, n: int, n_batches: int) -> None:
        super().__init__(n)
        rng = np.random.default_rng(5)
        self.of_batch = 0.3 * rng.normal(size=(n_batches, self.counts.shape[1]))
        self.batch = rng.integers(0, n_batches, n)
        self.network = KnownStates(self.loadings.copy(), self.offset.copy(), self.of_batch.copy())
        self.counts = rng.poisson(self.size[:, None] * self.shares())
        names = tuple(f"b{i}" for i in range(n_batches))
        data = self.as_data(self.counts)
        self.data = replace(data, schema=replace(data.schema, batches=names))


@pytest.mark.parametrize(("n", "n_batches"), [(2000, 10), (2000, 500), (5000, 3000)])
def test_the_decoded_cells_are_bounded_however_many_the_batches(n, n_batches, monkeypatch) -> None:
    world, decoded = ManyBatches(n, n_batches), []
    decode = world.network.decode

    def counting(z, log_library, batch):
        decoded.append(batch.n_cells)
        return decode(z, log_library, batch)

    monkeypatch.setattr(world.network, "decode", counting)
    units = Units.of(world.data, groups_of(n, 300, 800), samples=None, at_most=5000, seed=0)
    tally(world.network, world.data, units, batches=range(n_batches), seed=0)
    assert sum(decoded) <= n + tallies._DECODED
    assert len(decoded) <= 120  # blocks, not batches


def test_some_of_many_batches_stand_for_all() -> None:
    world = ManyBatches(3000, 200)
    units = Units.of(world.data, groups_of(3000, 1000), samples=None, at_most=3000, seed=0)
    found = tally(world.network, world.data, units, batches=range(200), seed=0)
    weights = np.bincount(world.batch, minlength=200) / 3000
    under = sum(weight * world.shares(code) for code, weight in enumerate(weights))
    expected = np.stack([under[:1000].mean(0), under[1000:].mean(0)])
    fold = found.share[0] / found.share[1] / (expected[0] / expected[1])
    assert np.abs(np.log(fold)).max() < 0.1  # the same batches stand for all on both sides
    assert np.abs(np.log(found.share / expected)).mean() < 0.08


def test_a_systematic_sample_has_each_batch_as_often_as_its_weight_says() -> None:
    rng = np.random.default_rng(0)
    weights = np.array([0.5, 0.3, 0.1, 0.06, 0.04])
    drawn = np.zeros(5)
    for _ in range(2000):
        codes, shares = tallies._standing(np.arange(5), weights, 3, rng)
        assert len(codes) <= 3 and shares.sum() == pytest.approx(1)
        drawn[codes] += shares
    assert drawn / 2000 == pytest.approx(weights, abs=0.015)
    codes, shares = tallies._standing(np.arange(5), weights, 5, rng)
    assert codes.tolist() == [0, 1, 2, 3, 4] and (shares == weights).all()


@pytest.mark.parametrize("n", [3, 400])
def test_sums_by_code_are_those_of_a_loop(n) -> None:
    rng = np.random.default_rng(0)
    codes, values = rng.integers(-1, n, 900), rng.normal(size=(900, 4))
    expected = np.stack([values[codes == code].sum(0) for code in range(n)])
    np.testing.assert_allclose(tallies.sums_by(values, codes, n), expected, atol=1e-12)


def test_the_uncorrected_tally_is_the_one_without_batches(world) -> None:
    units = Units.of(world.data, groups_of(700, 300), samples=None, at_most=1000, seed=0)
    one = tally(world.network, world.data, units, batches=[0, 1], seed=0).uncorrected
    other = tally(world.network, world.data, units, batches=None, seed=0)
    for name in ("counts", "exposure", "reference", "share", "spread", "df"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)
