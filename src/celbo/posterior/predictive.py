"""Posterior predictive checks: does the model draw counts like those it saw (Gelman, Meng and Stern 1996)?

With x' drawn from p(x' | x) = E_q[p(x' | z, l)] for the same cells, a statistic T of each gene is compared between x
and many x'. A model that fits puts T(x) among the T(x').
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from celbo.data.cells import CellData
from celbo.errors import OptionError, nearest
from celbo.posterior.expression import posterior_predictive_sample, predicted_counts
from celbo.posterior.stream import Network, Positions, check_genes, check_positive, encoded_blocks, evaluating
from celbo.posterior.summaries import GeneSums, check_level, predictive_table

__all__ = ["STATISTICS", "posterior_predictive_check"]

Doubles = npt.NDArray[np.float64]
Statistic = Callable[[sparse.csr_matrix], Any]

STATISTICS = ("mean", "variance", "zeros")
"""The statistics that have a name: counts, counts squared (over cells), share of cells without a count."""
_ROWS = 4096


def posterior_predictive_check(
    network: Network,
    data: CellData,
    indices: Positions,
    *,
    genes: Positions | None = None,
    statistics: Sequence[str] | Mapping[str, Statistic] = STATISTICS,
    n_samples: int = 25,
    level: float = 0.9,
    batch_size: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare statistics of each gene between the counts and counts drawn from the model for the same cells.

    The named statistics are summed block by block: memory does not grow with the cells or the draws. A statistic of
    one's own sees all cells at once: one draw of them exists at a time, as a sparse matrix.

    Parameters
    ----------
    network, data, indices
        A trained network, the cells, and the positions asked for; (n,).
    genes
        Positions of the genes; None is all.
    statistics
        Some of "mean", "variance" and "zeros"; or functions by name, each of which takes counts, a CSR matrix (n,
        genes) float32, and returns a number for each gene, (genes,).
    n_samples
        Draws of the counts of all cells.
    level
        Of the interval of the draws.
    batch_size
        Cells at a time; None is as many as fit the memory bound.
    seed
        Seed of the draws.

    Returns
    -------
    The table of `celbo.posterior.summaries.predictive_table`: one row a gene; for each statistic T the columns
    T_observed, T_predicted, T_lower, T_upper, T_p. A statistic that is NaN for a gene has p NaN.

    Raises
    ------
    OptionError
        If a statistic does not exist, or does not return a number for each gene; if the draws are too few for the
        level.
    """
    check_positive("n_samples", n_samples)
    check_level(level, n_samples)
    check_genes(genes, data)
    columns = np.arange(data.n_genes) if genes is None else np.asarray(genes, np.int64)
    names = [data.schema.genes[g] for g in columns]
    if isinstance(statistics, Mapping):
        functions = _checked_functions(statistics)
        observed = _applied(functions, _counts_of(data, indices, columns))
        draws = []
        for number in range(n_samples):
            own_seed = int(np.random.SeedSequence([int(seed), number]).generate_state(1)[0])
            counts = posterior_predictive_sample(
                network, data, indices, genes=columns, batch_size=batch_size, seed=own_seed
            )
            draws.append(_applied(functions, counts))
    else:
        known = _checked_names(statistics)
        sums = _observed_sums(data, indices, columns)
        observed = {name: sums.moments()[name] for name in known}
        draws = _drawn_moments(
            network, data, indices, columns, centre=sums.centre, n_samples=n_samples, batch_size=batch_size, seed=seed
        )
    drawn = {name: np.stack([draw[name] for draw in draws]) for name in observed}
    return predictive_table(observed, drawn, names, level=level)


def _checked_names(statistics: Sequence[str]) -> list[str]:
    names = [statistics] if isinstance(statistics, str) else list(statistics)
    for name in names:
        if name not in STATISTICS:
            fix = f"{nearest(str(name), STATISTICS)} Your own statistic: statistics={{'name': function}}."
            raise OptionError("is not a statistic", where=f"statistics={name!r}", fix=fix)
    if not names:
        raise OptionError("is empty", where="statistics", fix="Leave it out for all that have a name.")
    return names


def _checked_functions(statistics: Mapping[str, Statistic]) -> Mapping[str, Statistic]:
    wrong = [name for name, function in statistics.items() if not callable(function)]
    if wrong or not statistics:
        raise OptionError(
            "is not a function" if wrong else "is empty",
            where=f"statistics[{wrong[0]!r}]" if wrong else "statistics",
            fix="Give functions by name: each takes counts (cells, genes) and returns one number for each gene.",
        )
    return statistics


def _applied(functions: Mapping[str, Statistic], counts: sparse.csr_matrix) -> dict[str, Doubles]:
    """Return what each function says of some counts; (genes,) each."""
    return {name: _value(name, function, counts) for name, function in functions.items()}


def _value(name: str, function: Statistic, counts: sparse.csr_matrix) -> Doubles:
    where, n_genes = f"the statistic {name!r}", counts.shape[1]
    fix = "It takes a sparse matrix of counts (cells, genes), and returns one number for each gene."
    try:
        value = np.asarray(function(counts), np.float64)
    except Exception as error:  # whatever the user's function raises is told with its name
        raise OptionError(f"raised {type(error).__name__}", where=where, value=str(error), fix=fix) from error
    if value.size != n_genes or value.ndim > 2:  # a sparse matrix's own means are (1, genes)
        raise OptionError(f"returned an array of shape {value.shape} for {n_genes} genes", where=where, fix=fix)
    return value.reshape(n_genes)


def _counts_of(data: CellData, cells: Positions, genes: Positions) -> sparse.csr_matrix:
    """Return the counts of some cells and genes, (cells, genes) float32."""
    rows = data.counts.rows(cells)
    arrays = (rows.values.numpy(), rows.indices.numpy(), rows.indptr.numpy())
    counts = sparse.csr_matrix(arrays, shape=(len(cells), data.n_genes))
    return counts if len(genes) == data.n_genes and (genes == np.arange(data.n_genes)).all() else counts[:, genes]


def _observed_sums(data: CellData, cells: Positions, genes: Positions) -> GeneSums:
    """Return the sums of the counts themselves, around their means."""
    centre = np.zeros(len(genes))
    for _ in range(2):  # the means, then squares around them
        sums = GeneSums(centre)
        for start in range(0, len(cells), _ROWS):
            sums.add(_counts_of(data, cells[start : start + _ROWS], genes))
        centre = sums.moments()["mean"]
    return sums


def _drawn_moments(
    network: Network,
    data: CellData,
    indices: Positions,
    genes: Positions,
    *,
    centre: Doubles,
    n_samples: int,
    batch_size: int | None,
    seed: int,
) -> list[dict[str, Doubles]]:
    """Return the moments of each draw of all cells."""
    sums = [GeneSums(centre) for _ in range(n_samples)]
    with evaluating(network):
        for block in encoded_blocks(network, data, indices, batch_size=batch_size, seed=seed):
            for one, counts in zip(sums, predicted_counts(network, block, n_samples), strict=True):
                one.add(sparse.csr_matrix(counts[:, genes]))
    return [one.moments() for one in sums]
