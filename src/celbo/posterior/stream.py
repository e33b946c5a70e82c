"""What every question to a trained network shares: cells in blocks, evaluation mode, explicit noise, bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor, nn

from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch
from celbo.errors import CategoryError, GenesError, OptionError, listed
from celbo.likelihoods.base import CountParameters, Likelihood
from celbo.nn.latent import Latent
from celbo.training.device import check_seed

__all__ = [
    "Block",
    "Network",
    "block_generator",
    "cells_at_once",
    "check_batches",
    "check_genes",
    "check_positive",
    "encoded_blocks",
    "evaluating",
    "latent_draws",
    "minibatch_for",
    "sample_chunks",
]

Positions = npt.NDArray[np.integer[Any]]

_ENTRIES = {"cpu": 1 << 23, "cuda": 1 << 26}
"""Entries of a (samples, cells, genes) tensor that may exist at a time; a likelihood makes a handful of such tensors,
in float32 about 256 MB of them on a CPU."""
_CELLS = 512
"""Most cells in a block: enough for full speed."""


class Network(Protocol):
    """What a network offers to the posterior, beside being an `nn.Module`."""

    likelihood: Likelihood

    def encode(self, batch: Minibatch) -> Latent[Any]:
        """Return the posterior of the cells."""

    def sample_latent(
        self, latent: Latent[Any], batch: Minibatch, n_samples: int, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Draw z (samples, cells, latent) and the log library size (samples or 1, cells)."""

    def decode(self, z: Tensor, log_library: Tensor, batch: Minibatch) -> CountParameters:
        """Return the parameters of the counts, for z (samples, cells, latent)."""

    def log_prior(self, z: Tensor, log_library: Tensor, batch: Minibatch) -> Tensor:
        """Return the log-density of the draws under the prior; (samples, cells)."""

    def log_posterior(self, z: Tensor, log_library: Tensor, latent: Latent[Any]) -> Tensor:
        """Return the log-density of the draws under q; (samples, cells)."""

    def kl(self, latent: Latent[Any], batch: Minibatch) -> dict[str, Tensor]:
        """Return the divergences from the priors; each (cells,)."""

    def transform_latent(self, z: Tensor) -> Tensor:
        """Return the state that the decoder sees."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters, as `nn.Module` does."""

    def modules(self) -> Iterator[nn.Module]:
        """Return all modules, as `nn.Module` does."""


@dataclass(frozen=True)
class Block:
    """Some of the cells asked for, encoded."""

    start: int
    """Position of the first of them among the cells asked for."""
    batch: Minibatch
    latent: Latent[Any]
    generator: Generator
    """The noise of this block: the same for the same seed."""

    @property
    def stop(self) -> int:
        """Position after the last of them."""
        return self.start + self.batch.n_cells


@contextmanager
def evaluating(network: Network) -> Iterator[None]:
    """Put a network into evaluation mode without gradients; each of its modules gets its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    for module, _ in modes:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def place_of(network: Network) -> tuple[torch.device, torch.dtype]:
    """Return the device and the dtype of a network: those of its first parameter."""
    first = next(iter(network.parameters()))
    return first.device, first.dtype


def minibatch_for(network: Network, data: CellData, index: Positions) -> Minibatch:
    """Return cells on the device and in the dtype of the network."""
    device, dtype = place_of(network)
    return data.minibatch(index).to(device, dtype)


def block_generator(network: Network, seed: int, block: int) -> Generator:
    """Return the noise of one block of cells: a function of seed and block, on the device of the network."""
    check_seed(seed)
    mixed = int(np.random.SeedSequence([int(seed), block]).generate_state(1, np.uint64)[0])
    return Generator(place_of(network)[0]).manual_seed(mixed)


def cells_at_once(network: Network, n_genes: int) -> int:
    """Return how many cells can be decoded at a time, one sample each."""
    return max(1, min(_CELLS, _entries(network) // n_genes))


def sample_chunks(network: Network, n_samples: int, entries: int, *, at_most: int | None = None) -> list[int]:
    """Split samples into chunks that fit in memory.

    Parameters
    ----------
    n_samples
        Samples of each cell.
    entries
        Numbers that one sample of all cells of a block takes, often cells x genes.
    at_most
        Largest chunk, where the caller knows better.
    """
    size = max(1, _entries(network) // entries) if at_most is None else at_most
    return [min(size, n_samples - start) for start in range(0, n_samples, size)]


def _entries(network: Network) -> int:
    return _ENTRIES.get(place_of(network)[0].type, _ENTRIES["cpu"])


def encoded_blocks(
    network: Network, data: CellData, indices: Positions, *, batch_size: int | None, seed: int
) -> Iterator[Block]:
    """Encode cells block by block. Call it inside `evaluating`.

    Parameters
    ----------
    indices
        Positions of the cells in `data`; (n,).
    batch_size
        Cells in a block; None is as many as can be decoded at a time.
    seed
        Seed of the noise: each block has its own generator.

    Raises
    ------
    OptionError
        If there are no cells, or batch size or seed are impossible.
    """
    if len(indices) == 0:
        raise OptionError("is empty", where="indices", fix="Ask for at least one cell.")
    size = cells_at_once(network, data.n_genes) if batch_size is None else batch_size
    check_positive("batch_size", size)
    for number, start in enumerate(range(0, len(indices), size)):
        batch = minibatch_for(network, data, indices[start : start + size])
        yield Block(start, batch, network.encode(batch), block_generator(network, seed, number))


def latent_draws(
    network: Network, block: Block, n_samples: int, *, at_most: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield draws of z and of the log library size, in chunks that can be decoded at a time."""
    entries = block.batch.n_cells * block.batch.rows.n_genes
    for chunk in sample_chunks(network, n_samples, entries, at_most=at_most):
        yield network.sample_latent(block.latent, block.batch, chunk, block.generator)


def check_positive(name: str, value: int) -> None:
    """Raise unless an option is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise OptionError("is not a whole number of at least 1", where=f"{name}={value!r}")


def check_genes(genes: Positions | None, data: CellData) -> None:
    """Raise unless all positions of genes exist."""
    wrong = [] if genes is None else [int(g) for g in genes if not 0 <= g < data.n_genes]
    if wrong:
        raise GenesError(f"are not among the {data.n_genes} genes", where="positions of genes", value=listed(wrong))


def check_batches(codes: list[int] | None, data: CellData) -> None:
    """Raise unless there is at least one batch code (or None) and all exist."""
    known = data.schema.n_batches
    if codes is not None and (not codes or any(not 0 <= code < known for code in codes)):
        raise CategoryError(
            f"does not name any of the {known} batches",
            where="transform_batch",
            value=listed(codes),
            fix=f"Known: {listed(data.schema.batches)}.",
        )
