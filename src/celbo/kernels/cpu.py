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

__all__ = ["KINDS", "fused_log_prob", "run_parallel"]

KINDS = {"nb": rows_.NB, "zinb": rows_.ZINB, "poisson": rows_.POISSON}
"""The likelihoods that have a fused kernel, by name."""

_LOG_THETA_RANGE = 80.0  # where float32 ends; beyond, the distribution is its limit to the last digit
_GENES_A_BLOCK = 256

# OpenMP shares the machine with torch best; a layer that the user chose, or that runs already, stays.
_config: Any = numba.config
_config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
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
        The stored counts as CSR: indptr (cells + 1,) int64, indices (stored,) int64, values (stored,) float32.
    logits
        Logits of the expected share, (samples, cells, genes) float32; logs of the mean over scale if not `softmax`.
    log_scale
        Log library size, (samples or 1, cells) float32.
    log_theta
        Log inverse dispersion: a table (rows, genes) or an entry each (samples or 1, cells, genes), float32.
    theta_row
        Row of the table for each cell, (cells,) int64; None: all use the first.
    dropout
        Logit of the zero-inflation probability, (samples, cells, genes) float32.
    softmax
        Whether the mean is `exp(log_scale) softmax(logits)` or `exp(log_scale + logits)`.
    """
    samples, cells, genes = logits.shape
    counts = (counts[0].long(), counts[1].long(), counts[2].float())
    of = _theta_of(log_theta, theta_row, samples, cells)
    entries = log_theta is not None and log_theta.dim() == 3
    if log_theta is not None and entries:
        log_theta = log_theta.expand(samples, cells, genes).reshape(-1, genes)
    inputs = [None if t is None else t.float() for t in (logits, log_scale.expand(samples, cells), log_theta, dropout)]
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    out: Tensor = _Fused.apply((kind, softmax, wanted, entries), counts, of, *inputs)  # type: ignore[no-untyped-call]
    return out


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: tuple[int, bool, bool, bool], counts: tuple[Tensor, ...], of: Tensor, *inputs: Any
    ) -> Tensor:
        kind, softmax, wanted, entries = call
        logits, log_scale, log_theta, dropout = inputs
        shape = logits.shape
        theta = None if log_theta is None else log_theta.clamp(-_LOG_THETA_RANGE, _LOG_THETA_RANGE).exp_()
        guess = np.float32(-1) / np.float32(shape[0] * shape[1])  # the gradient that the mean over cells hands back
        value = torch.empty(shape[:2])
        slopes = tuple(_like(t, shape, wanted) for t in (logits, log_theta, dropout))
        by_scale = torch.empty(shape[:2])
        arrays = [_matrix(t, shape[-1]) for t in (logits, theta, dropout)]
        given = (*(_array(t) for t in counts), _array(log_scale), *arrays, _array(of))
        run_parallel(
            rows_.forward, kind, softmax, wanted, guess, *given, _array(value), _array(by_scale), *map(_array, slopes)
        )
        if wanted:
            ctx.save_for_backward(slopes[0], by_scale, slopes[1], slopes[2], of)
            ctx.guess, ctx.entries = float(guess), entries
            ctx.shapes = [None if t is None else t.shape for t in inputs]
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_logits, by_scale, by_theta, by_dropout, of = ctx.saved_tensors
        need, shapes = ctx.needs_input_grad[3:], ctx.shapes
        if bool((grad != ctx.guess).any()):
            ratio = (grad / ctx.guess).reshape(-1, 1)
            by_logits, by_theta, by_dropout = (t * ratio if t.numel() else t for t in (by_logits, by_theta, by_dropout))
        return (
            *(None,) * 3,
            by_logits.view(shapes[0]) if need[0] else None,
            by_scale * grad if need[1] else None,
            None if not need[2] else by_theta if ctx.entries else _summed_theta(by_theta, of, shapes[2]),
            by_dropout.view(shapes[3]) if need[3] else None,
        )


def _theta_of(log_theta: Tensor | None, theta_row: Tensor | None, samples: int, cells: int) -> Tensor:
    """Return for each (sample, cell) its row of theta, (samples * cells,)."""
    if log_theta is not None and log_theta.dim() == 3:
        return torch.arange(samples * cells)
    if log_theta is None or theta_row is None:
        return torch.zeros(samples * cells, dtype=torch.int64)
    return theta_row.repeat(samples)


def _summed_theta(by_theta: Tensor, of: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradient of the table: of each of its rows, the sum over the cells that use it."""
    out = torch.zeros(shape)
    run_parallel(rows_.sum_by_row, _array(by_theta), _array(of), _GENES_A_BLOCK, _array(out))
    return out


def _like(parameter: Tensor | None, shape: torch.Size, wanted: bool) -> Tensor:
    """Return room for a gradient, (samples * cells, genes); of no rows where none is wanted."""
    needed = wanted and parameter is not None
    return torch.empty(shape[0] * shape[1] if needed else 0, shape[2])


def _matrix(parameter: Tensor | None, genes: int) -> NDArray[Any]:
    return np.empty((0, genes), np.float32) if parameter is None else _array(parameter.reshape(-1, genes))


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().contiguous().numpy()
    return array


def run_parallel(kernel: Any, *arguments: Any) -> None:
    """Call a parallel kernel with as many threads as torch has."""
    threads = torch.get_num_threads()
    with _one_at_a_time:
        numba.set_num_threads(min(threads, _config.NUMBA_NUM_THREADS))
        if torch.get_num_threads() != threads:  # numba's first launch sets the count of the OpenMP both share
            torch.set_num_threads(threads)
        kernel(*arguments)
