"""The further questions one asks of a model of counts: correlations, credible intervals, abundances, predictive checks."""

from __future__ import annotations

from typing import Any

from celbo.data.schema import Schema

__all__ = ["PosteriorQuestions"]


class PosteriorQuestions:
    """What every model of counts can be asked about its posterior, beside expression and evidence."""

    network: Any
    schema: Schema
    seed: int
