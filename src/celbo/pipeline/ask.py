"""What one asks of a saved model from the command line: latent states, expected expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from celbo import results
from celbo.data.read import read
from celbo.data.schema import Orientation
from celbo.errors import OptionError
from celbo.models.base import CountModel, DenoisingModel, Model
from celbo.models.options import batch_codes, gene_positions
from celbo.models.store import load
from celbo.pipeline.place import settle
from celbo.pipeline.steps import BUILT_IN
from celbo.posterior.expression import normalized_expression, write_expression

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Asked", "latent_table", "write_denoised"]


@dataclass(frozen=True)
class Asked:
    """A saved model with cells."""

    model: Model[Any]
    adata: AnnData

    @classmethod
    def open(
        cls, model: str | Path, data: Sequence[str], *, layer: str | None = None, orientation: Orientation = "auto"
    ) -> Asked:
        """Load a model, or the model in the folder of a run, and bind cells to it.

        Parameters
        ----------
        model
            Folder of a model or of a run.
        data
            Files of counts; none takes the `result.h5ad` of the run.
        layer
            Layer with the counts of these files, "X" for X; None as in `celbo.load`.
        orientation
            What the rows of a text table are.

        Raises
        ------
        OptionError
            If no file is named and the folder is not that of a run.
        InputError
            If the model or the files cannot be read, or do not fit each other.
        """
        folder = Path(model)
        settle(folder)
        names = list(data) or [str(folder / "result.h5ad")]
        if not data and not (folder / "result.h5ad").exists():
            raise OptionError("are missing", where="the cells", fix="Name a file of counts after the model.")
        if not (folder / "model.json").exists() and (folder / "model" / "model.json").exists():
            folder = folder / "model"
        if names[0] in BUILT_IN:
            adata = BUILT_IN[names[0]]()
        else:
            adata = read(names if len(names) > 1 else names[0], orientation=orientation)
        return cls(load(folder, adata, layer=layer), adata)

    @property
    def count_model(self) -> CountModel[Any]:
        """The model, once it is known to have a posterior of expression."""
        if not isinstance(self.model, CountModel):
            fix = (
                "Take a model such as scvi, ldvae, scvae or vae; celbo latent and celbo denoise work with every model."
            )
            raise OptionError("has no posterior of expression", where=type(self.model).__name__, fix=fix)
        return self.model


def latent_table(asked: Asked) -> pd.DataFrame:
    """Return the latent state of each cell, (cells, latent), indexed by cell names."""
    latent = asked.model.get_latent_representation()
    names = [f"latent_{i + 1}" for i in range(latent.shape[1])]
    return pd.DataFrame(latent, index=pd.Index(asked.adata.obs_names.astype(str), name="cell"), columns=names)


def write_denoised(
    asked: Asked,
    path: Path,
    *,
    genes: Sequence[str] | None = None,
    transform_batch: Sequence[str] = (),
    library_size: float | Literal["latent", "observed"] | None = None,
    n_samples: int = 1,
    seed: int = 0,
) -> Path:
    """Stream the expected expression of each gene in each cell into a file, with bounded memory.

    Of a model with a posterior of expression that is the share of each gene times `library_size`; of another, such as
    an autoencoder, its expected counts.

    Parameters
    ----------
    asked
        The model with the cells.
    path
        .h5ad (with `obs` and the gene names), .npy or .h5.
    genes
        Names of the genes; None is all that the model knows.
    transform_batch
        Batches to decode as, averaged; none is each cell's own.
    library_size
        The total of a cell: a number, "latent" for the cell's own library size in the model, "observed" for its own
        total. None is 1 for a model with a posterior of expression, and "observed" for another.
    n_samples
        Draws of the latent state, averaged.
    seed
        Seed of the draws.
    """
    model: Any = asked.model
    if not issubclass(type(model), DenoisingModel):
        raise OptionError("does not return expected counts", where=type(model).__name__, fix="Take another model.")
    assert model.data is not None  # it was loaded with cells
    chosen = gene_positions(genes, model.schema)
    codes = batch_codes(list(transform_batch), model.schema) if transform_batch else None
    index = np.arange(model.data.n_cells)
    if not isinstance(model, CountModel) or library_size == "observed":
        return _write_counts(asked, path, chosen, library_size=library_size, batches=codes, seed=seed)
    library_size = 1.0 if library_size is None else library_size
    if path.suffix.lower() != ".h5ad":
        return write_expression(
            model.network, model.data, index, path, genes=chosen, transform_batch=codes,
            library_size=library_size, n_samples=n_samples, seed=seed,
        )  # fmt: skip
    names = np.asarray(model.schema.genes)
    var = pd.DataFrame(index=pd.Index(names if chosen is None else names[chosen]))
    note = {"values": "expected expression", "library_size": str(library_size), "seed": seed}
    with results.write_matrix_h5ad(path, obs=asked.adata.obs, var=var, note=note) as write:
        normalized_expression(
            model.network, model.data, index, genes=chosen, transform_batch=codes,
            library_size=library_size, n_samples=n_samples, seed=seed, out=write,
        )  # fmt: skip
    return path


def _write_counts(
    asked: Asked, path: Path, genes: Any, *, library_size: Any, batches: list[int] | None, seed: int
) -> Path:
    """Write the expected counts of every cell as .h5ad."""
    model: Any = asked.model
    if batches is not None or library_size == "latent":
        which = "transform_batch" if batches is not None else "library_size='latent'"
        raise OptionError("is only for a model with a posterior of expression", where=which, fix="Leave it out.")
    if path.suffix.lower() != ".h5ad":
        raise OptionError("has another ending than .h5ad", where=f"{str(path)!r}", fix="Give --out NAME.h5ad.")
    names = np.asarray(model.schema.genes)
    names = names if genes is None else names[genes]
    size = library_size or "observed"
    note = {"values": "expected counts", "library_size": str(size), "seed": seed}
    with results.write_matrix_h5ad(path, obs=asked.adata.obs, var=pd.DataFrame(index=names), note=note) as write:
        for start in range(0, model.data.n_cells, _CELLS):
            index = np.arange(start, min(start + _CELLS, model.data.n_cells))
            write(
                start,
                model.get_denoised_expression(
                    indices=index, gene_list=list(names), library_size=size, return_numpy=True, seed=seed
                ),
            )
    return path


_CELLS = 2048
"""Cells denoised and written at a time."""
