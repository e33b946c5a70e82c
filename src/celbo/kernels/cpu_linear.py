"""The first layer on sparse counts: log1p(counts) @ weight + bias, forward and by the weight, in float32 on the CPU.

The weight is genes-major, (genes, out), so that a stored count reads and, backwards, adds to one contiguous row. Sums
run over the stored counts in their order whatever the number of threads: the result is the same to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from celbo.kernels.cpu import run_parallel
from celbo.kernels.cpu_rows import compiled

__all__ = ["log1p_linear"]

_COLUMNS_A_BLOCK = 32  # outputs that one thread adds up at a time in the backward pass: two vectors of 16

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
        logs = torch.log1p(values)
        out = torch.empty(indptr.shape[0] - 1, weight.shape[1])
        arrays = (indptr.numpy(), indices.numpy(), logs.numpy())
        run_parallel(_forward, *arrays, weight.detach().contiguous().numpy(), bias.detach().numpy(), out.numpy())
        ctx.save_for_backward(indptr, indices, logs)
        ctx.shape = weight.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        indptr, indices, logs = ctx.saved_tensors
        by_weight = None
        if ctx.needs_input_grad[3]:
            by_weight = torch.zeros(ctx.shape)
            arrays = (indptr.numpy(), indices.numpy(), logs.numpy(), grad.contiguous().numpy())
            run_parallel(_backward, *arrays, _COLUMNS_A_BLOCK, by_weight.numpy())
        return None, None, None, by_weight, grad.sum(0) if ctx.needs_input_grad[4] else None


@compiled(parallel=True)
def _forward(indptr: Integers, genes: Integers, logs: Floats, weight: Floats, bias: Floats, out: Floats) -> None:
    for cell in prange(indptr.size - 1):
        row = out[cell]
        row[:] = bias
        for k in range(indptr[cell], indptr[cell + 1]):
            source, factor = weight[genes[k]], logs[k]
            for j in range(row.size):
                row[j] += factor * source[j]


@compiled(parallel=True)
def _backward(indptr: Integers, genes: Integers, logs: Floats, grad: Floats, width: int, out: Floats) -> None:
    n_columns = out.shape[1]
    for block in prange((n_columns + width - 1) // width):
        first, last = block * width, min((block + 1) * width, n_columns)
        for cell in range(indptr.size - 1):
            of_cell = grad[cell, first:last]
            for k in range(indptr[cell], indptr[cell + 1]):
                target, factor = out[genes[k], first:last], logs[k]
                for j in range(target.size):
                    target[j] += factor * of_cell[j]
