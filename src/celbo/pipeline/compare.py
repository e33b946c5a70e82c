"""celbo compare: several methods on one data set, one table and one page."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from celbo import results
from celbo.data.check import check
from celbo.data.components import log_normalised, principal_components
from celbo.data.decimals import with_rounded_layer
from celbo.data.genes import select_genes
from celbo.data.obs import column_of
from celbo.data.schema import DataKeys, Orientation
from celbo.errors import InputError, OptionError, listed, logger_of
from celbo.evaluate.baselines import gene_mean, knn_smoothing, no_denoising
from celbo.evaluate.comparison import COLUMNS, Comparison, Picture
from celbo.evaluate.denoising import score_held_out, split_molecules
from celbo.files import atomic_bytes, atomic_json, named_errors
from celbo.locks import alone
from celbo.pipeline.assess import Part, Task, assess
from celbo.pipeline.config import TrainRunConfig
from celbo.pipeline.methods import METHODS, SAMPLES, Cells, chosen
from celbo.pipeline.options import CompareConfig
from celbo.pipeline.pages import known_labels
from celbo.pipeline.place import COMPARISON, Found, not_writable
from celbo.pipeline.steps import counts_of, opened
from celbo.report.data import Categories

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["CompareConfig", "compare"]

_log = logger_of("celbo.pipeline")
_FEWEST = 100
_PCS = 50


def compare(
    data: AnnData | str | Path | Sequence[str | Path],
    *,
    methods: str | Sequence[str] = "all",
    config: CompareConfig | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    round_counts: bool = False,
    orientation: Orientation = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    command: str = "",
) -> pd.DataFrame:
    """Compare methods on one data set: what explains the counts, denoises, separates, mixes, and stays put.

    All methods see the same highly variable genes and the same training cells. The likelihood is that of the cells held
    out; clusters and mixing are of all cells; denoising is molecular cross-validation.

    Parameters
    ----------
    data
        An AnnData, which is not altered, or files of counts.
    methods
        "all", or names of `celbo.pipeline.methods.METHODS`, such as ["pca", "umap", "scvi"].
    config
        Every other option.
    layer, batch_key, labels_key, round_counts
        See `celbo.data.schema.DataKeys`.
    orientation
        What the rows of a text table (.csv, .tsv, .txt) are; auto tells by their names.
    out
        Folder for `compare.html`, the tables and the pictures; None writes nothing.
    resume
        Go on with the comparison in `out`: methods that were finished there are not run again.
    force
        Replace the comparison that is in `out`, once this one is finished.
    command
        The command to show on the page.

    Returns
    -------
    One row a method and one column a number, see `celbo.evaluate.comparison.COLUMNS`; NaN where a method has none.
    What each number means, and why one is missing, is in the frame's `attrs` ("columns", "reasons", "failures").

    Raises
    ------
    OptionError
        If an option is impossible, or `out` holds something else.
    InputError
        If the data cannot be used; the message names the cell, gene or column and the fix.
    """
    config = config or CompareConfig()
    names = chosen(config.methods if methods == "all" else tuple([methods] if isinstance(methods, str) else methods))
    keys = DataKeys(layer=layer, batch_key=batch_key, labels_key=labels_key, round_counts=round_counts)
    files = (
        (str(data),)
        if isinstance(data, str | Path)
        else tuple(map(str, data))
        if isinstance(data, list | tuple)
        else ()
    )
    if out is None and (resume or force):
        raise OptionError("needs a folder", where="resume or force", fix="Pass out too.")
    place = None if out is None else Found.of(Path(out), COMPARISON, resume=resume, force=force)
    adata = opened(TrainRunConfig(data=files, orientation=orientation), None if files else data)
    task, groups, about = _task(adata, keys, config)
    with _Parts.held(place, {**asdict(config), **asdict(keys), **about}) as store:
        found = _compared(task, names, store)
        if place is not None:
            _write(place.path, found, groups, {**about, "files": files, "command": command, "seed": config.seed})
            if place.replaces:
                COMPARISON.exchange(place.home)
    table = found.table.copy()
    table.attrs = {
        "columns": {column.name: column.meaning for column in found.columns()},
        "reasons": {f"{method}, {column}": why for (method, column), why in found.reasons.items()},
        "failures": dict(found.failures),
        "baselines": {name: dict(values) for name, values in found.baselines.items()},
    }
    return table


def _compared(task: Task, names: Sequence[str], store: _Parts) -> Comparison:
    """Run the methods that are not finished, and put all of them side by side."""
    baselines = _baselines(task)
    parts: dict[str, Part] = {}
    for name in names:
        part = store.load(name)
        if part is None:
            _log.info("%s", METHODS[name].title)
            part = assess(name, task)
            store.save(name, part)
        parts[name] = part
        _log.info("%s: %s", METHODS[name].title, part.failure or f"{part.numbers.get('seconds', 0):.1f} s a fit")
    return _comparison(parts, baselines)


# ------------------------------------------------------------------------------------------------------ the same cells


def _task(
    adata: AnnData, keys: DataKeys, config: CompareConfig
) -> tuple[Task, dict[str, Categories | None], dict[str, Any]]:
    """Check the data, choose the genes, and split cells and molecules."""
    import anndata

    if keys.round_counts:
        layer, told = with_rounded_layer(adata, keys.layer)
        keys = replace(keys, layer=layer)
        _log.info("rounded the counts to whole numbers: %s", told or "they were whole already")
    check(adata, **asdict(keys)).raise_if_bad()
    if 0 < config.n_top_genes < adata.n_vars:
        select_genes(adata, n_top_genes=config.n_top_genes, batch_key=keys.batch_key, layer=keys.layer)
        used = adata.var["highly_variable"].to_numpy(bool)
    else:
        used = np.ones(adata.n_vars, bool)
    counts = counts_of(adata, keys.layer)[:, used].astype(np.float32)
    molecules = split_molecules(counts, train_share=0.9, seed=config.seed)
    seen = np.asarray(molecules.train.sum(1)).ravel() > 0
    if seen.sum() < _FEWEST:
        raise InputError(f"has fewer than {_FEWEST} cells with counts", where="the data", value=str(int(seen.sum())))
    kept = adata[seen]
    plain = anndata.AnnData(counts[seen], obs=kept.obs.copy(), var=pd.DataFrame(index=adata.var_names[used]))
    cells = Cells(plain, keys.batch_key)
    groups = {
        "batch": None if keys.batch_key is None else Categories.of(keys.batch_key, column_of(kept, keys.batch_key)),
        "labels": None if keys.labels_key is None else known_labels(keys.labels_key, column_of(kept, keys.labels_key)),
    }
    order = np.random.default_rng(config.seed).permutation(plain.n_obs)
    n_test = max(1, round(config.held_out * plain.n_obs))
    values = log_normalised(cells.counts)
    components = principal_components(values, min(_PCS, *(n - 1 for n in values.shape)), seed=config.seed)
    split = None
    deviance = 1.0
    if config.denoise:
        split = split_molecules(cells.counts, train_share=0.9, seed=config.seed)
        deviance = score_held_out(gene_mean(split.train), split).deviance
    task = Task(
        cells=cells,
        train=np.sort(order[n_test:]),
        test=np.sort(order[:n_test]),
        labels=_codes(groups["labels"]),
        batch=_codes(groups["batch"]),
        reference=components.project(values),
        molecules=split,
        gene_mean_deviance=deviance,
        repeats=config.repeats,
        seed=config.seed,
    )
    about = {"n_cells": plain.n_obs, "n_genes": adata.n_vars, "n_genes_used": int(used.sum()), "n_test": n_test}
    about["counts"] = hashlib.sha256(counts.data.tobytes() + counts.indices.tobytes()).hexdigest()[:16]
    return task, groups, about


def _codes(groups: Categories | None) -> NDArray[np.int64] | None:
    """Return the code of each cell where there are several categories to compare with."""
    if groups is None or len(groups.names) < 2:
        return None
    return np.asarray(groups.codes, np.int64)


def _baselines(task: Task) -> dict[str, dict[str, float]]:
    """Score what no model is needed for."""
    if task.molecules is None:
        return {}
    split = task.molecules
    made: dict[str, Callable[[Any], Any]] = {
        "no denoising": no_denoising,
        "gene mean": gene_mean,
        "kNN smoothing": knn_smoothing,
    }
    found = {}
    for name, expected in made.items():
        scores = score_held_out(expected(split.train), split)
        found[name] = {"mcv_deviance": scores.deviance / task.gene_mean_deviance, "mcv_mse": scores.mse_log}
    return found


# ----------------------------------------------------------------------------------------------- parts and the result


@dataclass(frozen=True)
class _Parts:
    """The finished methods of a comparison on disk, so that one that was stopped can go on."""

    folder: Path | None

    @classmethod
    @contextmanager
    def held(cls, place: Found | None, identity: Mapping[str, Any]) -> Iterator[_Parts]:
        """Give the parts in the folder of a comparison, which other processes leave alone while the block runs.

        Raises
        ------
        OptionError
            If the comparison there was started with other options.
        WriteError
            If the folder cannot be written, or another process writes to it.
        KeyboardInterrupt
            If the block was interrupted, with a message that says how to go on.
        """
        if place is None:
            yield cls(None)
            return
        home, path = place.home, place.path
        plain = json.loads(json.dumps(identity))
        plain.pop("methods")
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_writable(home, error) from error
        with alone(home):
            again = Found.of(home, COMPARISON, resume=place.goes_on, force=place.replaces, held=True)
            if again != place:
                raise OptionError("was altered meanwhile", where=f"the folder {str(home)!r}", fix="Try again.")
            if place.goes_on:
                cls._refuse_other(path, plain)
            COMPARISON.begin(place)
            with named_errors(path):
                (path / "parts").mkdir(exist_ok=True)
            atomic_json(path / COMPARISON.marker, plain)
            try:
                yield cls(path / "parts")
            except KeyboardInterrupt:
                text = f"Interrupted; finished methods are in {path / 'parts'}."
                raise KeyboardInterrupt(f"{text} Continue with --resume --out {shlex.quote(str(home))}.") from None

    @staticmethod
    def _refuse_other(path: Path, plain: Mapping[str, Any]) -> None:
        """Refuse to go on with a comparison of other data or options."""
        known = json.loads((path / COMPARISON.marker).read_text(encoding="utf-8"))
        changed = [name for name in plain if plain[name] != known.get(name)]
        if changed or known.keys() != plain.keys():
            raise OptionError(
                "was started with other options",
                where=str(path),
                value=listed(changed or sorted(known.keys() ^ plain.keys())),
                fix="Give the same ones, or replace it with force=True.",
                flag="Give the same ones, or replace it with --force.",
            )

    def load(self, name: str) -> Part | None:
        """Return what was found for a method, or None; one that failed, or cannot be read, is tried again."""
        if self.folder is None or not (self.folder / f"{name}.json").is_file():
            return None
        try:
            saved = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
            if saved["failure"]:
                return None
            with np.load(self.folder / f"{name}.npz", allow_pickle=False) as arrays:
                pictures = [Picture(arrays[f"p{i}"], *texts) for i, texts in enumerate(saved["pictures"])]
            return Part(saved["numbers"], saved["reasons"], pictures)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, RecursionError):
            _log.warning("what was found for %s cannot be read: it is run again", METHODS[name].title)
            return None

    def save(self, name: str, part: Part) -> None:
        """Write what was found for a method."""
        if self.folder is None:
            return
        content = io.BytesIO()
        np.savez(content, **{f"p{i}": picture.points for i, picture in enumerate(part.pictures)})  # type: ignore[arg-type]
        atomic_bytes(self.folder / f"{name}.npz", content.getvalue())
        texts = [(picture.how, picture.variant) for picture in part.pictures]
        whole = {"numbers": part.numbers, "reasons": part.reasons, "pictures": texts, "failure": part.failure}
        atomic_json(self.folder / f"{name}.json", whole)


def _comparison(parts: Mapping[str, Part], baselines: Mapping[str, Mapping[str, float]]) -> Comparison:
    """Put the parts side by side."""
    fine = {name: part for name, part in parts.items() if not part.failure}
    seen = {column for part in fine.values() for column in part.numbers}
    names = [column.name for column in COLUMNS if column.name in seen]
    table = pd.DataFrame(
        [[part.numbers.get(column, np.nan) for column in names] for part in fine.values()],
        index=pd.Index(list(fine), name="method"),
        columns=names,
        dtype=float,
    )
    return Comparison(
        table=table,
        titles={name: METHODS[name].title for name in fine},
        families={name: METHODS[name].family for name in fine},
        sentences={name: METHODS[name].sentence for name in fine},
        reasons={(name, column): why for name, part in fine.items() for column, why in part.reasons.items()},
        pictures={name: tuple(part.pictures) for name, part in fine.items()},
        failures={METHODS[name].title: part.failure for name, part in parts.items() if part.failure},
        baselines=baselines,
    )


def _write(out: Path, found: Comparison, groups: Mapping[str, Categories | None], about: Mapping[str, Any]) -> None:
    """Write the tables and the page."""
    from celbo.report.compare import ComparePage, write_compare_page

    (out / "tables").mkdir(parents=True, exist_ok=True)
    results.write_table(found.table, out / "tables" / "compare")
    meanings = pd.DataFrame(
        [asdict(column) for column in found.columns()], columns=[f.name for f in fields(COLUMNS[0])]
    )
    results.write_table(meanings.set_index("name"), out / "tables" / "columns")
    results.write_versions(out / "versions.yml", "celbo compare")
    page = ComparePage(
        comparison=found,
        labels=groups["labels"],
        batch=groups["batch"],
        n_cells=about["n_cells"],
        n_genes=about["n_genes"],
        n_genes_used=about["n_genes_used"],
        n_test=about["n_test"],
        source=", ".join(about["files"]),
        command=about["command"],
        seed=about["seed"],
        n_samples=SAMPLES,
        versions=results.versions(),
    )
    write_compare_page(page, out / "compare.html")
