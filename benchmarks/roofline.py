"""The floor of each part of a training step, measured alone at the same shapes, beside ours inside the real step.

    .venv/bin/python benchmarks/roofline.py [--rounds 5]

A floor is the fastest of the ways known here to compute a part, called alone on preallocated memory with nothing else
to do: the products of the output layer by MKL or oneDNN, in the faster of two layouts; the sparse first layer and the
likelihood, both ways, by our kernels (or a dense product, where that is faster); gathering the rows; one fused
step of Adam over the parameters; and the small layers as bare torch operations or as our compiled loops, forwards and
backwards by hand, without autograd. The sum is the floor of the step. "ours" are the durations of the same parts within
training, by a clock around each; the small layers are what is left of the whole step, which is timed without: so they
hold all that is nobody's part (calls, autograd, the guard, sums for the history, the snapshot of each epoch).

The whole step is the wall-clock time of whole epochs after the first one, over their steps. Floors and steps are
measured in turns, in several rounds; of each the fastest round counts, for both: neighbours on the same machine can
halve the speed of arithmetic for seconds at a time.
"""

from __future__ import annotations

import argparse
import inspect
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import machine
import numpy as np
import torch
from speed import Data, simulated
from speed_worker import Celbo

import celbo
from celbo.data.cells import CellData
from celbo.kernels import cpu, cpu_dense, cpu_hidden, cpu_latent, cpu_linear
from celbo.training.optim import Adam, Optimizer

PARTS = ("output GEMMs", "first layer", "likelihood", "gather", "Adam", "small layers and the rest")
HIDDEN, LATENT = 128, 10
_FIRST_STEPS = 5  # not counted


# -- floors ----------------------------------------------------------------------------------------------------------


def fastest(*ways: Callable[[], Any], seconds: float = 0.12) -> float:
    """Return the median milliseconds of the fastest way."""
    return min(_median(way, seconds) for way in ways)


def _median(way: Callable[[], Any], seconds: float) -> float:
    for _ in range(5):
        way()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 20:
        start = time.perf_counter()
        way()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def products(x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None = None) -> list[Callable[[], Any]]:
    """Return the ways to x @ y.T + bias: torch's own product, into memory that is there, and oneDNN's."""
    out = torch.empty(x.shape[0], y.shape[0], dtype=x.dtype)
    ways: list[Callable[[], Any]] = [
        (lambda: torch.mm(x, y.t(), out=out)) if bias is None else (lambda: torch.addmm(bias, x, y.t(), out=out))
    ]
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(x, y, bias, "none", [], ""))
    return ways


class Floors:
    """What each part takes alone, in milliseconds, for a minibatch of a model."""

    def __init__(self, model: Any, batch_size: int, likelihood: str) -> None:
        data: CellData = model.data
        self.n, self.genes = batch_size, data.n_genes
        self.likelihood = likelihood
        self.heads = 2 if likelihood == "zinb" else 1
        self.model, self.data = model, data
        rng = np.random.default_rng(0)
        n = data.n_cells // batch_size * batch_size
        self.cells = list(rng.permutation(data.n_cells)[:n].reshape(-1, batch_size))
        self.batch = data.minibatch(self.cells[0])
        rows = self.batch.rows
        self.counts = (rows.indptr, rows.indices, rows.values)
        self.rows = rows

    @torch.no_grad()
    def gemms(self, dtype: torch.dtype = torch.float32) -> float:
        """Return the three products of each output head."""
        n, genes = self.n, self.genes
        h, g = torch.randn(n, HIDDEN, dtype=dtype), torch.randn(n, genes, dtype=dtype)
        by_gene, by_unit = torch.randn(genes, HIDDEN, dtype=dtype), torch.randn(HIDDEN, genes, dtype=dtype)
        bias = torch.randn(genes, dtype=dtype)
        forward = fastest(*products(h, by_gene, bias), *products(h, by_unit.t(), bias))
        by_hidden = fastest(*products(g, by_gene.t()), *products(g, by_unit))
        by_weight = fastest(*products(g.t(), h.t()), *products(h.t(), g.t()))
        return self.heads * (forward + by_hidden + by_weight)

    def first_layer(self) -> float:
        """Return log1p counts times the first weight, both ways."""
        weight, bias = torch.randn(self.genes, HIDDEN, requires_grad=True), torch.randn(HIDDEN, requires_grad=True)
        grad = torch.randn(self.n, HIDDEN)

        def kernel() -> None:
            out = cpu_linear.log1p_linear(self.counts, weight, bias)
            torch.autograd.grad(out, (weight, bias), grad)

        with torch.no_grad():
            x = torch.log1p(self.rows.dense)
        out, grad_weight = torch.empty(self.n, HIDDEN), torch.empty(self.genes, HIDDEN)

        @torch.no_grad()
        def dense() -> None:
            torch.addmm(bias, x, weight, out=out)
            torch.mm(x.t(), grad, out=grad_weight)

        return fastest(kernel, dense)

    def kernel(self) -> float:
        """Return the likelihood and its gradient."""
        logits = torch.randn(1, self.n, self.genes, requires_grad=True)
        log_theta = torch.randn(1, self.genes, requires_grad=True)
        dropout = torch.randn(1, self.n, self.genes, requires_grad=True) if self.heads == 2 else None
        scale = self.batch.library.log()[None]
        wanted = tuple(t for t in (logits, log_theta, dropout) if t is not None)
        grad = torch.full((1, self.n), -1.0 / self.n)
        kind = cpu.KINDS[self.likelihood]

        def way() -> None:
            value = cpu.fused_log_prob(kind, self.counts, logits, scale, log_theta, None, dropout)
            torch.autograd.grad(value, wanted, grad)

        return fastest(way)

    def gather(self) -> float:
        """Return the rows of a minibatch, other ones each time, from the counts of all cells."""
        turn = iter(range(10**9))
        return fastest(lambda: self.data.minibatch(self.cells[next(turn) % len(self.cells)]))

    def adam(self) -> float:
        """Return a fused step over parameters of the same shapes."""
        parameters = {name: torch.randn_like(p) for name, p in self.model.network.named_parameters()}
        for p in parameters.values():
            p.grad = torch.randn_like(p)
        optimizer = Adam(parameters)
        return fastest(lambda: optimizer.step(1e-5))

    def small_layers(self) -> float:
        """Return everything between the first layer and the output layer, both ways, as bare operations."""
        return fastest(_SmallLayers(self.n, by_kernel=False), _SmallLayers(self.n, by_kernel=True))

    def all(self) -> dict[str, float]:
        """Return the floor of each part."""
        ways = (self.gemms, self.first_layer, self.kernel, self.gather, self.adam, self.small_layers)
        return {name: way() for name, way in zip(PARTS, ways, strict=True)}


class _SmallLayers:
    """Norms, ReLU, dropout, the encoder's head, the draw, the KL, the decoder's hidden layer; and their gradients.

    As bare torch operations, or as the compiled loops of our kernels, one after the other on memory that is there.
    """

    def __init__(self, n: int, *, by_kernel: bool) -> None:
        f = torch.randn
        self.n, self.x, self.codes, self.by_kernel = n, f(n, HIDDEN), torch.arange(n) % 3, by_kernel
        self.norms = [(torch.ones(HIDDEN), torch.zeros(HIDDEN), torch.zeros(HIDDEN), torch.ones(HIDDEN)) for _ in "ed"]
        self.head, self.head_bias = f(2 * LATENT, HIDDEN) / 20, f(2 * LATENT) / 20
        self.first, self.first_bias, self.table = f(HIDDEN, LATENT), f(HIDDEN), f(3, HIDDEN)
        self.grad_h = f(n, HIDDEN)
        self.hidden = [f(n, HIDDEN).numpy() for _ in range(6)]
        self.latent = [f(n, LATENT).numpy() for _ in range(6)]
        self.moments, self.by_norm = np.empty((2, HIDDEN), np.float32), np.empty((3, HIDDEN), np.float32)
        self.by_first, self.by_table = np.empty((HIDDEN, LATENT), np.float32), np.empty((3, HIDDEN), np.float32)
        self.by_head, self.by_bias = np.empty((2 * LATENT, HIDDEN), np.float32), np.empty(2 * LATENT, np.float32)
        self.per_cell = np.ones(n, np.float32)

    @torch.no_grad()
    def __call__(self) -> None:
        if self.by_kernel:
            self._compiled()
        else:
            self._operations()

    def _compiled(self) -> None:
        k, latent = cpu_hidden, cpu_latent
        e, y, d, grad, slope, by_e = self.hidden
        mean, scale, variance, z, by_z, by_scale = self.latent
        head, head_bias, first = self.head.numpy(), self.head_bias.numpy(), self.first.numpy()
        encoder, decoder = ([t.numpy() for t in norm] for norm in self.norms)
        x, codes = self.x.numpy(), self.codes.numpy()
        k._norm(x, *encoder[:2], 1e-3, *encoder[2:], 0.01, 59_000, 1, e, self.moments)
        latent._forward(e, head, head_bias, np.float32(1e-4), mean, scale, variance, self.per_cell)
        noise = torch.randn(self.n, LATENT)
        torch.addcmul(torch.from_numpy(mean), torch.from_numpy(scale), noise, out=torch.from_numpy(z))
        k._affine(z, first, self.first_bias.numpy(), y)
        k._add_table(self.table.numpy(), codes, y)
        k._norm(y, *decoder[:2], 1e-3, *decoder[2:], 0.01, 0, 0, d, self.moments)
        k._norm_backward(self.grad_h.numpy(), y, decoder[0], 1.0, d, self.moments, slope, self.by_norm)
        k._sum_by_code(slope, codes, self.by_table)
        k._affine_backward(z, first, slope, by_z, self.by_first)
        torch.mul(torch.from_numpy(by_z), noise, out=torch.from_numpy(by_scale))
        given = (e, head, mean, scale, by_z, by_scale, self.per_cell, variance)
        latent._backward(*given, by_e, self.by_head, self.by_bias)
        k._norm_backward(by_e, x, encoder[0], 1.1, e, self.moments, grad, self.by_norm)

    def _operations(self) -> None:
        mask = torch.empty_like(self.x).bernoulli_(0.9).div_(0.9)
        e, back_e = self._norm(0, self.x, mask)
        both = torch.addmm(self.head_bias, e, self.head.t())
        mu, log_variance = both[:, :LATENT], both[:, LATENT:]
        variance = log_variance.exp()
        scale = (variance + 1e-4).sqrt()
        noise = torch.randn(self.n, LATENT)
        z = torch.addcmul(mu, scale, noise)
        (0.5 * (scale * scale + mu * mu - 1) - scale.log()).sum(1)
        a = torch.addmm(self.first_bias, z, self.first.t()) + self.table[self.codes]
        _, back_d = self._norm(1, a, None)

        grad = back_d(self.grad_h)
        torch.zeros(3, HIDDEN).index_add_(0, self.codes, grad)
        grad.sum(0)
        torch.mm(grad.t(), z)
        grad_z = torch.mm(grad, self.first)
        grad_scale = (grad_z * noise + (scale - 1 / scale) / self.n) * variance / (2 * scale)
        grad_both = torch.cat([grad_z + mu / self.n, grad_scale], 1)
        grad_both.sum(0)
        torch.mm(grad_both.t(), e)
        back_e(torch.mm(grad_both, self.head)).sum(0)

    def _norm(self, layer: int, x: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, Any]:
        """Return relu(batch norm) * mask, and the function from its gradient to that by x."""
        w, b, mean, var = self.norms[layer]
        aten = torch.ops.aten
        y, *saved = aten.native_batch_norm(x, w, b, mean, var, True, 0.01, 1e-3)
        out = aten.relu(y)

        def back(grad: torch.Tensor) -> torch.Tensor:
            grad = aten.threshold_backward(grad if mask is None else grad * mask, out, 0)
            by_x: torch.Tensor = aten.native_batch_norm_backward(
                grad, x, w, mean, var, *saved, True, 1e-3, [True, True, True]
            )[0]
            return by_x

        return (out if mask is None else out * mask), back


# -- ours ------------------------------------------------------------------------------------------------------------


class Clock:
    """Milliseconds of each part in each step; a part within another counts as its own."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = [{}]
        self._inside: list[float] = []

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time taken."""

        def call(*args: Any, **options: Any) -> Any:
            self._inside.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent = time.perf_counter() - start
                own = spent - self._inside.pop()
                if self._inside:
                    self._inside[-1] += spent
                step = self.steps[-1]
                step[part] = step.get(part, 0.0) + 1e3 * own
                if part == "Adam":
                    self.steps.append({})

        return call


KERNELS = {cpu_dense: "output GEMMs", cpu: "likelihood"}
"""The part that the autograd functions of a file belong to; those of other files are of the rest."""


@contextmanager
def timed_parts() -> Iterator[Clock]:
    """Take the time of each part while the block trains."""
    clock = Clock()
    with ExitStack() as stack:
        stack.enter_context(patch.object(CellData, "minibatch", clock.timed("gather", CellData.minibatch)))
        stack.enter_context(patch.object(Optimizer, "step", clock.timed("Adam", Optimizer.step)))
        for name in ("run_parallel", "by_weight"):  # the counts' part of the first hidden layer
            stack.enter_context(patch.object(cpu_hidden, name, clock.timed("first layer", getattr(cpu_hidden, name))))
        for module, part in KERNELS.items():
            for _, kind in inspect.getmembers(module, inspect.isclass):
                if not issubclass(kind, torch.autograd.Function) or kind.__module__ != module.__name__:
                    continue
                for way in ("forward", "backward"):
                    timed = staticmethod(clock.timed(part, getattr(kind, way)))
                    stack.enter_context(patch.object(kind, way, timed))
        yield clock


def inside(model: Any, plan: Any) -> dict[str, float]:
    """Return the median milliseconds a step of each part within training; the rest is not told."""
    with timed_parts() as clock:
        model.train(plan, device="cpu", progress=False)
    steps = clock.steps[_FIRST_STEPS:-1]
    return {part: statistics.median(step.get(part, 0.0) for step in steps) for part in PARTS[:-1]}


def whole(side: Celbo, model: Any, plan: dict[str, Any], n_epochs: int) -> float:
    """Return milliseconds a step, of whole epochs after the first one."""
    stamps: list[float] = []
    job = {"train": None, "epochs": n_epochs + 1, **plan}
    side.fit(model, job, lambda: stamps.append(time.perf_counter()))
    n_steps = -(-model.data.n_cells // plan["batch_size"])
    return 1e3 * statistics.median(np.diff(stamps)) / n_steps


def table(data: Data, likelihood: str, batch_size: int, rounds: int, side: Celbo) -> dict[str, Any]:
    """Measure floor and step in turns; return the round in which each was disturbed least."""
    from speed_worker import cells_of

    adata = cells_of(str(simulated(data)[0]))
    floors: list[dict[str, float]] = []
    ours: list[dict[str, float]] = []
    for _ in range(rounds):
        model = side.build(adata, {"likelihood": likelihood})
        floors.append(Floors(model, batch_size, likelihood).all())
        step = whole(side, model, {"batch_size": batch_size}, 3)
        model = side.build(adata, {"likelihood": likelihood})
        plan = celbo.TrainConfig(max_epochs=1, batch_size=batch_size, n_threads=side.n_threads, train_size=1.0)
        parts = inside(model, plan)
        ours.append(parts | {PARTS[-1]: step - sum(parts.values()), "whole step": step})
    rows = {}
    for part in PARTS:
        floor, mine = (min(r[part] for r in runs) for runs in (floors, ours))
        rows[part] = {"floor_ms": floor, "ours_ms": mine}
    rows["whole step"] = {
        "floor_ms": sum(row["floor_ms"] for row in rows.values()),
        "ours_ms": min(r["whole step"] for r in ours),
    }
    rest = rows["whole step"]["ours_ms"] - sum(rows[part]["ours_ms"] for part in PARTS[:-1])
    rows[PARTS[-1]]["ours_ms"] = rest
    for row in rows.values():
        row["ratio"] = row["ours_ms"] / row["floor_ms"]
    in_bf16 = Floors(model, batch_size, likelihood).gemms(torch.bfloat16)
    out = {"cells": data.cells, "genes": data.genes, "likelihood": likelihood, "batch_size": batch_size}
    rounded = {part: {k: machine.significant(v, 3) for k, v in row.items()} for part, row in rows.items()}
    rates = {k: round(1e3 * batch_size / rows["whole step"][f"{k}_ms"]) for k in ("floor", "ours")}
    return out | {"parts": rounded, "cells_per_second": rates, "output_gemms_bf16_ms": machine.significant(in_bf16, 3)}


def show(name: str, told: dict[str, Any]) -> None:
    """Print a table."""
    print(f"\n{name}: milliseconds a step\n{'':28}{'floor':>8}{'ours':>8}{'ratio':>8}")
    for part, row in told["parts"].items():
        print(f"{part:28}{row['floor_ms']:8.3f}{row['ours_ms']:8.3f}{row['ratio']:8.2f}")
    rates = told["cells_per_second"]
    print(f"{'cells/s':28}{rates['floor']:8,}{rates['ours']:8,}   (output GEMMs in bf16: ", end="")
    print(f"{told['output_gemms_bf16_ms']:.3f} ms)", flush=True)


def main() -> None:
    """Measure all tables, print and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, torch.get_num_threads()))
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--wide-cells", type=int, default=4_000)
    parser.add_argument("--wait", type=float, default=600, help="longest wait for a quiet machine, seconds")
    parser.add_argument("--out", type=str, default=str(machine.RESULTS / "roofline.json"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    narrow, wide = Data(args.cells, 2_000, 0.13), Data(args.wide_cells, 20_000, 0.05)
    for data in (narrow, wide):
        simulated(data)
    side = Celbo(args.threads)
    side.do_warm({"likelihood": "nb"})
    note = machine.wait_until_quiet(args.wait)
    cases = [(narrow, "nb", 128), (narrow, "zinb", 128), (narrow, "nb", 512), (wide, "nb", 128)]
    about = machine.about(args.threads) | note
    result: dict[str, Any] = {"what": __doc__.splitlines()[0], "about": about, "rounds": args.rounds, "tables": {}}
    for data, likelihood, batch_size in cases:
        name = f"{likelihood}, batch {batch_size}, {data.genes:,} genes"
        result["tables"][name] = table(data, likelihood, batch_size, args.rounds, side)
        show(name, result["tables"][name])
        machine.write_json(machine.Path(args.out), result)


if __name__ == "__main__":
    main()
