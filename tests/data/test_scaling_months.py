"""Statistics by month are those of the samples of that month; only the training period is fitted, and no gap is bridged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec, Layout, Scaling, split_time
from physml.data._fitting import pairs
from physml.timeaxis import TimeStep, find_step

SPEC = FieldSpec(
    ["temp", "salt", "bathymetry", "time.month", "time.dayofyear.sin"],
    ["temp", "salt"],
    input_offsets={"temp": (-1, 0)},
    target_offsets=1,
    levels="depth",
    mask="wet",
)


def by_hand(sst, name, offset):
    """Return mean and standard deviation ``[12, level]`` of samples of each month, *offset* steps on."""
    wet, month = sst.wet.values, sst.time.dt.month.values
    mean, std = [], []
    for m in range(1, 13):
        at = [t for t in np.flatnonzero(month == m) if 0 <= t + offset < 24]
        x = sst[name].values.astype("float64")[np.array(at) + offset][..., wet]
        over = (0, 2) if x.ndim == 3 else (0, 1)
        mean.append(np.atleast_1d(x.mean(over)))
        std.append(np.atleast_1d(x.std(over)))
    return np.array(mean), np.array(std)


@pytest.mark.parametrize("chunks", [None, {"time": 5, "lat": 3, "depth": 1}])
def test_by_month_is_the_climatological_standardisation_of_every_channel(sst, chunks):
    scaling = Scaling.fit(sst if chunks is None else sst.chunk(chunks), SPEC, by="month")
    for role in ("inputs", "targets"):
        mean, std = scaling.table("mean", role), scaling.table("std", role)
        for name in ("temp", "salt"):
            if name not in getattr(SPEC, role):
                continue
            for offset in SPEC.offsets(role, name):
                at = scaling.layout.where(role, name, offset)
                expected = by_hand(sst, name, offset)
                np.testing.assert_allclose(mean[:, at], expected[0], rtol=1e-12)
                np.testing.assert_allclose(std[:, at], expected[1], rtol=1e-10)


def test_static_fields_and_the_calendar_keep_the_statistics_of_all_year(sst):
    scaling = Scaling.fit(sst, SPEC, by="month")
    mean = scaling.table("mean", "inputs")
    for name in ("bathymetry", "time.month", "time.dayofyear.sin"):
        at = scaling.layout.where("inputs", name)
        np.testing.assert_array_equal(mean[:, at], np.tile(scaling.mean[name], (12, 1)))
    np.testing.assert_allclose(scaling.mean["time.month"], 6.5)


def test_changes_by_month_are_those_that_begin_in_it(sst):
    scaling = Scaling.fit(sst, SPEC, by="month")
    change = np.diff(sst.temp.values.astype("float64")[..., sst.wet.values], axis=0)
    month = sst.time.dt.month.values[:-1]
    expected = [change[month == m].std((0, 2)) for m in range(1, 13)]
    at = scaling.layout.where("targets", "temp")
    np.testing.assert_allclose(scaling.table("increment", "targets")[:, at], expected, rtol=1e-10)


def test_vectors_are_those_of_all_months_together(sst):
    monthly, plain = Scaling.fit(sst, SPEC, by="month"), Scaling.fit(sst, SPEC)
    assert (monthly.by, plain.by) == ("month", None)
    for what in ("mean", "std"):
        for role in ("inputs", "targets"):
            np.testing.assert_array_equal(monthly.vector(what, role), plain.vector(what, role))
    np.testing.assert_array_equal(plain.table("std", "targets"), np.tile(plain.vector("std", "targets"), (12, 1)))


def test_quartiles_by_month_are_numpys(sst):
    scaling = Scaling.fit(sst, SPEC, method={"salt": "robust"}, by="month")
    salt, month = sst.salt.values[:, sst.wet.values], sst.time.dt.month.values
    expected = [np.percentile(salt[month == m], [25, 50, 75]) for m in range(1, 13)]
    at = scaling.layout.where("inputs", "salt")
    np.testing.assert_allclose(scaling.table("mean", "inputs")[:, at][:, 0], [e[1] for e in expected], rtol=1e-12)
    np.testing.assert_allclose(scaling.table("std", "inputs")[:, at][:, 0], [e[2] - e[0] for e in expected], rtol=1e-9)


def test_everything_survives_its_config_as_json(sst):
    scaling = Scaling.fit(sst, SPEC, method={"salt": "log:0.1", "temp": "robust"}, by="month")
    layout = Layout.from_config(scaling.layout.to_config(), scaling.layout.arrays())
    again = Scaling.from_config(json.loads(json.dumps(scaling.to_config())), layout)
    for what, role in (("mean", "inputs"), ("std", "inputs"), ("mean", "targets"), ("increment", "targets")):
        np.testing.assert_array_equal(again.table(what, role), scaling.table(what, role))
    assert again.methods == scaling.methods
    assert again.period == scaling.period == ("2000-01-15T00:00:00", "2001-12-15T00:00:00")


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda ds: ds, {"by": "season"}, r"by is not understood. Expected: None or 'month'. Received: 'season'"),
        (lambda ds: ds.isel(time=slice(0, 10)), {"by": "month"}, r"no sample in month 11. Expected.*Received: none in 11, 12.*train on whole years"),
        (lambda ds: ds.isel(time=slice(0, 12)), {"by": "month"}, r"no sample in month 12 with 'temp' \+1 steps from it.*Received: none in 12. "),
        (lambda ds: ds.assign(salt=ds.salt.where(ds.time.dt.month != 3, 35).where(ds.wet)), {"by": "month"}, r"'salt' does not vary.*Received: 0 in month 3 at level 0"),
    ],
)  # fmt: skip
def test_months_that_cannot_be_scaled_are_named(sst, change, options, words):
    with pytest.raises(ValueError, match=words):
        Scaling.fit(
            change(sst),
            FieldSpec(["temp", "salt", "time.month"], "temp", target_offsets=1, levels="depth", mask="wet"),
            **options,
        )


@pytest.mark.parametrize(
    "inputs", [{"inputs": ["temp"]}, {"inputs": ["temp", "time.month"], "input_offsets": {"time.month": (1,)}}]
)
def test_by_month_needs_the_month_among_the_inputs(sst, inputs):
    spec = FieldSpec(targets="temp", levels="depth", mask="wet", **inputs)
    with pytest.raises(ValueError, match=r"cannot tell the month of a sample. Expected: 'time.month' among the inputs, at offset 0.*Remedy: FieldSpec\(inputs=\[..., 'time.month'\]\)"):  # fmt: skip
        Scaling.fit(sst, spec, by="month")


# the training period -------------------------------------------------------------------------------------------------

PLAIN = FieldSpec("salt", "salt", target_offsets=1, mask="wet")


@pytest.mark.parametrize("calendar", ["standard", "360_day"])
def test_a_period_is_all_that_is_fitted(sst, calendar):
    sst = sst.assign_coords(time=xr.date_range("2000-01-15", periods=24, freq="MS", calendar=calendar))
    part = sst.sel(time="2001")
    found, expected = Scaling.fit(sst, PLAIN, period=("2001", "2001")), Scaling.fit(part, PLAIN)
    assert found.mean == expected.mean
    np.testing.assert_array_equal(found.increment["salt"], expected.increment["salt"])
    first, last = (str(t) for t in part.time.dt.strftime("%Y-%m-%dT%H:%M:%S").values[[0, -1]])
    assert found.period == (first, last)


def test_a_period_of_numbers_and_no_labels_at_all(sst):
    numbered = sst.assign_coords(time=np.arange(24))
    assert Scaling.fit(numbered, PLAIN, period=(3, 9)).period == (3, 9)
    assert Scaling.fit(sst.drop_vars("time"), PLAIN).period is None


@pytest.mark.parametrize(
    ("period", "words"),
    [
        (("1990", "1995"), r"period holds no time of the data. Expected: labels between 2000-01-15"),
        (("spring", "2001"), r"period does not fit the axis. Expected: first and last label of type datetime64"),
        (("2001",), r"period does not fit the axis"),
    ],
)
def test_periods_that_fit_nothing_are_refused(sst, period, words):
    with pytest.raises(ValueError, match=words):
        Scaling.fit(sst, PLAIN, period=period)


def test_validation_and_test_data_are_not_fitted_even_after_selecting_and_writing(sst, tmp_path):
    parts = split_time(sst, ["2000-10", "2001-06"], PLAIN)
    assert [p.attrs["physml_split"] for p in parts] == ["train", "validation", "test"]
    Scaling.fit(parts.train, PLAIN)
    parts.test.to_netcdf(tmp_path / "test.nc")
    written = xr.open_dataset(tmp_path / "test.nc")
    changed = parts.validation.isel(lat=slice(1, None)).chunk(time=2).assign(salt=lambda ds: ds.salt * 2)
    for name, ds in (("test", written), ("validation", changed)):
        with pytest.raises(ValueError, match=rf"these data are the {name} part of a split.*Remedy: fit to split.train"):
            Scaling.fit(ds, PLAIN)
    del changed.attrs["physml_split"]
    assert Scaling.fit(changed, PLAIN).mean
    written.close()


# gaps ----------------------------------------------------------------------------------------------------------------


def test_pairs_are_slices_on_a_uniform_axis(sst):
    step = find_step(sst.time)
    for offset in (-3, -1, 0, 1, 2):
        earlier, later = pairs(sst.time, step, 24, offset)
        assert isinstance(earlier, slice) and isinstance(later, slice)
        t = np.arange(24)
        np.testing.assert_array_equal(t[later] - t[earlier], np.full(24 - abs(offset), offset))
    assert pairs(sst.time, step, 24, 30) == (slice(0, 0), slice(30, 30))


def test_no_pair_reaches_over_a_gap(sst):
    step, there = find_step(sst.time), np.r_[0:5, 8:20, 21:24]
    for offset in (-2, -1, 1, 2, 4):
        earlier, later = pairs(sst.time[there], step, len(there), offset)
        expected = [(i, j) for i, a in enumerate(there) for j, b in enumerate(there) if b - a == offset]
        assert list(zip(np.arange(20)[earlier], np.arange(20)[later], strict=True)) == expected


def test_numbers_have_gaps_too():
    axis = xr.DataArray([0.0, 0.1, 0.2, 0.5, 0.6], dims="t")
    earlier, later = pairs(axis, TimeStep("number", 0.1), 5, 1)
    assert (earlier.tolist(), later.tolist()) == ([0, 1, 3], [1, 2, 4])
