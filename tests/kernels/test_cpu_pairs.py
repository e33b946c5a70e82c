"""The integral of the product of two normal densities, against SciPy and by quadrature."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from celbo.kernels.cpu_pairs import log_products


@pytest.mark.parametrize("n_latent", [1, 15, 16, 17, 70])
def test_it_is_the_density_of_the_difference(n_latent) -> None:
    rng = np.random.default_rng(n_latent)
    m1, m2 = rng.normal(size=(n_latent, 4)), rng.normal(size=(n_latent, 9))
    v1, v2 = np.exp(rng.normal(-4, 3, (n_latent, 4))), np.exp(rng.normal(-4, 3, (n_latent, 9)))
    expected = stats.norm.logpdf(m1[:, :, None], m2[:, None], np.sqrt(v1[:, :, None] + v2[:, None])).sum(0)
    assert log_products(m1, v1, m2, v2) - 0.5 * n_latent * np.log(2 * np.pi) == pytest.approx(expected, rel=1e-12)


def test_it_is_the_integral_of_the_product() -> None:
    one, two = stats.norm(0.3, 0.8), stats.norm(-0.9, 1.7)
    area, _ = integrate.quad(lambda z: one.pdf(z) * two.pdf(z), -15, 15)
    found = log_products(*(np.array([[x]]) for x in (0.3, 0.8**2, -0.9, 1.7**2)))[0, 0] - 0.5 * np.log(2 * np.pi)
    assert found == pytest.approx(np.log(area), abs=1e-9)


def test_variances_far_below_one_in_many_dimensions_do_not_vanish() -> None:
    mean, variance = np.zeros((400, 2)), np.full((400, 2), 1e-12)
    assert log_products(mean, variance, mean, variance) == pytest.approx(-200 * np.log(2e-12))
