"""Seconds and memory of differential expression of all groups against the rest, beside scvi-tools 1.4.2 in one run.

    .venv/bin/python benchmarks/differential_speed.py [--rounds 3] [--threads 1]

Simulated counts: 20,000 cells x 2,000 genes in 3 batches and 12 groups. Both sides have trained a few epochs, the same
number; then each is asked, one after the other and never at the same time, for all twelve tables as a user asks
(`groupby`, change mode, batch correction), ours calibrated (the default) and not. Seconds are of the whole call; the
ratio is of medians. Memory is the peak of resident memory during the call above the level before it, data and model
loaded, in a process of its own after everything was compiled; ours also at other numbers of cells.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

import machine
import numpy as np
from differential_sets import hand_over
from speed import Worker, wait_for_others

import celbo

RESULT = machine.RESULTS / "differential_speed.json"
OPTIONS: dict[str, dict[str, Any]] = {"celbo": {}, "celbo uncorrected": {"calibrated": False}}
GENES, GROUPS, BATCHES = 2_000, 12, 3


def simulated(n_cells: int) -> tuple[str, str]:
    """Write counts and groups for both sides, once; return the files."""
    base = machine.SCRATCH / f"differential_{n_cells}x{GENES}"
    paths = base.with_name(f"{base.name}.npz"), base.with_name(f"{base.name}_groups.npz")
    if not all(path.exists() for path in paths):
        adata = celbo.datasets.simulate(
            n_cells=n_cells, n_genes=GENES, n_batches=BATCHES, n_cell_types=GROUPS, latent_effect=0.2, seed=0
        )
        hand_over(adata, paths[0])
        np.savez(paths[1], group=adata.obs["cell_type"].astype(str).to_numpy().astype(str))
    return str(paths[0]), str(paths[1])


def ours(n_cells: int, args: argparse.Namespace, rounds: int) -> dict[str, Any]:
    """Return seconds and memory of each of our ways."""
    path, groups = simulated(n_cells)
    out: dict[str, Any] = {}
    for name, options in OPTIONS.items():  # in a fresh process each: what one keeps is no help to the other
        with Worker("celbo", args.threads, script="differential_worker.py") as worker:
            worker.ask("warm", options=[options])
            worker.ask("load", path=path, groups=groups, seed=0, epochs=args.epochs)
            runs = []
            for _ in range(rounds):
                wait_for_others(args, [worker.pid])
                others = machine.Others([os.getpid(), worker.pid])
                runs.append(worker.ask("all_groups", options=options) | {"other_cores_busy": others.cores()})
        out[name] = _told(runs)
        print(f"{n_cells:,} cells, {name}: {out[name]['seconds']} s, {out[name]['above']} MiB above", flush=True)
    return out


def peer(n_cells: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return seconds and memory of scvi-tools in change mode."""
    path, groups = simulated(n_cells)
    with Worker("scvi-tools", args.threads, peer=args.peer, script="peer_de.py") as worker:
        worker.ask("load", path=path, seed=0, epochs=args.epochs)
        runs = []
        for _ in range(args.peer_rounds):
            wait_for_others(args, [worker.pid])
            others = machine.Others([os.getpid(), worker.pid])
            told = worker.ask("all_groups", groups=groups, mode="change")
            runs.append(told | {"other_cores_busy": others.cores()})
        versions = worker.versions
    told = _told(runs) | {"versions": versions}
    print(f"{n_cells:,} cells, scvi-tools change: {told['seconds']} s, {told['above']} MiB above", flush=True)
    return told


def _told(runs: list[dict[str, Any]]) -> dict[str, Any]:
    rounded = [{k: machine.significant(v) if isinstance(v, float) else v for k, v in run.items()} for run in runs]
    middle = machine.significant(statistics.median(run["seconds"] for run in runs))
    return {"seconds": middle, "above": machine.significant(max(run["above"] for run in runs)), "runs": rounded}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=20_000, help="of the comparison with the peer")
    parser.add_argument("--other-cells", type=int, nargs="*", default=[5_000, 80_000], help="of ours alone")
    parser.add_argument("--epochs", type=int, default=4, help="of both sides' training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each side")
    parser.add_argument("--wait", type=float, default=600, help="longest wait for a quiet machine, seconds")
    parser.add_argument("--peer", type=Path, default=machine.PEER)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    about = machine.about(args.threads) | machine.wait_until_quiet(args.wait)
    result: dict[str, Any] = {"what": __doc__.splitlines()[0], "unit": "seconds; MiB", "about": about}
    result |= {"cells": args.cells, "genes": GENES, "groups": GROUPS, "batches": BATCHES, "epochs": args.epochs}
    sides = ours(args.cells, args, args.rounds)
    result["sides"] = sides
    machine.write_json(args.out, result)
    sides["scvi-tools change"] = peer(args.cells, args)
    theirs = sides["scvi-tools change"]["seconds"]
    result["times_faster"] = {name: machine.significant(theirs / sides[name]["seconds"]) for name in OPTIONS}
    machine.write_json(args.out, result)
    result["other_cells"] = {}
    for n_cells in args.other_cells:
        result["other_cells"][str(n_cells)] = ours(n_cells, args, 1)
        machine.write_json(args.out, result)
    print(result["times_faster"])


if __name__ == "__main__":
    main()
