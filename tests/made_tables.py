"""Tables of differential expression made by hand, with the columns of `model.differential_expression`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import norm

from celbo.posterior.markers import marker_score

COLUMNS = (
    "group1", "group2", "proba_de", "bayes_factor", "lfc_mean", "lfc_median", "lfc_std", "lfc_lower", "lfc_upper",
    "scale1", "scale2", "raw_mean1", "raw_mean2", "detection1", "detection2", "auroc", "marker_score", "expected_fdr",
    "is_de", "delta", "pseudocount", "confounded",
)  # fmt: skip


def compared(
    group1: str = "B cells",
    group2: str = "rest",
    *,
    n_genes: int = 2000,
    share: float = 0.1,
    delta: float = 0.25,
    fdr: float = 0.05,
    genes: list[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a comparison in which a share of the genes differs, by normal posteriors of the fold change."""
    rng = np.random.default_rng(seed)
    scale2 = rng.lognormal(0, 1.6, n_genes)
    scale2 /= scale2.sum()
    true = np.where(rng.random(n_genes) < share, rng.normal(0, 1.5, n_genes), rng.normal(0, 0.05, n_genes))
    sd = 0.05 + 0.4 / np.sqrt(1 + 1e4 * scale2)
    middle = true + sd * rng.normal(size=n_genes) * 0.6
    p = np.clip(norm.sf(delta, middle, sd) + norm.cdf(-delta, middle, sd), 1e-12, 1 - 1e-12)
    scale1 = scale2 * 2**middle
    auroc = norm.cdf(np.sqrt(3e3) * (np.sqrt(scale1) - np.sqrt(scale2)) * np.sqrt(2))
    names = genes or [f"GENE{i}" for i in range(n_genes)]
    table = pd.DataFrame(
        {
            "group1": group1, "group2": group2, "proba_de": p, "bayes_factor": np.log(p / (1 - p)),
            "lfc_mean": middle, "lfc_median": middle, "lfc_std": sd, "lfc_lower": middle - 1.96 * sd,
            "lfc_upper": middle + 1.96 * sd, "scale1": scale1, "scale2": scale2, "raw_mean1": 3e3 * scale1,
            "raw_mean2": 3e3 * scale2, "detection1": -np.expm1(-3e3 * scale1), "detection2": -np.expm1(-3e3 * scale2),
            "auroc": auroc, "marker_score": marker_score(middle - 1.96 * sd, middle + 1.96 * sd, auroc),
        },
        index=pd.Index(names, name="gene"),
    ).sort_values("bayes_factor", ascending=False, kind="stable")  # fmt: skip
    table["expected_fdr"] = (1 - table["proba_de"]).cumsum() / np.arange(1, n_genes + 1)
    table["is_de"] = table["expected_fdr"] <= fdr
    table["delta"], table["pseudocount"], table["confounded"] = delta, 1e-6, False
    assert tuple(table.columns) == COLUMNS
    return table


def one_versus_rest(groups: list[str], **more: object) -> pd.DataFrame:
    """Return one comparison a group, one below the other."""
    return pd.concat([compared(group, seed=i, **more) for i, group in enumerate(groups)])  # type: ignore[arg-type]


def vanilla(**more: object) -> pd.DataFrame:
    """Return a comparison by P(rho_1 > rho_2)."""
    table = compared(**more)  # type: ignore[arg-type]
    p = np.clip(norm.sf(0, table["lfc_median"], table["lfc_std"]), 1e-4, 1 - 1e-4)
    table = table.drop(columns=["expected_fdr", "delta"]).rename(columns={"proba_de": "proba_higher"})
    table["proba_higher"], table["bayes_factor"] = p, np.log(p / (1 - p))
    table["is_de"] = table["bayes_factor"].abs() > 3
    return table.sort_values("bayes_factor", ascending=False, kind="stable")
