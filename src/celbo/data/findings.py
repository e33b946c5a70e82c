"""What a check of the data found: findings, and the facts a person wants to see beside them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from celbo.data.schema import DataKeys
from celbo.errors import CelboError, CelboWarning, listed

__all__ = ["CheckResult", "Finding", "error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the data, or that the user should know."""

    level: Literal["error", "warning"]
    error: type[CelboError]
    """The class raised for it where `level` is "error"."""
    what: str
    where: str = ""
    value: str = ""
    fix: str = ""
    flag: str = ""
    """The fix for a user of the command line, where it differs."""

    @property
    def message(self) -> str:
        """The whole sentence, as it is raised or warned."""
        return str(self.to_error())

    def to_error(self) -> CelboError:
        """Return the finding as an exception, not yet raised."""
        return self.error(self.what, where=self.where, value=self.value, fix=self.fix, flag=self.flag)


def error(
    kind: type[CelboError], what: str, *, where: str = "", value: str = "", fix: str = "", flag: str = ""
) -> Finding:
    """Return a finding that work cannot go on with."""
    return Finding("error", kind, what, where, value, fix, flag)


def warning(
    kind: type[CelboError], what: str, *, where: str = "", value: str = "", fix: str = "", flag: str = ""
) -> Finding:
    """Return a finding that work can go on with."""
    return Finding("warning", kind, what, where, value, fix, flag)


@dataclass(frozen=True)
class CheckResult:
    """What is in a data set, whether it holds counts, what is wrong with it, and which keys suggest themselves.

    `str(result)` is the page that `celbo check` prints.
    """

    n_cells: int
    n_genes: int
    n_stored: int
    """Values that are not zero."""
    keys: DataKeys
    findings: tuple[Finding, ...]
    source: str = "adata"
    """File the data came from, or "adata"."""
    matrix: str = "adata.X"
    """The matrix that was checked, as the user would write it."""
    format: str = ""
    """"csr", "csc" or "dense"."""
    dtype: str = ""
    median_counts: float = float("nan")
    """Median total of a cell, in counts."""
    batches: Mapping[str, int] = field(default_factory=dict)
    """Cells of each batch."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Cells of each label."""
    suggested_batch_keys: tuple[str, ...] = ()
    """Columns of `obs` that look like batches."""
    suggested_labels_keys: tuple[str, ...] = ()
    """Columns of `obs` that look like cell types or clusters."""
    layers_with_counts: tuple[str, ...] = ()
    """Other matrices that hold counts; looked for only where the checked one does not."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that work cannot go on with."""
        return tuple(found for found in self.findings if found.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that work can go on with."""
        return tuple(found for found in self.findings if found.level == "warning")

    @property
    def ok(self) -> bool:
        """Whether a model can be trained on these data."""
        return not self.errors

    @property
    def density(self) -> float:
        """Share of values that are not zero."""
        return self.n_stored / max(1, self.n_cells * self.n_genes)

    def raise_if_bad(self) -> None:
        """Raise the first error as its class; where there is none, issue each warning as a `CelboWarning`."""
        for found in self.errors:
            raise found.to_error()
        for found in self.warnings:
            warnings.warn(CelboWarning(found.message), stacklevel=3)

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.n_cells:,} cells x {self.n_genes:,} genes", *self._facts()]
        lines += [f"{found.level.upper():7} {found.error.__name__}: {found.message}" for found in self.findings]
        if self.ok:
            lines.append("OK: these are counts that a model can be trained on.")
        return "\n".join(lines)

    def _facts(self) -> list[str]:
        facts = [
            ("matrix", f"{self.matrix}, {self.format}, {self.dtype}, {self.density:.1%} not zero"),
            ("median cell", f"{self.median_counts:,.0f} counts"),
            ("batches", _sizes(self.batches)),
            ("labels", _sizes(self.labels)),
            ("batch_key?", listed(self.suggested_batch_keys) if self.keys.batch_key is None else ""),
            ("labels_key?", listed(self.suggested_labels_keys) if self.keys.labels_key is None else ""),
            ("counts in", listed(self.layers_with_counts)),
        ]
        return [f"{name:12} {fact}" for name, fact in facts if fact]


def _sizes(groups: Mapping[str, int], limit: int = 12) -> str:
    shown = [f"{name} ({size:,})" for name, size in list(groups.items())[:limit]]
    more = f" and {len(groups) - limit} more" if len(groups) > limit else ""
    return ", ".join(shown) + more
