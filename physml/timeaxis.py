"""The step of a time axis: found, checked, and added to dates, in days or in calendar months alike."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from physml._errors import describe


@dataclass(frozen=True)
class TimeStep:
    """A constant step between the labels of an axis.

    Parameters
    ----------
    kind
        ``"number"`` (plain numbers), ``"duration"`` (fixed length, ``size`` in nanoseconds) or ``"month"`` (calendar
        months, ``size`` of them).
    size
        Length of one step.
    anchor
        For months: where in the month the label stands: ``"day"`` (the same day and time), ``"end"`` (the last day) or
        ``"fraction"`` (the same fraction of the month, as in mid-month stamps).
    """

    kind: str
    size: float
    anchor: str = "day"

    @property
    def seconds(self) -> float | None:
        """Length of one step [s], or None where it is not fixed (months, plain numbers)."""
        return self.size * 1e-9 if self.kind == "duration" else None

    def __str__(self) -> str:
        if self.kind == "duration":
            return f"{pd.Timedelta(int(self.size), 'ns')}"
        return f"{self.size:g} month(s)" if self.kind == "month" else f"{self.size:g}"

    def to_config(self) -> dict[str, Any]:
        """Return a plain dictionary."""
        return asdict(self)


def _months(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Months since year 0, day, time of day [s] and length of the month [day] of every date."""
    dates = xr.DataArray(values, dims="t").dt
    seconds = dates.hour.values * 3600.0 + dates.minute.values * 60.0 + dates.second.values
    return (
        dates.year.values * 12 + dates.month.values - 1,
        dates.day.values,
        seconds,
        dates.days_in_month.values,
    )


def _is_date(values: np.ndarray) -> bool:
    return values.dtype.kind == "M" or (values.dtype.kind == "O" and hasattr(values.flat[0], "calendar"))


def check_axis(coordinate: xr.DataArray, where: str) -> None:
    """Refuse an axis that is unsorted, repeated, missing or of mixed calendars.

    Raises
    ------
    ValueError
        Naming the first place where the axis breaks.
    """
    values, name = coordinate.values, coordinate.name
    if values.dtype.kind == "O" and values.size:
        calendars = {getattr(v, "calendar", type(v).__name__) for v in values}
        if len(calendars) > 1:
            raise ValueError(
                describe(
                    f"{where}: the coordinate {name!r} mixes calendars",
                    expected="one calendar",
                    received=", ".join(sorted(calendars)),
                    remedy=f"convert one part with ds.convert_calendar(...) before joining along {name!r}",
                )
            )
    if values.size and pd.isnull(values).any():
        raise ValueError(
            describe(
                f"{where}: the coordinate {name!r} has missing labels",
                expected="a label for every position",
                received=f"{int(pd.isnull(values).sum())} missing",
                remedy=f"ds.dropna({name!r}) or give the labels",
            )
        )
    if values.size > 1:
        bad = np.flatnonzero(~(values[1:] > values[:-1]))
        if bad.size:
            i = int(bad[0])
            raise ValueError(
                describe(
                    f"{where}: the coordinate {name!r} is not strictly increasing",
                    expected="sorted labels, each once",
                    received=f"{values[i]} followed by {values[i + 1]} at position {i + 1}",
                    remedy=f"ds.sortby({name!r}) and ds.drop_duplicates({name!r})",
                )
            )


def find_step(coordinate: xr.DataArray) -> TimeStep | None:
    """Return the constant step of an axis, or None where it has none.

    Examples
    --------
    >>> time = xr.date_range("2000-01-15", periods=3, freq="MS").shift(14, "D")
    >>> str(find_step(xr.DataArray(time, dims="time")))
    '1 month(s)'
    """
    values = coordinate.values
    if values.size < 2:
        return None
    if not _is_date(values):
        if values.dtype.kind not in "iuf":
            return None
        steps = np.diff(values.astype("float64"))
        uniform = np.allclose(steps, steps[0], rtol=1e-6, atol=1e-9 * np.abs(values).max())
        return TimeStep("number", float(steps[0])) if uniform else None
    gaps = np.diff(values)
    if values.dtype.kind == "M":
        nanoseconds = gaps.astype("timedelta64[ns]").astype("int64")
    else:
        nanoseconds = np.array([round(g.total_seconds() * 1e9) for g in gaps], dtype="int64")
    if (nanoseconds == nanoseconds[0]).all() and (values.size > 2 or nanoseconds[0] < 28 * 86_400_000_000_000):
        return TimeStep("duration", float(nanoseconds[0]))
    month, day, seconds, length = _months(values)
    strides = np.diff(month)
    if not (strides == strides[0]).all() or strides[0] == 0:
        return TimeStep("duration", float(nanoseconds[0])) if (nanoseconds == nanoseconds[0]).all() else None
    if (day == day[0]).all() and (seconds == seconds[0]).all():
        return TimeStep("month", float(strides[0]), "day")
    if (day == length).all() and (seconds == seconds[0]).all():
        return TimeStep("month", float(strides[0]), "end")
    fraction = (day - 1 + seconds / 86400) / length
    # A stamp rounded to whole days still marks the same place in the month.
    if np.abs(fraction - fraction[0]).max() < 1 / length.min():
        return TimeStep("month", float(strides[0]), "fraction")
    return None


def require_step(coordinate: xr.DataArray, where: str) -> TimeStep:
    """Return the step of an axis, or name the first gap.

    Raises
    ------
    ValueError
        Where the axis is too short or not uniform, so that "one step later" has no meaning.
    """
    step = find_step(coordinate)
    if step is not None:
        return step
    values = coordinate.values
    received = f"{values.size} label(s)"
    for i in range(2, values.size):
        if find_step(coordinate[: i + 1]) is None:
            received = f"{values[i - 1]} followed by {values[i]} at position {i}"
            break
    raise ValueError(
        describe(
            f"{where}: offsets count steps, and the coordinate {coordinate.name!r} has no constant step",
            expected="a uniform axis, in fixed durations or in calendar months",
            received=received,
            remedy=f"split the data at the gap, or ds.reindex({coordinate.name}=...) and fill it",
        )
    )


def shift(values: np.ndarray, step: TimeStep, n: int) -> np.ndarray:
    """Return the labels *n* steps after *values*.

    Examples
    --------
    >>> shift(np.array(["2000-01-31"], "M8[ns]"), TimeStep("month", 1, "end"), 1).astype("M8[D]")
    array(['2000-02-29'], dtype='datetime64[D]')
    """
    values = np.asarray(values)
    if n == 0 or values.size == 0:
        return values
    if step.kind == "number":
        return (values + step.size * n).astype(values.dtype)
    if step.kind == "duration":
        if values.dtype.kind == "M":
            moved = values.astype("M8[ns]") + np.timedelta64(int(step.size) * n, "ns")
            return moved.astype(values.dtype)
        return values + pd.Timedelta(int(step.size) * n, "ns").to_pytimedelta()
    month, day, seconds, length = _months(values)
    to = month + round(step.size) * n
    years, months = to // 12, to % 12 + 1
    firsts = _first_of_month(values, years, months)
    new_length = xr.DataArray(firsts, dims="t").dt.days_in_month.values
    if step.anchor == "end":
        days = new_length - 1 + seconds / 86400
    elif step.anchor == "fraction":
        days = (day - 1 + seconds / 86400) / length * new_length
        if np.all(seconds == 0) and not np.allclose(days, np.rint(days)):
            days = np.rint((day - 1) / length * new_length)
    else:
        days = np.minimum(day, new_length) - 1 + seconds / 86400
    if values.dtype.kind == "M":
        return (firsts.astype("M8[ns]") + np.rint(days * 86400e9).astype("m8[ns]")).astype(values.dtype)
    return np.array(
        [f + pd.Timedelta(round(d * 86400e6), "us").to_pytimedelta() for f, d in zip(firsts, days, strict=True)],
        dtype=object,
    )


def _first_of_month(values: np.ndarray, years: np.ndarray, months: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "M":
        return ((years - 1970) * 12 + months - 1).astype("M8[M]").astype("M8[ns]")
    kind, calendar = type(values.flat[0]), values.flat[0].calendar
    extra = {} if kind.__name__ != "datetime" else {"calendar": calendar}
    return np.array([kind(int(y), int(m), 1, **extra) for y, m in zip(years, months, strict=True)], dtype=object)
