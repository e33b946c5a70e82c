"""What the user passes to a model, checked: configuration fields, cells, genes and batches by name or position."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
import pandas as pd

from celbo.data.schema import DataKeys, Schema
from celbo.errors import OptionError, listed, nearest
from celbo.training.plan import true_of

__all__ = [
    "Indices",
    "batch_codes",
    "check_config",
    "config_dict",
    "constructor_signature",
    "gene_positions",
    "positions",
    "requires_counts",
    "split_options",
]

Indices = Sequence[int] | npt.NDArray[Any] | pd.Series | None


def config_dict(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration by name."""
    return {f.name: getattr(config, f.name) for f in fields(config)}


def check_config(config: Any) -> None:
    """Check every field of a configuration against its type: choices of literals, positive sizes, rates in [0, 1).

    A configuration class may say otherwise for some fields in `limits`, as (test of a value, what it must be).
    """
    limits: dict[str, tuple[Callable[[Any], bool], str]] = getattr(config, "limits", {})
    kinds = get_type_hints(type(config))
    for name in (f.name for f in fields(config)):
        kind, value = kinds[name], getattr(config, name)
        if name in limits:
            holds, expected = limits[name]
            if not true_of(holds, value):
                raise OptionError("has an impossible value", where=f"{name}={value!r}", fix=f"It must be {expected}.")
            continue
        if kind == tuple[int, ...] and not (isinstance(value, tuple) and all(_is_size(v) for v in value)):
            raise OptionError("is not a tuple of positive whole numbers", where=f"{name}={value!r}")
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise OptionError(
                "is not a choice", where=f"{name}={value!r}", fix=nearest(str(value), map(str, get_args(kind)))
            )
        if kind is int and not _is_size(value):
            raise OptionError("is not a positive whole number", where=f"{name}={value!r}")
        if kind is float and (not isinstance(value, int | float) or not 0 <= value < 1):
            raise OptionError("is not between 0 and 1", where=f"{name}={value!r}")
        if kind is bool and not isinstance(value, bool):
            raise OptionError("is not True or False", where=f"{name}={value!r}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def requires_counts(config: Any) -> bool:
    """Whether a configuration needs values that are counts: every likelihood does but the normal."""
    return bool(getattr(config, "likelihood", "nb") != "normal")


def constructor_signature(config_class: type[Any]) -> inspect.Signature:
    """Return the constructor's signature: data keys, configuration fields, all with their defaults."""
    p, kw = inspect.Parameter, inspect.Parameter.KEYWORD_ONLY
    parameters = [p("adata", p.POSITIONAL_OR_KEYWORD), p("config", kw, default=None)]
    for source in (DataKeys, config_class):
        parameters += [p(f.name, kw, default=f.default, annotation=f.type) for f in fields(source)]
    return inspect.Signature([*parameters, p("seed", kw, default=0)])


def split_options(name: str, config_class: type[Any], options: dict[str, Any]) -> tuple[DataKeys, dict[str, Any]]:
    """Divide keyword options into data keys and configuration fields; an unknown one is an error."""
    key_names = [f.name for f in fields(DataKeys)]
    config_names = [f.name for f in fields(config_class)]
    for option in options:
        if option not in key_names and option not in config_names:
            raise OptionError(f"has no option {option!r}", where=name, fix=nearest(option, key_names + config_names))
    keys = {k: v for k, v in options.items() if k in key_names}
    for k, v in keys.items():
        plural = k.endswith("_keys") and k != "labels_keys"
        if plural:
            keys[k] = (v,) if isinstance(v, str) else tuple(v or ())
        elif k == "round_counts":
            if not isinstance(v, bool):
                raise OptionError("is not true or false", where=f"{k}={v!r}", fix="Give True or False.")
        elif v is not None and not isinstance(v, str):
            raise OptionError("is not the name of a column or layer", where=f"{k}={v!r}")
    return DataKeys(**keys), {k: v for k, v in options.items() if k in config_names}


def positions(indices: Indices, n_cells: int, where: str) -> npt.NDArray[np.int64]:
    """Return cell positions from positions, a boolean mask or None (all); (chosen,) int64."""
    if indices is None:
        return np.arange(n_cells)
    array = np.asarray(indices)
    if array.ndim != 1:
        raise OptionError("must be one-dimensional", where=where, value=f"its shape is {array.shape}")
    if array.dtype == bool:
        if array.size != n_cells:
            raise OptionError(f"is a mask of {array.size} for {n_cells} cells", where=where)
        return np.flatnonzero(array)
    if array.size == 0:
        raise OptionError("is empty", where=where)
    if not np.issubdtype(array.dtype, np.integer):
        raise OptionError("must hold positions or a boolean mask", where=where, value=f"its type is {array.dtype}")
    if array.min() < -n_cells or array.max() >= n_cells:
        worst = array.min() if array.min() < -n_cells else array.max()
        raise OptionError(f"holds a position outside {n_cells} cells", where=where, value=str(worst))
    return np.where(array < 0, array + n_cells, array).astype(np.int64)


def gene_positions(gene_list: Sequence[str] | None, schema: Schema) -> npt.NDArray[np.int64] | None:
    """Return the columns of the genes named, or None for all."""
    if gene_list is None:
        return None
    names = [gene_list] if isinstance(gene_list, str) else list(gene_list)
    where = {gene: i for i, gene in enumerate(schema.genes)}
    unknown = [g for g in names if g not in where]
    if unknown:
        raise OptionError(
            f"names {len(unknown)} genes that the model does not have",
            where="gene_list",
            value=listed(unknown),
            fix=nearest(str(unknown[0]), schema.genes) if len(schema.genes) < 100_000 else "",
        )
    return np.array([where[g] for g in names], np.int64)


def batch_codes(transform_batch: str | Sequence[str] | None, schema: Schema) -> list[int] | None:
    """Return the codes of the batches named, or None for each cell's own."""
    if transform_batch is None:
        return None
    names = [transform_batch] if np.isscalar(transform_batch) else list(transform_batch)
    codes = {batch: i for i, batch in enumerate(schema.batches)}
    unknown = [b for b in names if str(b) not in codes]
    if unknown:
        raise OptionError("names an unknown batch", where="transform_batch", value=listed(unknown),
                          fix=f"The model knows {listed(schema.batches)}.")  # fmt: skip
    return [codes[str(b)] for b in names]
