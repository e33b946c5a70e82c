"""Print the table of targets with the ratios of the results at hand: targets.py (after speed.py, roofline.py, ...)"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import machine

Row = tuple[str, float, float | None, float, str]
"""What, must, goal, the figure, and how it is written; a figure that must be small has a negative must and goal."""


def training_rows(speed: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of speed.py."""
    bounds = {
        "nb, batch 128, 2,000 genes": (6, 10),
        "zinb, batch 128, 2,000 genes": (6, 10),
        "nb, batch 512, 2,000 genes": (5, 8),
        "zinb, batch 512, 2,000 genes": (5, 8),
        "nb, batch 128, 20,000 genes": (6, 12),
        "zinb, batch 128, 20,000 genes": (6, 12),
    }
    for name, (must, goal) in bounds.items():
        told = speed.get("training", {}).get(name)
        yield f"training cells/s: {name}", must, goal, told["ratio"] if told else math.nan, "x"
    latent = speed.get("inference", {}).get("latent")
    yield "latent representation, cells/s", 4, 8, latent["ratio"] if latent else math.nan, "x"
    memory = speed.get("memory")
    yield "peak memory of training, peer over ours", 3, 6, memory["ratio"] if memory else math.nan, "x"


def roofline_rows(roofline: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of roofline.py."""
    for name, told in roofline.get("tables", {}).items():
        yield f"whole step over its floor: {name}", -1.3, -1.1, told["parts"]["whole step"]["ratio"], "x"


def quality_rows(quality: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of time_to_quality.py."""
    told = quality.get("summary")
    if not told:
        return
    n = told["sets"]
    yield f"default training, seconds: {n} sets", 40, 100, told["seconds_ratio_geometric_mean"], "x"
    yield "default training, seconds: slowest set", 15, None, told["seconds_ratio_least"][1], "x"
    yield "held-out ELBO over the peer's best, mean", 0, 0.5, 100 * told["elbo_gain_over_best_mean"], "%"
    yield "sets with a lower held-out ELBO", -0.0, None, len(told["elbo_below_best"]), " sets"
    for name in ("ari", "nmi", "label_silhouette", "batch_silhouette"):
        label = name.replace("_", " ")
        yield f"sets with a lower {label}", -0.0, None, len(told[f"{name}_below"]), " sets"


def line(row: Row) -> str:
    """Return a row as a line of Markdown."""
    name, must, goal, figure, unit = row
    if math.isnan(figure):
        return f"| {name} | {abs(must):g}{unit} | {'' if goal is None else f'{abs(goal):g}{unit}'} | | not measured |"
    small = math.copysign(1, must) < 0
    reached = [b is not None and (figure <= abs(b) if small else figure >= b) for b in (must, goal)]
    state = "goal" if reached[1] else "must" if reached[0] else "missed"
    wanted = ["" if b is None else f"{abs(b):g}{unit}" for b in (must, goal)]
    return f"| {name} | {wanted[0]} | {wanted[1]} | {figure:.2f}{unit} | {state} |"


def main() -> None:
    """Print the table."""
    found = [machine.read_json(machine.RESULTS / f"{name}.json") for name in ("speed", "roofline", "time_to_quality")]
    rows = [*training_rows(found[0]), *roofline_rows(found[1]), *quality_rows(found[2])]
    print("\n| against scvi-tools 1.4.2, or the floor | must | goal | here | |\n|---|---|---|---|---|")
    print("\n".join(map(line, rows)))
    disturbed = [name for name, told in found[0].get("training", {}).items() if told.get("disturbed")]
    if disturbed:
        print(f"\nOthers computed in every round, so these ratios are not to be trusted: {'; '.join(disturbed)}")
    for result in found:
        about = result.get("about")
        if about and about.get("load_before", 0) >= 1.5:
            print(f"\nThe machine was not quiet: load {about['load_before']} before {result['what']}")


if __name__ == "__main__":
    main()
