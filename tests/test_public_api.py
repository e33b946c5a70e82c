"""What `import celbo` promises."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import celbo

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "scanpy", "anndata", "pandas", "numba", "matplotlib", "sklearn")
PUBLIC = [name for name in celbo.__all__ if name != "__version__"]


def loaded_by(statement: str) -> set[str]:
    """Return the heavy packages that a statement imports, in a Python of its own."""
    code = f"{statement}\nimport sys\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_celbo_imports_nothing_heavy() -> None:
    assert loaded_by("import celbo") == set()


def test_listing_celbo_imports_nothing_heavy() -> None:
    assert loaded_by("import celbo; dir(celbo)") == set()


@pytest.mark.parametrize("module", ["celbo.cli.app", "celbo.data.read", "celbo.data.check", "celbo.data.genes"])
def test_module_does_not_import_torch(module: str) -> None:
    if "torch" in loaded_by("import anndata"):
        pytest.skip("this anndata imports torch itself: 0.11 does")
    assert "torch" not in loaded_by(f"import {module}")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(celbo, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SCVL'"):
        celbo.SCVL  # noqa: B018


def test_the_version_is_the_one_of_the_package() -> None:
    assert f'version = "{celbo.__version__}"' in (ROOT / "pyproject.toml").read_text()


def public_callables() -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield the public functions and classes, and the public methods of the public classes."""
    for name in PUBLIC:
        value = getattr(celbo, name)
        if callable(value):
            yield name, value
        if inspect.isclass(value):
            yield from (
                (f"{name}.{m}", f) for m, f in inspect.getmembers(value, inspect.isroutine) if not m.startswith("_")
            )


def parameters_of(function: Callable[..., object]) -> list[inspect.Parameter]:
    """Return the parameters that a caller gives."""
    return [p for p in inspect.signature(function).parameters.values() if p.name not in {"self", "cls"}]


def test_no_public_signature_takes_var_keywords() -> None:
    assert [n for n, f in public_callables() if any(p.kind is p.VAR_KEYWORD for p in parameters_of(f))] == []


def test_only_the_first_argument_is_given_by_position() -> None:
    positional = {
        n: [p.name for p in parameters_of(f) if p.kind is p.POSITIONAL_OR_KEYWORD] for n, f in public_callables()
    }
    assert {n: names for n, names in positional.items() if len(names) > 1} == {"load": ["path", "adata"]}


def test_the_readme_names_only_what_exists() -> None:
    named = set(re.findall(r"celbo\.([A-Za-z_]+)", (ROOT / "README.md").read_text()))
    assert {n for n in named if not hasattr(celbo, n)} <= {"ipynb", "toml"}
