"""Names made safe to show: whatever a file calls a gene, a cell type or a batch becomes plain, short, visible text."""

from __future__ import annotations

import unicodedata

from celbo.errors import escaped

__all__ = ["shown"]

# control, format (bidi marks, zero-width), surrogate, private, unassigned, line and paragraph separator
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MAX_MARKS = 2
"""Combining marks kept on one letter; more of them climb over the neighbouring lines."""


def shown(name: object, limit: int = 60) -> str:
    r"""Return a name as one line of visible text, at most `limit` characters with an ellipsis where it was cut.

    Control, bidirectional and zero-width characters become escapes such as ``\u202e``, so that they neither act nor
    hide; an empty name becomes "(empty)". The text still has to be escaped for HTML; `$` has no meaning, since the
    figures draw text with mathematics switched off.

    Parameters
    ----------
    name
        Any object; its `str` is shown.
    limit
        Longest text in characters.
    """
    text = str(name)
    out: list[str] = []
    marks = length = 0
    for char in text[: 2 * limit + 64]:  # enough for the cut, and a name of a megabyte costs no more than a short one
        kind = unicodedata.category(char)
        marks = marks + 1 if kind in {"Mn", "Me"} else 0
        if marks > _MAX_MARKS:
            continue
        out.append(escaped(char) if kind in _INVISIBLE else char)
        length += len(out[-1])
        if length > limit:
            break
    joined = "".join(out)
    if not joined.strip():
        return "(empty)"
    return joined if len(joined) <= limit and len(text) <= 2 * limit + 64 else joined[: limit - 1].rstrip() + "…"
