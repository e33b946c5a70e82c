"""Counts and representations that the tests of reductions share."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from celbo.data.components import log_normalised


@pytest.fixture
def cells() -> AnnData:
    """Return the counts of 120 cells of three types, 90 genes; `obsm["X_rep"]` is a representation."""
    rng = np.random.default_rng(0)
    types = np.repeat([0, 1, 2], 40)
    rate = np.exp(0.5 * rng.normal(size=(3, 90)))[types] * rng.gamma(5, 0.4, (120, 1))
    obs = pd.DataFrame({"type": types.astype(str)}, index=[f"cell{i}" for i in range(120)])
    adata = AnnData(sparse.csr_matrix(rng.poisson(rate)), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(90)]))
    adata.obsm["X_rep"] = rng.normal(size=(120, 6)) + 4 * np.eye(6)[types]
    return adata


@pytest.fixture
def values(cells: AnnData) -> sparse.csr_matrix:
    """Return the log-normalised counts of `cells`; (120, 90)."""
    return log_normalised(cells.X)
