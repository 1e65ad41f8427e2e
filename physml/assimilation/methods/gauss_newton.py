"""Gauss-Newton minimisation of the cost function of variational assimilation, and the gradient of its minimum.

In the control vector z of p elements, of which the background expects mean 0 and covariance I,

    J(z) = 1/2 |z|^2 + 1/2 |R^-1/2 M (d - h(z))|^2.

An outer loop linearises h about z: with b = R^-1/2 M (d - h(z)) and G = R^-1/2 M h'(z), the quadratic problem has the minimum

    z + dz = (I + G^T G)^-1 G^T (b + G z) = G^T (I + G G^T)^-1 (b + G z).

The first form takes p columns of G, tangents along unit vectors, computed in one batch; the second m rows, adjoints; where both
p and m are large, conjugate gradients take products with G and G^T alone. The Hessian I + G^T G is the inverse covariance of
the analysis error in z.

References
----------
Courtier, P., Thepaut, J.-N. and Hollingsworth, A. (1994), doi:10.1002/qj.49712051912 (incremental 4D-Var).
Fisher, M. and Courtier, P. (1995), ECMWF Technical Memorandum 220 (Hessian from Lanczos vectors).
Lawless, A. S., Gratton, S. and Nichols, N. K. (2005), doi:10.1256/qj.04.20 (the loops as Gauss-Newton).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from physml import _backend
from physml.assimilation.methods._linalg import cholesky_solve

Predict = Callable[[Any, Any], Any]
"""``(x [B, n], z [B, p]) -> [B, m]``, row by row: what observations would be, for background states x and controls z."""


class Curvature(NamedTuple):
    """Eigenpairs of the Hessian, I + G^T G = I + V^T (Theta - 1) V; along what V does not span it is 1."""

    vectors: Any
    """V ``[N, k, p]``, orthonormal rows, or 0."""
    values: Any
    """Theta ``[N, k]``."""

    def half_inverse(self, z: Any) -> Any:
        """Return (I + G^T G)^-1/2 z for ``[N, s, p]``: a sample of the analysis error from one of covariance I."""
        shrink = ops.expand_dims(1.0 / ops.sqrt(self.values) - 1.0, 1)
        return z + ops.matmul(shrink * ops.matmul(z, _transposed(self.vectors)), self.vectors)


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """The cost function J for N background states at once, each with its own control vector ``[N, p]``."""

    predict: Predict
    x: Any
    """Background states ``[N, n]``."""
    observed: Any
    """d ``[m]``, anything finite where missing."""
    scale: Any
    """R^-1/2 M as a row ``[m]``, 0 where missing."""
    size: int
    """p."""

    @property
    def zero(self) -> Any:
        """The control of the background, ``[N, p]``."""
        return ops.zeros((self.x.shape[0], self.size), dtype="float64")

    def cost(self, z: Any) -> Any:
        """Return J ``[N]``."""
        misfit = self.scale * (self.observed - self.predict(self.x, z))
        return 0.5 * (ops.sum(ops.square(z), axis=-1) + ops.sum(ops.square(misfit), axis=-1))

    def gradient(self, z: Any, x: Any = None) -> Any:
        """Return the gradient of J ``[N, p]``, by one adjoint run; *x* replaces the background states."""
        x = self.x if x is None else x
        value, adjoint = _backend.vjp(lambda c: self.predict(x, c), z)
        return z - adjoint(ops.square(self.scale) * (self.observed - value))

    def columns(self, z: Any) -> tuple[Any, Any]:
        """Return b ``[N, m]`` and G^T ``[N, p, m]`` by p tangents."""
        value, slopes = tangents(self.predict, self.x, z, None)
        return self.scale * (self.observed - value), slopes * self.scale

    def rows(self, z: Any) -> tuple[Any, Any]:
        """Return b and G^T by m adjoints."""
        n, m = self.x.shape[0], self.scale.shape[0]
        x = ops.repeat(self.x, m, axis=0)
        value, adjoint = _backend.vjp(lambda c: self.predict(x, c), ops.repeat(z, m, axis=0))
        g = adjoint(ops.tile(ops.diag(self.scale), (n, 1)))
        value = ops.reshape(value, (n, m, m))[:, 0]
        return self.scale * (self.observed - value), _transposed(ops.reshape(g, (n, m, self.size)))

    def hessian(self, z: Any) -> Any:
        """Return the whole Hessian of J ``[N, p, p]``, with the second derivatives of h that Gauss-Newton leaves out."""
        _, h = tangents(lambda x, c: self.gradient(c, x), self.x, z, None)
        return h


def tangents(function: Predict, x: Any, z: Any, directions: Any) -> tuple[Any, Any]:
    """Return ``function(x, z)`` ``[N, m]`` and its derivatives in z along *directions* ``[N, k, p]``, ``[N, k, m]``, in one batch.

    None stands for the p unit vectors.
    """
    n, p = z.shape
    if directions is None:
        directions = ops.tile(ops.expand_dims(ops.eye(p, dtype="float64"), 0), (n, 1, 1))
    k = directions.shape[1]
    copies = ops.repeat(x, k, axis=0)
    value, slope = _backend.jvp(
        lambda c: function(copies, c), ops.repeat(z, k, axis=0), ops.reshape(directions, (n * k, p))
    )
    m = value.shape[-1]
    return ops.reshape(value, (n, k, m))[:, 0], ops.reshape(slope, (n, k, m))


def factor(gt: Any) -> Any:
    """Return the Cholesky factor of I + G^T G or of I + G G^T, whichever is smaller."""
    p, m = gt.shape[-2:]
    a = ops.matmul(gt, _transposed(gt)) if p <= m else ops.matmul(_transposed(gt), gt)
    return ops.cholesky(ops.eye(min(p, m), dtype="float64") + a)


def solve_explicit(gt: Any, target: Any) -> Any:
    """Return (I + G^T G)^-1 G^T target ``[N, p]``, from G^T ``[N, p, m]`` and target ``[N, m]``."""
    cholesky, (p, m) = factor(gt), gt.shape[-2:]
    column = target[..., None]
    if p <= m:
        return cholesky_solve(cholesky, ops.matmul(gt, column))[..., 0]
    return ops.matmul(gt, cholesky_solve(cholesky, column))[..., 0]


def conjugate_gradients(
    apply: Callable[[Any], Any], b: Any, iterations: int, tolerance: float, keep: bool = False
) -> tuple[Any, Curvature | None]:
    """Return the solution ``[N, p]`` of ``apply(x) = b`` for a symmetric positive definite operator, and its Ritz pairs.

    Stops when every residual is below *tolerance* times its b. With *keep*, residuals are made orthogonal to all earlier ones,
    which keeps the Ritz pairs of the Lanczos process distinct; else None comes in place of them.
    """
    n, p = b.shape
    slots = ops.arange(iterations)
    target = tolerance**2 * ops.sum(ops.square(b), axis=-1)

    def put(array: Any, k: Any, row: Any) -> Any:
        there = ops.reshape(slots == k, (1, iterations) + (1,) * (len(array.shape) - 2))
        return ops.where(there, ops.expand_dims(row, 1), array)

    def ratio(a: Any, c: Any) -> Any:
        return ops.where(c > 0, a / ops.where(c > 0, c, 1.0), 0.0)

    def go_on(k: Any, x: Any, r: Any, d: Any, rr: Any, *kept: Any) -> Any:
        return ops.logical_and(k < iterations, ops.any(rr > target))

    def body(k: Any, x: Any, r: Any, d: Any, rr: Any, *kept: Any) -> Any:
        # A run that has converged stands still while the others go on.
        active = rr > target
        q = apply(d)
        step = ops.where(active, ratio(rr, ops.sum(d * q, axis=-1)), 0.0)
        x, new = x + step[:, None] * d, r - step[:, None] * q
        if kept:
            vectors, steps, turns = kept
            unit = r * ratio(ops.ones_like(rr), ops.sqrt(rr))[:, None]
            vectors = put(vectors, k, ops.where(active[:, None], unit, 0.0))
            for _ in range(2):
                new = new - ops.einsum("nk,nkp->np", ops.einsum("np,nkp->nk", new, vectors), vectors)
        squared = ops.sum(ops.square(new), axis=-1)
        turn = ops.where(active, ratio(squared, rr), 0.0)
        if kept:
            kept = (vectors, put(steps, k, step), put(turns, k, turn))
        return (k + 1, x, new, new + turn[:, None] * d, squared, *kept)

    kept: Any = ()
    if keep:
        kept = (ops.zeros((n, iterations, p), dtype="float64"), *(ops.zeros((n, iterations), dtype="float64"),) * 2)
    start = (ops.zeros((), dtype=slots.dtype), ops.zeros_like(b), b, b, ops.sum(ops.square(b), axis=-1), *kept)
    _, x, _, _, _, *kept = ops.while_loop(go_on, body, start)
    return x, _ritz(*kept) if keep else None


def _ritz(vectors: Any, steps: Any, turns: Any) -> Curvature:
    """Return the Ritz pairs of the tridiagonal matrix that conjugate gradients have built; unused slots get the value 1."""
    used = steps > 0
    inverse = ops.where(used, 1.0 / ops.where(used, steps, 1.0), 0.0)
    link = turns * inverse
    before = ops.pad(link[:, :-1], ((0, 0), (1, 0)))
    diagonal = ops.where(used, inverse + before, 1.0)
    both = ops.logical_and(used[:, :-1], used[:, 1:])
    beside = ops.where(both, ops.sqrt(turns[:, :-1]) * inverse[:, :-1], 0.0)
    k, eye = steps.shape[1], np.eye(steps.shape[1])
    upper = ops.matmul(beside[:, :, None] * eye[: k - 1, : k - 1], eye[1:])
    upper = ops.pad(upper, ((0, 0), (0, 1), (0, 0)))
    # Successive residuals of conjugate gradients alternate in sign beside the vectors of Lanczos.
    values, mixing = ops.linalg.eigh(diagonal[:, :, None] * eye - upper - _transposed(upper))
    return Curvature(ops.matmul(_transposed(mixing), vectors), ops.maximum(values, 1.0))


@dataclass(frozen=True, eq=False, kw_only=True)
class GaussNewton:
    """Outer loops that relinearise, inner problems solved exactly where p or m is small, else by conjugate gradients."""

    iterations: int = 10
    """Most outer loops; one suffices where model and H are linear."""
    tolerance: float = 1e-4
    """Outer loops end when the control moves by less, in root mean square; the background expects 1."""
    dense_limit: int = 500
    """Largest p, else largest m, for which G is formed."""
    inner_iterations: int = 50
    """Most iterations of conjugate gradients in an outer loop."""
    inner_tolerance: float = 1e-3
    """They end when the gradient of the quadratic problem has fallen to this part."""

    def by_columns(self, p: int) -> bool:
        """Whether G is formed by columns."""
        return p <= self.dense_limit

    def explicit(self, p: int, m: int) -> bool:
        """Whether G is formed."""
        return min(p, m) <= self.dense_limit

    def jacobian(self, problem: LeastSquares, z: Any) -> tuple[Any, Any]:
        """Return b and G^T at z, by the cheaper way."""
        return problem.columns(z) if self.by_columns(problem.size) else problem.rows(z)

    def inner(self, problem: LeastSquares, z: Any, keep: bool = False) -> tuple[Any, Curvature | None]:
        """Return z + dz, the minimum of J linearised about z, and the Ritz pairs if they are to be kept."""
        if self.explicit(problem.size, problem.scale.shape[0]):
            b, gt = self.jacobian(problem, z)
            return solve_explicit(gt, b + ops.einsum("npm,np->nm", gt, z)), None
        value, adjoint = _backend.vjp(lambda c: problem.predict(problem.x, c), z)
        weight = ops.square(problem.scale)

        def hessian(v: Any) -> Any:
            return v + adjoint(weight * _backend.jvp(lambda c: problem.predict(problem.x, c), z, v)[1])

        downhill = adjoint(weight * (problem.observed - value)) - z
        dz, pairs = conjugate_gradients(hessian, downhill, self.inner_iterations, self.inner_tolerance, keep)
        return z + dz, pairs

    def minimise(self, problem: LeastSquares, start: Any = None, done: int = 0) -> Any:
        """Return the minimum of J ``[N, p]``, with its gradient in whatever J depends on, by one solve with the Hessian.

        *start* is where the loops begin, 0 by default, after *done* of them.
        """
        z = ops.stop_gradient(problem.zero if start is None else start)
        if done < self.iterations:

            def go_on(k: Any, z: Any, moved: Any) -> Any:
                return ops.logical_and(k < self.iterations, moved > self.tolerance**2)

            def body(k: Any, z: Any, moved: Any) -> Any:
                new, _ = self.inner(problem, z)
                return k + 1, new, ops.max(_backend.mean(ops.square(new - z), axis=-1))

            far = ops.full((), np.inf, dtype="float64")
            _, z, _ = ops.while_loop(go_on, body, (ops.full((), done, dtype="int32"), z, far))
            z = ops.stop_gradient(z)
        return _backend.implicit(z, problem.gradient(z), lambda u: self._solve_hessian(problem, z, u))

    def _solve_hessian(self, problem: LeastSquares, z: Any, u: Any) -> Any:
        if self.by_columns(problem.size):
            return ops.solve(problem.hessian(z), u[..., None])[..., 0]
        return conjugate_gradients(
            lambda v: _backend.jvp(problem.gradient, z, v)[1], u, 4 * self.inner_iterations, 1e-10
        )[0]


def _transposed(a: Any) -> Any:
    return ops.swapaxes(a, -1, -2)
