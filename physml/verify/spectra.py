"""Power spectra along circles and lines, and on planes: which scales a field has, and which a forecast has lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.grid import latitude_longitude
from physml.provenance import parse_units


def power_spectrum(data: xr.DataArray, dim: str, *, periodic: bool) -> xr.DataArray:
    """Return the variance along a dimension by wavenumber; its sum is the variance.

    Parameters
    ----------
    data
        Evenly spaced along *dim*, without missing values; other dimensions are kept. Average over them afterwards.
    dim
        The dimension.
    periodic
        True: the field goes round, and its spectrum is exact. False: trend and ends are taken out, by a line and by Hann's
        window, and the sum is the variance on average only.

    Returns
    -------
    DataArray
        Power on (wavenumber), waves in the length of the dimension from 1 on, in squared units of the data, of both signs
        together. The coordinate ``frequency`` is the same per unit of the coordinate.

    Raises
    ------
    ValueError
        Where *dim* is no dimension, has less than two points, is not evenly spaced, or values are missing.

    References
    ----------
    Blackman, R. B. and Tukey, J. W. (1958), doi:10.1002/j.1538-7305.1958.tb03874.x.

    Examples
    --------
    >>> x = xr.DataArray(np.cos(2 * np.pi * 3 * np.arange(16) / 16), dims="lon")
    >>> power_spectrum(x, "lon", periodic=True).values.round(9).tolist()
    [0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    if dim not in data.dims or data.sizes[dim] < 2:
        refuse(
            f"no spectrum along {dim!r}", f"one of {data.dims} with two points or more", dict(data.sizes), "correct dim"
        )
    n = data.sizes[dim]
    spacing, per = _spacing(data, dim)

    def power(x: np.ndarray) -> np.ndarray:
        x = _finite(x) if periodic else _tapered(_finite(x))
        folded = np.abs(np.fft.rfft(x, axis=-1)[..., 1:] / n) ** 2 * 2
        if n % 2 == 0:
            folded[..., -1] /= 2  # the shortest wave is its own mirror image
        return folded

    out = xr.apply_ufunc(
        power,
        data.chunk({dim: -1}) if data.chunks else data,
        input_core_dims=[[dim]],
        output_core_dims=[["wavenumber"]],
        dask="parallelized",
        dask_gufunc_kwargs={"output_sizes": {"wavenumber": n // 2}},
        output_dtypes=["float64"],
    )
    waves = np.arange(1, n // 2 + 1)
    out = out.assign_coords(
        wavenumber=("wavenumber", waves, {"long_name": f"waves in the length of {dim}", "units": "1"}),
        frequency=("wavenumber", waves / (n * spacing), {"long_name": f"frequency along {dim}", **per}),
    )
    out.attrs = _power_attrs(data)
    return out.rename("power")


def zonal_spectrum(data: xr.DataArray, *, latitudes: tuple[float, float] | None = None) -> xr.DataArray:
    """Return the variance along circles of latitude by zonal wavenumber, averaged over latitudes by their length.

    Parameters
    ----------
    data
        On a whole circle of longitudes, evenly spaced, without missing values; other dimensions are kept.
    latitudes
        Southern and northern end of the band that is averaged [degrees]; None: all latitudes.

    Returns
    -------
    DataArray
        Power on (wavenumber), waves around the circle, in squared units of the data.

    Raises
    ------
    ValueError
        Where there is no latitude and longitude of one dimension each, the circle is not whole, no latitude lies in the band, or
        as :func:`power_spectrum`.

    References
    ----------
    Boer, G. J. and Shepherd, T. G. (1983), doi:10.1175/1520-0469(1983)040<0164:LSTDTI>2.0.CO;2.

    Examples
    --------
    >>> lat, lon = xr.DataArray([-30.0, 30.0], dims="lat"), xr.DataArray(np.arange(0.0, 360, 45), dims="lon")
    >>> wave = (0 * lat + np.cos(np.deg2rad(2 * lon))).assign_coords(lat=lat, lon=lon)
    >>> zonal_spectrum(wave).values.round(9).tolist()
    [0.0, 0.5, 0.0, 0.0]
    """
    lat, lon = latitude_longitude(data)
    if lat.ndim != 1 or lon.ndim != 1:
        refuse("zonal spectra need circles of latitude", "a regular grid", f"{lat.dims}, {lon.dims}", "regrid first")
    name = str(lon.dims[0])
    spacing = _spacing(data.assign_coords({name: lon.values}), name)[0]
    if abs(lon.size * spacing - 360) > 1e-3 * 360:
        refuse(
            "the circle of longitudes is not whole",
            "360 degrees",
            f"{lon.size} longitudes over {lon.size * spacing:g} degrees",
            f"power_spectrum(data, {name!r}, periodic=False)",
        )
    if latitudes is not None:
        inside = (lat >= min(latitudes)) & (lat <= max(latitudes))
        if not bool(inside.any()):
            refuse(
                "no latitude lies in the band", f"{float(lat.min()):g} to {float(lat.max()):g}", latitudes, "widen it"
            )
        data = data.isel({lat.dims[0]: np.flatnonzero(inside.values)})
        lat = lat[inside.values]
    power = power_spectrum(data, name, periodic=True)
    length = lat.copy(data=np.cos(np.deg2rad(lat.values)).clip(min=0.0))
    out = power.weighted(length).mean([lat.dims[0]], keep_attrs=True)
    out["wavenumber"].attrs = {"long_name": "zonal wavenumber", "units": "1"}
    return out


def isotropic_spectrum(data: xr.DataArray, dims: Sequence[str], *, periodic: bool | Mapping[str, bool]) -> xr.DataArray:
    """Return the variance on a plane by the length of the wave, whatever its direction; its sum is the variance.

    Parameters
    ----------
    data
        Evenly spaced along both dimensions, without missing values; other dimensions are kept.
    dims
        The two dimensions of the plane; where they have coordinates, in the same units.
    periodic
        Of both, or of each by name. Where False, as in :func:`power_spectrum`: a line and Hann's window take out trend and ends.

    Returns
    -------
    DataArray
        Power on (wavenumber), waves in the longer of the two sides, in squared units of the data. The coordinate ``frequency``
        is the same per unit of the coordinates; ``whole`` tells the rings that the grid resolves in every direction.

    Raises
    ------
    ValueError
        As :func:`power_spectrum`, and where the units of the two coordinates differ.

    References
    ----------
    Errico, R. M. (1985), doi:10.1175/1520-0493(1985)113<1554:SCFALA>2.0.CO;2.

    Examples
    --------
    >>> x = 2 * np.pi * xr.DataArray(np.arange(8) / 8, dims="x")
    >>> y = 2 * np.pi * xr.DataArray(np.arange(8) / 8, dims="y")
    >>> isotropic_spectrum(np.cos(2 * x) + 0 * y, ("y", "x"), periodic=True).values.round(9).tolist()
    [0.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    """
    plane = list(dims)
    if len(plane) != 2 or any(d not in data.dims or data.sizes[d] < 2 for d in plane):
        refuse(
            f"no plane along {plane}", f"two of {data.dims}, of two points or more", dict(data.sizes), "correct dims"
        )
    goes_round = dict.fromkeys(plane, periodic) if isinstance(periodic, bool) else dict(periodic)
    if set(goes_round) != set(plane):
        refuse("periodic does not tell of both dimensions", plane, list(goes_round), "periodic={dim: True or False}")
    (dy, per), (dx, other) = (_spacing(data, d) for d in plane)
    if per != other:
        refuse("the coordinates of the plane have different units", per["units"], other["units"], "convert one of them")
    ny, nx = (data.sizes[d] for d in plane)
    side = max(ny * dy, nx * dx)
    ky, kx = np.fft.fftfreq(ny, dy)[:, None], np.fft.rfftfreq(nx, dx)
    ring = np.rint(side * np.hypot(ky, kx)).astype(int)
    last = int(ring.max())
    twice = np.full(ring.shape, 2.0)
    twice[:, 0] = 1.0
    if nx % 2 == 0:
        twice[:, -1] = 1.0

    def power(x: np.ndarray) -> np.ndarray:
        x = _finite(x)
        for axis, dim in ((-2, plane[0]), (-1, plane[1])):
            if not goes_round[dim]:
                x = np.moveaxis(_tapered(np.moveaxis(x, axis, -1)), -1, axis)
        x = x - x.mean((-2, -1), keepdims=True)
        squared = np.abs(np.fft.rfft2(x) / (ny * nx)) ** 2 * twice
        flat = squared.reshape(-1, ring.size)
        sums = (
            np.stack([np.bincount(ring.ravel(), row, last + 1) for row in flat])
            if len(flat)
            else np.zeros((0, last + 1))
        )
        return sums[:, 1:].reshape(*x.shape[:-2], last)

    out = xr.apply_ufunc(
        power,
        data.chunk(dict.fromkeys(plane, -1)) if data.chunks else data,
        input_core_dims=[plane],
        output_core_dims=[["wavenumber"]],
        dask="parallelized",
        dask_gufunc_kwargs={"output_sizes": {"wavenumber": last}},
        output_dtypes=["float64"],
    )
    waves = np.arange(1, last + 1)
    whole = waves + 0.5 <= side * min(0.5 / dy, 0.5 / dx) + 0.5
    out = out.assign_coords(
        wavenumber=("wavenumber", waves, {"long_name": "waves in the longer side", "units": "1"}),
        frequency=("wavenumber", waves / side, {"long_name": "frequency", **per}),
        whole=("wavenumber", whole, {"long_name": "whether resolved in every direction"}),
    )
    out.attrs = _power_attrs(data)
    return out.rename("power")


def _power_attrs(data: xr.DataArray) -> dict[str, str]:
    units = str(data.attrs.get("units", ""))
    name = data.attrs.get("long_name") or data.name or "the field"
    return {"long_name": f"power of {name}"} | ({"units": _squared(units)} if units else {})


def _finite(x: np.ndarray) -> np.ndarray:
    if not np.isfinite(x).all():
        refuse("a spectrum needs all values", "finite values", "NaN or inf", "fill them, or select without")
    return x.astype("float64")


def _tapered(x: np.ndarray) -> np.ndarray:
    """Return the last axis without its line, under Hann's window, at the same variance."""
    n = x.shape[-1]
    t = np.arange(n) - (n - 1) / 2
    trend = (x @ t / (t @ t))[..., None] * t
    window = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
    x = (x - x.mean(-1, keepdims=True) - trend) * window
    return (x - x.mean(-1, keepdims=True)) / np.sqrt((window**2).mean())


def _spacing(data: xr.DataArray, dim: str) -> tuple[float, dict[str, str]]:
    """Return the distance of two points and the units of its inverse; without a coordinate of numbers 1."""
    if dim not in data.coords or data[dim].dtype.kind not in "iufmM":
        return 1.0, {"units": "1"}
    values = data[dim].values
    units = str(data[dim].attrs.get("units", "1"))
    if values.dtype.kind in "mM":
        values, units = (values - values[0]) / np.timedelta64(1, "D"), "d"
    gaps = np.diff(np.asarray(values, "float64"))
    if not np.allclose(gaps, gaps.mean(), rtol=1e-3, atol=0):
        refuse(f"{dim} is not evenly spaced", "one spacing", f"{gaps.min():g} to {gaps.max():g}", "interpolate first")
    return abs(float(gaps.mean())), {"units": "1" if units == "1" else f"1/({units})"}


def _squared(units: str) -> str:
    try:
        return f"{parse_units(units) ** 2:cf}" or "1"
    except ValueError:
        return f"({units})2"
