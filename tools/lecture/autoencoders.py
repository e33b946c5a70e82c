"""Stops on autoencoders: the linear one, the holes of a plain one, the variational one, those for transcriptomes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

import celbo
from celbo.data.components import Components, log_normalised, principal_components
from celbo.embed import fit_umap
from celbo.evaluate import claims
from celbo.evaluate.metrics import kmeans_agreement
from celbo.models.vae import VAEConfig
from celbo.plots.latent import plot_cosines, plot_deviations, plot_distances, plot_elbo_identity, plot_field
from celbo.plots.style import ACCENT, INK, MUTED, category_colors, set_names, tidy
from lecture.frame import Found, Numbers, Stop, cells, frame, heat_table, key, pbmc, save, titled, types

# --------------------------------------------------------------------------------------- the linear autoencoder is PCA


def _linear_autoencoder() -> dict[str, Any]:
    spectrum = principal_components(log_normalised(pbmc().X), 16, seed=0)
    k = claims.spectrum_gap(spectrum.variance, least=3)
    leading = Components(spectrum.mean, spectrum.loadings[:, :k], spectrum.variance[:k], spectrum.total_variance)
    model = celbo.Autoencoder(pbmc(), linear=True, n_latent=k).train(train_size=1.0, progress=False)
    agreement = claims.subspace_agreement(
        model.network.output.weight.detach().numpy(),
        error=model.get_reconstruction_error(),
        components=leading,
        n_cells=pbmc().n_obs,
    )
    return {
        "variance": spectrum.variance,
        "k": k,
        "angles": agreement.angles,
        "excess": agreement.excess,
        "cosines": agreement.cosines,
    }


def _draw_linear_autoencoder(found: Found) -> Numbers:
    variance, k, angles = found["variance"], int(found["k"]), found["angles"]
    figure, (left, middle, right) = frame(1050, 340, columns=3)
    tidy(left, x="component", y="variance")
    left.bar(np.arange(1, 17), variance, color=[ACCENT if i < k else MUTED for i in range(16)], width=0.7)
    titled(left, f"PCA: a gap after component {k}")
    tidy(middle, x="principal angle", y="degrees")
    middle.bar(np.arange(1, k + 1), angles, color=ACCENT, width=0.6)
    middle.set(xticks=np.arange(1, k + 1), ylim=(0, max(2.2, 1.1 * angles[-1])))
    titled(middle, "Angles to the space of PCA")
    plot_cosines(found["cosines"], title="Cosines between its axes", ax=right)
    save(figure, "linear_autoencoder")
    off = np.abs(found["cosines"] - np.eye(k)).max()
    return {
        "k": str(k),
        "angle": f"{angles[-1]:.2f}",
        "excess": f"{100 * float(found['excess']):.3f}%",
        "cosine": f"{off:.2f}",
    }


# --------------------------------------------------------------------------------------------------------------- holes


def _holes() -> dict[str, Any]:
    values = log_normalised(pbmc().X)
    profiles = claims.smoothed_profiles(values)
    flat = celbo.Autoencoder(pbmc(), n_latent=2).train(progress=False)
    codes = flat.get_latent_representation()
    low, high = codes.min(0), codes.max(0)
    x, y = (np.linspace(a - 0.06 * (b - a), b + 0.06 * (b - a), 60) for a, b in zip(low, high, strict=True))
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    field = claims.latent_holes(flat, points, codes=codes, profiles=profiles)
    out = {"codes": codes, "x": x, "y": y, "field": field.drawn.reshape(60, 60), "threshold": field.threshold}
    plain = celbo.Autoencoder(pbmc(), n_latent=10).train(progress=False)
    variational = celbo.VAE(pbmc(), config=VAEConfig.squared_error(), n_latent=10).train(progress=False)
    for name, model, how in (("box", plain, "box"), ("normal", plain, "normal"), ("prior", variational, "prior")):
        own = model.get_latent_representation()
        held = own[model.validation_indices]
        seen = claims.latent_holes(model, claims.latent_draws(own, 500, how=how), codes=held, profiles=profiles)
        out |= {f"{name}_own": seen.own, f"{name}_drawn": seen.drawn, f"{name}_share": seen.share}
    return out


def _draw_holes(found: Found) -> Numbers:
    figure, (left, right) = frame(1050, 380, columns=2, width_ratios=[1, 1.15])
    where = (found["x"], found["y"])
    plot_field(where, found["field"], found["codes"], threshold=float(found["threshold"]), ax=left)
    titled(left, "Plain autoencoder: colour decodes to no cell")
    rows = {
        "plain: cells held out": "box_own",
        "plain: drawn from the range of the codes": "box_drawn",
        "plain: drawn from a Gaussian of the codes": "normal_drawn",
        "VAE: cells held out": "prior_own",
        "VAE: drawn from the prior": "prior_drawn",
    }
    # each beside the cells of its own model
    scaled = {label: found[name] / np.median(found[name.split("_")[0] + "_own"]) for label, name in rows.items()}
    plot_distances(scaled, x="distance to the nearest real profile (cells: 1)", ax=right)
    titled(right, "Ten dimensions")
    save(figure, "holes")
    rows_of = {name.removesuffix("_drawn"): label for label, name in rows.items() if name.endswith("_drawn")}
    numbers = {name: f"{float(found[f'{name}_share']):.0%}" for name in ("box", "normal", "prior")}
    return numbers | {f"{name}_far": f"{np.median(scaled[rows_of[name]]):.1f}" for name in numbers}


# ----------------------------------------------------------------------------------------------------------------- VAE


def _vae() -> dict[str, Any]:
    out: dict[str, Any] = {}
    for beta in (0, 1):
        config = VAEConfig.squared_error(beta=float(beta))
        model = celbo.VAE(pbmc(), config=config, n_latent=2).train(progress=False)
        mean, variance = model.get_latent_representation(return_dist=True)
        out |= {f"mean_{beta}": mean, f"sd_{beta}": np.sqrt(variance)}
    return out | _identity()


def _identity() -> dict[str, Any]:
    """Return the two sides of ln p(x) = ELBO + KL for probabilistic PCA, where all three are known."""
    dense = log_normalised(pbmc().X).toarray().astype(np.float64)
    genes = np.argsort(-dense.var(0))[:300]
    components = principal_components(sparse.csr_matrix(dense[:, genes]), 5, seed=0)
    model, x = claims.LinearGaussian.of_components(components), dense[:, genes]
    mean, covariance = model.posterior(x)
    q = {
        "exact posterior": (mean, covariance),
        "twice as wide": (mean, 4 * covariance),
        "shifted by 0.3": (mean + 0.3, covariance),
    }
    terms = {name: claims.linear_gaussian_terms(model, x, *of) for name, of in q.items()}
    table = pd.DataFrame({name: {key: values.mean() for key, values in t.items()} for name, t in terms.items()}).T
    worst = max(np.abs(t["elbo"] + t["kl"] - t["evidence"]).max() for t in terms.values())
    return {"terms": table, "q": list(table.index), "columns": list(table.columns), "worst": worst}


def _draw_vae(found: Found) -> Numbers:
    figure, axes = frame(1300, 370, columns=4, width_ratios=[1, 0.8, 0.8, 1.15])
    names = {"without the KL": found["sd_0"], "with the KL": found["sd_1"]}
    plot_deviations(names, ax=axes[0])
    axes[0].set_ylim(top=1.3 * axes[0].get_ylim()[1])  # room for the legend
    titled(axes[0], "Widths of q(z | x)")
    for beta, ax in ((0, axes[1]), (1, axes[2])):
        cells(found[f"mean_{beta}"], types(), ("Without", "With")[beta] + " the KL: means", ax, size=3.4)
        _ring(found[f"mean_{beta}"], found[f"sd_{beta}"], ax)
    table = pd.DataFrame(found["terms"], index=found["q"].tolist(), columns=found["columns"].tolist())
    plot_elbo_identity(table, ax=axes[3])
    titled(axes[3], "ln p(x) = ELBO + KL")
    save(figure, "vae")
    return {
        "sd_without": f"{np.median(found['sd_0']):.3f}",
        "relative_without": f"{np.median(found['sd_0']) / found['mean_0'].std():.4f}",
        "sd_with": f"{np.median(found['sd_1']):.2f}",
        "worst": f"{float(found['worst']):.0e}",
    }


def _ring(mean: np.ndarray, sd: np.ndarray, ax: Any) -> None:
    """Draw q(z | x) of every 25th cell as its ellipse of one standard deviation."""
    from matplotlib.patches import Ellipse

    for m, s in zip(mean[::25], sd[::25], strict=True):
        ax.add_patch(Ellipse(tuple(m), 2 * s[0], 2 * s[1], fill=False, edgecolor=INK, linewidth=0.9))


# --------------------------------------------------------------------------------------- scvis, VASC, scVAE's mixture


def _maps_of_networks() -> dict[str, Any]:
    return {
        "scvis": celbo.SCVIS(pbmc()).train(progress=False).get_latent_representation(),
        "vasc": celbo.VASC(pbmc()).train(progress=False).get_latent_representation(),
    }


def _draw_maps_of_networks(found: Found) -> Numbers:
    figure, axes = frame(900, 380, columns=2)
    for ax, name, title in zip(axes, ("scvis", "vasc"), ("scvis", "VASC"), strict=True):
        cells(found[name], types(), title, ax)
    key(figure, types().categories, loc="outside right center")
    save(figure, "scvis_vasc")
    return {f"{name}_ari": f"{kmeans_agreement(found[name], types()).ari:.2f}" for name in ("scvis", "vasc")}


def _mixture() -> dict[str, Any]:
    model = celbo.SCVAE(pbmc(), prior="gaussian-mixture", n_components=10).train(progress=False)
    shares = model.get_cluster_probabilities()
    z = model.get_latent_representation()
    return {"map": fit_umap(z).coordinates, "shares": shares.to_numpy(), "z": z}


def _draw_mixture(found: Found) -> Numbers:
    cluster = found["shares"].argmax(1)
    used = np.unique(cluster)
    figure, (left, middle, right) = frame(1200, 390, columns=3, width_ratios=[1, 1, 1.05])
    cells(found["map"], types(), "Sorted types", left)
    names = [f"cluster {i + 1}" for i in used]
    named = pd.Categorical([f"cluster {i + 1}" for i in cluster], categories=names)
    cells(found["map"], named, "Clusters of the mixture", middle)
    for i in used:
        at = np.median(found["map"][cluster == i], axis=0)
        middle.annotate(str(i + 1), at, ha="center", va="center", fontsize=11, fontweight="bold", color=INK)
    table = pd.crosstab(types(), cluster, normalize="columns")
    heat_table(right, table.to_numpy(), rows=list(table.index), columns=[str(i + 1) for i in table], turn=0)
    right.set_xlabel("cluster", fontsize=11, color=INK)
    titled(right, "What the cells of a cluster are")
    save(figure, "mixture")
    return {
        "used": str(len(used)),
        "ari": f"{celbo.evaluate.ari(types(), cluster):.2f}",
        "sure": f"{(found['shares'].max(1) > 0.9).mean():.0%}",
    }


# --------------------------------------------------------------------------------------------------- LDVAE's loadings


def _loadings() -> dict[str, Any]:
    model = celbo.LDVAE(pbmc(), n_latent=10).train(progress=False)
    table = model.get_loadings()
    return {"w": table, "genes": np.array(table.index, dtype=str), "z": model.get_latent_representation()}


def _draw_loadings(found: Found) -> Numbers:
    w, z, genes = found["w"], found["z"], found["genes"]
    strength = z.std(0) * w.std(0)
    order = np.argsort(-strength)[:4]
    figure, axes = frame(1250, 390, columns=5, width_ratios=[1, 1, 1, 1, 1.35])
    colours = category_colors(2)
    for ax, k in zip(axes, order, strict=False):
        ends = np.concatenate([np.argsort(-w[:, k])[:6], np.argsort(w[:, k])[:6][::-1]])
        tidy(ax, x="loading", grid="x")
        ax.barh(np.arange(12), w[ends, k], color=[colours[int(v < 0)] for v in w[ends, k]], height=0.7)
        set_names(ax, "y", [str(g) for g in genes[ends]])
        ax.invert_yaxis()
        titled(ax, f"Dimension {k}")
    middle = pd.DataFrame(z[:, order]).groupby(types(), observed=False).mean()
    shown = 0.5 + 0.5 * (middle / middle.abs().max()).to_numpy()
    last = axes[4]
    last.imshow(shown, cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
    tidy(last, x="dimension", grid="")
    set_names(last, "x", [str(k) for k in order])
    set_names(last, "y", list(middle.index))
    titled(last, "Mean of each type")
    save(figure, "ldvae")
    first = order[0]
    return {
        "dimension": str(first),
        "up": ", ".join(genes[np.argsort(-w[:, first])[:4]]),
        "down": ", ".join(genes[np.argsort(w[:, first])[:4]]),
    }


STOPS = {
    "linear_autoencoder": Stop(_linear_autoencoder, _draw_linear_autoencoder),
    "holes": Stop(_holes, _draw_holes),
    "vae": Stop(_vae, _draw_vae),
    "scvis_vasc": Stop(_maps_of_networks, _draw_maps_of_networks),
    "mixture": Stop(_mixture, _draw_mixture),
    "ldvae": Stop(_loadings, _draw_loadings),
}
