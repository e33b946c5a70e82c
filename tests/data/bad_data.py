"""Bad inputs, second part: matrices, names and columns, and what one asks of a model."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from bad_files import CASES, case, cells, counts, text

import celbo
from celbo.errors import (
    CategoryError,
    CelboWarning,
    CountsError,
    GenesError,
    InputError,
    ModelFileError,
    NotTrainedError,
    OptionError,
    SchemaError,
)

__all__ = ["CASES", "MODELS", "trained"]


def with_value(value: float) -> np.ndarray:
    matrix = counts().astype("float64")
    matrix[3, 2] = value
    return matrix


def checked(adata: Any, **keys: Any) -> None:
    celbo.check(adata, **keys).raise_if_bad()


# -- matrices --------------------------------------------------------------------------------------------------------

MATRICES = "Matrices"


@case(MATRICES, "log-transformed counts", CountsError, "It looks log-transformed; pass layer='counts'")
def _(folder: Path) -> object:
    adata = cells(np.log1p(counts()))
    adata.layers["counts"] = counts()
    return checked(adata)


@case(MATRICES, "normalised counts", CountsError, "It looks normalised to 10,000 a cell; pass layer='raw'")
def _(folder: Path) -> object:
    adata = cells(counts() / counts().sum(1, keepdims=True) * 1e4)
    adata.raw = cells()
    return checked(adata)


@case(MATRICES, "scaled values", CountsError, "It looks scaled")
def _(folder: Path) -> object:
    return checked(cells(np.random.default_rng(0).normal(size=(12, 6))))


@case(MATRICES, "one negative value", CountsError, "gene 'GENE2' is -1. The other 71 values that are not zero")
def _(folder: Path) -> object:
    return checked(cells(sp.csr_matrix(with_value(-1))))


@case(MATRICES, "one fractional value", CountsError, "cell 'cell3' (row 3), gene 'GENE2' is 0.5")
def _(folder: Path) -> object:
    return checked(cells(sp.csc_matrix(with_value(0.5))))


@case(MATRICES, "one missing value", CountsError, "cell 'cell3' (row 3), gene 'GENE2' is nan")
def _(folder: Path) -> object:
    return checked(cells(with_value(np.nan)))


@case(MATRICES, "one infinite value", CountsError, "cell 'cell3' (row 3), gene 'GENE2' is inf")
def _(folder: Path) -> object:
    return checked(cells(with_value(np.inf)))


@case(MATRICES, "a missing value where the likelihood is normal", CountsError, "gene 'GENE2' is nan")
def _(folder: Path) -> object:
    return checked(cells(with_value(np.nan)), require_counts=False)


@case(MATRICES, "a value too large for a count", CountsError, "is 1e+10")
def _(folder: Path) -> object:
    return checked(cells(with_value(1e10)))


@case(MATRICES, "complex numbers", CountsError, "does not hold real numbers: dtype complex128")
def _(folder: Path) -> object:
    return checked(cells(counts().astype(complex)))


@case(MATRICES, "text as values", CountsError, "does not hold real numbers")
def _(folder: Path) -> object:
    return checked(cells(counts().astype(str)))


@case(MATRICES, "a sparse matrix that points outside its shape", CountsError, "is not a valid sparse matrix")
def _(folder: Path) -> object:
    adata = cells(sp.csr_matrix(counts()))
    adata.X.indices[5] = 99
    return checked(adata)


@case(MATRICES, "a cell without a count", CountsError, "1 of 12, the first is cell 'cell4' (row 4)")
def _(folder: Path) -> object:
    matrix = counts()
    matrix[4] = 0
    return checked(cells(matrix))


@case(MATRICES, "a set of genes that one batch lacks", CelboWarning, "'a' lacks 12 of the 30 genes expected there")
def _(folder: Path) -> object:
    matrix = np.random.default_rng(0).poisson(20.0, (12, 30))
    matrix[:6, :12] = 0
    genes = pd.DataFrame(index=[f"GENE{i}" for i in range(30)])
    obs = pd.DataFrame({"batch": ["a"] * 6 + ["b"] * 6}, index=[f"cell{i}" for i in range(12)])
    return checked(AnnData(sp.csr_matrix(matrix), obs=obs, var=genes), batch_key="batch")


@case(MATRICES, "unfiltered droplets", CelboWarning, "looks like unfiltered droplets: 400 of 440 barcodes")
def _(folder: Path) -> object:
    rng = np.random.default_rng(0)
    matrix = np.vstack([rng.poisson(0.1, (400, 30)), rng.poisson(20.0, (40, 30))])
    matrix[:, 0] += 1
    return checked(AnnData(sp.csr_matrix(matrix), var=pd.DataFrame(index=[f"GENE{i}" for i in range(30)])))


@case(MATRICES, "counts corrected for ambient RNA", CountsError, "corrected for ambient RNA (SoupX, decontX)")
def _(folder: Path) -> object:
    rng = np.random.default_rng(0)
    return checked(cells((counts() + 30) * rng.uniform(0.5, 1.0, (12, 6))))


@case(MATRICES, "no cells", CountsError, "holds no cells")
def _(folder: Path) -> object:
    return checked(cells()[:0])


@case(MATRICES, "no genes", CountsError, "holds no genes")
def _(folder: Path) -> object:
    return checked(cells()[:, :0])


@case(MATRICES, "no X", SchemaError, "adata.X is empty. Pass layer= with one of 'counts'")
def _(folder: Path) -> object:
    adata = cells()
    adata.layers["counts"] = adata.X
    del adata.X
    return checked(adata)


@case(MATRICES, "a layer with a slip of the pen", SchemaError, "layer 'count' does not exist. Did you mean 'counts'?")
def _(folder: Path) -> object:
    adata = cells()
    adata.layers["counts"] = adata.X
    return checked(adata, layer="count")


@case(MATRICES, "layer='raw' without adata.raw", SchemaError, "adata.raw is not set")
def _(folder: Path) -> object:
    return checked(cells(), layer="raw")


@case(MATRICES, "a layer that is not a name", OptionError, "layer is not the name of a layer: 0")
def _(folder: Path) -> object:
    return checked(cells(), layer=0)


@case(MATRICES, "an array instead of an AnnData", OptionError, "adata is not an AnnData: a ndarray")
def _(folder: Path) -> object:
    return checked(counts())


@case(MATRICES, "a data frame instead of an AnnData", OptionError, "adata is not an AnnData: a DataFrame")
def _(folder: Path) -> object:
    return checked(pd.DataFrame(counts()))


# -- names and columns -----------------------------------------------------------------------------------------------

COLUMNS = "Names and columns"


def alternating(first: Any, second: Any) -> list[Any]:
    return [first, second] * 6


@case(COLUMNS, "two genes of one name", SchemaError, "names several genes the same: 'CD3E'")
def _(folder: Path) -> object:
    return checked(cells(genes=["CD3E", "CD3E", "A", "B", "C", "D"]))


@case(COLUMNS, "two cells of one name", SchemaError, "names several cells the same: 'AAAC', ")
def _(folder: Path) -> object:
    adata = cells()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs_names = [name for name in ("AAAC", "AAAG", "AAAT", "AACC", "AACG", "AACT") for _ in range(2)]
    return checked(adata)


@case(COLUMNS, "a gene without a name", SchemaError, "holds genes without a name: 1, the first at position 2")
def _(folder: Path) -> object:
    return checked(cells(genes=["A", "B", "", "C", "D", "E"]))


@case(COLUMNS, "a batch column with a slip of the pen", SchemaError, "Did you mean 'batch'?")
def _(folder: Path) -> object:
    return checked(cells(batch=alternating("a", "b")), batch_key="Batch")


@case(COLUMNS, "a batch column where there are no columns", SchemaError, "adata.obs is empty")
def _(folder: Path) -> object:
    return checked(cells(), batch_key="batch")


@case(COLUMNS, "a key that is not a name", OptionError, "batch_key is not the name of a column: 3")
def _(folder: Path) -> object:
    return checked(cells(), batch_key=3)


@case(COLUMNS, "a column that is there twice", SchemaError, "batch_key 'batch' names 2 columns")
def _(folder: Path) -> object:
    adata = cells(batch=alternating("a", "b"), other=alternating("a", "b"))
    adata.obs.columns = ["batch", "batch"]
    return checked(adata, batch_key="batch")


@case(COLUMNS, "a batch column without a value", SchemaError, "batch_key 'batch' has no value for any cell")
def _(folder: Path) -> object:
    return checked(cells(batch=[None] * 12), batch_key="batch")


@case(COLUMNS, "a label column without a value", SchemaError, "labels_key 'label' has no value for any cell")
def _(folder: Path) -> object:
    return checked(cells(label=np.full(12, np.nan)), labels_key="label")


@case(COLUMNS, "a batch column with gaps", SchemaError, "has missing values: 6 of 12 cells, the first is cell 'cell1'")
def _(folder: Path) -> object:
    return checked(cells(batch=alternating("a", None)), batch_key="batch")


@case(COLUMNS, "a label column with gaps", CelboWarning, "treated as one more label, 'unlabelled'")
def _(folder: Path) -> object:
    return checked(cells(label=alternating("T", None)), labels_key="label")


@case(COLUMNS, "a batch of two cells", CelboWarning, "has batches of fewer than 3 cells: 'b' (2)")
def _(folder: Path) -> object:
    return checked(cells(batch=["a"] * 10 + ["b"] * 2), batch_key="batch")


@case(COLUMNS, "a batch for every cell", CelboWarning, "looks like an identifier of cells")
def _(folder: Path) -> object:
    return checked(cells(batch=[f"b{i}" for i in range(12)]), batch_key="batch")


@case(COLUMNS, "categories 1 and '1' in one column", SchemaError, "holds different values that read the same: '1'")
def _(folder: Path) -> object:
    return checked(cells(batch=pd.Series(alternating(1, "1"), dtype=object).to_numpy()), batch_key="batch")


@case(COLUMNS, "missing values written as text", CelboWarning, "holds text that looks like a missing value: 'nan'")
def _(folder: Path) -> object:
    return checked(cells(batch=alternating("a", "nan")), batch_key="batch")


@case(COLUMNS, "lists as categories", SchemaError, "holds values that are not categories: [1]")
def _(folder: Path) -> object:
    adata = cells(batch=alternating("a", "b"))
    adata.obs["batch"] = [[1] for _ in range(12)]
    return checked(adata, batch_key="batch")


@case(COLUMNS, "a size factor of zero", SchemaError, "size_factor_key 's' is not positive: cell 'cell1' (row 1) is 0")
def _(folder: Path) -> object:
    return checked(cells(s=alternating(1.0, 0.0)), size_factor_key="s")


@case(COLUMNS, "a size factor that is missing", SchemaError, "is not finite: cell 'cell1' (row 1) is nan; 6 such cells")
def _(folder: Path) -> object:
    return checked(cells(s=alternating(1.0, np.nan)), size_factor_key="s")


@case(COLUMNS, "a size factor that is text", SchemaError, "size_factor_key 's' does not hold numbers")
def _(folder: Path) -> object:
    return checked(cells(s=alternating("1", "2")), size_factor_key="s")


@case(COLUMNS, "a continuous covariate that is infinite", SchemaError, "is not finite: cell 'cell1' (row 1) is inf")
def _(folder: Path) -> object:
    return checked(cells(age=alternating(1.0, np.inf)), continuous_covariate_keys=["age"])


@case(COLUMNS, "a continuous covariate of categories", SchemaError, "or pass it in categorical_covariate_keys")
def _(folder: Path) -> object:
    return checked(cells(sex=pd.Categorical(alternating("f", "m"))), continuous_covariate_keys=["sex"])


@case(COLUMNS, "a categorical covariate with gaps", SchemaError, "categorical_covariate_key 'sex' has missing values")
def _(folder: Path) -> object:
    return checked(cells(sex=alternating("f", None)), categorical_covariate_keys=["sex"])


@case(COLUMNS, "a covariate that is not there", SchemaError, "Did you mean 'sex'?")
def _(folder: Path) -> object:
    return checked(cells(sex=alternating("f", "m")), categorical_covariate_keys=["sexx"])


@case(COLUMNS, "one text instead of a list of covariates", OptionError, "Pass categorical_covariate_keys=('sex',)")
def _(folder: Path) -> object:
    return checked(cells(sex=alternating("f", "m")), categorical_covariate_keys="sex")


@case(COLUMNS, "a covariate named twice", OptionError, "covariates are named twice: 'sex'")
def _(folder: Path) -> object:
    return checked(cells(sex=alternating("f", "m")), categorical_covariate_keys=["sex", "sex"])


# -- models ----------------------------------------------------------------------------------------------------------

MODELS = "Models"


def batched(n: int = 24) -> AnnData:
    return cells(counts(n), batch=(["a", "b"] * n)[:n])


@functools.cache
def trained() -> Any:
    model = celbo.SCVI(batched(), batch_key="batch", n_hidden=4, n_latent=2)
    return model.train(max_epochs=1, progress=False)


def untrained() -> Any:
    return celbo.SCVI(batched(), batch_key="batch", n_hidden=4, n_latent=2)


def saved(folder: Path) -> Path:
    return Path(trained().save(folder / "model"))


@case(MODELS, "a file name instead of an AnnData", OptionError, "adata is not an AnnData: a str. celbo.read makes one")
def _(folder: Path) -> object:
    return celbo.SCVI("counts.h5ad")


@case(MODELS, "an option that does not exist", OptionError, "SCVI has no option 'n_latents'. Did you mean 'n_latent'?")
def _(folder: Path) -> object:
    return celbo.SCVI(cells(), n_latents=5)


@case(MODELS, "a likelihood that does not exist", OptionError, "is not a choice. Did you mean 'zinb'?")
def _(folder: Path) -> object:
    return celbo.SCVI(cells(), likelihood="zinbb")


@case(MODELS, "no latent dimensions", OptionError, "n_latent=0 is not a positive whole number")
def _(folder: Path) -> object:
    return celbo.SCVI(cells(), n_latent=0)


@case(MODELS, "a dropout rate of one", OptionError, "dropout_rate=1.0 is not between 0 and 1")
def _(folder: Path) -> object:
    return celbo.SCVI(cells(), dropout_rate=1.0)


@case(MODELS, "values that are not counts", CountsError, "It looks log-transformed")
def _(folder: Path) -> object:
    return celbo.SCVI(cells(np.log1p(counts())))


@case(MODELS, "a batch column that is not there", SchemaError, "is not a column of adata.obs")
def _(folder: Path) -> object:
    return celbo.SCVI(batched(), batch_key="donor")


@case(MODELS, "negative epochs", OptionError, "training option 'max_epochs' has an impossible value: -1")
def _(folder: Path) -> object:
    return untrained().train(max_epochs=-1)


@case(MODELS, "a batch size of one", OptionError, "batch norm needs two cells")
def _(folder: Path) -> object:
    return untrained().train(batch_size=1)


@case(MODELS, "a training share above one", OptionError, "It must be above 0 and at most 1")
def _(folder: Path) -> object:
    return untrained().train(train_size=1.5)


@case(MODELS, "a device that does not exist", OptionError, "device")
def _(folder: Path) -> object:
    return untrained().train(max_epochs=1, device="tpu", progress=False)


@case(MODELS, "training cells that do not exist", OptionError, "holds a position outside 24 cells: 24")
def _(folder: Path) -> object:
    return untrained().train(train_indices=[0, 1, 24])


@case(MODELS, "cells both trained on and held out", OptionError, "both")
def _(folder: Path) -> object:
    return untrained().train(max_epochs=1, train_indices=[0, 1, 2, 3], validation_indices=[3, 4], progress=False)


@case(MODELS, "resume without a checkpoint folder", OptionError, "checkpoint_dir")
def _(folder: Path) -> object:
    return untrained().train(max_epochs=1, resume=True, progress=False)


@case(MODELS, "a question before training", NotTrainedError, "Call model.train() first")
def _(folder: Path) -> object:
    return untrained().get_latent_representation()


@case(MODELS, "a mask of the wrong length", OptionError, "is a mask of 3 for 24 cells")
def _(folder: Path) -> object:
    return trained().get_elbo(indices=[True, False, True])


@case(MODELS, "positions that are not whole numbers", OptionError, "must hold positions or a boolean mask")
def _(folder: Path) -> object:
    return trained().get_elbo(indices=[0.5, 1.5])


@case(MODELS, "a gene that the model does not have", OptionError, "Did you mean 'GENE1'?")
def _(folder: Path) -> object:
    return trained().get_normalized_expression(gene_list=["GENE11"])


@case(MODELS, "a batch that the model does not have", OptionError, "names an unknown batch: 'c'")
def _(folder: Path) -> object:
    return trained().get_normalized_expression(transform_batch="c")


@case(MODELS, "new cells that lack a gene", GenesError, "lack 1 of the 6 genes of the model: 'GENE5'")
def _(folder: Path) -> object:
    return trained().get_latent_representation(batched()[:, :5].copy())


@case(MODELS, "new cells of an unseen batch", CategoryError, "that the model never saw: 'z'")
def _(folder: Path) -> object:
    return trained().get_latent_representation(cells(batch=["z"] * 12))


@case(MODELS, "saving where a model is already", InputError, "exists already")
def _(folder: Path) -> object:
    saved(folder)
    return trained().save(folder / "model")


@case(MODELS, "loading what is not a model", ModelFileError, "is not a saved model")
def _(folder: Path) -> object:
    return celbo.load(folder)


@case(MODELS, "a model whose weights were cut short", ModelFileError, "model")
def _(folder: Path) -> object:
    weights = saved(folder) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    return celbo.load(folder / "model")


@case(MODELS, "a model whose description is damaged", ModelFileError, "is damaged")
def _(folder: Path) -> object:
    text(saved(folder), "model.json", "{")
    return celbo.load(folder / "model")
