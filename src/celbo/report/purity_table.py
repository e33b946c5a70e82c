"""The table of known labels: how pure the neighbourhoods of each are, and what it blurs into."""

from __future__ import annotations

import pandas as pd

from celbo.report.markup import card, name

__all__ = ["purity_table"]

_MOST = 60
"""Labels in the page; the tables beside it hold all."""


def purity_table(purity: pd.DataFrame | None) -> str:
    """Return the table as a card; nothing where there are no labels.

    Parameters
    ----------
    purity
        `ReportData.purity`.
    """
    if purity is None or purity.empty:
        return ""
    before = "purity_before" in purity
    numbers = ["cells", *["before"] * before, "after", "by chance", "at most"]
    heads = "".join(f'<th class="value">{head}</th>' for head in numbers)
    rows = "".join(_row(label, row, before=before) for label, row in purity.head(_MOST).iterrows())
    other = "<th>most frequent other label</th>"
    left = len(purity) - _MOST
    more = f'<p class="note">and {left:,} more labels, in tables/label_purity.csv</p>' if left > 0 else ""
    return card(
        "Label purity by label <small>share of a cell's nearest neighbours that have its label</small>",
        f'<div class="scroll"><table class="metrics purity"><tr><th>label</th>{heads}{other}</tr>'
        f"{rows}</table></div>{more}",
    )


def _row(label: object, row: pd.Series, *, before: bool) -> str:
    shares = [*[row["purity_before"]] * before, row["purity"], row["chance"], row["best"]]
    told = [f"{row['cells']:,.0f}", *("–" if pd.isna(share) else f"{100 * share:.0f}%" for share in shares)]
    told[1 + before] = f"<b>{told[1 + before]}</b>"
    values = "".join(f'<td class="value">{value}</td>' for value in told)
    other = f"{name(row['neighbour'], 40)} {100 * row['neighbour_share']:.0f}%" if row["neighbour"] else "–"
    return f"<tr><td><b>{name(label, 60)}</b></td>{values}<td>{other}</td></tr>"
