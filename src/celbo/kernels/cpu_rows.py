"""The rows of the fused CPU kernels: compiled loops over the genes of one cell, and the parallel loop over cells."""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from celbo.kernels import cpu_math
from celbo.kernels.cpu_math import compiled, digamma_error, log1p_excess, stirling_error

__all__ = ["NB", "POISSON", "ZINB", "forward", "sum_by_row"]

NB, ZINB, POISSON = 0, 1, 2

_SMALL = 16  # counts up to here by the product form
_LOG_FACTORIAL = np.array([math.lgamma(i + 1) for i in range(_SMALL + 1)])
_HALF_LOG_2PI = 0.9189385332046728
_SPLIT_SUMS = frozenset({"reassoc", "nsz"})
_BLOCK = 512  # genes summed in float32 before they join a float64 total

_exp, _log, _log_wide = cpu_math.exp, cpu_math.log, cpu_math.log_wide
_larger, _RATIO_MAX = cpu_math.larger, cpu_math.RATIO_MAX
_expm1, _log1p_parts = cpu_math.expm1_negative, cpu_math.log1p_parts
_f, _d = np.float32, np.float64  # in compiled code, float() of a float32 is a float32
_ZERO, _ONE, _TWO, _THREE, _FOUR = _f(0), _f(1), _f(2), _f(3), _f(4)
_HALF, _THIRD, _QUARTER = _f(1 / 2), _f(1 / 3), _f(1 / 4)
_FEW_MIN, _FEW_MAX = _f(1e-9), _f(1e9)  # four factors between them stay within float32


@compiled(flags=_SPLIT_SUMS)
def _sum(values: Any) -> float:
    """Return the sum of a row in float64, of float32 sums of blocks."""
    total = 0.0
    for start in range(0, values.size, _BLOCK):
        block, part = values[start : start + _BLOCK], _ZERO
        for j in range(block.size):
            part += block[j]
        total += part
    return total


@compiled(flags=_SPLIT_SUMS | {"nnan"})  # without NaN in mind, or it would not be vectorised; the exp will meet the NaN
def _max(values: Any) -> Any:
    top = values[0]
    for j in range(values.size):
        top = _larger(top, values[j])
    return top


@compiled()
def _means(logits: Any, log_scale: Any, softmax: bool, mu: Any) -> Any:
    """Fill the row of means; return what to add to a logit for the log of its mean, and the sum of the means."""
    shift = _max(logits) if softmax else -log_scale
    for j in range(mu.size):
        mu[j] = _exp(logits[j] - shift)
    if not softmax:
        return _d(log_scale), 1.0
    total, library = _sum(mu), math.exp(_d(log_scale))
    factor = _f(library / total)
    for j in range(mu.size):
        mu[j] *= factor
    return _d(log_scale) - _d(shift) - math.log(total), library


@compiled()
def _nb_zeros(mu: Any, theta: Any, value: Any, g: Any, by_theta: Any) -> None:
    """Fill the row with the terms of zeros: `-theta log(1 + mu/theta)` and its derivatives by log mu and log theta."""
    for j in range(mu.size):
        t = theta[j]
        ratio = mu[j] / t
        ratio = _RATIO_MAX if ratio > _RATIO_MAX else ratio  # not min(): a NaN stays one
        log1p, excess, inverse = _log1p_parts(ratio)
        value[j] = -t * log1p
        g[j] = -t * (ratio * inverse)
        by_theta[j] = -t * excess


@compiled()
def _nb_large(x: float, log_mu: float, theta: float) -> tuple[float, float, float]:
    """Return log NB(x) and its derivatives by log mu and log theta, by Loader's saddle-point form (2000)."""
    mu, total = math.exp(min(log_mu, 600.0)), x + theta
    u = (x - mu) / (theta + mu)
    log1p_u = math.log1p(u) if u > -0.5 else math.log(total / (theta + mu))
    g, excess, log_x = theta * u, theta * log1p_excess(u, log1p_u), math.log(x)
    deviance = excess + x * log1p_excess(-g / x, log_mu + log1p_u - log_x)
    errors = stirling_error(x) + stirling_error(theta) - stirling_error(total)
    value = -deviance - errors - _HALF_LOG_2PI - 0.5 * (log_x + math.log1p(x / theta))
    by_theta = x / (2 * total) + theta * (digamma_error(theta) - digamma_error(total)) - excess
    return value, g, by_theta


@compiled()
def _nb_small(n: int, mu: float, theta: float, zero: float, zero_by_theta: float) -> tuple[float, float, float]:
    """Return the same for a small count by the product form, from the terms of a zero."""
    share, theta_share = mu / (theta + mu), theta / (theta + mu)
    product, slope = share * theta, mu / theta
    for i in range(1, n):
        product *= share * (theta + i)
        slope += (mu - i) / (theta + i)
    value = zero + _log_wide(product) - _LOG_FACTORIAL[n]
    return value, theta_share * (n - mu), zero_by_theta + slope * theta_share


@compiled()
def _nb_one(x: float, mu: float, log_mu: float, theta: float, zero: float, slope: float) -> Any:
    """Return log NB(x) and its derivatives by log mu and log theta for any x > 0."""
    n = int(x)
    lowest = mu / (theta + mu) * theta  # sixteen such factors must stay within float64
    if n <= _SMALL and n == x and 1e-18 < lowest < 1e18:
        return _nb_small(n, mu, theta, zero, slope)
    return _nb_large(x, log_mu, theta)


@compiled()
def _nb_few(x: Any, mu: Any, theta: Any, value: Any, g: Any, by_theta: Any, lowest: Any) -> None:
    """Fill the last four with `_nb_small` of the stored counts as if they were at most 4 and the terms of zeros were 0.

    In float32 and without a branch. `lowest` is the smallest factor of the product, zero where the product is beyond
    float32.
    """
    for s in range(x.size):
        m, t, n = mu[s], theta[s], x[s]
        inverse = _ONE / (t + m)
        share = m * inverse
        t1, t2, t3 = t + _ONE, t + _TWO, t + _THREE
        product, slope = share * t, m / t
        lowest[s] = product if m < _FEW_MAX else _ZERO
        product *= share * t1 * _HALF if n > _ONE else _ONE
        product *= share * t2 * _THIRD if n > _TWO else _ONE
        product *= share * t3 * _QUARTER if n > _THREE else _ONE
        slope += (m - _ONE) / t1 if n > _ONE else _ZERO
        slope += (m - _TWO) / t2 if n > _TWO else _ZERO
        slope += (m - _THREE) / t3 if n > _THREE else _ZERO
        value[s] = _log(product)
        g[s] = t * inverse * (n - m)
        by_theta[s] = slope * (t * inverse)


@compiled()
def _nb_stored(at: Any, x: Any, logits: Any, offset: float, mu: Any, theta: Any, zero: Any, zero_by_theta: Any) -> Any:
    """Return log NB and its derivatives by log mu and log theta of the stored counts, (3 or more, stored)."""
    out = np.empty((6, at.size), np.float32)
    value, g, by_theta, lowest, m, t = out[0], out[1], out[2], out[3], out[4], out[5]
    for s in range(at.size):
        m[s], t[s] = mu[at[s]], theta[at[s]]
    _nb_few(x, m, t, value, g, by_theta, lowest)
    for s in range(at.size):
        j, n = at[s], x[s]
        if lowest[s] > _FEW_MIN and n <= _FOUR and n == _f(int(n)):
            value[s] += zero[j]
            by_theta[s] += zero_by_theta[j]
        else:
            value[s], g[s], by_theta[s] = _nb_one(
                _d(n), _d(m[s]), logits[j] + offset, _d(t[s]), _d(zero[j]), _d(zero_by_theta[j])
            )
    return out


@compiled()
def _nb_row(
    at: Any, x: Any, logits: Any, offset: float, mu: Any, theta: Any, value: Any, g: Any, by_theta: Any
) -> None:
    _nb_zeros(mu, theta, value, g, by_theta)
    stored = _nb_stored(at, x, logits, offset, mu, theta, value, by_theta)
    for s in range(at.size):
        j = at[s]
        value[j], g[j], by_theta[j] = stored[0, s], stored[1, s], stored[2, s]


@compiled()
def _inflate(dropout: Any, value: Any, g: Any, by_theta: Any, by_dropout: Any, log_kept: Any) -> None:
    """Turn the row of zeros' terms of the negative binomial into those of the zero-inflated one.

    `log_kept` is filled with log sigmoid(-dropout), and `by_dropout` with the derivative of a zero.
    """
    for j in range(value.size):
        d, log_nb = dropout[j], value[j]
        h = d - log_nb
        q, p = _exp(-abs(d)), _exp(-abs(h))
        inverse_q, inverse_p = _ONE / (_ONE + q), _ONE / (_ONE + p)
        drawn = (p if h > 0 else _ONE) * inverse_p
        not_drawn = (_ONE if h > 0 else p) * inverse_p
        kept = (q if d > 0 else _ONE) * inverse_q
        log1p_q = _log(_ONE + q)
        log_kept[j] = -max(d, _ZERO) - log1p_q
        value[j] = max(min(d, _ZERO), log_nb - max(d, _ZERO)) + (_log(_ONE + p) - log1p_q)
        g[j] *= drawn
        by_theta[j] *= drawn
        by_dropout[j] = -not_drawn * kept * _expm1(log_nb)


@compiled()
def _zinb_row(
    at: Any,
    x: Any,
    logits: Any,
    offset: float,
    mu: Any,
    theta: Any,
    dropout: Any,
    value: Any,
    g: Any,
    by_theta: Any,
    by_dropout: Any,
    log_kept: Any,
) -> None:
    _nb_zeros(mu, theta, value, g, by_theta)
    stored = _nb_stored(at, x, logits, offset, mu, theta, value, by_theta)
    _inflate(dropout, value, g, by_theta, by_dropout, log_kept)
    for s in range(at.size):
        j = at[s]
        value[j], g[j], by_theta[j] = stored[0, s] + log_kept[j], stored[1, s], stored[2, s]
        by_dropout[j] = -_ONE / (_ONE + _exp(-dropout[j]))


@compiled()
def _poisson_row(at: Any, x: Any, logits: Any, offset: float, mu: Any, value: Any, g: Any) -> None:
    for j in range(mu.size):
        value[j] = -mu[j]
        g[j] = -mu[j]
    for s in range(at.size):
        j = at[s]
        count, log_mu = _d(x[s]), logits[j] + offset
        n = int(count)
        if n <= _SMALL and n == count:
            value[j] = count * log_mu - _d(mu[j]) - _LOG_FACTORIAL[n]
            g[j] = count - _d(mu[j])
        else:
            log_x = math.log(count)
            g[j] = count - math.exp(min(log_mu, 600.0))
            deviance = count * log1p_excess((math.exp(min(log_mu, 600.0)) - count) / count, log_mu - log_x)
            value[j] = -deviance - stirling_error(count) - _HALF_LOG_2PI - 0.5 * log_x


@compiled()
def _finish(mu: Any, library: float, softmax: bool, g: Any) -> float:
    """Turn derivatives by log mu into derivatives by the logits; return their sum, the derivative by the log scale."""
    total = _sum(g)
    if softmax:
        factor = _f(total / library)
        for j in range(g.size):
            g[j] -= mu[j] * factor
    return total


@compiled(parallel=True)
def forward(
    kind: int, softmax: bool, wanted: bool, indptr: Any, indices: Any, counts: Any, log_scale: Any, logits: Any,
    theta: Any, dropout: Any, theta_of: Any, value: Any, by_scale: Any, by_logits: Any, by_theta: Any, by_dropout: Any,
) -> None:  # fmt: skip
    """Fill `value` and the derivatives of each (sample, cell), a row of logits each; cells are the rows of the CSR.

    Where derivatives are not `wanted` their arrays have no rows.
    """
    samples, cells = value.shape
    genes = logits.shape[1]
    for row in prange(samples * cells):
        s, c = row // cells, row % cells
        scratch = np.empty((6, genes), np.float32)
        mu, terms = scratch[0], scratch[1]
        g = by_logits[row] if wanted else scratch[2]
        by_t = by_theta[row] if wanted and kind != POISSON else scratch[3]
        by_d = by_dropout[row] if wanted and kind == ZINB else scratch[4]
        at, x = indices[indptr[c] : indptr[c + 1]], counts[indptr[c] : indptr[c + 1]]
        offset, library = _means(logits[row], log_scale[s, c], softmax, mu)
        if kind == NB:
            _nb_row(at, x, logits[row], offset, mu, theta[theta_of[row]], terms, g, by_t)
        elif kind == ZINB:
            t = theta[theta_of[row]]
            _zinb_row(at, x, logits[row], offset, mu, t, dropout[row], terms, g, by_t, by_d, scratch[5])
        else:
            _poisson_row(at, x, logits[row], offset, mu, terms, g)
        value[s, c] = _sum(terms)
        by_scale[s, c] = _finish(mu, library, softmax, g)


@compiled(parallel=True)
def sum_by_row(entries: Any, weight: Any, row_of: Any, block: int, out: Any) -> None:
    """Add each row of `entries`, times its weight, to row `row_of` of `out`; in the order of the rows."""
    genes = entries.shape[1]
    for b in prange((genes + block - 1) // block):
        start, stop = b * block, min((b + 1) * block, genes)
        for i in range(entries.shape[0]):
            for j in range(start, stop):
                out[row_of[i], j] += weight[i] * entries[i, j]
