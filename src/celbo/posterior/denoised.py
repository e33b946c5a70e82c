"""What a model thinks the counts of a cell would be without sampling noise: denoising and imputation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from celbo.data.cells import CellData
from celbo.errors import OptionError
from celbo.nn.latent import PointPosterior
from celbo.posterior.stream import (
    Block,
    Positions,
    check_genes,
    check_positive,
    encoded_blocks,
    evaluating,
    latent_draws,
)

__all__ = ["denoised_expression"]

Floats = npt.NDArray[np.float32]
LibrarySize = float | Literal["observed"]


def denoised_expression(
    network: Any,
    data: CellData,
    indices: Positions,
    *,
    genes: Positions | None = None,
    library_size: LibrarySize = "observed",
    zero_inflation: bool = False,
    n_samples: int = 10,
    batch_size: int | None = None,
    seed: int = 0,
    out: Callable[[int, Floats], None] | None = None,
) -> Any:
    """Return the expected counts of each gene in each cell.

    A deterministic network says them by its method `denoise(batch) -> (cells, genes)`. Of a probabilistic one they are
    the mean of the likelihood, averaged over draws of the latent state.

    Parameters
    ----------
    network, data, indices
        A trained network, the cells, and the positions asked for; (n,).
    genes
        Positions of the genes to return; None is all.
    library_size
        "observed": at the depth of each cell. A number: scaled so that the cell's expected counts have this total.
    zero_inflation
        Whether expected counts include the zeros of a zero-inflated likelihood: what would be *observed* (right for
        scores on held-out molecules), not what the likelihood's negative binomial says was there (what scVI returns).
    n_samples
        Draws of the latent state of a probabilistic network.
    batch_size
        Cells at a time; None is as many as fit the memory bound.
    seed
        Seed of the draws.
    out
        Receives each block of cells as it is made, `out(start, block)`, in order; then nothing is returned or kept.

    Returns
    -------
    float32 counts, (n, genes).
    """
    check_positive("n_samples", n_samples)
    check_genes(genes, data)
    if library_size != "observed" and not (isinstance(library_size, int | float) and 0 < library_size < np.inf):
        raise OptionError('is neither a positive number nor "observed"', where=f"library_size={library_size!r}")
    n_genes = data.n_genes if genes is None else len(genes)
    result: Floats | None = None if out else np.empty((len(indices), n_genes), np.float32)
    with evaluating(network):
        for block in encoded_blocks(network, data, indices, batch_size=batch_size, seed=seed):
            counts = _expected(network, block, zero_inflation, n_samples)
            if library_size != "observed":
                counts = counts * (float(library_size) / counts.sum(1, keepdim=True).clamp_min(_NONE))
            values = counts.to("cpu", torch.float32).numpy()
            values = values if genes is None else values[:, genes]
            if out is not None:
                out(block.start, values)
            elif result is not None:
                result[block.start : block.stop] = values
    return result


_NONE = 1e-30


def _expected(network: Any, block: Block, zero_inflation: bool, n_samples: int) -> Tensor:
    """Return expected counts at each cell's own depth, (cells, genes)."""
    if hasattr(network, "denoise"):
        counts: Tensor = network.denoise(block.batch)
        return counts
    if isinstance(block.latent.z, PointPosterior):
        n_samples = 1  # all draws would be the same
    of = network.likelihood.mean if zero_inflation else network.likelihood.mean_without_inflation
    total: Tensor | None = None
    for z, log_library in latent_draws(network, block, n_samples):
        part = of(network.decode(z, log_library, block.batch)).sum(0)
        total = part if total is None else total + part
    assert total is not None
    return total / n_samples
