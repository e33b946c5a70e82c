"""Small networks that the posterior is asked about; some trained for a moment, most with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import celbo
from celbo.data.cells import CellData


@dataclass(frozen=True)
class Asked:
    """A network with its cells."""

    network: Any
    data: CellData
    every: np.ndarray
    """Positions of all cells."""


@pytest.fixture(scope="session")
def simulated():
    """Return 300 cells x 120 genes in 2 batches of unequal size, of 3 types."""
    adata = celbo.datasets.simulate(n_cells=300, n_genes=120, n_batches=2, n_cell_types=3, seed=1)
    adata.obs["batch"] = np.where(np.arange(300) < 90, "small", "large")
    adata.obs["size"] = np.asarray(adata.X.sum(1)).ravel() / 500
    return adata


@pytest.fixture(scope="session")
def make_asked(simulated) -> Callable[..., Asked]:
    """Return a maker of networks with random weights, large enough for states and batches to matter."""

    def make(**options: Any) -> Asked:
        model = celbo.SCVI(simulated, batch_key="batch", n_hidden=16, n_latent=4, seed=0, **options)
        with torch.no_grad():
            for name, parameter in model.network.named_parameters():
                if name.startswith("decoder") and parameter.dim() == 2:
                    parameter.mul_(3)
        return Asked(model.network, model.data, np.arange(model.data.n_cells))

    return make


@pytest.fixture(scope="session")
def asked(make_asked) -> Asked:
    """Return the default network with random weights."""
    return make_asked()


@pytest.fixture(scope="session")
def pbmc():
    """Return a model of real blood cells after three epochs."""
    model = celbo.SCVI(celbo.datasets.pbmc(), seed=0)
    model.train(max_epochs=3, n_threads=1, device="cpu", progress=False)
    return model
