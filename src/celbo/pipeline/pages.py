"""What is made of a finished run: its numbers, its tables, and the data of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from celbo import results
from celbo.data.obs import column_of
from celbo.data.symbols import display_names, other_names, with_symbols
from celbo.evaluate import ari, compare_latents, label_purity, nmi, predictive_check
from celbo.files import atomic_json
from celbo.models.base import CountModel, Model
from celbo.pipeline.config import RunConfig, flat, to_toml
from celbo.pipeline.explained import explained_by
from celbo.pipeline.quality import CellQuality, cell_quality
from celbo.pipeline.resolutions import resolutions_tried
from celbo.pipeline.slots import Slots
from celbo.pipeline.steps import DOUBLE_DIPPING, Job, counts_of
from celbo.report.build import Categories, DotPlot, Expression, ReportData, top_markers
from celbo.report.map import MAX_GENES, map_cells, map_genes
from celbo.report.verdict import Explained

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["NAMES", "Found", "report_data", "tables_of", "write_multiqc"]

_NO_LABEL = {"", "nan", "none", "unassigned", "unknown", "unlabeled", "unlabelled"}
_PREDICTIVE_CELLS = 5000
_NO_METRICS = pd.DataFrame({name: pd.Series(dtype=object) for name in ("metric", "kind", "before", "after", "meaning")})
_TITLES = {
    "cells": ("Cells", "Cells the model was trained on"),
    "genes": ("Genes", "Genes in the file"),
    "genes_used": ("Genes used", "Genes the model was trained on"),
    "clusters": ("Clusters", "Leiden clusters of the latent space"),
    "deviance_explained": ("Explained", "Share of the deviance of held-out cells' counts explained beyond gene means"),
    "held_out_elbo": ("ELBO", "Held-out evidence lower bound, nats per cell"),
    "label_purity": ("Label purity", "Mean share of a cell's nearest neighbours that have its known label"),
    "leiden_ari": ("Leiden ARI", "Adjusted Rand index of the Leiden clusters and the known labels"),
    "ilisi": ("iLISI", "Batch mixing of the latent space, 0 to 1"),
}


@dataclass(frozen=True)
class Found:
    """What a run found."""

    adata: AnnData
    model: Model[Any]
    markers: pd.DataFrame
    config: RunConfig
    slots: Slots
    batch: Categories | None
    labels: Categories | None
    clusters: Categories | None
    """None where they could not be made."""
    metrics: pd.DataFrame
    """`celbo.evaluate.compare_latents` of the principal components before and the latent space after."""
    purity: pd.DataFrame | None
    """`celbo.evaluate.LabelPurity.by_label` of the latent space, with `purity_before`; None without labels."""
    resolutions: pd.DataFrame | None
    """`celbo.pipeline.resolutions.resolutions_tried`."""
    explained: Explained | None
    held_out_elbo: float | None
    ari: float | None
    nmi: float | None
    quality: CellQuality | None

    @classmethod
    def of(cls, adata: AnnData, model: Model[Any], markers: pd.DataFrame, job: Job[RunConfig]) -> Found:
        """Compute the numbers of a run whose slots are written."""
        config, slots, keys = job.config, job.slots, job.config.keys
        batch = None if keys.batch_key is None else Categories.of(keys.batch_key, column_of(adata, keys.batch_key))
        labels = None if keys.labels_key is None else known_labels(keys.labels_key, column_of(adata, keys.labels_key))
        clusters = Categories.of("cluster", adata.obs[slots.clusters]) if slots.clusters in adata.obs else None
        names = {"before": slots.pca, "after": slots.latent}
        spaces = {name: adata.obsm[slot] for name, slot in names.items() if slot in adata.obsm}
        codes = [None if groups is None else groups.codes for groups in (batch, labels, clusters)]
        several = labels is not None and len(labels.names) > 1
        agreement = (labels.codes, clusters.codes) if several and labels and clusters else None
        metrics = job.attempt(
            "The table of mixing and separation",
            lambda: (
                compare_latents(spaces, *codes, clusters_name="Leiden", seed=config.seed)
                if "after" in spaces
                else _NO_METRICS
            ),
            lost="the report does not say whether batches mix and labels separate",
        )
        return cls(
            adata=adata,
            model=model,
            markers=markers,
            config=config,
            slots=slots,
            batch=batch,
            labels=labels,
            clusters=clusters,
            metrics=_NO_METRICS if metrics is None else metrics,
            purity=job.attempt(
                "The label purity", lambda: _purity(spaces, labels, config.seed), lost="the report does not show it"
            ),
            resolutions=job.attempt(
                "The table of resolutions",
                lambda: _resolutions(adata, slots, labels, config),
                lost="the report does not say whether another resolution would agree better",
            ),
            explained=job.attempt(
                "The share of the deviance explained",
                lambda: explained_by(model, seed=config.seed),
                lost="the result is without that number",
            ),
            held_out_elbo=job.attempt(
                "The held-out ELBO", lambda: _held_out_elbo(model), lost="the result is without that number"
            ),
            ari=None if agreement is None else ari(*agreement),
            nmi=None if agreement is None else nmi(*agreement),
            quality=job.attempt(
                "The quality of the cells",
                lambda: cell_quality(
                    counts_of(adata, job.keys.layer), display_names(adata.var), batch, seed=config.seed
                ),
                lost="the report does not show it",
            ),
        )

    @property
    def n_used(self) -> int:
        """Genes the model was trained on."""
        return self.model.schema.n_genes

    def numbers(self) -> dict[str, float | int]:
        """Return the few numbers that tell runs apart; those that there are."""
        after = self.metrics.set_index("metric")["after"]
        numbers: dict[str, float | int | None] = {
            "cells": self.adata.n_obs,
            "genes": self.adata.n_vars,
            "genes_used": self.n_used,
            "clusters": None if self.clusters is None else len(self.clusters.names),
            "deviance_explained": None if self.explained is None else self.explained.held_out,
            "held_out_elbo": self.held_out_elbo,
            "label_purity": after.get("label purity"),
            "leiden_ari": self.ari,
            "ilisi": after.get("iLISI"),
        }
        there = {name: value for name, value in numbers.items() if value is not None and np.isfinite(value)}
        return {name: value if isinstance(value, int) else float(value) for name, value in there.items()}

    def note(self, command: str) -> None:
        """Write into `uns` what made the result, and where in it is what."""
        self.adata.uns[self.slots.note] = {
            "command": command,
            "options": to_toml(self.config),
            "versions": results.versions(),
            "numbers": self.numbers(),
            **self.slots.describe(self.adata),
        }


def _held_out_elbo(model: Model[Any]) -> float | None:
    """Return the bound of the held-out cells, where there are such and the model has one."""
    held_out, ask = model.validation_indices, getattr(model, "get_elbo", None)
    return None if ask is None or not len(held_out) else float(ask(indices=held_out))


def _purity(
    spaces: Mapping[str, NDArray[np.floating[Any]]], labels: Categories | None, seed: int
) -> pd.DataFrame | None:
    """Return the label purity by label of the space after, beside that before; the rarest label last."""
    if labels is None or len(labels.names) < 2 or "after" not in spaces:
        return None
    names = np.array([*labels.names, None], object)[labels.codes]
    after = label_purity(spaces["after"], names, seed=seed).by_label
    before = label_purity(spaces["before"], names, seed=seed).by_label["purity"] if "before" in spaces else np.nan
    after.insert(1, "purity_before", before)
    return after.sort_values("cells", ascending=False, kind="stable")


def _resolutions(adata: AnnData, slots: Slots, labels: Categories | None, config: RunConfig) -> pd.DataFrame | None:
    _, weights = slots.graph_parts
    if labels is None or weights not in adata.obsp:
        return None
    graph = sparse.csr_matrix(adata.obsp[weights])
    return resolutions_tried(graph, labels.codes, resolution=config.graph.resolution, seed=config.seed)


def known_labels(title: str, column: pd.Series[Any]) -> Categories:
    """Return the labels of a column, cells that are called unlabelled or the like as having none."""
    names = column.astype(object)
    none = names.isna() | names.map(lambda name: str(name).strip().casefold() in _NO_LABEL)
    return Categories.of(title, column.where(~none))


def tables_of(found: Found) -> dict[str, pd.DataFrame]:
    """Return the tables of a run by name, those of cells and genes indexed by their names."""
    adata, slots = found.adata, found.slots
    tables = {
        "clusters": _cells_table(found),
        "markers": with_symbols(found.markers, adata.var),
        "history": found.model.history,
        "metrics": _metrics_table(found),
        **{name: table for name, table in _label_tables(found).items() if table is not None},
    }
    if found.quality is not None:
        tables["cells"] = found.quality.table.set_index(_cell_index(adata))
    if slots.latent not in adata.obsm:
        return tables
    latent = np.asarray(adata.obsm[slots.latent])
    names = [f"latent_{i + 1}" for i in range(latent.shape[1])]
    return {"latent": pd.DataFrame(latent, index=_cell_index(adata), columns=names), **tables}


def _cell_index(adata: AnnData) -> pd.Index[Any]:
    names: pd.Index[Any] = pd.Index(adata.obs_names.astype(str), name="cell")
    return names


def _cells_table(found: Found) -> pd.DataFrame:
    """Return cluster, position on the map, batch and label of each cell; those that there are."""
    adata, slots = found.adata, found.slots
    table = pd.DataFrame(index=_cell_index(adata))
    if slots.clusters in adata.obs:
        table[slots.clusters] = adata.obs[slots.clusters].astype(str).to_numpy()
    if slots.umap in adata.obsm:
        table[["umap_1", "umap_2"]] = np.asarray(adata.obsm[slots.umap])
    for groups in (found.batch, found.labels):
        if groups is not None and groups.title not in table:
            table[groups.title] = np.array([*groups.names, None], object)[groups.codes]
    return table


def _label_tables(found: Found) -> dict[str, pd.DataFrame | None]:
    """Return what there is where labels are known."""
    tried = found.resolutions
    return {
        "label_purity": found.purity,
        "resolutions": None if tried is None else tried.set_index("resolution"),
    }


def _map_genes(found: Found) -> list[str]:
    """Return the genes that the map offers: markers of all clusters, and then the most variable ones."""
    var, rank = found.adata.var, f"{found.slots.genes}_rank"
    ranked = var[rank].dropna().sort_values() if rank in var else var.iloc[:0, 0]
    names = [*map_genes(found.markers), *ranked.index.astype(str)]
    return list(dict.fromkeys(names))[:MAX_GENES]


def _metrics_table(found: Found) -> pd.DataFrame:
    """Return the metrics of the two spaces, with those of the model on held-out cells."""
    table = found.metrics.copy()
    if found.explained is not None:
        meaning = "Share of the Poisson deviance of held-out cells' counts explained beyond gene means and cell totals."
        row = {"metric": "deviance explained", "kind": "model", "after": found.explained.held_out, "best": 1.0}
        table.loc[len(table)] = pd.Series({**row, "chance": 0.0, "meaning": meaning})
    if found.held_out_elbo is not None:
        meaning = "Evidence lower bound of the held-out cells, nats per cell; higher is better."
        row = {"metric": "held-out ELBO", "kind": "model", "after": found.held_out_elbo, "meaning": meaning}
        table.loc[len(table)] = pd.Series(row)
    return table.set_index("metric")


def write_multiqc(folder: Path, found: Found) -> None:
    """Write the two files that MultiQC takes up: general statistics, and the curve of the ELBO."""
    sample = folder.resolve().name
    atomic_json(folder / "celbo_mqc.json", results.multiqc_general(sample, found.numbers(), _TITLES))
    atomic_json(folder / "celbo_elbo_mqc.json", results.multiqc_lines(sample, found.model.history))


def report_data(found: Found, job: Job[RunConfig], command: str) -> ReportData:
    """Return everything that the report shows."""
    adata, model, config, slots = found.adata, found.model, found.config, found.slots
    counts = counts_of(adata, job.keys.layer)
    maps = {"Before (PCA)": slots.umap_before, f"After ({NAMES.get(config.model, config.model)})": slots.umap}
    fitted = model.fitted
    assert fitted is not None  # a run ends with a trained model
    genes = [str(name) for name in adata.var_names]
    used = f" Compared are the {found.n_used:,} genes the model was trained on, of {found.adata.n_vars:,} in the file."
    predictive = dots = None
    if isinstance(model, CountModel):
        predictive = job.attempt(
            "The posterior predictive check",
            lambda: _predictive(model, config.seed),
            lost="the report does not say whether the model fits the counts",
        )
    if (groups := found.clusters) is not None:
        dots = job.attempt(
            "The dot plot",
            lambda: DotPlot.from_counts(counts, genes, groups, top_markers(found.markers)),
            lost="marker genes are in the table alone",
        )
    expression = job.attempt(
        "The genes on the map",
        lambda: Expression.from_counts(counts, genes, _map_genes(found), map_cells(adata.n_obs)),
        lost="the map cannot be coloured by genes",
    )
    note = "" if found.markers.empty else DOUBLE_DIPPING + used * (found.n_used < adata.n_vars)
    return ReportData(
        title=_title(config),
        model=NAMES.get(config.model, config.model),
        source=", ".join(config.data),
        n_cells=adata.n_obs,
        n_genes=adata.n_vars,
        n_genes_used=found.n_used,
        notes=tuple(job.notes),
        library=np.asarray(counts.sum(1), np.float64).ravel(),
        detected=np.diff(counts.indptr).astype(np.float64),
        zero_fraction=1 - np.bincount(counts.indices, minlength=counts.shape[1]) / max(1, counts.shape[0]),
        quality=None if found.quality is None else found.quality.table,
        quality_notes=() if found.quality is None else found.quality.notes,
        batch=found.batch,
        labels=found.labels,
        clusters=found.clusters,
        history=model.history,
        stopped=fitted.stopped,
        best_epoch=fitted.best_epoch,
        held_out_elbo=found.held_out_elbo,
        embeddings={title: adata.obsm[slot] for title, slot in maps.items() if slot in adata.obsm},
        metrics=None if found.metrics.empty else found.metrics,
        purity=found.purity,
        resolutions=found.resolutions,
        explained=found.explained,
        ari=found.ari,
        nmi=found.nmi,
        predictive=predictive,
        markers=found.markers,
        gene_names=other_names(adata.var),
        markers_note=note,
        cell_names=adata.obs_names.astype(str).tolist(),
        expression=expression,
        warnings=tuple(job.warnings),  # of the parts above, too
        dots=dots,
        command=command,
        seed=config.seed,
        versions=results.versions(),
        config=_sections(config, fitted.plan.to_dict()),
        seconds=dict(job.seconds),
    )


NAMES = {
    "autoencoder": "Autoencoder",
    "autoimpute": "AutoImpute",
    "dca": "DCA",
    "hpf": "HPF",
    "ldvae": "LDVAE",
    "scvae": "scVAE",
    "scvi": "scVI",
    "vae": "VAE",
    "vasc": "VASC",
}
"""Names of the models, as shown."""
_BUILT_IN_TITLES = {
    "demo:pbmc": "700 blood cells",
    "demo:pbmc_two_runs": "700 blood cells in two runs (celbo demo)",
    "demo:simulated": "Simulated cells in three batches (celbo demo)",
}


def _title(config: RunConfig) -> str:
    if not config.data:
        return "AnnData"
    first = _BUILT_IN_TITLES.get(config.data[0], Path(config.data[0]).name)
    return first if len(config.data) == 1 else f"{first} and {len(config.data) - 1} more"


def _sections(config: RunConfig, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options by section, training as it was resolved."""
    sections = {
        name: {key: getattr(value, key) for key in value.__dataclass_fields__}
        for name, value in vars(config).items()
        if hasattr(value, "__dataclass_fields__")
    }
    plain = {name: value for name, value in flat(config).items() if name in ("data", "out", "model", "seed", "device")}
    return {"run": plain, **sections, "train": dict(plan)}


def _predictive(model: CountModel[Any], seed: int) -> pd.DataFrame:
    """Compare the counts of some cells with counts drawn for them."""
    assert model.data is not None
    cells = np.arange(model.data.n_cells)
    if len(cells) > _PREDICTIVE_CELLS:
        cells = np.sort(np.random.default_rng(seed).choice(cells, _PREDICTIVE_CELLS, replace=False))
    observed: sparse.csr_matrix = model.data.counts.to_scipy()[cells]
    return predictive_check(observed, model.posterior_predictive_sample(indices=cells), model.schema.genes)
