"""Arithmetic of implicit diffusion: solves with its factor, exact normalisation, derivatives by the length.

Formulae and notation are those of :mod:`physml.assimilation.errors.diffusion`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.errors.background import Background
from physml.assimilation.errors.domain import is_constant
from physml.assimilation.errors.mesh import Mesh
from physml.assimilation.errors.normalisation import chain_diagonals

LARGEST_FIELD = 3000
"""Number of cells up to which a length of each cell can be learnt."""


class Solved:
    """NumPy arithmetic with the factor of A for one length; vectors are rows ``[k, cells]``."""

    def __init__(self, mesh: Mesh, length: np.ndarray, order: int, probes: int | None, learnt: bool) -> None:
        self.mesh, self.order, self.area = mesh, order, mesh.area
        self.probes, self.learnt = probes, learnt
        scale = length / np.sqrt(2 * (order - 1))
        i, j = mesh.ends
        self.square = np.broadcast_to(scale**2, ()) if scale.ndim == 0 else (scale[i] ** 2 + scale[j] ** 2) / 2
        self.matrix = (
            scipy.sparse.diags_array(self.area) + mesh.laplacian(np.broadcast_to(self.square, mesh.ratio.shape))
        ).tocsc()
        # Minimum degree of a symmetric pattern and no pivots: half the fill of the default.
        options = {"SymmetricMode": True}
        self.factor = scipy.sparse.linalg.splu(
            self.matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options
        )

    def solve(self, x: np.ndarray) -> np.ndarray:
        """Return A^-1 x."""
        return self.factor.solve(np.ascontiguousarray(x.T)).T

    def chain(self, x: np.ndarray, count: int) -> np.ndarray:
        """Return F_count x; F_0 = D^-1."""
        if count == 0:
            return x / self.area
        y = self.solve(x)
        for _ in range(count - 1):
            y = self.solve(self.area * y)
        return y

    @property
    def rank(self) -> int:
        """Number of columns of the root."""
        return self.area.size + self.order % 2 * self.mesh.ratio.size

    def _noise(self, c: np.ndarray) -> np.ndarray:
        """Return white noise integrated over cells; for odd orders with covariance A, not D, which saves a square root."""
        n = self.area.size
        if self.order % 2 == 0:
            return np.sqrt(self.area) * c
        weight = np.sqrt(self.mesh.ratio * self.square)
        return np.sqrt(self.area) * c[:, :n] + (self.mesh.difference.T @ (weight * c[:, n:]).T).T

    def raw_root(self, c: np.ndarray) -> np.ndarray:
        """Return U c of F_p before it is normalised."""
        return self.chain(self._noise(c), (self.order + 1) // 2)

    def root(self, c: np.ndarray) -> np.ndarray:
        """Return U c."""
        return self.inverse_std * self.raw_root(c)

    def root_adjoint(self, x: np.ndarray) -> np.ndarray:
        """Return U^T x."""
        y = self.chain(self.inverse_std * x, (self.order + 1) // 2)
        if self.order % 2 == 0:
            return np.sqrt(self.area) * y
        weight = np.sqrt(self.mesh.ratio * self.square)
        return np.concatenate([np.sqrt(self.area) * y, weight * (self.mesh.difference @ y.T).T], axis=1)

    def times(self, x: np.ndarray) -> np.ndarray:
        """Return C x."""
        return self.inverse_std * self.chain(self.inverse_std * x, self.order)

    @cached_property
    def variances(self) -> np.ndarray:
        """Diagonal of F_p, and where the length is learnt of F_(p+1), ``[1 or 2, cells]``."""
        if self.probes is None:
            return chain_diagonals(self.mesh, self.matrix, self.order + self.learnt)[self.order - 1 :]
        rng, total = np.random.default_rng(0), np.zeros((1 + self.learnt, self.area.size))
        for start in range(0, self.probes, 16):
            u = self.raw_root(rng.standard_normal((min(16, self.probes - start), self.rank)))
            total[0] += np.square(u).sum(axis=0)
            if self.learnt:
                total[1] += (u * self.solve(self.area * u)).sum(axis=0)
        return total / self.probes

    @cached_property
    def inverse_std(self) -> np.ndarray:
        """V^-1/2."""
        return 1 / np.sqrt(self.variances[0])

    def slope(self, x: np.ndarray, upstream: np.ndarray) -> np.ndarray:
        """Return the derivative of <upstream, C x> by log length, a number."""
        p, (first, second) = self.order, self.variances
        by_std = -p * (second / first - 1)
        a, b = self.inverse_std * upstream, self.inverse_std * x
        y = self.chain(b, p)
        more = self.solve(self.area * y)
        both = by_std * a * y + by_std * b * self.chain(a, p) + a * 2 * p * (more - y)
        return np.asarray(both.sum())

    def root_slope(self, c: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the derivative of <x, U c> by log length, a number."""
        m, (first, second) = (self.order + 1) // 2, self.variances
        noise = self._noise(c)
        u = self.chain(noise, m)
        more = self.solve(self.area * u)
        b = self.inverse_std * x
        total = (b * (-self.order * (second / first - 1) * u + 2 * m * (more - u))).sum()
        if self.order % 2:
            # The noise across faces grows with the length.
            total += (b * self.chain(noise - np.sqrt(self.area) * c[:, : self.area.size], m)).sum()
        return np.asarray(total)

    def slope_field(self, x: np.ndarray, upstream: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Return the derivative of <upstream, C x> by the length of each cell, ``[cells]``."""
        p, a, b = self.order, self.inverse_std * upstream, self.inverse_std * x
        by_variance = -0.5 * (a * self.chain(b, p) + b * self.chain(a, p)).sum(axis=0)
        return self._by_cell(self._by_face(a, b, p, by_variance), length)

    def root_slope_field(self, c: np.ndarray, x: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Return the derivative of <x, U c> by the length of each cell, ``[cells]``."""
        m, b, noise = (self.order + 1) // 2, self.inverse_std * x, self._noise(c)
        by_face = self._by_face(b, noise, m, -0.5 * (b * self.chain(noise, m)).sum(axis=0))
        if self.order % 2:
            across = (self.mesh.difference @ self.chain(b, m).T).T
            by_noise = 0.5 / np.sqrt(self.mesh.ratio * self.square) * c[:, self.area.size :]
            by_face += (across * by_noise).sum(axis=0)
        return self._by_cell(by_face, length)

    def _by_face(self, a: np.ndarray, b: np.ndarray, m: int, by_variance: np.ndarray) -> np.ndarray:
        """Return the derivative of <a, F_m b> + <by_variance, log V> by the coefficient of each face."""
        n, p, jump = self.area.size, self.order, self.mesh.difference
        if n > LARGEST_FIELD:
            remedy = "learn one number for all cells"
            refuse("Diffusion: a length field is learnt on too many cells", f"at most {LARGEST_FIELD}", n, remedy)
        total = np.zeros(self.mesh.ratio.size)
        for k in range(1, m + 1):
            total -= ((jump @ self.chain(a, k).T) * (jump @ self.chain(b, m + 1 - k).T)).sum(axis=1)
        columns = [jump @ self.chain(np.eye(n), k).T for k in range(1, p + 1)]
        for k in range(p):
            total -= (columns[k] * columns[p - 1 - k]) @ (by_variance / self.variances[0])
        return total

    def _by_cell(self, by_face: np.ndarray, length: np.ndarray) -> np.ndarray:
        # The coefficient of a face is its ratio times the mean square of the scales on both sides.
        weighted, n = by_face * self.mesh.ratio / (2 * (self.order - 1)), self.area.size
        return length * sum(np.bincount(end, weighted, n) for end in self.mesh.ends)


class Implicit(Background):
    """The correlation C by the factor of A; differentiable in the length where that is a tensor."""

    def __init__(self, mesh: Mesh, length: Any, order: int, probes: int | None) -> None:
        self.mesh, self.length, self.order, self.probes = mesh, length, order, probes
        self.size = mesh.area.size
        self.rank = self.size + order % 2 * mesh.ratio.size
        self._last: tuple[bytes, Solved] | None = None

    def solved(self, length: np.ndarray | None = None) -> Solved:
        """Return the arithmetic for a length; the last one is kept."""
        length = np.asarray(self.length if length is None else length, "float64")
        key = length.tobytes()
        if self._last is None or self._last[0] != key:
            learnt = not is_constant(self.length)
            self._last = (key, Solved(self.mesh, length, self.order, self.probes, learnt))
        return self._last[1]

    def _linear(self, name: str, x: Any, length: Any) -> Any:
        """Apply a product named as in :class:`Solved`."""
        x = ops.convert_to_tensor(x)
        adjoint = {"times": "times", "root": "root_adjoint", "root_adjoint": "root"}[name]
        sizes = {
            "times": (self.size, self.size),
            "root": (self.rank, self.size),
            "root_adjoint": (self.size, self.rank),
        }
        if is_constant(length):
            forward, back = (lambda a, n=n: getattr(self.solved(), n)(a) for n in (name, adjoint))
            return _backend.outside_linear(forward, back, sizes[name], x)
        lead, field = tuple(x.shape[:-1]), bool(tuple(length.shape))

        def rows(a: np.ndarray, k: int) -> np.ndarray:
            return a.reshape(-1, sizes[name][k])

        def apply(a: np.ndarray, at: np.ndarray) -> np.ndarray:
            return getattr(self.solved(at), name)(rows(a, 0)).reshape(*a.shape[:-1], sizes[name][1])

        def slope(a: np.ndarray, upstream: np.ndarray, at: np.ndarray) -> np.ndarray:
            a, upstream, solved = rows(a, 0), rows(upstream, 1), self.solved(at)
            if name == "times":
                return solved.slope_field(a, upstream, at) if field else solved.slope(a, upstream) / at
            c, y = (a, upstream) if name == "root" else (upstream, a)
            return solved.root_slope_field(c, y, at) if field else solved.root_slope(c, y) / at

        def function(x: Any, length: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
            def vjp(upstream: Any) -> tuple[Any, Any]:
                by_length = _backend.outside(slope, tuple(length.shape), x, upstream, length)
                return self._linear(adjoint, upstream, length), by_length

            return _backend.outside(apply, (*lead, sizes[name][1]), x, length), vjp

        return _backend.custom_gradient(function)(x, length)

    def times(self, x: Any) -> Any:
        """Return C x."""
        return self._linear("times", x, self.length)

    def root(self, c: Any) -> Any:
        """Return U c."""
        return self._linear("root", c, self.length)

    def root_adjoint(self, x: Any) -> Any:
        """Return U^T x."""
        return self._linear("root_adjoint", x, self.length)

    def diagonal(self) -> Any:
        """Return ones: exact, or as exact as the probes make it."""
        return ops.ones((self.size,), dtype="float64")

    @property
    def precision(self) -> Any:
        """C^-1 = V^1/2 A (D^-1 A)^(p-1) V^1/2, sparse; of constant lengths."""
        if not is_constant(self.length):
            return None
        s = self.solved()
        outer, inner = (scipy.sparse.diags_array(1 / a) for a in (s.inverse_std, s.area))
        product = s.matrix
        for _ in range(self.order - 1):
            product = s.matrix @ inner @ product
        return (outer @ product @ outer).tocsc()
