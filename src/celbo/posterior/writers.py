"""Files that take a matrix block by block, with memory for one block: NumPy's own format, and HDF5."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from celbo.data.hdf5_out import hdf5_written

__all__ = ["Hdf5Writer", "NpyWriter"]

Floats = npt.NDArray[np.float32]
Names = tuple[list[str], list[str]]


class NpyWriter:
    """A `.npy` file of float32, (cells, genes) or (samples, cells, genes), written without a memory map.

    Parameters
    ----------
    path
        The file to write.
    shape
        Shape of the whole array.
    names
        Names of cells and genes; the format has no place for them.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], names: Names) -> None:
        self.shape = shape
        self.file = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype("<f4")), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.origin = self.file.tell()
        self.file.truncate(self.origin + 4 * int(np.prod(shape)))

    def __call__(self, start: int, block: Floats) -> None:
        """Write the cells from `start` on; block is (cells, genes) or (samples, cells, genes)."""
        n_cells, n_genes = self.shape[-2:]
        for sample, rows in enumerate(block.reshape(-1, *block.shape[-2:])):
            self.file.seek(self.origin + 4 * n_genes * (sample * n_cells + start))
            self.file.write(np.ascontiguousarray(rows, "<f4").data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


class Hdf5Writer:
    """An HDF5 file with `expression`, (cells, genes) or (samples, cells, genes) float32, and the names of both axes.

    Parameters as `NpyWriter`.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], names: Names) -> None:
        import h5py

        self._open = ExitStack()
        self.file, self.sink = self._open.enter_context(hdf5_written(path))
        self.expression = self.file.create_dataset("expression", shape, "float32")
        for name, values in zip(("cells", "genes"), names, strict=True):
            self.file.create_dataset(name, data=values, dtype=h5py.string_dtype())

    def __call__(self, start: int, block: Floats) -> None:
        """Write the cells from `start` on; block is (cells, genes) or (samples, cells, genes)."""
        self.expression[..., start : start + block.shape[-2], :] = block
        self.sink.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
