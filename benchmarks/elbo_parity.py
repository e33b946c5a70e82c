"""Same network, same plan, same split: the held-out ELBO of celbo and of scvi-tools 1.4.2, both run here and now.

    make venv-peer
    .venv/bin/python benchmarks/elbo_parity.py [--epochs 400] [--sets pbmc mixology paul15] [--seeds 0 1 2]

Each seed draws one split, on which both sides train and both are judged: the ELBO of the held-out tenth in nats per
cell, every divergence at full weight, averaged over the same number of draws. Writes results/elbo_parity.json.
The folder of data is found by --data, the variable CELBO_TEST_DATA, or beside the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scanpy as sc
import scipy.sparse as sp
import torch
from anndata import AnnData

import celbo

ROOT = Path(__file__).resolve().parents[1]
SETS = {
    "pbmc": ("pbmc_3k_4k_2batches.h5ad", "batch"),
    "mixology": ("mixology_celllines_5batches.h5ad", "batch"),
    "paul15": ("paul15_hematopoiesis.h5ad", None),
}
ALLOWED = 0.003
"""Largest difference of the two means, as a share of the peer's."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    beside = ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CELBO_TEST_DATA", beside)))
    parser.add_argument("--peer", type=Path, default=ROOT / ".venv-peer" / "bin" / "python")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=400, help="the peer's own number for these sets is 400")
    parser.add_argument("--likelihood", choices=["nb", "zinb", "poisson"], default="nb")
    parser.add_argument("--library", choices=["observed", "latent"], default="observed")
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--n-samples", type=int, default=10, help="draws of the latent state in the evaluation")
    parser.add_argument("--n-threads", type=int, default=1, help="of each side; both train at the same time")
    parser.add_argument("--note", default="", help="what a reader of the result should know")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "elbo_parity.json")
    return parser.parse_args()


def chosen_genes(path: Path, batch_key: str | None, n_genes: int) -> AnnData:
    """Return the cells with counts, on the highly variable genes that both sides train on."""
    adata = sc.read_h5ad(path)
    sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=n_genes, batch_key=batch_key)
    adata = adata[:, adata.var["highly_variable"]].copy()
    adata.X = sp.csr_matrix(adata.X)
    return adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()


def split(n_cells: int, seed: int) -> tuple[list[int], list[int]]:
    """Return nine tenths to train on and a tenth to judge by."""
    order = np.random.default_rng(seed).permutation(n_cells)
    n_train = int(np.ceil(0.9 * n_cells))
    return sorted(order[:n_train].tolist()), sorted(order[n_train:].tolist())


def hand_over(adata: AnnData, batch_key: str | None, path: Path) -> None:
    """Write the counts and batches for the peer."""
    x = adata.X
    batch = adata.obs[batch_key].astype(str).to_numpy().astype(str) if batch_key else np.full(adata.n_obs, "all")
    np.savez(path, values=x.data, indices=x.indices, indptr=x.indptr, shape=np.array(x.shape), batch=batch)


def train_ours(adata: AnnData, batch_key: str | None, job: dict[str, Any]) -> dict[str, Any]:
    """Train celbo as the job says."""
    config = celbo.SCVIConfig(likelihood=job["likelihood"], library=job["library"], initialisation="uniform")
    model = celbo.SCVI(adata, batch_key=batch_key, config=config, seed=job["seed"])
    start = time.perf_counter()
    model.train(
        celbo.TrainConfig.scvi_tools(max_epochs=job["epochs"]),
        train_indices=job["train"],
        validation_indices=job["validation"],
        n_threads=job["n_threads"],
        device="cpu",
        progress=False,
    )
    seconds = time.perf_counter() - start
    return {"elbo": float(model.get_elbo(indices=job["validation"], n_samples=job["n_samples"])), "seconds": seconds}


def both_sides(
    adata: AnnData, batch_key: str | None, seed: int, args: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Train both on one split, at the same time."""
    train, validation = split(adata.n_obs, seed)
    job = {"seed": seed, "train": train, "validation": validation, "data": str(folder / "cells.npz")}
    job |= {k: getattr(args, k) for k in ("epochs", "likelihood", "library", "n_samples", "n_threads")}
    (folder / "job.json").write_text(json.dumps(job))
    environment = os.environ | {"OMP_NUM_THREADS": str(args.n_threads)}
    command = [str(args.peer), str(ROOT / "benchmarks" / "peer_scvi.py"), str(folder / "job.json")]
    peer = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        ours = train_ours(adata, batch_key, job)
    except BaseException:
        peer.kill()
        raise
    complaint = peer.communicate()[1]
    if peer.returncode:
        raise SystemExit(f"The peer failed:\n{complaint}")
    return {"seed": seed, "celbo": ours, "scvi-tools": json.loads((folder / "job.out.json").read_text())}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of both sides and how far they are apart."""
    elbo = {side: [run[side]["elbo"] for run in runs] for side in ("celbo", "scvi-tools")}
    ours, peer = (float(np.mean(values)) for values in elbo.values())
    difference = (ours - peer) / abs(peer)
    return {
        "celbo": ours,
        "scvi-tools": peer,
        "standard_deviation": {side: float(np.std(values, ddof=1)) for side, values in elbo.items() if len(runs) > 1},
        "difference": difference,
        "within": abs(difference) <= ALLOWED,
    }


def compare(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run all seeds on one set."""
    file, batch_key = SETS[name]
    adata = chosen_genes(args.data / file, batch_key, args.genes)
    with tempfile.TemporaryDirectory() as folder:
        hand_over(adata, batch_key, Path(folder) / "cells.npz")
        runs = []
        for seed in args.seeds:
            runs.append(both_sides(adata, batch_key, seed, args, Path(folder)))
            ours, peer = (runs[-1][side]["elbo"] for side in ("celbo", "scvi-tools"))
            print(f"{name} seed {seed}: celbo {ours:.2f}, scvi-tools {peer:.2f} nats per cell", flush=True)
    told = summary(runs)
    print(f"{name}: difference {100 * told['difference']:+.2f}% (allowed {100 * ALLOWED}%)", flush=True)
    return {"cells": adata.n_obs, "genes": adata.n_vars, "file": file, **told, "runs": runs}


def main() -> None:
    """Run what the command line asks for, and write it after each set."""
    args = arguments()
    if not args.peer.exists():
        raise SystemExit("No environment of the peer: make venv-peer")
    if not args.data.is_dir():
        raise SystemExit("No folder of data: --data, or the variable CELBO_TEST_DATA")
    warnings.simplefilter("ignore")
    plan = {
        k: getattr(args, k) for k in ("epochs", "likelihood", "library", "genes", "seeds", "n_samples", "n_threads")
    }
    about = {"celbo": celbo.__version__, "torch": torch.__version__, "python": platform.python_version()}
    about |= {"machine": platform.machine(), "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d")}
    result: dict[str, Any] = {
        "what": __doc__.splitlines()[0],
        "note": args.note,
        "plan": plan,
        "about": about,
        "sets": {},
    }
    for name in args.sets:
        result["sets"][name] = compare(name, args)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if all(s["within"] for s in result["sets"].values()) else 1)


if __name__ == "__main__":
    main()
