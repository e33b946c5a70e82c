"""What a reduction is given: log-normalised counts as CSR, or a representation as a dense array."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from celbo.data.components import Components, principal_components
from celbo.errors import DependencyError, InputError, OptionError, nearest

__all__ = ["Floats", "Space", "Values", "at_least", "imported", "one_of", "quiet", "seeded", "sound", "space_of"]

_LARGEST = 1e12
Floats = NDArray[np.float64]
Values = sparse.csr_matrix | NDArray[np.floating[Any]]
"""(cells, genes) CSR of log-normalised counts, or (cells, dimensions) dense representation."""


@dataclass(frozen=True, eq=False)
class Space:
    """The dense coordinates that a method of neighbours works in, and the way there."""

    coordinates: Floats
    """(cells, dimensions): principal components of counts, or the representation itself."""
    components: Components | None
    """The principal components; None where a representation was given."""
    n_columns: int
    """Genes, or dimensions of the representation."""

    def transform(self, values: Values) -> Floats:
        """Return the coordinates of other cells; (cells, dimensions)."""
        values = sound(values, n_columns=self.n_columns)
        return np.asarray(values, np.float64) if self.components is None else self.components.project(values)


def space_of(values: Values, *, n_pcs: int, seed: int) -> Space:
    """Return counts as their principal components, and a dense representation as it is.

    Parameters
    ----------
    values
        (cells, genes) CSR or (cells, dimensions) dense.
    n_pcs
        Principal components of a CSR matrix; fewer where the cells or genes are too few.
    seed
        Of the principal components.
    """
    seeded(seed)
    values = sound(values)
    n_columns = int(values.shape[1])
    if not sparse.issparse(values):
        _usable(values)
        return Space(np.asarray(values, np.float64), None, n_columns)
    at_least(1, "n_pcs", n_pcs)
    components = principal_components(values, min(n_pcs, n_columns, values.shape[0] - 1), seed=seed)
    return Space(components.project(values), components, n_columns)


def _usable(coordinates: NDArray[Any]) -> None:
    """Raise unless cells differ, and squares of distances between them exist in single precision."""
    if (coordinates == coordinates[0]).all():
        raise InputError(
            "do not differ between cells", where="values", fix="Cells that are all the same have no nearest neighbours."
        )
    largest = float(np.abs(coordinates).max())
    if largest > _LARGEST:
        fix = "Scale the representation."
        raise InputError(f"exceed {_LARGEST:g} in size", where="values", value=f"{largest:g}", fix=fix)


def sound(values: Values, *, n_columns: int | None = None) -> Values:
    """Return values once they are known to be a finite matrix of at least two cells (of one, with `n_columns`).

    Raises
    ------
    InputError
        If they are not; the message names the first cell.
    """
    matrix = values.tocsr() if sparse.issparse(values) else np.asarray(values)
    least = 2 if n_columns is None else 1
    if matrix.ndim != 2 or matrix.shape[0] < least or matrix.shape[1] < 1 or matrix.dtype.kind not in "biuf":
        fix = "Give numbers of (cells, genes or dimensions)."
        value = f"shape {matrix.shape}, dtype {matrix.dtype}"
        raise InputError(f"must be a matrix of at least {least} cell(s)", where="values", value=value, fix=fix)
    if n_columns is not None and matrix.shape[1] != n_columns:
        value = f"{matrix.shape[1]} columns for {n_columns}"
        raise InputError("do not match those of the fit", where="values", value=value, fix="Give the same columns.")
    stored = matrix.data if sparse.issparse(matrix) else matrix
    if not np.isfinite(stored).all():
        at = int(np.flatnonzero(~np.isfinite(np.asarray(matrix.sum(axis=1))))[0])
        fix = "Remove or correct those cells."
        raise InputError("hold numbers that are not finite", where="values", value=f"first in row {at}", fix=fix)
    return matrix


def at_least(
    least: float,
    name: str,
    value: float,
    *,
    most: float = np.inf,
    fix: str = "",
    kind: Literal["whole", "any"] = "whole",
) -> None:
    """Raise an `OptionError` unless an option is a number (a whole one, by default) within bounds."""
    kinds = int | np.integer if kind == "whole" else int | float | np.number
    if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value <= most:
        what = "a whole number" if kind == "whole" else "a number"
        bounds = f"of at least {least:g}" if most == np.inf else f"from {least:g} to {most:g}"
        raise OptionError(f"must be {what} {bounds}", where=name, value=repr(value)[:80], fix=fix)


def seeded(seed: int) -> None:
    """Raise an `OptionError` unless a seed is one that every library takes."""
    at_least(0, "seed", seed, most=2**32 - 1)


def one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raise an `OptionError` unless an option is one of the known words."""
    if value not in known:
        raise OptionError("is unknown", where=name, value=repr(value)[:80], fix=nearest(str(value), known))


def imported(module: str, *, package: str, method: str) -> Any:
    """Import a package when it is used.

    Raises
    ------
    DependencyError
        If it is not installed, with the command that installs it.
    """
    try:
        with quiet():
            return importlib.import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".", maxsplit=1)[0]:
            raise
        fix = f"Install it: pip install {package} (or celbo[embed])."
        raise DependencyError(f"needs the package {package}", where=method, fix=fix) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Show no warnings of the libraries: what matters in them is said here by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
