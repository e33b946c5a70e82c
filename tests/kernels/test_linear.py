"""The sparse first layer: the value and gradient of the dense product, to the bit the same on any number of threads."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from celbo.data.minibatch import SparseRows
from celbo.kernels import cpu_rows
from celbo.kernels.cpu_linear import log1p_linear
from celbo.nn.layers import SparseLinear


def _case(
    cells: int, genes: int, out: int, density: float
) -> tuple[SparseRows, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    counts = torch.poisson(3 * torch.rand(cells, genes, generator=g), generator=g)
    counts *= torch.rand(cells, genes, generator=g) < density
    weight, bias = torch.randn(genes, out, generator=g), torch.randn(out, generator=g)
    return SparseRows.from_dense(counts), weight, bias, torch.randn(cells, out, generator=g)


@pytest.mark.parametrize(
    ("cells", "genes", "out", "density"), [(128, 500, 128, 0.1), (3, 7, 5, 0.5), (2, 4, 33, 0.0), (1, 1, 1, 1)]
)
def test_value_and_gradient_are_those_of_the_dense_product(cells, genes, out, density):
    rows, weight, bias, grad = _case(cells, genes, out, density)
    w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    value = log1p_linear((rows.indptr, rows.indices, rows.values), w, b)
    value.backward(grad)
    w64, b64 = weight.double().requires_grad_(), bias.double().requires_grad_()
    exact = torch.log1p(rows.dense.double()) @ w64 + b64
    exact.backward(grad.double())
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(w.grad.double(), w64.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(b.grad.double(), b64.grad, rtol=1e-5, atol=1e-5)


def test_same_bits_on_one_and_two_threads():
    rows, weight, bias, grad = _case(64, 300, 128, 0.1)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            w = weight.clone().requires_grad_()
            value = log1p_linear((rows.indptr, rows.indices, rows.values), w, bias)
            value.backward(grad)
            results.append((value.detach(), w.grad))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_layer_takes_the_sparse_route_only_where_it_can():
    layer = SparseLinear(300, 16, fan_in=300, generator=torch.Generator().manual_seed(0))
    sparse, dense = _case(8, 300, 16, 0.1)[0], _case(8, 300, 16, 1.0)[0]
    assert layer.has_kernel(sparse)
    assert not layer.has_kernel(dense)
    assert not layer.double().has_kernel(sparse.to(dtype=torch.float64))


def test_layer_gives_the_same_on_both_routes():
    layer = SparseLinear(300, 16, fan_in=300, generator=torch.Generator().manual_seed(0))
    rows = _case(8, 300, 16, 0.1)[0]
    torch.testing.assert_close(layer(rows), layer(rows, torch.ones(8, 300)), rtol=1e-5, atol=1e-5)


def test_log1p_is_right_to_two_ulp_also_of_values_that_are_no_counts():
    x = np.concatenate([np.arange(70_000), np.logspace(-30, 37, 1001), -np.logspace(-30, -1e-3, 1001)])
    x = x.astype(np.float32)
    out = np.empty_like(x)
    cpu_rows.log1p_row(x, out)
    truth = np.log1p(x.astype(float))
    assert (np.abs(out - truth) / np.spacing(np.abs(truth).astype(np.float32))).max() < 2


def test_log1p_of_what_has_none_is_that_of_torch():
    x = torch.tensor([-1.0, -2.0, torch.nan, torch.inf, 3.0])
    out = torch.empty_like(x)
    cpu_rows.log1p_row(x.numpy(), out.numpy())
    torch.testing.assert_close(out, torch.log1p(x), equal_nan=True)


def test_the_first_kernel_leaves_the_number_of_threads_of_torch():
    code = (
        "import celbo, torch; torch.set_num_threads(1);"
        "from celbo.kernels.cpu_linear import log1p_linear as f; one = torch.ones(1, 1);"
        "f((torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1)), one, one[0]); assert torch.get_num_threads() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
