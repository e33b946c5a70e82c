"""Stops before any network: the data, linear reductions, maps, graphs, factorisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

import celbo
from celbo import plots
from celbo.evaluate.metrics import kmeans_agreement
from celbo.evaluate.stability import neighbour_overlap, procrustes_disparity
from celbo.plots.style import ACCENT, INK, category_colors, set_names, tidy
from lecture.frame import Found, Numbers, Stop, cells, frame, heat_table, key, pbmc, save, titled, types

# ----------------------------------------------------------------------------------------------------------- the data


def _data() -> dict[str, Any]:
    counts = pbmc().X
    return {"totals": np.asarray(counts.sum(1)).ravel(), "dense": counts.toarray().astype(np.float32)}


def _draw_data(found: Found) -> Numbers:
    dense, named = found["dense"], types()
    figure, (left, middle, right) = frame(1150, 360, columns=3, width_ratios=[1, 1, 1.15])
    sizes = named.value_counts()
    tidy(left, x="cells", grid="x")
    left.barh(np.arange(len(sizes)), sizes.to_numpy(), color=category_colors(len(sizes)), height=0.7)
    set_names(left, "y", list(sizes.index))
    left.invert_yaxis()
    titled(left, "Cells by sorted type")
    plots.plot_histogram(found["totals"], x="counts of a cell", log=True, bins=40, ax=middle)
    titled(middle, "Library size")
    order = np.argsort(named.codes, kind="stable")[::7]
    genes = np.sort(np.argsort(-dense.mean(0))[:100])
    right.imshow(np.log1p(dense[order][:, genes]), cmap="Blues", aspect="auto", interpolation="nearest")
    tidy(right, x="100 genes with most counts", y="every seventh cell, by type", grid="")
    right.set(xticks=[], yticks=[])
    titled(right, "log(1 + count): white is 0")
    save(figure, "data")
    return {
        "n_cells": str(dense.shape[0]),
        "n_genes": str(dense.shape[1]),
        "zeros": f"{(dense == 0).mean():.0%}",
        "totals_ratio": f"{found['totals'].max() / found['totals'].min():.0f}",
    }


# -------------------------------------------------------------------------------------------------------- PCA and ICA


def _linear() -> dict[str, Any]:
    adata = pbmc().copy()
    pca = celbo.embed.pca(adata, n_components=50)
    sources = [celbo.embed.ica(adata, n_components=10, seed=seed).coordinates for seed in (0, 1)]
    return {
        "pca": pca.coordinates[:, :2],
        "ratio": pca.fit.components.variance_ratio,
        "ica": sources[0],
        "ica_other": sources[1],
    }


def _draw_linear(found: Found) -> Numbers:
    figure, (left, middle, right) = frame(1250, 360, columns=3, width_ratios=[1, 1, 0.85])
    cells(found["pca"], types(), "PCA: components 1 and 2", left)
    cells(found["ica"][:, _spiky(found["ica"])], types(), "ICA: the two least Gaussian sources", middle)
    tidy(right, x="component", y="share of the variance", grid="both")
    ratio = found["ratio"]
    right.plot(np.arange(1, len(ratio) + 1), ratio, color=ACCENT, marker="o", markersize=3, linewidth=1.4)
    titled(right, "What each component explains")
    key(figure, types().categories, loc="outside right center")
    save(figure, "linear")
    match = np.abs(np.corrcoef(found["ica"].T, found["ica_other"].T)[:10, 10:]).max(1)
    return {
        "two": f"{ratio[:2].sum():.0%}",
        "fifty": f"{ratio.sum():.0%}",
        "ica_again": f"{(match > 0.95).sum()}",
        "ica_sources": f"{len(match)}",
    }


def _spiky(sources: np.ndarray) -> np.ndarray:
    """Return the two sources that are least Gaussian: what ICA looks for."""
    z = (sources - sources.mean(0)) / sources.std(0)
    return np.argsort(-(z**4).mean(0))[:2]


# ----------------------------------------------------------------------------------------------------- t-SNE and UMAP

_PERPLEXITIES, _NEIGHBOURS = (5, 30, 100), (5, 15, 50)


def _maps() -> dict[str, Any]:
    adata, out = pbmc().copy(), {}
    for value, seed in ((5, 0), (30, 0), (100, 0), (30, 1)):
        fit = celbo.embed.tsne(adata, perplexity=value, init="random", seed=seed)
        out[f"tsne_{value}_{seed}"] = fit.coordinates
    for value, seed in ((5, 0), (15, 0), (50, 0), (15, 1)):
        fit = celbo.embed.umap(adata, n_neighbors=value, init="random", seed=seed)
        out[f"umap_{value}_{seed}"] = fit.coordinates
    return out


def _draw_maps(found: Found) -> Numbers:
    figure, axes = frame(1250, 600, rows=2, columns=4)
    said = {"tsne": ("t-SNE, perplexity", _PERPLEXITIES), "umap": ("UMAP, neighbours", _NEIGHBOURS)}
    numbers: Numbers = {}
    for row, (name, (title, values)) in enumerate(said.items()):
        usual = found[f"{name}_{values[1]}_0"]
        for column, value in enumerate(values):
            cells(found[f"{name}_{value}_0"], types(), f"{title} {value}", axes[4 * row + column])
        again = found[f"{name}_{values[1]}_1"]
        cells(again, types(), f"{title} {values[1]}, other seed", axes[4 * row + 3])
        ends = [found[f"{name}_{values[i]}_0"] for i in (0, 2)]
        numbers |= {
            f"{name}_seed": f"{neighbour_overlap(usual, again, k=15):.0%}",
            f"{name}_parameter": f"{neighbour_overlap(*ends, k=15):.0%}",
            f"{name}_moved": f"{procrustes_disparity(usual, again):.2f}",
        }
    key(figure, types().categories, loc="outside right center")
    save(figure, "maps")
    return numbers


# ----------------------------------------------------------------------------------- ForceAtlas2 and diffusion maps


def _graph() -> dict[str, Any]:
    adata = pbmc().copy()
    return {
        "forceatlas2": celbo.embed.forceatlas2(adata).coordinates,
        "diffusion": celbo.embed.diffusion_map(adata, drop_trivial=True).coordinates[:, :4],
        "umap": celbo.embed.umap(adata).coordinates,
    }


def _draw_graph(found: Found) -> Numbers:
    figure, axes = frame(1250, 360, columns=3)
    shown = {
        "forceatlas2": ("ForceAtlas2", found["forceatlas2"]),
        "diffusion": ("Diffusion map: components 1 and 2", found["diffusion"][:, :2]),
        "umap": ("UMAP, to compare", found["umap"]),
    }
    for ax, (title, points) in zip(axes, shown.values(), strict=True):
        cells(points, types(), title, ax)
    key(figure, types().categories, loc="outside right center")
    save(figure, "graph")
    return {f"ari_{name}": f"{kmeans_agreement(points, types()).ari:.2f}" for name, (_, points) in shown.items()}


# ------------------------------------------------------------------------------- hierarchical Poisson factorisation


def _hpf() -> dict[str, Any]:
    model = celbo.HPF(pbmc(), n_components=8).train(progress=False)
    genes = model.get_gene_scores()
    return {"cells": model.get_cell_scores(), "genes": genes, "names": np.array(genes.index, dtype=str)}


def _draw_hpf(found: Found) -> Numbers:
    by_type = pd.DataFrame(found["cells"]).groupby(types(), observed=False).mean()
    share = by_type / by_type.max()  # each factor beside its strongest type
    order = np.lexsort((-share.max().to_numpy(), share.to_numpy().argmax(0)))
    top = {k: [str(n) for n in found["names"][np.argsort(-found["genes"][:, k])[:7]]] for k in order}
    figure, (left, right) = frame(1150, 430, columns=2, width_ratios=[1, 0.9])
    rows = [f"factor {k + 1}" for k in order]
    heat_table(left, share.to_numpy().T[order], rows=rows, columns=list(by_type.index))
    titled(left, "Mean score of the cells of a type, largest = 1")
    right.set(xlim=(0, 1), ylim=left.get_ylim())
    right.set_axis_off()
    for row, k in enumerate(order):
        right.text(0, row, "  ".join(top[k]), va="center", fontsize=10.5, color=INK)
    titled(right, "Genes with the largest scores")
    save(figure, "hpf")
    gap = share.loc["B"] - share.drop(index="B").max()
    b = int(gap.to_numpy().argmax())
    return {"b_factor": str(b + 1), "b_genes": ", ".join(top[b][:4])}


STOPS = {
    "data": Stop(_data, _draw_data),
    "linear": Stop(_linear, _draw_linear),
    "maps": Stop(_maps, _draw_maps),
    "graph": Stop(_graph, _draw_graph),
    "hpf": Stop(_hpf, _draw_hpf),
}
