"""The Lomax (Pareto of the second kind) with scale `s = exp(log_mean)` and concentration `a = exp(log_theta)`.

    density       p(y) = (a / s) (1 + y / s)^-(a + 1),   y >= 0
    E[y] = s / (a - 1) for a > 1,   Var[y] = s^2 a / ((a - 1)^2 (a - 2)) for a > 2, infinite below
    of a count    P(k) = S(k - 1/2) - S(k + 1/2),   S(y) = (1 + y / s)^-a,   S = 1 below zero

scVAE (Groenbech et al. 2020, doi:10.1093/bioinformatics/btaa293) evaluates the density at the counts: finite, but no
probability of them. The default is the probability of what rounds to the count (`celbo.likelihoods.interval`); the
density stays, by name.

How the interval is computed: with `t = a log(1 + 1 / (s + k - 1/2))`, `log P(k) = -a log(1 + (k - 1/2) / s) +
log(1 - e^-t)`; for k = 0 the first term is zero and `t = a log(1 + 1 / (2 s))`. Its derivatives have the factor
`t / (e^t - 1)`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from celbo.data.minibatch import SparseRows
from celbo.likelihoods.base import CountParameters, Likelihood
from celbo.likelihoods.rounded import rounded_moments
from celbo.likelihoods.sparse import EntryTerms, Terms, entries_log_prob
from celbo.likelihoods.special import log_softplus

__all__ = ["Lomax", "LomaxDensity"]

_TINY = 1e-3  # two terms of a series in t are exact to 1e-13 below it
_LOG_2 = math.log(2)


class Lomax(Likelihood):
    """A Lomax rounded to the nearest count; a probability of counts. See the module for the formulas."""

    name = "lomax"
    has_dispersion = True

    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        """Log-probability of each entry in nats; x is (cells, genes), the result (samples, cells, genes)."""
        return self.log_prob_sparse(p, SparseRows.from_dense(x))

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Log-probability of each entry in nats, (samples, cells, genes); the counts are never made dense."""
        return entries_log_prob(_INTERVAL, rows, p.log_mean, p.log_theta_entries)

    def mean(self, p: CountParameters) -> Tensor:
        """Mean of the rounded variable, infinite for a <= 1 (`celbo.likelihoods.rounded`); (samples, cells, genes)."""
        return _rounded(p)[0].to(p.logits.dtype)

    def variance(self, p: CountParameters) -> Tensor:
        """Variance of the rounded variable, infinite for a <= 2; (samples, cells, genes)."""
        return _rounded(p)[1].to(p.logits.dtype)

    @torch.no_grad()
    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each entry, rounded; (samples, cells, genes)."""
        return (_draw(p, generator) + 0.5).floor()


class LomaxDensity(Likelihood):
    """The density of a Lomax at the counts, as scVAE has it."""

    name = "lomax-density"
    has_dispersion = True
    counts_only = False
    comparable = False

    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        """Log-density of each entry in nats; x is (cells, genes), the result (samples, cells, genes)."""
        return self.log_prob_sparse(p, SparseRows.from_dense(x))

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Log-density of each entry in nats, (samples, cells, genes); the values are never made dense."""
        return entries_log_prob(_DENSITY, rows, p.log_mean, p.log_theta_entries)

    def mean(self, p: CountParameters) -> Tensor:
        """`s / (a - 1)`, infinite for a <= 1 (scVAE: not a number); (samples, cells, genes)."""
        above_one = torch.expm1(p.log_theta_entries)
        return torch.where(above_one > 0, p.log_mean.exp() / above_one, torch.inf)

    def variance(self, p: CountParameters) -> Tensor:
        """`s^2 a / ((a - 1)^2 (a - 2))`, infinite for a <= 2; (samples, cells, genes)."""
        a = p.log_theta_entries.exp()
        return torch.where(a > 2, (p.log_mean.exp() / (a - 1)).square() * (a / (a - 2)), torch.inf)

    @torch.no_grad()
    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each entry, (samples, cells, genes)."""
        return _draw(p, generator)


def _draw(p: CountParameters, generator: torch.Generator | None) -> Tensor:
    """Return one draw of each entry by the inverse of S; the largest number there is for what is beyond it."""
    exponential = torch.empty_like(p.log_mean).exponential_(generator=generator)
    draws = p.log_mean.exp() * torch.expm1(exponential * (-p.log_theta_entries).exp())
    return draws.clamp(max=torch.finfo(draws.dtype).max)


def _rounded(p: CountParameters) -> tuple[Tensor, Tensor]:
    log_s, log_a = p.log_mean.double(), p.log_theta_entries.double()
    s, a = log_s.exp(), log_a.exp()

    def log1p_ratio(y: float) -> Tensor:
        return softplus(math.log(y) - log_s, threshold=40)

    def beyond(y: float) -> tuple[Tensor, ...]:
        log_u = log1p_ratio(y)
        first = s * ((1 - a) * log_u).exp() / (a - 1)
        second = 2 * s * first * ((a - 1) * y / s + 1) / (a - 2)
        return torch.where(a > 1, first, torch.inf), torch.where(a > 2, second, torch.inf)

    return rounded_moments(
        lambda y: (-a * log1p_ratio(y)).exp(), lambda y: (log_a - log_s - (a + 1) * log1p_ratio(y)).exp(), beyond
    )


def _fraction(log_t: Tensor) -> tuple[Tensor, Tensor]:
    """Return `log(1 - e^-t)` and `t / (e^t - 1)`, given log t."""
    t = log_t.exp()
    tiny, some = t < _TINY, t.clamp(_TINY, 80)
    log_fraction = torch.where(t < _LOG_2, (-torch.expm1(-some)).log(), torch.log1p(-(-t).exp()))
    value = torch.where(tiny, log_t - t / 2 + t * t / 24, log_fraction)
    return value, torch.where(tiny, 1 - t / 2 + t * t / 12, some / torch.expm1(some))


def _zero(log_s: Tensor, log_a: Tensor, dropout: None, wanted: bool) -> Terms:
    from_half = -_LOG_2 - log_s
    log_of_log = log_softplus(from_half)  # log log(1 + 1 / (2 s))
    value, factor = _fraction(log_a + log_of_log)
    if not wanted:
        return value, ()
    # d log log(1 + e^u) / du = sigmoid(u) / log(1 + e^u)
    return value, (-factor * (torch.nn.functional.logsigmoid(from_half) - log_of_log).exp(), factor, None)


def _stored(x: Tensor, log_s: Tensor, log_a: Tensor, dropout: None, wanted: bool) -> Terms:
    s, a, below = log_s.exp(), log_a.exp(), x - 0.5
    start, width = softplus(below.log() - log_s, threshold=40), (1 / (s + below)).log1p()
    log_fraction, factor = _fraction(log_a + width.log())
    value = log_fraction - a * start
    if not wanted:
        return value, ()
    total = s + below
    by_log_s = a * below / total - factor / width * (s / total) / (total + 1)
    return value, (by_log_s, factor - a * start, None)


def _zero_density(log_s: Tensor, log_a: Tensor, dropout: None, wanted: bool) -> Terms:
    value = log_a - log_s
    return value, ((-torch.ones_like(value), torch.ones_like(value), None) if wanted else ())


def _stored_density(x: Tensor, log_s: Tensor, log_a: Tensor, dropout: None, wanted: bool) -> Terms:
    a, s, start = log_a.exp(), log_s.exp(), softplus(x.log() - log_s, threshold=40)
    value = log_a - log_s - (a + 1) * start
    return value, (((a + 1) * x / (s + x) - 1, 1 - a * start, None) if wanted else ())


_INTERVAL, _DENSITY = EntryTerms(_zero, _stored), EntryTerms(_zero_density, _stored_density)
