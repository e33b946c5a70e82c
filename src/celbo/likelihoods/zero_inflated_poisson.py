"""The zero-inflated Poisson (Lambert 1992): with probability `pi = sigmoid(d)` zero, otherwise a Poisson draw.

    p(0) = pi + (1 - pi) exp(-mu),  p(x > 0) = (1 - pi) mu^x exp(-mu) / x!
    E[x] = (1 - pi) mu,  Var[x] = (1 - pi) mu (1 + pi mu)

Computed as the zero-inflated negative binomial is, with `A = mu`. On the CPU it is that one's kernel with
theta = e^40: what is neglected, mu^2 / (2 theta), is below 1e-4 nat up to a mean of 6 million.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from celbo.data.minibatch import SparseRows
from celbo.likelihoods.base import CountParameters, Likelihood
from celbo.likelihoods.poisson import POISSON_TERMS, poisson_draw
from celbo.likelihoods.sparse import entries_log_prob
from celbo.likelihoods.zero_inflated import ZeroInflatedNegativeBinomial, dropout_of, inflated

__all__ = ["ZeroInflatedPoisson"]

_POISSON_LIMIT = 40.0  # log theta; far above it the terms in mu / theta are subnormal numbers, which are slow


class ZeroInflatedPoisson(Likelihood):
    """Poisson with mean mu and additional zeros; see the module for the formulas."""

    name = "zip"
    has_dropout = True

    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        """Log-probability of each entry in nats; x is (cells, genes), the result (samples, cells, genes)."""
        return self.log_prob_sparse(p, SparseRows.from_dense(x))

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Log-probability of each entry in nats, (samples, cells, genes); the counts are never made dense."""
        return entries_log_prob(_TERMS, rows, p.log_mean, None, p.dropout_logits)

    def _log_prob_fused(self, p: CountParameters, rows: SparseRows) -> Tensor:
        theta = p.logits.new_full((1, rows.n_genes), _POISSON_LIMIT)
        limit = replace(p, log_theta=theta, theta_row=None)
        return ZeroInflatedNegativeBinomial().log_prob(limit, rows, route="fused")

    def mean(self, p: CountParameters) -> Tensor:
        """`(1 - pi) mu`, (samples, cells, genes)."""
        return (p.log_mean + logsigmoid(-dropout_of(p))).exp()

    def mean_without_inflation(self, p: CountParameters) -> Tensor:
        """`mu`, (samples, cells, genes)."""
        return p.log_mean.exp()

    def variance(self, p: CountParameters) -> Tensor:
        """`(1 - pi) mu (1 + pi mu)`, (samples, cells, genes)."""
        return self.mean(p) * (1 + (p.log_mean + logsigmoid(dropout_of(p))).exp())

    @torch.no_grad()
    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each entry: a Poisson's, or zero with probability pi; (samples, cells, genes)."""
        counts = poisson_draw(p.log_mean.exp(), generator)
        dropped = torch.bernoulli(dropout_of(p).sigmoid().expand_as(counts), generator=generator).bool()
        return counts.masked_fill(dropped, 0)


_TERMS = inflated(POISSON_TERMS)
