"""Posterior predictive checks, against NumPy on the draws and on data whose model is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from celbo.errors import OptionError
from celbo.posterior import predictive, stream
from celbo.posterior.expression import posterior_predictive_sample
from celbo.posterior.predictive import posterior_predictive_check
from celbo.posterior.summaries import GeneSums, interval_of, predictive_table
from linear_gaussian import SIGMA, LinearGaussian, as_cells, dense, make_data, make_truth


def check(asked, **options):
    return posterior_predictive_check(asked.network, asked.data, asked.every, **options)


def test_statistics_are_numpys_of_the_same_draws(asked) -> None:
    table = check(asked, n_samples=19, seed=2)
    draws = np.stack(
        [d.toarray() for d in posterior_predictive_sample(asked.network, asked.data, asked.every, n_samples=19, seed=2)]
    ).astype(np.float64)
    seen = dense(asked.data)
    for name, of in {"mean": np.mean, "variance": np.var, "zeros": lambda x, axis: (x == 0).mean(axis)}.items():
        drawn = of(draws, axis=1)
        assert table[f"{name}_observed"].to_numpy() == pytest.approx(of(seen, axis=0))
        assert table[f"{name}_predicted"].to_numpy() == pytest.approx(drawn.mean(0))
        assert table[f"{name}_lower"].to_numpy() == pytest.approx(drawn.min(0))  # 19 draws: 0.9 is all of them
        assert table[f"{name}_upper"].to_numpy() == pytest.approx(drawn.max(0))
        above = (drawn > of(seen, axis=0)).mean(0) + (drawn == of(seen, axis=0)).mean(0) / 2
        assert table[f"{name}_p"].to_numpy() == pytest.approx(above, abs=1 / 19)  # equal ones may round apart


def test_a_statistic_of_ones_own_is_asked_of_each_draw(asked) -> None:
    table = check(asked, statistics={"average": lambda x: x.mean(0), "top": lambda x: x.max(0).toarray()}, n_samples=60)
    assert list(table.columns)[:5] == [f"average_{s}" for s in ("observed", "predicted", "lower", "upper", "p")]
    assert table["top_observed"].to_numpy() == pytest.approx(dense(asked.data).max(0))
    named = check(asked, statistics=("mean",), n_samples=60)
    assert table["average_observed"].to_numpy() == pytest.approx(named["mean_observed"].to_numpy(), rel=1e-5)
    noise = (named["mean_upper"] - named["mean_lower"]) / np.sqrt(60)
    assert ((table["average_predicted"] - named["mean_predicted"]).abs() <= 3 * noise + 1e-9).mean() > 0.99


def exact_network(offset_error: float = 0.0) -> LinearGaussian:
    loadings, offset = make_truth()
    return LinearGaussian(loadings, offset + offset_error)


def test_a_true_model_is_not_called_wrong_and_a_wrong_one_is() -> None:
    data, _ = make_data(500)
    every = np.arange(500)
    right = posterior_predictive_check(exact_network(), data, every, statistics=("mean", "variance"), n_samples=199)
    for name in ("mean", "variance"):
        assert right[f"{name}_p"].between(0.05, 0.95).mean() > 0.75
        assert 0.3 < right[f"{name}_p"].mean() < 0.7
    wrong = posterior_predictive_check(LinearGaussian(*make_truth(), sigma=3 * SIGMA), data, every, n_samples=39)
    assert (wrong["variance_p"] == 1).all()


def test_draws_have_the_moments_of_the_closed_form() -> None:
    """Given x, a new x' is N(W m + b, W V W' + sigma^2) in each cell."""
    data, _ = make_data(300)
    loadings, offset = make_truth()
    precision = 1 + (loadings**2).sum(0) / SIGMA**2
    mean = ((dense(data) - offset) @ loadings / SIGMA**2 / precision) @ loadings.T + offset
    variance = mean.var(0) + (loadings**2 / precision).sum(1) + SIGMA**2
    table = posterior_predictive_check(exact_network(), data, np.arange(300), n_samples=400)
    assert table["mean_predicted"].to_numpy() == pytest.approx(mean.mean(0), abs=0.02)
    assert table["variance_predicted"].to_numpy() == pytest.approx(variance, rel=0.02)
    within = np.sqrt((loadings**2 / precision).sum(1) + SIGMA**2) / np.sqrt(300)
    reach = table["mean_upper"] - table["mean_predicted"]
    assert reach.to_numpy() == pytest.approx(stats.norm.ppf(0.95) * within, rel=0.25)


def test_deep_genes_lose_no_digits() -> None:
    values = 1e7 + np.random.default_rng(0).integers(0, 3, (400, 2)).astype(np.float64)
    sums = GeneSums(values.mean(0))
    for start in (0, 150, 300):
        sums.add(sparse.csr_matrix(values[start : start + 150]))
    assert sums.moments()["variance"] == pytest.approx(values.var(0), rel=1e-9)
    assert sums.moments()["mean"] == pytest.approx(values.mean(0), rel=1e-15)


def test_named_statistics_see_blocks_only(asked, monkeypatch) -> None:
    monkeypatch.setitem(stream._ENTRIES, "cpu", 20 * 120)
    sizes: list[int] = []
    add = GeneSums.add
    monkeypatch.setattr(GeneSums, "add", lambda self, x: (sizes.append(x.shape[0]), add(self, x))[1])
    monkeypatch.setattr(predictive, "_ROWS", 50)
    check(asked, n_samples=19)
    assert max(sizes) == 50
    assert sum(sizes) == (2 + 19) * 300


def test_some_genes_are_rows_of_all(asked) -> None:
    genes = np.array([9, 2])
    whole = check(asked, n_samples=19).iloc[genes]
    some = check(asked, genes=genes, n_samples=19)
    assert list(some.index) == [asked.data.schema.genes[g] for g in genes]
    assert some.to_numpy() == pytest.approx(whole.to_numpy())


def test_a_statistic_without_a_value_has_no_p() -> None:
    seen, drawn = {"t": np.array([np.nan, 1.0])}, {"t": np.array([[1.0, 0.0], [2.0, 0.5], [3.0, 2.0]])}
    table = predictive_table(seen, drawn, ["a", "b"], level=0.5)
    assert np.isnan(table["t_p"].iloc[0])
    assert table["t_p"].iloc[1] == pytest.approx(1 / 3)


def test_few_draws_have_a_mean_and_no_interval() -> None:
    table = predictive_table({"t": np.zeros(2)}, {"t": np.ones((18, 2))}, ["a", "b"], level=0.9)
    assert list(table.columns) == ["t_observed", "t_predicted"]


@pytest.mark.parametrize(("n", "level"), [(39, 0.95), (100, 0.95), (25, 0.9), (60, 0.5)])
def test_an_interval_holds_a_further_draw_as_often_as_it_says(n, level) -> None:
    rng = np.random.default_rng(0)
    draws, further = rng.exponential(size=(n, 40_000)), rng.exponential(size=40_000)
    lower, median, upper = interval_of(draws, level)
    assert ((lower < further) & (further < upper)).mean() == pytest.approx(level, abs=0.006)
    assert (further < median).mean() == pytest.approx(0.5, abs=0.012)


def test_quantiles_are_numpys_definition_six() -> None:
    draws = np.random.default_rng(1).normal(size=(50, 7))
    found = interval_of(draws, 0.9)
    expected = [np.quantile(draws, p, axis=0, method="weibull") for p in (0.05, 0.5, 0.95)]
    assert np.array(found) == pytest.approx(np.array(expected))


def test_the_same_seed_gives_the_same_and_another_another(asked) -> None:
    own = {"statistics": {"top": lambda x: x.max(0).toarray()}, "n_samples": 19}
    for options in ({"n_samples": 19}, own):
        assert check(asked, seed=1, **options).equals(check(asked, seed=1, **options))
        assert not check(asked, seed=1, **options).equals(check(asked, seed=2, **options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_samples": 18}, "too few draws for an interval of level 0.9. Ask for at least 19"),
        ({"level": 1.0}, "level=1.0 is not between 0 and 1"),
        ({"statistics": ("mode",)}, "'mode' is not a statistic"),
        ({"statistics": ()}, "statistics is empty"),
        ({"statistics": {"a": 3}}, r"statistics\['a'\] is not a function"),
        ({"statistics": {"a": lambda x: 1 / 0}}, "'a' raised ZeroDivisionError: division by zero"),
        ({"statistics": {"a": lambda x: x.sum()}}, r"'a' returned an array of shape \(\) for 120 genes"),
        ({"statistics": {"a": lambda x: np.ones(3)}}, r"shape \(3,\) for 120 genes"),
    ],
)
def test_impossible_options_are_named_errors(asked, options, words) -> None:
    with pytest.raises(OptionError, match=words):
        check(asked, **options)


def test_values_that_are_no_counts_are_checked_too() -> None:
    values = np.random.default_rng(0).normal(3, 1, (60, 24))
    table = posterior_predictive_check(exact_network(), as_cells(values), np.arange(60), n_samples=19)
    assert table["mean_observed"].to_numpy() == pytest.approx(values.mean(0), rel=1e-5)
    assert table["variance_observed"].to_numpy() == pytest.approx(values.var(0), rel=1e-4)
