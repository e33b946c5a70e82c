"""Which cells go where: train and validation, and the minibatches of an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch
from celbo.errors import InputError, OptionError

__all__ = ["MinibatchSampler", "Split", "split_cells"]

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Positions of the cells to learn from and of those to judge by, each ascending; the rest is held out from both."""

    train: Index
    validation: Index


class MinibatchSampler:
    """The minibatches of each epoch. Their order is a function of seed and epoch alone, so a resume saves nothing.

    Parameters
    ----------
    data
        The cells.
    indices
        Positions in `data` of the cells to draw from; (n,).
    batch_size
        Cells a minibatch, on each rank.
    seed
        Fixes the order together with the number of the epoch.
    shuffle
        Whether to draw in random order; False goes through `indices` as given.
    rank, world_size
        This process among those that share the epoch. With `shuffle` every rank gets the same number of cells (up to
        `world_size - 1` cells, others each epoch, sit out), so that all take the same number of steps; without it,
        every cell comes exactly once on one rank.
    with_replacement
        Whether an epoch is a bootstrap sample of `indices`.
    """

    def __init__(
        self,
        data: CellData,
        indices: npt.ArrayLike,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        with_replacement: bool = False,
    ) -> None:
        self.data = data
        self.indices = _positions(indices, data.n_cells, "indices")
        if batch_size < 1:
            raise OptionError("must be at least 1", where="batch_size", value=str(batch_size))
        if not 0 <= rank < world_size:
            raise OptionError(f"must be from 0 to {world_size - 1}", where="rank", value=str(rank))
        if self.indices.size < world_size:
            raise InputError(f"has {self.indices.size} cells for {world_size} process(es)", where="the sampler")
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rank, self.world_size, self.with_replacement = rank, world_size, with_replacement

    def __len__(self) -> int:
        """Return the steps an epoch."""
        return len(self._bounds(self._share(self.indices).size)) - 1

    def epoch(self, epoch: int) -> Iterator[Minibatch]:
        """Yield the minibatches of one epoch."""
        for index in self.epoch_indices(epoch):
            yield self.data.minibatch(index)

    def epoch_indices(self, epoch: int) -> list[Index]:
        """Return the positions of the cells of each minibatch of one epoch."""
        order = self._share(self._order(epoch))
        bounds = self._bounds(order.size)
        return [order[start:end] for start, end in pairwise(bounds)]

    def _order(self, epoch: int) -> Index:
        if not self.shuffle and not self.with_replacement:
            return self.indices
        rng = np.random.default_rng([self.seed, epoch])
        if self.with_replacement:
            return rng.choice(self.indices, self.indices.size)
        return rng.permutation(self.indices)

    def _share(self, order: Index) -> Index:
        if self.world_size == 1:
            return order
        if not self.shuffle:
            return np.array_split(order, self.world_size)[self.rank]
        return order[self.rank : order.size // self.world_size * self.world_size : self.world_size]

    def _bounds(self, n: int) -> list[int]:
        """Return where minibatches begin, and the end; a last single cell joins the one before it (batch norm)."""
        starts = list(range(0, n, self.batch_size))
        if len(starts) > 1 and self.batch_size > 1 and n - starts[-1] < 2:
            starts.pop()
        return [*starts, n]


def split_cells(
    n_cells: int,
    *,
    train_size: float,
    seed: int,
    train_indices: npt.ArrayLike | None = None,
    validation_indices: npt.ArrayLike | None = None,
) -> Split:
    """Split the cells by seed or as given.

    Parameters
    ----------
    n_cells
        Number of cells.
    train_size
        Share of the cells to train on, over 0 and up to 1; 1 is no validation. Used where no indices are given.
        ceil(train_size * n_cells) cells train, at least 2; below 1 at least one cell of three or more validates.
    seed
        Fixes a random split.
    train_indices, validation_indices
        Positions (or a mask) of the cells. With one of them only, the other is all the remaining cells; with both,
        cells in neither are held out from both.

    Raises
    ------
    OptionError
        If `train_size` is out of range, or given indices overlap, repeat or fall outside the cells.
    InputError
        If fewer than two cells are left to train on.
    """
    if train_indices is None and validation_indices is None:
        return _random_split(n_cells, train_size, seed)
    train = None if train_indices is None else _unique(train_indices, n_cells, "train_indices")
    validation = None if validation_indices is None else _unique(validation_indices, n_cells, "validation_indices")
    train = _all_but(validation, n_cells) if train is None else train
    validation = _all_but(train, n_cells) if validation is None else validation
    _ask_two(train.size)
    both = np.intersect1d(train, validation)
    if both.size:
        raise OptionError(
            f"share {both.size} cell(s)",
            where="train_indices and validation_indices",
            value=f"position {both[0]} is in both",
            fix="A cell that is trained on cannot judge the training.",
        )
    return Split(train, validation)


def _random_split(n_cells: int, train_size: float, seed: int) -> Split:
    if not 0 < train_size <= 1:
        raise OptionError("must be over 0 and at most 1", where="train_size", value=str(train_size))
    _ask_two(n_cells)
    most = n_cells - 1 if train_size < 1 and n_cells > 2 else n_cells
    n_train = min(max(math.ceil(train_size * n_cells), 2), most)
    order = np.random.default_rng(seed).permutation(n_cells)
    return Split(np.sort(order[:n_train]), np.sort(order[n_train:]))


def _ask_two(n_train: int) -> None:
    if n_train < 2:
        raise InputError(
            f"leaves {n_train} cell(s) to train on", where="the split", fix="Training needs at least 2 cells."
        )


def _all_but(taken: Index | None, n_cells: int) -> Index:
    everything = np.arange(n_cells, dtype=np.int64)
    return everything if taken is None else np.setdiff1d(everything, taken)


def _unique(indices: npt.ArrayLike, n_cells: int, where: str) -> Index:
    positions = np.sort(_positions(indices, n_cells, where))
    again = np.flatnonzero(np.diff(positions) == 0)
    if again.size:
        raise OptionError("names a cell more than once", where=where, value=f"position {positions[again[0]]}")
    return positions


def _positions(indices: npt.ArrayLike, n_cells: int, where: str) -> Index:
    """Return positions as int64 in the order given, from positions or a mask."""
    given: npt.NDArray[Any] = np.asarray(indices)
    if given.dtype == bool and given.shape == (n_cells,):
        return np.flatnonzero(given)
    if given.size == 0:
        return np.empty(0, dtype=np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise OptionError(
            "must be a list of positions or one True/False a cell",
            where=where,
            value=f"shape {given.shape}, dtype {given.dtype}",
        )
    if given.min() < 0 or given.max() >= n_cells:
        wrong = given[(given < 0) | (given >= n_cells)][0]
        raise OptionError(
            f"reaches outside the {n_cells} cells", where=where, value=str(wrong), fix="Positions start at 0."
        )
    return given.astype(np.int64)
