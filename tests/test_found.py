"""The numbers of a run are what they are called: checked against scikit-learn and formulas on the files it left."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.special import xlogy
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

import celbo
from celbo.pipeline.config import GraphConfig, RunConfig, SelectionConfig, TrainRunConfig
from celbo.pipeline.main import RunResult
from celbo.report.markup import number


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    adata = celbo.datasets.simulate(
        n_cells=330, n_genes=120, n_batches=2, n_cell_types=5, de_fraction=0.6, log2_fold_change_range=(2, 4), seed=2
    )
    names = adata.obs["cell_type"].astype(str).to_numpy(object)
    names[:30] = "unknown"
    adata.obs["type"] = names
    train = TrainRunConfig().train
    config = RunConfig(
        selection=SelectionConfig(n_top_genes=0),
        train=type(train)(**{**vars(train), "max_epochs": 25}),
        graph=GraphConfig(resolution=3.0, n_markers=5),
    )
    out = tmp_path_factory.mktemp("found") / "run"
    return celbo.run(adata, config=config, batch_key="batch", labels_key="type", out=out, progress=False)


@pytest.fixture(scope="module")
def result(finished: RunResult) -> anndata.AnnData:
    return anndata.read_h5ad(finished.folder / "result.h5ad")


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "tables" / f"{name}.csv", index_col=0)


def test_label_purity_is_that_of_scikit_learns_neighbours_in_table_and_page(finished, result):
    known = (result.obs["type"] != "unknown").to_numpy()
    labels, space = result.obs["type"].astype(str).to_numpy()[known], result.obsm["X_scvi"][known]
    index = NearestNeighbors(n_neighbors=30).fit(space.astype(np.float64)).kneighbors(return_distance=False)
    shares = (labels[index] == labels[:, None]).mean(1)
    by_label = table(finished.folder, "label_purity")
    for name in np.unique(labels):
        assert by_label.loc[name, "purity"] == pytest.approx(shares[labels == name].mean(), abs=1e-9)
    assert table(finished.folder, "metrics").loc["label purity", "after"] == pytest.approx(shares.mean(), abs=1e-9)
    page = finished.report.read_text()
    assert f"On average {100 * shares.mean():.0f}% of a cell&#x27;s 30 nearest neighbours have its label" in page


def test_deviance_explained_is_the_formula_on_the_held_out_cells(finished):
    model, counts = finished.model, np.asarray(finished.adata.X.todense(), np.float64)
    held_out, train = model.validation_indices, model.train_indices
    share = counts[train].sum(0) + 0.5
    null = counts[held_out].sum(1, keepdims=True) * share / share.sum()
    x, mu = counts[held_out], model.get_denoised_expression(indices=held_out, return_numpy=True).astype(np.float64)
    left, whole = ((xlogy(x, x / rate) - x + rate).sum() for rate in (mu, null))
    assert finished.deviance_explained == pytest.approx(1 - left / whole, abs=1e-6)
    assert table(finished.folder, "metrics").loc["deviance explained", "after"] == pytest.approx(1 - left / whole)
    assert f'deviance explained</dt><dd class="big">{100 * (1 - left / whole):.0f}%'.replace("-", "\u2212") in (
        finished.report.read_text()
    )


def test_the_header_has_no_elbo_and_the_section_on_training_does(finished):
    page = finished.report.read_text()
    header = page[page.index('class="numbers"') : page.index("<section")]
    assert "ELBO" not in header
    assert "ELBO" in page[page.index('<section id="training"') :]


def test_the_two_agreements_have_names_of_their_own(finished, result):
    known = result.obs["type"] != "unknown"
    leiden = adjusted_rand_score(result.obs["type"][known], result.obs["leiden"][known])
    metrics = table(finished.folder, "metrics")
    assert metrics.loc["Leiden ARI", "after"] == pytest.approx(leiden) == finished.ari
    assert metrics.loc["k-means ARI", "after"] != metrics.loc["Leiden ARI", "after"]
    assert f'Leiden ARI</dt><dd class="big">{number(leiden)}' in finished.report.read_text()


def test_the_resolution_that_is_named_gives_these_clusters_and_this_agreement(finished, result):
    tried = table(finished.folder, "resolutions")
    chosen = tried[tried["chosen"]]
    assert chosen.index.to_list() == [3.0]
    assert chosen["ari"].iloc[0] == pytest.approx(finished.ari)
    assert chosen["clusters"].iloc[0] == result.obs["leiden"].nunique()
    gain = np.minimum(tried["ari"] - chosen["ari"].iloc[0], tried["ari_other_seed"] - chosen["ari_other_seed"].iloc[0])
    best = tried[gain >= 0.05]["ari"].idxmax()
    told = f"{best:g} agrees best with the labels: {tried.loc[best, 'clusters']} clusters"
    assert f"{told}, ARI {tried.loc[best, 'ari']:.2f}." in finished.report.read_text()
