"""The log-normal, `log y ~ N(m, sd^2)` with `m = log_mean` (the log of the median) and `sd = exp(log_theta)`.

    density       p(y) = exp(-((log y - m) / sd)^2 / 2) / (y sd sqrt(2 pi)),   y > 0
    E[y] = exp(m + sd^2 / 2),   Var[y] = (exp(sd^2) - 1) E[y]^2
    of a count    P(k) = F((log(k + 1/2) - m) / sd) - F((log(k - 1/2) - m) / sd),   F(-infinity) = 0 for k = 0

scVAE (Groenbech et al. 2020, doi:10.1093/bioinformatics/btaa293) evaluates the density at the counts. A log-normal has
none at zero: its logarithm is minus infinity there (not a number in scVAE), so that no data set with a zero in it can
be trained on or scored. The default is therefore the probability of what rounds to the count
(`celbo.likelihoods.interval`); the density stays, by name.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from celbo.data.minibatch import SparseRows
from celbo.likelihoods.base import CountParameters, Likelihood
from celbo.likelihoods.interval import normal_interval
from celbo.likelihoods.rounded import rounded_moments
from celbo.likelihoods.sparse import EntryTerms, Terms, entries_log_prob
from celbo.likelihoods.special import HALF_LOG_2PI

__all__ = ["LogNormal", "LogNormalDensity"]

_LOG_HALF, _ROOT_HALF = -math.log(2), math.sqrt(0.5)


class LogNormal(Likelihood):
    """A log-normal rounded to the nearest count; a probability of counts. See the module for the formulas."""

    name = "lognormal"
    has_dispersion = True

    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        """Log-probability of each entry in nats; x is (cells, genes), the result (samples, cells, genes)."""
        return self.log_prob_sparse(p, SparseRows.from_dense(x))

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Log-probability of each entry in nats, (samples, cells, genes); the counts are never made dense."""
        return entries_log_prob(_INTERVAL, rows, p.log_mean, p.log_theta_entries)

    def mean(self, p: CountParameters) -> Tensor:
        """Mean of the rounded variable (`celbo.likelihoods.rounded`), (samples, cells, genes)."""
        return _rounded(p)[0].to(p.logits.dtype)

    def variance(self, p: CountParameters) -> Tensor:
        """Variance of the rounded variable (`celbo.likelihoods.rounded`), (samples, cells, genes)."""
        return _rounded(p)[1].to(p.logits.dtype)

    @torch.no_grad()
    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each entry, rounded; (samples, cells, genes)."""
        return (_draw(p, generator) + 0.5).floor()


class LogNormalDensity(Likelihood):
    """The density of a log-normal at the counts, as scVAE has it: minus infinity wherever a count is zero."""

    name = "lognormal-density"
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
        """`exp(m + sd^2 / 2)`, (samples, cells, genes)."""
        return (p.log_mean + 0.5 * (2 * p.log_theta_entries).exp()).exp()

    def variance(self, p: CountParameters) -> Tensor:
        """`(exp(sd^2) - 1) E[y]^2`, (samples, cells, genes)."""
        return torch.expm1((2 * p.log_theta_entries).exp()) * self.mean(p).square()

    @torch.no_grad()
    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each entry, (samples, cells, genes)."""
        return _draw(p, generator)


def _draw(p: CountParameters, generator: torch.Generator | None) -> Tensor:
    """Return one draw of each entry; the largest number there is for what is beyond it."""
    m = p.log_mean
    noise = torch.randn(m.shape, generator=generator, dtype=m.dtype, device=m.device)
    return (m + p.log_theta_entries.exp() * noise).exp().clamp(max=torch.finfo(m.dtype).max)


def _rounded(p: CountParameters) -> tuple[Tensor, Tensor]:
    m, sd = p.log_mean.double(), p.log_theta_entries.double().exp()

    def log_survival(y: float, power: int = 0) -> Tensor:
        out: Tensor = torch.special.log_ndtr((m - math.log(y)) / sd + power * sd)
        return out

    def density(y: float) -> Tensor:
        return (-0.5 * ((math.log(y) - m) / sd).square() - HALF_LOG_2PI).exp() / (y * sd)

    def beyond(y: float) -> tuple[Tensor, ...]:
        """`E[(Y - y)+]` and `E[(Y^2 - y^2)+]`, as in the formula of Black and Scholes."""
        log_moment = (power * m + 0.5 * (power * sd).square() + log_survival(y, power) for power in (1, 2))
        return tuple(t.exp() - y**power * log_survival(y).exp() for power, t in enumerate(log_moment, start=1))

    return rounded_moments(lambda y: log_survival(y).exp(), density, beyond)


def _zero(m: Tensor, log_sd: Tensor, dropout: None, wanted: bool) -> Terms:
    precision = (-log_sd).exp()
    end = (_LOG_HALF - m) * precision
    # log F as `log_ndtr` has it, from the one erfcx that the derivative needs too
    scaled, outside = torch.special.erfcx(end * -_ROOT_HALF), torch.erfc(end * _ROOT_HALF)
    value = torch.where(end < -1, (0.5 * scaled).log() - 0.5 * end.square(), torch.log1p(-0.5 * outside))
    if not wanted:
        return value, ()
    ratio = math.sqrt(2 / math.pi) / scaled  # phi(end) / F(end)
    return value, (-ratio * precision, -ratio * end, None)


def _stored(x: Tensor, m: Tensor, log_sd: Tensor, dropout: None, wanted: bool) -> Terms:
    precision, below = (-log_sd).exp(), x - 0.5
    lower, width = (below.log() - m) * precision, (1 / below).log1p() * precision
    value, by_lower, by_width = normal_interval(lower, width)
    return value, ((-by_lower * precision, -by_lower * lower - by_width * width, None) if wanted else ())


def _zero_density(m: Tensor, log_sd: Tensor, dropout: None, wanted: bool) -> Terms:
    value = 0 * (m + log_sd) - torch.inf
    return value, ((torch.zeros_like(value), torch.zeros_like(value), None) if wanted else ())


def _stored_density(x: Tensor, m: Tensor, log_sd: Tensor, dropout: None, wanted: bool) -> Terms:
    precision, log_x = (-log_sd).exp(), x.log()
    z = (log_x - m) * precision
    value = -0.5 * z.square() - log_x - log_sd - HALF_LOG_2PI
    return value, ((z * precision, z.square() - 1, None) if wanted else ())


_INTERVAL, _DENSITY = EntryTerms(_zero, _stored), EntryTerms(_zero_density, _stored_density)
