"""The options of the commands that ask: frozen dataclasses with one help line a field, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from celbo.errors import OptionError

__all__ = ["CompareConfig", "DifferentialConfig"]


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What a comparison does."""

    methods: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("all",)
    """Methods to compare, or all."""
    n_top_genes: int = 2000
    """Highly variable genes to compare on; 0 is all genes."""
    held_out: float = 0.1
    """Share of the cells that judge the likelihood."""
    repeats: bool = True
    """Fit each method again with another seed and other parameters, to see how far the picture moves."""
    denoise: bool = True
    """Fit each method again to nine tenths of the molecules, and score the others."""
    seed: int = 0
    """Seed of everything that is random."""

    def __post_init__(self) -> None:
        """Refuse impossible values with an `OptionError` that names the option."""
        if not 0 < self.held_out < 1:
            raise OptionError("must be above 0 and below 1", where="held_out", value=repr(self.held_out))
        for name in ("n_top_genes", "seed"):
            if getattr(self, name) < 0:
                raise OptionError("must be at least 0", where=name, value=repr(getattr(self, name)))
        if self.methods != ("all",):
            from celbo.pipeline.methods import chosen

            chosen(self.methods)


@dataclass(frozen=True, kw_only=True)
class DifferentialConfig:
    """What is compared, and how."""

    groupby: str | None = None
    """Column of obs with the groups; alone, each group is compared with all others."""
    group1: str | None = None
    """The group of interest."""
    group2: str | None = None
    """The group to compare it with; by default all others."""
    idx1: str | None = None
    """Cells of interest as a query on the columns of obs, such as "batch == 'a' and n_counts > 500"."""
    idx2: str | None = None
    """Cells to compare them with, as a query; by default all others."""
    mode: Literal["change", "vanilla"] = "change"
    """Probability of a change beyond delta, or P(rho_1 > rho_2) as in the first paper."""
    delta: float | None = 0.25
    """Smallest log2 fold change that counts as a difference; none chooses it from the data."""
    fdr_target: float = 0.05
    """Expected false discovery rate of the calls."""
    sample_key: str | None = None
    """Column of obs with the sample (donor, mouse) of each cell: compares over samples instead of over cells."""
    batch_correction: bool = True
    """Compare within the batches that hold both groups; where none does, nothing is corrected and a warning says so."""
    calibrated: bool = True
    """Correct the posterior by the counts of the groups, so that the calls hold their rate; no is as published."""
    pseudocount: float | None = None
    """Added to both expected shares in the fold change; by default chosen from the data."""
    credible_level: float = 0.95
    """Posterior probability of the credible intervals."""
    n_samples: int = 5000
    """Draws of cells of each group."""
    seed: int = 0
    """Seed of the draws."""

    def require_groups(self) -> None:
        """Refuse options that name no groups, before anything is read.

        Raises
        ------
        OptionError
            If neither a column nor a query is given, or a second group without a first.
        """
        if self.groupby is None and self.idx1 is None:
            fix = "Give --groupby COLUMN, or --idx1 QUERY."
            raise OptionError("names no groups", where="the comparison", fix=fix)
        for first, second in (("group1", "group2"), ("idx1", "idx2")):
            if getattr(self, second) is not None and getattr(self, first) is None:
                value = repr(getattr(self, second))
                raise OptionError(f"needs --{first} beside it", where=f"--{second}", value=value)
        if self.groupby is not None and self.idx1 is not None:
            fix = "Give --groupby with --group1 and --group2, or queries as --idx1 and --idx2."
            raise OptionError("both say which cells to compare", where="--groupby and --idx1", fix=fix)
        if self.groupby is None and self.group1 is not None:
            fix = "Name the column: --groupby COLUMN. Cells of a query are compared with those of --idx2."
            raise OptionError(
                "goes with --groupby, not with --idx1", where="--group1", value=repr(self.group1), fix=fix
            )
