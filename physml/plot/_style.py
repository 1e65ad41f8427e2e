"""What all figures share: colours, sizes of type, and the wording of labels."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml._errors import closest, describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
"""Colours that can be told apart with any colour vision (Okabe and Ito 2008, Color universal design)."""
RAISES, LOWERS = "#C8501E", "#2C6FAF"
LAND, INK, FAINT = "#C4C4C0", "#222222", "#636363"
TITLE, LABEL, TICK = 17, 14, 12
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def palette(names: Iterable[str]) -> dict[str, str]:
    """Return one colour for each name, to be passed to every figure of a page.

    Examples
    --------
    >>> palette(["free run", "analysis"])
    {'free run': '#0072B2', 'analysis': '#D55E00'}
    """
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(dict.fromkeys(names))}


def new_figure(width: float, height: float) -> Figure:
    """Return a white figure [inch] that no window and no global state knows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white", dpi=120)
    FigureCanvasAgg(figure)
    return figure


def style_axes(ax: Axes, x_label: str, y_label: str, grid: str = "y") -> None:
    """Give axes of lines or bars the house style: two spines, a light grid, type to be read from the back row."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.grid(axis=grid, color="#E3E3E3", linewidth=1)  # type: ignore[arg-type]
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=TICK, colors=INK, length=4)
    ax.set_xlabel(x_label, fontsize=LABEL, color=INK)
    ax.set_ylabel(y_label, fontsize=LABEL, color=INK)


def attribution_of(ds: xr.Dataset, along: tuple[str, ...] = ("group",)) -> xr.Dataset:
    """Return the attribution in memory and without dimensions of one entry, or say what is missing for one.

    Parameters
    ----------
    ds
        What :mod:`physml.explain` returned.
    along
        Dimensions of which it needs one.
    """
    found = ds.get("attribution") if isinstance(ds, xr.Dataset) else None
    if found is None or not any(d in found.dims and (d != "group" or d in found.coords) for d in along):
        names = list(ds.data_vars) if isinstance(ds, xr.Dataset) else []
        raise ValueError(
            describe(
                f"this is no attribution by {' or '.join(along)}{closest('attribution', names)}",
                expected=f"a Dataset with 'attribution' along a coordinate {' or '.join(map(repr, along))}",
                received=", ".join(map(str, names)) or type(ds).__name__,
                remedy="pass the Dataset that physml.explain returned",
            )
        )
    single = [d for d in found.dims if d not in along and found.sizes[d] == 1]
    return ds.squeeze(single, drop=True).compute()


def channel_names(data: xr.DataArray) -> list[str]:
    """Return the variable of every channel, with its offset and level where these differ."""
    parts = {str(n): c for n, c in data.coords.items() if c.dims == ("channel",)}
    parts = {n: c for n, c in parts.items() if n not in ("channel", "channel_units")}
    if "variable" not in parts:
        return [str(v) for v in data["channel"].values]
    told = [parts.pop("variable")]
    told += [c for c in parts.values() if len({str(v) for v in c.values}) > 1]

    def word(c: xr.DataArray, i: int) -> str:
        if c.name == "offset" and c.dtype.kind in "iu":
            return f"t{c.values[i]:+d}" if c.values[i] else "t"
        return entry(c, i)

    def name(i: int) -> str:
        words = [word(c, i) for c in told if c.dtype.kind != "f" or np.isfinite(c.values[i])]
        return re.sub(r"(?<= )-(?=\d)|(?<=\bt)-(?=\d)", "\N{MINUS SIGN}", ", ".join(words))

    return [name(i) for i in range(data.sizes["channel"])]


def shown(name: str) -> str:
    """Return a name with true minus signs in its lags.

    Examples
    --------
    >>> shown("sst, t-1, Pacific")
    'sst, t−1, Pacific'
    """
    return re.sub(r"(?<![\w-])t-(?=\d)", "t\N{MINUS SIGN}", name)


def wrapped(name: str, width: int = 38) -> str:
    """Return a name in as few lines of at most *width* letters as it needs, of about one length.

    Examples
    --------
    >>> print(wrapped("sea surface temperature, lag 1 month, North Atlantic", 34))
    sea surface temperature,
    lag 1 month, North Atlantic
    """
    # Spaces inside a part between commas are first held together, by a space at which no line breaks.
    held = re.sub(r"(?<!,) ", "\N{NO-BREAK SPACE}", name)
    fewest = len(_lines(name, width))
    for text in (held, name) if ", " in name else (name,):
        for even in range(len(name) // fewest, width + 1):
            lines = _lines(text, even)
            if len(lines) <= fewest and max(map(len, lines)) <= width:
                return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")
    return "\n".join(_lines(name, width))


def _lines(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 8), break_on_hyphens=False, break_long_words=" " not in text) or [""]


def units_of(data: xr.DataArray) -> str:
    """Return the units in brackets, with a space before; nothing for numbers without units."""
    return in_brackets(str(data.attrs.get("units", "")))


def in_brackets(units: str) -> str:
    """Return units in brackets, with a space before and raised powers; nothing for numbers without units.

    Examples
    --------
    >>> in_brackets("degC / (m s-1)"), in_brackets("1")
    (' [°C / (m s⁻¹)]', '')
    """
    units = re.sub(r"\bdegC\b", "°C", units)
    units = {"degree_Celsius": "°C", "celsius": "°C", "1": "", "dimensionless": ""}.get(units, units)
    raised = re.sub(r"(?<=[A-Za-z])-?\d+", lambda power: power.group().translate(SUPERSCRIPT), units)
    return f" [{raised}]" if raised else ""


def with_units(data: xr.DataArray) -> str:
    """Return the long name, or the name, and the units."""
    return f"{data.attrs.get('long_name') or data.name or ''}{units_of(data)}".strip()


def entry(labels: xr.DataArray, i: int) -> str:
    """Return the text of one label of a dimension: a name, a date, or a number with name and units."""
    value = labels.values[i]
    if labels.dtype.kind == "M":
        return str(np.datetime_as_string(value, "m")).replace("T", " ").removesuffix(" 00:00")
    if hasattr(value, "strftime"):
        return str(value.strftime("%Y-%m-%d %H:%M")).removesuffix(" 00:00")
    if labels.dtype.kind == "m":
        return f"{labels.name} {value / np.timedelta64(1, 'D'):g} days"
    if labels.dtype.kind in "iuf":
        units = units_of(labels).strip(" []")
        return f"{labels.attrs.get('long_name') or labels.name} {value:g} {units}".strip()
    return str(value)


def numbers(line: xr.DataArray) -> tuple[Any, np.ndarray]:
    """Return the abscissa that matplotlib can draw, and the values, of a one-dimensional array."""
    x = line[line.dims[0]].values
    if x.dtype.kind == "m":
        x = x / np.timedelta64(1, "D")
    elif x.dtype.kind == "O" and x.size and hasattr(x[0], "isoformat"):
        x = np.array([d.isoformat() for d in x], dtype="M8[s]")
    return x, np.asarray(line.compute().values, "float64")
