"""HDF5 files that are written to a disk which may fail: HDF5 itself never sees that.

A write that fails under HDF5 leaves objects which fail again when they are destroyed, with a traceback each, and can
end the process with a memory fault. So HDF5 writes to a `Sink`. From its first failure on, the sink keeps what it gets
in memory, so that HDF5 goes on with a file that seems whole; what failed is raised as soon as HDF5 is out of the way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celbo.data.matrix import layer_names

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Sink", "anndata_written", "hdf5_written", "write_anndata"]


class Sink:
    """A file of bytes that HDF5 writes to, whose first failure is kept and not raised.

    Parameters
    ----------
    path
        The file; it is made, or emptied.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self._at = self._size = 0
        self._kept: list[tuple[int, bytes]] = []
        self._failure: BaseException | None = None

    def check(self) -> None:
        """Raise what has failed, if anything has."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    # -- what HDF5 calls ---------------------------------------------------------------------------------------------

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def write(self, content: Any) -> int:
        """Write at the place."""
        view, at = memoryview(content).cast("B"), self._at
        self._try(self._write_file, at, view)
        if self._failure is not None:
            self._kept.append((at, bytes(view)))
        self._at = at + len(view)
        self._size = max(self._size, self._at)
        return len(view)

    def readinto(self, content: Any) -> int:
        """Read from the place: the file, under what could not be written to it."""
        view, at = memoryview(content).cast("B"), self._at
        view[:] = bytes(len(view))
        try:
            self._read_file(at, view)
        except BaseException as failure:
            self._failure = self._failure or failure
        for place, kept in self._kept:
            begin, end = max(place, at), min(place + len(kept), at + len(view))
            if begin < end:
                view[begin - at : end - at] = kept[begin - place : end - place]
        self._at = at + len(view)
        return len(view)

    def read(self, size: int = -1) -> bytes:
        """Return bytes from the place, to the end of the file or as many."""
        content = bytearray(self._size - self._at if size < 0 else size)
        self.readinto(content)
        return bytes(content)

    def truncate(self, size: int | None = None) -> int:
        """Cut or fill up to a size."""
        size = self._at if size is None else size
        self._try(os.ftruncate, self._file, size)
        self._size = size
        return size

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def _try(self, do: Callable[..., object], *given: Any) -> None:
        if self._failure is None:
            try:
                do(*given)
            except BaseException as failure:  # an interrupt, too, must not be raised into HDF5
                self._failure = failure

    def _write_file(self, at: int, view: memoryview) -> None:
        while view:
            written = os.pwrite(self._file, view, at)
            view, at = view[written:], at + written

    def _read_file(self, at: int, view: memoryview) -> None:
        found = os.pread(self._file, len(view), at)
        view[: len(found)] = found


@contextmanager
def hdf5_written(path: Path) -> Iterator[tuple[Any, Sink]]:
    """Give a new HDF5 file to write, and its sink, whose `check` may be called between two things that are written.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    import h5py

    sink = Sink(path)
    try:
        with h5py.File(sink, "w") as file:
            yield file, sink
        sink.check()
    finally:
        sink.close()


def anndata_written(adata: AnnData, path: Path, *, compression: Mapping[str, Any] | None = None) -> None:
    """Write an AnnData as .h5ad, as `AnnData.write_h5ad` does; text columns become categoricals.

    Parameters
    ----------
    adata
        The data.
    path
        The file.
    compression
        Options of every data set, as h5py has them.

    Raises
    ------
    OSError
        If the file cannot be written.
    Exception
        Of many kinds, if a slot holds what the format cannot hold.
    """
    with hdf5_written(path) as (file, sink):
        write_anndata(adata, file, sink, compression=compression)


def write_anndata(adata: AnnData, file: Any, sink: Sink, *, compression: Mapping[str, Any] | None = None) -> None:
    """Write an AnnData into an HDF5 file that `hdf5_written` gave. Parameters and errors as `anndata_written`."""
    from anndata.io import write_elem

    adata.strings_to_categoricals()
    if adata.raw is not None:
        adata.strings_to_categoricals(adata.raw.var)
    axes = {name: dict(getattr(adata, name)) for name in ("obsm", "varm", "obsp", "varp")}
    axes["layers"] = {name: adata.layers[name] for name in layer_names(adata)}
    slots = {"X": adata.X, "raw": adata.raw, "obs": adata.obs, "var": adata.var, **axes, "uns": dict(adata.uns)}
    file.attrs["encoding-type"] = "anndata"
    file.attrs["encoding-version"] = "0.1.0"
    for name, value in slots.items():
        if value is not None:
            write_elem(file, name, value, dataset_kwargs=compression or {})
            sink.check()
