"""celbo denoise: expected counts by any method that says them, and how good they are on molecules it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from celbo import results
from celbo.data.check import check
from celbo.data.decimals import with_rounded_layer
from celbo.data.schema import Orientation
from celbo.errors import GenesError, OptionError, listed, nearest
from celbo.evaluate.baselines import knn_smoothing
from celbo.evaluate.denoising import mean_over_seeds, molecular_cross_validation
from celbo.evaluate.masking import masked_imputation
from celbo.pipeline.config import TrainRunConfig, read_genes
from celbo.pipeline.methods import METHODS, Cells
from celbo.pipeline.steps import counts_of, opened

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["DENOISERS", "denoise", "denoise_files", "denoising_scores"]

DENOISERS = ("scvi", "ldvae", "scvae", "vae", "dca", "autoimpute", "autoencoder", "hpf", "knn")
"""Methods that say expected counts."""


def denoise(
    adata: AnnData,
    *,
    method: str = "scvi",
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str | None = "denoised",
    seed: int = 0,
) -> NDArray[np.float32]:
    """Fit a method to counts and return what it expects them to be without sampling noise.

    It is fitted to the very counts that it denoises, which says nothing about how good it is: for that see
    `denoising_scores`. Denoised counts are predictions; tests on them find structure that the model put there (Andrews
    & Hemberg 2018).

    Parameters
    ----------
    adata
        Cells x genes; the result is written into it.
    method
        One of `DENOISERS`.
    layer, batch_key
        See `celbo.data.schema.DataKeys`.
    key_added
        Layer to write, which is replaced if it is there; None writes nothing. It cannot be the layer of the counts.
    seed
        Seed of the fit.

    Returns
    -------
    Expected counts at each cell's own depth, (cells, genes) float32; zero inflation is taken out.

    Raises
    ------
    OptionError
        If there is no such method.
    InputError
        If the data cannot be used.
    """
    _known(method)
    if key_added is not None and key_added == layer:
        fix = "Give another name, or None."
        raise OptionError("is the layer of the counts", where=f"key_added={key_added!r}", fix=fix)
    check(adata, layer=layer, batch_key=batch_key).raise_if_bad()
    expected = _denoiser(method, _cells(adata, layer, batch_key), seed, zero_inflation=False)(counts_of(adata, layer))
    blocks = [expected] if isinstance(expected, np.ndarray) else expected
    values = np.concatenate([np.asarray(block, np.float32) for block in blocks])
    if key_added is not None:
        adata.layers[key_added] = values
    return values


def denoising_scores(
    adata: AnnData,
    *,
    methods: Sequence[str] = ("scvi", "dca", "autoimpute", "hpf", "knn"),
    layer: str | None = None,
    batch_key: str | None = None,
    by: str = "molecules",
    seeds: Sequence[int] = (0,),
) -> pd.DataFrame:
    """Score denoisers on counts they have not seen; never on those they were fitted to.

    Parameters
    ----------
    adata
        Cells x genes; not altered.
    methods
        Of `DENOISERS`.
    layer, batch_key
        See `celbo.data.schema.DataKeys`.
    by
        "molecules": each is fitted to nine tenths of the molecules and judged by the others (molecular
        cross-validation, `celbo.evaluate.molecular_cross_validation`); "masking": a tenth of the counts above zero is
        taken away (`celbo.evaluate.masked_imputation`), which favours what predicts too much.
    seeds
        Of the splits and of the fits.

    Returns
    -------
    One row a method and seed, the baselines "no denoising" and "gene mean" among them.
    """
    for method in methods:
        _known(method)
    if by not in ("molecules", "masking"):
        raise OptionError("is unknown", where="by", value=repr(by), fix="Use 'molecules' or 'masking'.")
    check(adata, layer=layer, batch_key=batch_key).raise_if_bad()
    cells, counts = _cells(adata, layer, batch_key), counts_of(adata, layer)
    score = molecular_cross_validation if by == "molecules" else masked_imputation
    tables = []
    for seed in seeds:
        denoisers = {method: _denoiser(method, cells, seed, zero_inflation=True) for method in methods}
        tables.append(score(denoisers, counts, seeds=(seed,)))
    return pd.concat(tables, ignore_index=True)


def _known(method: str) -> None:
    if method not in DENOISERS:
        raise OptionError("is not a method that denoises", where=f"{method!r}", fix=nearest(method, DENOISERS))


def _cells(adata: AnnData, layer: str | None, batch_key: str | None) -> Cells:
    obs = adata.obs[[batch_key]].copy() if batch_key else pd.DataFrame(index=adata.obs_names)
    counts = counts_of(adata, layer).astype(np.float32)
    return Cells(anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=adata.var_names)), batch_key)


def _denoiser(method: str, cells: Cells, seed: int, *, zero_inflation: bool) -> Callable[[sparse.csr_matrix], Any]:
    """Return a function of counts: fit, and say expected counts."""

    def by_model(counts: sparse.csr_matrix) -> Any:
        found = np.asarray(counts.sum(1)).ravel() > 0  # models refuse cells without a count
        given = cells.with_counts(counts.astype(np.float32)).take(np.flatnonzero(found))
        values = METHODS[method].fit(given, seed, {}).denoised(given, zero_inflation=zero_inflation)
        if found.all():
            return values
        whole = np.zeros(counts.shape, np.float32)
        whole[found] = values
        return whole

    if method == "knn":
        return lambda counts: knn_smoothing(counts, seed=seed)
    return by_model


def denoise_files(
    data: Sequence[str],
    methods: Sequence[str],
    *,
    out: Path,
    layer: str | None = None,
    batch_key: str | None = None,
    round_counts: bool = False,
    orientation: Orientation = "auto",
    evaluate: bool = False,
    genes: Path | None = None,
    seed: int = 0,
) -> str:
    """Fit a method to files of counts and write what it expects, or score methods; return what to tell the user.

    Parameters
    ----------
    data
        Files of counts.
    methods
        Of `DENOISERS`; several only with `evaluate`.
    out
        .h5ad of expected counts; with `evaluate` the table of scores (another ending than .h5ad), which is printed too.
    layer, batch_key, round_counts
        See `celbo.data.schema.DataKeys`.
    orientation
        What the rows of a text table are.
    evaluate
        Whether to score.
    genes
        File with the genes to write.
    seed
        Seed of split and fit.
    """
    adata = opened(TrainRunConfig(data=tuple(data), orientation=orientation), None)
    if round_counts:
        layer, _ = with_rounded_layer(adata, layer)
    if evaluate:
        each = denoising_scores(adata, methods=methods, layer=layer, batch_key=batch_key, seeds=(seed,))
        scores = mean_over_seeds(each).drop(columns="legacy_poisson")
        if out.suffix.lower() != ".h5ad":
            results.write_frame(scores, out)
        shown = scores[[name for name in scores if not str(name).endswith("_sd")]]
        return str(shown.round(5).to_string())
    if len(methods) > 1:
        raise OptionError("are several methods", where=",".join(methods), fix="Take one, or pass --evaluate.")
    if out.suffix.lower() != ".h5ad":
        raise OptionError("has another ending than .h5ad", where=f"{str(out)!r}", fix="Give --out NAME.h5ad.")
    values = denoise(adata, method=methods[0], layer=layer, batch_key=batch_key, key_added=None, seed=seed)
    names = np.asarray(adata.var_names.astype(str))
    chosen = np.arange(len(names)) if genes is None else _chosen(names, read_genes(genes))
    note = {"values": "expected counts", "method": methods[0], "seed": seed}
    with results.write_matrix_h5ad(out, obs=adata.obs, var=pd.DataFrame(index=names[chosen]), note=note) as write:
        write(0, values[:, chosen])
    return str(out)


def _chosen(names: NDArray[Any], wanted: Sequence[str]) -> NDArray[np.int64]:
    found = pd.Index(names).get_indexer(pd.Index(wanted))
    if (found < 0).any():
        missing = [gene for gene, at in zip(wanted, found, strict=True) if at < 0]
        raise GenesError("are not in the data", where="genes", value=listed(missing))
    return np.asarray(found, np.int64)
