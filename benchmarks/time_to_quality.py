"""Our whole default training beside the whole default training of scvi-tools, on real counts: time, and what it buys.

    .venv/bin/python benchmarks/time_to_quality.py [--sets pbmc mixology ...] [--seeds 0 1 2]

A tenth of the cells, the same for all seeds, is held out from everything and judges; of the others a tenth stops us
early, on the rest both sides train. Ours is `model.train()` as it comes. The peer's is its own 400-epoch heuristic, as
it comes: no early stopping, the last weights. Its ELBO on the judging cells is looked at after every epoch, which costs
hours: the curves are computed once and kept in results/peer_curves/. Its seconds per epoch are timed again beside ours
in each run, and times its epochs they are what it needs; start-up is left out for the peer and counted for us. The peer
has fewer seeds than we have, for its time: each of ours is compared with the means over those.

Held-out ELBO on both sides: nats per cell, every divergence at full weight, the same number of draws. Agreement of
k-means on the latent with known labels (ARI, NMI), label and batch silhouettes as in scIB, on all cells, for both by
the same code. Resumable: a set and seed that is in the file of results is not run again, except with --again.
The folder of data is found by --data, the variable CELBO_TEST_DATA, or beside the repository.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from speed import SIDES, Data, Worker, simulated
from speed_worker import cells_of

from celbo import evaluate


@dataclass(frozen=True)
class RealSet:
    """A file of real counts."""

    file: str
    batch_key: str | None = None
    label_key: str | None = "cell_type"
    modality: str | None = None
    """Value of var["modality"] to keep."""
    simulated: Data | None = None
    """Counts of the generative model instead of a file."""


SETS = {  # the last one only where it is asked for
    "pbmc": RealSet("pbmc_3k_4k_2batches.h5ad", "batch"),
    "mixology": RealSet("mixology_celllines_5batches.h5ad", "batch"),
    "paul15": RealSet("paul15_hematopoiesis.h5ad"),
    "pbmc3k": RealSet("pbmc3k_raw_full.h5ad"),
    "kang": RealSet("kang_ifnb_2000_labelled_13215g.h5ad", "batch"),
    "cord_blood": RealSet("citeseq_cbmc_8617c_2000g_10adt.h5ad"),
    "bladder": RealSet("mouse_bladder_top2000.h5ad"),
    "progenitors": RealSet("mouse_hpc_inDrops_4batches.h5ad", "batch", None),
    "spleen": RealSet("mouse_spleen_lymph_SLN111D2_rna_4005g.h5ad"),
    "pbmc_3_chemistries": RealSet("pbmc_3chemistries_symphony_1200c_1764g.h5ad", "batch"),
    "pbmc10k": RealSet("citeseq_pbmc10k_pbmc5k_totalvi_4000g.h5ad", "batch"),
    "zeisel": RealSet("zeisel_cortex_subset_1464c_1000g_ERCC.h5ad"),
    "cortex": RealSet("multiome_snareseq_mouse_cortex_10309c.h5ad", "batch", modality="Gene Expression"),
    "simulated_200k": RealSet("", "batch", None, simulated=Data(200_000, 2_000, 0.13)),
}
REAL = [name for name, real in SETS.items() if real.simulated is None]
NO_LABEL = ("unlabelled", "unknown", "nan", "")
CURVES = machine.RESULTS / "peer_curves"
QUALITY = ("ari", "nmi", "label_silhouette", "batch_silhouette")


# -- data ------------------------------------------------------------------------------------------------------------


def chosen(real: RealSet, path: Path, n_genes: int) -> AnnData:
    """Return the cells with counts on the highly variable genes that both sides train on."""
    if real.simulated is not None:
        return cells_of(str(simulated(real.simulated)[0]))
    adata = sc.read_h5ad(path)
    if real.modality is not None:
        kinds = adata.var["modality"].astype(str)
        adata = adata[:, kinds.str.lower() == real.modality.lower()].copy()
    if adata.n_vars > n_genes:
        sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=n_genes, batch_key=real.batch_key)
        adata = adata[:, adata.var["highly_variable"]].copy()
    adata.X = sp.csr_matrix(adata.X)
    return adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()


def hand_over(adata: AnnData, real: RealSet, path: Path) -> None:
    """Write counts and batches for the workers."""
    x = adata.X
    whole = {"values": x.data, "indices": x.indices, "indptr": x.indptr, "shape": np.array(x.shape)}
    if real.batch_key is not None:
        whole["batch"] = adata.obs[real.batch_key].astype(str).to_numpy().astype(str)
    np.savez(path, **whole)


def thirds(n_cells: int) -> dict[str, list[int]]:
    """Return the cells that judge (a tenth), those that stop, and those to train on (nine tenths of the others).

    The same for all seeds of the sides.
    """
    order = np.random.default_rng([0, 7]).permutation(n_cells)
    n_test = math.ceil(n_cells / 10)
    n_stop = math.floor((n_cells - n_test) / 10)
    parts = np.split(order, [n_test, n_test + n_stop])
    return {name: np.sort(part).tolist() for name, part in zip(("test", "validation", "train"), parts, strict=True)}


def quality(latent: np.ndarray, adata: AnnData, real: RealSet) -> dict[str, float]:
    """Return how well the latent space agrees with labels, and how well it mixes batches."""
    out: dict[str, float] = {}
    labels = None
    if real.label_key is not None:
        names = adata.obs[real.label_key].astype(str)
        known = ~names.str.lower().isin(NO_LABEL).to_numpy()
        labels = names.where(known, None).to_numpy()
        agreement = evaluate.kmeans_agreement(latent[known], labels[known], seed=0)
        out |= {"ari": agreement.ari, "nmi": agreement.nmi}
        out["label_silhouette"] = evaluate.label_silhouette(latent[known], labels[known])
    if real.batch_key is not None:
        batch = adata.obs[real.batch_key].astype(str).to_numpy()
        keep = np.ones(adata.n_obs, bool) if labels is None else known
        of_label = None if labels is None else labels[keep]
        out["batch_silhouette"] = evaluate.batch_silhouette(latent[keep], batch[keep], of_label)
    # none where it is not defined: batches without a label in common
    return {name: machine.significant(value) for name, value in out.items() if math.isfinite(value)}


# -- one set and seed ------------------------------------------------------------------------------------------------


class OneSet:
    """A set loaded for both sides."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.real, self.args = name, SETS[name], args
        self.adata = chosen(self.real, args.data / self.real.file, args.genes)
        machine.SCRATCH.mkdir(parents=True, exist_ok=True)
        self.path = machine.SCRATCH / f"real_{name}.npz"
        hand_over(self.adata, self.real, self.path)

    def worker(self, side: str) -> Worker:
        """Return a process of one side with the cells loaded and everything warm."""
        worker = Worker(side, self.args.threads, peer=self.args.peer)
        worker.ask("load", path=str(self.path))
        worker.ask("warm", likelihood=self.args.likelihood)
        return worker

    def run(self, worker: Worker, seed: int, **job: Any) -> dict[str, Any]:
        """Return the whole default training of one side and its quality."""
        latent = machine.SCRATCH / f"latent_{os.getpid()}.npy"
        options = {"likelihood": self.args.likelihood, "seed": seed, "n_samples": self.args.n_samples}
        told = worker.ask("quality", latent=str(latent), **options, **thirds(self.adata.n_obs), **job)
        told |= quality(np.load(latent, allow_pickle=False), self.adata, self.real)
        latent.unlink()
        return told

    def peer_curve(self, seed: int) -> dict[str, Any]:
        """Return the peer's training, computed now if it never was."""
        epochs = self.args.peer_epochs
        folder = CURVES if epochs is None else machine.SCRATCH / f"trial_{epochs}_epochs"
        path = folder / f"{self.name}_{self.args.likelihood}_{seed}.json"
        kept = machine.read_json(path)
        if kept:
            return kept
        print(f"{self.name} seed {seed}: the peer's curve is computed, once", flush=True)
        with self.worker("scvi-tools") as worker:
            job = {} if epochs is None else {"epochs": epochs}
            told = self.run(worker, seed, curve=self.args.curve_samples, **job)
            told = told | worker.versions
        told["curve"] = [round(value, 3) for value in told["curve"]]
        told |= {"cells": self.adata.n_obs, "genes": self.adata.n_vars, "curve_samples": self.args.curve_samples}
        machine.write_json(path, told | {"about": machine.about(self.args.threads)})
        return told

    def peer_seeds(self) -> list[int]:
        """Return the seeds of the peer that are asked for, or those that are kept."""
        if self.args.peer_seeds:
            return list(self.args.peer_seeds)
        kept = CURVES.glob(f"{self.name}_{self.args.likelihood}_*.json")
        return sorted(int(path.stem.rsplit("_", 1)[1]) for path in kept) or [0]

    def beside(self, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Return for each seed our training beside the peer's seconds per epoch, timed in turns, and its curves."""
        out = []
        curves = [self.peer_curve(seed) for seed in self.peer_seeds()]
        with self.worker("celbo") as ours, self.worker("scvi-tools") as peer:
            for seed in seeds:
                others = machine.Others([os.getpid(), ours.pid, peer.pid])
                told = self.run(ours, seed)
                train = {"likelihood": self.args.likelihood, "epochs": 4}
                epoch = statistics.median(peer.ask("train", **train)["seconds"])
                # timed on all cells, trained on their share
                epoch *= len(thirds(self.adata.n_obs)["train"]) / self.adata.n_obs
                out.append(compared(seed, told, curves, epoch) | {"other_cores_busy": others.cores()})
                print(f"{self.name} seed {seed}: {_line(out[-1])}", flush=True)
        return out


def compared(seed: int, ours: Mapping[str, Any], curves: Sequence[Mapping[str, Any]], epoch: float) -> dict[str, Any]:
    """Return one of our seeds, the peer's seeds together, and their ratios."""

    def mean(of: Callable[[Mapping[str, Any]], float]) -> float:
        return statistics.fmean(map(of, curves))

    best, end = mean(lambda c: max(c["curve"])), mean(lambda c: c["elbo"])
    peer = {"elbo": end, "best_elbo_on_the_way": best, "best_epoch": mean(lambda c: c["curve"].index(max(c["curve"])))}
    epochs = curves[0]["epochs"]
    peer |= {"seeds": len(curves), "epochs": epochs, "seconds_per_epoch": epoch, "seconds": epoch * epochs}
    of_peer = {name: [c[name] for c in curves] for name in QUALITY if math.isfinite(curves[0].get(name, math.nan))}
    peer |= {name: statistics.fmean(values) for name, values in of_peer.items()}
    kept = ("elbo", "seconds", "seconds_to_build", "epochs", "best_epoch", "stopped", "batch_size", *QUALITY)
    mine = {name: ours[name] for name in kept if name in ours}
    return {
        "seed": seed,
        "celbo": mine,
        "scvi-tools": peer,
        "of_each_seed_of_the_peer": of_peer,
        "seconds_ratio": machine.significant(peer["seconds"] / mine["seconds"]),
        "elbo_gain_over_end": (mine["elbo"] - end) / abs(end),
        "elbo_gain_over_best": (mine["elbo"] - best) / abs(best),
    }


def _line(told: Mapping[str, Any]) -> str:
    ours, peer = (told[side] for side in SIDES)
    text = (
        f"{ours['seconds']:.1f} s beside {peer['seconds']:.0f} s ({told['seconds_ratio']:.0f} times sooner), held-out "
    )
    text += f"ELBO {ours['elbo']:.2f} beside {peer['elbo']:.2f} (best {peer['best_elbo_on_the_way']:.2f})"
    both = [f"{name} {ours[name]:.3f} | {peer[name]:.3f}" for name in QUALITY if name in ours]
    return ", ".join([text, *both])


# -- all sets --------------------------------------------------------------------------------------------------------


def of_set(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means over seeds, and by how much each side's quality spreads."""
    out: dict[str, Any] = {
        "seconds_ratio": machine.geometric_mean([r["seconds_ratio"] for r in runs]),
        "elbo_gain_over_end": statistics.fmean(r["elbo_gain_over_end"] for r in runs),
        "elbo_gain_over_best": statistics.fmean(r["elbo_gain_over_best"] for r in runs),
    }
    for name in QUALITY:
        sides = [[r["celbo"][name] for r in runs if name in r["celbo"]]]
        if sides[0]:
            sides.append(runs[-1]["of_each_seed_of_the_peer"][name])
            ours, peer = map(statistics.fmean, sides)
            spread = [statistics.stdev(values) if len(values) > 1 else None for values in sides]
            out[name] = {**dict(zip(SIDES, (ours, peer), strict=True)), "standard_deviations": spread}
    return out


def summary(sets: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the Targets ask for."""
    means = {name: told["mean"] for name, told in sets.items()}
    ratios = {name: m["seconds_ratio"] for name, m in means.items()}
    out: dict[str, Any] = {
        "sets": len(means),
        "seconds_ratio_geometric_mean": machine.significant(machine.geometric_mean(list(ratios.values()))),
        "seconds_ratio_least": [min(ratios, key=lambda n: ratios[n]), machine.significant(min(ratios.values()))],
        "elbo_gain_over_best_mean": statistics.fmean(m["elbo_gain_over_best"] for m in means.values()),
        "elbo_below_best": [name for name, m in means.items() if m["elbo_gain_over_best"] < 0],
    }
    for name in QUALITY:
        gains = [m[name]["celbo"] - m[name]["scvi-tools"] for m in means.values() if name in m]
        out[f"{name}_gain_mean"] = machine.significant(statistics.fmean(gains)) if gains else None
        out[f"{name}_below"] = [n for n, m in means.items() if name in m and _is_below(m[name])]
    return out


def _is_below(told: Mapping[str, Any]) -> bool:
    """Say whether ours is lower by more than the seeds of both sides spread; a side of one seed spreads as the other.

    With one seed on both sides 0.02 is allowed.
    """
    known = [s for s in told["standard_deviations"] if s is not None]
    spread = [s if s is not None else max(known, default=0.02 / math.sqrt(2)) for s in told["standard_deviations"]]
    allowed = math.sqrt(sum(s * s for s in spread))
    return bool(told["celbo"] < told["scvi-tools"] - allowed)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    beside = machine.ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CELBO_TEST_DATA", beside)))
    parser.add_argument("--peer", type=Path, default=machine.PEER)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=REAL)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--peer-seeds", nargs="+", type=int, help="of the peer's curves; by default those kept, or 0")
    parser.add_argument("--likelihood", choices=["nb", "zinb"], default="nb", help="of both sides")
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of each side")
    parser.add_argument("--n-samples", type=int, default=10, help="draws of the latent state at the end")
    parser.add_argument("--curve-samples", type=int, default=2, help="draws at each epoch of the peer")
    parser.add_argument("--peer-epochs", type=int, default=None, help="of the peer, for a trial; None is its heuristic")
    parser.add_argument("--curves-only", action="store_true", help="compute the peer's curves that lack, and end")
    parser.add_argument("--again", action="store_true", help="also what has been measured")
    parser.add_argument("--wait", type=float, default=600, help="longest wait for a quiet machine, seconds")
    parser.add_argument("--out", type=Path, default=machine.RESULTS / "time_to_quality.json")
    return parser.parse_args()


def run_set(name: str, args: argparse.Namespace, result: dict[str, Any]) -> None:
    """Run what a set lacks, and write."""
    done = {} if args.again else {r["seed"]: r for r in result["sets"].get(name, {}).get("runs", [])}
    seeds = [seed for seed in args.seeds if seed not in done]
    if not seeds and not args.curves_only:
        return
    one = OneSet(name, args)
    for seed in one.peer_seeds():
        one.peer_curve(seed)
    if args.curves_only:
        return
    load = machine.wait_until_quiet(args.wait)
    for told in one.beside(seeds):
        done[told["seed"]] = told | load | {"commit": machine.commit(), "date": time.strftime("%Y-%m-%d")}
    runs = [done[seed] for seed in sorted(done)]
    about = {"file": one.real.file, "cells": one.adata.n_obs, "genes": one.adata.n_vars}
    result["sets"][name] = {**about, "mean": of_set(runs), "runs": runs}
    result["summary"] = summary(result["sets"])
    result["about"] = machine.about(args.threads)
    machine.write_json(args.out, result)


def main() -> None:
    """Run what the command line asks for."""
    args = arguments()
    if not args.peer.exists():
        raise SystemExit("No environment of the peer: make venv-peer")
    if not args.data.is_dir():
        raise SystemExit("No folder of data: --data, or the variable CELBO_TEST_DATA")
    warnings.simplefilter("ignore")
    result = machine.read_json(args.out) or {"what": __doc__.splitlines()[0], "sets": {}}
    for name in args.sets:
        run_set(name, args, result)
    for key, value in result.get("summary", {}).items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
