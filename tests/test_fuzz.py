"""The tool that damages files: its trials are repeatable, it sees what is bad, and celbo bears a few of them."""

from __future__ import annotations

import importlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
TOOL = TOOLS / "fuzz.py"


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(TOOLS))
    yield importlib.import_module("fuzz")
    for name in ("fuzz", "fuzz_counts", "fuzz_damage"):
        sys.modules.pop(name, None)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), *options], capture_output=True, text=True, check=False)


def test_a_few_trials_of_three_kinds_are_borne(tmp_path: Path) -> None:
    done = run("--kinds", "mtx", "10x-h5", "genes", "--trials", "4", "--json", str(tmp_path / "all.json"))
    assert done.returncode == 0, done.stdout
    trials = json.loads((tmp_path / "all.json").read_text())
    assert [trial["kind"] for trial in trials] == ["mtx"] * 4 + ["10x-h5"] * 4 + ["genes"] * 4
    assert {trial["verdict"] for trial in trials} <= {"error", "same", "other"}
    assert done.stdout.splitlines()[-1].split()[:2] == ["all", "12"]


@pytest.mark.slow
def test_many_trials_of_every_kind_are_borne(tmp_path: Path) -> None:
    done = run("--trials", "60", "--seed", "1", "--keep", str(tmp_path))
    assert done.returncode == 0, done.stdout


def test_a_trial_is_a_function_of_its_number(fuzz: Any, tmp_path: Path) -> None:
    kinds = importlib.import_module("fuzz_counts").KINDS
    assert {kind.name for kind in kinds} <= set(fuzz.kinds())
    for kind in kinds:
        name = kind.name
        (tmp_path / name).mkdir()
        made = kind.make(tmp_path / name)
        told, damaged = [], []
        for _ in range(2):
            copy = tmp_path / "copy" / made.name
            copy.parent.mkdir()
            (shutil.copytree if made.is_dir() else shutil.copy)(made, copy)
            told.append(kind.change(copy, random.Random(f"0/{name}/1")))
            damaged.append(sorted(path.name for path in copy.parent.rglob("*")))
            shutil.rmtree(copy.parent)
        assert told[0] == told[1], name
        assert damaged[0] == damaged[1], name


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        ({}, "same"),
        ({"digest": "other"}, "other"),
        ({"code": 3, "digest": ""}, "error"),
        ({"code": 1}, "BAD"),
        ({"code": -11}, "BAD"),
        ({"code": 3, "said": "This should not happen"}, "BAD"),
        ({"wrong": "check passed, then ValueError"}, "BAD"),
        ({"seconds": 21.0}, "BAD"),
        ({"peak_mib": 2100.0}, "BAD"),
    ],
)
def test_what_is_bad_is_seen(fuzz: Any, told: dict[str, Any], verdict: str) -> None:
    good = {"code": 0, "digest": "good", "said": "", "wrong": "", "seconds": 1.0, "peak_mib": 10.0}
    assert fuzz.judged(good | told, "good", 1000)[0] == verdict
