"""Inputs from the calendar by name: the month, the day of the year or the hour of each sample, and their smooth cycles.

``"time.month"`` is what xarray calls a virtual variable of the coordinate ``time``. Cycles have no jump between December
and January: ``"time.dayofyear.sin"`` is the sine of ``2 pi (dayofyear - 1 + fraction of the day) / days in that year``,
``"time.hour.cos"`` the cosine of ``2 pi (hour + minute / 60 + ...) / 24``, in every calendar of cftime.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr

from physml._errors import closest, describe

COMPONENTS = {
    "year": "year",
    "month": "month of the year",
    "dayofyear": "day of the year",
    "hour": "hour of the day",
    "dayofyear.sin": "sine of the phase of the year",
    "dayofyear.cos": "cosine of the phase of the year",
    "hour.sin": "sine of the phase of the day",
    "hour.cos": "cosine of the phase of the day",
}
"""What may follow the name of the sample dimension and a dot."""


def virtual(names: Iterable[str], sample_dim: str, ds: xr.Dataset | None = None) -> list[str]:
    """Return the *names* that stand for the calendar of *sample_dim* and are no variables of *ds*.

    Examples
    --------
    >>> virtual(["sst", "time.month"], "time")
    ['time.month']
    """
    given = () if ds is None else ds.variables
    return [n for n in names if n.startswith(f"{sample_dim}.") and n not in given]


def complete(ds: xr.Dataset, names: Iterable[str], sample_dim: str) -> xr.Dataset:
    """Return *ds* with the calendar's variables among *names* added, in memory on *sample_dim*; all else untouched.

    Parameters
    ----------
    ds
        Data with dates along *sample_dim*.
    names
        Names of variables; those that are in *ds*, or do not begin with *sample_dim* and a dot, are left alone.
    sample_dim
        Dimension of the samples.

    Returns
    -------
    xarray.Dataset
        Calendar variables are float32, so that they do not widen the fields they are packed with.

    Raises
    ------
    ValueError
        For a component that is not known, and where there are no dates.

    Examples
    --------
    >>> ds = xr.Dataset(coords={"time": xr.date_range("2001-01-01", periods=3, freq="MS")})
    >>> complete(ds, ["time.month"], "time")["time.month"].values
    array([1., 2., 3.], dtype=float32)
    """
    wanted = virtual(names, sample_dim, ds)
    if not wanted:
        return ds
    for name in wanted:
        part = name.removeprefix(f"{sample_dim}.")
        if part not in COMPONENTS:
            raise ValueError(
                describe(
                    f"{name!r} is neither a variable nor a part of the date{closest(part, COMPONENTS)}",
                    expected=f"{sample_dim}. followed by one of {', '.join(COMPONENTS)}",
                    received=repr(name),
                    remedy="correct the name, or add the variable to the Dataset",
                )
            )
    if not isinstance(ds.indexes.get(sample_dim), pd.DatetimeIndex | xr.CFTimeIndex):
        raise ValueError(
            describe(
                f"{wanted[0]!r} needs dates along {sample_dim!r}",
                expected=f"a coordinate {sample_dim!r} of dates",
                received=f"labels of type {ds[sample_dim].dtype}" if sample_dim in ds.coords else "no such coordinate",
                remedy=f"ds.assign_coords({sample_dim}=dates), or decode them: xr.decode_cf(ds)",
            )
        )
    axis = ds[sample_dim]
    added = {n: _component(axis, n.removeprefix(f"{sample_dim}.")).astype("float32") for n in wanted}
    for name, values in added.items():
        values.attrs = {"units": "1", "long_name": COMPONENTS[name.removeprefix(f"{sample_dim}.")]}
    return ds.assign(added)


def _component(axis: xr.DataArray, part: str) -> xr.DataArray:
    what, _, wave = part.partition(".")
    if not wave:
        return getattr(axis.dt, what)
    seconds = axis.dt.hour * 3600.0 + axis.dt.minute * 60.0 + axis.dt.second + axis.dt.microsecond * 1e-6
    phase = seconds / 86400 if what == "hour" else (axis.dt.dayofyear - 1 + seconds / 86400) / axis.dt.days_in_year
    return getattr(np, wave)(2 * np.pi * phase)
