"""Draw docs/img/rooms.svg: the rooms in the order of their imports, and what flows through them.

The rooms and their order are read from the import contract in pyproject.toml, so the picture cannot tell another story;
a room without a sentence here is an error.
"""

from __future__ import annotations

import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "img" / "rooms.svg"
WIDTH, ROW, TOP, LEFT, BOX = 1000, 50, 74, 24, 560
COLOURS = ("#1b4965", "#2f6690", "#3a7ca5", "#16697a", "#81b29a")

ROOMS = {
    "cli": "the command line: parsing and printing",
    "pipeline": "the main job: check, genes, train, embed, cluster, markers",
    "report": "the HTML page",
    "evaluate": "held-out likelihood, integration metrics",
    "embed": "PCA, ICA, factor analysis, t-SNE, UMAP, ForceAtlas2, diffusion maps",
    "models": "one file a system; base.py binds data, network, engine, posterior",
    "results": "what was found, into AnnData slots and files",
    "plots": "matplotlib figures",
    "posterior": "what one asks of a trained model",
    "training": "the engine: loop, plan, checkpoints, guard",
    "nn": "layers, encoders, decoders",
    "likelihoods": "one file a distribution",
    "data": "files and AnnData in; counts, schema, minibatches",
    "kernels": "numeric kernels and the CSR gather",
    "files": "atomic writes",
    "locks": "one folder, one process",
    "errors": "named errors: what, where, value, fix",
    "caches": "where libraries keep compiled code, if need be",
}
FLOW = {  # what leaves a room on its way up, from the bottom
    "data": "CellData, then Minibatch (sparse rows)",
    "nn": "CountParameters (raw logits)",
    "training": "trained network + history",
    "posterior": "arrays by cell and by gene",
    "results": "AnnData slots, Parquet, CSV",
    "report": "report.html",
    "pipeline": "the run folder",
}


def layers() -> list[list[str]]:
    """Return the rooms, highest first; those on one line are independent of each other."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    written = next(c["layers"] for c in contracts if c["type"] == "layers")
    lines = [[room.strip() for room in line.split("|")] for line in written]
    return [kept for line in lines if (kept := [room for room in line if not room.startswith("(")])]


def text(x: float, y: float, content: str, size: int = 14, extra: str = "") -> str:
    """Return one line of text."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" {extra}>{escape(content)}</text>'


def boxes(line: list[str], y: float, colour: str) -> list[str]:
    """Return the boxes of one layer, side by side."""
    width = (BOX - 12 * (len(line) - 1)) / len(line)
    drawn = []
    for i, room in enumerate(line):
        x = LEFT + i * (width + 12)
        drawn.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{ROW - 8}" rx="6" fill="{colour}"/>')
        drawn.append(text(x + 12, y + 18, room, 15, 'font-weight="600" fill="#fff"'))
        drawn.append(text(x + 12, y + 34, ROOMS[room], 11 if len(line) > 1 else 12, 'fill="#e8f1f5"'))
    return drawn


def flow(line: list[str], y: float, below: float | None) -> tuple[list[str], float | None]:
    """Return what leaves a layer, with an arrow from what left the layers below."""
    product = next((FLOW[room] for room in line if room in FLOW), None)
    if product is None:
        return [], below
    middle, x = y + (ROW - 8) / 2, LEFT + BOX + 60
    drawn = [
        f'<line x1="{LEFT + BOX + 6}" y1="{middle:g}" x2="{x - 10}" y2="{middle:g}" stroke="#5c6b73"/>',
        f'<circle cx="{x}" cy="{middle:g}" r="5" fill="#e07a5f"/>',
        text(x + 16, middle + 5, product, 14, 'fill="#22313a"'),
    ]
    if below is not None:
        arrow = f'<line x1="{x}" y1="{below - 8:g}" x2="{x}" y2="{middle + 10:g}"'
        drawn.append(f'{arrow} stroke="#e07a5f" stroke-width="2" marker-end="url(#up)"/>')
    return drawn, middle


def picture() -> str:
    """Return the whole picture as SVG."""
    lines = layers()
    height = TOP + ROW * len(lines) + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" '
        'role="img" aria-label="The rooms of celbo in the order of their imports, and the data that flows up">',
        '<defs><marker id="up" markerWidth="8" markerHeight="8" refX="4" refY="4" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#e07a5f"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        text(LEFT, 30, "The rooms of celbo", 20, 'font-weight="700" fill="#22313a"'),
        text(LEFT, 54, "A room imports only from rooms below it.", 14, 'fill="#5c6b73"'),
        text(LEFT + BOX + 44, 54, "What flows up", 14, 'fill="#e07a5f" font-weight="600"'),
    ]
    below: float | None = None
    for i, line in reversed(list(enumerate(lines))):
        y = TOP + i * ROW
        parts += boxes(line, y, COLOURS[i * len(COLOURS) // len(lines)])
        drawn, below = flow(line, y, below)
        parts += drawn
    source = "files: h5ad, zarr, h5mu, 10x, loom, csv, or an AnnData in memory"
    parts.append(text(LEFT, height - 16, f"In: {source}. AnnData is touched in data, results and pipeline.", 13))
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(picture())
