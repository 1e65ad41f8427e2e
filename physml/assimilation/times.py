"""Times of observations and fields on one axis of seconds, and the wording of what is refused."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import pandas as pd
import xarray as xr

from physml._errors import describe


def find_time(obj: xr.Dataset | xr.DataArray) -> xr.DataArray | None:
    """Return the time coordinate: by CF metadata, by type, or by the name ``time``; None where there is none."""
    for name, coordinate in obj.coords.items():
        meant = coordinate.attrs.get("standard_name") == "time" or coordinate.attrs.get("axis") == "T"
        if meant or name == "time" or coordinate.dtype.kind == "M":
            return coordinate
    return None


def seconds(times: Any, like: Any = None) -> np.ndarray:
    """Return dates (from 1970), durations or numbers as seconds; they must be of one kind with *like*."""
    kinds = [_kind(t) for t in (times, times if like is None else like)]
    if kinds[0] != kinds[1]:
        what = "times of the observations and of the field are of different kinds"
        refuse(what, kinds[1], kinds[0], "convert one: ds.convert_calendar(...), or times - start")
    values = np.atleast_1d(np.asarray(times))
    if kinds[0] == "datetime64":
        return (values - np.datetime64("1970-01-01")) / np.timedelta64(1, "s")
    if kinds[0] == "timedelta64":
        return values / np.timedelta64(1, "s")
    if kinds[0].startswith("cftime"):
        from cftime import date2num

        since = "seconds since 1970-01-01"
        return np.asarray(date2num(values, since, calendar=values.flat[0].calendar), "float64")
    return values.astype("float64")


def _kind(times: Any) -> str:
    if times is None:
        return "no times"
    values = np.atleast_1d(np.asarray(times))
    if values.dtype.kind in "Mm":
        return str(values.dtype).partition("[")[0]
    if values.dtype.kind == "O" and values.size and hasattr(values.flat[0], "calendar"):
        return f"cftime ({values.flat[0].calendar})"
    return "numbers [s]"


def duration(value: Any) -> float:
    """Return a duration as seconds: numbers are seconds; strings and timedeltas are read by pandas ("30D")."""
    if isinstance(value, int | float | np.integer | np.floating):
        return float(value)
    return float(pd.Timedelta(value).total_seconds())


def refuse(what: str, expected: object, received: object, remedy: str) -> NoReturn:
    """Raise a ValueError in the house form."""
    raise ValueError(describe(what, expected=expected, received=received, remedy=remedy))
