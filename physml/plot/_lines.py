"""Curves over lead time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import describe
from physml.plot import _style as style
from physml.provenance import same_units

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curves(
    series: Mapping[str, xr.DataArray],
    *,
    log: bool = False,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
    label: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw one line for each name over lead time, step or date, with its name at its end.

    Parameters
    ----------
    series
        One-dimensional arrays in the same units, along a dimension of the same name.
    log
        Use a logarithmic scale; linear next to zero where values are zero or negative, so that a perfect zero is seen.
    colors
        Colour for each name, as from :func:`physml.plot.palette`.
    title, label
        Title of the figure; label of the vertical axis, in place of the first array's long name and units.
    ax
        Axes to draw into, in place of a new figure.

    Raises
    ------
    ValueError
        Where nothing is given, an array has not one dimension, or units or dimensions differ.
    """
    if not series:
        raise ValueError(
            describe("no curve to draw", expected="named arrays", received="none", remedy="pass {name: array}")
        )
    first = next(iter(series.values()))
    for name, array in series.items():
        _require_fit(name, array, first)
    shades = style.palette(series) | dict(colors or {})
    ax = style.new_figure(9.5, 5.2).subplots() if ax is None else ax
    lines = {name: style.numbers(array) for name, array in series.items()}
    for name, (x, y) in lines.items():
        dots = {"marker": "o", "markersize": 7} if len(x) <= 12 else {}
        ax.plot(x, y, color=shades[name], linewidth=2.6, solid_capstyle="round", **dots)  # type: ignore[arg-type]
    values = np.concatenate([y for _, y in lines.values()])
    set_scale(ax, values[np.isfinite(values)], log)
    ax.margins(x=0.01)
    dim = first[first.dims[0]]
    x_label = "" if dim.dtype.kind in "MO" else f"{dim.name} [days]" if dim.dtype.kind == "m" else style.with_units(dim)
    style.style_axes(ax, x_label, label or style.with_units(first))
    _name_ends(ax, lines, shades)
    if title:
        ax.set_title(title, fontsize=style.TITLE, color=style.INK, loc="left", pad=14)
    return ax.figure  # type: ignore[return-value]


def _require_fit(name: str, array: xr.DataArray, first: xr.DataArray) -> None:
    units, ours = (str(a.attrs.get("units", "")) for a in (array, first))
    alike = units == ours or bool(units and ours and same_units(units, ours))
    if array.ndim != 1 or array.dims != first.dims or not alike:
        raise ValueError(
            describe(
                f"the curve {name!r} does not fit the others",
                expected=f"one dimension {first.dims[:1]}, units {ours!r}",
                received=f"dimensions {array.dims}, units {units!r}",
                remedy="average over the other dimensions, rename, or convert the units",
            )
        )


def set_scale(ax: Axes, values: np.ndarray, log: bool) -> None:
    """Set the scale of the vertical axis: from zero, logarithmic, or linear next to zero."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    apart = np.abs(values[values != 0])
    if not log and values.size and 0 <= values.min() < 0.5 * values.max():
        ax.set_ylim(bottom=0)
    elif log and apart.size and (values > 0).all():
        ax.set_yscale("log")
        if values.max() < 300 * values.min():
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    elif log and apart.size:
        ax.set_yscale("symlog", linthresh=float(10.0 ** np.floor(np.log10(apart.min()))), linscale=0.5)


def note(ax: Axes, text: str, at: Any, offset: tuple[float, float], ha: str, size: float, **more: Any) -> None:
    """Write a remark at a point, set off by so many points."""
    ax.annotate(text, at, xytext=offset, textcoords="offset points", ha=ha, fontsize=size, color=style.INK, **more)


def _name_ends(ax: Axes, lines: Mapping[str, tuple[Any, np.ndarray]], shades: Mapping[str, str]) -> None:
    """Write the name of every line at its end, apart from each other."""
    height = ax.get_window_extent().height / ax.figure.dpi * 72
    gap = 1.25 * style.LABEL / height
    ends = {}
    for name, (_, y) in lines.items():
        finite = y[np.isfinite(y)]
        at = (
            ax.transAxes.inverted().transform(ax.transData.transform((ax.get_xlim()[1], finite[-1])))[1]
            if finite.size
            else 0.5
        )
        ends[name if finite.size else f"{name} (no value)"] = (float(np.clip(at, 0.0, 1.0)), shades[name])
    placed = -gap
    heights = {}
    for i, (text, (at, _)) in enumerate(ranked := sorted(ends.items(), key=lambda item: item[1][0])):
        room = 1.0 - gap * (len(ranked) - 1 - i)
        placed = heights[text] = max(min(at, room), placed + gap)
    for text, (_, shade) in ends.items():
        ax.annotate(
            text,
            (1.0, heights[text]),
            xytext=(10, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=style.LABEL,
            fontweight="bold",
            color=shade,
            annotation_clip=False,
        )
