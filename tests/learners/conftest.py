"""Six years of made-up monthly temperatures on 4 x 5 cells, two of them land, that depend on those before and on the wind."""

import numpy as np
import pytest
import xarray as xr


@pytest.fixture(scope="session")
def ocean():
    rng = np.random.default_rng(0)
    n = 72
    time = xr.date_range("2000-01-01", periods=n, freq="MS") + np.timedelta64(14, "D")
    wet = np.ones((4, 5), bool)
    wet[1, 1:3] = False
    season = 3 * np.cos(2 * np.pi * np.arange(n) / 12)[:, None, None]
    wind = rng.normal(size=(n, 4, 5))
    t = np.zeros((n, 4, 5))
    for i in range(1, n):
        t[i] = 0.7 * t[i - 1] + 0.4 * wind[i - 1] + 0.3 * rng.normal(size=(4, 5))
    ds = xr.Dataset(
        {
            "t": (("time", "lat", "lon"), t + 15 + season, {"units": "degC", "long_name": "temperature"}),
            "wind": (("time", "lat", "lon"), wind.astype("float32"), {"units": "m s-1"}),
            "depth": (("lat", "lon"), rng.uniform(100, 4000, (4, 5)), {"units": "m"}),
            "wet": (("lat", "lon"), wet),
            "area": (("lat", "lon"), rng.uniform(1, 2, (4, 5)), {"units": "m2"}),
        },
        {
            "time": time,
            "lat": ("lat", [-45.0, -15.0, 15.0, 45.0], {"units": "degrees_north"}),
            "lon": ("lon", np.arange(0.0, 360, 72), {"units": "degrees_east"}),
        },
        {"title": "made up"},
    )
    for name in ("t", "wind"):
        ds[name] = ds[name].where(ds.wet)
    ds["index"] = ds.t.isel(lat=2).mean("lon").assign_attrs(units="degC")
    return ds


@pytest.fixture(scope="session")
def same():
    """Return a check that two Datasets are the same but for when they were made."""

    def check(a, b):
        a, b = (x.compute().drop_attrs(deep=False) for x in (a, b))
        xr.testing.assert_identical(a, b)

    return check
