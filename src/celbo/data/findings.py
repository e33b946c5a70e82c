"""What a check of the data found: findings, and the facts a person wants to see beside them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from celbo.data.advice import Forecast, call_of, command_of, forecast
from celbo.data.schema import DataKeys
from celbo.errors import CelboError, CelboWarning, harmless, listed, tells_flags

__all__ = ["CheckResult", "Finding", "error", "note", "warning"]

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the data, or that the user should know.

    An "error" stops the work; of a "warning" the user is told wherever the data are used; a "note" stands only on the
    page of a check and in a report.
    """

    level: Literal["error", "warning", "note"]
    error: type[CelboError]
    """The class raised for it where `level` is "error"."""
    what: str
    where: str = ""
    value: str = ""
    fix: str = ""
    flag: str = ""
    """The fix for a user of the command line, where it differs."""
    settings: Settings = field(default_factory=dict)
    """Settings of a run that mend it, by name, such as {"min_counts": 1}; none where no option does."""

    @property
    def message(self) -> str:
        """The whole sentence, as it is raised or warned."""
        return str(self.to_error())

    def to_error(self) -> CelboError:
        """Return the finding as an exception, not yet raised."""
        return self.error(self.what, where=self.where, value=self.value, fix=self.fix, flag=self.flag)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        names = ("level", "what", "where", "value", "fix", "flag")
        made = {name: getattr(self, name) for name in names}
        return {**made, "error": self.error.__name__, "settings": dict(self.settings), "message": self.message}


def error(
    kind: type[CelboError],
    what: str,
    *,
    where: str = "",
    value: str = "",
    fix: str = "",
    flag: str = "",
    settings: Settings | None = None,
) -> Finding:
    """Return a finding that work cannot go on with."""
    return Finding("error", kind, what, where, value, fix, flag, settings or {})


def warning(
    kind: type[CelboError],
    what: str,
    *,
    where: str = "",
    value: str = "",
    fix: str = "",
    flag: str = "",
    settings: Settings | None = None,
) -> Finding:
    """Return a finding that work can go on with."""
    return Finding("warning", kind, what, where, value, fix, flag, settings or {})


def note(
    kind: type[CelboError],
    what: str,
    *,
    where: str = "",
    value: str = "",
    fix: str = "",
    flag: str = "",
    settings: Settings | None = None,
) -> Finding:
    """Return a finding that is good to know and needs nobody's attention."""
    return Finding("note", kind, what, where, value, fix, flag, settings or {})


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
    """File or files the data came from, or "adata"."""
    files: tuple[str, ...] = ()
    """The same as a list; empty for an AnnData."""
    matrix: str = "adata.X"
    """The matrix that was checked, as the user would write it."""
    format: str = ""
    """"csr", "csc" or "dense"."""
    dtype: str = ""
    median_counts: float = float("nan")
    """Median total of a cell, in counts."""
    empty_cells: int = 0
    """Cells without a single count."""
    batch_column: str | None = None
    """Column that `batches` are of: that of `batch_key`, or else the likeliest of those suggested."""
    batches: Mapping[str, int] = field(default_factory=dict)
    """Cells of each batch."""
    labels_column: str | None = None
    """Column that `labels` are of: that of `labels_key`, or else the likeliest of those suggested."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Cells of each label."""
    n_unlabelled: int = 0
    """Cells whose label is missing or says that it is unknown."""
    suggested_batch_keys: tuple[str, ...] = ()
    """Columns of `obs` that look like batches, the likeliest first."""
    suggested_labels_keys: tuple[str, ...] = ()
    """Columns of `obs` that look like cell types or clusters, the likeliest first."""
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
    def notes(self) -> tuple[Finding, ...]:
        """The findings that are good to know and need nobody's attention."""
        return tuple(found for found in self.findings if found.level == "note")

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

    @property
    def settings(self) -> dict[str, Any] | None:
        """Settings of a run on these data: the columns, and what mends the findings; None where no option mends one."""
        if any(not found.settings for found in self.errors):
            return None
        found: dict[str, Any] = {
            "layer": self.keys.layer,
            "batch_key": self.batch_column,
            "labels_key": self.labels_column,
            "size_factor_key": self.keys.size_factor_key,
            "categorical_covariate_keys": self.keys.categorical_covariate_keys,
            "continuous_covariate_keys": self.keys.continuous_covariate_keys,
            "round_counts": self.keys.round_counts,
        }
        for each in (*self.errors, *self.warnings):
            for name, value in each.settings.items():
                known = found.get(name)
                found[name] = max(known, value) if name == "min_counts" and known else value
        return {name: value for name, value in found.items() if value or (name == "layer" and name in self._mended())}

    def _mended(self) -> set[str]:
        return {name for found in self.findings for name in found.settings}

    @property
    def forecast(self) -> Forecast:
        """What a run on these data will take on this machine."""
        return forecast(n_cells=self.n_cells, n_stored=self.n_stored)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values: what `celbo check --json` prints.

        The keys are the names of the attributes, and "ok". Of "findings" each is a dict of level, error, what, where,
        value, fix, flag, settings and message; "settings" are those of a run (None where the data must be mended
        first), "command" is the run as a line for a shell, and "forecast" what it will take: seconds_from, seconds_to,
        memory_bytes and basis.
        """
        names = (
            "source", "files", "n_cells", "n_genes", "n_stored", "density", "matrix", "format", "dtype",
            "median_counts", "empty_cells", "batch_column", "batches", "labels_column", "labels", "n_unlabelled",
            "suggested_batch_keys", "suggested_labels_keys", "layers_with_counts",
        )  # fmt: skip
        made: dict[str, Any] = {"ok": self.ok, **{name: _plain(getattr(self, name)) for name in names}}
        made["findings"] = [found.to_dict() for found in self.findings]
        made["settings"] = None if self.settings is None else {k: _plain(v) for k, v in self.settings.items()}
        made["command"] = None if self.settings is None else command_of(self.files or ("FILE",), self.settings)
        return {**made, "forecast": self.forecast.to_dict()}

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.n_cells:,} cells x {self.n_genes:,} genes", *self._facts()]
        for found in (*self.errors, *self.warnings, *self.notes):
            kind = f"{found.error.__name__}: " if found.level == "error" else ""
            lines.append(f"{found.level.upper():8} {kind}{found.message}")
        if self.ok:
            fine = "OK: these are counts that a model can be trained on."
            lines.append("A model can be trained on these; read the warnings first." if self.warnings else fine)
        return "\n".join([*map(harmless, lines), *(harmless(line, lines=True) for line in self._advice())])

    def _advice(self) -> list[str]:
        """Return the run to start, and what it will take."""
        if self.settings is None:
            return []
        flags = tells_flags() or bool(self.files)
        run = command_of(self.files or ("FILE",), self.settings) if flags else call_of(self.settings)
        return ["", "Run it:" if self.ok else "This mends it:", f"  {run}", f"It will take {self.forecast}."]

    def _facts(self) -> list[str]:
        key = "--{}-key?" if tells_flags() else "{}_key?"
        matrix = self.matrix.removeprefix("adata.") if tells_flags() else self.matrix
        facts = [
            (
                "matrix",
                f"{matrix}, {self.format}, {self.dtype}, {self.density:.1%} not zero" if self.format else matrix,
            ),
            ("median cell", f"{self.median_counts:,.0f} counts" if self.format else ""),
            ("empty cells", f"{self.empty_cells:,}" if self.empty_cells else ""),
            ("batches", _sizes(self.batch_column, self.batches)),
            ("labels", _sizes(self.labels_column, self.labels)),
            (
                "unlabelled",
                f"{self.n_unlabelled:,} cells ({self.n_unlabelled / max(1, self.n_cells):.1%})"
                if self.n_unlabelled
                else "",
            ),
            (key.format("batch"), listed(self.suggested_batch_keys) if self.keys.batch_key is None else ""),
            (key.format("labels"), listed(self.suggested_labels_keys) if self.keys.labels_key is None else ""),
            ("counts in", listed(self.layers_with_counts)),
        ]
        return [f"{name:14} {fact}" for name, fact in facts if fact]


def _sizes(column: str | None, groups: Mapping[str, int], limit: int = 12) -> str:
    if not groups:
        return ""
    shown = [f"{name} ({size:,})" for name, size in list(groups.items())[:limit]]
    more = f" and {len(groups) - limit} more" if len(groups) > limit else ""
    return f"{column}: " + ", ".join(shown) + more


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124 - NaN
