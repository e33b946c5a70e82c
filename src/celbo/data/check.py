"""Is it counts? One full pass over the values, and every name and column a model will need.

`check` tells all it finds; `require` raises the first error, or warns of what the user should know.
"""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from celbo.data.columns import (
    UNLABELLED,
    category_codes,
    check_columns,
    check_keys,
    n_unlabelled,
    names_conditions,
    odd_labels,
    suggested,
)
from celbo.data.decimals import Look, counts_rounded, look_at, rounded_logarithms
from celbo.data.findings import CheckResult, Finding, error, note, warning
from celbo.data.matrix import count_matrix_of, layer_names, matrix_name, repeated_positions
from celbo.data.names import check_names, genomes_of
from celbo.data.panels import check_panels
from celbo.data.scan import KINDS, BadValues, Kind, Matrix, Scan, is_sparse, scan_matrix
from celbo.data.schema import DataKeys, Orientation
from celbo.data.totals import check_sums, check_totals, empty_droplets
from celbo.errors import CelboError, CelboWarning, CountsError, OptionError, ReadError, SchemaError, listed

__all__ = ["CheckResult", "Finding", "check", "count_matrix_of", "require"]

_KIND_TEXT: dict[Kind, str] = {
    "nan": "missing (NaN)",
    "inf": "infinite",
    "negative": "negative",
    "fractional": "not whole numbers",
    "large": "too large for a count (above 4,294,967,295)",
}


def check(
    data: AnnData | str | Path | Sequence[str | Path],
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Sequence[str] = (),
    continuous_covariate_keys: Sequence[str] = (),
    round_counts: bool = False,
    require_counts: bool = True,
    orientation: Orientation = "auto",
) -> CheckResult:
    """Tell what is in a data set, whether it holds counts, what is wrong with it, and which keys suggest themselves.

    Every stored value is looked at, not a sample.

    Parameters
    ----------
    data
        AnnData of (cells, genes), or a file that `celbo.read` can read, or several of them.
    layer
        Layer with the counts; None is `X`, "raw" is `adata.raw`.
    batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys
        Columns of `obs`, as a model takes them.
    round_counts
        Whether decimals are to be rounded to whole numbers, see `celbo.round_counts`.
    require_counts
        Whether values must be counts (all likelihoods but "normal").
    orientation
        What the rows of a text table are, where `data` is one.

    Returns
    -------
    The facts and the findings. Nothing is raised for what is wrong with the data.

    Raises
    ------
    ReadError
        If a file cannot be read.
    """
    adata, files, told = _opened(data, orientation)
    several = {
        name: given if isinstance(given, str) else tuple(given)
        for name, given in (
            ("categorical_covariate_keys", categorical_covariate_keys),
            ("continuous_covariate_keys", continuous_covariate_keys),
        )
    }
    keys = DataKeys(
        layer=layer,
        batch_key=batch_key,
        labels_key=labels_key,
        size_factor_key=size_factor_key,
        round_counts=round_counts,
        **several,  # type: ignore[arg-type]
    )
    found = _checked(adata, keys, require_counts=require_counts)
    source = " + ".join(files) or "adata"
    return replace(found, source=source, files=files, findings=(*told, *found.findings))


def require(adata: AnnData, keys: DataKeys, *, require_counts: bool = True) -> None:
    """Raise the first error of the data, or warn of what the user should know.

    Parameters
    ----------
    adata
        The data; (cells, genes).
    keys
        Where in it the model looks.
    require_counts
        Whether values must be counts (all likelihoods but "normal").

    Raises
    ------
    OptionError
        If a key is not a name.
    SchemaError
        If a column, a layer or a name is missing, duplicated or malformed.
    CountsError
        If values are not counts, or a cell has none.
    """
    _checked(_as_anndata(adata), keys, require_counts=require_counts).raise_if_bad()


def _opened(data: Any, orientation: Orientation) -> tuple[AnnData, tuple[str, ...], list[Finding]]:
    """Return the data, the files they came from, and what was told while these were read."""
    if not isinstance(data, str | Path | list | tuple):
        return _as_anndata(data), (), []
    from celbo.data.read import read

    files = [data] if isinstance(data, str | Path) else list(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", CelboWarning)
        adata = read(files[0] if len(files) == 1 else files, orientation=orientation)
    told = [each.message for each in caught if isinstance(each.message, CelboWarning)]
    return adata, tuple(map(str, files)), [note(ReadError, w.what, fix=w.fix, flag=w.flag) for w in told]


def _as_anndata(data: object) -> AnnData:
    if isinstance(data, AnnData):
        return data
    fix = "celbo.read makes one of a file, and anndata.AnnData(X=matrix) of a matrix."
    if type(data).__name__ == "MuData":
        fix = "Pass one modality, such as mdata['rna']."
    raise OptionError("is not an AnnData", where="adata", value=f"a {type(data).__name__}", fix=fix)


def _checked(adata: AnnData, keys: DataKeys, *, require_counts: bool) -> CheckResult:
    """Check names first, as they cost nothing, then the values in one pass."""
    findings = [*check_keys(adata, keys), *check_columns(adata, keys)]
    facts = _columns(adata, keys)
    findings += _check_conditions(facts["batch_column"], facts["batches"])
    findings += _check_odd_labels(facts["labels_column"], facts["labels"])
    facts |= {
        "matrix": matrix_name(adata, keys.layer),
        "n_genes": adata.n_vars,
        "n_stored": 0,
    }
    try:
        matrix, genes = count_matrix_of(adata, keys.layer)
        facts["n_genes"] = matrix.shape[1]
        findings += [
            *_check_shape(matrix, facts["matrix"]),
            *check_names(adata, genes),
            *_check_repeats(adata, keys.layer),
        ]
        if 0 not in matrix.shape:
            found, seen = _check_matrix(adata, keys, matrix, genes, require_counts=require_counts)
            findings += found
            facts |= seen
    except CelboError as problem:
        told: dict[str, Any] = {"where": problem.where, "value": problem.value, "fix": problem.fix}
        findings.append(error(type(problem), problem.what, **told, flag=problem.flag))
    return CheckResult(n_cells=adata.n_obs, keys=keys, findings=tuple(findings), **facts)


def _columns(adata: AnnData, keys: DataKeys) -> dict[str, Any]:
    """Return the columns of batches and labels, those named or else those that suggest themselves, and their sizes."""
    facts: dict[str, Any] = {}
    for like, column, key in (("batch", "batch_column", keys.batch_key), ("label", "labels_column", keys.labels_key)):
        names = suggested(adata, like=like)
        missing = UNLABELLED if like == "label" else None
        groups = {name: _groups(adata, name, missing) for name in ([key] if key is not None else names)}
        whole = next((name for name, found in groups.items() if found is not None), None)
        sizes = "batches" if like == "batch" else "labels"
        facts |= {column: whole, sizes: _sizes(groups[whole] if whole is not None else None)}
        facts[f"suggested_{sizes if like == 'label' else 'batch'}_keys"] = names
    facts["n_unlabelled"] = n_unlabelled(facts["labels"])
    return facts


def _check_conditions(column: str | None, batches: Mapping[str, int]) -> Iterable[Finding]:
    """Say that a condition is no batch, where the names of the batches are those of conditions."""
    if column is not None and names_conditions(tuple(batches)):
        fix = (
            "What you will compare is not a batch: a model takes the differences between batches away. Name the "
            "samples or the days as batches, or none."
        )
        where, what = f"adata.obs[{column!r}]", "names conditions"
        yield note(SchemaError, what, where=where, value=listed(batches, limit=4), fix=fix)


_Groups = tuple[NDArray[np.int64], tuple[str, ...]]


def _groups(adata: AnnData, key: object, missing: str | None = None) -> _Groups | None:
    """Return the codes and names of a column, or None where it is not there or has gaps."""
    if not isinstance(key, str) or list(adata.obs.columns).count(key) != 1:
        return None
    try:
        codes, names = category_codes(adata.obs[key], missing=missing)
    except TypeError:  # values that cannot be told apart: `check_columns` has said so
        return None
    return None if (codes < 0).any() else (codes, names)


def _sizes(groups: _Groups | None) -> dict[str, int]:
    if groups is None:
        return {}
    codes, names = groups
    return {name: int(n) for name, n in zip(names, np.bincount(codes, minlength=len(names)), strict=True)}


def _check_odd_labels(column: str | None, labels: Mapping[str, int]) -> Iterable[Finding]:
    """Say that some labels are of doublets, dying cells or another species, which somebody may want to leave out."""
    odd = odd_labels(tuple(labels))
    if column is not None and 0 < len(odd) < len(labels):
        value = ", ".join(f"{name!r} ({labels[name]:,} cells)" for name in odd[:5])
        fix = "Leave these cells out, if they are not what you want to learn about."
        call = f"{fix[:-1]}: adata = adata[~adata.obs[{column!r}].isin({list(odd[:5])!r})].copy()."
        what = "has labels of doublets, damaged cells or another species"
        yield note(SchemaError, what, where=f"adata.obs[{column!r}]", value=value, fix=call, flag=fix)


def _check_shape(matrix: Matrix, where: str) -> Iterable[Finding]:
    for what, size in (("cells", matrix.shape[0]), ("genes", matrix.shape[1])):
        if size == 0:
            fix = "Did a filter remove them all?"
            yield error(CountsError, f"holds no {what}", where=where, value=f"shape {matrix.shape}", fix=fix)


def _check_repeats(adata: AnnData, layer: str | None) -> Iterable[Finding]:
    """Find positions that a sparse matrix lists more than once."""
    found = repeated_positions(adata, layer)
    if found is None:
        return
    where, value = matrix_name(adata, layer), found.value
    if found.too_many:
        text = "A matrix lists each cell and gene once. If they are to be added up"
        fix, flag = f"{text}, call its sum_duplicates().", f"{text}, write the file so."
        what = "lists the same positions again and again"
        yield error(CountsError, what, where=where, value=value, fix=fix, flag=flag)
        return
    fix = "They were added up. Is the file whole?"
    yield warning(CountsError, "lists positions more than once", where=where, value=value, fix=fix)


def _check_matrix(
    adata: AnnData, keys: DataKeys, matrix: Matrix, genes: NDArray[np.object_], *, require_counts: bool
) -> tuple[list[Finding], dict[str, Any]]:
    where = matrix_name(adata, keys.layer)
    groups = _groups(adata, keys.batch_key)
    findings = []
    if keys.round_counts:
        matrix, told = counts_rounded(matrix, where)
        findings = [note(CountsError, "was rounded to whole numbers", where=where, value=told)] if told else []
    scan = _scan(matrix, groups, where)
    kinds = KINDS if require_counts else ("nan", "inf")
    bad = [scan.bad[kind] for kind in kinds if kind in scan.bad]
    odd = not bad and require_counts and rounded_logarithms(matrix, scan.largest)
    others = _layers_with_counts(adata, keys.layer) if bad or odd else ()
    findings += [_bad_finding(each, adata, genes, where, _fix(each, scan, matrix, others)) for each in bad]
    if odd:
        findings.append(_rounded_logs(scan, where, others))
    if require_counts and not bad:
        findings += [*check_totals(scan.totals, where, keys.layer), *_check_species(matrix, genes, where)]
        findings += check_sums(matrix, scan, genes, adata.obs_names.to_numpy(object), where)
    findings += [
        *_check_cells(adata, keys, scan, where),
        *_check_genes(genes, scan, None if scan.bad else groups, where),
    ]
    return findings, {
        "n_stored": scan.n_nonzero,
        "format": matrix.format if is_sparse(matrix) else "dense",
        "dtype": str(matrix.dtype),
        "median_counts": float(np.median(scan.totals)),
        "empty_cells": int((~scan.occupied).sum()),
        "layers_with_counts": others,
    }


def _scan(matrix: Matrix, groups: _Groups | None, where: str) -> Scan:
    try:
        return scan_matrix(matrix) if groups is None else scan_matrix(matrix, groups=groups[0], n_groups=len(groups[1]))
    except IndexError as problem:
        fix = "The matrix or its file is damaged; write it again."
        raise CountsError("is not a valid sparse matrix", where=where, value=str(problem), fix=fix) from None


def _bad_finding(bad: BadValues, adata: AnnData, genes: NDArray[np.object_], where: str, fix: _Fix) -> Finding:
    cell, gene = str(adata.obs_names[bad.cell])[:80], genes[bad.gene][:80]
    others = f"; {bad.n:,} values are {_KIND_TEXT[bad.kind]}" if bad.n > 1 else ""
    value = f"cell {cell!r} (row {bad.cell}), gene {gene!r} is {bad.value:.6g}{others}"
    return error(CountsError, "holds values that are not counts", where=where, value=value, **fix)


_ROUND = (
    "or round them to whole numbers: adata = celbo.round_counts(adata), or round_counts=True of a model.",
    "or round them to whole numbers: --round-counts.",
)
"""In Python and on the command line, as all pairs of fixes here."""
_NO_COUNTS = (
    "neither a layer nor adata.raw holds counts. Read the counts from their file, or take likelihood='normal'.",
    "neither a layer nor raw holds counts. Give the file that holds them, or take --likelihood normal.",
)


_Fix = dict[str, Any]
"""Arguments of a finding: fix, flag and settings."""


def _fix(bad: BadValues, scan: Scan, matrix: Matrix, others: tuple[str, ...]) -> _Fix:
    """Return what to do about values that are not counts, in Python and on the command line."""
    n_bad = sum(each.n for each in scan.bad.values())
    only_decimals = set(scan.bad) == {"fractional"}
    few = n_bad < (0.01 if only_decimals else 0.1) * scan.n_nonzero
    if not few and bad.kind not in {"nan", "inf", "large"}:
        look = look_at(matrix, scan.largest, negative="negative" in scan.bad)
        return _advice(look, others, rounds=only_decimals and look.estimated)
    text = f"The other {scan.n_nonzero - n_bad:,} values that are not zero are counts; correct these"
    call, flag = (f"{text}, {end}" for end in _ROUND) if only_decimals else (f"{text}.", f"{text}.")
    if others:
        there = _elsewhere(others)
        return {**there, "fix": f"{call} Or {there['fix']}.", "flag": f"{flag} Or {there['flag']}."}
    return {"fix": call, "flag": flag, "settings": {"round_counts": True} if only_decimals else {}}


def _advice(look: Look, others: tuple[str, ...], *, rounds: bool) -> _Fix:
    if others:
        there = _elsewhere(others)
        return {**there, "fix": f"{look.sentence}; {there['fix']}.", "flag": f"{look.sentence}; {there['flag']}."}
    if rounds:
        text = f"{look.sentence}. Take the counts as they were before that, if you have them, "
        return {"fix": text + _ROUND[0], "flag": text + _ROUND[1], "settings": {"round_counts": True}}
    return {"fix": f"{look.sentence}; {_NO_COUNTS[0]}", "flag": f"{look.sentence}; {_NO_COUNTS[1]}"}


def _elsewhere(others: tuple[str, ...]) -> _Fix:
    """Return where the counts are: as words of Python, as flags, and as an option."""
    named = {"X": "layer=None (adata.X)", "raw": "layer='raw' (adata.raw)"}
    call = "pass " + " or ".join(named.get(name, f"layer={name!r}") for name in others)
    flags = [f"pass --layer {shlex.quote(name)}" for name in others if name != "X"]
    flags += ["leave out --layer, as X holds the counts"] if "X" in others else []
    return {"fix": call, "flag": " or ".join(flags), "settings": {"layer": None if others[0] == "X" else others[0]}}


def _rounded_logs(scan: Scan, where: str, others: tuple[str, ...]) -> Finding:
    fix = _advice(Look("Of counts, most are small and a few large", estimated=False), others, rounds=False)
    value = f"whole numbers, none above {scan.largest:g}"
    return warning(CountsError, "looks like rounded logarithms", where=where, value=value, **fix)


def _check_species(matrix: Matrix, genes: NDArray[np.object_], where: str) -> Iterable[Finding]:
    """Find two species in one matrix, and say how many cells are of each."""
    found = genomes_of(genes)
    if found is None:
        return
    first, second = (np.asarray(matrix @ each.astype(np.float32)).ravel() for each in (found.first, found.second))
    share = first / np.maximum(first + second, 1)
    one, other = found.names
    cells = (
        f"{(share >= 0.9).sum():,} cells are of the first by nine tenths of their counts, {(share <= 0.1).sum():,} of"
    )
    value = (
        f"{found.first.sum():,} genes of {one} and {found.second.sum():,} of {other}; {cells} the second, "
        f"{((share > 0.1) & (share < 0.9)).sum():,} of both"
    )
    fix = "A model would spend itself on telling the species apart. Take the cells and the genes of one of them"
    call = f"{fix}: adata = adata[cells, genes].copy()."
    flag = f"{fix}: give a file that holds only these, or name its genes in --genes."
    yield warning(CountsError, "holds two species", where=where, value=value, fix=call, flag=flag)


def _layers_with_counts(adata: AnnData, checked: str | None) -> tuple[str, ...]:
    """Return the other matrices that hold counts, as `layer=` takes them, "X" for None."""
    names = [*map(str, layer_names(adata)), *(["raw"] if adata.raw is not None and "raw" not in adata.layers else [])]
    candidates: list[str | None] = [*names, *([None] if checked is not None else [])]
    return tuple(name or "X" for name in candidates if name != checked and _holds_counts(adata, name))


def _holds_counts(adata: AnnData, layer: str | None) -> bool:
    try:
        scan = scan_matrix(count_matrix_of(adata, layer)[0])
    except (CelboError, IndexError):
        return False
    return not scan.bad and scan.n_nonzero > 0


def _check_cells(adata: AnnData, keys: DataKeys, scan: Scan, where: str) -> Iterable[Finding]:
    """Find cells without a count: the logarithm of their library size does not exist."""
    empty = np.flatnonzero(~scan.occupied)
    if empty.size:
        droplets = empty_droplets(scan.totals)
        least = 1 if droplets is None else droplets.min_counts
        first = f"cell {str(adata.obs_names[empty[0]])[:80]!r} (row {empty[0]})"
        value = f"{empty.size:,} of {adata.n_obs:,}, the first is {first}"
        layer = "" if keys.layer is None else f", layer={keys.layer!r}"
        fix = f"Remove them: adata = celbo.filter_cells(adata, min_counts={least}{layer})."
        flag, settings = f"Leave them out with --min-counts {least}.", {"min_counts": least}
        what = "holds cells without a single count"
        yield error(CountsError, what, where=where, value=value, fix=fix, flag=flag, settings=settings)


def _check_genes(genes: NDArray[np.object_], scan: Scan, groups: _Groups | None, where: str) -> Iterable[Finding]:
    """Find genes that no cell has, or that only some batches have."""
    seen = scan.detected.any(0)
    if not seen.all():
        value = f"{(~seen).sum():,} of {seen.size:,}: {listed(genes[~seen], limit=5)}"
        fix = "A model learns nothing from them; celbo.select_genes leaves them out."
        flag = "Nothing needs to be done: they are left out when the genes to train on are chosen."
        yield note(CountsError, "holds genes without a single count", where=where, value=value, fix=fix, flag=flag)
    if groups is not None and len(groups[1]) == scan.detected.shape[0]:
        yield from check_panels(genes, scan, *groups, where)
