"""Writing what was found: into slots of an AnnData, and into files that are there whole or not at all."""

from __future__ import annotations

import importlib.metadata
import io
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

import celbo
from celbo.data.hdf5_out import anndata_written, hdf5_written, write_anndata
from celbo.errors import CelboWarning, GenesError, InputError, OptionError, SchemaError, listed, nearest
from celbo.files import atomic_text, atomic_write

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "multiqc_general",
    "multiqc_lines",
    "refuse_inputs",
    "table_path",
    "to_rank_genes_groups",
    "versions",
    "versions_yaml",
    "write_clusters",
    "write_frame",
    "write_h5ad",
    "write_latent",
    "write_matrix_h5ad",
    "write_table",
    "write_versions",
]

_PACKAGES = ("torch", "numpy", "scipy", "pandas", "anndata", "scanpy", "scikit-learn", "umap-learn", "igraph", "numba")


def write_latent(adata: AnnData, key: str, latent: ArrayLike) -> None:
    """Write a representation of the cells into `adata.obsm[key]`.

    Parameters
    ----------
    adata
        Altered in place.
    key
        Name of the slot, for example "X_scvi".
    latent
        (cells, dimensions), in the order of the cells.

    Raises
    ------
    InputError
        If it has another number of cells.
    """
    values = np.asarray(latent)
    _same_cells(adata, key, len(values))
    adata.obsm[key] = values


def write_clusters(adata: AnnData, key: str, clusters: ArrayLike) -> None:
    """Write a category for each cell into `adata.obs[key]`; categories that are numbers are put in their order.

    A column of that name is replaced; a warning tells where it held anything else.

    Parameters
    ----------
    adata
        Altered in place.
    key
        Name of the column, for example "leiden".
    clusters
        Names or numbers, (cells,).

    Raises
    ------
    InputError
        If there is another number of cells.
    """
    names = np.asarray(clusters).astype(str)
    _same_cells(adata, key, len(names))
    if key in adata.obs and not np.array_equal(adata.obs[key].astype(str), names):
        text = f"obs[{key!r}] held other values and is replaced."
        warnings.warn(CelboWarning(text, fix="Give another key to keep both."), stacklevel=2)
    found = sorted(
        set(names.tolist()), key=lambda name: (not name.isdecimal(), len(name) if name.isdecimal() else 0, name)
    )
    adata.obs[key] = pd.Categorical(names, categories=found)


def to_rank_genes_groups(
    table: pd.DataFrame, *, adata: AnnData, groupby: str, key: str = "rank_genes_groups"
) -> dict[str, Any]:
    """Write a table of differential expression into `adata.uns[key]` in the layout of `scanpy.tl.rank_genes_groups`.

    So `sc.pl.rank_genes_groups`, `sc.pl.rank_genes_groups_dotplot` and `sc.get.rank_genes_groups_df` work on it. Each
    group 1 of the table becomes a group there. What the fields hold, as `params["fields"]` says too:

    - `scores`: `marker_score`, by which celbo's own tables and figures rank: the genes of each group that tell it apart
      best lead, and those lower in it are last. Genes of the same score are in the order of their evidence.
    - `logfoldchanges`: `lfc_median`, log2.
    - `pvals`: 1 - proba_de. This is no p-value: it is the posterior probability that the gene does not differ by more
      than delta. Of mode "vanilla": the probability that the direction is wrong.
    - `pvals_adj`: `expected_fdr`, the expected share of false ones among the genes with at least this evidence. Of mode
      "vanilla": the expected share of wrong directions among them.
    - `pts`, `pts_rest`: `detection1`, `detection2`; left out where a group has a "/" in its name, which anndata does
      not write there.

    Parameters
    ----------
    table
        `model.differential_expression(...)`: all genes of each comparison, and each group 1 once.
    adata
        Cells with these genes; `uns[key]` is replaced, nothing else is altered.
    groupby
        The column of `adata.obs` whose groups were compared.
    key
        Slot of `uns`.

    Returns
    -------
    What was written.

    Raises
    ------
    SchemaError
        If `adata.obs` has no such column, or the column no such group.
    GenesError
        If a gene of the table is none of `adata`.
    InputError
        If the table lacks columns or rows, has a group 1 twice, groups of different second groups, or comparisons of
        different genes.
    """
    parts = _by_group(table)
    _require_groups(adata, groupby, list(parts))
    absent = pd.Index(table.index.astype(str)).difference(adata.var_names.astype(str))
    if len(absent):
        fix = "Give the AnnData whose genes were compared."
        raise GenesError("has no genes of the table", where="the AnnData", value=listed(absent), fix=fix)
    fields = {group: _rank_fields(rows) for group, rows in parts.items()}
    kinds = {"names": "O", "scores": "f4", "logfoldchanges": "f4", "pvals": "f8", "pvals_adj": "f8"}
    vanilla = "proba_higher" in table
    written: dict[str, Any] = {
        "params": {
            "groupby": groupby,
            "reference": str(table["group2"].iloc[0]),
            "method": "celbo, mode vanilla" if vanilla else "celbo, mode change",
            "use_raw": False,
            "layer": None,
            "corr_method": "none",
            "fields": _VANILLA_FIELDS if vanilla else _CHANGE_FIELDS,
        }
    }
    for name, kind in kinds.items():
        columns = [np.asarray(found[name], kind) for found in fields.values()]
        dtype = np.dtype([(group, kind) for group in fields])
        written[name] = np.rec.fromarrays(columns, dtype=dtype)
    writable = not any("/" in group for group in parts)
    for name, column in (("pts", "detection1"), ("pts_rest", "detection2")) if writable else ():
        shares = {group: rows[column].astype(np.float64) for group, rows in parts.items()}
        written[name] = pd.DataFrame(shares).rename_axis(index=None)
    adata.uns[key] = written
    return written


_CHANGE_FIELDS = (
    "scores: marker_score, sure log2 fold change * sqrt(2 AUROC - 1); pvals: 1 - proba_de, which is no p-value; "
    "pvals_adj: expected false discovery rate of the genes with at least this evidence"
)
_VANILLA_FIELDS = (
    "scores: marker_score, log2 fold change * sqrt(2 AUROC - 1); "
    "pvals: probability that the direction is wrong, which is no p-value; "
    "pvals_adj: expected share of wrong directions among the genes with at least this evidence"
)


def _by_group(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of each group 1, indexed by gene as text.

    Raises
    ------
    InputError
        If the table does not fit scanpy's layout.
    """
    where, fix = "the table of differential expression", "Give what model.differential_expression(...) returns."
    if not isinstance(table, pd.DataFrame) or table.empty:
        raise InputError("has no rows", where=where, fix=fix)
    needed = ["group1", "group2", "bayes_factor", "lfc_median", "detection1", "detection2", "marker_score"]
    needed += [] if "proba_higher" in table else ["expected_fdr"]
    missing = [name for name in needed if name not in table]
    if missing:
        raise InputError(f"lacks columns: {listed(missing)}", where=where, fix=fix)
    table = table.set_axis(table.index.astype(str))
    others = list(dict.fromkeys(table["group2"].astype(str)))
    if len(others) > 1:
        fix = "Take the rows of one of them: table[table['group2'] == ...]."
        raise InputError("compares with several groups", where=where, value=listed(others), fix=fix)
    parts = {str(group): rows for group, rows in table.groupby("group1", sort=False, observed=True)}
    genes = sorted(next(iter(parts.values())).index)
    for group, rows in parts.items():
        if sorted(rows.index) != genes or rows.index.has_duplicates:
            fix = "Give the whole table, each gene once in each comparison."
            raise InputError("holds other genes than the first group, or one twice", where=f"group {group!r}", fix=fix)
    return parts


def _require_groups(adata: AnnData, groupby: str, groups: Sequence[str]) -> None:
    if groupby not in adata.obs:
        fix = nearest(str(groupby), map(str, adata.obs.columns))
        raise SchemaError("is not a column of obs", where=repr(groupby), fix=fix)
    known = set(adata.obs[groupby].dropna().astype(str))
    unknown = [group for group in groups if group not in known]
    if unknown:
        fix = f"It has {listed(sorted(known))}."
        raise SchemaError("lacks groups of the table", where=f"obs[{groupby!r}]", value=listed(unknown), fix=fix)


def _rank_fields(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the fields of one group by name, in the order of their scores."""
    odds = rows["bayes_factor"].to_numpy(np.float64)
    lfc = rows["lfc_median"].to_numpy(np.float64)
    if "proba_higher" in rows:
        evidence, wrong = odds, np.exp(-np.logaddexp(0, np.abs(odds)))
        order = np.argsort(wrong, kind="stable")
        share = np.empty_like(wrong)
        share[order] = np.cumsum(wrong[order]) / np.arange(1, len(wrong) + 1)
    else:
        evidence = np.sign(lfc) * np.logaddexp(0, odds)
        wrong = np.exp(-np.logaddexp(0, odds))  # 1 - proba_de, without its rounding
        share = rows["expected_fdr"].to_numpy(np.float64)
    scores = rows["marker_score"].to_numpy(np.float64)
    order = np.lexsort((-lfc, -evidence, -scores))
    values = {"scores": scores, "logfoldchanges": lfc, "pvals": wrong, "pvals_adj": share}
    return {"names": rows.index.to_numpy(object)[order], **{name: value[order] for name, value in values.items()}}


def _same_cells(adata: AnnData, key: str, n: int) -> None:
    if n != adata.n_obs:
        raise InputError(
            "does not match the cells",
            where=repr(key),
            value=f"{n} for {adata.n_obs} cells",
            fix="Give one for each cell.",
        )


def write_table(frame: pd.DataFrame, stem: str | Path) -> list[Path]:
    """Write a table as Parquet and as CSV, with its index, each atomically.

    Parameters
    ----------
    frame
        The table.
    stem
        Path without ending; the folder must exist.

    Returns
    -------
    The files written.
    """
    paths = [Path(f"{stem}.parquet"), Path(f"{stem}.csv")]
    for path in paths:
        write_frame(frame, path)
    return paths


def write_frame(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a table with its index as .parquet, .csv or .tsv, atomically; categories are written as their names.

    Raises
    ------
    OptionError
        If the path has another ending.
    WriteError
        If the file cannot be written.
    """
    path, plain = table_path(path), frame.copy()
    for name in plain.columns[[isinstance(kind, pd.CategoricalDtype) for kind in plain.dtypes]]:
        plain[name] = plain[name].astype(object).where(plain[name].notna(), None)
    with atomic_write(path) as temporary:
        if path.suffix == ".parquet":
            content = io.BytesIO()  # so that only a plain write can fail
            plain.to_parquet(content)
            temporary.write_bytes(content.getbuffer())
        else:
            plain.to_csv(temporary, sep="," if path.suffix == ".csv" else "\t")


def refuse_inputs(out: str | Path, model: str | Path, data: Sequence[str]) -> None:
    """Refuse to write over what is read.

    Parameters
    ----------
    out
        File to write.
    model
        Folder of a model or of a run; "" where there is none.
    data
        Files of counts.

    Raises
    ------
    OptionError
        If the file is one of them, or belongs to the model or the run.
    """
    target = Path(out).resolve()
    folder = Path(model).resolve() if model and Path(model).is_dir() else None
    own = folder is not None and any(
        target == folder / name or (folder / name) in target.parents
        for name in ("result.h5ad", "report.html", "run.toml", "model.json", "model", "tables")
    )
    if own or target in [Path(name).resolve() for name in data]:
        fix = "Choose another name; what is there stays as it is."
        raise OptionError("would be written over", where=f"{str(out)!r}, which is read or belongs to a run,", fix=fix)


def table_path(path: str | Path) -> Path:
    """Return the path of a table once its ending is known: what to ask before the work.

    Raises
    ------
    OptionError
        If the path has another ending than .parquet, .csv or .tsv.
    """
    path = Path(path)
    if path.suffix not in {".parquet", ".csv", ".tsv"}:
        raise OptionError("has an unknown ending", where=f"{str(path)!r}", fix="Use .csv, .tsv or .parquet.")
    return path


def write_h5ad(adata: AnnData, path: str | Path) -> None:
    """Write an AnnData as .h5ad, compressed, atomically.

    Raises
    ------
    InputError
        If a column or an entry of `uns` holds what the format cannot hold.
    WriteError
        If the file cannot be written.
    """
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that a later format will refuse, which this one holds
        try:
            anndata_written(adata, temporary, compression={"compression": "gzip", "compression_opts": 1})
        except OSError:
            raise
        except Exception as error:  # what the format cannot hold has errors of many kinds
            raise InputError(
                "cannot be written as .h5ad",
                where="the AnnData",
                value=f"{error}".splitlines()[0] if f"{error}" else type(error).__name__,
                fix="Remove or convert that column or entry of uns.",
            ) from error


@contextmanager
def write_matrix_h5ad(
    path: str | Path, *, obs: pd.DataFrame, var: pd.DataFrame, note: Mapping[str, Any]
) -> Iterator[Callable[[int, NDArray[np.floating[Any]]], None]]:
    """Write a dense float32 matrix of cells x genes as .h5ad block by block, atomically, with bounded memory.

    Parameters
    ----------
    path
        The file; it appears when the block of code ends without an error.
    obs, var
        Tables of its cells and genes.
    note
        What the values are: `uns["celbo"]` of the file.

    Yields
    ------
    A function (row of the first cell, block of (rows, genes)) that writes one block.
    """
    import anndata

    from celbo.data.writable import writable_frame

    obs, notes = writable_frame(obs, "obs")
    for text in notes:
        warnings.warn(CelboWarning(text), stacklevel=3)
    with atomic_write(path) as temporary, hdf5_written(temporary) as (file, sink):
        write_anndata(anndata.AnnData(obs=obs, var=var, uns={"celbo": dict(note)}), file, sink)
        if "X" in file:
            del file["X"]
        matrix = file.create_dataset("X", (len(obs), len(var)), np.float32)
        matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})

        def write(start: int, block: NDArray[np.floating[Any]]) -> None:
            matrix[start : start + len(block)] = block
            sink.check()

        yield write


def versions() -> dict[str, str]:
    """Return the versions of celbo, of Python and of the packages that decide the numbers."""
    found = {"celbo": celbo.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def versions_yaml(process: str, found: Mapping[str, str]) -> str:
    """Return versions as the YAML that workflow managers collect: one entry, the process, with a version a tool."""
    return "\n".join([f'"{process}":', *(f'    {name}: "{version}"' for name, version in found.items())]) + "\n"


def write_versions(path: str | Path, process: str) -> None:
    """Write `versions.yml` atomically."""
    atomic_text(path, versions_yaml(process, versions()))


def multiqc_general(
    sample: str, numbers: Mapping[str, float | int], titles: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return MultiQC custom content for its table of general statistics.

    Parameters
    ----------
    sample
        Name of the row.
    numbers
        Values by column.
    titles
        Title and description of each column.
    """
    headers = [
        {name: {"title": titles[name][0], "description": titles[name][1], "namespace": "celbo"}} for name in numbers
    ]
    return {"id": "celbo", "plot_type": "generalstats", "pconfig": headers, "data": {sample: dict(numbers)}}


def multiqc_lines(sample: str, history: pd.DataFrame) -> dict[str, Any]:
    """Return MultiQC custom content for the curve of the held-out ELBO (training ELBO where nothing is held out).

    Parameters
    ----------
    sample
        Name of the line.
    history
        One row an epoch; `elbo_train`, `elbo_validation` in nats per cell. The columns `objective_*` of a model
        without an ELBO take their place.
    """
    raised = "elbo" if "elbo_train" in history else "objective"
    held_out = f"{raised}_validation" in history and history[f"{raised}_validation"].notna().any()
    curve = history[f"{raised}_validation" if held_out else f"{raised}_train"].dropna()
    return {
        "id": "celbo_elbo",
        "section_name": "celbo: ELBO",
        "description": "Held-out ELBO by epoch, nats per cell; higher is better.",
        "plot_type": "linegraph",
        "pconfig": {"id": "celbo_elbo_plot", "title": "celbo: ELBO", "xlab": "Epoch", "ylab": "ELBO (nats per cell)"},
        "data": {sample: {str(epoch): float(value) for epoch, value in curve.items() if np.isfinite(value)}},
    }
