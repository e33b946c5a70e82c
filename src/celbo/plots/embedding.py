"""Point clouds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from celbo.errors import InputError
from celbo.plots.arrays import numbers
from celbo.plots.names import shown
from celbo.plots.style import INK, MISSING, category_colors, heat, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_embedding"]


def plot_embedding(
    x: ArrayLike,
    color: ArrayLike | pd.Series[Any] | pd.Categorical | None = None,
    *,
    title: str = "",
    palette: Sequence[str] | None = None,
    point_size: float | None = None,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw a two-dimensional map of cells, without axes, since its axes mean nothing.

    Parameters
    ----------
    x
        Coordinates, (cells, 2).
    color
        A category (strings, a pandas categorical, booleans) or an amount (numbers) for each cell, (cells,); missing
        ones are grey. None draws one colour. Amounts are shown from their 1st to their 99th percentile.
    title
        Drawn above the map.
    palette
        Colours of the categories, in their order; None takes those of the report.
    point_size
        Diameter of a point in pixels; None suits it to the number of cells.
    seed
        Of the order in which the cells are drawn, so that no category hides the others by coming last.
    ax
        Axes to draw into; None makes a figure, which is `ax.figure`.

    Returns
    -------
    The axes.
    """
    xy = numbers(x, "x", slot="adata.obsm['X_umap']")
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise InputError("is not (cells, 2)", where="x", value=f"shape {xy.shape}", fix="Pass a two-dimensional map.")
    ax = ax or new_axes(360, 360)
    ax.set_axis_off()
    order = np.random.default_rng(seed).permutation(len(xy))
    size = point_size or float(np.clip(260 / np.sqrt(max(len(xy), 1)), 0.7, 7.0))
    ax.scatter(
        xy[order, 0],
        xy[order, 1],
        c=_colours(color, len(xy), palette)[order],
        s=size**2,
        linewidths=0,
        alpha=0.85 if len(xy) < 20_000 else 0.6,
        rasterized=True,
    )
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.02)
    if title:
        ax.set_title(shown(title), fontsize=12, color=INK, parse_math=False)
    return ax


def _colours(color: ArrayLike | None, n: int, palette: Sequence[str] | None) -> NDArray[np.float64]:
    """RGBA of each cell, (cells, 4)."""
    from matplotlib.colors import to_rgba, to_rgba_array

    if color is None:
        return np.tile(to_rgba(category_colors(1)[0]), (n, 1))
    if isinstance(color, str):
        fix = f"Pass the values, such as adata.obs[{color!r}]."
        raise InputError("is one text, not a value for each cell", where="color", value=repr(color), fix=fix)
    column = color if isinstance(color, pd.Series) else pd.Series(color)
    if len(column) != n:
        raise InputError(
            "does not match x", where="color", value=f"{len(column)} for {n} cells", fix="Give one for each cell."
        )
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return _amounts(np.asarray(column, np.float64))
    codes, names = pd.factorize(column, sort=True)
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, names = np.asarray(column.cat.codes), column.cat.categories
    table = to_rgba_array([*(palette or category_colors(len(names))), MISSING])
    return np.asarray(table[np.where(codes < 0, len(table) - 1, codes)])


def _amounts(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from matplotlib.colors import to_rgba

    known = np.isfinite(values)
    low, high = np.percentile(values[known], [1, 99]) if known.any() else (0.0, 1.0)
    share = np.clip((np.where(known, values, low) - low) / max(high - low, 1e-12), 0, 1)
    out = np.asarray(heat()(share), dtype=np.float64)
    out[~known] = to_rgba(MISSING)
    return out
