"""Argo profiles of the tropical Atlantic on the ERSST climatology, where the data are at hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from physml.assimilation import BLUE, Gaussian, Matern, PointObservations, analyse, leave_out

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


@pytest.mark.parametrize(
    ("kernel", "reduced", "chi2"),
    [(Matern(0.6, 500e3, "30D", nu=0.5), 0.94, 1.15), (Gaussian(0.6, 500e3, "30D"), 0.98, 1.56)],
)
def test_each_float_left_out_is_predicted_better_than_by_climatology(case, kernel, reduced, chi2, capsys):
    forecast, mask, obs, floats = case
    lazy = analyse(forecast.chunk(time=24), obs, kernel, periodic=False, mask=mask, tolerance="16D", window="90D")
    innovations = replace(obs, values=lazy.innovation.values)
    layer = BLUE(kernel, latitude=forecast.lat, longitude=forecast.lon, periodic=False, mask=mask)
    scores = leave_out(layer, innovations, floats).attrs
    before, after = scores["rmse_before"], scores["rmse_after"]
    with capsys.disabled():
        print(f"\n{type(kernel).__name__}: rms {before:.3f} -> {after:.3f} K, chi2 {scores['chi2']:.2f}")
    assert scores["observations"] == 1672
    assert before == pytest.approx(0.694, abs=0.002)
    assert after < reduced * before
    assert scores["chi2"] == pytest.approx(chi2, abs=0.02)


def test_the_error_map_is_small_where_floats_are_and_sigma_b_where_none_is(case):
    forecast, mask, obs, _ = case
    month = forecast.sel(time=slice("2008-06", "2008-07"))
    kernel = Matern(0.6, 500e3, "30D", nu=0.5)
    near = obs.nearest(month.time.values, "16D") >= 0
    table = obs.take(np.flatnonzero(near)[None]).table()
    out = analyse(month, replace(table, time=obs.time[near]), kernel, periodic=False, mask=mask, tolerance="16D")
    assert out.sst.attrs["units"] == "degree_Celsius" == out.sst_std.attrs["units"]
    assert np.array_equal(out.sst_std.isel(time=0).notnull(), mask)
    assert 0.2 < out.sst_std.min() < 0.5 and 0.55 < out.sst_std.max() <= 0.6
    assert out.used.values.tolist() == [near.sum()] * 2 and 0.5 < out.chi2[0] < 2
