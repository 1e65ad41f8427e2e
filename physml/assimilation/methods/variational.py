"""Variational assimilation: the analysis as the minimum of a cost function; 3D-Var, at one time.

    J(x) = 1/2 (x - xf)^T B^-1 (x - xf) + 1/2 (d - H(x))^T R^-1 (d - H(x)),

minimised over z with x = xf + U z, B = U U^T: B is never inverted, and may be singular. For a linear H the minimum is the best
linear unbiased estimate. What is told of the errors is that of the linearised problem: expected innovations from G at the
forecast, the standard deviation of the analysis from the Hessian at the minimum. It is exact where the control space has at
most ``dense_limit`` elements. Beyond, 3D-Var gives it from the Ritz values that conjugate gradients found (never too small: a
direction not found keeps the variance of the background), 4D-Var from ``probes`` samples of the analysis error, with a relative
standard error of 1 / sqrt(2 probes).

References
----------
Lorenc, A. C. (1986), doi:10.1002/qj.49711247414. Rabier, F. and Courtier, P. (1992), doi:10.1002/qj.49711850705 (Hessian).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.errors.background import Background
from physml.assimilation.method import Method, Output, Problem, Seen, State
from physml.assimilation.methods._members import expected_std
from physml.assimilation.methods.gauss_newton import (
    Curvature,
    GaussNewton,
    LeastSquares,
    factor,
    solve_explicit,
    tangents,
)
from physml.assimilation.methods.kalman import covariance

States = Callable[[Any, Any], list[Any]]
"""``(x [B, n], z [B, p])`` to the states ``[B, n]`` at the times of the window, oldest first; row by row."""


class Found(NamedTuple):
    """A minimum."""

    control: Any
    """z ``[N, p]``."""
    states: list[Any]
    """At the times of the window, ``[N, n]`` each."""
    output: Output
    """Of the times observed."""
    seen: Seen
    """Observations without gross errors, ``[c, m]``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Variational(GaussNewton, Method):
    """Base of the methods that minimise a cost function. Members are runs of their own, minimised in one batch."""

    ensemble: ClassVar[bool] = False
    differentiates: ClassVar[bool] = True

    background_error: Any
    """B of the state at the beginning of the window, a :class:`Background` or any covariance that makes one."""
    probes: int = 32
    """Number of samples for the spread where the control space is too large for exact ones."""

    def __post_init__(self) -> None:
        for name in ("iterations", "inner_iterations"):
            if getattr(self, name) < 1:
                refuse(f"{type(self).__name__}: {name} is too small", ">= 1", getattr(self, name), f"{name}=10")

    def draws(
        self, rng: np.random.Generator, members: int, size: int, observed: int, count: int, noise: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the probes ``[probes, p]``, where they are needed."""
        p = self.control_size(size, noise)
        return {} if self.by_columns(p) else {"probes": rng.standard_normal((self.probes, p))}

    def control_size(self, size: int, noise: int) -> int:
        """Return p of a whole window, for a state vector of *size* elements and a model error of rank *noise*."""
        return getattr(self.background_error, "rank", size)

    def analyse(
        self,
        problem: Problem,
        x: Any,
        states: States,
        seen: Seen,
        draws: dict[str, Any],
        size: int,
        static: Background | None = None,
    ) -> Found:
        """Minimise over controls of *size* elements, with the observations of the last times of the window.

        Parameters
        ----------
        problem
            Its observation operator and gross-error check are used.
        x
            What the background is known by, ``[N, n]``: the first argument of *states*.
        states
            The trajectory.
        seen
            Observations of the last c times of the window, ``[c, m]``.
        draws
            Of :meth:`draws`.
        size
            p.
        static
            Root of B where the control acts at the one time of the window itself: the variances are then known without probes.
        """
        (c, m), n = seen.values.shape, x.shape[0]
        times = [seen.at(t) for t in range(c)]

        def predict(x: Any, z: Any) -> Any:
            return ops.concatenate(
                [problem.observe(s, t) for s, t in zip(states(x, z)[-c:], times, strict=True)], axis=-1
            )

        def both(x: Any, z: Any) -> Any:
            last = states(x, z)[-c:]
            observed = [problem.observe(s, t) for s, t in zip(last, times, strict=True)]
            return ops.concatenate([*observed, *last], axis=-1)

        columns, explicit = self.by_columns(size), self.explicit(size, c * m)
        directions = None
        if not columns:
            directions = ops.repeat(ops.expand_dims(self._probes(draws, size), 0), n, axis=0)
        share = 1.0 if columns else 1.0 / self.probes
        zero = ops.zeros((n, size), dtype="float64")
        value, slopes = tangents(both, x, zero, directions)
        predicted, raw = value[:, : c * m], slopes[..., : c * m]
        forecast = ops.reshape(value[:, c * m :], (n, c, -1))
        variance = share * ops.sum(ops.square(slopes), axis=1)
        forecast_variance, observed_variance = ops.reshape(variance[:, c * m :], forecast.shape), variance[:, : c * m]
        if explicit and not columns:
            plain = LeastSquares(predict, x, ops.zeros((c * m,), dtype="float64"), ops.ones((c * m,), "float64"), size)
            raw = plain.rows(zero)[1]
            observed_variance = ops.sum(ops.square(raw), axis=1)

        expected = ops.reshape(_backend.mean(observed_variance, axis=0), (c, m))
        innovations, stds, used, rejected, scales, kept, screened_values = [], [], [], [], [], [], []
        for t, at in enumerate(times):
            mean = _backend.mean(forecast[:, t], axis=0, keepdims=True)
            innovations.append(ops.where(at.valid, at.values - problem.observe(mean, at)[0], np.nan))
            stds.append(expected_std(at, expected[t]))
            at, gross = problem.screen(at, innovations[t], stds[t])
            used.append(ops.sum(ops.cast(at.valid, "float64")))
            rejected.append(gross)
            scales.append(at.whitened(innovations[t])[0])
            kept.append(ops.where(at.valid, at.values, 0.0))
            screened_values.append(at.values)
        number = ops.stack(used)
        quadratic = LeastSquares(predict, x, ops.concatenate(kept), ops.concatenate(scales), size)
        b = quadratic.scale * (quadratic.observed - predicted)
        if explicit:
            gt = raw * quadratic.scale
            start = solve_explicit(gt, b)
            squares = []
            for t in range(c):
                block, part = gt[..., t * m : (t + 1) * m], b[:, t * m : (t + 1) * m]
                left = part - ops.einsum("npm,np->nm", block, solve_explicit(block, part))
                squares.append(_backend.mean(ops.sum(part * left, axis=-1), axis=0))
            chi2 = ops.stack(squares) / ops.where(number > 0, number, np.nan)
        else:
            start, _ = self.inner(quadratic, zero)
            slope = quadratic.scale * tangents(predict, x, zero, start[:, None])[1][:, 0]
            whole = _backend.mean(ops.sum(b * (b - slope), axis=-1), axis=0) / ops.maximum(ops.sum(number), 1.0)
            chi2 = ops.where(number > 0, whole, np.nan)
        z = self.minimise(quadratic, start, done=1)

        if columns:
            _, slopes = tangents(both, x, z, None)
            variance = _explained(slopes[..., : c * m] * quadratic.scale, slopes[..., c * m :])
        else:
            curvature = self._curvature(quadratic, z)
            if static is not None:
                shrink = 1.0 - 1.0 / curvature.values
                gone = ops.sum(shrink[..., None] * ops.square(static.root(curvature.vectors)), axis=1)
                prior = ops.broadcast_to(static.diagonal(), gone.shape)
                forecast_variance, variance = ops.reshape(prior, forecast.shape), prior - gone
            else:
                variance = tangents(both, x, z, curvature.half_inverse(directions))[1][..., c * m :]
                variance = share * ops.sum(ops.square(variance), axis=1)
        found = states(x, z)
        output = Output(
            forecast=ops.swapaxes(forecast, 0, 1),
            analysis=ops.stack(found[-c:]),
            innovation=ops.stack(innovations),
            innovation_std=ops.stack(stds),
            chi2=chi2,
            used=number,
            rejected=ops.stack(rejected),
            forecast_std=ops.sqrt(_backend.mean(forecast_variance, axis=0)),
            std=ops.sqrt(_backend.mean(ops.reshape(ops.maximum(variance, 0.0), forecast.shape), axis=0)),
        )
        screened = seen._replace(values=ops.stack(screened_values))
        return Found(z, found, output, screened)

    def _probes(self, draws: dict[str, Any], size: int) -> Any:
        drawn = draws.get("probes")
        if drawn is None or drawn.shape[-1] < size:
            # The rank of B was not known when numbers were drawn: the same ones in each call then.
            drawn = np.random.default_rng(0).standard_normal((self.probes, size))
        return ops.convert_to_tensor(drawn)[:, :size]

    def _curvature(self, problem: LeastSquares, z: Any) -> Curvature:
        z = ops.stop_gradient(z)
        if not self.explicit(problem.size, problem.scale.shape[0]):
            pairs = self.inner(problem, z, keep=True)[1]
            assert pairs is not None
            return pairs
        _, gt = problem.rows(z)
        values, mixing = ops.linalg.eigh(ops.matmul(ops.swapaxes(gt, -1, -2), gt))
        there = values > 1e-14 * ops.max(values, axis=-1, keepdims=True)
        norm = ops.where(there, 1.0 / ops.sqrt(ops.where(there, values, 1.0)), 0.0)
        vectors = norm[..., None] * ops.swapaxes(ops.matmul(gt, mixing), -1, -2)
        return Curvature(vectors, 1.0 + ops.where(there, values, 0.0))


def _explained(gt: Any, columns: Any) -> Any:
    """Return the diagonal ``[N, n]`` of D (I + G^T G)^-1 D^T, from G^T ``[N, p, m]`` and D^T ``[N, p, n]``."""
    cholesky, (p, m) = factor(gt), gt.shape[-2:]
    if p <= m:
        return ops.sum(ops.square(ops.solve_triangular(cholesky, columns, lower=True)), axis=1)
    half = ops.solve_triangular(cholesky, ops.matmul(ops.swapaxes(gt, -1, -2), columns), lower=True)
    return ops.sum(ops.square(columns), axis=1) - ops.sum(ops.square(half), axis=1)


@dataclass(frozen=True, eq=False, kw_only=True)
class ThreeDVar(Variational):
    """3D-Var: the analysis at each time with a B that does not change; for a linear H the BLUE of the forecast.

    Examples
    --------
    >>> method = ThreeDVar(background_error=0.5 * np.eye(40), iterations=1)
    """

    def __call__(self, problem: Problem, state: State, seen: Seen, draws: dict[str, Any]) -> tuple[State, Output]:
        """Forecast, then minimise."""
        b = covariance(self.background_error, problem, "ThreeDVar: background_error")
        forecast = problem.propagate(state["ensemble"], 0)
        found = self.analyse(problem, forecast, lambda x, z: [x + b.root(z)], seen, draws, b.rank, static=b)
        return {"ensemble": found.states[-1]}, found.output
