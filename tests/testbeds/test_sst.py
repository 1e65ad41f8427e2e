"""The idealised sea surface temperature does what its formula says."""

import numpy as np
import pytest
import xarray as xr

from physml.provenance import parse_units
from physml.testbeds import sst


@pytest.fixture(scope="module")
def long():
    """Return forty members of forty years on a coarse grid."""
    return sst.simulate(n_years=40, shape=(18, 36), members=40)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    a, b, c = (sst.simulate(n_years=1, shape=(12, 24), seed=seed) for seed in (3, 3, 4))
    xr.testing.assert_identical(a, b)
    assert abs(a.sst - c.sst).max() > 0.1


def test_a_longer_series_begins_with_the_shorter_and_more_members_keep_the_first():
    short = sst.simulate(n_years=1, shape=(12, 24), members=1)
    longer = sst.simulate(n_years=3, shape=(12, 24), members=2)
    xr.testing.assert_equal(longer.isel(member=[0], time=slice(12)), short)
    xr.testing.assert_equal(short.isel(member=0, drop=True), sst.simulate(n_years=1, shape=(12, 24)))
    assert abs(longer.enso.diff("member")).max() > 0.1


def test_land_and_only_land_is_missing_and_no_water_is_below_freezing(long):
    assert (long.sst.notnull() == long.wet).all()
    assert 0.55 < float((long.wet * long.cell_area).sum() / long.cell_area.sum()) < 0.8
    assert float(long.sst.min()) == np.float32(-1.8)
    assert 30 < float(long.sst.max()) < 36


def test_the_cells_cover_the_sphere(long):
    assert float(long.cell_area.sum()) == pytest.approx(4 * np.pi * 6_371_229.0**2, rel=1e-12)


def test_seasons_are_opposite_in_the_hemispheres_and_coldest_at_the_end_of_winter(long):
    month = long.sst.groupby("time.month").mean(["member", "time"]).mean("lon")
    north, south = month.sel(lat=45), month.sel(lat=-45)
    assert int(north.idxmin("month")) in (2, 3)
    assert int(south.idxmin("month")) in (8, 9)
    assert float(north.max() - north.min()) == pytest.approx(10 * np.sin(np.pi / 4) * np.cos(np.pi / 12), abs=0.1)


def test_the_indices_have_the_spread_and_the_memory_of_the_formula(long):
    for name, sd, memory in (("enso", 0.8, None), ("recharge", 0.8, None), ("pacific", 0.7, 24.0)):
        x = long[name]
        # 1600 years hold some 500 independent values.
        assert float(x.std()) == pytest.approx(sd, rel=0.1)
        if memory:
            lagged = float((x[:, 12:].values * x[:, :-12].values).mean() / (x**2).mean())
            assert lagged == pytest.approx(np.exp(-12 / memory), abs=0.1)


def test_the_best_forecast_of_the_oscillation_is_the_turned_state(long):
    z = (long.enso + 1j * long.recharge).values
    lead = 6
    best = (np.exp(lead * complex(-1 / 18, 2 * np.pi / 48)) * z[:, :-lead]).real
    truth = z[:, lead:].real
    error = float(((truth - best) ** 2).mean())
    assert error == pytest.approx(0.64 * (1 - np.exp(-2 * lead / 18)), rel=0.1)
    assert error < 0.8 * float(((truth - z[:, :-lead].real) ** 2).mean())


def test_the_tongue_warms_with_the_index(long):
    nino = long.sst.sel(lat=slice(-6, 6), lon=slice(200, 240)).mean(["lat", "lon"])
    anomaly = nino.groupby("time.month") - nino.groupby("time.month").mean(["member", "time"])
    assert float(xr.corr(anomaly, long.enso)) > 0.8


def test_the_noise_has_its_spread_and_memory_in_every_latitude():
    noise = sst._noise(0, 0, 600, (18, 36))
    np.testing.assert_allclose(noise.std((0, 2)), 0.4, rtol=0.1)
    assert np.mean(noise[3:] * noise[:-3]) / np.mean(noise**2) == pytest.approx(np.exp(-1), abs=0.05)


def test_the_noise_is_smooth_across_the_date_line():
    noise = sst._noise(0, 0, 600, (18, 36))
    across = np.corrcoef(noise[..., 0].ravel(), noise[..., -1].ravel())[0, 1]
    within = np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]
    assert across == pytest.approx(within, abs=0.03) and within > 0.9


def test_levels_keep_the_surface_and_calm_down_with_depth():
    ds = sst.simulate(n_years=2, shape=(12, 24), members=2, depths=[0, 50, 500])
    assert ds.temp.dims == ("member", "time", "depth", "lat", "lon")
    np.testing.assert_array_equal(ds.temp.sel(depth=0), ds.sst)
    spread = ds.temp.std("time").mean(["member", "lat", "lon"])
    assert (spread.diff("depth") < 0).all()
    assert (ds.temp.isel(member=0, time=0).mean(["lat", "lon"]).diff("depth") < 0).all()


def test_everything_is_labelled_and_survives_netcdf(tmp_path):
    ds = sst.simulate(n_years=1, shape=(12, 24), members=2, depths=[0, 50])
    for name in (*ds.data_vars, "lat", "lon", "depth"):
        if name != "wet":
            parse_units(ds[name].attrs["units"])
        assert ds[name].attrs["long_name"]
    ds.to_netcdf(tmp_path / "x.nc")
    with xr.open_dataset(tmp_path / "x.nc") as back:
        xr.testing.assert_identical(back.load(), ds)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"n_years": 0}, "n_years is out of range. Expected: an integer >= 1. Received: 0. Remedy: pass n_years=10."),
        ({"seed": True}, "seed is out of range"),
        ({"members": 0}, "members is out of range"),
        ({"shape": (4, 72)}, r"shape is out of range. Expected: \(lat, lon\), two integers >= 8"),
        ({"depths": [50, 0]}, r"depths is out of range. Expected: increasing depths >= 0 m. Received: \[50, 0\]"),
        ({"depths": []}, "depths is out of range"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(wrong, text):
    with pytest.raises(ValueError, match=text):
        sst.simulate(**wrong)
