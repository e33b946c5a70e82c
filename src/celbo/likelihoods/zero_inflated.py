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

__all__ = ["ZeroInflatedNegativeBinomial"]


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
        return (p.log_mean + logsigmoid(-_dropout(p))).exp()

    def variance(self, p: CountParameters) -> Tensor:
        """`(1 - pi) mu (1 + mu / theta + pi mu)`, (samples, cells, genes)."""
        per_mean = 1 + (p.log_mean - p.log_theta_entries).exp() + (p.log_mean + logsigmoid(_dropout(p))).exp()
        return self.mean(p) * per_mean

    @torch.no_grad()
    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each entry: a negative binomial's, or zero with probability pi; (samples, cells, genes)."""
        counts = nb.gamma_poisson_draw(p, generator)
        dropped = torch.bernoulli(_dropout(p).sigmoid().expand_as(counts), generator=generator).bool()
        return counts.masked_fill(dropped, 0)


def _dropout(p: CountParameters) -> Tensor:
    assert p.dropout_logits is not None
    return p.dropout_logits


def _zero(log_mu: Tensor, log_theta: Tensor, d: Tensor, wanted: bool) -> Terms:
    log_nb, nb_gradients = nb.zero(log_mu, log_theta, wanted=wanted)
    value = torch.logaddexp(d.clamp(max=0), log_nb - d.clamp(min=0)) - torch.log1p((-d.abs()).exp())
    if not wanted:
        return value, ()
    drawn = (log_nb - d).sigmoid()
    by_dropout = (d - log_nb).sigmoid() * (-d).sigmoid() * -torch.expm1(log_nb)
    return value, (*(drawn * g for g in nb_gradients[:2] if g is not None), by_dropout)


def _stored(x: Tensor, log_mu: Tensor, log_theta: Tensor, d: Tensor, wanted: bool) -> Terms:
    log_nb, nb_gradients = nb.stored(x, log_mu, log_theta, wanted=wanted)
    return logsigmoid(-d) + log_nb, ((*nb_gradients[:2], -d.sigmoid()) if wanted else ())


_TERMS = EntryTerms(_zero, _stored)
