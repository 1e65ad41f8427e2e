"""Whether a Dataset fits a layout: names, dimensions, sizes, units, coordinates and the time axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from physml import calendar, grid
from physml._errors import describe
from physml.fields import Role
from physml.provenance import same_units
from physml.timeaxis import check_axis, find_step, require_same_step, require_step, usual_step

if TYPE_CHECKING:
    from physml.layout import Layout


def check(layout: Layout, ds: xr.Dataset, role: Role, *, whole_window: bool = False, gaps: bool = False) -> None:
    """See :meth:`physml.layout.Layout.check`."""
    ds = calendar.complete(ds, getattr(layout.spec, role), layout.spec.sample_dim)
    for name in getattr(layout.spec, role):
        check_variable(layout, grid.variable(ds, name, role[:-1]), role[:-1])
    check_grid(layout, ds)
    if layout.spec.sample_dim in ds.coords:
        _check_time(layout, ds[layout.spec.sample_dim], role, whole_window, gaps)


def check_grid(layout: Layout, ds: xr.Dataset) -> None:
    """Refuse coordinates of space that are not those of the layout."""
    for dim in layout.space:
        if dim in ds.coords and dim in layout.statics.coords:
            check_same_labels(layout.statics[dim], ds[dim])


def check_variable(layout: Layout, da: xr.DataArray, what: str) -> None:
    """Refuse a variable with other dimensions, sizes or units than the one the layout remembers."""
    name, known, members = str(da.name), layout.variables[str(da.name)], set(layout.members)
    if set(da.dims) - members != set(known.dims) - members:
        raise ValueError(
            describe(
                f"{what} {name!r} has other dimensions than before",
                expected=known.dims,
                received=da.dims,
                remedy="rename, select or expand dimensions to match",
            )
        )
    sizes = dict(zip(layout.space, layout.shape, strict=True))
    wrong = {str(d): n for d, n in da.sizes.items() if sizes.get(str(d), n) != n}
    if wrong:
        raise ValueError(
            describe(
                f"{what} {name!r} lies on another grid",
                expected={d: sizes[d] for d in wrong},
                received=wrong,
                remedy="interpolate to the grid of the model, or bind the spec anew",
            )
        )
    before, now = known.attrs.get("units"), da.attrs.get("units")
    if before is not None and now is not None and not same_units(before, now):
        raise ValueError(
            describe(
                f"{what} {name!r} has other units than before",
                expected=repr(before),
                received=repr(now),
                remedy=f"convert ds[{name!r}] to {before!r}, for example with pint-xarray",
            )
        )


def _check_time(layout: Layout, axis: xr.DataArray, role: Role, whole_window: bool, gaps: bool) -> None:
    check_axis(axis, role)
    low, high = layout.spec.window(None if whole_window else role)
    along = max(high, 0) > min(low, 0)
    if gaps and along and layout.step is not None and find_step(axis) is None and axis.size > 2:
        usual = usual_step(axis)
        if usual is not None and usual.same_length(layout.step):
            return
    if layout.step is not None and layout.spec.window() != (0, 0):
        # Without offsets along the axis each sample stands for itself: forecasts may start at any dates.
        require_same_step(axis, layout.step, role, gaps=not along)
    elif along and axis.size > 2:
        require_step(axis, role)


def check_same_labels(before: xr.DataArray, now: xr.DataArray) -> None:
    """Refuse a coordinate with other labels than before: another region, or one that runs the other way."""
    if before.shape == now.shape and before.dtype.kind in "iuf" and now.dtype.kind in "iuf":
        a, b = before.values.astype("float64"), now.values.astype("float64")
        # A thousandth of a cell: the same grid stored in float32 still matches.
        near = 1e-3 * np.abs(np.diff(a)).min(initial=np.inf)
        if np.allclose(a, b, rtol=0, atol=near):
            return
        if np.allclose(a[::-1], b, rtol=0, atol=near):
            remedy = f"ds.isel({before.name}=slice(None, None, -1)): it runs the other way"
        else:
            remedy = f"ds.sel or ds.interp to the {before.name} of the model"
        raise ValueError(
            describe(
                f"the coordinate {before.name!r} is not the one the layout was bound to",
                expected=f"{a[0]:g} ... {a[-1]:g}",
                received=f"{b[0]:g} ... {b[-1]:g}",
                remedy=remedy,
            )
        )
