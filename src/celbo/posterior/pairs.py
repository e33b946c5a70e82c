"""Comparisons as published: random pairs of cells, one of each side, each decoded from a draw of its latent state.

With rho the share of a gene in a draw, decoded under the same batch for both of a pair:

    vanilla    p = P(rho_1 > rho_2)                                  Lopez et al. 2018, doi:10.1038/s41592-018-0229-2
    change     p = P(|log2(rho_1 + c) - log2(rho_2 + c)| >= delta)   Boyeau et al. 2019, doi:10.1101/794289

The differences are those between single cells, and the uncertainty is that of latent states under the trained
weights: a gene that varies within the groups is called less than their means would justify, and what the decoder did
not learn is not seen at all. No false discovery rate has been shown to hold. `celbo.posterior.differential` has the
corrected comparison of the groups' means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from celbo.data.cells import CellData
from celbo.data.groups import Groups
from celbo.posterior.population import apportioned, draw_scales, gene_slices, plan_draws
from celbo.posterior.shrinkage import FoldChanges, TestMode
from celbo.posterior.stream import Network

__all__ = ["Pairs", "compare_draws", "compare_pairs", "default_pseudocount", "log_odds"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_SEEN = 0.01
"""Mean count below which fold changes of a gene fade out: one count in a hundred cells."""
_SMALLEST_PSEUDOCOUNT = 1e-10
_GENES = 128


@dataclass(frozen=True)
class Pairs:
    """What the pairs of draws of a comparison say; (genes,) each."""

    higher: Doubles
    """P(rho_1 > rho_2); ties count half."""
    changes: FoldChanges
    scale1: Doubles
    scale2: Doubles


def compare_pairs(
    network: Network,
    data: CellData,
    groups: Groups,
    *,
    n_samples: int,
    batches: Sequence[int] | None,
    delta: float,
    pseudocount: float,
    level: float,
    test_mode: TestMode,
    importance_weighting: bool,
    seed: int,
) -> list[Pairs]:
    """Draw once from every group, and make all comparisons from these draws; parameters as in `differential`."""
    draws = plan_draws(data, groups.cells, n_samples=n_samples, batches=batches, seed=seed)
    sizes = np.array([len(cells) for cells in groups.cells], np.float64)
    rng = np.random.default_rng([seed, 1])
    sources = [
        tuple(_sources(side, sizes, n_samples, rng) for side in (c.groups1, c.groups2)) for c in groups.comparisons
    ]
    parts: list[list[Pairs]] = [[] for _ in groups.comparisons]
    for genes in gene_slices(data.n_genes, draws.cells.size):
        scales = draw_scales(network, data, draws, genes=genes, importance_weighting=importance_weighting, seed=seed)
        for part, pair in zip(parts, sources, strict=True):
            one, two = (_side(scales, source) for source in pair)
            part.append(compare_draws(one, two, delta=delta, pseudocount=pseudocount, level=level, test_mode=test_mode))
    return [_joined(part) for part in parts]


def _sources(side: Sequence[int], sizes: Doubles, n_samples: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the group that each draw of a side is taken from, in proportion to the cells; (draws,)."""
    if len(side) == 1:
        return np.full(n_samples, side[0])
    return np.asarray(side)[apportioned(sizes[list(side)], n_samples, rng)]


def _side(scales: Floats, source: npt.NDArray[np.int64]) -> Floats:
    """Return the draws of one side of a comparison; (draws, genes)."""
    one_population = (source == source[0]).all()
    side: Floats = scales[source[0]] if one_population else scales[source, np.arange(len(source))]
    return side


def _joined(parts: Sequence[Pairs]) -> Pairs:
    def joined(name: str) -> Doubles:
        return np.concatenate([getattr(part, name) for part in parts])

    return Pairs(
        joined("higher"), FoldChanges.joined([part.changes for part in parts]), joined("scale1"), joined("scale2")
    )


def compare_draws(
    scales1: Floats,
    scales2: Floats,
    *,
    delta: float,
    pseudocount: float,
    level: float = 0.95,
    test_mode: TestMode = "three",
) -> Pairs:
    """Compare paired draws of two sides.

    Parameters
    ----------
    scales1, scales2
        Expected shares, (draws, genes) each; draw i of one is compared with draw i of the other.
    delta
        Smallest fold change of interest (log2).
    pseudocount
        Added to both in the fold change; in units of the shares.
    level
        Mass of the credible interval, equal tails.
    test_mode
        "three": the larger of the probabilities of a rise and of a fall; "two": their sum.
    """
    parts = [
        _compared(
            scales1[:, at : at + _GENES],
            scales2[:, at : at + _GENES],
            delta=delta,
            pseudocount=pseudocount,
            level=level,
            test_mode=test_mode,
        )
        for at in range(0, scales1.shape[1], _GENES)
    ]
    return _joined(parts)


def _compared(
    scales1: Floats, scales2: Floats, *, delta: float, pseudocount: float, level: float, test_mode: TestMode
) -> Pairs:
    a, b = np.ascontiguousarray(scales1.T), np.ascontiguousarray(scales2.T)  # (genes, draws): each gene in one piece
    added = np.maximum(np.float32(pseudocount), np.finfo(np.float32).tiny)  # shares of 0 have a ratio too
    lfc = np.log2((a + added) / (b + added))
    up, down = (lfc >= delta).mean(1), (lfc <= -delta).mean(1)
    p = np.maximum(up, down) if test_mode == "three" else np.minimum(up + down, 1.0)
    higher = (a > b).mean(1) + 0.5 * (a == b).mean(1)
    mean, sd = lfc.mean(1, dtype=np.float64), lfc.std(1, dtype=np.float64)
    tail = 0.5 * (1 - level)
    lower, median, upper = np.quantile(lfc, [tail, 0.5, 1 - tail], axis=1, overwrite_input=True).astype(np.float64)
    changes = FoldChanges(mean, median, sd, lower, upper, p, 1 - p, log_odds(p, lfc.shape[1]))
    return Pairs(higher, changes, a.mean(1, dtype=np.float64), b.mean(1, dtype=np.float64))


def log_odds(p: Doubles, n_draws: int) -> Doubles:
    """Return ln(p / (1 - p)) of a share of draws, with half a draw on either side: p = 1 says no more than they can."""
    half = 0.5 / n_draws
    odds: Doubles = np.log(p + half) - np.log(1 - p + half)
    return odds


def default_pseudocount(data: CellData, cells: npt.NDArray[np.integer]) -> float:
    """Return the scale at which a gene has one count in a hundred of these cells: 0.01 over their mean library size.

    Fold changes between smaller decoded shares mean nothing: no data of this depth could show them.
    """
    sizes = data.library if data.size_factor is None else data.size_factor
    mean = float(sizes[cells].mean(dtype=np.float64))
    return max(_SMALLEST_PSEUDOCOUNT, _SEEN / mean) if mean > 0 else _SMALLEST_PSEUDOCOUNT
