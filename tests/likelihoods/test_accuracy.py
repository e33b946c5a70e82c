"""The promise of the numerics: float32 within 1e-4 nat + 4 ulp of 60 digits, everywhere on a wide grid.

Grid: theta 1e-3..1e7, mu 1e-6..1e5, x within ten standard deviations of the mean, and the smallest counts.
"""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import torch

from celbo.data.minibatch import SparseRows
from celbo.likelihoods import CountParameters, make_likelihood

ROUTES = ["torch", "fused"]
NAMES = ["nb", "zinb", "poisson", "normal"]
CASES = [(name, route) for name in NAMES for route in ROUTES]


class Grid:
    """Points in float32 and, at exactly those points, the truth to 60 digits."""

    def __init__(self, name, n=3000, log10_theta=(-3.0, 7.0), log10_mu=(-6.0, 5.0)):
        rng = np.random.default_rng(7)
        self.name = name
        self.log_theta = (np.log(10) * rng.uniform(*log10_theta, n)).astype(np.float32)
        self.log_mu = (np.log(10) * rng.uniform(*log10_mu, n)).astype(np.float32)
        self.dropout = rng.uniform(-12, 12, n).astype(np.float32)
        self.x = self._counts(rng, n)
        with mp.workdps(60):
            points = zip(self.x, self.log_mu, self.log_theta, self.dropout, strict=True)
            self.truth = np.array([[float(v) for v in TRUTH[name](*map(mp.mpf, map(float, p)))] for p in points]).T

    def _counts(self, rng, n):
        mu, theta = np.exp(self.log_mu.astype(float)), np.exp(self.log_theta.astype(float))
        variance = {"poisson": mu, "normal": theta**2}.get(self.name, mu + mu**2 / theta)
        x = mu + rng.uniform(-10, 10, n) * np.sqrt(variance)
        if self.name != "normal":
            x = np.maximum(0, np.rint(x))
        x[::5] = rng.integers(0, 6, x[::5].size)
        return x.astype(np.float32)

    def evaluate(self, route, dtype=torch.float32):
        """Value and gradients (by log mu, log theta, dropout logit) of each point, a cell of one gene each."""
        leaves = [torch.tensor(a, dtype=dtype)[None, :, None].requires_grad_() for a in self.inputs()]
        likelihood = make_likelihood(self.name)
        p = CountParameters(
            logits=leaves[0],
            log_scale=torch.zeros(1, self.x.size, dtype=dtype),
            log_theta=leaves[1] if likelihood.has_dispersion else None,
            dropout_logits=leaves[2] if likelihood.has_dropout else None,
            link="exp",
        )
        rows = SparseRows.from_dense(torch.tensor(self.x, dtype=dtype)[:, None])
        value = likelihood.log_prob(p, rows, route=route)
        value.sum().backward()
        return value[0].detach().numpy().astype(float), [
            None if leaf.grad is None else leaf.grad.numpy().ravel().astype(float) for leaf in leaves
        ]

    def inputs(self):
        return self.log_mu, self.log_theta, self.dropout

    def errors(self, value, nats=1e-4):
        """Error of each point in units of the bound."""
        return np.abs(value - self.truth[0]) / (nats + 4 * np.spacing(np.abs(self.truth[0]).astype(np.float32)))


def nb_truth(x, log_mu, log_theta, dropout):
    mu, theta = mp.exp(log_mu), mp.exp(log_theta)
    total = theta + mu
    value = mp.loggamma(x + theta) - mp.loggamma(theta) - mp.loggamma(x + 1)
    value += theta * mp.log(theta / total) + x * mp.log(mu / total)
    by_theta = mp.digamma(x + theta) - mp.digamma(theta) + mp.log(theta / total) + (mu - x) / total
    return value, theta * (x - mu) / total, theta * by_theta, mp.mpf(0)


def zinb_truth(x, log_mu, log_theta, dropout):
    nb, by_mu, by_theta, _ = nb_truth(x, log_mu, log_theta, dropout)
    pi = 1 / (1 + mp.exp(-dropout))
    if x > 0:
        return mp.log(1 - pi) + nb, by_mu, by_theta, -pi
    p = pi + (1 - pi) * mp.exp(nb)
    drawn = (1 - pi) * mp.exp(nb) / p
    return mp.log(p), drawn * by_mu, drawn * by_theta, pi * (1 - pi) * (1 - mp.exp(nb)) / p


def poisson_truth(x, log_mu, log_theta, dropout):
    return x * log_mu - mp.exp(log_mu) - mp.loggamma(x + 1), x - mp.exp(log_mu), mp.mpf(0), mp.mpf(0)


def normal_truth(x, log_mu, log_theta, dropout):
    mean, sd = mp.exp(log_mu), mp.exp(log_theta)
    z = (x - mean) / sd
    return -z * z / 2 - log_theta - mp.log(2 * mp.pi) / 2, z * mean / sd, z * z - 1, mp.mpf(0)


TRUTH = {"nb": nb_truth, "zinb": zinb_truth, "poisson": poisson_truth, "normal": normal_truth}


@pytest.fixture(scope="module")
def grids():
    return {name: Grid(name) for name in NAMES}


@pytest.mark.parametrize(("name", "route"), CASES)
def test_float32_values_are_within_the_bound(grids, name, route):
    value, _ = grids[name].evaluate(route)
    assert grids[name].errors(value).max() < 1, grids["nb"].errors(value, nats=1e-3).max()


@pytest.mark.parametrize(("name", "route"), CASES)
def test_float32_gradients_are_right_to_1e_4(grids, name, route):
    _, gradients = grids[name].evaluate(route)
    for gradient, truth in zip(gradients, grids[name].truth[1:], strict=True):
        if gradient is not None:
            assert np.linalg.norm(gradient - truth) < 1e-4 * np.linalg.norm(truth)


@pytest.mark.parametrize("name", NAMES)
def test_float64_values_are_right_to_1e_9(grids, name):
    value, _ = grids[name].evaluate("torch", torch.float64)
    # the normal's (x - mean)/sd has x - mean to 16 digits of x only, and an sd of 1e-3
    np.testing.assert_allclose(value, grids[name].truth[0], rtol=1e-12, atol=1e-6 if name == "normal" else 1e-9)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("log10_mu", [(-6, -3), (-1, 1), (4, 5)])
@pytest.mark.parametrize("name", ["nb", "zinb"])
def test_the_theta_gradient_is_right_near_the_poisson(name, log10_mu, route):
    """Alone on its scale: a norm over the whole grid would hide it."""
    near_poisson = Grid(name, n=300, log10_theta=(6.9, 7.0), log10_mu=log10_mu)
    _, gradients = near_poisson.evaluate(route)
    truth = near_poisson.truth[2]
    assert np.linalg.norm(gradients[1] - truth) < 1e-4 * np.linalg.norm(truth)


@pytest.mark.parametrize("route", ROUTES)
def test_the_dropout_gradient_is_right_where_the_mean_vanishes(route):
    tiny = Grid("zinb", n=300, log10_mu=(-6, -5.5))
    tiny.x[:] = 0
    with mp.workdps(60):
        points = zip(tiny.x, tiny.log_mu, tiny.log_theta, tiny.dropout, strict=True)
        truth = np.array([float(zinb_truth(*map(mp.mpf, map(float, p)))[3]) for p in points])
    _, gradients = tiny.evaluate(route)
    assert np.linalg.norm(gradients[2] - truth) < 1e-4 * np.linalg.norm(truth)


@pytest.mark.parametrize("route", ROUTES)
def test_a_zero_whose_probability_is_beyond_float32_is_right(route):
    rare = Grid("zinb", n=300, log10_mu=(1, 3), log10_theta=(1, 3))
    rare.dropout, rare.x[:] = rare.dropout * 4 - 70, 0  # the logit in -118 to -22, log NB(0) in -700 to -7
    with mp.workdps(60):
        points = zip(rare.x, rare.log_mu, rare.log_theta, rare.dropout, strict=True)
        rare.truth = np.array([[float(v) for v in zinb_truth(*map(mp.mpf, map(float, p)))] for p in points]).T
    value, gradients = rare.evaluate(route)
    assert rare.errors(value).max() < 1
    for gradient, truth in zip(gradients, rare.truth[1:], strict=True):
        assert np.linalg.norm(gradient - truth) < 1e-4 * np.linalg.norm(truth)


def test_the_usual_form_with_epsilons_fails_the_bound(grids):
    """The test can fail: lgamma differences with 1e-8 inside the logarithms are wrong on a tenth of the grid."""
    x, log_mu, log_theta = (torch.tensor(a) for a in (grids["nb"].x, grids["nb"].log_mu, grids["nb"].log_theta))
    mu, theta, eps = log_mu.exp(), log_theta.exp(), 1e-8
    log_total = (theta + mu + eps).log()
    value = theta * ((theta + eps).log() - log_total) + x * ((mu + eps).log() - log_total)
    value = value + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    assert (grids["nb"].errors(value.numpy().astype(float)) > 1).mean() > 0.1


def test_without_float64_the_same_formulas_stay_within_a_two_hundredth_of_a_nat(grids, monkeypatch):
    """Apple's GPU has no float64: the stored counts' terms in float32 too."""
    monkeypatch.setattr("celbo.likelihoods.sparse.working_dtype", lambda device: torch.float32)
    value, _ = grids["nb"].evaluate("torch")
    assert grids["nb"].errors(value, nats=5e-3).max() < 1
