"""One method on one data set: fitted, timed and asked everything that a comparison shows."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celbo.errors import CelboError, logger_of
from celbo.evaluate import ilisi, kmeans_agreement, label_silhouette, neighbourhood_preservation
from celbo.evaluate.comparison import Picture
from celbo.evaluate.denoising import MoleculeSplit, score_held_out
from celbo.evaluate.metrics import batch_silhouette
from celbo.evaluate.stability import neighbour_overlap, procrustes_disparity
from celbo.pipeline.methods import METHODS, Cells, Fitted, Method

__all__ = ["Part", "Task", "assess", "picture_of"]

_log = logger_of("celbo.pipeline")

Floats = NDArray[np.floating[Any]]
Codes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Task:
    """What every method is asked, on the same cells."""

    cells: Cells
    train: Codes
    """Positions of the cells to fit to."""
    test: Codes
    """Positions of the cells that judge the likelihood."""
    labels: Codes | None
    """Label of each cell; -1 is none."""
    batch: Codes | None
    """Batch of each cell."""
    reference: Floats
    """Principal components of log-normalised counts, (cells, k): whose neighbours a picture should keep."""
    molecules: MoleculeSplit | None
    """Molecules of the cells in two parts, for denoising; None leaves that out."""
    gene_mean_deviance: float
    """Held-out deviance of the gene means, which that of a method is divided by."""
    repeats: bool
    """Whether to fit again under another seed and other parameters."""
    seed: int


@dataclass(eq=False)
class Part:
    """What was found for one method."""

    numbers: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    failure: str = ""


def assess(name: str, task: Task) -> Part:
    """Fit a method and compute its numbers; what one of them cannot be had for is said, and the others still are.

    Parameters
    ----------
    name
        Name of the method in `METHODS`.
    task
        The cells and what is asked.
    """
    method, part = METHODS[name], Part()
    part.reasons.update(method.reasons)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a method's fit on few cells; what matters is in the numbers
        try:
            fitted, space = _fit(method, task, part)
        except Exception as error:
            if os.environ.get("CELBO_DEBUG"):
                raise
            part.failure = _short(error)
            _log.warning("%s failed: %s", method.title, part.failure)
            return part
        steps: dict[str, Callable[[], None]] = {
            "log_likelihood": lambda: _likelihood(fitted, task, part),
            "clusters": lambda: _agreement(space, task, part),
            "picture": lambda: _draw(method, space, task, part),
            "seed_overlap": lambda: _other_seed(method, space, task, part),
            "parameter_overlap": lambda: _other_parameters(method, task, part),
            "mcv_deviance": lambda: _denoise(method, task, part),
        }
        for column, step in steps.items():
            try:
                step()
            except Exception as error:
                if os.environ.get("CELBO_DEBUG"):
                    raise
                part.reasons[column] = _short(error)
                _log.warning("%s, %s: %s", method.title, column, part.reasons[column])
    return part


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, CelboError) else f"{type(error).__name__}: {text[:200]}"


def _fit(method: Method, task: Task, part: Part) -> tuple[Fitted, Floats]:
    """Fit the method, on the training cells where it can place others, and return the representation of all cells."""
    cells = task.cells.take(task.train) if method.places_new_cells else task.cells
    with _watched(part):
        fitted = method.fit(cells, task.seed, {})
        space = fitted.latent(task.cells) if method.places_new_cells else fitted.own()
    assert space is not None
    if not np.isfinite(space).all():
        raise ValueError("its representation holds numbers that are not finite")
    return fitted, space


def _likelihood(fitted: Fitted, task: Task, part: Part) -> None:
    """Score the cells that the fit has not seen."""
    test = task.cells.take(task.test)
    for column, values in (
        ("log_likelihood", fitted.log_likelihood(test)),
        ("reconstruction", fitted.reconstruction(test)),
    ):
        if values is not None:
            part.numbers[column] = float(np.mean(values))
            part.reasons.pop(column, None)


def _agreement(space: Floats, task: Task, part: Part) -> None:
    """Compare the representation with labels and batches."""
    labels, batch = task.labels, task.batch
    if labels is not None:
        found = kmeans_agreement(space, labels, seed=task.seed)
        part.numbers |= {"ari": found.ari, "nmi": found.nmi}
        part.numbers["label_silhouette"] = label_silhouette(space, labels, seed=task.seed)
    if batch is not None:
        part.numbers["batch_silhouette"] = batch_silhouette(space, batch, labels, seed=task.seed)
        part.numbers["ilisi"] = ilisi(space, batch, seed=task.seed)


def _draw(method: Method, space: Floats, task: Task, part: Part) -> None:
    """Make the picture, and count the neighbours that it keeps."""
    picture = picture_of(space, is_map=method.is_map, seed=task.seed)
    part.pictures.insert(0, picture)
    part.numbers["neighbours_kept"] = neighbourhood_preservation(
        task.reference, picture.points, task.batch, seed=task.seed
    )


def picture_of(space: Floats, *, is_map: bool, seed: int, variant: str = "") -> Picture:
    """Return a representation in the plane: its own first two dimensions if they are a map, or a UMAP of it.

    Parameters
    ----------
    space
        (cells, dimensions).
    is_map
        Whether its first two dimensions are meant to be looked at.
    seed
        Seed of the UMAP.
    variant
        What differs from the method as it comes.
    """
    if is_map or space.shape[1] <= 2:
        points = np.zeros((len(space), 2), np.float32)
        points[:, : space.shape[1]] = space[:, :2]
        return Picture(points, "its own first two dimensions" if space.shape[1] > 2 else "its own dimensions", variant)
    from celbo.embed import fit_umap

    fit = fit_umap(np.asarray(space, np.float64), n_neighbors=min(15, len(space) - 1), min_dist=0.3, seed=seed)
    return Picture(fit.coordinates.astype(np.float32), f"UMAP of {space.shape[1]} dimensions", variant)


def _other_seed(method: Method, space: Floats, task: Task, part: Part) -> None:
    """Fit once more under another seed."""
    if not task.repeats:
        return
    other = _refit(method, task, task.seed + 1, {})
    _moved("seed", space, other, task, part)
    if method.is_map:
        part.pictures.append(picture_of(other, is_map=True, seed=task.seed, variant="another seed"))


def _other_parameters(method: Method, task: Task, part: Part) -> None:
    """Fit with the main parameter lower and higher."""
    if not task.repeats:
        return
    if not method.variants:
        part.reasons["parameter_overlap"] = "It has no one main parameter."
        return
    spaces = [_refit(method, task, task.seed, options) for _, options in method.variants]
    _moved("parameter", spaces[0], spaces[-1], task, part)
    if method.is_map:
        for (label, _), varied in zip(method.variants, spaces, strict=True):
            part.pictures.append(picture_of(varied, is_map=True, seed=task.seed, variant=label))


def _refit(method: Method, task: Task, seed: int, options: Mapping[str, Any]) -> Floats:
    cells = task.cells.take(task.train) if method.places_new_cells else task.cells
    fitted = method.fit(cells, seed, options)
    space = fitted.latent(task.cells) if method.places_new_cells else fitted.own()
    assert space is not None
    return space


def _moved(what: str, one: Floats, other: Floats, task: Task, part: Part) -> None:
    part.numbers[f"{what}_overlap"] = neighbour_overlap(one, other, seed=task.seed)
    part.numbers[f"{what}_procrustes"] = procrustes_disparity(one, other)


def _denoise(method: Method, task: Task, part: Part) -> None:
    """Fit to some of the molecules of all cells, and score what it expects of the others."""
    if task.molecules is None or "mcv_deviance" in method.reasons:
        return
    cells = task.cells.with_counts(task.molecules.train.astype(np.float32))
    expected = method.fit(cells, task.seed, {}).denoised(cells)
    if expected is None:
        part.reasons["mcv_deviance"] = part.reasons["mcv_mse"] = "It does not denoise."
        return
    scores = score_held_out(expected, task.molecules)
    part.numbers["mcv_deviance"] = scores.deviance / task.gene_mean_deviance
    part.numbers["mcv_mse"] = scores.mse_log


@contextmanager
def _watched(part: Part, every: float = 0.01) -> Iterator[None]:
    """Note wall seconds, and the peak of resident memory above that at the start (on Linux)."""
    _give_back()
    before, peak, done = _resident(), [0], threading.Event()

    def look() -> None:
        while not done.wait(every):
            peak[0] = max(peak[0], _resident())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    start = time.perf_counter()
    try:
        yield
    finally:
        part.numbers["seconds"] = time.perf_counter() - start
        done.set()
        thread.join()
        if before:
            part.numbers["memory"] = max(0, peak[0] - before, _resident() - before) / 2**20


def _give_back() -> None:
    """Return what was freed to the system, where the allocator can (glibc): else a fit may reuse it unseen."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return


def _resident() -> int:
    """Return the resident memory of this process in bytes; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
