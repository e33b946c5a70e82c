"""Diffusion maps against dense mathematics and scanpy; ForceAtlas2 against what the drawing must keep."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from celbo.embed import fit_diffusion_map, fit_forceatlas2, neighbour_graph
from celbo.errors import CelboWarning, DependencyError, InputError, OptionError

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def curve() -> Floats:
    """Return cells along a half circle in five dimensions, in order, denser at one end; (150, 5)."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.beta(1, 1.6, 150)) * np.pi
    return np.column_stack([np.cos(t), np.sin(t), 0 * t, 0 * t, 0 * t]) + 0.02 * rng.normal(size=(150, 5))


def diffusion_oracle(graph: Floats) -> tuple[Floats, Floats, Floats]:
    """Return all eigenvalues, descending, and the symmetric and right eigenvectors of the transitions, dense."""
    q = graph.sum(0)
    kernel = graph / np.outer(q, q)
    row = kernel.sum(1)
    size, symmetric = np.linalg.eigh(kernel / np.sqrt(np.outer(row, row)))
    right = symmetric / np.sqrt(row)[:, None]
    walk = kernel / row[:, None]
    np.testing.assert_allclose(walk @ right, right * size, atol=1e-10)
    return size[::-1], symmetric[:, ::-1], right[:, ::-1]


def same_up_to_sign(a: Floats, b: Floats) -> Floats:
    return np.abs((a * b).sum(0)) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)


def test_diffusion_map_is_the_dense_eigendecomposition(curve: Floats) -> None:
    size, symmetric, right = diffusion_oracle(neighbour_graph(curve, n_neighbors=15, seed=0).toarray().astype(float))
    fit = fit_diffusion_map(curve, n_components=8)
    np.testing.assert_allclose(fit.eigenvalues, size[:8], atol=1e-10)
    np.testing.assert_allclose(same_up_to_sign(fit.coordinates, symmetric[:, :8]), 1, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(fit.coordinates, axis=0), 1, atol=1e-10)
    walk = fit_diffusion_map(curve, n_components=8, eigenvectors="right").coordinates
    np.testing.assert_allclose(same_up_to_sign(walk, right[:, :8]), 1, atol=1e-9)
    np.testing.assert_allclose(walk[:, 0], 1, atol=1e-9)


def test_diffusion_map_is_that_of_scanpy(curve: Floats) -> None:
    adata = AnnData(curve.astype(np.float32))
    sc.pp.neighbors(adata, n_neighbors=15, use_rep="X", random_state=0)
    sc.tl.diffmap(adata, n_comps=8)
    fit = fit_diffusion_map(curve, n_components=8)
    np.testing.assert_allclose(fit.eigenvalues, adata.uns["diffmap_evals"], atol=1e-5)
    np.testing.assert_allclose(same_up_to_sign(fit.coordinates, adata.obsm["X_diffmap"]), 1, atol=1e-5)


def test_the_first_direction_that_is_not_trivial_is_the_order_along_the_curve(curve: Floats) -> None:
    fit = fit_diffusion_map(curve, n_components=3, drop_trivial=True)
    assert fit.eigenvalues[0] < 1 - 1e-6
    order = fit.coordinates[:, 0].argsort().argsort()
    assert abs(np.corrcoef(order, np.arange(150))[0, 1]) > 0.98
    whole = fit_diffusion_map(curve, n_components=4)
    np.testing.assert_allclose(fit.coordinates, whole.coordinates[:, 1:], atol=1e-8)
    assert whole.eigenvalues[0] == pytest.approx(1, abs=1e-12)


def test_a_graph_in_parts_warns(curve: Floats) -> None:
    with pytest.warns(CelboWarning, match="has 2 parts"):
        fit = fit_diffusion_map(np.vstack([curve, curve + 50]), n_components=3)
    assert fit.n_connected == 2
    np.testing.assert_allclose(fit.eigenvalues[:2], 1, atol=1e-10)


@pytest.mark.parametrize("method", [fit_diffusion_map, fit_forceatlas2])
def test_a_seed_gives_the_same_result_twice(method, curve: Floats) -> None:
    first, second = (method(curve, seed=4).coordinates for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("init", ["pca", "random"])
def test_the_drawing_keeps_neighbours_near(curve: Floats, init: str) -> None:
    fit = fit_forceatlas2(curve, n_iter=300, init=init)
    assert fit.coordinates.shape == (150, 2)
    near = cdist(fit.coordinates, fit.coordinates).argsort(1)[:, 1:11]
    assert (np.abs(near - np.arange(150)[:, None]) <= 15).mean() > 0.85  # by chance about 0.2


def test_the_drawing_is_that_of_scanpy_from_its_first_positions(curve: Floats) -> None:
    adata = AnnData(curve.astype(np.float32))
    sc.pp.neighbors(adata, n_neighbors=15, use_rep="X", random_state=0)
    first = np.random.default_rng(0).random((150, 2))
    adata.obsm["first"] = first
    sc.tl.draw_graph(adata, layout="fa", init_pos="first", maxiter=40)
    fit = fit_forceatlas2(curve, n_iter=40, init="random", seed=0)
    np.testing.assert_allclose(fit.coordinates, adata.obsm["X_draw_graph_fa"], rtol=1e-9)


@pytest.mark.parametrize(("method", "name"), [(fit_diffusion_map, "diffusion_map"), (fit_forceatlas2, "forceatlas2")])
def test_new_cells_cannot_be_placed(method, name: str, curve: Floats) -> None:
    with pytest.raises(InputError, match=rf"{name} cannot place new cells: .* use pca, umap or tsne"):
        method(curve).transform(curve[:3])


@pytest.mark.parametrize("method", [fit_diffusion_map, fit_forceatlas2])
def test_impossible_options_are_named(method, curve: Floats) -> None:
    with pytest.raises(OptionError, match=r"n_neighbors must be a whole number from 2 to 149: 150\."):
        method(curve, n_neighbors=150)
    bad = curve.copy()
    bad[3] = np.nan
    with pytest.raises(InputError, match="not finite: first in row 3"):
        method(bad)


def test_impossible_options_of_one_method_are_named(curve: Floats) -> None:
    with pytest.raises(OptionError, match="n_components must be a whole number from 1 to 148: 149"):
        fit_diffusion_map(curve, n_components=149)
    with pytest.raises(OptionError, match="eigenvectors is unknown: 'left'"):
        fit_diffusion_map(curve, eigenvectors="left")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="n_iter must be"):
        fit_forceatlas2(curve, n_iter=0)
    with pytest.raises(OptionError, match="gravity must be a number of at least 0"):
        fit_forceatlas2(curve, gravity=-1)


def test_a_missing_package_is_named_with_the_command(curve: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fa2_modified", None)
    with pytest.raises(DependencyError, match="pip install fa2-modified"):
        fit_forceatlas2(curve)
