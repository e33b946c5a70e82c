"""The index of a page: a bar of links to its sections that stays in sight."""

from __future__ import annotations

import html
import re

__all__ = ["index"]

_SHORT = {
    "short": "In short",
    "maps": "Map",
    "integration": "Batches and types",
    "clusters": "Clusters",
    "data": "Data",
    "quality": "Quality of cells",
    "training": "Training",
    "fit": "Model fit",
    "made": "How it was made",
}
"""What a section is called in the bar, where its heading is long."""


def index(sections: str) -> str:
    """Return the bar for a page with these sections; a list that opens on narrow screens.

    Parameters
    ----------
    sections
        Markup of the sections, each beginning with its id and its heading.
    """
    found = re.findall(r'<section id="([\w-]+)">\s*<h2>(.*?)</h2>', sections, re.S)
    links = "".join(f'<li><a href="#{key}">{_SHORT.get(key) or _words(title)}</a></li>' for key, title in found)
    return (
        '<nav class="index" aria-label="Sections"><div><input type="checkbox" id="index-open">'
        f'<label for="index-open"><span>Sections</span></label><ul>{links}</ul></div></nav>'
    )


def _words(title: str) -> str:
    return html.escape(html.unescape(re.sub(r"<small>.*?</small>|<[^>]*>", "", title, flags=re.S)).strip())
