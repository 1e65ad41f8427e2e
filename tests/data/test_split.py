"""No window crosses a boundary, and no part holds a step within one window of another's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from physml import FieldSpec, split_time


def series(time):
    return xr.Dataset({"x": ("time", np.arange(float(len(time))))}, {"time": time})


@settings(max_examples=25)
@given(
    inputs=st.lists(st.integers(-3, 0), min_size=1, max_size=3, unique=True).map(sorted),
    targets=st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True).map(sorted),
    ends=st.tuples(st.integers(16, 20), st.integers(16, 20)),
)
def test_no_two_parts_come_within_one_window(inputs, targets, ends):
    spec = FieldSpec("x", "x", input_offsets=inputs, target_offsets=targets)
    ds = series(np.arange(60))
    boundaries = [ends[0], ends[0] + ends[1]]
    low, high = spec.window()
    parts = split_time(ds, boundaries, spec)
    for earlier, later, end in zip(parts, parts[1:], boundaries, strict=False):
        assert earlier.time[-1] == end
        assert later.time[0] - earlier.time[-1] == 1 + (high - low)
    layout = spec.bind(ds)
    for part in parts:
        used = layout.pack(part, "inputs", whole_window=True)
        first = used.time.values + low
        last = used.time.values + high
        assert first.min() >= part.time[0]
        assert last.max() <= part.time[-1]


def test_one_boundary_makes_two_parts():
    train, validation, test = split_time(series(np.arange(10)), [5], FieldSpec("x", "x"))
    assert (train.sizes["time"], validation.sizes["time"], test) == (6, 4, None)


@pytest.mark.parametrize(("embargo", "first"), [(0, 6), (3, 9), ("window", 7)])
def test_the_embargo_is_the_gap(embargo, first):
    parts = split_time(series(np.arange(20)), [5], FieldSpec("x", "x", target_offsets=1), embargo=embargo)
    assert parts.validation.time[0] == first


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
@pytest.mark.parametrize(("label", "month"), [("2001", 12), ("2001-06", 6), ("2001-06-30", 6)])
def test_a_partial_date_means_all_of_it(calendar, label, month):
    time = xr.date_range("2000-01-15", periods=48, freq="MS", calendar=calendar)
    train, *_ = split_time(series(time), [label], FieldSpec("x", "x"))
    assert (train.time.dt.year[-1], train.time.dt.month[-1]) == (2001, month)


def test_splitting_is_lazy(nothing_computed):
    ds = series(pd.date_range("2000-01-01", periods=30)).chunk(time=4)
    with nothing_computed():
        parts = split_time(ds, [np.datetime64("2000-01-20")], FieldSpec("x", "x", target_offsets=1))
    assert parts.train.x.chunks is not None


@pytest.mark.parametrize(
    ("boundaries", "options", "words"),
    [
        ([], {}, r"wrong number of boundaries. Expected: one .* or two"),
        (["2000-01-05", "2000-01-10", "2000-01-15"], {}, "wrong number of boundaries"),
        (["2000-01-10", "2000-01-05"], {}, r"the validation part holds no whole window.*Received: 0 steps"),
        (["1999-01-10"], {}, r"the train part holds no whole window.*the data run from 2000-01-01"),
        (["2001-01-10"], {}, r"the validation part holds no whole window"),
        ([5], {}, r"boundary '?5'? does not fit the axis. Expected: a label of type datetime64"),
        (["spring"], {}, r"boundary 'spring' does not fit the axis"),
        (["2000-01-05"], {"embargo": "month"}, r"embargo is not understood. Expected: 'window' or a number"),
        (["2000-01-05"], {"embargo": -1}, r"embargo is not understood.*Received: -1"),
    ],
)
def test_what_cannot_be_split_is_refused(boundaries, options, words):
    ds = series(pd.date_range("2000-01-01", periods=20))
    with pytest.raises(ValueError, match=words):
        split_time(ds, boundaries, FieldSpec("x", "x", target_offsets=1), **options)


def test_unsorted_times_are_refused():
    with pytest.raises(ValueError, match="not strictly increasing"):
        split_time(series([3, 1, 2]), [2], FieldSpec("x", "x"))
