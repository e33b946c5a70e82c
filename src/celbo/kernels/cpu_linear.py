"""The first layer on sparse counts: log1p(counts) @ weight + bias, forward and by the weight, in float32 on the CPU.

The weight is genes-major, (genes, out), so that a stored count reads one contiguous row. Backwards a thread turns the
counts of its genes to genes-major order first, so that a gene's row of the gradient is written once. Several rows are
added at a time, which saves as many passes over the sum. Their order is that of the stored counts whatever the number
of threads: the result is the same to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from celbo.kernels.compile import compiled
from celbo.kernels.cpu import as_array, run_parallel
from celbo.kernels.cpu_rows import log1p_row

__all__ = ["by_weight", "forward", "log1p_linear"]

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def log1p_linear(counts: tuple[Tensor, Tensor, Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """Return log1p(counts) @ weight + bias, (cells, out) float32; differentiable once, by weight and bias.

    Parameters
    ----------
    counts
        The stored counts as CSR: indptr (cells + 1,) int64, indices (stored,) int64, values (stored,) float32.
    weight
        A row for each gene, (genes, out) float32.
    bias
        (out,) float32.
    """
    out: Tensor = _Log1pLinear.apply(*counts, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _Log1pLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indptr: Tensor, indices: Tensor, values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.logs, out = np.empty(values.shape[0], np.float32), torch.empty(indptr.shape[0] - 1, weight.shape[1])
        parameters = (as_array(weight), as_array(bias))
        run_parallel(forward, indptr.numpy(), indices.numpy(), values.numpy(), ctx.logs, *parameters, out.numpy())
        ctx.save_for_backward(indptr, indices, values)
        ctx.n_genes = weight.shape[0]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        need = ctx.needs_input_grad
        slope = by_weight(ctx.saved_tensors, ctx.logs, grad, ctx.n_genes) if need[3] else None
        return None, None, None, slope, grad.sum(0) if need[4] else None


def by_weight(counts: tuple[Tensor, Tensor, Tensor], logs: Floats, grad: Tensor, n_genes: int) -> Tensor:
    """Return the gradient by the weight, (genes, out), from that by the result.

    Parameters
    ----------
    counts
        As of `log1p_linear`.
    logs
        What `forward` took of the counts, (stored,) float32.
    grad
        Gradient by the result, (cells, out) float32.
    n_genes
        Rows of the weight.
    """
    out = torch.empty(n_genes, grad.shape[1])
    n_ranges = 2 * torch.get_num_threads()
    arrays = (counts[0].numpy(), counts[1].numpy(), logs, as_array(grad), out.numpy())
    run_parallel(_backward, *arrays, n_ranges)
    return out


@compiled()
def _add_rows(at: Any, factors: Floats, source: Floats, row: Floats) -> None:
    """Add to `row` the rows `at` of `source`, each times its factor."""
    k = 0
    while k + 8 <= at.size:
        a, b, c, d = source[at[k]], source[at[k + 1]], source[at[k + 2]], source[at[k + 3]]
        e, f, g, h = source[at[k + 4]], source[at[k + 5]], source[at[k + 6]], source[at[k + 7]]
        p, q, r, s = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
        t, u, v, w = factors[k + 4], factors[k + 5], factors[k + 6], factors[k + 7]
        for j in range(row.size):
            first = (p * a[j] + q * b[j]) + (r * c[j] + s * d[j])
            row[j] += first + ((t * e[j] + u * f[j]) + (v * g[j] + w * h[j]))
        k += 8
    while k + 2 <= at.size:
        a, b, p, q = source[at[k]], source[at[k + 1]], factors[k], factors[k + 1]
        for j in range(row.size):
            row[j] += p * a[j] + q * b[j]
        k += 2
    if k < at.size:
        a, p = source[at[k]], factors[k]
        for j in range(row.size):
            row[j] += p * a[j]


@compiled(parallel=True)
def forward(
    indptr: Integers, genes: Integers, values: Floats, logs: Floats, weight: Floats, bias: Floats, out: Floats
) -> None:
    """Fill `logs` with log1p of the stored counts and `out` with the result of `log1p_linear`."""
    for cell in prange(indptr.size - 1):
        first, last = indptr[cell], indptr[cell + 1]
        log1p_row(values[first:last], logs[first:last])
        out[cell] = bias
        _add_rows(genes[first:last], logs[first:last], weight, out[cell])


@compiled(parallel=True)
def _backward(indptr: Integers, genes: Integers, logs: Floats, grad: Floats, out: Floats, n_ranges: int) -> None:
    for r in prange(n_ranges):
        _range(indptr, genes, logs, grad, out, r * out.shape[0] // n_ranges, (r + 1) * out.shape[0] // n_ranges)


@compiled()
def _range(indptr: Integers, genes: Integers, logs: Floats, grad: Floats, out: Floats, low: int, high: int) -> None:
    """Fill the rows of the genes from `low` to before `high`, by their counts in the order of genes, then cells."""
    n_cells = indptr.size - 1
    starts, stops, ends = np.empty(n_cells, np.int64), np.empty(n_cells, np.int64), np.zeros(high - low + 1, np.int64)
    for cell in range(n_cells):
        starts[cell] = _first_at_least(genes, indptr[cell], indptr[cell + 1], low)
        stops[cell] = _first_at_least(genes, starts[cell], indptr[cell + 1], high)
        for k in range(starts[cell], stops[cell]):
            ends[genes[k] - low + 1] += 1
    for g in range(high - low):
        ends[g + 1] += ends[g]
    cells, turned = np.empty(ends[-1], np.int32), np.empty(ends[-1], np.float32)
    for cell in range(n_cells):
        for k in range(starts[cell], stops[cell]):
            to = ends[genes[k] - low]
            cells[to], turned[to] = cell, logs[k]
            ends[genes[k] - low] = to + 1
    for g in range(high - low):
        first, last = ends[g - 1] if g > 0 else 0, ends[g]
        out[low + g] = np.float32(0)
        _add_rows(cells[first:last], turned[first:last], grad, out[low + g])


@compiled()
def _first_at_least(genes: Integers, start: int, stop: int, gene: int) -> int:
    """Return the first position of ascending genes, from `start` to `stop`, that holds at least `gene`."""
    while start < stop:
        middle = (start + stop) // 2
        if genes[middle] < gene:
            start = middle + 1
        else:
            stop = middle
    return start
