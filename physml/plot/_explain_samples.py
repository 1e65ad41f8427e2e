"""Figures of attributions by sample: beeswarm and waterfall."""

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

NEGLIGIBLE = 1e-3
"""Part of the largest contribution below which what is left over is not drawn."""
_LEFT_OVER = "left over"


def beeswarm(
    attribution: xr.Dataset,
    *,
    values: xr.DataArray | str | None = None,
    show: int = 20,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the attribution of every sample as a dot, one row a group, the groups by mean absolute attribution.

    Parameters
    ----------
    attribution
        Dataset with ``attribution`` along ``group`` and samples.
    values
        What colours the dots, on the dimensions of the attribution, such as the mean of a group's inputs; or the name of
        a variable of *attribution* that holds it. With an attribute ``units`` all groups share one scale; without, each
        has its own, from its low to its high values.
    show
        Number of groups drawn, those of the largest mean absolute attribution.
    title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        Where the Dataset holds no attribution by group and sample, or *values* do not lie on its samples.

    Examples
    --------
    >>> phi = np.random.default_rng(0).normal(size=(2, 50))
    >>> figure = beeswarm(xr.Dataset({"attribution": (("group", "time"), phi)}, {"group": ["u", "v"]}))
    """
    from matplotlib.cm import ScalarMappable

    result = style.attribution_of(attribution)
    phi = result["attribution"]
    rest = [d for d in phi.dims if d != "group"]
    if not rest:
        refuse("a beeswarm shows many samples", "attributions on group and samples", phi.dims, "use plot.waterfall")
    shade, norm, label = _shades(result, values)
    order = np.argsort(-abs(phi).mean(rest).values, kind="stable")[:show]
    names = [str(n) for n in phi["group"].values[order]]
    across = phi.transpose("group", *rest).values.reshape(phi.sizes["group"], -1)
    tone = None if shade is None else shade.transpose("group", *rest).values.reshape(across.shape)
    given = ax is not None
    ax, told = (ax, common.fitted(names)) if ax is not None else common.row_axes(names, width=8.0)
    ax.axvline(0, color=style.INK, linewidth=1.2, zorder=1)
    spread = float(np.nanmax(np.abs(across[order]), initial=0.0)) or 1.0
    size = float(np.clip(9000 / across.shape[1], 10, 46))
    look: dict[str, Any] = {"s": size, "edgecolor": "white", "rasterized": across.size > 4000}
    for row, g in enumerate(order):
        x = across[g]
        # Where dots lie on each other, their white rims would hide the colours below.
        piled = np.bincount(np.floor((np.nan_to_num(x) - np.nanmin(x)) / spread * 60).astype(int)).max() > 12
        look["linewidth"] = 0.0 if piled else 0.3
        colour: dict[str, Any] = {"color": style.PALETTE[0]}
        if tone is not None:
            colour = {"c": tone[g], "cmap": _colours(), "norm": norm, "plotnonfinite": True}
        ax.scatter(x, row + _apart(x, spread / 60), zorder=3, **look, **colour)
    common.finish_rows(ax, told, range(len(names)), f"attribution{style.units_of(phi)}", common.row_type(names))
    ax.set_ylim(len(names) - 0.45, -0.55)
    if tone is not None:
        bar = ax.figure.colorbar(
            ScalarMappable(norm, _colours()),
            ax=ax,
            pad=0.02,
            fraction=0.05,
            aspect=28,
            extend="both" if label else "neither",
        )
        bar.set_label(label or "input of the group", fontsize=style.LABEL, color=style.INK)
        bar.ax.tick_params(labelsize=style.TICK, colors=style.INK, length=3)
        if not label:
            bar.set_ticks([0.0, 1.0], labels=["low", "high"])
        bar.outline.set_visible(False)
    left = phi.sizes["group"] - len(names)
    if left:
        ax.set_xlabel(f"{ax.get_xlabel()}\n{left} groups of smaller attributions are not drawn")
    return ax.figure if given and not title else common.titled(ax, title)  # type: ignore[return-value]


def waterfall(attribution: xr.Dataset, *, show: int = 12, title: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw how the contributions of the groups lead from the baseline to the prediction of one sample.

    Whiskers are 95 % intervals of the contribution whose bar they end. What the contributions leave over is drawn where
    it is not negligible.

    Parameters
    ----------
    attribution
        Dataset with ``attribution`` along ``group`` alone, ``prediction`` and ``base_value``; with ``stderr`` and
        ``residual`` if they are there.
    show
        Number of groups drawn, the largest first; the others together are one bar.
    title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        Where more than one sample is given, or prediction or base value are missing.

    Examples
    --------
    >>> parts = {"attribution": ("group", [0.5, -0.2]), "prediction": 1.3, "base_value": 1.0}
    >>> figure = waterfall(xr.Dataset(parts, {"group": ["sst", "wind"]}))
    """
    result = common.one_sample(attribution, "a waterfall")
    lacking = [n for n in ("prediction", "base_value") if n not in result]
    if lacking:
        held, remedy = ", ".join(map(str, result.data_vars)), "pass the whole result, not its attribution alone"
        refuse(f"the waterfall has no {lacking[0]!r}", "prediction and base_value", held, remedy)
    names, steps, halves = _steps(result, show)
    base, end = float(result["base_value"]), float(result["prediction"])
    units = style.units_of(result["prediction"]) or style.units_of(result["attribution"])
    given = ax is not None
    rows = ["baseline", *names, "prediction"]
    ax, told = (ax, common.fitted(rows)) if ax is not None else common.row_axes(rows, width=8.0)
    start = base + np.concatenate([[0.0], np.cumsum(steps)])
    low = float(min(start.min(), end, *(start[1:] - halves)))
    high = float(max(start.max(), end, *(start[1:] + halves)))
    room = 0.17 * (high - low) or 1.0
    ax.set_xlim(low - room, high + room)
    told_steps, told_ends = common.aligned(steps, signed=True), common.aligned([base, end], like=steps)
    for i, (step, half) in enumerate(zip(steps, halves, strict=True), 1):
        before, after = start[i - 1], start[i]
        shade = style.RAISES if step >= 0 else style.LOWERS
        if names[i - 1] == _LEFT_OVER:
            shade = style.FAINT
        ax.barh(i, step, left=before, color=shade, height=0.66, zorder=3)
        ax.plot([after, after], [i - 0.33, i + 1.33], color=style.FAINT, linewidth=1.0, zorder=2)
        if half > 0:
            ax.errorbar(after, i, xerr=half, fmt="none", ecolor=style.INK, elinewidth=1.8, capsize=4, zorder=4)
        side = 1 if step >= 0 else -1
        at = max(before, after + half) if step >= 0 else min(before, after - half)
        _beside(ax, told_steps[i - 1], (at, i), side)
    for i, value, text in ((0, base, told_ends[0]), (len(rows) - 1, end, told_ends[1])):
        ax.plot(value, i, "D", color=style.INK, markersize=9, zorder=4)
        side = 1 if value <= 0.5 * (low + high) else -1
        _beside(ax, text, (value, i), side, away=13, weight="bold")
    ax.plot([base, base], [0, 1.33], color=style.FAINT, linewidth=1.0, zorder=2)
    common.finish_rows(ax, told, range(len(rows)), _target(result, units), common.row_type(rows))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    return ax.figure if given and not title else common.titled(ax, title)  # type: ignore[return-value]


def _steps(result: xr.Dataset, show: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return names, contributions and half intervals of the bars of a waterfall, largest first."""
    phi = result["attribution"].values.astype("float64")
    half = common.half_width(result).values
    order = np.argsort(-np.abs(phi), kind="stable")
    kept, others = (order, order[:0]) if len(order) <= show else (order[: show - 1], order[show - 1 :])
    names = [str(result["group"].values[i]) for i in kept]
    steps, halves = list(phi[kept]), list(half[kept])
    if len(others):
        names.append(f"{len(others)} others together")
        steps.append(float(phi[others].sum()))
        # The errors of groups that share permutations are not independent: no interval is claimed for their sum.
        halves.append(0.0)
    left = float(result["residual"]) if "residual" in result else 0.0
    if abs(left) > NEGLIGIBLE * np.abs(phi).max(initial=0.0):
        names.append(_LEFT_OVER)
        steps.append(left)
        halves.append(0.0)
    return names, np.array(steps), np.array(halves)


def _target(result: xr.Dataset, units: str) -> str:
    """Return the label of the axis: what is predicted, and its units."""
    told = result["prediction"].attrs.get("long_name") or result.attrs.get("target") or "prediction"
    return style.wrapped(f"{told}{units}", 76)


def _beside(ax: Axes, text: str, at: tuple[float, float], side: int, away: int = 7, weight: str = "normal") -> None:
    ax.annotate(
        text,
        at,
        xytext=(away * side, 0),
        textcoords="offset points",
        ha="left" if side > 0 else "right",
        va="center",
        fontsize=style.TICK,
        fontweight=weight,
        color=style.INK,
        zorder=5,
    )


def _colours() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    # Blue and orange of the bars, through a grey that is seen on white.
    found = LinearSegmentedColormap.from_list("low to high", [style.LOWERS, "#B9B3BD", style.RAISES])
    return found.with_extremes(bad="#9A9A9A")


def _shades(result: xr.Dataset, values: xr.DataArray | str | None) -> tuple[xr.DataArray | None, Any, str]:
    """Return what colours the dots, its scale, and the label of the scale; no label where each group has its own."""
    from matplotlib.colors import Normalize

    phi = result["attribution"]
    if values is None:
        return None, None, ""
    if isinstance(values, str):
        if values not in result:
            names = list(map(str, result.data_vars))
            refuse(
                f"values name the unknown variable {values!r}{closest(values, names)}",
                ", ".join(names),
                repr(values),
                "pass a DataArray, or correct the name",
            )
        values = result[values]
    values = values.squeeze([d for d in values.dims if d not in phi.dims and values.sizes[d] == 1], drop=True)
    if set(values.dims) != set(phi.dims) or values.sizes != {d: phi.sizes[d] for d in values.dims}:
        want = {str(d): n for d, n in phi.sizes.items()}
        refuse("values do not lie on the samples", want, dict(values.sizes), "give one value for each group and sample")
    values = values.astype("float64").compute()
    if "units" in values.attrs:
        ends = np.nanquantile(values, [0.02, 0.98])
        if ends[0] < 0 < ends[1]:
            ends = np.abs(ends).max() * np.array([-1.0, 1.0])
        return values, Normalize(float(ends[0]), float(ends[1])), style.wrapped(style.with_units(values), 40)
    rest = [d for d in values.dims if d != "group"]
    low, high = (values.quantile(q, rest).drop_vars("quantile") for q in (0.02, 0.98))
    span = (high - low).where(high > low, 1.0)
    return ((values - low) / span).clip(0, 1), Normalize(0.0, 1.0), ""


def _apart(x: np.ndarray, cell: float) -> np.ndarray:
    """Return offsets that keep dots of nearly the same place apart, alternating to both sides, within a row."""
    place = np.floor(np.nan_to_num(x) / cell).astype(int)
    _, place = np.unique(place, return_inverse=True)
    order = np.lexsort((np.arange(len(x)), place))
    count = np.bincount(place)
    within = np.empty(len(x), int)
    within[order] = np.arange(len(x)) - np.repeat(np.cumsum(count) - count, count)
    away = (within + 1) // 2 * np.where(within % 2, 1.0, -1.0)
    return away * min(0.09, 0.4 / max(np.abs(away).max(initial=0.0), 1.0))
