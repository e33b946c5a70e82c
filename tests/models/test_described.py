"""A model knows the columns of its cells after slicing, after loading and when the AnnData is gone; its repr."""

from __future__ import annotations

import gc
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import celbo
from celbo.data.described import Described
from celbo.errors import CelboWarning, SchemaError

QUICK = {"max_epochs": 1, "n_threads": 1, "device": "cpu", "progress": False}


@pytest.fixture
def adata() -> anndata.AnnData:
    made = celbo.datasets.simulate(n_cells=200, n_genes=40, n_batches=2, n_cell_types=3, seed=0)
    obs = made.obs[["batch", "cell_type"]].copy()
    obs["n_counts"] = np.asarray(made.X.sum(1)).ravel()
    return anndata.AnnData(sparse.csr_matrix(made.X), obs=obs, var=pd.DataFrame(index=made.var_names))


def sliced(adata: anndata.AnnData) -> celbo.SCVI:
    """Return a model of some genes, as the README makes it: of a slice that nobody keeps."""
    celbo.select_genes(adata, n_top_genes=30)
    model = celbo.SCVI(adata[:, adata.var["highly_variable"]], batch_key="batch", n_latent=2)
    model.train(**QUICK)
    gc.collect()
    return model


def test_slice_of_genes_is_compared_by_a_column(adata: anndata.AnnData) -> None:
    model = sliced(adata)
    table = model.differential_expression(groupby="cell_type")
    pd.testing.assert_frame_equal(table, model.differential_expression(groupby=adata.obs["cell_type"]))


def test_column_that_came_into_the_whole_later_is_found(adata: anndata.AnnData) -> None:
    model = sliced(adata)
    adata.obs["later"] = np.where(np.arange(200) < 90, "one", "two")
    assert set(model.differential_expression(groupby="later")["group1"]) == {"one", "two"}


def test_query_is_answered_when_every_anndata_is_gone(adata: anndata.AnnData) -> None:
    own = adata.copy()
    model = sliced(own)
    query = f"n_counts > {own.obs['n_counts'].median()} and batch == {own.obs['batch'].iloc[0]!r}"
    wanted = model.differential_expression(idx1=query)
    del own
    gc.collect()
    pd.testing.assert_frame_equal(wanted, model.differential_expression(idx1=query))
    with pytest.raises(SchemaError, match="AnnData of the model is gone"):
        model.differential_expression(groupby="later")


def test_loaded_model_knows_the_columns_of_what_it_was_loaded_with(adata: anndata.AnnData, tmp_path: Path) -> None:
    model = sliced(adata)
    model.save(tmp_path / "model")
    again = celbo.load(tmp_path / "model", adata[:, ::-1])
    gc.collect()
    table = model.differential_expression(groupby="cell_type")
    pd.testing.assert_frame_equal(table, again.differential_expression(groupby="cell_type"))


def test_slice_of_cells_takes_its_own_rows_of_the_whole(adata: anndata.AnnData) -> None:
    some = adata[::-2]
    described = Described(some)
    names = some.obs_names.tolist()
    del some
    gc.collect()
    adata.obs["at"] = np.arange(200)
    assert described.obs.index.tolist() == names
    assert described.obs["at"].tolist() == list(range(199, -1, -2))


def test_names_of_cells_are_not_kept_as_a_column_but_groups_are() -> None:
    n = 300
    obs = pd.DataFrame(index=[f"c{i}" for i in range(n)])
    obs["barcode"], obs["donor"] = obs.index.to_numpy(), [f"d{i % 150}" for i in range(n)]
    obs["good"], obs["mixed"] = np.arange(n) % 2 == 0, [[i] for i in range(n)]
    own = anndata.AnnData(np.ones((n, 2), np.float32), obs=obs)
    described = Described(own)
    del own
    gc.collect()
    assert list(described.obs) == ["donor", "good"]


def test_repr_tells_sizes_options_and_training(adata: anndata.AnnData, tmp_path: Path) -> None:
    model = celbo.SCVI(adata, batch_key="batch", n_latent=7, seed=4)
    first, options = repr(model).splitlines()
    assert first == "SCVI: 200 cells, 40 genes, 2 batches, not trained"
    assert "n_latent=7" in options and "likelihood=" in options and options.endswith("seed=4")
    model.train(**QUICK).save(tmp_path / "model")
    assert "trained for 1 epochs" in repr(model)
    assert repr(celbo.load(tmp_path / "model")).startswith("SCVI: no cells, 40 genes")


# ------------------------------------------------------------------------------------ counts of new cells, elsewhere


@pytest.fixture
def of_layer(adata: anndata.AnnData, tmp_path: Path) -> tuple[celbo.SCVI, anndata.AnnData, Path]:
    """Return a model trained on a layer, its cells with the counts in X alone, and the folder of the model."""
    log = adata.copy()
    log.layers["counts"] = log.X.copy()
    log.X = log.X.astype(np.float32).log1p()
    model = celbo.SCVI(log, layer="counts", n_latent=2)
    model.train(**QUICK).save(tmp_path / "model")
    return model, adata, tmp_path / "model"


def test_x_is_taken_where_the_layer_of_the_model_is_missing(of_layer) -> None:
    model, query, folder = of_layer
    with pytest.warns(CelboWarning, match="no layer 'counts'.* X holds counts, and is used.*layer='X'"):
        found = model.get_latent_representation(query)
    np.testing.assert_array_equal(found, model.get_latent_representation())
    with pytest.warns(CelboWarning, match="X holds counts"):
        celbo.load(folder, query)
    again = celbo.load(folder, query, layer="X")  # no warning: it was named
    np.testing.assert_array_equal(again.get_latent_representation(query), found)


def test_another_layer_is_taken_by_its_name(of_layer) -> None:
    model, query, folder = of_layer
    query.layers["umi"] = query.X.copy()
    query.X = query.X.astype(np.float32).log1p()
    again = celbo.load(folder, query, layer="umi")
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())


def test_x_that_holds_no_counts_is_not_taken(of_layer) -> None:
    model, query, _ = of_layer
    query.X = query.X.astype(np.float32).log1p()
    with pytest.raises(SchemaError, match="layer 'counts' does not exist"):
        model.get_latent_representation(query)
