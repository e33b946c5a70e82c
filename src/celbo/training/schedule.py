"""What changes over training as a plain function of where it stands: learning rate, KL weight, when to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["has_plateaued", "kl_weight", "one_cycle", "plateau_cuts", "warmup_epochs"]

_FIRST = 0.04
"""Share of the peak learning rate at which a one-cycle schedule starts (1/25, as in torch and fastai)."""


def one_cycle(step: int, n_steps: int, warmup_fraction: float) -> float:
    """Return the learning rate of a step as a share of the peak: a line up to 1, then half a cosine down to 0.

    Parameters
    ----------
    step
        The step about to be taken, from 0.
    n_steps
        Steps of the whole training; at and after the last the rate is that of the end of the cosine.
    warmup_fraction
        Share of the steps in which the rate rises.
    """
    warmup = warmup_fraction * n_steps
    if step < warmup:
        return _FIRST + (1 - _FIRST) * step / warmup
    passed = min(1.0, (step - warmup) / max(1.0, n_steps - warmup))
    return 0.5 * (1 + math.cos(math.pi * passed))


def kl_weight(step: int, epoch: int, n_steps: int, warmup: float | int) -> float:
    """Return the weight of the warmed-up KL terms at a step.

    Parameters
    ----------
    step, epoch
        The step about to be taken and its epoch, both from 0.
    n_steps
        Steps of the whole training.
    warmup
        A share of all steps (float), so that the weight reaches 1 whatever the number of cells; or a number of epochs
        (int), counted as scvi-tools does: `epoch / warmup`.
    """
    if isinstance(warmup, int):
        return min(1.0, epoch / warmup) if warmup else 1.0
    return min(1.0, step / (warmup * n_steps)) if warmup else 1.0


def warmup_epochs(warmup: float | int, max_epochs: int) -> int:
    """Return the number of epochs that begin with a KL weight below one."""
    return min(max_epochs, warmup if isinstance(warmup, int) else math.ceil(warmup * max_epochs))


def plateau_cuts(curve: Sequence[float], *, patience: int) -> int:
    """Return how often the learning rate has been cut, as Keras' ReduceLROnPlateau does.

    Parameters
    ----------
    curve
        What should rise, one value an epoch so far.
    patience
        Epochs without a new best before a cut; the count starts anew after each.
    """
    best, waited, cuts = -math.inf, 0, 0
    for value in curve:
        best, waited = (value, 0) if value > best else (best, waited + 1)
        if waited >= patience:
            cuts, waited = cuts + 1, 0
    return cuts


def has_plateaued(elbo: Sequence[float], *, patience: int, min_delta: float = 0.0, after: int = 0) -> bool:
    """Say whether the held-out ELBO has gone `patience` epochs without rising by more than `min_delta`.

    Parameters
    ----------
    elbo
        Held-out ELBO of each epoch so far, in nats per cell.
    patience
        Epochs to wait for an improvement.
    min_delta
        What counts as one, in nats per cell.
    after
        Epochs that are not counted, those of the KL warm-up: there the training loss is not yet the held-out ELBO.
    """
    best, waited = -math.inf, 0
    for epoch, value in enumerate(elbo):
        if value > best + min_delta or best == -math.inf:
            best, waited = max(best, value), 0
        elif epoch >= after:
            waited += 1
    return waited >= patience
