"""Times of observations and fields on one axis of seconds."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from physml._errors import refuse


def find_time(obj: xr.Dataset | xr.DataArray) -> xr.DataArray | None:
    """Return the time coordinate: by CF metadata, by the name ``time``, or by type; None where there is none."""
    found: list[tuple[int, xr.DataArray]] = []
    for name, coordinate in obj.coords.items():
        meant = coordinate.attrs.get("standard_name") == "time" or coordinate.attrs.get("axis") == "T"
        if meant or name == "time" or coordinate.dtype.kind == "M":
            # A date of something else, such as of the deployment of a float, is taken only where there is no time.
            rank = 0 if meant and name in obj.dims else 1 if meant else 2 if name == "time" else 3
            found.append((rank, coordinate))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def instants(times: Any) -> np.ndarray:
    """Return dates of Python, of pandas and in words as datetime64; all else as an array."""
    values = np.asarray(times)
    words = values.dtype.kind in "US"
    dates = values.dtype.kind == "O" and values.size and all(isinstance(v, date | np.datetime64) for v in values.flat)
    if not words and not dates:
        return values
    try:
        found = pd.to_datetime(values.ravel(), utc=True)
    except ValueError as error:
        refuse("a time is no date", "dates such as 2000-01-31", str(error).partition(".")[0], "pass numpy.datetime64")
    return found.tz_localize(None).to_numpy().reshape(values.shape)


def seconds(times: Any, like: Any = None) -> np.ndarray:
    """Return dates (from 1970), durations or numbers as seconds; they must be of one kind with *like*."""
    kinds = [_kind(t) for t in (times, times if like is None else like)]
    if kinds[0] == "no times":
        refuse("the observations have no times", kinds[1], None, "pass time=, one for each")
    if kinds[0] != kinds[1]:
        what = "times of the observations and of the field are of different kinds"
        refuse(what, kinds[1], kinds[0], "convert one: ds.convert_calendar(...), or times - start")
    values = np.atleast_1d(instants(times))
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
    values = np.atleast_1d(instants(times))
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
