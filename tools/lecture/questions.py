"""Stops on what one asks: which genes differ, what the counts are without noise, which method to use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

import celbo
from celbo.data.cells import open_anndata
from celbo.data.schema import DataKeys
from celbo.pipeline.denoise import denoise, denoising_scores
from celbo.plots.style import ACCENT, INK, MUTED, SECOND, set_names, tidy
from celbo.posterior.differential import default_pseudocount, probability_of_higher_expression
from celbo.posterior.population import draw_scales, plan_draws
from lecture.frame import CACHE, Found, Numbers, Stop, cells, frame, pbmc, save, titled, types

# ---------------------------------------------------------------------------------------------- differential expression

_GROUPS = ("CD56+ NK", "CD19+ B")
_DRAWS = 5000


def _differential() -> dict[str, Any]:
    model = celbo.SCVI(pbmc()).train(progress=False)
    data = open_anndata(pbmc(), DataKeys())
    of = pbmc().obs["cell_type"].to_numpy()
    sides = [np.flatnonzero(of == name) for name in _GROUPS]
    table = probability_of_higher_expression(model.network, data, *sides, names=_GROUPS, n_samples=_DRAWS)
    draws = plan_draws(data, sides, n_samples=_DRAWS, batches=[0], seed=0)
    scales = draw_scales(model.network, data, draws, genes=slice(None), seed=0).astype(np.float64)
    few = default_pseudocount(data, np.concatenate(sides))
    change = np.log2(scales[0] + few) - np.log2(scales[1] + few)
    quantiles = pd.DataFrame(np.quantile(change, [0.05, 0.5, 0.95], axis=0).T, index=list(pbmc().var_names))
    genes = list(table.index)
    return {
        "genes": genes,
        "p": table["proba_higher"],
        "detection": np.maximum(table["detection1"], table["detection2"]),
        "interval": quantiles.loc[genes],
    }


def _draw_differential(found: Found) -> Numbers:
    p, interval, genes = found["p"], found["interval"], found["genes"]
    order = np.flatnonzero(found["detection"] > 0.3)
    order = order[np.argsort(-interval[order, 1], kind="stable")]
    near = order[np.argsort(np.abs(interval[order, 1]), kind="stable")[:4]]
    shown = np.concatenate([order[:8], near[np.argsort(-interval[near, 1])], order[-8:]])
    figure, (left, right) = frame(1050, 460, columns=2, width_ratios=[1.1, 1])
    rows = np.arange(len(shown))
    tidy(left, x="log2 fold change, NK over B cells", grid="x")
    clear = (interval[shown, 0] > 0) | (interval[shown, 2] < 0)
    colours = np.where(clear, ACCENT, MUTED)
    left.hlines(rows, interval[shown, 0], interval[shown, 2], color=colours, linewidth=2)
    left.scatter(interval[shown, 1], rows, s=22, color=colours, zorder=3)
    left.axvline(0, color=INK, linewidth=1)
    set_names(left, "y", [f"{genes[i]}   p = {p[i]:.2f}" for i in shown])
    left.set_ylim(len(shown) - 0.4, -0.6)
    titled(left, "Median and 90% credible interval")
    tidy(right, x="median log2 fold change", y="p: probability of being higher in NK cells", grid="both")
    right.scatter(interval[:, 1], p, s=10, color=ACCENT, alpha=0.5, linewidths=0)
    right.axhline(0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    titled(right, f"All {len(p)} genes")
    save(figure, "differential")
    return {
        "up": ", ".join(genes[order[:3]]),
        "down": ", ".join(genes[order[-3:][::-1]]),
        "clear": str(int(((interval[:, 0] > 0) | (interval[:, 2] < 0)).sum())),
        "of": str(len(p)),
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
