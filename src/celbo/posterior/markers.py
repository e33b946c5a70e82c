"""What tells two groups of cells apart: how well a gene does, and the one score by which genes are ranked.

Evidence of a difference is no ranking of markers: with a thousand cells a ribosomal gene that all cells have is surely
1.7-fold higher in some of them, and no cell can be told by it. A marker has a large fold change that is sure, and
separates the cells:

    score_g = b_g sqrt(max(0, 2 AUROC_g - 1))                                          for a gene higher in group 1

b is the end of the credible interval of the log2 fold change that is nearer to zero, 0 where zero is inside (the
confident effect: Harrison et al. 2019, doi:10.1186/s13059-019-1674-7), and AUROC the probability that a cell of group 1
has more of the gene, per total count, than a cell of group 2, ties counting half. A gene that is lower has the score of
the swapped groups, negative. The root weighs a gene of few cells less than a fold change, and not to nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from celbo.data.cells import CellData
from celbo.data.groups import Comparison, Groups
from celbo.posterior.population import gene_slices

__all__ = ["aurocs", "marker_score"]

Doubles = npt.NDArray[np.float64]

_ROWS = 4096
_BINS = 80
"""Of a gene's counts at the mean depth: one for zero, then four an octave from 1/32 to 27,000 counts."""
_LOWEST = (127 - 5) * 4 - 1
_MAX_BYTES = 64 << 20


def marker_score(low: Doubles, high: Doubles, auroc: Doubles) -> Doubles:
    """Return the score of each gene in log2, negative for genes lower in group 1; (genes,).

    Parameters
    ----------
    low, high
        Ends of the credible interval of the log2 fold change; the same number twice where there is none.
    auroc
        Probability that a cell of group 1 has more; (genes,).
    """
    apart = 2 * auroc - 1
    rise = np.maximum(low, 0) * np.sqrt(np.maximum(apart, 0))
    fall = np.maximum(-high, 0) * np.sqrt(np.maximum(-apart, 0))
    score: Doubles = rise - fall
    return score


def aurocs(data: CellData, groups: Groups) -> list[Doubles]:
    """Return for each comparison the AUROC of each gene's counts per total count; (genes,) each.

    Counts are sorted into bins of a fourth of an octave, within which they are ties: exact to about 0.01.

    Parameters
    ----------
    data
        The cells.
    groups
        The groups and the comparisons of them.
    """
    parts: list[list[Doubles]] = [[] for _ in groups.comparisons]
    for genes in gene_slices(data.n_genes, len(groups.cells) * _BINS, max_bytes=_MAX_BYTES):
        found = _histogram(data, groups, genes)
        every = found.sum(0)
        for part, comparison in zip(parts, groups.comparisons, strict=True):
            part.append(_auroc(found, every, comparison))
    return [np.concatenate(part) for part in parts]


def _histogram(data: CellData, groups: Groups, genes: slice) -> npt.NDArray[np.int32]:
    """Return how many cells of each group have so much of a gene; (groups, genes, bins)."""
    sizes = (data.library if data.size_factor is None else data.size_factor).astype(np.float64)
    scale = (sizes[np.concatenate(groups.cells)].mean() / np.maximum(sizes, 1e-12)).astype(np.float32)
    n = genes.stop - genes.start
    found = np.zeros((len(groups.cells), n * _BINS), np.int32)
    for i, members in enumerate(groups.cells):
        for start in range(0, len(members), _ROWS):
            cells = members[start : start + _ROWS]
            rows = data.counts.rows(cells)
            gene, value = rows.indices.numpy(), rows.values.numpy().astype(np.float32)
            value *= scale[cells][rows.row_of.numpy()]
            asked = (gene >= genes.start) & (gene < genes.stop) & (value > 0)
            if not asked.all():
                gene, value = gene[asked], value[asked]
            # of a positive float32, the exponent and the first two bits of the fraction
            step = (value.view(np.int32) >> 21) - _LOWEST
            at = np.clip(step, 1, _BINS - 1) + (gene - genes.start).astype(np.int64) * _BINS
            found[i] += np.bincount(at, minlength=n * _BINS)
    shaped = found.reshape(-1, n, _BINS)
    shaped[:, :, 0] = np.array([len(members) for members in groups.cells])[:, None] - shaped[:, :, 1:].sum(2)
    return shaped


def _auroc(found: npt.NDArray[np.int32], every: npt.NDArray[np.int64], comparison: Comparison) -> Doubles:
    one, two = (_summed(found, every, side) for side in (comparison.groups1, comparison.groups2))
    below = np.cumsum(two, axis=1) - 0.5 * two  # ties count half
    pairs = one.sum(1) * two.sum(1)
    auroc: Doubles = (one * below).sum(1) / pairs
    return auroc


def _summed(found: npt.NDArray[np.int32], every: npt.NDArray[np.int64], side: tuple[int, ...]) -> Doubles:
    """Return the histogram of several groups, by the fewer additions; (genes, bins)."""
    few = 2 * len(side) <= len(found)
    others = np.setdiff1d(np.arange(len(found)), side)
    summed: Doubles = (found[list(side)].sum(0) if few else every - found[others].sum(0)).astype(np.float64)
    return summed
