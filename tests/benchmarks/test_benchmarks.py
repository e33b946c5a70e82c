"""The parts of the benchmarks that need no measuring: data, the table of targets, means."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def parts() -> Iterator[dict[str, ModuleType]]:
    if not FOLDER.is_dir():
        pytest.skip("an installed package has no benchmarks")
    sys.path.insert(0, str(FOLDER))
    try:
        import machine
        import speed
        import targets

        yield {"machine": machine, "speed": speed, "targets": targets}
    finally:
        sys.path.remove(str(FOLDER))


@pytest.mark.parametrize("density", [0.02, 0.13, 0.4])
def test_counts_have_the_density_asked_for(parts: dict[str, ModuleType], density: float) -> None:
    x, batch = parts["speed"]._counts(parts["speed"].Data(300, 400, density))
    assert x.nnz / (300 * 400) == pytest.approx(density, rel=0.03)
    assert np.unique(batch).size == 3


def test_every_cell_of_the_counts_can_be_trained_on(parts: dict[str, ModuleType]) -> None:
    x, _ = parts["speed"]._counts(parts["speed"].Data(300, 100, 0.01))
    assert np.asarray(x.sum(1)).min() >= 1


@pytest.mark.parametrize(("figure", "state"), [(5.9, "missed"), (6.0, "must"), (12.0, "goal")])
def test_a_ratio_is_held_against_must_and_goal(parts: dict[str, ModuleType], figure: float, state: str) -> None:
    assert parts["targets"].line(("speed", 6, 10, figure, "x")).split("|")[-2].strip() == state


@pytest.mark.parametrize(("figure", "state"), [(1.31, "missed"), (1.2, "must"), (1.0, "goal")])
def test_a_figure_that_must_be_small_is_held_from_above(
    parts: dict[str, ModuleType], figure: float, state: str
) -> None:
    assert parts["targets"].line(("floor", -1.3, -1.1, figure, "x")).split("|")[-2].strip() == state


def test_no_set_may_be_lower(parts: dict[str, ModuleType]) -> None:
    line = parts["targets"].line
    assert [line(("sets", -0.0, None, n, " sets")).split("|")[-2].strip() for n in (0, 1)] == ["must", "missed"]


def test_what_was_not_measured_says_so(parts: dict[str, ModuleType]) -> None:
    assert all("not measured" in parts["targets"].line(row) for row in parts["targets"].training_rows({}))


def test_results_name_no_host_and_no_path(parts: dict[str, ModuleType]) -> None:
    import platform

    told = str(parts["machine"].about(2))
    assert str(FOLDER.parent) not in told and (platform.node() or "?") not in told.split()
