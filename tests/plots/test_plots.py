"""Figures: what is drawn, read back from the Axes; no pyplot; names as text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex
from scipy.spatial.distance import pdist

from celbo import plots
from celbo.errors import CelboError, InputError
from celbo.plots.limits import limits_of
from celbo.plots.names import shown
from celbo.plots.style import _from_oklab, _to_oklab, category_colors, heat, short

RNG = np.random.default_rng(0)
HISTORY = pd.DataFrame({"elbo_train": [-9e5, -5, -4, -3], "elbo_validation": [-9e5, -6, -5, -4], "kl_z_train": 1.0})


def test_an_embedding_has_one_point_a_cell_in_the_colour_of_its_category():
    xy = RNG.normal(size=(50, 2))
    ax = plots.plot_embedding(xy, np.array(["a", "b"] * 25), palette=["#ff0000", "#0000ff"])
    points = ax.collections[0]
    drawn = {tuple(p): to_hex(c) for p, c in zip(points.get_offsets(), points.get_facecolors(), strict=True)}
    assert drawn[tuple(xy[0])] == "#ff0000"
    assert drawn[tuple(xy[1])] == "#0000ff"
    assert len(drawn) == 50


def test_amounts_run_from_the_first_to_the_last_percentile_and_missing_are_grey():
    values = np.append(np.arange(100.0), np.nan)
    ax = plots.plot_embedding(np.column_stack([np.arange(101), np.zeros(101)]), values)
    points = ax.collections[0]
    drawn = {p[0]: to_hex(c) for p, c in zip(points.get_offsets(), points.get_facecolors(), strict=True)}
    assert drawn[99.0] == to_hex(heat()(1.0))
    assert drawn[0.0] == to_hex(heat()(0.0))
    assert drawn[100.0] == "#b4b8bf"


def test_the_elbo_axis_leaves_the_first_epochs_out():
    history = pd.DataFrame({"elbo_train": np.append(-9e5, -10 - 5 / np.arange(1, 48)), "elbo_validation": np.nan})
    assert plots.plot_training(history).get_ylim()[0] > -20


def test_training_draws_a_line_a_side_and_the_kept_epoch():
    ax = plots.plot_training(HISTORY, best_epoch=2)
    assert [line.get_label() for line in ax.lines] == ["training", "validation", "kept"]
    assert ax.lines[2].get_xdata()[0] == 2


def test_composition_bars_add_up_to_one():
    ax = plots.plot_composition([[1, 3], [2, 2]], groups=["0", "1"], parts=["x", "y"])
    assert [bar.get_width() for bar in ax.patches] == [0.25, 0.5, 0.75, 0.5]
    assert [t.get_text() for t in ax.texts] == ["4", "4"]


def test_dots_have_areas_as_the_fractions():
    ax = plots.plot_dotplot([[1.0, 0.0], [3.0, 0.0]], [[0.5, 0.0], [1.0, 0.1]], genes=["g", "h"], groups=["0", "1"])
    areas = ax.collections[0].get_sizes()
    assert areas / areas.max() == pytest.approx([0.5, 0.0, 1.0, 0.1])
    assert ax.collections[0].get_array().ravel().tolist() == [0.0, 0.0, 1.0, 0.0]


def test_the_predictive_check_is_square_with_the_line_of_equality():
    check = pd.DataFrame({"mean_observed": [0.1, 10, 0], "mean_predicted": [0.2, 5, 1]})
    ax = plots.plot_ppc(check, "mean")
    assert ax.get_xlim() == ax.get_ylim()
    assert len(ax.collections[0].get_offsets()) == 2  # a log axis has no place for zero
    assert np.array_equal(ax.lines[0].get_xdata(), ax.lines[0].get_ydata())


def test_a_histogram_counts_all_values_and_writes_the_median():
    ax = plots.plot_histogram([1, 10, 100, 1000, np.nan, 0], log=True, bins=4)
    assert sum(bar.get_height() for bar in ax.patches) == 4
    assert ax.texts[0].get_text() == "median 55"


@pytest.mark.parametrize("values", [[], [3.0], [np.nan], [5.0, 5.0]])
def test_a_histogram_of_nearly_nothing_is_drawn(values):
    ax = plots.plot_histogram(values, log=True)
    assert sum(bar.get_height() for bar in ax.patches) == np.isfinite(values).sum()


def test_a_figure_is_drawn_into_the_axes_given():
    ax = plots.plot_histogram([1, 2])
    assert plots.plot_embedding(RNG.normal(size=(5, 2)), ax=ax) is ax


def test_no_pyplot_is_imported():
    code = (
        "import sys, numpy as np; from celbo import plots; "
        "plots.plot_histogram([1, 2]); plots.plot_embedding(np.zeros((3, 2))).figure.canvas.draw(); "
        "assert 'matplotlib.pyplot' not in sys.modules; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_dollars_in_names_are_no_mathematics():
    ax = plots.plot_dotplot([[1.0]], [[1.0]], genes=[r"$\undefined{$"], groups=["$x$"])
    ax.figure.canvas.draw()
    assert ax.get_xticklabels()[0].get_text() == r"$\undefined{$"
    assert not ax.get_xticklabels()[0].get_parse_math()


@pytest.mark.parametrize(
    "call",
    [
        lambda: plots.plot_embedding(np.zeros((3, 3))),
        lambda: plots.plot_embedding(np.zeros((3, 2)), ["a"]),
        lambda: plots.plot_training(HISTORY, "loss"),
        lambda: plots.plot_dotplot([[1.0]], [[1.0]], genes=["a", "b"], groups=["c"]),
        lambda: plots.plot_ppc(pd.DataFrame(), "median"),
        lambda: plots.plot_composition([[1]], groups=["a"], parts=[]),
    ],
)
def test_bad_input_is_a_named_error(call):
    with pytest.raises(CelboError):
        call()


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("CD3E", "CD3E"),
        ("a\u202eb", r"a\u202eb"),
        ("a\x00\n", r"a\x00\n"),
        ("\ud800", r"\ud800"),
        ("", "(empty)"),
        ("  ", "(empty)"),
        ("e" + "\u0301" * 9, "e\u0301\u0301"),
        ("שלום", "שלום"),
        (7, "7"),
        ("y" * 100, "y" * 59 + "…"),
    ],
)
def test_names_are_visible_text(name, seen):
    assert shown(name) == seen


@pytest.mark.parametrize("limit", [5, 16, 60])
def test_names_keep_the_limit(limit):
    for name in ("\x00" * 100, "a" * 1_000_000, "\u0301" * 1000, "ab\u202e" * 9):
        assert len(shown(name, limit)) <= limit


def test_a_hundred_categories_have_a_hundred_colours():
    assert len(set(category_colors(100))) == 100


@pytest.mark.parametrize("n", [1, 16, 17, 35, 200])
def test_a_category_keeps_its_colour_when_more_are_added(n):
    assert category_colors(300)[:n] == category_colors(n)


def test_sixty_categories_are_as_distinct_as_sixteen():
    def closest(n: int) -> float:
        tones = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in category_colors(n)])
        gaps = pdist(np.asarray(_to_oklab(tones)))
        return float(gaps.min())

    assert closest(60) >= closest(16) > 0.04


def test_oklab_of_known_colours():
    assert _to_oklab(np.array([[1.0, 1, 1]])) == pytest.approx(np.array([[1.0, 0, 0]]), abs=1e-6)
    assert _to_oklab(np.array([[1.0, 0, 0]])) == pytest.approx(np.array([[0.627955, 0.224863, 0.125846]]), abs=1e-5)
    tones = np.random.default_rng(0).random((50, 3))
    assert _from_oklab(_to_oklab(tones)) == pytest.approx(tones, abs=1e-6)


def test_a_thousand_categories_have_colours():
    assert len(category_colors(1000)) == 1000


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.01, "0.01"), (1500, "1.5k"), (2e6, "2M"), (1e-6, "1e-6")])
def test_short_numbers(value, text):
    assert short(value) == text


def test_one_odd_value_does_not_stretch_an_axis_and_is_told():
    values = np.append(RNG.lognormal(7, 0.5, 60), 1e6)
    ax = plots.plot_histogram(values, x="counts", log=True)
    assert ax.get_xlim()[1] < 20_000
    assert ax.get_xlabel().startswith("counts\n1 cell above ")
    assert ax.get_xlabel().endswith("(at 1M) not drawn")
    assert sum(bar.get_height() for bar in ax.patches) == 60


def test_normal_values_are_all_drawn():
    limits = limits_of(RNG.normal(size=100_000))
    assert (limits.n_below, limits.n_above) == (0, 0)
    assert limits.told() == ""


@pytest.mark.parametrize("log", [False, True])
def test_limits_of_equal_few_or_no_values_are_finite(log):
    for values in ([], [np.nan], [3.0], [3.0] * 50, [1.0, 2.0, 1e9]):
        limits = limits_of(values, log=log)
        assert np.isfinite([limits.low, limits.high]).all()
        assert limits.n_above == 0


def test_values_on_both_sides_are_told():
    told = limits_of([*np.linspace(10, 20, 100), -500, 900, 1000]).told("genes")
    assert told == "1 gene below 1.41 (at -500) and 2 genes above 28.7 (to 1k) not drawn"


def test_violins_show_each_group_at_its_own_median():
    values = np.concatenate([RNG.normal(1, 0.1, 200), RNG.normal(2, 0.1, 200)])
    ax = plots.plot_violins(values, np.repeat([0, 1], 200), names=["a", "b"])
    medians = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1]
    assert medians == [np.median(values[:200]), np.median(values[200:])]
    assert len(ax.collections) == 2
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize("values", [np.zeros(60), np.append(np.zeros(59), 5.0), [1.0, 2.0], [np.nan] * 3, []])
def test_violins_of_nearly_nothing_are_drawn(values):
    for log in (False, True):
        plots.plot_violins(values, x="percent", log=log).figure.canvas.draw()


def test_a_share_is_not_drawn_beyond_its_values():
    ax = plots.plot_violins(np.append(np.zeros(500), RNG.uniform(0, 3, 100)))
    low = min(path.vertices[:, 0].min() for path in ax.collections[0].get_paths())
    assert low >= 0


def test_groups_of_another_length_are_an_error():
    with pytest.raises(InputError, match="2 entries for 3 values"):
        plots.plot_violins([1, 2, 3], [0, 0])


def test_a_scatter_leaves_the_odd_cell_out_and_says_so():
    x = np.append(RNG.lognormal(7, 0.5, 99), 1e6)
    ax = plots.plot_cell_scatter(x, x / 3, x, labels=("counts", "genes"), log=True)
    assert len(ax.collections[0].get_offsets()) == 99
    assert ax.get_xlabel() == "counts\n1 cell far from the others not drawn"


def test_a_gene_far_from_the_others_does_not_stretch_the_predictive_check():
    mean = np.append(RNG.lognormal(0, 1, 200), 1e12)
    check = pd.DataFrame({"mean_observed": mean, "mean_predicted": np.append(mean[:-1], 0.0)})
    check.loc[200] = [1e12, 1e12]
    check.loc[201] = [1.0, 0.0]
    ax = plots.plot_ppc(check, "mean")
    assert ax.get_xlim()[1] < 1e4
    assert ax.get_xlabel() == "observed\n1 gene far from all others and 1 gene at zero not drawn"


@pytest.mark.parametrize(
    ("draw", "told"),
    [
        (lambda adata: plots.plot_embedding(adata, "leiden"), r"x is an AnnData.*adata\.obsm\['X_umap'\]"),
        (
            lambda adata: plots.plot_embedding(adata.obsm["X_umap"], "leiden"),
            r"color is one text.*adata\.obs\['leiden'\]",
        ),
        (lambda adata: plots.plot_embedding([["a", "b"]]), "x does not hold numbers"),
        (plots.plot_histogram, "values is an AnnData"),
        (lambda adata: plots.plot_cell_scatter(adata, adata), "x is an AnnData"),
        (lambda adata: plots.plot_cosines("cosines"), "cosines does not hold numbers"),
    ],
)
def test_what_is_no_array_is_a_named_error(draw: Callable[[AnnData], object], told: str) -> None:
    adata = AnnData(np.ones((3, 2), np.float32), obsm={"X_umap": np.zeros((3, 2))})
    adata.obs["leiden"] = ["0", "1", "1"]
    with pytest.raises(InputError, match=told):
        draw(adata)
