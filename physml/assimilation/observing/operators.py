"""Observations through a matrix, and through any differentiable function of the state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from physml._errors import refuse
from physml.assimilation.observing.rows import Observations, Rows, linear_rows, row_of, shown
from physml.assimilation.times import instants
from physml.assimilation.vector import StateVector


@dataclass(frozen=True, eq=False)
class _Series(Observations):
    """Rows of m observations that are made alike at every time."""

    operator: Any
    values: Any
    error_std: Any
    time: Any = None
    positions: Mapping[str, Any] | None = None
    units: str | None = None
    variable: str | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        values = np.asarray(self.values, "float64")
        time = None if self.time is None else np.atleast_1d(instants(self.time))
        if values.ndim == 1 and (time is None or time.size == 1):
            values = values[None]
        if values.ndim != 2 or (time is not None and time.shape != values.shape[:1]):
            received = f"{values.shape}, {None if time is None else time.shape}"
            refuse(f"{name}: values and time do not fit", "values [time, obs], time [time]", received, "reshape them")
        if np.isinf(values).any():
            refuse(f"{name}: observations are infinite", "finite values, NaN where missing", "inf", "replace by NaN")
        std = self.error(self.error_std)
        try:
            std = np.broadcast_to(np.asarray(std, "float64"), values.shape)
        except ValueError:
            refuse(f"{name}: error_std does not fit the observations", values.shape, np.shape(std), "one for each")
        if not (std[np.isfinite(values)] > 0).all():
            refuse(f"{name}: error_std is not positive", "> 0", f"{np.nanmin(std):g}", "drop flagged observations")
        for key, array in (("values", values), ("error_std", std), ("time", time)):
            object.__setattr__(self, key, array)

    def when(self) -> Any:
        """Return the times of the rows in which an observation is not missing."""
        return None if self.time is None else self.time[np.isfinite(self.values).any(axis=1)]

    def _series(self, state: StateVector, times: Any, tolerance: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        """Return values and errors by analysis time, and positions ``[time, m, d]`` where they are given."""
        if self.time is None and np.size(times) > 1:
            what = f"{type(self).__name__}: the observations have no time"
            refuse(what, "one for each row", None, "pass time=")
        row = np.zeros(1, "int64") if self.time is None else row_of(self.time, times, tolerance)
        values, std = shown(row, self.values, np.nan), shown(row, self.error_std, 1.0)
        if self.positions is None:
            return values, std, None
        places = state.place(self.positions, self.values.shape)
        return values, std, shown(row, places, 0.0)


@dataclass(frozen=True, eq=False)
class LinearObservations(_Series):
    """Observations d = H x through a matrix, the same at every time.

    Parameters
    ----------
    operator
        H ``[obs, cells]``, a matrix or a sparse matrix of SciPy; the columns are the cells of the grid in its order, the last
        dimension fastest, dry ones included. Of several variables: ``{"u": H_u, "v": H_v}``, d = H_u u + H_v v.
    values
        ``[time, obs]``, or ``[obs]`` at one time; NaN where missing.
    error_std
        sigma_o, broadcast to *values*.
    time
        ``[time]``, in any order.
    positions
        Where the observations lie, for localisation: ``{"site": [...]}`` or ``{"latitude": ..., "longitude": ...}``, ``[obs]``
        or ``[time, obs]``. None: each at the cell that weighs most.
    units
        Units of *values*; compared with those of the variable where there is one.
    variable
        Name of the observed variable, for a matrix.

    Raises
    ------
    ValueError
        For shapes that do not fit and errors that are not positive; when used, for a matrix that does not fit the grid.

    Examples
    --------
    >>> obs = LinearObservations(np.eye(3)[:2], [[1.0, 2.0]], 0.1)
    >>> obs.values.shape
    (1, 2)
    """

    def rows(self, state: StateVector, times: Any, *, tolerance: Any = 0.0, outside: str = "drop") -> Rows:
        """Return the observations by analysis time; see :class:`Observations`."""
        values, std, positions = self._series(state, times, tolerance)
        named = self.operator if isinstance(self.operator, Mapping) else {None: self.operator}
        if len(named) == 1:
            channels = [state.channel(self, name) for name in named]
        else:
            channels = [state.channel(Observations(), name) for name in named]
        columns: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        which: list[np.ndarray] = []
        m = self.values.shape[1]
        for channel, matrix in zip(channels, named.values(), strict=True):
            h = scipy.sparse.csr_array(matrix)
            if h.shape != (m, state.wet.size):
                what = f"LinearObservations: the operator of {state.names[channel]!r} does not fit"
                refuse(what, (m, state.wet.size), h.shape, "a row for each observation, a column for each cell")
            counts = np.diff(h.indptr)
            width = max(1, int(counts.max(initial=0)))
            place = (np.repeat(np.arange(m), counts), np.arange(h.nnz) - np.repeat(h.indptr[:-1], counts))
            for out, filled in ((columns, h.indices), (weights, h.data)):
                padded = np.zeros((m, width))
                padded[place] = filled
                out.append(padded)
            which.append(np.full((m, width), channel))
        shape = (len(values), m, sum(c.shape[1] for c in columns))
        cells, weight, observed = (np.concatenate(a, axis=1) for a in (columns, weights, which))
        return linear_rows(
            state,
            np.broadcast_to(observed, shape),
            values,
            std,
            np.broadcast_to(cells.astype("int64"), shape),
            np.broadcast_to(weight, shape),
            positions=positions,
            total=int(np.isfinite(self.values).sum()),
            outside=outside,
            label=", ".join(state.names[c] for c in channels),
        )


@dataclass(frozen=True, eq=False)
class CallableObservations(_Series):
    """Observations d = H(x) through any differentiable function.

    Parameters
    ----------
    operator
        Function of the fields ``[N, *space, channel]``, tensors in float64 with 0 on dry cells, to ``[N, obs]``.
    values, error_std, time
        As for :class:`LinearObservations`.
    positions
        Where the observations lie, for localisation; None: methods that localise refuse them.
    units, variable
        Units of *values*, and a name for what is observed.

    Examples
    --------
    >>> speed = CallableObservations(lambda x: (x[..., 0] ** 2 + x[..., 1] ** 2) ** 0.5, [[5.0]], 0.1)
    """

    def rows(self, state: StateVector, times: Any, *, tolerance: Any = 0.0, outside: str = "drop") -> Rows:
        """Return the observations by analysis time; see :class:`Observations`."""
        if not callable(self.operator):
            what = "CallableObservations: the operator cannot be called"
            refuse(what, "a function of the fields", type(self.operator).__name__, "LinearObservations takes matrices")
        values, std, positions = self._series(state, times, tolerance)
        # A weight marks a place that is there; the function takes the place of the sum.
        index, weights = np.zeros((*values.shape, 1), "int32"), np.ones((*values.shape, 1))
        m, finite = values.shape[1], np.isfinite(values)
        return Rows(
            values,
            np.where(finite, std, 1.0),
            index,
            weights,
            positions,
            (self.variable or getattr(self.operator, "__name__", "function"),) * m,
            (self.units,) * m,
            functions=((slice(0, m), self.operator),),
            unused=int(np.isfinite(self.values).sum() - finite.sum()),
        )
