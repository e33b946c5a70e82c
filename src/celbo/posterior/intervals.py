"""Credible intervals of anything that can be computed from the expression: the answer to a question of one's own.

A function f of the expression has a posterior because the latent state has one: draws of z ~ q(z | x) are decoded, f is
applied to each, and the results are summarised. The weights of the network are taken as they are: their uncertainty is
not in the intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd

from celbo.data.cells import CellData
from celbo.errors import OptionError, listed
from celbo.posterior.expression import LibrarySize, normalized_expression
from celbo.posterior.stream import Network, Positions, cells_at_once, check_genes, check_positive
from celbo.posterior.summaries import check_level, interval_of

__all__ = ["CredibleIntervals", "Over", "credible_intervals"]

Over = Literal["cells", "population"]
Floats = npt.NDArray[np.float32]
Function = Callable[[pd.DataFrame], Any]

_ENTRIES = 1 << 26
"""Most values of draws of a population that exist at a time: 256 MB as float32."""
_RESULTS = 1 << 27
"""Most values of a function's results that are kept: 1 GB as float64."""
_SUMMARIES = ("mean", "sd", "median", "lower", "upper")


class CredibleIntervals(pd.DataFrame):
    """The posterior of a quantity, summarised: a DataFrame with the columns mean, sd, median, lower and upper.

    One row a value of the quantity, by its name: a cell, a gene, a group. Of a quantity that is a table itself (the
    expression: cells x genes) the columns are (summary, column of the table), so that `found["lower"]` is a table like
    the quantity. `mean` of a function that says True or False is the probability; `lower` and `upper` bound the central
    interval, with as much probability below as above. What is computed from it is a plain DataFrame.

    Columns that are also methods of a DataFrame (mean, median) are had as `found["mean"]`.
    """

    @property
    def _constructor(self) -> Any:
        return pd.DataFrame

    @property
    def level(self) -> float:
        """Probability that the quantity is between the bounds; also `attrs["level"]`."""
        return float(self.attrs["level"])

    @property
    def n_samples(self) -> int:
        """Draws behind it; also `attrs["n_samples"]`."""
        return int(self.attrs["n_samples"])

    def table(self) -> pd.DataFrame:
        """Return the five summaries as columns, one row a value; rows of a table's values are (row, column)."""
        plain = pd.DataFrame(self)
        if plain.columns.nlevels == 1:
            return plain
        long = {name: plain[name].stack() for name in _SUMMARIES}
        return pd.DataFrame(long)

    @classmethod
    def of(cls, summaries: Sequence[Any], *, level: float, n_samples: int) -> CredibleIntervals:
        """Put the summaries side by side: numbers, arrays, Series or DataFrames of one shape."""
        first = _as_frame(summaries[0])
        if isinstance(first, pd.Series):
            found = cls({name: _as_frame(values) for name, values in zip(_SUMMARIES, summaries, strict=True)})
        else:
            found = cls(pd.concat([_as_frame(values) for values in summaries], axis=1, keys=_SUMMARIES))
        found.attrs.update(level=level, n_samples=n_samples)
        return found


def _as_frame(values: Any) -> Any:
    """Return a summary as a Series or a DataFrame; of an array by positions, all axes but the last in the rows."""
    if isinstance(values, pd.Series | pd.DataFrame):
        return values
    array = np.asarray(values)
    if array.ndim < 2:
        return pd.Series(np.atleast_1d(array))
    rows = pd.MultiIndex.from_product([range(n) for n in array.shape[:-1]]) if array.ndim > 2 else None
    return pd.DataFrame(array.reshape(-1, array.shape[-1]), index=rows)


def credible_intervals(
    network: Network,
    data: CellData,
    indices: Positions,
    *,
    function: Function | None = None,
    genes: Positions | None = None,
    transform_batch: list[int] | None = None,
    library_size: LibrarySize = 1.0,
    over: Over = "cells",
    level: float = 0.95,
    n_samples: int = 100,
    seed: int = 0,
) -> CredibleIntervals:
    """Return the posterior of a function of the expression.

    Parameters
    ----------
    network, data, indices
        A trained network, the cells, and the positions asked for; (n,).
    function
        Takes expression as a DataFrame (cells, genes) with their names, and returns numbers, or True and False. None is
        the expression itself.
    genes
        Positions of the genes that the function sees; None is all. Shares are of all genes in any case.
    transform_batch
        Codes of the batches to decode as, averaged; None is each cell's own.
    library_size
        What the shares are multiplied by; "latent" is each cell's own library size.
    over
        "cells": the function asks each cell alone, and returns one row for each (a Series or array (cells,), or a
        DataFrame or array (cells, k)). It is called with blocks of cells, the draws of a cell as so many rows of the
        same name, so that memory is bounded. Whether it gives the same for some of the cells alone is checked.
        "population": it is called once for each draw with all the cells asked for, and may return anything: a number, a
        Series of genes or groups, a table. One draw of all cells is in memory, (n, genes) float32: choose genes where
        that is much.
    level
        Probability that the interval holds.
    n_samples
        Draws of the latent state.
    seed
        Seed of the draws. They also depend on the cells and the genes asked for.

    Returns
    -------
    Mean, standard deviation, median and the bounds of the central interval, by the names that the function gives.

    Raises
    ------
    OptionError
        If the function raises, or returns what is not numbers, not finite, or not of one shape; if the draws are too
        few for the level.
    """
    check_positive("n_samples", n_samples)
    check_level(level, n_samples)
    check_genes(genes, data)
    if over not in ("cells", "population"):
        raise OptionError("does not exist", where=f"over={over!r}", fix="Use 'cells' or 'population'.")
    names = pd.Index(np.asarray(data.schema.genes, object) if genes is None else [data.schema.genes[g] for g in genes])
    draw = partial(
        normalized_expression,
        network,
        data,
        indices,
        genes=genes,
        transform_batch=transform_batch,
        library_size=library_size,
        return_mean=False,
    )
    cells = pd.Index(np.asarray(data.cell_names)[indices])
    calls = _Calls(function, cells, names, level)
    if over == "cells":
        size = cells_at_once(network, n_samples * len(names))
        draw(n_samples=n_samples, batch_size=size, seed=seed, out=calls.ask_cells)
        return calls.of_cells(n_samples)
    at_once = max(1, min(n_samples, _ENTRIES // max(1, len(indices) * len(names))))
    for number, start in enumerate(range(0, n_samples, at_once)):
        own_seed = int(np.random.SeedSequence([int(seed), number]).generate_state(1)[0])
        for values in draw(n_samples=min(at_once, n_samples - start), seed=own_seed):
            calls.ask_population(values, n_samples)
    return calls.of_population(n_samples)


class _Calls:
    """Calls of the user's function, checked, and what it returned."""

    def __init__(self, function: Function | None, cells: pd.Index, genes: pd.Index, level: float) -> None:
        self.function, self.cells, self.genes, self.level = function, cells, genes, level
        self.name = "the function" if function is None else f"the function {getattr(function, '__name__', function)!r}"
        self.parts: list[tuple[npt.NDArray[Any], ...]] = []
        self.results: list[npt.NDArray[np.float64]] = []
        self.first: Any = None

    def ask_cells(self, start: int, draws: Floats) -> None:
        """Take in all draws of some cells; (draws, cells, genes)."""
        n_draws, n_cells = draws.shape[:2]
        values: npt.NDArray[Any] = draws
        if self.function is not None:
            rows = draws.reshape(n_draws * n_cells, -1)
            names = np.tile(np.asarray(self.cells[start : start + n_cells]), n_draws)
            returned, values = self._rows(rows, names)
            if start == 0:
                self.first = returned
                self._check_alone(rows, names, values)
            elif values.shape[1:] != self.parts[0][0].shape[1:]:
                self._refuse(
                    f"returned rows of shape {values.shape[1:]}, after {self.parts[0][0].shape[1:]}",
                    "It must return the same columns for all cells.",
                )
            self._check_finite(values, names)
            values = values.reshape(n_draws, n_cells, *values.shape[1:])
        self.parts.append(_summarised(values, self.level))

    def ask_population(self, draw: Floats, n_samples: int) -> None:
        """Take in one draw of all cells, (cells, genes)."""
        returned = self._returned(draw, self.cells)
        values = self._numbers(returned)
        if self.first is None:
            self.first = returned
            if values.size * n_samples > _RESULTS:
                self._refuse(
                    f"returned {values.size:,} values of each of {n_samples} draws, more than may be kept",
                    "Use over='cells' for a function of each cell, or ask for fewer cells or genes.",
                )
        elif values.shape != self.results[0].shape or not _same_labels(returned, self.first):
            self._refuse(
                f"returned another shape or other names than for the first draw: {values.shape}",
                "It must return the same for every draw: take out what depends on the values, such as a selection.",
            )
        self._check_finite(values, None)
        self.results.append(values)

    def of_cells(self, n_samples: int) -> CredibleIntervals:
        """Return the summaries of all cells."""
        joined = [np.concatenate(parts) for parts in zip(*self.parts, strict=True)]
        columns = self.genes if self.function is None else getattr(self.first, "columns", None)
        series_name = getattr(self.first, "name", None)

        def labelled(values: npt.NDArray[Any]) -> Any:
            if values.ndim == 1:
                return pd.Series(values, index=self.cells, name=series_name)
            return pd.DataFrame(values, index=self.cells, columns=columns) if values.ndim == 2 else values

        return self._answer([labelled(values) for values in joined], n_samples)

    def of_population(self, n_samples: int) -> CredibleIntervals:
        """Return the summaries of what the function said of the population."""
        first = self.first if self.function is not None else pd.DataFrame(index=self.cells, columns=self.genes)

        def labelled(values: npt.NDArray[Any]) -> Any:
            if isinstance(first, pd.DataFrame):
                return pd.DataFrame(values, index=first.index, columns=first.columns)
            if isinstance(first, pd.Series):
                return pd.Series(values, index=first.index, name=first.name)
            return values if values.ndim else float(values)

        summaries = _summarised(np.stack(self.results), self.level)
        return self._answer([labelled(values) for values in summaries], n_samples)

    def _answer(self, summaries: list[Any], n_samples: int) -> CredibleIntervals:
        return CredibleIntervals.of(summaries, level=self.level, n_samples=n_samples)

    def _returned(self, values: Floats, names: Any) -> Any:
        frame = pd.DataFrame(values, index=names, columns=self.genes)
        if self.function is None:
            return frame
        try:
            return self.function(frame)
        except Exception as error:  # whatever the user's function raises is told with its name
            raise OptionError(
                f"raised {type(error).__name__}", where=self.name, value=str(error),
                fix="It is called with a DataFrame (cells, genes), named by the genes asked for; with over='cells' it "
                "has the rows of some cells only.",
            ) from error  # fmt: skip

    def _numbers(self, returned: Any) -> npt.NDArray[np.float64]:
        try:
            return np.asarray(returned, np.float64)
        except (TypeError, ValueError):
            self._refuse(f"returned a {type(returned).__name__} that does not hold numbers", "")

    def _rows(self, rows: Floats, names: npt.NDArray[Any]) -> tuple[Any, npt.NDArray[np.float64]]:
        """Return what the function says of some rows, and its values, one for each row."""
        returned = self._returned(rows, names)
        values = self._numbers(returned)
        if values.ndim == 0 or len(values) != len(rows):
            self._refuse(
                f"returned an array of shape {values.shape} for {len(rows)} rows, not one value or row for each",
                "Use over='population' for a function of all cells together.",
            )
        return returned, values

    def _check_alone(self, rows: Floats, names: npt.NDArray[Any], values: npt.NDArray[np.float64]) -> None:
        """Raise if the function says something else of some cells when the others are not there."""
        some = slice(0, max(1, len(rows) // 3))
        _, alone = self._rows(rows[some].copy(), names[some])
        same = alone.shape == values[some].shape and np.allclose(
            alone,
            values[some],
            rtol=1e-4,
            atol=1e-6 * (np.abs(values[np.isfinite(values)]).max(initial=0)),
            equal_nan=True,
        )
        if not same:
            self._refuse(
                "says something else of a cell when other cells are left out",
                "Use over='population' for a function of all cells together. It must not be random.",
            )

    def _check_finite(self, values: npt.NDArray[np.float64], names: npt.NDArray[Any] | None) -> None:
        bad = ~np.isfinite(values)
        if bad.any():
            rows = bad.reshape(len(values), -1).any(1) if values.ndim else bad
            where = "" if names is None else f" in {listed(dict.fromkeys(names[rows]), limit=3)}"
            self._refuse(
                f"returned {int(bad.sum()):,} values that are not finite{where}",
                "Keep denominators and arguments of logarithms above 0: add a small number.",
            )

    def _refuse(self, what: str, fix: str) -> NoReturn:
        raise OptionError(what, where=self.name, fix=fix)


def _summarised(draws: npt.NDArray[Any], level: float) -> tuple[npt.NDArray[Any], ...]:
    """Return mean, standard deviation, median, lower and upper bound of draws, (draws, ...)."""
    mean = draws.mean(0, dtype=np.float64)
    spread = np.sqrt(np.square(draws - mean).sum(0) / max(len(draws) - 1, 1))
    lower, median, upper = interval_of(draws, level)
    return mean.astype(draws.dtype), spread.astype(draws.dtype), median, lower, upper


def _same_labels(one: Any, other: Any) -> bool:
    """Whether two results have the same row and column names."""
    for axis in ("index", "columns"):
        names = [getattr(x, axis, None) for x in (one, other)]
        if isinstance(names[0], pd.Index) and not (isinstance(names[1], pd.Index) and names[0].equals(names[1])):
            return False
    return True
