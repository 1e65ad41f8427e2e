"""The climatology of constructed series is exact, whatever the step, the calendar, the leads and the chunks."""

import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec
from physml.learners import Climatology, DampedPersistence, Ridge


def series(values, **axis):
    return xr.Dataset({"t": ("time", np.asarray(values, float))}, {"time": xr.date_range(**axis)})


def test_the_mean_of_the_month_that_is_forecast_is_answered_at_every_lead():
    month = np.tile(np.arange(1.0, 13), 3)
    ds = series(100 * month + np.repeat([-1, 0, 4], 12), start="2000-01-01", periods=36, freq="MS")
    out = Climatology(FieldSpec("t", "t", target_offsets=(1, 5, 12))).fit(ds).predict(ds)
    np.testing.assert_array_equal(out.t.values, 100.0 * out.valid_time.dt.month.values + 1)
    assert out.t.dims == ("time", "lead")


def test_spread_is_that_of_a_new_year_about_the_mean_of_the_others():
    year = np.array([3.0, 5.0, 10.0, 2.0])
    ds = series(np.repeat(year, 12), start="2000-01-01", periods=48, freq="MS")
    out = Climatology(FieldSpec("t", "t", target_offsets=1), spread=True).fit(ds).predict(ds)
    np.testing.assert_allclose(out.t_std.values, year.std(ddof=1) * np.sqrt(1 + 1 / 4), rtol=1e-14)


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
def test_steps_of_days_fall_into_the_month_and_the_day_that_the_calendar_says(calendar):
    use = {"use_cftime": True} if calendar != "standard" else {}
    axis = xr.date_range("2000-12-20", periods=800, freq="D", calendar=calendar, **use)
    ds = xr.Dataset(coords={"time": axis})
    for by in ("month", "dayofyear"):
        ds["t"] = getattr(ds.time.dt, by).astype(float)
        learner = Climatology(FieldSpec("t", "t", target_offsets=(-3, 40)), by)
        if calendar == "standard" and by == "dayofyear":  # 800 days from the end of 2000 hold one day 366
            assert int((ds.time.dt.dayofyear == 366).sum()) == 1
        out = learner.fit(ds).predict(ds)
        np.testing.assert_array_equal(out.t.values, getattr(out.valid_time.dt, by).values)


@pytest.mark.parametrize(("calendar", "days"), [("noleap", 365), ("360_day", 360)])
def test_the_year_is_as_long_as_the_calendar_says_at_its_turn_too(calendar, days):
    ds = series(np.tile(np.arange(days), 2), start="2001-01-01", periods=2 * days, calendar=calendar, use_cftime=True)
    learner = Climatology(FieldSpec("t", "t"), "dayofyear", days=3).fit(ds)
    out = learner.predict(ds).t.values
    np.testing.assert_allclose(out[[0, 1, days - 1]], [days / 3, 1, (2 * days - 3) / 3], rtol=1e-14)
    leap = series(np.zeros(366), start="2000-01-01", periods=366)
    with pytest.raises(ValueError, match=rf"no day {days + 1} of the year.*convert_calendar\('{calendar}'\)"):
        learner.predict(leap)


@pytest.mark.parametrize("make", [lambda s: Climatology(s), lambda s: DampedPersistence(s, spread=True), lambda s: Ridge(s, 1.0, by="month", samples="maps", spread=True)])  # fmt: skip
def test_seasonal_means_have_a_climatology_of_their_own_months(make):
    rng = np.random.default_rng(0)
    ds = series(np.tile([1.0, 5, 9, 5], 40) + rng.normal(size=160), start="1960-01-01", periods=160, freq="3MS")
    learner = make(FieldSpec("t", "t", target_offsets=(1, 4))).fit(ds)
    out = learner.predict(ds)
    mean = ds.t.groupby("time.month").mean()
    normal = mean.sel(month=out.valid_time.dt.month)
    assert bool(np.isfinite(out.t).all())
    np.testing.assert_allclose(out.t.isel(lead=1).mean(), normal.isel(lead=1).mean(), atol=0.05)
    if "t_std" in out:
        assert float(out.t_std.isel(time=0, lead=1)) == pytest.approx(1, abs=0.15)
    other = ds.assign_coords(time=xr.date_range("1960-02-01", periods=160, freq="3MS"))
    with pytest.raises(ValueError, match="the climatology has no February"):
        learner.predict(other)


def test_days_of_the_year_are_averaged_around_the_turn_of_the_year():
    ds = series(np.arange(366.0), start="2000-01-01", periods=366, freq="D")
    out = Climatology(FieldSpec("t", "t"), "dayofyear", days=3).fit(ds).predict(ds)
    np.testing.assert_allclose(out.t.values[[0, 1, 365]], [(365 + 0 + 1) / 3, 1, (364 + 365 + 0) / 3])


def test_without_a_cycle_it_is_the_mean_of_all_times_and_needs_no_dates():
    ds = xr.Dataset({"t": (("time", "x"), [[1.0, 2], [3, 8]])}, {"time": [0, 1]})
    out = Climatology(FieldSpec("t", "t"), None).fit(ds).predict(ds)
    np.testing.assert_array_equal(out.t, [[2, 5], [2, 5]])


def test_chunks_change_no_bit_and_nothing_is_computed_before_it_is_asked_for(ocean, same, nothing_computed):
    spec = FieldSpec(["t", "wind"], "t", target_offsets=(1, 3), mask="wet")
    eager = Climatology(spec, spread=True).fit(ocean)
    lazy = Climatology(spec, spread=True).fit(ocean.chunk(time=5, lat=3))
    for key, values in eager.state.items():
        np.testing.assert_array_equal(values, lazy.state[key])
    with nothing_computed():
        out = eager.predict(ocean.chunk(time=7))
    assert out.t.chunks is not None
    same(out, eager.predict(ocean))


def test_inputs_that_are_not_read_may_be_missing_and_are_not_computed(ocean):
    import dask

    def fail(block):
        raise AssertionError("read")

    spec = FieldSpec(["t", "wind"], "t", target_offsets=1, mask="wet")
    learner = Climatology(spec).fit(ocean)
    wind = ocean.wind.chunk(time=9).copy(
        data=ocean.wind.chunk(time=9).data.map_blocks(fail, dtype="f4", meta=np.empty(0, "f4"))
    )
    with dask.config.set(scheduler="synchronous"):
        out = learner.predict(ocean.assign(wind=wind)).compute()
    assert int(out.t.isnull().sum()) == 2 * 72


def test_members_share_one_climatology(same):
    rng = np.random.default_rng(0)
    time = xr.date_range("2000-01-01", periods=24, freq="MS")
    ds = xr.Dataset({"t": (("run", "time", "x"), rng.normal(size=(3, 24, 2)))}, {"time": time, "run": [0, 1, 2]})
    learner = Climatology(FieldSpec("t", "t", members="run")).fit(ds)
    out = learner.predict(ds)
    assert out.t.dims == ("run", "time", "x")
    expected = ds.t.groupby("time.month").mean(["time", "run"]).sel(month=ds.time.dt.month)
    np.testing.assert_allclose(out.t.isel(run=1).values, expected.transpose("time", "x").values, rtol=1e-12)


def test_months_without_a_sample_and_unknown_cycles_are_refused(ocean):
    spec = FieldSpec("t", "t", target_offsets=1, mask="wet")
    with pytest.raises(ValueError, match=r"no sample in July.*none in 6 of 12.*train on whole years"):
        Climatology(spec).fit(ocean.isel(time=slice(0, 6)))
    with pytest.raises(ValueError, match="by='monthly' is not understood; did you mean 'month'"):
        Climatology(spec, "monthly")
    with pytest.raises(ValueError, match="days does not fit"):
        Climatology(spec, "month", days=3)
    with pytest.raises(ValueError, match=r"needs dates along 'time'"):
        Climatology(spec).fit(ocean.assign_coords(time=np.arange(72)))
