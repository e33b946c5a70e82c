"""One run: a network, what it is trained with, its last good state, and how an epoch leads to the next.

An epoch is a pure function of a `Snapshot`, the plan, the data and the seed. All else follows from that: going back
after a bad step, stopping by Ctrl-C, and resuming after a kill are each "put a snapshot back".
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from celbo.data.cells import CellData
from celbo.data.minibatch import Minibatch
from celbo.data.sampler import MinibatchSampler, Split
from celbo.errors import CelboWarning, ModelFileError
from celbo.training.checkpoint import Snapshot, check_tensors
from celbo.training.device import derived_seed
from celbo.training.guard import MAX_RETRIES, Guard, NonFinite, gave_up
from celbo.training.history import TermSums, history_row, monitored, term_names, term_sums
from celbo.training.optim import clip_gradients, clips, make_optimizer, make_penalty
from celbo.training.plan import StepState, TrainConfig
from celbo.training.progress import Progress
from celbo.training.schedule import has_plateaued, kl_weight, one_cycle, plateau_cuts, warmup_epochs

__all__ = ["Run"]

_TRAIN, _VALIDATION = 1, 2  # streams of random numbers
_VALIDATION_BATCH = 512
_LAG = {"cuda": 32, "mps": 32}


class Run:
    """One run: the network, what it is trained with, and the last good state."""

    def __init__(self, network: nn.Module, data: CellData, plan: TrainConfig, split: Split, seed: int) -> None:
        self.network, self.data, self.plan, self.split, self.seed = network, data, plan, split, seed
        first = next(network.parameters())
        self.device, self.dtype = first.device, first.dtype
        self.generator = torch.Generator(self.device)
        self.optimizer = make_optimizer(plan, network)
        self.penalty = make_penalty(plan, network)
        self._clip = partial(clip_gradients, plan) if clips(plan) else None
        assert plan.batch_size is not None and plan.max_epochs is not None
        self.train_cells = MinibatchSampler(data, split.train, batch_size=plan.batch_size, seed=seed)
        self.n_steps = plan.max_epochs * len(self.train_cells)
        self.weights = {name: torch.ones((), device=self.device) for name in plan.kl_warmup_terms}
        self.guard = Guard(data, self._with_gradient, lag=_LAG.get(self.device.type, 0))
        self.incidents: list[str] = []
        start = self._copy_weights()
        self.good = Snapshot(start, start, {})

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def done(self) -> Literal["finished", "plateau"] | None:
        """How the run has ended, or None while it has not."""
        plan, rows = self.plan, self.good.rows
        assert plan.max_epochs is not None and plan.patience is not None and plan.kl_warmup is not None
        if self.good.epoch >= plan.max_epochs:
            return "finished"
        watched = self.split.validation if plan.stop_on == "validation" else self.split.train
        if not (plan.early_stopping and len(watched)):
            return None
        plateau = has_plateaued(
            [monitored(row, plan.stop_on) for row in rows],
            patience=plan.patience,
            min_delta=plan.min_delta,
            after=warmup_epochs(plan.kl_warmup, plan.max_epochs),
        )
        return "plateau" if plateau else None

    def check(self, snapshot: Snapshot) -> None:
        """Raise a `ModelFileError` unless this run can have been where a snapshot is."""
        expected = self.network.state_dict()
        check_tensors(snapshot.weights, expected, "weights")
        check_tensors(snapshot.best, expected, "best weights")
        self.optimizer.check(snapshot.optimizer)
        assert self.plan.max_epochs is not None
        if snapshot.step != snapshot.epoch * len(self.train_cells) or snapshot.epoch > self.plan.max_epochs:
            found = f"{snapshot.step} after {snapshot.epoch} epochs"
            raise ModelFileError("are not those of this training", where="its steps", value=found)

    def resume(self, snapshot: Snapshot) -> None:
        """Go on from a checkpoint that `check` has let pass."""
        self.good = replace(snapshot, weights=self._to_device(snapshot.weights), best=self._to_device(snapshot.best))
        self.restore()

    def restore(self) -> None:
        """Put the network and the optimiser back to the last good state."""
        self.guard.forget()
        self.network.load_state_dict(self.good.weights)
        self.optimizer.load(self.good.optimizer)

    def keep(self, *, best: bool) -> None:
        """Leave the network with the weights of the last epoch, or of the best."""
        self.guard.forget()
        self.network.load_state_dict(self.good.best if best else self.good.weights)
        self.network.zero_grad(set_to_none=True)
        self.network.eval()

    def _copy_weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def _to_device(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in tensors.items()}

    # -- one epoch -----------------------------------------------------------------------------------------------

    def epoch(self, progress: Progress) -> None:
        """Train for one epoch, going back and halving the learning rate where numbers are not finite."""
        while True:
            try:
                self.good = self._next(progress)
                return
            except NonFinite as bad:
                self._go_back(str(bad))
                progress.rewind()

    def _go_back(self, incident: str) -> None:
        self.incidents.append(incident)
        self.restore()
        if self.good.retries >= MAX_RETRIES:
            raise gave_up(self.incidents, self._peak())
        self.good = replace(self.good, retries=self.good.retries + 1)
        found = f"Training met numbers that are not finite at {incident}."
        epoch, rate = self.good.epoch + 1, self._peak()
        back = f"It goes back to the beginning of epoch {epoch} with half the learning rate ({rate:g})"
        warnings.warn(f"{found} {back}: retry {self.good.retries} of {MAX_RETRIES}.", CelboWarning, stacklevel=6)

    def _next(self, progress: Progress) -> Snapshot:
        """Return the state after one more epoch."""
        began, good = time.perf_counter(), self.good
        train, step = self._train_epoch(progress)
        trained = time.perf_counter()
        validation = self._validate()
        plan_columns = {
            "kl_weight": self._kl_weight(step - 1),
            "learning_rate": self._rate(step - 1),
            "seconds": time.perf_counter() - began,
            "cells_per_second": train.n_cells / max(trained - began, 1e-9),
        }
        row = history_row(train, validation, plan_columns)
        weights = self._copy_weights()
        better = not len(self.split.validation) or _is_better(row, good)
        progress.epoch(row)
        return Snapshot(
            weights=weights,
            best=weights if better else good.best,
            optimizer=self.optimizer.state(),
            epoch=good.epoch + 1,
            step=step,
            best_epoch=good.epoch if better else good.best_epoch,
            retries=good.retries,
            rows=(*good.rows, row),
        )

    def _train_epoch(self, progress: Progress) -> tuple[TermSums, int]:
        epoch, step, sums = self.good.epoch, self.good.step, TermSums()
        self.network.train()
        self.generator.manual_seed(derived_seed(self.seed, _TRAIN, epoch=epoch))
        for batch in self.train_cells.epoch(epoch):
            self._step(self._placed(batch), step, sums)
            progress.step(batch.n_cells)
            step += 1
        self.guard.flush()
        return sums, step

    def _step(self, batch: Minibatch, step: int, sums: TermSums) -> None:
        epoch = self.good.epoch
        for weight in self.weights.values():
            weight.fill_(self._kl_weight(step))
        loss = self.network.loss(batch, StepState(step, epoch, self.generator, self.weights))  # type: ignore[operator]
        total = loss.total(self.weights)
        if self.penalty is not None:
            total = total + self.penalty()
        self.optimizer.zero_grad()
        total.backward()
        norms = self.optimizer.step(self._rate(step), self._clip)
        terms = term_sums(loss)
        place = f"step {step} (epoch {epoch + 1})"
        self.guard.watch((terms, total.detach(), norms), term_names(loss), batch, place)
        sums.add(loss, terms)

    @torch.no_grad()
    def _validate(self) -> TermSums:
        """Return the sums over the held-out cells: no dropout, every KL at full weight, the same noise each epoch."""
        sums, state = TermSums(), self.good
        if not len(self.split.validation):
            return sums
        self.network.eval()
        self.generator.manual_seed(derived_seed(self.seed, _VALIDATION))
        ones = {name: torch.ones_like(weight) for name, weight in self.weights.items()}
        cells = MinibatchSampler(
            self.data, self.split.validation, batch_size=_VALIDATION_BATCH, seed=self.seed, shuffle=False
        )
        for batch in map(self._placed, cells.epoch(0)):
            step = StepState(state.step, state.epoch, self.generator, ones, training=False)
            loss = self.network.loss(batch, step)  # type: ignore[operator]
            terms = term_sums(loss)
            place = f"validation after epoch {state.epoch + 1}"
            self.guard.watch((terms,), term_names(loss), batch, place)
            sums.add(loss, terms)
        self.guard.flush()
        return sums

    def _placed(self, batch: Minibatch) -> Minibatch:
        if self.device.type == "cpu" and self.dtype == torch.float32:
            return batch
        return batch.to(self.device, self.dtype)

    def _with_gradient(self) -> list[str]:
        return [name for name, parameter in self.network.named_parameters() if parameter.grad is not None]

    # -- schedules -----------------------------------------------------------------------------------------------

    def _peak(self) -> float:
        assert self.plan.learning_rate is not None
        return self.plan.learning_rate * 0.5**self.good.retries

    def _rate(self, step: int) -> float:
        if self.plan.schedule == "constant":
            return self._peak()
        if self.plan.schedule == "plateau":
            where = "validation" if len(self.split.validation) else "train"
            curve = [monitored(row, where) for row in self.good.rows]
            return self._peak() * self.plan.plateau_factor ** plateau_cuts(curve, patience=self.plan.plateau_patience)
        return self._peak() * one_cycle(step, self.n_steps, self.plan.warmup_fraction)

    def _kl_weight(self, step: int) -> float:
        assert self.plan.kl_warmup is not None
        return kl_weight(step, self.good.epoch, self.n_steps, self.plan.kl_warmup)


def _is_better(row: Mapping[str, float], good: Snapshot) -> bool:
    return good.best_epoch < 0 or monitored(row) > monitored(good.rows[good.best_epoch])
