"""Held-out ELBO with an unrelated continuous covariate in several units, beside that without it.

    .venv/bin/python benchmarks/covariate_scales.py [--out benchmarks/results/covariate_scales.json] [--resume]

600 simulated cells x 100 genes. The column has nothing to do with the counts: years from 2018 to 2026, the same as
Unix time, a share around 1e-9, a normal one. Once as celbo takes it, centred and scaled by the training cells, and once
in its own unit (`scale_covariates=False`, as scvi-tools does). Nats per held-out cell, the mean over two seeds; None
where training ended with an error.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import machine
import numpy as np
import numpy.typing as npt
import torch

import celbo
from celbo.errors import TrainingError

RESULT = machine.RESULTS / "covariate_scales.json"
CELLS, GENES, EPOCHS, SEEDS = 600, 100, 30, (0, 1)
AT_MOST = 1.0
"""Nats per cell that an unrelated column may cost where it is scaled."""


def columns(n: int) -> dict[str, npt.NDArray[np.float64]]:
    """Return the column in each unit; (cells,)."""
    rng = np.random.default_rng(7)
    years = rng.integers(2018, 2027, n).astype(np.float64)
    return {
        "normal": rng.normal(size=n),
        "years": years,
        "unix time": (years - 1970) * 31_556_952 + rng.uniform(0, 3e7, n),
        "1e-9": 1e-9 * rng.gamma(2.0, size=n),
    }


def held_out(adata: Any, seed: int, **options: Any) -> float | None:
    """Return the ELBO of the held-out cells in nats per cell, or None where training ends with an error."""
    model = celbo.SCVI(adata, batch_key="batch", encode_covariates=True, seed=seed, **options)
    try:
        model.train(max_epochs=EPOCHS, n_threads=1, device="cpu", progress=False)
    except TrainingError:
        return None
    return float(model.get_elbo(indices=model.validation_indices))


def mean_of(adata: Any, **options: Any) -> float | None:
    """Return the mean over the seeds, None where any failed."""
    found = [held_out(adata, seed, **options) for seed in SEEDS]
    return None if None in found else round(float(np.mean([value for value in found if value is not None])), 2)


def measured(adata: Any, rows: dict[str, Any], out: Path) -> None:
    """Measure what `rows` lacks, and write after each row: a run that is stopped goes on where it was."""
    for unit, values in {"none": None, **columns(adata.n_obs)}.items():
        if unit in rows:
            continue
        if values is None:
            rows[unit] = mean_of(adata)
        else:
            adata.obs["unrelated"] = values
            keys = {"continuous_covariate_keys": ("unrelated",)}
            rows[unit] = {"scaled": mean_of(adata, **keys), "as it is": mean_of(adata, scale_covariates=False, **keys)}
        print(f"{unit}: {rows[unit]}", flush=True)
        write(out, rows)


def write(out: Path, rows: dict[str, Any]) -> None:
    """Write the table, and whether no unit costs more than `AT_MOST` where the column is scaled."""
    costs = [rows["none"] - (row["scaled"] if row["scaled"] is not None else -np.inf)
             for unit, row in rows.items() if unit != "none"]  # fmt: skip
    found = {"about": machine.about(1), "cells": CELLS, "genes": GENES, "epochs": EPOCHS, "seeds": len(SEEDS),
             "held_out_elbo": rows, "at_most": AT_MOST}  # fmt: skip
    if costs:
        found |= {"largest_cost": round(max(costs), 2), "holds": max(costs) <= AT_MOST}
    machine.write_json(out, found)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--resume", action="store_true", help="keep the rows that the file has")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    adata = celbo.datasets.simulate(n_cells=CELLS, n_genes=GENES, seed=0)
    rows = json.loads(asked.out.read_text())["held_out_elbo"] if asked.resume and asked.out.exists() else {}
    measured(adata, rows, asked.out)


if __name__ == "__main__":
    main()
