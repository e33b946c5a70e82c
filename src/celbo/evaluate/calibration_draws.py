"""Cells drawn from a network whose truth is known, and where the truth lies among draws of their posterior."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch, SparseRows
from celbo.errors import InputError
from celbo.nn.latent import Latent
from celbo.posterior.importance import weighted_proposals
from celbo.posterior.stream import (
    Block,
    Positions,
    block_generator,
    cells_at_once,
    evaluating,
    latent_draws,
    minibatch_for,
    sample_chunks,
)

__all__ = ["Design", "Located", "Quantity", "Source", "locate_truth"]

Source = Literal["cells", "prior"]
Quantity = tuple[str, str]
"""What is asked about, and of which latent dimension or gene."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """Which cells are drawn, and what is asked about them."""

    source: Source
    n_cells: int
    n_draws: int
    n_importance: int | None
    """Proposals of each cell for importance resampling besides; None for none."""
    genes: Positions
    """Positions of the genes whose expression is asked about; may be empty."""
    seed: int


@dataclass(frozen=True)
class Located:
    """The truth beside the draws of one posterior."""

    quantities: list[Quantity]
    ranks: npt.NDArray[np.int64]
    """How many draws are below the truth; (quantities, cells), 0 to n_draws."""
    errors: npt.NDArray[np.float64]
    """Truth less the mean of the draws, in standard deviations of the draws; (quantities, cells)."""
    effective_size: npt.NDArray[np.float64] | None = None
    """Effective number of importance proposals of each cell; (cells,)."""


def locate_truth(network: Any, data: CellData, design: Design) -> dict[str, Located]:
    """Draw cells, encode them, draw from their posterior, and find the truth among the draws.

    Parameters
    ----------
    network, data
        A trained network with `sample_prior`, and the cells whose batches, covariates and library sizes are taken.
    design
        What to draw.

    Returns
    -------
    By the posterior: "q", and with importance resampling "importance".
    """
    parts: dict[str, list[Located]] = {}
    with evaluating(network):
        for block, truth in _simulated(network, data, design):
            names = _quantities(block, data, design.genes)
            drawn = _values_of(network, block, latent_draws(network, block, design.n_draws), design.genes)
            parts.setdefault("q", []).append(_located(names, truth, drawn, block.generator))
            if design.n_importance is None:
                continue
            proposals = weighted_proposals(network, block, design.n_importance)
            resampled = _chunks(network, block, *proposals.resample(design.n_draws, block.generator))
            drawn = _values_of(network, block, resampled, design.genes)
            found = _located(names, truth, drawn, block.generator)
            parts.setdefault("importance", []).append(replace(found, effective_size=proposals.effective_size.numpy()))
    return {posterior: _joined(found) for posterior, found in parts.items()}


def _simulated(network: Any, data: CellData, design: Design) -> Iterator[tuple[Block, Tensor]]:
    """Yield encoded blocks of simulated cells, and what is true of them, (cells, quantities).

    Each has batch, covariates and library size of a cell of the data. The decoder keeps this library size, given which
    the counts were drawn; the encoder sees the total of the new counts, as it sees that of real cells.
    """
    mixed = np.random.SeedSequence([design.seed, ("cells", "prior").index(design.source)])
    chosen = np.random.default_rng(mixed).choice(data.n_cells, design.n_cells, replace=design.n_cells > data.n_cells)
    seed, size = int(mixed.generate_state(1)[0]), cells_at_once(network, data.n_genes)
    for number, start in enumerate(range(0, design.n_cells, size)):
        generator = block_generator(network, seed, number)
        batch = minibatch_for(network, data, chosen[start : start + size])
        if design.source == "prior":
            z, log_library = network.sample_prior(batch, 1, generator)
        else:
            z, log_library = network.sample_latent(network.encode(batch), batch, 1, generator)
        counts = network.likelihood.sample(network.decode(z, log_library, batch), generator)[0]
        batch = replace(batch, rows=SparseRows.from_dense(counts))
        block = Block(start, batch, _encoded(network, batch, counts), generator)
        yield block, _values(network, block, z, log_library, design.genes)[0]


def _encoded(network: Any, batch: Minibatch, counts: Tensor) -> Latent[Any]:
    """Return the posterior of simulated cells; one without counts passes as a cell of one count."""
    latent: Latent[Any] = network.encode(replace(batch, library=counts.sum(1).clamp_min(1)))
    if not bool(torch.isfinite(latent.z.mean).all()):
        raise InputError(
            "draws values that its encoder has no logarithm of",
            where="the model",
            value=f"from {float(counts.min()):.3g} to {float(counts.max()):.3g}",
            fix="Calibrate a model with a likelihood of counts, such as likelihood='nb'.",
        )
    return latent


def _quantities(block: Block, data: CellData, genes: Positions) -> list[Quantity]:
    latent = [("latent", str(i + 1)) for i in range(block.latent.z.mean.shape[1])]
    library = [] if block.latent.library is None else [("library_size", "")]
    expression = [("expression", data.schema.genes[g]) for g in genes]
    return [*latent, *library, *expression, ("log_likelihood", "")]


def _values(network: Any, block: Block, z: Tensor, log_library: Tensor, genes: Positions) -> Tensor:
    """Return every quantity of every draw, (samples, cells, quantities) float64 on the CPU."""
    p = network.decode(z, log_library, block.batch)
    parts = [z]
    if block.latent.library is not None:
        parts.append(log_library[..., None])
    if len(genes):
        parts.append(p.log_share[..., genes].clamp_min(_LEAST_LOG_SHARE))
    parts.append(network.likelihood.log_prob(p, block.batch.rows)[..., None])
    return torch.cat([part.cpu().double() for part in parts], -1)


def _values_of(network: Any, block: Block, draws: Iterator[tuple[Tensor, Tensor]], genes: Positions) -> Tensor:
    return torch.cat([_values(network, block, z, log_library, genes) for z, log_library in draws])


_LEAST_LOG_SHARE = -50.0
"""Below any share that a count could tell of; keeps a share of zero finite."""


def _chunks(network: Any, block: Block, z: Tensor, log_library: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield draws that are there already a few at a time, as `latent_draws` does."""
    start, observed = 0, log_library.shape[0] == 1
    for size in sample_chunks(network, z.shape[0], block.batch.n_cells * block.batch.rows.n_genes):
        at = slice(start, start + size)
        yield z[at], log_library if observed else log_library[at]
        start += size


def _located(names: list[Quantity], truth: Tensor, values: Tensor, generator: Generator) -> Located:
    """Find the truth (cells, quantities) among the values of draws (draws, cells, quantities)."""
    below, equal = (values < truth).sum(0), (values == truth).sum(0)
    chance = torch.rand(equal.shape, generator=generator, device=generator.device).cpu()
    ranks = below + (chance * (equal + 1)).long()  # among equals, the place of the truth is any
    sd = values.std(0)
    errors = torch.where(sd > 0, (truth - values.mean(0)) / sd, torch.nan)
    return Located(names, ranks.T.numpy(), errors.T.numpy())


def _joined(parts: list[Located]) -> Located:
    sizes = [part.effective_size for part in parts if part.effective_size is not None]
    return Located(
        parts[0].quantities,
        np.concatenate([part.ranks for part in parts], 1),
        np.concatenate([part.errors for part in parts], 1),
        np.concatenate(sizes) if sizes else None,
    )
