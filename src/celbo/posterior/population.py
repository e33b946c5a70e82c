"""Draws of normalised expression from populations of cells: what every comparison of populations is made of.

A draw takes a cell of the population, a latent state from its posterior, and decodes it. Cells are drawn first and only
these are decoded, once, for all comparisons. With batch correction, draw i of every population is decoded as if from
the same batch, so that a pair of draws with the same number never differs by its batch; over all draws the batches have
the shares they have among the cells (Lopez et al. 2018, online methods).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch
from celbo.posterior.importance import resampled_draws
from celbo.posterior.stream import Block, Network, Positions, block_generator, cells_at_once, evaluating, minibatch_for

__all__ = ["Draws", "apportioned", "draw_scales", "gene_slices", "plan_draws", "raw_statistics"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

MAX_BYTES = 512 << 20
"""Most memory for the draws of all populations; more genes than fit are drawn in several passes."""
N_PROPOSALS = 25
"""Draws of q that one draw of the posterior is resampled from."""
_ROWS = 8192


@dataclass(frozen=True)
class Draws:
    """Which cell each draw takes, and under which batch it is decoded."""

    cells: Codes
    """Positions of the cells; (populations, draws)."""
    batch: Codes
    """Batch codes; (populations, draws)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of populations and of draws from each."""
        return self.cells.shape[0], self.cells.shape[1]


def plan_draws(
    data: CellData, populations: Sequence[Positions], *, n_samples: int, batches: Sequence[int] | None, seed: int
) -> Draws:
    """Choose cells and batches.

    Each cell of a population is taken equally often, up to one; so no noise comes from the choice where there are more
    draws than cells.

    Parameters
    ----------
    data
        The cells.
    populations
        Positions of the cells of each population.
    n_samples
        Draws from each population.
    batches
        Codes of the batches to decode under, in the proportions they have among all these cells; None is each cell's
        own batch.
    seed
        Seed of the choice.
    """
    rng = np.random.default_rng([seed, 0])
    cells = np.stack([_evenly(np.asarray(members, np.int64), n_samples, rng) for members in populations])
    if batches is None:
        return Draws(cells, data.batch[cells])
    codes = np.asarray(batches, np.int64)
    everyone = np.concatenate([data.batch[np.asarray(members, np.int64)] for members in populations])
    weights = np.bincount(everyone, minlength=data.schema.n_batches)[codes].astype(np.float64)
    under = codes[apportioned(weights if weights.any() else np.ones(len(codes)), n_samples, rng)]
    return Draws(cells, np.broadcast_to(under, cells.shape))


def apportioned(weights: Doubles, n: int, rng: np.random.Generator) -> Codes:
    """Return n positions in random order, each as often as its weight says, to the nearest whole number."""
    exact = n * weights / weights.sum()
    times = np.floor(exact).astype(np.int64)
    left = n - int(times.sum())
    times[np.argsort(times - exact, kind="stable")[:left]] += 1
    return rng.permutation(np.repeat(np.arange(len(weights)), times))


def _evenly(members: Codes, n: int, rng: np.random.Generator) -> Codes:
    """Return n members in random order, each equally often up to one."""
    rounds, left = divmod(n, len(members))
    return rng.permutation(np.concatenate([np.tile(members, rounds), rng.permutation(members)[:left]]))


def gene_slices(n_genes: int, n_draws: int, *, max_bytes: int = MAX_BYTES) -> list[slice]:
    """Split the genes so that float32 draws of one slice fit in `max_bytes`; n_draws is that of all populations."""
    width = max(1, max_bytes // (4 * n_draws))
    return [slice(start, min(start + width, n_genes)) for start in range(0, n_genes, width)]


def draw_scales(
    network: Network, data: CellData, draws: Draws, *, genes: slice, importance_weighting: bool = False, seed: int
) -> Floats:
    """Decode the draws.

    Parameters
    ----------
    network, data, draws
        A trained network, the cells, and what to draw.
    genes
        The genes whose draws are kept. The draws of a gene do not depend on it.
    importance_weighting
        Draw latent states from the posterior itself by importance resampling, not from q.
    seed
        Seed of the latent states.

    Returns
    -------
    The scales (expected shares) of these genes; (populations, draws, genes of the slice) float32.
    """
    flat_cells, flat_batch = draws.cells.ravel(), draws.batch.ravel()
    kept = np.empty((flat_cells.size, len(range(*genes.indices(data.n_genes)))), np.float32)
    with evaluating(network):
        for number, at in enumerate(_blocks(flat_cells, cells_at_once(network, data.n_genes))):
            generator = block_generator(network, seed, number)
            cells, batch = flat_cells[at], flat_batch[at]
            scales = _decoded(network, data, cells, batch, generator, importance_weighting=importance_weighting)
            kept[at] = scales[:, genes].numpy()
    return kept.reshape(*draws.shape, -1)


def _blocks(cells: Codes, size: int) -> Iterator[Codes]:
    """Yield positions of draws, those of one cell together, so that it is encoded once or twice and not for each."""
    order = np.argsort(cells, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _decoded(
    network: Network, data: CellData, cells: Codes, batch: Codes, generator: Generator, *, importance_weighting: bool
) -> Tensor:
    """Return the scales of one draw for each cell, decoded under the batches given; (cells, genes) on the CPU."""
    distinct, where = np.unique(cells, return_inverse=True)
    latent = network.encode(minibatch_for(network, data, distinct))
    latent = latent.take(torch.from_numpy(where).to(latent.z.mean.device))
    own = minibatch_for(network, data, cells)
    asked = _under(own, batch)
    if importance_weighting:
        z, log_library = resampled_draws(network, Block(0, own, latent, generator), n_draws=1, n_proposals=N_PROPOSALS)
    else:
        z, log_library = network.sample_latent(latent, asked, 1, generator)
    scales: Tensor = network.decode(z, log_library, asked).log_share[0].exp().float().cpu()
    return scales


def _under(batch: Minibatch, codes: Codes) -> Minibatch:
    return replace(batch, batch=torch.from_numpy(np.ascontiguousarray(codes)).to(batch.batch.device))


def raw_statistics(data: CellData, populations: Sequence[Positions]) -> tuple[Doubles, Doubles]:
    """Return mean counts and detection (share of cells with a count) of each gene; two (populations, genes) arrays."""
    mean, detection = np.zeros((2, len(populations), data.n_genes))
    for i, members in enumerate(populations):
        for start in range(0, len(members), _ROWS):
            rows = data.counts.rows(members[start : start + _ROWS])
            genes = rows.indices.numpy()
            mean[i] += np.bincount(genes, rows.values.numpy(), data.n_genes)
            detection[i] += np.bincount(genes, minlength=data.n_genes)
        mean[i] /= len(members)
        detection[i] /= len(members)
    return mean, detection
