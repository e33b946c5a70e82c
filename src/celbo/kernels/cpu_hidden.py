"""A hidden layer of a training step as one operation: linear map, covariates, batch norm, ReLU, dropout; float32, CPU.

A hidden layer of a minibatch is small: as torch's seven operations and their gradients it costs more in calls than in
arithmetic. So it is also walked by one thread, but for the map of sparse counts; the moments are summed in float64, in
the order of the cells. An entry that the dropout or the ReLU has zeroed hands no gradient back, so no mask is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from celbo.kernels.compile import SPLIT_SUMS, compiled
from celbo.kernels.cpu import as_array, run_parallel
from celbo.kernels.cpu_linear import by_weight, forward

__all__ = ["Norm", "hidden_layer", "random_mask"]

Counts = tuple[Tensor, Tensor, Tensor]
"""The stored counts as CSR: indptr (cells + 1,) int64, indices (stored,) int64, values (stored,) float32."""


@dataclass(frozen=True)
class Norm:
    """A batch norm; all tensors (units,) float32."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    """Updated in place, as the next."""
    running_variance: Tensor
    momentum: float
    """Share of a minibatch's moments (the unbiased variance) in the new running ones."""
    eps: float
    """Added to the variance."""


def hidden_layer(
    x: Tensor | Counts,
    linear: tuple[Tensor, Tensor] | None,
    shifts: Sequence[tuple[Tensor, Tensor]],
    norm: Norm,
    *,
    keep: float = 1.0,
    generator: Generator | None = None,
) -> Tensor:
    """Return relu(norm(linear(x) + shifts)) * mask, (rows, units) float32; differentiable once.

    Parameters
    ----------
    x
        (rows, in) float32, or the stored counts of the rows, of which log1p is taken.
    linear
        Weight and bias (units,); the weight is (units, in), of counts (genes, units). None: x is its result.
    shifts
        What covariates add: a table (categories, units) and the code of each cell, (cells,) int64. Rows are cells, or
        several samples of all cells one after the other.
    norm
        The batch norm, of the moments of these rows.
    keep
        Probability of the dropout to keep an entry, as of `random_mask`.
    generator
        Of the dropout.
    """
    counts = x if isinstance(x, tuple) else None
    whole = 0 if keep == 1 else _threshold(keep)
    call = _Call(counts, [codes for _, codes in shifts], norm, whole, _seed(generator) if whole else 0)
    given = (None if counts is not None else x, *(linear or (None, None)), norm.weight, norm.bias)
    out: Tensor = _HiddenLayer.apply(call, *given, *(table for table, _ in shifts))  # type: ignore[no-untyped-call]
    return out


def random_mask(like: Tensor, keep: float, generator: Generator | None) -> Tensor:
    """Return factors for a dropout: 1 / keep with probability `keep`, else 0, of the shape and dtype of `like`.

    One draw of the generator seeds a counter-based one (SplitMix64; Steele, Lea and Flood 2014), which gives four
    entries a number: a quarter of the time of torch's. `keep` is rounded to a multiple of 2^-16, in the factor too.
    """
    out = torch.empty(like.numel())
    _fill_mask(_seed(generator), _threshold(keep), out.numpy())
    return out.view(like.shape).to(like.dtype)


def _seed(generator: Generator | None) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator))


def _threshold(keep: float) -> int:
    return max(1, round(keep * 65536))


@dataclass(frozen=True)
class _Call:
    """What of a call is no parameter."""

    counts: Counts | None
    codes: list[Tensor]
    norm: Norm
    keep: int
    """Of 65536; 0 is no dropout."""
    seed: int


class _HiddenLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, x: Any, weight: Any, bias: Any, *rest: Tensor) -> Tensor:
        gamma, beta, *tables = rest
        if call.counts is not None:
            y = np.empty((call.counts[0].shape[0] - 1, gamma.shape[0]), np.float32)
            ctx.logs = np.empty(call.counts[2].shape[0], np.float32)
            run_parallel(forward, *map(as_array, call.counts), ctx.logs, as_array(weight), as_array(bias), y)
        elif weight is not None:
            y = np.empty((x.shape[0], gamma.shape[0]), np.float32)
            _affine(as_array(x), as_array(weight), as_array(bias), y)
        else:
            y = as_array(x).copy() if tables else as_array(x)
        for table, codes in zip(tables, call.codes, strict=True):
            _add_table(as_array(table), as_array(codes), y)
        out, norm = torch.empty(y.shape), call.norm
        ctx.moments = np.empty((2, y.shape[1]), np.float32)
        running = (as_array(norm.running_mean), as_array(norm.running_variance))
        parameters = (as_array(gamma), as_array(beta), norm.eps, *running, norm.momentum)
        _norm(y, *parameters, call.keep, call.seed, out.numpy(), ctx.moments)
        ctx.save_for_backward(x, weight, gamma, out, *tables)
        ctx.call, ctx.y = call, y
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, gamma, out, *tables = ctx.saved_tensors
        call, need = ctx.call, ctx.needs_input_grad
        slope, by_norm = torch.empty(out.shape), torch.empty(3, out.shape[1])
        factor = 65536 / call.keep if call.keep else 1.0
        given = (as_array(grad), ctx.y, as_array(gamma), factor, as_array(out), ctx.moments)
        _norm_backward(*given, slope.numpy(), by_norm.numpy())
        by_tables = [torch.zeros(table.shape) for table in tables]
        for by_table, codes in zip(by_tables, call.codes, strict=True):
            _sum_by_code(slope.numpy(), as_array(codes), by_table.numpy())
        by_x, weight_slope = slope if weight is None else None, None
        if call.counts is not None:
            weight_slope = by_weight(call.counts, ctx.logs, slope, weight.shape[0]) if need[2] else None
        elif weight is not None:
            by_x, weight_slope = torch.empty(x.shape), torch.empty(weight.shape)
            _affine_backward(as_array(x), as_array(weight), slope.numpy(), by_x.numpy(), weight_slope.numpy())
        return None, by_x, weight_slope, None if weight is None else by_norm[2], by_norm[0], by_norm[1], *by_tables


# -- compiled loops ----------------------------------------------------------------------------------------------------


@compiled()
def _affine(x: Any, weight: Any, bias: Any, out: Any) -> None:
    """Fill `out` with x @ weight.T + bias; for few inputs."""
    by_input = np.ascontiguousarray(weight.T)
    for i in range(x.shape[0]):
        row = out[i]
        for j in range(row.size):
            row[j] = bias[j]
        for k in range(x.shape[1]):
            factor, column = x[i, k], by_input[k]
            for j in range(row.size):
                row[j] += factor * column[j]


@compiled(flags=SPLIT_SUMS)
def _affine_backward(x: Any, weight: Any, slope: Any, by_x: Any, by_weight: Any) -> None:
    by_input, gradient = np.ascontiguousarray(weight.T), np.zeros((x.shape[1], slope.shape[1]), np.float32)
    for i in range(x.shape[0]):
        row = slope[i]
        for k in range(x.shape[1]):
            factor, column, target, total = x[i, k], by_input[k], gradient[k], np.float32(0)
            for j in range(row.size):
                total += row[j] * column[j]
            for j in range(row.size):
                target[j] += factor * row[j]
            by_x[i, k] = total
    for j in range(by_weight.shape[0]):
        for k in range(by_weight.shape[1]):
            by_weight[j, k] = gradient[k, j]


@compiled()
def _add_table(table: Any, codes: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        row, shift = out[i], table[codes[i % codes.size]]
        for j in range(row.size):
            row[j] += shift[j]


@compiled()
def _sum_by_code(slope: Any, codes: Any, out: Any) -> None:
    for i in range(slope.shape[0]):
        row, total = slope[i], out[codes[i % codes.size]]
        for j in range(row.size):
            total[j] += row[j]


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
def _norm(
    x: Any, weight: Any, bias: Any, eps: float, running_mean: Any, running_variance: Any, momentum: float,
    keep: int, seed: int, out: Any, moments: Any,
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
    if keep:
        _fill_mask(seed, keep, out.reshape(-1))
    else:
        out[:] = np.float32(1)
    for i in range(n_cells):
        for j in range(n_units):
            y = (x[i, j] - moments[0, j]) * (moments[1, j] * weight[j]) + bias[j]
            out[i, j] *= np.float32(0) if y <= 0 else y  # a NaN stays one


@compiled()
def _norm_backward(
    grad: Any, x: Any, weight: Any, factor: float, out: Any, moments: Any, by_x: Any, by_parameters: Any
) -> None:
    """Fill the gradients by x, and by the weight, the bias and the sum of x over the cells: (3, units)."""
    n_cells, n_units = x.shape
    by_weight, by_bias, by_shift = np.zeros(n_units), np.zeros(n_units), np.zeros(n_units)
    kept = np.float32(factor)
    for i in range(n_cells):
        slope = by_x[i]
        for j in range(n_units):
            slope[j] = grad[i, j] * kept if out[i, j] > 0 else np.float32(0)
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
        for j in range(n_units):
            by_shift[j] += by_x[i, j]
    for j in range(n_units):
        by_parameters[2, j] = by_shift[j]
