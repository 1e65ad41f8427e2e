"""Figures of probabilities and classes: reliability diagrams, relative operating characteristics, tables of confusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.plot import _style as style
from physml.plot._ensembles import _titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIAGONAL: dict[str, Any] = {"color": style.INK, "linewidth": 1.4, "linestyle": (0, (5, 3)), "zorder": 1}


def reliability(
    diagrams: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the observed frequency over the forecast probability, with its bars, and below how often each was forecast.

    Parameters
    ----------
    diagrams
        What :func:`physml.verify.reliability` returned, along bins alone; or several by name. Consistency bars are drawn as a
        band around the diagonal, those of the bootstrap at the points.
    colors, title, ax
        As in :func:`curves`. Into given axes no counts are drawn.

    Raises
    ------
    ValueError
        Where nothing is given, or it is no such Dataset.

    Examples
    --------
    >>> from physml import verify
    >>> p, o = xr.DataArray([0.1, 0.1, 0.9, 0.9], dims="x"), xr.DataArray([0, 1, 1, 1], dims="x")
    >>> figure = reliability(verify.reliability(p, o, bins=2))
    """
    named = _named(diagrams, "reliability")
    found = {n: _checked(d, ("probability", "frequency", "count"), ("bin",), "reliability") for n, d in named.items()}
    shades = style.palette(found) | dict(colors or {})
    spread = all(d.attrs.get("kind") == "distribution" for d in found.values())
    below = None
    if ax is None:
        figure = style.new_figure(7.0, 6.8 if spread else 8.0)
        if spread:
            ax = figure.subplots()
        else:
            ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(4.2, 1))
    assert ax is not None
    ax.plot([0, 1], [0, 1], **DIAGONAL)
    wide = 0.8 / max(len(found), 1) / max(len(d["bin"]) for d in found.values())
    for i, (name, diagram) in enumerate(found.items()):
        x, y = diagram.probability.values, diagram.frequency.values
        known = np.isfinite(x) & np.isfinite(y)
        look: dict[str, Any] = {"color": shades[name], "zorder": 3}
        if "low" in diagram:
            low, high = diagram.low.values[known], diagram.high.values[known]
            if diagram.attrs.get("bars") == "bootstrap":
                reach = [y[known] - low, high - y[known]]
                ax.errorbar(
                    x[known], y[known], yerr=np.maximum(reach, 0), fmt="none", elinewidth=1.8, capsize=4, **look
                )
            else:
                ax.fill_between(x[known], low, high, color=style.FAINT, alpha=0.2, linewidth=0, zorder=0)
        dots = {"marker": "o", "markersize": 7, "markeredgecolor": "white"}
        ax.plot(x[known], y[known], linewidth=2.4, label=name, **dots, **look)  # type: ignore[arg-type]
        if below is not None:
            shift = (i - (len(found) - 1) / 2) * wide
            below.bar(
                np.clip(x[known], 0.3 / len(x), 1 - 0.3 / len(x)) + shift,
                diagram["count"].values[known],
                width=wide,
                color=shades[name],
            )
    ax.set_xlim(-0.03, 1.03)
    ax.set_ylim(-0.03, 1.03)
    if below is None:
        ax.set_aspect("equal")
        x_label = "level of the forecast's quantile" if spread else "forecast probability"
    else:
        x_label = ""
        style.style_axes(below, "forecast probability", "cases")
        below.yaxis.set_major_locator(_few())
        below.yaxis.set_major_formatter(_thousands())
    y_label = "part of the truth below the quantile" if spread else "observed frequency"
    style.style_axes(ax, x_label, y_label, grid="both")
    if len(found) > 1 or next(iter(found)):
        ax.legend(fontsize=style.LABEL, frameon=False, loc="upper left")
    told = {(d.attrs.get("bars"), d.attrs.get("level")) for d in found.values() if "low" in d}
    if len(told) == 1:
        bars, level = told.pop()
        what = (
            "band: where a reliable\nforecast lies by chance" if bars == "consistency" else "bars: from blocks of time"
        )
        note = f"{what}, {100 * float(level or 0.95):g} %"
        ax.text(0.98, 0.03, note, transform=ax.transAxes, ha="right", fontsize=style.TICK, color=style.FAINT)
    return _titled(ax, title)


def roc(
    curves: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw hits over false alarms as the threshold of a warning falls, with the area below each curve.

    Parameters
    ----------
    curves
        What :func:`physml.verify.roc` returned, along thresholds alone; or several by name.
    colors, title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        Where nothing is given, or it is no such Dataset.

    Examples
    --------
    >>> from physml import verify
    >>> p, o = xr.DataArray([0.1, 0.4, 0.35, 0.8], dims="x"), xr.DataArray([0, 0, 1, 1], dims="x")
    >>> figure = roc(verify.roc(p, o))
    """
    found = {
        n: _checked(c, ("hit_rate", "false_alarm_rate", "area"), ("threshold",), "roc")
        for n, c in _named(curves, "roc").items()
    }
    shades = style.palette(found) | dict(colors or {})
    ax = style.new_figure(6.6, 6.2).subplots() if ax is None else ax
    ax.plot([0, 1], [0, 1], **DIAGONAL)
    ends: dict[str, Any] = {"solid_capstyle": "round", "linewidth": 2.8}
    for name, curve in found.items():
        x, y = curve.false_alarm_rate.values, curve.hit_rate.values
        area = f"area {float(curve.area):.3f}"
        ax.plot(x, y, color=shades[name], label=f"{name}, {area}" if name else area, **ends)
        few = len(curve.threshold) <= 40
        if few:
            ax.plot(x, y, "o", color=shades[name], markersize=5)
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_aspect("equal")
    style.style_axes(ax, "false alarm rate", "hit rate", grid="both")
    ax.legend(fontsize=style.LABEL, frameon=False, loc="lower right")
    return _titled(ax, title)


def confusion(table: xr.Dataset, *, title: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw which class was forecast for which, in percent of each true class, and what part of each forecast was right.

    Parameters
    ----------
    table
        What :func:`physml.verify.confusion` returned, for one table.
    title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        Where it is no such Dataset, or holds several tables.

    Examples
    --------
    >>> from physml import verify
    >>> truth = xr.DataArray([0, 0, 1, 1], dims="x", attrs={"flag_values": [0, 1], "flag_meanings": "water ice"})
    >>> figure = confusion(verify.confusion(xr.DataArray([0, 1, 1, 1], dims="x"), truth))
    """
    needed = ("count", "precision", "accuracy", "balanced_accuracy", "peirce")
    table = _checked(table, needed, ("truth_class", "forecast_class"), "confusion")
    count = table["count"].values
    names = [str(v).replace("_", " ") for v in table["truth_class"].values]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = count / count.sum(-1, keepdims=True)
    n = len(names)
    told = [style.wrapped(name, 18) for name in names]
    size = style.LABEL if n <= 6 else style.TICK
    longest = max(len(line) for t in told for line in t.split("\n"))
    cell = 1.15 if n <= 6 else 0.8
    if ax is None:
        slope = 0.07 * longest if longest > 9 or n > 6 else 0.2
        height = cell * n + 1.3 + slope + (0.5 if title else 0.0)
        ax = style.new_figure(cell * n + 0.11 * longest + 2.1, height).subplots()
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ax.patch.set(hatch="////", edgecolor="#9A9A9A", linewidth=0)
    for (i, j), part in np.ndenumerate(share):
        if not np.isfinite(part):
            continue
        ink = "white" if part > 0.55 else style.INK
        heavy = "bold" if i == j else "normal"
        text = f"{100 * part:.0f} %" if part == 0 or part >= 0.005 else "<1 %"
        ax.text(j, i, text, ha="center", va="center", fontsize=size, color=ink, fontweight=heavy)
    precision = [f"{100 * float(v):.0f} %" if np.isfinite(v) else "\N{EN DASH}" for v in table.precision.values]
    turn: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if longest > 9 or n > 6 else {}
    ax.set_xticks(range(n), told, fontsize=size, color=style.INK, **turn)
    ax.set_yticks(range(n), told, fontsize=size, color=style.INK)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for k in np.arange(0.5, n - 1):
        ax.axhline(k, color="white", linewidth=2)
        ax.axvline(k, color="white", linewidth=2)
    for j, text in enumerate(precision):
        ax.text(j, -0.6, text, ha="center", va="bottom", fontsize=style.TICK, color=style.FAINT)
    ax.text(-0.56, -0.6, "forecasts right", ha="right", va="bottom", fontsize=style.TICK, color=style.FAINT)
    ax.set_xlabel("forecast", fontsize=style.LABEL, color=style.INK)
    ax.set_ylabel("truth", fontsize=style.LABEL, color=style.INK)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.04, fraction=0.045, aspect=26)
    bar.set_label("part of the true class", fontsize=style.LABEL, color=style.INK)
    bar.set_ticks([0, 0.5, 1], labels=["0", "50 %", "100 %"])
    bar.ax.tick_params(labelsize=style.TICK, colors=style.INK, length=3)
    bar.outline.set_visible(False)
    numbers = {"accuracy": table.accuracy, "balanced": table.balanced_accuracy, "Peirce skill": table.peirce}
    note = ", ".join(f"{k} {float(v):.2f}" for k, v in numbers.items())
    ax.figure.supxlabel(note, fontsize=style.TICK, color=style.INK)
    if title:
        ax.set_title(title, fontsize=style.TITLE, color=style.INK, loc="left", pad=30)
    return ax.figure  # type: ignore[return-value]


def _named(found: xr.Dataset | Mapping[str, xr.Dataset], source: str) -> dict[str, xr.Dataset]:
    named = {"": found} if isinstance(found, xr.Dataset) else dict(found)
    if not named:
        refuse("nothing to draw", "one result, or several by name", "none", f"pass {{name: verify.{source}(...)}}")
    return named


def _checked(result: Any, names: tuple[str, ...], dims: tuple[str, ...], source: str) -> xr.Dataset:
    held = list(map(str, result.data_vars)) if isinstance(result, xr.Dataset) else []
    if not all(n in held for n in names) or result[names[0]].dims != dims:
        received = {n: result[n].dims for n in held} or type(result).__name__
        expected = f"{', '.join(names)} along {', '.join(dims)} alone"
        remedy = f"pass what physml.verify.{source} returned, and select one entry of other dimensions"
        refuse(f"this is no result of {source} to draw", expected, received, remedy)
    found: xr.Dataset = result.compute()
    return found


def _few() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3, integer=True)


def _thousands() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda v, _: f"{v:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}"))
