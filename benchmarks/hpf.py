"""Hierarchical Poisson factorisation beside scikit-learn's KL-NMF, on real counts: seconds, and held-out molecules.

    .venv/bin/python benchmarks/hpf.py [--sets pbmc paul15 ...] [--ks 10 20]

Each count is thinned, x = train + held out with train ~ Binomial(x, 0.8); both sides factorise the same training counts
of all genes with the same number of components, and are judged by the Poisson log-likelihood of the held-out counts,
zeros too. Ours is `celbo.HPF(...).train(train_size=1.0)` as it comes, start and bound of each sweep counted, and the
seconds until it first predicts as well as theirs does. Theirs is NMF with beta_loss="kullback-leibler" and solver="mu",
its default 200 iterations and tolerance. NMF may say that a rate is 0: its rates are raised to a floor, the one of
eight that is best for it on these very held-out molecules.

The cost against the stored counts is taken from parts of the cells of the largest set, a sweep and an iteration each.
What is compiled once is compiled before. The folder of data is found by --data, the variable CELBO_TEST_DATA, or beside
the repository.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path
from typing import Any

import machine
import numpy as np
import scanpy as sc
import scipy.sparse as sp
import torch
from anndata import AnnData
from scipy import stats
from sklearn.decomposition import NMF
from time_to_quality import SETS

import celbo
from celbo.data.sampler import Split
from celbo.models import hpf_ask
from celbo.models.hpf_fit import Ascent, Point
from celbo.training.plan import TrainConfig

DEFAULT = ("pbmc", "paul15", "bladder", "kang", "zeisel", "spleen")
FLOORS = tuple(10.0**-i for i in range(1, 9))
SHARE = 0.8
RATIO = (1 - SHARE) / SHARE
PARTS = (0.125, 0.25, 0.5, 1.0)
SWEEPS = 10  # of each timing of a sweep


def counts_of(name: str, folder: Path) -> sp.csr_matrix:
    """Return the counts of a set, without cells and genes that have none."""
    x = sp.csr_matrix(sc.read_h5ad(folder / SETS[name].file).X, dtype=np.float32)
    x = x[np.asarray(x.sum(1)).ravel() > 0]
    return x[:, np.asarray(x.sum(0)).ravel() > 0]


def ours(train: sp.csr_matrix, held_out: sp.csr_matrix, k: int, theirs: float) -> tuple[dict[str, Any], np.ndarray]:
    """Return what our fit took and found, and the held-out log-likelihood of each cell.

    Also the seconds until it first was as good as `theirs`, from the seconds of its sweeps; scoring is not counted.
    """
    model = celbo.HPF(AnnData(train), n_components=k)
    began = time.perf_counter()
    model.train(train_size=1.0, progress=False)
    seconds = time.perf_counter() - began
    scores = hpf_ask.log_likelihood(held_out, model.network.cells.mean * RATIO, model.network.genes.mean)
    history = model.history
    told = {
        "seconds": machine.significant(seconds),
        "sweeps": len(history),
        "seconds_per_sweep": machine.significant(float(history["seconds"].iloc[1:].median())),
        "elbo": float(history["elbo_train"].iloc[-1]),
        "largest_fall_of_the_elbo": float(max(0.0, -np.diff(history["elbo_train"]).min())),
    }
    split, plan = Split(np.arange(train.shape[0]), np.empty(0, np.int64)), TrainConfig(max_epochs=len(history))
    began = time.perf_counter()
    ascent = Ascent(model.config, model.data, split, plan, priors=model.network.priors, seed=model.seed)
    spent, point = time.perf_counter() - began, Point()
    while point.trial == 0:
        point = ascent.step(point)
        spent += point.rows[-1]["seconds"]
        state = point.state or point.best
        score = hpf_ask.log_likelihood(held_out, state.cells.mean * RATIO, state.genes.mean).mean()
        if score >= theirs:
            told |= {"seconds_until_as_good": machine.significant(spent), "sweeps_until_as_good": len(point.rows)}
            break
    return told, scores


def theirs(train: sp.csr_matrix, held_out: sp.csr_matrix, k: int) -> tuple[dict[str, Any], np.ndarray]:
    """Return the same of KL-NMF, at the floor that is best for it."""
    nmf = NMF(k, beta_loss="kullback-leibler", solver="mu", init="nndsvda", random_state=0)
    began = time.perf_counter()
    cells = nmf.fit_transform(train)
    seconds = time.perf_counter() - began
    scores = np.zeros((len(FLOORS), train.shape[0]))
    for start in range(0, train.shape[0], 500):
        block = slice(start, start + 500)
        rates, counts = RATIO * cells[block] @ nmf.components_, held_out[block].toarray()
        for i, floor in enumerate(FLOORS):
            scores[i, block] = stats.poisson.logpmf(counts, np.maximum(rates, floor)).sum(1)
    best = int(scores.mean(1).argmax())
    told = {
        "seconds": machine.significant(seconds),
        "iterations": int(nmf.n_iter_),
        "seconds_per_iteration": machine.significant(seconds / nmf.n_iter_),
        "floor": FLOORS[best],
        "by_floor": {f"{floor:g}": float(scores[i].mean()) for i, floor in enumerate(FLOORS)},
    }
    return told, scores[best]


def beside(name: str, k: int, x: sp.csr_matrix) -> dict[str, Any]:
    """Return one set and number of components."""
    train, held_out = hpf_ask.thinned(x, SHARE, 0)
    keep = np.asarray(train.sum(1)).ravel() > 0
    train, held_out = train[keep], held_out[keep]
    peer = theirs(train, held_out, k)
    sides = {"celbo": ours(train, held_out, k, float(peer[1].mean())), "scikit-learn": peer}
    gain = sides["celbo"][1] - sides["scikit-learn"][1]
    out: dict[str, Any] = {"cells": train.shape[0], "genes": train.shape[1], "stored": int(train.nnz), "k": k}
    for side, (told, scores) in sides.items():
        out[side] = told | {"held_out_log_likelihood": float(scores.mean())}
    out["seconds_ratio"] = machine.significant(out["scikit-learn"]["seconds"] / out["celbo"]["seconds"])
    if "seconds_until_as_good" in out["celbo"]:
        ratio = out["scikit-learn"]["seconds"] / out["celbo"]["seconds_until_as_good"]
        out["seconds_ratio_until_as_good"] = machine.significant(ratio)
    out["gain"] = {"nats_per_cell": float(gain.mean()), "standard_error": float(gain.std() / np.sqrt(gain.size))}
    print(f"{name}, k {k}: {out['celbo']['seconds']:.1f} s (as good after {told_until(out['celbo'])} s) | "
          f"{out['scikit-learn']['seconds']:.1f} s, held out "
          f"{out['celbo']['held_out_log_likelihood']:.2f} | {out['scikit-learn']['held_out_log_likelihood']:.2f}, "
          f"gain {gain.mean():.2f} +- {out['gain']['standard_error']:.2f} nats per cell", flush=True)  # fmt: skip
    return out


def told_until(side: dict[str, Any]) -> str:
    """Return the seconds until ours was as good as theirs, for people."""
    return f"{side['seconds_until_as_good']:.1f}" if "seconds_until_as_good" in side else "never"


def cost(x: sp.csr_matrix, k: int) -> dict[str, Any]:
    """Return seconds of a sweep and of an iteration on parts of the cells, and the slopes on logarithmic axes."""
    rows, order = [], np.random.default_rng(0).permutation(x.shape[0])
    for part in PARTS:
        some = x[np.sort(order[: round(part * x.shape[0])])]
        model = celbo.HPF(AnnData(some), n_components=k)
        model.train(train_size=1.0, max_epochs=SWEEPS, progress=False)
        seconds = []
        for n in (2, 2 + SWEEPS):  # the difference is of the iterations alone, not of the start
            nmf = NMF(k, beta_loss="kullback-leibler", solver="mu", init="random", max_iter=n, tol=0, random_state=0)
            began = time.perf_counter()
            nmf.fit_transform(some)
            seconds.append(time.perf_counter() - began)
        rows.append({
            "cells": some.shape[0],
            "stored": int(some.nnz),
            "seconds_per_sweep": machine.significant(float(model.history["seconds"].iloc[1:].median())),
            "seconds_per_iteration_of_nmf": machine.significant((seconds[1] - seconds[0]) / SWEEPS),
        })  # fmt: skip
        print(rows[-1], flush=True)
    logs = np.log([[row[key] for key in list(rows[0])[1:]] for row in rows])
    slopes = [float(np.polyfit(logs[:, 0], logs[:, i], 1)[0]) for i in (1, 2)]
    named = dict(zip(("celbo", "scikit-learn"), map(machine.significant, slopes), strict=True))
    return {"k": k, "parts": rows, "slope_on_logarithmic_axes": named}


def summary(sets: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the figures over all sets and numbers of components."""
    runs = [run for of_set in sets.values() for run in of_set]
    good = [run for run in runs if "seconds_ratio_until_as_good" in run]
    return {
        "sets": len(sets),
        "seconds_ratio_geometric_mean": machine.significant(machine.geometric_mean([r["seconds_ratio"] for r in runs])),
        "seconds_ratio_until_as_good_geometric_mean": machine.significant(
            machine.geometric_mean([r["seconds_ratio_until_as_good"] for r in good])
        )
        if good
        else None,
        "as_good_or_better": f"{len(good)} of {len(runs)}",
        "seconds_ratio_least": min(r["seconds_ratio"] for r in runs),
        "gain_mean": machine.significant(float(np.mean([r["gain"]["nats_per_cell"] for r in runs]))),
        "gain_least": machine.significant(min(r["gain"]["nats_per_cell"] for r in runs)),
        "gain_least_in_standard_errors": machine.significant(
            min(r["gain"]["nats_per_cell"] / r["gain"]["standard_error"] for r in runs)
        ),
        "largest_fall_of_the_elbo": max(r["celbo"]["largest_fall_of_the_elbo"] for r in runs),
    }


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = machine.ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CELBO_TEST_DATA", folder)))
    parser.add_argument("--sets", nargs="+", choices=[n for n in SETS if SETS[n].file], default=list(DEFAULT))
    parser.add_argument("--ks", nargs="+", type=int, default=[10, 20])
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of each side")
    parser.add_argument("--wait", type=float, default=600, help="longest wait for a quiet machine, seconds")
    parser.add_argument("--out", type=Path, default=machine.RESULTS / "hpf.json")
    args = parser.parse_args()
    if not args.data.is_dir():
        raise SystemExit("No folder of data: --data, or the variable CELBO_TEST_DATA")
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {"what": __doc__.splitlines()[0], "about": machine.about(args.threads)}
    small = celbo.datasets.pbmc()
    celbo.HPF(small, n_components=2).train(max_epochs=2, progress=False)  # compiles
    result |= machine.wait_until_quiet(args.wait)
    largest = counts_of(args.sets[0], args.data)
    result["cost"] = cost(largest, args.ks[0])
    result["sets"] = {}
    for name in args.sets:
        x = counts_of(name, args.data)
        result["sets"][name] = [beside(name, k, x) for k in args.ks]
        result["summary"] = summary(result["sets"])
        machine.write_json(args.out, result)
    for key, value in result["summary"].items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
