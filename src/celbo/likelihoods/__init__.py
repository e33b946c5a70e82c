"""Distributions of counts, one file each.

`make_likelihood("nb" | "zinb" | "poisson" | "normal")` makes one by its name.
"""

from __future__ import annotations

from celbo.errors import OptionError, nearest
from celbo.likelihoods.base import CountParameters, Likelihood, Link, Route
from celbo.likelihoods.gaussian import Normal
from celbo.likelihoods.negative_binomial import NegativeBinomial
from celbo.likelihoods.poisson import Poisson
from celbo.likelihoods.zero_inflated import ZeroInflatedNegativeBinomial

__all__ = [
    "CountParameters",
    "Likelihood",
    "Link",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "Route",
    "ZeroInflatedNegativeBinomial",
    "make_likelihood",
]

_BY_NAME: dict[str, type[Likelihood]] = {
    kind.name: kind for kind in (NegativeBinomial, ZeroInflatedNegativeBinomial, Poisson, Normal)
}


def make_likelihood(name: str) -> Likelihood:
    """Return the likelihood of this name: "nb", "zinb", "poisson" or "normal".

    Raises
    ------
    OptionError
        If there is none of this name.
    """
    if name not in _BY_NAME:
        raise OptionError("does not exist", where="likelihood", value=repr(name), fix=nearest(name, _BY_NAME))
    return _BY_NAME[name]()
