"""What every measurement notes beside its numbers: the machine, the versions, and who else was computing."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ENVIRONMENT = dict(os.environ)
"""As the user gave it, before celbo chose how OpenMP's threads wait: what workers, above all the peer, begin with."""

import celbo  # noqa: E402 (before torch, as it asks to be)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SCRATCH = ROOT / "out" / "benchmarks"
PEER = ROOT / ".venv-peer" / "bin" / "python"

_QUIET = 1.5
"""Load of one minute below which a measurement may begin."""


def cpu_name() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if named:
            return named.group(1).strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Return the vector extensions that matter here."""
    info = Path("/proc/cpuinfo")
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return [flag for flag in known if info.exists() and re.search(rf"\b{flag}\b", info.read_text())]


def commit() -> str:
    """Return the commit that is measured, with a + where files differ from it."""
    try:
        ask = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        head = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
        ask = ["git", "-C", str(ROOT), "status", "--porcelain", "--", "src"]
        return head + ("+" if subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def about(n_threads: int) -> dict[str, Any]:
    """Return the machine and our versions; no name of the host, no path."""
    import torch

    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "vector_extensions": cpu_flags(),
        "threads": n_threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "celbo": celbo.__version__,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }


def wait_until_quiet(seconds: float) -> dict[str, float]:
    """Wait until the machine has little else to do, at most so long; return the load then and the seconds waited."""
    began = time.monotonic()
    while os.getloadavg()[0] >= _QUIET and time.monotonic() - began < seconds:
        time.sleep(5)
    return {"load_before": round(os.getloadavg()[0], 2), "seconds_waited": round(time.monotonic() - began, 1)}


class Others:
    """The cores that processes other than the given ones keep busy, between two looks (Linux; else NaN)."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = list(pids)
        self._at = self._look()

    def cores(self) -> float:
        """Return the cores that others used since the last look."""
        before, self._at = self._at, self._look()
        wall = self._at[0] - before[0]
        busy, own = self._at[1] - before[1], self._at[2] - before[2]
        return round(max(0.0, busy - own) / wall, 2) if wall > 0 else float("nan")

    def _look(self) -> tuple[float, float, float]:
        try:
            tick = os.sysconf("SC_CLK_TCK")
            fields = [int(v) for v in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
            busy = (sum(fields[:8]) - fields[3] - fields[4]) / tick  # without idle and waiting for disks
            own = 0.0
            for pid in self._pids:
                after_name = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                own += (int(after_name[11]) + int(after_name[12])) / tick
            return time.monotonic(), busy, own
        except (OSError, ValueError):
            return time.monotonic(), float("nan"), 0.0


def write_json(path: Path, result: object) -> None:
    """Write a result as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(result, indent=1) + "\n")
    beside.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return a result written before; empty where there is none."""
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def significant(value: float, digits: int = 4) -> float:
    """Return a number with so many digits, for JSON that people read."""
    return float(f"{value:.{digits}g}")


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean."""
    return statistics.geometric_mean(values)
