"""celbo latent and denoise: what one asks of a saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from celbo.cli.options import DEFAULT_LOG, LogOptions, Switch, logged
from celbo.data.schema import Orientation
from celbo.errors import say

__all__ = ["denoise", "latent"]

Log = Annotated[LogOptions, Parameter(name="*")]


def latent(
    model: Path,
    *data: str,
    out: Path = Path("latent.csv"),
    layer: str | None = None,
    orientation: Orientation = "auto",
    log: Log = DEFAULT_LOG,
) -> int:
    """Write the latent state of each cell as a table.

    Parameters
    ----------
    model
        Folder of a model or of a run.
    data
        Files of counts; by default the cells of the run.
    out
        Table to write: .csv, .tsv or .parquet.
    layer
        Layer with the counts, X for X; by default that of the model, or X where it is missing.
    orientation
        What the rows of a text table (.csv, .tsv, .txt) are; auto tells by their names.
    log
        See `LogOptions`.
    """
    from celbo.pipeline.ask import Asked, latent_table
    from celbo.results import refuse_inputs, write_frame

    refuse_inputs(out, model, data)
    with logged(log):
        write_frame(latent_table(Asked.open(model, data, layer=layer, orientation=orientation)), out)
    say(out)
    return 0


def denoise(
    model: str,
    *data: str,
    out: Path = Path("denoised.h5ad"),
    genes: Path | None = None,
    transform_batch: tuple[str, ...] = (),
    library_size: float | Literal["latent", "observed"] | None = None,
    n_samples: int = 1,
    evaluate: Switch = False,
    layer: str | None = None,
    batch_key: str | None = None,
    round_counts: Switch = False,
    orientation: Orientation = "auto",
    seed: int = 0,
    log: Log = DEFAULT_LOG,
) -> int:
    """Write the expected expression of each gene in each cell, streamed to a file.

    With --evaluate nothing is written but a table of scores on molecules that the method has not seen (.csv, .tsv or
    .parquet): it is fitted again to nine tenths of the molecules, and judged by the others.

    Parameters
    ----------
    model
        Folder of a model or of a run; or a method to fit first: scvi, ldvae, scvae, vae, dca, autoimpute, autoencoder,
        hpf or knn. Several, with commas, for --evaluate.
    data
        Files of counts; by default the cells of the run.
    out
        File to write: .h5ad, .npy or .h5.
    genes
        File with the genes to write, one name a line; by default all that the model knows.
    transform_batch
        Batch to decode as; given several times, their average. By default each cell's own.
    library_size
        Total of a cell: a number, "latent" for the cell's library size in the model, "observed" for its own total.
        By default 1 for models of shares, and "observed" for others and for methods that are fitted here.
    n_samples
        Draws of the latent state, averaged.
    evaluate
        Score the methods instead.
    layer
        Layer with the counts, X for X; by default that of the model, or X where it is missing or a method is fitted.
    batch_key
        Column of obs with the batch, for a method that is fitted here.
    round_counts
        Round decimals (of SoupX, decontX, RSEM, EM counts) to the nearest whole numbers, for a method that is fitted
        here; a model that was trained with it rounds by itself.
    orientation
        What the rows of a text table (.csv, .tsv, .txt) are; auto tells by their names.
    seed
        Seed of the draws, and of a fit.
    log
        See `LogOptions`.
    """
    from celbo.pipeline.ask import Asked, write_denoised
    from celbo.pipeline.config import read_genes
    from celbo.pipeline.denoise import DENOISERS, denoise_files
    from celbo.results import refuse_inputs

    refuse_inputs(out, model, data)
    methods = model.split(",")
    fitted_here = not Path(model).exists() and (evaluate or methods[0] in DENOISERS)
    if evaluate or fitted_here:
        with logged(log):
            told = denoise_files(
                data,
                methods,
                out=out,
                layer=layer,
                batch_key=batch_key,
                round_counts=round_counts,
                orientation=orientation,
                evaluate=evaluate,
                genes=genes,
                seed=seed,
            )
        say(told)
        return 0
    with logged(log):
        write_denoised(
            Asked.open(model, data, layer=layer, orientation=orientation),
            out,
            genes=None if genes is None else read_genes(genes),
            transform_batch=transform_batch,
            library_size=library_size,
            n_samples=n_samples,
            seed=seed,
        )
    say(out)
    return 0
