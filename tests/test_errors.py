"""The words of an error: Python for who writes Python, flags for who types a command."""

from __future__ import annotations

import warnings

import pytest

from celbo.cli.app import main
from celbo.data.findings import CheckResult, error, warning
from celbo.data.schema import DataKeys
from celbo.errors import CelboWarning, CountsError, OptionError, in_flags

PYTHON, FLAGS = "Pass layer='counts'.", "Pass --layer counts."
BAD = CountsError("holds no counts", where="X", value="0.5", fix=PYTHON, flag=FLAGS)


def test_an_error_tells_python_unless_flags_are_asked_for() -> None:
    assert str(BAD) == f"X holds no counts: 0.5. {PYTHON}"
    with in_flags():
        assert str(BAD) == f"X holds no counts: 0.5. {FLAGS}"
    assert str(BAD) == f"X holds no counts: 0.5. {PYTHON}"


def test_an_error_without_flags_of_its_own_keeps_its_fix() -> None:
    with in_flags():
        assert str(CountsError("is empty", where="X", fix="Copy it again.")) == "X is empty. Copy it again."


def test_a_warning_tells_the_same_two_ways() -> None:
    note = CelboWarning("Guessed.", fix=PYTHON, flag=FLAGS)
    assert str(note) == f"Guessed. {PYTHON}"
    with in_flags():
        assert str(note) == f"Guessed. {FLAGS}"


def test_the_findings_of_a_check_tell_the_same_two_ways() -> None:
    findings = tuple(kind(CountsError, "is odd", where="X", fix=PYTHON, flag=FLAGS) for kind in (error, warning))
    page = CheckResult(n_cells=1, n_genes=1, n_stored=1, keys=DataKeys(), findings=findings)
    assert str(page).count(PYTHON) == 2
    with in_flags():
        assert str(page).count(FLAGS) == 2


def test_the_command_line_tells_flags_and_leaves_python_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OptionError("is odd", where="layer", fix=PYTHON, flag=FLAGS)

    monkeypatch.setattr("celbo.cli.app._app_for", fail)
    assert main(["check", "a.h5ad"]) == 2
    assert capsys.readouterr().err == f"celbo: OptionError: layer is odd. {FLAGS}\n"
    assert str(BAD).endswith(PYTHON)


def test_a_warning_can_be_caught_by_its_words() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(CelboWarning("Guessed.", fix=PYTHON), stacklevel=1)
    assert str(caught[0].message) == f"Guessed. {PYTHON}"
