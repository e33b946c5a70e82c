"""What editors are told of the constructors is what the constructors take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_stub_file_is_up_to_date():
    script = Path(__file__).resolve().parents[2] / "tools" / "make_stubs.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
