"""What is seen of training without a terminal."""

from __future__ import annotations

import logging

import pytest

from celbo.training.progress import Progress

ROW = {"elbo_train": -101.25, "elbo_validation": -102.5, "seconds": 2.0, "cells_per_second": 5000.0}


def lines(n_epochs: int, show: bool | None) -> None:
    progress = Progress(show=show, n_epochs=n_epochs, n_cells=100)
    for _ in range(n_epochs):
        progress.step(100)
        progress.epoch(ROW)
    progress.close()


@pytest.mark.parametrize(("n_epochs", "seen"), [(30, 11), (100, 11), (4, 4), (1, 1)])
def test_script_sees_a_line_at_each_tenth(n_epochs: int, seen: int, capsys: pytest.CaptureFixture[str]) -> None:
    lines(n_epochs, None)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == seen
    assert told[0].startswith(f"epoch 1/{n_epochs}: ELBO -101.25, held out -102.50")
    assert told[-1].startswith(f"epoch {n_epochs}/{n_epochs}")
    assert told[-1].endswith("00:00 left") or n_epochs == 1  # one epoch is over before its speed is known


def test_script_with_a_log_sees_the_lines_there(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="celbo.training"):
        lines(20, None)
    assert len(caplog.records) == 11
    assert capsys.readouterr().err == ""


def test_line_an_epoch_where_no_bar_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="celbo.training"):
        lines(20, False)
    assert len(caplog.records) == 20
