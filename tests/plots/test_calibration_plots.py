"""Figures of a calibration, read back from the Axes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from celbo.errors import OptionError
from celbo.evaluate import Calibration
from celbo.plots import plot_calibration

N_CELLS, N_DRAWS = 400, 99


def a_calibration(*sources: str) -> Calibration:
    """Ranks of a right posterior, and of one for "prior" whose intervals are half as wide as they should be."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, N_DRAWS + 1, size=(4, N_CELLS))
    narrow = np.clip((right - 49.5) * 2 + 49.5, 0, N_DRAWS).astype(np.int64)
    names = [("latent", "1"), ("latent", "2"), ("expression", "g$"), ("log_likelihood", "")]
    rows = [(source, "q", *name) for source in sources for name in names]
    index = pd.MultiIndex.from_tuples(rows, names=["source", "posterior", "quantity", "name"])
    ranks = np.concatenate([{"cells": right, "prior": narrow}[source] for source in sources])
    table = pd.DataFrame(ranks, index=index)
    return Calibration("SCVI", N_CELLS, N_DRAWS, pd.DataFrame(), pd.DataFrame(), table, None)


def test_coverage_is_drawn_against_the_level_beside_the_line_of_equality() -> None:
    found = a_calibration("cells", "prior")
    ax = plot_calibration(found)
    curves = {line.get_label(): line for line in ax.lines[1:]}
    assert set(curves) == {"latent state", "expression"}  # of the likelihood nobody draws intervals
    assert list(ax.lines[0].get_xdata()) == list(ax.lines[0].get_ydata()) == [0, 1]
    level = curves["expression"].get_xdata()
    expected = found.coverage_at(list(level)).query("source == 'cells' and quantity == 'expression'").coverage
    assert curves["expression"].get_ydata() == pytest.approx(expected.to_numpy())
    assert np.abs(curves["expression"].get_ydata() - level).max() < 0.1
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["latent state", "expression"]


def test_intervals_that_are_too_narrow_run_below_the_line() -> None:
    curve = plot_calibration(a_calibration("cells", "prior"), source="prior").lines[1]
    middle = slice(15, 35)
    assert (curve.get_ydata()[middle] < curve.get_xdata()[middle] - 0.1).all()


def test_ranks_have_a_line_a_quantity_and_a_band_that_narrow_posteriors_leave() -> None:
    found = a_calibration("cells", "prior")
    ax = plot_calibration(found, "ranks")  # of the prior
    lines, band = ax.lines[:4], {line.get_label(): line for line in ax.lines[4:]}
    assert [line.get_label() for line in lines] == ["latent state", "_", "expression", "log likelihood"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "latent state",
        "expression",
        "log likelihood",
        "99% band",
    ]
    upper = band["99% band"].get_ydata()
    assert (lines[0].get_ydata() > upper)[:20].all()  # above it on the left: the truth is often below all draws
    right = plot_calibration(found, "ranks", source="cells")
    assert (right.lines[0].get_ydata() <= upper + 1e-12).all()


def test_the_only_source_is_drawn_where_none_is_asked_for() -> None:
    assert len(plot_calibration(a_calibration("prior")).lines) == 3
    assert len(plot_calibration(a_calibration("cells"), "ranks").lines) == 6


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("moon", {}, "what does not exist: 'moon'"),
        ("ranks", {"source": "prior"}, "source='prior', posterior='q' was not asked of the model. There is 'cells, q'"),
        ("coverage", {"posterior": "importance"}, "posterior='importance' was not asked of the model"),
    ],
)
def test_what_is_not_there_is_named(what, options, message) -> None:
    with pytest.raises(OptionError, match=message):
        plot_calibration(a_calibration("cells"), what, **options)
