"""The t-SNE term: rows of the perplexity asked for, and the cross entropy, each against loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from celbo.nn.tsne import perplexity_of, smoothed, transition_probabilities, tsne_cross_entropy


def _points(n: int = 60, d: int = 20, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, d)) * np.linspace(4, 0.3, d) + 10 * rng.integers(0, 2, (n, 1)))


def _row_by_bisection(squares: np.ndarray, perplexity: float) -> np.ndarray:
    low, high = 0.0, 1e6
    for _ in range(200):
        p = np.exp(-0.5 * (low + high) * (squares - squares.min()))
        p /= p.sum()
        entropy = -(p * np.log(np.where(p > 0, p, 1))).sum()
        low, high = (0.5 * (low + high), high) if entropy > math.log(perplexity) else (low, 0.5 * (low + high))
    return p


@pytest.mark.parametrize("perplexity", [2.0, 10.0, 19.0])
def test_rows_are_those_of_a_bisection_of_each(perplexity):
    x = _points().numpy()
    found = transition_probabilities(torch.from_numpy(x), perplexity).numpy()
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        expected = _row_by_bisection(np.square(x[others] - x[i]).sum(1), perplexity)
        np.testing.assert_allclose(found[i, others], expected, atol=2e-5)
        assert found[i, i] == 0


@pytest.mark.parametrize("perplexity", [5.0, 10.0, 27.7, 135.2])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_every_row_has_the_perplexity_asked_for_in_float32(perplexity, scale):
    p = transition_probabilities(scale * _points(512, 50).float(), perplexity)
    torch.testing.assert_close(perplexity_of(p), torch.full((512,), perplexity), rtol=1e-4, atol=0)
    torch.testing.assert_close(p.sum(1), torch.ones(512))


def test_few_cells_have_at_most_a_third_of_the_others_as_neighbours():
    p = transition_probabilities(_points(31), 25.0)
    torch.testing.assert_close(perplexity_of(p), torch.full((31,), 10.0, dtype=torch.float64), rtol=1e-4, atol=0)
    assert transition_probabilities(_points(2), 10.0).tolist() == [[0, 1], [1, 0]]
    assert transition_probabilities(_points(1), 10.0).tolist() == [[0]]


def test_equal_cells_share_their_rows():
    x = _points(60)
    x[:40] = x[0]
    p = transition_probabilities(x, 10.0)
    torch.testing.assert_close(p[0, 1:40], torch.full((39,), 1 / 39, dtype=torch.float64))
    others = perplexity_of(p[40:])
    nearest_is_tied = p[40:, 0] == p[40:].amax(1)  # then all 40 are the nearest
    expected = torch.where(nearest_is_tied, 40.0, 10.0).to(others)
    torch.testing.assert_close(others, expected, rtol=1e-4, atol=0)
    assert (expected == 10).any()


def test_smoothing_adds_a_share_and_normalises():
    p = transition_probabilities(_points(20), 5.0)
    torch.testing.assert_close(smoothed(p), (p + 0.1 / 20) / 1.1)


@pytest.mark.parametrize("d", [2, 3, 7])
def test_term_is_the_one_of_the_paper(d):
    p = smoothed(transition_probabilities(_points(30), 8.0)).numpy()
    z = np.random.default_rng(1).normal(size=(30, d))
    freedom, total = d - 1, 0.0
    for i in range(30):
        kernel = (1 + np.square(z - z[i]).sum(1) / freedom) ** (-(freedom + 1) / 2)
        total += np.log(kernel.sum() - 1) - (p[i] * np.log(kernel)).sum()
    found = tsne_cross_entropy(torch.from_numpy(p), torch.from_numpy(z))
    assert found.item() == pytest.approx(total / 30, rel=1e-12)


def test_one_dimension_has_the_kernel_of_one_degree_of_freedom():
    p = transition_probabilities(_points(12), 3.0)
    z = torch.linspace(-2, 3, 12, dtype=torch.float64)[:, None]
    flat = torch.cat([z, torch.zeros_like(z)], 1)
    assert tsne_cross_entropy(p, z).item() == pytest.approx(tsne_cross_entropy(p, flat).item(), rel=1e-12)


def test_term_is_least_where_the_neighbours_agree():
    x = _points(40, 2)
    d2 = torch.cdist(x, x).square()
    kernel = (1 / (1 + d2)).fill_diagonal_(0)
    p = kernel / kernel.sum(1, keepdim=True)  # the rows that x itself has under the kernel
    entropy = torch.special.entr(p).sum(1).mean()
    assert tsne_cross_entropy(p, x).item() == pytest.approx(entropy.item(), rel=1e-9)
    assert tsne_cross_entropy(p, x[torch.randperm(40, generator=torch.Generator().manual_seed(0))]) > entropy + 0.1


def test_gradient():
    p = smoothed(transition_probabilities(_points(9), 2.0))
    z = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: tsne_cross_entropy(p, z), z)


def test_term_is_finite_for_cells_far_apart_together_and_alone():
    p = smoothed(transition_probabilities(_points(20).float(), 5.0))
    for z in (1e8 * _points(20, 2).float(), torch.zeros(20, 2)):
        z.requires_grad_()
        value = tsne_cross_entropy(p, z)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(z.grad).all()
    assert tsne_cross_entropy(torch.ones(1, 1), torch.ones(1, 2)) == 0
