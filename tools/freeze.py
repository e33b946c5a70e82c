"""Write the exact versions installed in an environment as a constraints file: freeze.py PYTHON OUT."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAD = "# Exact versions of {what}; written by tools/freeze.py. A local build (+cpu) satisfies the plain version.\n"


def main(python: str, out: str) -> None:
    frozen = subprocess.run(
        [python, "-m", "pip", "freeze", "--exclude-editable"], capture_output=True, text=True, check=True
    )
    pins = [line.split("+")[0] for line in frozen.stdout.splitlines() if "==" in line and not line.startswith("celbo")]
    what = "the environment of the peers" if "peer" in out else "the development environment"
    Path(out).write_text(HEAD.format(what=what) + "\n".join(sorted(pins, key=str.lower)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
