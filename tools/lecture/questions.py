"""Stops on what one asks: which genes differ, what the counts are without noise, which method to use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

import celbo
from celbo.pipeline.denoise import denoise, denoising_scores
from celbo.plots.style import ACCENT, INK, MUTED, SECOND, set_names, tidy
from lecture.frame import CACHE, Found, Numbers, Stop, cells, frame, pbmc, save, titled, types

# ---------------------------------------------------------------------------------------------- differential expression

_GROUPS = ("CD56+ NK", "CD19+ B")
_SHOWN = ["lfc_lower", "lfc_median", "lfc_upper"]


def _differential() -> dict[str, Any]:
    model = celbo.SCVI(pbmc()).train(progress=False)
    asked = {"groupby": "cell_type", "group1": _GROUPS[0], "group2": _GROUPS[1]}
    changed = model.differential_expression(**asked)
    vanilla = model.differential_expression(**asked, mode="vanilla").loc[changed.index]
    cells_of_one = np.random.default_rng(0).permutation(np.flatnonzero(pbmc().obs["cell_type"] == _GROUPS[0]))
    half = len(cells_of_one) // 2
    alike = {"idx1": cells_of_one[:half], "idx2": cells_of_one[half:]}
    return {
        "genes": list(changed.index),
        "p": vanilla["proba_higher"],
        "pairs": vanilla["lfc_median"],
        "strong": vanilla["is_de"],
        "called": changed["is_de"],
        "detection": changed[["detection1", "detection2"]].max(axis=1),
        "interval": changed[_SHOWN],
        "false": model.differential_expression(**alike)["is_de"].sum(),
        "false_strong": model.differential_expression(**alike, mode="vanilla")["is_de"].sum(),
    }


def _draw_differential(found: Found) -> Numbers:
    p, interval, genes, called = found["p"], found["interval"], found["genes"], found["called"].astype(bool)
    order = np.flatnonzero(found["detection"] > 0.3)
    order = order[np.argsort(-interval[order, 1], kind="stable")]
    near = order[np.argsort(np.abs(interval[order, 1]), kind="stable")[:4]]
    shown = np.concatenate([order[:8], near[np.argsort(-interval[near, 1])], order[-8:]])
    figure, (left, right) = frame(1050, 460, columns=2, width_ratios=[1, 1.1])
    tidy(left, x="median log2 fold change of pairs", y="p: probability of being higher in NK cells", grid="both")
    left.scatter(found["pairs"], p, s=10, color=ACCENT, alpha=0.5, linewidths=0)
    left.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    titled(left, f"Pairs of cells, all {len(p)} genes")
    rows = np.arange(len(shown))
    tidy(right, x="log2 fold change of the means, NK over B cells", grid="x")
    colours = np.where(called[shown], ACCENT, MUTED)
    right.hlines(rows, interval[shown, 0], interval[shown, 2], color=colours, linewidth=2)
    right.scatter(interval[shown, 1], rows, s=22, color=colours, zorder=3)
    right.axvline(0, color=INK, linewidth=1)
    set_names(right, "y", [genes[i] for i in shown])
    right.set_ylim(len(shown) - 0.4, -0.6)
    titled(right, "Means of the groups: median, 95% interval")
    save(figure, "differential")
    return {
        "up": ", ".join(genes[order[:3]]),
        "down": ", ".join(genes[order[-3:][::-1]]),
        "called": str(int(called.sum())),
        "strong": str(int(found["strong"].sum())),
        "of": str(len(p)),
        "false": str(int(found["false"])),
        "false_strong": str(int(found["false_strong"])),
    }


# ----------------------------------------------------------------------------------------------------------- denoising

_PAIR = ("CST3", "NKG7")
_METHODS = ("scvi", "ldvae", "dca", "autoimpute", "autoencoder", "hpf", "knn")


def _denoising() -> dict[str, Any]:
    scores = denoising_scores(pbmc(), methods=_METHODS).set_index("method")
    at = [list(pbmc().var_names).index(name) for name in _PAIR]
    total = float(pbmc().X.sum())
    out = {"methods": list(scores.index), "deviance": scores["deviance"], "raw": pbmc().X[:, at].toarray()}
    for name in ("dca", "autoimpute"):
        values = denoise(pbmc(), method=name, key_added=None)
        out |= {name: values[:, at], f"{name}_total": float(values.sum()) / total}
    return out


def _draw_denoising(found: Found) -> Numbers:
    deviance = pd.Series(found["deviance"], found["methods"])
    share = (deviance / deviance["gene mean"]).sort_values()
    figure, axes = frame(1250, 370, columns=4, width_ratios=[1.35, 1, 1, 1])
    first = axes[0]
    tidy(first, x="deviance of held-out molecules (gene mean: 1)", grid="x")
    baselines = ["no denoising", "gene mean"]
    drawn = share.drop("no denoising")  # worse by so much that nothing else could be seen
    colours = [MUTED if name in baselines else ACCENT for name in drawn.index]
    first.scatter(drawn, np.arange(len(drawn)), s=46, color=colours)
    first.hlines(np.arange(len(drawn)), 1, drawn, color=colours, linewidth=1.5)
    first.axvline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    set_names(first, "y", list(drawn.index))
    first.invert_yaxis()
    titled(first, "Lower is better")
    for ax, name, title in zip(axes[1:], ("raw", "dca", "autoimpute"), ("Counts", "DCA", "AutoImpute"), strict=True):
        values = np.log1p(found[name]) + (np.random.default_rng(0).uniform(-0.06, 0.06, found[name].shape))
        cells(values, types(), title, ax, size=3.4)
        tidy(ax, x=f"log(1 + {_PAIR[0]})", y=f"log(1 + {_PAIR[1]})", grid="both")
    save(figure, "denoising")
    best = share.drop(baselines).index[0]
    return {
        "best": best,
        "best_share": f"{share[best]:.2f}",
        "none": f"{share['no denoising']:.1f}",
        "autoimpute": f"{share['autoimpute']:.2f}",
        "dca": f"{share['dca']:.2f}",
        "autoimpute_total": f"{float(found['autoimpute_total']):.1f}",
        "dca_total": f"{float(found['dca_total']):.2f}",
    }


# ------------------------------------------------------------------------------------------------------- which method

COMPARED = ("pca", "tsne", "umap", "hpf", "ldvae", "scvi")
_COLUMNS = {
    "log_likelihood": "held-out\nlog-likelihood",
    "mcv_deviance": "denoising:\ndeviance",
    "ari": "ARI with\nthe types",
    "neighbours_kept": "neighbours kept",
    "seed_overlap": "same under\nanother seed",
    "parameter_overlap": "same under\nother parameters",
}


def _compare() -> dict[str, Any]:
    table = celbo.compare(pbmc(), methods=COMPARED, labels_key="cell_type", out=CACHE / "compare", force=True)
    return {"methods": list(table.index), "columns": list(_COLUMNS), "values": table.reindex(columns=list(_COLUMNS))}


def _draw_compare(found: Found) -> Numbers:
    table = pd.DataFrame(found["values"].astype(float), index=found["methods"].tolist(), columns=list(_COLUMNS))
    figure, axes = frame(1150, 320, columns=len(_COLUMNS))
    for ax, (name, title) in zip(axes, _COLUMNS.items(), strict=True):
        values = table[name]
        best = values.min() if name == "mcv_deviance" else values.max()
        rows = np.arange(len(values))
        tidy(ax, grid="both")
        ax.scatter(values, rows, s=46, color=[SECOND if v == best else ACCENT for v in values])
        for row in rows[values.isna()]:
            ax.text(0.5, row, "none", transform=ax.get_yaxis_transform(), ha="center", va="center", color=MUTED, size=9)
        set_names(ax, "y", list(values.index))
        ax.tick_params(labelleft=ax is axes[0])
        ax.set_ylim(len(values) - 0.5, -0.5)
        ax.margins(x=0.2)
        ax.locator_params(axis="x", nbins=2)
        titled(ax, title)
    save(figure, "compare")
    return {
        "likely": str(table["log_likelihood"].idxmax()),
        "clusters": str(table["ari"].idxmax()),
        "steady": str(table["seed_overlap"].idxmax()),
        "umap_seed": f"{table.loc['umap', 'seed_overlap']:.0%}",
        "scvi_seed": f"{table.loc['scvi', 'seed_overlap']:.0%}",
    }


STOPS = {
    "differential": Stop(_differential, _draw_differential),
    "denoising": Stop(_denoising, _draw_denoising),
    "compare": Stop(_compare, _draw_compare),
}
