"""Groups of cells as a user names them: by column, values, masks, positions or queries; each mistake by its name."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from celbo.data.groups import OTHERS, REST, Groups, groups_of
from celbo.errors import CelboWarning, InputError, OptionError, SchemaError

N = 60
NAMES = np.array([f"c{i:02d}" for i in range(N)], dtype=object)
TYPES = np.array(["b", "a", "c"])[np.arange(N) % 3]
WEIRD = ["<b>bold</b>", "", "rest", "héllo 細胞", "a, b", "1"]


@pytest.fixture(scope="module")
def adata() -> AnnData:
    place = np.arange(N)
    obs = pd.DataFrame(
        {
            "type": TYPES,
            "kind": pd.Categorical(TYPES, categories=["unused", "c", "b", "a"]),
            "some": np.where(place < 45, TYPES, None),
            "day": np.where(place % 2, 10, 2),
            "dose": np.where(place < 10, np.nan, np.where(place % 2, 1.0, 2.5)),
            "treated": place < 20,
            "responder": pd.array([None if i < 5 else i % 2 == 0 for i in place], dtype="boolean"),
            "weird": np.array(WEIRD, object)[place % len(WEIRD)],
            "only": "one",
            "missing": pd.Series([None] * N, dtype=object).to_numpy(),
            "age": np.linspace(20, 80, N),
            "cell size": place / N,
        },
        index=NAMES,
    )
    return AnnData(np.zeros((N, 2), np.float32), obs=obs)


def groups(adata: AnnData | None, **asked: object) -> Groups:
    return groups_of(adata, NAMES, **asked)


def compared(found: Groups) -> list[tuple[str, str]]:
    return [(c.name1, c.name2) for c in found.comparisons]


def sides(found: Groups, which: int = 0) -> tuple[list[int], list[int]]:
    """Return the cells of both sides of a comparison."""
    c = found.comparisons[which]
    one, two = (np.sort(np.concatenate([found.cells[i] for i in side])) for side in (c.groups1, c.groups2))
    return one.tolist(), two.tolist()


def cells_of(mask: object) -> list[int]:
    return np.flatnonzero(np.asarray(mask, bool)).tolist()


# -- by column or values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("type", ["a", "b", "c"]),
        ("kind", ["c", "b", "a"]),  # the order of the categories in use
        ("some", ["a", "b", "c"]),
        ("day", ["2", "10"]),  # numbers ascend
        ("dose", ["1", "2.5"]),
        ("treated", ["False", "True"]),
        ("responder", ["False", "True"]),
        ("weird", sorted(WEIRD)),
    ],
)
def test_each_group_is_compared_with_all_others_that_have_one(adata, column, names) -> None:
    found = groups(adata, groupby=column)
    others = OTHERS if REST in names else REST
    assert compared(found) == [(name, others) for name in names]
    text = adata.obs[column].map(lambda v: None if pd.isna(v) else f"{v:g}" if isinstance(v, float) else str(v))
    for i, name in enumerate(names):
        one, two = sides(found, i)
        assert one == cells_of(text == name)
        assert two == cells_of(text.notna() & (text != name))


@pytest.mark.parametrize(
    "values",
    [
        TYPES,
        list(TYPES),
        pd.Categorical(TYPES),
        pd.Series(TYPES),
        pd.Series(TYPES, index=NAMES).sample(frac=1, random_state=0),
    ],
    ids=["array", "list", "categorical", "series", "series in another order"],
)
def test_values_may_be_given_without_any_anndata(adata, values) -> None:
    by_name, given = groups(adata, groupby="type"), groups(None, groupby=values)
    assert given.names == by_name.names
    assert given.comparisons == by_name.comparisons
    assert all((a == b).all() for a, b in zip(given.cells, by_name.cells, strict=True))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"group1": "a"}, [("a", REST)]),
        ({"group1": ["c", "a"]}, [("c", REST), ("a", REST)]),  # in the order asked for
        ({"group1": ("c", "b"), "group2": "a"}, [("c", "a"), ("b", "a")]),
        ({"group1": np.array(["c"]), "group2": "a"}, [("c", "a")]),
        ({"group2": "b"}, [("a", "b"), ("c", "b")]),
    ],
    ids=str,
)
def test_one_group_or_several_against_one_or_the_rest(adata, asked, expected) -> None:
    found = groups(adata, groupby="type", **asked)
    assert compared(found) == expected
    for i, (name1, name2) in enumerate(expected):
        others = name1 != TYPES if name2 == REST else name2 == TYPES
        assert sides(found, i) == (cells_of(name1 == TYPES), cells_of(others))


@pytest.mark.parametrize(
    ("column", "group1", "name"),
    [("day", 10, "10"), ("day", np.int64(2), "2"), ("day", "10", "10"), ("dose", 1.0, "1"), ("dose", 2.5, "2.5"),
     ("treated", True, "True"), ("treated", np.False_, "False"), ("weird", "", ""), ("weird", "rest", "rest")],
)  # fmt: skip
def test_a_group_is_named_as_its_value_or_as_text(adata, column, group1, name) -> None:
    others = OTHERS if column == "weird" else REST  # it has a group called "rest"
    assert compared(groups(adata, groupby=column, group1=group1)) == [(name, others)]
    assert compared(groups(adata, groupby=column, group1=[group1])) == [(name, others)]


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({}, OptionError, "either groupby or idx1 says which cells to compare, not neither"),
        ({"group1": "a"}, OptionError, "not neither"),
        ({"idx2": [1]}, OptionError, "not neither"),
        ({"groupby": "type", "idx1": [1]}, OptionError, "not both"),
        ({"groupby": "type", "idx2": [1]}, OptionError, "idx2 goes with idx1"),
        ({"idx1": [1], "group1": "a"}, OptionError, "go with groupby, not with idx1"),
        ({"idx1": [1], "group2": "a"}, OptionError, "go with groupby, not with idx1"),
        ({"groupby": "tpye"}, SchemaError, "Did you mean 'type'"),
        ({"groupby": ""}, SchemaError, "'' is not a column of obs"),
        ({"groupby": 3}, SchemaError, "neither the name of a column of obs nor one value for each cell"),
        ({"groupby": ["a", "b"]}, SchemaError, "groupby has 2 values for 60 cells"),
        ({"groupby": np.zeros((N, 2))}, SchemaError, r"its shape is \(60, 2\)"),
        ({"groupby": np.array([{}] * N)}, SchemaError, "hold.* values that name no group: they are of type 'dict'"),
        ({"groupby": pd.Series(TYPES, index=NAMES + "x")}, SchemaError, "other names than those of the cells"),
        ({"groupby": "only"}, InputError, "groupby='only' has a single group, and nothing to compare it with: 'one'"),
        ({"groupby": "missing"}, SchemaError, "has no value for any cell"),
        ({"groupby": "type", "group1": "d"}, OptionError, "'d' is not a group of 'type'. Known: 'a', 'b', 'c'"),
        ({"groupby": "kind", "group1": "unused"}, OptionError, "'unused' is not a group"),
        ({"groupby": "type", "group1": "a", "group2": "d"}, OptionError, "'d' is not a group"),
        ({"groupby": "type", "group1": "a", "group2": "a"}, OptionError, "'a' is compared with itself"),
        ({"groupby": "type", "group1": ["a", "b"], "group2": "b"}, OptionError, "'b' is compared with itself"),
        ({"groupby": "type", "group1": ["a", "a"]}, OptionError, "names no group, or one twice: 'a', 'a'"),
        ({"groupby": "type", "group1": []}, OptionError, "group1 names no group"),
        ({"groupby": "type", "group1": None, "group2": ["a", "b"]}, OptionError, "group2 is not one group"),
        ({"groupby": "type", "group1": float("nan")}, OptionError, "'nan' is not a group"),
        ({"groupby": "type", "group1": [None]}, OptionError, "'None' is not a group"),
        ({"groupby": "type", "group1": object()}, OptionError, "is not a group"),
    ],
)
def test_what_cannot_be_compared_is_a_named_error(adata, asked, error, words) -> None:
    with pytest.raises(error, match=words):
        groups(adata, **asked)


def test_a_measurement_is_no_group() -> None:
    values = np.random.default_rng(0).normal(size=400)
    with pytest.raises(InputError, match=r"holds 400 different values in 400 cells.*a query"):
        groups_of(None, np.arange(400).astype(str), groupby=values)


# -- by masks, positions and queries -----------------------------------------------------------------------------------


FIRST = np.arange(N) < 20
NULLABLE = pd.array([True] * 20 + [False] * 30 + [None] * 10, dtype="boolean")


@pytest.mark.parametrize(
    "idx1",
    [
        FIRST,
        FIRST.tolist(),
        np.arange(20),
        list(range(20)),
        range(20),
        np.arange(20)[::-1],
        np.arange(20, dtype=np.uint8),
        np.arange(20, dtype=np.uint64),
        np.arange(-60, -40),
        [*range(20), 3, 3],
        NULLABLE,
        pd.Series(FIRST),
        pd.Series(NULLABLE),
        pd.Series(FIRST, index=NAMES).sample(frac=1, random_state=1),
        pd.Series(NULLABLE, index=NAMES).sample(frac=1, random_state=1),
        "treated",
        "age < 40 and treated",
        "`cell size` < 1/3 - 1e-9",
        "not (treated == False)",
        "type in ['a', 'b', 'c'] and index < 'c20'",
    ],
)
def test_cells_may_be_a_mask_positions_or_a_query(adata, idx1) -> None:
    found = groups(adata, idx1=idx1)
    assert compared(found) == [("group1", REST)]
    assert sides(found) == (list(range(20)), list(range(20, N)))


def test_both_sides_may_be_given(adata) -> None:
    found = groups(adata, idx1="age > 60", idx2=range(12))
    assert compared(found) == [("group1", "group2")]
    assert sides(found) == (cells_of(adata.obs["age"] > 60), list(range(12)))


def test_a_missing_value_is_not_true(adata) -> None:
    one, two = sides(groups(adata, idx1="responder", idx2="~responder"))
    assert one == cells_of(adata.obs["responder"].fillna(False))
    assert two == cells_of(~adata.obs["responder"].fillna(True))


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"idx1": []}, InputError, "idx1 holds no cell"),
        ({"idx1": np.zeros(N, bool)}, InputError, "idx1 holds no cell"),
        ({"idx1": [1], "idx2": []}, InputError, "idx2 holds no cell"),
        ({"idx1": "age > 100"}, InputError, r"idx1='age > 100' is true of no cell. 'age' is between \d+ and \d+"),
        ({"idx1": np.ones(N, bool)}, InputError, "idx1 is true of every cell"),
        ({"idx1": [0, 1, 2], "idx2": [2, 3]}, InputError, r"share 1 cell\(s\): 'c02'"),
        ({"idx1": "age > 30", "idx2": "age > 50"}, InputError, "share 30 cell"),
        ({"idx1": [60]}, OptionError, "position outside 60 cells: 60"),
        ({"idx1": [0, -61]}, OptionError, "position outside 60 cells: -61"),
        ({"idx1": [10**30]}, OptionError, "must hold positions, a mask or a query"),
        ({"idx1": [0.5]}, OptionError, "its type is float64"),
        ({"idx1": [True, False]}, OptionError, "a mask of 2 for 60 cells"),
        ({"idx1": np.zeros((N, 1), bool)}, OptionError, "must be one-dimensional"),
        ({"idx1": [[1], [1, 2]]}, OptionError, "must hold positions, a mask or a query"),
        ({"idx1": 3}, OptionError, "must be one-dimensional"),
        ({"idx1": {1, 2}}, OptionError, "must be one-dimensional"),
        ({"idx1": NAMES[:5].astype(str)}, OptionError, r"obs_names.isin\(names\) makes a mask"),
        ({"idx1": pd.Series(FIRST, index=NAMES + "x")}, SchemaError, "other names than those of the cells"),
    ],
)
def test_cells_that_cannot_be_compared_are_a_named_error(adata, asked, error, words) -> None:
    with pytest.raises(error, match=words):
        groups(adata, **asked)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("nonsense", "names 'nonsense', which is not a column of obs"),
        ("type ==", "cannot be read as a question about the columns of obs: SyntaxError"),
        ("", "cannot be read as a question"),
        ("   ", "is not true or false for each cell"),
        ("cell size > 0.5", "cannot be read as a question"),  # a name with a space goes in backticks
        ("age > 'x'", "cannot be read as a question about the columns of obs: TypeError"),
        ("age", "is not true or false for each cell"),
        ("type", "is not true or false for each cell"),
        ("age.mean() > 3", "is not true or false for each cell"),
        ("True", "is not true or false for each cell"),
        ("x = age > 60", "is not true or false for each cell"),
        ("age > 30\nage < 60", "cannot be read as a question"),
        ("age > @N", "cannot be read|names"),  # nothing of ours can be reached
        ("@__import__('os').getcwd() == ''", "cannot be read as a question"),
    ],
)
def test_a_query_that_is_none_is_a_named_error(adata, query, words) -> None:
    columns = list(adata.obs.columns)
    with pytest.raises(OptionError, match=words):
        groups(adata, idx1=query)
    assert list(adata.obs.columns) == columns


@pytest.mark.parametrize("asked", [{"groupby": "type"}, {"idx1": "age > 60"}], ids=str)
def test_a_column_without_an_anndata_is_a_named_error(asked) -> None:
    with pytest.raises(InputError, match=r"there is no AnnData to look for .*Pass adata="):
        groups(None, **asked)


# -- what holds of all -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"groupby": "type", "group1": "b", "group2": "a"}, {"groupby": "type", "group1": "a", "group2": "b"}),
        ({"idx1": [50, 51], "idx2": [3, 4]}, {"idx1": [3, 4], "idx2": [50, 51]}),
    ],
    ids=["column", "positions"],
)
@pytest.mark.filterwarnings("ignore:Fewer than")
def test_to_swap_the_sides_leaves_the_groups_in_place(adata, one, two) -> None:
    a, b = groups(adata, **one), groups(adata, **two)
    assert [c.tolist() for c in a.cells] == [c.tolist() for c in b.cells]
    assert sides(a) == sides(b)[::-1]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"groupby": np.where(np.arange(N) < 9, "few", "many")}, r"Fewer than 10 cells in 'few \(9\)'"),
        ({"idx1": [0]}, r"Fewer than 10 cells in 'group1 \(1\)'"),
        ({"idx1": [0, 1], "idx2": [2]}, r"'group1 \(2\)', 'group2 \(1\)'"),
    ],
    ids=["column", "one cell", "both"],
)
def test_few_cells_are_a_warning(adata, asked, words) -> None:
    with pytest.warns(CelboWarning, match=words):
        groups(adata, **asked)


def test_ten_cells_are_no_warning_and_nothing_is_written(adata) -> None:
    before = adata.obs.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups(adata, idx1=range(10))
    pd.testing.assert_frame_equal(adata.obs, before)


def test_fewer_cells_of_the_groups_keep_the_comparisons(adata) -> None:
    found = groups(adata, groupby="type")
    fewer = found.kept([cells[:2] for cells in found.cells])
    assert (fewer.names, fewer.comparisons) == (found.names, found.comparisons)
    assert [cells.tolist() for cells in fewer.cells] == [[1, 4], [0, 3], [2, 5]]
