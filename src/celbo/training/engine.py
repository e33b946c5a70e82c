"""The engine: trains any network that gives a `Loss`, from the first epoch or a checkpoint; knows no model by name."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

import celbo
from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch
from celbo.data.sampler import Split, split_cells
from celbo.errors import CelboError, OptionError
from celbo.training.checkpoint import CheckpointFolder
from celbo.training.device import check_seed, pick_device, torch_threads
from celbo.training.history import history_frame
from celbo.training.plan import Loss, StepState, TrainConfig, resolve
from celbo.training.progress import Progress, logger
from celbo.training.run import Run

__all__ = ["FitResult", "Stopped", "Trainable", "fit"]

Stopped = Literal["finished", "plateau", "interrupted"]

_NOT_IDENTITY = ("n_threads", "checkpoint_every")


class Trainable(Protocol):
    """What the engine asks of a network, beside being a `torch.nn.Module`."""

    def loss(self, batch: Minibatch, step: StepState) -> Loss:
        """Return the terms of the loss, in nats per cell."""
        ...

    def prepare(self, data: CellData, train: npt.NDArray[np.int64]) -> None:
        """Initialise from the training cells before the first step."""
        ...


@dataclass(frozen=True)
class FitResult:
    """How a training went."""

    history: pd.DataFrame
    """One row an epoch, from 1: elbo_*, reconstruction_*, kl_* in nats per cell, kl_weight, learning_rate, timing."""
    split: Split
    best_epoch: int
    """Epoch of the best held-out ELBO, counted from 1 as in the history; the last one where no cell is held out; 0 if
    none was finished."""
    stopped: Stopped
    plan: TrainConfig
    """The plan with every default resolved."""
    retries: int
    """How often training went back because of numbers that are not finite."""
    device: str = "cpu"
    message: str = ""
    """How training ended, in one sentence."""


def fit(
    network: nn.Module,
    data: CellData,
    plan: TrainConfig,
    *,
    seed: int,
    train_indices: npt.ArrayLike | None = None,
    validation_indices: npt.ArrayLike | None = None,
    device: str | torch.device = "auto",
    progress: bool | None = None,
    checkpoint_dir: str | Path | None = None,
    resume: bool = False,
    fingerprint: Mapping[str, Any] | None = None,
    prepare: bool = True,
) -> FitResult:
    """Train a network on cells.

    The same seed, plan, data and number of threads give the same weights to the bit on a CPU, and a run that was killed
    and resumed gives those of one that was not.

    Parameters
    ----------
    network
        A `Trainable`. It is trained in place, left on `device` and in eval mode.
    data
        The cells.
    plan
        How to train; see `TrainConfig`.
    seed
        Fixes the split, the order of the cells and all noise. The global generators are neither read nor changed.
    train_indices, validation_indices
        Positions of the cells to train on and to hold out; see `celbo.data.sampler.split_cells`.
    device
        "auto" (cuda, mps or cpu, the first there is), or one by name.
    progress
        Whether to draw a bar; None is only on a terminal or in a notebook, else a line an epoch is logged.
    checkpoint_dir
        Folder for checkpoints; None writes none.
    resume
        Whether to go on from the newest checkpoint in `checkpoint_dir`; where there is none, training begins.
    fingerprint
        Plain values that tell this run from others (model, configuration, schema); a checkpoint of another is refused.
    prepare
        Whether the network may initialise itself from the data first. False trains further on what it has learnt.

    Returns
    -------
    FitResult
        The history and how training ended.

    Raises
    ------
    OptionError
        An impossible option, or a `checkpoint_dir` with another run.
    InputError
        Fewer than two cells to train on.
    ModelFileError
        There are checkpoints, and none can be read.
    TrainingError
        Numbers are not finite, also after two retries with half the learning rate each.
    WriteError
        A checkpoint cannot be written.
    """
    _check_arguments(seed, checkpoint_dir, resume)
    split = split_cells(
        data.n_cells,
        train_size=plan.train_size,
        seed=seed,
        train_indices=train_indices,
        validation_indices=validation_indices,
    )
    plan = resolve(plan, len(split.train), n_cells=data.n_cells)
    with torch_threads(plan.n_threads) as threads:
        network.to(pick_device(device))
        if prepare:
            network.prepare(data, split.train)  # type: ignore[operator]
        run = Run(network, data, plan, split, seed)
        folder = _open_folder(run, checkpoint_dir, fingerprint or {}, threads)
        with folder.alone() if folder else nullcontext():
            start = folder.open(resume=resume, fits=run.check) if folder else None
            if start is not None:
                run.resume(start)
            return _train(run, folder, progress)


def _check_arguments(seed: int, checkpoint_dir: str | Path | None, resume: bool) -> None:
    check_seed(seed)
    if resume and checkpoint_dir is None:
        raise OptionError("needs a folder to resume from", where="resume=True", fix="Pass checkpoint_dir too.")


def _train(run: Run, folder: CheckpointFolder | None, progress: bool | None) -> FitResult:
    """Run to the end, keep the right weights, and say how it went."""
    assert run.plan.max_epochs is not None
    with _watching(run, progress) as shown:
        try:
            while run.done is None:
                run.epoch(shown)
                if folder and (run.done or folder.is_due(run.good.epoch, run.plan.checkpoint_every)):
                    folder.save(run.good)
        except KeyboardInterrupt:
            stopped: Stopped = "interrupted"
        except CelboError:
            run.keep(best=False)
            raise
        else:
            stopped = run.done
    run.keep(best=run.plan.restore_best and run.good.best_epoch >= 0)
    if folder and stopped == "interrupted" and run.good.epoch and not folder.holds(run.good.epoch):
        folder.save(run.good)
    message = _message(run, stopped, folder)
    logger.log(logging.WARNING if stopped == "interrupted" else logging.INFO, message)
    return FitResult(
        history=history_frame(run.good.rows),
        split=run.split,
        best_epoch=run.good.best_epoch + 1,
        stopped=stopped,
        plan=run.plan,
        retries=run.good.retries,
        device=str(run.device),
        message=message,
    )


@contextmanager
def _watching(run: Run, progress: bool | None) -> Iterator[Progress]:
    assert run.plan.max_epochs is not None
    shown = Progress(show=progress, n_epochs=run.plan.max_epochs, n_cells=len(run.split.train), done=run.good.epoch)
    try:
        yield shown
    finally:
        shown.close()


def _message(run: Run, stopped: Stopped, folder: CheckpointFolder | None) -> str:
    good, plan = run.good, run.plan
    text = {
        "finished": f"Training finished after {good.epoch} epochs.",
        "plateau": f"Training stopped at epoch {good.epoch} of {plan.max_epochs}: no further gain in held-out ELBO.",
        "interrupted": f"Training was interrupted after {good.epoch} of {plan.max_epochs} epochs.",
    }[stopped]
    if good.best_epoch >= 0:
        kept = good.best_epoch + 1 if plan.restore_best else good.epoch
        text += f" The weights are those of epoch {kept}."
    if stopped == "interrupted" and folder and good.epoch:
        text += f" To go on, train again with checkpoint_dir={str(folder.folder)!r} and resume=True."
    elif stopped == "interrupted" and not folder:
        text += " To be able to resume, train with checkpoint_dir=..."
    return text


def _open_folder(
    run: Run, checkpoint_dir: str | Path | None, fingerprint: Mapping[str, Any], threads: int
) -> CheckpointFolder | None:
    if checkpoint_dir is None:
        return None
    plan = {name: value for name, value in run.plan.to_dict().items() if name not in _NOT_IDENTITY}
    shapes = [[name, list(value.shape)] for name, value in run.network.state_dict().items()]
    identity = {
        "seed": int(run.seed),
        "plan": plan,
        "cells": run.data.n_cells,
        "genes": run.data.n_genes,
        "counts": _digest([run.data.library]),
        "split": _digest([run.split.train, run.split.validation]),
        "network": hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16],
        "fingerprint": dict(fingerprint),
    }
    conditions = {
        "threads": threads,
        "device": run.device.type,
        "celbo": celbo.__version__,
        "torch": str(torch.__version__),
    }
    return CheckpointFolder(checkpoint_dir, identity=identity, conditions=conditions)


def _digest(arrays: Sequence[npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
