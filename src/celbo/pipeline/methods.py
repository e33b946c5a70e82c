"""The methods that a comparison puts side by side: each is fitted in one line and answers the same few questions."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from celbo.data.components import log_normalised
from celbo.errors import OptionError, nearest
from celbo.models.store import model_class

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["METHODS", "SAMPLES", "Cells", "Fitted", "Method", "chosen"]

Floats = NDArray[np.floating[Any]]
Family = Literal["classical", "factorisation", "autoencoder", "variational"]
SAMPLES = 100
"""Importance samples of a cell: enough for differences between methods, which are tens of nats."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The counts that methods are compared on: the chosen genes in `X`, the batches in a column of `obs`."""

    adata: AnnData
    batch_key: str | None = None

    @property
    def counts(self) -> sparse.csr_matrix:
        """Raw counts, (cells, genes)."""
        return sparse.csr_matrix(self.adata.X)

    def take(self, index: NDArray[np.int64]) -> Cells:
        """Return some of the cells, as a copy."""
        return replace(self, adata=self.adata[index].copy())

    def with_counts(self, counts: sparse.csr_matrix) -> Cells:
        """Return the same cells with other counts."""
        adata = self.adata.copy()
        adata.X = counts
        return replace(self, adata=adata)


class Fitted:
    """A method that was fitted; what it cannot answer is None."""

    def latent(self, cells: Cells) -> Floats | None:
        """Return the representation of any cells, (cells, k); None where new cells cannot be placed."""
        return None

    def own(self) -> Floats | None:
        """Return the representation of the cells of the fit, where `latent` cannot place cells."""
        return None

    def log_likelihood(self, cells: Cells) -> Floats | None:
        """Return ln p(counts) of cells that were not seen, (cells,) nats."""
        return None

    def reconstruction(self, cells: Cells) -> Floats | None:
        """Return the log-likelihood of counts given their own code, (cells,) nats: of deterministic autoencoders."""
        return None

    def denoised(self, cells: Cells, *, zero_inflation: bool = True) -> Any:
        """Return expected counts at the depth of the cells, (cells, genes) or blocks of it."""
        return None


@dataclass(frozen=True, kw_only=True)
class Method:
    """One line of the comparison."""

    title: str
    family: Family
    sentence: str
    """What it assumes, for a reader who does not know it."""
    fit: Callable[[Cells, int, Mapping[str, Any]], Fitted]
    """Fit it: cells, seed, and options that differ from the method's own defaults."""
    variants: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Two settings of its main parameter, below and above the default, with their names."""
    is_map: bool = False
    """Whether the first two dimensions of its representation are a picture already."""
    places_new_cells: bool = True
    """Whether it can be fitted to some cells and place others."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why it has no number in a column."""


# ------------------------------------------------------------------------------------------------ classical methods


@dataclass(frozen=True, eq=False)
class _Classical(Fitted):
    """A reduction of log-normalised counts."""

    fit: Any
    target: float

    def latent(self, cells: Cells) -> Floats:
        return np.asarray(self.fit.transform(log_normalised(cells.counts, target=self.target)))


@dataclass(frozen=True, eq=False)
class _FactorAnalysis(_Classical):
    def log_likelihood(self, cells: Cells) -> Floats:
        from celbo.evaluate.gaussian import factor_analysis_log_likelihood

        return factor_analysis_log_likelihood(self.fit, cells.counts, target=self.target, n_samples=SAMPLES)


@dataclass(frozen=True, eq=False)
class _Drawn(Fitted):
    """A picture of the cells of the fit, and of no others."""

    fit: Any

    def own(self) -> Floats:
        return np.asarray(self.fit.coordinates)


def _reduction(
    name: str, wrapper: type[Any] = _Classical, **fixed: Any
) -> Callable[[Cells, int, Mapping[str, Any]], Fitted]:
    def fit(cells: Cells, seed: int, options: Mapping[str, Any]) -> Fitted:
        target = float(np.median(np.asarray(cells.counts.sum(1)).ravel()))
        values = log_normalised(cells.counts, target=target)
        made = getattr(importlib.import_module("celbo.embed"), f"fit_{name}")(values, seed=seed, **{**fixed, **options})
        fitted: Fitted = wrapper(made) if wrapper is _Drawn else wrapper(made, target)
        return fitted

    return fit


# ----------------------------------------------------------------------------------------------------------- models


@dataclass(frozen=True, eq=False)
class _Model(Fitted):
    """One of celbo's models."""

    model: Any
    answers: frozenset[str]

    def latent(self, cells: Cells) -> Floats:
        return np.asarray(self.model.get_latent_representation(cells.adata))

    def log_likelihood(self, cells: Cells) -> Floats | None:
        if "evidence" not in self.answers:
            return None
        return np.asarray(self.model.get_marginal_ll(cells.adata, n_samples=SAMPLES, per_cell=True))

    def reconstruction(self, cells: Cells) -> Floats | None:
        if "reconstruction" not in self.answers:
            return None
        return -np.asarray(self.model.get_reconstruction_error(cells.adata, per_cell=True))

    def denoised(self, cells: Cells, *, zero_inflation: bool = True) -> Any:
        if "denoise" not in self.answers:
            return None
        return self.model.get_denoised_expression(cells.adata, zero_inflation=zero_inflation, return_numpy=True)


@dataclass(frozen=True, eq=False)
class _GaussianModel(_Model):
    """A model with a Gaussian density of log-normalised counts: scored by the probability of each count's interval."""

    def log_likelihood(self, cells: Cells) -> Floats:
        return np.asarray(self.model.get_count_ll(cells.adata, n_samples=SAMPLES, per_cell=True))


def _model(
    name: str, *answers: str, preset: str | None = None, wrapper: type[_Model] = _Model, **fixed: Any
) -> Callable[[Cells, int, Mapping[str, Any]], Fitted]:
    def fit(cells: Cells, seed: int, options: Mapping[str, Any]) -> Fitted:
        kind = model_class(name)
        config = None if preset is None else getattr(kind.config_class, preset)()
        model = kind(cells.adata, config=config, batch_key=cells.batch_key, seed=seed, **{**fixed, **options})
        model.train(progress=False)
        return wrapper(model, frozenset(answers))

    return fit


# ---------------------------------------------------------------------------------------------------- the whole list

_NO_COUNTS = "It has no model of counts."
_PICTURE = {"log_likelihood": "It draws cells; it has no model of counts.", "mcv_deviance": "It does not denoise."}
_DETERMINISTIC = {"log_likelihood": "A deterministic autoencoder has no likelihood of a cell: see the next column."}


def _picture(**changes: str) -> dict[str, str]:
    return {**_PICTURE, **changes}


METHODS: dict[str, Method] = {
    "pca": Method(
        title="PCA", family="classical", fit=_reduction("pca"),
        sentence="Directions of largest variance of log-normalised counts.",
        variants=(("20 components", {"n_components": 20}), ("100 components", {"n_components": 100})),
        reasons=_picture(log_likelihood="Factor analysis is its probabilistic form."),
    ),
    "ica": Method(
        title="ICA", family="classical", fit=_reduction("ica"),
        sentence="Directions along which log-normalised counts are least Gaussian.",
        variants=(("5 components", {"n_components": 5}), ("20 components", {"n_components": 20})),
        reasons=_picture(log_likelihood=_NO_COUNTS),
    ),
    "factor_analysis": Method(
        title="Factor analysis", family="classical", fit=_reduction("factor_analysis", _FactorAnalysis),
        sentence="Linear factors and Gaussian noise of log-normalised counts: a linear VAE solved exactly.",
        variants=(("5 factors", {"n_components": 5}), ("20 factors", {"n_components": 20})),
        reasons={"mcv_deviance": "Its means are of logarithms."},
    ),
    "tsne": Method(
        title="t-SNE", family="classical", fit=_reduction("tsne"), is_map=True, reasons=_PICTURE,
        sentence="A map that keeps close cells close; distances between clusters mean little.",
        variants=(("perplexity 10", {"perplexity": 10.0}), ("perplexity 100", {"perplexity": 100.0})),
    ),
    "umap": Method(
        title="UMAP", family="classical", fit=_reduction("umap"), is_map=True, reasons=_PICTURE,
        sentence="A map of the graph of nearest neighbours.",
        variants=(("5 neighbours", {"n_neighbors": 5}), ("50 neighbours", {"n_neighbors": 50})),
    ),
    "forceatlas2": Method(
        title="ForceAtlas2", family="classical", fit=_reduction("forceatlas2", _Drawn), is_map=True, reasons=_PICTURE,
        places_new_cells=False,
        sentence="The graph of nearest neighbours drawn by springs and repulsion.",
        variants=(("5 neighbours", {"n_neighbors": 5}), ("50 neighbours", {"n_neighbors": 50})),
    ),
    "diffusion_map": Method(
        title="Diffusion map", family="classical", fit=_reduction("diffusion_map", _Drawn, drop_trivial=True),
        is_map=True, places_new_cells=False, reasons=_PICTURE,
        sentence="Slow directions of a random walk on the graph of nearest neighbours.",
        variants=(("5 neighbours", {"n_neighbors": 5}), ("50 neighbours", {"n_neighbors": 50})),
    ),
    "hpf": Method(
        title="HPF", family="factorisation", fit=_model("HPF", "evidence", "denoise"),
        sentence="Hierarchical Poisson factorisation: non-negative factors with Gamma priors, Poisson counts.",
        variants=(("5 factors", {"n_components": 5}), ("20 factors", {"n_components": 20})),
    ),
    "autoencoder": Method(
        title="Autoencoder", family="autoencoder", fit=_model("Autoencoder", "denoise"), reasons=_DETERMINISTIC,
        sentence="A network that squeezes log-normalised counts through a few numbers, trained on squared error.",
        variants=(("5 dimensions", {"n_latent": 5}), ("20 dimensions", {"n_latent": 20})),
    ),
    "dca": Method(
        title="DCA", family="autoencoder", fit=_model("DCA", "reconstruction", "denoise"), reasons=_DETERMINISTIC,
        sentence="An autoencoder whose output is a distribution of the counts.",
        variants=(("center of 16", {"n_hidden": (64, 16, 64)}), ("center of 64", {"n_hidden": (64, 64, 64)})),
    ),
    "autoimpute": Method(
        title="AutoImpute", family="autoencoder", fit=_model("AutoImpute", "denoise"), reasons=_DETERMINISTIC,
        sentence="One wide hidden layer, trained on the entries that are not zero.",
        variants=(("500 units", {"n_hidden": 500}), ("4,000 units", {"n_hidden": 4000})),
    ),
    "vae": Method(
        title="VAE (Gaussian)", family="variational",
        fit=_model("VAE", "denoise", wrapper=_GaussianModel, likelihood="gaussian"),
        sentence="A VAE of log-normalised counts with Gaussian noise.",
        variants=(("5 dimensions", {"n_latent": 5}), ("20 dimensions", {"n_latent": 20})),
    ),
    "scvis": Method(
        title="scvis", family="variational", fit=_model("SCVIS"), is_map=True,
        reasons=_picture(log_likelihood="Its density is of scaled principal components, not of counts."),
        sentence="A VAE of principal components with Student-t noise and a t-SNE penalty: a map for new cells too.",
        variants=(("perplexity 5", {"perplexity": 5.0}), ("perplexity 20", {"perplexity": 20.0})),
    ),
    "vasc": Method(
        title="VASC", family="variational", fit=_model("VASC"), is_map=True,
        reasons=_picture(log_likelihood="Its cross-entropy of values between 0 and 1 is no likelihood of counts."),
        sentence="A deep VAE of scaled logarithms with a layer that drops values out.",
        variants=(),
    ),
    "scvae": Method(
        title="scVAE", family="variational",
        fit=_model("SCVAE", "evidence", "denoise", likelihood="nb", library="observed"),
        sentence="A VAE of counts with one wide hidden layer; here given the cell's total, as scVI is.",
        variants=(("5 dimensions", {"n_latent": 5}), ("20 dimensions", {"n_latent": 20})),
    ),
    "gmvae": Method(
        title="scVAE (mixture)", family="variational",
        fit=_model("SCVAE", "evidence", "denoise", likelihood="nb", library="observed", prior="gaussian-mixture"),
        sentence="The same with a mixture of Gaussians as the prior: it clusters while it learns.",
        variants=(("5 components", {"n_components": 5}), ("20 components", {"n_components": 20})),
    ),
    "ldvae": Method(
        title="LDVAE", family="variational", fit=_model("LDVAE", "evidence", "denoise"),
        sentence="scVI with a linear decoder: each dimension has a loading for each gene.",
        variants=(("5 dimensions", {"n_latent": 5}), ("20 dimensions", {"n_latent": 20})),
    ),
    "scvi": Method(
        title="scVI", family="variational", fit=_model("SCVI", "evidence", "denoise"),
        sentence="A VAE of counts: negative binomial around library size times share, batch given to the decoder.",
        variants=(("5 dimensions", {"n_latent": 5}), ("20 dimensions", {"n_latent": 20})),
    ),
    "scvi_2018": Method(
        title="scVI (2018)", family="variational", fit=_model("SCVI", "evidence", "denoise", preset="paper_2018"),
        sentence="scVI as its first code has it: zero-inflated, latent library size.",
        variants=(("5 dimensions", {"n_latent": 5}), ("20 dimensions", {"n_latent": 20})),
    ),
}  # fmt: skip
"""Every method by the name that `celbo compare --methods` takes, in the order of the lecture."""


def chosen(methods: str | list[str] | tuple[str, ...]) -> list[str]:
    """Return the names of the methods asked for, "all" or several, in the order of the lecture.

    Raises
    ------
    OptionError
        If there is none of a name, or no name.
    """
    names = [methods] if isinstance(methods, str) else list(methods)
    if "all" in names:
        return list(METHODS)
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        first = str(unknown[0]) if unknown else ""
        fix = "Name the files before --methods." if Path(first).suffix else nearest(first, METHODS)
        raise OptionError("names no method", where="methods", value=repr(first), fix=fix)
    return [name for name in METHODS if name in names]
