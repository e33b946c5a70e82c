"""The command line: one line a command here; what each does is in a module that is imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from cyclopts import App, CycloptsError, Parameter

import celbo
from celbo import caches
from celbo.cli import clock
from celbo.cli.brief import EXAMPLES, brief
from celbo.cli.options import asked_model, complete, options_for, with_options
from celbo.cli.signals import INTERRUPTED, ended_as_by_ctrl_c
from celbo.errors import CelboError, InputError, OptionError, TrainingError, in_flags, say
from celbo.files import why

__all__ = ["main", "make_app"]

DONE, OTHER, USAGE, BAD_INPUT, TRAINING_FAILED = 0, 1, 2, 3, 4

_COMMANDS = (
    ("demo", "run:demo", "Run the main job on data that come with celbo."),
    ("run", "run:run", "Run the main job: from a file of counts to clusters, markers and a report."),
    ("check", "check:check", "Tell what is in a file, whether it is counts, what is wrong, and which keys to use."),
    ("train", "run:train", "Train a model and save it."),
    ("latent", "ask:latent", "Write the latent state of each cell."),
    ("de", "de:de", "Write the genes that groups of cells express differently."),
    ("denoise", "ask:denoise", "Write the expected expression of each gene in each cell."),
    ("embed", "embed:embed", "Reduce cells to a few coordinates by a classical method: PCA, t-SNE, UMAP, ..."),
    ("compare", "compare:compare", "Compare methods on your data: one table and one page that say which to use."),
    (
        "completion",
        "completion:completion",
        "Print or install what the tab key needs to complete commands and options.",
    ),
)
_TRAINING = {"run": "RunConfig", "train": "TrainRunConfig"}
"""The commands whose options are those of a model."""


EXIT_CODES = (
    "Exit codes: 0 done, 1 a file cannot be written or another failure, 2 usage, 3 bad input, 4 training failed, "
    "130 interrupted (143 by SIGTERM, 129 by SIGHUP)."
)


def make_app(model: str | None = None, *, short: bool = False) -> App:
    """Return the command line.

    Parameters
    ----------
    model
        Model whose options `run` and `train` take; with None the two are not imported before they are called.
    short
        Whether they have the options of the short help alone.
    """
    made = App(
        name="celbo",
        help="Deep generative models of single-cell counts.",
        version=f"celbo {celbo.__version__}",
        config=complete,
        result_action="return_value",
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative_iterable=()),
        help_epilogue=EXIT_CODES,
    )
    for name, where, text in _COMMANDS:
        if name not in _TRAINING:
            made.command(f"celbo.cli.{where}", name=name, help=text)
            continue
        command = f"celbo.cli.{where}" if model is None else _for_model(name, model, short=short)
        hint = f"celbo {name} --help-all lists every option, --model NAME --help-all those of another model." * short
        made.command(command, name=name, help=text, help_epilogue="\n\n".join([hint, EXAMPLES[name], EXIT_CODES]))
    return made


def _for_model(name: str, model: str, *, short: bool) -> Callable[..., Any]:
    from celbo.cli import run
    from celbo.pipeline import config

    kind = options_for(model, getattr(config, _TRAINING[name]))
    return with_options(getattr(run, name), brief(kind) if short else kind)


def _app_for(argv: list[str]) -> App:
    """Return the command line that the arguments need, and turn --help-all into the --help that it has."""
    if not argv or argv[0] not in _TRAINING:
        return make_app()
    short = "--help" in argv or "-h" in argv
    argv[:] = ["--help" if word == "--help-all" else word for word in argv]
    return make_app(asked_model(argv), short=short)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Parameters
    ----------
    argv
        The arguments after `celbo`; None takes those of the process.

    Returns
    -------
    0 done, 2 wrong usage, 3 bad input, 4 training failed, 130 interrupted (143 by SIGTERM, 129 by SIGHUP), 1 anything
    else, such as a file that cannot be written.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    clock.start(with_process=argv is None)
    caches.provide(caches.asked_folder(given))
    with in_flags():
        return _main(given)


def _main(given: list[str]) -> int:
    with ended_as_by_ctrl_c() as ending:
        try:
            app = _app_for(given)
            code = app(given, exit_on_error=False, print_error=False)
            _flush()
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get("CELBO_DEBUG"):
                raise
            if ending.number and not isinstance(error, KeyboardInterrupt | CelboError):
                error = KeyboardInterrupt()  # what was interrupted has made another error of it
            code, message = _told(error)
            code = ending.exit_code if code == INTERRUPTED else code
            with suppress(OSError):
                say(message, file=sys.stderr)
    return code if isinstance(code, int) else DONE


def _flush() -> None:
    """Write out what was printed, while a failure can still be told."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _told(error: BaseException) -> tuple[int, str]:
    """Return the exit code and what to tell the user: what is wrong and how to go on, without a traceback."""
    if isinstance(error, ImportError) and error.__cause__ is not None:
        error = error.__cause__  # a command is imported when it is called: tell what failed, not that something did
    text = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, text or "Interrupted."
    if isinstance(error, CycloptsError):
        return USAGE, f"celbo: {text}\nSee celbo --help."
    if isinstance(error, BrokenPipeError):
        sys.stdout = None  # what would be flushed at the end has no reader either
        return OTHER, "celbo: nobody reads the output."
    if isinstance(error, CelboError):
        codes = ((OptionError, USAGE), (InputError, BAD_INPUT), (TrainingError, TRAINING_FAILED))
        code = next((code for kind, code in codes if isinstance(error, kind)), OTHER)
        return code, f"celbo: {type(error).__name__}: {text}"
    if isinstance(error, OSError) and error.errno is not None:
        told = f"{_place(error)} cannot be read or written: {why(error)}."
    elif isinstance(error, MemoryError):
        told = "out of memory. Use fewer genes (--n-top-genes) or a machine with more."
    else:
        told = f"{type(error).__name__}: {text}\nThis should not happen: CELBO_DEBUG=1 shows where it did."
    return OTHER, f"celbo: {told}"


def _place(error: OSError) -> str:
    """Return the file of an error of the system; where it names none it may be the output, which is then given up."""
    if error.filename:
        return repr(os.fsdecode(error.filename))
    try:
        _flush()
    except OSError:
        sys.stdout = None  # or it would fail again at the end
        return "the output"
    return "a file"
