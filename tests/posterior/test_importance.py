"""Importance resampling, on a model whose posterior is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from celbo.errors import OptionError
from celbo.nn.latent import Latent, PointPosterior
from celbo.posterior.importance import Proposals, resampled_draws, weighted_proposals
from celbo.posterior.stream import encoded_blocks, evaluating
from linear_gaussian import LinearGaussian, exact_posterior, make_data, make_truth, perturbed


@pytest.fixture(scope="module")
def cells():
    return make_data(40)[0]


def block_of(network, data, seed: int = 0):
    return next(encoded_blocks(network, data, np.arange(data.n_cells), batch_size=None, seed=seed))


def network_with(shift: float = 0.0, widen: float = 1.0) -> LinearGaussian:
    return perturbed(LinearGaussian(*make_truth()), shift=shift, widen=widen)


def distance_from_truth(z: torch.Tensor, data) -> tuple[float, float]:
    """Mean distance of the draws' means in standard deviations, and mean ratio of their standard deviations."""
    mean, sd = exact_posterior(data)
    values = z.numpy()
    return float(np.abs((values.mean(0) - mean) / sd).mean()), float((values.std(0, ddof=1) / sd).mean())


@pytest.mark.parametrize(("shift", "widen"), [(0.6, 1.3), (0.0, 1.6), (0.4, 0.8)])
def test_resampled_draws_have_the_moments_of_the_exact_posterior(cells, shift, widen) -> None:
    network = network_with(shift, widen)
    with evaluating(network):
        block = block_of(network, cells)
        drawn, _ = network.sample_latent(block.latent, block.batch, 1000, block.generator)
        resampled, log_library = resampled_draws(network, block, n_draws=1000, n_proposals=10_000)
    assert resampled.shape == (1000, 40, 3)
    assert log_library.shape == (1, 40)
    off, ratio = distance_from_truth(resampled, cells)
    assert off < 0.05  # 0.025 from 1,000 draws alone
    assert ratio == pytest.approx(1, abs=0.03)
    wrong = distance_from_truth(drawn, cells)
    assert wrong[0] > 0.3 or abs(wrong[1] - 1) > 0.15


def test_weights_of_the_exact_posterior_are_equal_and_each_proposal_is_taken_once(cells) -> None:
    network = network_with()
    with evaluating(network):
        block = block_of(network, cells)
        proposals = weighted_proposals(network, block, 200)
        z, _ = proposals.resample(200, block.generator)
    assert proposals.share.numpy() == pytest.approx(1 / 200, abs=1e-9)
    assert proposals.effective_size.numpy() == pytest.approx(200, abs=1e-6)
    assert torch.equal(z.sort(0).values, proposals.z.sort(0).values)
    assert not torch.equal(z, proposals.z)  # in random order


def test_weights_are_capped_at_the_root_of_the_number_of_proposals_times_their_mean() -> None:
    log_weight = torch.tensor([[math.log(97.0)], [0.0], [0.0], [0.0]], dtype=torch.float64)
    proposals = Proposals(torch.arange(4.0)[:, None, None], torch.zeros(1, 1), log_weight)
    # mean 25, root of four 2: the cap is 50
    assert proposals.share[:, 0].numpy() == pytest.approx(np.array([50, 1, 1, 1]) / 53)
    assert float(proposals.effective_size[0]) == pytest.approx(100**2 / (97**2 + 3))


def test_each_proposal_is_taken_as_often_as_its_share_says_up_to_one() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)[:, None].expand(4, 7)
    states = torch.arange(4.0)[:, None, None].expand(4, 7, 2)
    proposals = Proposals(states, torch.arange(4.0)[:, None].expand(4, 7), weight.log())
    z, log_library = proposals.resample(15, torch.Generator().manual_seed(3))
    assert torch.equal(z[..., 0], log_library)  # a draw of both is one proposal
    for cell in range(7):
        times = np.bincount(z[:, cell, 0].long().numpy(), minlength=4)
        assert np.abs(times - 15 * proposals.share[:, cell].numpy()).max() < 1


def test_chunks_do_not_change_the_number_of_proposals_and_the_seed_decides_them(cells) -> None:
    network = network_with(0.3, 1.2)
    with evaluating(network):
        first, again, other = (
            resampled_draws(network, block_of(network, cells, seed), n_draws=10, n_proposals=50)[0]
            for seed in (1, 1, 2)
        )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_latent_library_sizes_are_resampled_with_their_states(make_asked) -> None:
    asked = make_asked(library="latent")
    with evaluating(asked.network):
        block = block_of(asked.network, asked.data)
        proposals = weighted_proposals(asked.network, block, 30)
        z, log_library = proposals.resample(20, block.generator)
    assert log_library.shape == (20, block.batch.n_cells)
    for cell in (0, 7):
        pairs = {
            (float(a[0]), float(b)) for a, b in zip(proposals.z[:, cell], proposals.log_library[:, cell], strict=True)
        }
        assert {(float(a[0]), float(b)) for a, b in zip(z[:, cell], log_library[:, cell], strict=True)} <= pairs


def test_a_point_has_no_weights(cells) -> None:
    network = network_with()
    with evaluating(network):
        block = block_of(network, cells)
        point = replace(block, latent=Latent(PointPosterior(block.latent.z.mean)))
        with pytest.raises(OptionError, match="no density"):
            resampled_draws(network, point, n_draws=5, n_proposals=5)


@pytest.mark.parametrize("wrong", [{"n_draws": 0, "n_proposals": 5}, {"n_draws": 5, "n_proposals": 0}])
def test_numbers_of_draws_are_positive(cells, wrong) -> None:
    network = network_with()
    with evaluating(network), pytest.raises(OptionError, match="whole number of at least 1"):
        resampled_draws(network, block_of(network, cells), **wrong)
