"""How pure neighbourhoods are by label: the share of a cell's nearest neighbours that have its own label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse

from celbo.errors import InputError
from celbo.evaluate.neighbours import Codes, Floats, coordinates, neighbours

__all__ = ["LabelPurity", "label_purity"]

_LEAST = 100
"""Cells of a label that are looked at where not all are, so that rare labels have a number that can be trusted."""


@dataclass(frozen=True, eq=False)
class LabelPurity:
    """How pure the neighbourhoods of cells are by label."""

    n_neighbors: int
    """Neighbours of each cell, itself not among them."""
    mean: float
    """Mean over cells of the share of a cell's neighbours that have its label, 0 to 1."""
    chance: float
    """What it would be if neighbours were drawn at random."""
    best: float
    """The most that these labels allow: one with fewer cells than neighbours cannot fill a neighbourhood."""
    by_label: pd.DataFrame
    """The same for each label (index): `cells`, `purity`, `chance`, `best`, and `neighbour`, the other label that is
    most frequent among the neighbours of its cells, with its share `neighbour_share`; "" and 0 where there is none."""


def label_purity(
    latent: ArrayLike, labels: ArrayLike, *, n_neighbors: int = 30, max_cells: int = 10_000, seed: int = 0
) -> LabelPurity:
    """Return the share of each cell's nearest neighbours that have its own label: the mean overall, and by label.

    Parameters
    ----------
    latent
        Coordinates, (cells, dimensions); distances are Euclidean.
    labels
        Label of each cell, (cells,); cells without one (None, NaN) are left out, as neighbours too.
    n_neighbors
        Neighbours of each cell, itself not among them; all others where there are fewer.
    max_cells
        Above this many cells a random sample of each label is looked at, in proportion to its cells and at least 100 of
        it; their neighbours are searched among all cells, and the mean weighs each label by all of its cells.
    seed
        Of that sample.

    Raises
    ------
    InputError
        If there is not one label a cell, or fewer than two cells have one.
    """
    x, codes, names = _labelled(latent, labels)
    sizes = np.bincount(codes, minlength=len(names))
    rows = _sampled(codes, sizes, max_cells, seed)
    around = codes[neighbours(x, n_neighbors, rows)[1]]
    k = around.shape[1]
    shape = (len(names), len(names))
    pairs = sparse.coo_matrix((np.ones(around.size), (np.repeat(codes[rows], k), around.ravel())), shape).tocsr()
    looked_at = np.bincount(codes[rows], minlength=len(names)) * k
    own, weight = pairs.diagonal() / looked_at, sizes / len(x)
    chance, best = (sizes - 1) / (len(x) - 1), np.minimum((sizes - 1) / k, 1.0)
    pairs.setdiag(0.0)
    other, most = np.asarray(pairs.argmax(1)).ravel(), pairs.max(1).toarray().ravel() / looked_at
    table = {
        "cells": sizes,
        "purity": own,
        "chance": chance,
        "best": best,
        "neighbour": np.where(most > 0, np.asarray(names, object)[other], ""),
        "neighbour_share": most,
    }
    by_label = pd.DataFrame(table, index=pd.Index(names, name="label"))
    return LabelPurity(k, float(weight @ own), float(weight @ chance), float(weight @ best), by_label)


def _labelled(latent: ArrayLike, labels: ArrayLike) -> tuple[Floats, Codes, list[str]]:
    """Return the cells that have a label, the code of each and the names of the codes."""
    x, column = coordinates(latent), pd.Series(np.asarray(labels, dtype=object))
    if len(x) != len(column):
        value = f"{len(x)} and {len(column)} cells"
        raise InputError("do not match", where="latent and labels", value=value, fix="Give one label a cell.")
    codes, names = pd.factorize(column.where(column.notna(), None).map(_text), sort=True)
    return x[codes >= 0], codes[codes >= 0].astype(np.int64), [str(name) for name in names]


def _text(name: object) -> str | None:
    return None if name is None else str(name)


def _sampled(codes: Codes, sizes: Codes, max_cells: int, seed: int) -> Codes:
    """Return positions of all cells, or of a sample of each label."""
    if len(codes) <= max_cells:
        return np.arange(len(codes))
    wanted = np.minimum(sizes, np.maximum(_LEAST, np.round(max_cells * sizes / len(codes)).astype(int)))
    order = np.random.default_rng(seed).permutation(len(codes))
    by_label = order[np.argsort(codes[order], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    return np.sort(np.concatenate([by_label[at : at + n] for at, n in zip(starts, wanted, strict=True)]))
