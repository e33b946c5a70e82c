"""Distributions and losses of dense values against SciPy, and at their limits."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from celbo.likelihoods import dense

SHAPES = [(), (6,), (4, 6), (3, 4, 6)]


def problem(shape=(6,)):
    g = torch.Generator().manual_seed(4)
    x, mean = (
        torch.randn(4, 6, generator=g, dtype=torch.float64),
        torch.randn(3, 4, 6, generator=g, dtype=torch.float64),
    )
    return x, mean, torch.randn(shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gaussian_is_scipys(shape):
    x, mean, log_sd = problem(shape)
    truth = stats.norm(mean.numpy(), np.exp(log_sd.numpy())).logpdf(x.numpy()).sum(-1)
    np.testing.assert_allclose(dense.gaussian_log_prob(x, mean, log_sd).numpy(), truth, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_students_t_is_scipys(shape):
    x, mean, log_scale = problem(shape)
    dof = torch.tensor([0.1, 0.5, 1.0, 3.0, 10.0, 200.0], dtype=torch.float64)
    truth = stats.t(dof.numpy(), mean.numpy(), np.exp(log_scale.numpy())).logpdf(x.numpy()).sum(-1)
    np.testing.assert_allclose(dense.student_t_log_prob(x, mean, log_scale, dof).numpy(), truth, rtol=1e-10)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(z=st.floats(-1e12, 1e12), log_scale=st.floats(-5, 5), log10_dof=st.floats(-2, 12))
def test_students_t_is_right_for_every_number_of_degrees_of_freedom(z, log_scale, log10_dof):
    dof = 10**log10_dof
    with mp.workdps(50):
        v, s = mp.mpf(dof), mp.exp(mp.mpf(log_scale))
        truth = mp.loggamma((v + 1) / 2) - mp.loggamma(v / 2) - mp.log(v * mp.pi) / 2 - mp.log(s)
        truth -= (v + 1) / 2 * mp.log1p((mp.mpf(z) / s) ** 2 / v)
    one = torch.ones(1, 1, dtype=torch.float64)
    ours = dense.student_t_log_prob(one * z, torch.zeros(1, 1, 1, dtype=torch.float64), one * log_scale, one * dof)
    assert ours.item() == pytest.approx(float(truth), rel=1e-9, abs=1e-9)


def test_students_t_in_float32_is_near_and_finite_where_the_square_is_not():
    x, mean, log_scale = (t.float() for t in problem())
    dof = torch.tensor([0.1, 0.5, 1.0, 3.0, 10.0, 1e6])
    exact = dense.student_t_log_prob(x.double(), mean.double(), log_scale.double(), dof.double())
    np.testing.assert_allclose(dense.student_t_log_prob(x, mean, log_scale, dof).numpy(), exact.numpy(), rtol=1e-5)
    far = (x * 1e30).requires_grad_()
    value = dense.student_t_log_prob(far, mean, log_scale, torch.full((6,), 2.0))
    value.sum().backward()
    assert value.isfinite().all() and far.grad.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck(shape):
    x, mean, log_scale = (t.requires_grad_() for t in problem(shape))
    dof = torch.tensor([0.1, 0.5, 1.0, 3.0, 18.0, 300.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dense.gaussian_log_prob, (x, mean, log_scale))
    assert torch.autograd.gradcheck(dense.student_t_log_prob, (x, mean, log_scale, dof))
    assert torch.autograd.gradcheck(dense.squared_error, (x, mean))
    share = x.detach().sigmoid()
    assert torch.autograd.gradcheck(dense.binary_cross_entropy, (share, mean))
    assert torch.autograd.gradcheck(dense.binary_cross_entropy_of_probability, (share, mean.sigmoid()))


def test_the_squared_error_is_the_gaussians_with_variance_a_half():
    x, mean, _ = problem()
    log_prob = dense.gaussian_log_prob(x, mean, torch.tensor(0.5, dtype=torch.float64).log() / 2)
    torch.testing.assert_close(dense.squared_error(x, mean), -log_prob - 6 * np.log(np.pi) / 2)


def test_the_cross_entropy_of_zeros_and_ones_is_a_bernoullis():
    _, logits, _ = problem()
    x = (torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    truth = -stats.bernoulli(1 / (1 + np.exp(-logits.numpy()))).logpmf(x.numpy()).sum(-1)
    np.testing.assert_allclose(dense.binary_cross_entropy(x, logits).numpy(), truth, rtol=1e-10)
    of_probability = dense.binary_cross_entropy_of_probability(x, logits.sigmoid())
    np.testing.assert_allclose(of_probability.numpy(), truth, rtol=1e-10)


def test_the_cross_entropies_are_finite_at_their_ends():
    x = torch.tensor([[0.0, 1.0, 0.3]])
    far = torch.tensor([[[-300.0, 300.0, 300.0]]])
    torch.testing.assert_close(dense.binary_cross_entropy(x, far), torch.tensor([[210.0]]))
    clipped = dense.binary_cross_entropy_of_probability(x, torch.tensor([[[1.0, 0.0, 0.5]]]))
    expected = -2 * np.log(1e-7) - np.log(0.5)  # Keras' clip, of both of the wrong ends
    assert clipped.item() == pytest.approx(expected, rel=0.01)
