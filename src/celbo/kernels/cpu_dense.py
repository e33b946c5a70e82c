"""Dense products on the CPU through oneDNN, which torch ships: on AMD's processors twice as fast as MKL in float32.

The call is the one that torch's own compiler emits for a linear layer. Where it is missing (another processor or build
of torch) nothing here is used. Forward and backward are one product each, without a copy or a turned matrix.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["affine", "has_affine"]

_LEAST = 1 << 22  # multiplications from which the lower overhead of torch's own call no longer counts


@cache
def _has_onednn() -> bool:
    here = platform.machine().lower() in {"x86_64", "amd64"} and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(here) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def has_affine(x: Tensor, weight: Tensor) -> bool:
    """Say whether `affine` takes these, and is worth it."""
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return plain and x.numel() * weight.shape[1] >= _LEAST and _has_onednn()


def affine(x: Tensor, *maps: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return x @ weight + bias of each map; differentiable once.

    Parameters
    ----------
    x
        (..., in) float32.
    maps
        Weight, (in, out) float32, and bias, (out,) float32, of each.
    """
    out: tuple[Tensor, ...] = _Affine.apply(x, *(t for pair in maps for t in pair))  # type: ignore[no-untyped-call]
    return list(out)


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1])
        weights, biases = parameters[::2], parameters[1::2]
        ctx.save_for_backward(rows, *weights)
        ctx.shape = x.shape
        pairs = zip(weights, biases, strict=True)
        return tuple(_times_turned(rows, w.t(), b).view(*x.shape[:-1], w.shape[1]) for w, b in pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, *weights = ctx.saved_tensors
        need, by_x, by_parameters = ctx.needs_input_grad, None, []
        for i, (weight, of_one) in enumerate(zip(weights, grads, strict=True)):
            grad = of_one.reshape(-1, weight.shape[1])
            if need[0]:
                own = _times_turned(grad, weight)
                by_x = own if by_x is None else by_x.add_(own)
            by_parameters.append(_times_turned(rows.t(), grad.t()) if need[1 + 2 * i] else None)
            by_parameters.append(grad.sum(0) if need[2 + 2 * i] else None)
        return (None if by_x is None else by_x.view(ctx.shape), *by_parameters)


def _times_turned(x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ y.T + bias."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, y, bias, "none", [], "")
    return out
