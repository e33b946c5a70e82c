"""Groups of cells by the name of a column, or given directly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from celbo.data.obs import column_of, obs_column
from celbo.errors import InputError, SchemaError

NAMES = ["c1", "c2", "c3", "c4"]


@pytest.fixture
def adata() -> AnnData:
    obs = pd.DataFrame(
        {"donor": ["b", "a", None, "b"], "day": [10, 2, 10, 2], "kind": pd.Categorical(list("yxyx"), ["y", "x", "z"])},
        index=NAMES,
    )
    return AnnData(np.zeros((4, 2), np.float32), obs=obs)


def groups(adata: AnnData | None, key: object) -> tuple[list[int], list[str]]:
    found = obs_column(adata, key, cell_names=NAMES, where="sample_key")
    return list(found.codes), list(found.categories)


def test_a_column_is_read_as_text_in_its_own_order(adata) -> None:
    assert groups(adata, "donor") == ([1, 0, -1, 1], ["a", "b"])
    assert groups(adata, "day") == ([1, 0, 1, 0], ["2", "10"])
    assert groups(adata, "kind") == ([0, 1, 0, 1], ["y", "x"])


@pytest.mark.parametrize(
    "values",
    [
        ["b", "a", None, "b"],
        np.array(["b", "a", None, "b"], object),
        pd.Categorical(["b", "a", None, "b"]),
        pd.Series(["b", "a", None, "b"]),
        pd.Series(["b", "b", "a", None], index=["c4", "c1", "c2", "c3"]),
    ],
    ids=["list", "array", "categorical", "series", "series by name"],
)
def test_values_need_no_anndata(values) -> None:
    assert groups(None, values) == ([1, 0, -1, 1], ["a", "b"])


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("doner", "'doner' is not a column of obs. Did you mean 'donor'"),
        (["a", "b"], "sample_key has 2 values for 4 cells"),
        (np.zeros((4, 1)), r"one value for each cell: its shape is \(4, 1\)"),
        (3, r"one value for each cell: its shape is \(\)"),
        ([None] * 4, "sample_key has no value for any cell"),
        (pd.Series(list("abcd"), index=["c1", "c2", "c3", "x"]), "other names than those of the cells: 'x'"),
    ],
    ids=str,
)
def test_what_names_no_groups_is_a_named_error(adata, key, words) -> None:
    with pytest.raises(SchemaError, match=words):
        groups(adata, key)


def test_a_column_without_its_anndata_is_a_named_error() -> None:
    with pytest.raises(InputError, match=r"sample_key='donor' names a column, and there is no .* Pass adata="):
        groups(None, "donor")


def test_two_columns_of_one_name_are_a_named_error(adata) -> None:
    adata.obs = pd.concat([adata.obs, adata.obs[["day"]]], axis=1)
    with pytest.raises(SchemaError, match="several columns"):
        column_of(adata, "day")
