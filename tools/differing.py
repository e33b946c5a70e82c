"""Print the packages of this environment whose versions are not those of a file of constraints.

python tools/differing.py constraints/dev.txt
"""

from __future__ import annotations

import sys
from importlib.metadata import distributions
from pathlib import Path


def plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def pinned(path: Path) -> dict[str, str]:
    """Return version by name."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {plain(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def differing(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return a line for each package that both have, in different versions (a local build such as +cpu is none)."""
    both = sorted(wanted.keys() & found.keys())
    return [
        f"{name} {wanted[name]} -> {found[name]}"
        for name in both
        if wanted[name] != found[name].split("+", maxsplit=1)[0]
    ]


def main() -> None:
    found = {plain(each.metadata["Name"]): each.version for each in distributions()}
    print(f"Python {sys.version.split()[0]}")
    print("\n".join(differing(pinned(Path(sys.argv[1])), found)) or "All versions are those of the file.")


if __name__ == "__main__":
    main()
