"""The fused CPU kernels: their elementary functions, their shapes, threads and reproducibility.

That they compute the right numbers is held by `tests/likelihoods`, where every route passes the same tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numba
import numpy as np
import pytest
import torch
from scipy.special import digamma, gammaln

from celbo.data.minibatch import SparseRows
from celbo.errors import OptionError
from celbo.kernels import cpu, cpu_rows
from celbo.likelihoods import CountParameters, make_likelihood


@numba.njit
def over(kind, x, out):
    for i in range(x.size):
        if kind == 0:
            out[i] = cpu_rows._exp(x[i])
        elif kind == 1:
            out[i] = cpu_rows._log(x[i])
        elif kind == 2:
            out[i] = cpu_rows._expm1_negative(x[i])
        elif kind == 3:
            out[i] = cpu_rows._log1p_parts(x[i])[0]
        elif kind == 4:
            out[i] = cpu_rows._log1p_parts(x[i])[1]
        elif kind == 5:
            out[i] = cpu_rows._log1p_parts(x[i])[2]


@numba.njit
def over_wide(kind, x, out):
    for i in range(x.size):
        if kind == 0:
            out[i] = cpu_rows._stirling_error(x[i])
        elif kind == 1:
            out[i] = cpu_rows._digamma_error(x[i])
        else:
            out[i] = cpu_rows._log_wide(x[i])


SIGNED, POSITIVE = np.linspace(-87, 88, 100_001), np.logspace(-37, 37, 100_001)


@pytest.mark.parametrize(
    ("kind", "x", "exact", "ulp"),
    [
        (0, SIGNED, np.exp, 1.5),
        (1, POSITIVE, np.log, 1.5),
        (2, -POSITIVE[POSITIVE < 80], np.expm1, 2),
        (3, POSITIVE, np.log1p, 2),
        (5, POSITIVE, lambda r: 1 / (1 + r), 1.5),
    ],
    ids=["exp", "log", "expm1", "log1p", "1/(1+r)"],
)
def test_elementary_functions_are_right_to_two_ulp(kind, x, exact, ulp):
    x = x.astype(np.float32)
    out = np.empty_like(x)
    over(kind, x, out)
    truth = exact(x.astype(float))
    assert (np.abs(out - truth) / np.spacing(np.abs(truth).astype(np.float32))).max() < ulp


def test_log1p_excess_does_not_cancel_for_small_ratios():
    r = np.logspace(-18, 30, 10_001).astype(np.float32)
    out = np.empty_like(r)
    over(4, r, out)
    wide = r.astype(np.longdouble)
    truth = np.where(wide < 1e-4, wide**2 / 2 - 2 * wide**3 / 3, np.log1p(wide) - wide / (1 + wide))
    np.testing.assert_allclose(out, truth.astype(float), rtol=3e-6)


@pytest.mark.parametrize(
    ("kind", "exact"),
    [
        (0, lambda z: gammaln(z + 1) - (z + 0.5) * np.log(z) + z - 0.5 * np.log(2 * np.pi)),
        (1, lambda z: np.log(z) - 0.5 / z - digamma(z)),
        (2, np.log),
    ],
    ids=["stirling", "digamma", "log"],
)
def test_functions_of_large_counts_are_right(kind, exact):
    z = np.logspace(-8, 3, 1001)
    out = np.empty_like(z)
    over_wide(kind, z, out)
    np.testing.assert_allclose(out, exact(z), rtol=1e-10, atol=1e-7 if kind == 2 else 2e-12)


def draw(cells=64, genes=333, samples=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    counts = torch.poisson(torch.rand(cells, genes, generator=g) ** 6 * 30, generator=g)
    parameters = CountParameters(
        logits=torch.randn(samples, cells, genes, generator=g).requires_grad_(),
        log_scale=counts.sum(1).log()[None].requires_grad_(),
        log_theta=torch.randn(3, genes, generator=g).requires_grad_(),
        theta_row=torch.randint(3, (cells,), generator=g),
        dropout_logits=torch.randn(samples, cells, genes, generator=g).requires_grad_(),
    )
    return parameters, SparseRows.from_dense(counts)


def evaluate(name, p, rows):
    value = make_likelihood(name).log_prob(p, rows, route="fused")
    leaves = [p.logits, p.log_scale, *([p.log_theta] if name != "poisson" else [])]
    return [value.detach(), *torch.autograd.grad(value.mean(), leaves)]


@pytest.fixture
def threads():
    """Give a function that sets torch's threads, and restore them."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


LARGE = 8200  # genes of 64 cells whose table of theta is summed in parallel


@pytest.mark.parametrize(("name", "genes"), [*((name, 333) for name in sorted(cpu.KINDS)), ("nb", LARGE)])
def test_the_result_is_the_same_to_the_bit_again_and_on_any_number_of_threads(name, genes, threads):
    p, rows = draw(genes=genes)
    threads(1)
    first = evaluate(name, p, rows)
    for n in (1, 2):
        threads(n)
        assert all(torch.equal(a, b) for a, b in zip(first, evaluate(name, p, rows), strict=True))


def test_samples_share_one_log_scale():
    p, rows = draw(samples=3)
    fused = make_likelihood("nb").log_prob(p, rows, route="fused")
    torch.testing.assert_close(fused, make_likelihood("nb").log_prob(p, rows, route="torch"), rtol=1e-5, atol=1e-3)


def test_a_dispersion_an_entry_is_shared_over_samples():
    p, rows = draw(samples=3, cells=5)
    entries = CountParameters(p.logits, p.log_scale, torch.randn(1, 5, 333).requires_grad_())
    gradients = [
        torch.autograd.grad(make_likelihood("nb").log_prob(entries, rows, route=r).sum(), entries.log_theta)[0]
        for r in ("fused", "torch")
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_a_large_table_of_dispersions_has_the_gradient_of_its_rows():
    p, rows = draw(genes=LARGE)
    by_table = torch.autograd.grad(make_likelihood("nb").log_prob(p, rows, route="fused").mean(), p.log_theta)[0]
    entries = p.log_theta.detach()[p.theta_row][None].requires_grad_()
    value = make_likelihood("nb").log_prob(CountParameters(p.logits, p.log_scale, entries), rows, route="fused")
    by_entry = torch.autograd.grad(value.mean(), entries)[0][0]
    torch.testing.assert_close(by_table, torch.zeros(3, LARGE).index_add(0, p.theta_row, by_entry))


def test_without_gradients_the_value_is_the_same():
    p, rows = draw()
    with torch.no_grad():
        value = make_likelihood("zinb").log_prob(p, rows, route="fused")
    assert torch.equal(value, evaluate("zinb", p, rows)[0])


def test_the_gradient_can_be_taken_twice_from_a_kept_graph():
    p, rows = draw()
    value = make_likelihood("nb").log_prob(p, rows, route="fused").sum()
    first = torch.autograd.grad(value, p.logits, retain_graph=True)[0]
    kept = first.clone()
    first.zero_()  # whoever receives it may write to it
    assert torch.equal(kept, torch.autograd.grad(value, p.logits)[0])


def test_logits_that_are_not_contiguous_are_read_right():
    p, rows = draw()
    turned = p.logits.detach().mT.contiguous().mT
    value = make_likelihood("nb").log_prob(p, rows, route="fused")
    other = CountParameters(turned, p.log_scale, p.log_theta, p.theta_row)
    assert torch.equal(value, make_likelihood("nb").log_prob(other, rows, route="fused"))


def test_fused_refuses_float64_by_name():
    p, rows = draw()
    with pytest.raises(OptionError, match="float64"):
        make_likelihood("nb").log_prob(p.map(lambda t: t.double()), rows, route="fused")


@pytest.mark.parametrize("name", ["nb", "normal"])
def test_auto_takes_what_fused_does_not(name):
    p, rows = draw()
    wide = p.map(lambda t: t.double())
    likelihood = make_likelihood(name)
    assert torch.equal(likelihood.log_prob(wide, rows), likelihood.log_prob(wide, rows, route="torch"))


def test_auto_is_fused_where_it_can_be():
    p, rows = draw()
    likelihood = make_likelihood("nb")
    assert torch.equal(likelihood.log_prob(p, rows), likelihood.log_prob(p, rows, route="fused"))


def test_concurrent_calls_agree():
    p, rows = draw()
    expected, results = evaluate("zinb", p, rows)[0], []

    def call():
        results.extend(make_likelihood("zinb").log_prob(p, rows, route="fused").detach() for _ in range(20))

    workers = [threading.Thread(target=call) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 80
    assert all(torch.equal(r, expected) for r in results)


PROGRAM = """
import threading, torch, numba
from celbo.data.minibatch import SparseRows
from celbo.likelihoods import CountParameters, make_likelihood
p = CountParameters(torch.zeros(1, 32, 50), torch.zeros(1, 32), torch.zeros(1, 50))
rows = SparseRows.from_dense(torch.ones(32, 50))
call = lambda: [make_likelihood("nb").log_prob(p, rows, route="fused") for _ in range(50)]
workers = [threading.Thread(target=call) for _ in range(4)]
[w.start() for w in workers]; [w.join() for w in workers]
print(numba.threading_layer(), f"{call()[0][0, 0].item():.4f}")
"""


@pytest.mark.parametrize("layer", ["workqueue", "default"])
def test_kernels_survive_concurrent_calls_on_each_threading_layer(layer):
    """Numba's workqueue aborts the process on concurrent calls: ours take turns."""
    env = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False)
    p = CountParameters(torch.zeros(1, 1, 50), torch.zeros(1, 1), torch.zeros(1, 50))
    truth = make_likelihood("nb").log_prob(p, SparseRows.from_dense(torch.ones(1, 50)), route="reference").item()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == f"{truth:.4f}"
    assert layer == "default" or done.stdout.split()[0] == layer
