"""Parts of the date are inputs by name, in every calendar, wherever data are read; a roll-out dates itself."""

from __future__ import annotations

import datetime

import keras
import numpy as np
import pytest
import xarray as xr

import physml
from physml import Batches, FieldModel, FieldSpec, Scaling, networks
from physml.calendar import COMPONENTS, complete, virtual

SMOOTH = ["time.dayofyear.sin", "time.dayofyear.cos", "time.hour.sin", "time.hour.cos"]
PLAIN = ["time.year", "time.month", "time.dayofyear", "time.hour"]


def dates(calendar="standard", **options):
    options = {"periods": 2000, "freq": "17h", **options}
    use_cftime = None if calendar == "standard" else True
    return xr.date_range("1999-12-30 05:30", calendar=calendar, use_cftime=use_cftime, **options)


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day", "all_leap"])
def test_the_cycles_go_round_once_a_year_and_once_a_day(calendar):
    time = dates(calendar)
    ds = complete(xr.Dataset(coords={"time": time}), SMOOTH, "time")
    year, day = [], []
    for t in time:
        start = t.replace(month=1, day=1, hour=0, minute=0)
        length = start.replace(year=t.year + 1) - start
        year.append((t - start).total_seconds() / length.total_seconds())
        day.append((t - t.replace(hour=0, minute=0)) / datetime.timedelta(days=1))
    for what, phase in (("dayofyear", year), ("hour", day)):
        phase = 2 * np.pi * np.array(phase)
        np.testing.assert_allclose(ds[f"time.{what}.sin"], np.sin(phase), atol=1e-6)
        np.testing.assert_allclose(ds[f"time.{what}.cos"], np.cos(phase), atol=1e-6)


@pytest.mark.parametrize(("calendar", "days"), [("noleap", 365), ("360_day", 360), ("standard", 366)])
def test_the_phase_of_the_year_ends_with_its_last_day(calendar, days):
    last = xr.date_range("2000-01-01", periods=days, freq="D", calendar=calendar, use_cftime=True)[-1:]
    ds = complete(xr.Dataset(coords={"time": last}), ["time.dayofyear", *SMOOTH], "time")
    assert ds["time.dayofyear"] == days
    angle = np.arctan2(ds["time.dayofyear.sin"], ds["time.dayofyear.cos"])
    np.testing.assert_allclose(angle, -2 * np.pi / days, rtol=1e-4)


@pytest.mark.parametrize("calendar", ["standard", "360_day"])
def test_plain_parts_are_xarrays_own_and_do_not_widen_float32(calendar):
    ds = xr.Dataset(coords={"time": dates(calendar)})
    found = complete(ds, PLAIN, "time")
    for name in PLAIN:
        np.testing.assert_array_equal(found[name], ds[name])
        assert found[name].dtype == "float32"
        assert found[name].dims == ("time",)
        assert found[name].attrs["units"] == "1"
        assert found[name].attrs["long_name"] == COMPONENTS[name.removeprefix("time.")]


def test_what_is_not_asked_for_stays_as_it_is(sst):
    assert complete(sst, ["temp", "salt"], "time") is sst
    own = sst.assign({"time.month": ("time", np.arange(24.0))})
    assert complete(own, ["time.month"], "time") is own
    assert virtual(["temp", "time.month"], "time", own) == []


def test_they_are_channels_of_every_sample_broadcast_over_space(sst):
    spec = FieldSpec(
        ["temp", "time.month", "time.dayofyear.cos"],
        "temp",
        input_offsets={"time.month": (0, 1)},
        target_offsets=1,
        levels="depth",
        mask="wet",
    )
    layout = spec.bind(sst)
    assert [str(c) for c in layout.inputs[2:]] == ["time.month", "time.month +1", "time.dayofyear.cos"]
    packed = layout.pack(sst, "inputs", whole_window=True)
    assert packed.dtype == "float32"
    month = sst.time.dt.month.values
    for channel, expected in ((2, month[:-1]), (3, month[1:])):
        values = packed.isel(channel=channel).transpose("time", ...).values
        np.testing.assert_array_equal(values, np.broadcast_to(expected[:, None, None], values.shape))
    x, _, _ = Batches(sst, spec, 5)[1]
    np.testing.assert_array_equal(x[..., 2], np.where(sst.wet, month[5:10, None, None], 0))
    scaling = Scaling.fit(sst, spec)
    np.testing.assert_allclose(scaling.mean["time.month"], 6.5)
    model = FieldModel(networks.mlp(layout, hidden=(3,)), scaling=scaling)
    assert physml.predict(model, sst).temp.sizes["time"] == 23  # a later month is needed: one sample less


def test_the_grid_is_that_of_the_fields_whatever_comes_first(sst):
    series = sst.assign(co2=("time", np.arange(24.0)))
    layout = FieldSpec(["time.month", "co2", "salt"], "salt").bind(series)
    assert (layout.space, layout.shape) == (("lat", "lon"), (4, 6))
    packed = layout.pack(series, "inputs")
    np.testing.assert_array_equal(packed.isel(channel=1, lat=2, lon=3), series.co2)


def test_the_sample_dimension_may_have_another_name(sst):
    ds = sst.rename(time="when")
    spec = FieldSpec(["salt", "when.month"], "salt", sample_dim="when", mask="wet")
    packed = spec.bind(ds).pack(ds, "inputs")
    np.testing.assert_array_equal(packed.isel(channel=1, lat=0, lon=0), ds.when.dt.month)


def test_lazy_data_stay_lazy(sst, nothing_computed):
    lazy = sst.chunk(time=5)
    spec = FieldSpec(["salt", "time.hour.sin"], "salt", mask="wet")
    with nothing_computed():
        packed = spec.bind(lazy).pack(lazy, "inputs")
    assert packed.chunks is not None


@keras.saving.register_keras_serializable(package="test_calendar")
class Sum(keras.layers.Layer):
    """Adds all input channels to a state in the first: what was read can be told from the forecast."""

    def call(self, x):
        return keras.ops.sum(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
def test_a_rollout_takes_the_parts_from_the_dates_of_its_steps(calendar):
    time = xr.date_range("2000-01-15", periods=30, freq="MS", calendar=calendar).shift(14, "D")
    ds = xr.Dataset({"x": (("time", "i"), np.zeros((30, 2), "float32"))}, {"time": time})
    spec = FieldSpec(["x", "time.month"], "x", input_offsets={"time.month": (-1, 0)}, target_offsets=1)
    model = FieldModel(Sum(), spec.bind(ds))
    out = physml.rollout(model, ds.isel(time=slice(0, 12)), 14)
    np.testing.assert_array_equal(out.time, ds.time[12:26])
    month = ds.time.dt.month.values
    expected = np.cumsum(month[10:24] + month[11:25])
    np.testing.assert_array_equal(out.x.isel(i=0), expected)
    own = ds.assign({"time.month": ("time", np.full(30, 100.0))})
    np.testing.assert_array_equal(
        physml.rollout(model, ds.isel(time=slice(0, 12)), 3, forcing=own).x.isel(i=0), [200, 400, 600]
    )


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("time.dayofyaer", {}, r"'time.dayofyaer' is neither a variable nor a part of the date; did you mean 'dayofyear'\?.*year, month, dayofyear, hour, dayofyear.sin"),
        ("time.month.sin", {}, r"'time.month.sin' is neither a variable nor a part of the date"),
        ("time.month", {"time": np.arange(24.0)}, r"'time.month' needs dates along 'time'.*Received: labels of type float64.*decode"),
        ("time.month", None, r"'time.month' needs dates along 'time'.*Received: no such coordinate"),
    ],
)  # fmt: skip
def test_what_is_no_part_of_a_date_is_refused(sst, name, change, words):
    ds = sst.drop_vars("time") if change is None else sst.assign_coords(change)
    with pytest.raises(ValueError, match=words):
        FieldSpec(["salt", name], "salt").bind(ds)


def test_a_rollout_without_dates_says_what_it_lacks(sst):
    spec = FieldSpec(["salt", "time.month"], "salt", target_offsets=1)
    ds = sst.fillna(0)
    model = FieldModel(Sum(), spec.bind(ds))
    with pytest.raises(ValueError, match=r"rollout: 'time.month' needs the dates of the steps.*Received: no dates"):
        physml.rollout(model, ds.isel(time=[3]).drop_vars("time"), 2)
