"""Which genes do two populations of cells express differently? The simple question of the lecture, for marker genes.

With rho the share of a gene in a cell, drawn from the posterior for a random cell of each population:

    p = P(rho_1 > rho_2)        Bayes factor = log(p / (1 - p))

(Lopez et al. 2018, doi:10.1038/s41592-018-0229-2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from celbo.data.cells import CellData
from celbo.errors import InputError, OptionError
from celbo.posterior.population import Draws, apportioned, draw_scales, gene_slices, plan_draws, raw_statistics
from celbo.posterior.stream import Network, Positions, check_batches, check_positive
from celbo.training.device import check_seed

__all__ = ["compare_scales", "default_pseudocount", "one_versus_rest", "probability_of_higher_expression"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_SEEN = 0.01
"""Mean count below which fold changes of a gene fade out: one count in a hundred cells."""
_SMALLEST_PSEUDOCOUNT = 1e-10
_GENES = 128


@dataclass(frozen=True)
class _Comparison:
    """Two mixtures of the populations drawn from."""

    names: tuple[str, str]
    weights: tuple[Doubles, Doubles]
    """Share of each population in either side; (populations,) each."""
    sources: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    """Population that each draw of either side is taken from; (draws,) each."""


def probability_of_higher_expression(
    network: Network,
    data: CellData,
    group1: Positions,
    group2: Positions,
    *,
    names: tuple[str, str] = ("group1", "group2"),
    n_samples: int = 5000,
    batch_correction: bool = True,
    transform_batch: Sequence[int] | None = None,
    pseudocount: float | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare two groups of cells, gene by gene.

    Parameters
    ----------
    network, data
        A trained network and the cells.
    group1, group2
        Positions of the cells of either group.
    names
        Names of the groups in the table.
    n_samples
        Pairs of draws, one draw from each group.
    batch_correction
        Decode both draws of a pair under the same batch. False decodes each cell under its own.
    transform_batch
        Codes of the batches to decode under, in proportion to their cells; None is all batches of the data.
    pseudocount
        Added to both scales in the log2 fold change; None is `default_pseudocount`.
    seed
        Seed of the draws.

    Returns
    -------
    One row a gene, index `gene`, the strongest evidence for group 1 first. Columns: group1, group2; proba_higher, the
    probability p that group 1 expresses the gene more; bayes_factor, the natural log of p / (1 - p), at most about
    log(2 n_samples) for want of more draws; lfc_mean, lfc_median (log2, group 1 over group 2); scale1, scale2 (mean
    expected share); raw_mean1, raw_mean2 (mean counts); detection1, detection2 (share of cells with a count).

    Raises
    ------
    InputError
        If a group has no cells.
    """
    check_positive("n_samples", n_samples)
    check_seed(seed)
    populations = [np.asarray(group1, np.int64), np.asarray(group2, np.int64)]
    _require_cells(names, populations)
    batches = _batches(data, batch_correction, transform_batch)
    draws = plan_draws(data, populations, n_samples=n_samples, batches=batches, seed=seed)
    first, second = np.eye(2)
    sources = (np.zeros(n_samples, np.int64), np.ones(n_samples, np.int64))
    comparison = _Comparison(names, (first, second), sources)
    return _tables(network, data, populations, draws, [comparison], pseudocount=pseudocount, seed=seed)


def one_versus_rest(
    network: Network,
    data: CellData,
    groups: Any,
    *,
    n_samples: int = 5000,
    batch_correction: bool = True,
    transform_batch: Sequence[int] | None = None,
    pseudocount: float | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare each group of cells with all others: its marker genes.

    All comparisons share one set of draws, so that the cost is that of decoding `n_samples` cells a group. The rest is
    drawn from the other groups in proportion to their cells.

    Parameters
    ----------
    network, data
        A trained network and the cells.
    groups
        Group of each cell; (cells,) names, numbers or a categorical. Cells without one (None, NaN) are left out.
    n_samples, batch_correction, transform_batch, pseudocount, seed
        As `probability_of_higher_expression`; `n_samples` draws from each group.

    Returns
    -------
    The tables of `probability_of_higher_expression` one below the other, group1 in the order of the groups (of the
    categories, else sorted), group2 "rest".

    Raises
    ------
    InputError
        If there are fewer than two groups, or another number of cells.
    """
    check_positive("n_samples", n_samples)
    check_seed(seed)
    names, populations = _groups(groups, data.n_cells)
    batches = _batches(data, batch_correction, transform_batch)
    draws = plan_draws(data, populations, n_samples=n_samples, batches=batches, seed=seed)
    sizes = np.array([len(members) for members in populations], np.float64)
    rng = np.random.default_rng([seed, 1])
    comparisons = [_against_rest(i, name, sizes, n_samples, rng) for i, name in enumerate(names)]
    return _tables(network, data, populations, draws, comparisons, pseudocount=pseudocount, seed=seed)


def _groups(groups: Any, n_cells: int) -> tuple[list[str], list[npt.NDArray[np.int64]]]:
    """Return names and positions of the cells of each group that has any."""
    labels = pd.Categorical(groups).remove_unused_categories()
    if len(labels) != n_cells:
        raise InputError(f"names the groups of {len(labels)} cells, not of {n_cells}", where="groups")
    if len(labels.categories) < 2:
        found = ", ".join(map(repr, labels.categories)) or "none"
        raise InputError("needs at least two groups", where="a comparison of groups", value=f"found {found}")
    return [str(name) for name in labels.categories], [
        np.flatnonzero(labels.codes == i) for i in range(len(labels.categories))
    ]


def _against_rest(i: int, name: str, sizes: Doubles, n_samples: int, rng: np.random.Generator) -> _Comparison:
    rest = np.where(np.arange(len(sizes)) == i, 0.0, sizes)
    own = np.eye(len(sizes))[i]
    sources = (np.full(n_samples, i), apportioned(rest, n_samples, rng))
    return _Comparison((name, "rest"), (own, rest / rest.sum()), sources)


def _require_cells(names: Sequence[str], populations: Sequence[Positions]) -> None:
    for name, members in zip(names, populations, strict=True):
        if len(members) == 0:
            raise InputError("has no cells", where=f"group {name!r}")


def _batches(data: CellData, batch_correction: bool, transform_batch: Sequence[int] | None) -> list[int] | None:
    """Return the codes of the batches to decode under; None is each cell's own."""
    codes = None if transform_batch is None else list(transform_batch)
    check_batches(codes, data)
    if codes is not None and not batch_correction:
        raise OptionError("makes no sense without batch correction", where=f"transform_batch={codes}")
    return (codes or list(range(data.schema.n_batches))) if batch_correction else None


def _tables(
    network: Network,
    data: CellData,
    populations: Sequence[Positions],
    draws: Draws,
    comparisons: Sequence[_Comparison],
    *,
    pseudocount: float | None,
    seed: int,
) -> pd.DataFrame:
    """Draw once for each slice of genes that fits in memory, and make all comparisons from it."""
    raw_mean, detection = raw_statistics(data, populations)
    added = _pseudocount(pseudocount, data, np.concatenate(populations))
    parts: list[list[dict[str, Doubles]]] = [[] for _ in comparisons]
    for genes in gene_slices(data.n_genes, draws.cells.size):
        scales = draw_scales(network, data, draws, genes=genes, seed=seed)
        for part, c in zip(parts, comparisons, strict=True):
            part.append(compare_scales(*(_side(scales, source) for source in c.sources), pseudocount=added))
    tables = [
        _table(data, c, {k: np.concatenate([p[k] for p in part]) for k in part[0]}, raw_mean, detection)
        for c, part in zip(comparisons, parts, strict=True)
    ]
    return pd.concat(tables)


def _side(scales: Floats, source: npt.NDArray[np.int64]) -> Floats:
    """Return the draws of one side of a comparison; (draws, genes)."""
    one_population = (source == source[0]).all()
    side: Floats = scales[source[0]] if one_population else scales[source, np.arange(len(source))]
    return side


def compare_scales(scales1: Floats, scales2: Floats, *, pseudocount: float) -> dict[str, Doubles]:
    """Compare paired draws of two populations.

    Parameters
    ----------
    scales1, scales2
        Expected shares, (draws, genes) each; draw i of one is compared with draw i of the other.
    pseudocount
        Added to both in the fold change; in units of the shares.

    Returns
    -------
    By name, (genes,) each: proba_higher (ties count half), lfc_mean, lfc_median (log2), scale1, scale2 (mean).
    """
    parts = [
        _compared(scales1[:, at : at + _GENES], scales2[:, at : at + _GENES], pseudocount)
        for at in range(0, scales1.shape[1], _GENES)
    ]
    return {name: np.concatenate([part[name] for part in parts]).astype(np.float64) for name in parts[0]}


def _compared(scales1: Floats, scales2: Floats, pseudocount: float) -> dict[str, npt.NDArray[Any]]:
    a, b = np.ascontiguousarray(scales1.T), np.ascontiguousarray(scales2.T)  # (genes, draws): each gene in one piece
    added = np.float32(pseudocount)
    lfc = np.log2((a + added) / (b + added))
    return {
        "proba_higher": (a > b).mean(1) + 0.5 * (a == b).mean(1),
        "lfc_mean": lfc.mean(1, dtype=np.float64),
        "lfc_median": np.median(lfc, axis=1, overwrite_input=True),
        "scale1": a.mean(1, dtype=np.float64),
        "scale2": b.mean(1, dtype=np.float64),
    }


def default_pseudocount(data: CellData, cells: Positions) -> float:
    """Return the scale at which a gene has one count in a hundred of these cells: 0.01 over their mean library size.

    Fold changes between smaller scales mean nothing: no data of this depth could show them.
    """
    sizes = data.library if data.size_factor is None else data.size_factor
    mean = float(sizes[cells].mean(dtype=np.float64))
    return max(_SMALLEST_PSEUDOCOUNT, _SEEN / mean) if mean > 0 else _SMALLEST_PSEUDOCOUNT


def _pseudocount(given: float | None, data: CellData, cells: Positions) -> float:
    if given is None:
        return default_pseudocount(data, cells)
    if not (np.isfinite(given) and given >= 0):
        raise OptionError("is not a number of at least 0", where=f"pseudocount={given!r}")
    return given


def _table(
    data: CellData, comparison: _Comparison, found: dict[str, Doubles], raw_mean: Doubles, detection: Doubles
) -> pd.DataFrame:
    p = found["proba_higher"]
    n_draws = len(comparison.sources[0])
    half = 0.5 / n_draws  # so that p = 1 says no more than this number of draws can
    first, second = comparison.weights
    columns: dict[str, Any] = {
        "group1": comparison.names[0],
        "group2": comparison.names[1],
        "proba_higher": p,
        "bayes_factor": np.log((p + half) / (1 - p + half)),
        **{name: found[name] for name in ("lfc_mean", "lfc_median", "scale1", "scale2")},
        "raw_mean1": first @ raw_mean,
        "raw_mean2": second @ raw_mean,
        "detection1": first @ detection,
        "detection2": second @ detection,
    }
    table = pd.DataFrame(columns, index=pd.Index(data.schema.genes, name="gene"))
    return table.sort_values(["bayes_factor", "lfc_median"], ascending=False, kind="stable")
