"""Our side of differential_speed.py: differential_worker.py celbo --threads 1, a job a line as speed_worker.py."""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from typing import Any

import numpy as np
from anndata import AnnData
from speed_worker import Peak, cells_of, resident, serve, trim

import celbo

Job = dict[str, Any]


class Ours:
    """A model of ours and what it is asked."""

    def __init__(self, n_threads: int) -> None:
        import torch

        torch.set_num_threads(n_threads)
        self.n_threads = n_threads
        self.adata: AnnData | None = None
        self.model: Any = None

    def versions(self) -> Job:
        """Return the version that computes."""
        return {"celbo": celbo.__version__}

    def do_warm(self, job: Job) -> Job:
        """Train and compare a few cells: what is imported or compiled on first use is there afterwards."""
        adata = celbo.datasets.simulate(n_cells=400, n_genes=100, n_cell_types=3)
        model = celbo.SCVI(adata, batch_key="batch").train(max_epochs=2, progress=False, n_threads=self.n_threads)
        for options in job["options"]:
            model.differential_expression(groupby="cell_type", **options)
        return {}

    def do_load(self, job: Job) -> Job:
        """Load the cells that the driver wrote, and train so many epochs."""
        self.adata = cells_of(job["path"])
        with np.load(job["groups"], allow_pickle=False) as saved:
            self.adata.obs["group"] = saved["group"].astype(str)
        self.adata.obs["group"] = self.adata.obs["group"].astype("category")
        began = time.perf_counter()
        self.model = celbo.SCVI(self.adata, batch_key="batch", seed=job["seed"])
        self.model.train(max_epochs=job["epochs"], progress=False, n_threads=self.n_threads)
        return {"seconds": time.perf_counter() - began}

    def do_all_groups(self, job: Job) -> Job:
        """Time all groups against the rest, as a user calls it; seconds, rows, and MiB above the level before."""
        trim()
        level = resident("VmRSS")
        began = time.perf_counter()
        with Peak() as peak:
            table = self.model.differential_expression(groupby="group", **job["options"])
        return {"seconds": time.perf_counter() - began, "rows": len(table), "above": peak.mib - level}


def main() -> None:
    """Serve jobs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=["celbo"])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the other stream
    warnings.simplefilter("ignore")
    ours: Any = Ours(args.threads)
    answers.write(json.dumps(ours.versions()) + "\n")
    answers.flush()
    serve(ours, answers)


if __name__ == "__main__":
    main()
