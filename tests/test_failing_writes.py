"""A write that fails is one sentence, whatever is written and however it fails; what was there stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest

from celbo.data.hdf5_out import Sink, anndata_written, hdf5_written

NAMES = (
    *("result.h5ad", "matrix.h5ad", "blocks.h5", "blocks.npy", "table.csv", "table.parquet", "page.html"),
    *("model", "checkpoint", "parts", "folder"),
)


def written(folder: Path, *limits: int) -> list[dict[str, Any]]:
    """Return what was told of each file, once the process has ended without a word and as it should."""
    script = str(Path(__file__).with_name("failing_writes.py"))
    command = [sys.executable, script, str(folder), *map(str, limits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_files_that_may_not_be_so_large_are_one_sentence_and_the_old_ones_stay(tmp_path: Path) -> None:
    old = {}
    for name in NAMES[:7]:
        (tmp_path / name).write_text(f"old {name}")
        old[name] = f"old {name}"
    for found in written(tmp_path, 0, 3000, 20_000):
        assert set(found["told"]) == set(NAMES)
        for name, text in found["told"].items():
            assert "cannot be written: it would be larger than files may be here" in text, (found["limit"], name)
            assert text.count("\n") == 0 and "Traceback" not in text
    assert {name: (tmp_path / name).read_text() for name in old} == old
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == sorted(old)  # nothing half is left


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 32 kB, where one may be mounted."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError:
        pytest.skip("nothing to mount with")
    if done.returncode:
        pytest.skip("nothing may be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_sentence(full: Path) -> None:
    (full / "result.h5ad").write_text("old")
    (full / "ballast").write_bytes(bytes(8192))
    (found,) = written(full)
    assert all("the disk is full" in text for text in found["told"].values()), found
    assert (full / "result.h5ad").read_text() == "old"
    left = [p for p in full.rglob("*") if p.is_file()]
    assert sorted(p.name for p in left) == ["ballast", "result.h5ad"]


# ------------------------------------------------------------------------------------------------------- HDF5 itself


def cells() -> anndata.AnnData:
    adata = anndata.AnnData(np.arange(6000, dtype=np.float32).reshape(60, 100))
    adata.obsm["X"] = np.ones((60, 3))
    adata.uns["words"] = ["a", "b"]
    return adata


def test_what_is_written_is_what_anndata_writes(tmp_path: Path) -> None:
    adata = cells()
    adata.raw = adata
    adata.obs["text"] = ["x", "y"] * 30
    anndata_written(adata.copy(), tmp_path / "ours.h5ad", compression={"compression": "gzip"})
    adata.copy().write_h5ad(tmp_path / "theirs.h5ad", compression="gzip")
    found: list[dict[str, Any]] = []
    for name in ("ours", "theirs"):
        with h5py.File(tmp_path / f"{name}.h5ad") as file:
            items: dict[str, Any] = {"": dict(file.attrs)}
            file.visititems(
                lambda place, item, items=items: items.update(  # type: ignore[misc]
                    {place: (item[()].tolist() if isinstance(item, h5py.Dataset) else None, list(item.attrs))}
                )
            )
        found.append(items)
    assert found[0] == found[1] and len(found[0]) > 15


@pytest.mark.parametrize("at", [0, 1, 5, 20])
@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "Ctrl-C"]
)
def test_whatever_fails_under_hdf5_is_raised_when_it_is_out_of_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, failure: BaseException
) -> None:
    real, seen = Sink._write_file, 0

    def fail(self: Sink, place: int, view: memoryview) -> None:
        nonlocal seen
        seen += 1
        if seen > at:
            raise failure
        real(self, place, view)

    monkeypatch.setattr(Sink, "_write_file", fail)
    with pytest.raises(type(failure)):
        anndata_written(cells(), tmp_path / "a.h5ad")
    assert seen == at + 1


def test_what_could_not_be_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Sink(tmp_path / "a")
    sink.write(b"written")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        sink.seek(4)
        sink.write(b"0123")
    found = bytearray(10)
    sink.seek(0)
    sink.readinto(found)
    assert bytes(found) == b"writ0123\0\0"
    with pytest.raises(OSError, match="full"):
        sink.check()
    sink.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_is_full_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError), hdf5_written(Path("/dev/full")) as (file, _):
        file["a"] = np.ones(1000)
