"""Held-out likelihood, integration metrics, comparisons: tables only, no figures."""

from celbo.evaluate.metrics import (
    Agreement,
    ari,
    batch_mixing_entropy,
    batch_silhouette,
    clisi,
    compare_latents,
    ilisi,
    integration_metrics,
    kmeans_agreement,
    label_silhouette,
    lisi,
    neighbourhood_preservation,
    nmi,
    silhouette,
)
from celbo.evaluate.predictive import predictive_check

__all__ = [
    "Agreement",
    "ari",
    "batch_mixing_entropy",
    "batch_silhouette",
    "clisi",
    "compare_latents",
    "ilisi",
    "integration_metrics",
    "kmeans_agreement",
    "label_silhouette",
    "lisi",
    "neighbourhood_preservation",
    "nmi",
    "predictive_check",
    "silhouette",
]
