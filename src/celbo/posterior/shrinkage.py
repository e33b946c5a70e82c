"""From what the counts say of each gene's fold change to its posterior, by adaptive shrinkage over the genes.

With L = ln(m1 / m2), the log ratio of the mean shares of two populations, and counts x1, x2 in strata where a share of
one is expected to give e1, e2 counts, the total of a stratum is free of the level of the gene, and

    x1 | x1 + x2 ~ Binomial(x1 + x2, e1 exp(L) / (e1 exp(L) + e2))                     likelihood of L, one gene

The counts are effective ones: divided by what they vary more than Poisson counts do. That divisor is estimated, with
`df` degrees of freedom, and integrating over it makes of the deviance D(L) the likelihood (1 + D / df)^(-(df + 1) / 2),
Student's t where D is quadratic. The prior of L is common to all genes, a mixture of normals around 0 of which the
narrowest is no difference to speak of; its weights are found by maximum likelihood over the genes, with the penalty
that makes them err towards no difference (adaptive shrinkage: Stephens 2017, doi:10.1093/biostatistics/kxw041). The
posterior of a gene is the product of the two on a grid of its own, dense where its likelihood is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from celbo.kernels.cpu_mixture import mixture_log_posterior, mixture_marginals, mixture_tails, mixture_weights

__all__ = ["Evidence", "FoldChanges", "OnGrid", "Posterior", "TestMode", "expected_fdr", "log_likelihood", "moderated"]

Doubles = npt.NDArray[np.float64]
TestMode = Literal["three", "two"]

_LN2 = float(np.log(2))
PRIOR_SD = np.array([0.02, *(0.05 * 2 ** (i / 2) for i in range(12))])
"""Standard deviations of the components of the prior of ln(m1 / m2). The first stands for no difference; the last
bounds how large a change is thought of a gene never seen on one side, whose likelihood is as high at infinity."""
_NULL_PENALTY = 10.0
"""As many genes without a difference are added to those seen (Stephens 2017): the estimate errs towards none."""
_NEAR = np.array([0.005, 0.01, 0.02, 0.04, 0.08, 0.13, 0.2, 0.3, 0.45, 0.65, 0.9, 1.3, 1.9, 2.8])
"""Where the prior changes: boundaries of every grid, on either side of 0."""
_CELLS, _REACH = 104, 60.0
_MOST_SD = 6.0
_GENES = 1024
_MOST_TAILS = 1 << 23
_TINY = 1e-300
_LEAST_LOG = -1e5
_MANY = 1e6
"""Degrees of freedom from which on a divisor is known."""


@dataclass(frozen=True)
class Evidence:
    """What the counts of two sides say about each gene."""

    counts1: Doubles
    """Effective counts of side 1 in each stratum; (strata, genes)."""
    counts2: Doubles
    expected1: Doubles
    """Effective counts that a share of one would give on side 1; (strata, genes)."""
    expected2: Doubles
    df: Doubles
    """Degrees of freedom with which the divisor of the effective counts is known; (genes,)."""

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.df)

    def genes(self, which: slice) -> Evidence:
        """Return the evidence of some genes."""
        return Evidence(
            self.counts1[:, which],
            self.counts2[:, which],
            self.expected1[:, which],
            self.expected2[:, which],
            self.df[which],
        )

    def merged(self, most: int) -> Evidence:
        """Return the evidence with at most so many strata: of more, those of about the same ratio are put together.

        Strata whose sides would be seen in the same ratio add up exactly. Each gene's are put in the order of that
        ratio and cut into parts of equal information, which keep the slope of the likelihood and its curvature at the
        common estimate. So the time of a comparison does not grow with the number of its batches.
        """
        if len(self.counts1) <= most:
            return self
        x1, x2 = (np.where(self.shared, x, 0.0) for x in (self.counts1, self.counts2))
        offset = np.log(np.where(self.shared, self.expected1, 1.0)) - np.log(np.where(self.shared, self.expected2, 1.0))
        chance = special.expit(offset + _centre(self))
        information = (x1 + x2) * chance * (1 - chance)
        order = np.argsort(offset, axis=0, kind="stable")
        before = np.cumsum(np.take_along_axis(information, order, 0), axis=0)
        share = before / np.maximum(before[-1], _TINY)
        part = np.empty(order.shape, np.int64)
        np.put_along_axis(part, order, np.minimum((share * most).astype(np.int64), most - 1), 0)
        at = part + most * np.arange(self.n_genes)

        def summed(values: Doubles) -> Doubles:
            totals: Doubles = np.bincount(at.ravel(), values.ravel(), most * self.n_genes).astype(np.float64)
            return totals.reshape(-1, most).T

        e1, e2 = (summed(np.where(self.shared, e, 0.0)) for e in (self.expected1, self.expected2))
        rise, fall = summed((x1 + x2) * chance), summed((x1 + x2) * (1 - chance))
        ratio = np.divide(rise, fall, out=np.zeros(rise.shape), where=(rise > _TINY) & (fall > _TINY))
        e1 = np.where(ratio > 0, e2 * ratio / np.exp(_centre(self)), e1)
        bound = rise * fall / np.maximum(rise + fall, _TINY)  # what they would tell if their ratios were all the same
        told = np.divide(summed(information), bound, out=np.ones(bound.shape), where=bound > _TINY)
        return Evidence(told * summed(x1), told * summed(x2), told * e1, told * e2, self.df)

    @property
    def shared(self) -> npt.NDArray[np.bool_]:
        """Strata in which both sides could have been seen: the others say nothing of L; (strata, genes)."""
        return (self.expected1 > 0) & (self.expected2 > 0)


@dataclass(frozen=True)
class FoldChanges:
    """Posterior of log2((m1 + c) / (m2 + c)) of each gene; (genes,) each."""

    mean: Doubles
    median: Doubles
    sd: Doubles
    lower: Doubles
    upper: Doubles
    p: Doubles
    """Probability of a difference of at least delta."""
    not_p: Doubles
    """1 - p, to full precision where it is small."""
    log_odds: Doubles
    """ln(p / (1 - p)), also where 1 - p is too small for a number."""

    @classmethod
    def joined(cls, parts: Sequence[FoldChanges]) -> FoldChanges:
        """Put together the fold changes of several sets of genes."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


def log_likelihood(evidence: Evidence, log_ratio: Doubles) -> Doubles:
    """Return the log-likelihood of L = ln(m1 / m2), without a constant.

    Parameters
    ----------
    evidence
        The counts.
    log_ratio
        L; (genes, points).

    Returns
    -------
    (genes, points), at most 0: the log of Student's t likelihood at the deviance from the best of the points.
    """
    total = np.zeros(log_ratio.shape)
    for x1, x2, e1, e2, both in zip(
        evidence.counts1, evidence.counts2, evidence.expected1, evidence.expected2, evidence.shared, strict=True
    ):
        offset = np.log(np.where(both, e1, 1.0)) - np.log(np.where(both, e2, 1.0))
        eta = log_ratio + offset[:, None]
        softplus = np.maximum(eta, 0.0) + np.log(1.0 + np.exp(-np.abs(eta)))  # three times as fast as logaddexp
        total += np.where(both, x1, 0.0)[:, None] * eta - np.where(both, x1 + x2, 0.0)[:, None] * softplus
    deviance = 2 * (total.max(1, keepdims=True) - total)
    df = np.minimum(evidence.df, _MANY)[:, None]
    likelihood: Doubles = -0.5 * (df + 1) * np.log1p(deviance / df)
    return likelihood


def _grid(evidence: Evidence) -> Doubles:
    """Return the boundaries of the cells of each gene's grid, ascending; (genes, cells + 1)."""
    both = evidence.shared
    e1, e2 = np.where(both, evidence.expected1, 1.0), np.where(both, evidence.expected2, 1.0)
    x1, x2 = np.where(both, evidence.counts1, 0.0), np.where(both, evidence.counts2, 0.0)
    centre = _centre(evidence)
    chance = special.expit(np.log(e1) - np.log(e2) + centre)
    information = ((x1 + x2) * chance * (1 - chance)).sum(0)
    sd = np.minimum(1 / np.sqrt(information + 0.1), _MOST_SD)
    reach = np.arcsinh(_REACH)
    steps = np.sinh(np.linspace(-reach, reach, _CELLS + 1))
    own = centre[:, None] + sd[:, None] * steps
    near = np.broadcast_to(np.concatenate([-_NEAR, _NEAR]), (len(centre), 2 * len(_NEAR)))
    return np.sort(np.concatenate([own, near], axis=1), axis=1)


def _centre(evidence: Evidence) -> Doubles:
    """Return Mantel and Haenszel's estimate of L, with half a count on either side so that it is finite; (genes,)."""
    both = evidence.shared
    e1, e2 = np.where(both, evidence.expected1, 1.0), np.where(both, evidence.expected2, 1.0)
    x1, x2 = np.where(both, evidence.counts1, 0.0), np.where(both, evidence.counts2, 0.0)
    weight = 1 / (e1 + e2)
    above = (x1 * e2 * weight).sum(0) + 0.5 * _mean(e2 * weight, both)
    centre: Doubles = np.log(above) - np.log((x2 * e1 * weight).sum(0) + 0.5 * _mean(e1 * weight, both))
    return centre


def _mean(values: Doubles, where: npt.NDArray[np.bool_]) -> Doubles:
    """Return the mean over the strata that count, and a half where none does."""
    n = where.sum(0)
    mean: Doubles = np.where(n > 0, (values * where).sum(0) / np.maximum(n, 1), 0.5)
    return mean


@dataclass(frozen=True)
class OnGrid:
    """The likelihood of each gene's L in the cells of its grid."""

    evidence: Evidence
    boundaries: Doubles
    """Of the cells, ascending; (genes, cells + 1). The first and the last cell reach to infinity."""
    log_likelihood: Doubles
    """At the middle of each cell, at most 0; (genes, cells)."""

    @classmethod
    def of(cls, evidence: Evidence) -> OnGrid:
        """Evaluate the likelihood of each gene."""
        parts = []
        for which in _slices(evidence.n_genes):
            part = evidence.genes(which)
            boundaries = _grid(part)
            parts.append((boundaries, log_likelihood(part, 0.5 * (boundaries[:, 1:] + boundaries[:, :-1]))))
        return cls(evidence, *(np.concatenate([part[i] for part in parts]) for i in (0, 1)))

    @cached_property
    def _tails(self) -> Doubles | None:
        """Tails of the components at the boundaries, where they fit in memory."""
        small = self.boundaries.size * len(PRIOR_SD) <= _MOST_TAILS
        return mixture_tails(self.boundaries, PRIOR_SD) if small else None

    def fit_prior(self, *, n_rounds: int = 500, tolerance: float = 1e-5) -> Doubles:
        """Return the weights of the components of the prior that explain all genes together best; (components,).

        The penalised likelihood of Stephens (2017), a penalty of 10 on the first component, at its maximum.
        Genes without counts say nothing and do not enter.
        """
        e = self.evidence
        seen = ((e.counts1 + e.counts2) * e.shared).sum(0) > 0
        likelihood = np.exp(self.log_likelihood)
        marginals = mixture_marginals(likelihood, self.boundaries, PRIOR_SD, tails=self._tails)[seen]
        marginals /= np.maximum(marginals.max(1, keepdims=True), _TINY)
        penalty = np.ones(len(PRIOR_SD))
        penalty[0] = _NULL_PENALTY
        return mixture_weights(marginals, penalty, n_rounds, tolerance)

    def posterior(self, weights: Doubles) -> Posterior:
        """Return the posterior of each gene under a prior with these weights."""
        log_mass = mixture_log_posterior(self.log_likelihood, self.boundaries, PRIOR_SD, weights, tails=self._tails)
        return Posterior(self.evidence, self.boundaries, log_mass)


@dataclass(frozen=True)
class Posterior:
    """The posterior of each gene's L."""

    evidence: Evidence
    boundaries: Doubles
    """Of cells, ascending; (genes, cells + 1)."""
    log_mass: Doubles
    """In the cells; (genes, cells)."""

    def fold_changes(
        self, *, delta: float, pseudocount: float = 0.0, level: float = 0.95, test_mode: TestMode = "three"
    ) -> FoldChanges:
        """Return what it says of the log2 fold change.

        Parameters
        ----------
        delta
            Smallest fold change of interest (log2).
        pseudocount
            Added to both shares.
        level
            Mass of the credible interval, equal tails.
        test_mode
            "three": p is the larger of P(LFC >= delta) and P(LFC <= -delta), so that a call is of a direction; "two":
            their sum.
        """
        mass, ends = np.exp(self.log_mass), _with_pseudocount(self.evidence, self.boundaries, pseudocount)
        middle, width = 0.5 * (ends[:, 1:] + ends[:, :-1]), ends[:, 1:] - ends[:, :-1]
        mean = (mass * middle).sum(1)
        variance = (mass * ((middle - mean[:, None]) ** 2 + width**2 / 12)).sum(1)
        below, above = _share_below(ends, delta), 1 - _share_below(ends, -delta)
        # each tail is summed by itself, not as 1 - the rest, and in logs where it is small
        up, down = (mass * (1 - below)).sum(1), (mass * (1 - above)).sum(1)
        if test_mode == "three":
            p, log_not_p = np.maximum(up, down), np.minimum(self._log_share(below), self._log_share(above))
        else:
            p, log_not_p = up + down, self._log_share(np.clip(below + above - 1, 0.0, 1.0))
        p, log_not_p = np.clip(p, _TINY, 1.0), np.minimum(log_not_p, 0.0)
        tail = 0.5 * (1 - level)
        lower, median, upper = (_quantile(mass, ends, q) for q in (tail, 0.5, 1 - tail))
        not_p, log_odds = np.maximum(np.exp(log_not_p), _TINY), np.log(p) - np.maximum(log_not_p, _LEAST_LOG)
        p = np.where(not_p < 0.5, 1 - not_p, p)  # so that what rounding leaves of the sure genes does not order them
        return FoldChanges(mean, median, np.sqrt(variance), lower, upper, p, not_p, log_odds)

    def _log_share(self, of_cell: Doubles) -> Doubles:
        """Return the log of the mass of a share of each cell; (genes,)."""
        with np.errstate(divide="ignore"):
            logs = self.log_mass + np.log(of_cell)
        highest = np.maximum(logs.max(1), _LEAST_LOG)
        with np.errstate(divide="ignore"):
            total: Doubles = highest + np.log(np.exp(logs - highest[:, None]).sum(1))
        return total


def _with_pseudocount(evidence: Evidence, log_ratio: Doubles, pseudocount: float) -> Doubles:
    """Return log2((m1 + c) / (m2 + c)) for L = ln(m1 / m2), with the level that the total of the counts gives."""
    if pseudocount == 0:
        return log_ratio / _LN2
    both = evidence.shared
    total = ((evidence.counts1 + evidence.counts2) * both).sum(0)[:, None]
    e1, e2 = ((e * both).sum(0)[:, None] for e in (evidence.expected1, evidence.expected2))
    ratio = np.exp(np.clip(log_ratio, -300, 300))
    m2 = total / np.maximum(e1 * ratio + e2, _TINY)
    m1 = total / np.maximum(e1 + e2 / ratio, _TINY)
    changed: Doubles = np.log2((m1 + pseudocount) / (m2 + pseudocount))
    return changed


def _share_below(ends: Doubles, at: float) -> Doubles:
    """Return the share of each cell that lies below a value; (genes, cells)."""
    width = ends[:, 1:] - ends[:, :-1]
    inside = np.divide(at - ends[:, :-1], width, out=np.zeros(width.shape), where=width > 0)
    share: Doubles = np.where(width > 0, np.clip(inside, 0.0, 1.0), np.heaviside(at - ends[:, :-1], 0.5))
    return share


def _quantile(posterior: Doubles, ends: Doubles, q: float) -> Doubles:
    """Return a quantile of each gene, linear within a cell; (genes,)."""
    reached = np.cumsum(posterior, axis=1)
    cell = np.minimum((reached < q).sum(1), posterior.shape[1] - 1)[:, None]
    mass = np.take_along_axis(posterior, cell, 1)
    before = np.take_along_axis(reached, cell, 1) - mass
    share = np.clip(np.divide(q - before, mass, out=np.zeros(mass.shape), where=mass > 0), 0.0, 1.0)
    low, high = np.take_along_axis(ends, cell, 1), np.take_along_axis(ends, cell + 1, 1)
    at: Doubles = (low + share * (high - low))[:, 0]
    return at


def expected_fdr(not_p: Doubles) -> Doubles:
    """Return for each gene the mean probability of no difference over all genes with at least its evidence; (genes,).

    Calling the genes at which it is at most a target keeps the expected share of false calls at the target, if the
    probabilities are right (Newton et al. 2004, doi:10.1093/biostatistics/5.2.155).
    """
    ascending = np.sort(not_p)
    n = np.searchsorted(ascending, not_p, side="right")  # genes of the same evidence are called together
    found: Doubles = np.cumsum(ascending)[n - 1] / n
    return found


def _slices(n_genes: int) -> list[slice]:
    return [slice(at, min(at + _GENES, n_genes)) for at in range(0, n_genes, _GENES)]


def moderated(variance: Doubles, df: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    """Return variances shrunk towards what is common to all genes, and their degrees of freedom.

    The variances have a scaled inverse chi-square prior whose two parameters come from the moments of their logs
    (Smyth 2004, doi:10.2202/1544-6115.1027, section 6.2).

    Parameters
    ----------
    variance
        Of each gene; (genes,). Those that are 0 do not enter the estimate of the prior.
    df
        Degrees of freedom of each; (genes,) or one number.

    Returns
    -------
    variance, df
        Posterior means of the inverse, inverted, and the sum of the degrees of freedom; (genes,) each.
    """
    each = np.broadcast_to(np.asarray(df, np.float64), variance.shape)
    used = (variance > 1e-12) & (each > 0.5)
    if used.sum() < 3:
        return np.maximum(variance, 1e-12), each.copy()
    half = each[used] / 2
    logs = np.log(variance[used]) - special.digamma(half) + np.log(half)
    excess = logs.var(ddof=1) - special.polygamma(1, half).mean()
    prior_df = 2 * _inverse_trigamma(excess) if excess > 0 else np.inf
    centre = np.exp(logs.mean() + (special.digamma(prior_df / 2) - np.log(prior_df / 2) if prior_df < _MANY else 0.0))
    if prior_df >= _MANY:
        return np.full(variance.shape, centre), np.full(variance.shape, _MANY)
    return (prior_df * centre + each * variance) / (prior_df + each), prior_df + each


def _inverse_trigamma(y: Any) -> float:
    """Return x with trigamma(x) = y, by Newton's method on 1 / trigamma, which is nearly straight."""
    if y > 1e7:
        return float(1 / np.sqrt(y))
    if y < 1e-6:
        return float(1 / y)
    x = 0.5 + 1 / y
    for _ in range(50):
        value = special.polygamma(1, x)
        step = value * (1 - value / y) / special.polygamma(2, x)
        x += step
        if -step / x < 1e-8:
            break
    return float(x)
