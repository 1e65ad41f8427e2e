"""Searches of hyperparameters: the best score by trial, method beside method, and the score along each parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.plot import _style as style
from physml.plot._lines import _name_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def search_history(
    results: Any,
    *,
    log: bool = False,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the best score so far by the number of trials.

    Parameters
    ----------
    results
        What :func:`physml.tuning.search` returned, or its Dataset; or a mapping from names, such as the methods, to one of them,
        or to several that differ in their seed. Of one, its trials are dots; of several, the line is their median and the band
        holds the middle half.
    log
        Use a logarithmic scale.
    colors
        Colour for each name, as from :func:`physml.plot.palette`.
    title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        For what no search returned.

    Examples
    --------
    >>> ds = xr.Dataset({"score": ("trial", [3.0, 2.0, 4.0]), "best": ("trial", [3.0, 2.0, 2.0])}, {"trial": range(3)})
    >>> figure = search_history(ds)
    """
    from matplotlib.ticker import MaxNLocator

    named = results if isinstance(results, Mapping) and not isinstance(results, xr.Dataset) else {"": results}
    several = {n: [_trials(r) for r in (v if isinstance(v, Sequence) else [v])] for n, v in named.items()}
    if not several or not all(several.values()):
        refuse("search_history: nothing to draw", "a result of a search", "none", "pass {name: result}")
    shades = style.palette(several) | dict(colors or {})
    ax = style.new_figure(9.5, 5.2).subplots() if ax is None else ax
    ends, first = {}, next(iter(several.values()))[0]
    for name, found in several.items():
        n = min(ds.sizes["trial"] for ds in found)
        best = np.stack([ds["best"].values[:n] for ds in found]).astype("float64")
        x = np.arange(1, n + 1)
        # A trial that was not scored first leaves nothing to draw there.
        middle, low, high = (_quantile(best, q) for q in (0.5, 0.25, 0.75))
        ax.plot(x, middle, color=shades[name], linewidth=2.6, drawstyle="steps-post", zorder=3)
        if len(found) > 1:
            ax.fill_between(x, low, high, step="post", color=shades[name], alpha=0.18, linewidth=0)
        else:
            ax.scatter(x, found[0]["score"].values[:n], s=18, color=shades[name], alpha=0.45, linewidth=0, zorder=2)
        ends[name] = (x, middle)
    values = np.concatenate([y for _, y in ends.values()])
    values = values[np.isfinite(values)]
    if log and values.size and values.min() > 0:
        ax.set_yscale("log")
        _plain_numbers(ax.yaxis, values)
    elif values.size:  # the first trials may be so bad that they would hide the rest
        late = [y[len(y) // 8 :] for _, y in ends.values()]
        values = np.concatenate([y[np.isfinite(y)] for y in late] or [values])
        least, most = values.min(), values.max()
        room = 0.06 * (most - least) or 0.05 * abs(most) or 1.0
        ax.set_ylim(least - room, most + room)
    ax.margins(x=0.01)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    label = first["score"].attrs.get("long_name") or "score"
    style.style_axes(ax, "trials", f"best {label}{style.units_of(first['score'])}")
    if list(ends) != [""]:
        _name_ends(ax, ends, shades)
    if title:
        ax.set_title(title, fontsize=style.TITLE, color=style.INK, loc="left", pad=14)
    return ax.figure  # type: ignore[return-value]


def search_slices(
    result: Any, *, show: int = 6, columns: int = 3, log: bool = False, title: str | None = None, axes: Any = None
) -> Figure:
    """Draw the score of every trial along each parameter, late trials dark, the best one ringed.

    Parameters
    ----------
    result
        What :func:`physml.tuning.search` returned, whose parameters come in the order of their importance, with the share of each;
        or its Dataset, in the order of the space.
    show
        Number of parameters drawn.
    columns
        Panels in a row.
    log
        Use a logarithmic scale for the score.
    title
        Title of the figure.
    axes
        Axes to draw into, one for each parameter.

    Raises
    ------
    ValueError
        For what no search returned.
    """
    ds, shares = _trials(result), {}
    names = [str(n) for n, v in ds.data_vars.items() if v.attrs.get("role") == "parameter"]
    if not names:
        refuse(
            "search_slices: no parameter to draw",
            "variables with attrs['role'] = 'parameter'",
            ", ".join(map(str, ds.data_vars)),
            "pass what search returned, or its dataset",
        )
    if hasattr(result, "importance") and int(ds["score"].notnull().sum()) >= 4:
        shares = {str(n): float(v) for n, v in zip(*_pairs(result.importance()), strict=True)}
        names = [*shares, *(n for n in names if n not in shares)]
    names = names[:show]
    if axes is None:
        columns = min(columns, len(names))
        rows = math.ceil(len(names) / columns)
        figure = style.new_figure(4.6 * columns + 0.6, 3.7 * rows + (0.5 if title else 0))
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        axes = grid.ravel()[: len(names)]
        for empty in grid.ravel()[len(names) :]:
            empty.set_axis_off()
        if title:
            figure.suptitle(title, fontsize=style.TITLE, color=style.INK, x=0.02, ha="left")
    axes = list(np.ravel(axes))
    for i, (name, ax) in enumerate(zip(names, axes, strict=False)):
        _slice(ax, ds, name, log)
        left = i == 0 or ax.get_subplotspec() is None or ax.get_subplotspec().is_first_col()
        label = name.replace("_", " ")
        label += f"\n{100 * shares[name]:.0f} % of the variance" if name in shares else ""
        style.style_axes(ax, label, style.with_units(ds["score"]) if left else "", grid="both")
    return axes[0].figure


def _slice(ax: Axes, ds: xr.Dataset, name: str, log: bool) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    values, score = ds[name], ds["score"].values
    scored = np.flatnonzero(np.isfinite(score))
    if values.dtype.kind in "OUS":
        labels = sorted({str(v) for v in values.values if str(v)})
        x = np.array([labels.index(str(v)) if str(v) else np.nan for v in values.values], "float64")
        x = x + 0.28 * (np.resize([0.0, 0.5, -0.5, 0.25, -0.25, 0.75, -0.75, 1, -1], x.size))
        ax.set_xticks(range(len(labels)), labels)
        ax.set_xlim(-0.6, len(labels) - 0.4)
    else:
        x = values.values.astype("float64")
        if values.attrs.get("log"):
            ax.set_xscale("log")
            _plain_numbers(ax.xaxis, x[np.isfinite(x)])
    ramp = LinearSegmentedColormap.from_list("late", ["#BFD9EA", style.PALETTE[0], "#00304F"])
    ax.scatter(x[scored], score[scored], c=scored, cmap=ramp, s=30, linewidth=0, zorder=2)
    if log:
        ax.set_yscale("log")
        _plain_numbers(ax.yaxis, score[scored])
    if scored.size:
        at = int(np.flatnonzero(score == ds["best"].values[-1])[0])
        ax.plot(x[at], score[at], "o", ms=11, mfc="none", mec=style.PALETTE[1], mew=2.4, zorder=3, clip_on=False)


def _plain_numbers(axis: Any, values: np.ndarray) -> None:
    """Write 5 and 10, not powers of ten, along a short logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not values.size or values.max() > 300 * values.min():
        return
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_formatter(NullFormatter())


def _pairs(shares: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    return shares["parameter"].values, shares.values


def _quantile(values: np.ndarray, q: float) -> np.ndarray:
    there = np.isfinite(values).all(0)
    return np.where(there, np.quantile(np.where(there, values, 0.0), q, axis=0), np.nan)


def _trials(result: Any) -> xr.Dataset:
    ds = getattr(result, "dataset", result)
    if not isinstance(ds, xr.Dataset) or not {"score", "best"} <= set(ds) or "trial" not in ds["score"].dims:
        refuse(
            "this is no result of a search",
            "a SearchResult, or its Dataset with 'score' and 'best' along 'trial'",
            type(result).__name__,
            "pass what physml.tuning.search returned",
        )
    return ds
