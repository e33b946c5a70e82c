"""How far the intervals of a model can be trusted: simulation-based calibration and coverage, on cells that it draws.

    z* ~ p(z)    x* ~ p(x | z*, l, s)    z_1 ... z_L ~ q(z | x*)

Where q is the posterior p(z | x), the truth z* is one more draw of it: its rank among the L draws is uniform on
0 ... L, and a central interval of 95% holds it in 95% of cells (Talts et al. 2018, arXiv:1804.06788). The same is true
of any function of z and x. It is asked of z, of the log expression of genes, and of log p(x | z, l): the last, because
a q that ignores the counts and always says p(z) passes the test of z (Modrak et al. 2023, doi:10.1214/23-BA1404).

Cells come from two sources. "prior" is the textbook's, but few real cells are where most of the prior's mass is, and
there the encoder was never trained. "cells" draws z* from q(z | x) of the model's own cells, so that the simulated
cells are like them. This z* does not follow the prior, so that even the exact posterior need not be right in the long
run: its intervals are the wider or the narrower as the cells spread more or less than the prior says. What is asked
there is how often the intervals of a cell like these are right.

The weights of the network are taken as given, and the simulated cells are its own: what is wrong with the decoder, and
what training on other cells would have changed, no interval of the model knows of, nor does this check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import norm

from celbo.errors import InputError, NotTrainedError, OptionError, listed
from celbo.evaluate.calibration_ranks import BAND, UniformRanks

if TYPE_CHECKING:
    from celbo.data.cells import CellData
    from celbo.evaluate.calibration_draws import Located, Source

__all__ = ["Calibration", "calibrate_network", "calibration"]

Floats = npt.NDArray[np.float64]
_SOURCES: tuple[Source, ...] = ("cells", "prior")
_LEVELS = (0.5, 0.8, 0.95)


@dataclass(frozen=True, repr=False)
class Calibration:
    """What `calibration` found. In the tables, `source` is "cells" or "prior" (where the truth was drawn from),
    `posterior` is "q" (the network's) or "importance" (q, resampled by importance weights), `quantity` is "latent",
    "library_size" (latent ones only), "expression" or "log_likelihood", and `name` says which dimension or gene.
    """

    model: str
    """Name of the model's class."""
    n_cells: int
    """Cells drawn from each source."""
    n_draws: int
    """Draws of the posterior of each."""
    coverage: pd.DataFrame
    """One row for each source, posterior, quantity and level: `coverage`, the share of true values within the central
    interval, `standard_error` of it over cells, and `widening`, what the width of an interval of a normal posterior
    would have to be multiplied by to hold the truth as often as it says."""
    uniformity: pd.DataFrame
    """One row for each source, posterior, quantity and name: `p_value` of the ranks being uniform, `within_band`,
    whether they stay in the simultaneous 99% band; `bias` and `overconfidence`, the mean and the standard deviation of
    (truth - posterior mean) / posterior standard deviation, 0 and 1 where the posterior is right (a few cells whose
    draws are all but equal, as by importance weights, can inflate both)."""
    ranks: pd.DataFrame
    """How many draws are below the truth, 0 to n_draws: rows as `uniformity` (source, posterior, quantity, name),
    columns the simulated cells."""
    importance: pd.DataFrame | None
    """With importance resampling, one row a source: `n_proposals`; `median` and `lowest_tenth`, the effective number
    of proposals of the median cell and of the cell that nine of ten lie above. Where it is a few, the resampled draws
    are a few, and their intervals too narrow for that reason alone."""

    def __repr__(self) -> str:
        return self.summary()

    def coverage_at(self, levels: Sequence[float]) -> pd.DataFrame:
        """Return the table `coverage` at any levels, each between 0 and 1."""
        _check_levels(levels)
        return _coverage(self.ranks, self.n_draws, levels)

    def rank_differences(self) -> pd.DataFrame:
        """Return how far the ranks are from uniform, with the band that a right posterior leaves in 1% of tests.

        Returns
        -------
        One row for each source, posterior, quantity, name and point: `point`, a share of the draws; `difference`, the
        share of cells whose truth has at most this share of the draws below it, less the point; `lower` and `upper`,
        the band of the difference, simultaneous over the points (`celbo.evaluate.calibration_ranks`).
        """
        test = UniformRanks(self.n_cells, self.n_draws)
        lower, upper = test.band()
        found = test.counts(self.ranks.to_numpy()) / self.n_cells - test.points
        rows = np.repeat(np.arange(len(found)), len(test.points))
        columns = {"point": test.points, "lower": lower, "upper": upper}
        table = self.ranks.index.to_frame(index=False).iloc[rows].reset_index(drop=True)
        return table.assign(difference=found.ravel(), **{k: np.tile(v, len(found)) for k, v in columns.items()})

    def summary(self) -> str:
        """Return what was found in a few sentences."""
        lines = [f"{self.n_cells:,} cells of each kind, drawn from this {self.model}; its weights are taken as given."]
        for key, table in self.coverage.groupby(["source", "posterior"], sort=False):
            source, posterior = map(str, key)
            lines.append(_sentence(source, posterior, table))
        textbook = self.uniformity.query("source == 'prior' and posterior == 'q'")
        if len(textbook):
            n = len(textbook)
            lines.append(
                f"Simulation-based calibration: the ranks of {(~textbook.within_band).sum()} of {n} quantities leave"
                f" the {BAND:.0%} band; by chance {n * (1 - BAND):.1f} would."
            )
        return "\n".join(lines)


def calibration(
    model: Any,
    *,
    n_cells: int = 1000,
    n_draws: int = 200,
    levels: Sequence[float] = _LEVELS,
    sources: Sequence[str] = _SOURCES,
    genes: Sequence[str] | None = None,
    n_genes: int = 50,
    n_importance: int | None = None,
    seed: int = 0,
) -> Calibration:
    """Say how far the credible intervals of a model can be trusted, on cells drawn from the model itself.

    Parameters
    ----------
    model
        A trained model of counts with its data: `celbo.SCVI`, `LDVAE`, `SCVAE` or `VAE`. Batches, covariates and
        observed library sizes of the simulated cells are those of cells of the data.
    n_cells
        Cells drawn from each source.
    n_draws
        Draws of the posterior of each.
    levels
        Of the central credible intervals, each between 0 and 1.
    sources
        Where the latent states come from: "cells" (of cells like the model's own), "prior" (simulation-based
        calibration as its theory has it), or both. See the module's docstring for what each can say.
    genes
        Names of the genes whose expression (log share) is asked about; None chooses `n_genes` from the least to the
        most expressed.
    n_genes
        Number of genes where none are named.
    n_importance
        Where given, the same is asked of draws that are resampled from so many proposals by their importance weights
        (`celbo.posterior.importance`): what is better then is the share of q's shape and of the encoder in the error.
    seed
        Seed of all draws.

    Returns
    -------
    `Calibration`: tables, ranks and a `summary()`; `celbo.plots.plot_calibration` draws it.

    Raises
    ------
    NotTrainedError
        If the model is not trained.
    InputError
        If it was loaded without its data, or draws values that its own encoder cannot take.
    OptionError
        If it has no prior to draw cells from, or an option makes no sense.

    Examples
    --------
    >>> found = celbo.evaluate.calibration(model)
    >>> print(found.summary())
    >>> celbo.plots.plot_calibration(found)
    """
    from celbo.models.options import gene_positions

    name = type(model).__name__
    if not hasattr(getattr(model, "network", None), "sample_prior"):
        raise OptionError(
            "has no prior and posterior to draw cells from",
            where=f"model={name}",
            fix="Calibrate a variational model of counts: SCVI, LDVAE, SCVAE or VAE.",
        )
    if not model.is_trained:
        raise NotTrainedError("has not been trained", where=name, fix="Call model.train() first.")
    if model.data is None:
        raise InputError("was loaded without its data", where=name, fix="Pass adata to celbo.load.")
    return calibrate_network(
        model.network,
        model.data,
        name=name,
        n_cells=n_cells,
        n_draws=n_draws,
        levels=levels,
        sources=sources,
        genes=gene_positions(genes, model.schema),
        n_genes=n_genes,
        n_importance=n_importance,
        seed=seed,
    )


def calibrate_network(
    network: Any,
    data: CellData,
    *,
    name: str = "model",
    n_cells: int = 1000,
    n_draws: int = 200,
    levels: Sequence[float] = _LEVELS,
    sources: Sequence[str] = _SOURCES,
    genes: npt.NDArray[np.int64] | None = None,
    n_genes: int = 50,
    n_importance: int | None = None,
    seed: int = 0,
) -> Calibration:
    """Calibrate a network on its cells; as `calibration`, with genes by position and the model's name for the summary.

    The network has `sample_prior(batch, n_samples, generator)` beside what the posterior asks of every network.
    """
    from celbo.evaluate.calibration_draws import Design, locate_truth
    from celbo.posterior.stream import check_positive
    from celbo.training.device import check_seed

    proposals = {} if n_importance is None else {"n_importance": n_importance}
    for option, value in {"n_cells": n_cells, "n_draws": n_draws, "n_genes": n_genes, **proposals}.items():
        check_positive(option, value)
    check_seed(seed)
    _check_levels(levels)
    wanted = [sources] if isinstance(sources, str) else list(dict.fromkeys(sources))
    if not wanted or not set(wanted) <= set(_SOURCES):
        raise OptionError("is not a choice", where="sources", value=repr(sources), fix=f"Known: {listed(_SOURCES)}.")
    chosen = _genes_by_expression(data, n_genes) if genes is None else genes
    if not len(chosen):
        raise OptionError("is empty", where="genes", fix="Name genes of the model, or leave it out.")
    if not getattr(network, "has_shares", True):  # then the decoder's output is no expression
        chosen = chosen[:0]
    found: dict[tuple[str, str], Located] = {}
    for source in _SOURCES:
        if source in wanted:
            design = Design(
                source=source, n_cells=n_cells, n_draws=n_draws, n_importance=n_importance, genes=chosen, seed=seed
            )
            found |= {(source, posterior): part for posterior, part in locate_truth(network, data, design).items()}
    return _tables(name, found, n_draws, levels, n_importance)


def _check_levels(levels: Sequence[float]) -> None:
    numbers = [level for level in levels if isinstance(level, int | float | np.number) and 0 < level < 1]
    if not len(levels) or len(numbers) != len(levels):
        raise OptionError("are not all between 0 and 1", where="levels", value=repr(levels))


def _genes_by_expression(data: CellData, n_genes: int) -> npt.NDArray[np.int64]:
    """Return genes evenly spaced from the least to the most expressed, without those that no cell has."""
    totals = data.counts.gene_sums()
    seen = np.argsort(totals, kind="stable")[np.count_nonzero(totals <= 0) :]
    places = np.linspace(0, len(seen) - 1, min(n_genes, len(seen))).round().astype(np.int64)
    chosen: npt.NDArray[np.int64] = np.sort(seen[places])
    return chosen


def _tables(
    name: str,
    found: dict[tuple[str, str], Located],
    n_draws: int,
    levels: Sequence[float],
    n_importance: int | None,
) -> Calibration:
    rows = [(*key, *quantity) for key, part in found.items() for quantity in part.quantities]
    index = pd.MultiIndex.from_tuples(rows, names=["source", "posterior", "quantity", "name"])
    every = np.concatenate([part.ranks for part in found.values()])
    ranks = pd.DataFrame(every, index=index, columns=pd.RangeIndex(every.shape[1], name="cell"))
    errors = pd.DataFrame(np.concatenate([part.errors for part in found.values()]), index=index)
    p_value = UniformRanks(every.shape[1], n_draws).p_values(every)
    uniformity = pd.DataFrame(
        {
            "p_value": p_value,
            "within_band": p_value > 1 - BAND,
            "bias": errors.mean(axis=1),
            "overconfidence": errors.std(axis=1),
        },
        index=index,
    ).reset_index()
    sizes = [(source, part.effective_size) for (source, _), part in found.items() if part.effective_size is not None]
    importance = pd.DataFrame(
        [(source, n_importance, np.median(size), np.quantile(size, 0.1)) for source, size in sizes],
        columns=["source", "n_proposals", "median", "lowest_tenth"],
    )
    return Calibration(
        model=name,
        n_cells=every.shape[1],
        n_draws=n_draws,
        coverage=_coverage(ranks, n_draws, levels),
        uniformity=uniformity,
        ranks=ranks,
        importance=importance if sizes else None,
    )


def _coverage(ranks: pd.DataFrame, n_draws: int, levels: Sequence[float]) -> pd.DataFrame:
    """Return the share of truths within central intervals, in expectation over where between two draws a truth lies.

    A truth of rank r lies at some (r + U) / (L + 1) of the posterior with U uniform: so a right posterior's coverage is
    its level for any number of draws, as that of an interval between two quantiles of the draws is not.
    """
    rows = []
    for key, group in ranks.groupby(level=["source", "posterior", "quantity"], sort=False):
        place = group.to_numpy(np.float64)
        for level in levels:
            low, high = ((1 + side * level) / 2 * (n_draws + 1) for side in (-1, 1))
            inside = (np.minimum(place + 1, high) - np.maximum(place, low)).clip(0, 1).mean(0)  # (cells,)
            covered, n = float(inside.mean()), inside.size
            error = float(inside.std(ddof=1)) / np.sqrt(n) if n > 1 else np.nan
            rows.append((*key, float(level), covered, error, _widening(level, covered)))
    columns = ["source", "posterior", "quantity", "level", "coverage", "standard_error", "widening"]
    return pd.DataFrame(rows, columns=columns)


def _widening(level: float, coverage: float) -> float:
    """Return how much wider a normal interval must be to hold the truth at its level."""
    half = float(norm.ppf(0.5 + coverage / 2))
    return float(norm.ppf(0.5 + level / 2)) / half if half > 0 else np.inf


_SAYS = {"cells": "Simulated cells like those of the data", "prior": "Simulated cells from the prior"}
_SPEAKS = {"expression": "expression", "latent": "the latent state", "library_size": "the library size"}
_CLOSE = 0.02
"""Share of cells that a coverage may be off before it is worth a word."""


def _sentence(source: str, posterior: str, table: pd.DataFrame) -> str:
    """Return what the widest intervals hold, and what to think of it."""
    level = table.level.max()
    widest = table[table.level == level].set_index("quantity")
    says = []
    for quantity in (q for q in _SPEAKS if q in widest.index):
        row = widest.loc[quantity]
        off, verdict = row.coverage - level, "as they should"
        if abs(off) > max(_CLOSE, 2 * row.standard_error):
            verdict = f"they would have to be {row.widening:.2g} times as wide" if off < 0 else "wider than need be"
        says.append(f"in {row.coverage:.1%} for {_SPEAKS[quantity]} ({verdict})")
    how = ", resampled by importance weights," if posterior == "importance" else ""
    return f"{_SAYS[source]}: the {level:.0%} intervals{how} hold the true value {', '.join(says)}."
