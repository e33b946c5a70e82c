"""Stops on counts: what distribution they have, library size, batches, scVI then and now."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import optimize, stats

import celbo
from celbo.data.components import log_normalised, principal_components
from celbo.embed import fit_umap
from celbo.evaluate.metrics import ilisi, kmeans_agreement
from celbo.models.scvi import SCVIConfig
from celbo.plots.style import ACCENT, INK, SECOND, amounts, legend, tidy
from lecture.frame import Found, Numbers, Stop, cells, frame, key, pbmc, save, titled, types

_MEAN = 3.0
"""Of the gene whose counts are shown."""
_DIMENSIONS, _SEEDS = 10, 3

# ---------------------------------------------------------------------------------- the distribution of counts


def _distribution() -> dict[str, Any]:
    dense = pbmc().X.toarray().astype(np.float64)
    found = [_fitted(dense[:, g]) for g in range(dense.shape[1])]
    is_t_cell = np.char.startswith(np.asarray(types(), str), "T ")
    alike = pbmc().X[is_t_cell]  # types differ in their totals, which is no matter of depth
    shown = int(np.abs(dense.mean(0) - _MEAN).argmin())
    scores = [principal_components(m, 2, seed=0).project(m)[:, 0] for m in (alike.log1p(), log_normalised(alike))]
    return {
        "mean": dense.mean(0),
        "variance": dense.var(0, ddof=1),
        "theta": [f[0] for f in found],
        "gain": [f[1] for f in found],
        "gene": dense[:, shown],
        "name": pbmc().var_names[shown],
        "total": np.asarray(alike.sum(1)).ravel(),
        "raw": scores[0],
        "scaled": scores[1],
    }


def _fitted(counts: np.ndarray) -> tuple[float, float]:
    """Return the inverse dispersion of largest likelihood, and the nats that it gains over the Poisson."""
    mean = counts.mean()
    poisson = stats.poisson.logpmf(counts, mean).sum()

    def minus(log_theta: float) -> float:
        theta = np.exp(log_theta)
        return -float(stats.nbinom.logpmf(counts, theta, theta / (theta + mean)).sum())

    best = optimize.minimize_scalar(minus, bounds=(-7, 10), method="bounded")
    return float(np.exp(best.x)), float(-best.fun - poisson)


def _draw_distribution(found: Found) -> Numbers:
    mean, variance, theta, gain = (found[name] for name in ("mean", "variance", "theta", "gain"))
    figure, (left, middle, right) = frame(1200, 370, columns=3)
    typical = float(np.median(theta[mean > 0.1]))
    tidy(left, x="mean of a gene (counts)", y="variance", grid="both")
    left.set(xscale="log", yscale="log")
    left.scatter(mean, variance, s=9, color=ACCENT, alpha=0.5, linewidths=0)
    line = np.geomspace(mean.min(), mean.max(), 100)
    left.plot(line, line, color=INK, linewidth=1.4, linestyle=(0, (4, 3)), label="Poisson: mean")
    left.plot(line, line + line**2 / typical, color=SECOND, linewidth=2, label=f"NB, inverse dispersion {typical:.1f}")
    left.minorticks_off()
    for axis in ("x", "y"):
        amounts(left, axis)
    legend(left, loc="upper left")
    titled(left, "Every gene varies more than Poisson")
    _histogram(found["gene"], str(found["name"]), middle)
    tidy(right, x="counts of the cell", y="first principal component", grid="both")
    _against_total(right, found)
    low, high = right.get_ylim()
    right.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
    legend(right, loc="upper left")
    save(figure, "distribution")
    return {
        "better": str(int((gain > 1).sum())),  # one more parameter costs one nat (AIC)
        "of": str(len(gain)),
        "typical": f"{typical:.1f}",
        "raw": f"{_follows(found['raw'], found):.2f}",
        "scaled": f"{_follows(found['scaled'], found):.2f}",
    }


def _histogram(counts: np.ndarray, name: str, ax: Any) -> None:
    top = int(np.quantile(counts, 0.98))
    at = np.arange(top + 1)
    seen = np.bincount(counts.astype(int), minlength=top + 1)[: top + 1] / len(counts)
    theta, _ = _fitted(counts)
    mean = counts.mean()
    tidy(ax, x=f"count of {name} in a cell", y="share of the cells")
    ax.bar(at, seen, color=ACCENT, alpha=0.55, width=0.85, label="cells")
    ax.plot(at, stats.poisson.pmf(at, mean), color=INK, linestyle=(0, (4, 3)), linewidth=1.4, label="Poisson")
    ax.plot(at, stats.nbinom.pmf(at, theta, theta / (theta + mean)), color=SECOND, linewidth=2, label="NB")
    legend(ax, loc="upper right")
    ax.locator_params(axis="x", integer=True)
    titled(ax, "One gene, same mean")


def _against_total(ax: Any, found: Found) -> None:
    shown = {"raw": (SECOND, "log(1 + count)"), "scaled": (ACCENT, "scaled to the same total first")}
    for name, (colour, label) in shown.items():
        values = found[name]
        turned = values * np.sign(np.corrcoef(values, np.log(found["total"]))[0, 1])
        ax.scatter(found["total"], turned, s=14, color=colour, alpha=0.6, linewidths=0, label=label)
    titled(ax, "Library size in T cells")


def _follows(scores: np.ndarray, found: Found) -> float:
    """Return the rank correlation of the first component with the totals, without its sign."""
    return abs(float(stats.spearmanr(scores, found["total"]).statistic))


# -------------------------------------------------------------------------------------------- scVI of 2018 and today's


def _scvi() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    order = rng.permutation(pbmc().n_obs)
    split = {"train_indices": np.sort(order[70:]), "validation_indices": np.sort(order[:70])}
    out: dict[str, Any] = {}
    for name, config in (("paper", SCVIConfig.paper_2018()), ("now", SCVIConfig())):
        latents, held = [], []
        for seed in range(_SEEDS):
            model = celbo.SCVI(pbmc(), config=config, seed=seed).train(progress=False, **split)
            latents.append(model.get_latent_representation())
            held.append(model.get_marginal_ll(indices=split["validation_indices"], n_samples=500))
        out |= {f"{name}_z": latents, f"{name}_map": fit_umap(latents[0]).coordinates, f"{name}_ll": held}
    return out


def _draw_scvi(found: Found) -> Numbers:
    figure, axes = frame(950, 380, columns=2)
    titles = {"paper": "scVI as in the paper of 2018", "now": "celbo's default"}
    numbers: Numbers = {}
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        cells(found[f"{name}_map"], types(), title, ax)
        numbers |= {
            f"{name}_ari": f"{np.mean([kmeans_agreement(z, types()).ari for z in found[f'{name}_z']]):.2f}",
            f"{name}_ll": f"{found[f'{name}_ll'].mean():.1f}",
        }
    numbers["seeds"] = str(_SEEDS)
    key(figure, types().categories, loc="outside right center")
    save(figure, "scvi")
    return numbers


# ------------------------------------------------------------------------------------------------------------- batches


def _batches() -> dict[str, Any]:
    adata = celbo.datasets.simulate(n_cells=1500, n_genes=800, n_batches=3, n_cell_types=6, batch_effect=0.5)
    before = celbo.embed.pca(adata, n_components=_DIMENSIONS).coordinates
    model = celbo.SCVI(adata, batch_key="batch").train(progress=False)
    after = model.get_latent_representation()
    return {
        "before": before,
        "after": after,
        "before_map": fit_umap(before).coordinates,
        "after_map": fit_umap(after).coordinates,
        "batch": adata.obs["batch"].astype(str).to_numpy(dtype=str),
        "type": adata.obs["cell_type"].astype(str).to_numpy(dtype=str),
    }


def _draw_batches(found: Found) -> Numbers:
    figure, axes = frame(1250, 350, columns=4)
    shown = (
        ("before", "batch", "Before (PCA), by batch"),
        ("before", "type", "Before, by type"),
        ("after", "batch", "After (scVI), by batch"),
        ("after", "type", "After, by type"),
    )
    for ax, (when, what, title) in zip(axes, shown, strict=True):
        cells(found[f"{when}_map"], found[what], title, ax, size=3)
    save(figure, "batches")
    numbers: Numbers = {}
    for when in ("before", "after"):
        numbers[f"{when}_mixed"] = f"{ilisi(found[when], found['batch']):.2f}"
        numbers[f"{when}_ari"] = f"{kmeans_agreement(found[when], found['type']).ari:.2f}"
    return numbers


STOPS = {
    "distribution": Stop(_distribution, _draw_distribution),
    "scvi": Stop(_scvi, _draw_scvi),
    "batches": Stop(_batches, _draw_batches),
}
