"""A page as one self-contained file: its head, which all pages share, its body, and what goes into both."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template

__all__ = ["whole_page"]


def whole_page(body: str, *, styles: Sequence[str], scripts: Sequence[str], parts: Mapping[str, str]) -> str:
    """Return a page as a string: no network, no inline script but one of known hash.

    Parameters
    ----------
    body
        Name of the template of the body, in the folder `page`.
    styles, scripts
        Names of the style sheets and scripts there, put together in this order.
    parts
        What else the head (`title`) and the body name, escaped already.
    """
    folder = files("celbo.report") / "page"

    def read(*names: str) -> str:
        return "".join((folder / name).read_text(encoding="utf-8") for name in names)

    script = read(*scripts)
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    filled = Template(read("head.html", body))
    return filled.substitute(parts, style=read(*styles), script=script, script_hash=script_hash)
