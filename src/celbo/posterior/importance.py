"""Draws of the posterior itself: those of q, weighted by how much better the model likes them than q does.

    w_k = p(x | z_k, l_k) p(z_k, l_k) / q(z_k, l_k | x),   z_k, l_k ~ q

Resampled in proportion to w, they tend to draws of p(z, l | x) as proposals are added: what they say no longer depends
on the shape of q nor on how well the encoder was trained. A few huge weights would make all draws the same, so that
weights are capped from above, w <= mean(w) sqrt(K) (Ionides 2008, doi:10.1198/106186008X320456), which vanishes as K
grows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from celbo.posterior.stream import Block, Network, check_positive, latent_draws

__all__ = ["Proposals", "log_likelihood", "log_weight", "resampled_draws", "weighted_proposals"]


def log_likelihood(network: Network, block: Block, z: Tensor, log_library: Tensor) -> Tensor:
    """Return log p(x | z, l) of each draw in nats; (samples, cells)."""
    return network.likelihood.log_prob(network.decode(z, log_library, block.batch), block.batch.rows)


def log_weight(network: Network, block: Block, z: Tensor, log_library: Tensor) -> Tensor:
    """Return log p(x, z, l) - log q(z, l | x) of each draw in nats; (samples, cells) float64 on the CPU."""
    return (
        log_likelihood(network, block, z, log_library).cpu().double()
        + network.log_prior(z, log_library, block.batch).cpu()
        - network.log_posterior(z, log_library, block.latent).cpu()
    )


@dataclass(frozen=True)
class Proposals:
    """Draws of q with their weights."""

    z: Tensor
    """(proposals, cells, latent)."""
    log_library: Tensor
    """(proposals, cells), or (1, cells) where the library size is observed."""
    log_weight: Tensor
    """In nats, not normalised; (proposals, cells) float64 on the CPU."""

    @property
    def share(self) -> Tensor:
        """Share of each draw after capping, one in sum for each cell; (proposals, cells) float64."""
        n = self.log_weight.shape[0]
        highest = self.log_weight.logsumexp(0) - 0.5 * math.log(n)  # log of mean(w) sqrt(n)
        return torch.minimum(self.log_weight, highest).softmax(0)

    @property
    def effective_size(self) -> Tensor:
        """How many draws of equal weight tell as much, before capping: (sum w)^2 / sum w^2; (cells,) float64."""
        return 1 / self.log_weight.softmax(0).square().sum(0)

    def resample(self, n_draws: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Return draws in proportion to their shares, in random order.

        Resampling is systematic: each proposal is taken as often as its share says, up to one. The generator lies on
        the device of the network, as that of a `Block` does.

        Returns
        -------
        z (n_draws, cells, latent) and log library size (n_draws, cells), or (1, cells) where it is observed.
        """
        n_cells, device = self.z.shape[1], self.z.device
        start = torch.rand(n_cells, 1, generator=generator, device=device).cpu().double()
        points = (torch.arange(n_draws, dtype=torch.float64) + start) / n_draws  # (cells, draws)
        steps = self.share.T.cumsum(1).contiguous()
        taken = torch.searchsorted(steps, points).clamp_max(steps.shape[1] - 1)
        order = torch.rand(n_cells, n_draws, generator=generator, device=device).argsort(1).cpu()
        taken = taken.gather(1, order).T.to(device)
        cells = torch.arange(n_cells, device=device)
        one = self.log_library.shape[0] == 1
        return self.z[taken, cells], self.log_library if one else self.log_library[taken, cells]


def weighted_proposals(network: Network, block: Block, n_proposals: int) -> Proposals:
    """Draw from q by the noise of the block, and weigh. Call it inside `evaluating`.

    Parameters
    ----------
    network, block
        A trained network and encoded cells.
    n_proposals
        Draws of each cell; they are decoded in chunks of bounded memory.

    Raises
    ------
    OptionError
        If there is no proposal, or q is a point, which has no density.
    """
    check_positive("n_proposals", n_proposals)
    parts = [(z, log_l, log_weight(network, block, z, log_l)) for z, log_l in latent_draws(network, block, n_proposals)]
    z, log_library, weight = zip(*parts, strict=True)
    observed = block.latent.library is None
    return Proposals(torch.cat(z), log_library[0] if observed else torch.cat(log_library), torch.cat(weight))


def resampled_draws(network: Network, block: Block, *, n_draws: int, n_proposals: int) -> tuple[Tensor, Tensor]:
    """Return draws that tend to those of p(z, l | x) as `n_proposals` grows. Call it inside `evaluating`.

    Parameters
    ----------
    network, block
        A trained network and encoded cells; all noise is that of the block.
    n_draws
        Draws of each cell.
    n_proposals
        Draws of q that they are taken from. With few of them the draws stay close to q; repeats are to be expected.

    Returns
    -------
    z (n_draws, cells, latent) and log library size (n_draws, cells), or (1, cells) where it is observed.
    """
    check_positive("n_draws", n_draws)
    return weighted_proposals(network, block, n_proposals).resample(n_draws, block.generator)
