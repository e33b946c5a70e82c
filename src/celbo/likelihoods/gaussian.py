"""The normal as scvi-tools 1.4 means it: unnormalised x around `mean = library * share`, an own scale for each gene.

p(x) = exp(-((x - mean) / sd)^2 / 2) / (sd sqrt(2 pi)),  sd = exp(log_theta)
"""

from __future__ import annotations

import torch
from torch import Tensor

from celbo.data.minibatch import SparseRows
from celbo.likelihoods.base import CountParameters, Likelihood
from celbo.likelihoods.sparse import EntryTerms, Terms, entries_log_prob
from celbo.likelihoods.special import HALF_LOG_2PI

__all__ = ["Normal"]


class Normal(Likelihood):
    """Normal with mean `exp(log_mean)` and standard deviation `exp(log_theta)`; x may be any real."""

    name = "normal"
    has_dispersion = True
    counts_only = False
    comparable = False

    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        """Log-density of each entry in nats; x is (cells, genes), the result (samples, cells, genes)."""
        return self.log_prob_sparse(p, SparseRows.from_dense(x))

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Log-density of each entry in nats, (samples, cells, genes); the values are never made dense."""
        return entries_log_prob(_TERMS, rows, p.log_mean, p.log_theta_entries)

    def mean(self, p: CountParameters) -> Tensor:
        """`library * share`, (samples, cells, genes)."""
        return p.log_mean.exp()

    def variance(self, p: CountParameters) -> Tensor:
        """`sd^2`, (samples, cells, genes)."""
        return (2 * p.log_theta_entries).exp().expand_as(p.log_mean)

    @torch.no_grad()
    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each entry, (samples, cells, genes)."""
        mean = self.mean(p)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + p.log_theta_entries.exp() * noise


def _zero(log_mu: Tensor, log_sd: Tensor, dropout: None, wanted: bool) -> Terms:
    square = (log_mu.exp() * (-log_sd).exp()).square()
    return -0.5 * square - log_sd - HALF_LOG_2PI, ((-square, square - 1, None) if wanted else ())


def _stored(x: Tensor, log_mu: Tensor, log_sd: Tensor, dropout: None, wanted: bool) -> Terms:
    mean, precision = log_mu.exp(), (-log_sd).exp()
    z = (x - mean) * precision
    value = -0.5 * z.square() - log_sd - HALF_LOG_2PI
    return value, ((z * precision * mean, z.square() - 1, None) if wanted else ())


_TERMS = EntryTerms(_zero, _stored)
