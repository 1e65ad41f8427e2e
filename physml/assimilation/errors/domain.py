"""Where the elements of a state vector lie, as covariances see it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from keras import ops

from physml._errors import closest, refuse
from physml.assimilation.errors.background import Background, Dense, Independent
from physml.assimilation.errors.compose import Kronecker, Scaled
from physml.grid import EARTH_RADIUS, latitude_longitude


def is_constant(value: Any) -> bool:
    """Tell whether *value* is a number or a NumPy array, not a tensor that a gradient may be asked for."""
    return isinstance(value, int | float | np.generic | np.ndarray)


def unit_vectors(latitude: Any, longitude: Any) -> np.ndarray:
    """Return the points of the unit sphere ``[..., 3]`` at latitudes and longitudes [degrees], in float64."""
    phi, lam = np.deg2rad(np.asarray(latitude, "float64")), np.deg2rad(np.asarray(longitude, "float64"))
    phi, lam = np.broadcast_arrays(phi, lam)
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)


def ordered(field: Any) -> Any:
    """Return a DataArray with latitude and longitude in this order, then the rest; anything else as it is."""
    if not hasattr(field, "dims") or field.ndim < 2:
        return field
    try:
        return field.transpose(*[str(c.dims[0]) for c in latitude_longitude(field) if c.ndim == 1], ...)
    except ValueError:
        return field


def constant(value: Any) -> Any:
    """Return numbers, lists and DataArrays as NumPy arrays in float64; tensors in float64."""
    return np.asarray(value, "float64") if is_constant(value) or not hasattr(value, "dtype") else _tensor(value)


def _tensor(value: Any) -> Any:
    return np.asarray(value.values, "float64") if hasattr(value, "dims") else ops.cast(value, "float64")


@dataclass(frozen=True, eq=False)
class Domain:
    """A grid, its wet cells and the channels on them; element = wet cell * channels + channel."""

    shape: tuple[int, ...]
    """Of the grid in space."""
    mask: np.ndarray
    """True on wet cells, of that shape."""
    channels: int = 1
    names: tuple[str, ...] | None = None
    """Of the channels."""
    latitude: Any = None
    longitude: Any = None
    periodic: bool | None = None
    geometry: Any = None

    @classmethod
    def of(
        cls,
        error: Any,
        size: int | None,
        geometry: Any,
        shape: tuple[int, ...] | None,
        latitude: Any,
        longitude: Any,
        periodic: bool | None,
        mask: Any,
        channels: int | tuple[str, ...],
    ) -> Domain:
        """Return the domain that the arguments of :func:`physml.assimilation.errors.background.bind` describe."""
        names = None if isinstance(channels, int | np.integer) else tuple(channels)
        count = len(names) if names is not None else int(channels)  # type: ignore[arg-type]
        if latitude is not None and longitude is not None:
            latitude, longitude = (np.asarray(a, "float64") for a in (latitude, longitude))
            if latitude.ndim != 1 or longitude.ndim != 1:
                received = f"{latitude.shape} and {longitude.shape}"
                refuse("the grid is not regular", "latitude and longitude in one dimension", received, "interpolate it")
            shape = (latitude.size, longitude.size)
            if periodic is None:
                refuse("bind: periodic is not given", "True or False", None, "say whether longitudes close a circle")
        if shape is None and mask is not None:
            shape = np.shape(mask)
        if shape is None and geometry is not None:
            shape = (len(geometry.positions) // count,)
        if shape is None and size is None:
            # The size of an array counts all of a matrix.
            square = np.ndim(error) == 2 and np.shape(error)[0] == np.shape(error)[1]
            size = np.shape(error)[0] if square else getattr(error, "size", None)
        if shape is None and size is not None:
            shape = (size // count,)
        if shape is None:
            expected = "size=, shape=, latitude= and longitude=, or geometry="
            refuse("bind: the size of the state is not known", expected, "none of them", "pass one")
        wet = np.ones(shape, bool) if mask is None else np.asarray(mask, bool)
        if wet.shape != tuple(shape):
            refuse("mask does not fit the grid", tuple(shape), wet.shape, "transpose it")
        if not wet.any():
            refuse("the mask has no wet cell", "True on wet cells", "all False", "invert the mask")
        domain = cls(tuple(shape), wet, count, names, latitude, longitude, periodic, geometry)
        if size is not None and size != domain.size:
            refuse("bind: size does not fit the grid", f"{domain.cells} cells x {count} channels", size, "leave it out")
        if geometry is not None and len(geometry.positions) != domain.size:
            refuse("geometry does not fit the state", domain.size, len(geometry.positions), "one position each element")
        return domain

    @cached_property
    def cells(self) -> int:
        """Number of wet cells."""
        return int(self.mask.sum())

    @property
    def size(self) -> int:
        """n, wet cells times channels."""
        return self.cells * self.channels

    @cached_property
    def wet(self) -> np.ndarray:
        """Wet cells among all, ``[cells]``."""
        return np.flatnonzero(self.mask).astype("int32")

    @cached_property
    def slot(self) -> np.ndarray:
        """For all cells of the grid, flattened, their number among the wet ones, ``cells`` on land."""
        out = np.full(self.mask.size, self.cells, "int32")
        out[self.wet] = np.arange(self.cells)
        return out

    @property
    def spherical(self) -> bool:
        """Whether the grid is one of latitude and longitude."""
        return self.latitude is not None and self.longitude is not None

    def positions(self) -> np.ndarray:
        """Return where the wet cells lie, ``[cells, d]``: on the sphere [m], else in the coordinates of the geometry."""
        if self.geometry is not None:
            return np.asarray(self.geometry.positions)[:: self.channels]
        if not self.spherical:
            expected = "latitude= and longitude=, geometry=, or a covariance with its own spacing such as Plane"
            refuse("the covariance needs distances and there are none", expected, f"shape {self.shape}", "pass one")
        lat, lon = np.meshgrid(self.latitude, self.longitude, indexing="ij")
        return EARTH_RADIUS * unit_vectors(lat.ravel()[self.wet], lon.ravel()[self.wet])

    def one(self) -> Domain:
        """Return the same cells with one channel."""
        geometry = self.geometry
        if geometry is not None and self.channels > 1:
            geometry = replace(geometry, positions=self.positions())
        return replace(self, channels=1, names=None, geometry=geometry)

    def channel(self, name: Any) -> int:
        """Return the number of the channel of that name."""
        if isinstance(name, int | np.integer) and 0 <= name < self.channels:
            return int(name)
        if self.names is None or name not in self.names:
            known = self.names or f"0 to {self.channels - 1}; names with bind(..., channels=[names])"
            refuse(f"{name!r} is no channel of the state{closest(name, self.names or ())}", known, name, "correct it")
        return self.names.index(name)

    def spread(self, std: Any) -> Any:
        """Return a standard deviation on the elements, ``[n]``, from a number or a field.

        The field is on the grid, on its wet cells, or on either with the channels last.
        """
        std = constant(ordered(std) if self.spherical else std)
        shape = tuple(std.shape)
        if shape == (self.size,):
            return std
        if shape == ():
            return np.broadcast_to(std, (self.size,)) if is_constant(std) else ops.broadcast_to(std, (self.size,))
        each = shape[-1:] == (self.channels,) and shape[:-1] in (self.shape, (self.cells,))
        if shape not in (self.shape, (self.cells,)) and not each:
            expected = f"a number, {self.shape}, or {(*self.shape, self.channels)} with the channels"
            refuse("the standard deviation does not fit the grid", expected, shape, "transpose it to the grid")
        columns = self.channels if each else 1
        if is_constant(std):
            flat = std.reshape(-1, columns)
            flat = flat if len(flat) == self.cells else flat[self.wet]
            missing = int((~np.isfinite(flat)).sum())
            if missing:
                what = "a parameter of B is missing on wet cells"
                refuse(what, "finite values", f"{missing} missing", "fill it, or pass mask=, True on wet cells")
            return np.ascontiguousarray(np.broadcast_to(flat, (self.cells, self.channels))).reshape(-1)
        flat = ops.reshape(std, (-1, columns))
        flat = flat if flat.shape[0] == self.cells else ops.take(flat, self.wet, axis=0)
        return ops.reshape(ops.broadcast_to(flat, (self.cells, self.channels)), (-1,))

    def each(self, correlation: Background, std: Any = None) -> Background:
        """Return sigma C sigma, where every channel has the correlation C of the cells."""
        if self.channels > 1 and correlation.size == self.cells:
            correlation = Kronecker(correlation, np.eye(self.channels))
        return correlation if std is None else Scaled(correlation, self.spread(std))

    def bound(self, error: Any) -> Background:
        """Return a covariance, a matrix ``[n, n]`` or a standard deviation on the elements of the state."""
        if isinstance(error, Background):
            return error
        if hasattr(error, "bind"):
            return error.bind(self)
        if np.ndim(error) == 2 and np.shape(error) == (self.size, self.size):
            return Dense(error)
        return self.independent(error)

    def independent(self, std: Any) -> Background:
        """Return sigma sigma."""
        return Independent(self.spread(std))

    def to_grid(self, x: Any) -> Any:
        """Return wet cells ``[..., cells]`` on the grid ``[..., *shape]``, zero on land."""
        if self.cells < self.mask.size:
            x = ops.concatenate([x, ops.zeros_like(x[..., :1])], axis=-1)
            x = ops.take(x, self.slot, axis=-1)
        return ops.reshape(x, (*ops.shape(x)[:-1], *self.shape))

    def to_cells(self, x: Any) -> Any:
        """Return the wet cells ``[..., cells]`` of fields ``[..., *shape]``."""
        x = ops.reshape(x, (*ops.shape(x)[: len(x.shape) - len(self.shape)], self.mask.size))
        return x if self.cells == self.mask.size else ops.take(x, self.wet, axis=-1)
