"""The table of a comparison: methods by family, columns by what they speak of, every gap with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from celbo.evaluate.comparison import Column, Comparison
from celbo.report.compare_verdict import value_of
from celbo.report.markup import missing, name, number, text

__all__ = ["FAMILIES", "comparison_table", "in_families", "reason_of", "written"]

FAMILIES = {
    "classical": "Classical reductions and maps",
    "factorisation": "Factorisation",
    "autoencoder": "Autoencoders",
    "variational": "Variational autoencoders",
}
_GROUPS = {
    "likelihood": "Explains counts",
    "denoising": "Denoises",
    "clusters": "Finds cell types",
    "batches": "Mixes batches",
    "picture": "Picture and neighbours",
    "cost": "Costs",
}
_APART = {
    "reconstruction": "The model has seen the counts that it predicts, so this is not evidence: it is not ranked, and "
    "cannot be compared with the held-out log-likelihood.",
    "mcv_mse": "It is biased where counts are few, so it is not ranked: judge by the deviance.",
}
"""Columns that are shown and not ranked, and why."""
_SHORT = {
    "log_likelihood": ("Held-out log-likelihood", 1),
    "reconstruction": ("Recon\u00adstruction", 1),
    "mcv_deviance": ("Deviance", 3),
    "mcv_mse": ("Error on logs", 3),
    "ari": ("k-means ARI", 2),
    "nmi": ("k-means NMI", 2),
    "label_silhouette": ("Silhou\u00adette", 2),
    "batch_silhouette": ("Silhou\u00adette", 2),
    "ilisi": ("iLISI", 2),
    "neighbours_kept": ("Neigh\u00adbours kept", 2),
    "seed_overlap": ("Same, other seed", 2),
    "seed_procrustes": ("Moved, other seed", 2),
    "parameter_overlap": ("Same, other para\u00admeter", 2),
    "parameter_procrustes": ("Moved, other para\u00admeter", 2),
    "seconds": ("Seconds", 1),
    "memory": ("MiB", 0),
}
"""Heading in the table and digits of each column."""
_NEAR = {
    "reconstruction": (),
    "mcv_mse": ("mcv_deviance",),
    **dict.fromkeys(("ari", "nmi", "label_silhouette", "batch_silhouette", "ilisi"), ("clusters",)),
    "neighbours_kept": ("picture",),
    "seed_procrustes": ("seed_overlap",),
    "parameter_overlap": ("parameter_procrustes",),
    "parameter_procrustes": ("parameter_overlap",),
}
"""Where else the reason of a missing number may stand: one reason often explains several columns."""


def in_families(found: Comparison) -> dict[str, list[str]]:
    """Return the methods of each family, both in their order; families that are not known come last."""
    names = [str(name) for name in found.table.index]
    kinds = dict.fromkeys([*FAMILIES, *(found.families.get(name, "other") for name in names)])
    by_kind = {kind: [n for n in names if found.families.get(n, "other") == kind] for kind in kinds}
    return {kind: members for kind, members in by_kind.items() if members}


def reason_of(found: Comparison, method: str, column: str) -> str:
    """Return why a method has no number in a column."""
    for key in (column, *_NEAR.get(column, ())):
        if (method, key) in found.reasons:
            return found.reasons[method, key]
    if column == "reconstruction":
        return "Only for autoencoders whose output is a distribution of counts, but that have no likelihood of a cell."
    return "It was not computed."


def written(column: str, value: float) -> str:
    """Return a number with the digits of its column."""
    if column == "seconds" and np.isfinite(value) and value >= 100:
        return number(value, 0)
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    return number(value, _SHORT[column][1])


def comparison_table(found: Comparison) -> str:
    """Return the table with its notes; without a method, the sentence that stands for it."""
    columns = found.columns()
    if not columns or found.table.empty:
        return missing("There is no number to show.")
    made = _Table(found, columns)
    bodies = "".join(made.family(kind, names) for kind, names in in_families(found).items()) + made.baselines()
    return (
        f'<div class="card wide"><div class="scroll"><table id="methods"><thead>{made.heads()}</thead>{bodies}'
        f"</table></div>{_key(columns)}{_reasons(made.notes)}{_meanings(columns)}</div>"
    )


@dataclass
class _Table:
    """The markup of the table, in the making."""

    found: Comparison
    columns: list[Column]
    notes: dict[str, str] = field(default_factory=dict)
    """The letter of each reason why a number is missing."""

    def __post_init__(self) -> None:
        """Find where groups begin, and how dark each cell is."""
        runs = [column.group + column.name * (column.name == "reconstruction") for column in self.columns]
        self.firsts = [i for i, run in enumerate(runs) if i == 0 or run != runs[i - 1]]
        self.shades = {column.name: _shades(self.found.table[column.name], column) for column in self.columns}

    def kind(self, i: int, *more: str) -> str:
        """Return the classes of a cell in column i."""
        first, apart = i in self.firsts, self.columns[i].name in _APART
        return " ".join(["number", *["first"] * first, *["apart"] * apart, *more])

    def heads(self) -> str:
        """Return the two rows of headings: groups, and columns as buttons that sort."""
        ends = [*self.firsts[1:], len(self.columns)]
        groups = "".join(
            f'<th scope="colgroup" colspan="{end - start}" class="first">{_group(self.columns[start])}</th>'
            for start, end in zip(self.firsts, ends, strict=True)
        )
        cells = "".join(self.head(i) for i in range(len(self.columns)))
        home = '<button type="button" data-home="1" title="Back to the families">Method</button>'
        return f'<tr class="groups"><td></td>{groups}</tr><tr><th scope="col">{home}</th>{cells}</tr>'

    def head(self, i: int) -> str:
        """Return the heading of column i."""
        column = self.columns[i]
        arrow, words = ("↑", "more is better") if column.better == "higher" else ("↓", "less is better")
        ranked = column.name not in _APART
        tip = f"{column.title}. {column.meaning} {f'({words})' if ranked else _APART[column.name]}"
        end = f' <span aria-label="{words}">{arrow}</span>' if ranked else ""
        return (
            f'<th scope="col" class="{self.kind(i)}" aria-sort="none"><button type="button" data-column="{i}" '
            f'data-better="{column.better}" title="{text(tip, 600)}">{_SHORT[column.name][0]}{end}</button></th>'
        )

    def family(self, kind: str, names: list[str]) -> str:
        """Return the rows of the methods of one family, under its name."""
        titles, sentences = self.found.titles, self.found.sentences
        rows = "".join(
            f"<tr>{_row_head(titles.get(name, name), sentences.get(name, ''), kind)}"
            f"{''.join(self.cell(name, i) for i in range(len(self.columns)))}</tr>"
            for name in names
        )
        return f"<tbody>{self.over(FAMILIES.get(kind, kind))}{rows}</tbody>"

    def over(self, title: str) -> str:
        """Return the row that stands above a family."""
        wide = len(self.columns) + 1
        return f'<tr class="family"><th colspan="{wide}" scope="rowgroup"><span>{text(title, 60)}</span></th></tr>'

    def cell(self, name: str, i: int) -> str:
        """Return one number of a method, or the letter of the reason why there is none."""
        column = self.columns[i].name
        value = value_of(self.found, name, column)
        if np.isnan(value):
            reason = reason_of(self.found, name, column)
            letter = self.notes.setdefault(reason, _letter(len(self.notes)))
            return f'<td class="{self.kind(i, "none")}" title="{text(reason, 300)}">–<sup>{letter}</sup></td>'
        shade = self.shades[column].get(name, [])
        mark = '<i aria-label="best">●</i>' if "best" in shade else ""
        return f'<td class="{self.kind(i, *shade)}" data-value="{value!r}">{mark}{written(column, value)}</td>'

    def baselines(self) -> str:
        """Return the rows of what needs no method, in the columns where they have numbers."""
        rows = []
        for title, numbers in self.found.baselines.items():
            values = [float(numbers.get(column.name, np.nan)) for column in self.columns]
            cells = "".join(
                f'<td class="{self.kind(i)}"></td>' if np.isnan(value) else
                f'<td class="{self.kind(i)}" data-value="{value!r}">{written(self.columns[i].name, value)}</td>'
                for i, value in enumerate(values)
            )  # fmt: skip
            if not np.isnan(values).all():
                rows.append(f"<tr>{_row_head(title, 'For scale: it needs no method.', 'baseline')}{cells}</tr>")
        if not rows:
            return ""
        return f'<tbody class="baselines">{self.over("Baselines: no method, for scale")}{"".join(rows)}</tbody>'


def _group(column: Column) -> str:
    return "Not evidence" if column.name == "reconstruction" else _GROUPS[column.group]


def _letter(i: int) -> str:
    return (chr(96 + i // 26) if i >= 26 else "") + chr(97 + i % 26)


def _row_head(title: str, sentence: str, kind: str) -> str:
    tip = f' title="{text(sentence, 300)}"' if sentence else ""
    return f'<th scope="row"{tip}>{name(title, 40)}<small>{text(kind, 40)}</small></th>'


def _shades(values: pd.Series[float], column: Column) -> dict[str, list[str]]:
    """Return the classes of each cell: r1 (first quarter of the ranks) to r4, and "best"; none for a single number."""
    known = values.replace([np.inf, -np.inf], np.nan).dropna()
    if len(known) < 2 or column.name in _APART:
        return {}
    ranks = known.round(10).rank(ascending=column.better == "lower", method="min").to_numpy()
    steps = np.minimum(1 + (4 * (ranks - 1) / (len(known) - 1)).astype(int), 4)
    return {
        str(method): [f"r{step}", *(["best"] if rank == 1 else [])]
        for method, step, rank in zip(known.index, steps, ranks, strict=True)
    }


# ---------------------------------------------------------------------------------------------------------------- notes


def _key(columns: list[Column]) -> str:
    scale = "".join(f'<i class="r{i}"></i>' for i in (1, 2, 3, 4))
    apart = "".join(
        f"<p><b>{text(column.title)}.</b> {text(_APART[column.name], 300)}</p>"
        for column in columns
        if column.name in _APART
    )
    items = (
        '<b class="dot">●</b> best of the column',
        f'<span class="scale">first {scale} last, by rank</span>',
        "↑ more is better",
        "↓ less is better",
        "a click on a heading sorts, on “Method” brings the families back",
    )
    row = "".join(f"<span>{item}</span>" for item in items)
    return f'<div class="key-row">{row}</div><div class="note apart-notes">{apart}</div>'


def _reasons(notes: Mapping[str, str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li><sup>{letter}</sup> {text(reason, 400)}</li>" for reason, letter in notes.items())
    return f'<ul class="reasons" aria-label="Why numbers are missing">{items}</ul>'


def _meanings(columns: list[Column]) -> str:
    items = "".join(
        f"<dt>{_GROUPS[column.group]}: {text(column.title)}</dt><dd>{text(column.meaning, 500)}</dd>"
        for column in columns
    )
    return f'<details><summary>What each column means</summary><dl class="facts">{items}</dl></details>'
