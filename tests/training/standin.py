"""A small network and small data for the engine: it must train anything that gives a `Loss`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from celbo.data.cells import CellData
from celbo.data.counts import CountMatrix
from celbo.data.minibatch import Minibatch
from celbo.data.schema import Schema
from celbo.training.engine import FitResult
from celbo.training.history import TIMING_COLUMNS
from celbo.training.plan import Loss, StepState


class TinyVAE(nn.Module):
    """z ~ N(0, I), x_g ~ Poisson(l softmax(W z)_g): batch norm, dropout and noise, as the real ones have.

    `hook(network, batch, step, loss)` may look, raise, or return another loss.
    """

    def __init__(self, n_genes: int, seed: int = 0, hook: Callable[..., Loss | None] | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = nn.Linear(n_genes, 16)
            self.norm = nn.BatchNorm1d(16)
            self.heads = nn.Linear(16, 4)
            self.decoder = nn.Linear(2, n_genes)
        self.hook = hook
        self.prepared = 0

    def prepare(self, data: CellData, train: np.ndarray) -> None:
        self.prepared += 1

    def loss(self, batch: Minibatch, step: StepState) -> Loss:
        x = batch.rows.dense
        h = torch.relu(self.norm(self.encoder(torch.log1p(x))))
        if step.training:
            h = h * (torch.rand(h.shape, generator=step.generator) > 0.1) / 0.9
        mean, log_scale = self.heads(h).chunk(2, dim=-1)
        z = mean + log_scale.exp() * torch.randn(mean.shape, generator=step.generator)
        log_mean = torch.log_softmax(self.decoder(z), -1) + batch.library.log()[:, None]
        reconstruction = -(x * log_mean - log_mean.exp() - torch.lgamma(x + 1)).sum(-1)
        kl = (0.5 * (mean**2 + (2 * log_scale).exp() - 1) - log_scale).sum(-1)
        loss = Loss(reconstruction, {"z": kl})
        return (self.hook(self, batch, step, loss) or loss) if self.hook else loss


def make_cells(n_cells: int = 150, n_genes: int = 12, seed: int = 0) -> CellData:
    """Return two kinds of cells with Poisson counts."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(n_genes), size=2)
    counts = rng.poisson(60 * shares[rng.integers(2, size=n_cells)]) + (np.arange(n_genes) == 0)
    matrix = CountMatrix.from_scipy(counts)
    none = np.zeros((n_cells, 0))
    return CellData(
        counts=matrix,
        schema=Schema(features={"rna": tuple(f"gene{i}" for i in range(n_genes))}),
        batch=np.zeros(n_cells, np.int64),
        labels=np.zeros(n_cells, np.int64),
        categorical=none.astype(np.int64),
        continuous=none.astype(np.float32),
        size_factor=None,
        library=matrix.total_counts().astype(np.float32),
        cell_names=np.array([f"cell{i}" for i in range(n_cells)], dtype=object),
    )


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Say whether two dictionaries hold the same tensors to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def plain_history(result: FitResult) -> Any:
    """Return the history without its timing columns."""
    return result.history.drop(columns=list(TIMING_COLUMNS))
