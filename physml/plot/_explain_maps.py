"""Maps of attributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from physml.plot import _style as style
from physml.plot._maps import maps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 0.005
"""Part of the cells that may lie beyond the colour scale where they stand far above the others."""


def attribution_maps(
    attribution: xr.Dataset,
    *,
    mask: xr.DataArray | None = None,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    wrap: int | None = None,
    share: bool | None = None,
    coastlines: bool | None = None,
) -> Figure:
    """Draw one map of attributions for each group, or for each input channel, on scales symmetric around zero.

    Parameters
    ----------
    attribution
        Dataset with ``attribution`` along ``group`` (a target that is a field) or ``channel`` (attributions of input
        cells), and two space dimensions. Select a sample or average before.
    mask
        As in :func:`maps`.
    limits
        Ends of the colour scale. By default the largest value; where that stands far above all but one cell in 200 of those
        that matter, the scale ends with these, and the colour bar has arrows.
    title
        Title of the figure.
    wrap
        Panels in a row; by their number unless given.
    share
        Whether all panels have one scale. None: where they have one unit; derivatives by channels of different units get a
        colour bar each.
    coastlines
        None: where cartopy and the coastlines are on this machine; nothing is fetched. See :func:`maps`.

    Raises
    ------
    ValueError
        Where the Dataset holds no attribution, or has other dimensions than ``group`` or ``channel`` and two of space.

    Examples
    --------
    >>> phi = xr.Dataset({"attribution": (("group", "y", "x"), np.zeros((2, 3, 4)))}, {"group": ["u", "v"]})
    >>> figure = attribution_maps(phi)
    """
    found = style.attribution_of(attribution, ("group", "channel"))["attribution"]
    along = "group" if "group" in found.dims else "channel"
    names = style.channel_names(found) if along == "channel" else [style.shown(str(n)) for n in found[along].values]
    bare = found.drop_vars([n for n, c in found.coords.items() if along in c.dims])
    phi = bare.assign_coords({along: names}).assign_attrs(found.attrs)
    what, units = _what(found), [style.units_of(found)] * len(names)
    if "channel_units" in found.coords:
        units = [style.in_brackets(str(u)) for u in found["channel_units"].values]
    share = len(set(units)) == 1 if share is None else share
    if limits is None and share:
        limits = _within(phi.values)
    ends = [_within(part) for part in phi.transpose(along, ...).values] if limits is None else limits
    return maps(
        phi,
        col=along,
        mask=mask,
        limits=limits if share else ends,
        diverging=True,
        title=title,
        wrap=wrap or (3 if len(names) <= 6 else 4 if len(names) <= 12 else 5),
        label=f"{what}{units[0]}" if share else [f"{what}{u}" for u in units],
        share=share,
        coastlines=coastlines,
    )


def _what(found: xr.DataArray) -> str:
    """Return what the maps show: derivatives have their units by channel."""
    return "derivative" if "channel_units" in found.coords else "attribution"


def _within(values: np.ndarray) -> tuple[float, float] | None:
    """Return ends of a symmetric scale that a few far cells do not stretch, or None where there are none."""
    size = np.abs(values[np.isfinite(values)])
    size = np.sort(size[size > 0])[::-1]
    # Where the target is a region, most cells hold next to nothing: only those that matter are counted.
    few = int(FEW * size.size)
    others = np.cumsum(size[few:])
    matter = few + int(np.searchsorted(others, 0.99 * others[-1])) + 1 if others.size else 0
    far = int(FEW * matter)
    most = float(size[far]) if far else 0.0
    return (-most, most) if far and size[0] > 2.5 * most else None
