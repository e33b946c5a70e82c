"""Minibatches and splits: every cell once, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import stats

from celbo.data.cells import CellData, open_anndata
from celbo.data.sampler import MinibatchSampler, Split, split_cells
from celbo.data.schema import DataKeys
from celbo.errors import InputError, OptionError


@pytest.fixture(scope="module")
def data() -> CellData:
    counts = np.random.default_rng(0).poisson(2.0, (101, 5)).astype(np.float32) + 1
    return open_anndata(AnnData(counts, obs=pd.DataFrame(index=[f"c{i}" for i in range(101)])), DataKeys())


def sampler(data: CellData, n: int = 101, **options: object) -> MinibatchSampler:
    given = {"batch_size": 10, "seed": 3, **options}
    return MinibatchSampler(data, np.arange(n), **given)  # type: ignore[arg-type]


def test_an_epoch_holds_every_cell_once(data: CellData) -> None:
    seen = np.concatenate([batch.index.numpy() for batch in sampler(data).epoch(0)])
    np.testing.assert_array_equal(np.sort(seen), np.arange(101))


def test_minibatches_hold_the_counts_of_their_cells(data: CellData) -> None:
    dense = data.counts.to_scipy().toarray()
    for batch in sampler(data).epoch(0):
        np.testing.assert_array_equal(batch.rows.dense.numpy(), dense[batch.index.numpy()])


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [
        (101, 10, [10] * 9 + [11]),  # one cell left over joins the minibatch before it
        (100, 10, [10] * 10),
        (52, 10, [10] * 5 + [2]),
        (7, 10, [7]),
        (11, 10, [11]),
        (1, 10, [1]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_sizes_of_minibatches(data: CellData, n: int, size: int, sizes: list[int]) -> None:
    drawn = sampler(data, n, batch_size=size)
    assert [batch.n_cells for batch in drawn.epoch(0)] == sizes
    assert len(drawn) == len(sizes)


def test_the_order_depends_on_seed_and_epoch_alone(data: CellData) -> None:
    first = np.concatenate(sampler(data).epoch_indices(7))
    used = sampler(data)
    for epoch in (0, 1, 5):
        list(used.epoch(epoch))
    np.testing.assert_array_equal(np.concatenate(used.epoch_indices(7)), first)
    assert (np.concatenate(sampler(data).epoch_indices(8)) != first).any()
    assert (np.concatenate(sampler(data, seed=4).epoch_indices(7)) != first).any()


def test_every_cell_is_as_likely_at_every_place(data: CellData) -> None:
    drawn = sampler(data, 20)
    places = np.array([np.concatenate(drawn.epoch_indices(e)) for e in range(2000)])  # (epochs, places)
    seen = np.array([np.bincount(column, minlength=20) for column in places.T])
    assert stats.chi2.sf(((seen - 100) ** 2 / 100).sum(), 19 * 19) > 1e-3


def test_without_shuffle_the_order_is_as_given(data: CellData) -> None:
    given = np.array([9, 2, 5, 7])
    drawn = MinibatchSampler(data, given, batch_size=3, seed=0, shuffle=False)
    assert np.concatenate(drawn.epoch_indices(4)).tolist() == [9, 2, 5, 7]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_shuffling_ranks_share_an_epoch_in_equal_steps(data: CellData, world_size: int) -> None:
    ranks = [sampler(data, rank=r, world_size=world_size) for r in range(world_size)]
    parts = [np.concatenate(r.epoch_indices(2)) for r in ranks]
    assert len({part.size for part in parts}) == 1
    assert len({len(r) for r in ranks}) == 1
    seen = np.concatenate(parts)
    assert np.unique(seen).size == seen.size == 101 // world_size * world_size


def test_unshuffled_ranks_see_every_cell_once(data: CellData) -> None:
    ranks = [sampler(data, rank=r, world_size=3, shuffle=False) for r in range(3)]
    seen = np.concatenate([np.concatenate(r.epoch_indices(0)) for r in ranks])
    np.testing.assert_array_equal(np.sort(seen), np.arange(101))
    assert all(len(r) == len(r.epoch_indices(0)) for r in ranks)


def test_with_replacement_an_epoch_is_a_bootstrap(data: CellData) -> None:
    drawn = sampler(data, with_replacement=True)
    unique = [np.unique(np.concatenate(drawn.epoch_indices(e))).size for e in range(200)]
    assert np.mean(unique) == pytest.approx(101 * (1 - (1 - 1 / 101) ** 101), abs=1.0)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"batch_size": 0}, "batch_size"), ({"rank": 2, "world_size": 2}, "rank"), ({"rank": -1}, "rank")],
)
def test_impossible_options_are_named(data: CellData, options: dict[str, int], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        sampler(data, **options)


def test_no_cells_are_an_error(data: CellData) -> None:
    with pytest.raises(InputError, match="0 cells"):
        sampler(data, 0)


def test_a_cell_outside_the_data_is_an_error(data: CellData) -> None:
    with pytest.raises(OptionError, match="reaches outside the 101 cells: 200"):
        MinibatchSampler(data, [1, 200], batch_size=4, seed=0)


def sizes(split: Split) -> tuple[int, int]:
    return split.train.size, split.validation.size


@pytest.mark.parametrize(
    ("n", "train_size", "expected"),
    [
        (1000, 0.9, (900, 100)),
        (1001, 0.9, (901, 100)),
        (1000, 1.0, (1000, 0)),
        (5, 0.9, (4, 1)),  # some cell validates
        (3, 0.9, (2, 1)),
        (2, 0.9, (2, 0)),  # training needs two
        (10, 0.01, (2, 8)),
    ],
)
def test_sizes_of_a_random_split(n: int, train_size: float, expected: tuple[int, int]) -> None:
    split = split_cells(n, train_size=train_size, seed=0)
    assert sizes(split) == expected
    np.testing.assert_array_equal(np.sort(np.concatenate([split.train, split.validation])), np.arange(n))


def test_a_split_depends_on_its_seed() -> None:
    first, again, other = (split_cells(100, train_size=0.8, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.validation, again.validation)
    assert (first.validation != other.validation).any()


def test_given_training_cells_leave_the_rest_to_validation() -> None:
    split = split_cells(6, train_size=0.9, seed=0, train_indices=[4, 1, 0])
    assert (split.train.tolist(), split.validation.tolist()) == ([0, 1, 4], [2, 3, 5])


def test_given_validation_cells_leave_the_rest_to_training() -> None:
    split = split_cells(
        6, train_size=0.9, seed=0, validation_indices=np.array([True, False, False, False, False, True])
    )
    assert (split.train.tolist(), split.validation.tolist()) == ([1, 2, 3, 4], [0, 5])


def test_cells_in_neither_list_are_held_out_from_both() -> None:
    split = split_cells(9, train_size=0.9, seed=0, train_indices=[0, 1, 2], validation_indices=[8])
    assert (split.train.tolist(), split.validation.tolist()) == ([0, 1, 2], [8])


def test_an_empty_list_of_validation_cells_is_no_validation() -> None:
    assert sizes(split_cells(9, train_size=0.9, seed=0, train_indices=range(9), validation_indices=[])) == (9, 0)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"train_size": 0.0}, OptionError, "train_size must be over 0"),
        ({"train_size": 1.1}, OptionError, "train_size must be over 0"),
        ({"train_size": float("nan")}, OptionError, "train_size must be over 0"),
        ({"train_indices": [0, 1, 10]}, OptionError, "train_indices reaches outside the 10 cells: 10"),
        ({"train_indices": [0, 1, -1]}, OptionError, "train_indices reaches outside the 10 cells: -1"),
        ({"validation_indices": [11]}, OptionError, "validation_indices reaches outside"),
        ({"train_indices": [0, 1, 1]}, OptionError, "more than once: position 1"),
        ({"train_indices": [0, 1], "validation_indices": [1, 2]}, OptionError, "position 1 is in both"),
        ({"train_indices": [0.5, 1]}, OptionError, "list of positions"),
        ({"train_indices": ["cell"]}, OptionError, "list of positions"),
        ({"train_indices": [[0, 1]]}, OptionError, "list of positions"),
        ({"train_indices": []}, InputError, "leaves 0 cell"),
        ({"validation_indices": range(9)}, InputError, "leaves 1 cell"),
    ],
)
def test_an_impossible_split_is_a_named_error(given: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        split_cells(10, **{"train_size": 0.9, "seed": 0, **given})  # type: ignore[arg-type]


def test_one_cell_cannot_be_split() -> None:
    with pytest.raises(InputError, match="leaves 1 cell"):
        split_cells(1, train_size=0.9, seed=0)
