"""What a file holds by its first bytes, whatever its name says, and text files opened by it."""

from __future__ import annotations

import codecs
import gzip
import io
from pathlib import Path
from typing import BinaryIO, cast

import h5py

from celbo.data.loaded import reading
from celbo.errors import ReadError

__all__ = ["content_of", "open_bytes", "open_text", "refuse_packed"]

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"Rar!": "rar",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x89HDF\r\n\x1a\n": "hdf5",
}
_ENCODINGS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_TAR = (257, b"ustar")
_UNPACK = {
    "bzip2": "Unpack it first: bunzip2 FILE.",
    "xz": "Unpack it first: unxz FILE.",
    "zip": "Unpack it first: unzip FILE.",
    "zstd": "Unpack it first: unzstd FILE.",
    "tar": "Unpack it first: tar xf FILE.",
}


def content_of(path: Path) -> str:
    """Return what a file is by its content: "gzip", "bzip2", "xz", "zip", "zstd", "rar", "7z", "tar", "hdf5" or "text".

    An HDF5 file may have its mark behind a header, as a MuData has.
    """
    with path.open("rb") as file:
        head = file.read(512)
    return "hdf5" if h5py.is_hdf5(path) else _kind(head)


def _kind(head: bytes) -> str:
    if head[_TAR[0] :].startswith(_TAR[1]):
        return "tar"
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "text")


def open_bytes(path: Path) -> BinaryIO:
    """Open a file to read; what is gzipped, once or twice, comes out unpacked.

    Raises
    ------
    ReadError
        If it, or what was gzipped, is packed another way; or if an HDF5 file was gzipped.
    """
    file: BinaryIO = path.open("rb")
    try:
        while (kind := _kind(head := file.read(512))) == "gzip":
            file.seek(0)
            inner, file = file, cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb"))
            file.myfileobj = inner  # type: ignore[attr-defined]  # so that it is closed with it
        file.seek(0)
    except Exception:
        file.close()
        raise
    if kind == "text":
        return file
    file.close()
    raise _packed(path, kind, head)


def _packed(path: Path, kind: str, head: bytes) -> ReadError:
    what = f"{'an' if kind[0] == 'x' else 'a'} {kind} archive"
    fix = _UNPACK.get(kind, "Unpack it first.").replace("FILE", path.name)
    if kind == "hdf5":
        what, fix = "a gzipped HDF5 file", f"Unpack it first: gunzip {path.name}."
        if path.suffix != ".gz":
            fix = f"Unpack it first: mv {path.name} {path.name}.gz, then gunzip {path.name}.gz."
    elif kind == "zip" and b"[Content_Types].xml" in head:
        what, fix = "an Excel file", "Save the sheet as .csv."
    return ReadError(f"is {what}", where=str(path), fix=fix)


def open_text(path: Path) -> io.TextIOWrapper:
    """Open a text file to read: gzipped or not, in UTF-8, or in UTF-16 where it begins by saying so.

    Raises
    ------
    ReadError
        As `open_bytes`.
    """
    file = open_bytes(path)
    try:
        head = file.read(3)
        file.seek(0)
    except Exception:
        file.close()
        raise
    encoding = next((name for mark, name in _ENCODINGS.items() if head.startswith(mark)), "utf-8-sig")
    return io.TextIOWrapper(cast("io.BufferedReader", file), encoding=encoding, newline="")


def refuse_packed(path: Path) -> None:
    """Raise a `ReadError` if a file, or what was gzipped, is packed in a way that celbo does not read."""
    with reading(path, "a file of counts"):
        open_bytes(path).close()
