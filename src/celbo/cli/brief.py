"""The short help of a command with many options: those that most people need; --help-all shows every one."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import field, fields, is_dataclass, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

from cyclopts import Parameter

__all__ = ["EXAMPLES", "SHORT", "brief", "help_lines"]

SHORT = (
    "out", "model", "seed",
    "layer", "batch_key", "labels_key",
    "n_top_genes", "min_counts", "min_genes", "max_percent_mito",
    "n_latent", "likelihood", "max_epochs", "resolution",
)  # fmt: skip
"""Options in the short help, beside those of the command itself."""
EXAMPLES = {
    "run": """Examples:

  celbo run counts.h5ad --out out/
  celbo run counts.h5ad --batch-key sample --labels-key cell_type --out out/
  celbo run sample1/ sample2/ --min-counts 500 --max-percent-mito 20 --out out/""",
    "train": """Examples:

  celbo train counts.h5ad --batch-key sample --out out/
  celbo train counts.h5ad --model ldvae --n-latent 20 --out out/
  celbo train counts.h5ad --model dca --preset paper --out out/""",
}
"""Shown under the help of a command."""


def brief(kind: type[Any]) -> type[Any]:
    """Return a dataclass with the short help's options alone, flat, each with the heading and help line it has in full.

    Parameters
    ----------
    kind
        Class of all options, whose sections are dataclasses.
    """
    rows: dict[str, tuple[str, Any, Any]] = {}
    _collect(kind, kind(), None, rows)
    made = make_dataclass("Brief", [rows[name] for name in SHORT if name in rows], kw_only=True, frozen=True)
    made.__module__ = __name__  # of `types` it would pass for a built-in type, which has no fields
    return made


def _collect(kind: type[Any], defaults: Any, heading: Any, rows: dict[str, tuple[str, Any, Any]]) -> None:
    hints, lines = get_type_hints(kind, include_extras=True), help_lines(kind)
    for item in fields(kind):
        value = getattr(defaults, item.name)
        if is_dataclass(value):
            _collect(type(value), value, _heading(hints[item.name]), rows)
        elif item.name in SHORT:
            shown = Parameter(help=lines.get(item.name), **({} if heading is None else {"group": heading}))
            rows[item.name] = (item.name, Annotated[hints[item.name], shown], field(default=value))


def _heading(hint: Any) -> Any:
    """Return the group of the help that a section's annotation names."""
    given = [extra.group for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Parameter)]
    return given[0] if given else None


def help_lines(kind: type[Any]) -> dict[str, str]:
    """Return the docstring of each field of a dataclass, those of its base classes too."""
    lines: dict[str, str] = {}
    for base in reversed([b for b in kind.__mro__ if b is not object]):
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):  # made at run time: its fields are those of its bases
            continue
        body = ast.parse(textwrap.dedent(source)).body[0].body  # type: ignore[attr-defined]
        for item, after in pairwise(body):
            is_field = isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            if is_field and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                lines[item.target.id] = " ".join(str(after.value.value).split())
    return lines
