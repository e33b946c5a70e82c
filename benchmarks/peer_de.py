"""scvi-tools as the peer of differential.py, in its own environment: peer_de.py scvi-tools --threads 1

Reads one job a line (JSON) from standard input and answers each with one line, as speed_worker.py.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData
from scvi.model.base._de_core import _fdr_de_prediction
from speed_worker import Peak, resident, serve, trim

Job = dict[str, Any]


class Peer:
    """A model of scvi-tools and what it is asked."""

    def __init__(self, n_threads: int) -> None:
        torch.set_num_threads(n_threads)
        self.adata: AnnData | None = None
        self.model: Any = None

    def versions(self) -> Job:
        """Return the versions that compute."""
        return {"scvi-tools": scvi.__version__, "torch": torch.__version__}

    def do_load(self, job: Job) -> Job:
        """Load the cells that the driver wrote, and make a model: trained, or a trained one that was kept."""
        with np.load(job["path"], allow_pickle=False) as saved:
            x = sp.csr_matrix((saved["values"].astype(np.float32), saved["indices"], saved["indptr"]), saved["shape"])
            self.adata = AnnData(x)
            self.adata.var_names = [f"g{i}" for i in range(x.shape[1])]
            if "batch" in saved:
                self.adata.obs["batch"] = saved["batch"].astype(str)
                self.adata.obs["batch"] = self.adata.obs["batch"].astype("category")
        scvi.settings.seed = job["seed"]
        scvi.model.SCVI.setup_anndata(self.adata, batch_key="batch" if "batch" in self.adata.obs else None)
        kept = Path(job["kept"]) if job.get("kept") else None
        if kept is not None and (kept / "model.pt").exists():
            self.model = scvi.model.SCVI.load(str(kept), adata=self.adata, accelerator="cpu")
            return {"seconds": 0.0}
        self.model = scvi.model.SCVI(self.adata)
        began = time.perf_counter()
        self.model.train(max_epochs=job.get("epochs"), accelerator="cpu", enable_progress_bar=False, logger=False)
        seconds = time.perf_counter() - began
        if kept is not None:
            self.model.save(str(kept), overwrite=True)
        return {"seconds": seconds}

    def do_compare(self, job: Job) -> Job:
        """Compare two groups of cells; write what is told of each gene, in their order."""
        assert self.adata is not None
        with np.load(job["groups"], allow_pickle=False) as saved:
            masks = [np.isin(np.arange(self.adata.n_obs), saved[name]) for name in ("first", "second")]
        scvi.settings.seed = job["seed"]
        table = self.model.differential_expression(
            idx1=masks[0], idx2=masks[1], mode=job["mode"], all_stats=False, batch_correction=True, silent=True
        ).loc[self.adata.var_names]
        out = {"bayes_factor": table["bayes_factor"].to_numpy(np.float64)}
        if job["mode"] == "change":
            proba = table["proba_de"].to_numpy(np.float64)
            out |= {"proba_de": proba, "lfc": table["lfc_mean"].to_numpy(np.float64)}
            for target in job["targets"]:
                out[f"called@{target}"] = _fdr_de_prediction(table["proba_de"], fdr=target).to_numpy(bool)
        np.savez(job["out"], **out)
        return {}

    def do_all_groups(self, job: Job) -> Job:
        """Time all groups against the rest, as a user calls it; seconds, rows, and MiB above the level before."""
        assert self.adata is not None
        with np.load(job["groups"], allow_pickle=False) as saved:
            self.adata.obs["group"] = saved["group"].astype(str)
        self.adata.obs["group"] = self.adata.obs["group"].astype("category")
        trim()
        level = resident("VmRSS")
        began = time.perf_counter()
        with Peak() as peak:
            table = self.model.differential_expression(
                groupby="group", mode=job["mode"], batch_correction=True, silent=True
            )
        return {"seconds": time.perf_counter() - began, "rows": len(table), "above": peak.mib - level}


def main() -> None:
    """Serve jobs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=["scvi-tools"])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the other stream
    warnings.simplefilter("ignore")
    peer: Any = Peer(args.threads)
    answers.write(json.dumps(peer.versions()) + "\n")
    answers.flush()
    serve(peer, answers)


if __name__ == "__main__":
    main()
