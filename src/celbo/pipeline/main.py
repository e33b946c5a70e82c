"""The main job: check -> genes -> train -> latent -> neighbours -> clusters -> map -> markers -> files -> report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from celbo import results
from celbo.errors import OptionError, WriteError
from celbo.models.base import CountModel, Model
from celbo.pipeline.config import Config, RunConfig, TrainRunConfig
from celbo.pipeline.folder import RunFolder
from celbo.pipeline.pages import Found, report_data, tables_of, write_multiqc
from celbo.pipeline.scanpy_slots import for_scanpy
from celbo.pipeline.slots import Slots
from celbo.pipeline.steps import Job, clusters_compared, embed, highest, no_markers, trained
from celbo.report.build import write_report

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["RunResult", "run", "train"]


@dataclass(frozen=True)
class RunResult:
    """What a run found, beside the files it wrote."""

    adata: AnnData
    """All genes and the kept cells, with what was found in `slots`."""
    slots: Slots
    """Where in `adata` is what: usually `obsm["X_<model>"]`, `obsm["X_umap"]` and `obs["leiden"]`; `celbo_` is before a
    name that the data had already, and their own slot stays as it was."""
    model: Model[Any]
    folder: Path
    """Folder of the run."""
    report: Path
    """The report's page."""
    warnings: tuple[str, ...]
    """What the report warns of; parts that failed are among it, and their slots and tables are not there."""
    tables: Mapping[str, pd.DataFrame]
    """latent, clusters, cells, markers, history and metrics; with known labels label_purity and resolutions."""
    deviance_explained: float | None
    """Share of the deviance of held-out cells' counts that the model explains beyond gene means
    (`celbo.evaluate.deviance_explained`); None where no cell was held out or the model expects no counts."""
    held_out_elbo: float | None
    """Nats per cell (negative); None where no cell was held out."""
    ari: float | None
    """Adjusted Rand index of the Leiden clusters and the known labels; None where there are none."""
    seconds: Mapping[str, float]
    """Wall seconds by step."""


def run(
    data: AnnData | str | Path | Sequence[str | Path] | None = None,
    *,
    config: RunConfig | None = None,
    out: str | Path | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    round_counts: bool | None = None,
    seed: int | None = None,
    resume: bool = False,
    force: bool = False,
    progress: bool | None = None,
    command: str = "",
) -> RunResult:
    """Run the main job and write a folder with its results and the report.

    Parameters
    ----------
    data
        An AnnData, which is not altered, or files to read; None takes the files that `config` names.
    config
        Every option; the keywords beside it win.
    out
        Folder to write to.
    layer, batch_key, labels_key, round_counts
        See `celbo.data.schema.DataKeys`.
    seed
        Seed of everything that is random.
    resume
        Continue the run in `out` where it was stopped; the end is the same as without the break.
    force
        Replace the run that is in `out`, once this one is finished.
    progress
        Whether to show a bar while training; None shows one on a terminal.
    command
        The command to show in the report.

    Returns
    -------
    The annotated cells, the model, the tables and where the files are.

    Raises
    ------
    OptionError
        If an option is impossible, or `out` holds something else than a run.
    InputError
        If the data cannot be used; the message names the cell, gene or column and the fix.
    TrainingError
        If training fails.
    WriteError
        If a file cannot be written.
    KeyboardInterrupt
        If the run was interrupted; a checkpoint is in `out`, and the message says how to resume.
    """
    keys = {"layer": layer, "batch_key": batch_key, "labels_key": labels_key, "round_counts": round_counts}
    asked = _with_keywords(config or RunConfig(), data, out, keys=keys, seed=seed)
    job = Job(RunFolder.open(asked, resume=resume, force=force, command=command), progress)
    with job.folder.session():
        adata, model = trained(job, _given(data))
        with job.step("latent space, clusters and maps"):
            embed(adata, model, job)
        with job.step("marker genes"):
            compared = _compared(job, adata, model)
        return _finish(job, adata, model, compared, job.folder.command or _call(job.config))


def _compared(job: Job[RunConfig], adata: AnnData, model: Model[Any]) -> pd.DataFrame:
    """Return the comparison of each cluster with the rest; empty where there is none."""
    if job.slots.clusters not in adata.obs:
        return no_markers()
    if not isinstance(model, CountModel):
        job.warn(f"{type(model).__name__} has no posterior of expression, so there are no marker genes.")
        return no_markers()
    clusters, seed = adata.obs[job.slots.clusters], job.config.seed
    made = job.attempt(
        "The table of marker genes", lambda: clusters_compared(model, clusters, seed=seed), lost="there is none"
    )
    return no_markers() if made is None else made


def train(
    data: AnnData | str | Path | Sequence[str | Path] | None = None,
    *,
    config: TrainRunConfig | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: bool | None = None,
) -> Model[Any]:
    """Check the data, choose the genes, train the model and save it in `out`: the first half of `run`.

    Parameters and errors as in `run`.
    """
    asked = _with_keywords(config or TrainRunConfig(), data, out, keys={}, seed=None)
    job = Job(RunFolder.open(asked, resume=resume, force=force), progress)
    with job.folder.session():
        _, model = trained(job, _given(data))
        results.write_table(model.history, job.folder.table("history"))
        job.folder.finish(model.fitted)
    return model


def _with_keywords(
    config: Config, data: Any, out: Any, *, keys: Mapping[str, str | bool | None], seed: int | None
) -> Config:
    """Return the configuration with the keywords of `run` that were given."""
    config = replace(config, keys=replace(config.keys, **{k: v for k, v in keys.items() if v is not None}))  # type: ignore[arg-type]
    if _given(data) is not None:
        config = replace(config, data=())
    elif data is not None:
        paths = [data] if isinstance(data, str | Path) else list(data)
        if not all(isinstance(path, str | Path) for path in paths):
            raise OptionError("is not an AnnData or a path", where="data", value=f"{type(data).__name__}")
        config = replace(config, data=tuple(str(path) for path in paths))
    lists: dict[str, Any] = {name: getattr(config.selection, name) for name in ("genes", "keep_genes")}
    whole: dict[str, Any] = {
        name: str(Path(path).expanduser().absolute()) for name, path in lists.items() if path is not None
    }
    config = replace(config, selection=replace(config.selection, **whole))  # so that run.toml works from anywhere
    given = {"out": None if out is None else str(out), "seed": seed}
    return replace(config, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


def _given(data: Any) -> AnnData | None:
    """Return the data where they are an AnnData."""
    return data if hasattr(data, "obs_names") and hasattr(data, "var_names") else None


def _call(config: RunConfig) -> str:
    return f"celbo.run({', '.join(map(repr, config.data)) or 'adata'}, out={config.out!r}, ...)  # options: run.toml"


def _finish(job: Job[RunConfig], adata: AnnData, model: Model[Any], compared: pd.DataFrame, command: str) -> RunResult:
    """Compute the numbers, and write every file."""
    folder = job.folder
    with job.step("numbers and files"):
        found = Found.of(adata, model, highest(compared, job.config.graph.n_markers), job)
        tables = tables_of(found)
        for name, table in tables.items():
            results.write_table(table, folder.table(name))
        write_multiqc(folder.path, found)
        for_scanpy(found, compared, job)
        found.note(command)
        path = folder.path / "result.h5ad"
        job.attempt("result.h5ad", lambda: results.write_h5ad(adata, path), lost="the tables and the model are all")
    report = folder.path / "report.html"
    with job.step("report"):
        job.attempt(
            "The report",
            lambda: write_report(report_data(found, job, command), report),
            lost="the tables, the model and result.h5ad are all",
        )
    for error in job.failures.values():
        if isinstance(error, WriteError):  # a full disk is no detail: what there was room for is there
            raise error
    folder.finish(model.fitted)
    return RunResult(
        adata=adata,
        slots=job.slots,
        model=model,
        folder=folder.home,
        report=folder.home / report.name,
        warnings=tuple(job.warnings),
        tables=tables,
        deviance_explained=None if found.explained is None else found.explained.held_out,
        held_out_elbo=found.held_out_elbo,
        ari=found.ari,
        seconds=job.seconds,
    )
