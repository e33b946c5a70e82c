"""How long a command has taken, as its user counts: from the start of the process, imports and all."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["seconds_since_start", "start"]

_began = time.monotonic()


def start(*, with_process: bool) -> None:
    """Begin to count: now, or when the process began, where the command is all that it does."""
    global _began  # noqa: PLW0603 (a process has one start)
    _began = time.monotonic() - (_age_of_process() if with_process else 0.0)


def seconds_since_start() -> float:
    """Return the wall seconds since the command began."""
    return time.monotonic() - _began


def _age_of_process() -> float:
    """Return the age of this process in seconds, where the system tells it as Linux does; else that of this module."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # the name before may hold spaces
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - _began
