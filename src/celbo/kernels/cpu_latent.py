"""The head of an encoder as one operation: linear map, mean and scale of a Gaussian, KL to the standard normal.

A latent state is small: what its arithmetic costs is the number of operations that autograd records. So it is one, in
float32 on one thread of the CPU, with its gradient in closed form.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from celbo.kernels.compile import SPLIT_SUMS, compiled
from celbo.kernels.cpu import as_array

__all__ = ["gaussian_head"]


def gaussian_head(h: Tensor, weight: Tensor, bias: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and scale, (cells, D) each, and KL(Normal(mean, scale^2) || Normal(0, 1)) in nats, (cells,).

    Differentiable once. With (mean, log v) = h @ weight.T + bias, scale^2 = v + floor.

    Parameters
    ----------
    h
        Last hidden state, (cells, hidden) float32.
    weight
        (2 D, hidden) float32.
    bias
        (2 D,) float32.
    floor
        Added to the variance.
    """
    out: tuple[Tensor, Tensor, Tensor] = _GaussianHead.apply(h, weight, bias, floor)  # type: ignore[no-untyped-call]
    return out


class _GaussianHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
        shape = (h.shape[0], weight.shape[0] // 2)
        mean, scale, kl = torch.empty(shape), torch.empty(shape), torch.empty(shape[0])
        ctx.variance = np.empty(shape, np.float32)
        inputs = (as_array(h), as_array(weight), as_array(bias), np.float32(floor))
        _forward(*inputs, mean.numpy(), scale.numpy(), ctx.variance, kl.numpy())
        ctx.save_for_backward(h, weight, mean, scale)
        return mean, scale, kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, mean, scale = (as_array(t) for t in ctx.saved_tensors)
        by_h, by_weight, by_bias = torch.empty(h.shape), torch.empty(weight.shape), torch.empty(weight.shape[0])
        slopes = (as_array(grads[0]), as_array(grads[1]), as_array(grads[2]))
        out = (by_h.numpy(), by_weight.numpy(), by_bias.numpy())
        _backward(h, weight, mean, scale, *slopes, ctx.variance, *out)
        return by_h, by_weight, by_bias, None


_HALF, _ONE = np.float32(0.5), np.float32(1)


@compiled(flags=SPLIT_SUMS)
def _dot(a: Any, b: Any) -> Any:
    total = np.float32(0)
    for j in range(a.size):
        total += a[j] * b[j]
    return total


@compiled()
def _forward(h: Any, weight: Any, bias: Any, floor: Any, mean: Any, scale: Any, variance: Any, kl: Any) -> None:
    n_cells, size = mean.shape
    for i in range(n_cells):
        for d in range(size):
            mean[i, d] = _dot(h[i], weight[d]) + bias[d]
            variance[i, d] = _dot(h[i], weight[size + d]) + bias[size + d]
        total = np.float32(0)
        for d in range(size):
            m, v = mean[i, d], math.exp(variance[i, d])
            square = v + floor
            variance[i, d], scale[i, d] = v, math.sqrt(square)
            total += _HALF * ((square - _ONE) + m * m - math.log(square))
        kl[i] = total


@compiled()
def _backward(
    h: Any, weight: Any, mean: Any, scale: Any, grad_mean: Any, grad_scale: Any, grad_kl: Any, variance: Any,
    by_h: Any, by_weight: Any, by_bias: Any,
) -> None:  # fmt: skip
    n_cells, size = mean.shape
    by_weight[:], by_bias[:], by_h[:] = np.float32(0), np.float32(0), np.float32(0)
    slopes = np.empty(2 * size, np.float32)
    for i in range(n_cells):
        for d in range(size):
            s = scale[i, d]
            slopes[d] = grad_mean[i, d] + grad_kl[i] * mean[i, d]
            slopes[size + d] = (grad_scale[i, d] + grad_kl[i] * (s - _ONE / s)) * (_HALF * variance[i, d] / s)
        row, into = h[i], by_h[i]
        for d in range(2 * size):
            slope, column, target = slopes[d], weight[d], by_weight[d]
            by_bias[d] += slope
            for j in range(row.size):
                into[j] += slope * column[j]
            for j in range(row.size):
                target[j] += slope * row[j]
