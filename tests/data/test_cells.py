"""CellData: codes, alignment of new data to a model's names, and that all ways to store a data set give the same."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from celbo.data.cells import CellData, open_anndata
from celbo.data.schema import DataKeys
from celbo.errors import CategoryError, CelboWarning, CountsError, GenesError, SchemaError

KEYS = DataKeys(
    batch_key="batch",
    labels_key="label",
    size_factor_key="factor",
    categorical_covariate_keys=("sex", "lane"),
    continuous_covariate_keys=("age",),
)
N = 48


def make(n_genes: int = 20) -> ad.AnnData:
    rng = np.random.default_rng(1)
    matrix = rng.poisson(1.0, (N, n_genes)).astype(np.float32)
    matrix[:, 0] += 1  # no empty cell
    obs = pd.DataFrame(
        {
            "batch": np.array(["b2", "b1", "b3"])[np.arange(N) % 3],
            "label": pd.Categorical(
                np.array(["T", "B", "NK"])[np.arange(N) // 16], categories=["T", "NK", "B", "unused"]
            ),
            "factor": rng.uniform(0.5, 2, N),
            "sex": np.array([True, False])[np.arange(N) // 24],
            "lane": np.array([2, 10, 1])[np.arange(N) % 3],
            "age": rng.normal(50, 10, N),
        },
        index=[f"cell{i}" for i in range(N)],
    )
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))


def opened(adata: ad.AnnData, keys: DataKeys = KEYS, like: CellData | None = None) -> CellData:
    return open_anndata(adata, keys, schema=None if like is None else like.schema)


def assert_same(a: CellData, b: CellData) -> None:
    assert a.schema == b.schema
    for name in ("batch", "labels", "categorical", "continuous", "size_factor", "library", "cell_names"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    np.testing.assert_array_equal(a.counts.to_scipy().toarray(), b.counts.to_scipy().toarray())


def test_the_schema_lists_categories_in_their_order() -> None:
    schema = opened(make()).schema
    assert schema.batches == ("b1", "b2", "b3")  # text: sorted
    assert schema.labels == ("T", "NK", "B")  # categorical: its own order, unused ones dropped
    assert dict(schema.covariates) == {"sex": ("False", "True"), "lane": ("1", "2", "10")}  # numbers: ascending
    assert schema.genes == tuple(f"g{i}" for i in range(20))


def test_codes_stand_for_the_names_of_each_cell() -> None:
    adata = make()
    data = opened(adata)
    assert [data.schema.batches[c] for c in data.batch] == list(adata.obs["batch"])
    assert [data.schema.labels[c] for c in data.labels] == list(adata.obs["label"])
    assert [data.schema.covariates["lane"][c] for c in data.categorical[:, 1]] == [str(v) for v in adata.obs["lane"]]
    np.testing.assert_array_equal(data.continuous[:, 0], adata.obs["age"].astype(np.float32))
    np.testing.assert_array_equal(data.size_factor, adata.obs["factor"].astype(np.float32))
    np.testing.assert_array_equal(data.library, adata.X.sum(1))


def test_a_minibatch_holds_its_cells_in_order() -> None:
    adata, index = make(), np.array([40, 3, 17])
    data = opened(adata)
    batch = data.minibatch(index)
    np.testing.assert_array_equal(batch.rows.dense.numpy(), adata.X[index])
    np.testing.assert_array_equal(batch.library.numpy(), adata.X[index].sum(1))
    assert batch.index.tolist() == [40, 3, 17]
    assert batch.batch.tolist() == data.batch[index].tolist()
    assert batch.categorical.shape == (3, 2)
    assert batch.continuous.dtype == batch.size_factor.dtype == batch.library.dtype == torch.float32


def test_changing_a_minibatch_does_not_change_the_data() -> None:
    data = opened(make())
    data.minibatch(np.arange(N)).library.zero_()
    assert data.library.min() > 0


def test_without_keys_there_is_one_batch_and_one_label() -> None:
    data = opened(make(), DataKeys())
    assert data.schema.batches == data.schema.labels == ("all",)
    assert data.batch.tolist() == data.labels.tolist() == [0] * N
    assert data.size_factor is None
    assert data.categorical.shape == data.continuous.shape == (N, 0)


def test_the_data_are_a_copy() -> None:
    adata = make()
    data = opened(adata)
    before = data.counts.total_counts()
    adata.X *= 3
    adata.obs["age"] = 0.0
    np.testing.assert_array_equal(data.counts.total_counts(), before)
    assert data.continuous.min() > 0


def test_nothing_is_written_into_the_anndata() -> None:
    adata = make()
    before = adata.copy()
    opened(adata)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert not adata.uns and not adata.obsm and not adata.layers
    np.testing.assert_array_equal(adata.X, before.X)


def variants(tmp: Path) -> dict[str, tuple[ad.AnnData, str | None]]:
    """Return the same data stored in other ways, with the layer to read."""
    out: dict[str, tuple[ad.AnnData, str | None]] = {}
    for name, convert in {
        "csr": sparse.csr_matrix,
        "csc": sparse.csc_matrix,
        "int": lambda x: x.astype(int),
        "csr int": lambda x: sparse.csr_matrix(x.astype(np.int32)),
        "float64": lambda x: x.astype(np.float64),
    }.items():
        adata = make()
        adata.X = convert(adata.X)
        out[name] = (adata, None)
    layered = make()
    layered.layers["counts"] = layered.X.copy()
    layered.X = np.log1p(layered.X)
    out["layer"] = (layered, "counts")
    raw = make()
    raw.raw = raw.copy()
    raw.X = np.log1p(raw.X)
    out["raw"] = (raw, "raw")
    twice = ad.concat([make(), make()])
    twice.obs_names_make_unique()
    out["view"] = (twice[:N], None)
    out["csr"][0].write_h5ad(tmp / "a.h5ad")
    out["file"] = (ad.read_h5ad(tmp / "a.h5ad"), None)
    out["backed"] = (ad.read_h5ad(tmp / "a.h5ad", backed="r"), None)
    return out


@pytest.mark.parametrize("name", ["csr", "csc", "int", "csr int", "float64", "layer", "raw", "view", "file", "backed"])
def test_every_way_to_store_the_data_gives_the_same(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata's, while the variants are made
        adata, layer = variants(tmp_path)[name]
    got = opened(adata, DataKeys(**{**vars(KEYS), "layer": layer}))
    expected = opened(make())
    for field in ("batch", "labels", "categorical", "continuous", "library", "cell_names"):
        np.testing.assert_array_equal(getattr(got, field), getattr(expected, field), err_msg=field)
    np.testing.assert_array_equal(got.counts.to_scipy().toarray(), expected.counts.to_scipy().toarray())


@pytest.mark.parametrize("form", ["dense", "csr", "csc"])
def test_genes_in_another_order_and_further_genes_do_no_harm(form: str) -> None:
    model, new = opened(make()), make(30)
    new.X[:, :20] = make().X
    new = new[:, np.random.default_rng(0).permutation(30)].copy()
    if form != "dense":
        new.X = (sparse.csr_matrix if form == "csr" else sparse.csc_matrix)(new.X)
    for column in new.obs:
        new.obs[column] = make().obs[column]
    assert_same(opened(new, like=model), model)


def test_cells_in_another_order_keep_their_codes() -> None:
    model, order = opened(make()), np.random.default_rng(0).permutation(N)[:20]
    new = opened(make()[order], like=model)
    assert new.schema == model.schema
    np.testing.assert_array_equal(new.batch, model.batch[order])
    np.testing.assert_array_equal(new.labels, model.labels[order])
    np.testing.assert_array_equal(new.categorical, model.categorical[order])


def test_fewer_categories_keep_their_codes() -> None:
    model = opened(make())
    new = opened(make()[make().obs["batch"] == "b3"], like=model)
    assert set(new.batch) == {2}


def test_missing_genes_are_listed() -> None:
    model = opened(make())
    with pytest.raises(GenesError, match=r"lack 2 of the 20 genes of the model: 'g3', 'g7'"):
        opened(make()[:, [i for i in range(20) if i not in {3, 7}]].copy(), like=model)


@pytest.mark.parametrize(
    ("column", "kind", "known"),
    [
        ("batch", "batch", "'b1', 'b2', 'b3'"),
        ("label", "label", "'T', 'NK', 'B'"),
        ("lane", "covariate", "'1', '2', '10'"),
    ],
)
def test_unseen_categories_are_listed_beside_the_known(column: str, kind: str, known: str) -> None:
    model, new = opened(make()), make()
    new.obs[column] = new.obs[column].astype(str)
    new.obs.loc[["cell0", "cell1", "cell2"], column] = "zz"
    with pytest.raises(CategoryError, match=rf"1 {kind} name\(s\).*'zz'.*Known: {known}\."):
        opened(new, like=model)


@pytest.mark.parametrize(("key", "kind"), [("batch_key", "batch"), ("labels_key", "label")])
def test_a_column_that_the_model_needs_must_be_named(key: str, kind: str) -> None:
    model = opened(make())
    with pytest.raises(SchemaError, match=f"{kind} of each cell is not given, but the model knows 3"):
        opened(make(), DataKeys(**{**vars(KEYS), key: None}), like=model)


def test_a_missing_batch_column_is_fine_where_there_is_one_batch() -> None:
    adata = make()
    adata.obs["batch"] = "only"
    model = opened(adata)
    new = opened(adata[:, :].copy(), like=model)
    del adata.obs["batch"]
    np.testing.assert_array_equal(opened(adata, like=model).batch, new.batch)


@pytest.mark.parametrize("column", ["batch", "label", "factor", "sex", "age"])
def test_a_missing_column_is_named(column: str) -> None:
    model, new = opened(make()), make()
    del new.obs[column]
    with pytest.raises(SchemaError, match=column):
        opened(new, like=model)


def test_cells_without_a_label_are_unlabelled() -> None:
    adata = make()
    adata.obs.loc[["cell5", "cell6"], "label"] = np.nan
    with pytest.warns(CelboWarning, match="unlabelled"):
        data = opened(adata)
    assert data.schema.labels == ("T", "NK", "B", "unlabelled")
    assert data.labels[4:7].tolist() == [0, 3, 3]


def test_a_label_named_unlabelled_takes_the_cells_without_one() -> None:
    adata = make()
    adata.obs["label"] = adata.obs["label"].astype(str).replace("T", "unlabelled")
    adata.obs.loc["cell20", "label"] = np.nan
    with pytest.warns(CelboWarning, match="unlabelled"):
        data = opened(adata)
    assert data.schema.labels == ("B", "NK", "unlabelled")
    assert data.labels[20] == data.labels[0] == 2


def test_new_data_without_a_label_column_are_unlabelled_where_the_model_knows_that() -> None:
    adata = make()
    adata.obs["label"] = adata.obs["label"].astype(str).replace("T", "unlabelled")
    model = opened(adata)
    del adata.obs["label"]
    assert set(opened(adata, like=model).labels) == {model.schema.labels.index("unlabelled")}


def test_cells_that_lack_all_genes_of_the_model_are_named() -> None:
    model, new = opened(make()), make(30)
    new.X[3, :20] = 0
    new.X[3, 25] = 1
    with pytest.raises(CountsError, match="'cell3'"):
        opened(new, like=model)


def test_values_that_are_not_counts_pass_if_asked() -> None:
    adata = make()
    adata.X = adata.X + 0.5
    with pytest.raises(CountsError):
        opened(adata, DataKeys())
    data = open_anndata(adata, DataKeys(), require_counts=False)
    np.testing.assert_array_equal(data.minibatch([2]).rows.dense.numpy(), adata.X[[2]])
