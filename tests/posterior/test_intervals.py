"""Credible intervals of functions of the expression, against closed forms and NumPy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from celbo.errors import OptionError
from celbo.posterior import intervals, stream
from celbo.posterior.expression import normalized_expression
from celbo.posterior.intervals import credible_intervals
from linear_gaussian import LinearGaussian, exact_posterior, make_data, make_truth

GENES = np.array([5, 2, 60])


def ask(asked, function=None, **options):
    return credible_intervals(asked.network, asked.data, asked.every, function=function, **options)


@pytest.fixture(scope="module")
def linear():
    """Return a linear network at its exact posterior, cells, and mean and sd of log expression (cells, genes)."""
    data, _ = make_data(200)
    loadings, offset = make_truth()
    mean, sd = exact_posterior(data)
    return (
        LinearGaussian(loadings, offset),
        data,
        mean @ loadings.T + offset,
        np.sqrt((loadings * sd) ** 2 @ np.ones(3)),
    )


def log(x: pd.DataFrame) -> pd.DataFrame:
    return np.log(x)


def test_the_interval_of_a_normal_quantity_is_its_closed_form(linear) -> None:
    network, data, mean, sd = linear
    found = credible_intervals(network, data, np.arange(200), function=log, level=0.9, n_samples=2000)
    reach = stats.norm.ppf(0.95) * sd
    assert np.abs((found["mean"] - mean) / sd).to_numpy().max() < 0.12
    assert np.abs((found["median"] - mean) / sd).to_numpy().max() < 0.15
    assert (found["sd"] / sd).to_numpy() == pytest.approx(np.ones(mean.shape), abs=0.09)
    assert np.abs((found["lower"] - (mean - reach)) / sd).to_numpy().max() < 0.3
    assert np.abs((found["upper"] - (mean + reach)) / sd).to_numpy().max() < 0.3
    assert np.abs(((found["upper"] - found["lower"]) / (2 * reach)).to_numpy().mean() - 1) < 0.01


@pytest.mark.parametrize(("level", "n_samples"), [(0.95, 39), (0.8, 20), (0.5, 100)])
def test_the_intervals_hold_the_true_states_as_often_as_they_say(level, n_samples) -> None:
    data, z = make_data(3000)
    loadings, offset = make_truth()
    truth = z @ loadings.T + offset
    found = credible_intervals(
        LinearGaussian(loadings, offset), data, np.arange(3000), function=log, level=level, n_samples=n_samples
    )
    assert ((found["lower"] < truth) & (truth < found["upper"])).to_numpy().mean() == pytest.approx(level, abs=0.01)


def test_a_mean_over_a_population_has_the_closed_form(linear) -> None:
    network, data, mean, sd = linear
    found = credible_intervals(
        network, data, np.arange(200), function=lambda x: np.log(x).mean(), over="population", n_samples=1000
    )
    assert list(found["mean"].index) == list(data.schema.genes)
    assert np.abs(found["mean"] - mean.mean(0)).to_numpy().max() < 4 * (sd / np.sqrt(200 * 1000)).max()
    assert (found["sd"] / (sd / np.sqrt(200))).to_numpy() == pytest.approx(np.ones(24), abs=0.1)


def test_without_a_function_it_is_the_expression(asked) -> None:
    found = ask(asked, genes=GENES, n_samples=60, library_size=1e4, seed=3)
    assert list(found["mean"].columns) == [asked.data.schema.genes[g] for g in GENES]
    assert list(found["mean"].index) == list(asked.data.cell_names)
    draws = normalized_expression(
        asked.network, asked.data, asked.every, genes=GENES, n_samples=60, library_size=1e4, return_mean=False,
        batch_size=stream.cells_at_once(asked.network, 60 * 3), seed=3,
    )  # fmt: skip
    assert found["mean"].to_numpy() == pytest.approx(draws.mean(0), rel=1e-5)
    assert found["sd"].to_numpy() == pytest.approx(draws.std(0, ddof=1), rel=1e-3)
    assert found["median"].to_numpy() == pytest.approx(np.median(draws, axis=0), rel=1e-5)
    for bound, p in ((found["lower"], 0.025), (found["upper"], 0.975)):
        assert bound.to_numpy() == pytest.approx(np.quantile(draws, p, axis=0, method="weibull"), rel=1e-4)
    assert found["mean"].to_numpy().dtype == np.float32


def test_a_ratio_of_two_genes_is_that_of_the_draws(asked) -> None:
    a, b = (asked.data.schema.genes[g] for g in GENES[:2])
    found = ask(asked, lambda x: x[a] / x[b], genes=GENES, n_samples=60, seed=3)
    draws = normalized_expression(
        asked.network, asked.data, asked.every, genes=GENES, n_samples=60, return_mean=False,
        batch_size=stream.cells_at_once(asked.network, 60 * 3), seed=3,
    )  # fmt: skip
    ratio = draws[..., 0] / draws[..., 1]
    table = found.table()
    assert list(table.columns) == ["mean", "sd", "median", "lower", "upper"]
    assert list(table.index) == list(asked.data.cell_names)
    assert table["median"].to_numpy() == pytest.approx(np.median(ratio, axis=0), rel=1e-5)
    assert ask(asked, lambda x: x[a] > x[b], genes=GENES, n_samples=60, seed=3)["mean"].to_numpy() == pytest.approx(
        (draws[..., 0] > draws[..., 1]).mean(0)
    )


def test_cells_and_population_agree_on_a_function_of_each_cell(asked) -> None:
    def score(x: pd.DataFrame) -> pd.Series:
        return np.log(x).mean(axis=1).rename("score")

    cells, population = (ask(asked, score, genes=GENES, n_samples=600, over=over) for over in ("cells", "population"))
    assert list(cells["mean"].index) == list(population["mean"].index)
    error = cells["sd"] / np.sqrt(600)
    assert ((cells["mean"] - population["mean"]).abs() / (np.sqrt(2) * error)).max() < 5


def test_a_population_gives_what_the_function_gives(asked) -> None:
    groups = np.where(asked.data.batch == 0, "a", "b")

    def by_group(x: pd.DataFrame) -> pd.DataFrame:
        return x.groupby(groups).mean()

    table = ask(asked, by_group, genes=GENES, over="population")
    assert table["mean"].shape == (2, 3)
    assert list(table["mean"].index) == ["a", "b"]
    assert table.table().index.nlevels == 2
    assert table.table().loc[("b", table["mean"].columns[1]), "upper"] == table["upper"].iloc[1, 1]
    number = ask(asked, lambda x: float(x.to_numpy().sum()), genes=GENES, over="population")
    assert number["lower"].item() < number["median"].item() < number["upper"].item()
    assert number.table().shape == (1, 5)
    array = ask(asked, lambda x: x.to_numpy()[:4, None, :2], genes=GENES, over="population")
    assert array["upper"].shape == (4, 2) and array.index[3] == (3, 0)
    assert len(array.table()) == 8
    assert ask(asked, genes=GENES, over="population")["mean"].shape == (300, 3)


def test_cells_are_asked_in_blocks_of_bounded_size(asked, monkeypatch) -> None:
    monkeypatch.setitem(stream._ENTRIES, "cpu", 60 * 3 * 25)
    rows: list[int] = []

    def first(x: pd.DataFrame) -> pd.Series:
        rows.append(len(x))
        return x.iloc[:, 0]

    found = ask(asked, first, genes=GENES, n_samples=60)
    assert max(rows) == 60 * 25
    assert len(found["mean"]) == 300
    whole = normalized_expression(asked.network, asked.data, asked.every, genes=GENES[:1], n_samples=500)
    assert found["mean"].to_numpy() == pytest.approx(whole[:, 0], rel=0.6)
    assert np.corrcoef(np.log(found["mean"]), np.log(whole[:, 0]))[0, 1] > 0.9


def test_a_population_is_drawn_in_chunks_of_bounded_size(asked, monkeypatch) -> None:
    monkeypatch.setattr(intervals, "_ENTRIES", 300 * 3 * 7)
    sizes: list[int] = []
    original = intervals.normalized_expression
    monkeypatch.setattr(
        intervals,
        "normalized_expression",
        lambda *args, n_samples, **rest: (sizes.append(n_samples), original(*args, n_samples=n_samples, **rest))[1],
    )
    draws: list[float] = []
    ask(asked, lambda x: draws.append(x.iloc[0, 0]) or 1.0, genes=GENES, over="population", n_samples=40)
    assert sizes == [7, 7, 7, 7, 7, 5]
    assert len(set(draws)) == 40  # no chunk repeats another's noise


def test_the_same_seed_gives_the_same_and_another_another(asked) -> None:
    for over in ("cells", "population"):
        one, same, other = (ask(asked, genes=GENES, over=over, n_samples=39, seed=s)["mean"] for s in (1, 1, 2))
        assert one.equals(same)
        assert not one.equals(other)


def test_several_batches_are_averaged(asked) -> None:
    names = asked.data.schema.genes
    total = ask(asked, lambda x: x.sum(axis=1), transform_batch=[0, 1], n_samples=39, library_size=10.0)
    assert total["mean"].to_numpy() == pytest.approx(np.full(300, 10.0), rel=1e-5)
    shift = [ask(asked, lambda x: np.log(x[names[7]]), transform_batch=[c], n_samples=39)["mean"] for c in (0, 1)]
    assert (shift[0] - shift[1]).abs().max() > 0.05


def _mixes(x: pd.DataFrame) -> pd.DataFrame:
    return x - x.mean()


def _raises(x: pd.DataFrame) -> None:
    raise ValueError("no such thing")


def _random(x: pd.DataFrame) -> np.ndarray:
    return np.random.default_rng().normal(size=len(x))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (_mixes, "'_mixes' says something else of a cell when other cells are left out"),
        (_random, "'_random' says something else"),
        (lambda x: x.mean(), r"shape \(3,\) for \d+ rows, not one value or row for each. Use over='population'"),
        (lambda x: 1.0, r"shape \(\) for"),
        (_raises, "'_raises' raised ValueError: no such thing"),
        (lambda x: x["XYZ"], "raised KeyError: 'XYZ'"),
        (lambda x: np.array(["a"] * len(x)), "does not hold numbers"),
        (lambda x: x.iloc[:, 0] / 0, "not finite in 'cell_001'"),
    ],
)
def test_a_function_of_cells_that_cannot_be_is_a_named_error(asked, function, words) -> None:
    with pytest.raises(OptionError, match=words):
        ask(asked, function, genes=GENES)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda x: x[x.iloc[:, 0] > x.iloc[:, 1].median()].mean(axis=1),
            "another shape or other names than for the first",
        ),
        (lambda x: x.mean().sort_values(), "other names"),
        (lambda x: np.nan, "1 values that are not finite"),
        (lambda x: None, "not finite|does not hold numbers"),
        (lambda x: {"a": 1}, "dict that does not hold numbers"),
        (_raises, "raised ValueError"),
    ],
)
def test_a_function_of_a_population_that_cannot_be_is_a_named_error(asked, function, words) -> None:
    asked_genes = np.arange(12)
    with pytest.raises(OptionError, match=words):
        ask(asked, function, genes=asked_genes, over="population")


def test_results_that_would_not_fit_are_refused_at_the_first_draw(asked, monkeypatch) -> None:
    monkeypatch.setattr(intervals, "_RESULTS", 1000)
    with pytest.raises(OptionError, match=r"900 values of each of 100 draws, more than may be kept. Use over='cells'"):
        ask(asked, genes=GENES, over="population")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_samples": 38}, "too few draws for an interval of level 0.95. Ask for at least 39"),
        ({"level": 1.5}, "level=1.5"),
        ({"over": "genes"}, "over='genes'"),
        ({"library_size": 0.0}, "library_size"),
    ],
    ids=str,
)
def test_impossible_options_are_named_errors(asked, options, words) -> None:
    with pytest.raises(OptionError, match=words):
        ask(asked, **options)


def test_one_cell_can_be_asked(asked) -> None:
    found = credible_intervals(
        asked.network, asked.data, np.array([7]), function=lambda x: x.iloc[:, 0] * 2, n_samples=39
    )
    assert found["mean"].shape == (1,)


def test_gradients_are_as_before_when_a_function_raises(asked) -> None:
    with pytest.raises(OptionError):
        ask(asked, _raises, genes=GENES)
    assert torch.is_grad_enabled()
