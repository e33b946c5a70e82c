"""Gradients of every likelihood in every form of its parameters, and its values and gradients at the extremes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from celbo.data.minibatch import SparseRows
from celbo.likelihoods import CountParameters, make_likelihood

COUNTS = ["nb", "zinb", "poisson"]
NAMES = [*COUNTS, "normal"]
LINKS = ["softmax", "exp", "softplus"]
DISPERSIONS = ["gene", "row", "entry"]
ROUTES = ["torch", "fused"]


def draw(name, link, dispersion, *, samples=2, cells=5, genes=7, dtype=torch.float64, seed=0, spread=1.0):
    """Random parameters with leaves that need a gradient, and counts; for the normal, any real values."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return (torch.randn(*shape, generator=g, dtype=torch.float64) * spread).to(dtype).requires_grad_()

    theta_shape = {"gene": (1, genes), "row": (3, genes), "entry": (samples, cells, genes)}[dispersion]
    likelihood = make_likelihood(name)
    counts = torch.poisson(torch.rand(cells, genes, generator=g) * 6, generator=g) * (
        torch.rand(cells, genes, generator=g) < 0.5
    )
    if not likelihood.counts_only:
        counts = counts * torch.randn(cells, genes, generator=g)
    parameters = CountParameters(
        logits=normal(samples, cells, genes),
        log_scale=normal(samples, cells),
        log_theta=normal(*theta_shape) if likelihood.has_dispersion else None,
        theta_row=torch.randint(3, (cells,), generator=g) if dispersion == "row" else None,
        dropout_logits=normal(samples, cells, genes) if likelihood.has_dropout else None,
        link=link,
    )
    return likelihood, parameters, SparseRows.from_dense(counts.to(dtype))


def leaves(p):
    return [t for t in (p.logits, p.log_scale, p.log_theta, p.dropout_logits) if t is not None]


def rebuilt(p, tensors):
    """The same parameters from other leaves."""
    rest = iter(tensors)
    return p.map(lambda _: next(rest))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("name", "spoilt"),
    [(name, t) for name in NAMES for t in ("logits", "log_scale", "log_theta") if (name, t) != ("poisson", "log_theta")]
    + [("zinb", "dropout_logits")],
)
def test_a_nan_is_never_swallowed(name, spoilt, route):
    """The guard of training must see it."""
    likelihood, p, rows = draw(name, "softmax", "gene", dtype=torch.float32, genes=70)
    tensors = {t: getattr(p, t) for t in ("logits", "log_scale", "log_theta", "dropout_logits")}
    tensors[spoilt] = tensors[spoilt].detach().clone()
    tensors[spoilt].view(-1)[0] = float("nan")
    assert likelihood.log_prob(CountParameters(**tensors), rows, route=route)[0, 0].isnan()


@pytest.mark.parametrize("route", ROUTES)
def test_a_nan_among_the_normals_values_is_never_swallowed(route):
    likelihood, p, rows = draw("normal", "softmax", "gene", dtype=torch.float32)
    rows.values[0] = float("nan")
    value = likelihood.log_prob(p, rows, route=route)
    assert value[:, rows.row_of[0]].isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_the_fused_gradient_by_a_share_near_one_does_not_cancel(name):
    """It is the derivative by log mu times one minus the share: a 1e-7th of it here."""
    likelihood, p, rows = draw(name, "softmax", "gene", dtype=torch.float32, genes=3, cells=30)
    logits = (p.logits.detach() + torch.tensor([0.0, 16.0, 0.0])).requires_grad_()
    p = CountParameters(logits, p.log_scale + 5, p.log_theta, dropout_logits=p.dropout_logits)
    gradient = torch.autograd.grad(likelihood.log_prob(p, rows, route="fused").sum(), logits)[0]
    exact = p.map(lambda t: t.detach().double().requires_grad_())
    truth = torch.autograd.grad(likelihood.log_prob(exact, rows, route="reference").sum(), exact.logits)[0]
    assert (gradient.double() - truth).norm() < 1e-4 * truth.norm()


@pytest.mark.parametrize("dispersion", DISPERSIONS)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name, link, dispersion):
    likelihood, p, rows = draw(name, link, dispersion, cells=3, genes=4)
    assert torch.autograd.gradcheck(
        lambda *tensors: likelihood.log_prob(rebuilt(p, tensors), rows, route="torch"), leaves(p)
    )


@pytest.mark.parametrize("name", NAMES)
def test_entries_sum_to_the_log_prob(name):
    likelihood, p, rows = draw(name, "softmax", "gene")
    entries = likelihood.log_prob_entries(p, rows.dense)
    torch.testing.assert_close(entries.sum(-1), likelihood.log_prob(p, rows, route="torch"))


@pytest.mark.parametrize("cells", [1, 2])
@pytest.mark.parametrize("dispersion", DISPERSIONS)
def test_one_cell_and_one_row_of_the_table_are_not_confused(dispersion, cells):
    likelihood, p, rows = draw("nb", "softmax", dispersion, cells=cells, samples=1)
    torch.testing.assert_close(
        likelihood.log_prob(p, rows, route="torch"), likelihood.log_prob(p, rows, route="reference")
    )


def test_a_minibatch_without_a_single_count_has_a_log_prob():
    likelihood, p, _ = draw("zinb", "softmax", "gene")
    rows = SparseRows.from_dense(torch.zeros(5, 7, dtype=torch.float64))
    torch.testing.assert_close(
        likelihood.log_prob(p, rows, route="torch"), likelihood.log_prob(p, rows, route="reference")
    )


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", NAMES)
def test_a_stored_zero_is_a_zero(name, route):
    likelihood, p, rows = draw(name, "softmax", "gene", dtype=torch.float32)
    everywhere = SparseRows(torch.arange(6) * 7, torch.arange(7).repeat(5), rows.dense.flatten(), 7)
    values = [likelihood.log_prob(p, r, route=route) for r in (rows, everywhere)]
    gradients = [torch.autograd.grad(value.sum(), leaves(p), retain_graph=True) for value in values]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_reference_route_returns_float64():
    likelihood, p, rows = draw("nb", "softmax", "gene", dtype=torch.float32)
    assert likelihood.log_prob(p, rows, route="reference").dtype == torch.float64


MODERATE = [(-80, -6, -50), (-80, 16, 50), (11, -6, 50), (11, 16, -50)]
FAR = [(40, -40, 0), (-40, 40, 0), (0, 100, 1), (0, -100, 1)]  # log_mu, log_theta, dropout logit


@pytest.mark.parametrize(
    ("route", "dtype"), [("torch", torch.float32), ("torch", torch.float64), ("fused", torch.float32)]
)
@pytest.mark.parametrize("extreme", MODERATE + FAR)
@pytest.mark.parametrize("name", COUNTS)
def test_extremes_are_finite_in_value_and_gradient(name, extreme, dtype, route):
    assert all_finite(name, extreme, dtype, route)


@pytest.mark.parametrize(
    ("route", "dtype"), [("torch", torch.float32), ("torch", torch.float64), ("fused", torch.float32)]
)
@pytest.mark.parametrize("extreme", MODERATE)
def test_extremes_of_the_normal_are_finite(extreme, dtype, route):
    assert all_finite("normal", extreme, dtype, route)


def all_finite(name, extreme, dtype, route):
    likelihood, p, rows = draw(name, "exp", "entry", dtype=dtype)
    log_mu, log_theta, dropout = extreme
    wanted = [log_mu, 0.0, *([log_theta] if likelihood.has_dispersion else []), dropout]
    filled = [torch.full_like(t, v).requires_grad_() for t, v in zip(leaves(p), wanted, strict=False)]
    value = likelihood.log_prob(rebuilt(p, filled), rows, route=route)
    value.sum().backward()
    return bool(value.isfinite().all() and all(t.grad.isfinite().all() for t in filled))


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(NAMES),
    link=st.sampled_from(LINKS),
    dispersion=st.sampled_from(DISPERSIONS),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 40)),
    spread=st.sampled_from([0.1, 1.0, 4.0]),
    seed=st.integers(0, 10_000),
)
def test_value_and_gradient_are_the_references(route, name, link, dispersion, shape, spread, seed):
    likelihood, p, rows = draw(
        name,
        link,
        dispersion,
        samples=shape[0],
        cells=shape[1],
        genes=shape[2],
        spread=spread,
        seed=seed,
        dtype=torch.float32,
    )
    weights = torch.rand(shape[:2], generator=torch.Generator().manual_seed(seed)) + 0.1
    value = likelihood.log_prob(p, rows, route=route)
    gradients = torch.autograd.grad((value * weights).sum(), leaves(p))
    exact = [t.detach().double().requires_grad_() for t in leaves(p)]
    truth = likelihood.log_prob(rebuilt(p, exact), rows, route="reference")
    true_gradients = torch.autograd.grad((truth * weights).sum(), exact)
    torch.testing.assert_close(value.double(), truth, rtol=2e-6, atol=2e-4)
    for gradient, true in zip(gradients, true_gradients, strict=True):
        assert (gradient.double() - true).norm() <= 1e-4 * true.norm() + 1e-6
