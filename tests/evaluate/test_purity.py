"""Purity of neighbourhoods by label, against scikit-learn's nearest neighbours and closed forms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import NearestNeighbors

from celbo import evaluate
from celbo.errors import InputError


def sklearn_shares(x: np.ndarray, labels: np.ndarray, k: int = 30) -> np.ndarray:
    """Share of each cell's k nearest neighbours, itself left out, that have its label."""
    index = NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)
    return (labels[index] == labels[:, None]).mean(1)


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.choice(["B", "CD4 T", "CD8 T", "NK"], 900, p=[0.1, 0.5, 0.3, 0.1])
    place = {"B": 6.0, "CD4 T": 0.0, "CD8 T": 1.5, "NK": 12.0}
    return rng.normal(size=(900, 5)) + np.array([place[name] for name in labels])[:, None] * np.eye(5)[0], labels


def test_the_purity_is_that_of_scikit_learns_neighbours_overall_and_by_label(cells):
    x, labels = cells
    shares = sklearn_shares(x, labels)
    found = evaluate.label_purity(x, labels)
    assert found.n_neighbors == 30
    assert found.mean == pytest.approx(shares.mean(), rel=1e-12)
    for name in np.unique(labels):
        assert found.by_label.loc[name, "purity"] == pytest.approx(shares[labels == name].mean(), rel=1e-12)
        assert found.by_label.loc[name, "cells"] == (labels == name).sum()


def test_the_label_that_a_type_blurs_into_is_named_with_its_share(cells):
    x, labels = cells
    index = NearestNeighbors(n_neighbors=30).fit(x).kneighbors(return_distance=False)
    share = (labels[index[labels == "CD8 T"]] == "CD4 T").mean()
    row = evaluate.label_purity(x, labels).by_label.loc["CD8 T"]
    assert row["neighbour"] == "CD4 T"
    assert row["neighbour_share"] == pytest.approx(share, rel=1e-12)


def test_labels_without_structure_have_the_purity_of_chance():
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat(["a", "b"], [1800, 200]))
    found = evaluate.label_purity(rng.normal(size=(2000, 3)), labels)
    assert found.chance == pytest.approx((1800 * 1799 + 200 * 199) / (2000 * 1999))
    assert found.mean == pytest.approx(found.chance, abs=0.01)
    assert found.by_label["chance"].to_list() == pytest.approx([1799 / 1999, 199 / 1999])


def test_many_mixed_labels_are_not_pure_though_clisi_is_high():
    rng = np.random.default_rng(2)
    labels = np.arange(1750) % 35
    x = rng.normal(size=(1750, 8)) + 0.9 * rng.normal(size=(35, 8))[labels]
    found, shares = evaluate.label_purity(x, labels), sklearn_shares(x, labels)
    assert found.mean == pytest.approx(shares.mean())
    assert found.mean < 0.35
    assert evaluate.clisi(x, labels) > 0.75


def test_a_label_with_fewer_cells_than_neighbours_cannot_be_pure():
    x = np.repeat([[0.0], [100.0]], [11, 89], axis=0) + np.random.default_rng(0).normal(size=(100, 1))
    found = evaluate.label_purity(x, np.repeat(["rare", "common"], [11, 89]))
    assert found.by_label.loc["rare", ["purity", "best"]].to_list() == pytest.approx([1 / 3, 1 / 3])
    assert found.best == pytest.approx(0.11 / 3 + 0.89)
    assert found.mean == pytest.approx(found.best)


def test_a_sample_of_many_cells_has_neighbours_among_all_and_weighs_labels_by_all_their_cells(cells):
    x, labels = cells
    rng = np.random.default_rng(3)
    x = np.concatenate([x + rng.normal(scale=0.1, size=x.shape) for _ in range(8)])
    labels = np.tile(labels, 8)
    shares = sklearn_shares(x, labels)
    found = evaluate.label_purity(x, labels, max_cells=1500)
    assert found.mean == pytest.approx(shares.mean(), abs=0.01)
    assert found.by_label.loc["B", "purity"] == pytest.approx(shares[labels == "B"].mean(), abs=0.03)
    assert found.by_label["cells"].sum() == len(labels)


def test_equal_cells_in_a_sample_are_not_their_own_neighbours():
    found = evaluate.label_purity(np.zeros((300, 2)), np.arange(300).astype(str), max_cells=200)
    assert found.mean == 0.0


def test_cells_without_a_label_are_left_out_as_neighbours_too(cells):
    x, labels = cells
    some = pd.Series(labels).where(labels != "CD4 T", None)
    kept = labels != "CD4 T"
    assert evaluate.label_purity(x, some).mean == pytest.approx(sklearn_shares(x[kept], labels[kept]).mean())


def test_few_cells_have_fewer_neighbours():
    found = evaluate.label_purity(np.arange(5.0)[:, None], list("aabbb"))
    assert found.n_neighbors == 4
    assert found.by_label.loc["b", "purity"] == pytest.approx(0.5)


def test_labels_of_another_number_of_cells_are_a_named_error(cells):
    with pytest.raises(InputError, match="900 and 2"):
        evaluate.label_purity(cells[0], ["a", "b"])


def test_the_rows_of_clusters_are_named_by_what_made_them(cells):
    x, labels = cells
    table = evaluate.integration_metrics(x, labels=labels, clusters=labels, clusters_name="Leiden").set_index("metric")
    assert {"Leiden ARI", "Leiden NMI", "k-means ARI"} <= set(table.index)
    assert table.loc["Leiden ARI", "meaning"].startswith("Agreement of the Leiden clusters")
    assert table.loc["label purity", "chance"] == evaluate.label_purity(x, labels).chance
