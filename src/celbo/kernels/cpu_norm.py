"""Batch norm of a training step, ReLU and dropout in one pass there and one back, in float32 on the CPU.

A hidden layer of a minibatch is small: torch's three operations and their gradients cost more in calls than in
arithmetic. So it is also walked by one thread; the means are summed in float64, in the order of the cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from celbo.kernels.cpu_rows import compiled

__all__ = ["Running", "batch_norm_relu", "random_mask"]


@dataclass(frozen=True)
class Running:
    """The running moments of a batch norm; (units,) float32 each."""

    mean: Tensor
    variance: Tensor
    momentum: float
    """Share of a minibatch's moments (the unbiased variance) in the new running ones."""


def batch_norm_relu(
    x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, running: Running, *, eps: float
) -> Tensor:
    """Return relu(normalised x * weight + bias) * mask, (cells, units) float32; differentiable once.

    Parameters
    ----------
    x
        (cells, units) float32.
    weight, bias
        (units,) float32.
    mask
        Factors of the dropout, (cells, units) float32; None drops nothing.
    running
        Updated in place.
    eps
        Added to the variance.
    """
    out: Tensor = _BatchNormReLU.apply(x, weight, bias, mask, running, eps)  # type: ignore[no-untyped-call]
    return out


def random_mask(like: Tensor, keep: float, generator: Generator | None) -> Tensor:
    """Return factors for a dropout: 1 / keep with probability `keep`, else 0, of the shape and dtype of `like`.

    One draw of the generator seeds a counter-based one (SplitMix64; Steele, Lea and Flood 2014), which gives four
    entries a number: a quarter of the time of torch's. `keep` is rounded to a multiple of 2^-16, in the factor too.
    """
    seed = torch.empty((), dtype=torch.int64).random_(generator=generator)
    out = torch.empty(like.numel())
    _fill_mask(int(seed), max(1, round(keep * 65536)), out.numpy())
    return out.view(like.shape).to(like.dtype)


class _BatchNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, running: Running, eps: float
    ) -> Tensor:
        x, factors = x.detach().contiguous(), _factors(mask, x)
        out, moments = torch.empty_like(x), torch.empty(2, x.shape[1])
        _forward(
            x.numpy(), weight.detach().numpy(), bias.detach().numpy(), factors.numpy(), eps,
            running.mean.numpy(), running.variance.numpy(), running.momentum, out.numpy(), moments.numpy(),
        )  # fmt: skip
        ctx.save_for_backward(x, weight, factors, out, moments)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, factors, out, moments = ctx.saved_tensors
        by_x, by_parameters = torch.empty_like(x), torch.empty(2, x.shape[1])
        given = (grad.contiguous(), x, weight.detach(), factors, out.detach(), moments, by_x, by_parameters)
        _backward(*(t.numpy() for t in given))
        return by_x, by_parameters[0], by_parameters[1], None, None, None


def _factors(mask: Tensor | None, x: Tensor) -> Tensor:
    """Return the mask, or a table of no rows."""
    return torch.empty(0, x.shape[1]) if mask is None else mask.contiguous()


@compiled()
def _fill_mask(seed: int, keep: int, out: Any) -> None:
    factor, least, quarter = np.float32(65536 / keep), np.uint64(keep), (out.size + 3) // 4
    step, first, second = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
    for part in range(4):
        shift = np.uint64(16 * part)
        entries = out[part * quarter : (part + 1) * quarter]
        for i in range(entries.size):
            z = np.uint64(seed) + np.uint64(i + 1) * step
            z = (z ^ (z >> np.uint64(30))) * first
            z = (z ^ (z >> np.uint64(27))) * second
            z = z ^ (z >> np.uint64(31))
            entries[i] = factor if ((z >> shift) & np.uint64(65535)) < least else np.float32(0)


@compiled()
def _forward(
    x: Any, weight: Any, bias: Any, factors: Any, eps: float, running_mean: Any, running_variance: Any, momentum: float,
    out: Any, moments: Any,
) -> None:  # fmt: skip
    n_cells, n_units = x.shape
    mean, inverse = np.zeros(n_units), np.zeros(n_units)
    for i in range(n_cells):
        for j in range(n_units):
            mean[j] += x[i, j]
    for j in range(n_units):
        mean[j] /= n_cells
    for i in range(n_cells):
        for j in range(n_units):
            inverse[j] += (x[i, j] - mean[j]) ** 2
    for j in range(n_units):
        variance = inverse[j] / n_cells
        moments[0, j], moments[1, j] = mean[j], 1 / math.sqrt(variance + eps)
        running_mean[j] += momentum * (mean[j] - running_mean[j])
        running_variance[j] += momentum * (inverse[j] / (n_cells - 1) - running_variance[j])
    dropped = factors.shape[0] > 0
    for i in range(n_cells):
        for j in range(n_units):
            y = (x[i, j] - moments[0, j]) * (moments[1, j] * weight[j]) + bias[j]
            out[i, j] = np.float32(0) if y <= 0 else y  # a NaN stays one
        if dropped:
            for j in range(n_units):
                out[i, j] *= factors[i, j]


@compiled()
def _backward(
    grad: Any, x: Any, weight: Any, factors: Any, out: Any, moments: Any, by_x: Any, by_parameters: Any
) -> None:
    n_cells, n_units = x.shape
    by_weight, by_bias = np.zeros(n_units), np.zeros(n_units)
    dropped = factors.shape[0] > 0
    for i in range(n_cells):
        slope = by_x[i]
        for j in range(n_units):
            slope[j] = grad[i, j] if out[i, j] > 0 else np.float32(0)
        if dropped:
            for j in range(n_units):
                slope[j] *= factors[i, j]
        for j in range(n_units):
            by_bias[j] += slope[j]
            by_weight[j] += slope[j] * ((x[i, j] - moments[0, j]) * moments[1, j])
    for j in range(n_units):
        by_parameters[0, j], by_parameters[1, j] = by_weight[j], by_bias[j]
    for i in range(n_cells):
        for j in range(n_units):
            standard = (x[i, j] - moments[0, j]) * moments[1, j]
            inner = by_x[i, j] - (by_parameters[1, j] + standard * by_parameters[0, j]) / np.float32(n_cells)
            by_x[i, j] = moments[1, j] * weight[j] * inner
