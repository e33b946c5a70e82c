"""The run that fits a data set, as a command and as a call, and what it will take on this machine."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Forecast", "call_of", "command_of", "forecast"]

_ENDINGS = (".gz", ".h5ad", ".zarr", ".h5mu", ".h5", ".hdf5", ".loom", ".csv", ".tsv", ".txt", ".tab", ".mtx")


def command_of(files: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Return the run as a line for a shell.

    Parameters
    ----------
    files
        Files of counts.
    settings
        Settings of the run, by name; a None is given as "none", which takes the default.
    """
    words = ["celbo", "run", *files]
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        else:
            values = value if isinstance(value, (list, tuple)) else (value,)
            words += [word for each in values for word in (flag, "none" if each is None else str(each))]
    return shlex.join([*words, "--out", _folder(files[0])])


def call_of(settings: Mapping[str, Any]) -> str:
    """Return the run as a call of Python, on an AnnData named adata, with what comes before it."""
    kept = {name: value for name, value in settings.items() if name in {"layer", "batch_key", "labels_key"} and value}
    layer = f", layer={settings['layer']!r}" if settings.get("layer") else ""
    before = []
    if settings.get("round_counts"):
        before.append(f"adata = celbo.round_counts(adata{layer})")
    if settings.get("min_counts"):
        before.append(f"adata = celbo.filter_cells(adata, min_counts={settings['min_counts']}{layer})")
    keywords = "".join(f", {name}={value!r}" for name, value in kept.items())
    return "; ".join([*before, f'celbo.run(adata{keywords}, out="celbo_run")'])


def _folder(file: str) -> str:
    """Return a name for the folder of a run: that of the file without its ending, and free."""
    name = Path(file).name or "celbo"
    while Path(name).suffix.lower() in _ENDINGS:
        name = Path(name).stem
    made = f"{name}_run"
    taken = (f"{made}_{i}" for i in range(2, 1000))
    while Path(made).exists():
        made = next(taken)
    return made


# ------------------------------------------------------------------------------------------------- minutes and memory


@dataclass(frozen=True)
class Forecast:
    """What the main job will take: an estimate from runs on other data."""

    seconds_from: float
    seconds_to: float
    memory_bytes: int
    basis: str
    """What the estimate rests on."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        low, high = self.seconds_from / 60, self.seconds_to / 60
        if high < 1:
            minutes = "less than a minute"
        elif high < 90:
            low, high = max(1, round(low)), max(1, round(high))
            minutes = f"about {low} to {high} minutes" if low < high else f"about {high} minute{'s' * (high > 1)}"
        else:
            minutes = f"about {low / 60:.1f} to {high / 60:.1f} hours"
        memory = f"{self.memory_bytes / 1e9:.1f} GB of memory"
        free = _memory()
        more = f" (this machine has {free / 1e9:.1f})" if free else ""
        return f"{minutes} and {memory}{more}: {self.basis}"


_START, _CELL, _VALUE = 40.0, 6.4e-3, 1e-6
"""Seconds of one core for a run, a cell and a stored value: 55 s for 2,000 cells with 1.4 million values, 77 s for
4,870 with 5.1 million, 90 s for 7,564 with 2.2 million, all measured beside other work, which makes them long."""
_BASE, _BYTES_VALUE, _BYTES_CELL = 0.85e9, 80.0, 10e3
"""Bytes at the peak: of the program, a stored value and a cell; a quarter above the 0.82, 1.07 and 0.91 GB of these."""


def forecast(*, n_cells: int, n_stored: int) -> Forecast:
    """Estimate what the main job takes with its defaults and without a GPU, from runs on real data.

    Parameters
    ----------
    n_cells, n_stored
        Cells, and values that are not zero.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    seconds = (_START + _CELL * n_cells + _VALUE * n_stored) * (1.5 if cores == 1 else 1.0)
    memory = int(_BASE + _BYTES_VALUE * n_stored + _BYTES_CELL * n_cells)
    basis = (
        "an estimate without a GPU, from runs on 2,000 to 7,600 cells on two cores; beside other work it takes longer"
    )
    return Forecast(0.5 * seconds, 1.5 * seconds, memory, basis)


def _memory() -> int:
    """Return the memory of the machine in bytes, 0 where that is not known."""
    if sys.platform == "win32":
        return 0
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0
