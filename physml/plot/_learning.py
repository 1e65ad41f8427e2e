"""Learning curves: of one run, of several side by side, and of several compared in one panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.plot import _style as style
from physml.plot._lines import curves, note, set_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSS = "loss in scaled units"


def learning_curve(
    history: Any,
    *,
    together: bool = False,
    log: bool | None = None,
    rate: bool | None = None,
    key: str | None = None,
    colors: Mapping[str, str] | None = None,
    title: str | None = None,
    label: str = LOSS,
    ax: Axes | None = None,
) -> Figure:
    """Draw the loss by epoch, in training and in validation, with the best epoch marked and the learning rate below.

    Parameters
    ----------
    history
        What ``model.fit`` or :func:`physml.training.fit` returns, or a mapping from ``"loss"`` and ``"val_loss"`` to one value
        for each epoch. Or several of them by name: side by side, on one vertical axis.
    together
        Several runs in one panel: one colour for each, validation drawn through and training dashed. Always so with *ax*.
    log
        Logarithmic scale; None: where the losses span more than a factor of ten.
    rate
        Draw the learning rate in a panel below; None: where it was recorded and moves, and there is no *ax*.
    key
        With several runs in one panel, the one record to draw, such as ``"loss"``.
    colors
        Colour for each run, as from :func:`physml.plot.palette`.
    title, label, ax
        Title of the figure; label of the vertical axis; axes to draw into.

    Raises
    ------
    ValueError
        Where a history holds no loss, or the rate is asked for and was not recorded or has no room.

    Examples
    --------
    >>> runs = {"small": {"loss": [3.0, 2.0], "val_loss": [3.5, 3.0]}, "large": {"loss": [2.0, 1.0], "val_loss": [2.5, 2.9]}}
    >>> figure = learning_curve(runs, title="Two networks")
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['small', 'large']
    """
    records = _by_name(history)
    several = list(records) != [""]
    for name, record in records.items():
        if not len(record.get(key or "loss", ())):
            refuse(
                f"the history {name!r} holds no {key or 'loss'}"
                if several
                else f"the history holds no {key or 'loss'}",
                f"{key or 'loss'!r} with one value for each epoch",
                ", ".join(record) or "nothing",
                "pass what fit returned",
            )
    told = [r for r in records.values() if len(r.get("learning_rate", ()))]
    rate = (ax is None and any(len(set(r["learning_rate"])) > 1 for r in told)) if rate is None else rate
    if rate and (ax is not None or len(told) < len(records)):
        refuse(
            "the learning rate cannot be drawn",
            "a history with 'learning_rate', and no ax",
            "ax" if ax is not None else "; ".join(", ".join(r) for r in records.values()),
            "physml.training.fit records it; leave ax or rate out",
        )
    if several and not together and ax is None:
        return _side_by_side(records, log, rate, colors, title, label)
    lower = None
    if ax is None:
        figure = style.new_figure(9.5, 6.4 if rate else 5.2)
        if rate:
            ax, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        else:
            ax = figure.subplots()
    assert ax is not None
    if several:
        _compare(ax, records, log, key, colors, label)
    else:
        _one(ax, records[""], log, label)
    if title:
        ax.set_title(title, fontsize=style.TITLE, color=style.INK, loc="left", pad=14)
    if lower is not None:
        ax.set_xlabel("")
        ax.tick_params(labelbottom=False)
        shades = style.palette(records) | dict(colors or {})
        _rates(lower, records, list(records), shades if several else {"": style.INK})
    return ax.figure  # type: ignore[return-value]


def _by_name(history: Any) -> dict[str, Mapping[str, Sequence[float]]]:
    """Return histories by name; a single one has none."""
    found = getattr(history, "history", history)
    if isinstance(found, Mapping) and found:
        inner: list[Any] = [getattr(v, "history", v) for v in found.values()]
        if all(isinstance(v, Mapping) for v in inner):
            return dict(zip(map(str, found), inner, strict=True))
    return {"": found}


def _lines(
    record: Mapping[str, Sequence[float]], names: Mapping[str, str], label: str = LOSS
) -> dict[str, xr.DataArray]:
    return {
        name: xr.DataArray(
            np.asarray(record[key], "float64"),
            coords={"epoch": np.arange(1, len(record[key]) + 1)},
            dims="epoch",
            attrs={"long_name": label},
        )
        for name, key in names.items()
        if len(record.get(key, ()))
    }


def _wide(records: Sequence[Mapping[str, Sequence[float]]], keys: Sequence[str]) -> bool:
    values = np.concatenate([np.asarray(r[k], "float64") for r in records for k in keys if len(r.get(k, ()))])
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and values.max() > 10 * values.min())


def _one(
    ax: Axes,
    record: Mapping[str, Sequence[float]],
    log: bool | None,
    label: str,
    shades: Mapping[str, str] | None = None,
) -> None:
    lines = _lines(record, {"training": "loss", "validation": "val_loss"}, label)
    wide = _wide([record], ("loss", "val_loss")) if log is None else log
    curves(lines, log=wide, colors=shades, label=label, ax=ax)
    _whole_epochs(ax)
    _ring(ax, lines.get("validation", lines["training"]), style.INK, told=True)


def _compare(
    ax: Axes,
    records: Mapping[str, Mapping[str, Sequence[float]]],
    log: bool | None,
    key: str | None,
    colors: Mapping[str, str] | None,
    label: str,
) -> None:
    shades = style.palette(records) | dict(colors or {})
    kept = {n: key or ("val_loss" if len(r.get("val_loss", ())) else "loss") for n, r in records.items()}
    lines = {n: _lines(r, {n: kept[n]}, label)[n] for n, r in records.items()}
    keys = ("loss", "val_loss") if key is None else (key,)
    wide = _wide(list(records.values()), keys) if log is None else log
    # Before the names are set, so that they stand where their lines end on the final scale.
    pale = {"linewidth": 1.6, "linestyle": (0, (4, 2)), "alpha": 0.75}
    for name, record in records.items():
        if key is None and kept[name] == "val_loss":
            under = _lines(record, {name: "loss"})[name]
            ax.plot(under.epoch, under, color=shades[name], **pale)  # type: ignore[arg-type]
    every = np.concatenate([np.asarray(r[k], "float64") for r in records.values() for k in keys if len(r.get(k, ()))])
    set_scale(ax, every[np.isfinite(every)], wide)
    curves(lines, log=wide, colors=shades, label=label, ax=ax)
    _whole_epochs(ax)
    judged = [n for n in lines if kept[n] == "val_loss"]
    for name in judged:
        _ring(ax, lines[name], shades[name], told=False)
    if judged and key is None:
        words = "dashed: training; ring: best epoch"
        note(ax, words, (1, 1), (-4, -12), "right", style.TICK, xycoords="axes fraction")


def _side_by_side(
    records: Mapping[str, Mapping[str, Sequence[float]]],
    log: bool | None,
    rate: bool,
    colors: Mapping[str, str] | None,
    title: str | None,
    label: str,
) -> Figure:
    wide = _wide(list(records.values()), ("loss", "val_loss")) if log is None else log
    n = len(records)
    figure = style.new_figure(max(9.5, 5.4 * n), 6.4 if rate else 5.2)
    rows = {"nrows": 2, "height_ratios": (3.4, 1)} if rate else {"nrows": 1}
    axes: Any = figure.subplots(ncols=n, sharex="col", sharey="row", squeeze=False, **rows)
    ends = [np.asarray(r[k], "float64") for r in records.values() for k in ("loss", "val_loss") if len(r.get(k, ()))]
    values = np.concatenate(ends)
    values = values[np.isfinite(values)]
    if wide and values.size and values.min() > 0:
        axes[0, 0].set_yscale("log")
        axes[0, 0].set_ylim(values.min() / 1.15, values.max() * 1.15)
    elif values.size:
        axes[0, 0].set_ylim(0 if values.min() >= 0 else values.min(), 1.05 * values.max())
    for ax, (name, record) in zip(axes[0], records.items(), strict=True):
        _one(ax, record, wide, label, {"validation": (colors or {}).get(name, style.PALETTE[1])})
        ax.set_title(name, fontsize=style.LABEL + 1, color=style.INK, loc="left", pad=12)
    for ax in axes[:, 1:].ravel():
        ax.set_ylabel("")
    if rate:
        figure.align_ylabels(axes[:, 0])
        for ax, name in zip(axes[1], records, strict=True):
            _rates(ax, records, [name], {name: style.INK})
        for ax in axes[0]:
            ax.set_xlabel("")
        for ax in axes[1, 1:]:
            ax.set_ylabel("")
    if title:
        figure.suptitle(title, fontsize=style.TITLE, color=style.INK, x=0.01, ha="left")
    return figure


def _rates(
    ax: Axes,
    records: Mapping[str, Mapping[str, Sequence[float]]],
    drawn: Sequence[str],
    shades: Mapping[str, str],
) -> None:
    """Draw the rates of some runs, on a scale for all."""
    values = np.concatenate([np.asarray(r["learning_rate"], "float64") for r in records.values()])
    for name in drawn:
        record = records[name]
        found = np.asarray(record["learning_rate"], "float64")
        ax.step(np.arange(1, found.size + 1), found, where="mid", color=shades[name], linewidth=2)
    style.style_axes(ax, "epoch", "learning rate")
    moved = values[values > 0]
    wide = bool(moved.size and moved.max() > 30 * moved.min())
    ax.set_yscale("log" if wide else "linear")
    if moved.size:
        ax.set_ylim(moved.min() / 1.5 if wide else 0, moved.max() * (1.5 if wide else 1.1))
    _whole_epochs(ax)


def _whole_epochs(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _ring(ax: Axes, line: xr.DataArray, shade: str, *, told: bool) -> None:
    """Mark the least value of a line."""
    best = line.dropna("epoch")
    if not best.size:
        return
    best = best.isel(epoch=int(np.argmin(best.values)))
    epoch, value = int(best["epoch"]), float(best)
    ring = {"markerfacecolor": "none" if told else "white", "markeredgecolor": shade, "markeredgewidth": 2, "zorder": 5}
    ax.plot(epoch, value, "o", markersize=11 if told else 9, **ring)  # type: ignore[arg-type]
    if told:
        note(
            ax, f"best: {value:.3g} at epoch {epoch}", (1, 1), (-4, -12), "right", style.TICK, xycoords="axes fraction"
        )
