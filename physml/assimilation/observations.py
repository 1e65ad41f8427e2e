"""Observations at points, and the operator H that takes a field on a latitude-longitude grid to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import xarray as xr

from physml import grid
from physml._errors import describe


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


_WAYS = (("latitude", "north"), ("longitude", "east"))


@dataclass(frozen=True, eq=False)
class PointObservations:
    """Observations at points, of one variable.

    Either a table, every argument ``[obs]``, or one row of fixed width for every time, ``[time, obs]``. NaN in
    *values* marks a missing observation, so that ragged rows are padded with NaN.

    Parameters
    ----------
    values
        Observed values d.
    latitude, longitude
        Positions [degrees], broadcast to *values*; longitudes may count from -180 or from 0.
    time
        Dates (datetime64 or cftime), durations (timedelta64) or seconds; ``[obs]`` for a table, ``[time]`` for rows,
        or one for all.
    error_std
        Standard deviation of the observation error, sigma_o, in the units of *values*; broadcast to *values*.
    units
        Units of *values*, compared with those of the field. None is not compared.
    variable
        Name of the observed variable.
    dims
        Names of the dimensions of *values*.

    Raises
    ------
    ValueError
        For shapes that do not fit, latitudes beyond the poles, infinite values, errors that are not positive.

    Examples
    --------
    >>> obs = PointObservations([20.5, np.nan], latitude=[0.0, 1.0], longitude=[-30.0, 330.0], error_std=0.4)
    >>> obs.count, obs.dims
    (1, ('obs',))
    """

    values: Any
    latitude: Any
    longitude: Any
    time: Any = None
    error_std: Any = None
    units: str | None = None
    variable: str | None = None
    dims: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        values = np.asarray(self.values, "float64")
        if values.ndim not in (1, 2):
            refuse("observations have the wrong shape", "values [obs] or [time, obs]", values.shape, "reshape them")
        put: dict[str, Any] = {"values": values}
        for name in ("latitude", "longitude", "error_std"):
            given = getattr(self, name)
            if given is not None:
                put[name] = _fit(given, values.shape, name)
        beyond = put["latitude"][np.abs(put["latitude"]) > 90]
        if beyond.size:
            refuse("latitude is beyond the poles", "-90 to 90 degrees", f"{beyond[0]:g}", "is longitude first?")
        if np.isinf(values).any():
            refuse("observations are infinite", "finite values, NaN where missing", "inf", "replace inf by NaN")
        if (put.get("error_std", values * 0 + 1) <= 0).any():
            refuse("error_std is not positive", "> 0", f"{np.nanmin(put['error_std']):g}", "drop flagged observations")
        if self.time is not None:
            time = np.asarray(self.time)
            put["time"] = np.broadcast_to(time, values.shape[:1]) if time.ndim == 0 else time
            if put["time"].shape != values.shape[:1]:
                expected = f"{values.shape[:1]}, one for each {'row' if values.ndim == 2 else 'observation'}"
                refuse("time does not fit the observations", expected, time.shape, "pass one time for each")
        put["dims"] = self.dims or ("time", "obs")[-values.ndim :]
        for name, array in put.items():
            object.__setattr__(self, name, array)

    @classmethod
    def from_dataset(
        cls,
        ds: xr.Dataset,
        variable: str,
        *,
        error_std: Any = None,
        latitude: str | None = None,
        longitude: str | None = None,
        time: str | None = None,
    ) -> PointObservations:
        """Return the observations of *variable* in a Dataset of points.

        Parameters
        ----------
        ds
            Dimensions (obs,) or (time, obs), under any name. Latitude, longitude and time are found by their CF
            metadata or usual names, among coordinates and variables.
        variable
            Name of the observed variable; its attribute ``units`` is kept.
        error_std
            A number, an array, or the name of a variable.
        latitude, longitude, time
            Names, where they cannot be found.
        """
        values = grid.variable(ds, variable, "observed variable")
        places = ds.set_coords([n for n in ds.data_vars if n != variable and set(ds[n].dims) <= set(values.dims)])
        if latitude is not None and longitude is not None:
            lat, lon = (grid.variable(ds, n, "coordinate") for n in (latitude, longitude))
        else:
            lat, lon = grid.latitude_longitude(places)
        when = grid.variable(ds, time, "coordinate") if time is not None else find_time(places)
        if values.ndim == 2 and when is not None:
            values = values.transpose(when.dims[0], ...) if when.ndim else values
        std = grid.variable(ds, error_std, "error_std") if isinstance(error_std, str) else error_std
        like = values.reset_coords(drop=True)

        def spread(field: xr.DataArray) -> np.ndarray:
            return field.reset_coords(drop=True).broadcast_like(like).transpose(*values.dims).values

        return cls(
            values=values.values,
            latitude=spread(lat),
            longitude=spread(lon),
            time=None if when is None else when.values,
            error_std=spread(std) if isinstance(std, xr.DataArray) else std,
            units=values.attrs.get("units"),
            variable=variable,
            dims=tuple(str(d) for d in values.dims),
        )

    def to_dataset(self) -> xr.Dataset:
        """Return the observations as a CF Dataset of points."""
        name, units = self.variable or "observation", {"units": self.units} if self.units else {}
        degrees = {k: {"standard_name": k, "units": f"degrees_{way}"} for k, way in _WAYS}
        ds = xr.Dataset(
            {name: (self.dims, self.values, {"long_name": f"observed {name}", **units})},
            {k: (self.dims, getattr(self, k), attrs) for k, attrs in degrees.items()},
        )
        if self.error_std is not None:
            ds[f"{name}_error"] = (self.dims, self.error_std, {"long_name": f"error std of {name}", **units})
        return ds if self.time is None else ds.assign_coords(time=(self.dims[:1], self.time, {"standard_name": "time"}))

    @property
    def count(self) -> int:
        """Number of observations that are not missing."""
        return int(np.isfinite(self.values).sum())

    def table(self) -> PointObservations:
        """Return the same observations as a table, one time for each."""
        if self.values.ndim == 1:
            return self
        time = None if self.time is None else np.repeat(self.time, self.values.shape[1])
        std = None if self.error_std is None else self.error_std.ravel()
        values, lat, lon = (a.ravel() for a in (self.values, self.latitude, self.longitude))
        return PointObservations(values, lat, lon, time, std, self.units, self.variable, ("obs",))

    def take(self, rows: np.ndarray) -> PointObservations:
        """Return rows of fixed width ``[time, obs]`` from a table; the index -1 gives a missing observation."""
        table, gap = self.table(), np.asarray(rows) < 0

        def pick(a: np.ndarray | None, fill: float) -> np.ndarray | None:
            return None if a is None else np.where(gap, fill, a[np.where(gap, 0, rows)] if a.size else fill)

        values, lat, lon = (pick(a, np.nan) for a in (table.values, table.latitude, table.longitude))
        return PointObservations(values, lat, lon, None, pick(table.error_std, 1.0), self.units, self.variable)

    def nearest(self, times: Any, tolerance: Any = 0.0) -> np.ndarray:
        """Return for every observation of the table the index of the nearest of *times*, or -1 beyond *tolerance*."""
        when, axis = seconds(self.table().time, like=times), seconds(times)
        order = np.argsort(axis)
        right = np.clip(np.searchsorted(axis[order], when), 1, max(axis.size - 1, 1))
        near = np.zeros(when.shape, "int64")
        if axis.size > 1:
            left_is_nearer = when - axis[order][right - 1] <= axis[order][right] - when
            near = order[np.where(left_is_nearer, right - 1, right)]
        # Dates and their differences are exact to far less than a millisecond.
        return np.where(np.abs(axis[near] - when) <= duration(tolerance) + 1e-3, near, -1)

    def at(self, times: Any, tolerance: Any = 0.0) -> PointObservations:
        """Return one row of fixed width for each of *times*: the observations nearest to it, within *tolerance*."""
        near = self.nearest(times, tolerance)
        rows = pad([np.flatnonzero(near == t) for t in range(np.size(times))])
        return replace(self.take(rows), time=np.atleast_1d(times))


def pad(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return ragged rows of indices as one array ``[row, width]``, filled with -1, at least one wide."""
    out = np.full((len(rows), max([1, *map(len, rows)])), -1, "int64")
    for row, indices in zip(out, rows, strict=True):
        row[: len(indices)] = indices
    return out


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
    rows, row_weights = _between(lat, y, None)
    columns, column_weights = _between(lon, x, 360.0 if periodic else None, wrap=True)
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


def _between(
    axis: np.ndarray, x: np.ndarray, period: float | None, wrap: bool = False
) -> tuple[np.ndarray, np.ndarray]:
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
        for (key, way), at in zip(_WAYS, (at_lat, at_lon), strict=True)
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


def find_time(obj: xr.Dataset | xr.DataArray) -> xr.DataArray | None:
    """Return the time coordinate: by CF metadata, by type, or by the name ``time``; None where there is none."""
    for name, coordinate in obj.coords.items():
        meant = coordinate.attrs.get("standard_name") == "time" or coordinate.attrs.get("axis") == "T"
        if meant or name == "time" or coordinate.dtype.kind == "M":
            return coordinate
    return None


def seconds(times: Any, like: Any = None) -> np.ndarray:
    """Return dates (from 1970), durations or numbers as seconds; they must be of one kind with *like*."""
    kinds = [_kind(t) for t in (times, times if like is None else like)]
    if kinds[0] != kinds[1]:
        what = "times of the observations and of the field are of different kinds"
        refuse(what, kinds[1], kinds[0], "convert one: ds.convert_calendar(...), or times - start")
    values = np.atleast_1d(np.asarray(times))
    if kinds[0] == "datetime64":
        return (values - np.datetime64("1970-01-01")) / np.timedelta64(1, "s")
    if kinds[0] == "timedelta64":
        return values / np.timedelta64(1, "s")
    if kinds[0].startswith("cftime"):
        from cftime import date2num

        since = "seconds since 1970-01-01"
        return np.asarray(date2num(values, since, calendar=values.flat[0].calendar), "float64")
    return values.astype("float64")


def _kind(times: Any) -> str:
    if times is None:
        return "no times"
    values = np.atleast_1d(np.asarray(times))
    if values.dtype.kind in "Mm":
        return str(values.dtype).partition("[")[0]
    if values.dtype.kind == "O" and values.size and hasattr(values.flat[0], "calendar"):
        return f"cftime ({values.flat[0].calendar})"
    return "numbers [s]"


def duration(value: Any) -> float:
    """Return a duration as seconds: numbers are seconds; strings and timedeltas are read by pandas ("30D")."""
    if isinstance(value, int | float | np.integer | np.floating):
        return float(value)
    return float(pd.Timedelta(value).total_seconds())


def _fit(given: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    if np.ndim(given) and np.shape(given) not in (shape, shape[-1:]):
        refuse(
            f"{name} does not fit the observations",
            f"one number, {shape[-1:]} or {shape}",
            np.shape(given),
            "transpose",
        )
    return np.broadcast_to(np.asarray(given, "float64"), shape)


def refuse(what: str, expected: object, received: object, remedy: str) -> NoReturn:
    """Raise a ValueError in the house form."""
    raise ValueError(describe(what, expected=expected, received=received, remedy=remedy))
