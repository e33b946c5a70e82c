"""What draws say of a quantity: its interval, and the table of a predictive check. Plain arrays, no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from celbo.errors import OptionError

__all__ = ["GeneSums", "check_level", "draws_needed", "interval_of", "predictive_table"]

Doubles = npt.NDArray[np.float64]


def draws_needed(level: float) -> int:
    """Return the fewest draws whose smallest and largest hold a further draw with probability `level`."""
    return math.ceil(2 / (1 - level) - 1 - 1e-9)


def check_level(level: float, n_samples: int) -> None:
    """Raise unless the level is between 0 and 1, and the draws are enough for an interval of that level."""
    if isinstance(level, bool) or not isinstance(level, int | float | np.number) or not 0 < level < 1:
        raise OptionError("is not between 0 and 1", where=f"level={level!r}", fix="0.95 is usual.")
    if n_samples < (needed := draws_needed(float(level))):
        raise OptionError(
            f"are too few draws for an interval of level {level:g}",
            where=f"n_samples={n_samples}",
            fix=f"Ask for at least {needed}, or for a lower level.",
        )


def interval_of(draws: npt.NDArray[Any], level: float) -> tuple[npt.NDArray[Any], ...]:
    """Return the bounds of the central (equal-tailed) interval and the median of draws.

    The quantile p lies at position (n + 1) p of the n sorted draws (Hyndman and Fan 1996, definition 6), so that a
    further draw of any continuous distribution falls between the bounds with probability `level` exactly, where NumPy's
    default definition falls short: 0.931 instead of 0.95 with 100 draws.

    Parameters
    ----------
    draws
        (draws, ...), at least `draws_needed(level)`.
    level
        Probability that the interval holds.

    Returns
    -------
    lower, median, upper
        Each of the shape of one draw and of the dtype of the draws.
    """
    ordered = np.sort(np.ascontiguousarray(np.moveaxis(draws, 0, -1)), axis=-1)
    tail = (1 - level) / 2
    return tuple(_quantile(ordered, p) for p in (tail, 0.5, 1 - tail))


def _quantile(ordered: npt.NDArray[Any], p: float) -> npt.NDArray[Any]:
    n = ordered.shape[-1]
    at = min(max((n + 1) * p - 1, 0.0), n - 1.0)
    low = min(int(at), max(n - 2, 0))
    below, above = ordered[..., low], ordered[..., min(low + 1, n - 1)]
    quantile: npt.NDArray[Any] = below + (above - below) * ordered.dtype.type(at - low)
    return quantile


class GeneSums:
    """Sums over cells from which mean, variance and zeros of each gene follow; fed block by block.

    Parameters
    ----------
    centre
        A value near the mean of each gene, (genes,): squares are summed around it, so that deep genes lose no digits.
    """

    def __init__(self, centre: Doubles) -> None:
        self.centre = centre
        self.n_cells = 0
        self.total, self.squares, self.seen = np.zeros((3, len(centre)))

    def add(self, counts: sparse.csr_matrix) -> None:
        """Take in the counts of some cells, (cells, genes)."""
        n_cells, n_genes = counts.shape
        gene, value = np.asarray(counts.indices, np.int64), np.asarray(counts.data, np.float64)
        stored = np.bincount(gene, minlength=n_genes)
        self.n_cells += n_cells
        self.total += np.bincount(gene, value, n_genes) - n_cells * self.centre
        # stored entries, then those that are not, each at the distance of the centre from zero
        self.squares += np.bincount(gene, (value - self.centre[gene]) ** 2, n_genes)
        self.squares += (n_cells - stored) * self.centre**2
        self.seen += np.bincount(gene, value != 0, n_genes)

    def moments(self) -> dict[str, Doubles]:
        """Return mean, variance (over cells, as they are) and share of zeros of each gene; (genes,) each."""
        shift = self.total / self.n_cells
        variance = np.maximum(self.squares / self.n_cells - shift**2, 0.0)
        return {"mean": self.centre + shift, "variance": variance, "zeros": 1 - self.seen / self.n_cells}


def predictive_table(
    observed: Mapping[str, Doubles], drawn: Mapping[str, Doubles], genes: Sequence[str], *, level: float
) -> pd.DataFrame:
    """Return a predictive check as a table: each statistic of each gene as observed, and as drawn from the model.

    Parameters
    ----------
    observed
        By statistic, (genes,).
    drawn
        By statistic, (draws, genes).
    genes
        Their names.
    level
        Of the interval of the draws.

    Returns
    -------
    One row a gene, index `gene`; for each statistic T the columns T_observed and T_predicted (mean over the draws) and,
    where there are draws enough for the level, T_lower, T_upper (central interval of the draws) and T_p, the share of
    draws above what was observed (ties count half).
    """
    columns: dict[str, Doubles] = {}
    for name, seen in observed.items():
        draws = drawn[name]
        columns |= {f"{name}_observed": seen, f"{name}_predicted": draws.mean(0)}
        if len(draws) < draws_needed(level):
            continue
        lower, _, upper = interval_of(draws, level)
        above = (draws > seen).mean(0) + 0.5 * (draws == seen).mean(0)
        p = np.where(np.isnan(seen) | np.isnan(draws).any(0), np.nan, above)
        columns |= {f"{name}_lower": lower, f"{name}_upper": upper, f"{name}_p": p}
    return pd.DataFrame(columns, index=pd.Index(list(genes), name="gene"))
