"""Latent states and library sizes, and what holds for every question: mode, noise and memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from celbo.errors import OptionError
from celbo.nn.latent import GaussianPosterior, Latent
from celbo.posterior.latent import latent_library_size, latent_representation
from celbo.posterior.stream import evaluating


def test_a_gaussian_posterior_has_the_density_of_torch() -> None:
    mean, scale = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64) + 0.1
    value = torch.randn(7, 5, 3, dtype=torch.float64)
    expected = torch.distributions.Normal(mean, scale).log_prob(value).sum(-1)
    assert torch.allclose(GaussianPosterior(mean, scale).log_prob(value), expected, rtol=0, atol=1e-12)


def test_a_gaussian_posterior_has_the_divergence_of_torch() -> None:
    mean, scale = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64) + 0.1
    other_mean, other_scale = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, scale), normal(other_mean, other_scale)).sum(-1)
    assert torch.allclose(GaussianPosterior(mean, scale).kl_to(other_mean, other_scale), expected, rtol=0, atol=1e-12)


def test_draws_of_a_gaussian_posterior_have_its_mean_and_variance_and_gradients() -> None:
    mean = torch.tensor([[1.0, -2.0]], requires_grad=True)
    q = GaussianPosterior(mean, torch.tensor([[0.5, 3.0]]))
    draws = q.sample(40_000, torch.Generator().manual_seed(0))
    assert torch.allclose(draws.mean(0), q.mean, atol=0.06)
    assert torch.allclose(draws.var(0), q.variance, rtol=0.03)
    assert torch.autograd.grad(draws.mean(0).sum(), mean)[0][0].tolist() == pytest.approx([1.0, 1.0])


def test_taking_cells_of_a_posterior_repeats_and_reorders_them() -> None:
    q = GaussianPosterior(torch.arange(6.0).reshape(3, 2), torch.arange(1.0, 7.0).reshape(3, 2))
    taken = Latent(q, GaussianPosterior(q.mean[:, :1], q.scale[:, :1])).take(torch.tensor([2, 2, 0]))
    assert taken.z.mean[:, 0].tolist() == [4, 4, 0]
    assert taken.library is not None
    assert taken.library.scale[:, 0].tolist() == [5, 5, 1]


def test_the_shape_says_what_was_asked(asked) -> None:
    ask = (asked.network, asked.data, asked.every[:50])
    assert latent_representation(*ask).shape == (50, 4)
    assert latent_representation(*ask, give_mean=False).shape == (50, 4)
    assert latent_representation(*ask, give_mean=False, n_samples=3).shape == (3, 50, 4)
    mean, variance = latent_representation(*ask, return_dist=True)
    assert mean.shape == variance.shape == (50, 4)
    assert (variance > 0).all()


@pytest.mark.parametrize("batch_size", [1, 7, 300])
def test_means_do_not_depend_on_the_batch_size(asked, batch_size) -> None:
    whole = latent_representation(asked.network, asked.data, asked.every)
    parts = latent_representation(asked.network, asked.data, asked.every, batch_size=batch_size)
    assert np.abs(whole - parts).max() < 1e-5


def test_cells_come_in_the_order_asked_for(asked) -> None:
    whole = latent_representation(asked.network, asked.data, asked.every)
    order = np.random.default_rng(0).permutation(300)[:80]
    assert np.abs(latent_representation(asked.network, asked.data, order) - whole[order]).max() < 1e-5


def test_draws_have_the_posterior_mean_and_variance(asked) -> None:
    few = asked.every[:10]
    mean, variance = latent_representation(asked.network, asked.data, few, return_dist=True)
    draws = latent_representation(asked.network, asked.data, few, give_mean=False, n_samples=20_000)
    assert np.abs((draws.mean(0) - mean) / np.sqrt(variance)).max() < 0.035
    assert np.abs(draws.var(0) / variance - 1).max() < 0.05


def test_the_seed_decides_the_draws(asked) -> None:
    def draw(seed: int) -> np.ndarray:
        return latent_representation(asked.network, asked.data, asked.every, give_mean=False, seed=seed)

    assert (draw(1) == draw(1)).all()
    assert (draw(1) != draw(2)).all()


def test_noise_differs_between_blocks_of_cells(asked) -> None:
    twice = np.concatenate([asked.every[:5], asked.every[:5]])
    draws = latent_representation(asked.network, asked.data, twice, give_mean=False, batch_size=5)
    assert (draws[:5] != draws[5:]).all()


def test_the_state_of_a_logistic_normal_is_the_mean_of_its_softmax(make_asked) -> None:
    simplex = make_asked(latent_distribution="logistic-normal")
    ask = (simplex.network, simplex.data, simplex.every[:20])
    mean = latent_representation(*ask)
    draws = latent_representation(*ask, give_mean=False, n_samples=20_000, seed=1)
    assert np.abs(mean.sum(1) - 1).max() < 1e-5
    assert np.abs(mean - draws.mean(0)).max() < 0.02
    at_mean = torch.softmax(torch.from_numpy(latent_representation(*ask, return_dist=True)[0]), -1).numpy()
    assert np.abs(mean - at_mean).max() > 5 * np.abs(mean - draws.mean(0)).max()  # not the softmax of the mean


def test_an_observed_library_size_is_the_total(asked) -> None:
    assert latent_library_size(asked.network, asked.data, asked.every) == pytest.approx(asked.data.library, rel=1e-5)


def test_a_given_size_factor_is_the_library_size(make_asked) -> None:
    sized = make_asked(size_factor_key="size")
    assert latent_library_size(sized.network, sized.data, sized.every) == pytest.approx(
        sized.data.size_factor, rel=1e-5
    )


def test_a_latent_library_size_is_the_mean_of_its_draws(make_asked) -> None:
    latent = make_asked(library="latent")
    few = np.repeat(latent.every[:3], 4000)
    mean = latent_library_size(latent.network, latent.data, latent.every[:3])
    draws = latent_library_size(latent.network, latent.data, few, give_mean=False).reshape(3, 4000)
    assert np.abs(draws.mean(1) / mean - 1).max() < 5 * (draws.std(1) / mean).max() / np.sqrt(4000)


def test_asking_leaves_every_module_in_its_mode(make_asked) -> None:
    other = make_asked()
    other.network.train()
    frozen = next(m for m in other.network.modules() if isinstance(m, torch.nn.BatchNorm1d))
    frozen.eval()
    before = [module.training for module in other.network.modules()]
    running = frozen.running_mean.clone()
    latent_representation(other.network, other.data, other.every)
    assert [module.training for module in other.network.modules()] == before
    assert torch.equal(frozen.running_mean, running)


def test_modes_come_back_after_an_error(make_asked) -> None:
    other = make_asked()
    other.network.train()
    with pytest.raises(ZeroDivisionError), evaluating(other.network):
        assert not other.network.training
        assert not torch.is_grad_enabled()
        1 / 0  # noqa: B018
    assert other.network.training
    assert torch.is_grad_enabled()


def test_a_network_in_training_mode_gives_the_same_answers(make_asked, asked) -> None:
    other = make_asked()
    other.network.train()
    found = latent_representation(other.network, other.data, other.every)
    assert (found == latent_representation(asked.network, asked.data, asked.every)).all()


def test_the_global_generators_are_left_alone(asked) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    latent_representation(asked.network, asked.data, asked.every, give_mean=False)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


@pytest.mark.parametrize("options", [{"n_samples": 0}, {"mc_samples": -1}, {"batch_size": 0}, {"seed": 1.5}], ids=str)
def test_impossible_options_are_named(asked, options) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        latent_representation(asked.network, asked.data, asked.every, **options)
