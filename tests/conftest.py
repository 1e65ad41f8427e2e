"""What the tests of all rooms share: quiet TensorFlow, a fixed profile for random cases, small data."""

from __future__ import annotations

import contextlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import settings

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI", "").lower() == "true" else "local")


@pytest.fixture
def nothing_computed():
    """Return a context in which computing anything with dask fails."""

    def refuse(*args, **kwargs):
        raise AssertionError("something was computed")

    @contextlib.contextmanager
    def context():
        with dask.config.set(scheduler=refuse):
            yield

    return context


@pytest.fixture(scope="session")
def gyre():
    """Three runs of nine days in a gyre of 12 x 16 cells with an island and sources."""
    from physml.testbeds import gyre

    return gyre.simulate(n_runs=3, n_steps=8, shape=(12, 16), seed=1, island=True, sources=True)


@pytest.fixture
def sst():
    """Two years of mid-month temperatures on 4 x 6 cells of the sphere, two of them land, two levels, with salinity."""
    rng = np.random.default_rng(0)
    wet = np.ones((4, 6), bool)
    wet[1, 2:4] = False
    time = xr.date_range("2000-01-01", periods=24, freq="MS") + np.timedelta64(14, "D")
    ds = xr.Dataset(
        {
            "temp": (("time", "depth", "lat", "lon"), rng.normal(15, 3, (24, 2, 4, 6)).astype("float32")),
            "salt": (("time", "lat", "lon"), rng.normal(35, 0.1, (24, 4, 6))),
            "bathymetry": (("lat", "lon"), rng.uniform(1e3, 5e3, (4, 6)), {"units": "m"}),
            "wet": (("lat", "lon"), wet),
            "area": (("lat", "lon"), rng.uniform(1, 2, (4, 6)), {"units": "m2"}),
        },
        {
            "time": time,
            "depth": ("depth", [0.0, 50.0], {"units": "m", "positive": "down"}),
            "lat": ("lat", [-45.0, -15.0, 15.0, 45.0], {"units": "degrees_north"}),
            "lon": ("lon", np.arange(0.0, 360, 60), {"units": "degrees_east"}),
        },
        {"title": "made up", "history": "2000 made up"},
    )
    for name, units in (("temp", "degC"), ("salt", "g kg-1")):
        ds[name] = ds[name].where(ds.wet).assign_attrs(units=units, long_name=f"sea water {name}")
    return ds
