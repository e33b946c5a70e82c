"""Draw results/speed.png from speed.json and roofline.json, and results/grid.png from grid.json."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import machine
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

OURS, PEER, FLOOR, INK = "#0f6e84", "#b9b2a6", "#e2a33b", "#2b2b2b"
GETTERS = {"latent": "latent representation", "normalized_expression": "normalised expression", "elbo": "ELBO"}


def pairs(axes: Axes, rows: Sequence[tuple[str, float, float, float, str]]) -> None:
    """Draw pairs of bars, ours above the peer's, each scaled to ours, with the figures and the ratio."""
    for at, (name, ours, peer, ratio, unit) in enumerate(rows):
        top = max(ours, peer)
        for offset, value, colour in ((-0.2, ours, OURS), (0.2, peer, PEER)):
            axes.barh(at + offset, value / top, height=0.36, color=colour)
            axes.text(value / top + 0.01, at + offset, f"{value:,.0f}{unit}", va="center", fontsize=8, color=INK)
        axes.text(1.32, at, f"{ratio:.1f}×", va="center", ha="right", fontsize=11, weight="bold", color=OURS)
        axes.text(-0.02, at, name, va="center", ha="right", fontsize=9, color=INK)
    axes.set(xlim=(0, 1.34), ylim=(len(rows) - 0.4, -0.6), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def stacked(axes: Axes, tables: Mapping[str, Any]) -> None:
    """Draw for each table the whole step beside its floor, part by part."""
    shades = mpl.colormaps["cividis"]
    names = [part for part in next(iter(tables.values()))["parts"] if part != "whole step"]
    ticks = []
    for at, (name, told) in enumerate(tables.items()):
        whole = told["parts"]["whole step"]
        for offset, key in ((-0.2, "floor_ms"), (0.2, "ours_ms")):
            left = 0.0
            for number, part in enumerate(names):
                width = told["parts"][part][key] / whole["ours_ms"]
                colour = shades(0.1 + 0.8 * number / (len(names) - 1))
                label = part if at == 0 and key == "floor_ms" else None
                axes.barh(at + offset, width, left=left, height=0.36, color=colour, label=label)
                left += width
            text = f"{'floor' if key == 'floor_ms' else 'ours'} {whole[key]:.2f} ms"
            axes.text(left + 0.01, at + offset, text, va="center", fontsize=8, color=INK)
        ticks.append(name)
    axes.set(xlim=(0, 1.34), ylim=(len(ticks) - 0.4, -0.6), xticks=[])
    axes.set_yticks(range(len(ticks)), ticks, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.45, -0.02))


def speed_rows(speed: Mapping[str, Any]) -> list[tuple[str, float, float, float, str]]:
    """Return the bars of speed.json."""
    named = [(name, told, "") for name, told in speed["training"].items()]
    named += [(label, speed["inference"][key], "") for key, label in GETTERS.items() if key in speed["inference"]]
    if "memory" in speed:
        named.append(("peak memory of training", speed["memory"], " MiB"))
    return [(name, told["celbo"], told["scvi-tools"], told["ratio"], unit) for name, told, unit in named]


def draw_speed(speed: Mapping[str, Any], roofline: Mapping[str, Any], path: Path) -> None:
    """Draw the figure of the README."""
    rows = speed_rows(speed)
    tables = roofline.get("tables", {})
    heights = [len(rows), len(tables)] if tables else [len(rows)]
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(8.5, 0.52 * sum(heights) + 1.6), height_ratios=heights, squeeze=False
    )
    pairs(axes[0, 0], rows)
    about = speed["about"]
    title = f"celbo (blue) and scvi-tools 1.4.2 (grey), cells per second\n{about['cpu']}, {about['threads']} threads"
    axes[0, 0].set_title(title, loc="left", fontsize=11, color=INK, x=-0.35)
    if tables:
        stacked(axes[1, 0], tables)
        axes[1, 0].set_title("A training step and its floor", loc="left", fontsize=11, color=INK, x=-0.35)
    figure.subplots_adjust(left=0.3, right=0.99, top=1 - 0.6 / figure.get_figheight(), hspace=0.12)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def draw_grid(grid: Mapping[str, Any], path: Path) -> None:
    """Draw cells per second against cells, genes, density and threads."""
    cells = [c for c in grid["cells"].values() if c["likelihood"] == "nb" and c["batch_size"] == 128]
    sweeps = {"cells": {"genes": 2_000, "density": 0.13, "threads": 2}, "genes": {"cells": 5_000, "density": 0.05}}
    sweeps |= {"density": {"cells": 20_000, "genes": 2_000, "threads": 2}}
    sweeps |= {"threads": {"cells": 20_000, "genes": 2_000, "density": 0.13}}
    figure, axes = plt.subplots(1, len(sweeps), figsize=(3.1 * len(sweeps), 3.2))
    for axis, (name, fixed) in zip(axes, sweeps.items(), strict=True):
        found = sorted((c for c in cells if all(c[k] == v for k, v in fixed.items())), key=lambda c: c[name])
        x = [c["measured_density"] if name == "density" else c[name] for c in found]
        for side, colour in (("celbo", OURS), ("scvi-tools", PEER)):
            axis.plot(x, [c[side] for c in found], "o-", color=colour, label=side)
        for at, told in zip(x, found, strict=True):
            axis.annotate(f"{told['ratio']:.1f}×", (at, told["celbo"]), fontsize=8, xytext=(0, 5),
                          textcoords="offset points", ha="center")  # fmt: skip
        axis.set(xlabel=name, xscale="linear" if name in ("threads", "density") else "log", yscale="log")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("training, cells/s")
    axes[0].legend(frameon=False, fontsize=8)
    middle = statistics.median(c["ratio"] for c in cells)
    figure.suptitle(f"nb, batch 128; median ratio {middle:.1f}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Draw what there is."""
    speed, roofline, grid = (machine.read_json(machine.RESULTS / f"{n}.json") for n in ("speed", "roofline", "grid"))
    if speed:
        draw_speed(speed, roofline, machine.RESULTS / "speed.png")
    if grid:
        draw_grid(grid, machine.RESULTS / "grid.png")


if __name__ == "__main__":
    main()
