"""Denoisers on molecules that they have not seen, and AutoImpute on masked entries, on real counts.

    .venv/bin/python benchmarks/denoising.py [--sets pbmc3k kang ...] [--seeds 0 1] [--again]

Molecular cross-validation (Batson et al. 2019): each is trained on nine tenths of the molecules of 2,000 highly
variable genes, and the Poisson deviance of the other tenth is taken under what it expects, beside no denoising and the
mean of the gene. A zero-inflated model is judged twice: by the mean without its inflation, which is what DCA writes,
and by what it expects to be *observed*. Then the test of AutoImpute's authors: a tenth of the counts above zero is
taken away, and the error is the ratio of norms on the log2 scale, beside the mean of the gene where it is shown.

Writes results/denoising.json; a set and seed that is in it is not run again, except with --again. Seconds are those of
a machine that did other work too. The folder of data is found by --data, the variable CELBO_TEST_DATA, or beside the
repository.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from anndata import AnnData
from scipy import sparse
from time_to_quality import SETS, chosen

import celbo
from celbo.evaluate import masked_imputation
from celbo.evaluate.baselines import as_floats, gene_mean, knn_smoothing, no_denoising
from celbo.evaluate.denoising import MoleculeSplit, score_held_out, split_molecules
from celbo.models.autoimpute import AutoImputeConfig
from celbo.models.dca import DCAConfig

RESULT = machine.RESULTS / "denoising.json"
DEFAULT = ("pbmc3k", "kang", "paul15", "zeisel")

Trained = Callable[[AnnData, int], Any]


def _dca(config: DCAConfig, *, faithful: bool = False) -> Trained:
    def train(adata: AnnData, seed: int) -> Any:
        model = celbo.DCA(adata, config=config, seed=seed)
        return model.train(celbo.DCA.paper_plan(n_genes=adata.n_vars) if faithful else None, progress=False)

    return train


MODELS: dict[str, Trained] = {
    "SCVI": lambda adata, seed: celbo.SCVI(adata, seed=seed).train(progress=False),
    "HPF": lambda adata, seed: celbo.HPF(adata, seed=seed).train(progress=False),
    "DCA": _dca(DCAConfig()),
    "DCA nb": _dca(DCAConfig(ae_type="nb")),
    "DCA zinb": _dca(DCAConfig(ae_type="zinb")),
    "DCA zinb-conddisp": _dca(DCAConfig(ae_type="zinb-conddisp")),
    "DCA 0.3 faithful": _dca(DCAConfig.dca_0_3(), faithful=True),
    "DCA paper faithful": _dca(DCAConfig.paper(), faithful=True),
    "AutoImpute": lambda adata, seed: celbo.AutoImpute(adata, seed=seed).train(progress=False),
}


def molecules(counts: sparse.csr_matrix, seed: int) -> dict[str, dict[str, float]]:
    """Return the scores of every method on one split of the molecules."""
    split = split_molecules(counts, seed=seed)
    seen = AnnData(as_floats(split.train))
    rows = {
        "no denoising": _scores(no_denoising(as_floats(split.train)), split),
        "gene mean": _scores(gene_mean(as_floats(split.train)), split),
        "kNN": _scores(knn_smoothing(as_floats(split.train), seed=seed), split),
    }
    for name, train in MODELS.items():
        began = time.perf_counter()
        model = train(seen, seed)
        took = {"seconds": round(time.perf_counter() - began, 1), **_held_out_cells(model)}
        rows[name] = {**_scores(model.get_denoised_expression(return_numpy=True), split), **took}
        if "zinb" in getattr(model.config, "ae_type", ""):
            observed = model.get_denoised_expression(return_numpy=True, zero_inflation=True)
            rows[f"{name}, as observed"] = _scores(observed, split)
        print(f"  {name}: {rows[name]}", flush=True)
    return rows


def _scores(expected: Any, split: MoleculeSplit) -> dict[str, float]:
    scores = score_held_out(expected, split)
    found = {"deviance": scores.deviance, "nll": scores.nll, "mse_log": scores.mse_log, "floored": scores.floored}
    return {name: machine.significant(value, 5) for name, value in found.items()}


def _held_out_cells(model: Any) -> dict[str, float]:
    """Return the epochs and, of DCA, the reconstruction of the held-out cells with the weights that are kept."""
    found: dict[str, float] = {"epochs": len(model.history)}
    if isinstance(model, celbo.DCA):
        error = model.get_reconstruction_error(indices=model.validation_indices)
        found["reconstruction_validation"] = machine.significant(error, 6)
    return found


def masked(counts: sparse.csr_matrix, seed: int) -> dict[str, dict[str, float]]:
    """Return the errors of AutoImpute on masked entries, beside the gene mean's."""

    def impute(seen: sparse.csr_matrix) -> Any:
        model = celbo.AutoImpute(AnnData(seen), seed=seed).train(progress=False)
        return model.get_denoised_expression(return_numpy=True)

    table = masked_imputation({"AutoImpute": impute}, counts, scale="log2", seeds=(seed,))
    return _by_method(table)


def initialisations(counts: sparse.csr_matrix, seed: int) -> dict[str, dict[str, float]]:
    """Return the same for 30 cells, with the faithful plan and each of the two initialisations."""
    some = counts[np.random.default_rng(seed).permutation(counts.shape[0])[:30]]
    some = some[:, np.argsort(-np.asarray((some > 0).sum(0)).ravel(), kind="stable")[:1000]]

    def imputing(config: AutoImputeConfig) -> Callable[[sparse.csr_matrix], Any]:
        def impute(seen: sparse.csr_matrix) -> Any:
            model = celbo.AutoImpute(AnnData(seen), config=config, seed=seed)
            model.train(celbo.AutoImpute.paper_plan(n_cells=seen.shape[0]), progress=False)
            return model.get_denoised_expression(return_numpy=True)

        return impute

    both = {"default": imputing(AutoImputeConfig()), "N(0, 1)": imputing(AutoImputeConfig.paper())}
    return _by_method(masked_imputation(both, some, scale="log2", seeds=(seed,)))


def _by_method(table: Any) -> dict[str, dict[str, float]]:
    rows = table.set_index("method")[["nmse", "mae", "entries"]].to_dict("index")
    return {name: {k: machine.significant(float(v), 4) for k, v in row.items()} for name, row in rows.items()}


def means(runs: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the table of deviances, mean and spread over the seeds."""
    for name in sorted({run.split("/")[0] for run in runs}):
        of_set = [value for run, value in runs.items() if run.split("/")[0] == name]
        yield f"{name} ({len(of_set)} seeds)"
        for method in of_set[0]["molecules"]:
            values = [run["molecules"][method]["deviance"] for run in of_set]
            yield f"  {method:36s} {np.mean(values):.4f} +- {np.std(values):.4f}"
        for method in of_set[0]["masked"]:
            values = [run["masked"][method]["nmse"] for run in of_set]
            yield f"  NMSE of masked entries, {method:14s} {np.mean(values):.4f} +- {np.std(values):.4f}"


def main() -> None:
    """Run what is asked for and not yet there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=list(DEFAULT))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=os.environ.get("CELBO_TEST_DATA"))
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    folder = Path(options.data) if options.data else machine.ROOT.parent / "shared" / "data"
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    result = {} if options.again else machine.read_json(RESULT)
    runs = result.get("runs", {})
    for name in options.sets:
        counts = chosen(SETS[name], folder / SETS[name].file, options.genes).X
        for seed in options.seeds:
            if f"{name}/{seed}" not in runs:
                print(f"{name} {counts.shape}, seed {seed}", flush=True)
                run: dict[str, Any] = {"cells": counts.shape[0], "genes": counts.shape[1]}
                run |= {"molecules": molecules(counts, seed), "masked": masked(counts, seed)}
                if name == "zeisel":
                    run["initialisations"] = initialisations(counts, seed)
                runs[f"{name}/{seed}"] = run
                machine.write_json(RESULT, {"machine": machine.about(options.threads), "runs": runs})
    print("\n".join(means(runs)))


if __name__ == "__main__":
    main()
