"""What a user sees while training goes on: a bar on a terminal, a line at each tenth of the way elsewhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from celbo.errors import logger_of, say
from celbo.training.history import monitored

__all__ = ["Progress", "logger"]

logger = logger_of("celbo.training")
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
_COLD_STEPS = 10
"""Steps in which kernels are compiled and caches filled: no time is told by them."""
_REDRAW = 0.2
"""Seconds between two texts beside the bar."""


class Progress:
    """Progress of one run.

    The time that is left is told once there is something to tell it by: what the first steps take is compiling.

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
        self._n_epochs, self._n_cells, self._done, self._before = n_epochs, n_cells, done, done
        self._steps, self._cells = 0, 0
        self._mark: tuple[float, int] | None = None
        self._last = self._drawn = time.perf_counter()
        self._text = ""
        self._bar: tqdm[Any] | None = None
        self._sparse = show is None
        if _has_watcher() if show is None else show:
            total, initial = n_epochs * n_cells, done * n_cells
            self._bar = tqdm(total=total, unit=" cells", unit_scale=True, initial=initial, bar_format=_BAR)
            self.rewind()

    def step(self, n_cells: int) -> None:
        """Count the cells of one step."""
        self._steps += 1
        self._cells += n_cells
        self._last = time.perf_counter()
        if self._steps == _COLD_STEPS and self._mark is None:
            self._mark = (self._last, self._cells)
        if self._bar is None:
            return
        if self._last - self._drawn > _REDRAW:
            self._drawn = self._last
            self._bar.set_postfix_str(self._told(), refresh=False)
        self._bar.update(n_cells)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Show the row of history of an epoch that is done."""
        self._done += 1
        self._cells = (self._done - self._before) * self._n_cells
        self._text = _elbo_text(row)
        is_first, now = self._done - self._before == 1, time.perf_counter()
        self._last = self._last if is_first else now
        told = self._told()
        if is_first:  # what follows is measured from here: now validation is compiled, too
            self._mark, self._last = (now, self._cells), now
        if self._bar is not None:
            self.rewind()
            self._bar.set_postfix_str(told, refresh=False)
            return
        if self._sparse and not self._is_tenth():
            return
        text = f"epoch {self._done}/{self._n_epochs}: {told}"
        if self._sparse and not logger.isEnabledFor(logging.INFO):
            say(text, file=sys.stderr)
        else:
            logger.info("%s", text)

    def _is_tenth(self) -> bool:
        """Whether the epoch that is done is the first, the last, or the first beyond a tenth of the way."""
        ten = 10 * self._done // max(1, self._n_epochs)
        return self._done in {1, self._n_epochs} or ten > 10 * (self._done - 1) // max(1, self._n_epochs)

    def rewind(self) -> None:
        """Put the bar at the beginning of the epoch that comes next."""
        self._cells = (self._done - self._before) * self._n_cells
        if self._bar is not None:
            self._bar.n = self._done * self._n_cells
            following = min(self._done + 1, self._n_epochs)
            self._bar.set_description(f"epoch {following}/{self._n_epochs}", refresh=False)

    def close(self) -> None:
        """Leave the terminal as it should be."""
        if self._bar is not None:
            self._bar.close()

    def _told(self) -> str:
        """Return ELBO, speed and the time that is left, as far as they are known."""
        speed = self._speed()
        if speed is None:
            return self._text
        left = ((self._n_epochs - self._before) * self._n_cells - self._cells) / speed
        parts = (self._text, f"{speed:,.0f} cells/s", f"{tqdm.format_interval(left)} left")
        return ", ".join(part for part in parts if part)

    def _speed(self) -> float | None:
        """Return cells a second since the first steps of the first epoch, then since its end; None before."""
        if self._mark is None:
            return None
        seconds, cells = self._last - self._mark[0], self._cells - self._mark[1]
        return cells / seconds if seconds > 0 and cells > 0 else None


def _elbo_text(row: Mapping[str, float]) -> str:
    held_out = monitored(row)
    name = "objective" if "objective_train" in row else "ELBO"
    return f"{name} {monitored(row, 'train'):.2f}" + ("" if math.isnan(held_out) else f", held out {held_out:.2f}")


def _has_watcher() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules
