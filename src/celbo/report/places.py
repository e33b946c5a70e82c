"""Names on a still map: beside the cells, where they cover neither each other nor them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Place", "places"]

Floats = NDArray[np.float64]

_STEP = 8.0
"""Side of the squares in which cells are counted, in pixels."""
_HALF = 13.0
"""Half the height of a name."""
_RINGS, _TURNS = 22, 20
_COVERED = 60.0
"""What a covered cell costs, in pixels of distance."""
_MOST = 5
"""Cells that a name may cover at the edges of its box; beyond them it is left to the legend."""


@dataclass(frozen=True)
class Place:
    """Where a name stands, and the cells that it names."""

    item: int
    """Position of the name in what was asked."""
    x: float
    y: float
    """Centre of the name, in pixels."""
    cells_x: float
    cells_y: float
    """Densest place of its cells."""
    half: float
    """Half its width."""

    @property
    def apart(self) -> bool:
        """Whether it stands so far from its cells that a line must join them."""
        return abs(self.x - self.cells_x) > self.half or abs(self.y - self.cells_y) > _HALF


def places(where: Floats, members: Sequence[NDArray[np.int64]], halves: Sequence[float], side: float) -> list[Place]:
    """Return where names stand on a square map, those with the most cells first.

    Parameters
    ----------
    where
        Places of the cells in pixels, (cells, 2).
    members
        The cells of each name.
    halves
        Half the width of each name in pixels.
    side
        Side of the map in pixels.

    Returns
    -------
    The names that have a place that covers no cells, or hardly any.
    """
    under = _crowd(where, side)
    found: list[Place] = []
    for item in sorted(range(len(members)), key=lambda i: -len(members[i])):
        if len(members[item]):
            spot = _nearest_free(
                item, home=_densest(where[members[item]]), half=halves[item], side=side, taken=found, under=under
            )
            found += [] if spot is None else [spot]
    return found


def _nearest_free(
    item: int, *, home: Floats, half: float, side: float, taken: Sequence[Place], under: Callable[[Floats], Floats]
) -> Place | None:
    rings = np.repeat(np.arange(1, _RINGS) * 12.0, _TURNS)
    angles = np.tile(np.arange(_TURNS) * 2 * np.pi / _TURNS, _RINGS - 1)
    far = np.concatenate([[0.0], rings])
    x = home[0] + np.concatenate([[0.0], 1.25 * rings * np.cos(angles)])
    y = home[1] + np.concatenate([[0.0], rings * np.sin(angles)])
    fits = (x - half >= 2) & (x + half <= side - 2) & (y - _HALF >= 2) & (y + _HALF <= side - 2)
    for other in taken:
        fits &= (abs(x - other.x) >= half + other.half + 3) | (abs(y - other.y) >= 2 * _HALF)
        fits &= ~_crossed(np.column_stack([x, y]), home, other)
    covered = under(np.column_stack([x - half, y - _HALF, x + half, y + _HALF]))
    cost = np.where(fits, far + _COVERED * covered, np.inf)
    best = int(cost.argmin())
    if not fits[best] or covered[best] > _MOST:
        return None
    return Place(item, float(x[best]), float(y[best]), float(home[0]), float(home[1]), half)


def _crossed(spots: Floats, home: Floats, other: Place) -> NDArray[np.bool_]:
    """Whether the line from each spot to its cells passes through another name; (spots,)."""
    share = np.linspace(0, 1, 21)[:, None, None]
    line = spots[None] + share * (home - spots)[None]
    inside = (abs(line[..., 0] - other.x) < other.half) & (abs(line[..., 1] - other.y) < _HALF)
    return np.asarray(inside.any(0))


def _densest(where: Floats) -> Floats:
    """The mean of the cells around the square that holds the most of them, (2,)."""
    squares, counts = np.unique(np.floor(where / 24), axis=0, return_counts=True)
    middle = (squares[counts.argmax()] + 0.5) * 24
    near = where[np.abs(where - middle).max(1) <= 36]
    return np.asarray(near.mean(0), np.float64)


def _crowd(where: Floats, side: float) -> Callable[[Floats], Floats]:
    """Return a function that counts the cells in boxes (left, top, right, bottom), by sums over squares."""
    n = int(np.ceil(side / _STEP))
    cells, _, _ = np.histogram2d(where[:, 0], where[:, 1], bins=n, range=[[0, n * _STEP]] * 2)
    sums = np.zeros((n + 1, n + 1))
    sums[1:, 1:] = cells.cumsum(0).cumsum(1)

    def under(boxes: Floats) -> Floats:
        left, top = np.clip(np.floor(boxes[:, :2] / _STEP), 0, n).astype(int).T
        right, bottom = np.clip(np.ceil(boxes[:, 2:] / _STEP), 0, n).astype(int).T
        return np.asarray(sums[right, bottom] - sums[left, bottom] - sums[right, top] + sums[left, top])

    return under
