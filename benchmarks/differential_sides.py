"""The methods of differential.py: ours, scvi-tools in a process of its own, and tests of counts by scanpy."""

from __future__ import annotations

import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.stats
from anndata import AnnData
from differential_scores import TARGETS, Evidence, benjamini_hochberg, ranked
from differential_sets import Question, hand_over
from speed import Worker

import celbo

OURS = ("celbo", "celbo uncorrected", "celbo samples")
PEER = ("scvi-tools change", "scvi-tools vanilla")
TESTS = ("wilcoxon", "t-test", "pseudobulk t-test")
OF_SAMPLES = ("celbo samples", "pseudobulk t-test")
"""Methods that need to know the samples."""
METHODS = (*OURS, *PEER, *TESTS)
SCRATCH = machine.SCRATCH / "differential"
_VANILLA = 3.0
"""|Bayes factor| from which the paper of scVI calls a gene; vanilla mode has no rate of false discoveries."""


class Sides:
    """The methods on one data set: a model is trained, or read from where it was kept, when it is first asked."""

    def __init__(self, adata: AnnData, key: str, *, seed: int = 0, peer: Path = machine.PEER) -> None:
        self.adata, self.seed, self.key = adata, seed, "".join(c if c.isalnum() else "_" for c in key)
        self.seconds: dict[str, float] = {}
        self._peer_python = peer
        self._model: Any = None
        self._worker: Worker | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.close()

    @property
    def model(self) -> Any:
        """Return our trained model."""
        if self._model is None:
            kept = SCRATCH / "ours" / self.key
            if kept.exists():
                self._model = celbo.load(kept, self.adata)
            else:
                batch_key = "batch" if "batch" in self.adata.obs else None
                self._model = celbo.SCVI(self.adata, batch_key=batch_key, seed=self.seed)
                self._model.train(progress=False, n_threads=1)
                self._model.save(kept, overwrite=True)
        return self._model

    @property
    def worker(self) -> Worker:
        """Return the peer's process with its trained model."""
        if self._worker is None:
            path = SCRATCH / "peer" / f"{self.key}.npz"
            hand_over(self.adata, path)
            made = Worker("scvi-tools", 1, peer=self._peer_python, script="peer_de.py")
            self._worker = self._stack.enter_context(made)
            kept = SCRATCH / "peer" / self.key
            self._worker.ask("load", path=str(path), seed=self.seed, kept=str(kept))
            path.unlink()
        return self._worker

    def ask(self, method: str, question: Question, *, seed: int = 0) -> Evidence:
        """Return what a method says of the two groups."""
        if method in OURS:
            self.model  # noqa: B018 (trained before the clock starts)
        if method in PEER:
            self.worker  # noqa: B018
        began = time.perf_counter()
        if method in OURS:
            evidence = ours(self.model, question, method, seed=seed)
        elif method in PEER:
            evidence = self._of_peer(method.removeprefix("scvi-tools "), question, seed)
        elif method == "pseudobulk t-test":
            evidence = pseudobulk(question)
        else:
            evidence = tested(question, method)
        self.seconds[method] = time.perf_counter() - began
        return evidence

    def _of_peer(self, mode: str, question: Question, seed: int) -> Evidence:
        groups, out = (SCRATCH / "peer" / f"{self.key}_{what}.npz" for what in ("groups", "out"))
        np.savez(groups, first=question.first, second=question.second)
        self.worker.ask("compare", groups=str(groups), out=str(out), mode=mode, seed=seed, targets=TARGETS)
        with np.load(out, allow_pickle=False) as told:
            factor = told["bayes_factor"]
            if mode == "vanilla":
                score = np.abs(factor)
                return Evidence(ranked(score, score), dict.fromkeys(TARGETS, score > _VANILLA))
            calls = {target: told[f"called@{target}"] for target in TARGETS}
            return Evidence(ranked(told["proba_de"], factor), calls, told["lfc"])


def ours(model: Any, question: Question, method: str = "celbo", *, seed: int = 0) -> Evidence:
    """Return what our model says, every gene in the model's order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = model.differential_expression(
            idx1=question.first,
            idx2=question.second,
            calibrated=method != "celbo uncorrected",
            sample_key=question.sample_key if method == "celbo samples" else None,
            seed=seed,
        )
    return of_table(table.reindex(question.adata.var_names))


def of_table(table: pd.DataFrame) -> Evidence:
    """Return a table of ours, in the order of the genes, as evidence: calls at every target are those of its FDR."""
    rate = table["expected_fdr"].to_numpy(np.float64)
    calls = {target: rate <= target for target in TARGETS}
    if not np.array_equal(calls[0.05], table["is_de"].to_numpy(bool)):
        raise SystemExit("is_de is not expected_fdr <= 0.05: the calls at other targets cannot be told from the table")
    lfc, lower, upper = (table[f"lfc_{what}"].to_numpy(np.float64) for what in ("mean", "lower", "upper"))
    score = ranked(table["proba_de"].to_numpy(), table["bayes_factor"].to_numpy())
    return Evidence(score, calls, lfc, (lower, upper))


def tested(question: Question, method: str) -> Evidence:
    """Return a test of log-normalised counts by scanpy, cells as the units, adjusted by Benjamini and Hochberg."""
    both = np.concatenate([question.first, question.second])
    cells = AnnData(question.adata.X[both].astype(np.float32))
    cells.var_names = question.adata.var_names
    cells.obs["group"] = pd.Categorical(np.repeat(["1", "2"], [len(question.first), len(question.second)]))
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # without the correction for ties the test of sparse counts would be needlessly weak
        options = {"tie_correct": True} if method == "wilcoxon" else {}
        sc.tl.rank_genes_groups(cells, "group", groups=["1"], reference="2", method=method, **options)
    table = sc.get.rank_genes_groups_df(cells, "1").set_index("names").reindex(question.adata.var_names)
    p = table["pvals"].to_numpy(np.float64)
    return _of_p_values(p, table["scores"].to_numpy(np.float64), table["logfoldchanges"].to_numpy(np.float64))


def pseudobulk(question: Question) -> Evidence:
    """Return a t-test of the samples' log counts per million, the samples as the units."""
    names = question.adata.obs[question.sample_key].astype(str).to_numpy()
    groups = []
    for members in (question.first, question.second):
        sums = [
            np.asarray(question.adata.X[members[names[members] == name]].sum(0)).ravel()
            for name in np.unique(names[members])
        ]
        counts = np.array(sums, np.float64)
        groups.append(np.log2((counts + 0.5) / (counts.sum(1, keepdims=True) + 1) * 1e6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t, p = scipy.stats.ttest_ind(groups[0], groups[1], equal_var=True)
    return _of_p_values(p, t, groups[0].mean(0) - groups[1].mean(0))


def _of_p_values(p: np.ndarray, statistic: np.ndarray, lfc: np.ndarray) -> Evidence:
    adjusted = benjamini_hochberg(p)
    calls = {target: adjusted <= target for target in TARGETS}
    return Evidence(ranked(-np.nan_to_num(p, nan=1.0), np.abs(statistic)), calls, lfc)
