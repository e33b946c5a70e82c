"""Small pieces of HTML. Every string that comes from data goes through `text` or `name`, and nothing else does."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence

import numpy as np

from celbo.plots.names import shown
from celbo.plots.style import MISSING, category_colors
from celbo.report.data import Categories
from celbo.report.verdict import Verdict

__all__ = [
    "HEAT_STEPS",
    "as_json",
    "card",
    "facts",
    "legend",
    "missing",
    "name",
    "number",
    "palette_of",
    "ramp",
    "section",
    "sizes",
    "strip",
    "text",
]


HEAT_STEPS = 16
"""Tones of the scale of amounts in the style sheet, --h0 to --h15: on white the highest is the darkest, on near-black
the brightest."""
MISSING_MARK = 'class="card missing"'


def text(value: object, limit: int = 200) -> str:
    """Return any value as visible, escaped text."""
    return html.escape(shown(value, limit), quote=True)


def name(value: object, limit: int = 60) -> str:
    """Return a name as text of its own direction, so that right-to-left names do not move what is beside them."""
    return f"<bdi>{text(value, limit)}</bdi>"


def number(value: float, digits: int = 2) -> str:
    """Return a number for reading: thousands apart, a true minus, "–" for none."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−")


def as_json(value: object) -> str:
    """Return JSON that is safe inside a script element: without "<", ">" and "&"."""
    plain = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def section(key: str, title: str, *, see: str, look: str, body: Iterable[str]) -> str:
    """Return a section: its heading, what one sees, what to look for, and its content. All arguments are our own.

    A section of which nothing could be made says so and leaves out what one would have seen.
    """
    parts = [b for b in body if b]
    if all(MISSING_MARK in b for b in parts):
        return f'<section id="{key}">\n<h2>{title}</h2>\n' + "\n".join(parts) + "\n</section>"
    return (
        f'<section id="{key}">\n<h2>{title}</h2>\n<div class="intro"><p><b>What you see.</b> {see}</p>'
        f"<p><b>What to look for.</b> {look}</p></div>\n" + "\n".join(parts) + "\n</section>"
    )


def card(title: str, body: str, *, kind: str = "") -> str:
    """Return a figure on a card; `title` and `body` are markup."""
    return f'<figure class="card {kind}"><figcaption>{title}</figcaption>{body}</figure>'


def missing(sentence: str) -> str:
    """Return the sentence that stands where a panel would be."""
    return f"<p {MISSING_MARK}>{sentence}</p>"


def strip(verdict: Verdict) -> str:
    """Return a verdict as a coloured strip."""
    advice = f" <b>{text(verdict.advice, 400)}</b>" if verdict.advice else ""
    return (
        f'<div class="verdict {verdict.level}"><span class="badge">{text(verdict.word)}</span>'
        f"<p>{text(verdict.sentence, 400)}{advice}</p></div>"
    )


def facts(pairs: Iterable[tuple[str, str]], kind: str = "facts") -> str:
    """Return a definition list; values are markup."""
    return f'<dl class="{kind}">' + "".join(f"<dt>{text(k, 80)}</dt><dd>{v}</dd>" for k, v in pairs) + "</dl>"


def legend(categories: Categories, palette: Sequence[str], limit: int = 40) -> str:
    """Return colours and names of categories, at most `limit` of them."""
    items = [
        f'<span title="{text(n, 300)}"><i style="background:{c}"></i>{name(n, 44)}</span>'
        for n, c in list(zip(categories.names, palette, strict=True))[:limit]
    ]
    more = len(categories.names) - limit
    return f'<div class="legend">{"".join(items)}{f"<span>and {more} more</span>" if more > 0 else ""}</div>'


def palette_of(categories: Categories) -> list[str]:
    """Return a colour for each category: grey for names that say "not known", the palette's for the others.

    A category keeps its colour where only the largest are shown, so that all figures of a page agree.
    """
    places = categories.places
    colours = category_colors(max(places, default=-1) + 1)
    return [colours[place] if place >= 0 else MISSING for place in places]


def ramp() -> str:
    """Return the colour scale of amounts as a bar, in the page's light or dark tones."""
    stops = ",".join(f"var(--h{i})" for i in range(HEAT_STEPS))
    return f'<i style="background:linear-gradient(90deg,{stops})"></i>'


def sizes(categories: Categories, palette: Sequence[str], limit: int = 12) -> str:
    """Return one bar a category, as long as its cells are many; the smallest beyond `limit` are summed up."""
    counts = categories.sizes
    order = sorted(range(len(counts)), key=lambda i: -int(counts[i])) if len(counts) > limit else range(len(counts))
    top = max(int(counts.max(initial=1)), 1)
    rows = [
        f'<span title="{text(categories.names[i], 300)}">{name(categories.names[i], 40)}</span>'
        f'<span><i style="background:{palette[i]};width:{100 * counts[i] / top:.1f}%"></i></span>'
        f"<span>{counts[i]:,}</span>"
        for i in list(order)[:limit]
    ]
    rest = list(order)[limit:]
    if rest:
        rows.append(f"<span>{len(rest)} more</span><span></span><span>{sum(int(counts[i]) for i in rest):,}</span>")
    return f'<div class="sizes">{"".join(rows)}</div>'
