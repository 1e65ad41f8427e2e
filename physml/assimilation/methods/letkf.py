"""Local ensemble transform Kalman filter: an analysis of its own for every place, all of them in one batch.

At each place the observations count by the Gaspari-Cohn function rho of their distance, which stretches their error
variances (localisation of R):

    C = I + S diag(rho) S^T,   w = C^-1 S diag(rho) v,   T = C^-1/2,

and the elements of the state there are combined by w and T. For few observations the N x N products of all places are one
matrix product of rho ``[places, m]`` and the pairs of rows of S ``[m, N N]``.

References
----------
Hunt, B. R., Kostelich, E. J. and Szunyogh, I. (2007), doi:10.1016/j.physd.2006.11.008.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.method import Geometry, Problem
from physml.assimilation.methods._linalg import transform, transform_from
from physml.assimilation.methods._members import Observed, positions, taper
from physml.assimilation.methods.ensemble import EnsembleFilter

BLOCK = 2**23
"""Largest number of elements of an array of local quantities at once (64 MB in float64)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LETKF(EnsembleFilter):
    """Local ensemble transform Kalman filter.

    Parameters
    ----------
    radius
        Of localisation: the Gaspari-Cohn function has the curvature at zero of a Gaussian of this standard deviation, and ends
        at 3.65 times it; in the unit of the geometry's distances ([m] on the sphere). ``inf``: the ETKF.
    nearest
        How many observations, the nearest, an analysis uses. None: all. Fewer are faster where m exceeds a few hundred;
        those left out had better be beyond the end of the function.
    inflation, relaxation, rotate
        As for :class:`EnsembleFilter`; the rotation is the same at all places.

    Raises
    ------
    ValueError
        Where the geometry of the problem or the positions of the observations are not known.

    Notes
    -----
    ``chi2`` is the mean squared innovation in units of its expected standard deviation: no covariance between observations is
    defined for an analysis that differs from place to place.
    """

    radius: float
    nearest: int | None = None
    rotate: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nearest is not None and self.nearest < 1:
            refuse("LETKF: nearest is no number of observations", ">= 1, or None for all", self.nearest, "nearest=None")

    def analyse(self, problem: Problem, observed: Observed, draws: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return mean and anomalies of the analysis, and the sum of the squared normalised innovations."""
        geometry, at = positions(problem, observed.seen)
        places, which = np.unique(geometry.positions, axis=0, return_inverse=True)
        first = np.argsort(which, kind="stable")
        counts = np.bincount(which.ravel())
        if (counts == counts[0]).all():
            order = first.reshape(len(places), counts[0])
        else:  # Places of fewer elements repeat one of theirs: an analysis has one shape.
            starts = np.cumsum(counts) - counts
            order = first[starts[:, None] + np.minimum(np.arange(counts.max()), counts[:, None] - 1)]
        moved, anomalies = self._places(geometry, places, order, at, observed)
        back = np.empty(len(which), "int32")
        back[order.ravel()] = np.arange(order.size)
        mean = ops.take(ops.reshape(moved, (1, -1)), back, axis=1)
        anomalies = ops.take(ops.reshape(anomalies, (anomalies.shape[0], -1)), back, axis=1)
        there = observed.seen.valid
        std = ops.where(there, observed.innovation_std, 1.0)
        ratio = ops.where(there, observed.innovation, 0.0) / std
        return observed.mean + mean, anomalies, ops.sum(ratio * ratio)

    def _places(
        self, geometry: Geometry, places: np.ndarray, order: np.ndarray, at: Any, observed: Observed
    ) -> tuple[Any, Any]:
        """Return the moves of the mean ``[places, k]`` and the anomalies ``[N, places, k]``, k elements at a place."""
        members, m = observed.s.shape
        block = max(1, BLOCK // max(m, members * max(members, self.nearest or 0)))
        columns = ops.transpose(observed.anomalies)

        def local(x: tuple[Any, Any]) -> tuple[Any, Any]:
            here, elements = x
            w, t = self._transforms(geometry, here, at, observed)
            a = ops.swapaxes(ops.take(columns, elements, axis=0), -1, -2)
            moved = ops.matmul(w[:, None, :], a)[:, 0] / np.sqrt(members - 1)
            return moved, ops.matmul(t, a)

        if len(places) <= block:
            moved, anomalies = local((places, order.astype("int32")))
        else:
            parts = -(-len(places) // block)
            padded = np.minimum(np.arange(parts * block), len(places) - 1).reshape(parts, block)
            xs = (ops.convert_to_tensor(places[padded]), ops.convert_to_tensor(order[padded].astype("int32")))
            _, (moved, anomalies) = _backend.scan(lambda c, x: (c, local(x)), ops.zeros((), "float64"), xs)
            moved = ops.reshape(moved, (-1, *moved.shape[2:]))[: len(places)]
            anomalies = ops.reshape(anomalies, (-1, *anomalies.shape[2:]))[: len(places)]
        return moved, ops.swapaxes(anomalies, 0, 1)

    def _transforms(self, geometry: Geometry, places: Any, at: Any, observed: Observed) -> tuple[Any, Any]:
        """Return w ``[places, N]`` and T ``[places, N, N]``."""
        s, v = observed.s, observed.v
        members, m = s.shape
        distance = geometry.distance(ops.convert_to_tensor(places), at)
        rho = taper(distance, self.radius)
        if self.nearest is None or self.nearest >= m:
            pairs = ops.reshape(s[:, None, :] * s[None, :, :], (members * members, m))
            sst = ops.reshape(ops.matmul(rho, ops.transpose(pairs)), (-1, members, members))
            u = ops.matmul(rho * v, ops.transpose(s))
            return transform_from(sst, u, 0.0)[:2]
        there = ops.where(observed.scale > 0, distance, np.inf)
        near = ops.top_k(-there, self.nearest)[1]
        root = ops.sqrt(ops.take_along_axis(rho, near, axis=1))
        nearby = ops.swapaxes(ops.take(ops.transpose(s), near, axis=0), -1, -2) * root[:, None, :]
        return transform(nearby, ops.take(v, near, axis=0) * root)[:2]
