"""Neighbours, weights and category codes that the metrics share."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from celbo.errors import InputError

__all__ = ["Codes", "Floats", "choice", "codes_of", "coordinates", "inverse_simpson", "mixing", "neighbours"]

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


def mixing(around: Codes, n: int) -> float:
    """Mean entropy of rows of codes; (cells, neighbours) -> nats."""
    share = np.stack([(around == k).mean(1) for k in range(n)], 1)
    return float(-(share * np.log(np.where(share > 0, share, 1.0))).sum(1).mean())


def inverse_simpson(distance: Floats, around: Codes, perplexity: float, n: int) -> Floats:
    """Effective number of groups among neighbours; (cells, neighbours) distances and codes -> (cells,)."""
    weight = _weights(distance, min(perplexity, distance.shape[1] / 3))
    mass = np.stack([(weight * (around == k)).sum(1) for k in range(n)], 1)
    return np.asarray(1 / (mass**2).sum(1), dtype=np.float64)


def _weights(distance: Floats, perplexity: float) -> Floats:
    """Weights exp(-beta d), normalised, whose entropy is log(perplexity): beta by bisection for each row."""
    d = distance - distance[:, :1]  # a common factor of the row; the nearest weighs one, so that nothing underflows
    scale = np.maximum(d.mean(1, keepdims=True), 1e-300)
    low, high = np.full_like(scale, -30.0), np.full_like(scale, 30.0)  # log(beta x scale)
    for _ in range(60):
        middle = (low + high) / 2
        weight = np.exp(-np.exp(middle) * (d / scale))
        total = weight.sum(1, keepdims=True)
        entropy = np.log(total) + np.exp(middle) * (weight * d / scale).sum(1, keepdims=True) / total
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return np.asarray(weight / total, dtype=np.float64)


def neighbours(x: Floats, k: int, rows: Codes | None = None) -> tuple[Floats, Codes]:
    """Distances and positions of the k nearest other rows of each row, or of some; nearest first, (rows, k) each."""
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(x) - 1)
    if k < 1:
        raise InputError(
            "has too few cells for neighbours", where="latent", value=str(len(x)), fix="Give at least two."
        )
    search = NearestNeighbors(n_neighbors=k).fit(x)
    if rows is None or len(rows) == len(x):
        distance, index = search.kneighbors()  # without an argument: itself left out
    else:
        distance, index = search.kneighbors(x[rows], k + 1)
        itself = index == rows[:, None]
        itself[~itself.any(1), -1] = True  # of many equal rows: others stand for it
        shape = (len(rows), k)
        distance, index = distance[~itself].reshape(shape), index[~itself].reshape(shape)
    return np.asarray(distance, np.float64), np.asarray(index, np.int64)


def choice(n: int, max_cells: int, seed: int) -> Codes:
    """Positions of at most `max_cells` of n cells, in order."""
    if n <= max_cells:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, max_cells, replace=False)).astype(np.int64)


def codes_of(groups: ArrayLike) -> Codes:
    """Codes 0, 1, ... in sorted order of names, -1 where missing; integers below zero count as missing."""
    values = np.asarray(groups)
    if values.ndim != 1:
        raise InputError(
            "is not one category a cell", where="groups", value=f"shape {values.shape}", fix="Give (cells,)."
        )
    if values.dtype.kind in "iu":
        values = np.where(values < 0, np.nan, values.astype(float))
    elif values.dtype.kind == "O":
        values = np.array([None if pd.isna(v) else str(v) for v in values], dtype=object)
    return pd.factorize(values, sort=True)[0].astype(np.int64)


def coordinates(latent: ArrayLike) -> Floats:
    """Check coordinates, (cells, dimensions)."""
    x = np.asarray(latent, dtype=np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise InputError(
            "must be finite numbers, (cells, dimensions)",
            where="latent",
            value=f"shape {x.shape}",
            fix="Pass a latent representation.",
        )
    return x
