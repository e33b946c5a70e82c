"""How hierarchical Poisson factorisation is fitted: where it starts, a sweep and its bound, when it ends, checkpoints.

The run between two sweeps is a `Point`; a sweep makes the next one of it. Whether a trial has ended is a function of
the history alone. So a run that was stopped or killed and goes on from a checkpoint ends at the same bits.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse, special

import celbo
from celbo.data.cells import CellData
from celbo.data.sampler import Split
from celbo.errors import ModelFileError, OptionError, TrainingError
from celbo.kernels import cpu_hpf as cavi
from celbo.kernels.cpu_hpf import GammaPrior, Loadings, StoredCounts
from celbo.training.checkpoint import CheckpointFolder, Snapshot
from celbo.training.device import derived_seed
from celbo.training.engine import FitResult, Stopped
from celbo.training.history import history_frame
from celbo.training.plan import TrainConfig
from celbo.training.progress import Progress, logger

if TYPE_CHECKING:
    from celbo.models.hpf import HPFConfig

__all__ = ["Ascent", "AscentState", "counts_of", "empirical_priors", "log_factorials"]

Floats = npt.NDArray[np.float64]
Row = dict[str, float]

_START, _FIRST_PHI = 11, 12  # streams of random numbers
_NMF_SWEEPS = 30  # more of them cost more and end no higher
_BALANCING = 20  # updates of rates alone, which bring the start to the scale of the counts
_FIELDS = ("shape", "rate", "hyper_rate")


@dataclass(frozen=True)
class AscentState:
    """q between two sweeps, and what the next one begins with."""

    cells: Loadings
    genes: Loadings
    for_genes: Floats
    """The counts shared out by the phi of this q, summed over each gene's cells; (genes, components)."""
    for_cells: Floats | None = None
    """The same for the cells, of a first phi that is drawn; None: phi of q."""
    held_out: Loadings | None = None
    """q of the held-out cells, which follows by an update a sweep."""


@dataclass(frozen=True)
class Point:
    """A run between two sweeps."""

    trial: int = 0
    state: AscentState | None = None
    """None before the first sweep of a trial."""
    best: AscentState | None = None
    """Where the best of the trials that have ended stands."""
    best_epoch: int = -1
    rows: tuple[Row, ...] = ()


def counts_of(data: CellData, index: npt.NDArray[np.int64]) -> sparse.csr_matrix:
    """Return the counts of some cells, (cells, genes) float32."""
    rows = data.counts.rows(index)
    arrays = (rows.values.numpy(), rows.indices.numpy(), rows.indptr.numpy())
    return sparse.csr_matrix(arrays, shape=(index.size, data.n_genes))


def log_factorials(values: npt.NDArray[Any]) -> Floats:
    """Return ln x! of each stored count in nats."""
    out: Floats = special.gammaln(values.astype(np.float64) + 1)
    return out


def empirical_priors(
    counts: sparse.csr_matrix, a: float, c: float, hyper_shapes: tuple[float, float], rates: tuple[Any, Any]
) -> tuple[GammaPrior, GammaPrior]:
    """Return the priors of cells and genes: b' = a' mean / variance of the cells' totals, d' likewise of the genes'.

    d' is at least b' / 1000, for the numbers' sake. `rates` holds b' and d' where they are given.
    """
    ratios = []
    for axis in (1, 0):
        totals = np.asarray(counts.sum(axis, dtype=np.float64)).ravel()
        mean, variance = float(totals.mean()), float(totals.var())
        ratios.append(mean / variance if variance > 0 else 1.0)  # equal totals: a variance like that of a Poisson
    b = hyper_shapes[0] * ratios[0] if rates[0] is None else float(rates[0])
    d = max(hyper_shapes[1] * ratios[1], b / 1000) if rates[1] is None else float(rates[1])
    return GammaPrior(a, float(hyper_shapes[0]), b), GammaPrior(c, float(hyper_shapes[1]), d)


class Ascent:
    """One run on the training cells, of one or more trials."""

    def __init__(
        self,
        config: HPFConfig,
        data: CellData,
        split: Split,
        plan: TrainConfig,
        *,
        priors: tuple[GammaPrior, GammaPrior],
        seed: int,
        start: tuple[Loadings, Loadings] | None = None,
    ) -> None:
        self.config, self.split, self.plan, self.seed, self.data = config, split, plan, seed, data
        self.matrix = counts_of(data, split.train)
        held_out = counts_of(data, split.validation)
        self.rows, self.columns = StoredCounts.of(self.matrix), StoredCounts.of(self.matrix.tocsc())
        self.held_out = StoredCounts.of(held_out) if split.validation.size else None
        self.constants = (log_factorials(self.matrix.data).sum(), log_factorials(held_out.data).sum())
        self.cell_prior, self.gene_prior = priors
        self.start = start
        self.n_trials = 1 if start is not None else config.n_trials
        assert plan.max_epochs is not None
        self.max_epochs = plan.max_epochs

    # -- where a trial starts ----------------------------------------------------------------------------------------

    def begin(self, trial: int) -> AscentState:
        """Return q before the first sweep of a trial."""
        if self.start is not None:
            return self._ready(*self.start)
        if self.config.initialisation == "nmf":
            return self._ready(*self._nmf_start(derived_seed(self.seed, _START, epoch=trial)))
        rng = np.random.default_rng(derived_seed(self.seed, _START, epoch=trial))
        sizes = (self.rows.n_rows, self.columns.n_rows)
        priors = (self.cell_prior, self.gene_prior)
        cells, genes = (_around(p, n, self.config.n_components, rng) for p, n in zip(priors, sizes, strict=True))
        seed = derived_seed(self.seed, _FIRST_PHI, epoch=trial)
        for_genes = cavi.allocate_at_random(self.columns, self.config.n_components, seed, by_column=True)
        for_cells = cavi.allocate_at_random(self.rows, self.config.n_components, seed)
        return AscentState(cells, genes, for_genes, for_cells)

    def _ready(self, cells: Loadings, genes: Loadings, held_out: Loadings | None = None) -> AscentState:
        for_genes, _ = cavi.allocate(self.columns, genes.weight, cells.weight)
        return AscentState(cells, genes, for_genes, held_out=held_out)

    def _nmf_start(self, seed: int) -> tuple[Loadings, Loadings]:
        """Share the counts out as a short non-negative factorisation of their square roots does."""
        from sklearn.decomposition import NMF

        k = self.config.n_components
        roots = sparse.csr_matrix((np.sqrt(self.matrix.data), self.matrix.indices, self.matrix.indptr),
                                  shape=self.matrix.shape)  # fmt: skip
        start = "nndsvdar" if k <= min(roots.shape) else "random"
        nmf = NMF(k, init=start, max_iter=_NMF_SWEEPS, tol=0, random_state=seed % 2**32)
        cells = _positive(nmf.fit_transform(roots).astype(np.float64) ** 2)
        genes = _positive(nmf.components_.T.astype(np.float64) ** 2)
        for_cells, _ = cavi.allocate(self.rows, cells, genes)
        for_genes, _ = cavi.allocate(self.columns, genes, cells)
        sums = np.sqrt(for_cells.sum(0))  # what both sides' loadings sum to, if they share the scale of the counts
        of_cells = of_genes = sums
        q_cells, q_genes = (
            Loadings(np.empty(0), np.empty(0), np.full(n, p.hyper_posterior_shape(k) * p.hyper_rate / p.hyper_shape))
            for p, n in ((self.cell_prior, self.rows.n_rows), (self.gene_prior, self.columns.n_rows))
        )
        for _ in range(_BALANCING):
            q_cells = cavi.update(for_cells, of_genes, self.cell_prior, q_cells.hyper_rate)
            of_cells = q_cells.mean.sum(0)
            q_genes = cavi.update(for_genes, of_cells, self.gene_prior, q_genes.hyper_rate)
            of_genes = q_genes.mean.sum(0)
        return q_cells, q_genes

    # -- a sweep -----------------------------------------------------------------------------------------------------

    def sweep(self, state: AscentState) -> tuple[AscentState, Row]:
        """Update genes, then cells; return q, and its bound with its terms in nats per cell."""
        genes = cavi.update(state.for_genes, state.cells.mean.sum(0), self.gene_prior, state.genes.hyper_rate)
        for_cells = state.for_cells
        if for_cells is None:
            seen = state.genes if self.config.phi == "once" else genes
            for_cells, _ = cavi.allocate(self.rows, state.cells.weight, seen.weight)
        cells = cavi.update(for_cells, genes.mean.sum(0), self.cell_prior, state.cells.hyper_rate)
        for_genes, logs = cavi.allocate(self.columns, genes.weight, cells.weight)
        reconstruction = self.constants[0] - logs.sum() + cells.mean.sum(0) @ genes.mean.sum(0)
        n = self.rows.n_rows
        row = {
            "reconstruction_train": reconstruction / n,
            "kl_cells_train": cavi.divergence(cells, self.cell_prior).sum() / n,
            "kl_genes_train": cavi.divergence(genes, self.gene_prior).sum() / n,
        }
        held_out = self._follow(genes, state.held_out)
        return AscentState(cells, genes, for_genes, held_out=held_out), row | self._judged(genes, held_out)

    def _follow(self, genes: Loadings, before: Loadings | None) -> Loadings | None:
        if self.held_out is None:
            return None
        n = 1 if before is not None else 10
        sums = genes.mean.sum(0)
        return cavi.project(self.held_out, genes.weight, sums, self.cell_prior, start=before, max_iterations=n)

    def _judged(self, genes: Loadings, q: Loadings | None) -> Row:
        """Return the terms of the bound of the held-out cells."""
        if q is None or self.held_out is None:
            return {"reconstruction_validation": math.nan, "kl_cells_validation": math.nan}
        logs = cavi.log_rates(self.held_out, q.weight, genes.weight)
        reconstruction = self.constants[1] - logs.sum() + q.mean.sum(0) @ genes.mean.sum(0)
        n = self.held_out.n_rows
        kl = cavi.divergence(q, self.cell_prior).sum()
        return {"reconstruction_validation": reconstruction / n, "kl_cells_validation": kl / n}

    def nonzero_loss(self, state: AscentState) -> float:
        """Return scHPF's loss: minus the mean Poisson log-likelihood of the entries that are not zero."""
        cells, genes = state.cells.mean, state.genes.mean
        there = sparse.csr_matrix((np.ones(self.matrix.nnz), self.matrix.indices, self.matrix.indptr),
                                  shape=self.matrix.shape)  # fmt: skip
        logs = cavi.log_rates(self.rows, cells, genes).sum()
        return float((self.constants[0] - logs + (cells * (there @ genes)).sum()) / self.matrix.nnz)

    def step(self, point: Point) -> Point:
        """Return the run after one more sweep."""
        began = time.perf_counter()
        state, terms = self.sweep(self.begin(point.trial) if point.state is None else point.state)
        rows = [row for row in point.rows if row["trial"] == point.trial]
        row = _history_row(terms, point.trial)
        if not math.isfinite(row["elbo_train"]):
            raise TrainingError(
                "is not finite", where=f"the bound after sweep {len(point.rows)}", value=str(row["elbo_train"]),
                fix="Use larger shapes a and c of the priors.",
            )  # fmt: skip
        if self.config.stopping == "nonzero-loss":
            checks = len(rows) % self.config.check_every == 0
            row["nonzero_loss_train"] = self.nonzero_loss(state) if checks else math.nan
        seconds = time.perf_counter() - began
        row |= {"seconds": seconds, "cells_per_second": self.rows.n_rows / max(seconds, 1e-9)}
        return self._after(replace(point, state=state, rows=(*point.rows, row)))

    def _after(self, point: Point) -> Point:
        """Go on to the next trial if this one has ended."""
        rows = [row for row in point.rows if row["trial"] == point.trial]
        if self.ended(rows) is None:
            return point
        best, epoch = self.kept(point)
        return replace(point, trial=point.trial + 1, state=None, best=best, best_epoch=epoch)

    # -- when it ends ------------------------------------------------------------------------------------------------

    def ended(self, rows: list[Row]) -> Stopped | None:
        """Say whether and how a trial with this history has ended."""
        if len(rows) >= self.max_epochs:
            return "finished"
        if not self.plan.early_stopping:
            return None
        rule = _bound_rises_no_more if self.config.stopping == "elbo" else _nonzero_loss_rests
        return "plateau" if rule(rows, self.config) else None

    def kept(self, point: Point) -> tuple[AscentState | None, int]:
        """Return the best q of the trials that have ended and the one that goes on, and its epoch."""
        if point.state is None:
            return point.best, point.best_epoch
        last = len(point.rows) - 1
        if point.best is None or self._merit(point.rows, last) > self._merit(point.rows, point.best_epoch):
            return point.state, last
        return point.best, point.best_epoch

    def _merit(self, rows: tuple[Row, ...], epoch: int) -> float:
        """What trials are judged by: the bound, or scHPF's loss at the last check."""
        if self.config.stopping == "elbo":
            return rows[epoch]["elbo_train"]
        losses = [r["nonzero_loss_train"] for r in rows[: epoch + 1] if r["trial"] == rows[epoch]["trial"]]
        return -next(loss for loss in reversed(losses) if not math.isnan(loss))

    # -- the whole run -----------------------------------------------------------------------------------------------

    def run(
        self, *, progress: bool | None, checkpoint_dir: str | Path | None, resume: bool, fingerprint: Mapping[str, Any]
    ) -> tuple[AscentState | None, FitResult]:
        """Run all trials; return the best q (None if no sweep was done) and how it went."""
        if resume and checkpoint_dir is None:
            raise OptionError("needs a folder to resume from", where="resume=True", fix="Pass checkpoint_dir too.")
        if checkpoint_dir is None:
            return self._run(None, progress=progress, resume=False)
        folder = self._folder(checkpoint_dir, fingerprint)
        with folder.alone():
            return self._run(folder, progress=progress, resume=resume)

    def _run(
        self, folder: CheckpointFolder | None, *, progress: bool | None, resume: bool
    ) -> tuple[AscentState | None, FitResult]:
        saved = folder.open(resume=resume, fits=self._restored) if folder else None
        point = Point() if saved is None else self._restored(saved)
        length = {"n_epochs": self.n_trials * self.max_epochs, "n_cells": self.rows.n_rows, "done": len(point.rows)}
        shown, interrupted = Progress(show=progress, **length), False
        try:
            while point.trial < self.n_trials:
                point = self.step(point)
                shown.epoch(point.rows[-1])
                if folder and (
                    point.trial == self.n_trials or folder.is_due(len(point.rows), self.plan.checkpoint_every)
                ):
                    folder.save(self._snapshot(point))
        except KeyboardInterrupt:
            interrupted = True
        finally:
            shown.close()
        if folder and interrupted and point.rows and not folder.holds(len(point.rows)):
            folder.save(self._snapshot(point))
        return self._result(point, interrupted, folder)

    def _result(
        self, point: Point, interrupted: bool, folder: CheckpointFolder | None
    ) -> tuple[AscentState | None, FitResult]:
        state, epoch = self.kept(point)
        stopped: Stopped = "interrupted"
        if not interrupted:
            stopped = self.ended([r for r in point.rows if r["trial"] == point.rows[epoch]["trial"]]) or "finished"
        text = {
            "finished": f"The fit ended after {len(point.rows)} sweeps, the most it may take.",
            "plateau": f"The fit ended after {len(point.rows)} sweeps: its objective no longer improved.",
            "interrupted": f"The fit was interrupted after {len(point.rows)} sweeps.",
        }[stopped]
        if stopped == "interrupted":
            text += (
                f" To go on, train again with checkpoint_dir={str(folder.folder)!r} and resume=True."
                if folder and point.rows
                else " To be able to resume, train with checkpoint_dir=..."
            )
        logger.log(logging.WARNING if interrupted else logging.INFO, text)
        fitted = FitResult(
            history=history_frame(point.rows), split=self.split, best_epoch=epoch + 1, stopped=stopped, plan=self.plan,
            retries=0, message=text,
        )  # fmt: skip
        return state, fitted

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _folder(self, path: str | Path, fingerprint: Mapping[str, Any]) -> CheckpointFolder:
        plan = {k: v for k, v in self.plan.to_dict().items() if k not in ("n_threads", "checkpoint_every")}
        counts = self.data.counts
        identity = {
            "seed": int(self.seed),
            "plan": plan,
            "cells": self.data.n_cells,
            "genes": self.data.n_genes,
            "counts": _digest(cavi.row_digests(counts.indptr, counts.indices, counts.values)),
            "split": _digest(self.split.train, self.split.validation),
            "start": "" if self.start is None else _digest(self.start[0].shape, self.start[1].shape),
            "fingerprint": dict(fingerprint),
        }
        return CheckpointFolder(path, identity=identity, conditions={"celbo": celbo.__version__})

    def _snapshot(self, point: Point) -> Snapshot:
        return Snapshot(
            weights=_tensors(point.state),
            best=_tensors(point.best),
            optimizer={},
            epoch=len(point.rows),
            step=len(point.rows),
            best_epoch=point.best_epoch,
            rows=point.rows,
        )

    def _restored(self, saved: Snapshot) -> Point:
        try:
            trial = int(saved.rows[-1]["trial"])
            state, best = self._state(saved.weights), self._state(saved.best)
            if not 0 <= trial < self.n_trials:
                raise ValueError(f"trial {trial} of {self.n_trials}")
        except (KeyError, IndexError, ValueError) as error:
            raise ModelFileError("do not fit the model", where="its tensors", value=str(error)) from error
        return Point(trial if state is not None else trial + 1, state, best, saved.best_epoch, saved.rows)

    def _state(self, tensors: Mapping[str, torch.Tensor]) -> AscentState | None:
        if not tensors:
            return None
        k = self.config.n_components
        n_held_out = 0 if self.held_out is None else self.held_out.n_rows
        sizes = {"cells": self.rows.n_rows, "genes": self.columns.n_rows, "held_out": n_held_out}
        sides = {}
        for side, n in sizes.items():
            arrays = [tensors[f"{side}.{name}"].numpy() for name in _FIELDS] if n else []
            if any(x.shape != want for x, want in zip(arrays, ((n, k), (n, k), (n,)), strict=False)):
                raise ValueError(f"the shapes of {side}")
            if not all(x.dtype == np.float64 and bool((x > 0).all()) for x in arrays):
                raise ValueError(f"the values of {side}")
            sides[side] = Loadings(*arrays) if n else None
        assert sides["cells"] is not None and sides["genes"] is not None
        return self._ready(sides["cells"], sides["genes"], sides["held_out"])


def _bound_rises_no_more(rows: list[Row], config: HPFConfig) -> bool:
    """Say whether two stretches of `check_every` sweeps have each gained less than `tolerance` of the bound."""
    n, every = len(rows), config.check_every
    if n < max(config.min_epochs, 2 * every + 1) or n % every:
        return False
    elbo = [rows[n - 1 - i * every]["elbo_train"] for i in range(3)]
    return all(elbo[i] - elbo[i + 1] < config.tolerance * abs(elbo[0]) for i in range(2))


def _nonzero_loss_rests(rows: list[Row], config: HPFConfig) -> bool:
    """Say whether scHPF stops after this history (`_fit` of its code, v0.5.0)."""
    losses = [abs(row["nonzero_loss_train"]) for row in rows if not math.isnan(row["nonzero_loss_train"])]
    n = len(rows) - 1
    if n % config.check_every or n < config.min_epochs or len(losses) <= 3:
        return False
    small = [abs(losses[-i] - losses[-i - 1]) < config.tolerance * losses[-i - 1] for i in (1, 2)]
    inflection = losses[-3] < losses[-2] and losses[-2] > losses[-1]
    if all(small) and not inflection:
        return True
    ago = config.better_than_n_ago
    return len(losses) > ago and losses[-ago] < losses[-1] and losses[-2] < losses[-1]


def _history_row(terms: Row, trial: int) -> Row:
    bounds = {
        "elbo_train": -(terms["reconstruction_train"] + terms["kl_cells_train"] + terms["kl_genes_train"]),
        "elbo_validation": -(terms["reconstruction_validation"] + terms["kl_cells_validation"]),
    }
    return {name: float(value) for name, value in {**bounds, **terms, "trial": trial}.items()}


def _around(prior: GammaPrior, n: int, k: int, rng: np.random.Generator) -> Loadings:
    """Return scHPF's start: every parameter of q is that of the prior times a draw from 0.5 to 1.5."""
    shape, rate, hyper_rate = (rng.uniform(0.5, 1.5, size) for size in ((n, k), (n, k), n))
    return Loadings(prior.shape * shape, prior.hyper_rate * rate, prior.hyper_rate * hyper_rate)


def _positive(loadings: Floats) -> Floats:
    """Lift zeros a little, which multiplicative updates never leave."""
    lifted: Floats = loadings + 1e-3 * loadings.mean(0) + 1e-6 * loadings.mean()
    return lifted


def _tensors(state: AscentState | None) -> dict[str, torch.Tensor]:
    if state is None:
        return {}
    sides = {"cells": state.cells, "genes": state.genes, "held_out": state.held_out}
    return {
        f"{side}.{name}": torch.from_numpy(getattr(q, name))
        for side, q in sides.items()
        if q is not None
        for name in _FIELDS
    }


def _digest(*arrays: npt.NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
