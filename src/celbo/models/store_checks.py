"""What the folder of a saved model holds, checked: it may come from a stranger, or from a disk that fails.

Nothing is built from a number in it before that is known to be one that a saved model can hold, and no size is believed
that the stored weights do not bear out. Every refusal is a `ModelFileError` that names the file.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import safetensors.torch
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from celbo.data.sampler import Split
from celbo.data.schema import DataKeys, Schema
from celbo.errors import ModelFileError, listed
from celbo.files import strict_json
from celbo.training.device import check_seed
from celbo.training.engine import FitResult, Stopped
from celbo.training.guard import MAX_RETRIES
from celbo.training.plan import TrainConfig

__all__ = [
    "FORMAT",
    "HISTORY",
    "MODEL",
    "SPLIT",
    "WEIGHTS",
    "bounded_memory",
    "check_sizes",
    "check_state",
    "damaged",
    "digest",
    "named",
    "read_description",
    "read_fitted",
    "read_schema",
    "read_tensors",
]

FORMAT = 1
WEIGHTS, SPLIT, MODEL, HISTORY = "weights.safetensors", "split.safetensors", "model.json", "history.csv"
_LARGEST_JSON = 256 * 2**20
_LARGEST_HISTORY = 64 * 2**20
_PARTS = {"class": str, "config": dict, "schema": dict, "training": dict, "sha256": dict}
_DIGEST = re.compile("[0-9a-f]{64}")
_MOST_CELLS = 2**40
_MOST_STEPS = 1_000_000
"""Whole numbers that are no sizes, such as the sweeps of a fit, may be as large."""
_SPARE = 4 * 2**20
"""Bytes that building a network may take beside what its weights do."""


def damaged(file: Path, why: str) -> ModelFileError:
    """Return the error of a file that says what no saved model says."""
    return ModelFileError(
        "is damaged, or no model of celbo's",
        where=f"{str(file)!r}",
        value=" ".join(why.split())[:300],
        fix="Take another copy, or save the model again.",
    )


@contextmanager
def named(file: Path) -> Iterator[None]:
    """Let whatever fails in the block say that the file is wrong."""
    try:
        yield
    except ModelFileError:
        raise
    except Exception as error:  # what is built from strange numbers fails in many ways
        text = f"{type(error).__name__}: {error}" if not str(error) or isinstance(error, KeyError) else str(error)
        raise damaged(file, text) from error


# --------------------------------------------------------------------------------------------------------- model.json


def read_description(folder: Path) -> dict[str, Any]:
    """Return `model.json`, once every file is known to be there and to be the one that was saved.

    Raises
    ------
    ModelFileError
        If the folder is none of a model, or a file is missing, damaged, or of another format.
    """
    file = folder / MODEL
    if not file.is_file():
        raise ModelFileError("is not a saved model", where=f"{str(folder)!r}", value=f"it has no {MODEL}",
                             fix="Pass the folder that model.save wrote.")  # fmt: skip
    with named(file):
        if file.stat().st_size > _LARGEST_JSON:
            raise damaged(file, "it is larger than any description of a model")
        description = strict_json(file.read_bytes())
        found = description["format"] if isinstance(description, dict) else None
    if type(found) is not int:
        raise damaged(file, "it is not the description of a model")
    if found != FORMAT:
        raise ModelFileError(f"has format {found!r}", where=f"{str(file)!r}", value=f"this celbo reads format {FORMAT}",
                             fix="Load it with the version that wrote it.")  # fmt: skip
    for name, kind in _PARTS.items():
        if not isinstance(description.get(name), kind):
            raise damaged(file, f"{name!r} is missing or of a wrong kind")
    with named(file):
        check_seed(description.get("seed"))
    _check_digests(folder, description["sha256"])
    return dict(description)


def _check_digests(folder: Path, saved: Mapping[str, Any]) -> None:
    if set(saved) != {WEIGHTS, SPLIT, HISTORY} or not all(_is_digest(value) for value in saved.values()):
        raise damaged(folder / MODEL, "its SHA-256 sums are not those of the files of a model")
    for name, value in saved.items():
        file = folder / name
        fix = "The save was damaged afterwards: take another copy, or save the model again."
        if not file.is_file():
            raise ModelFileError("is missing", where=f"{str(file)!r}", fix=fix)
        with named(file):
            if name == HISTORY and file.stat().st_size > _LARGEST_HISTORY:
                raise damaged(file, "it is larger than any history")
            if digest(file) != value:
                raise ModelFileError("is not the file that was saved", where=f"{str(file)!r}", fix=fix)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_schema(saved: Mapping[str, Any]) -> Schema:
    """Return the schema of a model, once its parts are known to be names.

    Raises
    ------
    ValueError
        If they are not, or do not belong together.
    """
    features, keys = saved["features"], saved["keys"]
    if not isinstance(features, dict) or set(features) != {"rna"}:
        raise ValueError("the schema has other features than genes")
    _check_names("genes", features["rna"])
    for part in ("batches", "labels"):
        _check_names(part, saved[part])
    if not all(isinstance(part, dict) for part in (saved["covariates"], keys)):
        raise ValueError("the schema has covariates or keys of a wrong kind")
    for name, categories in saved["covariates"].items():
        _check_names(f"the categories of {name!r}", categories)
    _check_keys(keys)
    if list(saved["covariates"]) != list(keys.get("categorical_covariate_keys", [])):
        raise ValueError("the schema has categories of other covariates than its keys name")
    for part, key in (("batches", "batch_key"), ("labels", "labels_key")):
        if keys.get(key) is None and len(saved[part]) != 1:
            raise ValueError(f"the schema has several {part} and no {key}")
    return Schema.from_dict(saved)


def _check_names(what: str, names: object) -> None:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what} are not a list of names")
    if len(set(names)) != len(names):
        raise ValueError(f"{what} hold a name twice")


def _check_keys(keys: Mapping[str, Any]) -> None:
    usual = DataKeys()
    unknown = sorted(set(keys) - {f.name for f in fields(DataKeys)})
    if unknown:
        raise ValueError(f"the schema has unknown keys: {listed(unknown)}")
    for name, value in keys.items():
        default = getattr(usual, name)
        if isinstance(default, bool):
            fits = isinstance(value, bool)
        elif isinstance(default, tuple):
            fits = isinstance(value, list) and all(isinstance(column, str) for column in value)
        else:
            fits = value is None or isinstance(value, str)
        if not fits:
            raise ValueError(f"the key {name}={value!r} is of a wrong kind")


def check_sizes(config: Mapping[str, Any], n_bytes: int) -> None:
    """Refuse whole numbers in a configuration that no network with so many bytes of weights can have been built from.

    Raises
    ------
    ValueError
        If there are any.
    """
    most = max(n_bytes, _MOST_STEPS)
    for name, value in config.items():
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, int) and abs(number) > most:
                raise ValueError(f"{name} is {str(number)[:20]}, which is not a size of the stored weights")


# ----------------------------------------------------------------------------------------------- training, its history


def read_fitted(folder: Path, training: Mapping[str, Any]) -> FitResult:
    """Return how a saved model was trained.

    Raises
    ------
    ModelFileError
        If a file says what no training can have said.
    """
    with named(folder / HISTORY):
        history, from_zero = _history(folder / HISTORY)
    with named(folder / SPLIT):
        split = _split(read_tensors(folder / SPLIT))
    with named(folder / MODEL):
        best = _whole("best_epoch", training["best_epoch"], 0, len(history)) + from_zero
        if not 1 <= best <= len(history):
            raise ValueError(f"best_epoch is {best} of {len(history)} epochs")
        if training["stopped"] not in get_args(Stopped):
            raise ValueError(f"training stopped by {training['stopped']!r}")
        return FitResult(
            history=history,
            split=split,
            best_epoch=best,
            stopped=training["stopped"],
            plan=TrainConfig.from_dict(training["plan"]),
            retries=_whole("retries", training["retries"], 0, MAX_RETRIES),
        )


def _whole(name: str, value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, not a whole number from {least} to {most}")
    return value


def _history(file: Path) -> tuple[pd.DataFrame, int]:
    """Return the history, and 1 where its epochs are counted from 0, as in early files."""
    history = pd.read_csv(file, index_col="epoch", float_precision="round_trip")
    if history.empty or history.index.dtype.kind not in "iu" or history.index[0] not in (0, 1):
        raise ValueError("its epochs are not counted from 1")
    from_zero = int(history.index[0] == 0)
    if not np.array_equal(history.index, np.arange(1, len(history) + 1) - from_zero):
        raise ValueError("its epochs do not follow each other")
    wrong = [name for name, kind in history.dtypes.items() if kind.kind not in "iuf"]
    if wrong or np.isinf(history.to_numpy(np.float64)).any():
        raise ValueError(f"it holds what is no number: {listed(wrong) if wrong else 'an infinity'}")
    if "reconstruction_train" not in history:
        raise ValueError("it has no column 'reconstruction_train'")
    history.index = pd.RangeIndex(1, len(history) + 1, name="epoch")
    return history, from_zero


def _split(tensors: Mapping[str, Tensor]) -> Split:
    if set(tensors) != {"train", "validation"}:
        raise ValueError(f"it holds {listed(sorted(tensors))}, not 'train' and 'validation'")
    train, validation = (_positions(name, tensors[name]) for name in ("train", "validation"))
    if not len(train):
        raise ValueError("no cell was trained on")
    if np.intersect1d(train, validation).size:
        raise ValueError("a cell is trained on and held out")
    return Split(train, validation)


def _positions(name: str, tensor: Tensor) -> npt.NDArray[np.int64]:
    if tensor.dtype != torch.int64 or tensor.dim() != 1:
        raise ValueError(f"{name!r} is not a list of positions")
    found: npt.NDArray[np.int64] = tensor.numpy()
    if found.size and (found.min() < 0 or found.max() >= _MOST_CELLS or np.unique(found).size != found.size):
        raise ValueError(f"{name!r} holds a position that is impossible, or one twice")
    return found


# ------------------------------------------------------------------------------------------------------------ weights


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, none of which holds anything but finite numbers."""
    with named(file):
        tensors: dict[str, Tensor] = safetensors.torch.load_file(file)
        wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not _is_finite(tensor)]
        if wrong:
            raise ValueError(f"it holds numbers that are not finite: {listed(sorted(wrong))}")
        return tensors


def _is_finite(tensor: Tensor) -> bool:
    return math.isfinite(float(tensor.double().sum())) or bool(torch.isfinite(tensor).all())


def check_state(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other names or types than a network has, and variances below zero.

    Raises
    ------
    ValueError
        If there are any.
    """
    if other := sorted(saved.keys() ^ expected.keys()):
        raise ValueError(f"it lacks tensors of the model, or has others: {listed(other)}")
    wrong = [name for name, tensor in expected.items() if saved[name].dtype != tensor.dtype]
    variances = [name for name in expected if name.endswith(("running_var", "_variance"))]
    wrong += [name for name in variances if bool((saved[name] < 0).any())]
    if wrong:
        raise ValueError(f"tensors of another type or sign than the model has: {listed(sorted(wrong))}")


class bounded_memory(TorchDispatchMode):  # type: ignore[no-untyped-call]  # noqa: N801 (a context manager)
    """Refuse to build more tensors than so many stored bytes can have come from.

    Parameters
    ----------
    n_bytes
        Bytes of the weights that the network was saved with.

    Raises
    ------
    ValueError
        When a network is built in it that asks for far more, before memory is taken.
    """

    def __init__(self, n_bytes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._left = 4 * n_bytes + _SPARE

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what an operation that makes a tensor from sizes alone will take."""
        first = args[0] if args else None
        if not isinstance(first, Tensor) or func.__name__.startswith("new_"):
            sizes = next((arg for arg in args if isinstance(arg, list | tuple)), None)
            numbers = args if sizes is None else sizes  # (start, end) of a range, or the shape
            known = [abs(n) for n in numbers if isinstance(n, int | float) and math.isfinite(n)]
            self._left -= 8 * int(max(known, default=0) if sizes is None else math.prod(known)) + 64
            if self._left < 0:
                raise ValueError("the sizes in it are not those of the stored weights")
        return func(*args, **(kwargs or {}))
