"""Trainings that are killed at random moments: each resumes to the bits of one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def kill(folder: Path, trials: int, seed: int) -> list[dict[str, Any]]:
    command = [sys.executable, str(Path(__file__).with_name("kill_runner.py")), str(folder), str(trials), str(seed)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *rest = map(json.loads, done.stdout.splitlines())
    assert len(first["expected"]) == 64, done.stderr
    return rest


def check(outcomes: list[dict[str, Any]], trials: int) -> None:
    assert len(outcomes) == trials
    assert [outcome for outcome in outcomes if outcome["unreadable"]] == []
    assert all(outcome["same"] for outcome in outcomes)
    assert sum(outcome["killed"] for outcome in outcomes) >= trials * 0.5
    assert all(len(outcome["left"]) <= 3 for outcome in outcomes)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_three_kills_cost_no_bit(tmp_path: Path) -> None:
    check(kill(tmp_path, 3, seed=0), 3)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_hundred_kills_cost_no_bit(tmp_path: Path) -> None:
    outcomes = kill(tmp_path, 100, seed=1)
    check(outcomes, 100)
    assert len({tuple(outcome["left"]) for outcome in outcomes}) >= 5  # the kills fell into many epochs
