"""celbo embed: a classical reduction of the cells of a file."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from cyclopts import Parameter

from celbo.cli.options import DEFAULT_LOG, LogOptions, Switch, logged
from celbo.data.schema import Orientation
from celbo.errors import OptionError, listed, say

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EmbedOptions", "embed"]


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """The options of the methods; what is not given has the default of the method."""

    layer: str | None = None
    """Layer with the counts; by default X."""
    round_counts: Switch = False
    """Round decimals (of SoupX, decontX, RSEM, EM counts) to the nearest whole numbers."""
    use_rep: str | None = None
    """Slot of obsm, such as X_scvi, to reduce instead of the counts."""
    n_top_genes: int | None = None
    """Most variable genes to take; 0 is all. Default 2000."""
    n_components: int | None = None
    """Dimensions of the result."""
    n_pcs: int | None = None
    """Principal components in which neighbours are looked for. Default 50."""
    perplexity: float | None = None
    """tsne: effective number of neighbours. Default 30."""
    exaggeration: float | None = None
    """tsne: factor of the attraction in the main phase."""
    learning_rate: float | None = None
    """tsne: by default cells / exaggeration, at least 200."""
    n_jobs: int | None = None
    """tsne: threads; with more than one the same seed may give another map."""
    n_neighbors: int | None = None
    """umap, forceatlas2, diffusion_map: neighbours of a cell, itself among them. Default 15."""
    min_dist: float | None = None
    """umap: smallest distance between points. Default 0.1."""
    spread: float | None = None
    """umap: scale of the map. Default 1."""
    metric: Literal["euclidean", "cosine", "correlation", "manhattan"] | None = None
    """umap: distance between cells."""
    n_epochs: int | None = None
    """umap: passes over the edges."""
    init: Literal["pca", "spectral", "random"] | None = None
    """tsne, umap, forceatlas2: first positions."""
    n_iter: int | None = None
    """tsne, forceatlas2: iterations. Default 500."""
    gravity: float | None = None
    """forceatlas2: pull to the middle. Default 1."""
    scaling: float | None = None
    """forceatlas2: strength of the pushing. Default 2."""
    strong_gravity: Switch = False
    """forceatlas2: the pull grows with the distance."""
    eigenvectors: Literal["symmetric", "right"] | None = None
    """diffusion_map: of the symmetric transitions, or the right ones of the random walk."""
    drop_trivial: Switch = False
    """diffusion_map: leave out the first component, which is constant."""
    contrast: Literal["logcosh", "exp", "cube"] | None = None
    """ica: how non-Gaussianity is measured."""
    max_iter: int | None = None
    """ica, factor_analysis: iterations at most."""
    key_added: str | None = None
    """Name of the slot; by default the usual one."""
    seed: int = 0
    """Seed of everything that is random."""


_DEFAULT = EmbedOptions()
MethodName = Literal["pca", "ica", "factor_analysis", "tsne", "umap", "forceatlas2", "diffusion_map"]


def embed(
    *data: str,
    method: MethodName | None = None,
    out: Path | None = None,
    orientation: Orientation = "auto",
    options: Annotated[EmbedOptions, Parameter(name="*")] = _DEFAULT,
    log: Annotated[LogOptions, Parameter(name="*")] = DEFAULT_LOG,
) -> int:
    """Reduce cells to a few coordinates: PCA, ICA, factor analysis, t-SNE, UMAP, ForceAtlas2 or a diffusion map.

    Counts are scaled to the median total, logged and cut to the most variable genes. An option that the method does
    not have is refused.

    Parameters
    ----------
    data
        Files of counts; several are joined. The method may stand before them: celbo embed tsne counts.h5ad.
    method
        The reduction; by default umap.
    out
        .h5ad for the data with the slot (X_umap, ...); .csv, .tsv or .parquet for a table of the coordinates. By
        default a table, METHOD.csv.
    orientation
        What the rows of a text table (.csv, .tsv, .txt) are; auto tells by their names.
    options
        See `EmbedOptions`.
    log
        See `LogOptions`.
    """
    from celbo.data.decimals import with_rounded_layer
    from celbo.data.read import read
    from celbo.embed import METHODS
    from celbo.embed.methods import key_beside
    from celbo.results import refuse_inputs, write_frame, write_h5ad

    name, data = _named_method(method, data)
    if not data:
        raise OptionError("names no file", where="celbo embed", fix="Name at least one file of counts.")
    file = Path(f"{name}.csv") if out is None else out
    if file.suffix not in {".h5ad", ".csv", ".tsv", ".parquet"}:
        raise OptionError("has an unknown ending", where=f"{str(file)!r}", fix="Use .h5ad, .csv, .tsv or .parquet.")
    refuse_inputs(file, "", data)
    given = _of_method(name, {**asdict(options), "round_counts": False})
    with logged(log):
        adata = read(data[0] if len(data) == 1 else data, orientation=orientation)
        if options.round_counts:
            given["layer"], _ = with_rounded_layer(adata, options.layer)
        if file.suffix == ".h5ad":
            given["key_added"] = key_beside(adata, name, key_added=given.get("key_added"))
        key = METHODS[name](adata, **given).key
        if file.suffix == ".h5ad":
            write_h5ad(adata, file)
        else:
            write_frame(_table(adata.obs_names, key, adata.obsm[key]), file)
    say(file)
    return 0


def _named_method(method: str | None, data: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the method and the files: a first word that is no file but a method names it, as in `celbo denoise`."""
    first = data[0] if data and not Path(data[0]).exists() else ""
    if first not in get_args(MethodName):
        return method or "umap", data
    if method not in (None, first):
        fix = "Name the method once."
        raise OptionError("names two methods", where="celbo embed", value=f"{first} and --method {method}", fix=fix)
    return first, data[1:]


def _of_method(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, once they are known to be the method's."""
    from celbo.embed import METHODS

    given = {name: value for name, value in options.items() if value is not None and value is not False}
    known = inspect.signature(METHODS[method]).parameters
    for name in given:
        if name not in known:
            has = listed([_flag(option) for option in known if option in options], limit=30)
            raise OptionError(f"is not an option of {method}", where=_flag(name), fix=f"It has {has}.")
    if given.get("n_top_genes") == 0:
        given["n_top_genes"] = None
    return given


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _table(cells: pd.Index[Any], key: str, coordinates: Any) -> pd.DataFrame:
    """Return coordinates with one row a cell and columns such as umap_1, umap_2."""
    import pandas as pd

    columns = [f"{key.removeprefix('X_')}_{i}" for i in range(1, coordinates.shape[1] + 1)]
    return pd.DataFrame(coordinates, index=pd.Index(cells, name="cell"), columns=columns)
