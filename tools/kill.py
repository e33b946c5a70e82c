"""Kill celbo at random moments, go on, and look whether anything is lost.

    python tools/kill.py --times 100 --seed 0 [--commands train run compare de] [--folder DIR]

Each trial starts a command as a fork of this process, which has imported everything and computed nothing, and ends it
by SIGKILL or SIGTERM at a random moment (one trial in four also kills what goes on); then it goes on by --resume or
begins anew by --force. Half of the trials begin with --force on a finished run of other options that has files of the
user. What must hold: what was there is whole until the new one is; what the user put there stays; what goes on succeeds
and ends at the bits of a command that was left alone; nothing else is left in the folder. One line of JSON a trial; the
exit code is 1 if anything did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import pandas as pd

import celbo
from celbo.cli.app import main as celbo_main
from celbo.files import is_temporary

ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
TIMING = {"seconds", "cells_per_second", "memory"}
MINE = {"notes.txt": "mine", "tables/mine.csv": "mine, too", "model/why.md": "mine as well"}
SLOWEST = 240.0


@dataclass(frozen=True)
class Command:
    """A command that is killed."""

    name: str
    options: tuple[str, ...]
    is_folder: bool = True
    """Whether it writes a folder, with --resume and --force."""

    def argv(self, data: Path, out: Path, *more: str, seed: int = 0) -> list[str]:
        """Return its arguments."""
        if not self.is_folder:
            model = data.with_name("model")
            report = out / "de.html"
            return ["de", str(model), str(data), "--out", str(out / "de.csv"), "--report", str(report), *self.options]
        return [self.name, str(data), "--out", str(out), "--quiet", "--seed", str(seed), *self.options, *more]


COMMANDS = {
    command.name: command
    for command in (
        Command("train", ("--max-epochs", "6", "--n-hidden", "32", "--checkpoint-every", "1", "--n-top-genes", "0")),
        Command("run", ("--max-epochs", "3", "--n-hidden", "32", "--checkpoint-every", "1", "--n-top-genes", "0")),
        Command("compare", ("--methods", "pca", "factor_analysis", "--no-repeats", "--n-top-genes", "0")),
        Command("de", ("--groupby", "cell_type", "--quiet"), is_folder=False),
    )
}


def start(argv: list[str], log: Path) -> int:
    """Fork a command and return its process."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        with log.open("ab") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        code = celbo_main(argv)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def ended(process: int, within: float) -> int | None:
    """Return the exit code of a process, minus the signal that killed it; None where it goes on after that time."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def left_alone(argv: list[str], log: Path) -> int:
    """Run a command to its end."""
    process = start(argv, log)
    code = ended(process, SLOWEST)
    if code is None:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return -99
    return code


def struck(argv: list[str], log: Path, number: int, after: float) -> int | None:
    """Run a command, send it a signal after so many seconds, and return how it ended; None where it would not."""
    process = start(argv, log)
    code = ended(process, after)
    if code is not None:
        return code
    os.kill(process, number)
    code = ended(process, 60)
    if code is None:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return code


def files(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def digest(folder: Path) -> dict[str, str]:
    """Return a digest of what must be the same in two runs: weights, split and tables without what they took."""
    found = {}
    for name, content in files(folder).items():
        if name in MINE or name.startswith("."):
            continue
        if name.endswith(".safetensors"):
            found[name] = hashlib.sha256(content).hexdigest()
        elif name.endswith(".csv"):
            table = pd.read_csv(folder / name)
            if name == "tables/metrics.csv":
                table = table[~table[table.columns[0]].astype(str).str.contains("second|memory")]
            table = table.drop(columns=[column for column in table if column in TIMING])
            found[name] = hashlib.sha256(table.to_csv().encode()).hexdigest()
    return found


class Trials:
    """Commands that are killed, and what they must come to."""

    def __init__(self, folder: Path, rng: random.Random, names: list[str]) -> None:
        self.folder, self.rng, self.names = folder, rng, names
        self.data, self.log = folder / "cells.h5ad", folder / "log"
        made = celbo.datasets.simulate(n_cells=160, n_genes=60, n_batches=2, n_cell_types=3, seed=0)
        obs = made.obs[["batch", "cell_type"]].copy()
        anndata.AnnData(made.X, obs=obs, var=pd.DataFrame(index=made.var_names)).write_h5ad(self.data)
        self.whole: dict[str, dict[str, str]] = {}
        self.names_left: dict[str, set[str]] = {}
        self.seconds: dict[str, float] = {}
        for name in dict.fromkeys(["train", *names]):
            self.alone(COMMANDS[name])

    def alone(self, command: Command) -> None:
        """Run a command twice by itself: once to compile what is compiled once, once to be timed; and an older run."""
        for out, seed in (("old", 1), ("whole", 0)):
            place = self.folder / f"{command.name}.{out}"
            place.mkdir()
            began = time.monotonic()
            code = left_alone(command.argv(self.data, place, seed=seed), self.log)
            assert code == 0, f"{command.name} alone: {code}\n{self.log.read_text()[-3000:]}"
            self.seconds[command.name] = time.monotonic() - began
        self.whole[command.name] = digest(place)
        self.names_left[command.name] = set(files(place))
        if command.name == "train":
            shutil.copytree(place / "model", self.folder / "model")

    def trial(self, number: int) -> dict[str, Any]:
        """Kill one command, go on, and return what did not hold."""
        command = COMMANDS[self.names[number % len(self.names)]]
        out = self.folder / f"trial{number}"
        over = self.rng.random() < 0.5
        old = self.begin(command, out, over)
        force = ["--force"] if over and command.is_folder else []
        kind = self.rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        after = self.rng.uniform(0, 1.05 * self.seconds[command.name])
        code = struck(command.argv(self.data, out, *force), self.log, kind, after)
        said = {"trial": number, "command": command.name, "signal": kind.name, "after": round(after, 3), "code": code}
        bad = [] if code in {0, -9, 143, -15} else [f"it ended with {code}"]
        if over:
            bad += self.lost(command, out, old)
        again = 0
        while self.rng.random() < 0.25 and command.is_folder:  # what goes on is killed, too
            again += 1
            more = self.more(out, "--resume")
            struck(command.argv(self.data, out, *more), self.log, signal.SIGKILL, self.rng.uniform(0, after + 0.1))
            if over:
                bad += self.lost(command, out, old)
        how = self.rng.choice(["--resume", "--resume", "--force"])
        code = left_alone(command.argv(self.data, out, *self.more(out, how, over)), self.log)
        bad += [] if code == 0 else [f"{how} ended with {code}"]
        if code == 0:
            bad += self.differs(command, out, over)
        if not bad:
            shutil.rmtree(out)
        return {**said, "over": over, "again": again, "how": how, "bad": bad}

    def begin(self, command: Command, out: Path, over: bool) -> dict[str, bytes]:
        """Make the folder that a command finds: none, or that of an older run with files of the user in it."""
        if not over:
            if not command.is_folder:
                out.mkdir()
            return {}
        shutil.copytree(self.folder / f"{command.name}.old", out)
        for name, text in MINE.items():
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text(text)
        return files(out)

    @staticmethod
    def more(out: Path, how: str, over: bool = False) -> list[str]:
        """Return the flag to go on with; an older run alone in the folder cannot be resumed with other options."""
        begun = (out / ".celbo-new").exists() or any((out / name).is_dir() for name in (".celbo-done", ".celbo-in"))
        if how == "--resume" and over and not begun:
            return ["--force"]
        return [how]

    def lost(self, command: Command, out: Path, old: dict[str, bytes]) -> list[str]:
        """Return what is neither as it was nor of a run that was finished."""
        now = files(out)
        bad = [f"{name} of the user is lost" for name in MINE if now.get(name, b"").decode() != MINE[name]]
        if any((out / name).exists() for name in (".celbo-done", ".celbo-in", ".celbo-old")):
            return []  # in the middle of an exchange, which the next command finishes
        changed = [name for name, content in old.items() if now.get(name) != content]
        finished = not changed or (command.is_folder and digest(out) == self.whole[command.name])
        if command.is_folder and not finished:
            bad.append(f"changed: {changed}")
        return bad

    def differs(self, command: Command, out: Path, over: bool) -> list[str]:
        """Return what is not as a command that was left alone would have left it."""
        found, whole = digest(out), self.whole[command.name]
        bad = [
            f"other bits: {name}" for name in sorted(found.keys() | whole.keys()) if found.get(name) != whole.get(name)
        ]
        expected = self.names_left[command.name] | (set(MINE) if over else set())
        left = sorted(set(files(out)) ^ expected)
        if not command.is_folder:  # a file alone has no lock that would tell whose a temporary one is
            left = [name for name in left if not is_temporary(Path(name).name)]
        return bad + [f"left or missing: {name}" for name in left]


def main() -> int:
    """Run the trials and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    os.environ.update(ONE_THREAD)
    warm(asked.commands)
    folder = Path(tempfile.mkdtemp(prefix="celbo-kill-")) if asked.folder is None else asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    trials = Trials(folder, random.Random(asked.seed), asked.commands)
    print(json.dumps({"seconds alone": trials.seconds, "folder": str(folder)}), flush=True)
    n_bad = n_struck = 0
    for number in range(asked.times):
        said = trials.trial(number)
        n_bad += bool(said["bad"])
        n_struck += said["code"] != 0
        print(json.dumps(said), flush=True)
    print(json.dumps({"trials": asked.times, "struck": n_struck, "bad": n_bad}), flush=True)
    if not n_bad and asked.folder is None:
        shutil.rmtree(folder)
    return int(n_bad > 0)


def warm(names: list[str]) -> None:
    """Import what the commands import, so that a fork begins at once."""
    import celbo.kernels.cpu
    import celbo.models.scvi
    import celbo.pipeline.ask
    import celbo.pipeline.de
    import celbo.report.differential

    if {"run", "compare"} & set(names):
        import pynndescent  # noqa: F401
        import scanpy  # noqa: F401
        import umap  # noqa: F401

        import celbo.pipeline.compare  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
