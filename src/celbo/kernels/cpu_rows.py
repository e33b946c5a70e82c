"""The compiled loops of the fused CPU kernels: elementary functions, the genes of a cell, the parallel loop over cells.

The float32 exp and log are range reductions to powers of two and a polynomial (Cephes, Moshier 1992), within 2 ulp, in
a form that LLVM turns into vector code. Single large counts are evaluated in float64.

All in one file: numba's cache on disk notices a change of the file of a function, not of the files it calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from celbo.kernels.compile import SPLIT_SUMS, compiled

__all__ = ["ENTRIES", "NB", "NORMAL", "POISSON", "SHARED", "TABLE", "ZINB", "forward", "log1p_row", "n_parts"]

NB, ZINB, POISSON, NORMAL = 0, 1, 2, 3
SHARED, TABLE, ENTRIES = 0, 1, 2
"""How rows use theta: all the first row of a table, each cell its row of a table, each (sample, cell) its own."""

_SMALL = 16  # counts up to here by the product form
_LOG_FACTORIAL = np.array([math.lgamma(i + 1) for i in range(_SMALL + 1)])
_INVERSE = np.array([1 / max(i, 1) for i in range(_SMALL + 1)])
_LANES, _CHUNK = 8, 64  # float64 numbers that a vector may hold, and counts evaluated together in float64
_HALF_LOG_2PI = 0.9189385332046728
_GROUP = 8  # rows that a thread takes at a time
_PARALLEL_ABOVE = 1 << 19  # entries; below, to wait for other threads costs more than a pass over them
_BLOCK = 512  # genes summed in float32 before they join a float64 total, or that a thread takes at a time


def _bits(of: Callable[[Any, Any], Any]) -> Any:
    """Return a float32 -> float32 function for compiled code, made of LLVM instructions on the bits."""

    def typed(context: Any, x: Any) -> Any:
        return types.float32(types.float32), lambda _, builder, signature, args: of(builder, args[0])

    return intrinsic(typed)


def _emit_power_of_two(builder: Any, k: Any) -> Any:
    int32 = ir.IntType(32)
    biased = builder.add(builder.fptosi(k, int32), ir.Constant(int32, 127))
    return builder.bitcast(builder.shl(biased, ir.Constant(int32, 23)), ir.FloatType())


def _emit_exponent(builder: Any, x: Any) -> Any:
    int32 = ir.IntType(32)
    above = builder.sub(builder.bitcast(x, int32), ir.Constant(int32, 0x3F3504F3))  # the bits of sqrt(1/2)
    return builder.sitofp(builder.ashr(above, ir.Constant(int32, 23)), ir.FloatType())


@intrinsic
def _larger(context: Any, x: Any, y: Any) -> Any:
    """Return the larger float32; unlike Python's max() in an instruction that LLVM knows to vectorise."""

    def emit(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 2)
        return builder.call(builder.module.declare_intrinsic("llvm.maxnum", [ir.FloatType()], kind), args)

    return types.float32(types.float32, types.float32), emit


_power_of_two = _bits(_emit_power_of_two)  # 2^k for a whole k of -126 to 127
_exponent = _bits(_emit_exponent)  # k with x / 2^k in sqrt(1/2) to sqrt(2), for a normal x > 0


@intrinsic
def _split(context: Any, x: Any) -> Any:
    """Return k and x / 2^k in 1 to 2, for a normal float64 x > 0."""

    def emit(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        int64 = ir.IntType(64)
        bits = builder.bitcast(args[0], int64)
        k = builder.sub(builder.lshr(bits, ir.Constant(int64, 52)), ir.Constant(int64, 1023))
        one = ir.Constant(int64, 0x3FF0000000000000)
        fraction = builder.or_(builder.and_(bits, ir.Constant(int64, 0x000FFFFFFFFFFFFF)), one)
        pair = (builder.sitofp(k, ir.DoubleType()), builder.bitcast(fraction, ir.DoubleType()))
        return target.make_tuple(builder, signature.return_type, pair)

    return types.UniTuple(types.float64, 2)(types.float64), emit


_u = np.uint64  # of an index: it is not asked whether it counts from the end
_f, _d = np.float32, np.float64  # in compiled code, float() of a float32 is a float32
_ROUND = _f(1.5 * 2**23)  # adding it rounds to a whole number
_LOG2_E, _LN2_HIGH, _LN2_LOW = _f(1.4426950408889634), _f(0.693359375), _f(-2.12194440e-4)
_EXP_MIN, _EXP_MAX = _f(-87.3), _f(88.3)
_E0, _E1, _E2 = _f(1.9875691500e-4), _f(1.3981999507e-3), _f(8.3334519073e-3)
_E3, _E4, _E5 = _f(4.1665795894e-2), _f(1.6666665459e-1), _f(5.0000001201e-1)
_L0, _L1, _L2 = _f(7.0376836292e-2), _f(-1.1514610310e-1), _f(1.1676998740e-1)
_L3, _L4, _L5 = _f(-1.2420140846e-1), _f(1.4249322787e-1), _f(-1.6668057665e-1)
_L6, _L7, _L8 = _f(2.0000714765e-1), _f(-2.4999993993e-1), _f(3.3333331174e-1)
_ZERO, _ONE, _TWO, _THREE, _FOUR = _f(0), _f(1), _f(2), _f(3), _f(4)
_HALF, _THIRD, _QUARTER = _f(1 / 2), _f(1 / 3), _f(1 / 4)
_RATIO_MAX = _f(2.0**125)
_LOG_THETA_MAX = _f(80)  # where float32 ends; beyond, the distribution is its limit to the last digit


@compiled()
def _exp_parts(x: Any) -> Any:
    """Return k and e^r - 1 with x = k log 2 + r; x is clipped to the range of normal float32."""
    x = _EXP_MIN if x < _EXP_MIN else x  # not max(): a NaN stays one
    x = _EXP_MAX if x > _EXP_MAX else x
    k = (x * _LOG2_E + _ROUND) - _ROUND
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    r2 = r * r  # in pairs: a vector waits for its own chain of operations, not for a free unit
    p = ((_E0 * r + _E1) * r2 + (_E2 * r + _E3)) * r2 + (_E4 * r + _E5)
    return k, r + r2 * p


@compiled()
def _exp(x: Any) -> Any:
    """Return e^x in float32, x clipped to where the result is a normal number."""
    k, less_one = _exp_parts(x)
    return (less_one + _ONE) * _power_of_two(k)


@compiled()
def _expm1_negative(x: Any) -> Any:
    """Return e^x - 1 in float32 for x <= 0, to a few ulp also near zero."""
    k, less_one = _exp_parts(x)
    power = _power_of_two(k)
    return power * less_one + (power - _ONE)


@compiled()
def _log_tail(t: Any) -> Any:
    """Return P with log(1 + t) = t - t^2/2 + t^3 P, for sqrt(1/2) < 1 + t < sqrt(2)."""
    t2 = t * t
    high = (_L0 * t2 + (_L1 * t + _L2)) * t2 + (_L3 * t + _L4)
    return high * (t2 * t2) + ((_L5 * t + _L6) * t2 + (_L7 * t + _L8))


@compiled()
def _log(x: Any) -> Any:
    """Return log x in float32 for a normal x > 0."""
    k = _exponent(x)
    t = x * _power_of_two(-k) - _ONE
    return k * _LN2_HIGH + (t + (t * t * (t * _log_tail(t) - _HALF) + k * _LN2_LOW))


@compiled()
def _log_wide(x: float) -> float:
    """Return log x of a normal float64 x > 0 with the absolute error of float32 near one, 1e-7."""
    k, fraction = _split(x)
    return k * 0.6931471805599453 + np.float64(_log(_f(fraction)))


@compiled()
def _log1p_parts(r: Any) -> Any:
    """Return `log(1 + r)`, `log(1 + r) - r/(1 + r)` and `1/(1 + r)` in float32, none with cancellation.

    r must be within 0 and `_RATIO_MAX`.
    """
    w = _ONE + r
    inverse = _ONE / w
    k = _exponent(w)
    scale = _power_of_two(-k)
    t = (w * scale - _ONE) + (r - (w - _ONE)) * scale  # with the digits of r that 1 + r has lost
    tail = _log_tail(t)
    log1p = k * _LN2_HIGH + (t + (t * t * (t * tail - _HALF) + k * _LN2_LOW))
    excess = r * r * ((inverse - _HALF) + r * tail) if k == _ZERO else log1p - r * inverse
    return log1p, excess, inverse


@compiled()
def log1p_row(x: Any, out: Any) -> None:
    """Fill `out` with log(1 + x) in float32."""
    n_other = 0  # negative, beyond the range of the vector code, or NaN
    for j in range(x.size):
        usual = x[j] >= _ZERO and x[j] < _RATIO_MAX
        n_other += 0 if usual else 1
        log1p, _, _ = _log1p_parts(x[j] if usual else _ZERO)
        out[j] = log1p
    if n_other:
        for j in range(x.size):
            if not (x[j] >= _ZERO and x[j] < _RATIO_MAX):
                out[j] = np.log1p(x[j])


# One large count at a time, in float64


@compiled()
def _log1p_excess(u: float, log1p_u: float) -> float:
    """Return `u - log(1 + u)` for u > -1, given the logarithm."""
    if abs(u) >= 0.1:
        return u - log1p_u
    v = u / (2 + u)
    v2 = v * v
    return u * v - 2 * v * v2 * (1 / 3 + v2 * (1 / 5 + v2 * (1 / 7 + v2 * (1 / 9 + v2 / 11))))


@compiled()
def _stirling_error(z: float) -> float:
    """Return `log z! - (z + 1/2) log z + z - log(2 pi)/2` for z > 0."""
    if z < 10:
        return math.lgamma(z + 1) - (z + 0.5) * math.log(z) + z - 0.9189385332046728
    y = 1 / (z * z)
    return (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y / 1188)))) / z


@compiled()
def _digamma_error(z: float) -> float:
    """Return `log z - 1/(2 z) - digamma(z)` for z > 0."""
    shifted, terms = z, 0.0
    while shifted < 10:
        terms += 1 / shifted
        shifted += 1
    y = 1 / (shifted * shifted)
    series = y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y / 132))))
    return series if z >= 10 else math.log(z / shifted) + (terms - 0.5 / z) + 0.5 / shifted + series


# The genes of one cell

_FAR, _NEAR = _f(1e-20), _f(-0.29)  # of a probability: where in logarithms, and how close to one by its distance to one
_FEW_MIN, _FEW_MAX = _f(1e-9), _f(1e9)  # four factors between them stay within float32


@compiled(flags=SPLIT_SUMS)
def _sum(values: Any) -> float:
    """Return the sum of a row in float64, of float32 sums of blocks."""
    total = 0.0
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        part: Any = _ZERO
        for j in range(block.size):
            part += block[j]
        total += part
    return total


@compiled(flags=SPLIT_SUMS | {"nnan"})  # without NaN in mind, or it would not be vectorised; the exp will meet the NaN
def _max(values: Any) -> Any:
    top = values[0]
    for j in range(values.size):
        top = _larger(top, values[j])
    return top


@compiled()
def _means(logits: Any, log_scale: Any, softmax: bool, mu: Any) -> Any:
    """Fill the row of means; return what to add to a logit for the log of its mean, and the share of the largest."""
    shift = _max(logits) if softmax else -log_scale
    for j in range(mu.size):
        mu[j] = _exp(logits[j] - shift)
    if not softmax:
        return _d(log_scale), 0.0
    total = _sum(mu)
    factor = _f(math.exp(_d(log_scale)) / total)
    for j in range(mu.size):
        mu[j] *= factor
    return _d(log_scale) - _d(shift) - math.log(total), 1 / total


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
    g, excess, log_x = theta * u, theta * _log1p_excess(u, log1p_u), math.log(x)
    deviance = excess + x * _log1p_excess(-g / x, log_mu + log1p_u - log_x)
    errors = _stirling_error(x) + _stirling_error(theta) - _stirling_error(total)
    value = -deviance - errors - _HALF_LOG_2PI - 0.5 * (log_x + math.log1p(x / theta))
    by_theta = x / (2 * total) + theta * (_digamma_error(theta) - _digamma_error(total)) - excess
    return value, g, by_theta


@compiled()
def _nb_few(x: Any, mu: Any, theta: Any, value: Any, g: Any, by_theta: Any, few: Any) -> None:
    """Add to the terms of zeros in `value` and `by_theta` what makes them those of counts up to 4; fill `g` and `few`.

    By the product form, in float32 and without a branch: sum_{i<n} (mu - i)/(theta + i) is `above / below`, with one
    division. `few` is 1 where that was right: up to 4, whole, the products within float32.
    """
    for s in range(x.size):
        m, t, n = mu[s], theta[s], x[s]
        inverse = _ONE / (t + m)
        share = m * inverse
        t1, t2, t3 = t + _ONE, t + _TWO, t + _THREE
        product, above, below = share * t, m, t
        lowest = product if m < _FEW_MAX else _ZERO
        lowest = lowest if t < _FEW_MAX else _ZERO
        lowest = lowest if (n + _ROUND) - _ROUND == n else _ZERO
        lowest = lowest if n <= _FOUR else _ZERO
        lowest = _ONE if n == _ZERO else lowest
        few[s] = _ONE if lowest > _FEW_MIN else _ZERO
        product *= share * t1 * _HALF if n > _ONE else _ONE
        product *= share * t2 * _THIRD if n > _TWO else _ONE
        product *= share * t3 * _QUARTER if n > _THREE else _ONE
        above = above * t1 + (m - _ONE) * below if n > _ONE else above
        below *= t1 if n > _ONE else _ONE
        above = above * t2 + (m - _TWO) * below if n > _TWO else above
        below *= t2 if n > _TWO else _ONE
        above = above * t3 + (m - _THREE) * below if n > _THREE else above
        below *= t3 if n > _THREE else _ONE
        value[s] += _log(product)
        g[s] = t * inverse * (n - m)
        by_theta[s] += above / below * (t * inverse)


@compiled()
def _nb_some(x: Any, mu: Any, theta: Any, value: Any, g: Any, by_theta: Any) -> None:
    """Fill the last three with the same of counts up to `_SMALL`, in float64."""
    for s in range(x.size):
        m, t, n = mu[s], theta[s], x[s]
        inverse = 1 / (t + m)
        share = m * inverse
        product, above, below = share * t, m, t
        for i in range(1, _SMALL):
            more = n > i
            product *= share * (t + i) * _INVERSE[i + 1] if more else 1.0
            above = above * (t + i) + (m - i) * below if more else above
            below *= t + i if more else 1.0
        value[s] = _log_wide(product)
        g[s] = t * inverse * (n - m)
        by_theta[s] = above / below * (t * inverse)


@compiled()
def _nb_others(which: Any, at: Any, x: Any, logits: Any, offset: float, m: Any, t: Any, out: Any, zeros: Any) -> None:
    """Fill the value and the derivatives in `out` of those stored counts that are not few."""
    wide = np.empty((6, _CHUNK))
    n, mu, theta, value, g, by_theta = wide[0], wide[1], wide[2], wide[3], wide[4], wide[5]
    for start in range(0, which.size, _CHUNK):
        part = which[start : start + _CHUNK]
        end = (part.size + _LANES - 1) // _LANES * _LANES  # whole vectors
        for i in range(part.size, end):
            n[i] = mu[i] = theta[i] = 1.0
        for i in range(part.size):
            s = part[i]
            count, mean, shape = _d(x[s]), _d(m[s]), _d(t[s])
            within = mean < 1e18 and shape < 1e18 and mean * shape > 1e-18 * (mean + shape)  # the product, float64
            some = within and count <= _SMALL and count == int(count)
            n[i], mu[i], theta[i] = count if some else 0.0, mean if some else 1.0, shape if some else 1.0
        _nb_some(n[:end], mu[:end], theta[:end], value[:end], g[:end], by_theta[:end])
        for i in range(part.size):
            s, j = part[i], at[part[i]]
            if n[i] > 0:
                out[0, s], out[1, s], out[2, s] = value[i] + zeros[0][j], g[i], by_theta[i] + zeros[1][j]
            else:
                out[0, s], out[1, s], out[2, s] = _nb_large(_d(x[s]), logits[j] + offset, _d(t[s]))


@compiled()
def _nb_stored(at: Any, x: Any, logits: Any, offset: float, mu: Any, theta: Any, zero: Any, zero_by_theta: Any) -> Any:
    """Return log NB and its derivatives by log mu and log theta of the stored counts, (3 or more, stored or more)."""
    end = (at.size + 2 * _LANES - 1) // (2 * _LANES) * 2 * _LANES  # whole vectors
    out = np.empty((7, end), np.float32)
    value, g, by_theta, few, m, t, n = out[0], out[1], out[2], out[3], out[4], out[5], out[6]
    for s in range(at.size):
        j = _u(at[s])
        m[s], t[s], n[s], value[s], by_theta[s] = mu[j], theta[j], x[s], zero[j], zero_by_theta[j]
    for s in range(at.size, end):
        m[s] = t[s] = n[s] = value[s] = by_theta[s] = _ONE
    _nb_few(n, m, t, value, g, by_theta, few)
    which, n_others = np.empty(at.size, np.int64), 0
    for s in range(at.size):
        which[n_others] = s
        n_others += 0 if few[s] > _ZERO else 1
    if n_others:
        _nb_others(which[:n_others], at, x, logits, offset, m, t, out, (zero, zero_by_theta))
    return out


@compiled()
def _nb_row(
    at: Any, x: Any, logits: Any, offset: float, mu: Any, theta: Any, value: Any, g: Any, by_theta: Any
) -> None:
    _nb_zeros(mu, theta, value, g, by_theta)
    stored = _nb_stored(at, x, logits, offset, mu, theta, value, by_theta)
    for s in range(at.size):
        if x[s] != _ZERO:  # a zero may be stored: it stays one
            j = _u(at[s])
            value[j], g[j], by_theta[j] = stored[0, s], stored[1, s], stored[2, s]


@compiled()
def _inflate(dropout: Any, value: Any, g: Any, by_theta: Any, by_dropout: Any) -> None:
    """Turn the row of zeros' terms of the negative binomial into those of the zero-inflated one.

    `by_dropout` is filled with the derivative of a zero. With kept = sigmoid(-dropout) the probability of a zero is
    1 + kept expm1(log_nb), or a sum of two positive terms: of the two, one does not cancel.
    """
    for j in range(value.size):
        d, log_nb = dropout[j], value[j]
        q = _exp(-abs(d))
        k, less_one = _exp_parts(log_nb)
        power = _power_of_two(k)
        kept, dropped = q if d > _ZERO else _ONE, _ONE if d > _ZERO else q  # these, drawn and p: times 1 + q
        drawn = kept * (power * less_one + power)
        p = drawn + dropped
        inverse_q, inverse_p = _ONE / (_ONE + q), _ONE / p
        less_one = kept * inverse_q * (power * less_one + (power - _ONE))
        far = p < _FAR
        either = less_one if less_one > _NEAR else p * inverse_q
        share, slope = drawn * inverse_p, -less_one * (dropped * inverse_p)
        share = _ONE if far else share
        value[j] = log_nb if far else either
        g[j] *= share
        by_theta[j] *= share
        by_dropout[j] = _TWO if far else slope
    _log_either(value)  # in a loop of its own: each has a shorter chain of operations that wait for one another
    if _max(by_dropout) > _ONE:
        _inflate_far(dropout, value, g, by_theta, by_dropout)


@compiled()
def _log_either(value: Any) -> None:
    """Replace what is above zero by its log, what is in `_NEAR` to zero by log(1 + it); keep what is below -1."""
    for j in range(value.size):
        v = value[j]
        near = v <= _ZERO
        w = _ONE if near else v
        k = _exponent(w)
        t = w * _power_of_two(-k) - _ONE
        t = v if near else t
        log = k * _LN2_HIGH + (t + (t * t * (t * _log_tail(t) - _HALF) + k * _LN2_LOW))
        value[j] = v if v < -_ONE else log


@compiled()
def _inflate_far(dropout: Any, value: Any, g: Any, by_theta: Any, by_dropout: Any) -> None:
    """Do the same in logarithms where a 2 marks both parts of the probability as tiny: there kept is 1."""
    for j in range(value.size):
        if by_dropout[j] > _ONE:
            d, log_nb = dropout[j], value[j]
            p = _exp(-abs(d - log_nb))
            drawn = (p if d > log_nb else _ONE) / (_ONE + p)
            value[j] = (d if d > log_nb else log_nb) + _log(_ONE + p)
            g[j] *= drawn
            by_theta[j] *= drawn
            by_dropout[j] = (_ONE if d > log_nb else p) / (_ONE + p)


@compiled()
def _keep(dropout: Any, log_kept: Any, by_dropout: Any) -> None:
    """Fill with log sigmoid(-dropout) and its derivative."""
    for s in range(dropout.size):
        d = dropout[s]
        q = _exp(-abs(d))
        log_kept[s] = -(d if d > _ZERO else _ZERO) - _log(_ONE + q)
        by_dropout[s] = -(_ONE if d > _ZERO else q) / (_ONE + q)


@compiled()
def _zinb_row(
    at: Any, x: Any, logits: Any, offset: float, mu: Any, theta: Any, dropout: Any,
    value: Any, g: Any, by_theta: Any, by_dropout: Any,
) -> None:  # fmt: skip
    _nb_zeros(mu, theta, value, g, by_theta)
    stored = _nb_stored(at, x, logits, offset, mu, theta, value, by_theta)
    _inflate(dropout, value, g, by_theta, by_dropout)
    kept = stored[3:6]
    for s in range(at.size):
        kept[0, s] = dropout[_u(at[s])]
    _keep(kept[0], kept[1], kept[2])
    for s in range(at.size):
        if x[s] != _ZERO:
            j = _u(at[s])
            value[j], g[j], by_theta[j] = stored[0, s] + kept[1, s], stored[1, s], stored[2, s]
            by_dropout[j] = kept[2, s]


@compiled()
def _poisson_row(at: Any, x: Any, logits: Any, offset: float, mu: Any, value: Any, g: Any) -> None:
    for j in range(mu.size):
        value[j] = -mu[j]
        g[j] = -mu[j]
    for s in range(at.size):
        j = at[s]
        count, log_mu = _d(x[s]), logits[j] + offset
        n = int(count)
        if n <= _SMALL and n == count:  # a stored zero too
            value[j] = count * log_mu - _d(mu[j]) - _LOG_FACTORIAL[n]
            g[j] = count - _d(mu[j])
        else:
            log_x = math.log(count)
            g[j] = count - math.exp(min(log_mu, 600.0))
            deviance = count * _log1p_excess((math.exp(min(log_mu, 600.0)) - count) / count, log_mu - log_x)
            value[j] = -deviance - _stirling_error(count) - _HALF_LOG_2PI - 0.5 * log_x


@compiled()
def _normal_row(
    at: Any, x: Any, logits: Any, offset: float, mu: Any, log_sd: Any, precision: Any, value: Any, g: Any, by_sd: Any
) -> None:
    for j in range(mu.size):
        z = mu[j] * precision[j]
        square = z * z
        value[j] = -_HALF * square - log_sd[j] - _f(_HALF_LOG_2PI)
        g[j] = -square
        by_sd[j] = square - _ONE
    for s in range(at.size):
        if x[s] != _ZERO:
            j = at[s]  # in float64: x - mean cancels
            mean, inverse_sd = math.exp(logits[j] + offset), math.exp(-_d(log_sd[j]))
            z64 = (_d(x[s]) - mean) * inverse_sd
            value[j] = -0.5 * z64 * z64 - log_sd[j] - _HALF_LOG_2PI
            g[j] = z64 * (inverse_sd * mean)
            by_sd[j] = z64 * z64 - 1


@compiled()
def _theta(kind: int, log_theta: Any, theta: Any) -> None:
    """Fill the row of inverse dispersions; for the normal, of inverse standard deviations."""
    if kind == NORMAL:
        for j in range(theta.size):
            theta[j] = _exp(-log_theta[j])
        return
    for j in range(theta.size):
        t = log_theta[j]
        t = -_LOG_THETA_MAX if t < -_LOG_THETA_MAX else t  # not max(): a NaN stays one
        theta[j] = _exp(_LOG_THETA_MAX if t > _LOG_THETA_MAX else t)


@compiled()
def _finish(mu: Any, log_scale: Any, softmax: bool, largest: float, factor: Any, g: Any) -> float:
    """Turn derivatives by log mu into derivatives by the logits, times a factor.

    Return the sum of those by log mu, the derivative by the log scale.
    """
    total = _sum(g)
    share = _f(total / math.exp(_d(log_scale))) if softmax else _ZERO
    for j in range(g.size):
        g[j] = (g[j] - mu[j] * share) * factor
    if largest > 0.5:  # its own derivative cancels, but they sum to zero
        at = np.argmax(mu)
        g[at] = _ZERO
        g[at] = -_sum(g)
    return total


@compiled()
def _scale(factor: Any, values: Any) -> None:
    for j in range(values.size):
        values[j] *= factor


@compiled()
def _add(factor: Any, values: Any, total: Any) -> None:
    for j in range(values.size):
        total[j] += values[j] * factor


@compiled(parallel=True)
def _fill_table(kind: int, log_theta: Any, table: Any) -> None:
    """Fill a table by `_theta`; in parallel only where it pays."""
    if table.size < _PARALLEL_ABOVE:
        for row in range(table.shape[0]):
            _theta(kind, log_theta[row], table[row])
    else:
        for row in prange(table.shape[0]):
            _theta(kind, log_theta[row], table[row])


@compiled()
def _sum_columns(parts: Any, theta_row: Any, start: int, stop: int, by_theta: Any) -> None:
    for r in range(by_theta.shape[0]):
        by_theta[r, start:stop] = _ZERO
    for i in range(parts.shape[0]):
        r = theta_row[i % theta_row.size] if theta_row.size else 0
        target, source = by_theta[r, start:stop], parts[i, start:stop]
        for j in range(target.size):
            target[j] += source[j]


@compiled(parallel=True)
def _sum_parts(parts: Any, theta_row: Any, by_theta: Any) -> None:
    """Fill the derivatives by a table of theta with the sums of its rows of `parts`, in their order."""
    genes = by_theta.shape[1]
    if parts.size < _PARALLEL_ABOVE:
        _sum_columns(parts, theta_row, 0, genes, by_theta)
    else:
        for block in prange((genes + _BLOCK - 1) // _BLOCK):
            _sum_columns(parts, theta_row, block * _BLOCK, min((block + 1) * _BLOCK, genes), by_theta)


def n_parts(use: int, rows: int) -> int:
    """Return how many rows of `parts` the parallel loop needs to sum derivatives by theta, where they are wanted."""
    return {SHARED: -(-rows // _GROUP), TABLE: rows, ENTRIES: 0}[use]


@compiled()
def _row(
    kind: int, softmax: bool, at: Any, x: Any, logits: Any, log_scale: Any, log_theta: Any, theta: Any, dropout: Any,
    mu: Any, terms: Any, g: Any, by_theta: Any, by_dropout: Any,
) -> Any:  # fmt: skip
    """Fill the terms of a row, and its derivatives by log mu, log theta and dropout; return the largest share."""
    offset, largest = _means(logits, log_scale, softmax, mu)
    if kind == NB:
        _nb_row(at, x, logits, offset, mu, theta, terms, g, by_theta)
    elif kind == ZINB:
        _zinb_row(at, x, logits, offset, mu, theta, dropout, terms, g, by_theta, by_dropout)
    elif kind == POISSON:
        _poisson_row(at, x, logits, offset, mu, terms, g)
    else:
        _normal_row(at, x, logits, offset, mu, log_theta, theta, terms, g, by_theta)
    return largest


@compiled(parallel=True)
def forward(
    kind: int, softmax: bool, wanted: bool, use: int, indptr: Any, indices: Any, counts: Any, theta_row: Any,
    logits: Any, log_scale: Any, log_theta: Any, dropout: Any, weight: Any,
    value: Any, by_scale: Any, by_logits: Any, by_theta: Any, by_dropout: Any, parts: Any,
) -> None:  # fmt: skip
    """Fill `value` and its derivatives times the `weight` of each (sample, cell); cells are the rows of the CSR.

    Where derivatives are not `wanted` their arrays have no rows. `parts` is memory for `n_parts` rows.
    """
    samples, cells, genes = logits.shape
    rows, has_theta, inflated = samples * cells, kind != POISSON, kind == ZINB
    own = by_theta if use == ENTRIES else parts
    table = np.empty((0 if use == ENTRIES else log_theta.shape[0], genes), np.float32)
    _fill_table(kind, log_theta, table)
    for group in prange((rows + _GROUP - 1) // _GROUP):
        scratch = np.empty((6, genes), np.float32)
        mu, terms = scratch[0], scratch[1]
        if use == SHARED and own.size:
            own[group] = _ZERO
        for row in range(group * _GROUP, min((group + 1) * _GROUP, rows)):
            s, c = row // cells, row % cells
            g = by_logits[s, c] if wanted else scratch[2]
            by_t = own[row] if use != SHARED and own.size else scratch[3]
            by_d = by_dropout[s, c] if inflated and wanted else scratch[4]
            d = dropout[s, c] if inflated else scratch[4]
            t = row if use == ENTRIES else (theta_row[c] if use == TABLE else 0)
            log_theta_row = log_theta[t] if has_theta else scratch[5]
            theta = table[t] if has_theta and use != ENTRIES else scratch[5]
            if use == ENTRIES:
                _theta(kind, log_theta_row, theta)
            at, x = indices[indptr[c] : indptr[c + 1]], counts[indptr[c] : indptr[c + 1]]
            largest = _row(
                kind, softmax, at, x, logits[s, c], log_scale[s, c], log_theta_row, theta, d,
                mu, terms, g, by_t, by_d,
            )  # fmt: skip
            value[s, c] = _sum(terms)
            if wanted:
                factor = weight[s, c]
                by_scale[s, c] = _finish(mu, log_scale[s, c], softmax, largest, factor, g) * factor
                if use == SHARED and own.size:
                    _add(factor, by_t, own[group])
                elif own.size:
                    _scale(factor, by_t)
                if inflated:
                    _scale(factor, by_d)
    if parts.size:
        _sum_parts(parts, theta_row, by_theta)
