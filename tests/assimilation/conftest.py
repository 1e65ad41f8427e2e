"""Small grids, dense reference formulae and a scheduler that refuses to compute."""

import dask
import numpy as np
import pytest
import xarray as xr

from physml.assimilation import BLUE, Gaussian, PointObservations, random_positions


class Dense:
    """The textbook matrices of a small problem, built by NumPy alone."""

    def __init__(self, layer, arguments, background_error):
        lat, lon = np.meshgrid(layer.latitude, layer.longitude, indexing="ij")
        points = (lat.ravel()[layer.mask.ravel()], lon.ravel()[layer.mask.ravel()])
        self.B = background_error.covariance(points, points)
        index, weights = arguments["index"][0], arguments["weights"][0]
        full = np.zeros((len(index), layer.mask.size))
        for k in range(4):
            np.add.at(full, (np.arange(len(index)), index[:, k]), weights[:, k])
        self.H = full[:, layer.mask.ravel()]
        self.R = np.diag(arguments["error_std"][0] ** 2)
        self.d = arguments["values"][0]

    def analysis(self, xf):
        S = self.H @ self.B @ self.H.T + self.R
        K = self.B @ self.H.T @ np.linalg.inv(S)
        A = self.B - K @ self.H @ self.B
        return xf + K @ (self.d - self.H @ xf), np.sqrt(np.diag(A))


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture
def small():
    """A basin of 6 x 7 cells with an island, 9 observations, and everything in float64."""
    rng = np.random.default_rng(7)
    latitude, longitude = np.linspace(40, 35, 6), np.linspace(-3, 3, 7)
    mask = np.ones((6, 7), bool)
    mask[2:4, 3] = False
    B = Gaussian(0.8, 200e3)
    layer = BLUE(B, latitude=latitude, longitude=longitude, periodic=False, mask=mask, dtype="float64")
    lat, lon = random_positions(latitude, longitude, mask, (1, 9), rng)
    obs = PointObservations(rng.normal(size=(1, 9)), lat, lon, error_std=rng.uniform(0.1, 0.5, 9), units="degC")
    xf = np.where(mask, rng.normal(size=(6, 7)), 0.0)[None, ..., None]
    arguments = layer.prepare(obs)
    return layer, obs, arguments, xf, Dense(layer, arguments, B)


@pytest.fixture
def field():
    """Three times of a smooth field with land, as a Dataset."""
    lat, lon = np.linspace(-10, 10, 11), np.linspace(0, 24, 13)
    time = np.datetime64("2001-01-01", "ns") + np.arange(3) * np.timedelta64(10, "D")
    mask = np.ones((11, 13), bool)
    mask[4:7, 5:7] = False
    values = 20 + np.cos(np.deg2rad(4 * lat))[:, None] * np.sin(np.deg2rad(9 * lon)) + np.arange(3)[:, None, None]
    return xr.Dataset(
        {
            "sst": (
                ("time", "lat", "lon"),
                np.where(mask, values, np.nan),
                {"units": "degC", "long_name": "temperature"},
            ),
            "wet": (("lat", "lon"), mask),
        },
        {
            "time": ("time", time, {"standard_name": "time"}),
            "lat": ("lat", lat, {"standard_name": "latitude", "units": "degrees_north"}),
            "lon": ("lon", lon, {"standard_name": "longitude", "units": "degrees_east"}),
        },
        {"title": "a field"},
    )


@pytest.fixture
def no_compute():
    """Return a context in which any dask computation is an error."""

    def refuse(dsk, keys, **kwargs):
        raise RuntimeError("dask computed")

    return lambda: dask.config.set(scheduler=refuse)
