"""Atomic writes: whole or not at all, and the old content stays when something fails."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from celbo import files
from celbo.errors import WriteError
from celbo.files import (
    atomic_bytes,
    atomic_folder,
    atomic_json,
    atomic_text,
    atomic_write,
    remove_folder,
    remove_temporary,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def fail_with(code: int):
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_file_is_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    atomic_text(tmp_path / "a.txt", "µ\n")
    assert (tmp_path / "a.txt").read_bytes() == "µ\n".encode()
    assert names(tmp_path) == ["a.txt"]


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    atomic_bytes(tmp_path / "a", b"old")
    atomic_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_the_temporary_name_is_hidden_in_the_same_folder_with_the_same_ending(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "table.parquet") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".") and temporary.suffix == ".parquet"
        temporary.touch()


def test_an_error_in_the_block_keeps_the_old_file(tmp_path: Path) -> None:
    atomic_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EDQUOT, "quota"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_is_a_write_error_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str, call: str
) -> None:
    atomic_text(tmp_path / "a", "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail_with(code))
        with pytest.raises(WriteError, match=reason):
            atomic_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_a_write_error_names_the_file_and_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere/a' cannot be written: the folder does not exist"):
        atomic_text(tmp_path / "nowhere" / "a", "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_write_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(WriteError, match="permission denied"):
            atomic_text(tmp_path / "a", "x")
        with pytest.raises(WriteError, match="permission denied"), atomic_folder(tmp_path / "b"):
            pass
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_is_really_full_is_a_write_error(tmp_path: Path) -> None:
    atomic_text(tmp_path / "a", "old")
    with pytest.raises(WriteError, match="the disk is full"), atomic_write(tmp_path / "a"):
        Path("/dev/full").write_text("x" * 100_000)
    assert (tmp_path / "a").read_text() == "old"


def test_very_long_names_can_be_written(tmp_path: Path) -> None:
    atomic_text(tmp_path / ("µ" * 120 + ".txt"), "x")
    assert len(names(tmp_path)) == 1


def test_a_name_that_is_too_long_is_a_write_error(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="name is too long"):
        atomic_text(tmp_path / ("x" * 300), "x")


def test_json_comes_back_and_refuses_nan(tmp_path: Path) -> None:
    atomic_json(tmp_path / "a.json", {"gene": "µ", "n": [1, 2.5, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"gene": "µ", "n": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic_json(tmp_path / "a.json", {"n": float("nan")})


def write_folder(path: Path, text: str) -> None:
    with atomic_folder(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a").write_text(text)


def test_a_folder_is_written_with_missing_parents(tmp_path: Path) -> None:
    write_folder(tmp_path / "x" / "model", "new")
    assert (tmp_path / "x" / "model" / "inner" / "a").read_text() == "new"
    assert names(tmp_path / "x") == ["model"]


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_an_old_folder_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    write_folder(tmp_path / "model", "old")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    (tmp_path / "model" / "more").mkdir()
    (tmp_path / "model" / "more" / "mine.txt").write_text("mine, too")
    write_folder(tmp_path / "model", "new")
    assert names(tmp_path / "model") == ["inner", "more", "notes.txt"] and names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "more" / "mine.txt").read_text() == "mine, too"
    assert (tmp_path / "model" / "inner" / "a").read_text() == "new"


def test_a_folder_whose_second_rename_fails_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "model", "old")
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    rename = Path.rename

    def fails_into_place(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp") and target.name == "model" and (self / "inner" / "a").read_text() == "new":
            raise OSError(errno.ENOSPC, "full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_into_place)
    with pytest.raises(WriteError, match="the disk is full"):
        write_folder(tmp_path / "model", "new")
    assert (tmp_path / "model" / "inner" / "a").read_text() == "old" and names(tmp_path) == ["model"]


def test_an_error_in_the_block_keeps_the_old_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", "old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "model") as temporary:
        (temporary / "half").touch()
        raise KeyboardInterrupt
    assert (tmp_path / "model" / "inner" / "a").read_text() == "old" and names(tmp_path) == ["model"]


def test_a_file_in_the_way_of_a_folder_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(WriteError, match="in the way"), atomic_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model").read_text() == "mine"


def test_a_folder_is_removed_by_rename_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "model", "old")
    monkeypatch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
    remove_folder(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for left in (".a.0123456789ab.tmp.json", ".model.0123456789ab.tmp"):
        (tmp_path / left).touch()
    (tmp_path / ".epoch.0123456789ab.tmp").mkdir()
    for mine in ("a.tmp", ".hidden", ".b.tmp.json", "model"):
        (tmp_path / mine).touch()
    remove_temporary(tmp_path)
    assert names(tmp_path) == [".b.tmp.json", ".hidden", "a.tmp", "model"]


# -- modes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def closed(path: Path, content: bytes = b"x") -> None:
    """Write a file as safetensors and tempfile do, for its owner alone."""
    path.write_bytes(content)
    path.chmod(0o600)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_mode_of_a_file_follows_the_umask_whoever_wrote_it(tmp_path: Path, umask: int) -> None:
    with atomic_write(tmp_path / "a") as temporary:
        closed(temporary)
    assert mode(tmp_path / "a") == 0o666 & ~umask
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_modes_in_a_folder_follow_the_umask(tmp_path: Path, umask: int) -> None:
    with atomic_folder(tmp_path / "model") as temporary:
        assert names(temporary) == []
        closed(temporary / "weights")
        (temporary / "inner").mkdir(mode=0o700)
        closed(temporary / "inner" / "more")
    assert {mode(tmp_path / "model"), mode(tmp_path / "model/inner")} == {0o777 & ~umask}
    assert {mode(tmp_path / "model/weights"), mode(tmp_path / "model/inner/more")} == {0o666 & ~umask}
