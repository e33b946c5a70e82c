"""Commands that are killed at random moments: nothing is lost, and what goes on ends at the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "kill.py"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or not TOOL.exists(), reason="needs fork, and the tools")


def killed(folder: Path, times: int, seed: int, *commands: str) -> list[dict[str, Any]]:
    """Return what came of each trial, once none of them has lost anything."""
    options = ["--times", str(times), "--seed", str(seed), "--folder", str(folder), "--commands", *commands]
    done = subprocess.run([sys.executable, str(TOOL), *options], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines and "trials" in lines[-1], done.stderr[-3000:]
    trials = lines[1:-1]
    assert [trial for trial in trials if trial["bad"]] == []
    assert done.returncode == 0
    return trials


def test_trainings_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    trials = killed(tmp_path, 4, 3, "train")
    assert any(trial["code"] == -9 for trial in trials) and any(trial["over"] for trial in trials)


@pytest.mark.slow
def test_commands_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    trials = killed(tmp_path, 100, 4, "train", "run", "compare", "de")
    assert sum(trial["code"] in (-9, 143) for trial in trials) > 60
    assert {trial["signal"] for trial in trials} == {"SIGKILL", "SIGTERM"}
