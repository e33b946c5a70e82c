"""celbo run, train and demo."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from celbo.cli.options import DEFAULT_LOG, LogOptions, Switch, logged, table
from celbo.pipeline import RunConfig, RunResult, TrainRunConfig
from celbo.pipeline import run as run_job
from celbo.pipeline import train as train_job
from celbo.pipeline.config import Config, SelectionConfig, read_toml, to_toml

__all__ = ["demo", "run", "train"]

File = Annotated[Path | None, Parameter(name="--config")]
Flat = Parameter(name="*")
_RUN, _TRAIN = RunConfig(), TrainRunConfig()


def run(
    *data: str,
    options: Annotated[RunConfig, Flat] = _RUN,
    config_file: File = None,
    resume: Switch = False,
    force: Switch = False,
    print_config: Switch = False,
    log: Annotated[LogOptions, Flat] = DEFAULT_LOG,
) -> int:
    """Run the main job: from a file of counts to clusters, markers and a report.

    check -> genes -> train -> latent space -> neighbours -> clusters -> map -> marker genes -> files -> report. The
    folder --out holds run.toml, result.h5ad, model/, tables/, report.html, celbo_mqc.json and versions.yml.

    Parameters
    ----------
    data
        Files of counts: .h5ad, .zarr, .h5mu, 10x .h5, 10x mtx folder, .loom, .csv, .tsv. Several are joined.
    options
        See `RunConfig`.
    config_file
        File of options (TOML), such as the run.toml of another run; flags win over it.
    resume
        Continue the run in --out where it was stopped.
    force
        Replace the run in --out.
    print_config
        Print all options as TOML and do nothing.
    log
        See `LogOptions`.
    """
    config = _with_data(options, data, config_file, resume)
    if print_config:
        print(to_toml(config), end="")
        return 0
    with logged(log):
        result = run_job(
            config=config, resume=resume, force=force, progress=_progress(log), command=shlex.join(["celbo", *_argv()])
        )
    print(_summary(result))
    return 0


def train(
    *data: str,
    options: Annotated[TrainRunConfig, Flat] = _TRAIN,
    config_file: File = None,
    resume: Switch = False,
    force: Switch = False,
    print_config: Switch = False,
    log: Annotated[LogOptions, Flat] = DEFAULT_LOG,
) -> int:
    """Train a model and save it: the first half of celbo run.

    The folder --out holds run.toml, model/, tables/history.csv and versions.yml.

    Parameters
    ----------
    data
        Files of counts: .h5ad, .zarr, .h5mu, 10x .h5, 10x mtx folder, .loom, .csv, .tsv. Several are joined.
    options
        See `TrainRunConfig`.
    config_file
        File of options (TOML); flags win over it.
    resume
        Continue the training in --out where it was stopped.
    force
        Replace the run in --out.
    print_config
        Print all options as TOML and do nothing.
    log
        See `LogOptions`.
    """
    config = _with_data(options, data, config_file, resume)
    if print_config:
        print(to_toml(config), end="")
        return 0
    with logged(log):
        model = train_job(config=config, resume=resume, force=force, progress=_progress(log))
    print(table([("model", f"{config.out}/model"), ("epochs", str(len(model.history)))]))
    return 0


def demo(
    *,
    out: str = "celbo_demo",
    simulated: Switch = False,
    max_epochs: int | None = None,
    seed: int = 0,
    log: Annotated[LogOptions, Flat] = DEFAULT_LOG,
) -> int:
    """Run the main job on data that come with celbo: 700 blood cells, or simulated cells with known truth.

    Parameters
    ----------
    out
        Folder to write to; an earlier demo there is replaced.
    simulated
        Take cells from the built-in simulator: three batches, eight cell types.
    max_epochs
        Passes over the cells; by default enough.
    seed
        Seed of everything that is random.
    log
        See `LogOptions`.
    """
    keys = replace(_RUN.keys, labels_key="cell_type", batch_key="batch" if simulated else None)
    config = RunConfig(
        data=("demo:simulated" if simulated else "demo:pbmc",),
        out=out,
        seed=seed,
        keys=keys,
        selection=SelectionConfig(n_top_genes=0),
        train=replace(_RUN.train, max_epochs=max_epochs),
    )
    command = shlex.join(["celbo", *_argv()])
    with logged(log):
        result = run_job(config=config, force=True, progress=_progress(log), command=command)
    print(_summary(result))
    return 0


def _argv() -> list[str]:
    return sys.argv[1:]


def _with_data(options: Config, data: tuple[str, ...], config_file: Path | None, resume: bool) -> Config:
    """Return the options with the files named, or else those of the file of options."""
    if data:
        return replace(options, data=data)
    file = config_file or (Path(options.out) / "run.toml" if resume and options.out else None)
    if file is None or not file.exists():
        return options
    return replace(options, data=read_toml(file).get("data", ()))


def _progress(log: LogOptions) -> bool | None:
    """Return whether to draw a bar: not where lines are wanted, else where there is a terminal."""
    return False if log.quiet or log.log_json else None


def _summary(result: RunResult) -> str:
    rows: list[tuple[str, str]] = [("report", str(result.report)), ("seconds", f"{sum(result.seconds.values()):.0f}")]
    if result.held_out_elbo is not None:
        rows.append(("held-out ELBO", f"{result.held_out_elbo:.2f} nats per cell"))
    rows.append(("clusters", str(result.adata.obs["leiden"].nunique())))
    if result.ari is not None:
        rows.append(("ARI", f"{result.ari:.3f} (clusters against the known labels)"))
    return table(rows)
