"""The state as a vector: wet cells times variables, and where each element lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml import grid
from physml._errors import closest, refuse
from physml.provenance import same_units

if TYPE_CHECKING:  # labelled observations load no Keras
    from physml.assimilation.errors.background import Background
    from physml.assimilation.method import Geometry


@dataclass(frozen=True, eq=False)
class StateVector:
    """Variables on the wet cells of a grid as a vector of n elements: element = wet cell * variables + variable."""

    names: tuple[str, ...]
    """Variables, the channels of the state."""
    space: tuple[str, ...]
    """Dimensions of space."""
    wet: np.ndarray
    """True on wet cells, ``[*space]``."""
    units: tuple[str | None, ...]
    """Units of the variables."""
    coords: Mapping[str, np.ndarray]
    """Coordinate of each dimension; its index where it has none, or one that is not of numbers."""
    horizontal: tuple[tuple[tuple[str, ...], np.ndarray], ...] = ()
    """Dimensions and values of latitude and longitude [degrees], where the grid is geographic."""
    periodic: bool | None = None
    """Whether the first and the last longitude are neighbours; None: not said."""
    period: Mapping[str, float] | None = None
    """Period of dimensions that are not geographic."""

    @cached_property
    def _inside(self) -> np.ndarray:
        return np.flatnonzero(self.wet)

    @cached_property
    def _to_wet(self) -> np.ndarray:
        out = np.zeros(self.wet.size, "int32")
        out[self._inside] = np.arange(self._inside.size)
        return out

    @property
    def size(self) -> int:
        """Number n of elements."""
        return self._inside.size * len(self.names)

    def element(self, cell: Any, channel: Any) -> Any:
        """Return the elements of cells of the flattened grid; anything for dry ones."""
        return self._to_wet[cell] * len(self.names) + channel

    def vector(self, fields: Any) -> Any:
        """Return fields ``[..., *space, channel]`` as vectors ``[..., n]``; NumPy arrays or tensors."""
        if isinstance(fields, np.ndarray):
            lead = fields.shape[: fields.ndim - len(self.space) - 1]
            flat = fields.reshape(*lead, self.wet.size, len(self.names))
            return flat[..., self._inside, :].reshape(*lead, self.size)
        from keras import ops

        flat = ops.reshape(fields, (-1, self.wet.size, len(self.names)))
        flat = flat if self.wet.all() else ops.take(flat, self._inside, axis=1)
        return ops.reshape(flat, (-1, self.size))

    def fields(self, x: Any, dry: float = 0.0) -> Any:
        """Return vectors as fields, *dry* on dry cells: arrays ``[..., n]``, tensors ``[N, n]`` (0 on dry cells)."""
        if isinstance(x, np.ndarray):
            out = np.full((*x.shape[:-1], self.wet.size, len(self.names)), dry, x.dtype)
            out[..., self._inside, :] = x.reshape(*x.shape[:-1], self._inside.size, len(self.names))
            return out.reshape(*x.shape[:-1], *self.wet.shape, len(self.names))
        from keras import ops

        cells = ops.reshape(x, (-1, self._inside.size, len(self.names)))
        if not self.wet.all():
            cells = ops.take(cells, self._to_wet, axis=1)
            cells = ops.where(self.wet.ravel()[:, None], cells, ops.zeros((), x.dtype))
        return ops.reshape(cells, (-1, *self.wet.shape, len(self.names)))

    def channel(self, observations: Any, name: str | None = None) -> int:
        """Return the channel that is observed, whose units must be those of the observations."""
        name = name or observations.variable or (self.names[0] if len(self.names) == 1 else None)
        if name not in self.names:
            what = f"the observed variable is not known{closest(str(name), self.names)}"
            refuse(what, f"one of {', '.join(self.names)}", name, "pass variable= to the observations")
        channel = self.names.index(name)
        require_units(observations.units, self.units[channel], name)
        return channel

    def regular_grid(self, who: str) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return the one-dimensional latitude and longitude, the last dimensions of space, and whether they are periodic."""
        if not self.horizontal or any(len(dims) != 1 for dims, _ in self.horizontal):
            remedy = "GridObservations or LinearObservations for other grids"
            refuse(f"{who}: the grid is not regular", "one-dimensional latitude and longitude", self.space, remedy)
        if self.periodic is None:
            what = f"{who}: it is not said whether the first and the last longitude are neighbours"
            refuse(what, "True or False", None, "pass periodic= to the cycle")
        return self.horizontal[0][1], self.horizontal[1][1], self.periodic

    def on_sphere(self, latitude: Any, longitude: Any) -> np.ndarray:
        """Return positions on the sphere [m], ``[..., 3]``; 0 where a position is not known."""
        y, x = np.deg2rad(latitude), np.deg2rad(longitude)
        unit = np.stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y) + 0 * x], axis=-1)
        return np.nan_to_num(grid.EARTH_RADIUS * unit)

    def place(self, given: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray:
        """Return positions given by name, latitude and longitude or the dimensions of space, as ``[*shape, d]``."""
        wanted = ("latitude", "longitude") if self.horizontal else self.space
        if set(given) != set(wanted):
            refuse("the positions of observations do not fit the state", wanted, tuple(given), "name each coordinate")
        parts = [np.broadcast_to(np.asarray(given[k], "float64"), shape) for k in wanted]
        return self.on_sphere(*parts) if self.horizontal else np.stack(parts, axis=-1)

    def named(self, positions: np.ndarray) -> dict[str, tuple[np.ndarray, str]]:
        """Return positions ``[..., d]`` as coordinates by name, with their units; longitudes from -180 to 180 degrees."""
        if not self.horizontal:
            return {d: (positions[..., i], "1") for i, d in enumerate(self.space)}
        x, y, z = np.moveaxis(positions, -1, 0)
        latitude = np.arctan2(z, np.hypot(x, y))
        angles = {"latitude": latitude, "longitude": np.arctan2(y, x)}
        return {name: (np.rad2deg(angle), "degree") for name, angle in angles.items()}

    def bind(self, error: Any) -> Background:
        """Return a covariance on the state vector."""
        from physml.assimilation.errors.background import bind

        where: dict[str, Any] = {"shape": self.wet.shape, "geometry": self.geometry}
        if len(self.space) == 2 and self.horizontal and all(len(dims) == 1 for dims, _ in self.horizontal):
            axes = dict(zip(("latitude", "longitude"), (values for _, values in self.horizontal), strict=True))
            where = {**axes, "periodic": self.periodic}
        return bind(error, mask=self.wet, channels=self.names, **where)

    @cached_property
    def geometry(self) -> Geometry:
        """Positions of the elements: on the sphere by latitude and longitude alone, else the coordinates themselves."""
        from physml.assimilation.method import Geometry

        if self.horizontal:
            like = xr.DataArray(np.zeros(self.wet.shape), dims=self.space)
            lat, lon = (
                (like + xr.DataArray(values, dims=dims)).transpose(*self.space).values
                for dims, values in self.horizontal
            )
            positions, period = self.on_sphere(lat, lon), None
        else:
            axes = np.meshgrid(*[self.coords[d] for d in self.space], indexing="ij")
            positions = np.stack(axes, axis=-1)
            around = [(self.period or {}).get(d, np.inf) for d in self.space]
            period = np.array(around, "float64") if np.isfinite(around).any() else None
        cells = positions.reshape(self.wet.size, -1)[self._inside]
        return Geometry(np.repeat(cells, len(self.names), axis=0), period)


def require_units(ours: str | None, theirs: str | None, name: Any) -> None:
    """Refuse observations in other units than those of the variable; units not given are not compared."""
    if ours is not None and theirs is not None and not same_units(ours, theirs):
        refuse(f"units of the observations and of {name!r} differ", theirs, ours, "convert the observations")


def state_vector(
    fields: Sequence[xr.DataArray],
    space: tuple[str, ...],
    wet: np.ndarray,
    periodic: bool | Mapping[str, float] | None = None,
) -> StateVector:
    """Return the layout of labelled fields.

    Parameters
    ----------
    fields
        One for each variable, with the dimensions *space*.
    space
        Dimensions of space; latitude and longitude last, where they are among them.
    wet
        True on wet cells.
    periodic
        On a geographic grid whether the first and the last longitude are neighbours; on others the period of each periodic
        dimension, ``{"site": 40}``, by default the attribute ``period`` of its coordinate.
    """
    first, coords, period = fields[0], {}, {}
    for d in space:
        c = first.coords.get(d)
        numeric = c is not None and c.dtype.kind in "fiu"
        coords[d] = np.asarray(c.values, "float64") if numeric and c is not None else np.arange(first.sizes[d]) * 1.0
        if c is not None and "period" in c.attrs:
            period[d] = float(c.attrs["period"])
    horizontal: Any = ()
    try:
        found = grid.latitude_longitude(first)
        if all(set(c.dims) <= set(space) and c.ndim for c in found):
            horizontal = tuple((tuple(map(str, c.dims)), np.asarray(c.values, "float64")) for c in found)
    except ValueError:
        pass
    if isinstance(periodic, Mapping):
        unknown = set(periodic) - set(space)
        if unknown:
            refuse("periodic names no dimension of space", space, sorted(unknown), "periodic={'site': 40}")
        period |= {k: float(v) for k, v in periodic.items()}
    elif periodic is not None and not horizontal:
        refuse("periodic: the grid is not geographic", "the period of each dimension", periodic, "{'site': 40}")
    around = periodic if isinstance(periodic, bool) else None
    names, units = tuple(str(f.name) for f in fields), tuple(f.attrs.get("units") for f in fields)
    return StateVector(names, space, wet, units, coords, horizontal, around, period)
