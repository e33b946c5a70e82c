"""celbo run, train and demo."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from celbo.cli.clock import seconds_since_start
from celbo.cli.options import DEFAULT_LOG, LogOptions, Switch, logged, options_for, table
from celbo.errors import OptionError, say
from celbo.pipeline.config import (
    Config,
    RunConfig,
    SelectionConfig,
    TrainRunConfig,
    build,
    config_for,
    flat,
    read_toml,
    to_toml,
)
from celbo.pipeline.place import options_of_run

if TYPE_CHECKING:
    from celbo.pipeline import RunResult

__all__ = ["demo", "run", "train"]

File = Annotated[Path | None, Parameter(name="--config")]
Flat = Parameter(name="*")
_RUN, _TRAIN = options_for("scvi", RunConfig)(), options_for("scvi", TrainRunConfig)()


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
        Replace the run in --out, once this one is finished.
    print_config
        Print all options as TOML and do nothing.
    log
        See `LogOptions`.
    """
    config = _with_data(options, data, config_file, resume)
    if print_config:
        say(to_toml(config), end="")
        return 0
    return _run(_with_model(config, RunConfig), log, resume=resume, force=force)


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
        Replace the run in --out, once this one is finished.
    print_config
        Print all options as TOML and do nothing.
    log
        See `LogOptions`.
    """
    config = _with_data(options, data, config_file, resume)
    if print_config:
        say(to_toml(config), end="")
        return 0
    from celbo.pipeline import train as train_job

    with logged(log):
        checked = _with_model(config, TrainRunConfig)
        model = train_job(config=checked, resume=resume, force=force, progress=_progress(log))
    say(table([("model", f"{config.out}/model"), ("epochs", str(len(model.history)))]))
    return 0


def demo(
    *,
    out: str = "celbo_demo",
    simulated: Switch = False,
    max_epochs: int | None = None,
    seed: int = 0,
    log: Annotated[LogOptions, Flat] = DEFAULT_LOG,
) -> int:
    """Run the main job on data that come with celbo: 700 real blood cells, or simulated cells.

    The blood cells are dealt to two runs and the counts of the second are thinned gene by gene: a batch effect of which
    the truth is known. See celbo.datasets.pbmc_two_runs.

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
    keys = replace(_RUN.keys, labels_key="cell_type", batch_key="batch")
    options = replace(
        _RUN,
        data=("demo:simulated" if simulated else "demo:pbmc_two_runs",),
        out=out,
        seed=seed,
        keys=keys,
        selection=SelectionConfig(n_top_genes=0),
        train=replace(_RUN.train, max_epochs=max_epochs),
    )
    return _run(_with_model(options, RunConfig), log, force=_is_demo(Path(out)))


def _is_demo(folder: Path) -> bool:
    """Whether a folder holds a demo, which another may take the place of; a run of the user's own is refused."""
    file = folder / "run.toml"
    if not file.is_file():
        return False
    if all(str(name).startswith("demo:") for name in read_toml(file).get("data", ["none"])):
        return True
    raise OptionError("holds a run that is no demo", where=f"{str(folder)!r}", fix="Choose another folder with --out.")


def _with_model(options: Config, kind: type[Config]) -> Config:
    """Return the options with those of the model itself in place of the command line's copy."""
    key: Any = (options.model, kind)
    made: type[Config] = config_for(*key)
    return build(made, flat(options))


def _run(config: RunConfig, log: LogOptions, *, resume: bool = False, force: bool = False) -> int:
    from celbo.pipeline import run as run_job

    command = _command()
    with logged(log):
        result = run_job(config=config, resume=resume, force=force, progress=_progress(log), command=command)
    say(_summary(result))
    return 0


def _command() -> str:
    """Return the command that the same result is had by; --resume only goes on with it."""
    return shlex.join(["celbo", *(word for word in sys.argv[1:] if word != "--resume")])


def _with_data(options: Config, data: tuple[str, ...], config_file: Path | None, resume: bool) -> Config:
    """Return the options with the files named, or else those of the file of options."""
    if data:
        return replace(options, data=data)
    file = config_file or (options_of_run(Path(options.out)) if resume and options.out else None)
    if file is None or not file.exists():
        return options
    return replace(options, data=read_toml(file).get("data", ()))


def _progress(log: LogOptions) -> bool | None:
    """Return whether to draw a bar: not where lines are wanted, else where there is a terminal."""
    return False if log.quiet or log.log_json else None


def _summary(result: RunResult) -> str:
    rows: list[tuple[str, str]] = [("report", str(result.report)), ("seconds", f"{seconds_since_start():.0f}")]
    if result.deviance_explained is not None:
        rows.append(("explained", f"{result.deviance_explained:.1%} of the deviance of held-out cells' counts"))
    if result.slots.clusters in result.adata.obs:
        rows.append(("clusters", str(result.adata.obs[result.slots.clusters].nunique())))
    if result.ari is not None:
        rows.append(("Leiden ARI", f"{result.ari:.3f} (clusters and known labels; 1 is identical, 0 is chance)"))
    return table(rows)
