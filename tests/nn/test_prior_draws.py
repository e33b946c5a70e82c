"""Draws from the priors have the moments that the priors say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import celbo
from celbo.nn.priors import MixturePrior


def test_draws_of_a_mixture_have_its_weights_means_and_variances() -> None:
    prior = MixturePrior(3, 2, generator=torch.Generator())
    weight = torch.tensor([0.2, 0.5, 0.3])
    with torch.no_grad():
        prior.logits.copy_(weight.log())
        prior.mean.copy_(torch.tensor([[-9.0, 0.0], [0.0, 5.0], [9.0, 1.0]]))
        prior.raw_variance.copy_(torch.tensor([[0.5, -1.0], [0.0, 0.0], [2.0, 1.0]]))
        draws = prior.sample(200, 300, torch.Generator().manual_seed(0))
        scale = prior.components.scale[:, 0]
    assert draws.shape == (200, 300, 2)
    assert len(torch.unique(draws)) > 0.99 * draws.numel()  # no two draws or cells share their noise
    component = (draws[..., 0] + 4.5).div(9).ceil().clamp(0, 2)  # means are five standard deviations apart
    for k in range(3):
        own = draws[component == k]
        assert len(own) / 60_000 == pytest.approx(float(weight[k]), abs=0.01)
        assert own.mean(0).numpy() == pytest.approx(prior.mean[k].detach().numpy(), abs=0.05)
        assert own.std(0).numpy() == pytest.approx(scale[k].numpy(), rel=0.03)


@pytest.fixture(scope="module")
def cells():
    adata = celbo.datasets.simulate(n_cells=200, n_genes=30, n_batches=2, n_cell_types=2, seed=1)
    adata.obs["batch"] = np.where(np.arange(200) < 60, "a", "b")
    return adata


@pytest.mark.parametrize("kind", [celbo.SCVI, celbo.LDVAE, celbo.VAE, celbo.SCVAE])
def test_states_are_standard_normal_and_observed_library_sizes_stay(cells, kind) -> None:
    model = kind(cells, n_latent=2)
    batch = model.data.minibatch(np.arange(100))
    z, log_library = model.network.sample_prior(batch, 300, torch.Generator().manual_seed(0))
    assert z.shape == (300, 100, 2)
    assert z.mean((0, 1)).numpy() == pytest.approx(np.zeros(2), abs=0.025)
    assert z.std((0, 1)).numpy() == pytest.approx(np.ones(2), abs=0.02)
    assert torch.equal(log_library, batch.library.log()[None])


def test_latent_library_sizes_follow_the_prior_of_their_batch(cells) -> None:
    model = celbo.SCVI(cells, n_latent=2, library="latent", batch_key="batch")
    network, batch = model.network, model.data.minibatch(np.arange(200))
    with torch.no_grad():
        network.library_mean.copy_(torch.tensor([5.0, 8.0]))
        network.library_variance.copy_(torch.tensor([0.04, 0.25]))
    _, log_library = network.sample_prior(batch, 300, torch.Generator().manual_seed(0))
    assert log_library.shape == (300, 200)
    for code, mean, sd in ((0, 5.0, 0.2), (1, 8.0, 0.5)):
        own = log_library[:, batch.batch == code]
        assert float(own.mean()) == pytest.approx(mean, abs=0.02)
        assert float(own.std()) == pytest.approx(sd, rel=0.03)
