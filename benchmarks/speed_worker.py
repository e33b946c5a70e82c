"""One side of a comparison, in its own environment: speed_worker.py celbo|scvi-tools [--threads 2]

Reads one job a line (JSON) from standard input and answers each with one line on standard output; computes only while
a job is open, so that two workers driven in turn never compute at the same time. Used by speed.py and
time_to_quality.py. Knows no timing but that of whole epochs and whole calls.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

Job = dict[str, Any]


class Side(ABC):
    """What both sides can be asked; `adata` is loaded by `load`, and `model` is the one trained last."""

    def __init__(self, n_threads: int) -> None:
        import torch

        torch.set_num_threads(n_threads)
        self.n_threads = n_threads
        self.adata: AnnData | None = None
        self.model: Any = None

    # -- what differs --------------------------------------------------------------------------------------------

    @abstractmethod
    def versions(self) -> Job:
        """Return the versions that compute."""

    @abstractmethod
    def build(self, adata: AnnData, job: Job) -> Any:
        """Return a model of the job's likelihood that has not been trained."""

    @abstractmethod
    def fit(self, model: Any, job: Job, at_end_of_epoch: Callable[[], None]) -> Job:
        """Train as the job says, calling back at the end of each epoch; return what there is to tell."""

    @abstractmethod
    def held_out(self, model: Any, cells: list[int], n_samples: int) -> float:
        """Return the ELBO in nats per cell, each divergence at full weight."""

    def calls(self, model: Any, job: Job) -> dict[str, Callable[[], Any]]:
        """Return the getters that can be timed, by name: the same on both sides."""
        some = None if job["cells"] is None else np.arange(job["cells"])
        return {
            "latent": model.get_latent_representation,
            "latent_512": lambda: model.get_latent_representation(batch_size=512),
            "normalized_expression": lambda: model.get_normalized_expression(indices=some, return_numpy=True),
            "elbo": model.get_elbo,
        }

    # -- jobs ----------------------------------------------------------------------------------------------------

    def do_load(self, job: Job) -> Job:
        """Load the cells that the driver wrote."""
        self.model = None
        self.adata = cells_of(job["path"])
        return {"cells": self.adata.n_obs, "genes": self.adata.n_vars}

    def do_warm(self, job: Job) -> Job:
        """Train a few cells for an epoch: what is imported or compiled on first use is there afterwards."""
        counts = np.random.default_rng(0).poisson(0.3, (300, 60)).astype(np.float32) + np.eye(300, 60, dtype=np.float32)
        adata = AnnData(sp.csr_matrix(counts))
        adata.obs["batch"] = np.array(["a", "b", "c"])[np.arange(300) % 3]
        adata.obs["batch"] = adata.obs["batch"].astype("category")
        model = self.build(adata, job)
        self.fit(model, job | {"batch_size": 128, "epochs": 2, "train": None}, lambda: None)
        for call in self.calls(model, {"cells": 100}).values():
            call()
        return {}

    def do_train(self, job: Job) -> Job:
        """Train a new model on all cells; seconds of each epoch after the first."""
        self.model = self.build(self.adata, job)
        stamps: list[float] = []
        began = time.perf_counter()
        told = self.fit(self.model, job | {"train": None}, lambda: stamps.append(time.perf_counter()))
        whole = time.perf_counter() - began
        return {"seconds": np.diff(stamps).tolist(), "whole": whole, "first": stamps[0] - began, **told}

    def do_call(self, job: Job) -> Job:
        """Time getters of the model trained last."""
        calls = self.calls(self.model, job)
        seconds = {}
        for name in job["names"]:
            began = time.perf_counter()
            calls[name]()
            seconds[name] = time.perf_counter() - began
        return {"seconds": seconds}

    def do_memory(self, job: Job) -> Job:
        """Return the peak of resident memory while a model is built and trained, above the level before, in MiB."""
        self.model = None
        trim()
        level = resident("VmRSS")
        with Peak() as peak:
            self.do_train(job)
        return {"level": level, "peak": peak.mib, "above": peak.mib - level, "by": peak.how}

    def do_quality(self, job: Job) -> Job:
        """Train by default on the job's cells and judge on those that neither training nor stopping saw."""
        began = time.perf_counter()
        self.model = self.build(self.adata, job)
        built = time.perf_counter() - began
        curve: list[float] = []
        lost = 0.0

        def look() -> None:
            nonlocal lost
            if job.get("curve"):
                start = time.perf_counter()
                curve.append(self.held_out(self.model, job["test"], job["curve"]))
                lost += time.perf_counter() - start

        began = time.perf_counter()
        told = self.fit(self.model, job, look)
        seconds = time.perf_counter() - began - lost
        np.save(job["latent"], self.calls(self.model, {"cells": None})["latent"]())
        elbo = self.held_out(self.model, job["test"], job["n_samples"])
        return {"seconds": seconds, "seconds_to_build": built, "elbo": elbo, "curve": curve, **told}


class Celbo(Side):
    """Our side."""

    def __init__(self, n_threads: int) -> None:
        import celbo  # before torch, as a user has it: it decides how threads wait

        super().__init__(n_threads)
        self.celbo = celbo
        self.epoch_ended: Callable[[], None] = lambda: None
        log = logging.getLogger("celbo.training")  # it has a line at the end of each epoch
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(_Listener(self))

    def versions(self) -> Job:
        import torch

        told = {"celbo": self.celbo.__version__, "torch": str(torch.__version__)}
        return told | {"threads_wait": os.environ.get("OMP_WAIT_POLICY", "as OpenMP does")}

    def build(self, adata: AnnData, job: Job) -> Any:
        batch_key = "batch" if "batch" in adata.obs else None
        options = {"likelihood": job["likelihood"], "library": job.get("library", "observed")}
        return self.celbo.SCVI(adata, batch_key=batch_key, seed=job.get("seed", 0), **options)

    def fit(self, model: Any, job: Job, at_end_of_epoch: Callable[[], None]) -> Job:
        whole = job["train"] is None
        plan = self.celbo.TrainConfig(
            max_epochs=job.get("epochs"),
            batch_size=job.get("batch_size"),
            n_threads=self.n_threads,
            **({"train_size": 1.0} if whole else {}),
        )
        split = {} if whole else {"train_indices": job["train"], "validation_indices": job["validation"]}
        self.epoch_ended = at_end_of_epoch
        try:
            model.train(plan, device="cpu", progress=False, **split)
        finally:
            self.epoch_ended = lambda: None
        fitted = model.fitted
        told = {"epochs": len(fitted.history), "batch_size": fitted.plan.batch_size}
        return told | {"best_epoch": fitted.best_epoch, "stopped": fitted.stopped}

    def held_out(self, model: Any, cells: list[int], n_samples: int) -> float:
        return float(model.get_elbo(indices=cells, n_samples=n_samples))


class ScviTools(Side):
    """The peer's side."""

    def __init__(self, n_threads: int) -> None:
        super().__init__(n_threads)
        import scvi

        self.scvi = scvi
        for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "scvi"):
            logging.getLogger(name).setLevel(logging.ERROR)

    def versions(self) -> Job:
        import torch

        told = {"scvi-tools": self.scvi.__version__, "torch": str(torch.__version__)}
        return told | {"threads_wait": os.environ.get("OMP_WAIT_POLICY", "as OpenMP does")}

    def build(self, adata: AnnData, job: Job) -> Any:
        self.scvi.settings.seed = job.get("seed", 0)
        self.scvi.model.SCVI.setup_anndata(adata, batch_key="batch" if "batch" in adata.obs else None)
        observed = job.get("library", "observed") == "observed"
        return self.scvi.model.SCVI(adata, gene_likelihood=job["likelihood"], use_observed_lib_size=observed)

    def fit(self, model: Any, job: Job, at_end_of_epoch: Callable[[], None]) -> Job:
        options: Job = {"max_epochs": job.get("epochs"), "batch_size": job.get("batch_size") or 128}
        if job["train"] is None:
            options["train_size"] = 1.0
        else:
            parts = [np.array(job[name]) for name in ("train", "validation", "test")]
            options["datasplitter_kwargs"] = {"external_indexing": parts}
        model.train(
            accelerator="cpu",
            enable_progress_bar=False,
            logger=False,
            callbacks=[_at_end_of_epoch(at_end_of_epoch)],
            **options,
        )
        return {"epochs": model.trainer.current_epoch, "batch_size": options["batch_size"]}

    def held_out(self, model: Any, cells: list[int], n_samples: int) -> float:
        from peer_scvi import held_out_elbo

        was_training, state = model.module.training, _random_state()
        try:
            return float(held_out_elbo(model, self.adata, np.array(cells), n_samples).mean())
        finally:
            model.module.train(was_training)
            _set_random_state(state)


class _Listener(logging.Handler):
    """Calls back when a line of the log says that an epoch has ended."""

    def __init__(self, side: Celbo) -> None:
        super().__init__()
        self._side = side

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("epoch "):
            self._side.epoch_ended()


def _at_end_of_epoch(call: Callable[[], None]) -> Any:
    from lightning.pytorch.callbacks import Callback

    class AtEndOfEpoch(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            call()

    return AtEndOfEpoch()


def _random_state() -> Any:
    import torch

    return torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 (the peer draws from the global ones)


def _set_random_state(state: Any) -> None:
    import torch

    torch.set_rng_state(state[0])
    np.random.set_state(state[1])  # noqa: NPY002


def cells_of(path: str) -> AnnData:
    """Return the counts and batches that the driver wrote."""
    with np.load(path, allow_pickle=False) as saved:
        counts = sp.csr_matrix((saved["values"].astype(np.float32), saved["indices"], saved["indptr"]), saved["shape"])
        adata = AnnData(counts)
        if "batch" in saved:
            adata.obs["batch"] = saved["batch"].astype(str)
            adata.obs["batch"] = adata.obs["batch"].astype("category")
    return adata


# -- memory --------------------------------------------------------------------------------------------------------


def resident(field: str) -> float:
    """Return VmRSS (now) or VmHWM (peak) of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"No {field} in /proc/self/status: memory is measured on Linux only")


def trim() -> None:
    """Give free memory back to the system, so that neither side begins with a reserve."""
    import gc

    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


class Peak:
    """The peak of resident memory inside the block: the kernel's own mark, set back before; else samples."""

    def __enter__(self) -> Peak:
        self.mib, self.how = 0.0, "VmHWM"
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.how = "samples of VmRSS, 5 ms apart"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        if self.how != "VmHWM":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.how == "VmHWM":
            self.mib = resident("VmHWM")
        else:
            self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(0.005):
            self.mib = max(self.mib, resident("VmRSS"))


# -- the protocol --------------------------------------------------------------------------------------------------


def serve(side: Side, answers: TextIO) -> None:
    """Answer jobs until there are no more."""
    for line in sys.stdin:
        job = json.loads(line)
        try:
            told = getattr(side, f"do_{job['do']}")(job)
        except Exception:
            told = {"error": traceback.format_exc()}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def main() -> None:
    """Become one side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=["celbo", "scvi-tools"])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the other stream
    warnings.simplefilter("ignore")
    side: Side = {"celbo": Celbo, "scvi-tools": ScviTools}[args.side](args.threads)
    answers.write(json.dumps(side.versions()) + "\n")
    answers.flush()
    serve(side, answers)


if __name__ == "__main__":
    main()
