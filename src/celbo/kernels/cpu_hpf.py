"""Coordinate ascent of the Gamma-Poisson factor model over the stored counts, in float64 on the CPU.

    x_ig ~ Poisson(sum_k theta_ik beta_gk)    theta_ik ~ Gamma(a, xi_i)    xi_i ~ Gamma(a', b')    (shape, rate)

and the same for beta with its own constants. q is a Gamma for each number, and for each stored count a multinomial phi
that shares it out to the components, phi_igk ~ exp(E log theta_ik + E log beta_gk). A sweep needs of phi its sums over
rows alone (`allocate`), so it is never kept: the cost is linear in the stored counts, no array is (cells x genes).

Cells and genes take the same steps, on the counts by rows and by columns. Each row is computed by itself and in one
order: the result is the same to the bit whatever the number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from celbo.kernels.compile import SPLIT_SUMS, compiled
from celbo.kernels.cpu import run_parallel

__all__ = [
    "GammaPrior",
    "Loadings",
    "StoredCounts",
    "allocate",
    "allocate_at_random",
    "divergence",
    "log_rates",
    "log_rates_of_draws",
    "project",
    "row_digests",
    "update",
]

Floats = NDArray[np.float64]
_PARTS = 64  # ranges of rows with about the same number of counts, shared out to the threads
_HALF_LOG_2PI = 0.9189385332046728
_SMALL, _LARGE = 1e-100, 1e100  # a product of factors is turned into a logarithm before it leaves this range
_GOLDEN, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class StoredCounts:
    """Rows of counts (cells, or with the columns as rows genes), and ranges of rows of about the same work."""

    indptr: NDArray[Any]
    indices: NDArray[Any]
    values: NDArray[np.float32]
    bounds: NDArray[np.int64]
    """Where each range begins, and the end; (ranges + 1,)."""
    n_columns: int

    @classmethod
    def of(cls, matrix: Any) -> StoredCounts:
        """Take a SciPy matrix or array in CSR (rows are cells) or CSC (rows are genes) without copying float32."""
        n_rows, n_columns = matrix.shape if matrix.format == "csr" else matrix.shape[::-1]
        work = matrix.indptr + np.arange(n_rows + 1)  # an empty row costs something too
        bounds = np.searchsorted(work, np.linspace(0, work[-1], _PARTS + 1))
        values = matrix.data.astype(np.float32, copy=False)
        return cls(matrix.indptr, matrix.indices, values, np.unique(bounds).astype(np.int64), n_columns)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.indptr.shape[0]) - 1


@dataclass(frozen=True)
class GammaPrior:
    """Gamma(shape, r) of a loading with r ~ Gamma(hyper_shape, hyper_rate) of its row: a, a', b' or c, c', d'."""

    shape: float
    hyper_shape: float
    hyper_rate: float

    def hyper_posterior_shape(self, n_components: int) -> float:
        """Return the shape of q(r), which no count changes: a' + K a."""
        return self.hyper_shape + n_components * self.shape


@dataclass(frozen=True)
class Loadings:
    """q of the loadings of all rows and of the rates of their priors."""

    shape: Floats
    """(rows, components)."""
    rate: Floats
    """(rows, components)."""
    hyper_rate: Floats
    """Rate of q of each row's prior rate; (rows,)."""

    @cached_property
    def mean(self) -> Floats:
        """E[loading], (rows, components)."""
        return self.shape / self.rate

    @cached_property
    def weight(self) -> Floats:
        """exp(E[log loading]), (rows, components)."""
        weight = np.empty_like(self.shape)
        run_parallel(_weights, self.shape, self.rate, weight)
        return weight

    def take(self, rows: Any) -> Loadings:
        """Return some of the rows."""
        return Loadings(self.shape[rows], self.rate[rows], self.hyper_rate[rows])


def allocate(counts: StoredCounts, own: Floats, other: Floats) -> tuple[Floats, Floats]:
    """Share out each count by phi, and sum.

    Parameters
    ----------
    counts
        The stored counts.
    own, other
        exp(E log) of the loadings of rows (rows, components) and columns (columns, components).

    Returns
    -------
    sum_j x_j phi_jk of each row, (rows, components); sum_j x_j log sum_k own_k other_jk of each row, (rows,) nats.
    """
    shared, logs = np.empty_like(own), np.empty(counts.n_rows)
    run_parallel(_allocate, *_arrays(counts), np.ascontiguousarray(own), np.ascontiguousarray(other), shared, logs)
    return shared, logs


def allocate_at_random(counts: StoredCounts, n_components: int, seed: int, *, by_column: bool = False) -> Floats:
    """Share out each count by a draw of phi ~ Dirichlet(1), and sum: (rows, components).

    A draw is a function of seed, row and column: with `by_column`, where rows and columns are exchanged, the draws are
    the same ones.
    """
    shared = np.empty((counts.n_rows, n_components))
    run_parallel(_allocate_at_random, *_arrays(counts), np.uint64(seed), by_column, shared)
    return shared


def update(shared: Floats, sums: Floats, prior: GammaPrior, hyper_rate: Floats) -> Loadings:
    """Set q of the loadings, then q of the rates of their priors, to their optima given all else.

    Parameters
    ----------
    shared
        What `allocate` gave.
    sums
        sum over the columns of the E[loading] of each component; (components,).
    prior
        The prior of the rows.
    hyper_rate
        Rate of q of each row's prior rate so far; (rows,).
    """
    q = Loadings(np.empty_like(shared), np.empty_like(shared), np.empty(shared.shape[0]))
    constants = (prior.shape, prior.hyper_rate, prior.hyper_posterior_shape(shared.shape[1]))
    run_parallel(_update, shared, sums, *constants, hyper_rate, q.shape, q.rate, q.hyper_rate)
    return q


def divergence(q: Loadings, prior: GammaPrior) -> Floats:
    """Return KL(q || prior) of each row, its loadings and the rate of their prior together, (rows,) nats."""
    out = np.empty(q.shape.shape[0])
    posterior = prior.hyper_posterior_shape(q.shape.shape[1])
    constants = (prior.shape, prior.hyper_shape, prior.hyper_rate, posterior)
    run_parallel(_divergence, q.shape, q.rate, q.hyper_rate, *constants, out)
    return out


def project(
    counts: StoredCounts,
    other: Floats,
    sums: Floats,
    prior: GammaPrior,
    *,
    start: Loadings | None = None,
    max_iterations: int = 1000,
    tolerance: float = 1e-5,
) -> Loadings:
    """Return q of the rows with the columns fixed.

    Parameters
    ----------
    counts
        The stored counts of the rows.
    other
        exp(E log) of the loadings of the columns, (columns, components); for known loadings, these.
    sums
        sum over the columns of their E[loading], (components,).
    prior
        The prior of the rows.
    start
        Where to begin; None is with equal loadings.
    max_iterations
        Most updates of a row.
    tolerance
        A row is done when no component's part of its counts changes by more than this times their total, nor the
        rate of q of its prior rate by more than this times itself.
    """
    size = (counts.n_rows, other.shape[1])
    q = Loadings(np.empty(size), np.empty(size), np.empty(size[0]))
    first = np.ones(size) if start is None else start.weight
    rate = np.zeros(size[0]) if start is None else start.hyper_rate
    constants = (prior.shape, prior.hyper_shape, prior.hyper_rate, prior.hyper_posterior_shape(size[1]))
    arrays = (np.ascontiguousarray(other), sums, constants, max_iterations, tolerance, first, rate)
    run_parallel(_project, *_arrays(counts), *arrays, q.shape, q.rate, q.hyper_rate)
    return q


def log_rates(counts: StoredCounts, own: Floats, other: Floats) -> Floats:
    """Return sum_j x_j log sum_k own_k other_jk of each row, (rows,) nats; parameters as of `allocate`."""
    return allocate(counts, own, other)[1]


def log_rates_of_draws(counts: StoredCounts, draws: Floats, other: Floats) -> Floats:
    """Return sum_j x_j log sum_k draw_k other_jk of each row and draw.

    Parameters
    ----------
    counts
        The stored counts of the rows.
    draws
        Loadings of the rows, (rows, components, draws).
    other
        Loadings of the columns, (columns, components).

    Returns
    -------
    (rows, draws) nats.
    """
    out = np.empty((draws.shape[0], draws.shape[2]))
    run_parallel(_log_rates_of_draws, *_arrays(counts), draws, np.ascontiguousarray(other), out)
    return out


def row_digests(indptr: NDArray[Any], indices: NDArray[Any], values: NDArray[Any]) -> NDArray[np.int64]:
    """Return a number for each row of counts that tells it from others, (rows,)."""
    out = np.empty(indptr.shape[0] - 1, np.uint64)
    _row_digests(indptr, indices, values, out)
    return out.view(np.int64)


def _arrays(counts: StoredCounts) -> tuple[Any, ...]:
    return counts.bounds, counts.indptr, counts.indices, counts.values


# -- compiled --------------------------------------------------------------------------------------------------------


@compiled()
def digamma_and_log_gamma(x: float) -> tuple[float, float]:
    """Return psi(x) and log Gamma(x) for x > 0: recurrence up to 10, then Stirling's series."""
    less, product = 0.0, 1.0
    while x < 10:
        less += 1 / x
        product *= x
        x += 1
    r = 1 / x
    s = r * r
    log_x = math.log(x)
    psi = s * (1 / 12 - s * (1 / 120 - s * (1 / 252 - s * (1 / 240 - s * (1 / 132 - s * (691 / 32760 - s / 12))))))
    tail = 1 / 1260 - s * (1 / 1680 - s * (1 / 1188 - s * (691 / 360360 - s / 156)))
    log_gamma = (x - 0.5) * log_x - x + _HALF_LOG_2PI + r * (1 / 12 - s * (1 / 360 - s * tail)) - math.log(product)
    return log_x - 0.5 * r - psi - less, log_gamma


@compiled(flags=SPLIT_SUMS)
def _allocate_row(indices: Any, values: Any, own: Any, other: Any, shared: Any) -> float:
    """Write sum_j x_j phi_jk into `shared`, and return sum_j x_j log sum_k own_k other_jk.

    Logarithms are taken of products: of one count they cost as much as the rest.
    """
    n = own.shape[0]
    for k in range(n):
        shared[k] = 0.0
    logs, product = 0.0, 1.0
    for j in range(indices.shape[0]):
        row = other[indices[j]]
        total = 0.0
        for k in range(n):
            total += own[k] * row[k]
        x = np.float64(values[j])
        share = x / total
        for k in range(n):
            shared[k] += share * row[k]
        if x == 1 and _SMALL < total < _LARGE:
            product *= total
            if not _SMALL < product < _LARGE:
                logs += math.log(product)
                product = 1.0
        else:
            logs += x * math.log(total)
    for k in range(n):
        shared[k] *= own[k]
    return logs + math.log(product)


@compiled(parallel=True)
def _allocate(
    bounds: Any, indptr: Any, indices: Any, values: Any, own: Any, other: Any, shared: Any, logs: Any
) -> None:
    for part in prange(bounds.shape[0] - 1):
        for i in range(bounds[part], bounds[part + 1]):
            low, high = indptr[i], indptr[i + 1]
            logs[i] = _allocate_row(indices[low:high], values[low:high], own[i], other, shared[i])


@compiled()
def _mixed(x: np.uint64) -> np.uint64:
    """Return the 64 bits of splitmix64 that belong to x."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


@compiled()
def _row_digests(indptr: Any, indices: Any, values: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        digest = _mixed(np.uint64(indptr[i + 1] - indptr[i]) + _GOLDEN)
        for j in range(indptr[i], indptr[i + 1]):
            digest = _mixed(digest + _GOLDEN * np.uint64(indices[j]))
            digest = _mixed(digest + _GOLDEN * np.uint64(values[j]))
        out[i] = digest


@compiled(parallel=True)
def _allocate_at_random(
    bounds: Any, indptr: Any, indices: Any, values: Any, seed: Any, by_column: bool, shared: Any
) -> None:
    n = shared.shape[1]
    for part in prange(bounds.shape[0] - 1):
        draws = np.empty(n)
        for i in range(bounds[part], bounds[part + 1]):
            shared[i] = 0.0
            for j in range(indptr[i], indptr[i + 1]):
                row, column = (indices[j], i) if by_column else (i, indices[j])
                key = _mixed(_mixed(seed + _GOLDEN * np.uint64(row + 1)) + _GOLDEN * np.uint64(column + 1))
                total = 0.0
                for k in range(n):  # exponentials over their sum are Dirichlet(1)
                    bits = _mixed(key + _GOLDEN * np.uint64(k + 1)) >> np.uint64(11)
                    draws[k] = -math.log((np.float64(bits) + 0.5) / 9007199254740992.0)
                    total += draws[k]
                for k in range(n):
                    shared[i, k] += values[j] * draws[k] / total


@compiled()
def _update_row(shared: Any, sums: Any, a: float, b: float, expected: float, shape: Any, rate: Any) -> float:
    """Write shape and rate of q of a row's loadings, given E of its prior rate; return the rate of q of that one."""
    new_rate = b
    for k in range(shared.shape[0]):
        shape[k] = a + shared[k]
        rate[k] = expected + sums[k]
        new_rate += shape[k] / rate[k]
    return new_rate


@compiled()
def _divergence_of_row(
    shape: Any, rate: Any, hyper_rate: float, a: float, h: float, b: float, posterior_h: float
) -> float:
    """Return KL(q || prior) of a row: of its loadings, given the rate of their prior, and of that rate."""
    psi_h, log_gamma_h = digamma_and_log_gamma(posterior_h)
    expected, expected_log = posterior_h / hyper_rate, psi_h - math.log(hyper_rate)
    divergence = (posterior_h - h) * psi_h - log_gamma_h + digamma_and_log_gamma(h)[1]
    divergence += h * (math.log(hyper_rate) - math.log(b)) + expected * (b - hyper_rate)
    log_gamma_a = digamma_and_log_gamma(a)[1]
    for k in range(shape.shape[0]):
        psi, log_gamma = digamma_and_log_gamma(shape[k])
        divergence += (shape[k] - a) * psi - shape[k] - log_gamma + log_gamma_a
        divergence += a * (math.log(rate[k]) - expected_log) + expected * shape[k] / rate[k]
    return divergence


@compiled(parallel=True)
def _divergence(
    shape: Any, rate: Any, hyper_rate: Any, a: float, h: float, b: float, posterior_h: float, out: Any
) -> None:
    for i in prange(shape.shape[0]):
        out[i] = _divergence_of_row(shape[i], rate[i], hyper_rate[i], a, h, b, posterior_h)


@compiled(parallel=True)
def _update(
    shared: Any, sums: Any, a: float, b: float, posterior_h: float, before: Any, shape: Any, rate: Any, hyper_rate: Any
) -> None:
    for i in prange(shared.shape[0]):
        hyper_rate[i] = _update_row(shared[i], sums, a, b, posterior_h / before[i], shape[i], rate[i])


@compiled()
def _write_weights(shape: Any, rate: Any, weight: Any) -> None:
    for k in range(shape.shape[0]):
        weight[k] = math.exp(digamma_and_log_gamma(shape[k])[0]) / rate[k]


@compiled(parallel=True)
def _weights(shape: Any, rate: Any, weight: Any) -> None:
    for i in prange(shape.shape[0]):
        _write_weights(shape[i], rate[i], weight[i])


@compiled(parallel=True)
def _project(
    bounds: Any,
    indptr: Any,
    indices: Any,
    values: Any,
    other: Any,
    sums: Any,
    prior: Any,
    limit: int,
    tolerance: float,
    first: Any,
    first_rate: Any,
    shape: Any,
    rate: Any,
    hyper_rate: Any,
) -> None:
    for part in prange(bounds.shape[0] - 1):
        work = np.empty((7, other.shape[1]))
        for i in range(bounds[part], bounds[part + 1]):
            row = (indices[indptr[i] : indptr[i + 1]], values[indptr[i] : indptr[i + 1]])
            work[0] = first[i]
            start = first_rate[i] if first_rate[i] > 0 else _balanced_rate(row[1].sum(), sums, prior)
            q = (shape[i], rate[i])
            hyper_rate[i] = _project_row(row, other, sums, prior, limit, tolerance, start, q, work)


@compiled()
def _project_row(
    row: Any, other: Any, sums: Any, prior: Any, limit: int, tolerance: float, hyper: float, q: Any, work: Any
) -> float:
    """Write q of the loadings of a row and return the rate of q of its prior rate; `work[0]` holds first weights.

    After two updates the logarithms of weights and rate go on in their direction (SQUAREM: Varadhan and Roland 2008,
    doi:10.1111/j.1467-9469.2007.00585.x), and an update follows. Where the bound is lower than after the first of the
    two, the second is gone back to: the bound rises all the way.
    """
    genes, counts = row
    shape, rate = q
    a, _, b, posterior_h = prior
    weight, second, third, before, shared, safe_shape, safe_rate = work
    total, done, guarded, least, safe_hyper = counts.sum(), 0, False, 0.0, hyper
    while True:
        logs = _allocate_row(genes, counts, weight, other, before)
        if guarded and not _bound_of_row(logs, shape, rate, hyper, sums, prior) >= least:  # also where it is not finite
            shape[:], rate[:], hyper, guarded = safe_shape, safe_rate, safe_hyper, False
            _write_weights(shape, rate, weight)
            continue
        hyper_1 = _update_row(before, sums, a, b, posterior_h / hyper, shape, rate)
        if done + 1 == limit:
            return hyper_1
        _write_weights(shape, rate, second)
        logs = _allocate_row(genes, counts, second, other, shared)
        least = _bound_of_row(logs, shape, rate, hyper_1, sums, prior)
        hyper_2 = _update_row(shared, sums, a, b, posterior_h / hyper_1, shape, rate)
        done += 2
        change = 0.0
        for k in range(shared.shape[0]):
            change = max(change, abs(shared[k] - before[k]))
        rests = change <= tolerance * total and abs(hyper_2 - hyper_1) <= tolerance * hyper_1
        if rests or done + 2 > limit:
            return hyper_2
        safe_shape[:], safe_rate[:], safe_hyper = shape, rate, hyper_2
        _write_weights(shape, rate, third)
        hyper = _extrapolate(weight, second, third, hyper, hyper_1, hyper_2)
        _allocate_row(genes, counts, weight, other, shared)
        hyper = _update_row(shared, sums, a, b, posterior_h / hyper, shape, rate)
        _write_weights(shape, rate, weight)
        done, guarded = done + 1, True


@compiled()
def _bound_of_row(logs: float, shape: Any, rate: Any, hyper_rate: float, sums: Any, prior: Any) -> float:
    a, h, b, posterior_h = prior
    bound = logs - _divergence_of_row(shape, rate, hyper_rate, a, h, b, posterior_h)
    for k in range(shape.shape[0]):
        bound -= shape[k] / rate[k] * sums[k]
    return bound


@compiled()
def _extrapolate(first: Any, second: Any, third: Any, rate_1: float, rate_2: float, rate_3: float) -> float:
    """Go on in the direction of three points, on the scale of logarithms; write the weights and return the rate."""
    step, bend = 0.0, 0.0
    for k in range(first.shape[0] + 1):
        x, y, z = (first[k], second[k], third[k]) if k < first.shape[0] else (rate_1, rate_2, rate_3)
        one, two = math.log(y / x), math.log(z / y)
        step += one * one
        bend += (two - one) * (two - one)
    length = 1.0 if bend <= 1e-12 * step else min(max(1.0, math.sqrt(step / bend)), 100.0)  # 1 is the third point
    for k in range(first.shape[0]):
        one, two = math.log(second[k] / first[k]), math.log(third[k] / second[k])
        first[k] *= math.exp(2 * length * one + length * length * (two - one))
    one, two = math.log(rate_2 / rate_1), math.log(rate_3 / rate_2)
    return rate_1 * math.exp(2 * length * one + length * length * (two - one))


@compiled()
def _balanced_rate(total: float, sums: Any, prior: Any) -> float:
    """Return the rate of q of a row's prior rate if equal loadings explain its total."""
    return prior[2] + sums.shape[0] * (total / sums.sum())


@compiled(parallel=True)
def _log_rates_of_draws(bounds: Any, indptr: Any, indices: Any, values: Any, draws: Any, other: Any, out: Any) -> None:
    n, m = draws.shape[1], draws.shape[2]
    for part in prange(bounds.shape[0] - 1):
        rate, product = np.empty(m), np.empty(m)
        for i in range(bounds[part], bounds[part + 1]):
            out[i], product[:], pending = 0.0, 1.0, 0
            for j in range(indptr[i], indptr[i + 1]):
                x = int(values[j])
                rate[:] = 0.0
                for k in range(n):
                    loading = other[indices[j], k]
                    for s in range(m):
                        rate[s] += loading * draws[i, k, s]
                if x > 4:
                    for s in range(m):
                        out[i, s] += x * math.log(rate[s])
                    continue
                for _ in range(x):
                    for s in range(m):
                        product[s] *= rate[s]
                pending += x
                if pending >= 4:  # the product of at most seven rates is far from the ends of float64
                    for s in range(m):
                        out[i, s] += math.log(product[s])
                    product[:], pending = 1.0, 0
            for s in range(m):
                out[i, s] += math.log(product[s])
