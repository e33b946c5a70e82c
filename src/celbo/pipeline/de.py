"""Differential expression with a saved model: the options of the command, the table, and what its page shows."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from celbo import results
from celbo.data.obs import column_of
from celbo.data.symbols import with_symbols
from celbo.errors import CelboWarning, logger_of
from celbo.pipeline.ask import Asked
from celbo.pipeline.options import DifferentialConfig
from celbo.pipeline.pages import NAMES
from celbo.pipeline.steps import DOUBLE_DIPPING
from celbo.report.differential import DifferentialPage

__all__ = ["Compared", "DifferentialConfig", "compare_groups", "differential_page"]

_log = logger_of("celbo.pipeline")

_CLUSTERS = re.compile(r"leiden|louvain|cluster|k_?means", re.IGNORECASE)
"""Columns of this name hold groups that were found in the cells themselves."""
_CELLS = (
    "Cells were compared, not samples: cells of one donor or mouse are more alike than cells of two. For a statement "
    "about donors or mice, compare over them: --sample-key COLUMN."
)
_UNCORRECTED = (
    "This is the published procedure, without calibration: its probabilities are those of random pairs of cells under "
    "the model alone, and the false discovery rate is not held."
)
_VANILLA = "A Bayes factor beyond 3 is the published rule. It bounds no error rate: large groups differ in many genes."


@dataclass(frozen=True)
class Compared:
    """What was found."""

    table: pd.DataFrame
    """`model.differential_expression(...)`."""
    warnings: tuple[str, ...]
    """What celbo warned of on the way."""

    @property
    def in_short(self) -> str:
        """How many genes are called, in a few words."""
        called = self.table[self.table["is_de"].to_numpy(bool)]
        pairs = self.table[["group1", "group2"]].drop_duplicates()
        many = f", {len(called):,} calls in {len(pairs)} comparisons" if len(pairs) > 1 else ""
        return f"{called.index.nunique():,} of {self.table.index.nunique():,} genes{many}{self._batches}"

    @property
    def _batches(self) -> str:
        if not self.table["confounded"].any():
            return ""
        alone = self.table.loc[self.table["confounded"].to_numpy(bool), "group1"].nunique()
        which = "" if alone == self.table["group1"].nunique() else f" for {alone} of the groups"
        return f"; not corrected for batch{which}: the differences include those of the batches"


def compare_groups(asked: Asked, config: DifferentialConfig) -> Compared:
    """Compare groups of cells gene by gene, see `celbo.models.base.CountModel.differential_expression`.

    Parameters
    ----------
    asked
        The model with the cells.
    config
        What is compared, and how.

    Raises
    ------
    SchemaError
        If there is no such column.
    OptionError
        If there is no such group, or the model has no posterior of expression.
    InputError
        If a query cannot be read, or a group has no cells.
    """
    config.require_groups()
    model = asked.count_model
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", CelboWarning)
        table = model.differential_expression(**asdict(config))
    told = tuple(dict.fromkeys(str(warning.message) for warning in caught))
    for message in told:
        _log.warning("%s", message)
    return Compared(with_symbols(table, asked.adata.var), told)


def differential_page(
    asked: Asked, config: DifferentialConfig, found: Compared, *, source: str = "", command: str = ""
) -> DifferentialPage:
    """Return what the page of a comparison shows.

    Parameters
    ----------
    asked
        The model with the cells.
    config
        What was compared, and how.
    found
        The table, and what was warned of.
    source
        Path or name of what was read.
    command
        The command to show.
    """
    name = type(asked.model).__name__.lower()
    vanilla = config.mode == "vanilla"
    sizes: Mapping[str, int] = {}
    if config.groupby is not None:
        column = column_of(asked.adata, config.groupby)
        sizes = {str(name): int(n) for name, n in column.value_counts().items()}
    return DifferentialPage(
        table=_by_symbol(found.table),
        n_cells=asked.adata.n_obs,
        sizes=sizes,
        groupby=config.groupby or "",
        fdr_target=None if vanilla else config.fdr_target,
        credible_level=config.credible_level,
        model=NAMES.get(name, name),
        source=source,
        warnings=found.warnings,
        notes=_notes(asked, config),
        command=command,
        settings=_settings(config, found.table),
        versions=results.versions(),
    )


def _by_symbol(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its genes called by their symbols, where it has them."""
    return table if "symbol" not in table else table.set_axis(pd.Index(table["symbol"], name="gene"))


def _notes(asked: Asked, config: DifferentialConfig) -> list[str]:
    """Return how the results are to be read, one sentence each."""
    notes = []
    if config.groupby is not None and _CLUSTERS.search(config.groupby):
        notes.append(DOUBLE_DIPPING)
    if config.sample_key is None:
        notes.append(_CELLS)
    if config.mode == "vanilla":
        notes.append(_VANILLA)
    elif not config.calibrated:
        notes.append(_UNCORRECTED)
    known, given = asked.model.schema.n_genes, asked.adata.n_vars
    if known < given:
        notes.append(f"Compared are the {known:,} genes that the model was trained on, of {given:,} in the data.")
    return notes


def _settings(config: DifferentialConfig, table: pd.DataFrame) -> dict[str, Any]:
    """Return the options that mattered, those that were chosen from the data as they were chosen."""
    idle = {"delta", "fdr_target", "calibrated"} if config.mode == "vanilla" else set()
    settings = {name: value for name, value in asdict(config).items() if value is not None and name not in idle}
    for name in ("delta", "pseudocount"):
        values = np.unique(table[name].dropna()) if name in table else np.empty(0)
        if len(values):
            settings[name] = f"{values[0]:.3g}" if len(values) == 1 else f"{values[0]:.3g} to {values[-1]:.3g}"
    return settings
