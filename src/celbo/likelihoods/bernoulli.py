"""The Bernoulli of whether a gene was seen: `P(x > 0) = sigmoid(a)` with log-odds `a = log_mean`.

    log p(x > 0) = -log(1 + e^-a),  log p(0) = -log(1 + e^a)

With `link="exp"` and `log_scale` zero, `a` is the decoder's raw output, as in scVAE (Groenbech et al. 2020,
doi:10.1093/bioinformatics/btaa293), which makes the counts binary for this likelihood alone. Given counts of any size
this one does so itself.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from celbo.data.minibatch import SparseRows
from celbo.likelihoods.base import CountParameters, Likelihood
from celbo.likelihoods.sparse import EntryTerms, Terms, entries_log_prob

__all__ = ["Bernoulli"]


class Bernoulli(Likelihood):
    """Bernoulli of `x > 0` with log-odds `log_mean`; mean, variance and draws are those of the indicator, not of x."""

    name = "bernoulli"
    comparable = False

    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        """Log-probability of `x > 0` or `x = 0` in nats; x is (cells, genes), the result (samples, cells, genes)."""
        return self.log_prob_sparse(p, SparseRows.from_dense(x))

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Log-probability of each indicator in nats, (samples, cells, genes); the counts are never made dense."""
        return entries_log_prob(_TERMS, rows, p.log_mean)

    def mean(self, p: CountParameters) -> Tensor:
        """`P(x > 0) = sigmoid(a)`, the expected share of cells in which the gene is seen; (samples, cells, genes)."""
        return p.log_mean.sigmoid()

    def variance(self, p: CountParameters) -> Tensor:
        """`sigmoid(a) sigmoid(-a)`, (samples, cells, genes)."""
        return p.log_mean.sigmoid() * (-p.log_mean).sigmoid()

    @torch.no_grad()
    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each indicator, 0 or 1; (samples, cells, genes)."""
        return torch.bernoulli(p.log_mean.sigmoid(), generator=generator)


def _zero(a: Tensor, log_theta: None, dropout: None, wanted: bool) -> Terms:
    return logsigmoid(-a), ((-a.sigmoid(), None, None) if wanted else ())


def _stored(x: Tensor, a: Tensor, log_theta: None, dropout: None, wanted: bool) -> Terms:
    # a value that is not a number stays one: training must see it
    return logsigmoid(a) + 0 * x, (((-a).sigmoid(), None, None) if wanted else ())


_TERMS = EntryTerms(_zero, _stored)
