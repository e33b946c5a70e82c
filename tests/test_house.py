"""The rules of the house (CONTRIBUTING.md), held on the tree as it is."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "celbo"
CODE = sorted(p for folder in ("src", "tests", "tools", "benchmarks") for p in (ROOT / folder).rglob("*.py"))
MODULES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in CODE}
Function = ast.FunctionDef | ast.AsyncFunctionDef

BANNED = {"pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
MAY_TOUCH_ANNDATA = {"data", "results", "embed", "pipeline"}
MAY_NAME_ANNDATA = MAY_TOUCH_ANNDATA | {"models", "plots", "evaluate"}  # as a type only
BELOW_MODELS = ("errors", "files", "kernels", "data", "likelihoods", "nn", "training", "posterior")
INTERNAL = {"kernels", "likelihoods", "nn", "report"}  # called by celbo itself, in the habits of torch and of markup


def name(path: Path) -> str:
    """Return the path as it is written in the failure message."""
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    """Return the room of a module of the package."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def functions(path: Path) -> Iterator[tuple[str, Function]]:
    """Yield each function of a file with its dotted name."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield prefix + child.name, child
                yield from walk(child, f"{prefix}{child.name}.<locals>.")
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    yield from walk(TREES[path], "")


def body_length(function: Function) -> int:
    """Return the lines of a function without its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return 0 if not body else (function.end_lineno or 0) - min(s.lineno for s in body) + 1


def is_public(dotted: str) -> bool:
    """Return whether a user can reach a function by names without a leading underscore."""
    return not any(part.startswith("_") for part in dotted.split(".")) and "<locals>" not in dotted


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the top package of each import with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], node.lineno


def without_type_checking(tree: ast.Module) -> ast.Module:
    """Return a tree without its `if TYPE_CHECKING:` blocks."""

    class Strip(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            guarded = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return node.orelse if guarded else self.generic_visit(node)

    return Strip().visit(ast.parse(ast.unparse(tree)))


@pytest.mark.parametrize("path", CODE, ids=name)
def test_no_file_has_more_than_700_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 700


def test_no_function_has_more_than_80_lines() -> None:
    long = {f"{name(p)}:{d}": n for p in CODE for d, f in functions(p) if (n := body_length(f)) > 80}
    assert long == {}


def test_nine_functions_of_ten_have_fewer_than_40_lines() -> None:
    assert np.quantile([body_length(f) for p in MODULES for _, f in functions(p)], 0.9) < 40


def test_nothing_imports_a_pickling_package() -> None:
    assert [f"{name(p)}:{line} {top}" for p in CODE for top, line in imports(TREES[p]) if top in BANNED] == []


def banned_loads(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that call `torch.load`, pandas' pickle readers, or NumPy with `allow_pickle=True`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in {"torch.load", "torch.save"} or called.endswith((".read_pickle", ".to_pickle")):
            yield node.lineno
        for keyword in node.keywords:
            allows = keyword.arg == "allow_pickle" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            )
            if allows:
                yield node.lineno


def test_nothing_loads_a_pickle() -> None:
    assert [f"{name(p)}:{line}" for p in CODE for line in banned_loads(TREES[p])] == []


def test_no_public_signature_has_var_keywords() -> None:
    found = [f"{name(p)}:{d}" for p in MODULES for d, f in functions(p) if is_public(d) and f.args.kwarg]
    assert found == []


def positional_options(function: Function) -> list[str]:
    """Return the options after the second parameter that may be given by position.

    Data may (a parameter whose default is None), and what torch gives so: number of draws, generator, dtype.
    """
    positional = [a.arg for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in {"self", "cls"}]
    with_default = positional[len(positional) - len(function.args.defaults) :]
    data = {a for a, d in zip(with_default, function.args.defaults, strict=True) if ast.unparse(d) == "None"}
    return [a for a in with_default if a not in {*positional[:2], *data, "n_samples", "generator", "dtype"}]


def test_options_of_public_functions_are_keyword_only() -> None:
    modules = [p for p in MODULES if room(p) not in INTERNAL]
    found = {f"{name(p)}:{d}": positional_options(f) for p in modules for d, f in functions(p) if is_public(d)}
    assert {where: options for where, options in found.items() if options} == {}


def test_anndata_is_imported_only_where_it_may_be_touched() -> None:
    found = [
        f"{name(p)}:{line}"
        for p in MODULES
        if room(p) not in MAY_TOUCH_ANNDATA
        for top, line in imports(without_type_checking(TREES[p]))
        if top == "anndata"
    ]
    assert found == []


def test_anndata_is_named_as_a_type_only_above_the_posterior() -> None:
    found = [
        f"{name(p)}:{line}"
        for p in MODULES
        if room(p) not in MAY_NAME_ANNDATA and p != SOURCE / "__init__.py"
        for top, line in imports(TREES[p])
        if top == "anndata"
    ]
    assert found == []


def names_of_models() -> set[str]:
    """Return the files' and classes' names of the models."""
    files = [p for p in (SOURCE / "models").glob("*.py") if p.stem not in {"__init__", "base", "store"}]
    classes = {node.name for p in files for node in TREES[p].body if isinstance(node, ast.ClassDef)}
    return {p.stem for p in files} | classes


def names_used(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each identifier, attribute, imported name and short string of a tree with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.alias):
            yield node.name.split(".")[-1], node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno


def test_nothing_below_models_names_a_model() -> None:
    models = names_of_models()
    below = [p for p in MODULES if room(p) in BELOW_MODELS]
    assert [f"{name(p)}:{line} {used}" for p in below for used, line in names_used(TREES[p]) if used in models] == []


def test_no_mixins_and_at_most_two_levels_of_inheritance() -> None:
    bases = {
        node.name: [ast.unparse(b).split(".")[-1] for b in node.bases]
        for p in MODULES
        for node in ast.walk(TREES[p])
        if isinstance(node, ast.ClassDef)
    }

    def depth(of: str) -> int:
        own = [b for b in bases.get(of, []) if b in bases and b != of]
        return 1 + max(map(depth, own)) if own else 0

    errors = {node.name for node in ast.walk(TREES[SOURCE / "errors.py"]) if isinstance(node, ast.ClassDef)}
    assert {c: depth(c) for c in bases if depth(c) > 2 and c not in errors} == {}
    assert [c for c in bases if c.endswith("Mixin")] == []


def tracked_text() -> Iterator[tuple[Path, str]]:
    """Yield the text files that belong to the project."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    for path in (ROOT / line for line in listed.stdout.splitlines()):
        if path.suffix not in {".png", ".npz", ".safetensors", ".h5ad", ".gz"} and path.is_file():
            yield path, path.read_text(errors="ignore")


def test_no_path_of_a_machine_is_in_the_tree() -> None:
    machine = re.compile(r"(?<![\w.~])/(?:home|root|work|opt|Users|mnt|srv)/\w" + "|" + "file:" + "//")
    found = [f"{name(p)}: {hit.group()}" for p, text in tracked_text() for hit in machine.finditer(text)]
    assert found == []


def test_every_public_function_has_a_docstring() -> None:
    found = [f"{name(p)}:{d}" for p in MODULES for d, f in functions(p) if is_public(d) and not ast.get_docstring(f)]
    assert [where for where in found if "<locals>" not in where] == []


def test_every_test_that_the_page_of_promises_names_exists() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert named
    absent = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / file).is_file() or (test and f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8"))
    ]
    targets = re.findall(r"`make ([a-z-]+)`", page)
    absent += [f"make {target}" for target in targets if f"\n{target}:" not in (ROOT / "Makefile").read_text()]
    assert absent == []


def test_an_upper_bound_of_a_dependency_says_which_release_breaks() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.scripts]")[0].splitlines()
    assert [line for line in lines if re.search(r'"[^"]*<\d', line) and "#" not in line] == []


def test_every_pinned_release_has_a_hash() -> None:
    pinned, hashed = (
        {line.split(" ")[0].lower().replace("_", "-") for line in path.read_text().splitlines() if "==" in line}
        for path in (ROOT / "constraints" / "dev.txt", ROOT / "constraints" / "hashes.txt")
    )
    absent = {line for line in pinned - hashed if not line.startswith(("torch", "triton", "nvidia", "cuda"))}
    assert absent == set()
    assert hashed <= pinned
