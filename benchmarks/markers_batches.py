"""Marker genes of the same cells in 10 to 500 batches: the time must not grow with the batches.

    .venv/bin/python benchmarks/markers_batches.py [--out benchmarks/results/markers_batches.json]

2,000 simulated cells x 200 genes of five types, their batches drawn at random, so that the cells and the work that
they need are the same. CPU seconds of `differential_expression(groupby="cell_type")` on one thread, the best of three.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import machine
import numpy as np
import torch

import celbo

RESULT = machine.RESULTS / "markers_batches.json"

BATCHES = (10, 50, 100, 200, 500)
AT_MOST = 2.0
"""Seconds at 500 batches over those at 10."""


def seconds_of(n_batches: int, *, repeats: int = 3) -> float:
    """Return the fewest CPU seconds of a search for markers among so many batches."""
    adata = celbo.datasets.simulate(n_cells=2000, n_genes=200, n_batches=1, n_cell_types=5, seed=0)
    adata.obs["batch"] = [f"b{code}" for code in np.random.default_rng(0).integers(0, n_batches, adata.n_obs)]
    model = celbo.SCVI(adata, batch_key="batch", seed=0)
    model.train(max_epochs=5, n_threads=1, device="cpu", progress=False)
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        model.differential_expression(groupby="cell_type")
        taken.append(time.process_time() - start)
    return min(taken)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT)
    out = parser.parse_args().out
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seconds = {str(n): round(seconds_of(n), 3) for n in BATCHES}
    ratio = round(seconds[str(BATCHES[-1])] / seconds[str(BATCHES[0])], 2)
    found = {"about": machine.about(1), "cells": 2000, "genes": 200, "cpu_seconds": seconds, "ratio": ratio,
             "at_most": AT_MOST, "holds": ratio <= AT_MOST}  # fmt: skip
    machine.write_json(out, found)
    print(f"{seconds}, ratio {ratio}")


if __name__ == "__main__":
    main()
