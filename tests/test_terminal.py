"""Names from a file do nothing to a terminal: every message, warning, log line and table shows them as escapes."""

from __future__ import annotations

import ast
import logging
import unicodedata
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import celbo
from celbo.cli.app import main
from celbo.errors import CelboWarning, InputError, OptionError, harmless, logger_of, say

SOURCE = Path(celbo.__file__).parent
CLEAR, TURN, HIDE, LINE, C1 = "\x1b[2J\x1b]0;owned\x07", "\u202eevil\u2066", "\u200b\ufeff", "a\r\nb\u2028c", "\x9b2J"
HOSTILE = [CLEAR, TURN, HIDE, LINE, C1, "\x7f\x08\x08", "\udcff"]
ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def acting(text: str) -> list[str]:
    """Return the characters of a text that act on a terminal, but for its lines and tabs."""
    return [char for char in text if char not in "\n\t" and unicodedata.category(char) in ACTING]


def hostile_cells(n: int = 80) -> ad.AnnData:
    counts = np.random.default_rng(0).poisson(3.0, (n, 12)).astype(np.float32)
    names = [CLEAR, TURN, HIDE + "x", C1]
    obs = pd.DataFrame(
        {
            "batch": [f"{names[i % 2]}b{i % 2}" for i in range(n)],
            "cell_type" + CLEAR: [f"{names[i % 4]}t{i % 4}" for i in range(n)],
            "age" + TURN: np.full(n, 3.0),
        },
        index=[f"cell{i}{CLEAR}" for i in range(n)],
    )
    return ad.AnnData(counts, obs, pd.DataFrame(index=[f"gene{i}{names[i % 4]}" for i in range(12)]))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_as_escapes(name: str) -> None:
    assert not acting(harmless(name)) and harmless(name).encode()
    assert "\n" not in harmless(name)


@pytest.mark.parametrize("name", ["CD4+ T", "β-cell µ", "细胞", "ניסוי", "e\u0301", "🧬", "a b", "x\u00a0y"])
def test_other_names_stay_as_they_are(name: str) -> None:
    assert harmless(name) == name


@pytest.mark.parametrize("name", HOSTILE)
def test_errors_and_warnings_say_names_harmlessly(name: str) -> None:
    bad = InputError(f"holds {name}", where=name, value=name, fix=f"Leave {name} out.", flag=f"Leave {name} out.")
    note = CelboWarning(f"There is {name}.", fix=name)
    texts = [str(bad), repr(bad), bad.args[0], str(note), repr(note), note.args[0]]
    assert not any(acting(text) or "\n" in text for text in texts)


def test_a_log_record_is_harmless_for_every_handler(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "celbo"):
        logger_of("celbo.pipeline").info("Read %s and %d.", CLEAR, 3)
    assert caplog.messages == ["Read \\x1b[2J\\x1b]0;owned\\x07 and 3."]


def test_what_is_said_keeps_its_lines_but_not_those_that_overwrite(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\ntwo\t3\rfour")
    assert capsys.readouterr().out == "one\ntwo\t3\\rfour\n"


def _commands(folder: Path, file: Path, plain: Path) -> list[list[str]]:
    out, kind, age = str(folder / "out"), "cell_type" + CLEAR, "age" + TURN
    model = str(folder / "model" / "model")
    quick = ["--max-epochs", "1", "--n-hidden", "8", "--out", str(folder / "model")]
    return [
        ["check", str(file), "--batch-key", "batch", "--labels-key", kind],
        ["check", str(file), "--batch-key", CLEAR],
        ["check", str(folder / f"none{CLEAR}.h5ad")],
        ["check", str(plain)],
        [CLEAR],
        ["check", str(file), f"--{CLEAR}"],
        ["run", str(file), "--n-latent", CLEAR, "--out", out],
        ["run", str(file), "--model", CLEAR, "--out", out],
        ["train", str(file), "--batch-key", "batch", "--continuous-covariate-keys", age, *quick],
        ["train", str(file), "--batch-key", "batch", *quick],
        ["latent", model, str(file), "--out", str(folder / f"z{TURN}.csv")],
        ["latent", model, str(plain), "--out", str(folder / "z2.csv")],
        ["de", model, str(file), "--groupby", kind, "--out", str(folder / f"d{CLEAR}.csv")],
        ["de", model, str(file), "--groupby", TURN, "--out", str(folder / "d.csv")],
        ["embed", str(file), "--method", CLEAR],
        ["train", "--config", str(folder / f"{CLEAR}.toml")],
    ]


def test_no_command_sends_a_name_to_the_terminal_as_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, plain = tmp_path / f"cells{CLEAR.replace('/', '')}.h5ad", tmp_path / f"{TURN}.csv"
    hostile_cells().write_h5ad(file)
    plain.write_text(f"x,{CLEAR}\n{TURN},not a number\n")
    for command in _commands(tmp_path, file, plain):
        code = main(command)
        told = capfd.readouterr()
        assert not acting(told.out + told.err), (command, code)
        assert "This should not happen" not in told.err, (command, told.err)


def test_what_python_prints_is_harmless_too() -> None:
    cells = hostile_cells()
    page = str(celbo.check(cells, batch_key="batch", labels_key="cell_type" + CLEAR))
    assert "x1b" in page and not acting(page)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = celbo.SCVI(cells, batch_key="batch", n_hidden=8, continuous_covariate_keys=("age" + TURN,))
        model.train(max_epochs=1, progress=False)
    assert caught and not acting("".join(str(one.message) for one in caught)) and not acting(repr(model))
    with pytest.raises(OptionError) as told:
        celbo.SCVI(cells, **{"likelihood": CLEAR})
    assert not acting(str(told.value))


def test_one_function_prints_and_one_makes_loggers() -> None:
    found = [
        f"{file.relative_to(SOURCE)}:{node.lineno} {ast.unparse(node.func)}"
        for file in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (
            ast.unparse(node.func) in {"print", "sys.stdout.write", "sys.stderr.write"}
            or (ast.unparse(node.func) == "logging.getLogger" and file.name != "errors.py" and _of_celbo(node))
        )
    ]
    assert [place for place in found if not place.startswith("errors.py")] == []


def _of_celbo(call: ast.Call) -> bool:
    """Say whether the logger asked for is one of celbo's, not one of another package."""
    name = call.args[0] if call.args else None
    return not isinstance(name, ast.Constant) or str(name.value).startswith("celbo")
