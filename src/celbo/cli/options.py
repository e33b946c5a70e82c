"""What all commands share: where options come from, and how a command tells what it does."""

from __future__ import annotations

import inspect
import json
import logging
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

from cyclopts import Parameter, Token

from celbo.errors import CelboWarning, OptionError, harmless, logger_of, nearest

if TYPE_CHECKING:
    from cyclopts import App, ArgumentCollection
    from cyclopts.argument import Argument

    from celbo.pipeline.config import Config

__all__ = [
    "DEFAULT_LOG",
    "LogOptions",
    "Switch",
    "asked_model",
    "complete",
    "logged",
    "options_for",
    "table",
    "with_options",
]


Switch = Annotated[bool, Parameter(negative=())]
"""A flag that is given or not."""


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What a command tells while it works."""

    quiet: Switch = False
    """Show only warnings, errors and the result."""
    log_json: Switch = False
    """Log one JSON object a line, for programs to read."""


DEFAULT_LOG = LogOptions()


def complete(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take what no flag gives from the file of --config: a flag wins over the file, the file over the default.

    With --resume alone, the file is the `run.toml` of the run that is resumed.
    """
    by_name = {argument.name.removeprefix("--").replace("-", "_"): argument for argument in arguments}
    for argument in by_name.values():
        _keep_numbers(argument)
    file = _file_of_options(by_name)
    if file is not None:
        from celbo.pipeline.config import read_toml

        _fill(by_name, read_toml(file), source=str(file))
    if "model" in by_name and "adam_eps" in by_name:  # a command that trains
        _fill_for_model(by_name)


def _fill(arguments: dict[str, Argument], values: Mapping[str, Any], *, source: str) -> None:
    """Give options that have no value yet theirs."""
    for name, value in values.items():
        wanting = arguments.get(name)
        if wanting is not None and wanting.parse and not wanting.tokens:
            wanting.append(Token(keyword=wanting.name, source=source, implicit_value=value))


def _fill_for_model(arguments: dict[str, Argument]) -> None:
    """Take what neither flag nor file gives from the preset, and then from the model's own plan."""
    model = _value(arguments["model"]) or "scvi"
    from celbo.cli.models import PLANS

    named = _value(arguments["preset"]) if "preset" in arguments else None
    if named is None:
        _fill(arguments, PLANS.get(model, {}), source=f"plan of {model}")
        return
    from celbo.pipeline.config import preset

    _fill(arguments, preset(model, named), source=f"preset {named}")


def _value(argument: Argument) -> str | None:
    if not argument.tokens:
        return None
    token = argument.tokens[-1]
    return str(token.value or token.implicit_value)


def asked_model(argv: Sequence[str]) -> str:
    """Return the model that the arguments name, or the file of options that they name; "scvi" if none does.

    It is looked for before the arguments are read, since they are read by the options of the model.
    """
    values: dict[str, str] = {}
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name in ("--model", "--config", "--out"):
            values[name] = value if equals else (argv[i + 1] if i + 1 < len(argv) else "")
    if "--model" in values:
        return values["--model"]
    file = values.get("--config", "")
    if not file and "--resume" in argv and "--out" in values:
        from celbo.pipeline.place import options_of_run

        file = str(options_of_run(Path(values["--out"])))
    try:
        return str(tomllib.loads(Path(file).read_text(encoding="utf-8")).get("model", "scvi")) if file else "scvi"
    except (OSError, ValueError, RecursionError):
        return "scvi"  # what is wrong with the file is said when it is read


@cache
def options_for(model: str, kind: type[Config]) -> type[Config]:
    """Return the class of options of a model without what needs torch.

    Parameters
    ----------
    model
        Name of the model on the command line.
    kind
        `RunConfig` or `TrainRunConfig`.

    Raises
    ------
    OptionError
        If there is no such model; the message names the nearest one.
    """
    from celbo.cli.models import OPTIONS, PLANS
    from celbo.pipeline.config import with_network
    from celbo.training.plan import TrainConfig

    if model not in OPTIONS:
        raise OptionError("is not a model", where=f"model {model!r}", fix=nearest(model, OPTIONS))
    return with_network(kind, model, OPTIONS[model], lambda: TrainConfig(**PLANS[model]))


def with_options(command: Callable[..., Any], kind: type[Any]) -> Callable[..., Any]:
    """Return a command whose parameter `options` is of another class, which has other flags."""
    hints = get_type_hints(command, include_extras=True)
    hints["options"] = Annotated[kind, Parameter(name="*")]
    signature = inspect.signature(command)
    parameters = [
        p.replace(annotation=hints[p.name], default=kind() if p.name == "options" else p.default)
        for p in signature.parameters.values()
    ]

    @wraps(command)
    def other(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    other.__annotations__ = hints
    other.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return other


def _keep_numbers(argument: Argument) -> None:
    """Read whole numbers as such: "3" for a share or a number is 3, and 0.5 is no whole number."""
    kinds = set(get_args(argument.hint)) or {argument.hint}
    if int not in kinds:
        return
    for i, token in enumerate(argument.tokens):
        if not token.value or token.value.lower() in {"none", "null"}:
            continue
        argument.tokens[i] = token.evolve(implicit_value=_number(token, float in kinds), value="")


def _number(token: Token, may_be_float: bool) -> int | float:
    for kind in (int, float) if may_be_float else (int,):
        try:
            return kind(token.value)
        except ValueError:
            continue
    what = "number" if may_be_float else "whole number"
    raise OptionError(f"is not a {what}", where=str(token.keyword), value=repr(token.value))


def _file_of_options(arguments: dict[str, Argument]) -> Path | None:
    """Return the file that --config names, or the options of the run to resume."""
    named, resumed, out = (arguments.get(name) for name in ("config", "resume", "out"))
    if named is not None and named.tokens:
        return Path(named.tokens[-1].value)
    if resumed is not None and resumed.tokens and resumed.tokens[-1].implicit_value is True and out and out.tokens:
        from celbo.pipeline.place import options_of_run

        file = options_of_run(Path(out.tokens[-1].value))
        return file if file.exists() else None
    return None


class _Plain(logging.Formatter):
    """A time and the message; warnings are marked."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return f"{clock} {mark}{record.getMessage()}"


class _Json(logging.Formatter):
    """One JSON object a line: time, level, from, message, and the numbers of a step."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "from": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: getattr(record, name) for name in ("step", "seconds") if hasattr(record, name)}
        return json.dumps(entry)


@contextmanager
def logged(options: LogOptions) -> Iterator[None]:
    """Show celbo's log and warnings on standard error while a command works; other packages' warnings are not shown."""
    logger, handler = logger_of("celbo"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if options.log_json else _Plain())
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if options.quiet else logging.INFO)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", CelboWarning)
            warnings.showwarning = lambda message, *_, **__: logger.warning("%s", message)
            yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Return name and value in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {harmless(value)}" for name, value in rows)
