"""Kills trainings with SIGKILL at random moments, resumes them, and prints what came of each as a line of JSON.

    python kill_runner.py FOLDER TRIALS SEED

Each training is a fork of this process, which has imported everything but has computed nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np

import celbo
import celbo.kernels.cpu
import celbo.models.scvi
from celbo.training.checkpoint import CheckpointFolder, _read
from celbo.training.history import TIMING_COLUMNS
from celbo.training.plan import TrainConfig

PLAN = TrainConfig(max_epochs=12, batch_size=64, n_threads=1, learning_rate=4e-3, checkpoint_every=1)
ADATA = celbo.datasets.simulate(n_cells=300, n_genes=60, n_batches=2, n_cell_types=3, seed=0)


def digest(model: celbo.SCVI, folder: Path) -> str:
    """Return one number for the weights, the history without its timing, and the last checkpoint's tensors."""
    found = hashlib.sha256()
    for name, value in sorted(model.network.state_dict().items()):
        found.update(name.encode() + value.numpy().tobytes())
    found.update(model.history.drop(columns=list(TIMING_COLUMNS)).to_numpy().tobytes())
    for name in ("weights", "best", "optimizer"):
        found.update((folder / f"epoch-{len(model.history):06d}" / f"{name}.safetensors").read_bytes())
    return found.hexdigest()


def train(folder: Path) -> None:
    """Train in a process of its own, on from what is there, and leave the digest beside the folder."""
    model = celbo.SCVI(ADATA, batch_key="batch", n_hidden=32, seed=0)
    model.train(PLAN, progress=False, device="cpu", checkpoint_dir=folder, resume=True)
    folder.with_suffix(".digest").write_text(digest(model, folder))


def start(folder: Path) -> int:
    """Fork a training and return its process."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        train(folder)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finish(folder: Path) -> str:
    """Train to the end and return the digest; the exit status where it failed."""
    status = os.waitstatus_to_exitcode(os.waitpid(start(folder), 0)[1])
    return folder.with_suffix(".digest").read_text() if status == 0 else f"exit status {status}"


def unreadable(folder: Path) -> list[str]:
    """Return what cannot be read in a folder that a kill has left."""
    bad = []
    for path in CheckpointFolder(folder, identity={})._found():
        try:
            _read(path)
        except Exception as error:
            bad.append(str(error))
    return bad


def wait_for(folder: Path, process: int, epoch: int) -> None:
    """Wait until a training has written the checkpoint of so many epochs, or has ended."""
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if max((int(path.name[6:]) for path in CheckpointFolder(folder, identity={})._found()), default=0) >= epoch:
            return
        time.sleep(0.001)


def trial(folder: Path, epoch: int, delay: float, expected: str) -> dict[str, object]:
    """Kill a training so many seconds after so many epochs, look at what it left, and train on to the end."""
    process = start(folder)
    wait_for(folder, process, epoch)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    killed = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    bad = unreadable(folder)
    found = [p.name for p in CheckpointFolder(folder, identity={})._found()]
    return {"killed": killed, "left": found, "unreadable": bad, "same": finish(folder) == expected}


def main() -> None:
    """Train once alone, then kill others after a random epoch and a random part of the next one."""
    root, trials, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = np.random.default_rng(seed)
    finish(root / "warm")  # compiles what is compiled once
    process = start(root / "alone")
    wait_for(root / "alone", process, 1)
    began = time.perf_counter()
    wait_for(root / "alone", process, PLAN.max_epochs)
    an_epoch = (time.perf_counter() - began) / (PLAN.max_epochs - 1)
    os.waitpid(process, 0)
    expected = (root / "alone.digest").read_text()
    print(json.dumps({"seconds an epoch": an_epoch, "expected": expected}), flush=True)
    for i in range(trials):
        epoch, delay = int(rng.integers(PLAN.max_epochs)), rng.uniform(0, 1.5 * an_epoch)
        print(json.dumps(trial(root / f"run{i}", epoch, delay, expected)), flush=True)


if __name__ == "__main__":
    main()
