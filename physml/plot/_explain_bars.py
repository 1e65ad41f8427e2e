"""Bars of attributions, single and nested, and bars of importance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import closest, refuse
from physml.plot import _explain as common
from physml.plot import _style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def bars(
    attribution: xr.Dataset,
    *,
    signed: bool = False,
    interval: str = "estimate",
    dots: bool = False,
    show: int = 40,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the attribution of every group as a horizontal bar, largest on top.

    Attributions along ``group`` alone keep their sign. Those with further dimensions (samples, maps) are drawn as the
    mean of their absolute values. Groups with a coordinate ``group_parent`` are drawn as thin bars under the bar of
    their parent, whose attribution is the sum of theirs (Owen values). Whiskers are 95 % intervals by Student's t.

    Parameters
    ----------
    attribution
        Dataset with ``attribution`` along ``group`` and, if there, ``stderr``, ``prediction`` and ``base_value``.
    signed
        Draw the mean of attributions with further dimensions, in place of the mean of their absolute values.
    interval
        What the whiskers of a mean are about. ``"estimate"``: the samples at hand, from ``stderr``, their errors being
        independent. ``"samples"``: all samples like these, from their spread, if they are independent.
    dots
        Draw every sample as a dot.
    show
        Number of rows drawn, those of the largest attributions.
    colors
        Colour for each group; by default one for raising and one for lowering the prediction.
    title, ax
        As in :func:`curves`.

    Raises
    ------
    ValueError
        Where the Dataset holds no attribution by group, *interval* is unknown, or one sample should have a spread.

    Examples
    --------
    >>> figure = bars(xr.Dataset({"attribution": ("group", [0.5, -0.2])}, {"group": ["sst", "wind"]}))
    """
    result = style.attribution_of(attribution)
    rest = [d for d in result["attribution"].dims if d != "group"]
    keeps_sign = signed or not rest
    rows = _nested(result, keeps_sign, interval) if "group_parent" in result.coords else None
    if rows is None:
        mean, half = common.mean_of(result, signed, interval)
        order = np.argsort(-abs(mean).values, kind="stable")
        labels = [str(n) for n in mean["group"].values]
        rows = [_Row(labels[i], float(mean.values[i]), float(half.values[i]), i) for i in order]
    left, rows = len(rows) - show, rows[:show]
    given = ax is not None
    names = [r.name for r in rows]
    ax, told = (ax, common.fitted(names)) if ax is not None else common.row_axes(names, head=2.1)
    ax.axvline(0, color=style.INK, linewidth=1.2)
    heads = {r.name for r in rows if r.children}
    for i, row in enumerate(rows):
        sign = style.RAISES if row.value >= 0 else style.LOWERS
        plain = sign if keeps_sign else style.PALETTE[0]
        shade = (colors or {}).get(row.name, plain)
        thick = 0.62 if not row.child else 0.42
        ax.barh(i, row.value, color=shade, height=thick, alpha=0.55 if row.child else 1.0, zorder=2)
    each = result["attribution"].transpose("group", *rest).values.reshape(result.sizes["group"], -1)
    shown = each if keeps_sign else np.abs(each)
    if dots and rest:
        for i, row in enumerate(rows):
            x = (shown[row.at] if row.at is not None else _sums(row, each, keeps_sign)).astype("float64")
            away = np.resize([0.0, 0.14, -0.14, 0.07, -0.07, 0.2, -0.2], x.size)
            ax.scatter(x, i + away, s=16, color=style.INK, alpha=0.35, linewidth=0, zorder=3, rasterized=x.size > 500)
    _ends(ax, rows, keeps_sign, shown if dots and rest else None, common.row_type(names))
    what = ("mean attribution" if signed else "mean absolute attribution") if rest else "attribution"
    common.finish_rows(
        ax, told, range(len(rows)), f"{what}{style.units_of(result['attribution'])}", common.row_type(names)
    )
    for tick, row in zip(ax.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if row.name in heads and not row.child else "normal")
    ax.set_ylim(len(rows) - 0.45, -0.55)
    if not rest and {"prediction", "base_value"} <= set(result):
        ends = [float(result[n]) for n in ("prediction", "base_value")]
        prediction, base = common.aligned(ends, like=[r.value for r in rows])
        ax.set_xlabel(f"{ax.get_xlabel()}\nprediction {prediction} = baseline {base} + sum of the bars")
    elif rest and interval == "samples":
        ax.set_xlabel(f"{ax.get_xlabel()}\nwhiskers: 95 % interval of the mean over all samples like these")
    if left > 0:
        ax.set_xlabel(f"{ax.get_xlabel()}\n{left} groups of smaller attributions are not drawn")
    return ax.figure if given and not title else common.titled(ax, title)  # type: ignore[return-value]


def importance(
    result: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    show: int = 25,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw how much a score suffers when each group is permuted, with bootstrap intervals; kinds side by side.

    Parameters
    ----------
    result
        Dataset with ``importance`` along ``group`` and, if there, replicates, ``lower`` and ``upper``; or several of them
        by name, such as single pass and multi pass, drawn side by side on rows of the order of the first.
    show
        Number of groups drawn, those of the largest importance.
    colors
        Colour for each kind.
    title
        Title of the figure.

    Raises
    ------
    ValueError
        Where a Dataset holds no importance by group, or the kinds have other groups.

    Examples
    --------
    >>> figure = importance(xr.Dataset({"importance": ("group", [0.3, 0.1])}, {"group": ["sst", "wind"]}))
    """
    kinds = {"": result} if isinstance(result, xr.Dataset) else dict(result)
    tables = {kind: _importance(found, kind) for kind, found in kinds.items()}
    if not tables:
        refuse(
            "no importance to draw",
            "a Dataset, or Datasets by name",
            "none",
            "pass what permutation_importance returned",
        )
    first = next(iter(tables.values()))
    for kind, table in tables.items():
        if set(table["group"].values) != set(first["group"].values):
            received = ", ".join(map(str, table["group"].values))
            expected = ", ".join(map(str, first["group"].values))
            refuse(f"{kind!r} ranks other groups than the first", expected, received, "draw them apart")
    by = first["rank"].values if "rank" in first else -first["importance"].values
    order = np.argsort(by, kind="stable")[:show]
    names = [str(n) for n in first["group"].values[order]]
    axes, told = common.row_axes(names, width=6.4 if len(tables) == 1 else 4.6, head=2.0, columns=len(tables))
    shades = style.palette(tables) | dict(colors or {})
    units = {k: style.units_of(t["importance"]) for k, t in tables.items()}
    labels = {k: f"{t['importance'].attrs.get('long_name') or 'importance'}{units[k]}" for k, t in tables.items()}
    labels = {k: style.wrapped(label, 60 if len(tables) == 1 else 40) for k, label in labels.items()}
    together = len(tables) > 1 and len(set(labels.values())) == 1
    for ax, (kind, table) in zip(np.atleast_1d(axes), tables.items(), strict=True):
        table = table.sel(group=names)
        values = table["importance"].values.astype("float64")
        ends = [table[n].values.astype("float64") if n in table else values for n in ("lower", "upper")]
        ax.axvline(0, color=style.INK, linewidth=1.2, zorder=2)
        ax.barh(range(len(names)), values, color=shades[kind], height=0.62, zorder=2)
        wide = np.abs(np.stack([values - ends[0], ends[1] - values]))
        if np.nanmax(wide, initial=0.0) > 0:
            ax.errorbar(
                values, range(len(names)), xerr=wide, fmt="none", ecolor=style.INK, elinewidth=1.8, capsize=4, zorder=3
            )
        rows = [_Row(n, v, 0.0, i) for i, (n, v) in enumerate(zip(names, values, strict=True))]
        for row, low, high in zip(rows, *ends, strict=True):
            row.reach = (min(low, row.value), max(high, row.value))
        _ends(ax, rows, False, None, common.row_type(names), room=0.18 if len(tables) == 1 else 0.32)
        if "rank" in table.coords or "rank" in table:
            for i, rank in enumerate(table["rank"].values):
                text = {"fontsize": style.TICK, "color": style.FAINT, "va": "center", "ha": "left"}
                ax.text(1.01, i, f"{int(rank)}.", transform=ax.get_yaxis_transform(), **text)
        label = "" if together else labels[kind]
        common.finish_rows(ax, told, range(len(names)), label, common.row_type(names))
        ax.set_title(kind, fontsize=style.LABEL, color=style.INK)
        ax.set_ylim(len(names) - 0.45, -0.55)
    figure = common.titled(np.atleast_1d(axes)[0], title)
    if together:
        figure.supxlabel(style.wrapped(labels[kind].replace("\n", " "), 90), fontsize=style.LABEL, color=style.INK)
    return figure


class _Row:
    """One bar: its name, value, half interval, and its place in the Dataset; with children, their places."""

    def __init__(self, name: str, value: float, half: float, at: int | None, children: tuple[int, ...] = ()) -> None:
        self.name, self.value, self.half, self.at, self.children = name, value, half, at, children
        self.child = False
        self.reach = (value - half, value + half)


def _nested(result: xr.Dataset, keeps_sign: bool, interval: str) -> list[_Row] | None:
    """Return a row for each parent, largest first, and below it one for each of its groups."""
    phi = result["attribution"].astype("float64")
    parents = [str(p) for p in result["group_parent"].values]
    names = [str(n) for n in result["group"].values]
    if len(set(parents)) == len(parents):
        return None
    rest = [d for d in phi.dims if d != "group"]
    mean, half = common.mean_of(result, keeps_sign, interval)
    found: list[tuple[float, list[_Row]]] = []
    for parent in dict.fromkeys(parents):
        members = [i for i, p in enumerate(parents) if p == parent]
        rows = [_Row(names[i], float(mean.values[i]), float(half.values[i]), i) for i in members]
        rows.sort(key=lambda r: -abs(r.value))
        total = phi.isel(group=members).sum("group")
        value = float((total if keeps_sign else abs(total)).mean(rest))
        if members == [names.index(parent)] if parent in names else False:
            found.append((abs(value), rows))
            continue
        for row in rows:
            row.child = True
            # The name of the parent stands above: what it repeats is left out.
            own = [p for p in row.name.removeprefix(f"{parent}: ").split(", ") if p not in parent.split(", ")]
            row.name = ", ".join(own) or row.name
        # The errors of a parent's groups are not independent: no interval is claimed for their sum.
        found.append((abs(value), [_Row(parent, value, 0.0, None, tuple(members)), *rows]))
    found.sort(key=lambda item: -item[0])
    return [row for _, rows in found for row in rows]


def _sums(row: _Row, each: np.ndarray, keeps_sign: bool) -> np.ndarray:
    total = each[list(row.children)].sum(0)
    return total if keeps_sign else np.abs(total)


def _ends(
    ax: Axes, rows: list[_Row], keeps_sign: bool, dots: np.ndarray | None, size: float, room: float = 0.18
) -> None:
    """Draw the whiskers, write the values beside them, and leave room for both."""
    low = min([0.0, *(r.reach[0] for r in rows)])
    high = max([0.0, *(r.reach[1] for r in rows)])
    if dots is not None:
        low, high = min(low, float(np.nanmin(dots))), max(high, float(np.nanmax(dots)))
    numbers = common.aligned([r.value for r in rows], signed=keeps_sign)
    for i, (row, text) in enumerate(zip(rows, numbers, strict=True)):
        # Numbers of bars that are all to point one way stand on one side, also where one misses zero.
        side = 1 if row.value >= 0 or not keeps_sign else -1
        if row.half > 0:
            ax.errorbar(row.value, i, xerr=row.half, fmt="none", ecolor=style.INK, elinewidth=1.8, capsize=4, zorder=4)
        end = max(row.reach[1], 0.0) if side > 0 else row.reach[0]
        more: dict[str, Any] = {"va": "center", "fontsize": size, "color": style.INK}
        more |= {"ha": "left" if side > 0 else "right", "textcoords": "offset points"}
        if dots is not None:
            # Among dots a number would seem to belong to the nearest: it stands at the margin.
            ax.annotate(text, (1.0, i), xytext=(6, 0), xycoords=("axes fraction", "data"), **more | {"ha": "left"})
            continue
        ax.annotate(text, (end, i), xytext=(7 * side, 0), **more)
    room = (0.04 if dots is not None else room) * (high - low) or 1.0
    left = 1.0 if keeps_sign and any(r.value < 0 for r in rows) else 0.2 if low < 0 else 0.0
    right = 1.0 if not keeps_sign or any(r.value >= 0 for r in rows) else 0.0
    ax.set_xlim(low - room * left, high + room * right)


def _importance(result: xr.Dataset, kind: str) -> xr.Dataset:
    """Return the importance along group alone, in memory; replicates become their mean and, if need be, its interval."""
    found = result.get("importance") if isinstance(result, xr.Dataset) else None
    if found is None or "group" not in found.coords:
        held = list(map(str, result.data_vars)) if isinstance(result, xr.Dataset) else []
        where = f" {kind!r}" if kind else ""
        refuse(
            f"the Dataset{where} holds no importance by group{closest('importance', held)}",
            "'importance' along a coordinate 'group'",
            ", ".join(held) or type(result).__name__,
            "pass what permutation_importance returned",
        )
    rest = [d for d in found.dims if d != "group"]
    out = result[[n for n in ("importance", "lower", "upper", "rank") if n in result]].compute()
    if rest:
        ends = {n: found.quantile(q, rest).drop_vars("quantile") for n, q in (("lower", 0.025), ("upper", 0.975))}
        ends = {n: end for n, end in ends.items() if n not in result}
        out = out.drop_vars("importance").assign(importance=found.mean(rest, keep_attrs=True)).assign(ends)
    return out
