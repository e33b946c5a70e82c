"""Which training plan is the default: candidates side by side on real sets, judged on cells that no training saw.

    .venv/bin/python benchmarks/training_plans.py [--sets pbmc mixology ...] [--seeds 0 1 2] [--plans "40 epochs" ...]

Each set is split as in time_to_quality.py: a tenth judges, a tenth of the rest stops early, the rest trains.
Writes results/training_plans.json; a set, seed and plan that is in it is not run again. `--page` only writes
docs/training-defaults.md and its plot from that file.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pandas as pd
import torch
from time_to_quality import QUALITY, REAL, SETS, chosen, quality, thirds

import celbo

RESULT = machine.RESULTS / "training_plans.json"
PAGE = machine.ROOT / "docs" / "training-defaults.md"
PLOT = machine.ROOT / "docs" / "img" / "training-defaults.png"
N_SAMPLES = 5

PLANS: dict[str, dict[str, Any]] = {
    "default": {},
    "half the epochs": {"epochs": 0.5},
    "three quarters of the epochs": {"epochs": 0.75},
    "twice the epochs": {"epochs": 2.0},
    "half the rate": {"rate": 0.5},
    "twice the rate": {"rate": 2.0},
    "half the epochs, twice the rate": {"epochs": 0.5, "rate": 2.0},
    "batch 32": {"batch_size": 32},
    "batch 64": {"batch_size": 64},
    "batch 128": {"batch_size": 128},
    "no weight decay": {"weight_decay": 0.0},
    "weight decay 0.3": {"weight_decay": 0.3},
    "KL warm-up 30%": {"kl_warmup": 0.3},
    "no KL warm-up": {"kl_warmup": 0.0},
    "random start": {"initialisation": "uniform"},
    "scvi-tools' plan, 40 epochs": {"scvi_tools": 40},
}
"""Each is the default but for what it names."""


def plan_of(spec: Mapping[str, Any], n_train: int) -> celbo.TrainConfig:
    """Return the plan of a candidate for so many training cells."""
    from celbo.training.plan import resolve

    if "scvi_tools" in spec:
        return celbo.TrainConfig.scvi_tools(max_epochs=spec["scvi_tools"])
    given = {k: v for k, v in spec.items() if k not in ("rate", "epochs", "initialisation")}
    usual = resolve(celbo.TrainConfig(**given), n_train)
    assert usual.learning_rate is not None and usual.max_epochs is not None
    if "rate" in spec:
        given["learning_rate"] = usual.learning_rate * spec["rate"]
    if "epochs" in spec:
        given["max_epochs"] = round(usual.max_epochs * spec["epochs"])
    return celbo.TrainConfig(**given)


def judged(name: str, adata: Any, spec: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train once and return what came of it."""
    real, split = SETS[name], thirds(adata.n_obs)
    start = spec.get("initialisation", "uniform" if "scvi_tools" in spec else "data")
    model = celbo.SCVI(adata, batch_key=real.batch_key, seed=seed, initialisation=start)
    began = time.perf_counter()
    model.train(
        plan_of(spec, len(split["train"])),
        train_indices=split["train"],
        validation_indices=split["validation"],
        progress=False,
    )
    seconds = time.perf_counter() - began
    elbo = model.get_elbo(indices=split["test"], n_samples=N_SAMPLES, seed=0)
    told = {"elbo": float(elbo), "epochs": len(model.history), "seconds": machine.significant(seconds)}
    return told | quality(model.get_latent_representation(), adata, real)


def table() -> pd.DataFrame:
    """Return every run as a row."""
    runs = machine.read_json(RESULT).get("runs", {})
    keys = [dict(zip(("set", "plan", "seed"), key.split("|"), strict=True)) for key in runs]
    return pd.DataFrame([key | run for key, run in zip(keys, runs.values(), strict=True)])


def against_default(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean difference of each plan to the default, over the sets and seeds that both have run."""
    rows = {}
    default = runs[runs["plan"] == "default"].set_index(["set", "seed"])
    for plan, found in runs.groupby("plan", sort=False):
        own = found.set_index(["set", "seed"])
        both = own.index.intersection(default.index)
        a, b = own.loc[both], default.loc[both]
        gain = 100 * (a["elbo"] - b["elbo"]) / b["elbo"].abs()
        rows[plan] = {
            "sets": len(set(both.get_level_values("set"))),
            "ELBO, % better": gain.groupby("set").mean().mean(),
            "worst set": gain.groupby("set").mean().min(),
            "best set": gain.groupby("set").mean().max(),
            "epochs": statistics.geometric_mean(a["epochs"] / b["epochs"]),
            **{name: (a[name] - b[name]).mean() for name in QUALITY if name in a},
        }
    return pd.DataFrame(rows).T


def markdown(frame: pd.DataFrame) -> str:
    """Return a frame as a Markdown table."""
    lines = ["| | " + " | ".join(map(str, frame.columns)) + " |", "|---|" + "---|" * frame.shape[1]]
    lines += [
        f"| {name} | " + " | ".join("" if math.isnan(v) else f"{v:g}" for v in row) + " |"
        for name, row in zip(frame.index, frame.to_numpy(float), strict=True)
    ]
    return "\n".join(lines)


def write_page() -> None:
    """Write docs/training-defaults.md and its plot."""
    runs = table()
    compared = against_default(runs)
    default = runs[runs["plan"] == "default"].groupby("set", sort=False).mean(numeric_only=True)
    about = machine.read_json(RESULT)["about"]
    text = [
        "# Training defaults, and the evidence for them",
        "",
        "Made by `benchmarks/training_plans.py --page` from `benchmarks/results/training_plans.json`; the reasons are",
        "in `docs/decisions.md`. A tenth of the cells, seen by no training and no stopping, judges: ELBO in nats per",
        f"cell, every divergence at full weight. Machine: {about['cpu']}, {about['threads']} thread(s).",
        "",
        "![Held-out ELBO of each plan against the default](img/training-defaults.png)",
        "",
        "## Each plan against the default",
        "",
        "Means over sets and seeds; `epochs` is a ratio, agreement (of k-means) and mixing are differences. More is",
        "better, but for the epochs. The default has three seeds, the others one, so that 0.03 of ARI is noise.",
        "",
        markdown(compared.round(3)),
        "",
        "## The default on each set",
        "",
        "Means over seeds.",
        "",
        markdown(default.drop(columns="seconds").round(3)),
        "",
        *beside_the_peer(),
    ]
    PAGE.write_text("\n".join(text))
    draw(runs)


def beside_the_peer() -> list[str]:
    """Return the section on the whole default training of both sides, from what time_to_quality.py found."""
    told = machine.read_json(machine.RESULTS / "time_to_quality.json")
    if not told:
        return []
    rows = {}
    for name, of_set in told["sets"].items():
        runs, mean = of_set["runs"], of_set["mean"]
        peer = runs[-1]["scvi-tools"]
        ours = {key: statistics.fmean(r["celbo"][key] for r in runs) for key in ("elbo", "seconds")}
        rows[name] = {
            "cells": of_set["cells"],
            "seconds": ours["seconds"],
            "scvi-tools, seconds": statistics.fmean(r["scvi-tools"]["seconds"] for r in runs),
            "times sooner": mean["seconds_ratio"],
            "ELBO": ours["elbo"],
            "scvi-tools, last": peer["elbo"],
            "scvi-tools, best epoch": peer["best_elbo_on_the_way"],
            "% over its best": 100 * mean["elbo_gain_over_best"],
        }
        for key in QUALITY:
            both = [mean[key][side] for side in ("celbo", "scvi-tools")] if key in mean else [float("nan")] * 2
            rows[name] |= {key.replace("_", " "): both[0], f"scvi-tools, {key.replace('_', ' ')}": both[1]}
    about = told["about"]
    return [
        "## Beside scvi-tools 1.4.2",
        "",
        "The whole default training of both, by `benchmarks/time_to_quality.py`: ours as it comes; the peer's 400",
        "epochs, of which the seconds of one are timed beside ours; the ELBO was looked at after each. The same cells",
        "judge.",
        f"Machine: {about['cpu']}, {about['threads']} threads; commit {about['commit']}.",
        "",
        markdown(pd.DataFrame(rows).T.astype(float).round(3)),
        "",
    ]


def draw(runs: pd.DataFrame) -> None:
    """Draw the difference of each run's ELBO to the default's of the same set and seed."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    default = runs[runs["plan"] == "default"].set_index(["set", "seed"])["elbo"]
    plans = [plan for plan in PLANS if plan != "default" and (runs["plan"] == plan).any()]
    figure = Figure(figsize=(9, 0.35 * len(plans) + 1.2), layout="constrained")
    axes = figure.subplots()
    colors = colormaps["tab20"]
    for i, name in enumerate(runs["set"].unique()):
        own = runs[(runs["set"] == name) & (runs["plan"] != "default")].set_index(["set", "seed"])
        own = own[own.index.isin(default.index)]
        gain = 100 * (own["elbo"] - default.loc[own.index]) / default.loc[own.index].abs()
        axes.plot(gain, [plans.index(p) for p in own["plan"]], "o", ms=4, color=colors(i), label=name)
    axes.axvline(0, color="0.3", lw=1)
    axes.set(yticks=range(len(plans)), yticklabels=plans, xlabel="held-out ELBO, % better than the default")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xticks([-10, -3, -1, -0.5, 0, 0.5, 1], ["-10", "-3", "-1", "-0.5", "0", "0.5", "1"])
    axes.legend(fontsize=7, frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
    figure.savefig(PLOT, dpi=130)


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    beside = machine.ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CELBO_TEST_DATA", beside)))
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=REAL)
    parser.add_argument("--plans", nargs="+", choices=list(PLANS), default=list(PLANS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--n-threads", type=int, default=1)
    parser.add_argument("--page", action="store_true", help="only write the page")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if not args.page:
        torch.set_num_threads(args.n_threads)
        result = machine.read_json(RESULT) or {"runs": {}}
        for name in args.sets:
            keys = [(f"{name}|{plan}|{seed}", plan, seed) for seed in args.seeds for plan in args.plans]
            if all(key in result["runs"] for key, _, _ in keys):
                continue
            adata = chosen(SETS[name], args.data / SETS[name].file, args.genes)
            for key, plan, seed in keys:
                if key not in result["runs"]:
                    result["runs"][key] = judged(name, adata, PLANS[plan], seed)
                    result["about"] = machine.about(args.n_threads)
                    machine.write_json(RESULT, result)
                    print(key, result["runs"][key], flush=True)
    write_page()


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
