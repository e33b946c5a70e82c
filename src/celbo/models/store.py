"""Models on disk: a folder with weights, configuration, schema, history and split. No pickle."""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import safetensors
import safetensors.torch
import torch

from celbo import __version__
from celbo.data.cells import open_anndata
from celbo.data.sampler import Split
from celbo.data.schema import Schema
from celbo.errors import InputError, ModelFileError, OptionError, nearest
from celbo.files import atomic_folder
from celbo.models.options import check_config, config_dict, requires_counts
from celbo.training.engine import FitResult
from celbo.training.plan import TrainConfig

if TYPE_CHECKING:
    from anndata import AnnData

    from celbo.models.base import Model

__all__ = ["class_names", "load", "model_class", "save_model"]

FORMAT = 1
_CLASSES = {
    "AutoImpute": "celbo.models.autoimpute",
    "Autoencoder": "celbo.models.autoencoder",
    "DCA": "celbo.models.dca",
    "HPF": "celbo.models.hpf",
    "LDVAE": "celbo.models.ldvae",
    "SCVAE": "celbo.models.scvae",
    "SCVI": "celbo.models.scvi",
    "SCVIS": "celbo.models.scvis",
    "VAE": "celbo.models.vae",
    "VASC": "celbo.models.vasc",
}
"""Every system, and the file that describes it."""
_WEIGHTS, _SPLIT, _MODEL, _HISTORY = "weights.safetensors", "split.safetensors", "model.json", "history.csv"
_LARGEST_JSON = 256 * 2**20


def save_model(model: Model[Any], path: Path, *, overwrite: bool = False) -> Path:
    """Write a trained model into the folder `path`, whole or not at all."""
    fitted = model._trained()
    if path.exists() and not overwrite:
        raise InputError("exists already", where=str(path), fix="Pass overwrite=True, or another folder.")
    if path.exists() and not (path / _MODEL).exists():
        raise InputError("is not a saved model, so it is not replaced", where=str(path), fix="Choose another folder.")
    with atomic_folder(path) as folder:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.network.state_dict().items()}
        safetensors.torch.save_file(state, folder / _WEIGHTS)
        split = {"train": torch.from_numpy(fitted.split.train), "validation": torch.from_numpy(fitted.split.validation)}
        safetensors.torch.save_file(split, folder / _SPLIT)
        fitted.history.to_csv(folder / _HISTORY)
        digests = {name: _digest(folder / name) for name in (_WEIGHTS, _SPLIT, _HISTORY)}
        (folder / _MODEL).write_text(json.dumps({**_description(model, fitted), "sha256": digests}, indent=1))
    return path


def _description(model: Model[Any], fitted: FitResult) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "celbo": __version__,
        "class": type(model).__name__,
        "config": config_dict(model.config),
        "schema": model.schema.to_dict(),
        "seed": model.seed,
        "training": {
            "plan": asdict(fitted.plan),
            "best_epoch": fitted.best_epoch,
            "stopped": fitted.stopped,
            "retries": fitted.retries,
        },
    }


def load(path: str | Path, adata: AnnData | None = None, *, layer: str | None = None) -> Model[Any]:
    """Load a saved model.

    Parameters
    ----------
    path
        Folder that `save` wrote.
    adata
        Cells to bind to the model: those it was trained on, or others with the same genes. Genes in another order
        are reordered. None loads the model alone; every getter then needs its own `adata`.
    layer
        Layer of `adata` with the counts, "X" for `adata.X`; None is the one that the model was trained on, or `X` where
        these cells do not have it and `X` holds counts.

    Raises
    ------
    ModelFileError
        The folder is missing, damaged, or of another format.
    GenesError
        Genes of the model are missing in `adata`; they are listed.
    CategoryError
        `adata` holds a batch that the model never saw; it is listed.
    """
    folder = Path(path)
    description = _read_description(folder)
    try:
        return _rebuilt(folder, description, adata, layer)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise ModelFileError(
            "is damaged", where=str(folder), value=f"{type(error).__name__}: {str(error)[:200]}",
            fix="Save the model again.",
        ) from error  # fmt: skip


def _rebuilt(folder: Path, description: dict[str, Any], adata: AnnData | None, layer: str | None) -> Model[Any]:
    kind = _class_of(description, folder)
    config = kind.config_class(**_tuples(description["config"]))
    check_config(config)
    schema = Schema.from_dict(description["schema"])
    require_counts = requires_counts(config)
    data = None
    if adata is not None:
        keys = schema.keys if layer is None else replace(schema.keys, layer=None if layer == "X" else layer)
        data = open_anndata(adata, keys, schema=schema, require_counts=require_counts)
    model = kind.__new__(kind)
    model._bind(config, schema, int(description["seed"]), data, adata)
    weights = _tensors(folder / _WEIGHTS)
    model.network.load_state_dict(weights)
    model.network.eval()
    model.fitted = _fitted(folder, description["training"])
    return model


def _fitted(folder: Path, training: dict[str, Any]) -> FitResult:
    split = _tensors(folder / _SPLIT)
    history = pd.read_csv(folder / _HISTORY, index_col="epoch", float_precision="round_trip")
    from_zero = int(len(history) and history.index[0] == 0)  # as epochs were counted in early files
    history.index = pd.RangeIndex(1, len(history) + 1, name="epoch")
    return FitResult(
        history=history,
        split=Split(split["train"].numpy(), split["validation"].numpy()),
        best_epoch=int(training["best_epoch"]) + from_zero,
        stopped=training["stopped"],
        plan=TrainConfig.from_dict(training["plan"]),
        retries=int(training["retries"]),
    )


def _read_description(folder: Path) -> dict[str, Any]:
    """Return `model.json`, once every file is known to be there and whole."""
    file = folder / _MODEL
    if not file.is_file():
        raise ModelFileError("is not a saved model", where=str(folder), value=f"it has no {_MODEL}",
                             fix="Pass the folder that model.save wrote.")  # fmt: skip
    if file.stat().st_size > _LARGEST_JSON:
        raise ModelFileError("is too large to be a description of a model", where=str(file))
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        found, digests = description["format"], description["sha256"]
        missing = [name for name in (_WEIGHTS, _SPLIT, _HISTORY) if not (folder / name).is_file()]
        changed = [name for name in digests if not missing and _digest(folder / Path(name).name) != digests[name]]
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise ModelFileError("is damaged", where=str(file), fix="Save the model again.") from error
    if found != FORMAT:
        raise ModelFileError(f"has format {found!r}", where=str(file), value=f"this celbo reads format {FORMAT}",
                             fix="Load it with the version that wrote it.")  # fmt: skip
    if missing or changed:
        which = (missing or changed)[0]
        raise ModelFileError("is missing" if missing else "is not the file that was saved", where=str(folder / which),
                             fix="The save was damaged afterwards: take a copy, or save the model again.")  # fmt: skip
    return dict(description)


def _class_of(description: dict[str, Any], folder: Path) -> type[Model[Any]]:
    name = str(description["class"])
    if name not in _CLASSES:
        raise ModelFileError(f"holds a model of unknown kind {name!r}", where=str(folder), fix=nearest(name, _CLASSES))
    return model_class(name)


def class_names() -> tuple[str, ...]:
    """Return the names of all systems, such as "SCVI"."""
    return tuple(_CLASSES)


def model_class(name: str) -> type[Model[Any]]:
    """Return the class of a system by its name, such as "SCVI".

    Raises
    ------
    OptionError
        If there is none of this name.
    """
    if name not in _CLASSES:
        raise OptionError("does not exist", where=f"model {name!r}", fix=nearest(name, _CLASSES))
    kind: type[Model[Any]] = getattr(importlib.import_module(_CLASSES[name]), name)
    return kind


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ModelFileError("cannot be read", where=str(file), value=str(error)[:200]) from error


def _tuples(saved: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
