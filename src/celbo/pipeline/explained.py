"""How much of the counts a trained model explains, of cells that training saw and of cells that it did not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from celbo.evaluate.deviance import deviance_explained, gene_shares
from celbo.models.base import DenoisingModel, Model
from celbo.report.verdict import Explained

__all__ = ["explained_by"]

_CELLS = 5000
_AT_ONCE = 4_000_000
"""Cells of either kind that are looked at, and expected counts that exist at a time."""


def explained_by(model: Model[Any], *, seed: int) -> Explained | None:
    """Return the share of the deviance of counts that a model explains, of held-out cells and of training cells.

    Parameters
    ----------
    model
        A trained model with its cells.
    seed
        Of the cells that are looked at where there are many, and of the draws of the latent state.

    Returns
    -------
    The shares; None where no cell was held out, or the model says no expected counts, or the values are no counts.
    """
    if not isinstance(model, DenoisingModel) or model.data is None or not len(model.validation_indices):
        return None
    counts = sparse.csr_matrix(model.data.counts.to_scipy())
    if counts.nnz and counts.data.min() < 0:
        return None
    shares = gene_shares(counts[model.train_indices])
    held_out, train = (_some(cells, seed) for cells in (model.validation_indices, model.train_indices))
    of_held_out, of_train = (
        deviance_explained(_blocks(model, counts, cells, seed), shares) for cells in (held_out, train)
    )
    return Explained(of_held_out, of_train, len(held_out)) if np.isfinite(of_held_out + of_train) else None


def _some(cells: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    if len(cells) <= _CELLS:
        return cells
    return np.sort(np.random.default_rng(seed).choice(cells, _CELLS, replace=False))


def _blocks(
    model: DenoisingModel[Any], counts: sparse.csr_matrix, cells: NDArray[np.int64], seed: int
) -> Iterator[tuple[sparse.csr_matrix, NDArray[np.floating[Any]]]]:
    size = max(1, _AT_ONCE // counts.shape[1])
    for start in range(0, len(cells), size):
        few = cells[start : start + size]
        expected = model.get_denoised_expression(indices=few, zero_inflation=True, return_numpy=True, seed=seed)
        yield counts[few], expected
