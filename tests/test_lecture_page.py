"""docs/lecture.md says what exists: commands that parse, names that celbo has, pictures and numbers of the code."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

import celbo
from celbo.cli import app as cli
from celbo.cli.options import asked_model
from celbo.models.base import Model
from celbo.pipeline.config import preset

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8")
PICTURES = ROOT / "docs" / "img" / "lecture"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if not language for line in text.splitlines()]
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHOWN = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", PAGE)


def _parse(command: str) -> None:
    name, *argv = shlex.split(command)
    assert name == "celbo"
    model = asked_model(argv) if argv[0] in ("run", "train") else "scvi"
    app = cli.make_app(model)
    app.parse_args(argv, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_known_to_the_command_line(command):
    _parse(command)


def test_the_check_of_commands_finds_what_is_wrong():
    for wrong in ("celbo train x.h5ad --model hpf --beta 2 --out y", "celbo embed x.h5ad --method som", "celbo fly"):
        with pytest.raises(Exception, match=r"(?i)unknown|unused|invalid|no such|som|fly|beta"):
            _parse(wrong)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--preset" in c])
def test_presets_exist(command):
    words = shlex.split(command)
    assert preset(asked_model(words), words[words.index("--preset") + 1])


def test_presets_named_in_the_text_exist():
    assert set(re.findall(r"`--preset (\w+)`", PAGE)) == {"schpf"}
    assert preset("hpf", "schpf")
    named = re.findall(r"`(\w+Config)\.(\w+)\(\)`", PAGE)
    assert len(named) >= 3
    for config, name in named:
        assert getattr(getattr(celbo, config), name)() != getattr(celbo, config)(), (config, name)


@pytest.mark.parametrize("text", PYTHON)
def test_python_names_what_celbo_has(text):
    nodes = list(ast.walk(ast.parse(text)))
    classes = {}  # of the variables that hold a model
    for node in nodes:
        if isinstance(node, ast.Assign) and (found := re.match(r"celbo\.([A-Z]\w+)\(", ast.unparse(node.value))):
            classes[ast.unparse(node.targets[0])] = found[1]
    for node in nodes:
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            made = re.match(r"celbo\.([A-Z]\w+)\(", owner)
            if owner in classes or made:  # train() returns the model
                assert hasattr(getattr(celbo, made[1] if made else classes[owner]), node.attr), ast.unparse(node)
            elif re.fullmatch(r"celbo(\.\w+)*", owner):
                assert _resolved(ast.unparse(node)) is not None
        if isinstance(node, ast.Call) and re.fullmatch(r"celbo(\.\w+)+", name := ast.unparse(node.func)):
            words = {word.arg: word.value for word in node.keywords}
            inspect.signature(_resolved(name)).bind(*node.args, **words)


def _resolved(dotted: str) -> object:
    value: object = celbo
    for name in dotted.split(".")[1:]:
        value = getattr(value, name)
    return value


def test_every_model_of_celbo_has_a_stop():
    trained = {asked_model(shlex.split(command)) for command in COMMANDS if " train " in command}
    trained |= {name.lower() for name in re.findall(r"celbo\.([A-Z]\w+)\(", "".join(PYTHON))}
    denoised = {name for c in COMMANDS if " denoise " in c for name in shlex.split(c)[2].split(",")}
    public = [getattr(celbo, name) for name in celbo.__all__]
    models = {kind.__name__.lower() for kind in public if isinstance(kind, type) and issubclass(kind, Model)}
    assert len(models) >= 10
    assert models <= trained | denoised


def test_pictures_are_there_and_small():
    named = {(ROOT / "docs" / path).resolve() for _, path in SHOWN}
    assert named == set(PICTURES.glob("*.png"))
    assert sum(path.stat().st_size for path in named) < 1_500_000
    for path in named:
        assert path.stat().st_size < 120_000, path.name
        with Image.open(path) as image:
            assert image.width >= 800


def test_pictures_have_a_text_for_those_who_do_not_see_them():
    assert all(len(text) > 10 for text, _ in SHOWN)


def _drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_lecture", ROOT / "tools" / "draw_lecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_the_text_with_the_numbers_of_the_code(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    drawing = _drawing()
    numbers = json.loads((PICTURES / "numbers.json").read_text(encoding="utf-8"))
    text = (ROOT / "tools" / "lecture" / "page.md").read_text(encoding="utf-8")
    assert drawing.filled(text, numbers) == PAGE
    assert set(numbers) == set(drawing.STOPS)
    quoted = set(re.findall(r"\{\{(\w+)\.(\w+)\}\}", text))
    assert {stop for stop, _ in quoted} == set(drawing.STOPS)
    with pytest.raises(KeyError):
        drawing.filled("{{data.nothing}}", numbers)


def test_links_lead_to_headings():
    slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)}
    for target in re.findall(r"\]\(#([^)]+)\)", PAGE):
        assert target in slugs, target
