"""B seen by observations, and the innovations solved for: B H^T, H B H^T, S, v and w."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from physml.assimilation.errors.covariance import Kernels, PointCovariance


@dataclass(frozen=True, eq=False)
class ObservedCovariance:
    """B seen by H: B H^T and H B H^T from the corners of the observations, without B.

    ``p`` below is 1 where all fields of a batch share their positions, else the size of the batch.
    """

    background: PointCovariance
    unit: Any
    """Unit vectors of the wet cells, ``[n, 3]``."""
    std: Any
    """Standard deviations of the wet cells, ``[n]``."""
    index: Any
    """Corners of the observations among the wet cells, ``[p, m, 4]``."""
    weights: Any
    """Weights of the corners, ``[p, m, 4]``."""
    lag: Any = None
    """Times of the observations since the analysis [s], ``[p, m]``; None: all are of its time."""

    def corner(self, k: int) -> tuple[Any, Any]:
        """Return the unit vectors ``[p, m, 3]`` and standard deviations ``[p, m]`` of the k-th corners."""
        return ops.take(self.unit, self.index[..., k], axis=0), ops.take(self.std, self.index[..., k], axis=0)

    def cross(
        self, unit: Any, std: Any, lag: Any, kernels: Kernels | None = None, corners: Iterable[int] = range(4)
    ) -> Any:
        """Return B H^T between points and the observations, ``[p, points, m]``, or what some corners add to it."""
        space, time = kernels or (self.background.correlation, self.background.time_correlation)
        total: Any = 0.0
        for k in corners:
            corner_unit, corner_std = self.corner(k)
            total = total + space(unit, corner_unit) * (self.weights[..., k] * corner_std)[..., None, :]
        if self.lag is not None and self.background.in_time:
            total = total * time(lag, self.lag)
        return total * std[..., :, None]

    def at_cells(self, cells: slice = slice(None), kernels: Kernels | None = None) -> Any:
        """Return B H^T at some of the wet cells, ``[p, cells, m]``."""
        now = ops.zeros((1,), dtype="float64")
        return self.cross(self.unit[cells], self.std[cells], now, kernels)

    def at_observations(self, kernels: Kernels | None = None) -> Any:
        """Return H B H^T, ``[p, m, m]``."""
        corners = [(self.weights[..., k, None], *self.corner(k)) for k in range(4)]
        return sum(weights * self.cross(unit, std, self.lag, kernels) for weights, unit, std in corners)

    def sample(self, x: Any) -> Any:
        """Return H x, ``[o, m, k]``, from ``[o, n, k]``; p is 1 or o."""
        flat, index, weights = self._flat(x)
        return ops.sum(ops.take(flat, index, axis=0) * weights, axis=-2)

    def spread(self, z: Any, like: Any) -> Any:
        """Return H^T z, ``[o, n, k]`` like *like*, from ``[o, m, k]``."""
        flat, index, weights = self._flat(like)
        values = ops.reshape(ops.expand_dims(z, -2) * weights, (-1, like.shape[-1] or ops.shape(like)[-1]))
        sums = ops.segment_sum(values, ops.reshape(index, (-1,)), num_segments=ops.shape(flat)[0])
        return ops.reshape(sums, ops.shape(like))

    def std_gradient(self, gain: Any, w: Any, z: Any, a: Any) -> Any:
        """Return dl/dstd ``[n]`` of a^T B H^T w - z^T H B H^T w, w and z held: cells count as targets and as corners."""
        total = ops.sum(a * ops.matmul(gain, w), axis=(0, 2)) / self.std
        now = ops.zeros((1,), dtype="float64")
        for k in range(4):
            unit, std = self.corner(k)
            to_cells = self.cross(self.unit, self.std, now, corners=[k])
            to_observations = self.cross(unit, std, self.lag)
            both = z * ops.matmul(to_observations, w) + w * ops.matmul(to_observations, z)
            at = w * ops.matmul(ops.swapaxes(to_cells, -1, -2), a) - self.weights[..., k, None] * both
            only = ops.convert_to_tensor(np.arange(4) == k, "float64") * ops.ones_like(self.weights)
            total = total + ops.sum(replace(self, weights=only).spread(at / std[..., None], a), axis=(0, 2))
        return total

    def _flat(self, x: Any) -> tuple[Any, Any, Any]:
        """Return x ``[o n, k]``, the corners in it ``[o, m, 4]`` and their weights ``[o, m, 4, 1]``."""
        size, n, columns = ops.shape(x)
        index = self.index + n * ops.expand_dims(ops.arange(size, dtype="int32"), (1, 2))
        return ops.reshape(x, (-1, columns)), index, ops.expand_dims(self.weights, -1)


class Solution(NamedTuple):
    """The solved observation space, from :func:`solve_innovation`."""

    observed: ObservedCovariance
    hbh: Any
    cholesky: Any
    scale: Any
    valid: Any
    innovation: Any
    whitened: Any
    weights: Any

    def solve(self, c: Any) -> Any:
        """Return R^-1/2 M S^-1 M R^-1/2 c, ``[o, m, k]``."""
        half = ops.solve_triangular(self.cholesky, self.scale[..., None] * c, lower=True)
        return self.scale[..., None] * ops.solve_triangular(ops.swapaxes(self.cholesky, -1, -2), half, lower=False)


def solve_innovation(observed: ObservedCovariance, x: Any, values: Any, error_std: Any) -> Solution:
    """Return S, v and w for forecasts x ``[o, n, k]`` and observations ``[o, m]``.

    Each of the o sets of observations is met by k fields: all fields of a batch (o = 1) or its own one (k = 1).
    """
    valid = ops.logical_and(ops.isfinite(values), ops.any(observed.weights > 0, axis=-1))
    # NaN must go before any arithmetic: NaN times zero is NaN, in the gradient too.
    scale = ops.where(valid, 1.0 / ops.where(valid, error_std, 1.0), 0.0)
    innovation = ops.where(valid, values, 0.0)[..., None] - observed.sample(x)
    hbh = observed.at_observations()
    identity = ops.eye(ops.shape(hbh)[-1], dtype="float64")
    cholesky = ops.cholesky(identity + scale[..., :, None] * hbh * scale[..., None, :])
    whitened = ops.solve_triangular(cholesky, scale[..., None] * innovation, lower=True)
    back = ops.solve_triangular(ops.swapaxes(cholesky, -1, -2), whitened, lower=False)
    return Solution(observed, hbh, cholesky, scale, valid, innovation, whitened, scale[..., None] * back)
