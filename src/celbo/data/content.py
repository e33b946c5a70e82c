"""What a file holds by its first bytes, whatever its name says, and text files opened by it."""

from __future__ import annotations

import codecs
import gzip
import io
from pathlib import Path
from typing import Any, BinaryIO, cast

import h5py

from celbo.data.loaded import reading
from celbo.errors import ReadError

__all__ = ["content_of", "most_unpacked", "open_bytes", "open_text", "refuse_controls", "refuse_packed"]

_MOST_TIMES, _FEWEST_BYTES = 100, 1 << 27
"""How many times its size a gzipped text may unpack to, and what any may. Tables, mostly zeros, take 3 to 50 times."""
_CONTROLS = "".join(chr(code) for code in (*range(9), 11, 12, *range(14, 32), 127))
"""Characters that no table of names or numbers has, beside tab and ends of lines."""

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
    "gzip": "It was gzipped three times or more: unpack it first with gunzip.",
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


def most_unpacked(path: Path, *, times: int = _MOST_TIMES) -> int:
    """Return how many bytes of text a file is believed to hold: its size, or `times` that where it is gzipped."""
    with path.open("rb") as file:
        packed = _kind(file.read(512)) == "gzip"
    size = path.stat().st_size
    return max(_FEWEST_BYTES, times * size) if packed else size


class _Unpacked(io.RawIOBase):
    """What was gzipped, up to as much as is believed of it."""

    def __init__(self, packed: BinaryIO, path: Path, most: int) -> None:
        self.file = gzip.GzipFile(fileobj=packed, mode="rb")
        self.packed, self.path, self.most = packed, path, most

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the text."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place in the text."""
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes, and return how many there were."""
        n = self.file.readinto(buffer)
        if self.file.tell() > self.most:
            value = f"{self.path.stat().st_size:,} bytes to more than {self.most:,}"
            fix = "If it is what you think it is, unpack it yourself (gunzip) and give that."
            raise ReadError("unpacks to too much", where=str(self.path), value=value, fix=fix)
        return n

    def close(self) -> None:
        """Close it and the file below."""
        if not self.closed:
            self.file.close()
            self.packed.close()
        super().close()


def open_bytes(path: Path, *, times: int = _MOST_TIMES) -> BinaryIO:
    """Open a file to read; what is gzipped, once or twice, comes out unpacked.

    Raises
    ------
    ReadError
        If it, or what was gzipped, is packed another way; or if an HDF5 file was gzipped. From a file that unpacks to
        more than `times` its size while it is read.
    """
    most = most_unpacked(path, times=times)
    file: BinaryIO = path.open("rb")
    try:
        kind = _kind(head := file.read(512))
        for _ in range(2):
            if kind == "gzip":
                file.seek(0)
                file = cast("BinaryIO", io.BufferedReader(_Unpacked(file, path, most), 1 << 18))
                kind = _kind(head := file.read(512))
        file.seek(0)
    except BaseException:
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


def refuse_controls(text: str, path: Path, line: int) -> None:
    """Raise for a character that no text of names and numbers holds, such as a NUL.

    Parameters
    ----------
    text
        Some of the file.
    path
        The file.
    line
        Number of the first line of `text`.
    """
    if any(character in text for character in _CONTROLS):  # ten times as fast as a pattern
        at = min(text.index(character) for character in _CONTROLS if character in text)
        value = f"line {line + text.count(chr(10), 0, at):,} has the character 0x{ord(text[at]):02x}"
        fix = "It is damaged, or no text; copy or download it again."
        raise ReadError("holds what no text file holds", where=str(path), value=value, fix=fix)


def refuse_packed(path: Path) -> None:
    """Raise a `ReadError` if a file, or what was gzipped, is packed in a way that celbo does not read."""
    with reading(path, "a file of counts"):
        open_bytes(path).close()
