"""Every bad input gets a named error, said by celbo and not by a library below it.

The tests walk over the one list in `bad_files.py` and `bad_data.py`, and `docs/bad-inputs.md` is written from it by

    python tests/data/test_bad_inputs.py
"""

from __future__ import annotations

import re
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import pytest
from bad_data import CASES, MODELS, trained
from bad_files import Case

import celbo
from celbo.errors import CelboError, CelboWarning

DOC = Path(__file__).resolve().parents[2] / "docs" / "bad-inputs.md"


def outcome(given: Case, folder: Path) -> Exception:
    """Return what a case raises, warnings of celbo among it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if given.section == MODELS:
            trained()
        else:
            warnings.simplefilter("error", CelboWarning)
        try:
            given.run(folder)
        except (CelboError, CelboWarning) as problem:
            return problem
    raise AssertionError(f"{given.given}: nothing was raised")


def identifier(given: Case) -> str:
    return re.sub(r"\W+", "-", given.given)


@pytest.mark.parametrize("given", CASES, ids=identifier)
def test_a_bad_input_gets_its_named_error(given: Case, tmp_path: Path) -> None:
    problem = outcome(given, tmp_path)
    assert type(problem) is given.error
    assert given.message in str(problem)


@pytest.mark.parametrize("given", CASES, ids=identifier)
def test_no_bad_input_ends_in_a_traceback_from_below_celbo(given: Case, tmp_path: Path) -> None:
    problem = outcome(given, tmp_path)
    last = traceback.extract_tb(problem.__traceback__)[-1]
    assert Path(last.filename).is_relative_to(Path(celbo.__file__).parent)
    assert problem.__context__ is None or problem.__suppress_context__


def test_there_are_at_least_forty_bad_inputs() -> None:
    assert len({given.given for given in CASES}) == len(CASES) >= 40


def table() -> str:
    """Return the page that shows every bad input with what it gets."""
    lines = [
        "# Bad inputs",
        "",
        "What celbo says to each of these inputs. Work goes on after a `CelboWarning`; everything else is an error.",
        "The page is written from the tests (`python tests/data/test_bad_inputs.py`), which hold it true.",
    ]
    for section in dict.fromkeys(given.section for given in CASES):
        lines += ["", f"## {section}", "", "| input | error | message |", "|---|---|---|"]
        for given in CASES:
            if given.section == section:
                with tempfile.TemporaryDirectory() as folder:
                    message = said(outcome(given, Path(folder)), folder)
                lines.append(f"| {given.given} | `{given.error.__name__}` | {message} |")
    return "\n".join(lines) + "\n"


def said(problem: Exception, folder: str) -> str:
    """Return a message without the temporary folder and without the words of libraries, which change with them."""
    message = str(problem).replace(f"{folder}/", "").replace(folder, "folder")
    message = re.sub(r"(cannot be read as [^:]*): .*? (It is damaged, cut short)", r"\1: ... \2", message)
    return re.sub(r"([|<>*_])", r"\\\1", " ".join(message.split()))


def test_the_page_of_bad_inputs_is_up_to_date() -> None:
    assert DOC.read_text(encoding="utf-8") == table(), "run python tests/data/test_bad_inputs.py"


if __name__ == "__main__":
    DOC.write_text(table(), encoding="utf-8")
    sys.stdout.write(f"{DOC}: {len(CASES)} bad inputs\n")
