"""The training plan, and the two records a network and the engine exchange at each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Loss", "StepState", "TrainConfig"]


@dataclass(frozen=True)
class Loss:
    """The terms of the loss, each per cell in nats (or whatever unit a deterministic model minimises)."""

    reconstruction: Tensor
    """Minus the log-likelihood; (cells,)."""
    kl: Mapping[str, Tensor] = field(default_factory=dict)
    """Kullback-Leibler divergences by latent variable ("z", "library"); each (cells,)."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """Further penalties by name; each (cells,) or a scalar."""

    def total(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the scalar to minimise: the mean over cells of each term times its weight (1 where none is given)."""
        total = self.reconstruction.mean()
        for name, term in (*self.kl.items(), *self.extras.items()):
            total = total + (term.mean() * weights[name] if name in weights else term.mean())
        return total

    def elbo(self) -> Tensor:
        """Return the evidence lower bound of each cell, every KL at full weight; (cells,)."""
        return -(self.reconstruction + sum(self.kl.values(), torch.zeros_like(self.reconstruction)))


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
    """How a network is trained. None means: the default, good on any number of cells."""

    max_epochs: int | None = None
    """Passes over the training cells."""
    batch_size: int | None = None
    """Cells in a minibatch."""
    optimizer: Literal["adam", "adamw", "rmsprop"] = "adam"
    """Optimiser; "rmsprop" has TensorFlow 1's constants (decay 0.9, epsilon 1e-10, accumulator starting at one)."""
    learning_rate: float | None = None
    """Learning rate; the peak of a one-cycle schedule."""
    adam_eps: float = 1e-8
    """Epsilon of Adam."""
    weight_decay: float = 0.0
    """L2 penalty of Adam, decoupled weight decay of AdamW."""
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    """Learning rate over training: warm-up then cosine to zero, or constant."""
    warmup_fraction: float = 0.15
    """Share of the steps in which a one-cycle schedule rises."""
    kl_warmup: float | int | None = None
    """KL weight rises from 0 to 1 over this share of training (float) or these epochs (int)."""
    kl_warmup_terms: tuple[str, ...] = ("z",)
    """Which KL terms are warmed up; the others always weigh one."""
    early_stopping: bool = True
    """Stop when the held-out ELBO no longer improves, and return to the best weights."""
    patience: int | None = None
    """Epochs without improvement before early stopping."""
    min_delta: float = 0.0
    """Improvement of the held-out ELBO, in nats per cell, that counts as one."""
    restore_best: bool = True
    """Return to the weights of the best held-out ELBO when training ends."""
    train_size: float = 0.9
    """Share of the cells to train on; the rest is held out."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient."""
    clip_value: float | None = None
    """Largest absolute value of an entry of the gradient."""
    n_threads: int | None = None
    """Threads of torch; None leaves torch's setting. Bit-identical results need the same number."""
    checkpoint_every: int = 1
    """Epochs between checkpoints, where there is a checkpoint folder."""

    @classmethod
    def scvi_tools(cls, *, max_epochs: int | None = None) -> TrainConfig:
        """Return the plan of scvi-tools 1.4: Adam 1e-3 with eps 0.01 and weight decay 1e-6, batches of 128, KL weight
        over 400 epochs, no early stopping, the last weights kept. `max_epochs` None is its heuristic
        `min(round(20000 / cells * 400), 400)`.
        """
        raise NotImplementedError  # the engine's author fills this in, together with the heuristic
