"""Write or check the hashes of what the development environment is made of.

python tools/hashes.py constraints/hashes.txt            writes them
python tools/hashes.py constraints/hashes.txt --check    fails where the index gives other files

Each line of constraints/dev.txt gets the SHA-256 of the file that pip takes for this Python on this system, so that an
environment can be made from known files alone: pip install --require-hashes --no-deps -r constraints/hashes.txt. torch
and what it brings are left out: machines have builds of their own (+cpu). Nothing is installed.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

DEV = Path(__file__).resolve().parents[1] / "constraints" / "dev.txt"
OF_TORCH = ("torch", "triton", "nvidia", "cuda")
HEAD = (
    "# SHA-256 of the files of constraints/dev.txt for {where}, without torch; written by tools/hashes.py.\n"
    "# pip install --require-hashes --no-deps -r constraints/hashes.txt\n"
)


def where() -> str:
    """Return what the files are for."""
    return f"CPython {sys.version_info[0]}.{sys.version_info[1]} on {platform.system()} {platform.machine()}"


def pins() -> list[str]:
    """Return the lines of constraints/dev.txt but for torch and what it brings."""
    lines = [line.strip() for line in DEV.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", *OF_TORCH))]


def hashed(wanted: list[str]) -> list[str]:
    """Ask pip which file it takes for each line; return the line with the file's hash."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = ["install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", str(report)]
        subprocess.run([sys.executable, "-m", "pip", *command, *wanted], check=True)
        taken = json.loads(report.read_text(encoding="utf-8"))["install"]
    made = []
    for each in taken:
        info, digest = each["metadata"], each["download_info"]["archive_info"]["hashes"]["sha256"]
        made.append(f"{info['name']}=={info['version']} --hash=sha256:{digest}")
    return sorted(made, key=str.lower)


def main(out: str, *options: str) -> int:
    file = Path(out)
    head = HEAD.format(where=where())
    if "--check" not in options:
        file.write_text(head + "\n".join(hashed(pins())) + "\n", encoding="utf-8")
        return 0
    kept = file.read_text(encoding="utf-8")
    if not kept.startswith(head):
        print(f"{out} is not for {where()}: nothing to compare.")
        return 0
    changed = sorted(set(hashed(pins())) ^ set(kept.removeprefix(head).splitlines()))
    print("\n".join(changed) or "Every file is the one that is known.")
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
