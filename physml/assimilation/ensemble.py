"""Ensemble Kalman filters: perturbed observations, square root, and the transform in the space of the members.

The covariance of the forecast error is that of N members, P = A^T A / (N - 1). With the observed anomalies whitened,
S = Y R^-1/2 M / sqrt(N - 1), and D = I + S^T S, C = I + S S^T, the gain is A^T S D^-1 R^-1/2 M / sqrt(N - 1), and the analysis

    mu_a = mu + w A / sqrt(N - 1),   w = C^-1 S v = S D^-1 v,
    A_a = T A,   T = C^-1/2 = I - S (D + D^1/2)^-1 S^T      (deterministic filters),

where the smaller of the two spaces, N or m, is used. Then the anomalies are relaxed, inflated and rotated, in this order.
Additive inflation is a model error: give the problem one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from physml.assimilation._linalg import transform
from physml.assimilation._members import Observed, forecast, model_noise, observe, relax, rotation, told
from physml.assimilation.method import Method, Output, Problem, Seen, State


@dataclass(frozen=True, eq=False, kw_only=True)
class EnsembleFilter(Method):
    """Base of the filters on an ensemble. A subclass implements :meth:`analyse`."""

    inflation: float = 1.0
    """Factor on the anomalies after the analysis, so that the next forecast starts from it."""
    relaxation: float = 0.0
    """0 to 1: how far the spread goes back to that before the analysis, element by element (RTPS)."""
    rotate: bool = False
    """Whether the anomalies are mixed by a random rotation that keeps mean and covariance, against outlying members."""

    def draws(
        self, rng: np.random.Generator, members: int, size: int, observed: int, count: int, noise: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the model error and the rotations."""
        drawn = model_noise(rng, members, noise, count)
        if self.rotate:
            drawn["rotation"] = np.stack([rotation(rng, members) for _ in range(count)])
        return drawn

    def analyse(
        self, problem: Problem, observed: Observed, draws: dict[str, Any]
    ) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Return mean ``[1, n]`` and anomalies ``[N, n]`` of the analysis, v^T D^-1 v and further parts of the output."""
        raise NotImplementedError

    def finish(self, mean: Any, anomalies: Any, before: Any, draws: dict[str, Any]) -> Any:
        """Return the members of the analysis, relaxed, inflated and rotated."""
        anomalies = self.inflation * relax(anomalies, before, self.relaxation)
        if self.rotate:
            anomalies = ops.matmul(draws["rotation"][0], anomalies)
        return mean + anomalies

    def __call__(self, problem: Problem, state: State, seen: Seen, draws: dict[str, Any]) -> tuple[State, Output]:
        """Return the ensemble at the next analysis time, and what is told of it."""
        observed = observe(problem, forecast(problem, state["ensemble"], draws, 0), seen.at(0))
        mean, anomalies, square, more = self.analyse(problem, observed, draws)
        ensemble = self.finish(mean, anomalies, observed.anomalies, draws)
        return {**state, "ensemble": ensemble}, told(observed, ensemble, square, **more)


@dataclass(frozen=True, eq=False, kw_only=True)
class ETKF(EnsembleFilter):
    """Ensemble transform Kalman filter with the symmetric root: members move as little as they can.

    Parameters
    ----------
    inflation, relaxation
        As for :class:`EnsembleFilter`.
    rotate
        True as a rule: without it few members drift away from the others in nonlinear models.

    References
    ----------
    Bishop, C. H., Etherton, B. J. and Majumdar, S. J. (2001), doi:10.1175/1520-0493(2001)129<0420:ASWTET>2.0.CO;2.
    Hunt, B. R., Kostelich, E. J. and Szunyogh, I. (2007), doi:10.1016/j.physd.2006.11.008.
    """

    rotate: bool = True

    def analyse(
        self, problem: Problem, observed: Observed, draws: dict[str, Any]
    ) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Return mean and anomalies of the analysis, v^T D^-1 v, and nothing further."""
        w, t, square = transform(observed.s, observed.v)
        weights = w[None, :] / np.sqrt(t.shape[0] - 1)
        mean = observed.mean + ops.matmul(weights, observed.anomalies)
        return mean, ops.matmul(t, observed.anomalies), square, {}
