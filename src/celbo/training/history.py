"""The history of a run: sums over cells while an epoch goes on, then one row of plain numbers an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from celbo.training.plan import Loss

__all__ = ["TIMING_COLUMNS", "TermSums", "history_frame", "history_row", "monitored", "term_names", "term_sums"]

TIMING_COLUMNS = ("seconds", "cells_per_second")
"""The columns of a history that two runs of the same seed do not share."""

_PLAN_COLUMNS = ("kl_weight", "learning_rate", *TIMING_COLUMNS)


def term_names(loss: Loss) -> list[str]:
    """Return the names of the loss's terms: "reconstruction", "kl_<latent>" for each KL, the extras, and "objective"
    where that is not the ELBO.
    """
    names = ["reconstruction", *(f"kl_{name}" for name in loss.kl), *loss.extras]
    return [*names, "objective"] if loss.has_objective else names


def term_sums(loss: Loss) -> Tensor:
    """Return each term summed over the cells, without gradient, in the order of `term_names`; (terms,)."""
    sums = torch.stack([term.detach() for term in (loss.reconstruction, *loss.kl.values())]).sum(1)
    if not loss.has_objective:
        return sums
    n_cells = loss.reconstruction.shape[0]  # an extra may be one number for the minibatch
    further = (*loss.extras.values(), loss.objective())
    return torch.cat([sums, torch.stack([term.detach().mean() * n_cells for term in further])])


class TermSums:
    """Sums of the loss terms over the cells of an epoch, kept on the device; nothing waits for them on the way."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.n_cells = 0
        self.is_bound = True
        self._total: Tensor | None = None

    def add(self, loss: Loss, sums: Tensor) -> None:
        """Add what `term_sums` gave for one minibatch."""
        self.n_cells += loss.reconstruction.shape[0]
        if self._total is None:
            self.names, self.is_bound = term_names(loss), loss.is_bound
            self._total = torch.zeros_like(sums, dtype=torch.float32 if sums.device.type == "mps" else torch.float64)
        self._total += sums

    def means(self) -> dict[str, float]:
        """Return the mean over cells of each term and, as "elbo", minus the sum of reconstruction and KL terms.

        "objective" comes first where it is not the ELBO; "elbo" is left out where there is no bound.
        """
        if self._total is None:
            return {}
        means = dict(zip(self.names, (self._total / self.n_cells).tolist(), strict=True))
        bound = sum(value for name, value in means.items() if name == "reconstruction" or name.startswith("kl_"))
        first = {"objective": means.pop("objective")} if "objective" in means else {}
        return {**first, **({"elbo": -bound} if self.is_bound else {}), **means}


def monitored(row: Mapping[str, float], where: str = "validation") -> float:
    """Return what training should raise, of the "validation" or the "train" cells: the objective, or else the ELBO."""
    return row.get(f"objective_{where}", row.get(f"elbo_{where}", float("nan")))


def history_row(train: TermSums, validation: TermSums, plan: Mapping[str, float]) -> dict[str, float]:
    """Return the row of an epoch: a pair of columns a term, NaN where no cell was held out, then those of the plan."""
    held_out = validation.means()
    row: dict[str, float] = {}
    for name, value in train.means().items():
        row[f"{name}_train"] = value
        row[f"{name}_validation"] = held_out.get(name, float("nan"))
    return row | {name: float(plan[name]) for name in _PLAN_COLUMNS}


def history_frame(rows: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """Return the rows as a DataFrame of floats indexed by epoch, from 1: the first row is what one epoch led to."""
    index = pd.RangeIndex(1, len(rows) + 1, name="epoch")
    columns = list(rows[0]) if rows else ["elbo_train", "elbo_validation", *_PLAN_COLUMNS]
    return pd.DataFrame([dict(row) for row in rows], index=index, columns=columns, dtype=float)
