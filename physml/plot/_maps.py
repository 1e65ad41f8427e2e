"""Maps side by side: fields, and errors of an analysis."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from physml._errors import closest, describe, refuse
from physml.grid import latitude_longitude
from physml.plot import _coast as coasts
from physml.plot import _style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Ends = tuple[float, float] | None


def maps(
    data: xr.DataArray | Mapping[str, xr.DataArray],
    col: str | None = None,
    row: str | None = None,
    *,
    mask: xr.DataArray | None = None,
    limits: Ends | Sequence[Ends] = None,
    diverging: bool = False,
    cmap: str | None = None,
    title: str | None = None,
    label: str | Sequence[str] | None = None,
    wrap: int = 4,
    share: bool = True,
    coastlines: bool | None = False,
    ax: Axes | None = None,
) -> Figure:
    """Draw maps side by side, on one colour scale or each on its own.

    Parameters
    ----------
    data
        A field on two space dimensions and, if given, *col* and *row*; or several fields by name, drawn as columns.
    col, row
        Dimensions whose entries become columns and rows of panels. Without *row*, columns wrap after *wrap* panels.
    mask
        Valid cells (True); the others are drawn as land. By default, cells that are missing in every panel are land.
    limits
        Ends of the colour scale, in the units of the data; beyond them the colour bar has an arrow. Where each panel has its
        own scale, a sequence gives the ends of each, or None.
    diverging
        Make the scale symmetric around zero, white there.
    cmap
        A matplotlib colour map, in place of ``viridis`` or ``RdBu_r``.
    title, label
        Title of the figure; label of the colour bar, or of that of each panel, in place of the field's long name and units.
    share
        Whether all panels have one scale. False: each has its own, with a colour bar below it, as for fields in different
        units.
    coastlines
        True: draw coastlines through cartopy, which fetches them once. None: draw them where cartopy and they are on
        this machine and the map is one of the Earth.
    ax
        Axes to draw one map into, in place of a new figure.

    Raises
    ------
    ValueError
        Where the dimensions left are not two, coastlines are asked for without latitude and longitude, or several maps
        should be drawn into *ax*.
    ImportError, OSError
        Where coastlines are asked for and cartopy is not installed, or cannot fetch them.

    Examples
    --------
    >>> field = xr.DataArray(np.eye(3), dims=("y", "x"), attrs={"units": "K"})
    >>> figure = maps({"forecast": field, "truth": field}, title="one step ahead")
    """
    told: Sequence[str] | None = None if label is None or isinstance(label, str) else list(label)
    if isinstance(data, Mapping):
        told = [style.with_units(f) for f in data.values()] if label is None and not share else told
        bare = [f.drop_vars([n for n in f.coords if n not in f.dims]) for f in data.values()]
        index = pd.Index([str(n) for n in data], name="field")
        data, col = xr.concat(bare, index, join="exact", combine_attrs="override"), "field"
    y, x = _horizontal(data, leave=(row, col))
    data = _ordered(data, *filter(None, (row, col)), y, x)
    stack = data.values.astype("float64").reshape(-1, data.sizes[y], data.sizes[x])
    land = np.isnan(stack).all(0) if mask is None else ~_ordered(mask, y, x).values.astype(bool)
    stack = np.where(land, np.nan, stack)
    if told is None:
        told = [label if isinstance(label, str) else style.with_units(data)] * len(stack)
    parts = [stack] if share else list(stack)
    single = limits is None or (np.ndim(limits[0]) == 0 and limits[0] is not None)  # type: ignore[arg-type]
    ends: Sequence[Any] = [limits] * len(parts) if single else limits  # type: ignore[assignment]
    scales = [_limits(part, e, diverging) for part, e in zip(parts, ends, strict=True)]
    columns = data.sizes[col] if col else 1
    lines = data.sizes[row] if row else -(-columns // wrap)
    shape = (lines, columns if row else -(-columns // lines))

    geographic = _is_geographic(data, y, x)
    (xs, x_label), (ys, y_label) = _axis(data, x, geographic), _axis(data, y, geographic)
    ratio = abs(ys[-1] - ys[0]) / (abs(xs[-1] - xs[0]) or 1.0)
    equal = 0.3 <= ratio <= 2 and (geographic or data[x].attrs.get("units") == data[y].attrs.get("units"))
    width = {1: 8.0, 2: 5.2, 3: 4.0, 4: 3.4}.get(shape[1], 3.0)
    # A long name takes as many lines over its panel as it needs.
    names = [style.wrapped(style.entry(data[col], i), int(9.2 * width)) for i in range(columns)] if col else []
    height = width * (ratio if equal else 0.7) + (0.1 + 0.25 * max(n.count("\n") + 1 for n in names) if col else 0.0)
    coast = _coastline(coastlines, geographic, abs(xs[-1] - xs[0]))
    if ax is None:
        height += 0.0 if share else 0.75
        below = 1.2 if geographic else 1.5
        figure = style.new_figure(
            width * shape[1] + 0.9, height * shape[0] + (below if share else below - 0.7) + (0.35 if title else 0.0)
        )
        axes = figure.subplots(*shape, squeeze=False)
    elif len(stack) == 1:
        axes = np.array([[ax]])
    else:
        refuse("axes hold one map", "a field on two dimensions", f"{len(stack)} maps", "leave ax out")
    images = []
    for n, panel in enumerate(axes.flat):
        if n >= len(stack):
            panel.set_visible(False)
            continue
        left, bottom = n % shape[1] == 0, n + shape[1] >= len(stack)
        low, high, _ = scales[0 if share else n]
        panel.patch.set(hatch="////", edgecolor="#9A9A9A", linewidth=0)
        _draw_land(panel, xs, ys, land)
        colours = {"cmap": cmap or ("RdBu_r" if diverging else "viridis"), "vmin": low, "vmax": high}
        images.append(panel.pcolormesh(xs, ys, stack[n], shading="nearest", rasterized=True, **colours))
        if coast is not None:
            coasts.draw(panel, coast)
        panel.set_aspect("equal" if equal else "auto")
        _style_map(panel, geographic, left, bottom)
        panel.set_xlabel(x_label if bottom else "", fontsize=style.TICK, color=style.FAINT)
        panel.set_ylabel(y_label if left else "", fontsize=style.TICK, color=style.FAINT)
        if row and left:
            panel.set_ylabel(style.entry(data[row], n // shape[1]), fontsize=style.LABEL, color=style.INK)
        if col and (not row or n < shape[1]):
            panel.set_title(names[n % columns], fontsize=style.LABEL, color=style.INK)
    if share:
        _bar(images[0], list(axes.flat), scales[0][2], told[0], aspect=40 if ax is None else 30)
    else:
        for image, scale, text in zip(images, scales, told, strict=True):
            _bar(image, image.axes, scale[2], style.wrapped(text, int(9.2 * width)), aspect=24, fraction=0.12)
    figure = axes.flat[0].figure
    if np.isnan(stack[:, ~land]).any():
        _add_note(figure, "hatched: no value")
    if title and ax is None:
        figure.suptitle(title, fontsize=style.TITLE, color=style.INK, x=0.01, ha="left")
    elif title and ax is not None:
        ax.set_title(title, fontsize=style.LABEL, color=style.INK, loc="left")
    return figure


def _bar(image: Any, axes: Any, extend: str, label: str, *, aspect: float, fraction: float = 0.09) -> None:
    """Draw a colour bar below."""
    from matplotlib.ticker import MaxNLocator

    figure = image.axes.figure
    bar = figure.colorbar(
        image, ax=axes, location="bottom", extend=extend, pad=0.03, fraction=fraction, aspect=aspect, shrink=0.8
    )
    bar.set_label(label, fontsize=style.LABEL, color=style.INK)
    bar.ax.tick_params(labelsize=style.TICK, colors=style.INK, length=3)
    if aspect < 30:
        bar.ax.xaxis.set_major_locator(MaxNLocator(4))
    bar.outline.set_visible(False)


def error_map(
    std: xr.DataArray,
    observations: Any = None,
    *,
    mask: xr.DataArray | None = None,
    title: str | None = None,
    label: str | None = None,
    coastlines: bool | None = False,
) -> Figure:
    """Draw the standard deviation of an analysis, with a dot where each observation lies.

    Parameters
    ----------
    std
        Standard deviation on two space dimensions.
    observations
        A :class:`physml.assimilation.PointObservations`, or a Dataset or mapping with positions under the names of the
        map's coordinates or ``latitude`` and ``longitude``. Observations whose values are missing are not drawn.
    mask, title, label, coastlines
        As in :func:`maps`.

    Raises
    ------
    ValueError
        As :func:`maps`.
    KeyError
        Where the observations lack a coordinate of the map.
    """
    figure = maps(std, mask=mask, title=title, label=label, coastlines=coastlines, cmap="YlGnBu")
    if observations is None:
        return figure
    y, x = _horizontal(std)
    ax = figure.axes[0]
    across, up = _positions(observations, str(x), str(y))
    across, up = across * _kilometres(std, x)[0], up * _kilometres(std, y)[0]
    if _is_geographic(std, y, x):
        west = ax.get_xlim()[0]
        across = west + (across - west) % 360.0
    frame = ax.axis()
    size = float(np.clip(6000 / max(across.size, 1), 8, 60))
    ax.scatter(across, up, s=size, color=style.PALETTE[1], edgecolor="white", linewidth=0.6, zorder=5)
    ax.axis(frame)
    _add_note(figure, f"dots: {across.size} observation{'s' * (across.size != 1)}")
    return figure


def _horizontal(data: xr.DataArray, leave: Sequence[str | None] = ()) -> tuple[Hashable, Hashable]:
    """Return the names of the vertical and the horizontal dimension of a map."""
    for dim in filter(None, leave):
        if dim not in data.dims:
            raise ValueError(
                describe(
                    f"the field has no dimension {dim!r}{closest(dim, data.dims)}",
                    expected=f"one of {data.dims}",
                    received=repr(dim),
                    remedy="correct col or row",
                )
            )
    dims = [d for d in data.dims if d not in leave]
    if len(dims) != 2:
        raise ValueError(
            describe(
                "a map has two space dimensions",
                expected="two dimensions beside col and row",
                received=tuple(dims),
                remedy="select one entry of the others, or name them as col or row",
            )
        )
    across = [d for d in dims if str(d).lower().startswith(("x", "lon", "nav_lon", "i"))]
    return (dims[1], dims[0]) if across == dims[:1] else (dims[0], dims[1])


def _is_geographic(data: xr.DataArray, y: Hashable, x: Hashable) -> bool:
    try:
        lat, lon = latitude_longitude(data)
    except ValueError:
        return False
    return lat.dims == (y,) and lon.dims == (x,)


def _ordered(data: xr.DataArray, *dims: Hashable) -> xr.DataArray:
    """Return *data* in memory, in this order of dimensions, with increasing space coordinates."""
    data = data.transpose(*dims).compute()
    for dim in dims[-2:]:
        if dim in data.coords and data[dim].dtype.kind in "iuf":
            data = data.sortby(dim)
    return data


def _kilometres(data: xr.DataArray, dim: Hashable) -> tuple[float, str]:
    """Return the factor and the units in which a coordinate is drawn: long distances in km."""
    coordinate = data[dim]
    units = str(coordinate.attrs.get("units", ""))
    if units == "m" and coordinate.size and float(np.abs(coordinate).max()) >= 1e4:
        return 1e-3, "km"
    return 1.0, units


def _axis(data: xr.DataArray, dim: Hashable, geographic: bool) -> tuple[np.ndarray, str]:
    """Return cell centres and the label of one side of a map."""
    if dim not in data.coords or data[dim].dtype.kind not in "iuf":
        return np.arange(data.sizes[dim], dtype="float64"), f"{dim} [cell]"
    factor, units = _kilometres(data, dim)
    label = "" if geographic else f"{dim} [{units}]" if units not in ("", "1") else str(dim)
    return data[dim].values.astype("float64") * factor, label


def _limits(stack: np.ndarray, limits: tuple[float, float] | None, diverging: bool) -> tuple[float, float, Any]:
    finite = stack[np.isfinite(stack)]
    ends = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    low, high = limits or ends
    if diverging:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    arrows = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}
    return low, high, arrows[int(ends[0] < low), int(ends[1] > high)]


def _positions(observations: Any, *dims: str) -> list[np.ndarray]:
    """Return the coordinates of all observations that are there."""
    usual = {"lat": "latitude", "lon": "longitude", "latitude": "lat", "longitude": "lon"}
    table = observations if isinstance(observations, Mapping) else observations.to_dataset()
    found = []
    for dim in dims:
        name = dim if dim in table else usual.get(dim)
        if name not in table:
            raise KeyError(
                describe(
                    f"the observations have no {dim!r}",
                    expected=f"positions named {dim!r}, as on the map",
                    received=", ".join(map(str, table)) or "nothing",
                    remedy="rename their coordinates",
                )
            )
        found.append(np.asarray(table[name], "float64"))
    there = np.isfinite(found[0]) & np.isfinite(found[1])
    if isinstance(table, xr.Dataset):
        for values in table.data_vars.values():
            if values.shape == there.shape and values.dtype.kind == "f":
                there &= values.notnull().values
    return [places[there] for places in found]


def _coastline(wanted: bool | None, geographic: bool, width: float) -> Path | None:
    """Return the file of the coastline to draw, or None."""
    if wanted and not geographic:
        raise ValueError(
            describe(
                "coastlines need a map of the Earth",
                expected="one-dimensional latitude and longitude",
                received="other coordinates",
                remedy="pass coastlines=False, or give the coordinates their CF units",
            )
        )
    if wanted:
        return coasts.fetched(width)
    return coasts.stored(width) if wanted is None and geographic else None


def _draw_land(ax: Axes, xs: np.ndarray, ys: np.ndarray, land: np.ndarray) -> None:
    from matplotlib.colors import ListedColormap

    ground = np.where(land, 0.5, np.nan)
    ax.pcolormesh(xs, ys, ground, cmap=ListedColormap([style.LAND]), vmin=0, vmax=1, shading="nearest", rasterized=True)


def _style_map(ax: Axes, geographic: bool, left: bool, bottom: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(4))
        if geographic:
            span = abs(np.diff(axis.get_view_interval())).item()
            step = next((s for s in (1, 2, 5, 10, 15, 30, 45, 60) if span <= 4.5 * s), 90)
            axis.set_major_locator(MultipleLocator(step) if span > 3 else MaxNLocator(4))
    if not geographic:
        ax.ticklabel_format(style="plain", useOffset=False)
    else:
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _degrees((v + 180) % 360 - 180, "E", "W")))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _degrees(v, "N", "S")))
    ax.tick_params(labelsize=style.TICK, colors=style.FAINT, length=3, labelleft=left, labelbottom=bottom)
    for spine in ax.spines.values():
        spine.set(color=style.FAINT, linewidth=0.6)


def _add_note(figure: Figure, text: str) -> None:
    """Write a remark below the colour bar, in room of its own."""
    before = figure.get_supxlabel()
    if not before:
        figure.set_figheight(figure.get_figheight() + 0.3)
    figure.supxlabel(f"{before}; {text}" if before else text, fontsize=style.TICK, color=style.FAINT)


def _degrees(value: float, positive: str, negative: str) -> str:
    side = positive if value > 0 else negative if value < 0 else ""
    return f"{abs(value):g}°{'' if abs(value) == 180 else side}"
