"""The last section: the command, versions, seed, options and seconds that made the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from celbo.plots.style import category_colors
from celbo.report.data import ReportData
from celbo.report.markup import card, facts, section, text

__all__ = ["provenance"]


def provenance(data: ReportData) -> str:
    """Return the section on how the page was made."""
    cards = []
    if data.command:
        cards.append(card("Command <small>click to select</small>", f"<pre>{text(data.command, 4000)}</pre>"))
    known = [("seed", f"<code>{text(data.seed, 40)}</code>")] if data.seed is not None else []
    known += [(key, f"<code>{text(value, 80)}</code>") for key, value in data.versions.items()]
    pair = [card("Seed and versions", facts(known))] if known else []
    if data.seconds:
        pair.append(card(f"Time <small>{sum(data.seconds.values()):,.0f} seconds in all</small>", _times(data.seconds)))
    if pair:
        cards.append(f'<div class="grid two">{"".join(pair)}</div>')
    options = list(_flat(data.config))
    if options:
        rows = "".join(f"<div><dt>{text(k, 80)}</dt><dd>{text(v, 120)}</dd></div>" for k, v in options)
        cards.append(f'<details class="card"><summary>All options</summary><dl class="columns">{rows}</dl></details>')
    return section(
        "made",
        "How this was made",
        see="Everything that is needed to make this page again.",
        look="The same command, versions and seed give the same numbers on the same machine.",
        body=cards,
    )


def _times(seconds: Mapping[str, float]) -> str:
    total = max(sum(seconds.values()), 1e-9)
    colours = category_colors(len(seconds))
    bar = "".join(
        f'<i style="background:{c};width:{100 * s / total:.2f}%"></i>'
        for c, s in zip(colours, seconds.values(), strict=True)
    )
    rows = "".join(
        f'<span title="{text(step)}"><i style="background:{c}"></i><bdi>{text(step, 44)}</bdi>{s:,.1f} s</span>'
        for c, (step, s) in zip(colours, seconds.items(), strict=True)
    )
    return f'<div class="bar">{bar}</div><div class="legend">{rows}</div>'


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "default" if value is None else str(value)
