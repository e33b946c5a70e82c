"""Read-only installations: a user without a home, who may write nowhere but to `--out`, gets the whole run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import celbo
from celbo import caches

SEAL = """
mount --bind "$0" "$0" || exit 9
for place in / /tmp /var/tmp /dev/shm /home "$(dirname "$0")"; do
    if mountpoint -q "$place"; then mount -o remount,ro,bind "$place" || exit 9; fi
done
exec "$@"
"""
MAIN = "import sys; from celbo.cli.app import main; sys.exit(main())"
PLACES = ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Take every place away but `tmp_path / "free"`; what the process had is put back."""
    for name in PLACES:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", "/dev/null")
    free = tmp_path / "free"
    free.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).is_relative_to(free))
    monkeypatch.setattr(caches.atexit, "register", lambda *_: None)
    return free


def test_where_all_can_be_written_nothing_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in PLACES:
        monkeypatch.setenv(name, str(tmp_path / name))
    assert caches.provide() is None
    assert [os.environ[name] for name in PLACES] == [str(tmp_path / name) for name in PLACES]
    assert list(tmp_path.iterdir()) == []


def test_without_a_home_a_temporary_folder_is_made(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(no_home))
    folder = caches.provide()
    assert folder is not None and folder.parent == no_home and folder.name.startswith(caches.PREFIX)
    assert Path(os.environ["NUMBA_CACHE_DIR"]).parent == Path(os.environ["MPLCONFIGDIR"]).parent == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert caches.provide() is None  # these can be written


def test_what_the_user_has_set_wins(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(no_home))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(no_home / "mine"))
    folder = caches.provide()
    assert os.environ["NUMBA_CACHE_DIR"] == str(no_home / "mine")
    assert os.environ["MPLCONFIGDIR"].startswith(str(folder))


@pytest.mark.parametrize("exists", [True, False])
def test_the_last_resort_is_the_folder_to_write_to(
    no_home: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])
    monkeypatch.setenv("TMPDIR", "")
    assert caches.provide() is None
    out = no_home / "out"
    if exists:
        out.mkdir()
    folder = caches.provide(out / "run")
    assert folder is not None and folder.parent == (out if exists else no_home)


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["run", "a.h5ad", "--out", "x"], "x"),
        (["run", "--out=x y", "a.h5ad"], "x y"),
        (["run", "--out"], None),
        (["check", "a.h5ad"], None),
    ],
)
def test_the_folder_to_write_to_is_found_in_the_arguments(words: list[str], folder: str | None) -> None:
    assert caches.asked_folder(words) == folder


def sealed(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program without a home where every file system is read-only but for one folder."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(celbo.__file__).parents[1]), "NUMBA_NUM_THREADS": "1"}
    rights = "-m" if os.geteuid() == 0 else "-rm"
    command = ["unshare", rights, "sh", "-c", SEAL, str(out), *words]
    return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, check=False)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return the one folder that can be written."""
    if shutil.which("unshare") is None:
        pytest.skip("needs Linux's unshare")
    made = tmp_path / "out"
    made.mkdir()
    script = f"touch {made}/mine && ! touch {tmp_path}/other && ! touch /tmp/other"
    if sealed(made, "sh", "-c", script).returncode:
        pytest.skip("this user may not make a file system read-only for a process")
    (made / "mine").unlink()
    return made


@pytest.mark.slow  # all is compiled anew
def test_a_user_who_may_write_only_to_out_gets_the_whole_run(out: Path) -> None:
    done = sealed(out, sys.executable, "-c", MAIN, "demo", "--out", str(out), "--max-epochs", "1")
    assert done.returncode == 0, done.stderr
    assert not any(word in done.stderr for word in ("Traceback", "Matplotlib", "MPLCONFIGDIR", "cache"))
    assert {"report.html", "result.h5ad", "model", "tables"} <= {path.name for path in out.iterdir()}
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_compiled_code_works_where_nothing_can_be_written(out: Path) -> None:
    code = (
        "import numpy as np; from celbo.kernels.gather import first_outside; print(first_outside(np.array([0, 7]), 3))"
    )
    done = sealed(out, sys.executable, "-c", code)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
