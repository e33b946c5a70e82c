"""The options of the commands that ask: frozen dataclasses with one help line a field, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from celbo.errors import OptionError

__all__ = ["CompareConfig"]


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
