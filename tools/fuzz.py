"""Damage files in thousands of ways and see what celbo makes of each.

    python tools/fuzz.py [--kinds h5ad mtx ...] [--trials N] [--seed N] [--workers N] [--json FILE] [--keep DIR]

Each trial copies a good file, which the tool makes itself, damages the copy byte by byte or in its structure, and asks
celbo for it in a child process. What comes of it:

- error: a named error, exit 2, 3 or 4;
- same: what is read is what was in the good file;
- other: other values, which a format without a checksum cannot tell;
- BAD: exit 1, a traceback, a signal, more than 20 seconds of a processor or 60 in all, more than 2 GB, or a file that
  `check` passed and that then cannot be trained on.

A trial is a function of seed, kind and number: `--kinds mtx --first 17 --trials 1` runs one again. Exits with 1 if any
trial was BAD; its file is kept in --keep. Further kinds of file are further classes, see `Kind`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

MODULES = ("fuzz_counts", "fuzz_models")
"""Modules beside this one, each with `KINDS`, a list of kinds."""
MOST_SECONDS, MOST_BYTES, PATIENCE = 20.0, 2 << 30, 60.0
LEFTOVER = ("Traceback (most recent call last)", "This should not happen")
VERDICTS = ("error", "same", "other", "BAD")


class Kind(Protocol):
    """A kind of file or folder that is damaged."""

    name: str

    def make(self, folder: Path) -> Path:
        """Write a good one into an empty folder, and return it."""

    def change(self, path: Path, rng: random.Random) -> str:
        """Damage one in place, and return in a few words how."""

    def ask(self, path: Path) -> Answer:
        """Return what celbo makes of one. Runs in the child; what it raises and prints is judged."""


@dataclass(frozen=True)
class Answer:
    """What celbo made of a file."""

    code: int
    """Exit code of the command line, or that of the class of error."""
    digest: str = ""
    """Of all that was read; "" where nothing was."""
    said: str = ""
    wrong: str = ""
    """What is wrong with the answer itself: a check that passed what cannot be trained on."""


@dataclass(frozen=True)
class Trial:
    """One damaged file and what came of it."""

    kind: str
    number: int
    change: str
    verdict: str
    why: str
    said: str
    seconds: float
    peak_mib: float


# -- the child --------------------------------------------------------------------------------------------------------


def kinds() -> dict[str, Kind]:
    """Return all kinds by name."""
    return {kind.name: kind for module in MODULES for kind in importlib.import_module(module).KINDS}


def serve() -> None:
    """Answer one line of JSON with another until the input ends; both through the pipes that the parent holds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    known = kinds()
    limit_memory()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(answered(known[asked["kind"]], Path(asked["path"]))), file=answers, flush=True)


def limit_memory() -> None:
    """Let the child take little more than a trial may, so that the machine stays well."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * MOST_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answered(kind: Kind, path: Path) -> dict[str, Any]:
    """Ask for one file, and measure processor time and the peak of resident memory above what was there before."""
    printed = io.StringIO()
    before, start = reset_peak(), cpu_seconds()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            answer = kind.ask(path)
    except BaseException:
        answer = Answer(code=1, said=traceback.format_exc())
    told = asdict(answer)
    told["said"] = f"{printed.getvalue()[-2000:]}\n{told['said']}".strip()[-3000:]
    peak = max(0, peak_kib() - before) / 1024
    return {**told, "seconds": cpu_seconds() - start, "peak_mib": peak}


def cpu_seconds() -> float:
    """Return the processor time of this process and of those that it waited for: other work does not count."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def reset_peak() -> int:
    """Begin to measure the peak of resident memory, and return what is resident now (KiB)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_kib()


def peak_kib() -> int:
    """Return the peak of resident memory since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


# -- the parent -------------------------------------------------------------------------------------------------------


class Worker:
    """A child that answers many trials; another takes its place when it dies or takes too long."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, kind: str, path: Path, *, patience: float = PATIENCE) -> dict[str, Any]:
        """Return the answer for a file, or how the child ended."""
        process = self.process if self.process and self.process.poll() is None else self.start()
        assert process.stdin
        assert process.stdout
        start = time.perf_counter()
        process.stdin.write(json.dumps({"kind": kind, "path": str(path)}) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], patience)
        line = process.stdout.readline() if ready else ""
        if line:
            return dict(json.loads(line))
        if not ready:
            process.kill()
        code = process.wait()
        told = f"the process ended with {code}" if ready else "no answer"
        seconds = time.perf_counter() - start
        return {"code": code, "digest": "", "said": told, "wrong": "", "seconds": seconds, "peak_mib": 0}

    def start(self) -> subprocess.Popen[str]:
        """Start another child."""
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        )
        assert self.process.stdout
        self.process.stdout.readline()  # it has imported what it needs, which is no part of a trial
        return self.process

    def close(self) -> None:
        """End the child."""
        if self.process:
            assert self.process.stdin
            self.process.stdin.close()
            self.process.wait()


def judged(told: dict[str, Any], good: str, size: int) -> tuple[str, str]:
    """Return the verdict of an answer, and why it is BAD."""
    if told["code"] not in {0, 2, 3, 4} or any(text in told["said"] for text in LEFTOVER):
        return "BAD", f"exit {told['code']}"
    if told["wrong"]:
        return "BAD", told["wrong"]
    if told["seconds"] > MOST_SECONDS:
        return "BAD", f"{told['seconds']:.0f} s"
    if told["peak_mib"] * 2**20 > MOST_BYTES and size < 5_000_000:
        return "BAD", f"{told['peak_mib']:,.0f} MiB"
    if told["code"] != 0:
        return "error", ""
    return ("same" if told["digest"] == good else "other"), ""


def trials(kind: Kind, numbers: range, seed: int, worker: Worker, keep: Path | None) -> Iterator[Trial]:
    """Yield the trials of a kind."""
    with tempfile.TemporaryDirectory() as place:
        original = Path(place, "good")
        original.mkdir()
        name = kind.make(original).relative_to(original)
        good = worker.ask(kind.name, original / name, patience=10 * PATIENCE)
        if good["code"] != 0 or good["wrong"]:
            raise SystemExit(f"the good file of {kind.name} is refused: {good}")
        for number in numbers:
            copy = Path(place, "copy")
            shutil.copytree(original, copy, symlinks=True)
            rng = random.Random(f"{seed}/{kind.name}/{number}")
            change = kind.change(copy / name, rng)
            size = sum(path.lstat().st_size for path in copy.rglob("*"))
            told = worker.ask(kind.name, copy / name)
            verdict, why = judged(told, good["digest"], size)
            if verdict == "BAD" and keep:
                shutil.copytree(copy, keep / f"{kind.name}-{seed}-{number}", symlinks=True, dirs_exist_ok=True)
            said = told["said"] if verdict == "BAD" else told["said"][-300:]
            measured = round(told["seconds"], 3), round(told["peak_mib"], 1)
            yield Trial(kind.name, number, change, verdict, why, said, *measured)
            shutil.rmtree(copy)


def table(done: Sequence[Trial]) -> str:
    """Return one line a kind: how many trials, what came of them, and the worst second and megabyte."""
    head = f"{'kind':14} {'trials':>7} " + " ".join(f"{verdict:>7}" for verdict in VERDICTS) + "   most s  most MiB"
    lines = [head]
    for kind in [*dict.fromkeys(trial.kind for trial in done), "all"]:
        some = [trial for trial in done if kind in {trial.kind, "all"}]
        found = Counter(trial.verdict for trial in some)
        shown = " ".join(f"{found[verdict]:7,}" for verdict in VERDICTS)
        worst = max(trial.seconds for trial in some), max(trial.peak_mib for trial in some)
        lines.append(f"{kind:14} {len(some):7,} {shown} {worst[0]:8.1f} {worst[1]:9,.0f}")
    return "\n".join(lines)


def main() -> int:
    """Run the trials, print the table, and return 1 if any was BAD."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", help="kinds of file; all if left out")
    parser.add_argument("--trials", type=int, default=100, help="trials of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write all trials")
    parser.add_argument("--keep", type=Path, help="folder for the files of BAD trials")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
        return 0
    worker, done = Worker(), []
    numbers = range(given.first, given.first + given.trials)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):  # the table is of what was done until then
        known = kinds()
        for name in given.kinds or known:
            for trial in trials(known[name], numbers, given.seed, worker, given.keep):
                done.append(trial)
                if trial.verdict == "BAD":
                    print(f"{trial.kind} {trial.number}: {trial.change}: {trial.why}: {trial.said[-600:]}", flush=True)
    worker.close()
    print(table(done))
    if given.json:
        given.json.write_text(json.dumps([asdict(trial) for trial in done], indent=1))
    return int(any(trial.verdict == "BAD" for trial in done))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.modules["fuzz"] = sys.modules["__main__"]  # so that the kinds use the classes of this very module
    sys.exit(main())
