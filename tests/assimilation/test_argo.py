"""Argo profiles of the tropical Atlantic on the ERSST climatology, where the data are at hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from physml.assimilation import BLUE, Matern, PointObservations, analyse, leave_out

DATA = Path(__file__).parents[2].parent / "shared" / "data"
FILES = [DATA / "ersst_v3b_1960-2009.nc", DATA / "argo_tropatl_1997-2009.nc"]
pytestmark = pytest.mark.skipif(
    not all(f.exists() for f in FILES), reason="needs the ERSST and Argo files in ../shared/data"
)


@pytest.fixture(scope="module")
def case():
    """Return the climatology of 1981 to 2009 at every month of 1997 to 2009, its mask, the profiles and their floats."""
    with xr.open_dataset(FILES[0]) as ds, xr.open_dataset(FILES[1]) as profiles:
        sst = ds.sst.assign_coords(lon=(ds.lon + 180) % 360 - 180).sortby("lon")
        sst = sst.sel(lat=slice(-14, 14), lon=slice(-64, 14), time=slice("1981", "2009")).load()
        floats = profiles.platform.values
        obs = PointObservations.from_dataset(profiles, "sst", error_std=0.4)
    climatology = sst.groupby("time.month").mean()
    time = sst.time.sel(time=slice("1997", "2009"))
    forecast = climatology.sel(month=time.dt.month).drop_vars("month").assign_attrs(sst.attrs).to_dataset(name="sst")
    return forecast, climatology.notnull().all("month"), obs, floats


# What examples/sst_analysis.py begins with, and what it finds to be likeliest.
GUESS, LIKELIEST = Matern(0.6, 500e3, "30D", nu=0.5), Matern(0.77, 519e3, "40D", nu=0.5)


def test_each_float_left_out_is_predicted_better_than_by_climatology(case, capsys):
    forecast, mask, obs, floats = case
    lazy = analyse(forecast.chunk(time=24), obs, GUESS, periodic=False, mask=mask, tolerance="16D", window="90D")
    for kernel, sigma_o, reduced, chi2 in ((GUESS, 0.4, 0.94, 1.15), (LIKELIEST, 0.31, 0.95, 1.11)):
        innovations = replace(obs, values=lazy.innovation.values, error_std=sigma_o)
        layer = BLUE(kernel, latitude=forecast.lat, longitude=forecast.lon, periodic=False, mask=mask)
        scores = leave_out(layer, innovations, floats).attrs
        before, after = scores["rmse_before"], scores["rmse_after"]
        with capsys.disabled():
            print(f"\nrms {before:.3f} -> {after:.3f} K, chi2 {scores['chi2']:.2f}")
        assert scores["observations"] == 1672
        assert before == pytest.approx(0.694, abs=0.002)
        assert after < reduced * before
        assert scores["chi2"] == pytest.approx(chi2, abs=0.03)


def test_the_error_map_is_small_where_floats_are_and_sigma_b_where_none_is(case):
    forecast, mask, obs, _ = case
    month = forecast.sel(time=slice("2008-06", "2008-07"))
    near = obs.nearest(month.time.values, "16D") >= 0
    table = obs.take(np.flatnonzero(near)[None]).table()
    out = analyse(month, replace(table, time=obs.time[near]), GUESS, periodic=False, mask=mask, tolerance="16D")
    assert out.sst.attrs["units"] == "degree_Celsius" == out.sst_std.attrs["units"]
    assert np.array_equal(out.sst_std.isel(time=0).notnull(), mask)
    assert 0.2 < out.sst_std.min() < 0.5 and 0.55 < out.sst_std.max() <= 0.6
    assert out.used.values.tolist() == [near.sum()] * 2 and 0.5 < out.chi2[0] < 2
