"""Print constraints for the oldest release of each dependency that pyproject.toml allows: python tools/oldest.py TORCH.

A bound such as "numpy>=1.26" becomes "numpy==1.26.*": its last fix counts as the same release. TORCH is the line for
torch, which is pinned everywhere: another build of it is gigabytes, and a machine often has a local one.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def oldest(requirements: Iterable[str]) -> list[str]:
    """Return a constraint for each requirement that has a lower bound."""
    found = []
    for requirement in requirements:
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*])?[^;]*?>=\s*([0-9.]+)", requirement)
        if match is not None:
            release = match[2] if "." in match[2] else f"{match[2]}.0"
            found.append(f"{match[1]}=={release}.*")
    return found


def requirements() -> list[str]:
    """Return what `pip install celbo[all]` asks for."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(one for name in ("zarr", "mudata", "loom", "embed") for one in extras[name])]


def main(torch: str) -> None:
    lines = [line for line in oldest(requirements()) if not line.startswith("torch==")]
    print("\n".join([*lines, torch]))


if __name__ == "__main__":
    main(*sys.argv[1:])
