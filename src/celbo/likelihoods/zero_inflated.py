"""The zero-inflated negative binomial: with probability `pi = sigmoid(d)` zero, otherwise a draw of NB(mu, theta).

    E[x] = (1 - pi) mu,  Var[x] = (1 - pi) mu (1 + mu / theta + pi mu)

With `A = -log NB(0) = theta log(1 + mu/theta)`, nothing is multiplied by a mask and nothing cancels:

    log p(0)   = log(e^min(d, 0) + e^(-A - max(d, 0))) - log(1 + e^-|d|)
    log p(x>0) = log sigmoid(-d) + log NB(x)
    d log p(0) / d d = sigmoid(A + d) - sigmoid(d) = sigmoid(A + d) sigmoid(-d) (1 - e^-A)

and a zero's gradient by mu and theta is the negative binomial's times `sigmoid(-A - d)`, the probability that it was
drawn and not dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from celbo.data.minibatch import SparseRows
from celbo.likelihoods import negative_binomial as nb
from celbo.likelihoods.base import CountParameters, Likelihood
from celbo.likelihoods.sparse import EntryTerms, Terms, entries_log_prob

__all__ = ["ZeroInflatedNegativeBinomial", "dropout_of", "inflated"]


class ZeroInflatedNegativeBinomial(Likelihood):
    """Negative binomial with additional zeros; see the module for the formulas."""

    name = "zinb"
    has_dispersion = True
    has_dropout = True

    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        """Log-probability of each entry in nats; x is (cells, genes), the result (samples, cells, genes)."""
        return self.log_prob_sparse(p, SparseRows.from_dense(x))

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Log-probability of each entry in nats, (samples, cells, genes); the counts are never made dense."""
        return entries_log_prob(_TERMS, rows, p.log_mean, p.log_theta_entries, p.dropout_logits)

    def mean(self, p: CountParameters) -> Tensor:
        """`(1 - pi) mu`, (samples, cells, genes)."""
        return (p.log_mean + logsigmoid(-dropout_of(p))).exp()

    def mean_without_inflation(self, p: CountParameters) -> Tensor:
        """`mu`, (samples, cells, genes)."""
        return p.log_mean.exp()

    def variance(self, p: CountParameters) -> Tensor:
        """`(1 - pi) mu (1 + mu / theta + pi mu)`, (samples, cells, genes)."""
        per_mean = 1 + (p.log_mean - p.log_theta_entries).exp() + (p.log_mean + logsigmoid(dropout_of(p))).exp()
        return self.mean(p) * per_mean

    @torch.no_grad()
    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each entry: a negative binomial's, or zero with probability pi; (samples, cells, genes)."""
        counts = nb.gamma_poisson_draw(p, generator)
        dropped = torch.bernoulli(dropout_of(p).sigmoid().expand_as(counts), generator=generator).bool()
        return counts.masked_fill(dropped, 0)


def dropout_of(p: CountParameters) -> Tensor:
    """Return the logit of the zero-inflation probability, which must be there."""
    assert p.dropout_logits is not None
    return p.dropout_logits


def inflated(base: EntryTerms) -> EntryTerms:
    """Return the terms of a distribution of counts with additional zeros."""

    def zero(log_mu: Tensor, log_theta: Tensor | None, d: Tensor, wanted: bool) -> Terms:
        log_drawn, gradients = base.zero(log_mu, log_theta, None, wanted)
        value = torch.logaddexp(d.clamp(max=0), log_drawn - d.clamp(min=0)) - torch.log1p((-d.abs()).exp())
        if not wanted:
            return value, ()
        drawn = (log_drawn - d).sigmoid()
        by_dropout = (d - log_drawn).sigmoid() * (-d).sigmoid() * -torch.expm1(log_drawn)
        return value, (*(None if g is None else drawn * g for g in gradients[:2]), by_dropout)

    def stored(x: Tensor, log_mu: Tensor, log_theta: Tensor | None, d: Tensor, wanted: bool) -> Terms:
        log_drawn, gradients = base.stored(x, log_mu, log_theta, None, wanted)
        return logsigmoid(-d) + log_drawn, ((*gradients[:2], -d.sigmoid()) if wanted else ())

    return EntryTerms(zero, stored)


_TERMS = inflated(nb.NB_TERMS)
