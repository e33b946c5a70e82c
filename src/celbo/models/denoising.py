"""What one asks of every model that says what the counts would be without noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from celbo.models.options import Indices, gene_positions

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Denoising"]


class Denoising:
    """Adds `get_denoised_expression` to a model; its network has `denoise`, or a likelihood and a decoder."""

    def get_denoised_expression(
        self,
        adata: AnnData | None = None,
        *,
        indices: Indices = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["observed"] = "observed",
        zero_inflation: bool = False,
        n_samples: int = 10,
        return_numpy: bool = False,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Return the expected counts of each gene in each cell, free of sampling noise.

        Parameters
        ----------
        adata, indices
            The cells; see `get_latent_representation`.
        gene_list
            Names of the genes to return; None is all.
        library_size
            "observed": at each cell's own depth. A number: scaled to this total.
        zero_inflation
            Whether to include the zeros of a zero-inflated likelihood: what would be observed, not what was there.
        n_samples
            Draws of the latent state of each cell that are averaged; a deterministic model takes none.
        return_numpy
            Return an array instead of a DataFrame indexed by cell and gene names.
        batch_size
            Cells at a time.
        seed
            Seed of the draws; None is the model's.

        Returns
        -------
        DataFrame (cells, genes), or a float32 array; in counts.
        """
        from celbo.posterior.denoised import denoised_expression

        model: Any = self
        data, index = model._asked(adata, indices)
        genes = gene_positions(gene_list, model.schema)
        values = denoised_expression(
            model.network,
            data,
            index,
            genes=genes,
            library_size=library_size,
            zero_inflation=zero_inflation,
            n_samples=n_samples,
            batch_size=batch_size,
            seed=model.seed if seed is None else seed,
        )
        if return_numpy:
            return values
        names = np.asarray(model.schema.genes)
        cells = np.asarray(data.cell_names)[index]
        return pd.DataFrame(values, index=cells, columns=names if genes is None else names[genes])
