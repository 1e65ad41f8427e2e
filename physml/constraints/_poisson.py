"""Flows with a given net outflow of every cell: the masked Poisson problem of a C-grid, in float64, with its adjoint.

With the conductance ``K`` of the faces (0 where closed), ``G`` the difference across a face and ``D = -G^T`` the net outflow::

    flow = K G phi,    D K G phi = q - mean of q,

where the mean is that of each connected basin, since nothing leaves it. The conjugate gradients are preconditioned by the exact inverse for
the same grid without land, its conductances averaged along x, which separates::

    K_y(y) G_y^T G_y + K_x(y) G_x^T G_x = V^-T (mu + lambda) V^-1,    V^T diag(K_x) V = 1.

On such a grid they end after one pass. With land the number of passes depends on the shape of the coasts, not on the
resolution, because a field on the water can be continued over land at a cost in proportion to its own. The gradient is one more
solve: ``dq = -(1 - mean)^T L^+ G^T K dflow`` with ``L = -D K G``.

References
----------
Hestenes, M. R. and Stiefel, E. (1952), doi:10.6028/jres.049.044. Buzbee, B. L., Dorr, F. W., George, J. A. and Golub, G. H.
(1971), doi:10.1137/0708066.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
from keras import ops

from physml import _backend
from physml.constraints._cgrid import components

MAX_PASSES = 1000
"""Passes after which the iteration stops."""
TOLERANCE = 1e-13
"""Largest residual of a cell, relative to the largest outflow asked for, at which it ends."""

Array = np.ndarray


class Poisson:
    """Solver for grids ``[y, x, column]``; each column, a level, is a problem of its own.

    Parameters
    ----------
    conductance
        Of the faces ahead along y and along x, >= 0, 0 on closed faces.
    valid
        Valid cells.
    area
        Of the cells, > 0 on valid ones: the mean that is removed from each basin is weighted by it.
    periodic
        Whether y and x are.
    """

    def __init__(self, conductance: Sequence[Array], valid: Array, area: Array, periodic: Sequence[bool]) -> None:
        # Inside, columns stand before y and x, for the matrix products of the preconditioner.
        valid, area, *self._k = (np.moveaxis(np.asarray(a, "float64"), -1, 0) for a in (valid, area, *conductance))
        self.shape, self._valid, self._area = valid.shape, valid, np.where(valid > 0, area, 0.0)
        basins, count = np.zeros(valid.shape, "int32"), 0
        for c, wet in enumerate(valid > 0):
            found = components(wet, periodic)
            basins[c] = np.where(found > 0, found + count, 0)
            count += int(found.max(initial=0))
        self._ids, self._count = basins.reshape(-1), count + 1
        self._per_cell, self._per_area = self._over(self._valid), self._over(self._area)
        self._separate(periodic)
        self._solve = _backend.compiled(self._conjugate_gradients)

    def _over(self, size: Array) -> Array:
        """Return one over the size of each basin, 0 for land."""
        total = np.bincount(self._ids, size.reshape(-1), self._count)
        return np.where(np.arange(self._count) > 0, 1.0 / np.where(total > 0, total, 1.0), 0.0)

    def _separate(self, periodic: Sequence[bool]) -> None:
        """Prepare the inverse for the grid without land."""

        def differences(n: int, wraps: bool) -> Array:
            g = np.roll(np.eye(n), 1, axis=1) - np.eye(n)
            return g if wraps else g[:-1]

        _, ny, nx = self.shape
        gy, gx = differences(ny, periodic[0]), differences(nx, periodic[1])
        rates, self._x = np.linalg.eigh(gx.T @ gx)
        y, inverse = [], []
        for both in zip(*self._k, strict=True):
            ky, kx = (_row_means(k) for k in both)
            mu, vectors = scipy.linalg.eigh(gy.T @ (ky[: gy.shape[0], None] * gy), np.diag(kx))
            total = mu[:, None] + rates[None, :]
            null = total <= 1e-12 * max(total.max(), 1e-300)
            total[null] = total[~null].min() if not null.all() else 1.0  # a constant drives no flow
            y.append(vectors)
            inverse.append(1.0 / total)
        self._y, self._inverse = np.stack(y), np.stack(inverse)

    def _precondition(self, r: Any) -> Any:
        y, yt, x, xt, inverse = (
            ops.cast(m, r.dtype) for m in (self._y, self._y.swapaxes(1, 2), self._x, self._x.T, self._inverse)
        )
        return ops.matmul(y, ops.matmul(ops.matmul(yt, ops.matmul(r, x)) * inverse, xt))

    def _gradient(self, phi: Any) -> list[Any]:
        """Return what flows through the faces."""
        k = [ops.cast(k, phi.dtype) for k in self._k]
        return [k * (ops.roll(phi, -1, axis=axis) - phi) for axis, k in enumerate(k, start=2)]

    @staticmethod
    def _outflow(flows: Sequence[Any]) -> Any:
        """Return the net outflow of every cell."""
        parts = [f - ops.roll(f, 1, axis=axis) for axis, f in enumerate(flows, start=2)]
        return parts[0] + parts[1]

    def _basin(self, x: Any, per: Array) -> Any:
        """Return the sum of the basin of every cell times what *per* says of the basin, 0 on land."""
        flat = ops.transpose(ops.reshape(x, (-1, self._ids.size)))
        sums = ops.segment_sum(flat, self._ids, num_segments=self._count) * ops.cast(per[:, None], x.dtype)
        return ops.reshape(ops.transpose(ops.take(sums, self._ids, axis=0)), (-1, *self.shape))

    def _level(self, x: Any) -> Any:
        """Return a field less its mean in every basin, 0 on land."""
        return x * ops.cast(self._valid, x.dtype) - self._basin(x, self._per_cell)

    def excess(self, outflow: Any) -> Any:
        """Return the net outflow over area that each cell must do without, the mean of its basin, ``[batch, y, x, column]``."""
        return _last(self._basin(_first(outflow), self._per_area))

    def _rest(self, q: Any) -> Any:
        """Return the outflow that a basin cannot have, less *q*: the right-hand side."""
        return ops.cast(self._area, q.dtype) * self._basin(q, self._per_area) - q

    def _conjugate_gradients(self, b: Any) -> tuple[Any, Any]:
        """Return the passes, and ``phi`` with ``-D K G phi = b`` for a *b* that sums to zero in every basin; float64."""
        b = self._level(b)  # what rounding leaves of its sums belongs to no flow, and would grow from pass to pass
        largest = ops.max(ops.abs(b), axis=(2, 3), keepdims=True)
        goal = TOLERANCE * largest

        def total(x: Any) -> Any:
            return ops.sum(x, axis=(2, 3), keepdims=True)

        def ratio(a: Any, b: Any) -> Any:
            return ops.where(b > 0, a / ops.where(b > 0, b, ops.ones_like(b)), ops.zeros_like(b))

        def unfinished(i: Any, phi: Any, r: Any, p: Any, rz: Any) -> Any:
            return (i < MAX_PASSES) & ops.any(ops.max(ops.abs(r), axis=(2, 3), keepdims=True) > goal)

        def body(i: Any, phi: Any, r: Any, p: Any, rz: Any) -> tuple[Any, ...]:
            ap = -self._outflow(self._gradient(p))
            alpha = ratio(rz, total(p * ap))
            phi, r = phi + alpha * p, r - alpha * ap
            z = self._precondition(r)
            after = total(r * z)
            return i + 1, phi, r, z + ratio(after, rz) * p, after

        z = self._precondition(b)
        start = (ops.zeros((), "int32"), ops.zeros_like(b), b, z, total(b * z))
        passes, phi, *_ = ops.while_loop(unfinished, body, start)
        return passes, phi

    def passes(self, seed: int = 0) -> int:
        """Return after how many passes a random problem on this grid is solved; :data:`MAX_PASSES` where it is not."""
        with _backend.float64():
            q = ops.convert_to_tensor(np.random.default_rng(seed).normal(size=(1, *self.shape)) * self._area)
            return int(self._solve(self._rest(q))[0])

    def flows(self, outflow: Any) -> Any:
        """Return the flows along y and x, ``[batch, y, x, (2, column)]``, whose net outflow is *outflow* less its excess.

        Differentiable; computed in float64, in and out in the type of *outflow*.
        """

        def forward_and_vjp(outflow: Any) -> tuple[Any, Any]:
            kind = outflow.dtype
            valid, area, *k = (ops.cast(a, "float64") for a in (self._valid, self._area, *self._k))
            phi = self._solve(self._rest(_first(ops.cast(outflow, "float64")) * valid))[1]
            found = ops.concatenate([_last(f) for f in self._gradient(phi)], axis=-1)

            def vjp(upstream: Any) -> tuple[Any, ...]:
                g = [_first(part) for part in ops.split(ops.cast(upstream, "float64"), 2, axis=-1)]
                s = self._solve(-self._outflow([a * b for a, b in zip(k, g, strict=True)]))[1]
                # The transpose of removing the mean weighted by area.
                return (ops.cast(_last(valid * (self._basin(s * area, self._per_area) - s)), kind),)

            return ops.cast(found, kind), vjp

        return _backend.custom_gradient(forward_and_vjp)(outflow)


def _first(x: Any) -> Any:
    return ops.transpose(x, (0, 3, 1, 2))


def _last(x: Any) -> Any:
    return ops.transpose(x, (0, 2, 3, 1))


def _row_means(k: Array) -> Array:
    """Return the mean conductance of the open faces of every row; of all, where a row has none."""
    open_faces = k > 0
    whole = k[open_faces].mean() if open_faces.any() else 1.0
    count = open_faces.sum(axis=1)
    return np.where(count > 0, k.sum(axis=1) / np.maximum(count, 1), whole)
