"""celbo: deep generative models of single-cell counts. Importing it is lazy: no torch until a model is touched."""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path

from celbo import caches

__version__ = "0.1.0"


def _is_busy() -> bool:
    """Say whether other processes keep over a tenth of the processors at work: the least of three looks, on Linux."""
    others = os.cpu_count() or 1
    for wait in (0.0, 0.002, 0.002):
        time.sleep(wait)
        try:
            running = Path("/proc/loadavg").read_text().split()[3].split("/")[0]  # processes that run now, this one too
            others = min(others, int(running) - 1)
        except (OSError, ValueError, IndexError):
            return False
    return 10 * others > (os.cpu_count() or 1)


# OpenMP's threads wait by spinning: two threads need that to be faster than one, but beside other work it makes a step
# slower by far (docs/decisions.md). Read when torch is first imported; a value that the user has set wins.
if "OMP_WAIT_POLICY" not in os.environ and _is_busy():
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

caches.provide()  # before numba and matplotlib are imported

_WHERE = {
    "read": "celbo.data.read",
    "check": "celbo.data.check",
    "compare": "celbo.pipeline.compare",
    "select_genes": "celbo.data.genes",
    "filter_cells": "celbo.data.genes",
    "round_counts": "celbo.data.decimals",
    "datasets": "celbo.data.datasets",
    "load": "celbo.models.store",
    "Autoencoder": "celbo.models.autoencoder",
    "AutoencoderConfig": "celbo.models.autoencoder",
    "AutoImpute": "celbo.models.autoimpute",
    "AutoImputeConfig": "celbo.models.autoimpute",
    "DCA": "celbo.models.dca",
    "DCAConfig": "celbo.models.dca",
    "HPF": "celbo.models.hpf",
    "HPFConfig": "celbo.models.hpf",
    "LDVAE": "celbo.models.ldvae",
    "LDVAEConfig": "celbo.models.ldvae",
    "SCVAE": "celbo.models.scvae",
    "SCVAEConfig": "celbo.models.scvae",
    "SCVI": "celbo.models.scvi",
    "SCVIConfig": "celbo.models.scvi",
    "SCVIS": "celbo.models.scvis",
    "SCVISConfig": "celbo.models.scvis",
    "VAE": "celbo.models.vae",
    "VAEConfig": "celbo.models.vae",
    "VASC": "celbo.models.vasc",
    "VASCConfig": "celbo.models.vasc",
    "TrainConfig": "celbo.training.plan",
    "run": "celbo.pipeline",
    "denoise": "celbo.pipeline.denoise",
    "denoising_scores": "celbo.pipeline.denoise",
    "to_rank_genes_groups": "celbo.results",
    "embed": "celbo.embed",
    "errors": "celbo.errors",
    "evaluate": "celbo.evaluate",
    "plots": "celbo.plots",
}
_MODULES = {"datasets", "embed", "errors", "evaluate", "plots"}

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
