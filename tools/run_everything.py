"""Run the main job on every file of some folders and on simulated cells, and print a table of what came out.

    python tools/run_everything.py FOLDER... [--simulated 9000 50000] [--out DIR] [--json FILE] [-- OPTIONS OF run]

One row an input: exit code, wall seconds, peak memory, and what was said at the end. Exits with 1 if any run printed a
traceback or "This should not happen".
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py

import celbo

ENDINGS = (".h5ad", ".h5mu", ".h5", ".loom", ".csv", ".tsv", ".csv.gz", ".tsv.gz")
LEFTOVER = ("Traceback (most recent call last)", "This should not happen")


@dataclass(frozen=True)
class Row:
    """What became of one run."""

    name: str
    code: int
    seconds: float
    peak_mib: float
    report: bool
    said: str
    clean: bool


def inputs(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield a name and the paths of each input: single files, folders with a matrix, files of one name far below."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.endswith(ENDINGS):
            yield path.name, [path]
        elif path.is_dir():
            own = sorted(child for child in path.iterdir() if child.is_file())
            single = [child for child in own if child.name.endswith(ENDINGS) and "features" not in child.name]
            single = [child for child in single if "barcodes" not in child.name]
            if any(".mtx" in child.name for child in own) or len({c.name for c in single if c.suffix == ".h5"}) > 1:
                yield f"{path.name}/", [path]
            for child in single:
                yield f"{path.name}/{child.name}", [child]
            deep = sorted(path.rglob("*/*/*.h5"))
            if not own and deep:
                yield f"{path.name}: {len(deep)} files", deep


def keys_of(path: Path) -> list[str]:
    """Return the options for the columns `batch` and `cell_type`, where a file of AnnData has them."""
    if path.suffix != ".h5ad":
        return []
    with h5py.File(path) as file:
        obs = file.get("obs")
        names = set(obs) if isinstance(obs, h5py.Group) else set()
    wanted = (("--batch-key", ("batch",)), ("--labels-key", ("cell_type", "leiden")))
    found = [(flag, [column for column in columns if column in names]) for flag, columns in wanted]
    return [word for flag, columns in found if columns for word in (flag, columns[0])]


def run(name: str, paths: list[Path], out: Path, options: list[str]) -> Row:
    """Run `celbo run` in a process of its own."""
    keys = keys_of(paths[0]) if len(paths) == 1 else ["--batch-key", "batch"]
    argv = [sys.executable, "-c", "import sys; from celbo.cli.app import main; sys.exit(main())", "run"]
    argv += [*map(str, paths), *keys, "--out", str(out), "--force", *options]
    start = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        text = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    lines = [line for line in text.strip().splitlines() if line.strip()]
    said = "; ".join(" ".join(line.split()) for line in (lines[-5:] if process.returncode == 0 else lines[-1:]))
    report = (out / "report.html").exists()
    clean = not any(mark in text for mark in LEFTOVER)
    return Row(name, process.returncode, seconds, usage.ru_maxrss / 1024, report, said, clean)


def simulated(n_cells: int, folder: Path) -> Path:
    """Write simulated cells in three batches to a file."""
    path = folder / f"simulated_{n_cells}.h5ad"
    if not path.exists():
        cells = celbo.datasets.simulate(n_cells=n_cells, n_genes=2000, n_batches=3, n_cell_types=8, seed=0)
        cells.uns.clear()
        cells.layers.clear()
        cells.write_h5ad(path)
    return path


def main() -> int:
    """Run everything and print the table."""
    words = sys.argv[1:]
    own, options = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--simulated", nargs="*", type=int, default=[])
    parser.add_argument("--out", type=Path, default=Path("out/everything"))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(own)
    asked.out.mkdir(parents=True, exist_ok=True)
    jobs = [job for folder in asked.folders for job in inputs(folder)]
    jobs += [(f"simulated, {n:,} cells", [simulated(n, asked.out)]) for n in asked.simulated]
    rows = []
    for at, (name, paths) in enumerate(jobs):
        row = run(name, paths, asked.out / f"run_{at}", options)
        rows.append(row)
        mark = "" if row.clean else "  TRACEBACK"
        print(
            f"{row.name:<55} {row.code:>3} {row.seconds:6.0f} s {row.peak_mib:6.0f} MiB  {row.said[:150]}{mark}",
            flush=True,
        )
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(f"{len(rows)} runs, {sum(row.code == 0 for row in rows)} done, {sum(not row.clean for row in rows)} unclean")
    return int(not all(row.clean for row in rows))


if __name__ == "__main__":
    sys.exit(main())
