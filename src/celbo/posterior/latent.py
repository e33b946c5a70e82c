"""The latent state and the library size of each cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from celbo.data.cells import CellData
from celbo.nn.latent import GaussianPosterior
from celbo.posterior.stream import (
    Block,
    Network,
    Positions,
    check_positive,
    encoded_blocks,
    evaluating,
    sample_chunks,
)

__all__ = ["latent_library_size", "latent_representation"]

Floats = npt.NDArray[np.float32]


def latent_representation(
    network: Network,
    data: CellData,
    indices: Positions,
    *,
    give_mean: bool = True,
    n_samples: int = 1,
    return_dist: bool = False,
    mc_samples: int = 5000,
    batch_size: int = 512,
    seed: int = 0,
) -> Any:
    """Return the latent state of each cell.

    Parameters
    ----------
    network, data, indices
        A trained network, the cells, and the positions asked for; (n,).
    give_mean
        The posterior mean of the state that the decoder sees; False draws from the posterior.
    n_samples
        Draws for each cell where `give_mean` is False.
    return_dist
        Return mean and variance of q(z | x), before any transform, instead.
    mc_samples
        Draws behind the mean of a transformed state (logistic normal), which has no closed form.
    batch_size
        Cells encoded at a time. Means do not depend on it; draws do.
    seed
        Seed of the draws.

    Returns
    -------
    (n, latent) float32; (n_samples, n, latent) for several draws; with `return_dist` a tuple of two (n, latent) arrays.
    """
    check_positive("n_samples", n_samples)
    check_positive("mc_samples", mc_samples)
    means, others = [], []
    with evaluating(network):
        for block in encoded_blocks(network, data, indices, batch_size=batch_size, seed=seed):
            if return_dist:
                means.append(_numpy(block.latent.z.mean))
                others.append(_numpy(block.latent.z.variance))
            elif give_mean:
                means.append(_numpy(_mean_state(network, block, mc_samples)))
            else:
                z, _ = network.sample_latent(block.latent, block.batch, n_samples, block.generator)
                means.append(_numpy(network.transform_latent(z)))
    if return_dist:
        return np.concatenate(means), np.concatenate(others)
    if give_mean:
        return np.concatenate(means)
    draws = np.concatenate(means, axis=1)
    return draws[0] if n_samples == 1 else draws


def latent_library_size(
    network: Network,
    data: CellData,
    indices: Positions,
    *,
    give_mean: bool = True,
    batch_size: int = 512,
    seed: int = 0,
) -> Floats:
    """Return the library size by which each cell's shares are multiplied, in counts; (n,) float32.

    Where it is latent: the posterior mean exp(m + v / 2) of the log-normal, or a draw with `give_mean=False`. Where it
    is observed: the total counts, or the size factor where the data have one.
    """
    sizes = []
    with evaluating(network):
        for block in encoded_blocks(network, data, indices, batch_size=batch_size, seed=seed):
            q = block.latent.library
            if q is not None and give_mean:
                sizes.append(_numpy(_lognormal_mean(q)))
            else:
                _, log_library = network.sample_latent(block.latent, block.batch, 1, block.generator)
                sizes.append(_numpy(log_library[0].exp()))
    return np.concatenate(sizes)


def _lognormal_mean(q: GaussianPosterior) -> Tensor:
    return (q.mean + 0.5 * q.variance).exp()[..., 0]


def _mean_state(network: Network, block: Block, mc_samples: int) -> Tensor:
    """Posterior mean of the transformed state, (cells, latent): exact where the transform is the identity."""
    mean: Tensor = block.latent.z.mean
    if torch.equal(network.transform_latent(mean), mean):
        return mean
    total = torch.zeros(mean.shape, dtype=torch.float64)
    for chunk in sample_chunks(network, mc_samples, mean.numel()):
        z, _ = network.sample_latent(block.latent, block.batch, chunk, block.generator)
        total += network.transform_latent(z).cpu().sum(0, dtype=torch.float64)
    return total / mc_samples


def _numpy(values: Tensor) -> Floats:
    out: Floats = values.to("cpu", torch.float32).numpy()
    return out
