"""`differential_expression` as a user meets it: every model, whose cells are asked about, and what goes wrong."""

from __future__ import annotations

import gc
import inspect
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import celbo
from celbo.errors import (
    CategoryError,
    CelboWarning,
    CountsError,
    GenesError,
    InputError,
    NotTrainedError,
    OptionError,
    SchemaError,
)

QUICK = {"n_threads": 1, "device": "cpu", "progress": False}
ONE = {"groupby": "cell_type", "group1": "type_1"}
SYSTEMS = {
    "SCVI": {},
    "SCVI zinb": {"likelihood": "zinb"},
    "SCVI poisson": {"likelihood": "poisson"},
    "SCVI latent library": {"library": "latent"},
    "SCVI dispersion by batch": {"dispersion": "gene-batch"},
    "LDVAE": {},
    "SCVAE": {},
    "SCVAE observed library": {"library": "observed"},
    "SCVAE mixture": {"prior": "gaussian-mixture", "n_components": 3},
    "SCVAE classes": {"n_classes": 3},
    "SCVAE constrained": {"likelihood": "constrained-poisson"},
    "VAE": {},
    "VAE zip": {"likelihood": "zip"},
    "VAE gaussian": {"likelihood": "gaussian"},
}


@pytest.fixture(scope="module")
def adata():
    """Return 300 cells x 120 genes of 3 types in 2 batches, and 6 samples in both arms."""
    data = celbo.datasets.simulate(n_cells=300, n_genes=120, n_batches=2, n_cell_types=3, library_size=1500, seed=5)
    data = data[:, np.asarray(data.X.sum(0)).ravel() > 0].copy()
    data.obs["sample"] = [f"s{i}" for i in np.arange(300) % 6]
    data.obs["arm"] = np.where(np.arange(300) % 2, "treated", "control")
    data.obs["a column"] = np.random.default_rng(0).random(300)
    return data


@pytest.fixture(scope="module")
def model(adata):
    return celbo.SCVI(adata, batch_key="batch", seed=0).train(max_epochs=12, **QUICK)


@pytest.fixture(scope="module")
def table(model):
    return model.differential_expression(**ONE)


def briefly(adata, name: str, **options):
    """Return a model after two epochs."""
    keys = {} if name.startswith("VAE") else {"batch_key": "batch"}
    return getattr(celbo, name.partition(" ")[0])(adata, seed=0, **keys, **options).train(max_epochs=2, **QUICK)


# -- every model of counts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_model_of_counts_answers(adata, table, name) -> None:
    other = briefly(adata, name, **SYSTEMS[name])
    asked = ({}, {"sample_key": "sample"}, {"calibrated": False, "n_samples": 300}, {"mode": "vanilla"})
    for options in asked:
        found = other.differential_expression(**ONE, **options)
        assert np.isfinite(found.select_dtypes("float")).all().all()
        assert len(found) == adata.n_vars
        if not {"calibrated", "mode"} & set(options):
            # whatever the model, the counts say which genes differ
            both = table["is_de"] & found["is_de"].reindex(table.index)
            assert both.sum() >= 0.7 * max(table["is_de"].sum(), found["is_de"].sum())


def test_values_that_are_no_counts_are_a_named_error_with_the_way_out(adata) -> None:
    logs = adata.copy()
    logs.X = logs.X.astype(np.float32).log1p()
    other = celbo.SCVI(logs, likelihood="normal", seed=0).train(max_epochs=2, **QUICK)
    with pytest.raises(InputError, match=r"the data are not counts.*Use calibrated=False"):
        other.differential_expression(**ONE)
    for options in ({"calibrated": False}, {"mode": "vanilla"}):
        assert np.isfinite(other.differential_expression(**ONE, **options)["lfc_mean"]).all()


def test_a_likelihood_without_a_mean_is_a_named_error_with_the_way_out(adata) -> None:
    other = briefly(adata, "VAE", likelihood="lomax")
    torch.nn.init.constant_(other.network.log_theta, -0.5)  # of a Lomax distribution with a tail below 1
    with pytest.raises(InputError, match=r"the model expects infinite counts of \d+ genes.*use calibrated=False"):
        other.differential_expression(**ONE)
    assert np.isfinite(other.differential_expression(**ONE, calibrated=False)["lfc_mean"]).all()


def test_a_size_factor_of_any_unit_leaves_fold_changes(adata) -> None:
    scaled = adata.copy()
    scaled.obs["size"] = np.asarray(adata.X.sum(1)).ravel() / 1000
    found = celbo.SCVI(scaled, batch_key="batch", size_factor_key="size", seed=0).train(max_epochs=2, **QUICK)
    plain = celbo.SCVI(adata, batch_key="batch", seed=0).train(max_epochs=2, **QUICK)
    one, other = (m.differential_expression(**ONE).sort_index() for m in (found, plain))
    assert (one["lfc_mean"] - other["lfc_mean"]).abs().max() < 0.3
    assert np.corrcoef(one["lfc_mean"], other["lfc_mean"])[0, 1] > 0.98


def test_what_is_no_model_of_counts_has_no_such_question() -> None:
    assert not hasattr(celbo.Autoencoder, "differential_expression")


# -- groups and cells --------------------------------------------------------------------------------------------------


def test_groups_may_be_a_column_its_values_masks_or_queries(adata, model) -> None:
    mine = adata.obs["cell_type"] == "type_1"
    by_query = model.differential_expression(idx1="cell_type == 'type_1'")
    for options in (
        {"idx1": mine},
        {"idx1": mine.to_numpy()},
        {"idx1": mine.sample(frac=1, random_state=0)},
        {"idx1": np.flatnonzero(mine)},
        {"idx1": np.flatnonzero(mine) - 300},
    ):
        pd.testing.assert_frame_equal(by_query, model.differential_expression(**options))
    by_name = model.differential_expression(groupby="cell_type")
    for values in (adata.obs["cell_type"].to_numpy(), adata.obs["cell_type"].iloc[::-1]):
        pd.testing.assert_frame_equal(by_name, model.differential_expression(groupby=values))
    spaced = model.differential_expression(idx1="`a column` > 0.5", idx2="`a column` < 0.2")
    assert set(spaced["group1"]) == {"group1"}
    assert set(spaced["group2"]) == {"group2"}


@pytest.mark.parametrize("name", ["<script>", "", "rest", "細胞 α", "a\"b'c", "1.0", "x" * 300])
def test_a_group_may_have_any_name(adata, model, name) -> None:
    values = np.where(adata.obs["cell_type"] == "type_1", name, "others")
    found = model.differential_expression(groupby=values, group1=name, group2="others")
    assert set(found["group1"]) == {name}


def test_samples_may_be_a_column_or_values(adata, model) -> None:
    options = {"groupby": "arm", "group1": "treated", "group2": "control"}
    by_name = model.differential_expression(**options, sample_key="sample")
    for values in (adata.obs["sample"].to_numpy(), adata.obs["sample"].iloc[::-1]):
        pd.testing.assert_frame_equal(by_name, model.differential_expression(**options, sample_key=values))
    numbers = adata.obs["sample"].str[1:].astype(float)  # 0.0, 1.0, ... are names as good as any
    pd.testing.assert_frame_equal(by_name, model.differential_expression(**options, sample_key=numbers))


def test_another_anndata_is_asked_by_its_own_genes_and_columns(adata, model, table) -> None:
    turned = adata[:, ::-1].copy()
    pd.testing.assert_frame_equal(table, model.differential_expression(turned, **ONE))
    part = adata[adata.obs["cell_type"] != "type_3"].copy()
    part.obs["cell_type"] = part.obs["cell_type"].map({"type_1": "x", "type_2": "y"})
    found = model.differential_expression(part, groupby="cell_type", group1="x", group2="y")
    own = model.differential_expression(groupby="cell_type", group1="type_1", group2="type_2")
    numbers = list(found.columns[2:])
    assert found[["raw_mean1", "detection2"]].sort_index().equals(own[["raw_mean1", "detection2"]].sort_index())
    assert np.corrcoef(found["lfc_mean"].sort_index(), own["lfc_mean"].sort_index())[0, 1] > 0.99
    assert numbers == list(own.columns[2:])


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda a: a[:, :50].copy(), GenesError, "lack .* genes of the model"),
        (lambda a: "path.h5ad", OptionError, "is not an AnnData: a str"),
        (lambda a: a.obs, OptionError, "is not an AnnData: a DataFrame"),
        (lambda a: with_obs(a, batch="new"), CategoryError, "never saw: 'new'"),
        (lambda a: with_counts(a, 0.5), CountsError, "not counts"),
        (lambda a: with_counts(a, 0), CountsError, "without a single count"),
    ],
    ids=["genes", "path", "table", "batch", "halves", "zeros"],
)
def test_other_cells_that_do_not_fit_are_named(adata, model, spoil, error, words) -> None:
    with pytest.raises(error, match=words):
        model.differential_expression(spoil(adata), **ONE)


def with_obs(adata, **columns):
    other = adata.copy()
    other.obs = other.obs.assign(**columns)
    return other


def with_counts(adata, factor: float):
    other = adata.copy()
    other.X = other.X * factor
    return other


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_columns_of_cells_that_are_no_longer_there_are_those_of_the_beginning(adata, table, how) -> None:
    own = adata.copy()
    model = celbo.SCVI(own, batch_key="batch", seed=0).train(max_epochs=12, **QUICK)
    if how == "gone":
        del own
        gc.collect()
    else:
        own._inplace_subset_obs(np.arange(150))
    values = adata.obs["cell_type"].to_numpy()
    pd.testing.assert_frame_equal(table, model.differential_expression(**ONE))
    pd.testing.assert_frame_equal(table, model.differential_expression(groupby=values, group1="type_1"))
    pd.testing.assert_frame_equal(table, model.differential_expression(adata, **ONE))


def test_a_loaded_model_gives_the_same_table(adata, model, table, tmp_path) -> None:
    model.save(tmp_path / "model")
    again = celbo.load(tmp_path / "model", adata)
    pd.testing.assert_frame_equal(table, again.differential_expression(**ONE), check_exact=True)
    alone = celbo.load(tmp_path / "model")
    with pytest.raises(InputError, match="loaded without its data"):
        alone.differential_expression(**ONE)
    pd.testing.assert_frame_equal(table, alone.differential_expression(adata, **ONE), check_exact=True)


def test_the_seed_is_the_models_unless_given(model, table) -> None:
    pd.testing.assert_frame_equal(table, model.differential_expression(**ONE, seed=0), check_exact=True)
    other = model.differential_expression(**ONE, seed=1)
    assert (other["lfc_mean"] != table["lfc_mean"].reindex(other.index)).any()


def test_batches_are_named(model) -> None:
    by_name = model.differential_expression(**ONE, transform_batch="batch_2")
    pd.testing.assert_frame_equal(by_name, model.differential_expression(**ONE, transform_batch=["batch_2"]))
    for unknown in ("batch_9", 5, 1.5, ["batch_1", "x"]):
        with pytest.raises(OptionError, match=r"transform_batch names an unknown batch.*knows 'batch_1', 'batch_2'"):
            model.differential_expression(**ONE, transform_batch=unknown)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, OptionError, "not neither"),
        ({**ONE, "idx1": [0]}, OptionError, "not both"),
        ({"groupby": "cell_tpye"}, SchemaError, "Did you mean 'cell_type'"),
        (
            {"groupby": "cell_type", "group1": "type_4"},
            OptionError,
            "'type_4' is not a group of 'cell_type'. Did you mean",
        ),
        ({**ONE, "group2": "type_1"}, OptionError, "compared with itself"),
        ({"groupby": "a column"}, InputError, "300 different values in 300 cells"),
        ({"idx1": "cell type == 'B'"}, OptionError, "stands in `backticks`"),
        (
            {"idx1": "cel_type == 'B'"},
            OptionError,
            "names 'cel_type', which is not a column of obs. Did you mean 'cell_t",
        ),
        ({"idx1": "cell_type == 'type_9'"}, InputError, "'type_9' is no value of 'cell_type'. Did you mean 'type_"),
        ({**ONE, "sample_key": "smaple"}, SchemaError, "Did you mean 'sample'"),
        ({**ONE, "sample_key": "a column"}, InputError, "300 samples of 300 cells"),
        ({**ONE, "sample_key": "cell_type"}, InputError, "group 'type_1' is of one sample only"),
        ({**ONE, "sample_key": "sample", "mode": "vanilla"}, OptionError, "only in the calibrated comparison"),
        ({**ONE, "delta": -1}, OptionError, "delta=-1"),
        ({**ONE, "batch_correction": False, "transform_batch": "batch_1"}, OptionError, "without batch correction"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_mistakes_are_named_errors(model, options, error, words) -> None:
    with pytest.raises(error, match=words):
        model.differential_expression(**options)


def test_a_model_that_was_not_trained_is_a_named_error(adata) -> None:
    with pytest.raises(NotTrainedError, match=r"Call model.train\(\) first"):
        celbo.SCVI(adata, seed=0).differential_expression(**ONE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"idx1": [1, 2, 3]}, "Fewer than 10 cells"),
        ({"groupby": np.arange(300) < 3}, "Fewer than 10 cells"),
        ({"groupby": "batch"}, "No batch holds enough cells"),
    ],
    ids=["positions", "values", "batch"],
)
def test_a_warning_points_to_the_line_of_the_user(model, options, words) -> None:
    with pytest.warns(CelboWarning, match=words) as caught:
        model.differential_expression(**options)
    assert {w.filename for w in caught} == {__file__}


def test_a_question_writes_nothing_and_does_not_warn(adata, model) -> None:
    before, x = adata.copy(), model.data.counts.values.copy()
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.differential_expression(groupby="cell_type")
        model.differential_expression(groupby="cell_type", calibrated=False, n_samples=100)
        model.differential_expression(groupby="arm", sample_key="sample")
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.uns) == list(before.uns)
    assert (model.data.counts.values == x).all()
    assert torch.get_rng_state().equal(state)


def test_every_parameter_is_documented() -> None:
    method = celbo.SCVI.differential_expression
    for section in ("Parameters\n", "Returns\n", "Raises\n", "Examples\n"):
        assert section in method.__doc__
    parameters = inspect.signature(method).parameters
    assert [n for n in parameters if n != "self" and n not in method.__doc__] == []
    assert all(p.kind is p.KEYWORD_ONLY for n, p in parameters.items() if n not in ("self", "adata"))
