"""A Gaussian of transformed counts: y = log(1 + x / s), or y = x, with y ~ Normal(mean, sd) for each gene.

s is what the counts of a cell are divided by, such as the total of the cell over the median total. Two questions have
two answers, each a likelihood:

`TransformedNormal`   log p(y), the density of the transformed values. It is what a network is trained with. A density
                      of y is no probability of x: it stands beside others of the same y only.
`RoundedNormal`       log P(x), the probability of all values that round to the count (`celbo.likelihoods.interval`).
                      It stands beside any likelihood of counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from celbo.data.minibatch import SparseRows
from celbo.likelihoods.base import CountParameters, Likelihood, Route
from celbo.likelihoods.interval import interval_log_prob
from celbo.likelihoods.special import HALF_LOG_2PI

__all__ = ["RoundedNormal", "TransformedNormal", "TransformedParameters"]


@dataclass(frozen=True)
class TransformedParameters(CountParameters):
    """`logits` is the mean of y, `log_theta` the log of its standard deviation, `log_scale` the log total of the cell.

    What count likelihoods read from the link is made from the expected counts here: `log_mean` is their logarithm and
    `log_share` that of their shares, so that expression is asked of both kinds alike.
    """

    log_unit: Tensor | None = None
    """Log of s; (1, cells). None: the counts themselves are normal, y = x."""
    spread: bool = True
    """Whether the expected counts are those of the whole distribution: False takes those at the mean of y, for an sd
    that was set and says nothing of the data."""

    @cached_property
    def expected(self) -> Tensor:
        """Expected counts, floored at zero, (samples, cells, genes): `s (exp(mean + sd^2 / 2) - 1)`, or the mean."""
        if self.log_unit is None:
            return self.logits.clamp_min(0)
        half_variance = 0.5 * (2 * self.log_theta_entries).exp() if self.spread else 0.0
        return (self.logits + half_variance).expm1().clamp_min(0) * self.log_unit.exp().unsqueeze(-1)

    @cached_property
    def log_mean(self) -> Tensor:
        """Log of the expected counts, (samples, cells, genes)."""
        return self.expected.log()

    @cached_property
    def log_share(self) -> Tensor:
        """Log of the shares of the expected counts, (samples, cells, genes)."""
        return self.log_mean - self.expected.sum(-1, keepdim=True).log()

    def map(self, change: Callable[[Tensor], Tensor]) -> TransformedParameters:
        """Return the parameters with `change` applied to each floating tensor."""

        def changed(value: Tensor | None) -> Tensor | None:
            return None if value is None else change(value)

        return TransformedParameters(
            change(self.logits),
            change(self.log_scale),
            changed(self.log_theta),
            self.theta_row,
            log_unit=changed(self.log_unit),
            spread=self.spread,
        )


class TransformedNormal(Likelihood):
    """Density of y; takes `TransformedParameters`."""

    name = "transformed-normal"
    has_dispersion = True
    counts_only = False
    comparable = False

    def log_prob_entries(self, p: CountParameters, x: Tensor) -> Tensor:
        """Log-density of each entry's y in nats; x are the counts (cells, genes), the result (samples, cells, genes)"""
        return self.log_prob_sparse(p, SparseRows.from_dense(x))

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Log-density of each entry's y in nats, (samples, cells, genes)."""
        log_sd = p.log_theta_entries
        standard = (_transformed(p, rows) - p.logits) * (-log_sd).exp()
        return -0.5 * standard.square() - log_sd - HALF_LOG_2PI

    def _log_prob_reference(self, p: CountParameters, rows: SparseRows) -> Tensor:
        y = _transformed(p, SparseRows(rows.indptr, rows.indices, rows.values.double(), rows.n_genes))
        variance = (2 * p.log_theta_entries).exp()
        return (-0.5 * ((y - p.logits).square() / variance + (2 * math.pi * variance).log())).sum(-1)

    def mean(self, p: CountParameters) -> Tensor:
        """Expected counts, floored at zero; (samples, cells, genes)."""
        return _of_y(p).expected

    def variance(self, p: CountParameters) -> Tensor:
        """`s^2 exp(2 mean + sd^2) (exp(sd^2) - 1)`, or the variance of y where y = x; (samples, cells, genes)."""
        of_y, square = _of_y(p), (2 * p.log_theta_entries).exp()
        if of_y.log_unit is None:
            return square.expand_as(p.logits)
        return (2 * (p.logits + of_y.log_unit.unsqueeze(-1)) + square).exp() * square.expm1()

    @torch.no_grad()
    def sample(self, p: CountParameters, generator: torch.Generator | None = None) -> Tensor:
        """One draw of y an entry, as the nearest count; (samples, cells, genes)."""
        unit = _of_y(p).log_unit
        noise = torch.randn(p.logits.shape, generator=generator, dtype=p.logits.dtype, device=p.logits.device)
        y = p.logits + p.log_theta_entries.exp() * noise
        x = y if unit is None else y.expm1() * unit.exp().unsqueeze(-1)
        return (x + 0.5).floor().clamp_min(0)


class RoundedNormal(TransformedNormal):
    """Probability of the counts: of all y whose x rounds to the count; takes `TransformedParameters`."""

    name = "rounded-normal"
    comparable = True

    def log_prob_sparse(self, p: CountParameters, rows: SparseRows) -> Tensor:
        """Log-probability of each entry in nats, (samples, cells, genes), float64."""
        of_y, alone = _of_y(p), (p.logits.shape[0], -1, 1)  # each entry as a cell of one gene
        unit = None if of_y.log_unit is None else of_y.log_unit.repeat_interleave(rows.n_genes, 1)
        entries = TransformedParameters(
            logits=p.logits.reshape(alone),
            log_scale=p.log_scale,
            log_theta=p.log_theta_entries.expand_as(p.logits).reshape(alone),
            log_unit=unit,
        )
        return self.log_prob(entries, SparseRows.from_dense(rows.dense.reshape(-1, 1))).view_as(p.logits)

    def log_prob(self, p: CountParameters, rows: SparseRows, *, route: Route = "auto") -> Tensor:
        """Log-probability of each cell in nats, (samples, cells), float64; there is one route."""
        unit, sd = _of_y(p).log_unit, p.log_theta_entries.exp()
        if unit is None:
            return interval_log_prob(rows, p.logits, sd, transform="identity")
        return interval_log_prob(rows, p.logits, sd, (-unit[0]).exp())


def _of_y(p: CountParameters) -> TransformedParameters:
    assert isinstance(p, TransformedParameters)
    return p


def _transformed(p: CountParameters, rows: SparseRows) -> Tensor:
    """Return y of the counts, (cells, genes)."""
    unit = _of_y(p).log_unit
    if unit is None:
        return rows.dense
    values = (rows.values * (-unit[0]).exp()[rows.row_of]).log1p()
    return SparseRows(rows.indptr, rows.indices, values, rows.n_genes).dense
