"""Observations at points in space and time, ragged in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from physml import grid
from physml._errors import refuse
from physml.assimilation.observing.grids import WAYS, bilinear
from physml.assimilation.observing.rows import Observations, Rows, linear_rows
from physml.assimilation.times import duration, find_time, instants, seconds
from physml.assimilation.vector import StateVector


@dataclass(frozen=True, eq=False)
class PointObservations(Observations):
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
        Dates (datetime64, datetime, cftime, or in words), durations (timedelta64) or seconds; ``[obs]`` for a table, ``[time]`` for rows,
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
        if "error_std" in put:
            bad = np.isfinite(values) & ~(put["error_std"] > 0)
            if bad.any():
                received, remedy = f"{put['error_std'][bad][0]:g}", "drop flagged observations"
                refuse("error_std is not positive", "> 0", received, remedy)
            put["error_std"] = np.where(put["error_std"] > 0, put["error_std"], 1.0)
        if self.time is not None:
            time = instants(self.time)
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
        degrees = {k: {"standard_name": k, "units": f"degrees_{way}"} for k, way in WAYS}
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

    def when(self) -> Any:
        """Return the times of the observations that are not missing."""
        table = self.table()
        return None if table.time is None else table.time[np.isfinite(table.values)]

    def rows(self, state: StateVector, times: Any, *, tolerance: Any = 0.0, outside: str = "drop") -> Rows:
        """Return the observations by analysis time, with H by bilinear interpolation; see :class:`Observations`."""
        channel = state.channel(self)
        latitude, longitude, periodic = state.regular_grid("PointObservations")
        if len(state.space) != 2:
            remedy = "ColumnObservations(points, weights=...) says how the levels are seen"
            refuse("PointObservations: the state has more than two dimensions", "(lat, lon)", state.space, remedy)
        at = self.at(times, tolerance)
        place = (at.latitude, at.longitude)
        h = bilinear(latitude, longitude, state.wet, *place, periodic=periodic, outside=outside)
        given = (at.values, self.error(at.error_std), h.index, h.weights)
        return linear_rows(state, channel, *given, positions=state.on_sphere(*place), total=self.count)

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


def _fit(given: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    if np.ndim(given) and np.shape(given) not in (shape, shape[-1:]):
        refuse(
            f"{name} does not fit the observations",
            f"one number, {shape[-1:]} or {shape}",
            np.shape(given),
            "transpose",
        )
    return np.broadcast_to(np.asarray(given, "float64"), shape)
