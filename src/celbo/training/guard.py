"""The guard against numbers that are not finite: it finds the first bad step and says what the user can look at."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch
from celbo.errors import TrainingError

__all__ = ["MAX_RETRIES", "Guard", "NonFinite", "gave_up", "large_covariate"]

MAX_RETRIES = 2
"""How often a run goes back to its last good state, each time with half the learning rate."""


_LARGE = 30.0
"""Size of a covariate, as the network sees it, from where it is a likelier cause of bad numbers than a count."""


class NonFinite(Exception):  # noqa: N818 (not an error yet: the engine goes back and tries again)
    """A loss term, a gradient or a weight is not finite; the message says which, when, and in which minibatch."""


@dataclass(frozen=True)
class _Watched:
    values: Sequence[Tensor]
    terms: Sequence[str]
    batch: Minibatch
    place: str


class Guard:
    """Checks the numbers of each step with one look at a few small tensors.

    Parameters
    ----------
    data
        The cells, for the names in messages.
    parameters
        Gives the names of the parameters that have a gradient; asked only when something is wrong.
    lag
        Steps after which a tensor is looked at. 0 is at once; on a device that works ahead of the program a look is a
        wait, so there it comes some steps later. The message names the first bad step in either case.
    """

    def __init__(self, data: CellData, parameters: Callable[[], Sequence[str]], *, lag: int = 0) -> None:
        self._data, self._parameters, self._lag = data, parameters, lag
        self._waiting: deque[_Watched] = deque()

    def watch(self, values: Sequence[Tensor], terms: Sequence[str], batch: Minibatch, place: str) -> None:
        """Take the numbers of one step.

        Parameters
        ----------
        values
            The loss terms, (terms,), and of a training step also the loss and the norm of each gradient, (gradients,).
        terms
            Names of the loss terms.
        batch
            The minibatch they came from.
        place
            The step in words.

        Raises
        ------
        NonFinite
            One of these values, or of those that waited, is not finite.
        """
        self._waiting.append(_Watched(values, terms, batch, place))
        if len(self._waiting) > self._lag:
            self._look()

    def flush(self) -> None:
        """Look at all that still waits; raises `NonFinite` as `watch`."""
        while self._waiting:
            self._look()

    def forget(self) -> None:
        """Drop all that still waits."""
        self._waiting.clear()

    def _look(self) -> None:
        watched = self._waiting.popleft()
        for values in watched.values:
            if not math.isfinite(float(values.sum())) and not bool(torch.isfinite(values).all()):
                raise NonFinite(self._describe(watched))

    def _describe(self, watched: _Watched) -> str:
        names = [f"loss term {name!r}" for name in watched.terms]
        names += ["the loss", *(f"gradient of {name!r}" for name in self._parameters())]
        values = [value for several in watched.values for value in several.flatten().tolist()]
        bad = [name for name, value in zip(names, values, strict=False) if not math.isfinite(value)]
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        likely = large_covariate(self._data, watched.batch.index.cpu().numpy())
        likely = likely or _largest_count(watched.batch, self._data)
        return f"{watched.place}: {', '.join(bad[:3])}{more}; {likely}"


def large_covariate(data: CellData, cells: npt.NDArray[np.int64]) -> str:
    """Say which continuous covariate of these cells is so large that it is the likely cause of bad numbers, or nothing.

    Parameters
    ----------
    data
        The cells, with their covariates as the network sees them.
    cells
        Positions of the cells to look at.
    """
    values = np.abs(data.continuous[cells])
    if not values.size or values.max() <= _LARGE:
        return ""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    cell, key = int(cells[row]), data.schema.keys.continuous_covariate_keys[column]
    given = data.continuous if data.covariates is None else data.covariates
    own = given[:, column]
    return (
        f"the continuous covariate {key!r}, {own[cell]:g} in cell {str(data.cell_names[cell])!r} "
        f"(mean {own.mean():g}, SD {own.std():g}), is the likely cause: a network takes numbers near 1"
    )


def _largest_count(batch: Minibatch, data: CellData) -> str:
    """Say which cell and gene of the minibatch hold the largest count (a NaN counts as the largest)."""
    rows = batch.rows
    if rows.values.numel() == 0:
        return "its minibatch holds no count at all"
    at = int(rows.values.argmax())
    cell = int(batch.index[int(rows.row_of[at])])
    gene = data.schema.genes[int(rows.indices[at])]
    name = str(data.cell_names[cell])
    return f"the largest count of its minibatch is {float(rows.values[at]):g} in cell {name!r}, gene {gene!r}"


def gave_up(incidents: Sequence[str], learning_rate: float) -> TrainingError:
    """Return the error for a run whose retries are used up.

    Parameters
    ----------
    incidents
        What `NonFinite` said, each time.
    learning_rate
        The peak learning rate of the last attempt.
    """
    return TrainingError(
        f"gave numbers that are not finite, also after {len(incidents) - 1} retries with half the learning rate each",
        where="training",
        value=" | ".join(incidents),
        fix=(
            "The last good state is restored. Centre and scale that covariate, or correct its values."
            if any("continuous covariate" in incident for incident in incidents)
            else "The last good state is restored. Look at the named cells and genes, "
            f"or train with a learning rate below {learning_rate:g}, or with clip_norm=10."
        ),
    )
