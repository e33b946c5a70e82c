"""Two sides of a comparison, each one or several groups of cells: the counts that speak of their fold change.

Over cells, a stratum is a batch: within it the batch effect is common to both sides, whatever the model made of it.
Where no batch holds both sides there is one stratum, and the model's word for what is due to the batch is taken or not,
as `differential` decides.

Over samples (donors, mice), the counts of a sample share what is particular to it. With X_u the effective counts of
sample u on one side, f_u those that are fitted (side times stratum), and tau^2 the variance between samples,

    var(X_u / f_u) = phi (1 / f_u + tau^2)          phi ~ scaled inverse chi-square, of each gene

Each sample weighs 1 / (1 + f_u tau^2): a deep sample weighs no more than samples differ. tau^2 is common to genes of
about the same counts (moments: DerSimonian and Laird 1986), phi is the gene's own and moderated over genes (Smyth 2004;
Lund et al. 2012, doi:10.1515/1544-6115.1826). A sample that is on both sides is compared with itself (its stratum), and
tau^2 is then the variance of the fold change between samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from celbo.errors import InputError
from celbo.posterior.shrinkage import Evidence, moderated
from celbo.posterior.tallies import Tally, sums_by

__all__ = ["Contrast", "comparable_within", "contrast"]

Codes = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_ROUNDS = 30
_BINS = 8
_SEEN = 10.0
"""Effective counts from which on a gene takes part in the estimate of the variance between samples."""
_NONE = 1e-30
_MANY_DF = 1e6


@dataclass(frozen=True)
class Contrast:
    """The evidence of a comparison, and what its sides express."""

    evidence: Evidence
    scale1: Doubles
    """Mean share of side 1, corrected by its counts; (genes,)."""
    scale2: Doubles
    overlap: bool
    """Whether any stratum holds both sides."""
    paired: bool | None = None
    """Whether samples are compared with themselves; None over cells."""


@dataclass(frozen=True)
class _Side:
    """Effective counts of one side in its parts: its batches, or its samples within batches."""

    counts: Doubles
    """(parts, genes)."""
    exposure: Doubles
    """Effective counts that a share of one in the part's own batch would give; (parts, genes)."""
    reference: Doubles
    """Mean share under the batches asked for, over that in the own batch; (parts, genes)."""
    batch: Codes
    sample: Codes
    cells: Doubles
    """(parts,)."""
    df: Doubles
    """Degrees of freedom of the divisor of the counts; (genes,)."""
    variance: Doubles
    """Relative variance of the side as a whole, up to a factor; (genes,)."""

    def parts(self, which: Mask) -> _Side:
        """Return some of the parts."""
        named = ("counts", "exposure", "reference", "batch", "sample", "cells")
        return replace(self, **{name: getattr(self, name)[which] for name in named})

    def times(self, factor: Doubles) -> _Side:
        """Return the side with its effective counts multiplied; factor (parts, genes)."""
        return replace(self, counts=self.counts * factor, exposure=self.exposure * factor)

    @property
    def brought(self) -> Doubles:
        """Effective counts that a share of one under the batches asked for would give; (parts, genes)."""
        return self.exposure / np.maximum(self.reference, _NONE)


def contrast(
    tally: Tally, groups1: npt.ArrayLike, groups2: npt.ArrayLike, *, by_batch: bool, over_samples: bool = False
) -> Contrast:
    """Bring two sides to the evidence of their fold change.

    Parameters
    ----------
    tally
        The counts of the groups.
    groups1, groups2
        Codes of the groups of either side.
    by_batch
        Compare within batches.
    over_samples
        Compare over samples: their differences are part of the uncertainty.

    Raises
    ------
    InputError
        If a side has fewer than two samples, over samples.
    """
    if not (by_batch or over_samples):  # batches are then cells like others
        tally = replace(tally, units=replace(tally.units, batch=np.zeros_like(tally.units.batch)))
    sides = [_side(tally, np.asarray(groups, np.int64), over_samples) for groups in (groups1, groups2)]
    if over_samples:
        return _over_samples(sides[0], sides[1], by_batch)
    return _over_cells(sides[0], sides[1], by_batch, tally.common_df)


def _side(tally: Tally, groups: Codes, over_samples: bool) -> _Side:
    """Add up the groups of a side in each of its parts.

    A part whose mixture of groups is another than that of the whole side is brought to the whole side's by the model:
    its mean share is multiplied by the ratio of the model's means of the two mixtures.
    """
    units = tally.units
    mine = np.flatnonzero(np.isin(units.group, groups))
    kept = units.sizes / np.maximum(np.bincount(units.group, units.n_cells, len(units.sizes)), 1)
    cells = (units.n_cells * kept[units.group])[mine]
    codes = np.stack([units.batch[mine], units.sample[mine] if over_samples else np.zeros(len(mine), np.int64)], axis=1)
    distinct, part = np.unique(codes, axis=0, return_inverse=True)
    n_parts, part = len(distinct), part.ravel()

    def summed(values: Doubles) -> Doubles:
        return sums_by(values, part, n_parts)

    exposure, group = np.maximum(tally.exposure[mine], _NONE), units.group[mine]
    spread, counts = tally.spread[group], tally.counts[mine]
    every = summed(cells[:, None])
    mean = summed(cells[:, None] * counts / exposure) / every
    smooth = np.maximum(counts, 0.5 * spread)
    smooth_mean = summed(cells[:, None] * smooth / exposure) / every
    parts_of_variance = cells[:, None] ** 2 * spread * smooth / exposure**2
    variance = summed(parts_of_variance) / every**2
    expected = summed(cells[:, None] * tally.share[group]) / every
    reference = summed(cells[:, None] * tally.share[group] * tally.reference[mine]) / (every * expected)
    sizes = units.sizes[groups][:, None]
    overall = (sizes * tally.share[groups]).sum(0) / sizes.sum()
    brought = overall / np.maximum(expected, _NONE)
    effective = smooth_mean / np.maximum(variance, _NONE)  # of one group: its exposure over its spread
    weight = sums_by(parts_of_variance, group, len(units.sizes))[groups]
    df = weight.sum(0) ** 2 / np.maximum((weight**2 / tally.df[groups]).sum(0), _NONE)
    return _Side(
        counts=mean * effective,
        exposure=effective / brought,
        reference=reference,
        batch=distinct[:, 0],
        sample=distinct[:, 1],
        cells=every[:, 0],
        df=df,
        variance=1 / np.maximum((smooth_mean * effective).sum(0), _NONE),
    )


@dataclass(frozen=True)
class _Strata:
    """Stratum of each part of either side, -1 where it is left out."""

    one: Codes
    two: Codes
    shared: bool = True
    """Whether parts are compared within strata that hold both sides; else all is one stratum."""

    @property
    def number(self) -> int:
        """How many there are."""
        return int(max(self.one.max(), self.two.max())) + 1


def comparable_within(n1: Doubles, n2: Doubles) -> bool:
    """Return whether two sides can be compared within batches, by their cells or samples in each; (batches,) each.

    The precision within batches, sum n1 n2 / (n1 + n2), must be at least a tenth of that of the whole: one stray cell
    in the other side's batch is no comparison.
    """
    within = (n1 * n2 / np.maximum(n1 + n2, _NONE)).sum()
    return bool(within >= _LEAST_WITHIN * n1.sum() * n2.sum() / np.maximum(n1.sum() + n2.sum(), _NONE))


def _strata(codes1: Codes, codes2: Codes, weights1: Doubles, weights2: Doubles) -> _Strata:
    """Return strata of equal codes.

    Where the sides cannot be compared within them (`comparable_within`), there is one stratum.
    """
    n = int(max(codes1.max(), codes2.max())) + 1
    n1: Doubles = np.bincount(codes1, weights1, n).astype(np.float64)
    n2: Doubles = np.bincount(codes2, weights2, n).astype(np.float64)
    if not comparable_within(n1, n2):
        return _one_stratum(len(codes1), len(codes2), shared=False)
    place = np.full(n, -1)
    both = (n1 > 0) & (n2 > 0)
    place[both] = np.arange(both.sum())
    return _Strata(place[codes1], place[codes2])


_LEAST_WITHIN = 0.1


def _one_stratum(n1: int, n2: int, *, shared: bool = True) -> _Strata:
    return _Strata(np.zeros(n1, np.int64), np.zeros(n2, np.int64), shared)


def _over_cells(one: _Side, two: _Side, by_batch: bool, common_df: Doubles) -> Contrast:
    if by_batch:
        strata = _strata(one.batch, two.batch, one.cells, two.cells)
    else:
        strata = _one_stratum(len(one.batch), len(two.batch))
    own = (one.variance + two.variance) ** 2 / (one.variance**2 / one.df + two.variance**2 / two.df)  # Satterthwaite
    df = 1 / (1 / own + 1 / common_df)  # the error of the common dispersion is that of both sides
    return _finished(one, two, strata, df, within=by_batch and strata.shared)


def _finished(
    one: _Side, two: _Side, strata: _Strata, df: Doubles, *, within: bool, paired: bool | None = None
) -> Contrast:
    """Return the evidence. Within strata of one batch its effect is common; else the model brings parts to one."""
    sides = ((one, strata.one), (two, strata.two))
    counts = [sums_by(side.counts, codes, strata.number) for side, codes in sides]
    exposure = [sums_by(side.exposure if within else side.brought, codes, strata.number) for side, codes in sides]
    evidence = Evidence(counts[0], counts[1], exposure[0], exposure[1], df)
    scales = [side.counts.sum(0) / np.maximum(side.brought.sum(0), _NONE) for side in (one, two)]
    return Contrast(evidence, scales[0], scales[1], strata.shared, paired)


def _over_samples(one: _Side, two: _Side, by_batch: bool) -> Contrast:
    samples = [np.unique(side.sample) for side in (one, two)]
    for name, found in zip(("group 1", "group 2"), samples, strict=True):
        if len(found) < 2:
            raise InputError(
                "is of one sample only", where=name, fix="A comparison over samples needs at least two in each group."
            )
    both = np.intersect1d(samples[0], samples[1])
    paired = len(both) >= 2 and 2 * len(both) >= len(np.union1d(samples[0], samples[1]))
    several = any(len(side.sample) > len(np.unique(side.sample)) for side in (one, two))
    seen_batches: dict[tuple[int, ...], int] = {}
    one, two = _per_sample(one, seen_batches), _per_sample(two, seen_batches)
    each = [np.ones(len(side.sample)) for side in (one, two)]
    if paired:
        strata = _strata(one.sample, two.sample, *each)
    elif by_batch:
        strata = _strata(one.batch, two.batch, *each)
    else:
        strata = _one_stratum(len(one.batch), len(two.batch))
    within = (paired or by_batch) and strata.shared and not several
    kept1, kept2 = strata.one >= 0, strata.two >= 0
    one, two, strata = one.parts(kept1), two.parts(kept2), _Strata(strata.one[kept1], strata.two[kept2], strata.shared)
    counts = np.concatenate([one.counts, two.counts])
    exposure = np.concatenate([side.exposure if within else side.brought for side in (one, two)])
    of_side = np.repeat([0, 1], [len(one.batch), len(two.batch)])
    stratum = np.concatenate([strata.one, strata.two])
    weight, divisor, df = _between_samples(counts, exposure, of_side, stratum, paired)
    weighted = [side.times(weight[of_side == k] / divisor) for k, side in enumerate((one, two))]
    return _finished(weighted[0], weighted[1], strata, df, within=within, paired=paired)


def _per_sample(side: _Side, seen: dict[tuple[int, ...], int]) -> _Side:
    """Add up the batches of each sample: it is one sample in however many batches it is.

    Its batch is then the set of them, by a code of those seen so far.
    """
    distinct, place = np.unique(side.sample, return_inverse=True)
    counts, exposure, brought = (
        sums_by(values, place, len(distinct)) for values in (side.counts, side.exposure, side.brought)
    )
    sets = [tuple(np.unique(side.batch[place == i]).tolist()) for i in range(len(distinct))]
    batch = np.array([seen.setdefault(one, len(seen)) for one in sets], np.int64)
    cells = np.bincount(place, side.cells, len(distinct)).astype(np.float64)
    reference = exposure / np.maximum(brought, _NONE)
    return _Side(counts, exposure, reference, batch, distinct, cells, side.df, side.variance)


def _between_samples(
    counts: Doubles, exposure: Doubles, side: Codes, stratum: Codes, paired: bool
) -> tuple[Doubles, Doubles, Doubles]:
    """Return the weight of each sample (parts, genes), the divisor of each gene's counts and its degrees of freedom."""
    df = len(side) - _rank(side, stratum)
    if df < 1:
        raise InputError(
            "leave no degree of freedom",
            where="the samples of the two groups within their batches",
            fix="Give more samples, or batch_correction=False.",
            flag="Give more samples, or --no-batch-correction.",
        )
    fitted = _fit(counts, exposure, side, stratum)
    variance = _relative_variance(fitted, stratum, paired)
    residual = _relative_residual(counts, fitted, stratum, side, paired)
    # a pair is one observation of the difference, and is in the sums twice
    each, design = (0.5, (np.zeros_like(side), np.zeros_like(stratum))) if paired else (1.0, (side, stratum))
    tau2 = _common_tau2(residual, variance, counts.sum(0), design, each)
    weight = variance / (variance + tau2)
    fitted = _fit(weight * counts, weight * exposure, side, stratum)
    pearson = ((weight * counts - fitted) ** 2 / np.maximum(fitted, _NONE)).sum(0) / df
    seen = counts.sum(0) >= _SEEN
    divisor, total_df = np.ones(counts.shape[1]), np.full(counts.shape[1], float(df))
    if seen.any():
        divisor[seen], total_df[seen] = moderated(pearson[seen], df)
    if (~seen).any() and seen.any():  # few counts: what is common to the others, and their own where it is larger
        divisor[~seen] = np.maximum(np.median(divisor[seen]), pearson[~seen])
    return weight, np.maximum(divisor, _LEAST_DIVISOR), np.minimum(total_df, _MANY_DF)


_LEAST_DIVISOR = 0.2


def _rank(side: Codes, stratum: Codes) -> int:
    """Return the rank of the design of sides and strata: one a stratum, and one for the sides if any holds both."""
    n_strata = len(np.unique(stratum))
    return n_strata + int(len(np.unique(np.stack([stratum, side]), axis=1).T) > n_strata)


def _fit(counts: Doubles, exposure: Doubles, side: Codes, stratum: Codes) -> Doubles:
    """Return the expected counts of parts, exposure times side times stratum, by maximum likelihood; (parts, genes)."""
    n_strata = int(stratum.max()) + 1
    of_side, of_stratum = np.ones((2, counts.shape[1])), np.ones((n_strata, counts.shape[1]))
    for _ in range(_ROUNDS if n_strata > 1 else 1):
        of_side = _ratio_of_sums(counts, exposure * of_stratum[stratum], side, 2)
        if n_strata > 1:
            of_stratum = _ratio_of_sums(counts, exposure * of_side[side], stratum, n_strata)
    fitted: Doubles = exposure * of_side[side] * of_stratum[stratum]
    return fitted


def _ratio_of_sums(above: Doubles, below: Doubles, code: Codes, n: int) -> Doubles:
    return sums_by(above, code, n) / np.maximum(sums_by(below, code, n), _NONE)


def _relative_variance(fitted: Doubles, stratum: Codes, paired: bool) -> Doubles:
    """Return the variance of X / f where samples do not differ; of a pair, that of the difference."""
    inverse = 1 / np.maximum(fitted, 1e-6)
    if not paired:
        return inverse
    return sums_by(inverse, stratum, int(stratum.max()) + 1)[stratum]


def _relative_residual(counts: Doubles, fitted: Doubles, stratum: Codes, side: Codes, paired: bool) -> Doubles:
    residual = counts / np.maximum(fitted, 1e-6) - 1
    if not paired:
        return residual
    sign = np.where(side == 0, 1.0, -1.0)[:, None]
    return sums_by(sign * residual, stratum, int(stratum.max()) + 1)[stratum]


def _trace(weight: Doubles, side: Codes, stratum: Codes) -> Doubles:
    """Return tr(W A (A' W A)^-1 A' W) of the design A of strata and sides; weight (parts, genes), result (genes,).

    The normal matrix is diagonal but for the row and column of the sides, so its inverse is written down (Schur's
    complement): the time goes with the parts, not with the square of the strata.
    """
    n = int(stratum.max()) + 1
    second = (side == 1)[:, None]
    all1, all2 = (np.maximum(sums_by(weight**k, stratum, n), _NONE) for k in (1, 2))
    one1, one2 = (sums_by(weight**k * second, stratum, n) for k in (1, 2))
    mean = one1 / all1
    complement = (one1 * (1 - mean)).sum(0)
    rest = (mean**2 * all2 - 2 * mean * one2 + one2).sum(0)
    both = complement > 1e-9 * np.maximum(all1.sum(0), _NONE)
    trace: Doubles = (all2 / all1).sum(0) + np.divide(rest, complement, out=np.zeros(len(rest)), where=both)
    return trace


def _common_tau2(
    residual: Doubles, variance: Doubles, total: Doubles, design: tuple[Codes, Codes], each: float
) -> Doubles:
    """Return the relative variance between samples at the counts of each gene; (genes,).

    Moments, pooled over the genes of a bin of total counts, and linear between the middles of bins. With W the inverse
    variances and A the design, the expectation of sum W r^2 is df + tau^2 tr(W - W A (A' W A)^-1 A' W).
    """
    inverse, df = 1 / variance, each * len(design[0]) - _rank(*design)
    excess = each * (residual**2 * inverse).sum(0) - df
    slope = np.maximum(each * inverse.sum(0) - _trace(inverse, *design), _NONE)
    seen = np.flatnonzero(total >= _SEEN)
    if len(seen) == 0:
        return np.zeros(len(total))
    order = seen[np.argsort(total[seen])]
    bins = [part for part in np.array_split(order, min(_BINS, max(1, len(order) // 20))) if len(part)]
    # each gene's own moment estimate counts alike: sums of squares would leave a bin to its deepest genes
    found = [max(0.0, float(np.mean(_clipped(excess[part] / slope[part])))) for part in bins]
    middles = [float(np.log(total[part]).mean()) for part in bins]
    return np.interp(np.log(np.maximum(total, 1e-3)), middles, found)


def _clipped(values: Doubles) -> Doubles:
    """Return values with the highest and lowest twentieth moved in: a few genes with real outliers do not decide."""
    return np.clip(values, *np.quantile(values, [0.05, 0.95]))
