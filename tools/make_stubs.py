"""Write `src/celbo/__init__.pyi`: what editors and mypy are told of the lazy package and of the models' constructors.

The constructors take the data keys and the fields of a configuration as keywords; their signatures are made from those
dataclasses at run time, and here for tools that do not run code. `python tools/make_stubs.py --check` fails where the
file is out of date.
"""

from __future__ import annotations

import re
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import celbo
from celbo.data.schema import DataKeys

STUB = Path(__file__).resolve().parents[1] / "src" / "celbo" / "__init__.pyi"
ALIASES = {"Activation": "celbo.nn.mlp", "TransformName": "celbo.nn.transforms"}
"""Names of types that configurations share, and their modules; others are of the configuration's own module."""
HEADER = '''"""Made by tools/make_stubs.py; do not edit."""

from typing import Literal

from anndata import AnnData

'''


def keywords(source: type[Any]) -> list[str]:
    """Return `name: type = default` for each field of a dataclass."""
    return [f"{f.name}: {f.type} = {f.default!r}".replace("'", '"') for f in fields(source) if f.default is not MISSING]


def constructor(name: str, config: type[Any]) -> str:
    """Return the stub of a model's class."""
    arguments = [f"config: {config.__name__} | None = None", *keywords(DataKeys), *keywords(config), "seed: int = 0"]
    lines = ",\n        ".join(["self", "adata: AnnData", "*", *arguments])
    return f"class {name}(_{name}):\n    def __init__(\n        {lines},\n    ) -> None: ...\n"


def aliases_of(config: type[Any]) -> dict[str, str]:
    """Return the names of types that the fields of a configuration use, and the module of each."""
    types = [re.sub(r'"[^"]*"', "", str(f.type)) for f in fields(config)]
    words = {word for text in types for word in re.findall(r"\b[A-Z]\w+", text)}
    own = sys.modules[config.__module__]
    return {w: ALIASES.get(w, own.__name__) for w in sorted(words - {"Literal", "None", "ClassVar"}) if hasattr(own, w)}


def stub() -> str:
    """Return the whole stub file."""
    imports, aliases, classes = [], [], []
    for name, module in sorted(celbo._WHERE.items()):
        value = getattr(celbo, name)
        if name in celbo._MODULES:
            parent, _, child = module.rpartition(".")
            imports.append(f"from {parent} import {child} as {name}")
        elif hasattr(value, "config_class"):
            imports.append(f"from {module} import {name} as _{name}")
            classes.append(constructor(name, value.config_class))
            aliases.extend(f"from {where} import {alias}" for alias, where in aliases_of(value.config_class).items())
        else:
            imports.append(f"from {module} import {name} as {name}")
    body = "\n".join([*sorted({*imports, *aliases}), "", "__version__: str", "", *classes])
    return HEADER + body


def main() -> int:
    """Write the stub, or with --check compare it."""
    text = stub()
    if "--check" in sys.argv:
        if STUB.exists() and STUB.read_text() == text:
            return 0
        sys.stderr.write("src/celbo/__init__.pyi is out of date: run python tools/make_stubs.py\n")
        return 1
    STUB.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
