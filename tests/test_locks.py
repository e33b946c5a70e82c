"""One folder, one process: who is alive keeps a folder, who is dead does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from celbo import locks
from celbo.errors import WriteError
from celbo.locks import LOCK, Holder, alone, refuse_held

HOLD = """
import sys, time
from celbo.locks import alone
with alone(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Give a process that holds the lock of the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def write(folder: Path, holder: Holder) -> None:
    (folder / LOCK).write_text(json.dumps(asdict(holder)))


def test_a_lock_is_there_while_the_block_runs(tmp_path: Path) -> None:
    with alone(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_a_living_process_holds_is_refused(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    with pytest.raises(WriteError, match=rf"is being written to: by process {other.pid} on this machine"):
        refuse_held(tmp_path)
    with pytest.raises(WriteError, match="Wait for it to end"), alone(tmp_path):
        pass
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == other.pid


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now, which is dead
    with alone(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    other.wait()


def test_a_process_id_that_came_again_is_another_process(tmp_path: Path) -> None:
    write(tmp_path, replace(Holder.here(), started="1"))
    refuse_held(tmp_path)
    with alone(tmp_path):
        pass


def test_a_lock_from_before_the_machine_was_started_is_dead(tmp_path: Path) -> None:
    write(tmp_path, replace(Holder.here(), boot="another"))
    with alone(tmp_path):
        pass


@pytest.mark.parametrize("elsewhere", [{"host": "node7"}, {"namespace": "pid:[1]"}], ids=["machine", "container"])
def test_a_lock_of_another_machine_is_told_with_how_to_remove_it(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    write(tmp_path, replace(Holder.here(), **elsewhere))
    with pytest.raises(WriteError, match=r"another machine or container.*remove '.*\.celbo-lock' and try again"):
        refuse_held(tmp_path)
    with pytest.raises(WriteError, match="no longer runs there"), alone(tmp_path):
        pass


def test_the_same_process_holds_a_folder_once(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(WriteError, match="this very process"), alone(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": 1}', "[" * 5000, '{"pid": true}'])
def test_a_lock_that_says_nothing_is_no_lock(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    with alone(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_many_threads_at_once_hold_it_one_after_another(tmp_path: Path) -> None:
    inside, most, refused = 0, 0, 0
    write(tmp_path, replace(Holder.here(), started="1"))  # a dead one, that all want to take over

    def enter() -> None:
        nonlocal inside, most, refused
        try:
            with alone(tmp_path):
                inside += 1
                most = max(most, inside)
                inside -= 1
        except WriteError:
            refused += 1

    threads = [threading.Thread(target=enter) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and refused < 16


def test_a_file_system_without_links_has_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(locks.errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with alone(tmp_path), pytest.raises(WriteError), alone(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="does not exist"), alone(tmp_path / "none"):
        pass
