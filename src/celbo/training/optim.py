"""Optimisers by name, their state as named tensors, gradient clipping and penalties on named parameters.

The optimisers are our own, on torch's fused and foreach operations: to make one of `torch.optim` imports torch's
compiler, over a second of CPU time in every process that trains. A test holds them to torch's to rounding.
Adam on the CPU is a kernel of ours, one pass over the weights that gives the norms of the gradients as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from celbo.errors import OptionError
from celbo.kernels import cpu_kernels_take
from celbo.training.checkpoint import check_tensors
from celbo.training.plan import TrainConfig

__all__ = [
    "Adam",
    "KerasRMSprop",
    "Optimizer",
    "TensorFlowRMSprop",
    "clip_gradients",
    "clips",
    "make_optimizer",
    "make_penalty",
]


_BETA1, _BETA2 = 0.9, 0.999


class Optimizer(ABC):
    """Updates parameters by their gradients.

    Parameters
    ----------
    parameters
        The parameters to train, by name.
    """

    keys: ClassVar[tuple[str, ...]]
    """Names of the tensors kept for each parameter."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = dict(parameters)
        self._state: dict[str, tuple[Tensor, ...]] = {}
        self._moved: list[str] = []
        self._lists: tuple[list[Tensor], list[list[Tensor]]] = ([], [])

    @abstractmethod
    def fresh(self, parameter: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors kept for a parameter before its first step, in the order of `keys`."""

    @abstractmethod
    def update(self, params: list[Tensor], grads: list[Tensor], state: list[list[Tensor]], rate: float) -> None:
        """Update the parameters and, in place, what is kept for them: one list over the parameters for each key."""

    def fused(self, params: list[Tensor], grads: list[Tensor], state: list[list[Tensor]], rate: float) -> Tensor | None:
        """Do as `update`, and return the norms of the gradients; None, and nothing is done, where there is no such way.

        The parameters of one optimiser that have a gradient may change from step to step.
        """
        return None

    @torch.no_grad()
    def step(self, learning_rate: float, clip: Callable[..., None] | None = None) -> Tensor:
        """Take a step with every parameter that has a gradient; return the norm of each gradient, (gradients,).

        Parameters
        ----------
        learning_rate
            The learning rate.
        clip
            Changes the gradients in place, given them, their norms and the names of their parameters; the returned
            norms are those before.
        """
        grads = [p.grad for p in self.parameters.values() if p.grad is not None]
        if not grads:
            return torch.zeros(0)
        moved = [name for name, p in self.parameters.items() if p.grad is not None]
        if moved != self._moved:
            self._gather(moved)
        params, state = self._lists
        norms = self.fused(params, grads, state, learning_rate) if clip is None else None
        if norms is None:
            norms = torch.stack(torch._foreach_norm(grads))
            if clip is not None:
                clip(grads, norms, names=moved)
            self.update(params, grads, state, learning_rate)
        return norms

    def _gather(self, names: list[str]) -> None:
        """Put the parameters of these names, and what is kept for them, in lists: the same for most steps of a run."""
        for name in names:
            if name not in self._state:
                self._state[name] = self.fresh(self.parameters[name])
        state = [list(kept) for kept in zip(*(self._state[name] for name in names), strict=True)]
        self._moved, self._lists = names, ([self.parameters[name] for name in names], state)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return copies of what is kept as "parameter name/key"; empty before the first step."""
        named = {name: zip(self.keys, kept, strict=True) for name, kept in self._state.items()}
        return {f"{name}/{key}": value.clone() for name, kept in named.items() for key, value in kept}

    def check(self, saved: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Return what the tensors that `state` returned are for; raises `ModelFileError` if they do not fit."""
        names = [name for name in self.parameters if any(f"{name}/{key}" in saved for key in self.keys)]
        fresh = {name: dict(zip(self.keys, self.fresh(self.parameters[name]), strict=True)) for name in names}
        check_tensors(
            saved, {f"{n}/{key}": v for n, kept in fresh.items() for key, v in kept.items()}, "optimiser's numbers"
        )
        return fresh

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Take copies of the tensors that `state` returned; raises `ModelFileError` if they do not fit."""
        fresh = self.check(saved)
        self._moved = []
        self._state = {
            name: tuple(saved[f"{name}/{key}"].to(v.device, copy=True) for key, v in kept.items())
            for name, kept in fresh.items()
        }


class Adam(Optimizer):
    """Adam (Kingma and Ba 2014), with the decoupled weight decay of AdamW (Loshchilov and Hutter 2017) if asked for.

    Parameters
    ----------
    parameters
        The parameters to train, by name.
    eps
        Added to the root of the mean square.
    l2
        Share of a weight that joins its gradient.
    weight_decay
        Share of the learning rate by which the parameters in `decayed` shrink at each step.
    decayed
        Their names.
    """

    keys = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        eps: float = 1e-8,
        l2: float = 0.0,
        weight_decay: float = 0.0,
        decayed: Collection[str] = (),
    ) -> None:
        super().__init__(parameters)
        self._eps, self._l2 = eps, l2
        self._decay = {name: weight_decay if name in decayed else 0.0 for name in self.parameters}
        self._blocks: tuple[list[int], Any] = ([], None)

    def fresh(self, parameter: Tensor) -> tuple[Tensor, ...]:
        """Return zeros: the number of steps, and the means of the gradient and of its square."""
        steps = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return steps, torch.zeros_like(parameter), torch.zeros_like(parameter)

    def update(self, params: list[Tensor], grads: list[Tensor], state: list[list[Tensor]], rate: float) -> None:
        """Take a step of Adam in one fused operation."""
        steps, means, squares = state
        torch._foreach_add_(steps, 1)
        for p, kept in zip(params, self._kept(rate), strict=True):
            if kept != 1:
                p.mul_(kept)
        constants = {"lr": rate, "beta1": _BETA1, "beta2": _BETA2, "eps": self._eps, "weight_decay": self._l2}
        fused: Any = torch._fused_adam_
        fused(params, grads, means, squares, [], steps, amsgrad=False, maximize=False, **constants)

    def _kept(self, rate: float) -> list[float]:
        """Return what the weight decay leaves of each parameter that moves."""
        return [1 - rate * self._decay[name] for name in self._moved]

    def fused(self, params: list[Tensor], grads: list[Tensor], state: list[list[Tensor]], rate: float) -> Tensor | None:
        """Take a step of Adam by the kernel of the CPU, for contiguous float32."""
        steps, means, squares = state
        if not (cpu_kernels_take(*params) and all(p.is_contiguous() for p in params)):
            return None
        from celbo.kernels.cpu_adam import Constants, adam_step, blocks_of

        grads = [g.contiguous() for g in grads]
        sizes = [p.numel() for p in params]
        if self._blocks[0] != sizes:
            self._blocks = (sizes, blocks_of(sizes))
        constants, kept = Constants(_BETA1, _BETA2, self._eps, self._l2), np.array(self._kept(rate), np.float32)
        norms = adam_step((params, grads, means, squares, steps), self._blocks[1], constants, rate, kept)
        return torch.from_numpy(norms)


class TensorFlowRMSprop(Optimizer):
    """RMSprop as TensorFlow 1 has it, which the papers of that time used.

    `a <- 0.9 a + 0.1 g^2` from a = 1 (not 0), then `w <- w - lr * g / sqrt(a + 1e-10)` with epsilon inside the root.
    Torch's own starts at 0 and adds epsilon outside, which makes its first steps about three times as long.
    """

    keys = ("mean_square",)

    def fresh(self, parameter: Tensor) -> tuple[Tensor, ...]:
        """Return ones, the mean square of a gradient that has not been seen."""
        return (torch.ones_like(parameter),)

    def update(self, params: list[Tensor], grads: list[Tensor], state: list[list[Tensor]], rate: float) -> None:
        """Take a step of RMSprop."""
        (mean_squares,) = state
        torch._foreach_mul_(mean_squares, 0.9)
        torch._foreach_addcmul_(mean_squares, grads, grads, value=0.1)
        roots = torch._foreach_add(mean_squares, 1e-10)
        torch._foreach_sqrt_(roots)
        torch._foreach_addcdiv_(params, grads, roots, value=-rate)


class KerasRMSprop(Optimizer):
    """RMSprop as Keras 2 has it: `a <- 0.9 a + 0.1 g^2` from a = 0, then `w <- w - lr * g / (sqrt(a) + 1e-7)`."""

    keys = ("mean_square",)

    def fresh(self, parameter: Tensor) -> tuple[Tensor, ...]:
        """Return zeros."""
        return (torch.zeros_like(parameter),)

    def update(self, params: list[Tensor], grads: list[Tensor], state: list[list[Tensor]], rate: float) -> None:
        """Take a step of RMSprop."""
        (mean_squares,) = state
        torch._foreach_mul_(mean_squares, 0.9)
        torch._foreach_addcmul_(mean_squares, grads, grads, value=0.1)
        roots = torch._foreach_sqrt(mean_squares)
        torch._foreach_add_(roots, 1e-7)
        torch._foreach_addcdiv_(params, grads, roots, value=-rate)


def make_optimizer(plan: TrainConfig, network: nn.Module) -> Optimizer:
    """Return the plan's optimiser over the parameters of `network` that are to be trained."""
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not parameters:
        raise OptionError("has no parameter to train", where="the network", fix="Unfreeze at least one.")
    if plan.optimizer == "rmsprop":
        return TensorFlowRMSprop(parameters)
    if plan.optimizer == "keras-rmsprop":
        return KerasRMSprop(parameters)
    decay = plan.weight_decay or 0.0
    if plan.optimizer == "adam":
        return Adam(parameters, eps=plan.adam_eps, l2=decay)
    # a table of covariates, a bias, a norm or a dispersion has no reason to be near zero; a weight of a layer has
    decayed = [name for name, p in parameters.items() if p.dim() == 2 and name.endswith("weight")]
    return Adam(parameters, eps=plan.adam_eps, weight_decay=decay, decayed=decayed)


def clips(plan: TrainConfig) -> bool:
    """Say whether the plan clips gradients at all."""
    return plan.clip_value is not None or plan.clip_norm is not None or bool(plan.clip_values)


def clip_gradients(plan: TrainConfig, grads: list[Tensor], norms: Tensor, *, names: Sequence[str] = ()) -> None:
    """Clip the gradients in place: each entry to `clip_value`, all together to `clip_norm`, some to `clip_values`.

    Parameters
    ----------
    plan
        The plan with its bounds.
    grads
        Gradients of all parameters.
    norms
        The norm of each before clipping; (parameters,).
    names
        Names of the parameters, for `clip_values`.
    """
    if plan.clip_value is not None:
        torch._foreach_clamp_min_(grads, -plan.clip_value)
        torch._foreach_clamp_max_(grads, plan.clip_value)
        norms = torch.stack(torch._foreach_norm(grads)) if plan.clip_norm is not None else norms
    if plan.clip_norm is not None:
        factor = (plan.clip_norm / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, factor.to(grads[0].dtype))
    for pattern, bound in plan.clip_values:
        for name, gradient in zip(names, grads, strict=False):
            if fnmatch(name, pattern):
                gradient.clamp_(-bound, bound)


def make_penalty(plan: TrainConfig, network: nn.Module) -> Callable[[], Tensor] | None:
    """Return a function of no argument for the plan's L1 and L2 penalties on named parameters, or None if it has none.

    Raises
    ------
    OptionError
        A pattern that matches no parameter.
    """
    kinds: tuple[tuple[Any, Callable[[Tensor], Tensor]], ...] = ((plan.l1, Tensor.abs), (plan.l2, Tensor.square))
    terms = [
        (strength, size, parameter)
        for penalties, size in kinds
        for pattern, strength in penalties
        for parameter in _matching(network, pattern)
    ]
    if not terms:
        return None
    return lambda: torch.stack([strength * size(parameter).sum() for strength, size, parameter in terms]).sum()


def _matching(network: nn.Module, pattern: str) -> list[Tensor]:
    names = dict(network.named_parameters())
    found: list[Tensor] = [parameter for name, parameter in names.items() if fnmatch(name, pattern)]
    if not found:
        raise OptionError(
            "matches no parameter", where=f"penalty pattern {pattern!r}", fix=f"Known: {', '.join(names)[:500]}."
        )
    return found
