"""What a user sees while training goes on: a bar on a terminal, a line at each tenth of the way elsewhere."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from celbo.training.history import monitored

__all__ = ["Progress", "logger"]

logger = logging.getLogger("celbo.training")


class Progress:
    """Progress of one run.

    Parameters
    ----------
    show
        True draws a bar, False logs a line an epoch. None draws a bar on a terminal and in a notebook; elsewhere it
        logs a line at each tenth of the way, or writes it to standard error where the script shows no log.
    n_epochs, n_cells
        Length of the run, and training cells an epoch.
    done
        Epochs that are already done.
    """

    def __init__(self, *, show: bool | None, n_epochs: int, n_cells: int, done: int = 0) -> None:
        self._n_epochs, self._n_cells, self._done = n_epochs, n_cells, done
        self._bar: tqdm[Any] | None = None
        self._sparse = show is None
        if _has_watcher() if show is None else show:
            self._bar = tqdm(total=n_epochs * n_cells, unit=" cells", unit_scale=True, initial=done * n_cells)
            self.rewind()

    def step(self, n_cells: int) -> None:
        """Count the cells of one step."""
        if self._bar is not None:
            self._bar.update(n_cells)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Show the row of history of an epoch that is done."""
        self._done += 1
        if self._bar is not None:
            self.rewind()
            self._bar.set_postfix_str(_elbo_text(row), refresh=False)
            return
        if self._sparse and not self._is_tenth():
            return
        left = row["seconds"] * (self._n_epochs - self._done)
        speed = row["cells_per_second"]
        text = f"epoch {self._done}/{self._n_epochs}: {_elbo_text(row)}, {speed:,.0f} cells/s"
        text += f", {tqdm.format_interval(left)} left"
        if self._sparse and not logger.isEnabledFor(logging.INFO):
            print(text, file=sys.stderr, flush=True)
        else:
            logger.info("%s", text)

    def _is_tenth(self) -> bool:
        """Whether the epoch that is done is the first, the last, or the first beyond a tenth of the way."""
        ten = 10 * self._done // max(1, self._n_epochs)
        return self._done in {1, self._n_epochs} or ten > 10 * (self._done - 1) // max(1, self._n_epochs)

    def rewind(self) -> None:
        """Put the bar at the beginning of the epoch that comes next."""
        if self._bar is not None:
            self._bar.n = self._done * self._n_cells
            following = min(self._done + 1, self._n_epochs)
            self._bar.set_description(f"epoch {following}/{self._n_epochs}", refresh=False)

    def close(self) -> None:
        """Leave the terminal as it should be."""
        if self._bar is not None:
            self._bar.close()


def _elbo_text(row: Mapping[str, float]) -> str:
    held_out = monitored(row)
    name = "objective" if "objective_train" in row else "ELBO"
    return f"{name} {monitored(row, 'train'):.2f}" + ("" if math.isnan(held_out) else f", held out {held_out:.2f}")


def _has_watcher() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules
