"""What a data set is made of: the names that a model must know, and the units of what is not counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = ["DataKeys", "Orientation", "Scale", "Schema"]

Orientation = Literal["auto", "cells", "genes"]
"""What the rows of a text table are; "auto" tells by the names and, failing that, by the sizes."""


@dataclass(frozen=True, kw_only=True)
class DataKeys:
    """Where in an AnnData the model finds what it needs."""

    layer: str | None = None
    """Layer with the counts; by default `X`. "raw" is `adata.raw`, unless a layer has that name."""
    batch_key: str | None = None
    """Column of `obs` with the batch of each cell, whose effect is taken out; by default all cells are one batch. A
    condition that you will compare (treated and control) is not a batch: its effect would be taken out too."""
    labels_key: str | None = None
    """Column of `obs` with the known label (cell type) of each cell, to judge the result by."""
    size_factor_key: str | None = None
    """Column of `obs` with a positive size factor, used instead of the library size."""
    categorical_covariate_keys: tuple[str, ...] = ()
    """Columns of `obs` with further categorical covariates."""
    continuous_covariate_keys: tuple[str, ...] = ()
    """Columns of `obs` with further continuous covariates."""
    round_counts: bool = False
    """Round decimals (of SoupX, decontX, RSEM, EM counts) to the nearest whole numbers."""


class Scale(NamedTuple):
    """What a continuous covariate is centred and divided by."""

    mean: float = 0.0
    """Mean over the training cells, in the column's unit."""
    sd: float = 1.0
    """Standard deviation over them; 0 where all have the same value: the covariate is then 0 for every cell."""

    @classmethod
    def from_saved(cls, saved: Any) -> Scale:
        """Return what a saved model holds as [mean, sd], or raise a `ValueError`."""
        mean, sd = (float(number) for number in saved)
        if not (math.isfinite(mean) and math.isfinite(sd) and sd >= 0):
            raise ValueError(f"a covariate's mean and standard deviation cannot be {mean} and {sd}")
        return cls(mean, sd)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The names behind the codes: genes, batches, labels and covariates, in the order of their codes.

    A data set is encoded against a schema; a model keeps the schema it was trained with, so that new data are checked
    against it, their genes put in its order and their categories given its codes.
    """

    features: Mapping[str, tuple[str, ...]]
    """Feature names of each modality; today {"rna": gene names}."""
    batches: tuple[str, ...] = ("all",)
    labels: tuple[str, ...] = ("all",)
    covariates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Categories of each further categorical covariate, by column name."""
    keys: DataKeys = field(default_factory=DataKeys)
    scales: Mapping[str, Scale] = field(default_factory=dict)
    """Centre and scale of each continuous covariate, of the training cells; one without enters in its own unit."""

    @property
    def genes(self) -> tuple[str, ...]:
        """Gene names, in the order of the model's columns."""
        return self.features["rna"]

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return len(self.batches)

    @property
    def n_labels(self) -> int:
        """Number of labels."""
        return len(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as plain lists and dicts, for JSON."""
        return {
            "features": {name: list(values) for name, values in self.features.items()},
            "batches": list(self.batches),
            "labels": list(self.labels),
            "covariates": {name: list(values) for name, values in self.covariates.items()},
            "keys": asdict(self.keys),
            "scales": {name: list(scale) for name, scale in self.scales.items()},
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Schema:
        """Rebuild a schema from what `to_dict` returned."""
        keys: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["keys"].items()}
        return cls(
            features={name: tuple(values) for name, values in saved["features"].items()},
            batches=tuple(saved["batches"]),
            labels=tuple(saved["labels"]),
            covariates={name: tuple(values) for name, values in saved["covariates"].items()},
            keys=DataKeys(**keys),
            scales={str(name): Scale.from_saved(scale) for name, scale in saved.get("scales", {}).items()},
        )
