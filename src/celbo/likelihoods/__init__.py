"""Distributions of counts, one file each, and of dense values in `dense`.

`make_likelihood("nb")` makes one by its name; `interval_log_prob` scores counts under a Gaussian of transformed ones.
"""

from __future__ import annotations

from celbo.errors import OptionError, nearest
from celbo.likelihoods.base import CountParameters, Likelihood, Link, Route
from celbo.likelihoods.bernoulli import Bernoulli
from celbo.likelihoods.gaussian import Normal
from celbo.likelihoods.interval import interval_log_prob
from celbo.likelihoods.lognormal import LogNormal, LogNormalDensity
from celbo.likelihoods.lomax import Lomax, LomaxDensity
from celbo.likelihoods.negative_binomial import NegativeBinomial
from celbo.likelihoods.piecewise_categorical import PiecewiseCategorical
from celbo.likelihoods.poisson import Poisson
from celbo.likelihoods.zero_inflated import ZeroInflatedNegativeBinomial
from celbo.likelihoods.zero_inflated_poisson import ZeroInflatedPoisson

__all__ = [
    "Bernoulli",
    "CountParameters",
    "Likelihood",
    "Link",
    "LogNormal",
    "LogNormalDensity",
    "Lomax",
    "LomaxDensity",
    "NegativeBinomial",
    "Normal",
    "PiecewiseCategorical",
    "Poisson",
    "Route",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "interval_log_prob",
    "make_likelihood",
]

_KINDS: tuple[type[Likelihood], ...] = (
    NegativeBinomial, ZeroInflatedNegativeBinomial, Poisson, ZeroInflatedPoisson, Bernoulli,
    LogNormal, LogNormalDensity, Lomax, LomaxDensity, Normal,
)  # fmt: skip
_BY_NAME: dict[str, type[Likelihood]] = {kind.name: kind for kind in _KINDS}
# scVAE's Poisson of mean N softmax(logits): the constraint is the link's, so the distribution is the Poisson. The
# decoder's parameters have `link="softmax"` and `log_scale = log N`, N the cell's total count.
_BY_NAME["constrained-poisson"] = Poisson


def make_likelihood(name: str, *, n_classes: int = 0) -> Likelihood:
    """Return the likelihood of this name.

    Parameters
    ----------
    name
        "nb", "zinb", "poisson", "zip"; "constrained-poisson" (the Poisson: give its parameters `link="softmax"` and the
        total count as scale); "bernoulli" of seen or not; "lognormal", "lomax" as probabilities of counts,
        "lognormal-density", "lomax-density" as scVAE has them; "normal".
    n_classes
        If above zero, counts below it have a probability each, and the likelihood is that of what is left above
        (scVAE's piecewise categorical).

    Raises
    ------
    OptionError
        If there is none of this name, or the classes do not fit it.
    """
    if name not in _BY_NAME:
        raise OptionError("does not exist", where="likelihood", value=repr(name), fix=nearest(name, _BY_NAME))
    likelihood = _BY_NAME[name]()
    return PiecewiseCategorical(likelihood, n_classes) if n_classes else likelihood
