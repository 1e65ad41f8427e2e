"""Observations on the grid of the model, with gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.assimilation.observing.observations import pad
from physml.assimilation.observing.rows import Observations, Rows, linear_rows, row_of
from physml.assimilation.times import find_time
from physml.assimilation.vector import StateVector


@dataclass(frozen=True, eq=False)
class GridObservations(Observations):
    """Observations of a variable on cells of the model's grid.

    Parameters
    ----------
    values
        DataArray with the dimensions of space and maybe time, NaN where there is no observation. Coordinates say which cells:
        some of them are enough (every other site);
        longitudes may count from -180 or from 0.
    error_std
        sigma_o: a number, or a DataArray broadcast to *values*; by default the attribute ``error_std`` of *values*.
    variable
        Name of the observed variable, by default that of *values*.
    units
        By default those of *values*.

    Raises
    ------
    ValueError
        For errors that are not positive; when used, for dimensions or coordinates that the grid does not have.

    Examples
    --------
    >>> field = xr.DataArray([[1.0, np.nan]], dims=("time", "site"), coords={"time": [0.05]}, name="x")
    >>> GridObservations(field, 0.5).when()
    array([0.05])
    """

    values: Any
    error_std: Any = None
    variable: str | None = None
    units: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.values, xr.DataArray):
            what = "GridObservations: the values have no labels"
            refuse(what, "an xarray.DataArray", type(self.values).__name__, "xr.DataArray(values, dims=(...))")
        values = self.values.astype("float64")
        if np.isinf(values).any():
            what = "GridObservations: observations are infinite"
            refuse(what, "finite values, NaN where missing", "inf", "replace by NaN")
        std = self.error(self.values.attrs.get("error_std") if self.error_std is None else self.error_std)
        std = std.reset_coords(drop=True) if isinstance(std, xr.DataArray) else xr.DataArray(float(std))
        if set(std.dims) - set(values.dims):
            what = "GridObservations: error_std does not fit the observations"
            refuse(what, values.dims, std.dims, "give it dimensions of the values")
        std = std.broadcast_like(values.reset_coords(drop=True)).transpose(*values.dims)
        bad = np.isfinite(values.values) & ~(std.values > 0)
        if bad.any():
            received = f"{std.values[bad][0]:g}"
            refuse("GridObservations: error_std is not positive", "> 0", received, "drop flagged observations")
        put = {
            "values": values,
            "error_std": std,
            "variable": self.variable or (None if values.name is None else str(values.name)),
            "units": self.units or values.attrs.get("units"),
        }
        for key, value in put.items():
            object.__setattr__(self, key, value)

    def _timed(self) -> tuple[xr.DataArray | None, str | None]:
        when = find_time(self.values)
        return when, (str(when.dims[0]) if when is not None and when.ndim else None)

    def when(self) -> Any:
        """Return the times at which a cell is observed."""
        when, dim = self._timed()
        if when is None:
            return None
        if dim is None:
            return np.atleast_1d(when.values)
        there = self.values.notnull().any([d for d in self.values.dims if d != dim])
        return when.values[there.values]

    def rows(self, state: StateVector, times: Any, *, tolerance: Any = 0.0, outside: str = "drop") -> Rows:
        """Return the observations by analysis time, as many in each as the fullest has; see :class:`Observations`."""
        channel, (when, dim) = state.channel(self), self._timed()
        dims = tuple(str(d) for d in self.values.dims if d != dim)
        if set(dims) != set(state.space):
            remedy = "rename the dimensions, or PointObservations for other places"
            refuse("GridObservations: not on the grid of the state", state.space, dims, remedy)
        values, std = (a.transpose(*([dim] if dim else []), *state.space).values for a in (self.values, self.error_std))
        values, std = (a.reshape(-1 if dim else 1, int(np.prod(a.shape[bool(dim) :]))) for a in (values, std))
        if when is None and np.size(times) > 1:
            refuse("GridObservations: the observations have no time", "a time dimension", dims, "expand_dims(time=...)")
        row = np.zeros(1, "int64") if when is None else row_of(np.atleast_1d(when.values), times, tolerance)
        cells = np.ravel_multi_index(np.meshgrid(*self._places(state), indexing="ij"), state.wet.shape).ravel()
        total = int(np.isfinite(values).sum())
        own = pad([np.flatnonzero(np.isfinite(values[r])) if r >= 0 else np.array([], int) for r in row])
        at, line = np.maximum(own, 0), np.maximum(row, 0)[:, None]
        return linear_rows(
            state,
            channel,
            np.where(own >= 0, values[line, at], np.nan),
            std[line, at],
            cells[at][..., None],
            np.ones((*own.shape, 1)),
            total=total,
            outside=outside,
        )

    def _places(self, state: StateVector) -> list[np.ndarray]:
        """Return for each dimension of space the index in the state of each index of the observations."""
        out = []
        for d in state.space:
            axis, size = state.coords[d], self.values.sizes[d]
            own = self.values.coords.get(d)
            if own is None or own.dtype.kind not in "fiu":
                if size != axis.size:
                    what = f"GridObservations: {d!r} has no coordinate and another size than the state"
                    refuse(what, axis.size, size, f"assign_coords({d}=...)")
                out.append(np.arange(size))
                continue
            gap = np.abs(np.asarray(own.values, "float64")[:, None] - axis[None])
            if state.horizontal and state.horizontal[1][0] == (d,):
                # Longitudes may count from -180 or from 0.
                gap = np.abs(np.mod(gap + 180, 360) - 180)
            near = gap.argmin(axis=1)
            slack = 1e-4 * (np.abs(np.diff(axis)).min() if axis.size > 1 else 1.0)
            lost = gap[np.arange(size), near] > slack
            if lost.any():
                what = f"GridObservations: {d!r} holds cells that the state does not have"
                refuse(what, f"{axis[0]:g} to {axis[-1]:g}", f"{own.values[lost][0]:g} first", "interpolate or select")
            out.append(near)
        return out
