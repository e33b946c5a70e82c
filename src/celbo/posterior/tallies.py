"""Counts of groups of cells beside what the model expects of them: what calibrated comparisons are made from.

The decoder says what a cell with this latent state expresses, but it was fitted to all cells at once and shrinks what
few of them tell; how far, its posterior of the latent states does not know. So the cells of a group in a batch (a unit)
are counted, weighted by the inverse of their variance, beside the counts that the model expects of the same cells:

    X_ug = sum_n w_ng x_ng        S_ug = sum_n w_ng E[x_ng | z_n, s_n]        w_ng = 1 / (1 + l_n r_kg / theta_g)

and the unit's mean share is estimated by  m_ug X_ug / S_ug,  with m_ug the mean over its cells of the decoded share. If
the model is right the ratio X / S is 1 up to noise, and the estimate is the model's; if it is not, the counts correct
it (the model-assisted, or one-step, estimate). Depth and the mixture of states within the group are the model's to say,
the level is the counts'. What the share would be under other batches is the model's word too (`reference`), and needed
only where no batch holds both groups: within one, its effect is common to them. r_kg, the counts of group k per total,
and theta_g, the dispersion within units, are those of the raw counts. By how much X_ug varies more than a Poisson count
is `spread`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from celbo.data.cells import CellData
from celbo.likelihoods.base import CountParameters
from celbo.posterior.importance import resampled_draws
from celbo.posterior.population import N_PROPOSALS
from celbo.posterior.stream import (
    Block,
    Network,
    Positions,
    block_generator,
    cells_at_once,
    evaluating,
    minibatch_for,
)

__all__ = ["Tally", "Units", "sums_by", "tally"]

Codes = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

_ROWS = 4096
_MOST_DISPERSION = 100.0
_PRIOR_DF = 15.0
"""Degrees of freedom of the belief that the counts of a group vary as the dispersion of all units together says."""
_MOST_DF = 1e6
_LEAST_SPREAD = 0.5
_OF_A_SAMPLE = 200
_UNDER_EACH, _UNDER, _DECODED = 32, 32, 20_000
"""Most cells of a group and batch that are decoded under other batches, most of these batches, and about how many
decoded cells in all, whatever the number of batches (one of each group and batch are under one batch at the least)."""


@dataclass(frozen=True)
class Units:
    """Cells that are counted, in units of one group, one batch and one sample."""

    cells: Codes
    """Positions of the cells, unit by unit; (cells,)."""
    unit: Codes
    """Unit of each; (cells,), ascending."""
    group: Codes
    """Group of each unit; (units,), ascending."""
    batch: Codes
    sample: Codes
    """Batch and sample of each unit; (units,)."""
    sizes: Doubles
    """Cells of each group in the data, of which those counted are a random part; (groups,)."""

    @property
    def n_cells(self) -> Doubles:
        """Cells counted in each unit; (units,)."""
        return np.bincount(self.unit, minlength=len(self.group)).astype(np.float64)

    @classmethod
    def of(
        cls, data: CellData, populations: Sequence[Positions], *, samples: Codes | None, at_most: int, seed: int
    ) -> Units:
        """Draw cells of each group, and sort them into units.

        Parameters
        ----------
        populations
            Positions of the cells of each group.
        samples
            Sample of every cell of the data, -1 for cells to leave out; (cells,). None is one for all.
        at_most
            Most cells of a group; fewer are all taken. With samples it is shared out to them, but 200 of a sample are
            always taken where there are as many.
        """
        rng = np.random.default_rng([seed, 2])
        drawn: list[Codes] = []
        codes: list[Codes] = []
        sizes: list[int] = []
        for members in populations:
            known = np.asarray(members, np.int64)
            known = known if samples is None else known[samples[known] >= 0]
            sizes.append(len(known))
            drawn.append(_drawn(known, None if samples is None else samples[known], at_most, rng))
            codes.append(np.full(len(drawn[-1]), len(codes)))
        cells, group = np.concatenate(drawn), np.concatenate(codes)
        sample = np.zeros(len(cells), np.int64) if samples is None else samples[cells]
        keys = np.stack([group, data.batch[cells], sample], axis=1)
        distinct, unit = np.unique(keys, axis=0, return_inverse=True)
        order = np.argsort(unit.ravel(), kind="stable")
        groups, batches, names = distinct.T.copy()
        return cls(cells[order], unit.ravel()[order], groups, batches, names, np.array(sizes, np.float64))


def _drawn(cells: Codes, samples: Codes | None, at_most: int, rng: np.random.Generator) -> Codes:
    """Return some of the cells of a group, each as likely as the others, or as the others of its sample."""
    shuffled = rng.permutation(len(cells))
    if samples is None:
        return cells if len(cells) <= at_most else cells[shuffled[:at_most]]
    each = max(_OF_A_SAMPLE, at_most // max(1, len(np.unique(samples))))
    order = shuffled[np.argsort(samples[shuffled], kind="stable")]
    sorted_samples = samples[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_samples, sorted_samples)
    return cells[np.sort(order[rank < each])]


@dataclass(frozen=True)
class Tally:
    """Weighted counts of units, and what one share of one would give."""

    units: Units
    counts: Doubles
    """X, weighted counts; (units, genes)."""
    exposure: Doubles
    """S / m, weighted counts that a mean share of one, in the unit's own batch, would give; (units, genes)."""
    reference: Doubles
    """Mean share of a unit under the batches asked for, over that under its own batch; (units, genes)."""
    share: Doubles
    """Mean share of the cells of a group under the batches asked for, decoded; (groups, genes)."""
    own_share: Doubles
    """The same under each cell's own batch; (groups, genes)."""
    spread: Doubles
    """Variance of the weighted counts over that of Poisson counts; (groups, genes)."""
    df: Doubles
    """Degrees of freedom of the spread; (groups, genes)."""
    common_df: Doubles
    """Degrees of freedom of the dispersion, which all groups have in common; (genes,)."""

    @property
    def uncorrected(self) -> Tally:
        """The same counts, with every cell as of its own batch."""
        return replace(self, reference=np.ones_like(self.reference), share=self.own_share)


@dataclass(frozen=True)
class _Moments:
    """Raw sums of the units: counts, counts squared, counts times total (units, genes); totals and their squares."""

    x: Doubles
    xx: Doubles
    lx: Doubles
    size: Doubles
    size_squared: Doubles


def tally(
    network: Network,
    data: CellData,
    units: Units,
    *,
    batches: Sequence[int] | None,
    genes: slice | None = None,
    importance_weighting: bool = False,
    seed: int,
) -> Tally:
    """Count the units and decode each of their cells once.

    Parameters
    ----------
    network, data, units
        A trained network, the cells, and the units.
    batches
        Codes of the batches that mean shares are decoded under, in the proportions of the cells; None is each cell's
        own.
    genes
        The genes to count; None is all. The trend of the dispersions over genes is that of these genes.
    importance_weighting
        Draw latent states from the posterior itself by importance resampling, not from q.
    seed
        Seed of the draws.
    """
    genes = slice(0, data.n_genes) if genes is None else genes
    sizes = (data.library if data.size_factor is None else data.size_factor).astype(np.float64)
    raw = _raw_moments(data, units, sizes, genes)
    inverse_theta = _dispersion(raw, units.n_cells)
    n_groups = len(units.sizes)
    rate = sums_by(raw.x, units.group, n_groups) / sums_by(raw.size[:, None], units.group, n_groups)
    unit_rate, overdispersion = raw.x / raw.size[:, None], rate * inverse_theta
    counts, expected, squares, own = np.zeros((4, *raw.x.shape))
    with evaluating(network):
        for number, at in enumerate(_blocks(units, cells_at_once(network, data.n_genes))):
            block = _block(network, data, units.cells[at], seed, number)
            z, log_library = _draw(network, block, importance_weighting)
            parameters = network.decode(z, log_library, block.batch)
            which = _Places.of(units.unit[at])
            size = torch.from_numpy(sizes[units.cells[at]]).float()[:, None]
            weight = 1 / (1 + size * _rows(overdispersion, units.group[units.unit[at]]))
            x = block.batch.rows.dense[:, genes].cpu().float()
            which.add(counts, weight * x)
            which.add(expected, weight * _cpu(network.likelihood.mean(parameters))[:, genes])
            which.add(squares, (weight * (x - size * _rows(unit_rate, units.unit[at]))).square_())
            which.add(own, _shares(parameters, genes))
        own /= units.n_cells[:, None]
        reference = np.ones(own.shape)
        if batches is not None:
            reference = _ratio(network, data, units, list(batches), genes=genes, seed=seed)
    spread, df, common_df = _spread(units, counts, squares, inverse_theta=inverse_theta, rate=rate, sizes=sizes)
    share, own_share = (
        sums_by(own * factor * units.n_cells[:, None], units.group, n_groups)
        / sums_by(units.n_cells[:, None], units.group, n_groups)
        for factor in (reference, 1.0)
    )
    exposure = expected / np.maximum(own, _NONE)
    return Tally(units, counts, exposure, reference, share, own_share, spread, df, common_df)


_NONE = 1e-30


def _raw_moments(data: CellData, units: Units, sizes: Doubles, genes: slice) -> _Moments:
    n_units, n_genes = len(units.group), genes.stop - genes.start
    x, xx, lx = np.zeros((3, n_units, n_genes))
    for start in range(0, len(units.cells), _ROWS):
        at = slice(start, start + _ROWS)
        rows, code = data.counts.rows(units.cells[at]), units.unit[at]
        row, gene, value = rows.row_of.numpy(), rows.indices.numpy(), rows.values.numpy().astype(np.float64)
        if n_genes < data.n_genes:
            asked = (gene >= genes.start) & (gene < genes.stop)
            row, gene, value = row[asked], gene[asked] - genes.start, value[asked]
        first, last = code[0], code[-1] + 1
        flat = (code[row] - first) * n_genes + gene
        n = (last - first) * n_genes
        for total, values in ((x, value), (xx, value**2), (lx, value * sizes[units.cells[at]][row])):
            total[first:last] += np.bincount(flat, values, n).reshape(-1, n_genes)
    size, squared = (np.bincount(units.unit, sizes[units.cells] ** k, n_units).astype(np.float64) for k in (1, 2))
    return _Moments(x, xx, lx, size, squared)


def _dispersion(raw: _Moments, n: Doubles) -> Doubles:
    """Return 1 / theta of each gene, at least 0; (genes,).

    The variance within units is sum (l r + (l r)^2 / theta), and its estimate the sum of squares around their rates, of
    all units of two cells and more. Genes of about the same mean have about the same dispersion: the trend. A gene's
    own is shrunk towards it (`_prior_df`): without that the few large counts that a small group happened not to have
    would make skewed genes look certain.
    """
    some = n > 1
    rate = raw.x[some] / raw.size[some, None]
    about = raw.xx[some] - 2 * rate * raw.lx[some] + rate**2 * raw.size_squared[some, None]
    squares = (about * (n[some] / np.maximum(n[some] - 1, 1))[:, None]).sum(0)
    poisson, quadratic = raw.x[some].sum(0), (rate**2 * raw.size_squared[some, None]).sum(0)
    mean = raw.x.sum(0) / n.sum()
    trend = _trend(mean, squares - poisson, quadratic)
    expected = poisson + trend * quadratic
    df = _df(np.maximum(n - 1, 0).sum(), mean, trend)
    prior_df = _prior_df(trend * quadratic / np.maximum(expected, _NONE))
    moderated = (prior_df + df * _ratio_or_one(squares, expected)) / (prior_df + df) * expected
    inverse_theta: Doubles = np.clip((moderated - poisson) / np.maximum(quadratic, _NONE), 0.0, _MOST_DISPERSION)
    return inverse_theta


def _prior_df(beyond_poisson: Doubles) -> Doubles:
    """Return the degrees of freedom with which a variance is known before any residual is seen.

    A gene's log dispersion lies around the trend with a standard deviation of about 1. The variance feels it by the
    share s of it that is beyond Poisson, and so has a relative variance of s^2: 2 / s^2 degrees of freedom, many for a
    gene with hardly any counts.
    """
    df: Doubles = np.minimum(2 / np.maximum(beyond_poisson, 1e-6) ** 2, _MOST_DF)
    return df


def _trend(mean: Doubles, above: Doubles, below: Doubles) -> Doubles:
    """Return the ratio of two sums over genes of about the same mean, at least 0; (genes,).

    Of bins of at least 50 genes, 20 at most, and linear in the log of the mean between their middles.
    """
    seen = np.flatnonzero(mean > 0)
    if len(seen) == 0:
        return np.zeros(len(mean))
    bins = np.array_split(seen[np.argsort(mean[seen], kind="stable")], max(1, min(20, len(seen) // 50)))
    ratios = [max(0.0, float(above[part].sum() / max(below[part].sum(), _NONE))) for part in bins]
    return np.interp(np.log(np.maximum(mean, _NONE)), [np.log(mean[part]).mean() for part in bins], ratios)


def _df(freedom: npt.ArrayLike, mean: Doubles, inverse_theta: Doubles) -> Doubles:
    """Return the degrees of freedom of a variance that is estimated from squared residuals.

    They are few where counts are rare or skewed: of a negative binomial count of variance v, (x - mean)^2 / v has the
    variance 2 + 6 / theta + 1 / v, and not the 2 of a normal one.
    """
    variance = mean * (1 + mean * inverse_theta)
    df: Doubles = 2 * np.asarray(freedom, np.float64) / (2 + 6 * inverse_theta + 1 / np.maximum(variance, 1e-9))
    return df


def _spread(
    units: Units, counts: Doubles, squares: Doubles, *, inverse_theta: Doubles, rate: Doubles, sizes: Doubles
) -> tuple[Doubles, Doubles, Doubles]:
    """Return the variance of weighted counts over that of Poisson counts in each group, and degrees of freedom.

    The spread is 1 where the dispersion of all units together holds for the group, and shrunk towards it; its degrees
    of freedom are those of that belief and of the residuals. Those of the common dispersion are a gene's prior and the
    residuals of all groups.
    """
    n, n_groups = units.n_cells, len(units.sizes)
    some = (n > 1)[:, None]
    observed = sums_by(np.where(some, squares * (n / np.maximum(n - 1, 1))[:, None], 0.0), units.group, n_groups)
    poisson = sums_by(np.where(some, counts, 0.0), units.group, n_groups)
    freedom = sums_by(np.maximum(n - 1, 0)[:, None], units.group, n_groups)
    of_group = units.group[units.unit]
    mean_size = np.bincount(of_group, sizes[units.cells], n_groups) / np.bincount(of_group, minlength=n_groups)
    # at the mean of all: where the groups do not differ it is theirs, and where they do, theirs would make the one with
    # fewer counts by chance look better known
    mean = np.average(rate * mean_size[:, None], axis=0, weights=units.sizes)
    df = _df(freedom, mean, inverse_theta)
    spread = (_PRIOR_DF + df * _ratio_or_one(observed, poisson)) / (_PRIOR_DF + df)
    known = _prior_df(mean * inverse_theta / (1 + mean * inverse_theta))
    # of few cells not even the sum is near normal: the belief then counts no more than the cells do
    believed = np.maximum(0.5 * known, np.minimum(_PRIOR_DF, freedom))
    return np.maximum(spread, _LEAST_SPREAD), believed + df, known + df.sum(0)


def _ratio_or_one(above: Doubles, below: Doubles) -> Doubles:
    return np.divide(above, below, out=np.ones(np.shape(above)), where=below > 0)


def _ratio(network: Network, data: CellData, units: Units, batches: list[int], *, genes: slice, seed: int) -> Doubles:
    """Return the mean share under the batches asked for over that under the own batch; (units, genes).

    Of some cells of each group and batch: both means are over the same draws, so that few cells do. Of many batches
    some stand for all, the same for every cell, so that no two groups are brought to different ones.
    """
    weights = np.bincount(data.batch[units.cells], minlength=data.schema.n_batches)[batches].astype(np.float64)
    weights = weights if weights.any() else np.ones(len(batches))
    rng = np.random.default_rng([seed, 3])
    pairs, of_unit = np.unique(np.stack([units.group, units.batch], axis=1), axis=0, return_inverse=True)
    n_under = int(np.clip(_DECODED // len(pairs) - 1, 1, _UNDER))
    under_codes, under_weights = _standing(np.asarray(batches, np.int64), weights / weights.sum(), n_under, rng)
    each = int(np.clip(_DECODED // (len(pairs) * (len(under_codes) + 1)), 1, _UNDER_EACH))
    cells, pair = _some_of_each(units.cells, of_unit.ravel()[units.unit], each, rng)
    own, under = np.zeros((2, len(pairs), genes.stop - genes.start))
    size = cells_at_once(network, data.n_genes)
    for number, start in enumerate(range(0, len(cells), size)):
        at = slice(start, start + size)
        block, which = _block(network, data, cells[at], seed, -1 - number), _Places.of(pair[at])
        z, log_library = _draw(network, block, False)
        which.add(own, _shares(network.decode(z, log_library, block.batch), genes))
        total = torch.zeros(len(cells[at]), genes.stop - genes.start)
        for code, weight in zip(under_codes, under_weights, strict=True):
            decoded = network.decode(z, log_library, block.batch.with_batch(int(code)))
            total.add_(_shares(decoded, genes), alpha=float(weight))
        which.add(under, total)
    found: Doubles = (under / np.maximum(own, _NONE))[of_unit.ravel()]
    return found


def _standing(codes: Codes, weights: Doubles, most: int, rng: np.random.Generator) -> tuple[Codes, Doubles]:
    """Return at most so many batches that stand for all, and their weights, of sum 1.

    Few are all taken. Of many a systematic sample is drawn, each as likely as its weight says; they weigh alike.
    """
    if len(codes) <= most:
        return codes, weights
    steps = (np.arange(most) + rng.random()) / most
    order = rng.permutation(len(codes))
    drawn = order[np.minimum(np.searchsorted(np.cumsum(weights[order]), steps), len(codes) - 1)]
    chosen, times = np.unique(drawn, return_counts=True)
    return codes[chosen], times / most


def _some_of_each(cells: Codes, code: Codes, each: int, rng: np.random.Generator) -> tuple[Codes, Codes]:
    """Return at most so many cells of each code, in the order of the codes, and their codes."""
    order = rng.permutation(len(cells))
    order = order[np.argsort(code[order], kind="stable")]
    sorted_codes = code[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_codes, sorted_codes)
    kept = np.sort(order[rank < each])
    kept = kept[np.argsort(code[kept], kind="stable")]
    return cells[kept], code[kept]


def _shares(parameters: CountParameters, genes: slice) -> Tensor:
    return _cpu(parameters.log_share)[:, genes].exp()


def _blocks(units: Units, size: int) -> Iterator[slice]:
    for start in range(0, len(units.cells), size):
        yield slice(start, min(start + size, len(units.cells)))


def _block(network: Network, data: CellData, cells: Codes, seed: int, number: int) -> Block:
    batch = minibatch_for(network, data, cells)
    return Block(0, batch, network.encode(batch), block_generator(network, seed, number % (1 << 32)))


def _draw(network: Network, block: Block, importance_weighting: bool) -> tuple[Tensor, Tensor]:
    """Return one draw of each cell's latent state and library size."""
    if importance_weighting:
        return resampled_draws(network, block, n_draws=1, n_proposals=N_PROPOSALS)
    return network.sample_latent(block.latent, block.batch, 1, block.generator)


def _cpu(values: Tensor) -> Tensor:
    return values[0].to("cpu", torch.float32)


def _rows(table: Doubles, codes: Any) -> Tensor:
    """Return a row of a table for each code, in float32."""
    first, last = int(codes.min()), int(codes.max()) + 1
    return torch.from_numpy(table[first:last]).float()[torch.from_numpy(codes - first)]


@dataclass(frozen=True)
class _Places:
    """Rows of a table that the cells of a block, in the order of their codes, are added to."""

    first: int
    n: int
    row: Tensor
    """Row of each cell, counted from the first; (cells,)."""

    @classmethod
    def of(cls, codes: Codes) -> _Places:
        """Find the rows of the cells of a block; codes ascending."""
        first = int(codes[0])
        return cls(first, int(codes[-1]) - first + 1, torch.from_numpy(codes - first))

    def add(self, table: Doubles, values: Tensor) -> None:
        """Add values (cells, genes) to their rows of a table."""
        if self.n <= _FEW_SUMS:
            total = torch.nn.functional.one_hot(self.row, self.n).T.float() @ values
        else:
            total = values.new_zeros(self.n, values.shape[1]).index_add_(0, self.row, values)
        table[self.first : self.first + self.n] += total.double().numpy()


def sums_by(values: Doubles, codes: Codes, n: int) -> Doubles:
    """Return the sums of the rows of each code from 0 to n - 1; (n, genes). Rows of code -1 are in none."""
    if n <= _FEW_SUMS:
        total: Doubles = (np.arange(n)[:, None] == codes).astype(np.float64) @ values
        return total
    kept = np.flatnonzero(codes >= 0)  # a product with a sparse matrix: the time does not grow with n
    which = sparse.csr_matrix((np.ones(len(kept)), (codes[kept], kept)), shape=(n, len(codes)))
    return np.asarray(which @ values)


_FEW_SUMS = 32
