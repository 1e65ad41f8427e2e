"""The step of a time axis: found, checked, and added to dates, in days or in calendar months alike."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from physml._errors import describe

_NANOSECONDS = {"D": 86_400e9, "h": 3_600e9, "m": 60e9, "s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1.0}
_MONTH = 28 * 86_400e9
"""Length of the shortest month [ns]."""
_TOLERANCE = 1e-6
"""Deviation from a constant step that is forgiven, relative to the step: labels decoded from floats are that noisy."""


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
    anchor, place
        For months: where in the month the labels stand. ``"day"``: on day *place*, or on the last one of shorter months (31
        is the end of every month). ``"fraction"``: at the fraction *place* of the month, as in mid-month stamps.
        ``"whole day"``: the same, on the day that holds it. A label that stands elsewhere keeps its own day.
    """

    kind: str
    size: float
    anchor: str = "day"
    place: float | None = None

    @property
    def seconds(self) -> float | None:
        """Length of one step [s], or None where it is not fixed (months, plain numbers)."""
        return self.size * 1e-9 if self.kind == "duration" else None

    def __str__(self) -> str:
        if self.kind == "duration":
            return f"{pd.Timedelta(int(self.size), 'ns')}"
        return f"{self.size:g} month(s)" if self.kind == "month" else f"{self.size:g}"

    def same_length(self, other: TimeStep) -> bool:
        """Tell whether two steps are equally long, wherever in the month their labels stand."""
        return self.kind == other.kind and abs(self.size / other.size - 1) <= _TOLERANCE

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
        seconds + dates.microsecond.values * 1e-6,
        dates.days_in_month.values,
    )


def _is_date(values: np.ndarray) -> bool:
    return values.dtype.kind == "M" or (values.dtype.kind == "O" and hasattr(values.flat[0], "calendar"))


def _plain(differences: np.ndarray) -> np.ndarray:
    """Return differences of labels as float64: numbers as they are, times in nanoseconds."""
    if differences.dtype.kind == "m":
        unit, count = np.datetime_data(differences.dtype)
        return differences.astype("int64") * (count * _NANOSECONDS[unit])
    if differences.dtype.kind == "O":
        return np.array([d.total_seconds() for d in differences], "float64") * 1e9
    return differences.astype("float64")


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
    if values.size < 2 or not (_is_date(values) or values.dtype.kind in "iufm"):
        return None
    gaps = _plain(np.diff(values))
    mean = gaps.mean()
    noise = 1e-9 * np.abs(values).max() if values.dtype.kind in "iuf" else 0.0
    even = bool((np.abs(gaps - mean) <= _TOLERANCE * abs(mean) + noise).all())
    if values.dtype.kind in "iuf":
        return TimeStep("number", float(gaps[0])) if even else None
    fixed = TimeStep("duration", float(round(mean))) if even else None
    if values.dtype.kind == "m" or (even and mean < _MONTH):
        return fixed
    months = _find_months(values)
    # July, August and September are as long as each other and months all the same; 30 days of a 360-day year are 30 days.
    if fixed is not None and getattr(values.flat[0], "calendar", None) == "360_day":
        return fixed
    if fixed is not None and values.size > 2 and months is not None and months.anchor != "day":
        return fixed
    return months or fixed


def _find_months(values: np.ndarray) -> TimeStep | None:
    """Return the step of an axis in calendar months, or None where it has none."""
    month, day, seconds, length = _months(values)
    strides = np.diff(month)
    if not (strides == strides[0]).all() or strides[0] <= 0:
        return None
    size = float(strides[0])
    same_time = bool((seconds == seconds[0]).all())
    last = 31 if (day == length).all() else int(day.max())
    if same_time and (day == np.minimum(last, length)).all():
        return TimeStep("month", size, "day", float(last))
    fraction = (day - 1 + seconds / 86400) / length
    if np.ptp(fraction) < _TOLERANCE:
        return TimeStep("month", size, "fraction", float(fraction.mean()))
    low, high = ((day - 1) / length).max(), (day / length).min()
    if same_time and low < high:
        return TimeStep("month", size, "whole day", float(0.5 * (low + high)))
    return None


def usual_step(coordinate: xr.DataArray) -> TimeStep | None:
    """Return the step of an axis that may have gaps: the one of its longest even stretch, where that is the usual one.

    Examples
    --------
    >>> str(usual_step(xr.DataArray([0, 1, 2, 5, 6], dims="t")))
    '1'
    """
    step, values = find_step(coordinate), coordinate.values
    if step is not None or values.size < 4 or not (_is_date(values) or values.dtype.kind in "iufm"):
        return step
    gaps = _plain(np.diff(values))
    if _is_date(values) and gaps.min() >= _MONTH:
        gaps = np.diff(_months(values)[0]).astype("float64")
    _, kind, count = np.unique(np.rint(gaps / (np.median(gaps) * 1e-3)), return_inverse=True, return_counts=True)
    usual = kind == int(count.argmax())
    if 2 * count.max() <= gaps.size:
        return None
    edges = np.flatnonzero(np.diff(np.concatenate([[False], usual, [False]]).astype(int)))
    first, last = edges[::2], edges[1::2]
    longest = int((last - first).argmax())
    return find_step(coordinate[int(first[longest]) : int(last[longest]) + 1])


def windows(coordinate: xr.DataArray | None, size: int, offsets: Sequence[int], step: TimeStep | None) -> np.ndarray:
    """Return where every whole window lies: positions ``[window, offset]`` along an axis; none reaches over a gap.

    Parameters
    ----------
    coordinate
        The axis; None counts positions.
    size
        Length of the axis.
    offsets
        Steps from the sample, which is the position at offset 0.

    Examples
    --------
    >>> windows(xr.DataArray([0, 1, 2, 5, 6], dims="t"), 5, (0, 1), TimeStep("number", 1)).tolist()
    [[0, 1], [1, 2], [3, 4]]
    """
    at = np.arange(size)
    if coordinate is None or step is None:
        found = at[:, None] + np.asarray(offsets)
        found = np.where((found >= 0) & (found < size), found, -1)
    else:
        axis = coordinate.values
        found = np.stack([at if o == 0 else positions(axis, shift(axis, step, o), step) for o in offsets], axis=1)
    return found[(found >= 0).all(1)]


def in_steps(length: str, step: TimeStep | None, what: str) -> int:
    """Return a length of time such as "6h", "5D" or "1MS" (months) in steps of an axis.

    Raises
    ------
    ValueError
        For lengths that are no whole number of steps, or are not understood.

    Examples
    --------
    >>> in_steps("1D", TimeStep("duration", 21_600e9), "target_offsets"), in_steps("-2MS", TimeStep("month", 1), "input_offsets")
    (4, -2)
    """
    months = re.fullmatch(r"\s*([+-]?\d*)\s*(MS|ME|M|mo|YS|YE|Y)\s*", length)
    found: float | None = None
    if months is not None:
        number = {"": 1, "+": 1, "-": -1}.get(months[1]) or int(months[1] or 1)
        if step is not None and step.kind == "month":
            found = number * (12 if months[2].startswith("Y") else 1) / step.size
    else:
        try:
            nanoseconds = pd.Timedelta(length) / pd.Timedelta(1, "ns")
        except ValueError as error:
            raise ValueError(
                describe(
                    f"{what}: {length!r} is no length of time",
                    expected="such as '6h', '5D' or '1MS' (months)",
                    received=repr(length),
                    remedy="correct it, or give a number of steps",
                )
            ) from error
        if step is not None and step.kind == "duration":
            found = nanoseconds / step.size
    if found is None or abs(found - round(found)) > _TOLERANCE * max(1.0, abs(found)):
        raise ValueError(
            describe(
                f"{what}: {length!r} is no whole number of steps",
                expected="a multiple of the step of the data" + (f", {step}" if step is not None else ""),
                received=repr(length) if step is not None else f"{length!r}, and an axis without a constant step",
                remedy="give a multiple of the step, or resample the data",
            )
        )
    return round(found)


def step_of(coordinate: xr.DataArray, known: TimeStep | None) -> TimeStep | None:
    """Return the step by which the labels of an axis are moved: the *known* one, with this axis' place in the month.

    The labels need not follow each other: forecasts may start at any dates. Without a known step it is found.
    """
    found = find_step(coordinate)
    if known is None or (found is not None and found.same_length(known)):
        return found
    return known


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
    if values.size > 2:
        good, bad = 2, values.size  # an axis that is uniform up to a label is so up to every earlier one
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (good, middle) if find_step(coordinate[:middle]) is None else (middle, bad)
        received = f"{values[bad - 2]} followed by {values[bad - 1]} at position {bad - 1}"
    raise ValueError(
        describe(
            f"{where}: offsets count steps, and the coordinate {coordinate.name!r} has no constant step",
            expected="a uniform axis, in fixed durations or in calendar months",
            received=received,
            remedy=f"split the data at the gap, or ds.reindex({coordinate.name}=...) and fill it",
        )
    )


def require_same_step(coordinate: xr.DataArray, known: TimeStep, where: str, *, gaps: bool = False) -> None:
    """Refuse an axis with another step than the *known* one; with *gaps* only one whose labels lie closer together.

    Raises
    ------
    ValueError
        Where the axis is not uniform, its step is another one, or its labels are of another kind.
    """
    values = coordinate.values
    kinds = {"number": "iuf", "duration": "mM", "month": "M"}[known.kind]
    dates = values.size > 0 and known.kind != "number" and _is_date(values)
    received: object = "numbers" if values.dtype.kind in "iuf" else f"labels of type {values.dtype}"
    if dates or values.dtype.kind in kinds:
        if values.size < 2:
            return
        ahead = shift(values[:-1], known, 1)
        if (positions(values[1:], ahead, known) == np.arange(values.size - 1)).all():
            return
        # Mid-month stamps vary by a day or two.
        if gaps and (_plain(values[1:] - values[:-1]) > 0.9 * _plain(ahead - values[:-1])).all():
            return
        found = find_step(coordinate) if gaps else require_step(coordinate, where)
        if found is not None and found.same_length(known):
            return
        received = found or f"{values.size} labels, some closer together"
    raise ValueError(
        describe(
            f"{where}: the step of {coordinate.name!r} is not the one of the training data",
            expected=known,
            received=received,
            remedy="resample the data to the step the spec was bound to",
        )
    )


def positions(axis: np.ndarray, labels: np.ndarray, step: TimeStep | None = None) -> np.ndarray:
    """Return where each label stands on a sorted axis, -1 where it does not, to a millionth of the step.

    Examples
    --------
    >>> positions(np.array([0.0, 0.1, 0.2, 0.3]), np.array([3 * 0.1, 0.15]), TimeStep("number", 0.1)).tolist()
    [3, -1]
    """
    axis, labels = np.asarray(axis), np.asarray(labels)
    if not axis.size or not labels.size:
        return np.full(labels.shape, -1)
    try:
        have, want = _plain(axis - axis[0]), _plain(labels - axis[0])
    except TypeError:  # dates of different calendars
        return np.full(labels.shape, -1)
    size = 0.0 if step is None else _MONTH if step.kind == "month" else step.size
    right = np.clip(np.searchsorted(have, want), 0, have.size - 1)
    left = np.maximum(right - 1, 0)
    at = np.where(np.abs(have[left] - want) < np.abs(have[right] - want), left, right)
    return np.where(np.abs(have[at] - want) <= _TOLERANCE * size, at, -1)


def shift(values: np.ndarray, step: TimeStep, n: int) -> np.ndarray:
    """Return the labels *n* steps after *values*.

    Examples
    --------
    >>> shift(np.array(["2000-01-31"], "M8[ns]"), TimeStep("month", 1, "day", 31), 1).astype("M8[D]")
    array(['2000-02-29'], dtype='datetime64[D]')
    """
    values = np.asarray(values)
    if n == 0 or values.size == 0:
        return values
    if step.kind == "number":
        return (values + step.size * n).astype(values.dtype)
    if step.kind == "duration":
        if values.dtype.kind in "Mm":
            unit = np.datetime_data(values.dtype)[0]
            count = step.size * n / _NANOSECONDS[unit]
            whole = count == round(count)  # nanoseconds would cut dates off at 1677 and 2262
            delta = np.array(round(count) if whole else round(step.size * n), f"m8[{unit if whole else 'ns'}]")
            return values + delta
        return values + datetime.timedelta(microseconds=round(step.size * n * 1e-3))
    month, day, seconds, length = _months(values)
    to = month + round(step.size) * n
    firsts = _first_of_month(values, to // 12, to % 12 + 1)
    new_length = xr.DataArray(firsts, dims="t").dt.days_in_month.values
    days = np.minimum(day, new_length) - 1
    if step.place is not None and step.anchor == "day":
        there = day == np.minimum(step.place, length)
        days = np.where(there, np.minimum(step.place, new_length) - 1, days)
    elif step.place is not None and step.anchor == "whole day":
        there = day - 1 == np.floor(step.place * length)
        days = np.where(there, np.floor(step.place * new_length), days)
    elif step.place is not None:
        there = np.abs(day - 1 + seconds / 86400 - step.place * length) < 1e-3
        days = np.where(there, 0, days)
        seconds = np.where(there, np.rint(step.place * new_length * 86400), seconds)
    microseconds = np.rint((days * 86400 + seconds) * 1e6).astype("int64")
    if values.dtype.kind == "M":
        return (firsts.astype("M8[us]") + microseconds.astype("m8[us]")).astype(values.dtype)
    moved = [f + datetime.timedelta(microseconds=int(m)) for f, m in zip(firsts, microseconds, strict=True)]
    return np.array(moved, dtype=object)


def _first_of_month(values: np.ndarray, years: np.ndarray, months: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "M":
        return ((years - 1970) * 12 + months - 1).astype("M8[M]").astype("M8[s]")
    kind, calendar = type(values.flat[0]), values.flat[0].calendar
    extra = {} if kind.__name__ != "datetime" else {"calendar": calendar}
    return np.array([kind(int(y), int(m), 1, **extra) for y, m in zip(years, months, strict=True)], dtype=object)


def as_label(index: pd.Index, label: Any) -> Any:
    """Return a label that selects along *index*: a year given as a number becomes the text that dates understand.

    Examples
    --------
    >>> as_label(pd.date_range("2000", periods=2), 1989)
    '1989'
    """
    dates = isinstance(index, pd.DatetimeIndex | xr.CFTimeIndex)
    return str(label) if dates and isinstance(label, int) else label
