"""Text tables as numbers, names and columns of text: separators, quotes, thousands, decimal commas, ends of lines."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from celbo.data.content import refuse_controls
from celbo.data.declared import most_believed, refuse_boast
from celbo.data.scan import Matrix
from celbo.errors import ReadError

__all__ = ["Table", "is_number", "numbered", "parsed"]

_LINES, _VALUES = 512, 1 << 23  # lines of a table, and values, that are dense at once
_BYTES, _NAME = 12, 400  # of memory for a value that is not zero, and for a row with its name
_READ, _FEWEST_LONG = 1 << 20, 1 << 22  # characters that are read at once, and of a line that is long
_LONGEST, _MOST_FIELDS = 1 << 26, 1 << 23  # characters and fields of a line
_DELIMITERS = (",", "\t", ";", " ")
_SPACES = re.compile(" +")
_QUOTED = re.compile(r'"[^"]*"')
_THOUSANDS = re.compile(r"^[-+]?[1-9]\d{0,2}([,'’\u00a0\u202f ]\d{3})+(\.\d+)?$")
_DECIMAL_COMMA = re.compile(r"^[-+]?\d*,\d+([eE][-+]?\d+)?$")
_EXONS = re.compile(r"^(chr|start|end|strand)$", re.IGNORECASE)
"""Columns in which featureCounts lists the exons of a gene: 11869;12010."""

Line = tuple[int, str]
"""Number in the file, and text."""


@dataclass
class Table:
    """What a text table holds."""

    values: Matrix
    """The columns of numbers, (rows, columns) CSR."""
    rows: list[str]
    """The first column."""
    columns: list[str]
    """Names of the columns of numbers."""
    corner: str
    """Name of the first column, perhaps ""."""
    texts: dict[str, list[str]]
    """The columns of text by their names, each with a value a row."""
    notes: list[str] = field(default_factory=list)
    """What the user should hear about it."""


def parsed(file: io.TextIOWrapper, path: Path) -> Table:
    """Read a table with a line of names and a column of names.

    Raises
    ------
    ReadError
        If it is no such table, or holds text among the numbers; the message names the line, or the row and the column.
    """
    comments: list[str] = []
    lines = _told_lines(file, comments, path)
    head = list(islice(lines, 2))
    if len(head) < 2:
        fix = "It needs a line of names and at least one line of counts."
        raise ReadError("holds no counts", where=str(path), fix=fix)
    if comments and _names_columns(comments[-1], head[0][1]):
        lines, head = chain(head[1:], lines), [(0, comments[-1].lstrip("# ")), head[0]]
    reader = _reader(head[0][1], head[1], path)
    rows: list[str] = []
    blocks: list[Matrix] = []
    believed, stored = most_believed(path.stat().st_size), 0
    for block in _blocks(head[1], lines, len(reader.columns)):
        names, values = reader.read(block)
        rows += names
        blocks.append(values)
        stored += _BYTES * values.nnz + _NAME * len(names)
        if stored > believed:
            refuse_boast(stored, path.stat().st_size, path)
    columns = [name for at, name in enumerate(reader.columns) if at not in reader.texts]
    texts = {reader.columns[at]: values for at, values in reader.texts.items()}
    return Table(sp.vstack(blocks, format="csr"), rows, columns, reader.corner, texts, reader.notes())


def _told_lines(file: io.TextIOWrapper, comments: list[str], path: Path) -> Iterator[Line]:
    """Return the lines that are neither empty nor comments, which go into `comments`."""
    for number, line in enumerate(_lines(file, path), 1):
        if line.startswith("#"):
            comments[:] = [line]
        elif line.strip():
            yield number, line


def _lines(file: io.TextIOWrapper, path: Path) -> Iterator[str]:
    """Return all lines of a file that holds none but those of a text."""
    number, rest = 1, ""
    while text := file.read(_READ):
        refuse_controls(text, path, number)
        lines = list(io.StringIO(rest + text, newline=""))
        rest = lines.pop()  # it may go on
        yield from lines
        number += len(lines)
        if len(rest) > _FEWEST_LONG and (len(rest) > _LONGEST or max(map(rest.count, _DELIMITERS)) > _MOST_FIELDS):
            value = f"line {number:,} has more than {len(rest):,} characters"
            raise ReadError("is not a table", where=str(path), value=value, fix="A line is a row, and ends.")
    if rest:
        yield rest


def _names_columns(comment: str, line: str) -> bool:
    """Tell whether a comment is the line of names of the numbers that follow it."""
    delimiter = _delimiter(comment, line)
    fields = _fields(line, delimiter)
    return len(fields) > 2 and len(_fields(comment, delimiter)) == len(fields) and all(map(is_number, fields[1:]))


def is_number(text: str) -> bool:
    """Tell whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def numbered(names: list[str]) -> bool:
    """Tell whether names are 0, 1, 2, ... or 1, 2, 3, ..."""
    return any(names == [str(start + i) for i in range(len(names))] for start in (0, 1))


def _blocks(first: Line, rest: Iterator[Line], n_columns: int) -> Iterator[list[Line]]:
    n_lines = max(1, min(_LINES, _VALUES // max(1, n_columns)))
    block = [first, *islice(rest, n_lines - 1)]
    while block:
        yield block
        block = list(islice(rest, n_lines))


def _fields(line: str, delimiter: str) -> list[str]:
    return [text.strip() for text in next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter))]


def _delimiter(header: str, line: str) -> str:
    """Return what separates the fields: it occurs as often in the header, or once less where R left out the corner."""
    above, below = (_SPACES.sub(" ", _QUOTED.sub("", text.strip(" \r\n"))) for text in (header, line))
    counts = {delimiter: below.count(delimiter) for delimiter in _DELIMITERS}
    fitting = [d for d in _DELIMITERS if counts[d] and abs(above.count(d) - counts[d]) <= 1]
    return max(fitting or _DELIMITERS, key=lambda delimiter: counts[delimiter])  # of equals the first


def _reader(head: str, line: Line, path: Path) -> _Reader:
    delimiter = _delimiter(head, line[1])
    if delimiter == " ":  # columns may be aligned
        head, line = _SPACES.sub(" ", head.strip()), (line[0], _SPACES.sub(" ", line[1].strip()))
    header, first = _fields(head, delimiter), _fields(line[1], delimiter)
    if len(first) < 2:
        fix = "Separate the values by commas, tabs or semicolons."
        value = f"line {line[0]} is {line[1].strip()[:60]!r}"
        raise ReadError("is not a table", where=str(path), value=value, fix=fix)
    trailing = first[-1] == "" and len(first) - 1 >= 2 and (len(first) - len(header) == 1 or header[-1] == "")
    n = len(first) - trailing
    if header[-1] == "" and len(header) == n + 1:
        header = header[:-1]
    corner, columns = ("", header) if len(header) == n - 1 else (header[0], header[1:])
    if all(is_number(name) for name in columns) and (is_number(corner) or not (numbered(columns) or corner == "")):
        fix = "Its first line must name the columns, its first column the rows."
        raise ReadError("has no line of names", where=str(path), value=f"it begins {header[:3]}", fix=fix)
    return _Reader(path, delimiter, columns, corner, trailing)


@dataclass
class _Reader:
    """Reads blocks of lines; what the first block tells holds for the others."""

    path: Path
    delimiter: str
    columns: list[str]
    corner: str
    trailing: bool
    """Whether each line ends with a delimiter."""
    texts: dict[int, list[str]] = field(default_factory=dict)
    """Positions of the columns of text, and their values so far."""
    known: bool = False
    """Whether the first block was read."""
    commas: str = ""
    """What commas in numbers are: "thousands" or "decimals"."""

    def read(self, block: list[Line]) -> tuple[list[str], Matrix]:
        """Return the names and the values, (lines, columns of numbers) CSR, of some lines."""
        if self.delimiter == " ":
            block = [(number, _SPACES.sub(" ", line.strip())) for number, line in block]
        lines = [self._whole(number, line) for number, line in block]
        found = None if self.texts else _plain_numbers(lines, self.delimiter)
        names, dense = found or self._any_values(lines)
        self.known = True
        with np.errstate(over="ignore"):
            narrow = dense.astype(np.float32)
        return names, sp.csr_matrix(narrow if np.array_equal(narrow, dense, equal_nan=True) else dense)

    def notes(self) -> list[str]:
        """Return what the user should hear of how numbers were read."""
        if self.commas == "thousands":
            return ["Numbers have separators of thousands (1,160 is read as 1160)."]
        return ["Numbers have decimal commas (1,5 is read as 1.5)."] if self.commas else []

    def _whole(self, number: int, line: str) -> str:
        """Return a line without its end, once it is known to have all fields."""
        text = line.rstrip("\r\n")
        if self.trailing and text.endswith(self.delimiter):
            text = text[: -len(self.delimiter)]
        n = text.count(self.delimiter) + 1 if '"' not in text else len(_fields(text, self.delimiter))
        if n != len(self.columns) + 1:
            value = f"line {number} has {n} fields, the first {len(self.columns) + 1}"
            fix = "It is cut short there, or a name or a number (1,160) holds the separator; write it again."
            raise ReadError("is not a whole table", where=str(self.path), value=value, fix=fix)
        return text

    def _any_values(self, lines: list[str]) -> tuple[list[str], NDArray[np.float64]]:
        """Read lines that may have quotes, gaps, columns of text, and commas in numbers."""
        kinds: dict[int, type] = {0: str, **{at + 1: str for at in self.texts}}
        text = io.StringIO("\n".join(lines) + "\n")
        frame = pd.read_csv(text, sep=self.delimiter, header=None, dtype=kinds, skip_blank_lines=False)
        names = ["" if pd.isna(name) else str(name).strip() for name in frame[0]]
        values = frame.drop(columns=0).set_axis(range(len(self.columns)), axis=1)
        if not self.known:
            self.texts = {at: [] for at in range(len(self.columns)) if self._is_text(at, values[at])}
        for at, told in self.texts.items():
            told += ["" if pd.isna(value) else str(value).strip() for value in values[at]]
        numbers = values.drop(columns=list(self.texts))
        if numbers.shape[1] == 0:
            fix = "It must hold numbers beside names."
            raise ReadError("holds no counts", where=str(self.path), value=f"columns {self.columns[:3]}", fix=fix)
        positions: list[Any] = list(numbers.columns)
        odd = [at for at in positions if not pd.api.types.is_numeric_dtype(numbers[at])]
        converted = {at: self._numbers(numbers[at], names, self.columns[at]) for at in odd}
        return names, _filled(numbers, converted)

    def _is_text(self, at: int, column: pd.Series[Any]) -> bool:
        """Tell whether most of the values of a column are no numbers, however these are written."""
        if pd.api.types.is_bool_dtype(column):
            return True
        if pd.api.types.is_numeric_dtype(column):
            return False
        if _EXONS.match(self.columns[at]):
            return True
        told = [str(value).strip() for value in column.dropna()]
        return 2 * sum(not (is_number(t) or _THOUSANDS.match(t) or _DECIMAL_COMMA.match(t)) for t in told) > len(told)

    def _numbers(self, column: pd.Series[Any], names: list[str], name: str) -> NDArray[np.float64]:
        """Return a column in which some values have commas as numbers."""
        told = ["" if pd.isna(value) else str(value).strip() for value in column]
        wrong = [text for text in told if text and not is_number(text)]
        for text in wrong:
            as_thousands, as_decimal = _THOUSANDS.match(text), _DECIMAL_COMMA.match(text)
            if not as_thousands and not as_decimal:
                self._refuse(text, names[told.index(text)], name, "holds text among the counts")
            kind = "thousands" if as_thousands and self.commas != "decimals" else "decimals"
            if self.commas not in {"", kind} or (kind == "decimals" and not as_decimal):
                self._refuse(text, names[told.index(text)], name, "uses commas in numbers in two ways")
            self.commas = kind
        point = "." if self.commas == "decimals" else ""
        separators = "," if point else r"[,'’\u00a0\u202f ]"
        return np.array([float(re.sub(separators, point, text)) if text else np.nan for text in told])

    def _refuse(self, text: str, row: str, column: str, what: str) -> None:
        value = f"row {row[:60]!r}, column {column[:60]!r} is {text[:60]!r}"
        fix = "Keep names in columns of their own; everything else must be numbers."
        if what.startswith("uses"):
            fix = "Write 1160 without separators of thousands, and 1.5 with a point."
        raise ReadError(what, where=str(self.path), value=value, fix=fix)


def _filled(numbers: pd.DataFrame, converted: dict[int, NDArray[np.float64]]) -> NDArray[np.float64]:
    if not converted:
        return numbers.to_numpy(np.float64)
    dense = np.empty(numbers.shape)
    columns: list[Any] = list(numbers.columns)
    for place, at in enumerate(columns):
        dense[:, place] = converted[at] if at in converted else numbers[at].to_numpy(np.float64)
    return dense


def _plain_numbers(lines: list[str], delimiter: str) -> tuple[list[str], NDArray[np.float64]] | None:
    """Read lines of a name and numbers, quickly even where they are long; None where there is more to them."""
    names, rests = [], []
    for line in lines:
        name, _, rest = line.partition(f'"{delimiter}' if line.startswith('"') else delimiter)
        names.append(name.removeprefix('"').strip())
        rests.append(rest)
    try:
        values = np.loadtxt(rests, dtype=np.float64, comments=None, delimiter=delimiter, ndmin=2)
    except ValueError:
        return None
    return (names, values) if len(values) == len(lines) else None  # a line without a number is skipped
