"""celbo: deep generative models of single-cell counts. Importing it is lazy: no torch until a model is touched."""

from __future__ import annotations

import importlib
import os

__version__ = "0.1.0"

# OpenMP's threads wait by spinning; on a shared machine that makes a step tens of times slower (docs/decisions.md).
# Read when torch is first imported; a value that the user has set wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_WHERE = {
    "read": "celbo.data.read",
    "check": "celbo.data.check",
    "select_genes": "celbo.data.genes",
    "filter_cells": "celbo.data.genes",
    "datasets": "celbo.data.datasets",
    "load": "celbo.models.store",
    "SCVI": "celbo.models.scvi",
    "SCVIConfig": "celbo.models.scvi",
    "TrainConfig": "celbo.training.plan",
    "run": "celbo.pipeline",
    "errors": "celbo.errors",
    "evaluate": "celbo.evaluate",
    "plots": "celbo.plots",
}
_MODULES = {"datasets", "errors", "evaluate", "plots"}

__all__ = ["__version__", *sorted(_WHERE)]  # noqa: PLE0604 - the names are strings


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'celbo' has no attribute {name!r}")
    module = importlib.import_module(_WHERE[name])
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
