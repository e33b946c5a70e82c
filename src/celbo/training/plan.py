"""The training plan, and the two records a network and the engine exchange at each step.

This file does not need torch to be imported: the command line is made from `TrainConfig`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from celbo.errors import OptionError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Loss", "StepState", "TrainConfig", "resolve", "true_of"]


@dataclass(frozen=True)
class Loss:
    """The terms of the loss, each per cell in nats (or whatever unit a deterministic model minimises)."""

    reconstruction: Tensor
    """Minus the log-likelihood; (cells,)."""
    kl: Mapping[str, Tensor] = field(default_factory=dict)
    """Kullback-Leibler divergences by latent variable ("z", "library"); each (cells,)."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """Further penalties by name; each (cells,) or a scalar."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """What a KL or an extra counts besides the plan's weight, such as the beta of a beta-VAE; 1 where none is given."""
    schedule: Mapping[str, float] = field(default_factory=dict)
    """What a KL or an extra counts at this step besides, where a network has a schedule of its own: 1 where none is
    given, and at its end. It is not part of the objective that epochs are compared by."""
    is_bound: bool = True
    """Whether reconstruction and KL make a bound on the evidence: False for a deterministic autoencoder."""

    def total(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the scalar to minimise: the mean of each term times factor, schedule and weight (1 if not given)."""
        total = self.reconstruction
        for name, term in (*self.kl.items(), *self.extras.items()):
            factor = self.factors.get(name, 1.0) * self.schedule.get(name, 1.0)
            total = total.addcmul(term, weights[name], value=factor) if name in weights else total + factor * term
        return total.mean()

    @property
    def has_objective(self) -> bool:
        """Whether what is minimised at full weights is something else than minus the ELBO."""
        return bool(self.extras or self.factors) or not self.is_bound

    def objective(self) -> Tensor:
        """Return minus what is minimised, every term at full weight: higher is better; (cells,)."""
        negative = self.reconstruction
        for name, term in (*self.kl.items(), *self.extras.items()):
            negative = negative + self.factors.get(name, 1.0) * term
        return -negative

    def elbo(self) -> Tensor:
        """Return the evidence lower bound of each cell, every KL at full weight; (cells,)."""
        negative = self.reconstruction
        for term in self.kl.values():
            negative = negative + term
        return -negative


@dataclass(frozen=True)
class StepState:
    """Where training stands, as a network's `loss` may need it."""

    step: int
    epoch: int
    generator: torch.Generator
    """The only source of randomness of a step: dropout masks and latent samples."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Weight of each term of the loss by its name."""
    training: bool = True


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained. None means: the default, good on any number of cells (see `resolve`)."""

    max_epochs: int | None = None
    """Passes over the training cells."""
    batch_size: int | None = None
    """Cells in a minibatch."""
    optimizer: Literal["adam", "adamw", "rmsprop", "keras-rmsprop"] = "adamw"
    """Optimiser; "adamw" is Adam with decoupled weight decay, "rmsprop" has TensorFlow 1's constants (decay 0.9,
    epsilon 1e-10, accumulator starting at one), "keras-rmsprop" those of Keras 2 (0.9, 1e-7, starting at zero)."""
    learning_rate: float | None = None
    """Learning rate; the peak of a one-cycle schedule."""
    adam_eps: float = 1e-8
    """Epsilon of Adam."""
    weight_decay: float | None = None
    """L2 penalty on all parameters (adam; 0 by default), or decoupled decay of the layers' weights (adamw; 0.1)."""
    l1: tuple[tuple[str, float], ...] = ()
    """L1 penalties as (pattern of parameter names, strength): strength times the sum of absolute values."""
    l2: tuple[tuple[str, float], ...] = ()
    """L2 penalties as (pattern of parameter names, strength): strength times the sum of squares."""
    schedule: Literal["one-cycle", "constant", "plateau"] = "one-cycle"
    """Learning rate over training: warm-up then cosine to zero, constant, or cut when the held-out objective stalls."""
    plateau_patience: int = 10
    """Epochs without improvement before a plateau schedule cuts the learning rate."""
    plateau_factor: float = 0.1
    """What a plateau schedule multiplies the learning rate by."""
    warmup_fraction: float = 0.15
    """Share of the steps in which a one-cycle schedule rises."""
    kl_warmup: float | int | None = None
    """KL weight rises from 0 to 1 over this share of training (float) or these epochs (int)."""
    kl_warmup_terms: tuple[str, ...] = ("z",)
    """Which KL terms are warmed up; the others always weigh one."""
    early_stopping: bool = True
    """Stop when the held-out ELBO no longer improves."""
    patience: int | None = None
    """Epochs without improvement before early stopping."""
    min_delta: float = 0.0
    """Improvement of the held-out ELBO, in nats per cell, that counts as one."""
    stop_on: Literal["validation", "train"] = "validation"
    """Which cells early stopping looks at: those held out, or those trained on (older papers' rules)."""
    restore_best: bool = True
    """Return to the weights of the best held-out ELBO when training ends."""
    train_size: float = 0.9
    """Share of the cells to train on; the rest is held out."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient."""
    clip_value: float | None = None
    """Largest absolute value of an entry of the gradient."""
    clip_values: tuple[tuple[str, float], ...] = ()
    """The same for some parameters, as (pattern of names, bound); applied last, after `clip_norm`."""
    n_threads: int | None = None
    """Threads of torch; None leaves torch's setting. Bit-identical results need the same number."""
    checkpoint_every: int | None = None
    """Epochs between checkpoints, where there is a checkpoint folder; None is one after a minute, and at the end."""
    epochs_rule: Literal["celbo", "scvi-tools"] = "celbo"
    """Epochs where none are given: celbo's rule, or that of scvi-tools, min(round(20000 / cells * 400), 400)."""

    def __post_init__(self) -> None:
        """Refuse impossible values with an `OptionError` that names the field."""
        for name, (holds, expected) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not true_of(holds, value):
                raise OptionError(
                    "has an impossible value",
                    where=f"training option {name!r}",
                    value=repr(value),
                    fix=f"It must be {expected}.",
                )

    @classmethod
    def scvi_tools(cls, *, max_epochs: int | None = None) -> TrainConfig:
        """Return the plan of scvi-tools 1.4: Adam 1e-3 with eps 0.01 and weight decay 1e-6, batches of 128, KL weight
        of z (not of the library) equal to epoch / 400, no schedule, no early stopping, the last weights kept.

        `max_epochs` None is its heuristic `min(round(20000 / cells * 400), 400)`, of all cells.
        """
        return cls(
            max_epochs=max_epochs,
            batch_size=128,
            optimizer="adam",
            learning_rate=1e-3,
            adam_eps=0.01,
            weight_decay=1e-6,
            schedule="constant",
            kl_warmup=400,
            kl_warmup_terms=("z",),
            early_stopping=False,
            restore_best=False,
            train_size=0.9,
            epochs_rule="scvi-tools",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, for JSON."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> TrainConfig:
        """Rebuild a plan from what `to_dict` returned; unknown names are refused."""
        unknown = set(saved) - {f.name for f in fields(cls)}
        if unknown:
            raise OptionError("does not exist", where=f"training option {min(unknown)!r}")
        given: dict[str, Any] = {name: _frozen(value) for name, value in saved.items()}
        return cls(**given)


def resolve(plan: TrainConfig, n_train: int, *, n_cells: int | None = None) -> TrainConfig:
    """Return the plan with a value for every default that depends on the number of cells.

    Parameters
    ----------
    plan
        The plan as given.
    n_train
        Cells to train on.
    n_cells
        All cells, the held-out ones with them, which the rule of scvi-tools counts; None is `n_train`.

    Returns
    -------
    TrainConfig
        The same plan in which `max_epochs`, `batch_size`, `learning_rate`, `weight_decay`, `kl_warmup` and `patience`
        are numbers.
    """
    batch_size = plan.batch_size or _default_batch_size(n_train)
    if plan.max_epochs is not None:
        max_epochs = plan.max_epochs
    elif plan.epochs_rule == "scvi-tools":
        max_epochs = max(1, min(round(20_000 / (n_cells or n_train) * 400), 400))
    else:
        max_epochs = _default_epochs(n_train)
    return replace(
        plan,
        batch_size=batch_size,
        max_epochs=max_epochs,
        learning_rate=plan.learning_rate or _default_learning_rate(plan, batch_size),
        kl_warmup=0.1 if plan.kl_warmup is None else plan.kl_warmup,
        weight_decay=plan.weight_decay if plan.weight_decay is not None else 0.1 * (plan.optimizer == "adamw"),
        patience=plan.patience or max(10, math.ceil(0.3 * max_epochs)),
    )


def _default_batch_size(n_train: int) -> int:
    """Small data are better off with the noise of small minibatches (docs/decisions.md)."""
    return 32 if n_train < 1_000 else 64 if n_train < 3_000 else 128


def _default_epochs(n_train: int) -> int:
    """30 epochs from 2,000 to 20,000 cells; below and above, the steps go with the root of the number of cells."""
    if n_train < 2_000:
        return min(400, math.ceil(30 * math.sqrt(2_000 / n_train)))
    return math.ceil(30 * min(1.0, math.sqrt(20_000 / n_train)))


def _default_learning_rate(plan: TrainConfig, batch_size: int) -> float:
    if plan.schedule != "one-cycle" or plan.optimizer in ("rmsprop", "keras-rmsprop"):
        return 1e-3
    # 4e-3 for 32 cells, 8e-3 for 64, 16e-3 for 128 (docs/decisions.md); a larger batch bears no larger steps
    return 16e-3 * min(1.0, batch_size / 128)


def _plain(value: object) -> object:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _frozen(value: object) -> object:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def true_of(holds: Any, value: object) -> bool:
    """Say whether a test of an option holds; a value that it cannot be asked of fails it."""
    try:
        return bool(holds(value))
    except (TypeError, ValueError):
        return False


def _is_count(value: Any) -> bool:
    return not isinstance(value, bool) and value == int(value) and value >= 1


def _is_positive(value: Any) -> bool:
    return not isinstance(value, bool) and 0 < value < math.inf


def _is_not_negative(value: Any) -> bool:
    return not isinstance(value, bool) and 0 <= value < math.inf


def _is_warmup(value: Any) -> bool:
    return _is_not_negative(value) and (isinstance(value, int) or value <= 1)


def _is_penalties(value: Any) -> bool:
    return all(isinstance(pattern, str) and _is_not_negative(strength) for pattern, strength in value)


_OPTIMIZERS = ("adam", "adamw", "rmsprop", "keras-rmsprop")

_LIMITS: dict[str, tuple[Any, str]] = {
    "max_epochs": (_is_count, "a whole number of at least 1"),
    "batch_size": (lambda v: _is_count(v) and v >= 2, "a whole number of at least 2 (batch norm needs two cells)"),
    "optimizer": (lambda v: v in _OPTIMIZERS, f"one of {', '.join(map(repr, _OPTIMIZERS))}"),
    "learning_rate": (_is_positive, "a positive number"),
    "adam_eps": (_is_positive, "a positive number"),
    "weight_decay": (_is_not_negative, "0 or a positive number"),
    "l1": (_is_penalties, "pairs of a pattern of parameter names and a strength"),
    "l2": (_is_penalties, "pairs of a pattern of parameter names and a strength"),
    "schedule": (lambda v: v in ("one-cycle", "constant", "plateau"), "'one-cycle', 'constant' or 'plateau'"),
    "plateau_patience": (_is_count, "a whole number of at least 1"),
    "plateau_factor": (lambda v: 0 < v < 1, "between 0 and 1"),
    "stop_on": (lambda v: v in ("validation", "train"), "'validation' or 'train'"),
    "clip_values": (
        lambda v: all(isinstance(p, str) and _is_positive(b) for p, b in v),
        "pairs of a pattern of parameter names and a positive bound",
    ),
    "warmup_fraction": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "kl_warmup": (_is_warmup, "a share of training between 0.0 and 1.0, or a whole number of epochs"),
    "kl_warmup_terms": (lambda v: not isinstance(v, str) and all(isinstance(t, str) for t in v), "a tuple of names"),
    "patience": (_is_count, "a whole number of at least 1"),
    "min_delta": (_is_not_negative, "0 or a positive number of nats per cell"),
    "train_size": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "clip_norm": (_is_positive, "a positive number"),
    "clip_value": (_is_positive, "a positive number"),
    "n_threads": (_is_count, "a whole number of at least 1"),
    "checkpoint_every": (_is_count, "a whole number of at least 1"),
    "epochs_rule": (lambda v: v in ("celbo", "scvi-tools"), "'celbo' or 'scvi-tools'"),
}
