"""Is it counts? One full pass over the values, and every name and column a model will need.

`check` tells all it finds; `require` raises the first error, or warns of what the user should know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from celbo.data.columns import UNLABELLED, category_codes, check_columns, check_keys, suggested
from celbo.data.findings import CheckResult, Finding, error, warning
from celbo.data.matrix import count_matrix_of, matrix_name
from celbo.data.scan import KINDS, BadValues, Kind, Matrix, Scan, is_sparse, looks_like, scan_matrix
from celbo.data.schema import DataKeys
from celbo.errors import CelboError, CountsError, OptionError, SchemaError, listed

__all__ = ["CheckResult", "Finding", "check", "count_matrix_of", "require"]

_KIND_TEXT: dict[Kind, str] = {
    "nan": "missing (NaN)",
    "inf": "infinite",
    "negative": "negative",
    "fractional": "not whole numbers",
    "large": "too large for a count (above 4,294,967,295)",
}


def check(
    data: AnnData | str | Path,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Sequence[str] = (),
    continuous_covariate_keys: Sequence[str] = (),
    require_counts: bool = True,
) -> CheckResult:
    """Tell what is in a data set, whether it holds counts, what is wrong with it, and which keys suggest themselves.

    Every stored value is looked at, not a sample.

    Parameters
    ----------
    data
        AnnData of (cells, genes), or a file that `celbo.read` can read.
    layer
        Layer with the counts; None is `X`, "raw" is `adata.raw`.
    batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys
        Columns of `obs`, as a model takes them.
    require_counts
        Whether values must be counts (all likelihoods but "normal").

    Returns
    -------
    The facts and the findings. Nothing is raised for what is wrong with the data.

    Raises
    ------
    ReadError
        If a file cannot be read.
    """
    adata, source = _opened(data)
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
        **several,  # type: ignore[arg-type]
    )
    return _checked(adata, keys, require_counts=require_counts, source=source)


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
    _checked(_as_anndata(adata), keys, require_counts=require_counts, source="adata").raise_if_bad()


def _opened(data: object) -> tuple[AnnData, str]:
    if isinstance(data, str | Path):
        from celbo.data.read import read

        return read(data), str(data)
    return _as_anndata(data), "adata"


def _as_anndata(data: object) -> AnnData:
    if isinstance(data, AnnData):
        return data
    fix = "celbo.read makes one of a file, and anndata.AnnData(X=matrix) of a matrix."
    if type(data).__name__ == "MuData":
        fix = "Pass one modality, such as mdata['rna']."
    raise OptionError("is not an AnnData", where="adata", value=f"a {type(data).__name__}", fix=fix)


def _checked(adata: AnnData, keys: DataKeys, *, require_counts: bool, source: str) -> CheckResult:
    """Check names first, as they cost nothing, then the values in one pass."""
    findings = [*check_keys(adata, keys), *check_columns(adata, keys)]
    facts: dict[str, Any] = {
        "batches": _sizes(_groups(adata, keys.batch_key)),
        "labels": _sizes(_groups(adata, keys.labels_key, UNLABELLED)),
        "suggested_batch_keys": suggested(adata, like="batch"),
        "suggested_labels_keys": suggested(adata, like="label"),
        "matrix": matrix_name(adata, keys.layer),
        "n_genes": adata.n_vars,
        "n_stored": 0,
    }
    try:
        matrix, genes = count_matrix_of(adata, keys.layer)
        facts["n_genes"] = matrix.shape[1]
        findings += [*_check_shape(matrix, facts["matrix"]), *_check_names(adata, genes)]
        if 0 not in matrix.shape:
            found, seen = _check_matrix(adata, keys, matrix, genes, require_counts=require_counts)
            findings += found
            facts |= seen
    except CelboError as problem:
        told = {"where": problem.where, "value": problem.value, "fix": problem.fix, "flag": problem.flag}
        findings.append(error(type(problem), problem.what, **told))
    return CheckResult(n_cells=adata.n_obs, keys=keys, findings=tuple(findings), source=source, **facts)


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


def _check_shape(matrix: Matrix, where: str) -> Iterable[Finding]:
    for what, size in (("cells", matrix.shape[0]), ("genes", matrix.shape[1])):
        if size == 0:
            fix = "Did a filter remove them all?"
            yield error(CountsError, f"holds no {what}", where=where, value=f"shape {matrix.shape}", fix=fix)


def _check_names(adata: AnnData, genes: NDArray[np.object_]) -> Iterable[Finding]:
    """Check that cells and genes have names, and no two the same."""
    cells = np.array([_plain(name) for name in adata.obs_names], dtype=object)
    for names, what, slot in ((genes, "genes", "var"), (cells, "cells", "obs")):
        empty = np.flatnonzero([name.strip().lower() in {"", "nan"} for name in names])
        if empty.size:
            value = f"{empty.size:,}, the first at position {empty[0]}"
            fix = f"Give each a name in adata.{slot}_names."
            yield error(SchemaError, f"holds {what} without a name", where=f"adata.{slot}_names", value=value, fix=fix)
        twice = [name for name, n in Counter(names).items() if n > 1 and name.strip()]
        if twice:
            value = listed(twice, limit=5)
            fix = f"Make them unique: adata.{slot}_names_make_unique()."
            yield error(
                SchemaError, f"names several {what} the same", where=f"adata.{slot}_names", value=value, fix=fix
            )


def _plain(name: object) -> str:
    return name if type(name) is str else str(name)


def _check_matrix(
    adata: AnnData, keys: DataKeys, matrix: Matrix, genes: NDArray[np.object_], *, require_counts: bool
) -> tuple[list[Finding], dict[str, Any]]:
    where = matrix_name(adata, keys.layer)
    groups = _groups(adata, keys.batch_key)
    scan = _scan(matrix, groups, where)
    kinds = KINDS if require_counts else ("nan", "inf")
    bad = [scan.bad[kind] for kind in kinds if kind in scan.bad]
    others = _layers_with_counts(adata, keys.layer) if bad else ()
    findings = [_bad_finding(each, adata, genes, where, _fix(each, scan, matrix, others)) for each in bad]
    findings += [*_check_cells(adata, keys, scan, where), *_check_genes(genes, scan, groups, where)]
    return findings, {
        "n_stored": scan.n_nonzero,
        "format": matrix.format if is_sparse(matrix) else "dense",
        "dtype": str(matrix.dtype),
        "median_counts": float(np.median(scan.totals)),
        "layers_with_counts": others,
    }


def _scan(matrix: Matrix, groups: _Groups | None, where: str) -> Scan:
    try:
        return scan_matrix(matrix) if groups is None else scan_matrix(matrix, groups=groups[0], n_groups=len(groups[1]))
    except IndexError as problem:
        fix = "The matrix or its file is damaged; write it again."
        raise CountsError("is not a valid sparse matrix", where=where, value=str(problem), fix=fix) from None


def _bad_finding(bad: BadValues, adata: AnnData, genes: NDArray[np.object_], where: str, fix: str) -> Finding:
    cell, gene = str(adata.obs_names[bad.cell])[:80], genes[bad.gene][:80]
    others = f"; {bad.n:,} values are {_KIND_TEXT[bad.kind]}" if bad.n > 1 else ""
    value = f"cell {cell!r} (row {bad.cell}), gene {gene!r} is {bad.value:.6g}{others}"
    return error(CountsError, "holds values that are not counts", where=where, value=value, fix=fix)


def _fix(bad: BadValues, scan: Scan, matrix: Matrix, others: tuple[str, ...]) -> str:
    n_bad = sum(each.n for each in scan.bad.values())
    if bad.kind in {"nan", "inf", "large"} or n_bad < 0.1 * scan.n_nonzero:
        instead = f" Or {_elsewhere(others)}." if others else ""
        return f"The other {scan.n_nonzero - n_bad:,} values that are not zero are counts; correct these.{instead}"
    looks = {
        "log": "It looks log-transformed",
        "normalised": "It looks normalised",
        "scaled": "It looks scaled or corrected",
        "": "It was made from counts, or estimated",
    }[looks_like(matrix, scan.largest, negative="negative" in scan.bad)]
    if others:
        return f"{looks}; {_elsewhere(others)}."
    alternative = "Read the counts from their file, or take likelihood='normal'."
    return f"{looks}; neither a layer nor adata.raw holds counts. {alternative}"


def _elsewhere(others: tuple[str, ...]) -> str:
    named = {"X": "layer=None (adata.X)", "raw": "layer='raw' (adata.raw)"}
    return "pass " + " or ".join(named.get(name, f"layer={name!r}") for name in others)


def _layers_with_counts(adata: AnnData, checked: str | None) -> tuple[str, ...]:
    """Return the other matrices that hold counts, as `layer=` takes them, "X" for None."""
    names = [*map(str, adata.layers), *(["raw"] if adata.raw is not None and "raw" not in adata.layers else [])]
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
        first = f"cell {str(adata.obs_names[empty[0]])[:80]!r} (row {empty[0]})"
        value = f"{empty.size:,} of {adata.n_obs:,}, the first is {first}"
        layer = "" if keys.layer is None else f", layer={keys.layer!r}"
        fix = f"Remove them: adata = celbo.filter_cells(adata, min_counts=1{layer})."
        yield error(CountsError, "holds cells without a single count", where=where, value=value, fix=fix)


def _check_genes(genes: NDArray[np.object_], scan: Scan, groups: _Groups | None, where: str) -> Iterable[Finding]:
    """Find genes that no cell has, or that only some batches have."""
    seen = scan.detected.any(0)
    if not seen.all():
        value = f"{(~seen).sum():,} of {seen.size:,}: {listed(genes[~seen], limit=5)}"
        fix = "They teach a model nothing; celbo.select_genes leaves them out."
        yield warning(CountsError, "holds genes without a single count", where=where, value=value, fix=fix)
    partly = seen & ~scan.detected.all(0)
    if partly.any():
        value = f"{partly.sum():,} of {seen.size:,}: {listed(genes[partly], limit=5)}"
        fix = "Were the batches aligned to the same genes? A gene that was not measured is not a zero."
        yield warning(
            CountsError,
            "holds genes that are all zero in one batch but not in the others",
            where=where,
            value=value,
            fix=fix,
        )
