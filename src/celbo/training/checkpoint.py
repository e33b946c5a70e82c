"""Checkpoints: what a run is between two epochs, written as one folder that is there whole or not at all.

    checkpoints/epoch-000012/     twelve epochs are done
        weights.safetensors       the network as it is, with the buffers of batch norm
        best.safetensors          the network as it was at its best held-out ELBO
        optimizer.safetensors     "parameter name/state name"
        state.json                where the run stands, what run it is, and the SHA-256 of the three files and of itself

Random numbers need no state: all of them are functions of seed and epoch. The last two checkpoints are kept, so that
one that a disk has damaged costs a minute and not the run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from celbo.errors import CelboWarning, ModelFileError, OptionError, WriteError, listed
from celbo.files import atomic_folder, named_errors, remove_folder, remove_own, remove_temporary, strict_json
from celbo.locks import alone
from celbo.training.guard import MAX_RETRIES
from celbo.training.history import TIMING_COLUMNS

__all__ = ["FORMAT_VERSION", "SECONDS_BETWEEN", "CheckpointFolder", "Snapshot", "check_tensors", "remove_checkpoints"]

FORMAT_VERSION = 1
KEEP = 2
SECONDS_BETWEEN = 60.0
"""Between checkpoints, where the plan names no number of epochs."""
_TENSORS = ("weights", "best", "optimizer")
_COUNTS = ("epoch", "step", "best_epoch", "retries")
_COLUMNS = {"reconstruction_train", *TIMING_COLUMNS}
_STATE = "state.json"
_FILES = {_STATE, *(f"{name}.safetensors" for name in _TENSORS)}
_NAME = re.compile(r"epoch-(\d{6,})")
_MOST = 2**53
_MAX_STATE_BYTES = 256 * 2**20

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Snapshot:
    """A run between two epochs: all that the next epoch depends on."""

    weights: Tensors
    best: Tensors
    """The weights of `best_epoch`; those of `weights` where no cell is held out."""
    optimizer: Tensors
    epoch: int = 0
    """Epochs that are done."""
    step: int = 0
    """Steps that are done."""
    best_epoch: int = -1
    """Epoch of the best held-out ELBO, from 0 (the last epoch where no cell is held out); -1 before the first."""
    retries: int = 0
    """How often the run went back because of numbers that are not finite; each time halved the learning rate."""
    rows: tuple[dict[str, float], ...] = ()
    """The history, one row an epoch."""


class CheckpointFolder:
    """The folder with the checkpoints of one run.

    Parameters
    ----------
    folder
        Its path; it is made when the first checkpoint is written.
    identity
        What makes the run this run (seed, plan, data, network, ...), as plain values: two runs with equal identities
        take the same steps.
    conditions
        What may change the last bits of the numbers but not the run (threads, device, versions).
    """

    def __init__(
        self, folder: str | Path, *, identity: Mapping[str, Any], conditions: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = Path(folder)
        self._identity = _as_json(identity)
        self._conditions = _as_json(conditions or {})
        self._written = time.monotonic()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder and hold its lock while the block runs; it goes again where nothing was written.

        Raises
        ------
        WriteError
            It cannot be made, is a file, or another process writes to it.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise WriteError("is a file, not a folder for checkpoints", where=f"{str(self.folder)!r}")
        was_there = self.folder.exists()
        with named_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with alone(self.folder):
                yield
        finally:
            if not was_there:
                with suppress(OSError):
                    self.folder.rmdir()

    def open(self, *, resume: bool, fits: Callable[[Snapshot], object] | None = None) -> Snapshot | None:
        """Return the newest readable checkpoint to go on from, or None to begin.

        Parameters
        ----------
        resume
            Whether there may be one of this run.
        fits
            Raises a `ModelFileError` where the run cannot go on from a snapshot.

        Raises
        ------
        OptionError
            The folder holds another run, or this one while `resume` is False.
        ModelFileError
            There are checkpoints, and none can be read.
        """
        found = self._found()
        if not found:
            return None
        snapshot, state = self._newest(found, fits)
        if not resume:
            raise OptionError(
                f"already holds {snapshot.epoch} epochs of this very run",
                where=f"checkpoint_dir {str(self.folder)!r}",
                fix="Pass resume=True to go on from there, or another folder to begin anew.",
            )
        self._warn_of_conditions(state["conditions"])
        remove_temporary(self.folder)
        return snapshot

    def is_due(self, epoch: int, every: int | None) -> bool:
        """Say whether a checkpoint should be written now that so many epochs are done.

        Parameters
        ----------
        epoch
            Epochs that are done.
        every
            Epochs between checkpoints; None is by time: `SECONDS_BETWEEN` since the last one, or since the beginning.
        """
        if every is not None:
            return epoch % every == 0
        return time.monotonic() - self._written >= SECONDS_BETWEEN

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint, then drop all but the last two; raises `WriteError` if it cannot be written."""
        path = self.folder / f"epoch-{snapshot.epoch:06d}"
        contents = {f"{name}.safetensors": _to_bytes(getattr(snapshot, name)) for name in _TENSORS}
        state = {
            "format_version": FORMAT_VERSION,
            **{name: getattr(snapshot, name) for name in _COUNTS},
            "history": [{k: v if math.isfinite(v) else None for k, v in row.items()} for row in snapshot.rows],
            "identity": self._identity,
            "conditions": self._conditions,
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        }
        state["checksum"] = _checksum(state)
        contents["state.json"] = (json.dumps(state, indent=1, allow_nan=False) + "\n").encode()
        with atomic_folder(path) as temporary:
            for name, content in contents.items():
                (temporary / name).write_bytes(content)
        for old in [p for p in self._found() if p != path][KEEP - 1 :]:
            _remove(old)
        self._written = time.monotonic()

    def holds(self, epoch: int) -> bool:
        """Say whether there is a checkpoint of so many epochs."""
        return (self.folder / f"epoch-{epoch:06d}").is_dir()

    def _found(self) -> list[Path]:
        """Return the checkpoints, newest first."""
        if not self.folder.is_dir():
            return []
        return sorted(_checkpoints(self.folder), key=lambda p: int(p.name[6:]), reverse=True)

    def _newest(self, found: list[Path], fits: Callable[[Snapshot], object] | None) -> tuple[Snapshot, dict[str, Any]]:
        first: ModelFileError | None = None
        for path in found:
            try:
                snapshot, state = _read(path)
                self._refuse_other_run(state["identity"])
                if fits is not None:
                    fits(snapshot)
            except ModelFileError as error:
                first = first or _of_checkpoint(error, path)
                continue
            if first is not None:
                warnings.warn(f"{first} Going on from {path.name} instead.", CelboWarning, stacklevel=4)
            return snapshot, state
        assert first is not None
        raise ModelFileError(
            first.what, where=first.where, value=first.value,
            fix=first.fix or "Remove it to begin anew, or choose another folder.",
        )  # fmt: skip

    def _refuse_other_run(self, saved: Mapping[str, Any]) -> None:
        here, there = _flat(self._identity), _flat(saved)
        differing = [
            f"{key} is {_short(there, key)} there and {_short(here, key)} here"
            for key in sorted(here.keys() | there.keys())
            if here.get(key, _short) != there.get(key, _short)
        ]
        if differing:
            raise OptionError(
                "holds the checkpoints of a different run",
                where=f"checkpoint_dir {str(self.folder)!r}",
                value="; ".join(differing[:10]) + (f"; and {len(differing) - 10} more" if len(differing) > 10 else ""),
                fix="Use another folder, or train with the data, options and seed of that run.",
            )

    def _warn_of_conditions(self, saved: Mapping[str, Any]) -> None:
        changed = sorted(k for k, v in self._conditions.items() if saved.get(k) != v)
        if changed:
            values = ", ".join(f"{k} was {saved.get(k)!r} and is {self._conditions[k]!r}" for k in changed)
            text = f"training resumes, but not to the last bit as if it had never stopped: {values}."
            warnings.warn(text, CelboWarning, stacklevel=4)


def remove_checkpoints(folder: str | Path) -> None:
    """Remove the checkpoints in a folder, and the folder where nothing else is in it; nothing happens without one."""
    folder = Path(folder)
    if not folder.is_dir():
        return
    with alone(folder):
        for path in _checkpoints(folder):
            _remove(path)
        remove_temporary(folder)
    with suppress(OSError):
        folder.rmdir()


def _checkpoints(folder: Path) -> list[Path]:
    """Return the folders that hold a checkpoint, or what is left of one."""
    return [p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir() and _FILES & set(os.listdir(p))]  # noqa: PTH208


def _remove(path: Path) -> None:
    """Remove a checkpoint, and nothing that somebody has put beside its files."""
    if set(os.listdir(path)) <= _FILES:  # noqa: PTH208
        remove_folder(path)
    else:
        remove_own(path, _FILES.__contains__)


def _to_bytes(tensors: Tensors) -> bytes:
    content: bytes = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    return content


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise OptionError("must be plain JSON values", where="fingerprint", value=str(error)) from error
    return plain


def _checksum(state: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in state.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _short(flat: Mapping[str, Any], key: str) -> str:
    text = repr(flat[key]) if key in flat else "missing"
    return text if len(text) <= 60 else text[:57] + "..."


def _of_checkpoint(error: ModelFileError, path: Path) -> ModelFileError:
    """Return the error with the path of its checkpoint in it."""
    if str(path) in error.where:
        return error
    where = f"{str(path)!r}, {error.where}," if error.where else f"{str(path)!r}"
    return ModelFileError(error.what, where=where, value=error.value, fix=error.fix)


def _read(path: Path) -> tuple[Snapshot, dict[str, Any]]:
    state = _read_state(path / _STATE)
    rows = tuple({k: math.nan if v is None else float(v) for k, v in row.items()} for row in state["history"])
    numbers: dict[str, int] = {name: state[name] for name in _COUNTS}
    weights, best, optimizer = (_read_tensors(path / f"{name}.safetensors", state) for name in _TENSORS)
    return Snapshot(weights, best, optimizer, rows=rows, **numbers), state


def _read_state(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_STATE_BYTES:
            raise _damaged(path, "it is larger than any state can be")
        state = strict_json(path.read_bytes())
    except (OSError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise _damaged(path, str(error)) from error
    if not isinstance(state, dict) or type(state.get("format_version")) is not int:
        raise _damaged(path, "it is not the state of a run")
    if state["format_version"] != FORMAT_VERSION:
        raise ModelFileError(
            "is of another format",
            where=f"checkpoint {str(path)!r}",
            value=f"version {state['format_version']!r}, this celbo reads {FORMAT_VERSION}",
            fix="Resume with the celbo that wrote it.",
        )
    if state.get("checksum") != _checksum(state):
        raise _damaged(path, "its checksum does not fit its content")
    _check_fields(path, state)
    return state


def _check_fields(path: Path, state: Mapping[str, Any]) -> None:
    """Refuse what a right checksum does not rule out: a file that someone else made."""
    counts = {name: state.get(name) for name in _COUNTS}
    mappings = [state.get(name) for name in ("identity", "conditions", "sha256")]
    rows = state.get("history")
    good = (
        all(type(count) is int and -(name == "best_epoch") <= count < _MOST for name, count in counts.items())
        and all(isinstance(mapping, dict) for mapping in mappings)
        and isinstance(rows, list)
        and all(map(_is_row, rows))
        and len(rows) == state["epoch"] > state["best_epoch"]
        and state["retries"] <= MAX_RETRIES
    )
    if not good:
        raise _damaged(path, "it lacks a part of the state, or has one of a wrong kind")


def _is_row(row: object) -> bool:
    numbers = isinstance(row, dict) and all(v is None or _is_number(v) for v in row.values())
    return numbers and row.keys() >= _COLUMNS  # type: ignore[attr-defined]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _read_tensors(path: Path, state: Mapping[str, Any]) -> Tensors:
    try:
        content = path.read_bytes()
    except (OSError, MemoryError) as error:
        raise _damaged(path, str(error)) from error
    if hashlib.sha256(content).hexdigest() != state["sha256"].get(path.name):
        raise _damaged(path, "its SHA-256 is not the one in state.json")
    try:
        tensors: Tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _damaged(path, str(error)) from error
    wrong = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if wrong:
        raise _damaged(path, f"it holds numbers that are not finite: {listed(sorted(wrong))}")
    return tensors


def _damaged(path: Path, why: str) -> ModelFileError:
    return ModelFileError("cannot be read", where=f"checkpoint {str(path)!r}", value=why)


def check_tensors(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors whose names or shapes are not the expected ones with a `ModelFileError` that lists them."""
    wrong = [name for name in expected.keys() | saved.keys() if _shape(saved, name) != _shape(expected, name)]
    if wrong:
        raise ModelFileError("do not fit the network", where=f"its {what}", value=listed(sorted(wrong)))


def _shape(tensors: Mapping[str, Tensor], name: str) -> object:
    return (tuple(tensors[name].shape), tensors[name].dtype) if name in tensors else None
