"""A step is found whatever the calendar and the place in the month, and dates are moved by it exactly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from physml.timeaxis import TimeStep, check_axis, find_step, positions, require_same_step, require_step, shift, step_of

CALENDARS = ["standard", "noleap", "360_day", "all_leap", "julian"]


def axis(values):
    values = np.asarray(values)
    return xr.DataArray(values, {"time": values}, "time", "time").time


def dates(start, periods, freq, calendar="standard", cf=False):
    return xr.date_range(start, periods=periods, freq=freq, calendar=calendar, use_cftime=cf or calendar != "standard")


@settings(max_examples=60)
@given(
    calendar=st.sampled_from([None, *CALENDARS]),
    freq=st.sampled_from(["MS", "ME", "2MS", "3ME", "YS", "D", "6h", "5D", "90min"]),
    month=st.integers(1, 12),
    periods=st.integers(3, 30),
    n=st.integers(1, 14),
)
def test_moving_an_axis_by_n_steps_gives_the_labels_of_the_longer_axis(calendar, freq, month, periods, n):
    long = axis(dates(f"1999-{month:02}-01", periods + n, freq, calendar or "standard", calendar is not None))
    step = find_step(long[:periods])
    np.testing.assert_array_equal(shift(long[:periods].values, step, n), long[n:].values)
    np.testing.assert_array_equal(shift(long[n:].values, step, -n), long[:periods].values)
    np.testing.assert_array_equal(shift(long[:1].values, step, n), long[n : n + 1].values)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_dates_outside_the_range_of_nanoseconds_are_not_cut_off(unit):
    first = "1850-01-15" if unit == "ns" else "0001-01-15"
    values = (np.array(first, "M8[M]") + np.arange(25)).astype(f"M8[{unit}]") + np.timedelta64(14, "D")
    assert shift(values[:24], find_step(axis(values[:24])), 1)[-1] == values[24]
    days = np.array(first, f"M8[{unit}]") + np.arange(5) * np.timedelta64(1, "D")
    assert shift(days[:4], find_step(axis(days[:4])), 1)[-1] == days[4]
    assert shift(days[:4], find_step(axis(days[:4])), 1).dtype == days.dtype


MIDDLE = np.array(
    ["2001-01-16T12", "2001-02-15", "2001-03-16T12", "2001-04-16", "2001-05-16T12", "2001-06-16"], "M8[ns]"
)


def test_the_middle_of_a_month_stays_the_middle_even_from_one_label():
    step = find_step(axis(MIDDLE))
    assert (step.anchor, step.place) == ("fraction", 0.5)
    for i in range(5):
        assert shift(MIDDLE[i : i + 1], step, 1)[0] == MIDDLE[i + 1]


def test_the_middle_of_a_month_in_whole_days():
    whole = MIDDLE.astype("M8[D]").astype("M8[ns]")
    step = find_step(axis(whole))
    assert step.anchor == "whole day"
    for i in range(5):
        assert shift(whole[i : i + 1], step, 1)[0] == whole[i + 1]


def test_the_30th_goes_through_february_and_comes_back():
    values = np.array(["2001-01-30", "2001-02-28", "2001-03-30", "2001-04-30"], "M8[ns]")
    step = find_step(axis(values))
    assert step == TimeStep("month", 1.0, "day", 30.0)
    assert shift(values[1:2], step, 1)[0] == values[2]


def test_the_end_of_a_month_stays_the_end():
    values = np.array(["2001-04-30", "2001-06-30"], "M8[ns]")
    assert shift(values[1:], find_step(axis(values)), 1)[0] == np.datetime64("2001-08-31")


def test_a_label_elsewhere_in_the_month_keeps_its_day_and_time():
    step = find_step(axis(MIDDLE))
    assert shift(np.array(["2001-01-03T07:30:00.25"], "M8[ns]"), step, 1)[0] == np.datetime64("2001-02-03T07:30:00.25")
    assert shift(np.array(["2001-01-31"], "M8[ns]"), step, 1)[0] == np.datetime64("2001-02-28")


def test_three_months_of_equal_length_are_months():
    assert find_step(axis(dates("2001-07-01", 3, "MS"))).kind == "month"
    assert find_step(axis(dates("2001-07-01", 3, "31D"))).kind == "month"
    assert find_step(axis(dates("2001-07-01", 4, "31D"))).kind == "duration"
    assert find_step(axis(dates("2001-01-01", 4, "MS", "360_day"))).seconds == 30 * 86400


def test_noise_of_dates_decoded_from_floats_is_forgiven():
    hours = xr.DataArray(
        30000 + np.arange(2000) / 24, dims="time", attrs={"units": "days since 1900-01-01"}, name="time"
    )
    time = xr.decode_cf(hours.to_dataset().set_coords("time")).time
    step = require_step(axis(time.values), "test")
    assert step.size == pytest.approx(3600e9, rel=1e-9)
    assert (positions(time.values, shift(time.values[:-5], step, 5), step) == np.arange(5, 2000)).all()


def test_numbers_and_durations():
    assert find_step(axis([0.0, 0.1, 0.2, 0.3])) == TimeStep("number", pytest.approx(0.1))
    assert find_step(axis([1, 3, 5])) == TimeStep("number", 2.0)
    np.testing.assert_array_equal(shift(np.array([1, 3]), TimeStep("number", 2.0), 2), [5, 7])
    leads = np.arange(4).astype("m8[h]").astype("m8[ns]")
    assert find_step(axis(leads)).seconds == 3600
    assert shift(leads, find_step(axis(leads)), 1)[-1] == np.timedelta64(4, "h")
    assert find_step(axis(["a", "b", "c"])) is None
    assert find_step(axis([1.0, 2.0, 4.0])) is None


def test_the_first_gap_of_a_long_axis_is_named():
    time = pd.date_range("1900-01-01", periods=30_000)
    with pytest.raises(
        ValueError, match=r"no constant step.*1954-10-04.*followed by 1954-10-06.*at position 20000.*reindex"
    ):
        require_step(axis(time.delete(20_000)), "train")


def test_an_axis_with_another_step_is_refused_and_starts_apart_are_not():
    known = find_step(axis(dates("2000-01-01", 5, "D")))
    require_same_step(axis(dates("2010-06-01", 2, "D")), known, "test")
    with pytest.raises(
        ValueError, match=r"'time' is not the one of the training data. Expected: 1 days.*Received: 2 days"
    ):
        require_same_step(axis(dates("2000-01-01", 2, "2D")), known, "test")
    irregular = axis(np.array(["2000-01-01", "2000-02-17", "2000-02-18"], "M8[ns]"))
    require_same_step(irregular, known, "test", gaps=True)
    with pytest.raises(ValueError, match="Received: 0 days 06:00:00"):
        require_same_step(axis(dates("2000-01-01", 5, "6h")), known, "test", gaps=True)
    with pytest.raises(ValueError, match="Received: numbers"):
        require_same_step(axis([1, 2, 3]), known, "test", gaps=True)
    months = find_step(axis(MIDDLE))
    require_same_step(axis(dates("2001-01-01", 9, "MS")), months, "test")
    with pytest.raises(ValueError, match="Received: 2 month"):
        require_same_step(axis(dates("2001-01-01", 9, "2MS")), months, "test")


def test_a_known_step_takes_the_place_in_the_month_from_the_axis():
    known = find_step(axis(dates("2000-01-01", 5, "MS")))
    assert step_of(axis(dates("2000-01-31", 5, "ME")), known).place == 31
    assert step_of(axis(dates("2000-01-31", 1, "ME")), known) == known
    assert step_of(axis(dates("2000-01-31", 5, "YE")), known) == known
    assert step_of(axis(dates("2000-01-31", 5, "D")), None).seconds == 86400


def test_labels_of_another_calendar_are_nowhere():
    have = dates("2000-01-01", 4, "D", "noleap").values
    assert (positions(have, dates("2000-01-01", 4, "D", "360_day").values) == -1).all()
    assert positions(have, have[[2, 0]]).tolist() == [2, 0]
    assert positions(have[:0], have[:1]).tolist() == [-1]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, 3, 2], r"not strictly increasing.*3 followed by 2 at position 2.*sortby"),
        ([1, 2, 2], r"2 followed by 2 at position 2.*drop_duplicates"),
        ([1.0, np.nan, 3.0], r"missing labels.*1 missing.*dropna"),
        (np.array(["2000-01-01", "NaT"], "M8[ns]"), r"missing labels"),
    ],
)
def test_a_broken_axis_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        check_axis(axis(values), "test")


def test_mixed_calendars_are_refused():
    mixed = np.concatenate([dates("2000-01-01", 2, "D", c).values for c in ("noleap", "360_day")])
    time = xr.DataArray(mixed, dims="time", name="time")
    with pytest.raises(ValueError, match=r"mixes calendars.*360_day, noleap.*convert_calendar"):
        check_axis(time, "test")
