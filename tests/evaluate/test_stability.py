"""Agreement of pictures against closed forms, SciPy and sets."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import procrustes

from celbo import evaluate
from celbo.errors import InputError, OptionError


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1500, 2))


def moved(x: np.ndarray, seed: int) -> np.ndarray:
    """Turn or mirror a picture, scale it and shift it."""
    rng = np.random.default_rng(seed)
    return 1e3 * rng.random() * x @ np.linalg.qr(rng.normal(size=(x.shape[1],) * 2))[0] + 50 * rng.normal(
        size=x.shape[1]
    )


def other(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1500, 2))


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_moved_copy_is_the_same_picture(picture, seed):
    copy = moved(picture, seed)
    assert evaluate.procrustes_disparity(picture, copy) == pytest.approx(0.0, abs=1e-12)
    assert evaluate.procrustes_disparity(picture, picture * [1, -1]) == pytest.approx(0.0, abs=1e-12)
    assert evaluate.neighbour_overlap(picture, copy) == 1.0


def test_unrelated_pictures_have_disparity_near_one_and_overlap_as_by_chance(picture):
    drawn = [other(seed) for seed in range(1, 21)]
    overlap = [evaluate.neighbour_overlap(picture, x, k=15) for x in drawn]
    assert np.mean(overlap) == pytest.approx(15 / 1499, rel=0.03)
    disparity = [evaluate.procrustes_disparity(picture, x) for x in drawn]
    assert min(disparity) > 0.99
    assert np.mean(disparity) == pytest.approx(1.0, abs=2 / 1500)


def test_disparity_is_scipys_and_symmetric(picture):
    noisy = moved(picture, 7) + 300 * other(8)
    found = evaluate.procrustes_disparity(picture, noisy)
    assert found == pytest.approx(procrustes(picture, noisy)[2], rel=1e-10)
    assert found == pytest.approx(evaluate.procrustes_disparity(noisy, picture), rel=1e-12)


def test_disparity_of_orthogonal_noise_is_its_share_of_the_variance():
    """B = A + E with E orthogonal to A and of equal norm in each column: (tr A'B)^2 / |A|^2 |B|^2 = 1 / 2."""
    basis = np.linalg.qr(np.column_stack([np.ones(500), np.random.default_rng(0).normal(size=(500, 4))]))[0][:, 1:]
    a, e = basis[:, :2], basis[:, 2:]
    assert evaluate.procrustes_disparity(a, a + e) == pytest.approx(0.5, abs=1e-12)
    assert evaluate.procrustes_disparity(a, a + 3 * e) == pytest.approx(0.9, abs=1e-12)
    assert evaluate.procrustes_disparity(a, e) == pytest.approx(1.0, abs=1e-12)


def test_missing_dimensions_are_zeros(picture):
    flat = np.column_stack([picture, np.zeros(len(picture))])
    assert evaluate.procrustes_disparity(picture, moved(flat, 5)) == pytest.approx(0.0, abs=1e-12)


def test_extreme_scales_do_not_overflow(picture):
    assert evaluate.procrustes_disparity(picture * 1e200, picture * 1e-200) == pytest.approx(0.0, abs=1e-12)


def test_overlap_is_that_of_sets(picture):
    from sklearn.neighbors import NearestNeighbors

    noisy = picture + 0.1 * other(3)
    near = [NearestNeighbors(n_neighbors=7).fit(x).kneighbors()[1] for x in (picture, noisy)]
    by_hand = np.mean([len(set(a) & set(b)) / 7 for a, b in zip(*near, strict=True)])
    assert 0.1 < by_hand < 0.9
    assert evaluate.neighbour_overlap(picture, noisy, k=7) == pytest.approx(by_hand, rel=1e-12)
    table = evaluate.stability([picture, noisy], k=7)
    assert table.loc[0, "neighbour_overlap"] == pytest.approx(by_hand, rel=1e-12)


def test_stability_compares_all_pairs(picture):
    runs = {"seed 0": picture, "seed 1": moved(picture, 1), "seed 2": other(2)}
    table = evaluate.stability(runs)
    assert list(zip(table["first"], table["second"], strict=True)) == [
        ("seed 0", "seed 1"), ("seed 0", "seed 2"), ("seed 1", "seed 2"),
    ]  # fmt: skip
    assert table["procrustes_disparity"].to_numpy() == pytest.approx([0, 1, 1], abs=0.01)
    assert table["neighbour_overlap"].to_numpy() == pytest.approx([1, 0.01, 0.01], abs=0.005)
    for row in table.itertuples():
        assert row.procrustes_disparity == pytest.approx(
            evaluate.procrustes_disparity(runs[row.first], runs[row.second]), abs=1e-12
        )
    summary = evaluate.stability_summary(table)
    assert summary.loc["neighbour_overlap", ["best", "worst"]].tolist() == [1.0, table["neighbour_overlap"].min()]
    assert summary.loc["neighbour_overlap", "unrelated"] == pytest.approx(15 / 1499)
    assert summary.loc["procrustes_disparity", "mean"] == pytest.approx(table["procrustes_disparity"].mean())
    assert summary.loc["procrustes_disparity", "worst"] > 0.99


def test_islands_that_moved_keep_their_neighbours_but_not_the_picture(picture):
    """What t-SNE does from seed to seed: 6 islands, each as it was, at other places."""
    island = np.arange(1500) % 6
    angle = 2 * np.pi * np.arange(6) / 6
    places = 100 * np.column_stack([np.cos(angle), np.sin(angle)])
    table = evaluate.stability([picture + places[island], picture + places[[3, 0, 4, 1, 5, 2]][island]])
    assert table.loc[0, "neighbour_overlap"] == pytest.approx(1.0)
    assert table.loc[0, "procrustes_disparity"] > 0.5


def test_many_cells_are_compared_on_one_subset(picture):
    runs = [picture, moved(picture, 1), other(2)]
    few = evaluate.stability(runs, max_cells=300, seed=1)
    assert few.equals(evaluate.stability(runs, max_cells=300, seed=1))
    assert few.loc[0, "neighbour_overlap"] == 1.0  # the same cells of each run
    assert few.loc[0, "neighbour_chance"] == pytest.approx(15 / 299)
    assert not few.equals(evaluate.stability(runs, max_cells=300, seed=2))


def test_wrong_pictures_are_named(picture):
    with pytest.raises(InputError, match="'b' has 1400"):
        evaluate.stability({"a": picture, "b": picture[:1400]})
    with pytest.raises(InputError, match="runs are too few to compare: 1"):
        evaluate.stability([picture])
    with pytest.raises(InputError, match="picture 'b' has all cells in one point"):
        evaluate.procrustes_disparity(picture, np.full((1500, 2), 3.1))
    with pytest.raises(InputError, match="finite"):
        evaluate.procrustes_disparity(picture, np.full((1500, 2), np.nan))
    with pytest.raises(OptionError, match="k must be at least 1"):
        evaluate.neighbour_overlap(picture, picture, k=0)
