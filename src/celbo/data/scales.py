"""Centre and scale of the continuous covariates: those of the training cells, so that no unit reaches a network.

    u = (x - m) / s        m, s: mean and standard deviation of x over the training cells

In float64: of a Unix time, 1.7e9 seconds, float32 keeps steps of 128 seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from celbo.data.schema import Scale
from celbo.errors import CelboWarning, SchemaError

__all__ = ["on_scales", "scales_of", "warn_of_columns", "warn_of_new_cells", "warn_of_units"]

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Names = Sequence[str] | npt.NDArray[np.object_]
_CONSTANT = 1e-12
"""Standard deviation, in units of the largest value, below which a column differs by rounding alone."""
_FAR = 25.0
"""Interquartile ranges from the median from where a value is likelier a code ("-999") or an error than measured."""
_OTHER_UNIT = 10.0
"""Standard deviations between new cells and the training cells from where they are likelier in another unit."""
_NEAR_ZERO, _NEAR_ONE = 3.0, (0.1, 10.0)
"""Mean and standard deviations that a network can take as they are."""


def scales_of(values: Doubles, keys: Sequence[str]) -> dict[str, Scale]:
    """Return the scale of each column.

    Parameters
    ----------
    values
        Values of the training cells; (cells, columns), finite.
    keys
        Names of the columns.
    """
    return {key: _scale(column) for key, column in zip(keys, values.T, strict=True)}


def _scale(column: Doubles) -> Scale:
    largest = float(np.abs(column).max(initial=0.0))
    if largest == 0:
        return Scale(0.0, 0.0)
    unit = column / largest  # squares of 1e200 have no float64
    mean, sd = float(unit.mean()), float(unit.std())
    return Scale(mean * largest, 0.0 if sd <= _CONSTANT else sd * largest)


def on_scales(values: Doubles, keys: Sequence[str], scales: Mapping[str, Scale], cell_names: Names) -> Floats:
    """Return the covariates as a network sees them; (cells, columns) float32.

    Parameters
    ----------
    values
        As the data have them; (cells, columns) float64.
    keys
        Names of the columns.
    scales
        Of the training cells; a column without one stays as it is.
    cell_names
        Name of each cell, for messages.

    Raises
    ------
    SchemaError
        If a value has no float32, so far is it from the training cells (or, unscaled, from zero).
    """
    out = np.empty(values.shape, np.float32)
    for i, key in enumerate(keys):
        mean, sd = scales.get(key, Scale())
        with np.errstate(over="ignore", invalid="ignore"):
            out[:, i] = values[:, i] / sd - mean / sd if sd else 0.0
        bad = np.flatnonzero(~np.isfinite(out[:, i]))
        if bad.size:
            raise SchemaError(
                "is too large for a number of a network", where=f"continuous_covariate_key {key!r}",
                value=f"cell {str(cell_names[bad[0]])!r} has {values[bad[0], i]:g}",
                fix="Correct it, or leave these cells out.",
            )  # fmt: skip
    return out


def warn_of_columns(values: Doubles, scales: Mapping[str, Scale], cell_names: Names) -> None:
    """Warn of covariates that say nothing of the training cells, or hold values that look like a code or an error."""
    for column, (key, (mean, sd)) in zip(values.T, scales.items(), strict=True):
        where = f"The continuous covariate {key!r}"
        if sd == 0:
            text = f"{where} has the same value, {mean:g}, in every training cell: it says nothing, and is left out."
            warnings.warn(CelboWarning(text), stacklevel=5)
            continue
        low, middle, high = np.quantile(column / sd, (0.25, 0.5, 0.75))
        far = np.abs(column / sd - middle)
        at = int(far.argmax())
        if high > low and far[at] > _FAR * (high - low):
            text = (
                f"{where} is {column[at]:g} in cell {str(cell_names[at])!r}, far from the other cells "
                f"(mean {mean:g}, SD {sd:g})."
            )
            fix = "Correct it where it stands for a missing value; or give a column of logarithms."
            warnings.warn(CelboWarning(text, fix=fix), stacklevel=5)


def warn_of_units(scales: Mapping[str, Scale]) -> None:
    """Warn of covariates that a network gets in their own units, because its configuration says so."""
    odd = [
        f"{key!r} (mean {mean:.6g}, SD {sd:.3g})"
        for key, (mean, sd) in scales.items()
        if abs(mean) > _NEAR_ZERO or not _NEAR_ONE[0] <= sd <= _NEAR_ONE[1]
    ]
    if odd:
        text = f"Continuous covariates enter this model in their own units, as in scvi-tools: {', '.join(odd)}."
        fix = "Centre and scale these columns, or pass scale_covariates=True."
        flag = "Centre and scale these columns, or pass --scale-covariates."
        warnings.warn(CelboWarning(text, fix=fix, flag=flag), stacklevel=5)


def warn_of_new_cells(scaled: Floats, keys: Sequence[str], scales: Mapping[str, Scale]) -> None:
    """Warn where new cells lie so far from those of the training that they are likelier in another unit."""
    for i, key in enumerate(keys):
        if key not in scales or not len(scaled):
            continue
        far = float(np.median(np.abs(scaled[:, i])))
        if far > _OTHER_UNIT:
            mean, sd = scales[key]
            text = (
                f"The continuous covariate {key!r} of these cells lies {far:.3g} standard deviations from the cells "
                f"that the model was trained on (mean {mean:g}, SD {sd:g})."
            )
            warnings.warn(CelboWarning(text, fix="Give it in the unit of the training cells."), stacklevel=4)
