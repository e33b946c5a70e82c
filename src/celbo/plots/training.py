"""Training curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from celbo.errors import OptionError
from celbo.plots.style import ACCENT, MUTED, SECOND, amounts, legend, new_axes, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_training"]

_TITLES = {"elbo": "nats per cell", "objective": "per cell", "kl": "nats per cell", "learning_rate": "learning rate"}


def plot_training(
    history: pd.DataFrame,
    what: Literal["elbo", "objective", "kl", "learning_rate"] = "elbo",
    *,
    best_epoch: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one quantity of a training history over epochs.

    Parameters
    ----------
    history
        `model.history`: one row an epoch.
    what
        "elbo" or "objective" (training and validation; higher is better; the first epochs, far below the rest, are cut
        off), "kl" (every KL term) or "learning_rate".
    best_epoch
        Marked by a thin line where given: the epoch whose weights were kept.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.
    """
    if what not in _TITLES:
        raise OptionError("does not exist", where="what", value=repr(what), fix=f"Known: {', '.join(_TITLES)}.")
    ax = ax or new_axes(360, 240)
    tidy(ax, x="epoch", y=_TITLES[what])
    drawn = [c for c in _columns(history, what) if history[c].notna().any()]
    for i, column in enumerate(drawn):
        known = history[column].dropna()
        side = "validation" if column.endswith("_validation") else "training"
        ax.plot(
            known.index,
            known.to_numpy(),
            color=ACCENT if side == "training" else SECOND,
            linewidth=1.8,
            linestyle=("-", "--", ":")[min(i // 2, 2)] if what == "kl" else "-",
            label=_label(column, side, what),
            marker="o" if len(known) == 1 else None,
            solid_capstyle="round",
        )
    if what == "learning_rate":
        amounts(ax, "y")
    if what in ("elbo", "objective"):
        _cut_start(ax, history[drawn])
    if best_epoch is not None and len(history) > 1:
        ax.axvline(best_epoch, color=MUTED, linewidth=1, linestyle=(0, (2, 3)), label="kept")
    if what != "learning_rate" and drawn:
        legend(ax, loc="best")
    return ax


def _columns(history: pd.DataFrame, what: str) -> list[str]:
    start = what if what == "learning_rate" else f"{what}_"
    return [str(c) for c in history if str(c).startswith(start) and c != "kl_weight"]


def _label(column: str, side: str, what: str) -> str:
    term = column.removeprefix("kl_").rsplit("_", 1)[0]
    return side if what != "kl" or term == "z" else f"{term}, {side}"


def _cut_start(ax: Axes, curves: pd.DataFrame) -> None:
    """Start the y-axis where the curves are after a twelfth of training, so that their end can be read."""
    values = curves.to_numpy(np.float64)
    later = values[len(values) // 12 :]
    later, high = later[np.isfinite(later)], values[np.isfinite(values)].max(initial=-np.inf)
    if later.size and np.isfinite(high) and high > later.min():
        room = 0.06 * (high - later.min())
        ax.set_ylim(later.min() - room, high + room)
