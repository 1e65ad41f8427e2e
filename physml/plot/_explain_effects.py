"""Curves of the effect of one variable: accumulated local effects, partial dependence, one line a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from physml._errors import closest, refuse
from physml.plot import _explain as common
from physml.plot import _style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS = 300
"""Most ticks of a rug; of more data, so many quantiles."""
THREADS = 150
"""Most lines of single samples that are drawn."""


def effect_curves(
    effects: xr.Dataset | Sequence[xr.Dataset] | Mapping[str, xr.Dataset],
    *,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
    wrap: int = 3,
) -> Figure:
    """Draw the effect of a variable over its values, with interval, single samples and a rug of the data.

    Parameters
    ----------
    effects
        Dataset with ``effect`` along a coordinate named after the variable, in its units; if there, ``lower`` and
        ``upper`` are drawn as a band, ``ice`` along a sample dimension as thin lines, ``rug`` (quantiles or values of the
        variable in the data) as ticks below. A sequence of several: those of one variable share a panel. A mapping: the
        names tell curves of one variable apart, as ``{"ale": ..., "partial dependence": ...}``.
    colors
        Colour for each name.
    title
        Title of the figure.
    wrap
        Panels in a row.

    Raises
    ------
    ValueError
        Where nothing is given, a Dataset holds no effect along one coordinate, or curves of a panel differ in units.

    Examples
    --------
    >>> sst = xr.DataArray([10.0, 20.0, 30.0], dims="sst", attrs={"units": "degC"})
    >>> figure = effect_curves(xr.Dataset({"effect": ("sst", [0.0, 1.0, 3.0])}, {"sst": sst}))
    """
    if isinstance(effects, xr.Dataset):
        named = [("", effects)]
    elif isinstance(effects, Mapping):
        named = [(str(n), e) for n, e in effects.items()]  # type: ignore[misc]
    else:
        named = [("", e) for e in effects]
    if not named:
        refuse("no effect to draw", "Datasets with 'effect'", "none", "pass what ale or partial_dependence returned")
    panels: dict[str, list[tuple[str, xr.Dataset]]] = {}
    for name, found in named:
        panels.setdefault(_variable(found, name), []).append((name, found.compute()))
    columns = min(wrap, len(panels))
    lines = -(-len(panels) // columns)
    width = {1: 8.6, 2: 5.8}.get(columns, 4.6)
    figure = style.new_figure(width * columns, (5.4 if columns == 1 else 4.3) * lines)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=len({_units(e) for _, e in named}) == 1)
    shades = style.palette(n for n, _ in named) | dict(colors or {})
    for i, ax in enumerate(axes.flat):
        if i >= len(panels):
            ax.set_visible(False)
            continue
        variable, kinds = list(panels.items())[i]
        _panel(ax, variable, kinds, shades, y_label=i % columns == 0, alone=len(panels) == 1)
    _rugs(list(axes.flat), panels)
    return common.titled(axes.flat[0], title)


def _panel(
    ax: Axes, variable: str, found: list[tuple[str, xr.Dataset]], shades: Mapping[str, str], y_label: bool, alone: bool
) -> None:
    first = found[0][1]
    for name, effect in found:
        if _units(effect) != _units(first):
            expected, received = repr(_units(first)), repr(_units(effect))
            refuse(f"effects of {variable!r} differ in units", expected, received, "convert one of them")
        x = effect[variable].values.astype("float64")
        shade = shades[name]
        if "ice" in effect:
            _threads(ax, effect["ice"].transpose(variable, ...).values.reshape(len(x), -1), x, shade)
        if {"lower", "upper"} <= set(effect):
            low, high = (effect[n].values.astype("float64") for n in ("lower", "upper"))
            ax.fill_between(x, low, high, color=shade, alpha=0.22, linewidth=0, zorder=3)
        dots = {"marker": "o", "markersize": 6} if len(x) <= 12 else {}
        ax.plot(x, effect["effect"].values, color=shade, linewidth=2.8, label=name, zorder=4, **dots)  # type: ignore[arg-type]
    ax.axhline(0, color=style.FAINT, linewidth=1.0, zorder=1) if _spans_zero(ax) else None
    ax.margins(x=0.02)
    # Kinds that share a panel are told apart by the legend: the axis names what they have in common.
    named = {e["effect"].attrs.get("long_name") for _, e in found} - {None}
    label = f"{named.pop() if len(named) == 1 else 'effect'}{style.units_of(first['effect'])}"
    style.style_axes(
        ax, style.with_units(first[variable]), style.wrapped(label, 40 if alone else 30) if y_label else ""
    )
    if any(name for name, _ in found):
        ax.legend(fontsize=style.TICK, frameon=False)


def _threads(ax: Axes, lines: np.ndarray, x: np.ndarray, shade: str) -> None:
    """Draw lines of single samples, evenly chosen where there are many."""
    from matplotlib.collections import LineCollection

    chosen = np.unique(np.linspace(0, lines.shape[1] - 1, min(lines.shape[1], THREADS)).round().astype(int))
    pieces = [np.column_stack([x, lines[:, i]]) for i in chosen]
    ax.add_collection(LineCollection(pieces, colors=shade, linewidths=0.7, alpha=0.22, zorder=2))
    ax.autoscale_view()


def _rugs(axes: Sequence[Axes], panels: Mapping[str, list[tuple[str, xr.Dataset]]]) -> None:
    """Draw ticks where the data lie, when the heights of all panels are known."""
    for ax, found in zip(axes, panels.values(), strict=False):
        rug = next((e["rug"] for _, e in found if "rug" in e), None)
        if rug is None:
            continue
        x = rug.values.astype("float64").ravel()
        (left, right), frame = ax.get_xlim(), ax.axis()
        x = np.sort(x[(x >= left) & (x <= right)])
        if x.size > TICKS:
            x = np.quantile(x, np.linspace(0, 1, TICKS), method="nearest")
        thick = 1.6 if x.size <= 60 else 0.7
        place = {"transform": ax.get_xaxis_transform(), "colors": [style.INK], "zorder": 5}
        ax.vlines(x, 0.0, 0.035, linewidth=thick, alpha=0.75 if x.size <= 60 else 0.4, **place)  # type: ignore[arg-type]
        ax.axis(frame)


def _variable(effect: xr.Dataset, name: str) -> str:
    found = effect.get("effect") if isinstance(effect, xr.Dataset) else None
    if found is None or found.ndim != 1 or found.dims[0] not in found.coords:
        held = list(map(str, effect.data_vars)) if isinstance(effect, xr.Dataset) else []
        where = f" {name!r}" if name else ""
        received = ", ".join(held) or type(effect).__name__ if found is None else f"'effect' along {found.dims}"
        refuse(
            f"the Dataset{where} holds no effect of one variable{'' if found is not None else closest('effect', held)}",
            "'effect' along one coordinate named after the variable",
            received,
            "pass what ale or partial_dependence returned; effect_map draws two variables",
        )
    return str(found.dims[0])


def _units(effect: xr.Dataset) -> str:
    return str(effect["effect"].attrs.get("units", ""))


def _spans_zero(ax: Axes) -> bool:
    low, high = ax.get_ylim()
    return low < 0 < high
