"""What a user asks of a model of counts beside its expression: names, cells, groups and errors."""

from __future__ import annotations

import gc
import inspect
import warnings

import numpy as np
import pandas as pd
import pytest

import celbo
from celbo.errors import CelboWarning, InputError, NotTrainedError, OptionError, SchemaError
from celbo.models import questions
from celbo.models.base import CountModel

MARKERS = ["CD3D", "CD3E", "LYZ"]
SYSTEMS = ("SCVI", "LDVAE", "SCVAE", "VAE")


@pytest.fixture(scope="module")
def adata():
    """Return real blood cells with six samples in two arms; the third of arm b has no name."""
    data = celbo.datasets.pbmc()
    sample = np.arange(data.n_obs) % 6
    data.obs["sample"] = pd.Categorical([f"s{i}" for i in sample])
    data.obs["arm"] = np.where(sample < 3, "a", "b")
    data.obs.loc[sample == 5, "arm"] = None
    return data


@pytest.fixture(scope="module")
def model(adata):
    """Return a model of them after three epochs."""
    return celbo.SCVI(adata, seed=0).train(max_epochs=3, n_threads=1, device="cpu", progress=False)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_model_of_counts_answers(adata, name) -> None:
    other = getattr(celbo, name)(adata, seed=0)
    assert isinstance(other, CountModel)
    other.train(max_epochs=1, n_threads=1, device="cpu", progress=False)
    cells = np.arange(0, 700, 10)
    r = other.get_feature_correlation_matrix(indices=cells, gene_list=MARKERS, n_samples=2)
    assert list(r.index) == list(r.columns) == MARKERS
    assert np.diag(r) == pytest.approx(1)
    found = other.get_credible_intervals(indices=cells, gene_list=MARKERS, n_samples=39)
    assert (found["lower"] <= found["median"]).all().all()
    assert (found["median"] <= found["upper"]).all().all()
    densities = other.differential_abundance(sample_key="sample", indices=cells)
    assert densities.shape == (70, 3)  # of the six samples, those of every second
    check = other.posterior_predictive_check(indices=cells, gene_list=MARKERS, n_samples=19)
    assert list(check.index) == MARKERS
    assert check["mean_observed"].to_numpy() == pytest.approx(adata[cells, MARKERS].X.toarray().mean(0), rel=1e-5)


@pytest.mark.parametrize("name", questions.__all__)
def test_a_question_is_documented_and_needs_a_trained_model(adata, name) -> None:
    method = getattr(celbo.SCVI(adata, seed=0), name)
    for section in ("Parameters\n", "Returns\n", "Raises\n"):
        assert section in method.__doc__
    for parameter in inspect.signature(method).parameters:
        assert parameter in method.__doc__
    with pytest.raises(NotTrainedError):
        method(**({"sample_key": "sample"} if name == "differential_abundance" else {}))


def test_correlations_of_t_cell_genes_are_stronger_than_of_their_counts(adata, model) -> None:
    model = celbo.SCVI(adata, seed=0).train(max_epochs=30, n_threads=1, device="cpu", progress=False)
    r = model.get_feature_correlation_matrix(gene_list=MARKERS)
    counts = pd.DataFrame(adata[:, MARKERS].X.toarray(), columns=MARKERS).corr("spearman")
    assert r.loc["CD3D", "CD3E"] > counts.loc["CD3D", "CD3E"] > 0
    assert r.loc["CD3D", "LYZ"] < counts.loc["CD3D", "LYZ"] < 0


def test_intervals_have_the_names_of_cells_and_groups(adata, model) -> None:
    types = adata.obs["cell_type"].to_numpy()
    table = model.get_credible_intervals(
        lambda x: x["LYZ"].groupby(types).mean(), gene_list=["LYZ"], over="population", n_samples=39
    ).table()
    assert list(table.index) == sorted(set(types))
    ratio = model.get_credible_intervals(lambda x: x["CD3D"] / x["LYZ"], gene_list=MARKERS, n_samples=39)
    assert list(ratio["mean"].index) == list(adata.obs_names)


@pytest.mark.filterwarnings("ignore:.*without a single count")
def test_cells_of_another_anndata_are_asked_by_their_own_columns(adata, model) -> None:
    other = adata[100:400].copy()
    other.obs["sample"] = np.where(np.arange(300) < 150, "x", "y")
    densities = model.differential_abundance(other, sample_key="sample")
    assert list(densities.columns) == ["x", "y"]
    assert list(densities.index) == list(other.obs_names)
    r = model.get_feature_correlation_matrix(other, gene_list=MARKERS)
    assert r.equals(model.get_feature_correlation_matrix(indices=np.arange(100, 400), gene_list=MARKERS))
    check = model.posterior_predictive_check(other, n_samples=19)
    assert check["mean_observed"].to_numpy() == pytest.approx(other.X.toarray().mean(0), rel=1e-5)
    found = model.get_credible_intervals(adata=other, gene_list=MARKERS, n_samples=39)
    assert list(found["mean"].index) == list(other.obs_names)


def test_samples_may_be_a_column_an_array_or_a_series_in_any_order(adata, model) -> None:
    by_name = model.differential_abundance(sample_key="sample")
    assert list(by_name.columns) == [f"s{i}" for i in range(6)]
    for values in (adata.obs["sample"].to_numpy(), list(adata.obs["sample"]), adata.obs["sample"].iloc[::-1]):
        assert model.differential_abundance(sample_key=values).equals(by_name)


def test_groups_are_of_samples(model) -> None:
    one = model.differential_abundance(sample_key="sample", groupby="arm", group1="a", group2="b")
    assert one.equals(model.differential_abundance(sample_key="sample", groupby="arm", group1="a"))
    named = model.differential_abundance(sample_key="sample", group1=["s0", "s1", "s2"], group2=["s3", "s4"])
    assert one.equals(named)
    rest = model.differential_abundance(sample_key="sample", group1=["s0", "s1", "s2"])
    assert not one.equals(rest)
    swapped = model.differential_abundance(sample_key="sample", groupby="arm", group1="b", group2="a")
    assert swapped["lfc_mean"].to_numpy() == pytest.approx(-one["lfc_mean"].to_numpy(), abs=1e-9)
    with pytest.warns(CelboWarning, match="no spread"):
        model.differential_abundance(sample_key="sample", group1="s0", group2="s1")


def test_columns_of_an_anndata_that_is_gone_are_kept(adata) -> None:
    own = adata.copy()
    model = celbo.SCVI(own, seed=0).train(max_epochs=1, n_threads=1, device="cpu", progress=False)
    values = own.obs["sample"].to_numpy()
    del own
    gc.collect()
    with pytest.raises(SchemaError, match=r"'arm2' is not a column of obs\. The AnnData of the model is gone.*adata="):
        model.differential_abundance(sample_key="arm2")
    assert model.differential_abundance(sample_key=values).shape == (700, 6)
    assert model.differential_abundance(sample_key="sample").shape == (700, 6)
    assert model.differential_abundance(adata, sample_key="sample").shape == (700, 6)


def test_an_anndata_cut_in_place_is_not_taken_for_the_models_own(adata) -> None:
    """The model keeps the columns of its own cells, and answers for all of them."""
    own = adata.copy()
    model = celbo.SCVI(own, seed=0).train(max_epochs=1, n_threads=1, device="cpu", progress=False)
    before = model.differential_abundance(sample_key="sample")
    own._inplace_subset_obs(np.arange(300))
    after = model.differential_abundance(sample_key="sample")
    assert len(after) == len(before) == adata.n_obs
    pd.testing.assert_frame_equal(pd.DataFrame(after), pd.DataFrame(before))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sample_key": "smaple"}, SchemaError, "Did you mean 'sample'"),
        ({"sample_key": np.zeros(3)}, SchemaError, "has 3 values for 700 cells"),
        ({"sample_key": np.zeros((700, 2))}, SchemaError, r"its shape is \(700, 2\)"),
        ({"sample_key": "sample", "group1": "s9"}, OptionError, "group1='s9' does not exist"),
        ({"sample_key": "sample", "groupby": "arm", "group1": "c"}, OptionError, "Known: 'a', 'b'"),
        ({"sample_key": "sample", "groupby": "arm"}, OptionError, "groupby needs group1"),
        ({"sample_key": "sample", "group2": "s0"}, OptionError, "group2 needs group1"),
        ({"sample_key": "sample", "group1": "s0", "group2": ["s0", "s1"]}, InputError, "in both groups"),
        ({"sample_key": "sample", "groupby": "cell_type", "group1": "CD14+ Monocyte"}, SchemaError, "several groups"),
        ({"sample_key": "sample", "max_cells": 0}, OptionError, "max_cells=0"),
    ],
    ids=str,
)
def test_groups_that_cannot_be_are_named_errors(model, options, error, words) -> None:
    with pytest.raises(error, match=words):
        model.differential_abundance(**options)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda m: m.get_feature_correlation_matrix(gene_list=["CD3X"]), "CD3"),
        (lambda m: m.get_feature_correlation_matrix(transform_batch="x"), "unknown batch"),
        (lambda m: m.get_credible_intervals(celbo.datasets.pbmc()), "function is not a function: AnnData"),
        (lambda m: m.get_credible_intervals(gene_list=["CD3X"]), "gene_list"),
        (lambda m: m.posterior_predictive_check(indices=[]), "indices is empty"),
    ],
)
def test_impossible_questions_are_named_errors(model, ask, words) -> None:
    with pytest.raises(OptionError, match=words):
        ask(model)


def test_no_question_writes_into_the_anndata_or_warns(adata, model) -> None:
    before = (list(adata.obs.columns), list(adata.obsm), list(adata.uns))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.differential_abundance(sample_key="sample", groupby="arm", group1="a")
        model.get_feature_correlation_matrix(gene_list=MARKERS)
        model.posterior_predictive_check(gene_list=MARKERS, indices=np.arange(100))
    assert before == (list(adata.obs.columns), list(adata.obsm), list(adata.uns))


def test_a_predictive_check_is_drawn_with_its_intervals(model) -> None:
    cells = np.arange(150)
    check = model.posterior_predictive_check(indices=cells)
    for what in ("mean", "variance", "zeros"):
        ax = celbo.plots.plot_ppc(check, what)
        shown = len(ax.collections[0].get_offsets())
        assert len(ax.collections[1].get_segments()) == shown > 500
    own = model.posterior_predictive_check(
        indices=cells, gene_list=MARKERS, statistics={"top": lambda x: x.max(0).toarray()}
    )
    ax = celbo.plots.plot_ppc(own, "top")
    drawn = np.array(ax.collections[1].get_segments())[:, :, 1]  # (genes, ends)
    assert drawn == pytest.approx(own[["top_lower", "top_upper"]].to_numpy().clip(*ax.get_ylim()))
    with pytest.raises(OptionError, match="It has 'top'"):
        celbo.plots.plot_ppc(own, "mean")
