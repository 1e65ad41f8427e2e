"""Figures of pairs: interactions of groups, and effects of two variables together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import closest, refuse
from physml.plot import _explain as common
from physml.plot import _style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS = 1500
"""Most samples that are drawn as dots."""
WRITTEN = 12
"""Number of groups up to which every cell of a matrix carries its number."""


def interactions(result: xr.Dataset, *, signed: bool = True, title: str | None = None) -> Figure:
    """Draw the interactions of groups as a matrix; the diagonal holds what each group adds alone.

    Numbers whose 95 % interval holds zero stand in brackets.

    Parameters
    ----------
    result
        Dataset with ``interaction`` (or ``attribution``) on ``group`` and ``group_other``, and perhaps on samples, over
        which it is averaged.
    signed
        Average with the sign, in place of absolute values.
    title
        Title of the figure.

    Raises
    ------
    ValueError
        Where the Dataset holds no interactions.

    Examples
    --------
    >>> names = ["sst", "wind"]
    >>> pairs = xr.DataArray([[1.0, -0.3], [-0.3, 0.5]], {"group": names, "group_other": names}, ("group", "group_other"))
    >>> figure = interactions(pairs.to_dataset(name="interaction"))
    """
    names = [n for n in ("interaction", "interactions", "attribution") if n in getattr(result, "data_vars", ())]
    found = next((result[n] for n in names if {"group", "group_other"} <= set(result[n].dims)), None)
    if found is None:
        held = list(map(str, getattr(result, "data_vars", ())))
        refuse(
            f"this holds no interactions{closest('interaction', held)}",
            "a Dataset with 'interaction' on 'group' and 'group_other'",
            ", ".join(held) or type(result).__name__,
            "pass what Explainer.interactions returned",
        )
    rest = [d for d in found.dims if d not in common.PLAYERS]
    whole = result.rename({str(found.name): "attribution"}).compute()
    matrix, half = common.mean_of(whole, signed, "estimate")
    matrix = matrix.transpose("group", "group_other")
    sure = (abs(matrix) > half).transpose("group", "group_other").values
    n = matrix.sizes["group"]
    # Many columns have room for a number only: the rows tell whose it is.
    numbered = n > WRITTEN
    names = [f"{g}  {i}" if numbered else str(g) for i, g in enumerate(matrix["group"].values, 1)]
    told = [style.wrapped(style.shown(g), 66 if numbered else 26) for g in names]
    size = style.LABEL if n <= 8 else style.TICK
    longest = max(len(line) for t in told for line in t.split("\n"))
    lines = max(t.count("\n") + 1 for t in told)
    cell = max(0.85 if n <= 6 else 0.68 if not numbered else 0.34, 1.25 * size * lines / 72 + 0.04)
    margin = 0.55 * size * longest / 72
    figure = style.new_figure(n * cell + margin + 2.4, n * cell + 1.2 + (0.3 if numbered else 0.75 * margin))
    ax = figure.subplots()
    values = matrix.values.astype("float64")
    # The colours are for the pairs: what a group adds alone is often far more, and may lie beyond them.
    pairs = np.abs(values[~np.eye(n, dtype=bool)])
    end = float(np.nanmax(pairs, initial=0.0)) or float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    beyond = "both" if float(np.nanmax(np.abs(values), initial=0.0)) > end else "neither"
    image = ax.imshow(values, cmap="RdBu_r", vmin=-end, vmax=end)
    ax.patch.set(hatch="////", edgecolor="#9A9A9A", linewidth=0)
    if numbered:
        ax.set_xticks(range(n), [str(i + 1) for i in range(n)], fontsize=size, color=style.INK)
    else:
        ax.set_xticks(range(n), told, rotation=40, ha="right", rotation_mode="anchor", fontsize=size, color=style.INK)
    ax.set_yticks(range(n), told, fontsize=size, color=style.INK)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for i in range(n):
        square: dict[str, Any] = {"fill": False, "edgecolor": style.INK, "linewidth": 1.2, "zorder": 3}
        ax.add_patch(_rectangle((i - 0.5, i - 0.5), 1, 1, **square))
    doubtful = False
    if n <= WRITTEN:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                shade = "white" if abs(value) > 0.6 * end else style.INK
                text = _cell_text(value, end)
                doubtful |= text != "0" and not sure[i, j]
                text = text if sure[i, j] or text == "0" else f"({text})"
                ax.text(j, i, text, ha="center", va="center", fontsize=style.TICK, color=shade)
    note = "framed: what each group adds alone" + ("; in brackets: the 95 % interval holds zero" if doubtful else "")
    figure.supxlabel(style.wrapped(note, 60), fontsize=style.TICK, color=style.FAINT)
    figure.set_figheight(figure.get_figheight() + 0.3)
    bar = figure.colorbar(image, ax=ax, pad=0.02, fraction=0.045, aspect=28, extend=beyond)
    what = "interaction" if not rest else "mean interaction" if signed else "mean absolute interaction"
    bar.set_label(f"{what}{style.units_of(found)}", fontsize=style.LABEL, color=style.INK)
    bar.ax.tick_params(labelsize=style.TICK, colors=style.INK, length=3)
    bar.outline.set_visible(False)
    return common.titled(ax, title)


def effect_map(effect: xr.Dataset, *, title: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw the joint effect of two variables as a filled map, with where the data lie.

    Parameters
    ----------
    effect
        Dataset with ``effect`` along two coordinates named after the variables, as :func:`physml.explain.ale` returns for
        two. Cells without data by ``counts`` (or ``density``) on the same grid are left hatched; ``rug`` on (variable,
        samples) is drawn as dots, else the density as contours.
    title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        Where there is no effect along two coordinates.

    Examples
    --------
    >>> grid = {"sst": [10.0, 20.0, 30.0], "wind": [0.0, 5.0]}
    >>> figure = effect_map(xr.Dataset({"effect": (("sst", "wind"), np.eye(3, 2))}, grid))
    """
    found = effect.get("effect") if isinstance(effect, xr.Dataset) else None
    if found is None or found.ndim != 2 or any(d not in found.coords for d in found.dims):
        received = "nothing" if found is None else found.dims
        refuse(
            "this is no effect of two variables",
            "'effect' along two coordinates",
            received,
            "use effect_curves for one",
        )
    effect, found = effect.compute(), found.compute()
    first, second = found.dims
    x, y = (effect[d].values.astype("float64") for d in (first, second))
    values = found.transpose(second, first).values.astype("float64")
    names = ("density", "counts", "count")
    count = next((effect[n] for n in names if n in effect and set(effect[n].dims) == {first, second}), None)
    density = None if count is None else count.transpose(second, first).values.astype("float64")
    across, up = x, y
    if density is not None and density.any() and not density[0].any() and not density[:, 0].any():
        # Effects at the edges of bins, counts of the bins that end there: drawn bin by bin.
        values = 0.25 * (values[1:, 1:] + values[:-1, 1:] + values[1:, :-1] + values[:-1, :-1])
        density = density[1:, 1:] / np.outer(np.diff(y), np.diff(x))
        across, up = (0.5 * (e[1:] + e[:-1]) for e in (x, y))
    if density is not None:
        values = np.where(density > 0, values, np.nan)
    ax = style.new_figure(8.6, 6.4).subplots() if ax is None else ax
    ax.patch.set(hatch="////", edgecolor="#9A9A9A", linewidth=0)
    signs = bool(np.nanmin(values, initial=0.0) < 0 < np.nanmax(values, initial=0.0))
    end = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    ends = {"cmap": "RdBu_r", "vmin": -end, "vmax": end} if signs else {"cmap": "viridis"}
    image = ax.pcolormesh(x, y, values, shading="nearest" if across is x else "flat", rasterized=True, **ends)
    frame = ax.axis()
    notes = [] if np.isfinite(values).all() else ["hatched: no data"]
    dots = effect["rug"] if "rug" in effect and effect["rug"].ndim >= 2 else None
    if dots is None and density is not None and min(density.shape) > 1 and np.ptp(density) > 0:
        levels = np.unique(np.quantile(density[density > 0], [0.5, 0.75, 0.95]))
        # Few cells hold most data: the contours enclose the half, the quarter and the twentieth that are densest.
        levels = levels[levels < density.max()]
        if levels.size:
            ax.contour(across, up, density, levels=levels, colors=[style.INK], linewidths=1.1, alpha=0.75)
            notes.append("contours: density of the data")
    if dots is not None:
        axis = next(d for d in dots.dims if dots.sizes[d] == 2)
        pairs = dots.transpose(axis, ...).values.reshape(2, -1)
        pairs = pairs[:, np.unique(np.linspace(0, pairs.shape[1] - 1, min(pairs.shape[1], DOTS)).round().astype(int))]
        ax.scatter(pairs[0], pairs[1], s=14, color=style.INK, alpha=0.5, linewidth=0)
        notes.append("dots: data")
    ax.axis(frame)
    style.style_axes(ax, style.with_units(effect[first]), style.with_units(effect[second]))
    ax.grid(False)
    if notes:
        ax.set_xlabel(f"{ax.get_xlabel()}\n{'; '.join(notes)}")
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02, fraction=0.06, aspect=26)
    bar.set_label(style.wrapped(style.with_units(found), 44), fontsize=style.LABEL, color=style.INK)
    bar.ax.tick_params(labelsize=style.TICK, colors=style.INK, length=3)
    bar.outline.set_visible(False)
    return common.titled(ax, title)


def _cell_text(value: float, end: float) -> str:
    """Return a number that fits a cell, with two digits of the largest."""
    if not 1e-3 <= end < 1e4:
        return common.plain_text(value, 2)
    decimals = max(0, 1 - int(np.floor(np.log10(end))))
    text = f"{value:.{decimals}f}"
    return "0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _rectangle(*args: Any, **kwargs: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(*args, **kwargs)
