"""The Kalman filter, its extension to nonlinear models, and optimal interpolation: the covariance as a matrix ``[n, n]``.

    xf = m(xa),   Pf = M Pa M^T + Q,
    K = Pf H^T (H Pf H^T + R)^-1,   xa = xf + K (d - H(xf)),   Pa = Pf - K H Pf,

M and H being the tangent linear of the propagation and of the observation. For n up to some hundred: a step propagates n
directions. Optimal interpolation keeps B in place of Pf.

References
----------
Kalman, R. E. (1960), doi:10.1115/1.3662552. Jazwinski, A. H. (1970), Stochastic Processes and Filtering Theory, section 8.3.
Evensen, G. (1992), doi:10.1029/92JC01972 (extended filter in the ocean). Gandin, L. S. (1963), Objective Analysis of
Meteorological Fields (optimal interpolation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.errors.background import Background, bind
from physml.assimilation.method import Method, Output, Problem, Seen, State
from physml.assimilation.methods._members import expected_std


class _Update(NamedTuple):
    """Analyses of N runs."""

    analysis: Any
    """``[N, n]``."""
    half: Any
    """L^-1 G^T ``[N, m, n]`` with G = P H^T R^-1/2 M: P - half^T half is the covariance of the analysis."""
    innovation: Any
    innovation_std: Any
    chi2: Any
    used: Any
    rejected: Any


def _update(problem: Problem, background: Any, seen: Seen, prior: Any, hb: Any, hbh: Any) -> _Update:
    """Return the analyses by the rows H B ``[N, m, n]`` and H B H^T ``[N, m, m]``.

    *background* is what the analyses start from, *prior* H of it ``[N, m]``. Statistics are the mean over the runs.
    """
    innovations = seen.values - prior
    innovation = _backend.mean(innovations, axis=0)
    innovation_std = expected_std(seen, _backend.mean(ops.diagonal(hbh, axis1=-2, axis2=-1), axis=0))
    screened, rejected = problem.screen(seen, innovation, innovation_std)
    scale, v = screened.whitened(innovations)
    d = hbh * scale[:, None] * scale + ops.eye(hbh.shape[-1], dtype="float64")
    factor = ops.cholesky(d)
    right = ops.concatenate([scale[:, None] * hb, v[..., None]], axis=-1)
    both = ops.solve_triangular(factor, right, lower=True)
    half, y = both[..., :-1], both[..., -1:]
    analysis = background + ops.matmul(ops.swapaxes(half, -1, -2), y)[..., 0]
    used = ops.sum(ops.cast(screened.valid, "float64"))
    chi2 = _backend.mean(ops.sum(y * y, axis=(-2, -1)), axis=0) / ops.where(used > 0, used, np.nan)
    innovation = ops.where(seen.valid, innovation, np.nan)
    return _Update(analysis, half, innovation, innovation_std, chi2, used, rejected)


def _output(x: Any, found: _Update, forecast_variance: Any, variance: Any) -> Output:
    told = [part[None] for part in (x, *found._replace(half=None)) if part is not None]
    spreads = [ops.sqrt(ops.maximum(_backend.mean(a, axis=0), 0.0))[None] for a in (forecast_variance, variance)]
    return Output(*told[:7], *spreads)


def tangent(function: Any, x: Any, directions: Any) -> tuple[Any, Any]:
    """Return ``function(x)`` of N rows and its derivatives along p directions for each, ``[N, p, ...]``, in one call.

    *x* is ``[N, n]``, *directions* ``[N, p, n]``, and *function* acts row by row.
    """
    runs, p, n = directions.shape
    rows = ops.reshape(ops.repeat(x[:, None], p, axis=1), (runs * p, n))
    value, slope = _backend.jvp(function, rows, ops.reshape(directions, (runs * p, n)))
    shape = (runs, p, value.shape[-1])
    return ops.reshape(value, shape)[:, 0], ops.reshape(slope, shape)


def covariance(error: Any, problem: Problem, what: str) -> Background:
    """Return the covariance of the state vector that an *error* means (:func:`physml.assimilation.bind`).

    Raises
    ------
    ValueError
        Where it is of another size.
    """
    b = bind(error, problem.size, geometry=problem.geometry)
    if b.size != problem.size:
        refuse(
            f"{what} does not fit the state", f"{problem.size} elements", b.size, "pass the covariance of this state"
        )
    return b


@dataclass(frozen=True, eq=False, kw_only=True)
class OptimalInterpolation(Method):
    """Optimal interpolation: the best linear unbiased estimate with a covariance that does not change.

    Parameters
    ----------
    background_error
        B: a covariance, a matrix ``[n, n]`` or a standard deviation, anything that :func:`bind` takes.
    mean
        What the analysis starts from, such as the climatology ``[n]`` whose covariance B is. None: the forecast.

    Notes
    -----
    With a *mean* the innovation and its statistics are about it; the forecast from the analysis is told, but not used.

    Examples
    --------
    >>> method = OptimalInterpolation(background_error=0.2 * np.eye(40))
    """

    ensemble: ClassVar[bool] = False

    background_error: Any
    mean: Any = None

    def __call__(self, problem: Problem, state: State, seen: Seen, draws: dict[str, Any]) -> tuple[State, Output]:
        """Return the analyses at the next time, and what is told of them."""
        b = covariance(self.background_error, problem, "OptimalInterpolation: background_error")
        x, here = problem.propagate(state["ensemble"], 0), seen.at(0)
        runs, m = x.shape[0], here.values.shape[-1]
        background = x
        if self.mean is not None:
            given = np.asarray(self.mean, "float64")
            if given.shape not in ((), (problem.size,)):
                what = "OptimalInterpolation: mean does not fit the state"
                refuse(what, f"{problem.size} elements", given.shape, "pass the state vector: wet cells x channels")
            mean = ops.convert_to_tensor(given)
            background = ops.broadcast_to(mean, x.shape)
        copies = ops.reshape(ops.repeat(background[:, None], m, axis=1), (runs * m, problem.size))
        value, adjoint = _backend.vjp(lambda rows: problem.observe(rows, here), copies)
        h = ops.reshape(adjoint(ops.tile(ops.eye(m, dtype="float64"), (runs, 1))), (runs, m, problem.size))
        hb = b.times(h)
        hbh = ops.matmul(hb, ops.swapaxes(h, -1, -2))
        prior = ops.reshape(value, (runs, m, m))[:, 0]
        found = _update(problem, background, here, prior, hb, hbh)
        variance = ops.broadcast_to(b.diagonal(), x.shape)
        posterior = variance - ops.sum(found.half * found.half, axis=1)
        return {"ensemble": found.analysis}, _output(x, found, variance, posterior)


@dataclass(frozen=True, eq=False, kw_only=True)
class Kalman(Method):
    """Kalman filter: exact for a linear model, a linear H and Gaussian errors.

    Parameters
    ----------
    initial_error
        Covariance of the error of the initial state: anything that :func:`bind` takes.

    Examples
    --------
    >>> method = Kalman(initial_error=np.eye(3))
    """

    ensemble: ClassVar[bool] = False

    initial_error: Any

    def start(self, problem: Problem, ensemble: Any) -> State:
        """Return the state of N runs that start from ``[N, n]``; each has a covariance of its own."""
        p = covariance(self.initial_error, problem, f"{type(self).__name__}: initial_error").dense()
        return {"ensemble": ensemble, "covariance": ops.repeat(p[None], ensemble.shape[0], axis=0)}

    def inflate(self, covariance: Any) -> Any:
        """Return M Pa M^T as the filter takes it."""
        return covariance

    def __call__(self, problem: Problem, state: State, seen: Seen, draws: dict[str, Any]) -> tuple[State, Output]:
        """Return the analyses and their covariances at the next time, and what is told of them."""
        xa, here, n = state["ensemble"], seen.at(0), problem.size
        unit = ops.repeat(ops.eye(n, dtype="float64")[None], xa.shape[0], axis=0)
        x, mt = tangent(lambda rows: problem.propagate(rows, 0), xa, unit)
        p = self.inflate(ops.matmul(ops.swapaxes(mt, -1, -2), ops.matmul(state["covariance"], mt)))
        if problem.model_error is not None:
            p = p + problem.model_error.dense()
        # Rows of P in place of unit vectors: H P H^T = H (H P)^T, and each product is one batch.
        prior, ph = tangent(lambda rows: problem.observe(rows, here), x, p)
        hp = ops.swapaxes(ph, -1, -2)
        hph = tangent(lambda rows: problem.observe(rows, here), x, hp)[1]
        found = _update(problem, x, here, prior, hp, hph)
        pa = p - ops.matmul(ops.swapaxes(found.half, -1, -2), found.half)
        # In a chaotic model the rounding of one triangle against the other grows like any perturbation.
        pa = 0.5 * (pa + ops.swapaxes(pa, -1, -2))
        variances = [ops.diagonal(a, axis1=-2, axis2=-1) for a in (p, pa)]
        return {"ensemble": found.analysis, "covariance": pa}, _output(x, found, *variances)


@dataclass(frozen=True, eq=False, kw_only=True)
class ExtendedKalman(Kalman):
    """Extended Kalman filter: the covariance by the tangent linear model about the last analysis.

    Parameters
    ----------
    initial_error
        As for :class:`Kalman`.
    inflation
        Factor on the standard deviations of each forecast, its square on the covariance, for what linearisation misses.
    """

    inflation: float = 1.0

    def inflate(self, covariance: Any) -> Any:
        """Return M Pa M^T inflated."""
        return self.inflation**2 * covariance
