"""Observations of columns: averages over a vertical dimension, such as those of averaging kernels, and single levels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from physml._errors import refuse
from physml.assimilation.observing.grids import between, bilinear
from physml.assimilation.observing.observations import PointObservations, pad
from physml.assimilation.observing.rows import Observations, Rows, linear_rows
from physml.assimilation.vector import StateVector


@dataclass(frozen=True, eq=False)
class ColumnObservations(Observations):
    """Weighted sums over a vertical dimension at points: d = sum over levels of w x(level, point).

    What a retrieval adds for its prior profile, (I - A) x_a, is to be taken from the values first.

    Parameters
    ----------
    points
        Values, positions, times and errors.
    dim
        Vertical dimension of the state.
    weights
        w, ``[level]``, ``[obs, level]`` or, for rows of time, ``[time, obs, level]``. They are not normalised.
    at
        Instead of *weights*: a place in the vertical coordinate for each observation, interpolated linearly between levels.
        An observation is dropped where a level that it sees has no wet cell beside it.

    Raises
    ------
    ValueError
        For weights that do not fit, and where both or neither of *weights* and *at* are given.

    Examples
    --------
    >>> profile = PointObservations([10.0, 7.5], [0.0, 0.0], [20.0, 20.0], error_std=0.1)
    >>> obs = ColumnObservations(profile, "depth", at=[5.0, 150.0])
    """

    points: PointObservations
    dim: str
    weights: Any = None
    at: Any = None
    variable: str | None = field(init=False, default=None)
    units: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if (self.weights is None) == (self.at is None):
            what = "ColumnObservations: it is not said how the levels are seen"
            refuse(what, "weights or at", "both" if self.at is not None else "neither", "weights=[...] or at=[...]")
        table, shape = self.points.table(), self.points.values.shape
        if self.weights is not None:
            w = np.asarray(self.weights, "float64")
            if not np.isfinite(w).all() or w.ndim == 0 or w.shape[:-1] not in ((), shape[-1:], shape):
                expected = f"[level], {[*shape[-1:], 'level']} or {[*shape, 'level']}"
                refuse("ColumnObservations: weights do not fit", expected, w.shape, "transpose them")
            object.__setattr__(self, "weights", np.broadcast_to(w, (*shape, w.shape[-1])).reshape(-1, w.shape[-1]))
        else:
            place = np.asarray(self.at, "float64")
            if place.shape not in ((), shape[-1:], shape):
                refuse("ColumnObservations: at does not fit", shape, place.shape, "one for each observation")
            object.__setattr__(self, "at", np.broadcast_to(place, shape).ravel())
        put = {"points": table, "values": table.values, "error_std": table.error_std}
        for key, value in {**put, "variable": table.variable, "units": table.units}.items():
            object.__setattr__(self, key, value)

    def when(self) -> Any:
        """Return the times of the observations that are not missing."""
        return self.points.when()

    def rows(self, state: StateVector, times: Any, *, tolerance: Any = 0.0, outside: str = "drop") -> Rows:
        """Return the observations by analysis time; see :class:`Observations`."""
        latitude, longitude, periodic = state.regular_grid("ColumnObservations")
        if len(state.space) != 3 or state.space[0] != self.dim:
            remedy = f"space=[{self.dim!r}, latitude, longitude]"
            refuse(f"ColumnObservations: {self.dim!r} is not the vertical dimension", "one", state.space, remedy)
        levels = state.wet.shape[0]
        if self.weights is None:
            weights = np.zeros((self.at.size, levels))
            pair, parts = between(state.coords[self.dim], self.at, None)
            for k in range(2):
                np.add.at(weights, (np.arange(self.at.size), pair[:, k]), parts[:, k])
        else:
            weights = self.weights
            if weights.shape[1] != levels:
                what = f"ColumnObservations: weights do not fit the levels of {self.dim!r}"
                refuse(what, levels, weights.shape[1], "one for each level")
        table, near = self.points, self.points.nearest(times, tolerance)
        own = pad([np.flatnonzero(near == t) for t in range(np.size(times))])
        each, gap = np.maximum(own, 0), own < 0
        at = table.take(own)
        weights = np.where(gap[..., None], 0.0, weights[each])
        cells, spread = [], []
        whole = np.ones(own.shape, bool)
        for k in range(levels):
            h = bilinear(latitude, longitude, state.wet[k], at.latitude, at.longitude, periodic=periodic)
            whole &= h.valid | (weights[..., k] == 0)
            cells.append(h.index.astype("int64") + k * latitude.size * longitude.size)
            spread.append(h.weights * weights[..., k, None])
        total = np.where(whole[..., None], np.concatenate(spread, axis=-1), 0.0)
        return linear_rows(
            state,
            state.channel(self),
            at.values,
            self.error(at.error_std),
            np.concatenate(cells, axis=-1),
            total,
            positions=state.on_sphere(at.latitude, at.longitude),
            total=table.count,
            outside=outside,
        )
