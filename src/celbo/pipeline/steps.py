"""The steps of the main job: what each takes and what it leaves in the AnnData of the run."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from celbo import results
from celbo.data.check import check, count_matrix_of
from celbo.data.datasets import pbmc, pbmc_two_runs, simulate
from celbo.data.decimals import with_rounded_layer
from celbo.data.genes import filter_cells, select_genes
from celbo.data.matrix import layer_names
from celbo.data.read import read
from celbo.data.schema import DataKeys
from celbo.data.writable import make_writable
from celbo.embed.neighbours import write_neighbours
from celbo.errors import CelboError, CelboWarning, InputError, OptionError, logger_of
from celbo.models.base import CountModel, Model
from celbo.models.options import requires_counts
from celbo.models.store import load
from celbo.pipeline.config import RunConfig, TrainRunConfig, default_plan, preset_plan, read_genes, system
from celbo.pipeline.folder import ConfigT, RunFolder
from celbo.pipeline.resolutions import leiden_codes
from celbo.pipeline.slots import Slots
from celbo.training.checkpoint import remove_checkpoints
from celbo.training.plan import TrainConfig

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "BUILT_IN",
    "DOUBLE_DIPPING",
    "Job",
    "clusters_compared",
    "counts_of",
    "embed",
    "highest",
    "lognorm",
    "markers_of",
    "no_markers",
    "opened",
    "trained",
]

_log = logger_of("celbo.pipeline")

Floats = NDArray[np.floating[Any]]
T = TypeVar("T")
BUILT_IN: dict[str, Callable[[], AnnData]] = {
    "demo:pbmc": pbmc,
    "demo:pbmc_two_runs": pbmc_two_runs,
    "demo:simulated": lambda: simulate(n_cells=3000, n_genes=1000, n_batches=3, n_cell_types=8, seed=0),
}
"""Data that come with celbo, by the name they have in place of a file."""
DOUBLE_DIPPING = (
    "The clusters were found in these same cells, by the same counts, so the probabilities between them are "
    "optimistic: take them as a ranking of genes, and test what matters in other cells."
)
"""What everybody should know who compares clusters."""
_NO_COUNTS = "The values are no counts, so the probabilities of marker genes are those of the model, not calibrated."
_MOST_DRAWS = 200_000
"""Cells decoded of all groups together when marker genes are looked for: what bounds the time."""
_FEWEST_CELLS = 2
_FEWEST_SPECTRAL = 3
"""Cells beyond which there are enough eigenvectors to start a map with."""
_MAY_LOSE = 0.05
"""Share of the cells that may be left out for want of counts of the chosen genes; more is an error."""


@dataclass
class Job(Generic[ConfigT]):
    """One run under way."""

    folder: RunFolder[ConfigT]
    progress: bool | None
    raw_is_x: bool = False
    """Whether `adata.raw` was taken as the AnnData of the run, so that its counts are in `X` now."""
    rounded: str | None = None
    """Layer that rounded counts were written to, which the run then reads; what was rounded stays where it is."""
    warnings: list[str] = field(default_factory=list)
    """What the user should know, one sentence each; shown in the report."""
    notes: list[str] = field(default_factory=list)
    """What the user should know without being warned, one sentence each; shown in the report."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds by step."""
    failures: dict[str, Exception] = field(default_factory=dict)
    """What was raised in the parts that failed, by the name of the part."""
    named: Slots | None = None
    """The slots of the result, once the data are read."""

    @property
    def slots(self) -> Slots:
        """The slots of the result."""
        assert self.named is not None  # data are read before anything is written into them
        return self.named

    @property
    def config(self) -> ConfigT:
        """The options of the run."""
        return self.folder.config

    @property
    def keys(self) -> DataKeys:
        """Where the counts and columns are in the AnnData of the run."""
        return self.model_keys if self.rounded is None else replace(self.model_keys, layer=self.rounded)

    @property
    def model_keys(self) -> DataKeys:
        """The same for the model, which rounds what it reads itself: new cells have no layer of rounded counts."""
        keys: DataKeys = self.config.keys
        return replace(keys, layer=None) if self.raw_is_x else keys

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step; log its end, and what celbo warned of. The warnings of other packages are not the user's."""
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", CelboWarning)
            yield
        for warning in caught:
            self.warn(str(warning.message))
        self.seconds[name] = time.perf_counter() - start
        _log.info("%s: %.1f s", name, self.seconds[name], extra={"step": name, "seconds": self.seconds[name]})

    def warn(self, message: str) -> None:
        """Keep and log a warning, once."""
        if message not in self.warnings:
            self.warnings.append(message)
            _log.warning("%s", message)

    def note(self, message: str, *, log: bool = True) -> None:
        """Keep what the user should know for the report, once; log it unless the report is enough."""
        if message not in self.notes:
            self.notes.append(message)
            if log:
                _log.info("%s", message)

    def attempt(self, part: str, make: Callable[[], T], *, lost: str) -> T | None:
        """Return what a part of the work makes; where it fails, None, and a warning that says what that costs.

        The other parts go on without it: a model that took hours to train is worth its report without a map.

        Parameters
        ----------
        part
            What is made, as the warning calls it, such as "The map of the cells".
        make
            Makes it.
        lost
            What is missing without it, as the warning says it.
        """
        try:
            return make()
        except Exception as error:
            if os.environ.get("CELBO_DEBUG"):
                raise
            self.failures[part] = error
            reason = str(error) if isinstance(error, CelboError) else f"{type(error).__name__}: {error}"
            self.warn(f"{part} could not be made: {_sentence(reason)} So {lost}.")
            return None


def _sentence(text: str) -> str:
    """Return an error's text as one line that ends as a sentence does."""
    line = " ".join(text.split())[:400].rstrip()
    return line if line.endswith((".", "!", "?")) else f"{line}."


# ------------------------------------------------------------------------------------------------- data and training


def trained(job: Job[Any], given: AnnData | None) -> tuple[AnnData, Model[Any]]:
    """Read, check, choose the genes and train.

    Returns
    -------
    All genes of the cells kept, and the trained model.
    """
    with job.step("reading and checking"):
        adata = _rounded(job, _with_raw(job, opened(job.config, given)))
        _name_slots(job, adata)
        adata = _checked(job, adata)
        if isinstance(job.config, RunConfig):  # training alone writes no AnnData
            _prepare_result(job, adata)
    with job.step("choosing genes"):
        adata = _select(job, adata)
        if isinstance(job.config, RunConfig) and adata.n_obs < _FEWEST_CELLS:
            fix = "Neighbours, clusters and a map need two. Give more cells, or train alone (celbo train)."
            raise InputError("holds a single cell", where="the data", fix=fix)
    with job.step("training"):
        model = _model(job, adata[:, adata.var[job.slots.genes].to_numpy(bool)])
    return adata, model


def opened(config: TrainRunConfig, given: AnnData | None) -> AnnData:
    """Return cells that may be altered: a copy of the AnnData given, or what the files hold."""
    if given is not None:
        return given.to_memory() if given.isbacked else given.copy()
    if not config.data:
        raise OptionError("are missing", where="the data", fix="Name at least one file of counts.")
    if len(config.data) == 1 and config.data[0] in BUILT_IN:
        return BUILT_IN[config.data[0]]()
    return read(config.data[0] if len(config.data) == 1 else config.data, orientation=config.orientation)


def _with_raw(job: Job[Any], adata: AnnData) -> AnnData:
    """Return `adata.raw` with everything else of the cells where it holds the counts: it may have more genes."""
    layer = job.config.keys.layer
    if layer != "raw" or "raw" in adata.layers or adata.raw is None:
        return adata
    job.raw_is_x = True
    full = adata.raw.to_adata()
    full.var_names = full.var_names.astype(str)
    lost = ["X", *(f"layers[{name!r}]" for name in layer_names(adata)), *(f"var[{name!r}]" for name in adata.var)]
    job.note(
        f"The genes and counts are those of raw; the result is without these slots of the file: {', '.join(lost)}."
    )
    return full


def _rounded(job: Job[Any], adata: AnnData) -> AnnData:
    """Write rounded counts into a layer of their own, where the user asked for that and the values have decimals."""
    if job.config.keys.round_counts:
        name, told = with_rounded_layer(adata, job.keys.layer)
        if told:
            job.rounded = name
            job.warn(f"Rounded the counts to whole numbers, into the layer {name!r}: {told}.")
    return adata


def _name_slots(job: Job[Any], adata: AnnData) -> None:
    """Find names for the slots of the result that nothing in the data has."""
    config, keys = job.config, job.config.keys
    named = [key for key in asdict(keys).values() if isinstance(key, str)]
    named += [*keys.categorical_covariate_keys, *keys.continuous_covariate_keys]
    job.named = Slots.of(adata, model=config.model, kept=named)


def _prepare_result(job: Job[Any], adata: AnnData) -> None:
    """Make the data writable to the end of the run, and say which slots of it are not the usual ones."""
    for text in make_writable(adata):
        job.warn(text)
    if renamed := job.slots.renamed(job.config.model):
        places = ", ".join(f"{ours} in place of {usual}" for usual, ours in renamed.items())
        job.note(f"Slots that the data have stay as they are; the run writes {places}.")


def _checked(job: Job[Any], adata: AnnData) -> AnnData:
    """Check the counts and the columns, note the warnings, and leave out the cells that the user asked to."""
    config = job.config
    choice = config.selection
    wanted = {
        "min_counts": choice.min_counts,
        "min_genes": choice.min_genes,
        "max_percent_mito": choice.max_percent_mito,
    }
    if any(value is not None for value in wanted.values()):
        before = adata.n_obs
        theirs = adata.uns.pop("filter_cells", None)
        adata = filter_cells(adata, layer=job.keys.layer, **wanted)
        adata.uns[job.slots.filter] = adata.uns.pop("filter_cells")
        if theirs is not None:
            adata.uns["filter_cells"] = theirs
        job.warn(f"Quality filters left out {before - adata.n_obs:,} of {before:,} cells.")
    found = check(adata, **asdict(job.keys), require_counts=requires_counts(config.network))
    for finding in found.warnings:
        job.warn(finding.message)
    for finding in found.notes:
        job.note(finding.message, log=False)
    found.raise_if_bad()
    return adata


def _select(job: Job[Any], adata: AnnData) -> AnnData:
    """Mark the genes to train on in a column of `var`, and return the cells that have a count of them."""
    choice, keys, slot = job.config.selection, job.keys, job.slots.genes
    keep = () if choice.keep_genes is None else read_genes(choice.keep_genes, "--keep-genes")
    if choice.genes is not None:
        select_genes(adata, genes=read_genes(choice.genes), keep=keep, layer=keys.layer, key_added=slot)
    elif choice.n_top_genes == 0 or choice.n_top_genes >= adata.n_vars:
        adata.var[slot] = True
    else:
        wanted = {"n_top_genes": choice.n_top_genes, "batch_key": keys.batch_key, "layer": keys.layer}
        select_genes(adata, **wanted, keep=keep, key_added=slot)
    used = adata.var[slot].to_numpy(bool)
    _log.info("%d cells, %d genes, %d of them to train on", adata.n_obs, adata.n_vars, used.sum())
    seen = np.asarray(counts_of(adata, keys.layer)[:, used].sum(1)).ravel() != 0
    lost = int((~seen).sum())
    if not 0 < lost <= _MAY_LOSE * adata.n_obs:
        return adata
    job.warn(f"Left out {lost:,} of {adata.n_obs:,} cells: they have no count of the {used.sum():,} genes to train on.")
    return adata[seen].copy()


def _model(job: Job[Any], used: AnnData) -> Model[Any]:
    """Train the model, or load it where an earlier part of this run has saved it."""
    config, folder = job.config, job.folder
    model: Model[Any]
    if folder.goes_on and (folder.model / "model.json").exists():
        _log.info("the model was trained already")
        with _without_warnings(), folder.made():
            model = load(folder.model, used)
        remove_checkpoints(folder.checkpoint)
        return model
    with _without_warnings():
        kind = system(config.model)
        model = kind(used, config=config.network, seed=config.seed, **asdict(job.model_keys))
    plan = _plan(config, model, used.shape)
    with folder.made():
        model.train(
            plan, device=config.device, progress=job.progress, checkpoint_dir=folder.checkpoint, resume=folder.goes_on
        )
        if model.fitted is not None and model.fitted.stopped == "interrupted":
            raise KeyboardInterrupt(folder.after_interrupt())
        model.save(folder.model, overwrite=True)
    remove_checkpoints(folder.checkpoint)
    return model


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Say nothing of the chosen genes: all of them were checked before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CelboWarning)
        yield


def _plan(config: TrainRunConfig, model: Model[Any], shape: tuple[int, int]) -> TrainConfig:
    """Return the plan to train by: that of a preset or of a model may depend on the number of cells."""
    usual = default_plan(type(model), config.network)
    plan = (
        None if config.preset is None else preset_plan(config.model, config.preset, n_cells=shape[0], n_genes=shape[1])
    )
    pairs = ((f.name, getattr(config.train, f.name)) for f in fields(TrainConfig))
    given = {name: value for name, value in pairs if value != getattr(usual, name)}
    return replace(plan or model.default_plan(), **given)


# ------------------------------------------------------------------------------------------------- clusters and maps


def embed(adata: AnnData, model: Model[Any], job: Job[RunConfig]) -> None:
    """Write the latent space, its graph, clusters and map, and the map before the model, into the slots of the result.

    What cannot be made is not written, and the job has a warning.
    """
    slots, config = job.slots, job.config
    latent = job.attempt(
        "The latent space", model.get_latent_representation, lost="there are no clusters, map and marker genes"
    )
    if latent is not None:
        results.write_latent(adata, slots.latent, latent)
        _write_space(adata, latent, job)
    counts = counts_of(adata, job.keys.layer)
    used = adata.var[slots.genes].to_numpy(bool)
    pca = job.attempt(
        "The principal components",
        lambda: _principal_components(counts, used, config.seed),
        lost="there is nothing to compare the latent space with",
    )
    if pca is not None:
        results.write_latent(adata, slots.pca, pca)
        before = job.attempt(
            "The map of the principal components",
            lambda: _umap(_graph(pca, adata.obs_names, config), config),
            lost="there is no map of the cells before the model",
        )
        if before is not None:
            results.write_latent(adata, slots.umap_before, before)


def _write_space(adata: AnnData, latent: Floats, job: Job[RunConfig]) -> None:
    """Write the graph of the latent space, its clusters and its map."""
    slots, config = job.slots, job.config
    graph = job.attempt(
        "The graph of neighbours",
        lambda: _graph(latent, adata.obs_names, config),
        lost="there are no clusters, map and marker genes",
    )
    if graph is None:
        return
    _keep_graph(adata, graph, slots)
    leiden: dict[str, Any] = {"resolution": config.graph.resolution, "seed": config.seed}
    clusters = job.attempt(
        "The clusters",
        lambda: leiden_codes(graph.obsp["connectivities"], **leiden),
        lost="there are neither clusters nor marker genes",
    )
    if clusters is not None:
        results.write_clusters(adata, slots.clusters, clusters)
        adata.uns[slots.clusters] = {"params": leiden}
    points = job.attempt("The map of the cells", lambda: _umap(graph, config), lost="there is no map after the model")
    if points is not None:
        results.write_latent(adata, slots.umap, points)
        adata.uns[slots.umap.removeprefix("X_")] = dict(graph.uns["umap"])


def _graph(space: Floats, cells: pd.Index[Any], config: RunConfig) -> AnnData:
    """Return the cells with nothing but their coordinates and the graph of neighbours in them.

    An AnnData of its own: what scanpy writes, and what it would read of the user's slots, stays out of the result.
    """
    import anndata

    plain = anndata.AnnData(obs=pd.DataFrame(index=cells), obsm={"X_space": np.asarray(space, np.float32)})
    _neighbours(plain, "X_space", config)
    return plain


def _neighbours(adata: AnnData, slot: str, config: RunConfig) -> None:
    n_neighbors = max(2, min(config.graph.n_neighbors, adata.n_obs - 1))
    write_neighbours(adata, slot, n_neighbors=n_neighbors, seed=config.seed)


def _keep_graph(adata: AnnData, graph: AnnData, slots: Slots) -> None:
    """Write the graph as scanpy looks for it: by its name, which is its `neighbors_key`."""
    kept = dict(graph.uns["neighbors"])
    for part, name in zip(("distances", "connectivities"), slots.graph_parts, strict=True):
        adata.obsp[name] = graph.obsp[part]
        kept[f"{part}_key"] = name
    kept["params"] = {**kept["params"], "use_rep": slots.latent}
    adata.uns[slots.graph] = kept


def _umap(graph: AnnData, config: RunConfig) -> Floats:
    """Return the map of the graph, (cells, 2)."""
    import scanpy as sc

    start = "spectral" if graph.n_obs > _FEWEST_SPECTRAL else "random"
    sc.tl.umap(graph, min_dist=config.graph.min_dist, random_state=config.seed, init_pos=start)
    return np.asarray(graph.obsm["X_umap"], np.float32)


def _principal_components(counts: sparse.csr_matrix, used: NDArray[np.bool_], seed: int) -> Floats:
    """Return the principal components of the log-normalised counts of the genes to train on, (cells, components)."""
    import anndata
    import scanpy as sc

    plain = anndata.AnnData(lognorm(counts)[:, used])
    if min(plain.shape) < 2:  # one gene is its own component, up to its mean
        values = plain.X.toarray()
        return np.asarray(values - values.mean(axis=0))
    sc.pp.pca(plain, n_comps=min(50, min(plain.shape) - 1), random_state=seed)
    return np.asarray(plain.obsm["X_pca"])


def lognorm(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return log(1 + 10,000 x count / total of the cell) as float32, (cells, genes); it shares the positions."""
    library = np.maximum(np.asarray(counts.sum(1), np.float64).ravel(), 1.0)
    values = np.log1p(counts.data * np.repeat(1e4 / library, np.diff(counts.indptr))).astype(np.float32)
    return sparse.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)


def counts_of(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    """Return the raw counts of all genes as a matrix of its own, (cells, genes)."""
    counts = sparse.csr_matrix(count_matrix_of(adata, layer)[0], copy=True)
    counts.sum_duplicates()
    counts.eliminate_zeros()
    return counts


# ------------------------------------------------------------------------------------------------------------ markers


def no_markers() -> pd.DataFrame:
    """Return the table of markers where there are none."""
    return pd.DataFrame({"group1": [], "group2": []}, index=pd.Index([], name="gene"))


def clusters_compared(
    model: CountModel[Any], groups: pd.Series[Any], *, n_samples: int = 5000, seed: int = 0
) -> pd.DataFrame:
    """Return the comparison of each group of cells with all others, gene by gene, by the model's posterior.

    Parameters
    ----------
    model
        A trained model with its cells.
    groups
        Group of each cell of the model, in their order; cells without one are left out.
    n_samples
        Most cells decoded of each group; fewer, but at least 500, where there are more than 40 groups.
    seed
        Seed of the draws.

    Returns
    -------
    `model.differential_expression(groupby=groups)`: one row a gene and group, index gene, those that tell the group
    apart best first (column `marker_score`). Empty where there are fewer than two groups.
    """
    if groups.dropna().nunique() < 2:
        return no_markers()
    few = min(n_samples, max(500, _MOST_DRAWS // groups.nunique()))
    counted = model.data is not None and model.data.counts.values.dtype.kind != "f"
    if not counted:
        warnings.warn(CelboWarning(_NO_COUNTS), stacklevel=2)
    return model.differential_expression(groupby=groups, calibrated=counted, n_samples=few, seed=seed)


def highest(compared: pd.DataFrame, n_markers: int) -> pd.DataFrame:
    """Return the genes that each group expresses more than the others: at most so many, or with 0 all of them."""
    if compared.empty:
        return compared
    higher = compared[compared["lfc_median"] > 0]
    return higher if n_markers == 0 else higher.groupby("group1", sort=False, observed=True).head(n_markers)


def markers_of(
    model: CountModel[Any], groups: pd.Series[Any], *, n_markers: int = 0, n_samples: int = 5000, seed: int = 0
) -> pd.DataFrame:
    """Return the genes that each group of cells expresses more than the others: `highest` of `clusters_compared`."""
    return highest(clusters_compared(model, groups, n_samples=n_samples, seed=seed), n_markers)
