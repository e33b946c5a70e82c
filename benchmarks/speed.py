"""celbo beside scvi-tools 1.4.2, taking turns in one run: training, inference, memory.

    make bench                                         # the table of the README, under 30 minutes with roofline.py
    .venv/bin/python benchmarks/speed.py --rounds 5    # this part alone
    .venv/bin/python benchmarks/speed.py --grid        # the long grid, resumable cell by cell

Two long-lived processes, one a side, never compute at the same time. In each round every case is trained on both sides,
one after the other, the first one by turns; a case is a fixed number of whole epochs, the first of them not counted. A
ratio is that of one round; medians are over rounds. Both sides have the same simulated counts (from the generative
model of scVI itself, three batches), the same network (128 hidden, 10 latent, observed library size, batch as one-hot),
the same minibatch, all cells to train on and no validation, the same number of threads. "default" is each side as it
comes. The peer has no progress bar and no logger. Memory is measured in processes of their own: the peak of resident
memory while a model is built and trained, above the level after imports, loading, and a small training.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import machine
import numpy as np
import scipy.sparse as sp

import celbo
from celbo.training.plan import resolve

SIDES = ("celbo", "scvi-tools")
GETTERS = ("latent", "latent_512", "normalized_expression", "elbo")
DISTURBED = 0.15
"""Cores that others keep busy above which a round does not count, where there are others that do."""
GETTER_CELLS = 4_000
"""Cells whose normalised expression is asked for: (cells, genes) dense."""


@dataclass(frozen=True)
class Data:
    """Simulated counts."""

    cells: int
    genes: int
    density: float
    seed: int = 0

    @property
    def name(self) -> str:
        """Return a name for files."""
        return f"{self.cells}x{self.genes}_{self.density:g}"


@dataclass(frozen=True)
class Case:
    """What is trained; `batch_size` None is each side's default."""

    name: str
    data: Data
    likelihood: str
    batch_size: int | None
    epochs: tuple[int, int] = (4, 2)
    """Epochs of ours and of the peer in a round, the first one not counted."""


class Worker:
    """One side, in a process of its own."""

    def __init__(
        self, side: str, n_threads: int, *, peer: Path = machine.PEER, script: str = "speed_worker.py"
    ) -> None:
        python = sys.executable if side == "celbo" else str(peer)
        command = [python, str(Path(__file__).with_name(script)), side, "--threads", str(n_threads)]
        environment = machine.ENVIRONMENT | {"OMP_NUM_THREADS": str(n_threads), "NUMBA_NUM_THREADS": str(n_threads)}
        self.side = side
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.versions = self._answer()

    @property
    def pid(self) -> int:
        """Return the process's number."""
        return self._process.pid

    def ask(self, do: str, **job: Any) -> dict[str, Any]:
        """Return the answer to a job."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **job}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"The process of {self.side} ended")
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise SystemExit(f"{self.side}: {told['error']}")
        return told

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()


# -- data ------------------------------------------------------------------------------------------------------------


def simulated(data: Data) -> tuple[Path, float]:
    """Write the counts for both sides, once; return the file and the density that they have."""
    path = machine.SCRATCH / f"{data.name}_{data.seed}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        x, batch = _counts(data)
        whole = {"values": x.data, "indices": x.indices.astype(np.int32), "indptr": x.indptr.astype(np.int64)}
        part = path.with_suffix(".part.npz")
        np.savez(part, **whole, shape=np.array(x.shape), batch=batch)
        part.replace(path)
    with np.load(path, allow_pickle=False) as saved:
        return path, float(saved["indptr"][-1]) / (data.cells * data.genes)


def _counts(data: Data) -> tuple[Any, Any]:
    """Return counts (CSR) and batches: drawn too dense, then thinned, which leaves negative binomials what they are."""
    library = 2.0 * data.genes * data.density
    while True:
        adata = celbo.datasets.simulate(
            n_cells=data.cells, n_genes=data.genes, n_batches=3, seed=data.seed, library_size=library, latent_effect=0.2
        )
        if adata.X.nnz > 1.05 * data.density * data.cells * data.genes:
            break
        library *= 2
    x = adata.X.tocsr()
    times = np.bincount(x.data.astype(np.int64))
    low, high = 0.0, 1.0
    for _ in range(40):
        share = (low + high) / 2
        kept = times.sum() - (times * (1 - share) ** np.arange(times.size)).sum()
        low, high = (share, high) if kept < data.density * data.cells * data.genes else (low, share)
    x.data = np.random.default_rng(data.seed).binomial(x.data.astype(np.int64), high).astype(np.float32)
    x.eliminate_zeros()
    empty = np.flatnonzero(np.diff(x.indptr) == 0)  # such a cell cannot be trained on: it gets a count of one
    ones = (np.ones(empty.size, np.float32), (empty, np.zeros(empty.size, np.int64)))
    x = (x + sp.coo_matrix(ones, shape=x.shape)).tocsr()
    return x, adata.obs["batch"].astype(str).to_numpy().astype(str)


# -- rounds ----------------------------------------------------------------------------------------------------------


def wait_for_others(args: argparse.Namespace, pids: Sequence[int]) -> None:
    """Wait until others leave the processors alone for two seconds, as long as the run still may wait."""
    while args.wait > 0:
        others, began = machine.Others([os.getpid(), *pids]), time.monotonic()
        time.sleep(2)
        if others.cores() < DISTURBED:
            return
        args.wait -= time.monotonic() - began


def train_once(workers: Mapping[str, Worker], case: Case, turn: int) -> dict[str, Any]:
    """Train a case on both sides, the first one by turns; return cells/s of each counted epoch, and the ratio."""
    others = machine.Others([os.getpid(), *(w.pid for w in workers.values())])
    told: dict[str, Any] = {}
    for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
        epochs = case.epochs[SIDES.index(side)]
        answer = workers[side].ask("train", likelihood=case.likelihood, batch_size=case.batch_size, epochs=epochs)
        told[side] = [machine.significant(case.data.cells / s) for s in answer["seconds"]]
        told[f"{side} batch size"] = answer["batch_size"]
    told["ratio"] = machine.significant(statistics.median(told["celbo"]) / statistics.median(told["scvi-tools"]))
    return told | {"other_cores_busy": others.cores()}


def call_once(workers: Mapping[str, Worker], data: Data, turn: int, repeats: int) -> dict[str, Any]:
    """Time the getters of the models trained last, on both sides; return cells/s."""
    others = machine.Others([os.getpid(), *(w.pid for w in workers.values())])
    rates: dict[str, dict[str, float]] = {name: {} for name in GETTERS}
    cells = min(GETTER_CELLS, data.cells)
    for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
        again = repeats if side == "celbo" else 1
        runs = [workers[side].ask("call", names=GETTERS, cells=cells)["seconds"] for _ in range(again)]
        for name in GETTERS:
            n = cells if name == "normalized_expression" else data.cells
            rates[name][side] = machine.significant(n / statistics.median(run[name] for run in runs))
    busy = {"other_cores_busy": others.cores()}
    ratios = {name: machine.significant(rate["celbo"] / rate["scvi-tools"]) for name, rate in rates.items()}
    return {name: rate | {"ratio": ratios[name]} | busy for name, rate in rates.items()}


def summed_up(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return medians and the range of the ratio over the rounds in which nobody else computed, if there are any."""
    quiet = [r for r in rounds if not r["other_cores_busy"] >= DISTURBED]
    counted = quiet or rounds
    ratios = [r["ratio"] for r in counted]

    def middle(side: str) -> float:
        values = [r[side] if isinstance(r[side], float | int) else statistics.median(r[side]) for r in counted]
        return machine.significant(statistics.median(values))

    return {side: middle(side) for side in SIDES} | {
        "ratio": machine.significant(statistics.median(ratios)),
        "ratio_range": [min(ratios), max(ratios)],
        "rounds_counted": len(counted),
        "disturbed": not quiet,
        "rounds": list(rounds),
    }


def on_data(data: Data, cases: Sequence[Case], args: argparse.Namespace, *, getters: bool) -> dict[str, Any]:
    """Run all rounds of the cases that share their data."""
    path, density = simulated(data)
    rounds: dict[str, list[dict[str, Any]]] = {case.name: [] for case in cases}
    called: list[dict[str, Any]] = []
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(side, args.threads, peer=args.peer)) for side in SIDES}
        for worker in workers.values():
            worker.ask("load", path=str(path))
            for likelihood in sorted({case.likelihood for case in cases}):
                worker.ask("warm", likelihood=likelihood)
        for turn in range(args.rounds):
            for number, case in enumerate(cases):
                wait_for_others(args, [w.pid for w in workers.values()])
                rounds[case.name].append(train_once(workers, case, turn))
                last = rounds[case.name][-1]
                print(f"  round {turn + 1}/{args.rounds} {case.name}: {_line(last)}", flush=True)
                if getters and number == 0:
                    called.append(call_once(workers, data, turn, 3))
        versions = {side: worker.versions for side, worker in workers.items()}
    out: dict[str, Any] = {"density": machine.significant(density, 3), "versions": versions, "training": {}}
    for case in cases:
        about = {"cells": data.cells, "genes": data.genes, "likelihood": case.likelihood, "batch_size": case.batch_size}
        out["training"][case.name] = about | summed_up(rounds[case.name])
    if called:
        out["inference"] = {name: summed_up([c[name] for c in called]) for name in GETTERS}
    return out


def memory(data: Data, args: argparse.Namespace, likelihood: str = "nb") -> dict[str, Any]:
    """Measure both sides' memory, each in fresh processes."""
    path, _ = simulated(data)
    out: dict[str, Any] = {"cells": data.cells, "genes": data.genes, "likelihood": likelihood, "unit": "MiB"}
    for side in SIDES:
        runs = []
        for _ in range(args.memory_runs):
            with Worker(side, args.threads, peer=args.peer) as worker:
                worker.ask("load", path=str(path))
                worker.ask("warm", likelihood=likelihood)
                runs.append(worker.ask("memory", likelihood=likelihood, batch_size=128, epochs=2))
        out[side] = machine.significant(statistics.median(run["above"] for run in runs))
        out[f"{side} runs"] = [{k: v if isinstance(v, str) else round(v, 1) for k, v in run.items()} for run in runs]
    out["ratio"] = machine.significant(out["scvi-tools"] / out["celbo"])
    print(f"  memory: celbo {out['celbo']:.0f} MiB, scvi-tools {out['scvi-tools']:.0f} MiB", flush=True)
    return out


def _line(told: Mapping[str, Any]) -> str:
    ours, peer = (statistics.median(told[side]) for side in SIDES)
    others = f"others kept {told['other_cores_busy']} cores busy"
    return f"{ours:,.0f} beside {peer:,.0f} cells/s, {told['ratio']:.2f} times; {others}"


# -- the runs --------------------------------------------------------------------------------------------------------


def cases_of(args: argparse.Namespace) -> dict[Data, list[Case]]:
    """Return the cases of `make bench` by their data."""
    narrow = Data(args.cells, 2_000, 0.13)
    wide = Data(args.wide_cells, 20_000, 0.05)
    out: dict[Data, list[Case]] = {narrow: [], wide: []}
    for batch_size in (128, 512):
        for likelihood in ("nb", "zinb"):
            name = f"{likelihood}, batch {batch_size}, 2,000 genes"
            out[narrow].append(Case(name, narrow, likelihood, batch_size))
    ours = resolve(celbo.TrainConfig(), args.cells).batch_size
    if ours != 128:  # the peer's default: else the case is there already
        out[narrow].append(Case(f"nb, default batch ({ours} and 128), 2,000 genes", narrow, "nb", None))
    for likelihood in ("nb", "zinb"):
        out[wide].append(Case(f"{likelihood}, batch 128, 20,000 genes", wide, likelihood, 128, (3, 2)))
    out[wide].append(Case("nb, batch 512, 20,000 genes", wide, "nb", 512, (3, 2)))
    return out


def grid() -> list[tuple[Case, int]]:
    """Return the cells of the long grid: cost against cells, genes, density and threads, with the number of threads."""
    base = {"cells": 20_000, "genes": 2_000, "density": 0.13}
    shapes: list[dict[str, float]] = [
        *({"cells": n} for n in (5_000, 10_000, 20_000, 50_000, 100_000, 200_000)),
        *({"cells": 5_000, "genes": g, "density": 0.05} for g in (500, 1_000, 2_000, 5_000, 10_000, 20_000)),
        *({"density": d} for d in (0.02, 0.05, 0.25, 0.5)),
    ]
    out, cores = [], os.cpu_count() or 1
    threads = sorted({1, min(2, cores), cores})
    for shape in shapes:
        chosen = base | shape
        data = Data(int(chosen["cells"]), int(chosen["genes"]), chosen["density"])
        for likelihood in ("nb", "zinb"):
            name = f"{data.name} {likelihood} batch 128"
            out.append((Case(name, data, likelihood, 128, (3, 2)), min(2, cores)))
    data = Data(20_000, 2_000, 0.13)
    for n_threads in threads:
        for batch_size in (64, 128, 512, 1_024):
            name = f"{data.name} nb batch {batch_size} threads {n_threads}"
            out.append((Case(name, data, "nb", batch_size, (3, 2)), n_threads))
    return out


def run_grid(args: argparse.Namespace) -> None:
    """Measure what the file of results lacks."""
    path = machine.RESULTS / "grid.json"
    result = machine.read_json(path) or {
        "what": "cells/s of training: cost against cells, genes, density, threads",
        "cells": {},
    }
    for case, n_threads in grid():
        if case.name in result["cells"] and not args.again:
            continue
        print(case.name, flush=True)
        load = machine.wait_until_quiet(args.wait)
        here = argparse.Namespace(**{**vars(args), "threads": n_threads})
        told = on_data(case.data, [case], here, getters=False)
        result["cells"][case.name] = {
            **asdict(case.data),
            "measured_density": told["density"],
            "threads": n_threads,
            **told["training"][case.name],
            "about": machine.about(n_threads) | load,
        }
        machine.write_json(path, result)


def run_bench(args: argparse.Namespace) -> None:
    """Measure the cases of `make bench` and write them."""
    began = time.monotonic()
    cases = cases_of(args)
    for data in cases:
        simulated(data)
    result: dict[str, Any] = {
        "what": __doc__.splitlines()[0],
        "unit": "cells per second, MiB of memory; a ratio above 1 is in celbo's favour",
        "about": machine.about(args.threads) | machine.wait_until_quiet(args.wait),
        "settings": {"rounds": args.rounds, "threads": args.threads, "getter_cells": GETTER_CELLS}
        | {"our_default_batch_size": resolve(celbo.TrainConfig(), args.cells).batch_size},
        "training": {},
    }
    for number, (data, of_data) in enumerate(cases.items()):
        print(f"{data.cells:,} cells x {data.genes:,} genes", flush=True)
        told = on_data(data, of_data, args, getters=number == 0)
        result["training"] |= {name: {"density": told["density"], **t} for name, t in told["training"].items()}
        result |= {"inference": told["inference"], "versions": told["versions"]} if number == 0 else {}
        machine.write_json(args.out, result)
    result["memory"] = memory(next(iter(cases)), args)
    result["about"]["minutes"] = round((time.monotonic() - began) / 60, 1)
    machine.write_json(args.out, result)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, default=machine.PEER, help="python of the peer's environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of each side")
    parser.add_argument("--cells", type=int, default=20_000, help="cells of the data with 2,000 genes")
    parser.add_argument("--wide-cells", type=int, default=4_000, help="cells of the data with 20,000 genes")
    parser.add_argument("--memory-runs", type=int, default=2)
    parser.add_argument("--wait", type=float, default=600, help="longest wait for a quiet machine, seconds")
    parser.add_argument("--grid", action="store_true", help="the long grid instead, into results/grid.json")
    parser.add_argument("--again", action="store_true", help="of the grid: also what has been measured")
    parser.add_argument("--out", type=Path, default=machine.RESULTS / "speed.json")
    return parser.parse_args()


def main() -> None:
    """Run what the command line asks for."""
    args = arguments()
    if not args.peer.exists():
        raise SystemExit("No environment of the peer: make venv-peer")
    run_grid(args) if args.grid else run_bench(args)


if __name__ == "__main__":
    main()
