"""The operator H that takes a field on a latitude-longitude grid to points, and what else is done on such a grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from physml import grid
from physml._errors import refuse
from physml.assimilation.times import find_time


@dataclass(frozen=True, eq=False)
class Interpolation:
    """H at m points: each is the weighted mean of four cells; weights of zero mean that the point has no value.

    ``index [..., m, 4]`` counts cells of the flattened (latitude, longitude) grid; ``weights [..., m, 4]`` sum to 1 or 0.
    """

    index: np.ndarray
    weights: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """True where the point has a value, ``[..., m]``."""
        return np.any(self.weights > 0, axis=-1)


WAYS = (("latitude", "north"), ("longitude", "east"))


def bilinear(
    grid_latitude: Any,
    grid_longitude: Any,
    mask: Any,
    latitude: Any,
    longitude: Any,
    *,
    periodic: bool,
    outside: str = "drop",
) -> Interpolation:
    """Return H, the bilinear interpolation from the wet cells of a regular grid to points.

    The weights of dry corners, and of corners that the grid lacks at its edge, go to the other corners in proportion.
    A point with no wet corner, or outside all cells, has weights of zero.

    Parameters
    ----------
    grid_latitude, grid_longitude
        Centres of the cells [degrees], one-dimensional, ascending or descending.
    mask
        True on wet cells, ``[latitude, longitude]``; None: all are wet.
    latitude, longitude
        Positions [degrees], ``[..., m]``; NaN for padding.
    periodic
        Whether the first and the last longitude are neighbours.
    outside
        ``"drop"``: points without a value get weights of zero. ``"error"``: they raise an error.

    Returns
    -------
    Interpolation
        ``index [..., m, 4]`` int32 and ``weights [..., m, 4]`` float64.

    Raises
    ------
    ValueError
        For grids that are not regular or not periodic as stated, and for points without a value under ``"error"``.

    Examples
    --------
    >>> H = bilinear([0, 1], [0, 1, 2], None, [0.5], [1.25], periodic=False)
    >>> H.index[0].tolist(), H.weights[0].tolist()
    ([1, 2, 4, 5], [0.375, 0.125, 0.375, 0.125])
    """
    if outside not in ("drop", "error"):
        refuse("outside is unknown", "'drop' or 'error'", repr(outside), "choose what happens to points on land")
    lat, lon = (np.asarray(a, "float64") for a in (grid_latitude, grid_longitude))
    for name, axis in (("latitude", lat), ("longitude", lon)):
        steps = np.diff(axis) if axis.ndim == 1 else np.array([])
        if not steps.size or not ((steps > 0).all() or (steps < 0).all()):
            expected = "one dimension, two or more points, ascending or descending"
            refuse(f"grid {name} is not regular", expected, f"shape {axis.shape}", "sort it, or interpolate the field")
    wet = np.ones((lat.size, lon.size), bool) if mask is None else np.asarray(mask, bool)
    if wet.shape != (lat.size, lon.size):
        refuse("mask does not fit the grid", (lat.size, lon.size), wet.shape, "transpose it to (latitude, longitude)")
    y, x = np.broadcast_arrays(np.asarray(latitude, "float64"), np.asarray(longitude, "float64"))
    rows, row_weights = between(lat, y, None)
    columns, column_weights = between(lon, x, 360.0 if periodic else None, wrap=True)
    index = rows[..., :, None] * lon.size + columns[..., None, :]
    weights = row_weights[..., :, None] * column_weights[..., None, :] * wet.ravel()[index]
    index, weights = (a.reshape(*y.shape, 4) for a in (index, weights))
    total = weights.sum(axis=-1, keepdims=True)
    weights = np.where(total > 1e-9, weights / np.where(total > 1e-9, total, 1), 0.0)
    lost = ~weights.any(axis=-1) & np.isfinite(y) & np.isfinite(x)
    if outside == "error" and lost.any():
        what = f"{lost.sum()} of {lost.size} observations lie on land or outside the grid"
        received = f"{y[lost][0]:g} N, {x[lost][0]:g} E first"
        refuse(what, "points with a wet cell beside them", received, "pass outside='drop', or correct them")
    return Interpolation(index.astype("int32"), weights)


def between(axis: np.ndarray, x: np.ndarray, period: float | None, wrap: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the two neighbours of each x on an axis and their weights, ``[..., 2]``; zero beyond the outer cells."""
    order = np.argsort(axis)
    centres = axis[order]
    first, last = centres[0] - 0.5 * (centres[1] - centres[0]), centres[-1] + 0.5 * (centres[-1] - centres[-2])
    if wrap:
        start = centres[0] if period else first
        x = np.mod(x - start, 360.0) + start
    if period:
        gap = centres[0] + period - centres[-1]
        if not 0 < gap < 1.5 * np.diff(centres).max():
            received = f"{gap:g} degrees from the last longitude to the first"
            refuse(
                "the grid is not periodic", "a gap of one cell", received, "periodic=False, or drop a repeated column"
            )
        centres, order = np.append(centres, centres[0] + period), np.append(order, order[0])
    lower = np.clip(np.searchsorted(centres, np.nan_to_num(x), side="right") - 1, -1, centres.size - 1)
    if period:
        lower = np.clip(lower, 0, centres.size - 2)
    low, high = np.clip(lower, 0, None), np.clip(lower + 1, None, centres.size - 1)
    width = centres[high] - centres[low]
    fraction = np.where(width > 0, (x - centres[low]) / np.where(width > 0, width, 1), 0.0)
    # In the outer half of an edge cell one of the two neighbours is missing.
    weights = np.stack([np.where(lower < 0, 0, 1 - fraction), np.where(lower < 0, 1, fraction)], axis=-1)
    slack = 1e-6 * np.diff(centres).min()
    inside = np.isfinite(x) & ((x >= first - slack) & (x <= last + slack) | bool(period))
    return np.stack([order[low], order[high]], axis=-1), np.where(inside[..., None], weights, 0.0)


def observe(
    ds: xr.Dataset,
    variable: str,
    latitude: Any,
    longitude: Any,
    *,
    periodic: bool,
    mask: Any = None,
    outside: str = "drop",
) -> xr.DataArray:
    """Return H x: a gridded variable at points, lazily where the Dataset is lazy.

    Parameters
    ----------
    ds
        Holds *variable* on (..., latitude, longitude).
    variable
        Name of the variable to sample.
    latitude, longitude
        Positions [degrees], ``[obs]``, or ``[time, obs]`` with one row for each time of the variable.
    periodic, mask, outside
        As for :func:`bilinear`; *mask* may be a DataArray or the name of a variable, and is loaded.

    Returns
    -------
    xarray.DataArray
        (..., obs), with the attributes of the variable and the coordinates latitude and longitude; NaN where the point
        has no value.
    """
    field, lat, lon, wet = labelled_field(ds, variable, mask)
    at_lat, at_lon = np.broadcast_arrays(np.asarray(latitude, "float64"), np.asarray(longitude, "float64"))
    when = find_time(field)
    dims = ("obs",) if at_lat.ndim == 1 or when is None else (str(when.dims[0]), "obs")
    if at_lat.ndim != len(dims) or (len(dims) == 2 and at_lat.shape[0] != field.sizes[dims[0]]):
        expected = f"[obs], or one row for each time of {variable!r} {dict(field.sizes)}"
        refuse("positions do not fit the variable", expected, at_lat.shape, "pass one row of positions for all times")
    operator = bilinear(field[lat], field[lon], wet, at_lat, at_lon, periodic=periodic, outside=outside)
    sampled = sample(field, lat, lon, operator, dims)
    places = {
        key: (dims, at, {"standard_name": key, "units": f"degrees_{way}"})
        for (key, way), at in zip(WAYS, (at_lat, at_lon), strict=True)
    }
    return sampled.assign_coords(places).assign_attrs(field.attrs).rename(variable)


def sample(field: xr.DataArray, lat: str, lon: str, operator: Interpolation, dims: tuple[str, ...]) -> xr.DataArray:
    """Return H x on the dimensions of *field* without space, and those of the points, lazily."""
    corners = (*dims, "_corner")

    def gather(values: np.ndarray, index: np.ndarray, weights: np.ndarray) -> np.ndarray:
        flat = values.reshape(*values.shape[:-2], -1)
        shape = np.broadcast_shapes(flat.shape[:-1], index.shape[:-2])
        flat = np.broadcast_to(flat, (*shape, flat.shape[-1]))
        index = np.broadcast_to(index, (*shape, *index.shape[-2:]))
        corner = np.take_along_axis(flat, index.reshape(*shape, -1), axis=-1).reshape(index.shape)
        # A dry corner holds NaN, and NaN times zero is NaN.
        result = np.where(weights > 0, corner * weights, 0.0).sum(axis=-1)
        return np.where(weights.any(axis=-1), result, np.nan)

    return xr.apply_ufunc(
        gather,
        whole(field, lat, lon),
        xr.DataArray(operator.index, dims=corners),
        xr.DataArray(operator.weights, dims=corners),
        input_core_dims=[[lat, lon], [dims[-1], "_corner"], [dims[-1], "_corner"]],
        output_core_dims=[[dims[-1]]],
        dask="parallelized",
        output_dtypes=["float64"],
    )


def random_positions(
    latitude: Any, longitude: Any, mask: Any, size: int | tuple[int, ...], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return *size* latitudes and longitudes [degrees], drawn uniformly by area from the wet cells of a regular grid.

    Examples
    --------
    >>> random_positions([0.0, 1.0], [10.0, 11.0], None, (3, 5), np.random.default_rng(0))[0].shape
    (3, 5)
    """
    lat, lon = (np.asarray(a, "float64") for a in (latitude, longitude))
    wet = np.ones((lat.size, lon.size), bool) if mask is None else np.asarray(mask, bool)
    chance = (wet * np.cos(np.deg2rad(lat))[:, None]).ravel()
    if not chance.any():
        refuse("the mask has no wet cell", "True on wet cells", "all False", "invert the mask")
    j, i = np.unravel_index(rng.choice(wet.size, size=size, p=chance / chance.sum()), wet.shape)
    jitter = rng.uniform(-0.5, 0.5, (2, *j.shape))
    y = lat[j] + jitter[0] * np.abs(np.gradient(lat))[j]
    return np.clip(y, -90, 90), lon[i] + jitter[1] * np.abs(np.gradient(lon))[i]


def labelled_field(ds: xr.Dataset, variable: str, mask: Any) -> tuple[xr.DataArray, str, str, np.ndarray]:
    """Return a variable as (..., latitude, longitude), the names of these two, and the mask of wet cells."""
    field = grid.variable(ds, variable, "variable")
    latitude, longitude = grid.latitude_longitude(field)
    if latitude.ndim != 1 or longitude.ndim != 1:
        received = f"latitude {latitude.dims}, longitude {longitude.dims}"
        refuse("the grid is not regular", "one-dimensional latitude and longitude", received, "interpolate the field")
    lat, lon = str(latitude.dims[0]), str(longitude.dims[0])
    field = field.transpose(..., lat, lon)
    if isinstance(mask, str):
        mask = grid.variable(ds, mask, "mask")
    if isinstance(mask, xr.DataArray):
        mask = mask.transpose(lat, lon).values
    shape = (field.sizes[lat], field.sizes[lon])
    wet = np.ones(shape, bool) if mask is None else np.asarray(mask).astype(bool)
    if wet.shape != shape:
        refuse("mask does not fit the grid", shape, wet.shape, "give it the dimensions of the field in space")
    return field, lat, lon, wet


def whole(field: xr.DataArray, *dims: str) -> xr.DataArray:
    """Return *field* with one chunk along *dims*; an array in memory is left alone."""
    return field if field.chunks is None else field.chunk(dict.fromkeys(dims, -1))
