"""Optimisers by name, their state as named tensors, gradient clipping and penalties on named parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from celbo.errors import OptionError
from celbo.training.checkpoint import check_tensors
from celbo.training.plan import TrainConfig

__all__ = [
    "TensorFlowRMSprop",
    "check_state",
    "clip_gradients",
    "load_state",
    "make_optimizer",
    "make_penalty",
    "named_state",
]


class TensorFlowRMSprop(torch.optim.Optimizer):
    """RMSprop as TensorFlow 1 has it, which DCA's and AutoImpute's time used.

    `a <- decay * a + (1 - decay) * g^2` from a = 1 (not 0), then `w <- w - lr * g / sqrt(a + eps)` with epsilon inside
    the root. Torch's own starts at 0 and adds epsilon outside, which makes its first steps about three times as long.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float, decay: float = 0.9, eps: float = 1e-10) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            accumulated = [self._accumulator(p) for p in params]
            torch._foreach_mul_(accumulated, group["decay"])
            torch._foreach_addcmul_(accumulated, grads, grads, value=1 - group["decay"])
            roots = torch._foreach_add(accumulated, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_addcdiv_(params, grads, roots, value=-group["lr"])

    def _accumulator(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "mean_square" not in state:
            state["mean_square"] = torch.ones_like(parameter)
        mean_square: Tensor = state["mean_square"]
        return mean_square


def make_optimizer(plan: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Return the plan's optimiser over the parameters of `network` that are to be trained."""
    params = [p for p in network.parameters() if p.requires_grad]
    if not params:
        raise OptionError("has no parameter to train", where="the network", fix="Unfreeze at least one.")
    rate = plan.learning_rate
    assert rate is not None
    if plan.optimizer == "rmsprop":
        return TensorFlowRMSprop(params, lr=rate)
    fused = all(p.device.type in {"cpu", "cuda"} and p.is_floating_point() for p in params)
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    return kind(params, lr=rate, eps=plan.adam_eps, weight_decay=plan.weight_decay, fused=fused)


def named_state(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Return copies of the optimiser's tensors as "parameter name/state name"; empty before the first step."""
    return {
        f"{name}/{key}": value.detach().clone()
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_state(optimizer: torch.optim.Optimizer, network: nn.Module, saved: dict[str, Tensor]) -> None:
    """Put copies of the tensors that `named_state` returned back into the optimiser."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for full, value in saved.items():
        name, key = full.rsplit("/", 1)
        by_name.setdefault(name, {})[key] = value
    optimizer.state.clear()
    for name, parameter in network.named_parameters():
        if name in by_name:
            optimizer.state[parameter] = {k: v.to(parameter.device, copy=True) for k, v in by_name[name].items()}


def check_state(optimizer: torch.optim.Optimizer, network: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Refuse, with a `ModelFileError`, saved tensors that are not a state of this optimiser for this network."""
    keys = {"mean_square"} if isinstance(optimizer, TensorFlowRMSprop) else {"step", "exp_avg", "exp_avg_sq"}
    expected: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        if any(f"{name}/{key}" in saved for key in keys):
            expected |= {f"{name}/{key}": torch.zeros(()) if key == "step" else parameter for key in keys}
    check_tensors(saved, expected, "optimiser state")


def clip_gradients(plan: TrainConfig, grads: list[Tensor], norms: Tensor) -> None:
    """Clip the gradients in place, each entry to `clip_value` and all together to `clip_norm`.

    Parameters
    ----------
    plan
        The plan with its two bounds.
    grads
        Gradients of all parameters.
    norms
        The norm of each before clipping; (parameters,).
    """
    if plan.clip_value is not None:
        torch._foreach_clamp_min_(grads, -plan.clip_value)
        torch._foreach_clamp_max_(grads, plan.clip_value)
        norms = torch.stack(torch._foreach_norm(grads)) if plan.clip_norm is not None else norms
    if plan.clip_norm is not None:
        factor = (plan.clip_norm / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, factor.to(grads[0].dtype))


def make_penalty(plan: TrainConfig, network: nn.Module) -> Callable[[], Tensor] | None:
    """Return a function of no argument for the plan's L1 and L2 penalties on named parameters, or None if it has none.

    Raises
    ------
    OptionError
        A pattern that fits no parameter.
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
            "fits no parameter", where=f"penalty pattern {pattern!r}", fix=f"Known: {', '.join(names)[:500]}."
        )
    return found
