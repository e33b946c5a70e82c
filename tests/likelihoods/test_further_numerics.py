"""Numerics of the further likelihoods: against 60 digits, at the extremes, and their gradients."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from celbo.data.minibatch import SparseRows
from celbo.likelihoods import CountParameters, make_likelihood

SMOOTH = ["zip", "bernoulli", "lognormal", "lomax", "lomax-density"]  # finite at every count
NAMES = [*SMOOTH, "lognormal-density"]
CASES = [*((n, 0) for n in SMOOTH), ("nb", 3), ("zip", 1), ("lognormal", 2), ("zinb", 2)]
LINKS = ["softmax", "exp", "softplus"]
DISPERSIONS = ["gene", "row", "entry"]
FIELDS = ("logits", "log_scale", "log_theta", "dropout_logits", "class_logits")


def draw(case, link, dispersion, *, samples=2, cells=5, genes=7, dtype=torch.float64, seed=0, spread=1.0):
    """Random parameters with leaves that need a gradient, and counts."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return (torch.randn(*shape, generator=g, dtype=torch.float64) * spread).to(dtype).requires_grad_()

    likelihood = make_likelihood(case[0], n_classes=case[1])
    theta_shape = {"gene": (1, genes), "row": (3, genes), "entry": (samples, cells, genes)}[dispersion]
    counts = torch.poisson(torch.rand(cells, genes, generator=g) * 6, generator=g)
    counts = counts * (torch.rand(cells, genes, generator=g) < 0.5)
    n = case[1]
    parameters = CountParameters(
        logits=normal(samples, cells, genes),
        log_scale=normal(samples, cells),
        log_theta=normal(*theta_shape) if likelihood.has_dispersion else None,
        theta_row=torch.randint(3, (cells,), generator=g) if dispersion == "row" else None,
        dropout_logits=normal(samples, cells, genes) if likelihood.has_dropout else None,
        link=link,
        class_logits=normal(samples, cells, genes, n + 1) if n else None,
    )
    return likelihood, parameters, SparseRows.from_dense(counts.to(dtype))


def leaves(p):
    return [t for t in (getattr(p, f) for f in FIELDS) if t is not None]


def rebuilt(p, tensors):
    rest = iter(tensors)
    return p.map(lambda _: next(rest))


@pytest.mark.parametrize("dispersion", DISPERSIONS)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("case", CASES)
def test_gradcheck(case, link, dispersion):
    likelihood, p, rows = draw(case, link, dispersion, cells=3, genes=4)
    assert torch.autograd.gradcheck(
        lambda *tensors: likelihood.log_prob(rebuilt(p, tensors), rows, route="torch"), leaves(p)
    )


def test_gradcheck_of_the_log_normal_density_where_it_is_finite():
    likelihood, p, rows = draw(("lognormal-density", 0), "softmax", "gene", cells=3, genes=4)
    rows = SparseRows.from_dense(rows.dense + 1)
    assert torch.autograd.gradcheck(
        lambda *tensors: likelihood.log_prob(rebuilt(p, tensors), rows, route="torch"), leaves(p)
    )


@pytest.mark.parametrize("route", ["torch", "auto"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    case=st.sampled_from(CASES),
    link=st.sampled_from(LINKS),
    dispersion=st.sampled_from(DISPERSIONS),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 40)),
    spread=st.sampled_from([0.1, 1.0, 3.0]),
    seed=st.integers(0, 10_000),
)
def test_value_and_gradient_are_the_references(route, case, link, dispersion, shape, spread, seed):
    samples, cells, genes = shape
    likelihood, p, rows = draw(
        case, link, dispersion, samples=samples, cells=cells, genes=genes, spread=spread, seed=seed, dtype=torch.float32
    )
    weights = torch.rand(shape[:2], generator=torch.Generator().manual_seed(seed)) + 0.1
    value = likelihood.log_prob(p, rows, route=route)
    gradients = torch.autograd.grad((value * weights).sum(), leaves(p), allow_unused=True)
    exact = [t.detach().double().requires_grad_() for t in leaves(p)]
    truth = likelihood.log_prob(rebuilt(p, exact), rows, route="reference")
    true_gradients = torch.autograd.grad((truth * weights).sum(), exact, allow_unused=True)
    torch.testing.assert_close(value.double(), truth, rtol=2e-6, atol=2e-4)
    for gradient, true in zip(gradients, true_gradients, strict=True):
        assert (gradient is None) == (true is None)
        if true is not None:
            assert (gradient.double() - true).norm() <= 1e-4 * true.norm() + 1e-5


@pytest.mark.parametrize("case", [*CASES, ("lognormal-density", 0)])
def test_entries_sum_to_the_log_prob_and_a_stored_zero_is_a_zero(case):
    likelihood, p, rows = draw(case, "softmax", "gene", dtype=torch.float32)
    everywhere = SparseRows(torch.arange(6) * 7, torch.arange(7).repeat(5), rows.dense.flatten(), 7)
    values = [likelihood.log_prob(p, r) for r in (rows, everywhere)]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(likelihood.log_prob_entries(p, rows.dense).sum(-1), values[0])


def parameters_of(case):
    p = draw(case, "softmax", "gene")[1]
    return [f for f in FIELDS if getattr(p, f) is not None]


@pytest.mark.parametrize("route", ["torch", "auto"])
@pytest.mark.parametrize(("case", "spoilt"), [(c, f) for c in CASES for f in parameters_of(c)])
def test_a_nan_is_never_swallowed(case, spoilt, route):
    likelihood, p, rows = draw(case, "softmax", "gene", dtype=torch.float32, genes=70)
    tensors = {f: getattr(p, f) for f in FIELDS}
    tensors[spoilt] = tensors[spoilt].detach().clone()
    tensors[spoilt].view(-1)[0] = float("nan")
    counts = rows.dense.clone()
    counts[0, 0] = case[1] + 1.0  # above the classes, where a base's parameter matters
    value = likelihood.log_prob(CountParameters(**tensors), SparseRows.from_dense(counts), route=route)
    assert value[0, 0].isnan()


@pytest.mark.parametrize("case", CASES)
def test_a_nan_among_the_counts_is_never_swallowed(case):
    likelihood, p, rows = draw(case, "softmax", "gene", dtype=torch.float32)
    rows.values[0] = float("nan")
    assert likelihood.log_prob(p, rows)[:, rows.row_of[0]].isnan().all()


EXTREMES = [
    (-80, -3, -50),
    (-80, 3, 50),
    (11, -3, 50),
    (11, 3, -50),
    (0, -10, 0),
    (0, 10, 1),
    (30, -30, 5),
    (-30, 30, 0),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", ["zip", "bernoulli", "lomax", "lomax-density"])
def test_extremes_are_finite_in_value_and_gradient(name, extreme, dtype):
    likelihood, p, rows = draw((name, 0), "exp", "entry", dtype=dtype)
    log_mu, log_theta, dropout = extreme
    wanted = [log_mu, 0.0, *([log_theta] if likelihood.has_dispersion else []), dropout]
    filled = [torch.full_like(t, v).requires_grad_() for t, v in zip(leaves(p), wanted, strict=False)]
    value = likelihood.log_prob(rebuilt(p, filled), rows)
    value.sum().backward()
    assert value.isfinite().all() and all(t.grad.isfinite().all() for t in filled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extreme", [(-80, 0), (-80, -6), (40, 0), (40, -6), (2, -12), (0, 12), (80, 40), (-80, 40)])
def test_extremes_of_the_log_normal_are_finite(extreme, dtype):
    likelihood, p, rows = draw(("lognormal", 0), "exp", "entry", dtype=dtype)
    filled = [
        torch.full_like(t, v).requires_grad_() for t, v in zip(leaves(p), (extreme[0], 0.0, extreme[1]), strict=True)
    ]
    value = likelihood.log_prob(rebuilt(p, filled), rows)
    value.sum().backward()
    assert value.isfinite().all() and all(t.grad.isfinite().all() for t in filled)


class Grid:
    """Points in float32 and, at exactly those points, the truth to 60 digits."""

    def __init__(self, name, n=1000):
        rng = np.random.default_rng(7)
        self.name = name
        log10_theta = {"lognormal": (-2, 1), "lognormal-density": (-2, 1)}.get(name, (-2, 5))
        log10_mu = (-5, 5)
        self.log_theta = (np.log(10) * rng.uniform(*log10_theta, n)).astype(np.float32)
        self.log_mu = (np.log(10) * rng.uniform(*log10_mu, n)).astype(np.float32)
        self.dropout = rng.uniform(-12, 12, n).astype(np.float32)
        self.x = self._counts(rng, n).astype(np.float32)
        with mp.workdps(60):
            points = zip(self.x, self.log_mu, self.log_theta, self.dropout, strict=True)
            self.truth = np.array([[float(v) for v in truth(name, *map(mp.mpf, map(float, p)))] for p in points]).T

    def _counts(self, rng, n):
        """Counts where the distribution has its mass, and some of the smallest."""
        mu, theta = np.exp(self.log_mu.astype(float)), np.exp(self.log_theta.astype(float))
        if self.name.startswith("lognormal"):
            x = np.exp(self.log_mu + theta * rng.uniform(-10, 10, n)).clip(max=1e6)
        elif self.name.startswith("lomax"):
            x = (mu * np.expm1(np.minimum(rng.uniform(0, 50, n) / theta, 40))).clip(max=1e6)
        else:
            x = mu + rng.uniform(-10, 10, n) * np.sqrt(mu)
        x[::5] = rng.integers(0, 6, x[::5].size)
        x = np.maximum(0, np.rint(x))
        return np.maximum(x, 1) if self.name == "lognormal-density" else x

    def evaluate(self, route, dtype=torch.float32):
        arrays = self.log_mu, self.log_theta, self.dropout
        columns = [torch.tensor(a, dtype=dtype)[None, :, None].requires_grad_() for a in arrays]
        likelihood = make_likelihood(self.name)
        p = CountParameters(
            logits=columns[0],
            log_scale=torch.zeros(1, self.x.size, dtype=dtype),
            log_theta=columns[1] if likelihood.has_dispersion else None,
            dropout_logits=columns[2] if likelihood.has_dropout else None,
            link="exp",
        )
        value = likelihood.log_prob(p, SparseRows.from_dense(torch.tensor(self.x, dtype=dtype)[:, None]), route=route)
        value.sum().backward()
        grads = [None if c.grad is None else c.grad.numpy().ravel().astype(float) for c in columns]
        return value[0].detach().numpy().astype(float), grads


def truth(name, x, log_mu, log_theta, dropout):
    """Log-probability and derivatives by log mu, log theta and the dropout logit."""
    if name == "zip":
        return zip_truth(x, log_mu, dropout)
    if name == "bernoulli":
        seen = 1 / (1 + mp.exp(-log_mu))
        return (mp.log(seen), 1 - seen, 0, 0) if x > 0 else (-mp.log1p(mp.exp(log_mu)), -seen, 0, 0)
    return {"lognormal": log_normal_truth, "lomax": lomax_truth, "lognormal-density": log_normal_density_truth,
            "lomax-density": lomax_density_truth}[name](x, log_mu, log_theta)  # fmt: skip


def zip_truth(x, log_mu, d):
    mu, pi = mp.exp(log_mu), 1 / (1 + mp.exp(-d))
    if x > 0:
        return mp.log(1 - pi) + x * log_mu - mu - mp.loggamma(x + 1), x - mu, 0, -pi
    p = pi + (1 - pi) * mp.exp(-mu)
    return mp.log(p), -mu * (1 - pi) * mp.exp(-mu) / p, 0, pi * (1 - pi) * (1 - mp.exp(-mu)) / p


def log_normal_truth(x, m, log_sd):
    sd = mp.exp(log_sd)
    upper = (mp.log(x + mp.mpf(0.5)) - m) / sd
    lower = (mp.log(x - mp.mpf(0.5)) - m) / sd if x > 0 else None
    p = tail(-upper) if lower is None else (tail(lower) - tail(upper) if lower > 0 else tail(-upper) - tail(-lower))
    at_upper, at_lower = phi(upper), mp.mpf(0) if lower is None else phi(lower)
    by_m = (at_lower - at_upper) / sd / p
    return mp.log(p), by_m, ((lower or 0) * at_lower - upper * at_upper) / p, 0


def tail(t):
    """Probability of a standard normal above t, to 60 digits however small."""
    with mp.workdps(120):
        return mp.erfc(t / mp.sqrt(2)) / 2


def phi(t):
    return mp.exp(-t * t / 2) / mp.sqrt(2 * mp.pi)


def log_normal_density_truth(x, m, log_sd):
    z = (mp.log(x) - m) / mp.exp(log_sd)
    return -z * z / 2 - mp.log(x) - log_sd - mp.log(2 * mp.pi) / 2, z / mp.exp(log_sd), z * z - 1, 0


def lomax_truth(x, log_s, log_a):
    s, a = mp.exp(log_s), mp.exp(log_a)
    ends = [x - mp.mpf(0.5), x + mp.mpf(0.5)] if x > 0 else [mp.mpf(0), mp.mpf(0.5)]
    below, above = ((1 + y / s) ** -a for y in ends)
    p = below - above
    # dS/dlog s = a S (y/s) / (1 + y/s), dS/dlog a = -a log(1 + y/s) S
    by_s = [a * survived * y / (s + y) for survived, y in zip((below, above), ends, strict=True)]
    by_a = [-a * mp.log1p(y / s) * survived for survived, y in zip((below, above), ends, strict=True)]
    return mp.log(p), (by_s[0] - by_s[1]) / p, (by_a[0] - by_a[1]) / p, 0


def lomax_density_truth(x, log_s, log_a):
    s, a = mp.exp(log_s), mp.exp(log_a)
    start = mp.log1p(x / s)
    return log_a - log_s - (a + 1) * start, (a + 1) * x / (s + x) - 1, 1 - a * start, 0


@pytest.fixture(scope="module")
def grids():
    return {name: Grid(name) for name in NAMES}


ROUTES = [(name, "torch") for name in NAMES] + [("zip", "fused")]


@pytest.mark.parametrize(("name", "route"), ROUTES)
def test_float32_values_are_within_the_bound(grids, name, route):
    """1e-4 nat + 4 ulp, as in test_accuracy."""
    grid = grids[name]
    value, _ = grid.evaluate(route)
    bound = 1e-4 + 4 * np.spacing(np.abs(grid.truth[0]).astype(np.float32))
    assert (np.abs(value - grid.truth[0]) / bound).max() < 1


@pytest.mark.parametrize(("name", "route"), ROUTES)
def test_float32_gradients_are_right_to_1e_4(grids, name, route):
    _, gradients = grids[name].evaluate(route)
    for gradient, true in zip(gradients, grids[name].truth[1:], strict=True):
        if gradient is not None:
            assert np.linalg.norm(gradient - true) < 1e-4 * np.linalg.norm(true)


@pytest.mark.parametrize("name", NAMES)
def test_float64_values_and_gradients_are_right_to_1e_9(grids, name):
    value, gradients = grids[name].evaluate("torch", torch.float64)
    np.testing.assert_allclose(value, grids[name].truth[0], rtol=1e-10, atol=1e-9)
    for gradient, true in zip(gradients, grids[name].truth[1:], strict=True):
        if gradient is not None:
            np.testing.assert_allclose(gradient, true, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_is_right_where_it_does_not_cancel(grids, name):
    value, _ = grids[name].evaluate("reference", torch.float64)
    np.testing.assert_allclose(value, grids[name].truth[0], rtol=1e-9, atol=1e-4 if name == "lomax" else 1e-7)
