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

__all__ = ["EntryTerms", "Terms", "entries_log_prob"]

Terms = tuple[Tensor, tuple[Tensor | None, ...]]
"""A log-probability, and its derivatives by (log_mu, log_theta, dropout logit): none of them if they were not asked
for, None for a parameter that the likelihood does not have."""


@dataclass(frozen=True)
class EntryTerms:
    """Log-probability of an entry and its derivatives, as functions of (log_mu, log_theta, dropout logit).

    A parameter that the likelihood does not have is None. The last argument says whether derivatives are wanted.
    """

    zero: Callable[..., Terms]
    """Of a zero: (log_mu, log_theta, dropout logit, wanted)."""
    stored: Callable[..., Terms]
    """Of any other count: (x, log_mu, log_theta, dropout logit, wanted)."""


def entries_log_prob(
    terms: EntryTerms, rows: SparseRows, log_mu: Tensor, log_theta: Tensor | None = None, dropout: Tensor | None = None
) -> Tensor:
    """Return the log-probability of each entry in nats, (samples, cells, genes).

    `log_mu` is (samples, cells, genes); `log_theta` and `dropout` broadcast to it. The gradient can be taken once.
    """
    parameters = (log_mu, log_theta, dropout)
    wanted = torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in parameters)
    out: Tensor = _Entries.apply(terms, rows, wanted, *parameters)  # type: ignore[no-untyped-call]
    return out


class _Entries(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, terms: EntryTerms, rows: SparseRows, wanted: bool, *parameters: Any) -> Tensor:
        value, gradients = terms.zero(*parameters, wanted)
        stored_value, stored_gradients = terms.stored(_counts(rows), *_gathered(parameters, rows), wanted)
        pairs = zip(gradients, stored_gradients, strict=True)
        ctx.save_for_backward(*(None if g is None else _overwrite(g, rows, at) for g, at in pairs))
        ctx.shapes = [None if p is None else p.shape for p in parameters]
        return _overwrite(value, rows, stored_value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = zip(ctx.saved_tensors, ctx.shapes, ctx.needs_input_grad[3:], strict=True)
        return None, None, None, *((grad * g).sum_to_size(shape) if needed else None for g, shape, needed in saved)


def _counts(rows: SparseRows) -> Tensor:
    return rows.values.to(working_dtype(rows.values.device))


def _gathered(parameters: tuple[Tensor | None, ...], rows: SparseRows) -> tuple[Any, ...]:
    """Return each parameter at the stored counts, (samples or 1, stored), in the working precision."""
    return tuple(None if p is None else _at_stored(p, rows) for p in parameters)


def _at_stored(parameter: Tensor, rows: SparseRows) -> Tensor:
    shared = parameter.shape[1] == 1 and rows.n_cells != 1  # one value a gene for all cells
    at = rows.indices if shared else _flat(rows)
    return parameter.flatten(1).index_select(1, at).to(working_dtype(parameter.device))


def _overwrite(dense: Tensor, rows: SparseRows, stored: Tensor | None) -> Tensor:
    assert stored is not None
    flat, at = dense.view(dense.shape[0], -1), _flat(rows)
    stored = torch.where(rows.values == 0, flat.index_select(1, at), stored.to(dense.dtype))  # a stored zero stays one
    flat.scatter_(1, at.expand_as(stored), stored)
    return dense


def _flat(rows: SparseRows) -> Tensor:
    """Return the position of each stored count in the flattened (cells, genes)."""
    return rows.row_of * rows.n_genes + rows.indices
