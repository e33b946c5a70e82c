"""What the lecture says of autoencoders, on real cells, each with a bound that could fail."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import celbo
from celbo.data.components import Components, log_normalised, principal_components
from celbo.errors import InputError
from celbo.evaluate import claims
from celbo.models.vae import VAEConfig


@pytest.fixture(scope="module")
def bladder(data_dir: Path) -> ad.AnnData:
    """Return 2,746 cells x 2,003 genes of mouse bladder (Han et al. 2018)."""
    return ad.read_h5ad(data_dir / "mouse_bladder_top2000.h5ad")


@pytest.fixture(scope="module")
def values(bladder: ad.AnnData) -> sparse.csr_matrix:
    return log_normalised(bladder.X)


@pytest.fixture(scope="module")
def spectrum(values: sparse.csr_matrix) -> Components:
    return principal_components(values, 16, seed=0)


def _leading(components: Components, k: int) -> Components:
    c = components
    return Components(c.mean, c.loadings[:, :k], c.variance[:k], c.total_variance)


# -- 1. the linear autoencoder and PCA ----------------------------------------------------------------------------


def test_the_linear_autoencoder_spans_the_principal_components(bladder, spectrum):
    k = claims.spectrum_gap(spectrum.variance, least=4)
    assert k == 7  # the seventh variance is 1.42 times the eighth
    model = celbo.Autoencoder(bladder, linear=True, n_latent=k).train(train_size=1.0, progress=False)
    found = claims.subspace_agreement(
        model.network.output.weight.detach().numpy(),
        error=model.get_reconstruction_error(),
        components=_leading(spectrum, k),
        n_cells=bladder.n_obs,
    )
    assert found.largest_angle < 2
    assert -1e-6 < found.excess < 1e-3
    assert found.largest_cosine > 0.05  # a basis of its own: not orthogonal, and not the components
    assert np.abs(found.components).max(1).min() < 0.9


def test_angles_and_excess_of_known_directions():
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(30, 4)))
    components = Components(np.zeros(30), axes[:, :3], np.array([9.0, 4.0, 1.0]), 20.0)
    mixed = rng.normal(size=(3, 3)) @ axes[:, :3].T  # another basis of the same space
    same = claims.subspace_agreement(mixed, error=6.0 * 99 / 100 / 30, components=components, n_cells=100)
    assert same.largest_angle < 1e-5
    assert same.excess == pytest.approx(0, abs=1e-12)
    assert same.largest_cosine > 0.1
    turned = axes[:, :3].T.copy()
    turned[2] = np.cos(0.3) * axes[:, 2] + np.sin(0.3) * axes[:, 3]
    found = claims.subspace_agreement(turned, error=0.3, components=components, n_cells=100)
    np.testing.assert_allclose(found.angles, [0, 0, np.degrees(0.3)], atol=1e-5)
    assert found.largest_cosine < 1e-12


def test_the_gap_is_the_largest_ratio_in_range():
    variance = [10, 9, 3, 2.9, 1.0, 0.9]
    assert claims.spectrum_gap(variance) == 2
    assert claims.spectrum_gap(variance, least=3) == 4
    with pytest.raises(InputError, match="range of k"):
        claims.spectrum_gap(variance, most=6)


# -- 2. holes ----------------------------------------------------------------------------------------------------


def _holes(model, values: sparse.csr_matrix, how: str) -> claims.LatentHoles:
    codes = model.get_latent_representation()
    return claims.latent_holes(
        model,
        claims.latent_draws(codes, 500, how=how),
        codes=codes[model.validation_indices],
        profiles=claims.smoothed_profiles(values),
    )


def test_the_plain_autoencoder_has_holes_where_the_vae_has_cells(bladder, values):
    plain = celbo.Autoencoder(bladder, n_latent=10).train(progress=False, max_epochs=12)
    variational = celbo.VAE(bladder, config=VAEConfig.squared_error(), n_latent=10).train(progress=False, max_epochs=12)
    box, normal, prior = (
        _holes(plain, values, "box"),
        _holes(plain, values, "normal"),
        _holes(variational, values, "prior"),
    )
    assert box.share > 0.95
    assert normal.share > 0.8
    assert prior.share < normal.share - 0.15
    beyond = [np.median(found.drawn) / np.median(found.own) for found in (box, normal, prior)]
    assert beyond[0] > 3 and beyond[1] > 1.8
    assert beyond[2] < 1.7


def test_distances_of_points_that_decode_to_cells_are_zero():
    class Identity:
        def decode(self, z):
            return np.asarray(z, np.float32)

    rng = np.random.default_rng(0)
    cells = rng.normal(size=(200, 3)).astype(np.float32)
    found = claims.latent_holes(Identity(), cells + 100, codes=cells, profiles=cells)
    assert found.threshold == pytest.approx(0, abs=1e-3)
    assert found.share == 1.0
    nearest = np.sqrt(((cells[:, None] + 100 - cells[None]) ** 2).sum(-1)).min(1)
    np.testing.assert_allclose(found.drawn, nearest, rtol=1e-5)


def test_smoothed_profiles_are_means_of_neighbours(values):
    few = values[:300]
    profiles = claims.smoothed_profiles(few, n_neighbours=5, n_components=4)
    scores = principal_components(few, 4, seed=0).project(few)
    near = np.argsort(((scores - scores[17]) ** 2).sum(1))[:5]
    np.testing.assert_allclose(profiles[17], few[near].toarray().mean(0), atol=1e-5)


def test_draws_lie_where_they_are_asked_for():
    codes = np.random.default_rng(0).normal([3, -5], [1, 2], size=(4000, 2))
    box = claims.latent_draws(codes, 4000)
    assert (box >= codes.min(0)).all() and (box <= codes.max(0)).all()
    normal = claims.latent_draws(codes, 4000, how="normal")
    np.testing.assert_allclose(normal.std(0), [1, 2], rtol=0.06)
    np.testing.assert_allclose(claims.latent_draws(codes, 4000, how="prior").mean(0), 0, atol=0.06)
    with pytest.raises(InputError, match="how"):
        claims.latent_draws(codes, 1, how="uniform")


# -- 3. collapsed standard deviations ----------------------------------------------------------------------------


def test_without_the_divergence_the_standard_deviations_collapse(bladder):
    tables = {}
    for beta in (0.0, 1.0):
        config = VAEConfig.squared_error(beta=beta)
        model = celbo.VAE(bladder, config=config, n_latent=2).train(progress=False, max_epochs=12)
        tables[beta] = claims.posterior_deviations(*model.get_latent_representation(return_dist=True))
    assert tables[0.0]["deviation"].max() < 0.06  # their floor is 0.01
    assert tables[0.0]["relative"].max() < 0.02
    assert tables[1.0]["deviation"].min() > 0.1
    assert tables[1.0]["relative"].min() > 0.1
    variance = tables[1.0]["spread"] ** 2 / (1 - tables[1.0]["share"])  # of z: near that of the prior
    np.testing.assert_allclose(variance, 1, atol=0.35)


def test_deviations_of_a_known_posterior():
    mean = np.array([[0.0, 1.0], [2.0, 1.0]])
    table = claims.posterior_deviations(mean, np.array([[0.25, 1.0], [0.25, 1.0]]))
    np.testing.assert_allclose(table["deviation"], [0.5, 1])
    np.testing.assert_allclose(table["spread"], [1, 0])
    np.testing.assert_allclose(table["share"], [0.2, 1])


# -- 4. the ELBO identity ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(values: sparse.csr_matrix) -> tuple[claims.LinearGaussian, np.ndarray]:
    """Return probabilistic PCA of the 300 genes of most variance, and some of its cells."""
    dense = values.toarray().astype(np.float64)
    genes = np.argsort(-dense.var(0))[:300]
    components = principal_components(sparse.csr_matrix(dense[:, genes]), 5, seed=0)
    return claims.LinearGaussian.of_components(components), dense[:12][:, genes]


def _posteriors(model: claims.LinearGaussian, x: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    mean, covariance = model.posterior(x)
    rng, k = np.random.default_rng(0), len(covariance)
    root = rng.normal(size=(k, k))
    return {
        "exact": (mean, covariance),
        "wide": (mean + 0.1, 2 * covariance),
        "prior": (np.zeros_like(mean), np.eye(k)),
        "arbitrary": (rng.normal(size=mean.shape), root @ root.T + 0.1 * np.eye(k)),
    }


@pytest.mark.parametrize("name", ["exact", "wide", "prior", "arbitrary"])
def test_evidence_is_elbo_plus_divergence(known, name):
    model, x = known
    terms = claims.linear_gaussian_terms(model, x, *_posteriors(model, x)[name])
    np.testing.assert_allclose(terms["elbo"] + terms["kl"], terms["evidence"], rtol=1e-10, atol=1e-8)
    if name == "exact":
        np.testing.assert_allclose(terms["kl"], 0, atol=1e-9)
    else:
        assert (terms["kl"] > 0.1).all()


def test_evidence_is_that_of_scipy(known):
    from scipy import stats

    model, x = known
    covariance = model.loadings @ model.loadings.T + model.sd**2 * np.eye(x.shape[1])
    expected = stats.multivariate_normal(model.offset, covariance).logpdf(x)
    np.testing.assert_allclose(model.log_evidence(x), expected, rtol=1e-9)


def test_probabilistic_pca_is_the_maximum_of_its_likelihood(known, values):
    model, _ = known
    dense = values.toarray().astype(np.float64)
    cells = dense[:, np.argsort(-dense.var(0))[:300]]
    best = model.log_evidence(cells).mean()
    for change in (0.98, 1.02):
        other = claims.LinearGaussian(model.loadings * change, model.offset, model.sd)
        assert other.log_evidence(cells).mean() < best
        assert claims.LinearGaussian(model.loadings, model.offset, model.sd * change).log_evidence(cells).mean() < best


def test_the_importance_weighted_bound_rises_to_the_evidence(known):
    model, x = known
    q = _posteriors(model, x)["wide"]
    terms = claims.linear_gaussian_terms(model, x, *q)
    bounds = claims.importance_bounds(model, x, *q, n_samples=(1, 4, 16, 64, 512), repeats=60)
    assert abs(bounds["bound"].iloc[0] - terms["elbo"].mean()) < 4 * bounds["error"].iloc[0]
    assert (bounds["bound"].diff().dropna() > 0).all()
    assert bounds["bound"].iloc[-1] == pytest.approx(terms["evidence"].mean(), abs=0.01)
    assert bounds["bound"].iloc[0] < terms["evidence"].mean() - 0.3


# -- the figures -------------------------------------------------------------------------------------------------


def test_figures_draw_what_they_are_given():
    from celbo.plots import latent

    ax = latent.plot_cosines([[1, -0.5], [-0.5, 1]])
    assert {t.get_text() for t in ax.texts} == {"1.00", "0.50"}
    grid = np.linspace(-1, 1, 5), np.linspace(-2, 2, 4)
    ax = latent.plot_field(grid, np.random.default_rng(0).uniform(1, 3, (4, 5)), np.zeros((3, 2)), threshold=2.0)
    assert ax.get_ylim() == (-2, 2)
    with pytest.raises(InputError, match="fit together"):
        latent.plot_field(grid, np.zeros((5, 4)), np.zeros((3, 2)), threshold=1.0)
    ax = latent.plot_distances({"own": [1, 2, 3], "drawn": [4, 5, 6]}, threshold=3.0)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["own", "drawn"]
    ax = latent.plot_deviations({"beta 0": [0.01, 0.02], "beta 1": [0.5, 0.7]})
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["beta 0: median 0.015", "beta 1: median 0.6"]
    with pytest.raises(InputError, match="above zero"):
        latent.plot_deviations({"none": [0.0]})
    terms = pd.DataFrame(
        {"evidence": [-10.0, -10.0], "elbo": [-10.0, -12.0], "kl": [0.0, 2.0]}, index=["exact", "wide"]
    )
    ax = latent.plot_elbo_identity(terms)
    assert [t.get_text() for t in ax.texts] == ["KL 0", "KL 2"]
    tops = [bar.get_y() + bar.get_height() for bar in ax.containers[1]]
    np.testing.assert_allclose(tops, -10)
    bounds = pd.DataFrame({"bound": [-12.0, -10.5], "error": [0.1, 0.1]}, index=[1, 10])
    assert latent.plot_bounds(bounds, evidence=-10.0).get_xscale() == "log"
