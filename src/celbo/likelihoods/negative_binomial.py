"""The negative binomial, `x ~ Poisson(w), w ~ Gamma(shape theta, mean mu)`.

    p(x) = Gamma(x + theta) / (Gamma(theta) x!) * (theta / (theta + mu))^theta * (mu / (theta + mu))^x
    E[x] = mu,  Var[x] = mu + mu^2 / theta

How it is computed, without epsilon and without cancellation, with `u = (x - mu)/(theta + mu)`, `E(u) = u - log(1 + u)`,
`g = theta u` and Stirling's errors d (Loader 2000):

    log p(0)   = -theta log(1 + mu/theta)
    log p(x>0) = -theta E(u) - x E(-g/x) - d(x) - d(theta) + d(x + theta) - log(2 pi x (1 + x/theta)) / 2
    d log p / d log mu    = g
    d log p / d log theta = x / (2 (x + theta)) + theta (e(theta) - e(x + theta)) - theta E(u)

with `e(z) = log z - 1/(2 z) - digamma(z)`. The last line holds where theta is far above mu, where the textbook's
digammas cancel to nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from celbo.data.minibatch import SparseRows
from celbo.likelihoods.base import CountParameters, Likelihood
from celbo.likelihoods.poisson import poisson_draw
from celbo.likelihoods.sparse import EntryTerms, Terms, entries_log_prob
from celbo.likelihoods.special import HALF_LOG_2PI, digamma_error, log1p_excess, stirling_error

__all__ = ["NB_TERMS", "NegativeBinomial", "gamma_poisson_draw"]


class NegativeBinomial(Likelihood):
    """Negative binomial with mean mu and inverse dispersion theta; see the module for the formulas."""

    name = "nb"
    has_dispersion = True

    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        """Log-probability of each entry in nats; x is (cells, genes), the result (samples, cells, genes)."""
        return self.log_prob_sparse(p, SparseRows.from_dense(x))

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Log-probability of each entry in nats, (samples, cells, genes); the counts are never made dense."""
        return entries_log_prob(NB_TERMS, rows, p.log_mean, p.log_theta_entries)

    def mean(self, p: CountParameters) -> Tensor:
        """`mu`, (samples, cells, genes)."""
        return p.log_mean.exp()

    def variance(self, p: CountParameters) -> Tensor:
        """`mu + mu^2 / theta`, (samples, cells, genes)."""
        return p.log_mean.exp() + (2 * p.log_mean - p.log_theta_entries).exp()

    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each entry by its Gamma-Poisson mixture, (samples, cells, genes)."""
        return gamma_poisson_draw(p, generator)


@torch.no_grad()
def gamma_poisson_draw(p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
    """Return one draw of `Poisson(w), w ~ Gamma(shape theta, mean mu)` for each entry, (samples, cells, genes)."""
    log_theta = p.log_theta_entries.expand_as(p.log_mean)
    gamma = torch._standard_gamma(log_theta.exp(), generator=generator)
    return poisson_draw(gamma * (p.log_mean - log_theta).exp(), generator)


def _in_range(log_theta: Tensor) -> Tensor:
    """Return log theta within e^+-80, where float32 ends; beyond, the distribution is its limit to the last digit."""
    return log_theta.clamp(-80, 80)


def zero(log_mu: Tensor, log_theta: Tensor, dropout: None = None, wanted: bool = True) -> Terms:
    """Log-probability of a zero and, if wanted, its derivatives: `-1 / (1/mu + 1/theta)` and `-theta E(u)`."""
    log_theta = _in_range(log_theta)
    theta, log_ratio = log_theta.exp(), log_mu - log_theta
    ratio = log_mu.exp().div_(theta)  # not exp(log_ratio): that would lose digits where the ratio is far from one
    log1p_ratio = torch.where(log_ratio > 40, log_ratio, torch.log1p(ratio))  # there they agree to the last digit
    value = -theta * log1p_ratio
    if not wanted:
        return value, ()
    by_log_mu = (-log_mu).exp_().add_((-log_theta).exp()).reciprocal_().neg_()
    return value, (by_log_mu, log1p_excess(by_log_mu / theta, log1p_ratio.neg_()).mul_(-theta), None)


def stored(x: Tensor, log_mu: Tensor, log_theta: Tensor, dropout: None = None, wanted: bool = True) -> Terms:
    """Log-probability of a count x > 0 and, if wanted, its derivatives (see the module for the formulas)."""
    log_theta = _in_range(log_theta)
    mu, theta, log_x = log_mu.exp(), log_theta.exp(), x.log()
    total = x + theta
    u = (x - mu) / (theta + mu)
    log1p_u = torch.where(u.abs() < 0.5, torch.log1p(u), total.log() - torch.logaddexp(log_mu, log_theta))
    u = u.nan_to_num(-1)  # mu beyond the range of exp
    g, excess = theta * u, theta * log1p_excess(u, log1p_u)
    deviance = excess + x * log1p_excess(-g / x, log_mu + log1p_u - log_x)
    errors = stirling_error(x) + stirling_error(theta) - stirling_error(total)
    value = -deviance - errors - HALF_LOG_2PI - 0.5 * (log_x + torch.log1p(x / theta))
    if not wanted:
        return value, ()
    by_log_theta = x / (2 * total) + theta * (digamma_error(theta) - digamma_error(total)) - excess
    return value, (g, by_log_theta, None)


NB_TERMS = EntryTerms(zero, stored)
