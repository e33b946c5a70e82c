"""Cells as a model sees them: counts, and the codes of their batches, labels and covariates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from celbo.data.counts import CountMatrix
from celbo.data.minibatch import Minibatch
from celbo.data.schema import DataKeys, Schema
from celbo.errors import CategoryError, GenesError, SchemaError, listed, nearest

__all__ = ["CellData", "open_anndata"]

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

UNLABELLED = "unlabelled"
"""Name of the label of a cell that has none."""
MISSING = "missing"
"""Name of the batch or covariate category of a cell that has none."""


@dataclass(frozen=True, eq=False)
class CellData:
    """Cells encoded against a schema. Immutable: a model owns its copy of the counts."""

    counts: CountMatrix
    """The counts, (cells, genes), genes in the order of the schema."""
    schema: Schema
    """The names behind the codes."""
    batch: Codes
    """Batch code; (cells,)."""
    labels: Codes
    """Label code; (cells,)."""
    categorical: Codes
    """Codes of the further categorical covariates; (cells, n_categorical)."""
    continuous: Floats
    """Values of the continuous covariates, as they are; (cells, n_continuous)."""
    size_factor: Floats | None
    """Positive size factor of each cell, where the data name one; (cells,)."""
    library: Floats
    """Total counts over the genes of the model; (cells,)."""
    cell_names: npt.NDArray[np.object_]
    """Name of each cell; (cells,) str."""

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.counts.n_cells

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self.counts.n_genes

    def minibatch(self, index: npt.ArrayLike) -> Minibatch:
        """Return some cells on the CPU, in the order asked for.

        Parameters
        ----------
        index
            Positions of the cells; (n,) integers from 0.
        """
        at = np.asarray(index, dtype=np.int64)
        rows = self.counts.rows(at)  # checks the range
        return Minibatch(
            rows=rows,
            library=torch.from_numpy(self.library[at]),
            batch=torch.from_numpy(self.batch[at]),
            labels=torch.from_numpy(self.labels[at]),
            categorical=torch.from_numpy(self.categorical[at]),
            continuous=torch.from_numpy(self.continuous[at]),
            index=torch.tensor(at),
            size_factor=None if self.size_factor is None else torch.from_numpy(self.size_factor[at]),
        )


def open_anndata(adata: Any, keys: DataKeys, *, schema: Schema | None = None, require_counts: bool = True) -> CellData:
    """Copy out of an AnnData what a model needs; the AnnData is left as it is.

    Parameters
    ----------
    adata
        The data, (cells, genes); in memory, backed or a view.
    keys
        Where in it to look.
    schema
        Of a trained model: the genes are put in its order and the categories given its codes. None makes one.
    require_counts
        Whether the values must be counts (all likelihoods but "normal").

    Raises
    ------
    CountsError
        If values are not counts.
    SchemaError
        If a column is missing or malformed.
    GenesError
        If genes of the schema are missing.
    CategoryError
        If the data hold a batch, label or covariate category that the schema does not know.
    """
    if schema is not None:
        keys = _without_absent(keys, schema, adata.obs)
    _require(adata, keys, require_counts=require_counts)
    matrix, genes = _count_matrix_of(adata, keys.layer)
    names = tuple(str(g) for g in genes)
    if schema is None:
        schema = _schema_of(adata.obs, names, keys)
    counts = CountMatrix.from_scipy(_in_order(matrix, names, schema.genes), counts=require_counts)
    return _encoded(adata.obs, counts, keys, schema)


def _encoded(obs: pd.DataFrame, counts: CountMatrix, keys: DataKeys, schema: Schema) -> CellData:
    covariates = [
        _codes(obs, key, schema.covariates[key], MISSING, "covariate") for key in keys.categorical_covariate_keys
    ]
    continuous = [_numbers(obs, key) for key in keys.continuous_covariate_keys]
    n_cells = counts.n_cells
    return CellData(
        counts=counts,
        schema=schema,
        batch=_codes(obs, keys.batch_key, schema.batches, MISSING, "batch"),
        labels=_codes(obs, keys.labels_key, schema.labels, UNLABELLED, "label"),
        categorical=np.stack(covariates, axis=1) if covariates else np.empty((n_cells, 0), np.int64),
        continuous=np.stack(continuous, axis=1) if continuous else np.empty((n_cells, 0), np.float32),
        size_factor=None if keys.size_factor_key is None else _positive(obs, keys.size_factor_key),
        library=counts.total_counts().astype(np.float32),
        cell_names=np.array([str(name) for name in obs.index], dtype=object),
    )


def _without_absent(keys: DataKeys, schema: Schema, obs: pd.DataFrame) -> DataKeys:
    """Drop the batch and label columns that new data lack and need not have: the schema knows one name only."""
    one_batch = keys.batch_key not in obs and schema.n_batches == 1
    one_label = keys.labels_key not in obs and (schema.n_labels == 1 or UNLABELLED in schema.labels)
    return DataKeys(
        layer=keys.layer,
        batch_key=None if one_batch else keys.batch_key,
        labels_key=None if one_label else keys.labels_key,
        size_factor_key=keys.size_factor_key,
        categorical_covariate_keys=keys.categorical_covariate_keys,
        continuous_covariate_keys=keys.continuous_covariate_keys,
    )


def _schema_of(obs: pd.DataFrame, genes: tuple[str, ...], keys: DataKeys) -> Schema:
    def names(key: str | None, missing: str) -> tuple[str, ...]:
        return ("all",) if key is None else _categories(_column(obs, key), missing)[1]

    return Schema(
        features={"rna": genes},
        batches=names(keys.batch_key, MISSING),
        labels=names(keys.labels_key, UNLABELLED),
        covariates={key: names(key, MISSING) for key in keys.categorical_covariate_keys},
        keys=keys,
    )


def _in_order(matrix: Any, names: tuple[str, ...], wanted: tuple[str, ...]) -> Any:
    """Return the columns of the matrix in the order of `wanted`."""
    if names == wanted:
        return matrix
    found = pd.Index(names).get_indexer(pd.Index(wanted))
    missing = [gene for gene, at in zip(wanted, found, strict=True) if at < 0]
    if missing:
        raise GenesError(
            f"lack {len(missing)} of the {len(wanted)} genes of the model",
            where="the data",
            value=listed(missing),
            fix="Give data with all genes of the model, under the same names (further genes do no harm).",
        )
    return (matrix.tocsr() if hasattr(matrix, "tocsr") else matrix)[:, found]


def _column(obs: pd.DataFrame, key: str) -> pd.Series[Any]:
    if key not in obs:
        raise SchemaError(f"has no column {key!r}", where="obs", fix=nearest(key, [str(c) for c in obs.columns]))
    return obs[key]


def _codes(obs: pd.DataFrame, key: str | None, known: tuple[str, ...], missing: str, kind: str) -> Codes:
    """Return the code of each cell's category among those known; (cells,)."""
    if key is None:
        code = known.index(missing) if len(known) > 1 else 0
        return np.full(len(obs), code, dtype=np.int64)
    codes, names = _categories(_column(obs, key), missing)
    unseen = [name for name in names if name not in set(known)]
    if unseen:
        raise CategoryError(
            f"holds {len(unseen)} {kind} name(s) that the model never saw",
            where=f"obs[{key!r}]",
            value=listed(unseen),
            fix=f"Known: {listed(known)}. Rename them, leave those cells out, or train with them.",
        )
    return np.array([known.index(name) for name in names], dtype=np.int64)[codes]


def _categories(column: pd.Series[Any], missing: str) -> tuple[Codes, tuple[str, ...]]:
    """Return the code of each cell and the names of the codes.

    The names come in the order of a categorical, ascending for numbers and booleans, else sorted; empty categories are
    dropped. Cells without a value get the category named `missing`.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        used = column.cat.remove_unused_categories().cat
        codes, given = used.codes.to_numpy(np.int64), [_name(value) for value in used.categories]
        ordered = given
    else:
        codes, values = pd.factorize(column)
        given = [_name(value) for value in values]
        numeric = pd.api.types.is_numeric_dtype(column.dtype)
        ordered = [_name(value) for value in np.sort(values)] if numeric else sorted(given)
    names = tuple(dict.fromkeys([*ordered, *([missing] if (codes < 0).any() else [])]))
    position = {name: i for i, name in enumerate(names)}
    table = np.array([*(position[name] for name in given), position.get(missing, -1)], dtype=np.int64)
    return table[codes], names  # code -1, no value, takes the last of the table


def _name(value: object) -> str:
    """Return a category as text: 3.0, a whole number beside missing values, is "3"."""
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)  # type: ignore[call-overload]


def _numbers(obs: pd.DataFrame, key: str) -> Floats:
    """Return a column as finite numbers; (cells,)."""
    column = _column(obs, key)
    values = pd.to_numeric(column.astype(object), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    numbers = values.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if wrong.size:
        raise SchemaError(
            f"holds {wrong.size} value(s) that are not finite numbers",
            where=f"obs[{key!r}]",
            value=f"cell {str(obs.index[wrong[0]])!r} has {column.iloc[wrong[0]]!r}",
            fix="Fill them in or leave those cells out.",
        )
    return numbers


def _positive(obs: pd.DataFrame, key: str) -> Floats:
    """Return a column as positive numbers; (cells,)."""
    numbers = _numbers(obs, key)
    wrong = np.flatnonzero(numbers <= 0)
    if wrong.size:
        raise SchemaError(
            f"holds {wrong.size} size factor(s) that are not positive",
            where=f"obs[{key!r}]",
            value=f"cell {str(obs.index[wrong[0]])!r} has {numbers[wrong[0]]:g}",
            fix="A size factor multiplies the mean of a cell: leave out cells that have none.",
        )
    return numbers


def _require(adata: Any, keys: DataKeys, *, require_counts: bool) -> None:
    """Check the data."""


def _count_matrix_of(adata: Any, layer: str | None) -> tuple[Any, Any]:
    """Return matrix and gene names."""
    if layer is not None and layer in adata.layers:
        return adata.layers[layer], adata.var_names
    source = adata.raw if layer == "raw" else adata
    return source.X, source.var_names
