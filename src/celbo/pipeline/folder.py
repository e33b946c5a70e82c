"""The folder of a run: what may be in it, how it is opened anew, replaced or continued."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from celbo import results
from celbo.caches import PREFIX
from celbo.errors import OptionError, WriteError, listed
from celbo.files import atomic_text, remove_temporary
from celbo.pipeline.config import TrainRunConfig, build, different, made_by, read_toml, to_toml

if TYPE_CHECKING:
    from celbo.training.engine import FitResult

__all__ = ["RunFolder"]

ConfigT = TypeVar("ConfigT", bound=TrainRunConfig)
_OWN_FILES = ("run.toml", "result.h5ad", "report.html", "celbo_mqc.json", "celbo_elbo_mqc.json", "versions.yml")
_OWN_FOLDERS = ("model", "tables", "checkpoint")


@dataclass(frozen=True)
class RunFolder(Generic[ConfigT]):
    """A folder that belongs to one run, with the options of that run."""

    path: Path
    config: ConfigT
    command: str = ""
    """The command that began the run, to show in the report."""
    replaces: bool = False
    """Whether an earlier run in the folder goes when this one is made."""

    @classmethod
    def open(
        cls, config: ConfigT, *, resume: bool = False, force: bool = False, command: str = ""
    ) -> RunFolder[ConfigT]:
        """Find out whether a run may be written to the folder that `config.out` names; `made` makes it.

        So what is wrong with the data or an option leaves no folder behind, and an older run as it was.

        Parameters
        ----------
        config
            The options; paths of data are made absolute, so that `run.toml` works from anywhere.
        resume
            Continue the run in the folder, with its own options; options that differ from these are an error.
        force
            Whether `made` may remove what an earlier run left there, and nothing else.
        command
            The command to show in the report; a run that is continued keeps its first one.

        Raises
        ------
        OptionError
            If no folder is named, if it holds something else than a run, or a run that may not be replaced.
        WriteError
            If the folder cannot be written or made.
        """
        if not config.out:
            raise OptionError("is missing", where="the folder to write to", fix="Give --out DIR (out= in Python).")
        path = Path(config.out)
        config = replace(config, out=str(path.resolve()), data=tuple(_absolute(name) for name in config.data))
        there = _state(path)
        if there == "run" and resume:
            config = _continued(path, config)
            command = str(made_by(path / "run.toml").get("command", command))
        elif there != "empty" and not (there == "run" and force):
            raise _refusal(path, there)
        _refuse_read_only(path)
        return cls(path, config, command, replaces=there == "run" and not resume)

    @contextmanager
    def made(self) -> Iterator[None]:
        """Make the folder, with the options in it; it goes again if the block fails before anything else is there.

        Raises
        ------
        WriteError
            If it cannot be written or made.
        """
        was_there = self.path.exists()
        if self.replaces:
            _remove_run(self.path)
        try:
            (self.path / "tables").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(self.path, error) from error
        remove_temporary(self.path)
        began = not (self.path / "run.toml").exists()
        self.write_options({"finished": False})
        try:
            yield
        except BaseException:
            if began:
                _discard(self.path, folder_too=not was_there)
            raise

    @property
    def model(self) -> Path:
        """Folder of the trained model."""
        return self.path / "model"

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoints, there while training goes on."""
        return self.path / "checkpoint"

    def table(self, name: str) -> Path:
        """Return the path of a table, without ending."""
        return self.path / "tables" / name

    def write_options(self, made: Mapping[str, Any], *, fitted: FitResult | None = None) -> None:
        """Write `run.toml`: every option, and in the table `made_by` the versions and `made`.

        Parameters
        ----------
        made
            Further entries of `made_by`.
        fitted
            What training decided: its resolved plan takes the place of the one given.
        """
        config = self.config if fitted is None else replace(self.config, train=fitted.plan)
        head = "# Every option of this run. The same result again: celbo run --config run.toml --out NEW\n\n"
        versions = {name.replace("-", "_"): version for name, version in results.versions().items()}
        began = {"command": self.command} if self.command else {}
        atomic_text(self.path / "run.toml", head + to_toml(config, made={**made, **began, **versions}))

    def finish(self, fitted: FitResult | None) -> None:
        """Write the last files: the resolved options and the versions."""
        results.write_versions(self.path / "versions.yml", "celbo run")
        self.write_options({"finished": True}, fitted=fitted)


def _absolute(name: str) -> str:
    return name if name.startswith("demo:") else str(Path(name).expanduser().absolute())


def _state(path: Path) -> str:
    """Return "empty", "run", "other" or "file"."""
    if path.exists() and not path.is_dir():
        return "file"
    if not path.exists() or all(entry.name.startswith(PREFIX) for entry in path.iterdir()):
        return "empty"
    try:
        return "run" if made_by(path / "run.toml") else "other"
    except OptionError:
        return "other"


def _refusal(path: Path, there: str) -> OptionError:
    where = f"the folder {str(path)!r}"
    if there == "run":
        fix = "Continue it with --resume, replace it with --force, or choose another --out."
        return OptionError("holds a run of celbo already", where=where, fix=fix)
    if there == "file":
        return OptionError("is a file", where=f"{str(path)!r}", fix="Choose a folder with --out.")
    fix = "Choose another --out; nothing in it was touched."
    return OptionError("is not empty and holds no run of celbo", where=where, fix=fix)


def _continued(path: Path, config: ConfigT) -> ConfigT:
    """Return the options of the run in the folder, once those given are known to be the same."""
    where = f"{path / 'run.toml'}"
    saved = build(type(config), {**read_toml(path / "run.toml")}, where=where)
    started = replace(saved, out=config.out)
    # None means "decide for me": a finished training has put its decisions there.
    undecided = {name for name, value in vars(config.train).items() if value is None}
    changed = [name for name in different(config, started) if name not in undecided]
    if changed:
        raise OptionError(
            "was started with other options",
            where=f"the run in {str(path)!r}",
            value=listed(changed),
            fix="Resume it with the same ones, or start a new run with another --out.",
        )
    return started


def _discard(path: Path, *, folder_too: bool) -> None:
    """Remove the folder of a run that has come to nothing: one without a model, a checkpoint or a table."""
    if any((path / name).exists() for name in ("model", "checkpoint")) or any((path / "tables").iterdir()):
        return
    with suppress(OSError):
        (path / "run.toml").unlink()
        (path / "tables").rmdir()
        if folder_too:
            path.rmdir()


def _refuse_read_only(path: Path) -> None:
    """Raise a `WriteError` where the folder cannot be written, or cannot be made in the first one that is there."""
    there = path.resolve()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise _not_writable(path, NotADirectoryError(errno.ENOTDIR, f"{str(there)!r} is not a folder"))
    if not os.access(there, os.W_OK | os.X_OK):
        raise _not_writable(path, PermissionError(errno.EACCES, f"no permission to write in {str(there)!r}"))


def _remove_run(path: Path) -> None:
    try:
        for name in _OWN_FILES:
            (path / name).unlink(missing_ok=True)
        for name in _OWN_FOLDERS:
            if (path / name).exists():
                shutil.rmtree(path / name)
    except OSError as error:
        raise _not_writable(path, error) from error


def _not_writable(path: Path, error: OSError) -> WriteError:
    why = error.strerror or str(error)
    return WriteError("cannot be written", where=f"the folder {str(path)!r}", value=why, fix="Choose another --out.")
