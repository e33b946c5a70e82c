"""Cells as a model sees them: counts, and the codes of their batches, labels and covariates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from anndata import AnnData

from celbo.data.check import count_matrix_of, require
from celbo.data.columns import UNLABELLED, category_codes, numeric_values
from celbo.data.counts import CountMatrix
from celbo.data.decimals import rounded
from celbo.data.minibatch import Minibatch
from celbo.data.scales import on_scales, warn_of_new_cells
from celbo.data.scan import scan_matrix
from celbo.data.schema import DataKeys, Scale, Schema
from celbo.errors import CategoryError, CelboWarning, CountsError, GenesError, SchemaError, listed
from celbo.kernels.gather import gather_elements

__all__ = ["CellData", "open_anndata"]

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


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
    """Continuous covariates as a network sees them, on the scales of the schema; (cells, n_continuous)."""
    size_factor: Floats | None
    """Positive size factor of each cell, where the data name one; (cells,)."""
    library: Floats
    """Total counts over the genes of the model; (cells,)."""
    cell_names: npt.NDArray[np.object_]
    """Name of each cell; (cells,) str."""
    covariates: Doubles | None = None
    """Continuous covariates as the data have them; (cells, n_continuous)."""

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.counts.n_cells

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self.counts.n_genes

    def on_scales(self, scales: Mapping[str, Scale]) -> CellData:
        """Return the same cells with their continuous covariates on these scales, which the schema then keeps."""
        keys = self.schema.keys.continuous_covariate_keys
        values = np.zeros((self.n_cells, 0)) if self.covariates is None else self.covariates
        continuous = on_scales(values, keys, scales, self.cell_names)
        return replace(self, continuous=continuous, schema=replace(self.schema, scales=dict(scales)))

    def minibatch(self, index: npt.ArrayLike) -> Minibatch:
        """Return some cells on the CPU, in the order asked for.

        Parameters
        ----------
        index
            Positions of the cells; (n,) integers from 0.
        """
        at = np.ascontiguousarray(index, dtype=np.int64)
        rows = self.counts.rows(at)  # checks the range
        taken = gather_elements(at, self.library, self.batch, self.labels, self.categorical, self.continuous)
        position, library, batch, labels, categorical, continuous = map(torch.from_numpy, taken)
        return Minibatch(
            rows=rows,
            library=library,
            batch=batch,
            labels=labels,
            categorical=categorical,
            continuous=continuous,
            index=position,
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
        If values are not counts, or a cell has none.
    SchemaError
        If a column is missing or malformed.
    GenesError
        If genes of the schema are missing.
    CategoryError
        If the data hold a batch, label or covariate category that the schema does not know.
    """
    if schema is not None and isinstance(adata, AnnData):  # what is none, `require` names
        keys = _without_absent(keys, schema, adata.obs)
        keys = _where_counts_are(adata, keys, require_counts=require_counts)
    require(adata, keys, require_counts=require_counts)
    matrix, genes = count_matrix_of(adata, keys.layer)
    if keys.round_counts:
        matrix = rounded(matrix)
    names = tuple(genes)
    known = schema or _schema_of(adata.obs, names, keys)
    counts = CountMatrix.from_scipy(_in_order(matrix, names, known.genes), counts=require_counts)
    cells = _encoded(adata.obs, counts, keys, known)
    if require_counts:
        _refuse_empty(cells)
    if schema is not None:
        cells = cells.on_scales(schema.scales)
        warn_of_new_cells(cells.continuous, keys.continuous_covariate_keys, schema.scales)
    return cells


def _refuse_empty(cells: CellData) -> None:
    """Raise for cells without counts of the model's genes; cells without any at all were found before."""
    empty = np.flatnonzero(cells.library == 0)
    if empty.size:
        raise CountsError(
            f"holds {empty.size} cell(s) without any count of the model's {cells.n_genes} genes",
            where="the data",
            value=listed(cells.cell_names[empty]),
            fix="Leave those cells out.",
        )


def _encoded(obs: pd.DataFrame, counts: CountMatrix, keys: DataKeys, schema: Schema) -> CellData:
    n_cells = counts.n_cells
    categorical = np.empty((n_cells, len(keys.categorical_covariate_keys)), np.int64)
    for i, key in enumerate(keys.categorical_covariate_keys):
        categorical[:, i] = _codes(obs, key, schema.covariates[key], "covariate")
    covariates = np.empty((n_cells, len(keys.continuous_covariate_keys)), np.float64)
    for i, key in enumerate(keys.continuous_covariate_keys):
        covariates[:, i] = numeric_values(obs[key])
    with np.errstate(over="ignore"):  # what is too large for float32 need not be so on the scales of the training cells
        unscaled = covariates.astype(np.float32)
    return CellData(
        counts=counts,
        schema=schema,
        batch=_codes(obs, keys.batch_key, schema.batches, "batch"),
        labels=_codes(obs, keys.labels_key, schema.labels, "label"),
        categorical=categorical,
        continuous=unscaled,
        covariates=covariates,
        size_factor=None if keys.size_factor_key is None else _as_float32(obs[keys.size_factor_key]),
        library=counts.total_counts().astype(np.float32),
        cell_names=np.array([str(name) for name in obs.index], dtype=object),
    )


def _as_float32(column: pd.Series[Any]) -> Floats:
    return np.asarray(numeric_values(column), dtype=np.float32)


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
        round_counts=keys.round_counts,
    )


def _where_counts_are(adata: AnnData, keys: DataKeys, *, require_counts: bool) -> DataKeys:
    """Look in `X` where new cells lack the layer of the model and have their counts there, and say so."""
    layer = keys.layer
    there = layer is None or layer in adata.layers or (layer == "raw" and adata.raw is not None)
    if there or adata.X is None or not require_counts:
        return keys
    scan = scan_matrix(count_matrix_of(adata, None)[0])
    if scan.bad or not scan.n_nonzero:
        return keys
    text = f"These cells have no layer {layer!r}, which the model was trained on. Their X holds counts, and is used."
    fix, flag = "To name it: celbo.load(path, adata, layer='X').", "To name it: --layer X."
    warnings.warn(CelboWarning(text, fix=fix, flag=flag), stacklevel=4)
    return replace(keys, layer=None)


def _schema_of(obs: pd.DataFrame, genes: tuple[str, ...], keys: DataKeys) -> Schema:
    def names(key: str | None, missing: str | None = None) -> tuple[str, ...]:
        return ("all",) if key is None else category_codes(obs[key], missing=missing)[1]

    return Schema(
        features={"rna": genes},
        batches=names(keys.batch_key),
        labels=names(keys.labels_key, UNLABELLED),
        covariates={key: names(key) for key in keys.categorical_covariate_keys},
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


def _codes(obs: pd.DataFrame, key: str | None, known: tuple[str, ...], kind: str) -> Codes:
    """Return the code of each cell's category among those known; (cells,)."""
    if key is None:  # there is one category, or labels are missing where the model knows of unlabelled cells
        if len(known) > 1 and (kind != "label" or UNLABELLED not in known):
            fix = f"Name the column of obs; known: {listed(known)}."
            raise SchemaError(f"is not given, but the model knows {len(known)}", where=f"{kind} of each cell", fix=fix)
        return np.full(len(obs), known.index(UNLABELLED) if len(known) > 1 else 0, dtype=np.int64)
    codes, names = category_codes(obs[key], missing=UNLABELLED if kind == "label" else None)
    unseen = sorted(set(names) - set(known))
    if unseen:
        raise CategoryError(
            f"holds {len(unseen)} {kind} name(s) that the model never saw",
            where=f"obs[{key!r}]",
            value=listed(unseen),
            fix=f"Known: {listed(known)}. Rename them, leave those cells out, or train with them.",
        )
    return np.array([known.index(name) for name in names], dtype=np.int64)[codes]
