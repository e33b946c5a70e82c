"""The map of cells: what its script draws from, as compact text, and still pictures where no script runs."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from celbo.plots.compared import top_genes
from celbo.plots.names import shown
from celbo.report.data import Categories, ReportData, is_known
from celbo.report.figures import map_svg
from celbo.report.markup import as_json, card, legend, missing, palette_of, section, text

__all__ = ["MAX_CELLS", "MAX_GENES", "map_cells", "map_genes", "map_json", "maps", "pack"]

MAX_CELLS = 20_000
"""Cells that the map shows; more are a random subset."""
MAX_GENES = 300
"""Genes that the map can be coloured by."""
GENE_BYTES = 2_500_000
"""Characters that these genes may take in the page; those that come last are left out."""
NAME_BYTES = 800_000
"""Characters that the names of the cells may take in the page; beyond that the map does without."""
_FINEST = 65535


def map_cells(n_cells: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the positions of the cells that the map shows, at most `MAX_CELLS`, in order."""
    if n_cells <= MAX_CELLS:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(seed).choice(n_cells, MAX_CELLS, replace=False)).astype(np.int64)


def map_genes(markers: pd.DataFrame | None, n_genes: int = MAX_GENES) -> list[str]:
    """Return the genes to offer: the best marker of every cluster, then the second of every one, and so on.

    Parameters
    ----------
    markers
        Table as in `ReportData.markers`.
    n_genes
        Genes to return; fewer where there are fewer.
    """
    if markers is None or markers.empty or "group1" not in markers:
        return []
    ranked = [top_genes(rows, n_genes) for _, rows in markers.groupby("group1", sort=False, observed=True)]
    turns = (genes[turn] for turn in range(n_genes) for genes in ranked if turn < len(genes))
    return list(dict.fromkeys(turns))[:n_genes]


def maps(data: ReportData) -> str:
    """Return the section of the map: its controls, and still pictures for readers without scripts."""
    if not data.embeddings:
        return section("maps", "The map of cells", see="", look="", body=[missing("No map was computed.")])
    cells = _cells(data)
    return section(
        "maps",
        "The map of cells",
        see="Each dot is a cell; similar cells lie together. The small map shows the same cells before the model.",
        look="Colours of batches mixed, colours of cell types apart, and no region made of shallow cells alone.",
        body=[_APP, f'<noscript><div class="grid two">{_still(data, cells)}</div></noscript>', _note(data, cells)],
    )


_APP = """<div class="card" id="cell-map" hidden>
<div class="tools map-tools"><div class="switch" role="group" aria-label="Colour the cells by"></div>
<span class="find"><input id="map-gene" type="search" list="map-genes" placeholder="Gene, such as a marker"
 aria-label="Colour by a gene" autocomplete="off" spellcheck="false"><datalist id="map-genes"></datalist></span>
<span class="count" role="status" aria-live="polite"></span></div>
<div class="map-body"><div class="map-main"><canvas class="cells" tabindex="0" role="img"
 aria-label="Map of cells: plus and minus zoom, the arrow keys move, 0 shows all."></canvas>
<canvas class="over"></canvas>
<p class="map-title"></p><div class="zoom"><button type="button" data-zoom="in" aria-label="Zoom in">+</button>
<button type="button" data-zoom="out" aria-label="Zoom out">\u2212</button>
<button type="button" data-zoom="all">Reset</button><button type="button" data-zoom="svg">SVG</button>
<button type="button" data-zoom="png">PNG</button></div>
<div class="tip" hidden></div></div>
<div class="map-side"><div class="map-legend"></div><div class="map-small"></div></div></div></div>"""


def _note(data: ReportData, cells: NDArray[np.int64]) -> str:
    """What is left out, in a sentence each."""
    said = []
    if len(cells) < data.n_cells:
        said.append(f"A random {len(cells):,} of the {data.n_cells:,} cells are drawn.")
    lacking = [word for word, group in (("batches", data.batch), ("labels", data.labels)) if not _several(group)]
    if lacking:
        said.append(f"There is no map by {' or '.join(lacking)}: fewer than two are known.")
    return f'<p class="note">{" ".join(said)}</p>' if said else ""


def _cells(data: ReportData) -> NDArray[np.int64]:
    """The cells that are drawn: those whose expression is known, where it is, and that have a place in every map."""
    cells = map_cells(data.n_cells) if data.expression is None else data.expression.cells
    placed = np.ones(len(cells), bool)
    for xy in data.embeddings.values():
        placed &= np.isfinite(np.asarray(xy, np.float64)[cells]).all(1)
    return np.asarray(cells[placed], np.int64)


def _several(group: Categories | None) -> bool:
    return group is not None and len(group.names) > 1


# ------------------------------------------------------------------------------------------------- for the script


def map_json(data: ReportData) -> str:
    """Return what the script draws the map from; "{}" where there is none.

    Numbers are base64 of little-endian arrays: places as pairs of uint16, codes of categories plus one (0 is none) as
    uint8 or uint16, amounts as float32. A gene is one bit a cell (whether it has a count; the lowest bit first), and
    then a byte for each cell that has one: its value is that byte / 255 of the gene's highest.
    """
    if not data.embeddings:
        return "{}"
    cells = _cells(data)
    return as_json(
        {
            "n": len(cells),
            "total": data.n_cells,
            "spaces": [{"title": shown(title, 40), "xy": _places(xy, cells)} for title, xy in data.embeddings.items()],
            "groups": [_group(data, group, key, cells) for key, group in _groups(data)],
            "amounts": _amounts(data, cells),
            "genes": _genes(data, cells),
            "cells": _cell_names(data, cells),
        }
    )


def _groups(data: ReportData) -> list[tuple[str, Categories]]:
    """The categories to colour by, the most telling first."""
    known = (("cluster", data.clusters), ("label", data.labels), ("batch", data.batch))
    return [(key, group) for key, group in known if group is not None and len(group.names)]


def _amounts(data: ReportData, cells: NDArray[np.int64]) -> list[dict[str, Any]]:
    """What there is of each cell: title, unit, whether its scale is logarithmic, what it is, and its values."""
    known: list[tuple[Any, str, str, bool, str]] = [
        (data.library, "Total counts", "counts", True, "All counts of each cell, on a log scale."),
        (data.detected, "Genes found", "genes", True, "Genes with a count in each cell, on a log scale."),
    ]
    if data.quality is not None:
        quality = data.quality
        known += [(quality.get(name), title, unit, log, about) for name, title, unit, log, about in _QUALITY]
    return [
        {"title": title, "unit": unit, "log": log, "about": about, "values": _text(values[cells].astype("<f4"))}
        for column, title, unit, log, about in known
        if column is not None and len(values := np.asarray(column, np.float64)) and np.isfinite(values).all()
    ]


_QUALITY: tuple[tuple[str, str, str, bool, str], ...] = (
    ("pct_counts_mt", "Mitochondrial", "%", False, "Share of the counts of mitochondrial genes."),
    ("doublet_score", "Doublets", "", False, "Scrublet's score: high where a cell looks like two."),
)


def _group(data: ReportData, group: Categories, key: str, cells: NDArray[np.int64]) -> dict[str, Any]:
    names: list[list[str]] = [[shown(name, 60)] for name in group.names]
    if key == "cluster":
        names = [[shown(n.number, 40), shown(n.label, 60) * bool(n.label), shown(" ".join(n.genes), 60) * bool(n.genes)]
                 for n in data.cluster_names]  # fmt: skip
    wide = len(group.names) > 254
    return {
        "key": key,
        "title": shown(group.title, 40),
        "names": names,
        "known": [int(is_known(name)) for name in group.names],
        "colours": palette_of(group),
        "sizes": group.sizes.tolist(),
        "wide": wide,
        "codes": _text((group.codes[cells] + 1).astype("<u2" if wide else "u1")),
    }


def _genes(data: ReportData, cells: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The genes as their shown name, their own where it is another, their highest value and their values."""
    found = data.expression
    if found is None:
        return []
    rows = np.searchsorted(found.cells, cells)
    out, used = [], 0
    for k, name in enumerate(found.genes):
        values = np.asarray(found.values[:, [k]].toarray(), np.float64).ravel()[rows]
        highest = float(values.max(initial=0.0))
        packed = pack(values)
        used += len(packed)
        if used > GENE_BYTES:
            break
        own = {"id": shown(name, 60)} if data.gene(name) != name else {}
        out.append({"name": shown(data.gene(name), 60), **own, "top": round(highest, 4), "values": packed})
    return out


def pack(values: NDArray[np.float64]) -> str:
    """Return values of at least zero as base64: one bit a cell, and a byte for each that is above zero."""
    positive = values > 0
    highest = max(float(values.max(initial=0.0)), 1e-12)
    levels = np.clip(np.rint(255 * values[positive] / highest), 1, 255).astype(np.uint8)
    return _text(np.concatenate([np.packbits(positive, bitorder="little"), levels]))


def _cell_names(data: ReportData, cells: NDArray[np.int64]) -> list[str]:
    if data.cell_names is None:
        return []
    names = [shown(data.cell_names[i], 60) for i in cells]
    return names if sum(map(len, names)) + 3 * len(names) <= NAME_BYTES else []


def _places(xy: NDArray[Any], cells: NDArray[np.int64]) -> str:
    """Coordinates in a square of 65536 steps a side, its centre that of the map; y goes up."""
    points = np.asarray(xy, np.float64)[cells]
    if not len(points):
        return ""
    low, high = points.min(0), points.max(0)
    side = max(float((high - low).max()), 1e-12)
    return _text(np.rint(_FINEST * ((points - (low + high) / 2) / side + 0.5)).clip(0, _FINEST).astype("<u2"))


def _text(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()


# ------------------------------------------------------------------------------------------------- without a script


def _still(data: ReportData, cells: NDArray[np.int64]) -> str:
    """Pictures of the maps by batch and by label, or by cluster where there are no labels."""
    kinds = data.labels if _several(data.labels) else data.clusters
    groups = [(group, key) for group, key in ((kinds, "kind"), (data.batch, "batch")) if _several(group)]
    pictures = [_still_card(data, cells, group, key) for group, key in groups if group is not None]
    return "".join(pictures) or card("All cells", _pair(data, cells, None, None, None))


def _still_card(data: ReportData, cells: NDArray[np.int64], group: Categories, key: str) -> str:
    palette = palette_of(group)
    codes = group.codes[cells]
    known: Any = [int(c) if c >= 0 else None for c in codes]
    color = pd.Series(pd.Categorical(known, categories=range(len(group.names))))
    names = None if key == "batch" else Categories(group.title, codes, group.names, group.places)
    body = _pair(data, cells, color, palette, names) + legend(group, palette)
    return card(f"By {text(group.title, 40)}", body)


def _pair(
    data: ReportData,
    cells: NDArray[np.int64],
    color: pd.Series | None,
    palette: list[str] | None,
    names: Categories | None,
) -> str:
    out = []
    for title, xy in data.embeddings.items():
        points = np.asarray(xy, np.float64)[cells]
        drawn = map_svg(points, color, palette=palette, names=names, label=f"map of cells, {title}")
        out.append(f"<div>{drawn}<p>{text(title, 40)}</p></div>")
    return f'<div class="pair">{"".join(out)}</div>'
