"""Ways to damage a file: its bytes, its text, the arrays and links of HDF5, the descriptions of Zarr."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np

NUMBERS = (
    *("1e+05", "7.9", "-1", "nan", "inf", "-inf", "1e400", "1e-400", "0x10", "4294967296", "9223372036854775808", "0"),
    *("99999999999999999999", "1 2", "", " ", "NA", "1,5", "1,234", "+3", "1.5.2", "1e", "\u0661", "\0", "\x1b[2J"),
)
WORDS = ("", "a" * 5000, "\0", "\x1b[2J", "naïve", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"))
SIZES = (0, 1, -1, 255, 2**16, 2**28, 2**31 - 1, 2**31, 2**40, 2**63 - 1)


# -- bytes ------------------------------------------------------------------------------------------------------------


def damage_bytes(path: Path, rng: random.Random) -> str:
    """Change some bytes of a file."""
    data = bytearray(path.read_bytes())
    ways = (flip, overwrite, cut, insert, drop, zero, repeat, swap)
    told = []
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        way = rng.choice(ways)
        told.append(way.__name__)
        data = way(data, rng)
    path.write_bytes(data)
    return f"{path.name}: {' '.join(told[:4])}"


def somewhere(data: bytearray, rng: random.Random) -> int:
    """Return a place; the beginning, where formats have their headers, more often."""
    most = rng.choice((len(data), len(data), 4096, 256))
    return rng.randrange(max(1, min(most, len(data))))


def span(data: bytearray, rng: random.Random) -> slice:
    """Return a short stretch, rarely a long one."""
    at = somewhere(data, rng)
    return slice(at, at + rng.choice((1, 2, 4, 8, 64, 1000, len(data) // 4)))


def flip(data: bytearray, rng: random.Random) -> bytearray:
    """Flip one bit."""
    if data:
        data[somewhere(data, rng)] ^= 1 << rng.randrange(8)
    return data


def overwrite(data: bytearray, rng: random.Random) -> bytearray:
    """Write a number that is at the end of its range over some bytes."""
    size, kind = rng.choice(((1, "little"), (2, "little"), (4, "little"), (8, "little"), (4, "big")))
    value = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1, rng.randrange(256)))
    at = somewhere(data, rng)
    data[at : at + size] = value.to_bytes(size, kind)  # type: ignore[arg-type]
    return data


def cut(data: bytearray, rng: random.Random) -> bytearray:
    """Cut off the end."""
    return data[: rng.randrange(len(data) + 1)] if data else data


def insert(data: bytearray, rng: random.Random) -> bytearray:
    """Insert random bytes."""
    at = somewhere(data, rng)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 8, 100)))
    return data


def drop(data: bytearray, rng: random.Random) -> bytearray:
    """Leave out some bytes."""
    del data[span(data, rng)]
    return data


def zero(data: bytearray, rng: random.Random) -> bytearray:
    """Write zeros over some bytes, as a file system does after a crash."""
    at = span(data, rng)
    data[at] = bytes(len(data[at]))
    return data


def repeat(data: bytearray, rng: random.Random) -> bytearray:
    """Write some bytes twice."""
    at = span(data, rng)
    data[at.start : at.start] = data[at]
    return data


def swap(data: bytearray, rng: random.Random) -> bytearray:
    """Write some bytes over others."""
    at, to = span(data, rng), somewhere(data, rng)
    part = data[at]
    data[to : to + len(part)] = part
    return data


# -- text -------------------------------------------------------------------------------------------------------------


def damage_text(path: Path, rng: random.Random) -> str:
    """Change lines and fields of a text, gzipped or not."""
    zipped = path.suffix == ".gz"
    whole = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
    lines = whole.decode("utf-8", "surrogateescape").split("\n")
    told = []
    for _ in range(rng.choice((1, 1, 2, 5))):
        way = rng.choice((change_field, change_field, change_field, add_field, drop_field, change_lines, change_whole))
        told.append(way.__name__)
        lines = way(lines, rng)
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    path.write_bytes(gzip.compress(text) if zipped else text)
    return f"{path.name}: {' '.join(told)}"


def chosen_line(lines: list[str], rng: random.Random) -> int:
    """Return the number of a line; the first ones more often."""
    return rng.randrange(min(len(lines), rng.choice((2, 4, len(lines), len(lines)))))


def separator_of(line: str) -> str:
    """Return what separates the fields of a line."""
    return max(("\t", ",", " ", ";"), key=line.count)


def change_field(lines: list[str], rng: random.Random) -> list[str]:
    """Write another number or word into one field."""
    at = chosen_line(lines, rng)
    mark = separator_of(lines[at])
    fields = lines[at].split(mark)
    fields[rng.randrange(len(fields))] = rng.choice((*NUMBERS, *WORDS, *map(str, SIZES), fields[0]))
    lines[at] = mark.join(fields)
    return lines


def add_field(lines: list[str], rng: random.Random) -> list[str]:
    """Add a field to one line."""
    at = chosen_line(lines, rng)
    lines[at] += separator_of(lines[at]) + rng.choice((*NUMBERS, *WORDS))
    return lines


def drop_field(lines: list[str], rng: random.Random) -> list[str]:
    """Leave the last field of one line out."""
    at = chosen_line(lines, rng)
    lines[at] = lines[at].rpartition(separator_of(lines[at]))[0]
    return lines


def change_lines(lines: list[str], rng: random.Random) -> list[str]:
    """Repeat, leave out, swap or empty a line, or repeat one a thousand times."""
    at, to = chosen_line(lines, rng), chosen_line(lines, rng)
    match rng.randrange(5):
        case 0:
            lines.insert(to, lines[at])
        case 1 if len(lines) > 1:
            del lines[at]
        case 2:
            lines[at], lines[to] = lines[to], lines[at]
        case 3:
            lines[at] = ""
        case _:
            lines[to:to] = [lines[at]] * 1000
    return lines


def change_whole(lines: list[str], rng: random.Random) -> list[str]:
    """Change ends of lines, separators, letters or the beginning of the whole text."""
    match rng.randrange(6):
        case 0:
            return [f"{line}\r" for line in lines]
        case 1:
            return ["\r".join(lines)]
        case 2:
            return [line.replace(separator_of(lines[0]), rng.choice((";", "  ", "\t", "|"))) for line in lines]
        case 3:
            return [f"\ufeff{lines[0]}", *lines[1:]]
        case 4:
            return [line.upper() for line in lines]
        case _:
            return [" ".join(lines)]


# -- HDF5 -------------------------------------------------------------------------------------------------------------


def damage_hdf5(path: Path, rng: random.Random) -> str:
    """Change the arrays, groups, links and attributes of an HDF5 file."""
    told = []
    with h5py.File(path, "r+") as file:
        for _ in range(rng.choice((1, 1, 1, 2))):
            names: list[str] = []
            file.visit(names.append)
            if not names:
                break
            name = rng.choice(names)
            way = rng.choice((new_values, new_values, new_kind, new_kind, new_shape, new_link, new_attribute, remove))
            try:
                told.append(f"{way.__name__} {name} {way(file, name, rng)}")
            except (OSError, ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
                told.append(f"{way.__name__} {name} not done: {error}"[:200])  # what HDF5 itself refuses to write
    return "; ".join(told)


def put(file: h5py.File, name: str, value: Any, **options: Any) -> None:
    """Put an array in the place of what is there, with its attributes."""
    kept = dict(file[name].attrs)
    del file[name]
    made = file.create_dataset(name, data=value, **options)
    for key, each in kept.items():
        made.attrs[key] = each


def new_values(file: h5py.File, name: str, rng: random.Random) -> str:
    """Write other values into an array."""
    if not isinstance(file[name], h5py.Dataset) or not file[name].size:
        return "-"
    values = np.array(file[name][()]).ravel()
    if values.dtype.kind in "iuf":
        wide = values.astype(np.float64)
        value = rng.choice((np.nan, np.inf, -1, 0.5, 2.0**31, 2.0**32, 2.0**63, 1e300, 0, 1, wide[0], wide[-1] + 1))
        if values.dtype.kind != "f":
            bounds = np.iinfo(values.dtype)
            value = bounds.max if not value < 2**62 else max(min(int(value), bounds.max), bounds.min)
        some = slice(None) if rng.random() < 0.1 else rng.randrange(values.size)
        values[some] = value
    elif values.dtype.kind in "OS":
        value = rng.choice((b"", b"\0", b"\xff\xfe", b"x" * 3000, b"\x1b[2J", values[0]))
        values[rng.randrange(values.size)] = value
    elif values.dtype.kind == "b":
        values[rng.randrange(values.size)] ^= True
    if rng.random() < 0.1:
        rng.shuffle(values)
    file[name][...] = values.reshape(file[name].shape)
    return ""


def new_kind(file: h5py.File, name: str, rng: random.Random) -> str:
    """Store an array as another type."""
    if not isinstance(file[name], h5py.Dataset):
        return "-"
    values = np.array(file[name][()])
    kind = rng.choice(("f2", "f4", "f8", "u1", "u8", "i1", "i8", ">i4", "?", "S5", "text", "c16", "V8", "pair", "g"))
    try:
        if kind == "text":
            texts = np.array([str(value) for value in values.ravel()], object)
            put(file, name, texts.reshape(values.shape), dtype=h5py.string_dtype())
        elif kind == "pair":
            put(file, name, np.zeros(values.shape, [("a", "i4"), ("b", "f8")]))
        else:
            put(file, name, values.astype(kind))
    except (TypeError, ValueError):
        return f"{kind}-"
    return kind


def new_shape(file: h5py.File, name: str, rng: random.Random) -> str:
    """Store an array with another shape, longer or shorter, or declare one that is never written."""
    if not isinstance(file[name], h5py.Dataset):
        return "-"
    values = np.array(file[name][()])
    flat = values.ravel()
    match rng.randrange(8):
        case 0:
            put(file, name, flat[: flat.size // 2])
        case 1:
            put(file, name, np.concatenate([flat, flat]))
        case 2:
            put(file, name, flat[None])
        case 3 if flat.size:
            put(file, name, flat[0])
        case 4:
            put(file, name, flat[:0])
        case 5:
            put(file, name, values.T)
        case 6 if values.dtype.kind in "iuf":
            put(file, name, np.zeros(rng.choice((10**6, 5 * 10**7)), values.dtype), compression="gzip", chunks=(10**6,))
        case _:
            kept, kind = dict(file[name].attrs), file[name].dtype
            del file[name]
            made = file.create_dataset(name, (rng.choice((2**20, 2**28, 2**40)),), kind, chunks=(2**16,))
            for key, each in kept.items():
                made.attrs[key] = each
    return ""


def new_link(file: h5py.File, name: str, rng: random.Random) -> str:
    """Put a link, a group, a view or values of another file in the place of what is there."""
    node = file[name]
    shape, kind = getattr(node, "shape", (5,)), getattr(node, "dtype", np.dtype("f8"))
    above = name.rpartition("/")[0] or "/"
    way = rng.randrange(7)
    del file[name]
    match way:
        case 0:
            file[name] = h5py.SoftLink(rng.choice(("/nowhere", above, f"/{name}", "/obs/_index")))
        case 1:
            file[name] = h5py.ExternalLink(rng.choice(("other.h5", file.filename, "/proc/self/mem")), "/X")
        case 2:
            file[name] = file[above]
        case 3:
            file.create_group(name)
        case 4 if shape and kind.kind in "iuf":
            file.create_dataset(name, shape, kind, external=[("/proc/self/maps", 0, h5py.h5f.UNLIMITED)])
        case 5 if shape and kind.kind in "iuf":
            layout = h5py.VirtualLayout(shape, kind)
            layout[...] = h5py.VirtualSource(file.filename, "nowhere", shape)
            file.create_virtual_dataset(name, layout)
        case _:
            file[name] = 7
    return str(way)


def new_attribute(file: h5py.File, name: str, rng: random.Random) -> str:
    """Change, remove or add an attribute."""
    held = file[rng.choice((name, name, "/"))].attrs
    key = rng.choice([*held, *("encoding-type", "shape", "_index", "column-order", "encoding-version")])
    value = rng.choice(
        [
            *("csr_matrix", "csc_matrix", "array", "dataframe", "categorical", "dict", "nonsense", ""),
            *("null", "raw", "anndata", "string-array", "nullable-integer"),
            *([1, 2], [0, 0], [2**40, 2**40], [-1, 5], [1.5, 2.0], np.zeros(0), np.array([b"a", b"b"]), 3.5, None),
        ]
    )
    if value is None:
        if key in held:
            del held[key]
    else:
        held[key] = value
    return f"{key}={value!r}"


def remove(file: h5py.File, name: str, rng: random.Random) -> str:
    """Remove, rename or copy a part."""
    match rng.randrange(3):
        case 0:
            del file[name]
        case 1:
            file.move(name, f"{name}_{rng.choice(('x', '', 'é', '.'))}")
        case _:
            file.copy(name, f"{name}_2")
    return ""


# -- Zarr -------------------------------------------------------------------------------------------------------------


def damage_folder(folder: Path, rng: random.Random) -> str:
    """Damage one file of a Zarr folder: its bytes, or what its description says."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    described = [path for path in files if path.name in {".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json"}]
    match rng.randrange(6):
        case 0:
            path = rng.choice(files)
            path.unlink()
            return f"without {path.relative_to(folder)}"
        case 1:
            path = rng.choice(files)
            path.unlink()
            path.symlink_to(rng.choice(("/etc/hostname", "/dev/zero", "nowhere", ".")))
            return f"link {path.relative_to(folder)}"
        case 2 | 3 | 4 if described:
            path = rng.choice(described)
            return f"{path.relative_to(folder)}: {damage_json(path, rng)}"
        case _:
            return damage_bytes(rng.choice(files), rng)


def damage_json(path: Path, rng: random.Random) -> str:
    """Change one value of a JSON file."""
    told = json.loads(path.read_text())
    place, key = told, None
    while isinstance(place, dict | list) and place:
        above = place
        key = rng.choice(sorted(place)) if isinstance(place, dict) else rng.randrange(len(place))
        place = above[key]
        if rng.random() < 0.15:
            break
    value = rng.choice(
        [None, "", "nonsense", [], {}, True, 1.5, *SIZES, [2**40], {"id": "pickle"}, "|O", "<f8", "pickle", [place] * 3]
    )
    if key is not None:
        above[key] = value
    path.write_text(json.dumps(told))
    return f"{key}={value!r}"[:100]
