"""The reductions on 700 real blood cells."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.decomposition import FactorAnalysis
from sklearn.neighbors import KNeighborsClassifier

import celbo
from celbo.embed import METHODS, fit_factor_analysis
from celbo.embed.source import Source


@pytest.fixture(scope="module")
def blood() -> AnnData:
    return celbo.datasets.pbmc()


def accuracy(train: NDArray[np.float64], new: NDArray[np.float64], blood: AnnData) -> float:
    """Return the share of every fourth cell whose type is that of most of its 10 neighbours among the others."""
    types, held = blood.obs["cell_type"].to_numpy(), np.arange(700) % 4 == 0
    return float(KNeighborsClassifier(10).fit(train, types[~held]).score(new, types[held]))


@pytest.mark.parametrize("method", ["pca", "ica", "factor_analysis", "tsne", "umap"])
def test_held_out_cells_land_among_their_type(method: str, blood: AnnData) -> None:
    held = np.arange(700) % 4 == 0
    found = METHODS[method](blood[~held].copy())
    reached = accuracy(found.coordinates, found.transform(blood[held]), blood)
    assert reached > 0.6  # ten types, the largest with 0.34 of the cells


def test_factor_analysis_is_as_likely_as_that_of_scikit_learn(blood: AnnData) -> None:
    _, values = Source.of(blood, layer=None, use_rep=None, n_top_genes=300)
    ours = fit_factor_analysis(values, n_components=8, tolerance=1e-7)
    dense = values.toarray().astype(float)
    theirs = FactorAnalysis(8, svd_method="lapack", tol=1e-3).fit(dense)
    assert ours.log_density(values).mean() > theirs.score(dense) - 1e-4
    assert (np.diff(ours.history) > -1e-9).all()
