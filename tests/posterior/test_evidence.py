"""The ELBO as mathematics, on a model whose posterior and evidence are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from celbo.errors import OptionError
from celbo.nn.latent import Latent
from celbo.posterior.evidence import elbo, marginal_ll, reconstruction_error
from celbo.posterior.latent import latent_representation
from celbo.training.engine import fit
from celbo.training.plan import TrainConfig
from linear_gaussian import (
    N_GENES,
    SIGMA,
    LinearGaussian,
    central_coverage,
    dense,
    exact_evidence,
    exact_posterior,
    make_data,
    make_truth,
    perturbed,
)

PERTURBATIONS = [(0.0, 1.0), (0.5, 1.0), (0.0, 1.5), (0.4, 0.7), (1.0, 1.3)]


@pytest.fixture(scope="module")
def cells():
    data, _ = make_data(300)
    return data, np.arange(data.n_cells)


def a_network(shift: float = 0.0, widen: float = 1.0, dtype: torch.dtype = torch.float64) -> LinearGaussian:
    return perturbed(LinearGaussian(*make_truth()), shift=shift, widen=widen).to(dtype)


def divergence_from_truth(network: LinearGaussian, data) -> np.ndarray:
    """KL(q(z | x) || p(z | x)) of each cell."""
    batch = data.minibatch(np.arange(data.n_cells)).to(None, torch.float64)
    mean, sd = exact_posterior(data)
    with torch.no_grad():
        return network.encode(batch).z.kl_to(torch.from_numpy(mean), torch.from_numpy(sd)).numpy()


def analytic_elbo(network: LinearGaussian, data) -> np.ndarray:
    """E_q[log p(x | z)] - KL(q || p) of each cell, the expectation in closed form."""
    loadings, offset = make_truth()
    batch = data.minibatch(np.arange(data.n_cells)).to(None, torch.float64)
    with torch.no_grad():
        q = network.encode(batch).z
        residual = dense(data) - q.mean.numpy() @ loadings.T - offset
        squares = (residual**2).sum(1) + (q.variance.numpy() * (loadings**2).sum(0)).sum(1)
        expected = -0.5 * squares / SIGMA**2 - N_GENES * (math.log(SIGMA) + 0.5 * math.log(2 * math.pi))
        return expected - network.kl(Latent(q), batch)["z"].numpy()


@pytest.mark.parametrize(("shift", "widen"), PERTURBATIONS)
def test_the_gap_of_the_elbo_is_the_divergence_from_the_true_posterior(cells, shift, widen) -> None:
    data, _ = cells
    network = a_network(shift, widen)
    gap = exact_evidence(data) - analytic_elbo(network, data)
    assert np.abs(gap - divergence_from_truth(network, data)).max() < 1e-6
    assert gap.min() > -1e-9


@pytest.mark.parametrize(("shift", "widen"), PERTURBATIONS)
def test_the_sampled_elbo_agrees_with_the_analytic_one_within_its_standard_error(cells, shift, widen) -> None:
    data, index = cells
    network = a_network(shift, widen)
    sampled = np.array([elbo(network, data, index, n_samples=50, seed=s, per_cell=True).mean() for s in range(20)])
    error = sampled.mean() - analytic_elbo(network, data).mean()
    assert abs(error) < 4 * sampled.std(ddof=1) / math.sqrt(20)


@pytest.mark.parametrize(("shift", "widen"), PERTURBATIONS[1:])
def test_the_elbo_is_below_the_evidence(cells, shift, widen) -> None:
    data, index = cells
    assert elbo(a_network(shift, widen), data, index, n_samples=100) < exact_evidence(data).mean()


def test_elbo_and_reconstruction_error_differ_by_the_divergence_from_the_prior(cells) -> None:
    data, index = cells
    network = a_network(0.3, 1.2)
    bound = elbo(network, data, index, per_cell=True, seed=5)
    error = reconstruction_error(network, data, index, per_cell=True, seed=5)
    latent = network.encode(data.minibatch(index).to(None, torch.float64))
    kl = latent.z.kl_to(0.0, 1.0).detach().numpy()
    assert np.abs(bound + error + kl).max() < 1e-9
    assert error.mean() > 0 > bound.mean()


def test_with_the_exact_posterior_one_importance_sample_is_the_evidence(cells) -> None:
    data, index = cells
    found = marginal_ll(a_network(), data, index, n_samples=1, per_cell=True)
    assert np.abs(found - exact_evidence(data)).max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shift", "widen"), [(0.0, 1.3), (0.4, 1.2), (0.3, 0.8), (0.7, 1.5)])
def test_the_importance_weighted_evidence_is_exact_to_a_twentieth_of_a_nat(cells, shift, widen, dtype) -> None:
    data, index = cells
    network = a_network(shift, widen, dtype)
    assert abs(marginal_ll(network, data, index, n_samples=500) - exact_evidence(data).mean()) < 0.05


def test_the_importance_weighted_bound_rises_with_the_samples(cells) -> None:
    data, index = cells
    network = a_network(0.6, 1.5)
    bounds = [marginal_ll(network, data, index, n_samples=k) for k in (1, 4, 16, 64, 256)]
    assert bounds == sorted(bounds)
    assert bounds[-1] - bounds[0] > 0.3
    assert bounds[-1] < exact_evidence(data).mean() + 0.01


@pytest.mark.parametrize("at_once", [1, 7, 200])
def test_the_evidence_does_not_depend_on_how_many_samples_are_held(cells, at_once) -> None:
    data, index = cells
    found = marginal_ll(a_network(0.3, 1.2), data, index, n_samples=200, max_samples_at_once=at_once)
    assert abs(found - exact_evidence(data).mean()) < 0.02


def test_weights_far_below_the_smallest_number_keep_their_logarithm(cells) -> None:
    data, index = cells
    loadings, offset = make_truth()
    narrow = LinearGaussian(loadings, offset + 3.0, sigma=0.02)  # log p(x | z) near -300,000
    found = marginal_ll(narrow, data, index[:20], n_samples=20)
    assert -1e6 < found < -1e5


def test_per_cell_values_average_to_the_value_of_all(cells) -> None:
    data, index = cells
    network = a_network(0.3, 1.2)
    for ask in (elbo, reconstruction_error, marginal_ll):
        every = ask(network, data, index, n_samples=3, per_cell=True, seed=2)
        assert every.shape == (data.n_cells,)
        assert ask(network, data, index, n_samples=3, seed=2) == pytest.approx(every.mean(), abs=1e-12)


def test_the_seed_decides_the_draws(cells) -> None:
    data, index = cells
    network = a_network(0.3, 1.2)
    assert elbo(network, data, index, seed=3) == elbo(network, data, index, seed=3)
    assert elbo(network, data, index, seed=3) != elbo(network, data, index, seed=4)


@pytest.mark.parametrize(
    "options",
    [{"n_samples": 0}, {"n_samples": 2.5}, {"seed": -1}, {"batch_size": 0}, {"max_samples_at_once": 0}],
    ids=str,
)
def test_impossible_options_are_named(cells, options) -> None:
    data, index = cells
    with pytest.raises(OptionError, match=next(iter(options))):
        marginal_ll(a_network(), data, index, **options)


def test_no_cells_is_an_error(cells) -> None:
    with pytest.raises(OptionError, match="indices is empty"):
        elbo(a_network(), cells[0], np.array([], np.int64))


def test_posterior_intervals_cover_the_truth_as_often_as_they_say() -> None:
    data, truth = make_data(4000, seed=3)
    mean, variance = latent_representation(a_network(), data, np.arange(4000), return_dist=True)
    for level, covered in central_coverage(mean, np.sqrt(variance), truth):
        assert abs(covered - level) < 0.03


def test_intervals_of_posterior_draws_cover_the_truth_as_often_as_they_say() -> None:
    data, truth = make_data(2500, seed=4)
    draws = latent_representation(a_network(), data, np.arange(2500), give_mean=False, n_samples=400)
    for level in (0.5, 0.8, 0.95):
        low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
        assert abs(((truth >= low) & (truth <= high)).mean() - level) < 0.03


@pytest.mark.parametrize("sigma", [SIGMA / 2, SIGMA * 2])
def test_a_broken_likelihood_fails_the_coverage_check(sigma) -> None:
    data, truth = make_data(4000, seed=3)
    wrong = LinearGaussian(*make_truth(), sigma=sigma)
    mean, variance = latent_representation(wrong, data, np.arange(4000), return_dist=True)
    assert max(abs(covered - level) for level, covered in central_coverage(mean, np.sqrt(variance), truth)) > 0.1


def test_amortised_training_finds_the_exact_posterior() -> None:
    data, _ = make_data(2000, seed=5)
    network = LinearGaussian(*make_truth()).float()
    with torch.no_grad():
        network.weight.zero_()
        network.shift.zero_()
        network.log_scale.zero_()
    plan = TrainConfig(
        max_epochs=40, batch_size=100, learning_rate=0.03, early_stopping=False, restore_best=False, kl_warmup=0.0
    )
    fit(network, data, plan, seed=0, device="cpu", progress=False)
    mean, variance = latent_representation(network, data, np.arange(2000), return_dist=True)
    exact_mean, exact_sd = exact_posterior(data)
    assert np.sqrt(np.mean(((mean - exact_mean) / exact_sd) ** 2)) < 0.02
    assert np.abs(np.sqrt(variance) / exact_sd - 1).max() < 0.02
    assert abs(elbo(network, data, np.arange(2000), n_samples=20) - exact_evidence(data).mean()) < 0.02
