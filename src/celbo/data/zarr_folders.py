"""What a Zarr folder declares, looked at before any of it is believed: links, codecs, sizes.

Codecs are named in the folder's text, and one of them, pickle, runs what the folder holds: only those that unpack
numbers and text are let through.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celbo.data.declared import refuse_boast
from celbo.errors import ReadError, listed

__all__ = ["check_zarr_arrays", "check_zarr_files"]

_METADATA = (".zarray", ".zmetadata", ".zgroup", ".zattrs", "zarr.json")
_LARGEST_TEXT = 1 << 26
_CODECS = frozenset(
    [
        *(
            "blosc",
            "zstd",
            "zlib",
            "gzip",
            "bz2",
            "lzma",
            "lz4",
            "lzf",
            "shuffle",
            "delta",
            "crc32",
            "crc32c",
            "adler32",
        ),
        *("vlen-utf8", "vlen-bytes", "vlen-array", "json2", "fixedscaleoffset", "astype", "bitround", "packbits"),
        *("fletcher32", "jenkins_lookup3", "categorize", "quantize", "base64", "zfpy", "pcodec"),
        *("bytes", "endian", "transpose", "sharding_indexed", "bool"),
    ]
)
_FIX = "Copy or download it again, or write it again from its source."


def check_zarr_files(folder: Path) -> int:
    """Raise where a folder links to other places or names a codec that can do more than unpack values.

    Returns
    -------
    The bytes of all its files.

    Raises
    ------
    ReadError
        For links, for files that are neither files nor folders, and for unknown codecs.
    """
    size = 0
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                fix = "celbo reads what is in the folder itself: copy it with what it links to (cp -rL)."
                value = f"{path.relative_to(folder)} is {str(path.readlink())[:200]!r}"
                raise ReadError("links to another place", where=str(folder), value=value, fix=fix)
            if name in files:
                if not path.is_file():
                    fix = "Remove it from the folder."
                    raise ReadError("holds what is no file", where=str(folder), value=str(path), fix=fix)
                size += path.stat().st_size
                if name in _METADATA:
                    _check_codecs(path, folder)
    return size


def _check_codecs(path: Path, folder: Path) -> None:
    if path.stat().st_size > _LARGEST_TEXT:
        value = f"{path.relative_to(folder)} has {path.stat().st_size:,} bytes"
        raise ReadError("has a description that is too long", where=str(folder), value=value, fix=_FIX)
    unknown = sorted(set(_codecs_in(json.loads(path.read_bytes()))) - _CODECS)
    if unknown:
        fix = "It may do more than unpack numbers and text. Write the folder again with zstd, blosc or gzip."
        value = f"{path.relative_to(folder)} names {listed(unknown, limit=3)}"
        raise ReadError("names a codec that celbo does not use", where=str(folder), value=value, fix=fix)


def _codecs_in(told: Any) -> Iterator[str]:
    """Yield the names of the codecs of an array or of all that are described in a text, those within others too."""
    if isinstance(told, list):
        for each in told:
            yield from _codecs_in(each)
    elif isinstance(told, dict):
        for key, value in told.items():
            if key in {"compressor", "filters", "codecs", "index_codecs", "object_codec"}:
                for codec in value if isinstance(value, list) else [value]:
                    if isinstance(codec, dict):
                        yield str(codec.get("id", codec.get("name"))).removeprefix("numcodecs.")
                    elif isinstance(codec, str):
                        yield codec.removeprefix("numcodecs.")
            yield from _codecs_in(value)


def check_zarr_arrays(group: Any, size: int, folder: Path) -> None:
    """Raise where the arrays of an open folder declare more than its `size` bytes can hold."""
    n_bytes = 0
    waiting = [group]
    while waiting:
        above = waiting.pop()
        for name in above.keys():  # noqa: SIM118 - a group of Zarr 3 is no mapping
            node = above[name]
            if hasattr(node, "keys"):
                waiting.append(node)
                continue
            values = node.dtype.itemsize
            for n, step in zip(node.shape, node.chunks, strict=True):
                values *= max(1, -(-int(n) // max(1, int(step)))) * int(step)  # chunks are unpacked whole
            n_bytes += values
    refuse_boast(n_bytes, size, folder)
