"""Columns of `obs`: read as categories or numbers in one way everywhere, and checked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from celbo.data.findings import Finding, error, warning
from celbo.data.schema import DataKeys
from celbo.errors import OptionError, SchemaError, listed, nearest

__all__ = [
    "UNLABELLED",
    "category_codes",
    "category_name",
    "check_columns",
    "check_keys",
    "n_unlabelled",
    "names_conditions",
    "numeric_values",
    "odd_labels",
    "suggested",
]

UNLABELLED = "unlabelled"
"""Category of the cells whose label is missing."""
SMALLEST_BATCH = 3
_BATCH_LIKE = re.compile(
    r"batch|donor|sample|patient|subject|individual|lane|librar|(^|_)run|replicate|chemistry|protocol|platform|tech|"
    r"dataset|experiment|stud(y|ies)|channel|plate|mouse|assay",
    re.IGNORECASE,
)
_LABEL_LIKE = re.compile(
    r"cell_?(type|line|label|class|state)|label|cluster|annot|leiden|louvain|ontology|(^|_)(sub)?class|identity|genotype"
    r"|lineage|bulk",
    re.IGNORECASE,
)
_BATCH_FIRST = re.compile(r"^batch", re.IGNORECASE)
_LABEL_FIRST = re.compile(r"cell_?(type|label)|annot", re.IGNORECASE)
_CONDITION = re.compile(
    r"\b(ctrl|control|stim|stimulated|unstim|treated|untreated|vehicle|dmso|wt|ko|wild ?type|knock ?out|mutant|case"
    r"|healthy|diseased?|normal|tumou?r|cancer|infected|uninfected|mock|pre|post|before|after|young|old|aged)\d*\b",
    re.IGNORECASE,
)
_ODD = re.compile(
    r"\b(doublets?|multiplets?|dying|dead|damaged|low[ -]?quality|debris|empty|contaminants?|ambient)\b"
    r"|^(mouse|human|rat)$",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(r"unlabel+ed|unknown|unassigned|undefined|nan|na|n/a|none|<na>|null|", re.IGNORECASE)
_LOOKS_MISSING = {"", "nan", "na", "n/a", "none", "<na>", "null"}


def category_codes(column: pd.Series[Any], *, missing: str | None = None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return a column as codes and the categories they stand for.

    The categories are those in use, as text: of a categorical column in its own order, of numbers and booleans
    ascending, of any other sorted.

    Parameters
    ----------
    column
        Column of `obs`; text, numbers, booleans or categories.
    missing
        Category for missing values, put last; where it is None they get code -1.

    Returns
    -------
    codes
        Position of each cell's category, -1 where missing; (cells,) int64.
    categories
        Their names.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        used = column.cat.remove_unused_categories().cat
        codes, given = used.codes.to_numpy(np.int64), [category_name(value) for value in used.categories]
        ordered = given
    else:
        codes, values = pd.factorize(column)
        given = [category_name(value) for value in values]
        numeric = pd.api.types.is_numeric_dtype(column.dtype)
        ordered = [category_name(value) for value in np.sort(values)] if numeric else sorted(given)
    names = tuple(dict.fromkeys([*ordered, *([missing] if missing is not None and (codes < 0).any() else [])]))
    position = {name: i for i, name in enumerate(names)}
    table = np.array([*(position[name] for name in given), position.get(missing or "", -1)], dtype=np.int64)
    return table[codes], names  # code -1, no value, takes the last of the table


def category_name(value: object) -> str:
    """Return a category as text; 3.0, a whole number beside missing values, is "3"."""
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)  # type: ignore[call-overload]


def numeric_values(column: pd.Series[Any]) -> NDArray[np.float64] | None:
    """Return a column as numbers, NaN where missing; (cells,). None where it does not hold numbers."""
    if isinstance(column.dtype, pd.CategoricalDtype) or pd.api.types.is_datetime64_any_dtype(column.dtype):
        return None
    if column.dtype == object and any(isinstance(value, str | bytes) for value in column):
        return None
    try:
        return cast("NDArray[np.float64]", column.to_numpy(dtype=np.float64, na_value=np.nan))
    except (TypeError, ValueError):
        return None


def check_keys(adata: AnnData, keys: DataKeys) -> list[Finding]:
    """Check that the keys are text, that no covariate is named twice, and that each names one column of `obs`."""
    for name in ("categorical_covariate_keys", "continuous_covariate_keys"):
        given = getattr(keys, name)
        if isinstance(given, str):
            fix = f"Pass {name}=({given!r},)."
            return [
                error(OptionError, "is a single text, not a list of columns", where=name, value=repr(given), fix=fix)
            ]
    found = [_check_key(adata, role, key) for role, key in _roles(keys)]
    twice = [key for key, n in Counter(str(key) for role, key in _roles(keys) if "covariate" in role).items() if n > 1]
    if twice:
        found.append(
            error(OptionError, "are named twice", where="covariates", value=listed(twice), fix="Name each once.")
        )
    return [finding for finding in found if finding is not None]


def _roles(keys: DataKeys) -> list[tuple[str, Any]]:
    single = [(role, getattr(keys, role)) for role in ("batch_key", "labels_key", "size_factor_key")]
    several = [
        (role, key)
        for role in ("categorical_covariate_keys", "continuous_covariate_keys")
        for key in getattr(keys, role)
    ]
    return [(role, key) for role, key in (*single, *several) if key is not None]


def _check_key(adata: AnnData, role: str, key: object) -> Finding | None:
    if not isinstance(key, str):
        fix = "Pass the name of a column of adata.obs."
        return error(OptionError, "is not the name of a column", where=role, value=repr(key)[:80], fix=fix)
    n = list(adata.obs.columns).count(key)
    if n == 1:
        return None
    where = f"{role} {key!r}"
    if n > 1:
        return error(SchemaError, f"names {n} columns of adata.obs", where=where, fix="Rename or drop all but one.")
    columns = [str(name) for name in adata.obs.columns]
    fix, flag = "adata.obs is empty.", "The data hold no columns of obs."
    if columns:
        fix = flag = nearest(key, columns)
    return error(SchemaError, "is not a column of adata.obs", where=where, fix=fix, flag=flag)


def check_columns(adata: AnnData, keys: DataKeys) -> list[Finding]:
    """Check the values of the columns that the keys name; columns that are not there are left to `check_keys`."""
    checks: dict[str, Callable[[str, pd.Series[Any]], Iterable[Finding]]] = {
        "batch_key": _check_batch,
        "labels_key": _check_labels,
        "size_factor_key": _check_size_factor,
        "categorical_covariate_keys": _check_categories,
        "continuous_covariate_keys": _check_numbers,
    }
    return [
        finding
        for role, key in _roles(keys)
        if isinstance(key, str) and list(adata.obs.columns).count(key) == 1
        for finding in checks[role](
            f"{role.removesuffix('s') if 'covariate' in role else role} {key!r}", adata.obs[key]
        )
    ]


def _check_batch(where: str, column: pd.Series[Any]) -> Iterable[Finding]:
    found = list(_check_categories(where, column))
    yield from found
    if any(finding.level == "error" for finding in found):
        return
    codes, names = category_codes(column)
    sizes = np.bincount(codes, minlength=len(names))
    if len(names) > max(2, len(column) / 2):
        fix = "A batch is a group of cells measured together; pass the column that names it, or none."
        flag = "A batch is a group of cells measured together; name the column that says it, or leave --batch-key out."
        value, what = (
            f"{len(names):,} batches in {len(column):,} cells",
            "looks like an identifier of cells, not a batch",
        )
        yield warning(SchemaError, what, where=where, value=value, fix=fix, flag=flag)
    elif (sizes < SMALLEST_BATCH).any():
        small = [f"{names[i]!r} ({sizes[i]})" for i in np.flatnonzero(sizes < SMALLEST_BATCH)]
        value = ", ".join(small[:10]) + (f" and {len(small) - 10} more" if len(small) > 10 else "")
        fix = "Their batch effects cannot be told from noise; merge them or remove these cells."
        yield warning(
            SchemaError, f"has batches of fewer than {SMALLEST_BATCH} cells", where=where, value=value, fix=fix
        )


def _check_labels(where: str, column: pd.Series[Any]) -> Iterable[Finding]:
    absent = column.isna().to_numpy()
    if absent.any() and not absent.all():
        value = f"{absent.sum():,} of {absent.size:,} cells, the first is {_cell(column, absent)}"
        yield warning(
            SchemaError,
            "has missing values",
            where=where,
            value=value,
            fix=f"These cells are treated as one more label, {UNLABELLED!r}.",
        )
        column = column[~absent]
    yield from _check_categories(where, column)


def _check_categories(where: str, column: pd.Series[Any]) -> Iterable[Finding]:
    """Check a column of categories: values there are, all of them, of a plain type, and distinct as text."""
    absent = column.isna().to_numpy()
    if absent.all():
        fix = "Pass another column, or fill this one."
        yield error(SchemaError, "has no value for any cell", where=where, fix=fix)
        return
    if absent.any():
        value = f"{absent.sum():,} of {absent.size:,} cells, the first is {_cell(column, absent)}"
        fix = f"Fill them, or remove these cells: adata = adata[adata.obs[{column.name!r}].notna()].copy()."
        flag = "Fill them in the file, or give a file without these cells."
        yield error(SchemaError, "has missing values", where=where, value=value, fix=fix, flag=flag)
        return
    yield from _check_category_values(where, column)


def _check_category_values(where: str, column: pd.Series[Any]) -> Iterable[Finding]:
    values = list(column.cat.categories) if isinstance(column.dtype, pd.CategoricalDtype) else list(column)
    odd = next((value for value in values if isinstance(value, list | tuple | dict | set | np.ndarray)), None)
    if odd is not None:
        fix = "Make it a column of text, numbers or categories."
        yield error(SchemaError, "holds values that are not categories", where=where, value=repr(odd)[:80], fix=fix)
        return
    distinct = dict.fromkeys(values)
    same = [text for text, n in Counter(category_name(value) for value in distinct).items() if n > 1]
    if same:
        fix = f"Make it text: adata.obs[{column.name!r}] = adata.obs[{column.name!r}].astype(str)."
        flag, what = "Write the column of the file as text.", "holds different values that read the same"
        yield error(SchemaError, what, where=where, value=listed(same), fix=fix, flag=flag)
    missing = [value for value in distinct if str(value).strip().lower() in _LOOKS_MISSING]
    if missing:
        fix = "They are treated as a category of that name."
        yield warning(
            SchemaError, "holds text that looks like a missing value", where=where, value=listed(missing), fix=fix
        )


def _check_numbers(where: str, column: pd.Series[Any], *, kept_in: type = np.float64) -> Iterable[Finding]:
    values = numeric_values(column)
    if values is None:
        value = f"{_cell(column, np.ones(len(column), bool))} is {column.iloc[0]!r}" if len(column) else ""
        fix = "Make it numeric, or pass it in categorical_covariate_keys if it names groups."
        flag = "If it names groups, give it to --categorical-covariate-keys."
        yield error(SchemaError, "does not hold numbers", where=where, value=value, fix=fix, flag=flag)
        return
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(values.astype(kept_in))
    if bad.any():
        value = f"{_cell(column, bad)} is {values[bad][0]:g}; {bad.sum():,} such cells"
        yield error(SchemaError, "is not finite", where=where, value=value, fix="Fill it or remove these cells.")


def _check_size_factor(where: str, column: pd.Series[Any]) -> Iterable[Finding]:
    found = list(_check_numbers(where, column, kept_in=np.float32))
    yield from found
    values = numeric_values(column)
    if found or values is None:
        return
    bad = values <= 0
    if bad.any():
        value = f"{_cell(column, bad)} is {values[bad][0]:g}; {bad.sum():,} such cells"
        yield error(SchemaError, "is not positive", where=where, value=value, fix="A size factor must be above 0.")


def _cell(column: pd.Series[Any], chosen: NDArray[np.bool_]) -> str:
    row = int(np.flatnonzero(chosen)[0])
    return f"cell {str(column.index[row])[:80]!r} (row {row})"


def suggested(adata: AnnData, *, like: str) -> tuple[str, ...]:
    """Return the columns of `obs` whose name and values look like `like`: "batch" or "label"; the likeliest first."""
    pattern, first = (_BATCH_LIKE, _BATCH_FIRST) if like == "batch" else (_LABEL_LIKE, _LABEL_FIRST)
    found = [str(n) for n in adata.obs.columns if pattern.search(str(n)) and _could_be_groups(adata.obs[n])]
    return tuple(sorted(found, key=lambda name: first.search(name) is None))  # else in the order of the columns


def names_conditions(batches: Sequence[str]) -> bool:
    """Return whether each batch has a condition in its name, such as a treatment, and not all the same."""
    found = [_CONDITION.findall(re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name)) for name in batches]
    return all(found) and len({word.lower() for words in found for word in words}) > 1


def odd_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the labels that say that cells are doublets, damaged, or of another species."""
    return tuple(name for name in labels if _ODD.search(name.replace("_", " ")))


def n_unlabelled(labels: Mapping[str, int]) -> int:
    """Return how many cells have a label that says that it is not known.

    Parameters
    ----------
    labels
        Cells of each label.
    """
    return sum(n for name, n in labels.items() if _UNKNOWN.fullmatch(name.strip()))


def _could_be_groups(column: pd.Series[Any] | pd.DataFrame) -> bool:
    if isinstance(column, pd.DataFrame) or pd.api.types.is_float_dtype(column.dtype):
        return False
    try:
        n = column.nunique()
    except TypeError:  # values that cannot be told apart, such as lists
        return False
    return 2 <= n <= min(1000, len(column) / 3)
