"""Scalar float32 functions that LLVM turns into vector code, and float64 ones for single large counts.

The float32 exp and log are range reductions to powers of two and a polynomial (Cephes, Moshier 1992), within 1 ulp.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = [
    "RATIO_MAX",
    "compiled",
    "digamma_error",
    "exp",
    "expm1_negative",
    "larger",
    "log",
    "log1p_excess",
    "log1p_parts",
    "log_wide",
    "stirling_error",
]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(*, parallel: bool = False, flags: frozenset[str] = frozenset()) -> Callable[[F], F]:
    """Return a decorator that compiles a function with numba, on first use, and keeps the result on disk.

    `flags` are LLVM's licences for its floating-point arithmetic beyond fused multiply-add: "reassoc" splits a sum over
    vector lanes; never in a function whose rounding is planned.
    """

    def decorate(function: F) -> F:
        made: F = numba.njit(
            cache=True, nogil=True, error_model="numpy", fastmath={"contract", *flags}, parallel=parallel
        )(function)
        return made

    return decorate


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
def larger(context: Any, x: Any, y: Any) -> Any:
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

    def emit(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        int64 = ir.IntType(64)
        bits = builder.bitcast(args[0], int64)
        k = builder.sub(builder.lshr(bits, ir.Constant(int64, 52)), ir.Constant(int64, 1023))
        one = ir.Constant(int64, 0x3FF0000000000000)
        fraction = builder.or_(builder.and_(bits, ir.Constant(int64, 0x000FFFFFFFFFFFFF)), one)
        pair = (builder.sitofp(k, ir.DoubleType()), builder.bitcast(fraction, ir.DoubleType()))
        return context_tuple(builder, pair)

    def context_tuple(builder: Any, pair: Any) -> Any:
        out = ir.Constant(ir.LiteralStructType([ir.DoubleType()] * 2), ir.Undefined)
        return builder.insert_value(builder.insert_value(out, pair[0], 0), pair[1], 1)

    return types.UniTuple(types.float64, 2)(types.float64), emit


_f = np.float32
_ROUND = _f(1.5 * 2**23)  # adding it rounds to a whole number
_LOG2_E, _LN2_HIGH, _LN2_LOW = _f(1.4426950408889634), _f(0.693359375), _f(-2.12194440e-4)
_EXP_MIN, _EXP_MAX = _f(-87.3), _f(88.3)
_E0, _E1, _E2 = _f(1.9875691500e-4), _f(1.3981999507e-3), _f(8.3334519073e-3)
_E3, _E4, _E5 = _f(4.1665795894e-2), _f(1.6666665459e-1), _f(5.0000001201e-1)
_L0, _L1, _L2 = _f(7.0376836292e-2), _f(-1.1514610310e-1), _f(1.1676998740e-1)
_L3, _L4, _L5 = _f(-1.2420140846e-1), _f(1.4249322787e-1), _f(-1.6668057665e-1)
_L6, _L7, _L8 = _f(2.0000714765e-1), _f(-2.4999993993e-1), _f(3.3333331174e-1)
_ZERO, _HALF, _ONE = _f(0), _f(0.5), _f(1)
RATIO_MAX = _f(2.0**125)


@compiled()
def _exp_parts(x: Any) -> Any:
    """Return k and e^r - 1 with x = k log 2 + r; x is clipped to the range of normal float32."""
    x = _EXP_MIN if x < _EXP_MIN else x  # not max(): a NaN stays one
    x = _EXP_MAX if x > _EXP_MAX else x
    k = (x * _LOG2_E + _ROUND) - _ROUND
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    p = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
    return k, r + r * r * p


@compiled()
def exp(x: Any) -> Any:
    """Return e^x in float32, x clipped to where the result is a normal number."""
    k, less_one = _exp_parts(x)
    return (less_one + _ONE) * _power_of_two(k)


@compiled()
def expm1_negative(x: Any) -> Any:
    """Return e^x - 1 in float32 for x <= 0, to a few ulp also near zero."""
    k, less_one = _exp_parts(x)
    power = _power_of_two(k)
    return power * less_one + (power - _ONE)


@compiled()
def _log_tail(t: Any) -> Any:
    """Return P with log(1 + t) = t - t^2/2 + t^3 P, for sqrt(1/2) < 1 + t < sqrt(2)."""
    return (((((((_L0 * t + _L1) * t + _L2) * t + _L3) * t + _L4) * t + _L5) * t + _L6) * t + _L7) * t + _L8


@compiled()
def log(x: Any) -> Any:
    """Return log x in float32 for a normal x > 0."""
    k = _exponent(x)
    t = x * _power_of_two(-k) - _ONE
    return k * _LN2_HIGH + (t + (t * t * (t * _log_tail(t) - _HALF) + k * _LN2_LOW))


@compiled()
def log_wide(x: float) -> float:
    """Return log x of a normal float64 x > 0 with the absolute error of float32 near one, 1e-7."""
    k, fraction = _split(x)
    return k * 0.6931471805599453 + np.float64(log(_f(fraction)))


@compiled()
def log1p_parts(r: Any) -> Any:
    """Return `log(1 + r)`, `log(1 + r) - r/(1 + r)` and `1/(1 + r)` in float32, none with cancellation.

    r must be within 0 and `RATIO_MAX`.
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


# One large count at a time, in float64


@compiled()
def log1p_excess(u: float, log1p_u: float) -> float:
    """Return `u - log(1 + u)` for u > -1, given the logarithm."""
    if abs(u) >= 0.1:
        return u - log1p_u
    v = u / (2 + u)
    v2 = v * v
    return u * v - 2 * v * v2 * (1 / 3 + v2 * (1 / 5 + v2 * (1 / 7 + v2 * (1 / 9 + v2 / 11))))


@compiled()
def stirling_error(z: float) -> float:
    """Return `log z! - (z + 1/2) log z + z - log(2 pi)/2` for z > 0."""
    if z < 10:
        return math.lgamma(z + 1) - (z + 0.5) * math.log(z) + z - 0.9189385332046728
    y = 1 / (z * z)
    return (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y / 1188)))) / z


@compiled()
def digamma_error(z: float) -> float:
    """Return `log z - 1/(2 z) - digamma(z)` for z > 0."""
    shifted, terms = z, 0.0
    while shifted < 10:
        terms += 1 / shifted
        shifted += 1
    y = 1 / (shifted * shifted)
    series = y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y / 132))))
    return series if z >= 10 else math.log(z / shifted) + (terms - 0.5 / z) + 0.5 / shifted + series
