"""Probability of a count under a continuous density: that of the interval from half below to half above it.

A density of transformed counts cannot be compared with a probability of counts, whatever Jacobian is put beside it: the
number is in other units, and a density narrow around the zeros can be as high as one likes. What the same model says
about the count k is the probability of all values that round to k,

    P(k) = F((f(k + 1/2) - mean) / sd) - F((f(k - 1/2) - mean) / sd),    lower end of k = 0 at -infinity,

which sums to one over k = 0, 1, 2, ... and is at most one. `f` is what was done to the counts before the model saw
them.

The difference of two values of F is formed at the end of the interval that is nearer to the mean, with Mills' ratio
`m(t) = (1 - F(t)) / phi(t)`, and by its series around the middle where the interval is narrow, so that neither the far
tails nor narrow intervals cancel.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from celbo.data.minibatch import SparseRows
from celbo.errors import CountsError, OptionError
from celbo.likelihoods.special import HALF_LOG_2PI

__all__ = ["interval_log_prob", "log_normal_interval", "normal_interval"]

_NARROW = 0.05  # three terms of the series are exact to 1e-11 of the probability below it
_BLOCK = 1 << 22
"""Entries of a (samples, cells, genes) tensor in float64 that exist at a time."""


def interval_log_prob(
    counts: SparseRows | Tensor,
    mean: Tensor,
    sd: Tensor,
    scale: Tensor | None = None,
    *,
    transform: Literal["log1p", "identity"] = "log1p",
    first_gene: int = 0,
) -> Tensor:
    """Return the log-probability in nats of each cell's counts under a Gaussian of transformed counts.

    The transform is `y = log(1 + scale x)` or `y = scale x`, and y ~ N(mean, sd). For a further linear map of each
    gene, `(y - a) / b`, pass `b mean + a` and `b sd`; for log2(1 + x), `log(2) mean` and `log(2) sd`.

    Genes add up: a caller that cannot hold all genes of all samples passes the genes from `first_gene` on, block by
    block, and sums. Within a call the memory beside `mean` is bounded (some hundred MB).

    Parameters
    ----------
    counts
        Raw counts of the cells with all genes: sparse rows, or dense (cells, genes).
    mean
        Mean of y, (samples, cells, genes of the block).
    sd
        Standard deviation of y, broadcastable to `mean`.
    scale
        What each cell's counts are multiplied with before the logarithm, such as 10,000 / library; (cells,). None: 1.
    transform
        "log1p" or "identity".
    first_gene
        Gene of the data that is the first of `mean`.

    Returns
    -------
    Tensor
        (samples, cells), float64.

    Raises
    ------
    CountsError
        If a value is not a count.
    OptionError
        If the transform does not exist, or the shapes do not fit.
    """
    rows = counts if isinstance(counts, SparseRows) else SparseRows.from_dense(counts)
    _check(rows, mean, transform, first_gene)
    factor = torch.ones(rows.n_cells, device=mean.device) if scale is None else scale
    factor = factor.double()
    sd, genes = sd.expand_as(mean), mean.shape[2]
    step = max(1, _BLOCK // (mean.shape[0] * mean.shape[1]))
    total = mean.new_zeros(mean.shape[:2], dtype=torch.float64)
    for start in range(0, genes, step):
        mean_of, sd_of = (t[..., start : start + step].double() for t in (mean, sd))
        entries = _entries(rows, mean_of, sd_of, factor, transform=transform, first_gene=first_gene + start)
        total = total + entries.sum(-1)
    return total


def _check(rows: SparseRows, mean: Tensor, transform: str, first_gene: int) -> None:
    if transform not in ("log1p", "identity"):
        raise OptionError("does not exist", where="transform", value=repr(transform), fix="Use 'log1p' or 'identity'.")
    if mean.shape[1] != rows.n_cells or not 0 <= first_gene <= rows.n_genes - mean.shape[2]:
        raise OptionError(
            "does not fit the counts",
            where="the mean",
            value=f"{tuple(mean.shape)} from gene {first_gene} on, for {rows.n_cells} cells x {rows.n_genes} genes",
            fix="Pass (samples, cells, genes) of the same cells, and the first of these genes.",
        )
    bad = (rows.values < 0) | (rows.values != rows.values.round())
    if bool(bad.any()):
        raise CountsError(
            "hold values that are not counts",
            where="the counts of an interval",
            value=f"{rows.values[bad][0].item():g}",
            fix="Pass raw counts and say what was done to them by `transform` and `scale`.",
        )


def _entries(rows: SparseRows, mean: Tensor, sd: Tensor, scale: Tensor, *, transform: str, first_gene: int) -> Tensor:
    """Return the log-probability of each entry of a block of genes, (samples, cells, genes of the block)."""
    samples, _, genes = mean.shape
    half = 0.5 * scale
    upper_of_zero = half.log1p() if transform == "log1p" else half
    zeros: Tensor = torch.special.log_ndtr((upper_of_zero[:, None] - mean) / sd)

    here = (rows.indices >= first_gene) & (rows.indices < first_gene + genes) & (rows.values > 0)
    cell, gene, x = rows.row_of[here], rows.indices[here] - first_gene, rows.values[here].double()
    at, s = cell * genes + gene, scale[cell]
    below = s * (x - 0.5)
    lower, width = (below.log1p(), (s / (1 + below)).log1p()) if transform == "log1p" else (below, s)
    mean_at, sd_at = (t.reshape(samples, -1).index_select(1, at) for t in (mean, sd))
    stored = log_normal_interval((lower - mean_at) / sd_at, width / sd_at)
    return zeros.reshape(samples, -1).index_copy(1, at, stored).view_as(zeros)


def log_normal_interval(lower: Tensor, width: Tensor) -> Tensor:
    """Return `log(F(lower + width) - F(lower))` of the standard normal F, float64; differentiable once."""
    out: Tensor = _Interval.apply(lower, width)  # type: ignore[no-untyped-call]
    return out


class _Interval(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lower: Tensor, width: Tensor) -> Tensor:
        value, by_lower, by_width = normal_interval(lower, width)
        ctx.save_for_backward(by_lower, by_width)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        by_lower, by_width = ctx.saved_tensors
        return grad * by_lower, grad * by_width


def normal_interval(lower: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `log(F(lower + width) - F(lower))` of the standard normal F, and its derivatives by lower and by width.

    `lower` is finite and `width` above zero, of the same shape. The width is an argument of its own because the
    difference of two ends that are close has lost it.
    """
    half = 0.5 * width
    middle = lower + half
    mirrored = middle < 0
    near = torch.where(mirrored, -(lower + width), lower)  # below zero: the mean lies within the interval
    middle = middle.abs()

    # each form gives the log-probability and phi(near end) / P, phi(far end) / P, and their difference
    forms = (_around(near, width), _tail(near.clamp(min=0), width), _narrow(middle, half))
    narrow = (half < _NARROW) & (middle * half < _NARROW)

    def chosen(i: int) -> Tensor:
        return torch.where(narrow, forms[2][i], torch.where(near < 0, forms[0][i], forms[1][i]))

    value, at_near, at_far, difference = (chosen(i) for i in range(4))
    return value, torch.where(mirrored, difference, -difference), torch.where(mirrored, at_near, at_far)


def _around(near: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of an interval with the mean in it: two probabilities that add up, or one minus two small ones."""
    ends = torch.stack([-near, near + width]) / math.sqrt(2)
    inside, outside = 0.5 * ends.erf().sum(0), 0.5 * ends.erfc().sum(0)
    value = torch.where(inside > 0.5, (-outside).log1p(), inside.log())
    at_near, at_far = (-ends.square() - HALF_LOG_2PI - value).exp()
    return value, at_near, at_far, at_near - at_far


def _tail(near: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of an interval beyond the mean: `P / phi(near) = m(near) - m(far) e^-d` with `d = (far^2 - near^2) / 2`."""
    d = width * (near + 0.5 * width)
    decay = (-d).exp()
    ratio = _mills(near) - _mills(near + width) * decay
    return -0.5 * near.square() - HALF_LOG_2PI + ratio.log(), 1 / ratio, decay / ratio, -torch.expm1(-d) / ratio


def _narrow(middle: Tensor, half: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a narrow interval of middle c and half width h: `2 h phi(c) (1 + (c^2-1) h^2/6 + (c^4-6c^2+3) h^4/120)`."""
    c2, h2 = middle.square(), half.square()
    series = 1 + h2 / 6 * ((c2 - 1) + h2 / 20 * (c2 * (c2 - 6) + 3))
    density = (-0.5 * h2).exp() / (2 * half * series)
    slope = middle * half
    value = -0.5 * c2 - HALF_LOG_2PI + (2 * half * series).log()
    return value, density * slope.exp(), density * (-slope).exp(), density * 2 * slope.sinh()


def _mills(t: Tensor) -> Tensor:
    """Return `(1 - F(t)) / phi(t)` of the standard normal."""
    scaled: Tensor = torch.special.erfcx(t / math.sqrt(2))
    return math.sqrt(math.pi / 2) * scaled
