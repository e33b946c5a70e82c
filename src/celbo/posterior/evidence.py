"""How well a network explains cells: the ELBO, its reconstruction term, and the importance-weighted evidence.

ELBO(x) = E_q[log p(x | z, l)] - KL(q(z, l | x) || p(z, l))  <=  log p(x)
log p(x) ~ log mean_k p(x | z_k, l_k) p(z_k, l_k) / q(z_k, l_k | x)          (Burda et al. 2016, arXiv:1509.00519)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from celbo.data.cells import CellData
from celbo.posterior.importance import log_likelihood, log_weight
from celbo.posterior.stream import (
    Block,
    Network,
    Positions,
    check_positive,
    encoded_blocks,
    evaluating,
    latent_draws,
)

__all__ = ["elbo", "marginal_ll", "reconstruction_error"]


def elbo(
    network: Network,
    data: CellData,
    indices: Positions,
    *,
    n_samples: int = 1,
    per_cell: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
) -> Any:
    """Return the evidence lower bound, a log-probability (negative for counts).

    Parameters
    ----------
    network, data, indices
        A trained network, the cells, and the positions asked for; (n,).
    n_samples
        Draws of the latent state for the reconstruction term; the divergences are analytic, at full weight.
    per_cell
        Return the value of each cell.
    batch_size
        Cells at a time; None is as many as fit the memory bound.
    seed
        Seed of the draws.

    Returns
    -------
    The mean over cells in nats per cell, or (n,) float64.
    """
    check_positive("n_samples", n_samples)
    values = []
    with evaluating(network):
        for block in encoded_blocks(network, data, indices, batch_size=batch_size, seed=seed):
            value = _expected_log_likelihood(network, block, n_samples)
            for divergence in network.kl(block.latent, block.batch).values():
                value -= divergence.cpu()
            values.append(value)
    return _summary(values, per_cell)


def reconstruction_error(
    network: Network,
    data: CellData,
    indices: Positions,
    *,
    n_samples: int = 1,
    per_cell: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
) -> Any:
    """Return the reconstruction loss -E_q[log p(x | z, l)], positive for counts; parameters and result as `elbo`."""
    check_positive("n_samples", n_samples)
    with evaluating(network):
        blocks = encoded_blocks(network, data, indices, batch_size=batch_size, seed=seed)
        values = [-_expected_log_likelihood(network, block, n_samples) for block in blocks]
    return _summary(values, per_cell)


def marginal_ll(
    network: Network,
    data: CellData,
    indices: Positions,
    *,
    n_samples: int = 500,
    per_cell: bool = False,
    max_samples_at_once: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Any:
    """Return the importance-weighted estimate of log p(x), with q as the proposal.

    Its expectation is a lower bound that rises to log p(x) with `n_samples`. The weights are summed as they come, in
    the log domain and in float64, so that memory does not grow with `n_samples`.

    Parameters
    ----------
    network, data, indices
        A trained network, the cells, and the positions asked for; (n,).
    n_samples
        Importance samples of each cell.
    per_cell
        Return the value of each cell.
    max_samples_at_once
        Samples decoded at a time; None is as many as fit the memory bound (about 256 MB on a CPU).
    batch_size
        Cells at a time; None is as many as fit.
    seed
        Seed of the draws.

    Returns
    -------
    The mean over cells in nats per cell, or (n,) float64.
    """
    check_positive("n_samples", n_samples)
    if max_samples_at_once is not None:
        check_positive("max_samples_at_once", max_samples_at_once)
    with evaluating(network):
        blocks = encoded_blocks(network, data, indices, batch_size=batch_size, seed=seed)
        values = [_log_evidence(network, block, n_samples, max_samples_at_once) for block in blocks]
    return _summary(values, per_cell)


def _summary(values: list[Tensor], per_cell: bool) -> Any:
    """Return the values of all cells, (n,) float64, or their mean."""
    every: npt.NDArray[np.float64] = torch.cat(values).numpy()
    return every if per_cell else float(every.mean())


def _expected_log_likelihood(network: Network, block: Block, n_samples: int) -> Tensor:
    """Average of log p(x | z, l) over draws of q; (cells,) float64 on the CPU."""
    total = torch.zeros(block.batch.n_cells, dtype=torch.float64)
    for z, log_library in latent_draws(network, block, n_samples):
        total += log_likelihood(network, block, z, log_library).cpu().sum(0, dtype=torch.float64)
    return total / n_samples


def _log_evidence(network: Network, block: Block, n_samples: int, at_most: int | None) -> Tensor:
    """Log of the mean importance weight; (cells,) float64 on the CPU."""
    total = torch.full((block.batch.n_cells,), -torch.inf, dtype=torch.float64)
    for z, log_library in latent_draws(network, block, n_samples, at_most=at_most):
        weight = log_weight(network, block, z, log_library)
        total = torch.logaddexp(total, weight.logsumexp(0))
    return total - float(np.log(n_samples))
