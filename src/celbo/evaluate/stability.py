"""How much a picture of the cells depends on its seed and parameters: several runs of one method, compared in pairs.

Two measures, as a picture can keep who is near whom and still turn islands about: `procrustes_disparity` sees the whole
arrangement, `neighbour_overlap` the surroundings of each cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from celbo.errors import InputError, OptionError
from celbo.evaluate.metrics import neighbourhood_preservation
from celbo.evaluate.neighbours import Codes, Floats, choice, coordinates, neighbours

__all__ = ["neighbour_overlap", "procrustes_disparity", "stability", "stability_summary"]


def procrustes_disparity(a: ArrayLike, b: ArrayLike) -> float:
    """Share of one picture that translation, scaling, rotation and reflection cannot make from the other.

    1 - (sum of the singular values of A^T B)^2, A and B centred and of Frobenius norm 1 (Gower 1975). It is symmetric,
    and the value of `scipy.spatial.procrustes`, in time linear in cells.

    Parameters
    ----------
    a, b
        Coordinates of the same cells, (cells, dimensions of each); with fewer dimensions, the others are zeros.

    Returns
    -------
    0 for the same picture; for unrelated ones near 1, by about dimensions / cells.

    Raises
    ------
    InputError
        If the cells do not match, or all lie in one point.
    """
    return _disparity(*(_standard(x, name) for name, x in _matching({"a": a, "b": b}).items()))


def neighbour_overlap(a: ArrayLike, b: ArrayLike, *, k: int = 15, max_cells: int = 10_000, seed: int = 0) -> float:
    """Share of the k nearest neighbours of a cell that two pictures have in common, mean over cells.

    It is the shared number over k, not the Jaccard index J of the two sets: share = 2 J / (1 + J) for each cell.

    Parameters
    ----------
    a, b
        Coordinates of the same cells, (cells, dimensions of each).
    k
        Neighbours of each cell, itself not among them.
    max_cells, seed
        Above this many cells a random subset is taken, in both.

    Returns
    -------
    1 where all are kept, about k / (cells - 1) for unrelated pictures.
    """
    _require_positive("k", k)
    first, second = _matching({"a": a, "b": b}).values()
    return neighbourhood_preservation(first, second, n_neighbors=k, max_cells=max_cells, seed=seed)


def stability(
    runs: Mapping[str, ArrayLike] | Sequence[ArrayLike], *, k: int = 15, max_cells: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Compare the pictures of several runs, of other seeds or parameters, in pairs.

    Parameters
    ----------
    runs
        Coordinates of the same cells by name of the run, each (cells, dimensions); a sequence is named "0", "1", ...
    k
        As in `neighbour_overlap`.
    max_cells, seed
        Above this many cells one random subset is taken for all pairs.

    Returns
    -------
    One row a pair: first, second, procrustes_disparity (0 same, 1 unrelated), neighbour_overlap (1 same), and
    neighbour_chance, the overlap expected of unrelated pictures.

    Raises
    ------
    InputError
        If there are fewer than two runs, the cells do not match, or a picture is one point.
    """
    _require_positive("k", k)
    named = runs if isinstance(runs, Mapping) else {str(i): run for i, run in enumerate(runs)}
    if len(named) < 2:
        fix = "Give the coordinates of at least two."
        raise InputError("are too few to compare", where="runs", value=str(len(named)), fix=fix)
    pictures = _matching(named)
    n_cells = len(next(iter(pictures.values())))
    chosen = choice(n_cells, max_cells, seed)
    placed = {name: _standard(x[chosen], name) for name, x in pictures.items()}
    near = {name: _sorted_neighbours(x, k) for name, x in placed.items()}
    chance = min(k, len(chosen) - 1) / (len(chosen) - 1)
    rows = [
        (one, two, _disparity(placed[one], placed[two]), _shared(near[one], near[two]), chance)
        for one, two in combinations(placed, 2)
    ]
    names = ["first", "second", "procrustes_disparity", "neighbour_overlap", "neighbour_chance"]
    return pd.DataFrame(rows, columns=names)


def stability_summary(pairs: pd.DataFrame) -> pd.DataFrame:
    """Sum up a table of `stability`.

    Returns
    -------
    Indexed by measure, "procrustes_disparity" and "neighbour_overlap": mean, best and worst over pairs, and what pairs
    of equal and of unrelated pictures would give (same, unrelated).
    """
    disparity, overlap = pairs["procrustes_disparity"], pairs["neighbour_overlap"]
    return pd.DataFrame(
        {
            "mean": [disparity.mean(), overlap.mean()],
            "best": [disparity.min(), overlap.max()],
            "worst": [disparity.max(), overlap.min()],
            "same": [0.0, 1.0],
            "unrelated": [1.0, float(pairs["neighbour_chance"].mean())],
        },
        index=pd.Index(["procrustes_disparity", "neighbour_overlap"], name="measure"),
    )


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise OptionError("must be at least 1", where=name, value=repr(value))


def _matching(runs: Mapping[str, ArrayLike]) -> dict[str, Floats]:
    """Return coordinates that are known to be finite and of the same number of cells, two at least."""
    pictures = {str(name): coordinates(run) for name, run in runs.items()}
    sizes = {name: len(x) for name, x in pictures.items()}
    if len(set(sizes.values())) > 1 or min(sizes.values()) < 2:
        value = ", ".join(f"{name!r} has {n}" for name, n in sizes.items())
        fix = "Give the coordinates of the same cells, two or more, in the same order."
        raise InputError("do not match or are too few", where="the cells of the pictures", value=value, fix=fix)
    return pictures


def _standard(x: Floats, name: str) -> Floats:
    """Centre coordinates and scale them to norm 1; the largest is brought to 1 before, so that no square overflows."""
    centred = x - x.mean(axis=0)
    largest = float(np.abs(centred).max(initial=0.0))
    if not largest > 1e-12 * float(np.abs(x).max(initial=0.0)):
        raise InputError("has all cells in one point", where=f"picture {name!r}", fix="There is nothing to compare.")
    centred /= largest
    return np.asarray(centred / np.linalg.norm(centred), dtype=np.float64)


def _disparity(a: Floats, b: Floats) -> float:
    fit = float(np.linalg.svd(a.T @ b, compute_uv=False).sum())
    return max(0.0, 1.0 - fit**2)


def _sorted_neighbours(x: Floats, k: int) -> Codes:
    return np.sort(neighbours(x, k)[1], axis=1)


def _shared(a: Codes, b: Codes) -> float:
    """Mean share of the entries of each row of `a` that the row of `b` has; rows ascend and have no duplicates."""
    both = np.sort(np.concatenate([a, b], axis=1), axis=1)
    return float((both[:, 1:] == both[:, :-1]).sum() / a.size)
