"""Models on disk: a folder with weights, configuration, schema, history and split. No pickle."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from celbo import __version__
from celbo.data.cells import open_anndata
from celbo.errors import InputError, ModelFileError, OptionError, nearest
from celbo.files import atomic_folder
from celbo.models.options import check_config, config_dict, requires_counts
from celbo.models.store_checks import (
    FORMAT,
    HISTORY,
    MODEL,
    SPLIT,
    WEIGHTS,
    bounded_memory,
    check_sizes,
    check_state,
    digest,
    named,
    read_description,
    read_fitted,
    read_schema,
    read_tensors,
)
from celbo.training.engine import FitResult

if TYPE_CHECKING:
    from anndata import AnnData

    from celbo.models.base import Model

__all__ = ["class_names", "load", "model_class", "save_model"]

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


def save_model(model: Model[Any], path: Path, *, overwrite: bool = False) -> Path:
    """Write a trained model into the folder `path`, whole or not at all."""
    fitted = model._trained()
    if path.exists() and not overwrite:
        raise InputError("exists already", where=str(path), fix="Pass overwrite=True, or another folder.")
    if path.exists() and not (path / MODEL).exists():
        raise InputError("is not a saved model, so it is not replaced", where=str(path), fix="Choose another folder.")
    with atomic_folder(path) as folder:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.network.state_dict().items()}
        (folder / WEIGHTS).write_bytes(safetensors.torch.save(state))
        split = {"train": torch.from_numpy(fitted.split.train), "validation": torch.from_numpy(fitted.split.validation)}
        (folder / SPLIT).write_bytes(safetensors.torch.save(split))
        fitted.history.to_csv(folder / HISTORY)
        digests = {name: digest(folder / name) for name in (WEIGHTS, SPLIT, HISTORY)}
        described = json.dumps({**_description(model, fitted), "sha256": digests}, indent=1, allow_nan=False)
        (folder / MODEL).write_text(described, encoding="utf-8")
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
        The folder is missing, damaged, of another format, or says what no saved model can say.
    GenesError
        Genes of the model are missing in `adata`; they are listed.
    CategoryError
        `adata` holds a batch that the model never saw; it is listed.
    """
    model = _rebuilt(Path(path))
    if adata is not None:
        keys = model.schema.keys
        keys = keys if layer is None else replace(keys, layer=None if layer == "X" else layer)
        require_counts = requires_counts(model.config)
        model._hold(open_anndata(adata, keys, schema=model.schema, require_counts=require_counts), adata)
    return model


def _rebuilt(folder: Path) -> Model[Any]:
    """Return the model that a folder holds, without cells."""
    description, file = read_description(folder), folder / MODEL
    name = description["class"]
    if name not in _CLASSES:
        fix = nearest(name[:80], _CLASSES)
        raise ModelFileError(f"holds a model of unknown kind {name[:80]!r}", where=f"{str(file)!r}", fix=fix)
    kind = model_class(name)
    model = kind.__new__(kind)
    with named(file):
        n_bytes = (folder / WEIGHTS).stat().st_size
        check_sizes(description["config"], n_bytes)
        config = kind.config_class(**_tuples(description["config"]))
        check_config(config)
        schema = read_schema(description["schema"])
        with bounded_memory(n_bytes):
            model._bind(config, schema, description["seed"], None, None)
    weights = read_tensors(folder / WEIGHTS)
    with named(folder / WEIGHTS):
        check_state(weights, model.network.state_dict())
        model.network.load_state_dict(weights)
    model.network.eval()
    model.fitted = read_fitted(folder, description["training"])
    return model


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


def _tuples(saved: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
