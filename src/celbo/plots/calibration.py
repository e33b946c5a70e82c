"""Figures of a calibration: how often intervals hold the truth, and whether its ranks are uniform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import pandas as pd

from celbo.errors import OptionError, listed
from celbo.plots.style import ACCENT, INK, SECOND, legend, new_axes, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_calibration"]

_LOOK = {
    "expression": (ACCENT, "expression"),
    "latent": (SECOND, "latent state"),
    "library_size": ("#009e73", "library size"),
    "log_likelihood": ("#9c3b4f", "log likelihood"),
}
_LEVELS = np.linspace(0.02, 0.98, 49)
_ERRORS = 2.0
"""Standard errors that the shade around a curve spans on either side."""


class Calibrated(Protocol):
    """What the figures ask of the result of `celbo.evaluate.calibration`."""

    def coverage_at(self, levels: Sequence[float]) -> pd.DataFrame:
        """Return coverage and standard error at levels."""

    def rank_differences(self) -> pd.DataFrame:
        """Return how far ranks are from uniform, with the band."""


def plot_calibration(
    calibration: Calibrated,
    what: Literal["coverage", "ranks"] = "coverage",
    *,
    source: Literal["cells", "prior"] | None = None,
    posterior: Literal["q", "importance"] = "q",
    ax: Axes | None = None,
) -> Axes:
    """Draw how far the intervals of a model can be trusted.

    "coverage": how often central credible intervals hold the truth, against how often they say they do. Below the line
    of equality they are too narrow. The shade is two standard errors over cells.

    "ranks": how far the ranks of the truth among draws of the posterior are from uniform, a line a quantity, with the
    band that a right posterior leaves in 1% of tests. Above it on the left and below it on the right, intervals are too
    narrow; above it throughout, the posterior is too high; below it throughout, too low.

    Parameters
    ----------
    calibration
        `celbo.evaluate.calibration(model)`.
    what
        The figure.
    source
        Simulated cells like those of the data ("cells"), or from the prior; None is "cells" for the coverage and
        "prior" for the ranks, of which theory speaks, where there are both.
    posterior
        The network's q, or its draws resampled by importance weights.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.

    Raises
    ------
    OptionError
        If there is no such figure, source or posterior.
    """
    if what == "coverage":
        table = _only(calibration.coverage_at(_LEVELS.tolist()), source, posterior, "cells")
        return _draw_coverage(ax or new_axes(320, 310), table)
    if what == "ranks":
        return _draw_ranks(ax or new_axes(400, 290), _only(calibration.rank_differences(), source, posterior, "prior"))
    raise OptionError("does not exist", where="what", value=repr(what), fix="Known: coverage, ranks.")


def _draw_coverage(ax: Axes, table: pd.DataFrame) -> Axes:
    tidy(ax, x="level of the interval", y="share of cells whose truth it holds", grid="both")
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
    for quantity, curve in table[table["quantity"] != "log_likelihood"].groupby("quantity", sort=False):
        color, name = _LOOK[str(quantity)]
        level, held = curve["level"].to_numpy(), curve["coverage"].to_numpy()
        error = _ERRORS * curve["standard_error"].to_numpy()
        ax.fill_between(level, held - error, held + error, color=color, alpha=0.18, linewidth=0)
        ax.plot(level, held, color=color, linewidth=1.8, label=name, solid_capstyle="round")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    legend(ax, loc="upper left")
    return ax


def _draw_ranks(ax: Axes, table: pd.DataFrame) -> Axes:
    tidy(ax, x="share of the posterior", y="cells with the truth below it, less that share")
    for quantity, lines in table.groupby("quantity", sort=False):
        color, name = _LOOK[str(quantity)]
        alone = lines["name"].nunique() == 1
        for number, (_, line) in enumerate(lines.groupby("name", sort=False)):
            ax.plot(
                line["point"],
                line["difference"],
                color=color,
                linewidth=1.8 if alone else 0.9,
                alpha=1.0 if alone else 0.5,
                label="_" if number else name,
            )
    band = table.drop_duplicates("point")
    for side in ("lower", "upper"):
        label = "99% band" if side == "upper" else "_"
        ax.plot(band["point"], band[side], color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label=label)
    ax.set_xlim(0, 1)
    legend(ax, loc="best")
    return ax


def _only(table: pd.DataFrame, source: str | None, posterior: str, usual: str) -> pd.DataFrame:
    """Return the rows of one source and posterior; where no source is asked for, the usual one or the only one."""
    known = list(table[["source", "posterior"]].drop_duplicates().itertuples(index=False, name=None))
    if source is None:
        source = usual if usual in {s for s, _ in known} else known[0][0]
    if (source, posterior) not in known:
        raise OptionError(
            "was not asked of the model",
            where=f"source={source!r}, posterior={posterior!r}",
            fix=f"There is {listed(f'{s}, {p}' for s, p in known)}.",
        )
    return table[(table["source"] == source) & (table["posterior"] == posterior)]
