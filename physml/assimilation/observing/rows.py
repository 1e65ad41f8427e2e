"""Observations in rows of fixed width, one for each analysis time, on the state vector: what methods are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from physml._errors import refuse
from physml.assimilation.times import duration, seconds
from physml.assimilation.vector import StateVector

if TYPE_CHECKING:  # labelled observations load no Keras
    from physml.assimilation.method import Seen


@dataclass(frozen=True, eq=False)
class Rows:
    """Observations of a run, in NumPy arrays ``[time, m]``; the width m is that of the fullest analysis time."""

    values: np.ndarray
    """d, NaN where missing, on land or outside the grid."""
    error_std: np.ndarray
    """sigma_o, 1 where missing."""
    index: np.ndarray
    """Elements of the state vector, ``[time, m, k]`` int32."""
    weights: np.ndarray
    """``[time, m, k]``."""
    positions: np.ndarray | None
    """``[time, m, d]`` in the coordinates of the geometry, 0 where missing; None: not known, or by *cells*."""
    variables: tuple[str, ...]
    """Name of what each of the m places holds."""
    units: tuple[str | None, ...]
    """Its units."""
    functions: tuple[tuple[slice, Callable[[Any], Any]], ...] = ()
    """Places whose operator is a function of the fields ``[N, *space, channel] -> [N, width]``."""
    cells: np.ndarray | None = None
    """Positions of the elements of the state ``[n, d]``: an observation without its own lies where it weighs most."""
    dropped: int = 0
    """Number of observations at an analysis time that lie on land or outside the grid."""
    unused: int = 0
    """Number of observations at no analysis time."""

    @property
    def width_bytes(self) -> int:
        """Size of the rows of one time [bytes]."""
        arrays = (self.values, self.error_std, self.index, self.weights, self.positions)
        return sum(a[:1].nbytes for a in arrays if a is not None)

    def seen(self, first: int, last: int) -> Seen:
        """Return the rows from *first* to *last*, exclusive; beyond both ends of the run nothing is observed."""
        from physml.assimilation.method import Seen

        count = len(self.values)
        at = np.arange(first, last)
        inside = (at >= 0) & (at < count)
        row = np.clip(at, 0, count - 1)
        values = np.where(inside[:, None], self.values[row], np.nan)
        return Seen(values, self.error_std[row], self.index[row], self.weights[row], self.places(row))

    def places(self, row: Any) -> np.ndarray | None:
        """Return the positions of some rows, ``[time, m, d]``."""
        if self.positions is not None or self.cells is None:
            return None if self.positions is None else self.positions[row]
        index, weights = self.index[row], self.weights[row]
        main = np.take_along_axis(index, np.abs(weights).argmax(axis=-1)[..., None], axis=-1)[..., 0]
        return np.where(weights.any(axis=-1)[..., None], self.cells[main], 0.0)

    def observe(self, state: StateVector) -> Callable[[Any, Seen], Any]:
        """Return H, ``(x [N, n], seen at one time) -> [N, m]``."""
        from keras import ops

        from physml.assimilation.method import rows as weighted_sums

        if not self.functions:
            return weighted_sums

        def operator(x: Any, seen: Seen) -> Any:
            linear, fields, parts, done = weighted_sums(x, seen), state.fields(x), [], 0
            for place, function in self.functions:
                found = ops.cast(function(fields), x.dtype)
                if tuple(found.shape[1:]) != (place.stop - place.start,):
                    expected = f"[N, {place.stop - place.start}]"
                    refuse("the observed function does not fit its values", expected, tuple(found.shape), "reshape it")
                parts += [linear[:, done : place.start], found]
                done = place.stop
            return ops.concatenate([*parts, linear[:, done:]], axis=-1)

        return operator


class Observations:
    """Base of all observations: what a cycle asks of them."""

    values: Any
    error_std: Any = None
    units: str | None = None
    variable: str | None = None

    def when(self) -> Any:
        """Return the times of the observations that are not missing, in any order; None where they have none."""
        raise NotImplementedError

    def rows(self, state: StateVector, times: Any, *, tolerance: Any = 0.0, outside: str = "drop") -> Rows:
        """Return the observations by analysis time.

        Parameters
        ----------
        state
            Variables, grid and mask of the state.
        times
            Analysis times, ``[time]``.
        tolerance
            Longest time between an observation and its analysis ("1h", a timedelta, [s]).
        outside
            What to do with observations on land or outside the grid: ``"drop"`` counts them, ``"error"`` raises an error.
        """
        raise NotImplementedError

    def error(self, std: Any) -> Any:
        """Return *std*, refused where there is none."""
        if std is None:
            remedy = f"{type(self).__name__}(..., error_std=...)"
            refuse("the observations have no error", "error_std, sigma_o", None, remedy)
        return std


def linear_rows(
    state: StateVector,
    channel: int | np.ndarray,
    values: np.ndarray,
    error_std: np.ndarray,
    cells: np.ndarray,
    weights: np.ndarray,
    *,
    positions: np.ndarray | None = None,
    total: int,
    outside: str = "drop",
    label: str = "",
) -> Rows:
    """Return rows of observations that are weighted sums over cells.

    Parameters
    ----------
    state
        Layout of the state vector.
    channel
        Observed channel, one or for each weight.
    values, error_std
        ``[time, m]``.
    cells
        Cells of the flattened grid, ``[time, m, k]``.
    weights
        ``[time, m, k]``; an observation with a weight on a dry cell, or with none at all, is dropped.
    positions
        ``[time, m, d]``; None: those of the cells that weigh most.
    total
        Number of observations given: those not among *values* were at no analysis time.
    outside
        ``"error"`` refuses observations that would be dropped.
    label
        Name of what is observed, by default that of the channel.
    """
    finite = np.isfinite(values)
    weights = np.where(finite[..., None], weights, 0.0)
    dry = (weights != 0) & ~state.wet.ravel()[cells]
    on_grid = weights.any(axis=-1) & ~dry.any(axis=-1)
    lost = int((finite & ~on_grid).sum())
    if outside == "error" and lost:
        what = f"{lost} of {int(finite.sum())} observations lie on land or outside the grid"
        refuse(what, "observations of wet cells", f"{lost}", "pass outside='drop', or correct them")
    weights = np.where(on_grid[..., None], weights, 0.0)
    index = np.where(weights != 0, state.element(cells, channel), 0).astype("int32")
    if positions is not None:
        positions = np.where(on_grid[..., None], positions, 0.0)
    first = int(np.ravel(channel)[0])
    return Rows(
        np.where(on_grid, values, np.nan),
        np.where(on_grid, error_std, 1.0),
        index,
        weights,
        positions,
        (label or state.names[first],) * values.shape[1],
        (state.units[first],) * values.shape[1],
        cells=state.geometry.positions if positions is None else None,
        dropped=lost,
        unused=total - int(finite.sum()),
    )


def row_of(given: Any, times: Any, tolerance: Any) -> np.ndarray:
    """Return for each of *times* the row of observations that belongs to it, -1 for none.

    Raises
    ------
    ValueError
        Where two rows belong to one time.
    """
    when, axis, slack = seconds(given, like=times), seconds(times), duration(tolerance) + 1e-3
    near = np.abs(axis[None] - when[:, None])
    nearest = near.argmin(axis=1)
    ok = near[np.arange(when.size), nearest] <= slack
    out = np.full(axis.size, -1)
    for row in np.flatnonzero(ok):
        if out[nearest[row]] >= 0:
            what = f"two rows of observations belong to the analysis at {np.atleast_1d(times)[nearest[row]]}"
            refuse(what, "one row for each analysis", f"rows {out[nearest[row]]} and {row}", "a smaller tolerance=")
        out[nearest[row]] = row
    return out


def shown(row: np.ndarray, array: Any, missing: float) -> np.ndarray:
    """Return rows ``[time, ...]`` of an array by :func:`row_of`, *missing* where there is none."""
    a = np.asarray(array)
    gap = (row < 0).reshape(-1, *[1] * (a.ndim - 1))
    return np.where(gap, missing, a[np.maximum(row, 0)])
