"""Where a field lies: axes found through their CF metadata, cell areas, masks."""

from __future__ import annotations

import numpy as np
import xarray as xr

from physml._errors import closest, describe

EARTH_RADIUS = 6_371_229.0
"""Radius of the spherical Earth [m], as in GRIB edition 2, code table 3.2, value 6."""


def variable(ds: xr.Dataset, name: str, role: str) -> xr.DataArray:
    """Return ``ds[name]``, or say what there is instead.

    Raises
    ------
    KeyError
        Where the Dataset has no such variable; the nearest name is offered.
    """
    if name not in ds.variables:
        names = [str(n) for n in ds.variables]
        raise KeyError(
            describe(
                f"{role} {name!r} is not in the Dataset{closest(name, names)}",
                expected=f"a variable or coordinate named {name!r}",
                received=", ".join(sorted(names)) or "no variables",
                remedy="correct the name or ds.rename(...)",
            )
        )
    return ds[name]


def latitude_longitude(ds: xr.Dataset | xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the latitude and longitude coordinates, found by their CF metadata or their usual names.

    Raises
    ------
    ValueError
        Where one of them cannot be found.
    """
    import cf_xarray  # noqa: F401  registers the accessor

    found = []
    for key, names in (
        ("latitude", ("lat", "latitude", "nav_lat")),
        ("longitude", ("lon", "longitude", "nav_lon")),
    ):
        try:
            found.append(ds.cf[key])
            continue
        except KeyError:
            pass
        match = [n for n in names if n in ds.coords]
        if not match:
            raise ValueError(
                describe(
                    f"no {key} in the data",
                    expected=f"a coordinate with standard_name '{key}', CF units, or one of the names {names}",
                    received=", ".join(str(c) for c in ds.coords) or "no coordinates",
                    remedy=f"ds.coords[name].attrs['standard_name'] = '{key}'",
                )
            )
        found.append(ds.coords[match[0]])
    return found[0], found[1]


def _edges(centres: np.ndarray) -> np.ndarray:
    inner = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate([[2 * centres[0] - inner[0]], inner, [2 * centres[-1] - inner[-1]]])


def cell_area(ds: xr.Dataset | xr.DataArray, radius: float = EARTH_RADIUS) -> xr.DataArray:
    """Return the area of every cell of a regular latitude-longitude grid [m2].

    Cell edges lie half way between centres and are cut at the poles, so a global grid sums to ``4 pi radius**2``.

    Parameters
    ----------
    ds
        Data with one-dimensional latitude and longitude [degrees].
    radius
        Radius of the sphere [m].

    Returns
    -------
    xarray.DataArray
        ``cell_area`` [m2] on (latitude, longitude), float64.

    Raises
    ------
    ValueError
        For curvilinear grids, and grids with a single latitude or longitude.

    Examples
    --------
    >>> grid = xr.Dataset(coords={"lat": np.arange(-88.0, 90, 4), "lon": np.arange(0.0, 360, 5)})
    >>> round(float(cell_area(grid).sum()) / (4 * np.pi * EARTH_RADIUS**2), 12)
    1.0
    """
    lat, lon = latitude_longitude(ds)
    if lat.ndim != 1 or lon.ndim != 1 or lat.size < 2 or lon.size < 2:
        raise ValueError(
            describe(
                "cell areas need a regular grid",
                expected="one-dimensional latitude and longitude of two or more points",
                received=f"latitude {lat.shape}, longitude {lon.shape}",
                remedy="give the area as a variable of the Dataset and name it: area='cell_area'",
            )
        )
    sines = np.sin(np.deg2rad(np.clip(_edges(lat.values.astype("float64")), -90, 90)))
    widths = np.deg2rad(np.abs(np.diff(_edges(lon.values.astype("float64")))))
    area = radius**2 * np.abs(np.diff(sines))[:, None] * widths[None, :]
    return xr.DataArray(
        area,
        dims=(*lat.dims, *lon.dims),
        coords={lat.dims[0]: lat, lon.dims[0]: lon},
        name="cell_area",
        attrs={"units": "m2", "standard_name": "cell_area", "long_name": "area of the grid cell"},
    )


def finite_mask(field: xr.DataArray, dim: str | tuple[str, ...] = "time") -> xr.DataArray:
    """Return the cells that are never missing along *dim* (True), lazily where *field* is lazy.

    Examples
    --------
    >>> sst = xr.DataArray([[np.nan, 1.0], [np.nan, np.nan]], dims=("time", "x"))
    >>> finite_mask(sst).values
    array([False, False])
    """
    dims = [dim] if isinstance(dim, str) else list(dim)
    mask = field.notnull().all([d for d in dims if d in field.dims])
    mask.attrs = {"long_name": f"cells where {field.name} is never missing", "flag_meanings": "masked valid"}
    return mask.rename("mask")
