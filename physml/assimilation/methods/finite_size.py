"""Finite-size ensemble Kalman filter: the inflation that the sampling error of N members needs, found from the innovation.

The covariance of the forecast is known through N members only. With it integrated out, the analysis minimises

    J(w) = 1/2 |v - w S'|^2 + (N + g)/2 log(eps + w w^T),   S' = Y R^-1/2 M,   eps = 1 + 1/N,

or, in its dual form, over the one number zeta in (0, (N + g) / eps],

    D(zeta) = 1/2 v (I + S'^T S' / zeta)^-1 v^T + eps zeta / 2 + (N + g)/2 log((N + g) / zeta) - (N + g)/2,

at whose minimum w = v S'^T (S' S'^T + zeta I)^-1 and eps + w w^T = (N + g) / zeta. It is the ETKF after an inflation of the
forecast by sqrt((N - 1) / zeta). Where observations say little, the prior alone would deflate the ensemble: its mode is moved
to an inflation of 1 there (equation 36 of Bocquet et al. 2015).

References
----------
Bocquet, M. (2011), Ensemble Kalman filtering without the intrinsic need for inflation, doi:10.5194/npg-18-735-2011.
Bocquet, M., Raanes, P. N. and Hannart, A. (2015), Expanding the validity of the ensemble Kalman filter without the intrinsic
need for inflation, doi:10.5194/npg-22-645-2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml.assimilation.method import Problem
from physml.assimilation.methods._linalg import cholesky_solve, transform
from physml.assimilation.methods._members import Observed
from physml.assimilation.methods.ensemble import EnsembleFilter, updated

LARGEST = 100.0
"""Largest inflation that is looked for."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EnKFN(EnsembleFilter):
    """Finite-size ensemble Kalman filter (EnKF-N), dual form: an ETKF that finds its inflation.

    Parameters
    ----------
    certainty
        Factor on the number of members in the prior of the covariance: 1 for members drawn at random, about 2 for models
        without noise, whose ensembles sample better.
    null
        g: dimension of the null space of the anomalies in addition to that of the mean, such as N - 1 - n for N > n + 1.
    mode_correction
        Whether the mode of the prior is moved to an inflation of 1 where observations say little.
    rotate
        As for :class:`EnsembleFilter`.
    inflation, relaxation
        Further ones, which should not be needed where the model is perfect.
    """

    rotate: bool = True
    certainty: float = 1.0
    null: int = 0
    mode_correction: bool = True

    def analyse(self, problem: Problem, observed: Observed, draws: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return mean and anomalies of the analysis, and v^T D^-1 v of the inflated forecast."""
        zeta = self.zeta(observed.s, observed.v)
        prior = ops.sqrt((observed.s.shape[0] - 1) / zeta)
        inflated = observed._replace(anomalies=prior * observed.anomalies)
        return updated(inflated, *transform(prior * observed.s, observed.v))

    def hyperprior(self, sst: Any) -> tuple[Any, Any]:
        """Return eps and N + g, corrected, from S S^T ``[N, N]`` with S = S' / sqrt(N - 1)."""
        members = sst.shape[0]
        eps, total = 1.0 + 1.0 / members, float(members + self.null)
        if self.mode_correction:
            # Mean over the space of members of the weight of the forecast, 1 / (1 + s^2).
            c = ops.eye(members, dtype="float64") + sst
            inverse = cholesky_solve(ops.cholesky(c), ops.eye(members, dtype="float64"))
            weight = ops.trace(inverse) / members
            moved = ops.exp(0.5 * weight * np.log(eps * (members - 1) / total))
            return self.certainty * eps / moved, self.certainty * total * moved
        return self.certainty * eps, self.certainty * total

    def zeta(self, s: Any, v: Any) -> Any:
        """Return the zeta of the least D, from S ``[N, m]`` (divided by sqrt(N - 1)) and v ``[m]``."""
        members = s.shape[0]
        sst, u = ops.matmul(s, ops.transpose(s)), ops.matmul(s, v[:, None])
        eps, total = self.hyperprior(sst)
        squares, vectors = ops.eigh(ops.stop_gradient(sst))
        squares = ops.maximum(squares, 0.0) * (members - 1)
        weights = ops.square(ops.matmul(ops.transpose(vectors), ops.stop_gradient(u)))[:, 0] * (members - 1)
        fixed = [ops.stop_gradient(a) for a in (squares, weights, ops.cast(eps, "float64"), ops.cast(total, "float64"))]
        zeta = ops.stop_gradient(_backend.fused(_minimum)(*fixed))
        # One Newton step with the derivative of D in its differentiable form: it moves zeta by rounding only, and has the
        # gradient of the implicit function.
        matrix = (members - 1) * sst + zeta * ops.eye(members, dtype="float64")
        w = np.sqrt(members - 1) * cholesky_solve(ops.cholesky(matrix), u)
        slope = 0.5 * (ops.sum(w * w) + eps - total / zeta)
        return zeta - slope / ops.stop_gradient(_curvature(zeta, *fixed))


def _slope(zeta: Any, squares: Any, weights: Any, eps: Any, total: Any) -> Any:
    """dD/dzeta."""
    return 0.5 * (ops.sum(weights / ops.square(squares + zeta[..., None]), axis=-1) + eps - total / zeta)


def _curvature(zeta: Any, squares: Any, weights: Any, eps: Any, total: Any) -> Any:
    """d2D/dzeta2."""
    third = (squares + zeta[..., None]) ** 3
    return -ops.sum(weights / third, axis=-1) + 0.5 * total / ops.square(zeta)


def _minimum(squares: Any, weights: Any, eps: Any, total: Any) -> Any:
    """Return the zeta of the least D: the best of a grid of logarithms, then halvings of the interval about it."""
    members = squares.shape[0]
    low, high = np.log((members - 1) / LARGEST**2), ops.log(total / eps)
    grid = low + (high - low) * np.linspace(0.0, 1.0, 65)
    zeta = ops.exp(grid)
    # v (I + S'^T S' / zeta)^-1 v^T differs from the sum by a constant.
    fit = -ops.sum(weights / (squares + zeta[:, None]), axis=-1)
    best = ops.argmin(fit + eps * zeta - total * ops.log(zeta))
    width = (high - low) / 64.0
    left = ops.maximum(low + width * (ops.cast(best, "float64") - 1.0), low)
    right = ops.minimum(left + 2.0 * width, high)

    def halve(_: Any, interval: tuple[Any, Any]) -> tuple[Any, Any]:
        left, right = interval
        middle = 0.5 * (left + right)
        rising = _slope(ops.exp(middle), squares, weights, eps, total) > 0
        return ops.where(rising, left, middle), ops.where(rising, middle, right)

    left, right = ops.fori_loop(0, 50, halve, (left, right))
    return ops.exp(0.5 * (left + right))
