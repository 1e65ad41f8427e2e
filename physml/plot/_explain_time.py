"""A figure of attributions over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.plot import _explain as common
from physml.plot import _style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def time_by_group(
    attribution: xr.Dataset,
    *,
    dim: str | None = None,
    limits: tuple[float, float] | None = None,
    show: int = 40,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw attributions over time, one row a group, below the prediction and the baseline over time.

    Parameters
    ----------
    attribution
        Dataset with ``attribution`` on ``group`` and one further dimension; ``prediction`` and ``base_value`` if there.
    dim
        That dimension; the only one by default.
    limits
        Ends of the colour scale, symmetric around zero unless given.
    show
        Number of groups drawn, those of the largest mean absolute attribution, in their order.
    title
        Title of the figure.
    ax
        Axes to draw the rows alone into, in place of a new figure.

    Raises
    ------
    ValueError
        Where there is another number of dimensions than one beside the group.
    """
    from matplotlib.ticker import MaxNLocator

    result = style.attribution_of(attribution)
    phi = result["attribution"]
    rest = [str(d) for d in phi.dims if d != "group"]
    if len(rest) != 1 or (dim is not None and rest != [dim]):
        refuse(
            "a heat map over time has one dimension beside the group",
            dim or "one, such as 'time'",
            ", ".join(rest) or "none",
            "select or average over the others, as result.isel(run=0)",
        )
    phi = phi.transpose("group", rest[0])
    largest = np.argsort(-abs(phi).mean(rest[0]).values, kind="stable")[:show]
    left = phi.sizes["group"] - largest.size
    phi = phi.isel(group=np.sort(largest))
    names = [str(n) for n in phi["group"].values]
    told = common.fitted(names)
    size = common.row_type(names)
    lines, longest = max(t.count("\n") + 1 for t in told), max(len(x) for t in told for x in t.split("\n"))
    row = max(0.5 if len(names) <= 8 else 0.3, 1.25 * size * lines / 72 + 0.04)
    above = "prediction" in result and ax is None
    given = ax is not None
    if ax is None:
        top, body = (1.9 if above else 0.0), row * max(len(names), 3)
        figure = style.new_figure(9.0 + 0.55 * size * longest / 72, top + body + 1.9)
        grid = figure.add_gridspec(2 if above else 1, 1, height_ratios=[top, body] if above else [body])
        ax = figure.add_subplot(grid[-1])
    x, edges = _edges(phi[rest[0]])
    end = limits or (-_most(phi.values), _most(phi.values))
    image = ax.pcolormesh(
        edges, np.arange(len(names) + 1) - 0.5, phi.values, cmap="RdBu_r", vmin=end[0], vmax=end[1], rasterized=True
    )
    ax.patch.set(hatch="////", edgecolor="#9A9A9A", linewidth=0)
    ax.set_yticks(range(len(names)), told)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(labelsize=style.TICK, colors=style.INK, length=3)
    ax.tick_params(axis="y", labelsize=size, length=0)
    for spine in ax.spines.values():
        spine.set(color=style.FAINT, linewidth=0.6)
    _date_axis(ax, phi[rest[0]], x)
    if above:
        upper = figure.add_subplot(grid[0], sharex=ax)
        upper.margins(x=0)
        _lines_above(upper, result, x)
        upper.tick_params(labelbottom=False)
        upper.yaxis.set_major_locator(MaxNLocator(3))
    ax.set_xlim(edges[0], edges[-1])
    bar = ax.figure.colorbar(image, ax=ax, location="bottom", pad=0.03, fraction=0.09, aspect=40, shrink=0.8)
    more = f"\n{left} groups of smaller attributions are not drawn" if left else ""
    bar.set_label(f"attribution{style.units_of(phi)}{more}", fontsize=style.LABEL, color=style.INK)
    bar.ax.tick_params(labelsize=style.TICK, colors=style.INK, length=3)
    bar.outline.set_visible(False)
    if title and given:
        ax.set_title(title, fontsize=style.LABEL, color=style.INK, loc="left")
    return common.titled(ax, None if given else title)


def _most(values: np.ndarray) -> float:
    return float(np.nanmax(np.abs(values), initial=0.0)) or 1.0


def _edges(axis: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Return centres and edges of the columns: dates where they are evenly spaced, otherwise one width for each."""
    x = style.numbers(axis)[0]
    if x.dtype.kind == "M":
        x = x.astype("M8[s]").astype("float64") / 86400
    steps = np.diff(x.astype("float64")) if x.dtype.kind in "iuf" else np.array([])
    if not steps.size or steps.min() <= 0 or steps.max() > 1.5 * steps.min():
        x = np.arange(axis.size, dtype="float64")
        return x, np.arange(axis.size + 1) - 0.5
    inner = 0.5 * (x[1:] + x[:-1])
    return x, np.concatenate([[x[0] - steps[0] / 2], inner, [x[-1] + steps[-1] / 2]])


def _date_axis(ax: Axes, axis: xr.DataArray, x: np.ndarray) -> None:
    """Label the columns by date, or by value and units."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    even = not np.array_equal(x, np.arange(axis.size)) or axis.dtype.kind in "iuf"
    if axis.dtype.kind in "MO" and even and axis.size > 1:
        locator = AutoDateLocator(minticks=3, maxticks=9)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        ax.xaxis.get_offset_text().set_fontsize(style.TICK)
        return
    if axis.dtype.kind in "iufm" and even:
        units = " [days]" if axis.dtype.kind == "m" else style.units_of(axis)
        told = axis.attrs.get("long_name") or axis.name
        ax.set_xlabel(f"{told}{units}", fontsize=style.LABEL, color=style.INK)
        return
    shown = np.unique(np.linspace(0, axis.size - 1, min(axis.size, 6)).round().astype(int))
    ax.set_xticks(x[shown], [style.entry(axis, i) for i in shown])


def _lines_above(ax: Axes, result: xr.Dataset, x: np.ndarray) -> None:
    prediction = result["prediction"]
    dots = {"marker": "o", "markersize": 6} if len(x) <= 24 else {}
    ax.plot(x, prediction.values, color=style.INK, linewidth=2.2, **dots)  # type: ignore[arg-type]
    ends = [("prediction", float(prediction.values[-1]), style.INK)]
    if "base_value" in result:
        base = result["base_value"].broadcast_like(prediction).values
        ax.plot(x, base, color=style.FAINT, linewidth=1.8, linestyle=(0, (4, 2)))
        ends.append(("baseline", float(base[-1]), style.FAINT))
    style.style_axes(ax, "", f"prediction{style.units_of(prediction)}")
    low, high = ax.get_ylim()
    near = len(ends) == 2 and abs(ends[0][1] - ends[1][1]) < 0.16 * (high - low)
    for text, value, shade in ends:
        away = 0.0 if not near else (8.0 if value == max(e[1] for e in ends) else -8.0)
        ax.annotate(
            text,
            (1.0, value),
            xycoords=("axes fraction", "data"),
            xytext=(8, away),
            textcoords="offset points",
            va="center",
            fontsize=style.TICK,
            fontweight="bold",
            color=shade,
            annotation_clip=False,
        )
