"""What a method of assimilation is: it takes an ensemble from one analysis time to the next, with the observations between.

A method sees a :class:`Problem`: state vectors of n elements in float64, a function that propagates them and one that
observes them. It knows nothing of grids, names or files; :class:`physml.assimilation.Cycle` does. Everything is written in
``keras.ops`` on tensors of fixed shape, so that a whole call is compiled once, runs on each backend and can be differentiated.

Notation: E the ensemble, N members by rows ``[N, n]``; mu its mean; A = E - mu its anomalies; Y = H(E) - mean H(E) the
observed anomalies ``[N, m]``; the rest as in :mod:`physml.assimilation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from keras import ops

from physml.assimilation.errors.background import Background

State: TypeAlias = dict[str, Any]
"""What goes from one call to the next: ``"ensemble" [N, n]`` and whatever else the method keeps, tensors all."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the elements of the state vector lie."""

    positions: np.ndarray
    """``[n, d]``: on the sphere unit vectors times the radius of the Earth [m]; else the coordinates themselves."""
    period: np.ndarray | None = None
    """Period of each coordinate ``[d]``, inf where it has none; None: none has one."""

    def distance(self, a: Any, b: Any) -> Any:
        """Return the distances ``[..., p, q]`` between points ``[..., p, d]`` and ``[..., q, d]``, the short way round."""
        total: Any = 0.0
        for i in range(self.positions.shape[-1]):
            gap = ops.abs(a[..., :, None, i] - b[..., None, :, i])
            if self.period is not None and np.isfinite(self.period[i]):
                around = float(self.period[i])
                gap = ops.mod(gap, around)
                gap = ops.minimum(gap, around - gap)
            total = total + ops.square(gap)
        return ops.sqrt(total)


class Seen(NamedTuple):
    """Observations of fixed width, ``[time, m]`` over the times of a call, or ``[m]`` at one of them (:meth:`at`)."""

    values: Any
    """d, NaN where missing."""
    error_std: Any
    """sigma_o, anything where missing."""
    index: Any = None
    """Elements of the state that each observation is a weighted sum of, int32 ``[..., m, k]``."""
    weights: Any = None
    """Their weights ``[..., m, k]``."""
    positions: Any = None
    """Where the observations lie, ``[..., m, d]`` in the coordinates of the geometry; needed for localisation alone."""

    def at(self, time: int) -> Seen:
        """Return the observations of one time of the call."""
        return Seen(*[None if a is None else a[time] for a in self])

    @property
    def valid(self) -> Any:
        """Whether an observation is there, ``[..., m]``."""
        there = ops.isfinite(self.values)
        return there if self.weights is None else ops.logical_and(there, ops.any(self.weights != 0, axis=-1))

    def whitened(self, innovation: Any) -> tuple[Any, Any]:
        """Return R^-1/2 M as a row ``[..., m]`` and R^-1/2 M times *innovation* ``[..., m]``; NaN goes before any arithmetic."""
        valid = self.valid
        scale = ops.where(valid, 1.0 / ops.where(valid, self.error_std, 1.0), 0.0)
        return scale, scale * ops.where(valid, innovation, 0.0)


def rows(x: Any, seen: Seen) -> Any:
    """Return H x for observations that are weighted sums of elements: ``[N, n]`` to ``[N, m]``."""
    return ops.sum(ops.take(x, seen.index, axis=-1) * seen.weights, axis=-1)


@dataclass(frozen=True, eq=False)
class Problem:
    """What a method assimilates into."""

    size: int
    """n."""
    propagate: Callable[[Any, int], Any]
    """``(x [N, n], k) -> [N, n]``: from the analysis time before the k-th of this call to the k-th, without noise."""
    observe: Callable[[Any, Seen], Any] = rows
    """``(x [N, n], seen at one time) -> [N, m]``: H, differentiable, maybe nonlinear."""
    geometry: Geometry | None = None
    model_error: Background | None = None
    """Q: covariance of what a propagation errs by, added to members by methods that know model error."""
    gross_error: float | None = None
    """Observations whose innovation exceeds so many expected standard deviations are set aside."""

    def screen(self, seen: Seen, innovation: Any, innovation_std: Any) -> tuple[Seen, Any]:
        """Return the observations of one time without gross errors, and how many were set aside."""
        if self.gross_error is None:
            return seen, ops.zeros((), dtype="float64")
        gross = ops.logical_and(seen.valid, ops.abs(innovation) > self.gross_error * innovation_std)
        values = ops.where(gross, np.nan, seen.values)
        return seen._replace(values=values), ops.sum(ops.cast(gross, "float64"))


class Output(NamedTuple):
    """What a call tells of its times; ``count`` is their number. Missing observations hold NaN in the statistics."""

    forecast: Any
    """``[count, N, n]``, before the analysis."""
    analysis: Any
    """``[count, N, n]``."""
    innovation: Any
    """d - H(mean forecast), ``[count, m]``."""
    innovation_std: Any
    """What the method expects of it, sqrt(diag(H P H^T + R)), ``[count, m]``."""
    chi2: Any
    """v^T S^-1 v over the number of observations used, ``[count]``."""
    used: Any
    """Number of observations used, ``[count]``."""
    rejected: Any
    """Number set aside as gross errors, ``[count]``."""
    forecast_std: Any = None
    """``[count, n]``, of methods that know a covariance; None: the spread of the ensemble."""
    std: Any = None
    """``[count, n]``, likewise after the analysis."""
    smoothed: Any = None
    """``[count, N, n]``: the state ``lag`` analysis times earlier, by all observations since; of smoothers."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Method:
    """Base of all methods. A subclass is a frozen dataclass of its parameters and implements :meth:`__call__`."""

    ensemble: ClassVar[bool] = True
    """Whether it works on an ensemble; else every member is a run of its own (N is then the number of runs)."""
    differentiates: ClassVar[bool] = False
    """Whether it takes tangents of the propagation: then it is not compiled apart from the rest."""

    @property
    def count(self) -> int:
        """Number of analysis times in a call."""
        return 1

    @property
    def lag(self) -> int:
        """Number of earlier analysis times whose observations are given again, before those of the call."""
        return 0

    @property
    def first(self) -> int:
        """Number of analysis times in the first call, which has none before it."""
        return self.count

    def draws(
        self, rng: np.random.Generator, members: int, size: int, observed: int, count: int, noise: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the random numbers of one call. From NumPy, so that each backend and a restart see the same.

        *noise* is the rank of the model error of the problem, 0 where it has none.
        """
        return {}

    def start(self, problem: Problem, ensemble: Any) -> State:
        """Return the state of a run that starts from ``[N, n]``."""
        return {"ensemble": ensemble}

    def __call__(self, problem: Problem, state: State, seen: Seen, draws: dict[str, Any]) -> tuple[State, Output]:
        """Return the state at the last time of the call, and what is told of its times.

        *seen* and the k of ``problem.propagate`` count the times of the call, oldest first: ``lag`` earlier ones, absent in the
        first call, then the ``count`` (at first ``first``) new ones.
        """
        raise NotImplementedError
