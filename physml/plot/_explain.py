"""What the figures of explanations share: intervals, averages over samples, rows of names, numbers as text."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.grid import latitude_longitude
from physml.plot import _style as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLAYERS = ("group", "group_other")
LEVEL = 0.95
"""Confidence of the intervals that are drawn."""
ROUND_OFF = 1e-7
"""Part of the largest number below which a number is written as zero."""


def half_width(result: xr.Dataset) -> xr.DataArray:
    """Return half the interval of every attribution, by Student's t; zero where it is exact.

    Parameters
    ----------
    result
        Dataset with ``attribution`` and, where it is an estimate, ``stderr``, with its degrees of freedom as a variable
        ``dof``, or the number of replicates as an attribute.
    """
    if "stderr" not in result:
        return xr.zeros_like(result["attribution"], dtype="float64")
    stderr = result["stderr"].fillna(0.0)
    return (stderr * _quantile(_freedom(result))).broadcast_like(result["attribution"])


def samples_of(result: xr.Dataset) -> list[Hashable]:
    """Return the dimensions of the samples: those that are neither the group's, nor the target's, nor of pairs."""
    phi = result["attribution"]
    if "dof" in result:
        return [d for d in phi.dims if d in result["dof"].dims]
    found = {d for d in phi.dims if str(d) in ("y", "x", "j", "i", "lat", "lon", "latitude", "longitude", "output")}
    try:
        found.update(*(c.dims for c in latitude_longitude(phi)))
    except ValueError:
        pass
    return [d for d in phi.dims if d not in {*found, *PLAYERS, "channel"}]


def mean_of(result: xr.Dataset, signed: bool, interval: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the mean, or mean absolute, attribution by group, and half its interval.

    Parameters
    ----------
    result
        Dataset with ``attribution`` on group, perhaps group_other, and further dimensions.
    signed
        Average with the sign.
    interval
        ``"estimate"``: how well the mean over these samples is known, their errors being independent and those of the
        cells of a map being alike; degrees of freedom by Welch and Satterthwaite (doi:10.2307/3002019). ``"samples"``: how
        well the mean over all samples like these is known, from their spread, if they are independent.
    """
    from scipy import stats

    if interval not in ("estimate", "samples"):
        refuse("interval is unknown", "'estimate' or 'samples'", repr(interval), "leave it out for 'estimate'")
    phi = result["attribution"].astype("float64")
    rest = [d for d in phi.dims if d not in PLAYERS]
    if not rest:
        return phi, half_width(result)
    each = phi if signed else abs(phi)
    samples = samples_of(result)
    cells = [d for d in rest if d not in samples]
    count = int(np.prod([phi.sizes[d] for d in samples]))
    mean = each.mean(rest, keep_attrs=True)
    if interval == "samples":
        if count < 2:
            refuse("one sample has no spread", "2 samples or more", count, "pass interval='estimate'")
        spread = each.mean(cells).std(samples, ddof=1) / np.sqrt(count)
        return mean, spread * stats.t.ppf(0.5 + LEVEL / 2, count - 1)
    if "stderr" not in result:
        return mean, xr.zeros_like(mean)
    square = result["stderr"].fillna(0.0).mean([d for d in cells if d in result["stderr"].dims]) ** 2
    total, weak = square.sum(samples), (square**2 / _freedom(result)).sum(samples)
    free = (total**2 / weak.where(weak > 0)).fillna(np.inf)
    return mean, (total**0.5 / count * _quantile(free)).broadcast_like(mean)


def _freedom(result: xr.Dataset) -> xr.DataArray:
    """Return the degrees of freedom of the standard errors; infinite where they are not known."""
    free = result["dof"] if "dof" in result else xr.DataArray(float(result.attrs.get("replicates", 0)) - 1)
    return xr.where(free > 0, free, np.inf)


def _quantile(free: xr.DataArray) -> xr.DataArray:
    from scipy import stats

    return free.copy(data=stats.t.ppf(0.5 + LEVEL / 2, free.values))


def one_sample(result: xr.Dataset, what: str) -> xr.Dataset:
    """Return a result along group alone, or say which dimensions have to be selected from."""
    result = style.attribution_of(result)
    more = [str(d) for d in result["attribution"].dims if d != "group"]
    if more:
        refuse(
            f"{what} shows one sample",
            "attributions along 'group' alone",
            ", ".join(f"{result.sizes[d]} along {d!r}" for d in more),
            f"select one: result.isel({', '.join(f'{d}=0' for d in more)})",
        )
    return result


def row_axes(names: Sequence[str], *, width: float = 6.8, head: float = 1.7, columns: int = 1) -> tuple[Any, list[str]]:
    """Return axes for one row a name, and the names broken to fit; the figure grows with both.

    Parameters
    ----------
    names
        Names of the rows.
    width
        Width of the axes [inch].
    head
        Height of title and labels [inch].
    columns
        Number of axes side by side on the same rows.
    """
    told = fitted(names)
    size = row_type(names)
    lines = max((n.count("\n") + 1 for n in told), default=1)
    longest = max((len(line) for n in told for line in n.split("\n")), default=0)
    row = max(0.6 if len(names) <= 6 else 0.44 if len(names) <= 12 else 0.32, 1.3 * size * lines / 72 + 0.06)
    figure = style.new_figure(width * columns + 0.6 * size * longest / 72 + 0.3, head + row * max(len(names), 2))
    axes = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    return (axes[0] if columns == 1 else axes), told


def fitted(names: Sequence[str]) -> list[str]:
    """Return the names of rows broken into lines: short ones where rows are few, long ones where they are many."""
    return [style.wrapped(style.shown(n), 38 if len(names) <= 12 else 66) for n in names]


def row_type(names: Sequence[str]) -> int:
    """Return the size of type for so many rows [points]."""
    return style.LABEL if len(names) <= 12 else style.TICK


def finish_rows(ax: Axes, told: Sequence[str], at: Sequence[float], x_label: str, size: float) -> None:
    """Name the rows of an axes whose bars or dots run sideways."""
    style.style_axes(ax, x_label, "", grid="x")
    ax.spines["left"].set_visible(False)
    ax.set_yticks(list(at), list(told))
    ax.tick_params(axis="y", length=0, labelsize=size)


def titled(ax: Axes, title: str | None) -> Figure:
    """Write the title over the left end of the figure, and return the figure."""
    if title:
        ax.figure.suptitle(title, fontsize=style.TITLE, color=style.INK, x=0.01, ha="left")
    return ax.figure  # type: ignore[return-value]


def signed_text(value: float, digits: int = 3) -> str:
    """Return a number with its sign.

    Examples
    --------
    >>> signed_text(2.5e-7), signed_text(12.3456)
    ('+2.5 × 10⁻⁷', '+12.3')
    """
    return _typeset(f"{value:+.{digits}g}")


def plain_text(value: float, digits: int = 4) -> str:
    """Return a number as text."""
    return _typeset(f"{value:.{digits}g}")


def aligned(values: Any, *, signed: bool = False, like: Any = None) -> list[str]:
    """Return numbers as text with as many decimals as the largest has in three digits; round-off is 0.

    Parameters
    ----------
    values
        The numbers. Those that would be written as zeros keep one digit.
    signed
        Write the sign of positive numbers too.
    like
        Numbers that say how many decimals there are, in place of the values.

    Examples
    --------
    >>> aligned([1.4931, 0.0312, 0.00018, 2e-17]), aligned([290.1234], like=[0.52])
    (['1.49', '0.03', '0.0002', '0'], ['290.123'])
    """
    most = float(np.nanmax(np.abs(values if like is None else like), initial=0.0))
    if not 1e-4 <= most < 1e6:
        return ["0" if abs(v) <= ROUND_OFF * most else (signed_text if signed else plain_text)(v, 3) for v in values]
    decimals = max(0, 2 - int(np.floor(np.log10(most))))
    while decimals and all(round(float(v), decimals - 1) == round(float(v), decimals) for v in values):
        decimals -= 1
    sign = "+" if signed else ""

    def text(value: float) -> str:
        if abs(value) <= ROUND_OFF * most:
            return "0"
        told = f"{value:{sign}.{decimals}f}"
        return _typeset(f"{value:{sign}.1g}" if float(told) == 0 else told)

    return [text(float(v)) for v in values]


def _typeset(text: str) -> str:
    text, _, power = text.partition("e")
    if power:
        text += f" \N{MULTIPLICATION SIGN} 10{str(int(power)).translate(style.SUPERSCRIPT)}"
    return text.replace("-", "\N{MINUS SIGN}")
