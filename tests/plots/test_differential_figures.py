"""Figures of differential expression: what is drawn, read back from the Axes."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

from celbo import plots
from celbo.errors import InputError, OptionError
from celbo.plots.compared import (
    called,
    comparisons_of,
    evidence,
    expression_of,
    one_comparison,
    ranked_genes,
    top_genes,
)
from celbo.plots.style import ACCENT, MISSING, SECOND, new_axes
from made_tables import compared, one_versus_rest, vanilla

TABLE = compared("B cells", n_genes=600)
FIGURES = (plots.plot_volcano, plots.plot_ma, plots.plot_lfc_intervals)
HOSTILE = ("<script>alert(1)</script>", r"$\frac{a}{b}$ $x", "\u202eevil", "nul\x00 new\nline", "")


def points(ax) -> dict[str, np.ndarray]:
    """Return the points of each colour, (points, 2)."""
    return {to_hex(c.get_facecolor()[0]): c.get_offsets() for c in ax.collections if len(c.get_offsets())}


@pytest.mark.parametrize("draw", FIGURES[:2])
def test_every_gene_is_a_point_in_the_colour_of_its_call(draw):
    drawn = points(draw(TABLE))
    up, down = (TABLE["is_de"] & (np.sign(TABLE["lfc_median"]) == sign) for sign in (1, -1))
    assert up.sum() > 10 and down.sum() > 10
    assert {c: len(p) for c, p in drawn.items()} == {
        SECOND: up.sum(), ACCENT: down.sum(), MISSING: (~TABLE["is_de"]).sum(),
    }  # fmt: skip


def test_a_volcano_has_the_tested_fold_change_and_the_bayes_factor():
    drawn = points(plots.plot_volcano(TABLE))[SECOND]
    rows = TABLE[TABLE["is_de"] & (TABLE["lfc_median"] > 0)]
    np.testing.assert_allclose(drawn, rows[["lfc_median", "bayes_factor"]])


def test_the_threshold_is_drawn_on_both_sides():
    ax = plots.plot_volcano(compared(delta=0.4))
    assert sorted(line.get_xdata()[0] for line in ax.lines) == [-0.4, 0.4]
    band = plots.plot_ma(compared(delta=0.4)).patches[0].get_bbox()
    assert (band.y0, band.y1) == (-0.4, 0.4)


def test_an_ma_figure_has_the_mean_of_both_expected_shares_per_ten_thousand():
    table = compared(n_genes=50, share=1.0)
    drawn = np.concatenate(list(points(plots.plot_ma(table)).values()))
    assert sorted(drawn[:, 0]) == pytest.approx(sorted(1e4 * (table["scale1"] + table["scale2"]) / 2))


def test_a_gene_that_is_expressed_nowhere_has_no_place_on_a_log_axis():
    table = TABLE.assign(scale1=np.where(np.arange(600) < 7, 0.0, TABLE["scale1"]), scale2=0.0)
    assert sum(map(len, points(plots.plot_ma(table)).values())) == 593


@pytest.mark.parametrize("draw", FIGURES[:2])
@pytest.mark.parametrize("size", [(430, 340), (240, 220)])
def test_names_of_genes_do_not_overlap_and_stay_inside(draw, size):
    ax = draw(TABLE, ax=new_axes(*size))
    ax.figure.draw_without_rendering()
    renderer = ax.figure.canvas.get_renderer()
    labels = [t for t in ax.texts if t.get_text() in TABLE.index]
    for label in labels:
        label.update_positions(renderer)
    boxes = [Text.get_window_extent(label, renderer) for label in labels]  # without the line to the point
    assert len(boxes) >= (8 if size[0] > 300 else 4)
    assert not [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    frame = ax.get_window_extent().padded(1)
    assert all(frame.contains(b.x0, b.y0) and frame.contains(b.x1, b.y1) for b in boxes)


def test_named_genes_are_called_and_half_of_them_on_either_side():
    ax = plots.plot_volcano(TABLE, n_labels=6, ax=new_axes(900, 700))
    named = TABLE.loc[[t.get_text() for t in ax.texts if t.get_text() in TABLE.index]]
    assert named["is_de"].all()
    assert np.sign(named["lfc_median"]).sum() == 0 and len(named) == 6


def test_infinite_odds_stand_at_the_upper_end():
    table = TABLE.assign(bayes_factor=[np.inf, np.inf, *TABLE["bayes_factor"][2:]])
    ax = plots.plot_volcano(table)
    highest = max(p[:, 1].max() for p in points(ax).values())
    assert highest == table["bayes_factor"].iloc[2] and np.isfinite(ax.get_ylim()).all()


def test_a_long_axis_of_evidence_is_linear_where_the_calls_begin_and_logarithmic_above():
    ax = plots.plot_volcano(TABLE.assign(bayes_factor=TABLE["bayes_factor"] * 20))
    at = {y: ax.transData.transform((0, y))[1] for y in (0, 2.5, 5, 100, 200, 400)}
    assert at[5] - at[2.5] == pytest.approx(at[2.5] - at[0])
    assert at[400] - at[200] == pytest.approx(at[200] - at[100])
    assert ax.get_ylim()[1] > 20 * TABLE["bayes_factor"].max()


def test_intervals_are_drawn_from_end_to_end_with_the_median():
    ax = plots.plot_lfc_intervals(TABLE, 7)
    rows = TABLE.head(7)
    drawn = {s[0][1]: (s[0][0], s[1][0]) for c in ax.collections for s in c.get_segments()}
    np.testing.assert_allclose([drawn[i] for i in range(7)], rows[["lfc_lower", "lfc_upper"]])
    dots = {y: x for line in ax.lines[:3] for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
    assert [dots[i] for i in range(7)] == pytest.approx(rows["lfc_median"].tolist())
    assert [t.get_text() for t in ax.get_yticklabels()] == rows.index.tolist()


def test_intervals_of_genes_that_are_asked_for_keep_their_order():
    ax = plots.plot_lfc_intervals(TABLE, genes=["GENE5", "GENE2"])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["GENE5", "GENE2"]
    with pytest.raises(InputError, match="lacks genes: 'CD3E'"):
        plots.plot_lfc_intervals(TABLE, genes=["CD3E"])


def test_mode_vanilla_is_drawn_by_the_odds_of_the_direction():
    table = vanilla(n_genes=300)
    ax = plots.plot_volcano(table)
    assert ax.get_ylabel() == "log odds that the direction is right"
    lowest = min(p[:, 1].min() for p in points(ax).values())
    assert lowest == pytest.approx(table["bayes_factor"].abs().min())
    assert not ax.lines  # it has no threshold


@pytest.mark.parametrize("draw", FIGURES)
def test_names_are_plain_text(draw):
    table = compared(HOSTILE[0], HOSTILE[1], n_genes=5, share=1.0, genes=list(HOSTILE))
    ax = draw(table)
    ax.figure.canvas.draw()
    label = ax.get_xlabel() + ax.get_ylabel()
    assert "<script>alert(1)</scr" in label and r"$\frac{a}{b}$ $x" in label
    written = [*ax.texts, *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label]
    assert not any(text.get_parse_math() and "$" in text.get_text() for text in written)
    assert "\u202e" not in "".join(text.get_text() for text in written)


@pytest.mark.parametrize("draw", FIGURES)
def test_several_comparisons_need_a_name(draw):
    table = one_versus_rest(["T", "B"], n_genes=40)
    with pytest.raises(OptionError, match=r"\('T', 'rest'\), \('B', 'rest'\)"):
        draw(table)
    assert draw(table, comparison="B").get_xlabel() == draw(table, comparison=("B", "rest")).get_xlabel()
    with pytest.raises(OptionError, match="names no comparison"):
        draw(table, comparison="NK")


@pytest.mark.parametrize("draw", FIGURES)
@pytest.mark.parametrize("table", [TABLE.drop(columns="lfc_median"), TABLE.head(0), {"gene": [1]}])
def test_what_is_no_table_of_differential_expression_is_a_named_error(draw, table):
    with pytest.raises(InputError, match="table"):
        draw(table)


@pytest.mark.parametrize("draw", FIGURES)
def test_a_comparison_without_calls_is_drawn(draw):
    ax = draw(TABLE.assign(is_de=False, delta=np.nan))
    ax.figure.canvas.draw()
    assert not [t for t in ax.texts if t.get_text() in TABLE.index]


def test_one_comparison_keeps_the_order_of_its_rows():
    table = one_versus_rest(["T", "B"], n_genes=40).sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(one_comparison(table, "B"), table[table["group1"] == "B"])
    assert sorted(comparisons_of(table)) == [("B", "rest"), ("T", "rest")]


def test_without_calls_odds_of_twenty_to_one_call_a_gene():
    rows = TABLE.drop(columns="is_de")
    expected = np.where(TABLE["bayes_factor"] >= 3, np.sign(TABLE["lfc_median"]), 0)
    assert called(rows).tolist() == expected.tolist()
    assert evidence(rows).tolist() == TABLE["bayes_factor"].tolist()


def test_top_genes_are_called_and_in_the_order_of_their_score():
    rows = pd.DataFrame(
        {
            "bayes_factor": [9.0, 5, 8, 7, 1, 9],
            "lfc_median": [1.0, 3.0, 9.0, 2.5, 8.0, -4.0],
            "lfc_lower": [0.8, 0.4, 5.0, 2.0, -1.0, -5.0],
            "marker_score": [0.5, 0.3, 0.2, 1.8, 0.0, -1.9],
            "is_de": [True, True, True, True, False, True],
        },
        index=["house", "wide", "rare", "best", "unsure", "lower"],
    )
    assert top_genes(rows, 3) == ["best", "house", "wide"]
    assert top_genes(rows, 9) == ["best", "house", "wide", "rare", "unsure"]
    assert top_genes(rows, 9, higher=False) == ["lower"]
    assert list(ranked_genes(rows, higher=None).index) == ["lower", "best", "house", "wide", "rare", "unsure"]
    assert top_genes(rows.drop(columns="marker_score"), 3) == ["rare", "best", "house"]  # by the interval alone


def test_dots_are_the_expected_shares_and_detection_of_each_group():
    table = one_versus_rest(["T", "B"], n_genes=40)
    mean, fraction = expression_of(table, ["GENE3", "GENE1"])
    rows = one_comparison(table, "B")
    assert mean.loc["B"].tolist() == np.log1p(1e4 * rows.loc[["GENE3", "GENE1"], "scale1"]).tolist()
    assert fraction.loc["B"].tolist() == rows.loc[["GENE3", "GENE1"], "detection1"].tolist()
    assert mean.index.tolist() == ["T", "B"]


def test_the_dots_of_two_groups_have_genes_of_both():
    table = compared("T", "B", n_genes=200)
    mean, _ = expression_of(table, n_genes=2)
    assert mean.index.tolist() == ["T", "B"]
    assert list(mean.columns) == top_genes(table, 2) + top_genes(table, 2, higher=False)
    assert (mean.loc["T"] > mean.loc["B"]).tolist() == [True, True, False, False]


def test_a_dot_plot_has_a_row_a_group_and_genes_of_each():
    ax = plots.plot_top_genes(one_versus_rest(["T", "B", "NK"], n_genes=300), 2)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["T", "B", "NK"]
    assert len(ax.get_xticklabels()) == 6 and len(ax.collections[0].get_offsets()) == 18


def test_a_table_that_was_cut_has_no_dots_of_all_groups():
    table = one_versus_rest(["T", "B"], n_genes=200).groupby("group1").head(5)
    with pytest.raises(InputError, match="Give the whole table"):
        plots.plot_top_genes(table)
