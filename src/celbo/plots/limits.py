"""Limits of axes that a few odd values cannot stretch, and what is told of the values outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from celbo.plots.style import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Limits", "limits_of", "log_axis"]

_FEWEST = 20
"""Fewer values than this are all drawn: none of them is odd beside so few others."""
_TAIL = 0.05
"""Share of the values beyond each end of the bulk."""


@dataclass(frozen=True)
class Limits:
    """The ends of an axis, and the values beyond them."""

    low: float
    high: float
    n_below: int = 0
    n_above: int = 0
    lowest: float = float("nan")
    highest: float = float("nan")

    def told(self, what: str = "cells") -> str:
        """Return what is not drawn, in words; "" where all is."""
        parts = []
        for n, side, end, far in (
            (self.n_below, "below", self.low, self.lowest), (self.n_above, "above", self.high, self.highest),
        ):  # fmt: skip
            if n:
                noun = what.removesuffix("s") if n == 1 else what
                reach = f"at {short(far)}" if n == 1 else f"to {short(far)}"
                parts.append(f"{n:,} {noun} {side} {short(end)} ({reach})")
        return " and ".join(parts) + " not drawn" if parts else ""

    def inside(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Return which values are on the axis."""
        numbers = np.asarray(values, np.float64)
        return np.asarray((numbers >= self.low) & (numbers <= self.high))


def limits_of(values: ArrayLike, *, log: bool = False, reach: float = 1.0) -> Limits:
    """Return the limits of an axis: all values, but for those far from the bulk.

    The bulk is the middle nine tenths; an axis goes at most `reach` times its width further on either side. With 1, it
    leaves out one in a million normal values, and three in a thousand exponential ones.

    Parameters
    ----------
    values
        Numbers of any shape, those that are not finite (or, with `log`, not positive) are passed over.
    log
        Whether the axis is logarithmic: the width is one of the logarithms.
    reach
        Widths of the bulk.
    """
    kept = np.asarray(values, np.float64).ravel()
    kept = kept[np.isfinite(kept) & ((kept > 0) | (not log))]
    if not kept.size:
        return Limits(0.1 if log else 0.0, 1.0)
    low, high = float(kept.min()), float(kept.max())
    if kept.size < _FEWEST:
        return Limits(low, high)
    scaled = np.log(kept) if log else kept
    left = float(np.quantile(scaled, _TAIL, method="higher"))
    right = float(np.quantile(scaled, 1 - _TAIL, method="lower"))
    further = reach * (right - left) or 0.1 * max(abs(right), 1.0)
    ends = np.array([left - further, right + further])
    first, last = (float(end) for end in (np.exp(ends) if log else ends))
    first, last = max(first, low), min(last, high)
    return Limits(first, last, int((kept < first).sum()), int((kept > last).sum()), low, high)


def log_axis(ax: Axes, axis: Literal["x", "y"], limits: Limits) -> None:
    """Make an axis logarithmic, with ticks at 1, 2 and 5 where it is short."""
    from matplotlib.ticker import LogLocator, NullLocator

    ax.set(**{f"{axis}scale": "log"})
    ticks = ax.xaxis if axis == "x" else ax.yaxis
    ticks.set_major_locator(LogLocator(subs=(1, 2, 5) if limits.high < 300 * limits.low else (1,)))
    ticks.set_minor_locator(NullLocator())
