"""The fast float32 path trains the same model as the float64 reference path from the same noise."""

from __future__ import annotations

import pytest

import celbo
from celbo.kernels import have_cpu_kernels


def _held_out(model: celbo.SCVI) -> float:
    model.train(max_epochs=15, progress=False, early_stopping=False)
    return float(model.history["elbo_validation"].iloc[-1])


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_held_out_elbo_is_that_of_float64(likelihood):
    fast = celbo.SCVI(celbo.datasets.pbmc(), n_hidden=32, likelihood=likelihood)
    exact = celbo.SCVI(celbo.datasets.pbmc(), n_hidden=32, likelihood=likelihood)
    exact.network.double()
    assert have_cpu_kernels()
    assert _held_out(fast) == pytest.approx(_held_out(exact), rel=1e-3)


def test_training_without_compiled_kernels_is_the_same(monkeypatch):
    fast = _held_out(celbo.SCVI(celbo.datasets.pbmc(), n_hidden=32))
    for module in ("celbo.nn.layers", "celbo.kernels"):
        monkeypatch.setattr(f"{module}.have_cpu_kernels", lambda: False)
    assert _held_out(celbo.SCVI(celbo.datasets.pbmc(), n_hidden=32)) == pytest.approx(fast, rel=1e-3)
