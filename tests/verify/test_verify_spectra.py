"""Spectra hold the variance, each wave in its place, along circles and on planes."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

from physml import verify


def raising_scheduler(*args, **kwargs):
    raise AssertionError("computed too early")


def globe(seed: int = 0) -> xr.DataArray:
    rng = np.random.default_rng(seed)
    lat, lon = np.arange(-75.0, 76, 30), np.arange(0.0, 360, 22.5)
    return xr.DataArray(
        rng.normal(size=(3, 6, 16)),
        {"time": [0, 1, 2], "lat": lat, "lon": lon},
        ("time", "lat", "lon"),
        "z",
        {"units": "m"},
    )


def test_a_zonal_wave_has_its_variance_at_its_number_weighted_by_the_circles():
    data = globe()
    wave = np.cos(np.deg2rad(3 * data.lon)) * xr.where(data.lat > 0, 2.0, 1.0)
    power = verify.zonal_spectrum(wave.transpose("lat", "lon"))
    np.testing.assert_allclose(power.sel(wavenumber=3), 0.5 * (4 + 1) / 2)
    assert abs(power.drop_sel(wavenumber=3)).max() < 1e-12
    north = verify.zonal_spectrum(wave.transpose("lat", "lon"), latitudes=(0, 90))
    np.testing.assert_allclose(north.sel(wavenumber=3), 2.0)


def test_the_zonal_spectrum_sums_to_the_mean_variance_along_circles():
    data = globe()
    power = verify.zonal_spectrum(data)
    assert power.dims == ("time", "wavenumber")
    expected = data.var("lon").weighted(np.cos(np.deg2rad(data.lat))).mean("lat")
    np.testing.assert_allclose(power.sum("wavenumber"), expected, rtol=1e-12)
    assert power.attrs == {"long_name": "power of z", "units": "m2"}
    assert power.wavenumber.attrs["long_name"] == "zonal wavenumber"


@pytest.mark.parametrize("sizes", [(16, 16), (9, 14), (12, 7)])
def test_the_isotropic_spectrum_holds_the_whole_variance(sizes):
    data = xr.DataArray(
        np.random.default_rng(1).normal(size=(2, *sizes)), dims=("time", "y", "x"), attrs={"units": "K"}
    )
    power = verify.isotropic_spectrum(data, ("y", "x"), periodic=True)
    np.testing.assert_allclose(power.sum("wavenumber"), data.var(("y", "x")), rtol=1e-12)
    turned = verify.isotropic_spectrum(data, ("x", "y"), periodic=True)
    np.testing.assert_allclose(turned, power, rtol=1e-9, atol=1e-15)


def test_a_wave_on_a_plane_lies_on_its_ring_whatever_its_direction():
    y, x = (xr.DataArray(np.arange(n) * 5.0, dims=d, coords={d: np.arange(n) * 5.0}) for d, n in (("y", 20), ("x", 40)))
    for d in (y, x):
        d[d.dims[0]].attrs["units"] = "km"
    side = 200.0
    for ky, kx, ring in ((0, 6, 6), (6, 0, 6), (6, 8, 10)):
        wave = np.sin(2 * np.pi * (ky * y + kx * x) / side)
        power = verify.isotropic_spectrum(wave, ("y", "x"), periodic=True)
        assert power.sel(wavenumber=ring).item() == pytest.approx(0.5)
        assert power.sum().item() == pytest.approx(0.5)
    assert power.frequency.sel(wavenumber=10).item() == pytest.approx(0.05)
    assert power.frequency.attrs["units"] == "1/(km)"
    assert power.whole.sel(wavenumber=20).item()
    assert not power.whole[-1].item()


def test_white_noise_without_periodicity_keeps_its_variance_on_average():
    data = xr.DataArray(np.random.default_rng(3).normal(size=(300, 24, 24)), dims=("run", "y", "x"))
    trend = data + 3.0 * data.y * xr.ones_like(data.x) + 100.0
    for field in (data, trend):
        power = verify.isotropic_spectrum(field, ("y", "x"), periodic=False).mean("run")
        assert power.sum().item() == pytest.approx(0.9, abs=0.12)
        mixed = verify.isotropic_spectrum(field, ("y", "x"), periodic={"y": False, "x": True}).mean("run")
        assert mixed.sum().item() == pytest.approx(0.95, abs=0.1)


def test_lazy_equals_eager_and_computes_nothing():
    data = globe()
    with dask.config.set(scheduler=raising_scheduler):
        lazy = data.chunk(time=1, lat=2, lon=5)
        found = [
            verify.zonal_spectrum(lazy),
            verify.isotropic_spectrum(lazy, ("lat", "lon"), periodic={"lat": False, "lon": True}),
        ]
    eager = [
        verify.zonal_spectrum(data),
        verify.isotropic_spectrum(data, ("lat", "lon"), periodic={"lat": False, "lon": True}),
    ]
    for a, b in zip(found, eager, strict=True):
        assert a.chunks is not None
        xr.testing.assert_allclose(a.compute(scheduler="synchronous"), b)


DATA = globe()
REFUSED = {
    "half a circle": (
        lambda: verify.zonal_spectrum(DATA[..., :8]),
        "circle of longitudes is not whole.*8 longitudes over 180",
    ),
    "an empty band": (lambda: verify.zonal_spectrum(DATA, latitudes=(80, 90)), "no latitude lies in the band"),
    "land": (lambda: verify.zonal_spectrum(DATA.where(DATA > 0)), "a spectrum needs all values"),
    "one dimension": (lambda: verify.isotropic_spectrum(DATA, ["lat"], periodic=True), "no plane along"),
    "one boundary": (
        lambda: verify.isotropic_spectrum(DATA, ["lat", "lon"], periodic={"lat": True}),
        "of both dimensions",
    ),
    "land on the plane": (
        lambda: verify.isotropic_spectrum(DATA.where(DATA > 0), ["lat", "lon"], periodic=True),
        "a spectrum needs all values",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_spectrum_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()
