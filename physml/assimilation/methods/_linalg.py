"""Functions of symmetric positive definite matrices that can be differentiated where eigenvalues coincide.

The derivative of an eigenvector divides by gaps between eigenvalues, and an ensemble of a few anomalies has many equal ones.
The function of the matrix has no such trouble (Daleckii and Krein): with A = V diag(l) V^T and symmetric dA,

    d f(A) = V (F * V^T dA V) V^T,   F_ij = (f(l_i) - f(l_j)) / (l_i - l_j),   F_ii = f'(l_i).

For the functions below F has a closed form without differences, in r = sqrt(l):

    1/l          F_ij = -1 / (l_i l_j)
    1/r          F_ij = -1 / (r_i r_j (r_i + r_j))
    1/(l + r)    F_ij = -(r_i + r_j + 1) / ((l_i + r_i) (l_j + r_j) (r_i + r_j))

References
----------
Higham, N. J. (2008), Functions of Matrices, doi:10.1137/1.9780898717778, theorem 3.11.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from physml import _backend


def _inverse(r: Any, s: Any) -> Any:
    return -1.0 / (r * r * s * s)


def _inverse_root(r: Any, s: Any) -> Any:
    return -1.0 / (r * s * (r + s))


def _reduced(r: Any, s: Any) -> Any:
    return -(r + s + 1.0) / ((r * r + r) * (s * s + s) * (r + s))


def _functions(values: tuple[Callable[[Any], Any], ...], differences: tuple[Callable[[Any, Any], Any], ...]) -> Any:
    def function(a: Any) -> tuple[Any, Callable[[Any], tuple[Any]]]:
        eigenvalues, v = ops.eigh(a)
        r = ops.sqrt(eigenvalues)
        vt = ops.swapaxes(v, -1, -2)
        # A root of the eigenvalues would square the cost of symmetry: V f(l) V^T as a product with its own transpose is exact.
        result = ops.stack([ops.matmul(v * f(r)[..., None, :], vt) for f in values])

        def vjp(upstream: Any) -> tuple[Any]:
            total: Any = 0.0
            for i, difference in enumerate(differences):
                inner = ops.matmul(ops.matmul(vt, upstream[i]), v)
                total = total + inner * difference(r[..., :, None], r[..., None, :])
            gradient = ops.matmul(ops.matmul(v, total), vt)
            return (0.5 * (gradient + ops.swapaxes(gradient, -1, -2)),)

        return result, vjp

    return lambda a: _backend.custom_gradient(function)(a)


inverse_and_root: Callable[[Any], Any] = _functions(
    (lambda r: 1.0 / (r * r), lambda r: 1.0 / r), (_inverse, _inverse_root)
)
"""``A [..., k, k] -> [2, ..., k, k]``: A^-1 and its symmetric root A^-1/2."""

inverse_and_reduced: Callable[[Any], Any] = _functions(
    (lambda r: 1.0 / (r * r), lambda r: 1.0 / (r * r + r)), (_inverse, _reduced)
)
"""``A [..., k, k] -> [2, ..., k, k]``: A^-1 and (A + A^1/2)^-1, which (I + S S^T)^-1/2 = I - S (D + D^1/2)^-1 S^T needs of D = I + S^T S."""


def transform(s: Any, v: Any) -> tuple[Any, Any, Any]:
    """Return what an analysis does to members, from observed anomalies and the innovation, both whitened.

    Parameters
    ----------
    s
        S = Y R^-1/2 M / sqrt(N - 1), ``[..., N, m]``.
    v
        R^-1/2 M (d - H mu), ``[..., m]``.

    Returns
    -------
    w
        Weights of the mean ``[..., N]``: C^-1 S v with C = I + S S^T, to be applied to A / sqrt(N - 1).
    t
        Symmetric root C^-1/2 ``[..., N, N]``, to be applied to A.
    square
        v^T (I + S^T S)^-1 v, ``[...]``.
    """
    members, m = s.shape[-2:]
    st = ops.swapaxes(s, -1, -2)
    if members <= m:
        return transform_from(ops.matmul(s, st), ops.matmul(s, v[..., None])[..., 0], ops.sum(v * v, axis=-1))
    inverse, reduced = unstack(inverse_and_reduced(ops.matmul(st, s) + ops.eye(m, dtype="float64")))
    solved = ops.matmul(inverse, v[..., None])
    t = ops.eye(members, dtype="float64") - ops.matmul(ops.matmul(s, reduced), st)
    return ops.matmul(s, solved)[..., 0], t, ops.sum(v * solved[..., 0], axis=-1)


def transform_from(sst: Any, u: Any, vv: Any) -> tuple[Any, Any, Any]:
    """Return the same from S S^T ``[..., N, N]``, S v ``[..., N]`` and v^T v ``[...]``."""
    inverse, root = unstack(inverse_and_root(sst + ops.eye(sst.shape[-1], dtype="float64")))
    w = ops.matmul(inverse, u[..., None])[..., 0]
    return w, root, vv - ops.sum(u * w, axis=-1)


def unstack(pair: Any) -> tuple[Any, Any]:
    """Return the two halves of a stacked pair."""
    return pair[0], pair[1]


def cholesky_solve(factor: Any, b: Any) -> Any:
    """Return A^-1 b from the lower Cholesky factor of A, ``[..., k, p]``."""
    half = ops.solve_triangular(factor, b, lower=True)
    return ops.solve_triangular(ops.swapaxes(factor, -1, -2), half, lower=False)
