"""The steps of the main job: what each takes and what it leaves in the AnnData of the run."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from celbo import files, results
from celbo.data.check import check, count_matrix_of
from celbo.data.datasets import pbmc, pbmc_two_runs, simulate
from celbo.data.decimals import with_rounded_layer
from celbo.data.genes import filter_cells, select_genes
from celbo.data.read import read
from celbo.data.schema import DataKeys
from celbo.embed.neighbours import write_neighbours
from celbo.errors import CelboWarning, OptionError
from celbo.models.base import CountModel, Model
from celbo.models.options import requires_counts
from celbo.models.store import load
from celbo.pipeline.config import RunConfig, TrainRunConfig, default_plan, preset_plan, read_genes, system
from celbo.pipeline.folder import ConfigT, RunFolder
from celbo.training.plan import TrainConfig

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "BUILT_IN",
    "DOUBLE_DIPPING",
    "Job",
    "counts_of",
    "embed",
    "latent_slot",
    "markers_of",
    "no_markers",
    "opened",
    "trained",
]

_log = logging.getLogger("celbo.pipeline")

Floats = NDArray[np.floating[Any]]
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
_MAY_LOSE = 0.05
"""Share of the cells that may be left out for want of counts of the chosen genes; more is an error."""


@dataclass
class Job(Generic[ConfigT]):
    """One run under way."""

    folder: RunFolder[ConfigT]
    resume: bool
    progress: bool | None
    raw_is_x: bool = False
    """Whether `adata.raw` was taken as the AnnData of the run, so that its counts are in `X` now."""
    rounded: str | None = None
    """Layer that rounded counts were written to, which the run then reads; what was rounded stays where it is."""
    warnings: list[str] = field(default_factory=list)
    """What the user should know, one sentence each; shown in the report."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds by step."""

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
        """Note and log a warning, once."""
        if message not in self.warnings:
            self.warnings.append(message)
            _log.warning("%s", message)


# ------------------------------------------------------------------------------------------------- data and training


def trained(job: Job[Any], given: AnnData | None) -> tuple[AnnData, Model[Any]]:
    """Read, check, choose the genes and train.

    Returns
    -------
    All genes of the cells kept, and the trained model.
    """
    with job.step("reading and checking"):
        adata = _checked(job, _rounded(job, _with_raw(job, opened(job.config, given))))
    with job.step("choosing genes"):
        adata = _select(job, adata)
    with job.step("training"):
        model = _model(job, adata[:, adata.var["highly_variable"].to_numpy(bool)])
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
    return full


def _rounded(job: Job[Any], adata: AnnData) -> AnnData:
    """Write rounded counts into a layer of their own, where the user asked for that and the values have decimals."""
    if job.config.keys.round_counts:
        name, told = with_rounded_layer(adata, job.keys.layer)
        if told:
            job.rounded = name
            job.warn(f"Rounded the counts to whole numbers, into the layer {name!r}: {told}.")
    return adata


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
        adata = filter_cells(adata, layer=job.keys.layer, **wanted)
        job.warn(f"Quality filters left out {before - adata.n_obs:,} of {before:,} cells.")
    found = check(adata, **asdict(job.keys), require_counts=requires_counts(config.network))
    for finding in found.warnings:
        job.warn(finding.message)
    found.raise_if_bad()
    return adata


def _select(job: Job[Any], adata: AnnData) -> AnnData:
    """Mark the genes to train on in `var["highly_variable"]`, and return the cells that have a count of them."""
    choice, keys = job.config.selection, job.keys
    if choice.genes is not None:
        select_genes(adata, genes=read_genes(choice.genes), layer=keys.layer)
    elif choice.n_top_genes == 0 or choice.n_top_genes >= adata.n_vars:
        adata.var["highly_variable"] = True
    else:
        select_genes(adata, n_top_genes=choice.n_top_genes, batch_key=keys.batch_key, layer=keys.layer)
    used = adata.var["highly_variable"].to_numpy(bool)
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
    if job.resume and (folder.model / "model.json").exists():
        _log.info("the model was trained already")
        return load(folder.model, used)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CelboWarning)  # of the chosen genes; all of them were checked before
        kind = system(config.model)
        model: Model[Any] = kind(used, config=config.network, seed=config.seed, **asdict(job.model_keys))
    model.train(
        _plan(config, model, used.shape),
        device=config.device,
        progress=job.progress,
        checkpoint_dir=folder.checkpoint,
        resume=job.resume,
    )
    if model.fitted is not None and model.fitted.stopped == "interrupted":
        raise KeyboardInterrupt(
            f"Training was interrupted; its last checkpoint is in {folder.checkpoint}. "
            f"Continue with --resume --out {folder.path}."
        )
    model.save(folder.model)
    if folder.checkpoint.exists():
        files.remove_folder(folder.checkpoint)
    return model


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
    """Write the latent space, its clusters and map, and the map before the model, into the slots of the result."""
    config = job.config
    slot = latent_slot(config)
    results.write_latent(adata, slot, model.get_latent_representation())
    _neighbours(adata, slot, config)
    _leiden(adata, config)
    results.write_latent(adata, "X_umap", _umap(adata, config))
    before = _before(adata, config, job.keys.layer)
    results.write_latent(adata, "X_pca", before.obsm["X_pca"])
    results.write_latent(adata, "X_umap_before", _umap(before, config))


def latent_slot(config: TrainRunConfig) -> str:
    """Return the slot of `obsm` that the latent space is written to, such as "X_scvi"."""
    return f"X_{config.model}"


def _neighbours(adata: AnnData, slot: str, config: RunConfig) -> None:
    n_neighbors = max(2, min(config.graph.n_neighbors, adata.n_obs - 1))
    write_neighbours(adata, slot, n_neighbors=n_neighbors, seed=config.seed)


def _leiden(adata: AnnData, config: RunConfig) -> None:
    """Write the clusters of the neighbours' graph into `obs["leiden"]`; cluster 0 is the largest."""
    import scanpy as sc

    options = {"flavor": "igraph", "n_iterations": 2, "directed": False, "random_state": config.seed}
    sc.tl.leiden(adata, resolution=config.graph.resolution, key_added="leiden", **options)
    codes = adata.obs["leiden"].cat.codes.to_numpy()
    rank = np.argsort(np.argsort(-np.bincount(codes), kind="stable"))
    results.write_clusters(adata, "leiden", rank[codes])


def _umap(adata: AnnData, config: RunConfig) -> Floats:
    """Return the map of the neighbours' graph, (cells, 2)."""
    import scanpy as sc

    sc.tl.umap(adata, min_dist=config.graph.min_dist, random_state=config.seed)
    return np.asarray(adata.obsm["X_umap"], np.float32)


def _before(adata: AnnData, config: RunConfig, layer: str | None) -> AnnData:
    """Return the principal components of log-normalised counts of the same genes, and the graph of them."""
    import anndata
    import scanpy as sc

    counts = counts_of(adata, layer)
    chosen = counts[:, adata.var["highly_variable"].to_numpy(bool)].astype(np.float32)
    library = np.maximum(np.asarray(counts.sum(1), np.float64).ravel(), 1.0)
    chosen.data = np.log1p(chosen.data * np.repeat(1e4 / library, np.diff(chosen.indptr))).astype(np.float32)
    plain = anndata.AnnData(chosen, obs=pd.DataFrame(index=adata.obs_names))
    n_comps = min(50, min(plain.shape) - 1)
    sc.pp.pca(plain, n_comps=n_comps, random_state=config.seed)
    _neighbours(plain, "X_pca", config)
    return plain


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


def markers_of(
    model: CountModel[Any], groups: pd.Series[Any], *, n_markers: int = 0, n_samples: int = 5000, seed: int = 0
) -> pd.DataFrame:
    """Return the genes that each group of cells expresses more than the others, by the model's posterior.

    Parameters
    ----------
    model
        A trained model with its cells.
    groups
        Group of each cell of the model, in their order; cells without one are left out.
    n_markers
        Genes kept for each group; 0 is all that are higher there.
    n_samples
        Most cells decoded of each group; fewer, but at least 500, where there are more than 40 groups.
    seed
        Seed of the draws.

    Returns
    -------
    The rows of `model.differential_expression(groupby=groups)` with a positive fold change: one row a gene and group,
    index gene, those that tell the group apart best first (column `marker_score`). Empty where there are fewer than two
    groups.
    """
    if groups.dropna().nunique() < 2:
        return no_markers()
    few = min(n_samples, max(500, _MOST_DRAWS // groups.nunique()))
    counted = model.data is not None and model.data.counts.values.dtype.kind != "f"
    if not counted:
        warnings.warn(CelboWarning(_NO_COUNTS), stacklevel=2)
    table = model.differential_expression(groupby=groups, calibrated=counted, n_samples=few, seed=seed)
    higher = table[table["lfc_median"] > 0]
    return higher if n_markers == 0 else higher.groupby("group1", sort=False, observed=True).head(n_markers)
