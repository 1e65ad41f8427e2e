"""Figures of predictability: Lyapunov spectra, how long forecasts have skill, power spectra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe
from physml.plot import _style as style
from physml.plot._ensembles import _checked, _titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def lyapunov_spectra(
    spectra: Mapping[str, xr.Dataset],
    *,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw Lyapunov exponents by index, of a model and of its emulators, with two standard errors.

    Parameters
    ----------
    spectra
        What :func:`physml.assimilation.lyapunov_spectrum` returned, by name.
    colors, title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        Where nothing is given, or it is no such Dataset.
    """
    shades = _shades(spectra, colors, "lyapunov_spectrum")
    ax = style.new_figure(9.5, 5.2).subplots() if ax is None else ax
    ax.axhline(0, color=style.INK, linewidth=1.2)
    shapes = "osD^v<>"
    for n, (name, found) in enumerate(spectra.items()):
        found = _checked(found, ("exponent", "stderr"), ("index",), "lyapunov_spectrum")
        x, y = found["index"].values, found.exponent.values
        label = name
        if "kaplan_yorke" in found and np.isfinite(found.kaplan_yorke):
            label = f"{name}: dimension {float(found.kaplan_yorke):.3g}, sum {y.sum():.4g}"
        filled: dict[str, Any] = {"markerfacecolor": shades[name] if n == 0 else "white", "markeredgewidth": 2}
        look: dict[str, Any] = {
            "color": shades[name],
            "marker": shapes[n % len(shapes)],
            "linewidth": 1.6,
            "markersize": 8 - n % 3,
        }
        bars: dict[str, Any] = {"capsize": 3, "elinewidth": 1.4}
        spread = 2 * np.nan_to_num(found.stderr.values)
        ax.errorbar(
            x, y, yerr=spread, label=label.replace("-", "\N{MINUS SIGN}"), zorder=3 + n, **look, **filled, **bars
        )
    if len(x) <= 12:
        ax.set_xticks(x)
    style.style_axes(ax, "index", style.with_units(found.exponent))
    ax.legend(fontsize=style.TICK, frameon=False, loc="lower left")  # exponents fall: this corner is free
    return _titled(ax, title)


def skill_horizons(
    horizons: Mapping[str, xr.DataArray],
    *,
    unit: float = 1.0,
    label: str | None = None,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw which part of all forecasts still has skill, over lead time; dots mark the medians.

    Parameters
    ----------
    horizons
        What :func:`physml.assimilation.forecast_skill_horizon` returned for many forecasts, by name.
    unit
        Divides the lead times, as by a Lyapunov time; say so in *label*.
    label
        Label of the axis of lead time.
    colors, title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        Where nothing is given.
    """
    shades = _shades(horizons, colors, "forecast_skill_horizon")
    ax = style.new_figure(9.5, 5.2).subplots() if ax is None else ax
    end = max(float(h.max()) for h in horizons.values()) / unit
    for n, (name, horizon) in enumerate(horizons.items()):
        ascending = np.sort(np.asarray(horizon.values, "float64").ravel()) / unit
        left = 1.0 - np.arange(1, len(ascending) + 1) / len(ascending)
        if "reached" in horizon.coords and not bool(horizon.reached.all()):
            # Those that never lost their skill keep it to the end of the axis.
            kept = int((~horizon.reached).sum())
            left = np.maximum(left, kept / len(ascending))
        x = np.concatenate([[0.0], ascending, [end]])
        ax.step(x, np.concatenate([[1.0], left, left[-1:]]), where="post", color=shades[name], linewidth=2.6)
        median = float(np.median(ascending))
        ax.plot(median, 0.5, "o", color=shades[name], markersize=9, markeredgecolor="white", zorder=3)
        text = {"fontsize": style.LABEL, "fontweight": "bold", "color": shades[name], "ha": "right", "va": "top"}
        ax.text(0.99, 0.98 - 0.085 * n, f"{name}, median {median:.2g}", transform=ax.transAxes, **text)  # type: ignore[arg-type]
    first = next(iter(horizons.values()))
    style.style_axes(ax, label or f"lead time{style.units_of(first)}", "part of the forecasts with skill")
    ax.set_ylim(0, 1.03)
    ax.set_xlim(0, end)
    return _titled(ax, title)


def power_spectra(
    spectra: Mapping[str, xr.DataArray],
    *,
    ratio_to: str | None = None,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw power by wavenumber on two logarithmic axes, and below it, if asked for, over that of one of them.

    Parameters
    ----------
    spectra
        What :func:`physml.verify.power_spectrum`, ``zonal_spectrum`` or ``isotropic_spectrum`` returned, averaged to one
        dimension, by name. Rings that the grid does not resolve in every direction are left out.
    ratio_to
        Name of the spectrum, such as the truth's, to which the ratios of the others are drawn in a panel below: which scales a
        forecast has lost.
    colors, title, ax
        As in :func:`curves`. *ax* takes one panel.

    Raises
    ------
    ValueError
        Where nothing is given, an array has further dimensions, or *ratio_to* is none of the names or given together with *ax*.
    """
    shades = _shades(spectra, colors, "power_spectrum")
    if ratio_to is not None and (ratio_to not in spectra or ax is not None):
        what = "axes hold one panel" if ax is not None else f"no spectrum {ratio_to!r}{closest(ratio_to, spectra)}"
        remedy = "leave ax out" if ax is not None else "correct ratio_to"
        raise ValueError(describe(what, expected=", ".join(spectra), received=f"{ratio_to=}", remedy=remedy))
    panels = [ax]
    if ax is None:
        ratios: dict[str, Any] = {} if ratio_to is None else {"sharex": True, "height_ratios": (2.4, 1)}
        grid = style.new_figure(9.5, 5.2 if ratio_to is None else 7.2).subplots(
            1 if ratio_to is None else 2, 1, squeeze=False, **ratios
        )
        panels = list(grid[:, 0])
    ax = panels[0]
    assert ax is not None
    lines = {}
    for n, (name, power) in enumerate(spectra.items()):
        if power.dims != ("wavenumber",):
            what, remedy = f"the spectrum {name!r} has not one dimension", "average over the others"
            raise ValueError(describe(what, expected="wavenumber", received=power.dims, remedy=remedy))
        power = power.isel(wavenumber=np.flatnonzero(power["whole"].values)) if "whole" in power.coords else power
        lines[name] = power
        ax.plot(*style.numbers(power), color=shades[name], linewidth=2.6 if n else 5.0, label=name)
    ax.set_yscale("log")
    label = style.with_units(power["wavenumber"])
    style.style_axes(ax, label if len(panels) == 1 else "", style.with_units(power), grid="both")
    if ratio_to is not None:
        low = panels[1]
        assert low is not None
        for n, (name, power) in enumerate(lines.items()):
            low.plot(*style.numbers(power / lines[ratio_to]), color=shades[name], linewidth=2.6 if n else 5.0)
        low.set_ylim(0, max(1.25, min(low.get_ylim()[1], 3.0)))
        style.style_axes(low, label, f"power over\n{ratio_to}", grid="both")
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panels[-1].set_xscale("log")  # type: ignore[union-attr]
    for panel in panels:
        assert panel is not None
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(fontsize=style.LABEL, frameon=False)
    return _titled(ax, title)


def _shades(series: Mapping[str, object], colors: Mapping[str, str] | None, source: str) -> dict[str, str]:
    if not series:
        expected, remedy = "results by name", f"pass {{name: {source}(...)}}"
        raise ValueError(describe("nothing to draw", expected=expected, received="none", remedy=remedy))
    return style.palette(series) | dict(colors or {})
