"""Write `src/celbo/cli/models.py`: the options of every model, for a command line that answers without torch.

A model's configuration stands in the model's file, which imports torch; `celbo run --help` needs names, defaults and
help lines alone. `python tools/make_options.py --check` fails where the copy is out of date.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from celbo.cli.brief import help_lines
from celbo.models.store import class_names, model_class
from celbo.pipeline.config import default_plan_changes

TARGET = Path(__file__).resolve().parents[1] / "src" / "celbo" / "cli" / "models.py"
HEADER = '''"""The options of every model without what needs torch. Made by tools/make_options.py; do not edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

__all__ = ["OPTIONS", "PLANS"]
'''


def type_text(hint: Any) -> str:
    """Return a type as it is written in an annotation."""
    if get_origin(hint) is not None and get_args(hint):
        return repr(hint).replace("typing.", "")
    return hint.__name__ if isinstance(hint, type) else repr(hint)


def options_class(name: str) -> str:
    """Return the source of the options of one model."""
    kind = model_class(name).config_class
    hints, helps, defaults = get_type_hints(kind), help_lines(kind), kind()
    rows = [f'    options_of: ClassVar[str] = "{name.lower()}"']
    for item in fields(kind):
        rows.append(f"    {item.name}: {type_text(hints[item.name])} = {getattr(defaults, item.name)!r}")
        rows += textwrap.wrap(f'"""{helps[item.name]}"""', 116, initial_indent="    ", subsequent_indent="    ")
    body = "\n".join(rows)
    return f'@dataclass(frozen=True, kw_only=True)\nclass {name}Options:\n    """Options of {name}."""\n\n{body}\n'


def source() -> str:
    """Return the whole file, formatted."""
    names = sorted(class_names(), key=str.lower)
    table = "".join(f'    "{name.lower()}": {name}Options,\n' for name in names)
    plans = "".join(f'    "{name.lower()}": {default_plan_changes(name.lower())!r},\n' for name in names)
    tail = (
        f"OPTIONS: dict[str, type[Any]] = {{\n{table}}}\n"
        '"""By the model\'s name on the command line."""\n'
        f"PLANS: dict[str, dict[str, Any]] = {{\n{plans}}}\n"
        '"""In what the default plan of a model differs from that of celbo."""\n'
    )
    text = "\n\n".join([HEADER, *map(options_class, names), tail])
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["format", "--quiet"], ["check", "--fix", "--quiet"]):
        words = [*ruff, *command, "--stdin-filename", str(TARGET), "-"]
        text = subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> int:
    """Write the file, or with --check compare it."""
    text = source()
    if "--check" in sys.argv:
        if TARGET.exists() and TARGET.read_text() == text:
            return 0
        sys.stderr.write("src/celbo/cli/models.py is out of date: run python tools/make_options.py\n")
        return 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
