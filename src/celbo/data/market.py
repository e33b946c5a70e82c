"""The Matrix Market format: SciPy parses the numbers, once every line is known to be what it parses without a loss.

SciPy's compiled reader takes what a line begins with for all of it: `1e+05` under an integer header is 1, `7.9` is 7, a
fourth field is passed over; and a byte that belongs to no text ends the process. So the text goes through here first.
"""

from __future__ import annotations

import codecs
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import scipy.io
from numpy.typing import NDArray

from celbo.data.content import most_unpacked, open_bytes
from celbo.data.scan import Matrix
from celbo.errors import ReadError

__all__ = ["MarketFile", "narrowed", "open_market"]

_TIMES = 30  # how often a matrix may be packed; those of cells are to a third or a sixth
_BLOCK = 1 << 24  # bytes of text looked at together
_LONGEST = 1000  # bytes of a line of three numbers; one without an end is not held in memory
_DIGITS = b"0123456789"
_ENTRY = re.compile(rb"(?:\d++ \d++ (?:-?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?|-?inf|nan)\n)*+")
_VALUE = re.compile(rb"(?:(?:-?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?|-?inf|nan)\n)*+")
_NO_TEXT = re.compile(rb"[^\t\n\r\x20-\x7e\x80-\xff]")
_FIX = "Copy or download it again, or write it again from its source."


@dataclass
class MarketFile:
    """A Matrix Market file of which the header was read."""

    path: Path
    file: BinaryIO
    """At the first line behind the header."""
    shape: tuple[int, int]
    """Rows, columns."""
    n_entries: int
    """Lines that are to follow."""
    dense: bool
    """Whether these hold a value each, column by column, and not row, column and value."""
    line: int
    """Number of the last line of the header, from 1."""

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def matrix(self) -> Matrix:
        """Return the values, float64: COO, or an array where the file is dense.

        Raises
        ------
        ReadError
            If a line does not hold what it should, or there are more or fewer lines than the header says.
        """
        self._refuse_boast()
        stream = _Vetted(self)
        try:
            return scipy.io.mmread(cast("BinaryIO", stream))
        finally:
            if stream.problem is not None:
                raise stream.problem

    def _refuse_boast(self) -> None:
        """Raise where the file cannot hold as many lines as it says: memory for all of them is taken at once."""
        shortest = len(b"1\n" if self.dense else b"1 1 1\n")
        if self.n_entries * shortest > most_unpacked(self.path, times=_TIMES) + 1:  # the last line may have no end
            value = f"its header says {self.n_entries:,}, it has {self.path.stat().st_size:,} bytes"
            raise ReadError("cannot hold as many values as it says", where=str(self.path), value=value, fix=_FIX)

    def refuse(self, what: str, line: int, *, text: bytes = b"") -> ReadError:
        """Return the error for a line."""
        shown = f" is {text[:60].decode('utf-8', 'replace')!r}" if text else ""
        return ReadError(what, where=str(self.path), value=f"line {line:,}{shown}", fix=_FIX)


def open_market(path: Path) -> MarketFile:
    """Open a Matrix Market file, plain or gzipped, and read its header.

    Raises
    ------
    ReadError
        If it has none, or one that no matrix of counts has.
    """
    file = open_bytes(path, times=_TIMES)
    try:
        return _with_header(path, file)
    except BaseException:
        file.close()
        raise


def _with_header(path: Path, file: BinaryIO) -> MarketFile:
    first = file.readline(_LONGEST).removeprefix(codecs.BOM_UTF8)
    words = first.decode("latin-1").lower().split()
    if len(words) != 5 or words[:2] != ["%%matrixmarket", "matrix"]:
        value = f"line 1 is {first[:60].decode('utf-8', 'replace')!r}"
        fix = "It must begin with '%%MatrixMarket matrix coordinate integer general'."
        raise ReadError("is not a Matrix Market file", where=str(path), value=value, fix=fix)
    layout, kind, symmetry = words[2:]
    if layout not in {"coordinate", "array"} or kind not in {"integer", "real", "double"} or symmetry != "general":
        fix = "A matrix of counts is 'coordinate integer general' or 'coordinate real general'."
        value = f"its first line says '{' '.join(words[2:])[:60]}'"
        raise ReadError("is not a matrix of counts", where=str(path), value=value, fix=fix)
    number, line = 2, file.readline(_LONGEST)
    while line.startswith(b"%") or (line and not line.strip()):
        while line and not line.endswith(b"\n"):  # a comment may be long
            line = file.readline(_LONGEST)
        number, line = number + 1, file.readline(_LONGEST)
    return _sized(path, file, number, line, dense=layout == "array")


def _sized(path: Path, file: BinaryIO, number: int, line: bytes, *, dense: bool) -> MarketFile:
    sizes = line.split()
    if len(sizes) != (2 if dense else 3) or not all(size.isdigit() and len(size) < 16 for size in sizes):
        value = f"line {number} is {line[:60].decode('utf-8', 'replace')!r}" if line else f"it ends at line {number}"
        fix = "Rows, columns and the number of values must stand there. " + _FIX
        raise ReadError("has no line of sizes", where=str(path), value=value, fix=fix)
    rows, columns = int(sizes[0]), int(sizes[1])
    return MarketFile(path, file, (rows, columns), rows * columns if dense else int(sizes[2]), dense, number)


@dataclass
class _Vetted:
    """The file as SciPy's reader is given it. It must not raise there: that would end the process."""

    source: MarketFile
    problem: BaseException | None = None
    block: io.BytesIO = field(default_factory=io.BytesIO)
    rest: bytes = b""
    """The begin of a line of which the end is yet to be read."""
    line: int = 0

    def __post_init__(self) -> None:
        source = self.source
        kind, sizes = ("array", source.shape) if source.dense else ("coordinate", (*source.shape, source.n_entries))
        filler = b"%\n" * (source.line - 2)  # so that SciPy counts lines as they are
        head = f"%%MatrixMarket matrix {kind} real general\n".encode()
        self.block = io.BytesIO(head + filler + " ".join(map(str, sizes)).encode() + b"\n")
        self.line = source.line

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; none at the end and from an error on."""
        try:
            while not (got := self.block.read(size)):
                block = self._next_block()
                if not block:
                    return b""
                self.block = io.BytesIO(block)
        except BaseException as problem:
            self.problem = problem
            return b""
        return got

    def _next_block(self) -> bytes:
        """Return whole lines, each of which is known to hold the numbers that it should; b"" at the end."""
        block = b""
        while not block:
            text = self.source.file.read(_BLOCK)
            if not text and not self.rest:
                return b""
            lines = self.rest + text
            end = lines.rfind(b"\n") + 1 if text else len(lines)
            lines, self.rest = lines[:end], lines[end:]
            if len(self.rest) > _LONGEST:
                raise self.source.refuse(
                    "has a line without an end", self.line + lines.count(b"\n") + 1, text=self.rest
                )
            block = self._vetted(lines if lines.endswith(b"\n") or not lines else lines + b"\n")
        return block

    def _vetted(self, lines: bytes) -> bytes:
        n = lines.count(b"\n")
        if not (self.source.dense or _are_plain(lines, n)):
            lines = self._looked_at(lines, _ENTRY)
        elif self.source.dense:
            lines = self._looked_at(lines, _VALUE)
        self.line += n
        return lines

    def _looked_at(self, lines: bytes, pattern: re.Pattern[bytes]) -> bytes:
        """Return lines, perhaps tidied, once they match, or raise for the first that does not."""
        if pattern.fullmatch(lines):
            return lines
        odd = _NO_TEXT.search(lines)
        if odd is not None:
            what = f"holds a byte that no text has (0x{odd[0][0]:02x})"
            raise self.source.refuse(what, self.line + lines.count(b"\n", 0, odd.start()) + 1)
        tidy = [b" ".join(line.split()).lower() + b"\n" for line in lines.split(b"\n")[:-1]]
        whole = b"".join(line for line in tidy if line != b"\n")
        if pattern.fullmatch(whole):
            return whole
        at = next(at for at, line in enumerate(tidy) if line != b"\n" and not pattern.fullmatch(line))
        what = "must hold one number a line" if self.source.dense else "must hold row, column and value in each line"
        raise self.source.refuse(what, self.line + at + 1, text=lines.split(b"\n")[at].strip())


def _are_plain(lines: bytes, n: int) -> bool:
    """Tell quickly whether lines hold two whole numbers and a third that may have a point; False may mean unsure."""
    marks = lines.translate(None, _DIGITS)
    if marks != b"  \n" * n and marks.replace(b".\n", b"\n") != b"  \n" * n:
        return False
    return not (lines.startswith(b" ") or any(pair in lines for pair in (b"  ", b" \n", b"\n ", b" .\n")))


def narrowed(values: NDArray[Any]) -> NDArray[Any]:
    """Return values as float32 where that is exact, which is what scanpy's functions expect."""
    narrow: NDArray[np.float32] = values.astype(np.float32)
    return narrow if np.array_equal(narrow, values) else values
