"""Ensemble Kalman filters: perturbed observations, square root, and the transform in the space of the members.

The covariance of the forecast error is that of N members, P = A^T A / (N - 1). With the observed anomalies whitened,
S = Y R^-1/2 M / sqrt(N - 1), D = I + S^T S and C = I + S S^T, the gain on the whitened innovation is

    K = G D^-1 = A^T C^-1 S / sqrt(N - 1),   G = A^T S / sqrt(N - 1) = P H^T R^-1/2 M,

and the analysis of the members

    E_a = E + (v + e - sqrt(N - 1) S) K^T                                      perturbed observations, e ~ N(0, M),
    mu_a = mu + v K^T,   A_a = T A,   T = C^-1/2 = I - S (D + D^1/2)^-1 S^T    square root,

where the smaller of the two spaces, N or m, is used. Localisation multiplies G and S^T S, element by element, by the
Gaspari-Cohn function of the distance; then the space is that of the observations. Afterwards the anomalies are relaxed,
inflated and rotated, in this order. Additive inflation is a model error: give the problem one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.method import Method, Output, Problem, Seen, State
from physml.assimilation.methods._linalg import cholesky_solve, inverse_and_reduced, transform, unstack
from physml.assimilation.methods._members import (
    Observed,
    forecast,
    model_noise,
    observe,
    positions,
    relax,
    rotation,
    taper,
    told,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class EnsembleFilter(Method):
    """Base of the filters on an ensemble. A subclass implements :meth:`analyse`."""

    inflation: float = 1.0
    """Factor on the anomalies after the analysis, so that the next forecast starts from it."""
    relaxation: float = 0.0
    """0 to 1: how far the spread goes back to that before the analysis, element by element (RTPS)."""
    rotate: bool = False
    """Whether the anomalies are mixed by a random rotation that keeps mean and covariance, against outlying members."""

    def __post_init__(self) -> None:
        who = type(self).__name__
        # Where it is learned, the inflation is a tensor.
        if isinstance(self.inflation, int | float) and not self.inflation > 0:
            refuse(f"{who}: inflation is not positive", "> 0, a factor", self.inflation, "inflation=1.02")
        if isinstance(self.relaxation, int | float) and not 0 <= self.relaxation <= 1:
            refuse(f"{who}: relaxation is not between 0 and 1", "0 to 1", self.relaxation, "relaxation=0.5")
        radius = getattr(self, "radius", None)
        if radius is not None and not radius > 0:
            refuse(f"{who}: radius is not positive", "> 0", radius, "pass a distance")

    def draws(
        self, rng: np.random.Generator, members: int, size: int, observed: int, count: int, noise: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the model error and the rotations."""
        drawn = model_noise(rng, members, noise, count)
        if self.rotate:
            drawn["rotation"] = np.stack([rotation(rng, members) for _ in range(count)])
        return drawn

    def analyse(self, problem: Problem, observed: Observed, draws: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return mean ``[1, n]`` and anomalies ``[N, n]`` of the analysis, and v^T D^-1 v."""
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
        mean, anomalies, square = self.analyse(problem, observed, draws)
        ensemble = self.finish(mean, anomalies, observed.anomalies, draws)
        return {**state, "ensemble": ensemble}, told(observed, ensemble, square)


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
    Sakov, P. and Oke, P. R. (2008), doi:10.1175/2007MWR2021.1 (rotations).
    """

    rotate: bool = True

    def analyse(self, problem: Problem, observed: Observed, draws: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return mean and anomalies of the analysis, and v^T D^-1 v."""
        return updated(observed, *transform(observed.s, observed.v))


@dataclass(frozen=True, eq=False, kw_only=True)
class EnKF(EnsembleFilter):
    """Ensemble Kalman filter with perturbed observations: each member assimilates observations with errors of its own.

    The perturbations of all members add up to zero, so that the mean moves as if there were none.

    Parameters
    ----------
    inflation, relaxation, rotate
        As for :class:`EnsembleFilter`.
    radius
        Of localisation: the Gaspari-Cohn function has the curvature at zero of a Gaussian of this standard deviation, and ends
        at 3.65 times it; in the unit of the geometry's distances ([m] on the sphere). None: no localisation.

    References
    ----------
    Burgers, G., van Leeuwen, P. J. and Evensen, G. (1998), doi:10.1175/1520-0493(1998)126<1719:ASITEK>2.0.CO;2.
    Houtekamer, P. L. and Mitchell, H. L. (2001), doi:10.1175/1520-0493(2001)129<0123:ASEKFF>2.0.CO;2 (localisation).
    """

    radius: float | None = None

    def draws(
        self, rng: np.random.Generator, members: int, size: int, observed: int, count: int, noise: int = 0
    ) -> dict[str, np.ndarray]:
        """Return the model error, the rotations and the perturbations of the observations."""
        e = rng.standard_normal((count, members, observed))
        drawn = super().draws(rng, members, size, observed, count, noise)
        return {**drawn, "perturbation": e - e.mean(axis=1, keepdims=True)}

    def analyse(self, problem: Problem, observed: Observed, draws: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return mean and anomalies of the analysis, and v^T D^-1 v."""
        s, v = observed.s, observed.v
        members, m = s.shape
        noise = ops.where(observed.scale > 0, draws["perturbation"][0], 0.0)
        innovations = ops.concatenate([v + noise - np.sqrt(members - 1) * s, v[None]])
        st, at = ops.transpose(s), ops.transpose(innovations)
        if self.radius is None and members <= m:
            u = ops.matmul(s, at)
            weights = cholesky_solve(ops.cholesky(ops.eye(members, dtype="float64") + ops.matmul(s, st)), u)
            square = ops.sum(v * v) - ops.sum(u[:, -1] * weights[:, -1])
            moved = ops.matmul(ops.transpose(weights[:, :-1]), observed.anomalies) / np.sqrt(members - 1)
        else:
            d, gain = covariances(problem, observed, self.radius)
            solved = cholesky_solve(ops.cholesky(d), at)
            square = ops.sum(v * solved[:, -1])
            moved = ops.transpose(ops.matmul(gain, solved[:, :-1]))
        ensemble = observed.ensemble + moved
        mean = _backend.mean(ensemble, axis=0, keepdims=True)
        return mean, ensemble - mean, square


@dataclass(frozen=True, eq=False, kw_only=True)
class EnSRF(EnsembleFilter):
    """Ensemble square root filter: observations unperturbed, the gain of the anomalies reduced for it; all at once.

        A_a = A - sqrt(N - 1) S (D + D^1/2)^-1 G^T.

    Without localisation this is the ETKF without rotation. With it, it is its form in the space of the observations, where
    covariances can be localised.

    Parameters
    ----------
    inflation, relaxation, rotate
        As for :class:`EnsembleFilter`.
    radius
        Of localisation, as for :class:`EnKF`.

    References
    ----------
    Whitaker, J. S. and Hamill, T. M. (2002), doi:10.1175/1520-0493(2002)130<1913:EDAWPO>2.0.CO;2, equation 10.
    """

    radius: float | None = None

    def analyse(self, problem: Problem, observed: Observed, draws: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return mean and anomalies of the analysis, and v^T D^-1 v."""
        if self.radius is None:
            return updated(observed, *transform(observed.s, observed.v))
        d, gain = covariances(problem, observed, self.radius)
        inverse, reduced = unstack(inverse_and_reduced(d))
        solved = ops.matmul(inverse, observed.v[:, None])
        moved = ops.transpose(ops.matmul(gain, solved))
        shrunk = ops.matmul(ops.matmul(observed.s, reduced), ops.transpose(gain))
        anomalies = observed.anomalies - np.sqrt(observed.s.shape[0] - 1) * shrunk
        return observed.mean + moved, anomalies, ops.sum(observed.v * solved[:, 0])


def updated(observed: Observed, w: Any, t: Any, square: Any) -> tuple[Any, Any, Any]:
    """Return mean and anomalies moved by the weights ``[N]`` and the transform ``[N, N]``, and *square* as it is."""
    moved = ops.matmul(w[None, :], observed.anomalies) / np.sqrt(t.shape[0] - 1)
    return observed.mean + moved, ops.matmul(t, observed.anomalies), square


def covariances(problem: Problem, observed: Observed, radius: float | None) -> tuple[Any, Any]:
    """Return D ``[m, m]`` and G ``[n, m]``, localised."""
    s = observed.s
    hbh = ops.matmul(ops.transpose(s), s)
    gain = ops.matmul(ops.transpose(observed.anomalies), s) / np.sqrt(s.shape[0] - 1)
    if radius is not None:
        geometry, at = positions(problem, observed.seen)
        hbh = hbh * taper(geometry.distance(at, at), radius)
        gain = gain * taper(geometry.distance(ops.convert_to_tensor(geometry.positions), at), radius)
    return ops.eye(hbh.shape[0], dtype="float64") + hbh, gain
