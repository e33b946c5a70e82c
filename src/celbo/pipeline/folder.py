"""The folder of a run: what may be in it, how it is opened anew, replaced or continued."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from celbo import results
from celbo.errors import OptionError, listed
from celbo.files import atomic_text, named_errors
from celbo.locks import alone
from celbo.pipeline.config import TrainRunConfig, build, different, made_by, read_toml, to_toml
from celbo.pipeline.place import NEW, RUN, Found, not_writable

if TYPE_CHECKING:
    from celbo.training.engine import FitResult

__all__ = ["RunFolder"]

ConfigT = TypeVar("ConfigT", bound=TrainRunConfig)


@dataclass(frozen=True)
class RunFolder(Generic[ConfigT]):
    """A folder that belongs to one run, with the options of that run."""

    home: Path
    """The folder that `--out` names."""
    path: Path
    """Where the run is written: there, or beside an earlier run whose place it takes when it is finished."""
    config: ConfigT
    command: str = ""
    """The command that began the run, to show in the report."""
    goes_on: bool = False
    """Whether the run in `path` is continued."""
    _open: ExitStack = field(default_factory=ExitStack, compare=False, repr=False)
    """Holds the lock of the folder."""

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
            Whether the run may take the place of an earlier one there, when it is finished.
        command
            The command to show in the report; a run that is continued keeps its first one.

        Raises
        ------
        OptionError
            If no folder is named, if it holds something else than a run, or a run that may not be replaced.
        WriteError
            If the folder cannot be written or made, or another process writes to it.
        """
        if not config.out:
            raise OptionError("is missing", where="the folder to write to", fix="Give --out DIR (out= in Python).")
        home = Path(config.out)
        config = replace(config, out=str(home.resolve()), data=tuple(_absolute(name) for name in config.data))
        found = Found.of(home, RUN, resume=resume, force=force)
        if found.goes_on:
            config = _continued(found.path, config)
            command = str(made_by(found.path / "run.toml").get("command", command))
        return cls(home, found.path, config, command, found.goes_on)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Hold the folder for this process while the block runs, once `made` has made it.

        Raises
        ------
        KeyboardInterrupt
            If the block was interrupted, with a message that says how to go on.
        """
        try:
            with self._open:
                yield
        except KeyboardInterrupt as stopped:
            if stopped.args:
                raise
            raise KeyboardInterrupt(self.after_interrupt()) from None

    @contextmanager
    def made(self) -> Iterator[None]:
        """Make the folder, with the options in it; it goes again if the block fails before anything else is there.

        Raises
        ------
        OptionError
            If another process has put a run there meanwhile.
        WriteError
            If it cannot be written or made, or another process writes to it.
        """
        was_there, before = self.home.exists(), RUN.state(self.path)
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_writable(self.home, error) from error
        self._open.enter_context(alone(self.home))
        again = Found.of(self.home, RUN, resume=self.goes_on, force=self.path != self.home, held=True)
        if (again.path, again.goes_on) != (self.path, self.goes_on):
            raise OptionError("was altered meanwhile", where=f"the folder {str(self.home)!r}", fix="Try again.")
        began = before != "there" or not self.goes_on
        try:
            RUN.begin(again)
            self.write_options({"finished": False})
            with named_errors(self.path):
                (self.path / "tables").mkdir(exist_ok=True)
            yield
        except BaseException:
            if began:
                _discard(self.path)
                self._open.close()
                if not was_there:
                    with suppress(OSError):
                        self.home.rmdir()
            raise

    def after_interrupt(self) -> str:
        """Return how to go on after an interrupt, in a sentence or two."""
        if RUN.state(self.path) != "there":
            return "Interrupted before training: nothing was written."
        if not self.checkpoint.exists() and not self.model.exists():
            return "Interrupted before the end of the first epoch: nothing is there to continue from."
        kept = "the trained model" if self.model.exists() else "the last checkpoint"
        where = self.model if self.model.exists() else self.checkpoint
        return f"Interrupted; {kept} is in {where}. Continue with --resume --out {shlex.quote(str(self.home))}."

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
        """Write the last files, the resolved options and the versions, and take the place of an earlier run."""
        results.write_versions(self.path / "versions.yml", "celbo run")
        self.write_options({"finished": True}, fitted=fitted)
        if self.path != self.home:
            RUN.exchange(self.home)


def _absolute(name: str) -> str:
    return name if name.startswith("demo:") else str(Path(name).expanduser().absolute())


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


def _discard(path: Path) -> None:
    """Remove a run that has come to nothing: one without a model, a checkpoint or a table."""
    if any((path / name).exists() for name in ("model", "checkpoint")):
        return
    tables = path / "tables"
    if tables.is_dir() and any(tables.iterdir()):
        return
    with suppress(OSError):  # WriteError is one, too
        tables.rmdir()
    with suppress(OSError):
        (path / "run.toml").unlink(missing_ok=True)
        if path.name == NEW:
            path.rmdir()
