"""One autograd function for every likelihood: cheap terms of zeros everywhere, exact terms at the stored counts.

Most counts are zero, and the log-probability of zero needs no lgamma and loses no digits in float32. The stored counts
are gathered, evaluated in float64 (a tenth of the entries), and written over the zeros' terms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from celbo.data.minibatch import SparseRows
from celbo.likelihoods.special import working_dtype

__all__ = ["EntryTerms", "entries_log_prob"]


@dataclass(frozen=True)
class EntryTerms:
    """Log-probability of an entry and its gradients, as functions of (log_mu, log_theta, dropout logit).

    A parameter that the likelihood does not have is None, and so is its gradient.
    """

    zero_value: Callable[[Tensor, Any, Any], Tensor]
    """Log-probability of a zero."""
    zero_gradients: Callable[[Tensor, Any, Any], tuple[Tensor | None, ...]]
    """Its derivatives by the three parameters."""
    value: Callable[[Tensor, Tensor, Any, Any], Tensor]
    """Log-probability of a count x > 0 (first argument)."""
    gradients: Callable[[Tensor, Tensor, Any, Any], tuple[Tensor | None, ...]]
    """Its derivatives by the three parameters."""


def entries_log_prob(
    terms: EntryTerms, rows: SparseRows, log_mu: Tensor, log_theta: Tensor | None = None, dropout: Tensor | None = None
) -> Tensor:
    """Return the log-probability of each entry in nats, (samples, cells, genes).

    `log_mu` is (samples, cells, genes); `log_theta` and `dropout` broadcast to it. The gradient can be taken once.
    """
    out: Tensor = _Entries.apply(terms, rows, log_mu, log_theta, dropout)  # type: ignore[no-untyped-call]
    return out


class _Entries(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, terms: EntryTerms, rows: SparseRows, *parameters: Any) -> Tensor:
        ctx.terms, ctx.rows = terms, rows
        ctx.save_for_backward(*parameters)
        stored = _gathered(parameters, rows)
        return _overwrite(terms.zero_value(*parameters), rows, terms.value(_counts(rows), *stored))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        parameters, rows, terms = ctx.saved_tensors, ctx.rows, ctx.terms
        at_zeros = terms.zero_gradients(*parameters)
        at_stored = terms.gradients(_counts(rows), *_gathered(parameters, rows))
        out: list[Tensor | None] = []
        for parameter, zero, stored in zip(parameters, at_zeros, at_stored, strict=True):
            out.append(None if zero is None else (grad * _overwrite(zero, rows, stored)).sum_to_size(parameter.shape))
        return None, None, *out


def _counts(rows: SparseRows) -> Tensor:
    return rows.values.to(working_dtype(rows.values.device))


def _gathered(parameters: tuple[Tensor | None, ...], rows: SparseRows) -> tuple[Any, ...]:
    """Return each parameter at the stored counts, (samples or 1, stored), in the working precision."""
    return tuple(None if p is None else _at_stored(p, rows) for p in parameters)


def _at_stored(parameter: Tensor, rows: SparseRows) -> Tensor:
    shared = parameter.shape[1] == 1 and rows.n_cells != 1  # one value a gene for all cells
    at = rows.indices if shared else _flat(rows)
    return parameter.flatten(1).index_select(1, at).to(working_dtype(parameter.device))


def _overwrite(dense: Tensor, rows: SparseRows, stored: Tensor) -> Tensor:
    at = _flat(rows).expand(dense.shape[0], -1)
    dense.view(dense.shape[0], -1).scatter_(1, at, stored.to(dense.dtype).expand(dense.shape[0], -1))
    return dense


def _flat(rows: SparseRows) -> Tensor:
    """Return the position of each stored count in the flattened (cells, genes)."""
    return rows.row_of * rows.n_genes + rows.indices
