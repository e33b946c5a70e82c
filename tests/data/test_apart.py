"""A library that crashes on a file, or never ends, does so in a copy of the process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from count_files import write_h5ad

import celbo
from celbo.data import apart, hdf5
from celbo.errors import ReadError


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def never_end() -> None:
    while True:
        pass


def fail() -> None:
    raise ValueError("this is told later")


def test_ends_are_told() -> None:
    assert apart.end_of(crash, seconds=1) == "it ends with the signal SIGSEGV"
    assert apart.end_of(never_end, seconds=1) == "it does not end within 1 seconds"
    assert apart.end_of(fail, seconds=1) == ""
    assert apart.end_of(lambda: 1, seconds=1) == ""


def test_nothing_of_the_copy_stays(capfd: pytest.CaptureFixture[str]) -> None:
    here = []
    assert apart.end_of(lambda: (here.append(1), os.write(1, b"said")), seconds=1) == ""
    assert here == []
    assert capfd.readouterr() == ("", "")


def test_a_file_that_crashes_the_library_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_h5ad(tmp_path)
    monkeypatch.setattr(hdf5, "walk_hdf5", lambda _: crash())
    with pytest.raises(ReadError, match="cannot be read by the HDF5 library: it ends with the signal SIGSEGV"):
        celbo.read(path)
