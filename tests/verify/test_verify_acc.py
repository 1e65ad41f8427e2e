"""The anomaly correlation is a weighted correlation of departures from what is normal for the time."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from physml import verify

TIME = xr.date_range("2000-01-01", periods=48, freq="MS")


def pair(seed: int = 0) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    rng = np.random.default_rng(seed)
    coords = {"time": TIME, "lat": [-60.0, 0.0, 30.0]}
    season = 10 * np.sin(2 * np.pi * np.arange(48) / 12)[:, None]
    truth = xr.DataArray(season + rng.normal(size=(48, 3)), coords, ("time", "lat"), "sst", {"units": "K"})
    forecast = (truth + rng.normal(size=(48, 3)) + 0.5).assign_attrs(units="K")
    truth[:, 0] = np.nan
    return forecast, truth, xr.DataArray([0.5, 1.0, 0.9], {"lat": coords["lat"]}, ("lat",))


def test_it_is_the_weighted_correlation_of_anomalies_by_month():
    forecast, truth, weights = pair()
    climate = truth.groupby("time.month").mean()
    f, o = forecast.groupby("time.month") - climate, truth.groupby("time.month") - climate
    w = weights.broadcast_like(truth).values[:, 1:].ravel()
    f, o = (a.transpose("time", "lat").values[:, 1:].ravel() for a in (f, o))
    cov = np.cov(f, o, aweights=w, ddof=0)
    score = verify.acc(forecast, truth, weights=weights, climatology=climate)
    assert score.item() == pytest.approx(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]), rel=1e-12)
    plain = verify.acc(forecast, truth, weights=weights, climatology=climate, centred=False)
    expected = np.average(f * o, weights=w) / np.sqrt(np.average(f * f, weights=w) * np.average(o * o, weights=w))
    assert plain.item() == pytest.approx(expected, rel=1e-12)
    assert plain < score
    assert score.attrs == {"long_name": "anomaly correlation of sst", "units": "1"}
    season = verify.acc(forecast, truth, climatology=truth.groupby("time.season").mean())
    assert season > score


def test_the_centred_one_without_weights_is_the_correlation_of_scores():
    from scores.continuous.correlation import pearsonr

    forecast, truth, _ = pair()
    forecast, truth = forecast[:, 1:], truth[:, 1:]
    np.testing.assert_allclose(
        verify.acc(forecast, truth, "time", climatology=3.0), pearsonr(forecast, truth, reduce_dims="time"), rtol=1e-12
    )


def test_a_climatology_over_the_same_times_and_one_map_are_taken():
    forecast, truth, _ = pair()
    climate = truth.groupby("time.month").mean()
    series = climate.sel(month=truth.time.dt.month).drop_vars("month")
    by_month = verify.acc(forecast, truth, "time", climatology=climate)
    np.testing.assert_allclose(verify.acc(forecast, truth, "time", climatology=series)[1:], by_month[1:])
    one = truth.mean("time")
    np.testing.assert_allclose(
        verify.acc(forecast, truth, "time", climatology=one)[1:],
        verify.acc(forecast, truth, "time", climatology=0.0)[1:],
    )
    both = verify.acc(
        forecast.to_dataset(name="sst"), truth.to_dataset(), "time", climatology=climate.to_dataset(name="sst")
    )
    xr.testing.assert_allclose(both.sst, by_month)


def test_lost_forecasts_and_lost_normals_make_it_nan():
    forecast, truth, _ = pair()
    broken = forecast.copy(deep=True)
    broken[4, 1] = np.nan
    np.testing.assert_array_equal(np.isnan(verify.acc(broken, truth, "time", climatology=0.0)), [True, True, False])
    climate = truth.groupby("time.month").mean()
    climate[3, 2] = np.nan
    np.testing.assert_array_equal(
        np.isnan(verify.acc(forecast, truth, "time", climatology=climate)), [True, False, True]
    )


def test_what_is_not_normal_for_every_time_is_refused():
    forecast, truth, _ = pair()
    climate = truth.groupby("time.month").mean()
    with pytest.raises(ValueError, match=r"climatology has no month 12.*groupby\('time.month'\)"):
        verify.acc(forecast, truth, climatology=climate.sel(month=slice(1, 11)))
    with pytest.raises(ValueError, match="by month, and sst has no time"):
        verify.acc(forecast[0], truth[0], climatology=climate)
    with pytest.raises(ValueError, match="the climatology lies at other places along 'lat'"):
        verify.acc(forecast, truth, climatology=climate.assign_coords(lat=[0.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match="different units"):
        verify.acc(forecast, truth, climatology=climate.assign_attrs(units="m"))


def test_anomalies_that_do_not_vary_correlate_with_nothing():
    _, truth, _ = pair()
    truth = truth.isel(lat=1)
    for constant in (0.0, 0.1, 300.1, 1e7 + 0.3):
        assert np.isnan(verify.acc(0 * truth + constant, truth, climatology=0.0))
    assert np.isnan(verify.acc(0 * truth, truth, climatology=0.0, centred=False))
    assert float(verify.acc(1e-4 * truth + 300.1, truth, climatology=300.0)) == pytest.approx(1, abs=1e-6)
