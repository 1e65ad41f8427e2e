"""Which part of the annual cycle a field is in: the month or the day of the year of its own date, from parts of the date."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import xarray as xr

from physml import calendar
from physml._errors import closest, describe
from physml.layout import Layout
from physml.timeaxis import shift

GROUPS = {None: 1, "month": 12, "dayofyear": 366}
"""Groups of dates by the name of what they share, at most."""
_DAYS = {"noleap": 365, "365_day": 365, "360_day": 360}


def check_by(by: Any) -> None:
    """Refuse a cycle that is not known."""
    if by not in GROUPS:
        raise ValueError(
            describe(
                f"by={by!r} is not understood{closest(str(by), ['month', 'dayofyear'])}",
                expected="None, 'month' or 'dayofyear'",
                received=repr(by),
                remedy="by='month'",
            )
        )


def names(layout: Layout, by: str | None, offsets: tuple[int, ...]) -> tuple[str, ...]:
    """Return the parts of the date at offset 0 that tell the group at all *offsets*.

    The month alone where steps are months; year, day and hour where a field's date has to be counted out.
    """
    sample, step = layout.spec.sample_dim, layout.step
    if by is None:
        return ()
    if set(offsets) <= {0} or (by == "month" and step is not None and step.kind == "month"):
        return (f"{sample}.{by}",)
    return tuple(f"{sample}.{part}" for part in ("year", "dayofyear", "hour"))


def groups(by: str | None, of_calendar: str) -> int:
    """Return the number of groups of dates in a calendar.

    Examples
    --------
    >>> groups("dayofyear", "noleap"), groups("dayofyear", "standard"), groups("month", "360_day")
    (365, 366, 12)
    """
    return _DAYS.get(of_calendar, GROUPS[by]) if by == "dayofyear" else GROUPS[by]


def reached(layout: Layout, by: str | None, first: int, n: int) -> np.ndarray:
    """Return which of *n* groups steps from a date of group *first* come to: of seasonal means, every third month."""
    step = layout.step
    found = np.ones(n, bool)
    if by == "month" and step is not None and step.kind == "month":
        found[:] = False
        found[(first + int(step.size) * np.arange(12)) % 12] = True
    return found


def groups_of(axis: xr.DataArray, by: str | None) -> np.ndarray:
    """Return the group of every date, from 0.

    Examples
    --------
    >>> groups_of(xr.DataArray(xr.date_range("2001-01-01", periods=3, freq="MS"), dims="time"), "month")
    array([0, 1, 2])
    """
    if by is None:
        return np.zeros(axis.size, int)
    name = f"{axis.dims[0]}.{by}"
    ds = calendar.complete(xr.Dataset(coords={str(axis.dims[0]): axis.values}), [name], str(axis.dims[0]))
    return ds[name].values.astype(int) - 1


def ahead(layout: Layout, by: str | None, parts: np.ndarray, offset: int, of_calendar: str) -> np.ndarray:
    """Return the group, from 0, of the dates *offset* steps after dates given by the *parts* that :func:`names` names.

    Parameters
    ----------
    layout
        With the step.
    by
        ``"month"``, ``"dayofyear"`` or None.
    parts
        ``[row, part]``.
    offset
        Steps.
    of_calendar
        The calendar of the dates, in the words of cftime.
    """
    if by is None:
        return np.zeros(len(parts), int)
    step = layout.step
    if parts.shape[1] == 1:
        size = 0 if step is None or step.kind != "month" else int(step.size)
        here = np.rint(parts[:, 0]).astype(int) - 1
        return (here + offset * size) % 12 if by == "month" else here
    import cftime

    unique, inverse = np.unique(np.rint(parts).astype(int), axis=0, return_inverse=True)
    dates = [
        cftime.datetime(y, 1, 1, h, calendar=of_calendar) + datetime.timedelta(days=d - 1)
        for y, d, h in unique.tolist()
    ]
    assert step is not None
    then = shift(np.array(dates, dtype=object), step, offset)
    found = np.array([d.month if by == "month" else d.dayofyr for d in then]) - 1
    return found[inverse.ravel()]
