"""Expected expression of each gene in each cell, and new counts drawn from the posterior predictive distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from celbo.data.cells import CellData
from celbo.errors import OptionError
from celbo.files import atomic_write
from celbo.likelihoods.base import CountParameters
from celbo.posterior.stream import (
    Block,
    Network,
    Positions,
    check_batches,
    check_genes,
    check_positive,
    encoded_blocks,
    evaluating,
    latent_draws,
)
from celbo.posterior.writers import Hdf5Writer, NpyWriter

__all__ = [
    "LibrarySize",
    "check_library_size",
    "normalized_expression",
    "posterior_predictive_sample",
    "predicted_counts",
    "write_expression",
]

Floats = npt.NDArray[np.float32]
LibrarySize = float | Literal["latent"]
Receiver = Callable[[int, Floats], None]

_WRITERS: dict[str, type[NpyWriter] | type[Hdf5Writer]] = {".npy": NpyWriter, ".h5": Hdf5Writer, ".hdf5": Hdf5Writer}


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What is asked of the decoder."""

    genes: Positions | None
    codes: list[int] | None
    library_size: LibrarySize
    n_samples: int
    give_mean: bool
    return_mean: bool

    def check(self, data: CellData) -> None:
        """Raise a named error for an option that makes no sense."""
        check_positive("n_samples", self.n_samples)
        check_genes(self.genes, data)
        check_batches(self.codes, data)
        check_library_size(self.library_size)

    def shape(self, n_cells: int, n_genes: int) -> tuple[int, ...]:
        """Return the shape of the answer."""
        genes = n_genes if self.genes is None else len(self.genes)
        return (n_cells, genes) if self.return_mean else (1 if self.give_mean else self.n_samples, n_cells, genes)


def check_library_size(size: LibrarySize) -> None:
    """Raise unless a library size is a positive number or "latent"."""
    number = isinstance(size, int | float | np.number) and not isinstance(size, bool)
    if size != "latent" and not (number and np.isfinite(size) and size > 0):
        raise OptionError('is neither a positive number nor "latent"', where=f"library_size={size!r}")


def normalized_expression(
    network: Network,
    data: CellData,
    indices: Positions,
    *,
    genes: Positions | None = None,
    transform_batch: list[int] | None = None,
    library_size: LibrarySize = 1.0,
    n_samples: int = 1,
    give_mean: bool = False,
    return_mean: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
    out: Receiver | None = None,
) -> Any:
    """Return the expected expression of each gene in each cell: its share of the cell's counts, free of sampling noise.

    As in scvi-tools, values come from draws of the latent state, not from its mean: the average over `n_samples` draws
    tends to the posterior mean of the share, which the share at the mean state is not. `give_mean` decodes the mean
    state instead: no noise, and the same for any batch size.

    Parameters
    ----------
    network, data, indices
        A trained network, the cells, and the positions asked for; (n,).
    genes
        Positions of the genes to return; None is all. Shares are of all genes in any case.
    transform_batch
        Codes of the batches to decode as, averaged; None is each cell's own.
    library_size
        What the shares are multiplied by; "latent" is each cell's own library size.
    n_samples
        Draws of the latent state.
    give_mean
        Decode the mean of q(z | x) instead of draws.
    return_mean
        Average over the draws; False keeps them.
    batch_size
        Cells at a time; None is as many as fit the memory bound.
    seed
        Seed of the draws. They also depend on the cells asked for and on the batch size.
    out
        Receives each block of cells as it is made, `out(start, block)`, in order; then nothing is returned or kept.

    Returns
    -------
    float32, in counts per `library_size`: (n, genes), or (n_samples, n, genes) with `return_mean=False`.
    """
    asked = _Request(
        genes=None if genes is None else np.asarray(genes, np.int64),
        codes=transform_batch,
        library_size=library_size,
        n_samples=n_samples,
        give_mean=give_mean,
        return_mean=return_mean,
    )
    asked.check(data)
    result: Floats | None = None if out else np.empty(asked.shape(len(indices), data.n_genes), np.float32)
    with evaluating(network):
        for block in encoded_blocks(network, data, indices, batch_size=batch_size, seed=seed):
            values = _expression(network, block, asked)
            if out is not None:
                out(block.start, values)
            elif result is not None:
                result[..., block.start : block.stop, :] = values
    return result


def write_expression(
    network: Network,
    data: CellData,
    indices: Positions,
    path: Path,
    *,
    genes: Positions | None = None,
    transform_batch: list[int] | None = None,
    library_size: LibrarySize = 1.0,
    n_samples: int = 1,
    give_mean: bool = False,
    return_mean: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
) -> Path:
    """Stream the expected expression into a file, block by block; parameters as `normalized_expression`.

    Parameters
    ----------
    path
        A `.npy` file, or an HDF5 file (`.h5`, `.hdf5`) with the datasets `expression`, `cells` and `genes`. It appears
        whole or not at all.

    Returns
    -------
    The path.

    Raises
    ------
    OptionError
        If the ending of the path is another.
    WriteError
        If the file cannot be written.
    """
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise OptionError("has an unknown ending", where=f"path={str(path)!r}", fix="Use .npy, .h5 or .hdf5.")
    columns = np.arange(data.n_genes) if genes is None else np.asarray(genes, np.int64)
    check_genes(columns, data)
    shape = (len(indices), len(columns)) if return_mean else (1 if give_mean else n_samples, len(indices), len(columns))
    names = ([str(data.cell_names[i]) for i in indices], [data.schema.genes[g] for g in columns])
    with atomic_write(path) as temporary, writer(temporary, shape, names) as receive:
        normalized_expression(
            network,
            data,
            indices,
            genes=columns,
            transform_batch=transform_batch,
            library_size=library_size,
            n_samples=n_samples,
            give_mean=give_mean,
            return_mean=return_mean,
            batch_size=batch_size,
            seed=seed,
            out=receive,
        )
    return path


def posterior_predictive_sample(
    network: Network,
    data: CellData,
    indices: Positions,
    *,
    genes: Positions | None = None,
    n_samples: int = 1,
    batch_size: int | None = None,
    seed: int = 0,
) -> Any:
    """Draw new counts for each cell from p(x' | x) = E_q[p(x' | z, l)]: each sample has its own draw of z and l.

    Parameters
    ----------
    network, data, indices
        A trained network, the cells, and the positions asked for; (n,).
    genes
        Positions of the genes to return; None is all.
    n_samples
        Samples of each cell.
    batch_size
        Cells at a time; None is as many as fit the memory bound.
    seed
        Seed of the draws. They also depend on the cells asked for and on the batch size.

    Returns
    -------
    float32 CSR matrix of counts, (n, genes); a list of them for several samples.
    """
    check_positive("n_samples", n_samples)
    check_genes(genes, data)
    parts: list[list[sparse.csr_matrix]] = [[] for _ in range(n_samples)]
    with evaluating(network):
        for block in encoded_blocks(network, data, indices, batch_size=batch_size, seed=seed):
            for number, counts in enumerate(predicted_counts(network, block, n_samples)):
                parts[number].append(sparse.csr_matrix(counts if genes is None else counts[:, genes]))
    matrices = [sparse.vstack(blocks, format="csr", dtype=np.float32) for blocks in parts]
    return matrices[0] if n_samples == 1 else matrices


def predicted_counts(network: Network, block: Block, n_samples: int) -> Iterator[Floats]:
    """Yield one (cells, genes) array of drawn counts for each sample. Call it inside `evaluating`."""
    for z, log_library in latent_draws(network, block, n_samples):
        drawn = network.likelihood.sample(network.decode(z, log_library, block.batch), block.generator)
        yield from drawn.to("cpu", torch.float32).numpy()


def _mean_draw(network: Network, block: Block) -> tuple[Tensor, Tensor]:
    """Return the posterior means of z and of the log library size, shaped like one draw."""
    if block.latent.library is not None:
        return block.latent.z.mean[None], block.latent.library.mean[None, ..., 0]
    _, log_library = network.sample_latent(block.latent, block.batch, 1, block.generator)
    return block.latent.z.mean[None], log_library


def _expression(network: Network, block: Block, asked: _Request) -> Floats:
    """Return what was asked about the cells of a block: (cells, genes) or (samples, cells, genes)."""
    draws = iter([_mean_draw(network, block)]) if asked.give_mean else latent_draws(network, block, asked.n_samples)
    if not asked.return_mean:
        return np.concatenate([_numpy(_decoded(network, block, z, size, asked)) for z, size in draws])
    total, n_draws = None, 0
    for z, log_library in draws:
        values = _decoded(network, block, z, log_library, asked).sum(0)
        total, n_draws = values if total is None else total + values, n_draws + z.shape[0]
    assert total is not None  # at least one draw
    return _numpy(total / n_draws)


def _decoded(network: Network, block: Block, z: Tensor, log_library: Tensor, asked: _Request) -> Tensor:
    """Decode draws under the batches asked for and average over these; (samples, cells, genes)."""
    batches = [block.batch] if asked.codes is None else [block.batch.with_batch(code) for code in asked.codes]
    values = _scaled(network.decode(z, log_library, batches[0]), asked)
    for batch in batches[1:]:
        values += _scaled(network.decode(z, log_library, batch), asked)
    return values / len(batches)


def _scaled(parameters: CountParameters, asked: _Request) -> Tensor:
    log_share = parameters.log_share
    if asked.genes is not None:
        log_share = log_share[..., torch.as_tensor(asked.genes, device=log_share.device)]
    if asked.library_size == "latent":
        return (log_share + parameters.log_scale.unsqueeze(-1)).exp()
    return log_share.exp() * asked.library_size


def _numpy(values: Tensor) -> Floats:
    out: Floats = values.to("cpu", torch.float32).numpy()
    return out
