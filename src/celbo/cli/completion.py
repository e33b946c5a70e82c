"""celbo completion: what a shell needs to complete commands and options by the tab key."""

from __future__ import annotations

from typing import Literal

from celbo.cli.options import Switch

__all__ = ["completion"]


def completion(shell: Literal["bash", "zsh", "fish"] | None = None, *, install: Switch = False) -> int:
    """Print the script that completes commands, options and choices by the tab key, or install it.

    For this session of bash: eval "$(celbo completion bash)".

    Parameters
    ----------
    shell
        The shell; by default the one that is running.
    install
        Write the script where the shell looks for it, and name it in the shell's start-up file where that is needed.
    """
    from cyclopts.completion.detect import ShellDetectionError

    from celbo.cli.app import make_app
    from celbo.errors import OptionError, say

    app = make_app("scvi")
    try:
        if install:
            say(f"{app.install_completion(shell=shell)}\nIt works in the next shell that you start.")
        else:
            say(app.generate_completion(shell=shell))
    except ShellDetectionError:
        raise OptionError("could not be detected", where="the shell", fix="Name it: celbo completion bash.") from None
    return 0
