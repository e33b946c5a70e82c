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


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x @ weight + bias; differentiable once.

    Parameters
    ----------
    x
        (..., in) float32.
    weight
        (in, out) float32.
    bias
        (out,) float32.
    """
    out: Tensor = _Affine.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(rows, weight)
        ctx.shape = x.shape
        return _times_turned(rows, weight.t(), bias).view(*x.shape[:-1], weight.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        grad = grad.reshape(-1, weight.shape[1])
        need = ctx.needs_input_grad
        return (
            _times_turned(grad, weight).view(ctx.shape) if need[0] else None,
            _times_turned(rows.t(), grad.t()) if need[1] else None,
            grad.sum(0) if need[2] else None,
        )


def _times_turned(x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ y.T + bias."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, y, bias, "none", [], "")
    return out
