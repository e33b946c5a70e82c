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

PLAN = TrainConfig(max_epochs=12, batch_size=64, n_threads=1, learning_rate=4e-3)
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


def wait_for(folder: Path, process: int) -> None:
    """Wait until a training writes its first checkpoint, or ends."""
    while not folder.exists() and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.001)


def trial(folder: Path, moment: float, expected: str) -> dict[str, object]:
    """Kill a training so many seconds after its first checkpoint, look at what it left, and train on to the end.

    A negative moment is one before the first checkpoint, counted from the start.
    """
    process = start(folder)
    if moment >= 0:
        wait_for(folder, process)
    time.sleep(abs(moment))
    os.kill(process, signal.SIGKILL)
    killed = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    bad = unreadable(folder)
    found = [p.name for p in CheckpointFolder(folder, identity={})._found()]
    return {"killed": killed, "left": found, "unreadable": bad, "same": finish(folder) == expected}


def main() -> None:
    """Time a training that is left alone, then kill others: one of ten before its first checkpoint, the rest after."""
    root, trials, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = np.random.default_rng(seed)
    finish(root / "warm")  # compiles what is compiled once
    began = time.perf_counter()
    process = start(root / "alone")
    wait_for(root / "alone", process)
    first = time.perf_counter() - began
    os.waitpid(process, 0)
    rest = time.perf_counter() - began - first
    expected = (root / "alone.digest").read_text()
    print(json.dumps({"before": first, "after": rest, "expected": expected}), flush=True)
    for i in range(trials):
        moment = -rng.uniform(0, first) if i % 10 == 9 else rng.uniform(0, rest)
        print(json.dumps(trial(root / f"run{i}", moment, expected)), flush=True)


if __name__ == "__main__":
    main()
