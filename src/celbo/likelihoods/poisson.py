"""The Poisson, `p(x) = mu^x exp(-mu) / x!`, mean and variance mu.

A count's log-probability in Loader's (2000) saddle-point form, with `E(u) = u - log(1 + u)`:

    log p(x>0) = -x E((mu - x)/x) - stirling_error(x) - log(2 pi x)/2
"""

from __future__ import annotations

import torch
from torch import Tensor

from celbo.data.minibatch import SparseRows
from celbo.likelihoods.base import CountParameters, Likelihood
from celbo.likelihoods.sparse import EntryTerms, Terms, entries_log_prob
from celbo.likelihoods.special import HALF_LOG_2PI, log1p_excess, stirling_error

__all__ = ["POISSON_TERMS", "Poisson", "poisson_draw"]

_NORMAL_ABOVE = (
    2.0**30
)  # a Poisson of this rate is a normal to 3e-5, and torch's generators count in int32 on some devices


class Poisson(Likelihood):
    """Poisson with mean mu."""

    name = "poisson"

    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        """Log-probability of each entry in nats; x is (cells, genes), the result (samples, cells, genes)."""
        return self.log_prob_sparse(p, SparseRows.from_dense(x))

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Log-probability of each entry in nats, (samples, cells, genes); the counts are never made dense."""
        return entries_log_prob(POISSON_TERMS, rows, p.log_mean)

    def mean(self, p: CountParameters) -> Tensor:
        """`mu`, (samples, cells, genes)."""
        return p.log_mean.exp()

    def variance(self, p: CountParameters) -> Tensor:
        """`mu`, (samples, cells, genes)."""
        return p.log_mean.exp()

    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each entry, (samples, cells, genes)."""
        return poisson_draw(p.log_mean.detach().exp(), generator)


@torch.no_grad()
def poisson_draw(rate: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return one Poisson draw for each rate, of its shape and dtype; rates beyond 2^30 by their normal limit."""
    counts = torch.poisson(rate.clamp(max=_NORMAL_ABOVE), generator=generator)
    huge = rate > _NORMAL_ABOVE
    if not bool(huge.any()):
        return counts
    noise = torch.randn(rate.shape, generator=generator, dtype=rate.dtype, device=rate.device)
    return torch.where(huge, (rate + rate.sqrt() * noise).round(), counts)


def _zero(log_mu: Tensor, log_theta: None, dropout: None, wanted: bool) -> Terms:
    value = -log_mu.exp()
    return value, ((value.clone(), None, None) if wanted else ())


def _stored(x: Tensor, log_mu: Tensor, log_theta: None, dropout: None, wanted: bool) -> Terms:
    g, log_x = x - log_mu.exp(), x.log()
    value = -x * log1p_excess(-g / x, log_mu - log_x) - stirling_error(x) - HALF_LOG_2PI - 0.5 * log_x
    return value, ((g, None, None) if wanted else ())


POISSON_TERMS = EntryTerms(_zero, _stored)
