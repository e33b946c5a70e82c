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
    use = "table"
    if log_theta is not None and log_theta.dim() == 3:
        use = "entries"
        log_theta = log_theta.expand(samples, cells, genes).reshape(-1, genes)
    elif log_theta is not None and log_theta.shape[0] == 1:
        use = "shared"
    inputs = [None if t is None else t.float() for t in (logits, log_scale.expand(samples, cells), log_theta, dropout)]
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    out: Tensor = _Fused.apply((kind, softmax, wanted, use), counts, of, *inputs)  # type: ignore[no-untyped-call]
    return out


class _Fused(torch.autograd.Function):
    """`call` is kind, softmax, whether gradients are wanted, and how the rows use theta: "table", "shared", "entries".

    The derivatives are made in the forward pass, for the gradient that the mean over cells hands back; if another one
    comes, they are made again for that.
    """

    @staticmethod
    def forward(ctx: Any, call: Any, counts: tuple[Tensor, ...], of: Tensor, *inputs: Any) -> Tensor:
        shape = inputs[0].shape
        guess = np.float32(-1) / np.float32(shape[0] * shape[1])
        value, by_scale, slopes = _run(call, counts, of, inputs, torch.full(shape[:2], float(guess)))
        if call[2]:
            ctx.save_for_backward(by_scale, *slopes, *counts, of, *inputs)
            ctx.guess, ctx.call = float(guess), call
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_scale, *saved = ctx.saved_tensors
        slopes, counts, of, inputs = saved[:3], tuple(saved[3:6]), saved[6], saved[7:]
        if bool((grad != ctx.guess).any()):
            _, _, slopes = _run(ctx.call, counts, of, inputs, grad)
        logits, _, log_theta, dropout = inputs
        need = ctx.needs_input_grad[3:]
        return (
            *(None,) * 3,
            slopes[0].view(logits.shape) if need[0] else None,
            by_scale * grad if need[1] else None,
            _summed_theta(ctx.call[3], slopes[1], of, log_theta.shape) if need[2] else None,
            slopes[2].view(dropout.shape) if need[3] else None,
        )


def _run(call: Any, counts: tuple[Tensor, ...], of: Tensor, inputs: Any, weight: Tensor) -> Any:
    """Return the value, its derivative by the log scale, and those by logits, log theta and dropout times `weight`."""
    kind, softmax, wanted, use = call
    logits, log_scale, log_theta, dropout = inputs
    shape = logits.shape
    theta = None if log_theta is None else log_theta.clamp(-_LOG_THETA_RANGE, _LOG_THETA_RANGE).exp_()
    value, by_scale = torch.empty(shape[:2]), torch.empty(shape[:2])
    rows = shape[0] * shape[1]
    groups = -(-rows // rows_.GROUP) if use == "shared" else rows
    slopes = [
        torch.empty(n if wanted and t is not None else 0, shape[2])
        for n, t in ((rows, logits), (groups, log_theta), (rows, dropout))
    ]
    arrays = [_matrix(t, shape[2]) for t in (logits, theta, dropout)]
    given = (_array(weight.reshape(-1)), *map(_array, counts), _array(log_scale), *arrays, _array(of))
    out = map(_array, (value, by_scale, *slopes))
    run_parallel(rows_.forward, kind, softmax, wanted, use == "shared", *given, *out)
    return value, by_scale, slopes


def _theta_of(log_theta: Tensor | None, theta_row: Tensor | None, samples: int, cells: int) -> Tensor:
    """Return for each (sample, cell) its row of theta, (samples * cells,)."""
    if log_theta is not None and log_theta.dim() == 3:
        return torch.arange(samples * cells)
    if log_theta is None or theta_row is None:
        return torch.zeros(samples * cells, dtype=torch.int64)
    return theta_row.repeat(samples)


def _summed_theta(use: str, by_theta: Tensor, of: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradient by theta: of each row of a table, the sum over the cells that use it."""
    if use == "entries":
        return by_theta
    if use == "shared":
        return by_theta.sum(0, keepdim=True)
    out = torch.zeros(shape)
    run_parallel(rows_.sum_by_row, _array(by_theta), _array(of), _GENES_A_BLOCK, _array(out))
    return out


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
