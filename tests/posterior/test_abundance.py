"""Densities of samples in the latent space against SciPy, and groups of samples without and with a difference."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

import celbo
from celbo.errors import CelboWarning, InputError, OptionError
from celbo.nn.latent import PointPosterior
from celbo.posterior import abundance
from celbo.posterior.abundance import abundance_contrast, sample_log_densities
from linear_gaussian import LinearGaussian, as_cells, exact_posterior, make_truth

SAMPLES = np.array([0, 1, 2, -1] * 25)
NAMES = ["a", "b", "c"]


def cells_at(z: np.ndarray, seed: int = 0):
    """Return cells with these true states, and the network at their exact posterior."""
    loadings, offset = make_truth()
    x = z @ loadings.T + offset + 0.7 * np.random.default_rng(seed).normal(size=(len(z), 24))
    return LinearGaussian(loadings, offset), as_cells(x)


@pytest.fixture(scope="module")
def hundred():
    """Return the network, 100 cells, and mean (cells, latent) and sd (latent,) of their exact posterior."""
    network, data = cells_at(np.random.default_rng(1).normal(size=(100, 3)))
    return network, data, *exact_posterior(data)


def pairwise(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Return the log density of every cell's posterior at every cell's mean; (at, of)."""
    return stats.norm.logpdf(mean[:, None], mean[None], sd).sum(-1)


@pytest.mark.parametrize("entries", [7, 1 << 18])
@pytest.mark.parametrize("give_mean", [False, True])
def test_a_density_is_that_of_the_mixture_of_the_other_cells_posteriors(hundred, monkeypatch, give_mean, entries):
    monkeypatch.setattr(abundance, "_ENTRIES", entries)
    network, data, mean, sd = hundred
    every = pairwise(mean, sd if give_mean else np.sqrt(2) * sd)
    alone = every.copy()
    np.fill_diagonal(alone, -np.inf)
    asked = {"names": NAMES, "give_mean": give_mean}
    found = sample_log_densities(network, data, np.arange(100), SAMPLES, **asked)
    with_own = sample_log_densities(network, data, np.arange(100), SAMPLES, leave_one_out=False, **asked)
    for code in range(3):
        members = code == SAMPLES
        others = members.sum() - members  # of each cell: one fewer in its own sample
        assert found[:, code] == pytest.approx(logsumexp(alone[:, members], axis=1) - np.log(others), rel=1e-5)
        assert with_own[:, code] == pytest.approx(logsumexp(every[:, members], axis=1) - np.log(25), rel=1e-5)


@pytest.fixture(scope="module")
def mixtures():
    """Return a model whose posteriors are mixtures, with random weights, and the posteriors of its cells."""
    adata = celbo.datasets.simulate(n_cells=60, n_genes=40, seed=0)
    model = celbo.SCVAE(adata, prior="gaussian-mixture", n_components=3, n_latent=4, n_hidden=(16,), seed=0)
    with torch.no_grad():
        z = model.network.encode(model.data.minibatch(np.arange(60))).z
    assert z.weight.max(1).values.min() < 0.9  # true mixtures
    return model, z


def in_two_samples(model, **options) -> np.ndarray:
    return sample_log_densities(
        model.network, model.data, np.arange(60), np.arange(60) % 2, names=["a", "b"], **options
    )


def test_a_mixture_posterior_counts_all_its_components(mixtures) -> None:
    model, z = mixtures
    every = z.log_prob(z.mean[:, None].expand(60, 60, 4)).double().numpy()  # (at, of)
    np.fill_diagonal(every, -np.inf)
    found = in_two_samples(model, give_mean=True)
    for code in (0, 1):
        members = np.arange(60) % 2 == code
        assert found[:, code] == pytest.approx(logsumexp(every[:, members], axis=1) - np.log(30 - members), abs=1e-4)


def test_the_expected_density_is_the_average_over_draws_of_a_cell(mixtures) -> None:
    model, z = mixtures
    draws = z.sample(4000, torch.Generator().manual_seed(0))  # (draws, cells, latent)
    at = [z.log_prob(draws[:, i : i + 1].expand(-1, 60, -1)).double().exp().mean(0).numpy() for i in range(5)]
    found = in_two_samples(model, leave_one_out=False)
    for code in (0, 1):
        expected = np.log([a[np.arange(60) % 2 == code].mean() for a in at])
        assert found[:5, code] == pytest.approx(expected, abs=0.05)


def test_of_a_large_sample_some_cells_are_drawn(hundred) -> None:
    network, data, mean, sd = hundred
    every = np.arange(100)
    one, same, other = (
        sample_log_densities(network, data, every, np.zeros(100, int), names=["a"], max_cells=40, seed=s)
        for s in (0, 0, 1)
    )
    assert (one == same).all()
    assert (one != other).any()
    whole = sample_log_densities(network, data, every, np.zeros(100, int), names=["a"])
    assert np.abs(one - whole).mean() < np.abs(whole).mean()
    chosen = np.sort(np.random.default_rng(0).choice(100, 40, replace=False))
    alone = pairwise(mean, np.sqrt(2) * sd)
    np.fill_diagonal(alone, -np.inf)
    expected = logsumexp(alone[:, chosen], axis=1) - np.log(40 - np.isin(every, chosen))
    assert one[:, 0] == pytest.approx(expected, rel=1e-5)


def test_with_the_own_cell_in_every_cell_is_most_abundant_in_its_own_sample(hundred) -> None:
    """The reason to leave it out: these samples are random parts of one population."""
    network, data, *_ = hundred
    codes = np.arange(100) % 4
    own = (np.arange(100), codes)

    def excess(leave_one_out: bool) -> float:
        found = sample_log_densities(
            network, data, np.arange(100), codes, names=list("abcd"), leave_one_out=leave_one_out, give_mean=True
        )
        return float((found[own] - (found.sum(1) - found[own]) / 3).mean())

    assert excess(leave_one_out=False) > 1.0
    assert abs(excess(leave_one_out=True)) < 0.3


def test_some_cells_only_make_samples_of_these(hundred) -> None:
    network, data, *_ = hundred
    some = np.arange(0, 100, 2)
    found = sample_log_densities(network, data, some, np.arange(50) % 2, names=["a", "b"])
    assert found.shape == (50, 2)
    shifted = sample_log_densities(network, data, some[::-1], np.arange(50)[::-1] % 2, names=["a", "b"])
    assert shifted[::-1] == pytest.approx(found)


def test_a_code_without_density_is_a_named_error(hundred, monkeypatch) -> None:
    network, data, *_ = hundred
    point = SimpleNamespace(latent=SimpleNamespace(z=PointPosterior(torch.zeros(100, 3))))
    monkeypatch.setattr(abundance, "encoded_blocks", lambda *_args, **_rest: iter([point]))
    with pytest.raises(OptionError, match="has no density"):
        sample_log_densities(network, data, np.arange(100), SAMPLES, names=NAMES)


def test_a_sample_of_one_cell_cannot_leave_it_out(hundred) -> None:
    network, data, *_ = hundred
    codes = np.where(np.arange(100) == 3, 1, 0)
    with pytest.raises(InputError, match="fewer than 2 cells: 'b'"):
        sample_log_densities(network, data, np.arange(100), codes, names=["a", "b"])
    found = sample_log_densities(network, data, np.arange(100), codes, names=["a", "b"], leave_one_out=False)
    assert np.isfinite(found).all()


# -- comparisons of groups of samples --------------------------------------------------------------------------------


def densities(seed: int, n_samples: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(-10, 2, (200, 1)) + rng.normal(0, 1, (200, n_samples)), rng.integers(50, 500, n_samples)


def test_without_pseudo_cells_it_is_students_t_of_the_log_densities() -> None:
    values, sizes = densities(0)
    one, two = np.array([0, 3, 5]), np.array([1, 2, 4, 6, 7])
    table = abundance_contrast(values, sizes, one, two, pseudo_cells=0.0, level=0.9)
    test = stats.ttest_ind(values[:, one], values[:, two], axis=1)
    bounds = test.confidence_interval(0.9)
    assert table["lfc_mean"].to_numpy() == pytest.approx((values[:, one].mean(1) - values[:, two].mean(1)) / np.log(2))
    assert table["p_value"].to_numpy() == pytest.approx(test.pvalue)
    assert table["lfc_lower"].to_numpy() == pytest.approx(bounds.low / np.log(2))
    assert table["lfc_upper"].to_numpy() == pytest.approx(bounds.high / np.log(2))
    assert table["fdr"].to_numpy() == pytest.approx(stats.false_discovery_control(test.pvalue))


def test_a_sample_of_n_cells_is_at_most_n_plus_one_times_below_the_average() -> None:
    values = np.array([[-5.0, -np.inf, -5.0, -5.0]])
    table = abundance_contrast(values, np.array([99, 99, 99, 99]), np.array([1]), np.array([0, 2, 3]))
    average = np.log(3 / 4) - 5
    assert table["log_density1"].to_numpy() == pytest.approx(average - np.log(100))
    with_cells = np.log((99 * np.exp(-5) + np.exp(average)) / 100)
    assert table["log_density2"].to_numpy() == pytest.approx(with_cells)
    assert table["lfc_mean"].to_numpy() == pytest.approx((average - np.log(100) - with_cells) / np.log(2))


def test_one_sample_each_has_a_difference_and_no_interval() -> None:
    values, sizes = densities(0, 2)
    with pytest.warns(CelboWarning, match="no spread over samples"):
        table = abundance_contrast(values, sizes, np.array([0]), np.array([1]))
    assert np.isfinite(table["lfc_mean"]).all()
    assert table[["lfc_std", "lfc_lower", "lfc_upper", "p_value", "fdr"]].isna().all().all()


@pytest.mark.parametrize(
    ("groups", "options", "error", "words"),
    [
        (([], [1]), {}, InputError, "group1 has no samples"),
        (([0], []), {}, InputError, "group2 has no samples"),
        (([0, 1], [1, 2]), {}, InputError, "1 samples are in both groups"),
        (([0], [1, 2]), {"level": 95}, OptionError, "level=95"),
        (([0], [1, 2]), {"pseudo_cells": -1}, OptionError, "pseudo_cells=-1"),
    ],
    ids=str,
)
def test_impossible_groups_are_named_errors(groups, options, error, words) -> None:
    values, sizes = densities(0)
    with pytest.raises(error, match=words):
        abundance_contrast(values, sizes, *(np.array(g, int) for g in groups), **options)


def compared(seed: int, effect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare 5 and 5 samples of 60 cells of two types, whose shares vary from sample to sample.

    Returns whether each cell is of the first type, the log2 ratio found at it, and its p-value; (cells,) each.
    """
    rng = np.random.default_rng(seed)
    share = 1 / (1 + np.exp(-rng.normal(0, 0.5, 10) - effect * (np.arange(10) < 5)))
    types = rng.random((10, 60)) < share[:, None]
    z = rng.normal(size=(600, 3)) * 0.4 + np.where(types.ravel(), 2.0, -2.0)[:, None] * np.array([1, 0, 0])
    network, data = cells_at(z, seed)
    found = sample_log_densities(
        network, data, np.arange(600), np.repeat(np.arange(10), 60), names=[str(i) for i in range(10)]
    )
    table = abundance_contrast(found, np.full(10, 60), np.arange(5), np.arange(5, 10))
    return types.ravel(), table["lfc_mean"].to_numpy(), table["p_value"].to_numpy()


def test_a_null_between_samples_is_called_at_the_nominal_rate() -> None:
    called = np.array([(compared(seed, effect=0.0)[2] < 0.05).mean() for seed in range(40)])
    assert called.mean() < 0.05 + 2 * called.std() / np.sqrt(len(called))


def test_a_type_that_one_group_has_more_of_is_found() -> None:
    types, lfc, p_value = compared(0, effect=3.0)
    assert np.median(lfc[types]) > 0.4
    assert np.median(lfc[~types]) < -1.5
    assert (p_value[~types] < 0.05).mean() > 0.5
