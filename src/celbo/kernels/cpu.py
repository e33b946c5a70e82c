"""Log-probability and gradient of the counts of a minibatch in one pass over each row, in float32, on the CPU.

A row of decoder outputs is read once and stays in cache: softmax, the terms of zeros for every gene (vectorised by
LLVM: polynomial exp and log), the stored counts' terms written over them, the sums, and the gradient by the logits,
`dlogits = g - softmax(logits) sum(g)`. What is kept for the backward pass is that gradient and nothing else.

Formulas as in `celbo.likelihoods`; small counts by the product form
`log NB = -theta log(1 + mu/theta) + log prod_{i<x} mu (theta + i)/(theta + mu) - log x!`, which does not cancel.

Rows are independent and sums have a fixed order: the result is the same to the bit whatever the number of threads.
"""

from __future__ import annotations

import threading
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from celbo.kernels import cpu_rows as rows_
from celbo.kernels.compile import serial
from celbo.kernels.forked import is_forked, watch

__all__ = ["KINDS", "as_array", "fused_log_prob", "run_parallel"]

KINDS = {"nb": rows_.NB, "zinb": rows_.ZINB, "poisson": rows_.POISSON, "normal": rows_.NORMAL}
"""The likelihoods that have a fused kernel, by name."""

Array = NDArray[Any]
_NO_ENTRIES, _NO_TABLE, _NO_ROWS = np.empty((0, 0, 0), np.float32), np.empty((0, 0), np.float32), np.empty(0, np.int64)

# OpenMP shares the machine with torch best; a layer that the user chose, or that runs already, stays.
_config: Any = numba.config
_config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
watch()
_one_at_a_time = threading.Lock()  # the workqueue layer aborts the process on concurrent calls


def fused_log_prob(
    kind: int,
    counts: tuple[Tensor, Tensor, Tensor],
    logits: Tensor,
    log_scale: Tensor,
    log_theta: Tensor | None = None,
    theta_row: Tensor | None = None,
    dropout: Tensor | None = None,
    *,
    softmax: bool = True,
) -> Tensor:
    """Return the log-probability of each cell in nats, (samples, cells); differentiable once.

    Parameters
    ----------
    kind
        One of `KINDS`.
    counts
        The stored counts as CSR: indptr (cells + 1,) int64, indices (stored,) int64, values (stored,) float32; for the
        normal any real values.
    logits
        Logits of the expected share, (samples, cells, genes) float32; logs of the mean over scale if not `softmax`.
    log_scale
        Log library size, (samples or 1, cells) float32.
    log_theta
        Log inverse dispersion (of the normal, log standard deviation): a table (rows, genes) or an entry each
        (samples or 1, cells, genes), float32.
    theta_row
        Row of the table for each cell, (cells,) int64; None: all use the first.
    dropout
        Logit of the zero-inflation probability, (samples, cells, genes) float32.
    softmax
        Whether the mean is `exp(log_scale) softmax(logits)` or `exp(log_scale + logits)`.
    """
    if log_scale.shape[0] != logits.shape[0]:
        log_scale = log_scale.expand(logits.shape[:2])
    use, row_of = rows_.SHARED, _NO_ROWS
    if log_theta is not None and log_theta.dim() == 3:
        use = rows_.ENTRIES
        log_theta = log_theta.expand_as(logits)
    elif log_theta is not None and log_theta.shape[0] > 1 and theta_row is not None:
        use, row_of = rows_.TABLE, _array(theta_row, torch.int64)
    csr = (_array(counts[0], torch.int64), _array(counts[1], torch.int64), _array(counts[2]))
    inputs = [None if t is None else _typed(t) for t in (logits, log_scale, log_theta, dropout)]
    call = (kind, softmax, use, *csr, row_of)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        out: Tensor = _Fused.apply(call, *inputs)  # type: ignore[no-untyped-call]
        return out
    return torch.from_numpy(_run(call, inputs, None)[0])


class _Fused(torch.autograd.Function):
    """`call` is kind, softmax, how the rows use theta, the counts, and each cell's row of theta.

    The derivatives are made in the forward pass, for the gradient that the mean over cells hands back. If another one
    comes, or one comes twice, they are made again for that.
    """

    @staticmethod
    def forward(ctx: Any, call: Any, *inputs: Any) -> Tensor:
        samples, cells, _ = inputs[0].shape
        ctx.call, ctx.guess = call, np.float32(-1) / np.float32(samples * cells)
        value, *ctx.slopes = _run(call, inputs, np.full((samples, cells), ctx.guess))
        ctx.save_for_backward(*inputs)
        return torch.from_numpy(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, slopes, weight = ctx.saved_tensors, ctx.slopes, _array(grad)
        if slopes is None or not (weight == ctx.guess).all():
            _, *slopes = _run(ctx.call, inputs, weight)
        ctx.slopes = None  # they are the receiver's, who may write to them
        needs = zip(slopes, ctx.needs_input_grad[1:], strict=True)
        return None, *(torch.from_numpy(slope) if needed else None for slope, needed in needs)


def _run(call: Any, inputs: Any, weight: Array | None) -> tuple[Array, ...]:
    """Return the value, and its derivatives by logits, log scale, log theta and dropout times the `weight` of a cell.

    Derivatives by what is not there, and all where there is no weight, are of no entries.
    """
    kind, softmax, use, *counts = call
    wanted = weight is not None
    logits, log_scale = map(_array, inputs[:2])
    log_theta, dropout = (None if t is None else _array(t) for t in inputs[2:])
    samples, cells, genes = logits.shape
    value, by_scale = np.empty((2, samples, cells), np.float32)
    by_logits = np.empty_like(logits) if wanted else _NO_ENTRIES
    by_theta = np.empty_like(log_theta) if wanted and log_theta is not None else _NO_TABLE
    by_dropout = np.empty_like(logits) if wanted and dropout is not None else _NO_ENTRIES
    n_parts = 0 if by_theta is _NO_TABLE else rows_.n_parts(use, samples * cells)
    given = (
        logits,
        log_scale,
        _NO_TABLE if log_theta is None else log_theta.reshape(-1, genes),
        _NO_ENTRIES if dropout is None else dropout,
        by_scale if weight is None else weight,
    )
    out = (value, by_scale, by_logits, by_theta.reshape(-1, genes), by_dropout, np.empty((n_parts, genes), np.float32))
    run_parallel(rows_.forward, kind, softmax, wanted, use, *counts, *given, *out)
    return value, by_logits, by_scale, by_theta, by_dropout


def _typed(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _array(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Array:
    return as_array(_typed(tensor, dtype))


def as_array(tensor: Tensor) -> Array:
    """Return a tensor as a contiguous array, the same memory where that is possible."""
    return np.ascontiguousarray((tensor.detach() if tensor.requires_grad else tensor).numpy())


def run_parallel(kernel: Any, *arguments: Any) -> None:
    """Call a parallel kernel with as many threads as torch has; serially in a process that was forked after it ran."""
    if is_forked():
        serial(kernel)(*arguments)
        return
    threads = torch.get_num_threads()
    with _one_at_a_time:
        numba.set_num_threads(min(threads, _config.NUMBA_NUM_THREADS))
        if torch.get_num_threads() != threads:  # numba's first launch sets the count of the OpenMP both share
            torch.set_num_threads(threads)
        kernel(*arguments)
