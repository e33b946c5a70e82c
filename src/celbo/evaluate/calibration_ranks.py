"""Are ranks uniform? A test against a band that is simultaneous over the whole range of ranks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

__all__ = ["BAND", "UniformRanks"]

Floats = npt.NDArray[np.float64]
BAND = 0.99
"""Probability that uniform ranks stay within the band."""
_POINTS, _SIMULATED = 99, 4000
"""Points at which ranks are compared, and uniform samples that the band is made from."""


class UniformRanks:
    """Whether ranks from 0 to n_draws are uniform: their cumulative counts at some points, each against its binomial.

    The statistic is the smallest two-sided binomial probability over the points; its distribution under uniform ranks
    is simulated, so that the points need not be independent (Saeilynoja et al. 2022, doi:10.1007/s11222-022-10090-6).

    Parameters
    ----------
    n_cells
        Ranks in a sample.
    n_draws
        Largest rank.
    """

    def __init__(self, n_cells: int, n_draws: int) -> None:
        self.n_cells = n_cells
        self.below = np.unique(np.linspace(1, n_draws, min(n_draws, _POINTS)).round().astype(np.int64))
        self.points: Floats = self.below / (n_draws + 1)
        counts = np.arange(n_cells + 1)[:, None]
        cumulative: Floats = np.asarray(binom.cdf(counts, n_cells, self.points))  # (counts, points)
        at_least = 1 - np.vstack([np.zeros_like(self.points), cumulative[:-1]])
        self.two_sided: Floats = np.minimum(2 * np.minimum(cumulative, at_least), 1.0)
        shares = np.diff(self.points, prepend=0.0, append=1.0)
        samples = np.random.default_rng(0).multinomial(n_cells, shares, size=_SIMULATED)[:, :-1].cumsum(1)
        self.simulated: Floats = np.sort(self._smallest(samples))

    def counts(self, ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many cells rank below each point; ranks (rows, cells), the result (rows, points)."""
        return np.stack([np.searchsorted(row, self.below) for row in np.sort(ranks, axis=1)])

    def p_values(self, ranks: npt.NDArray[np.int64]) -> Floats:
        """Return the probability of ranks as uneven, (rows,), at least 1 in the number of simulations."""
        at_most = np.searchsorted(self.simulated, self._smallest(self.counts(ranks)), side="right")
        return (1 + at_most) / (1 + _SIMULATED)

    def band(self) -> tuple[Floats, Floats]:
        """Return the lower and upper end of the differences from uniform, (points,) each."""
        tail = float(np.quantile(self.simulated, 1 - BAND)) / 2
        ends = (binom.ppf(q, self.n_cells, self.points) / self.n_cells - self.points for q in (tail, 1 - tail))
        lower, upper = ends
        return lower, upper

    def _smallest(self, counts: npt.NDArray[np.int64]) -> Floats:
        smallest: Floats = self.two_sided[counts, np.arange(len(self.points))].min(1)
        return smallest
