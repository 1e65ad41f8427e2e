"""Power spectra along one dimension: which scales a field has, and which a forecast has lost."""

from __future__ import annotations

import numpy as np
import xarray as xr

from physml._errors import refuse
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
        if not np.isfinite(x).all():
            refuse("a spectrum needs all values", "finite values", "NaN or inf", "fill them, or select without")
        x = x.astype("float64")
        if not periodic:
            t = np.arange(n) - (n - 1) / 2
            trend = (x @ t / (t @ t))[..., None] * t
            window = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
            x = (x - x.mean(-1, keepdims=True) - trend) * window
            x = x - x.mean(-1, keepdims=True)
            x = x / np.sqrt((window**2).mean())
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
    units = str(data.attrs.get("units", ""))
    name = data.attrs.get("long_name") or data.name or "the field"
    out.attrs = {"long_name": f"power of {name}"} | ({"units": _squared(units)} if units else {})
    return out.rename("power")


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
