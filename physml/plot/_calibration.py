"""Figures of calibration: how often the truth lies below predicted quantiles, and how often events happen that were given a probability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from physml._errors import describe
from physml.plot import _style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {
    "quantiles": ("level of the predicted quantile", "share of the truth below it"),
    "probability": ("predicted probability", "observed frequency"),
}


def calibration(
    found: Mapping[str, xr.Dataset],
    *,
    effective: float | None = None,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw observed against predicted frequencies; perfect forecasts lie on the diagonal.

    Under the curves of probabilities of events stands how many forecasts each bin holds.

    Parameters
    ----------
    found
        What :func:`physml.heads.calibration`, or :func:`physml.heads.reliability`, returned, by name.
    effective
        Number of independent values among those compared: 95 % of curves of that many lie in the grey band. Values that are
        neighbours in space and time are not independent, so none is drawn unless this is told.
    colors, title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        Where nothing is given, or results of both kinds.
    """
    kinds = {d.attrs.get("kind") for d in found.values()}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind not in LABELS:
        raise ValueError(
            describe(
                "calibration: these are no results of one kind",
                expected="what physml.heads.calibration returned, or physml.heads.reliability, by name",
                received=", ".join(f"{n}: {d.attrs.get('kind')}" for n, d in found.items()) or "nothing",
                remedy="calibration({'network': heads.calibration(fields, truth)})",
            )
        )
    shades = style.palette(found) | dict(colors or {})
    counted = kind == "probability"
    low = None
    if ax is None:
        figure = style.new_figure(6.8, 7.6 if counted else 6.4)
        if counted:
            ax, low = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        else:
            ax = figure.subplots()
    ax.plot((0, 1), (0, 1), color=style.FAINT, linewidth=1.4, linestyle=(0, (5, 4)))
    if effective is not None:
        p = np.linspace(0, 1, 201)
        half = 1.96 * np.sqrt(p * (1 - p) / effective)
        ax.fill_between(
            p, np.clip(p - half, 0, 1), np.clip(p + half, 0, 1), color="#DADADA", linewidth=0, label="95 % by chance"
        )
    shapes = "osD^v<>"
    for n, (name, ds) in enumerate(found.items()):
        ds = ds.compute()
        x = ds["predicted"] if counted else ds["level"]
        there = np.isfinite(ds.observed.values)
        ax.plot(
            x.values[there],
            ds.observed.values[there],
            color=shades[name],
            marker=shapes[n % len(shapes)],
            markersize=7.5,
            markeredgecolor="white",
            linewidth=2.4,
            label=name,
            zorder=3,
        )
        if low is not None:
            width = 1 / ds.sizes["bin"]
            edges = np.concatenate([ds["bin"].values - width / 2, [1.0]])
            low.stairs(np.maximum(ds["count"].values, 0.5), edges, color=shades[name], linewidth=2.2)
    x_label, y_label = LABELS[kind]
    style.style_axes(ax, "" if low is not None else x_label, y_label, grid="both")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.set_box_aspect(1)
    ax.legend(fontsize=style.TICK, frameon=False, loc="upper left")
    if low is not None:
        style.style_axes(low, x_label, "forecasts")
        low.set_yscale("log")
    if title:
        ax.set_title(title, fontsize=style.TITLE, loc="left", color=style.INK)
    return ax.figure  # type: ignore[return-value]
