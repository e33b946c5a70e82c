"""The command line: one line a command here; what each does is in a module that is imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import App, CycloptsError, Parameter

import celbo
from celbo.cli.options import asked_model, complete, with_options
from celbo.errors import CelboError, InputError, OptionError, TrainingError, in_flags

__all__ = ["app", "main"]

DONE, OTHER, USAGE, BAD_INPUT, TRAINING_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130

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
)
_TRAINING = {"run": "RunConfig", "train": "TrainRunConfig"}
"""The commands whose options are those of a model."""


def make_app(model: str = "scvi") -> App:
    """Return the command line; `run` and `train` take the options of this model."""
    made = App(
        name="celbo",
        help="Deep generative models of single-cell counts.",
        version=f"celbo {celbo.__version__}",
        config=complete,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative_iterable=()),
        help_epilogue="Exit codes: 0 done, 2 usage, 3 bad input, 4 training failed, 130 interrupted.",
    )
    for name, where, text in _COMMANDS:
        if model == "scvi" or name not in _TRAINING:
            made.command(f"celbo.cli.{where}", name=name, help=text)
        else:
            made.command(_for_model(name, model), name=name, help=text)
    return made


def _for_model(name: str, model: str) -> Callable[..., Any]:
    from celbo.cli import run
    from celbo.pipeline import config

    return with_options(getattr(run, name), config.config_for(model, getattr(config, _TRAINING[name])))


app = make_app()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Parameters
    ----------
    argv
        The arguments after `celbo`; None takes those of the process.

    Returns
    -------
    0 done, 2 wrong usage, 3 bad input, 4 training failed, 130 interrupted, 1 anything else.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    with in_flags():
        return _main(given)


def _main(given: list[str]) -> int:
    try:
        model = asked_model(given) if given[:1] and given[0] in _TRAINING else "scvi"
        chosen = app if model == "scvi" else make_app(model)
        code = chosen(given, exit_on_error=False, print_error=False)
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("CELBO_DEBUG"):
            raise
        code, message = _told(error)
        print(message, file=sys.stderr)
    return code if isinstance(code, int) else DONE


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
    if isinstance(error, MemoryError):
        return OTHER, "celbo: out of memory. Use fewer genes (--n-top-genes) or a machine with more."
    return OTHER, f"celbo: {type(error).__name__}: {text}\nThis should not happen: CELBO_DEBUG=1 shows where it did."
