"""Backgrounds made of other backgrounds: scaled, of several channels, summed, balanced, localised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from physml.assimilation.errors.background import Background


class Scaled(Background):
    """B = Sigma C Sigma for a background C and standard deviations ``[n]``."""

    def __init__(self, inner: Background, std: Any) -> None:
        self.inner, self.std = inner, std
        self.size, self.rank = inner.size, inner.rank

    def root(self, c: Any) -> Any:
        """Return Sigma U c."""
        return self.std * self.inner.root(c)

    def root_adjoint(self, x: Any) -> Any:
        """Return U^T Sigma x."""
        return self.inner.root_adjoint(self.std * x)

    def times(self, x: Any) -> Any:
        """Return Sigma C Sigma x."""
        return self.std * self.inner.times(self.std * x)

    def diagonal(self) -> Any:
        """Return the variances."""
        return ops.square(ops.convert_to_tensor(self.std)) * self.inner.diagonal()

    @property
    def precision(self) -> Any:
        """Sigma^-1 C^-1 Sigma^-1, where C^-1 is sparse."""
        inner = self.inner.precision
        if inner is None or not isinstance(self.std, np.ndarray):
            return None
        import scipy.sparse

        inverse = scipy.sparse.diags_array(1 / self.std)
        return (inverse @ inner @ inverse).tocsc()


class Kronecker(Background):
    """Covariance of the cells times one ``[c, c]`` of the channels: ``numpy.kron(within, between)`` in the order of the state."""

    def __init__(self, within: Background, between: Any) -> None:
        self.within, self.between = within, between
        self.channels = int(between.shape[0])
        self.size, self.rank = within.size * self.channels, within.rank * self.channels
        self._factor = None
        if isinstance(between, np.ndarray):
            # By eigenvalues: variables that are wholly correlated are allowed.
            values, vectors = np.linalg.eigh(between)
            self._factor = vectors * np.sqrt(np.maximum(values, 0.0))

    def _across(self, x: Any, matrix: Any, apply: Callable[[Any], Any]) -> Any:
        lead, count = ops.shape(x)[:-1], self.channels
        # Sizes are written out: a batch of unknown size leaves no other unknown.
        fields = ops.swapaxes(ops.reshape(x, (*lead, x.shape[-1] // count, count)), -1, -2)
        fields = apply(ops.matmul(matrix, fields))
        return ops.reshape(ops.swapaxes(fields, -1, -2), (*lead, fields.shape[-1] * count))

    @property
    def _root(self) -> Any:
        return ops.cholesky(self.between) if self._factor is None else self._factor

    def root(self, c: Any) -> Any:
        """Return U c."""
        return self._across(c, self._root, self.within.root)

    def root_adjoint(self, x: Any) -> Any:
        """Return U^T x."""
        return self._across(x, ops.transpose(self._root), self.within.root_adjoint)

    def times(self, x: Any) -> Any:
        """Return B x."""
        return self._across(x, self.between, self.within.times)

    def diagonal(self) -> Any:
        """Return the variances."""
        between = ops.diagonal(ops.convert_to_tensor(self.between))
        return ops.reshape(self.within.diagonal()[:, None] * between, (-1,))

    @property
    def precision(self) -> Any:
        """The Kronecker product of both inverses, where that of the cells is sparse."""
        inner = self.within.precision
        if inner is None or not isinstance(self.between, np.ndarray) or np.linalg.cond(self.between) > 1e12:
            return None
        import scipy.sparse

        return scipy.sparse.kron(inner, np.linalg.inv(self.between), format="csc")


class Blocks(Background):
    """Channels that are independent of each other, each with its own background of the cells."""

    def __init__(self, parts: Sequence[Background]) -> None:
        self.parts = tuple(parts)
        self.size, self.rank = sum(p.size for p in parts), sum(p.rank for p in parts)
        self._ends = np.cumsum([0, *[p.rank for p in parts]]).tolist()

    def _fields(self, x: Any) -> list[Any]:
        x = ops.reshape(x, (*ops.shape(x)[:-1], self.size // len(self.parts), len(self.parts)))
        return [x[..., k] for k in range(len(self.parts))]

    def _state(self, fields: list[Any]) -> Any:
        x = ops.stack(fields, axis=-1)
        return ops.reshape(x, (*ops.shape(x)[:-2], self.size))

    def root(self, c: Any) -> Any:
        """Return U c."""
        pieces = zip(self.parts, self._ends[:-1], self._ends[1:], strict=True)
        return self._state([p.root(c[..., i:j]) for p, i, j in pieces])

    def root_adjoint(self, x: Any) -> Any:
        """Return U^T x."""
        return ops.concatenate([p.root_adjoint(f) for p, f in zip(self.parts, self._fields(x), strict=True)], axis=-1)

    def times(self, x: Any) -> Any:
        """Return B x."""
        return self._state([p.times(f) for p, f in zip(self.parts, self._fields(x), strict=True)])

    def diagonal(self) -> Any:
        """Return the variances."""
        return self._state([p.diagonal() for p in self.parts])


def _sqrt(weight: Any) -> Any:
    return np.sqrt(weight) if isinstance(weight, np.ndarray | np.generic | float) else ops.sqrt(weight)


class Total(Background):
    """B = sum of w_i B_i, weights w_i not negative."""

    def __init__(self, parts: Sequence[Background], weights: Sequence[Any]) -> None:
        self.parts, self.weights = tuple(parts), tuple(weights)
        self.size, self.rank = parts[0].size, sum(p.rank for p in parts)
        self._ends = np.cumsum([0, *[p.rank for p in parts]]).tolist()

    def _each(self) -> Any:
        return zip(self.parts, self.weights, self._ends[:-1], self._ends[1:], strict=True)

    def root(self, c: Any) -> Any:
        """Return the sum of sqrt(w_i) U_i c_i."""
        return sum(_sqrt(w) * p.root(c[..., i:j]) for p, w, i, j in self._each())

    def root_adjoint(self, x: Any) -> Any:
        """Return sqrt(w_i) U_i^T x, one after the other."""
        return ops.concatenate([_sqrt(w) * p.root_adjoint(x) for p, w, _, _ in self._each()], axis=-1)

    def times(self, x: Any) -> Any:
        """Return the sum of w_i B_i x."""
        return sum(w * p.times(x) for p, w, _, _ in self._each())

    def diagonal(self) -> Any:
        """Return the variances."""
        return sum(w * p.diagonal() for p, w, _, _ in self._each())


class Balanced(Background):
    """B = K B_u K^T for an operator K on states and its adjoint."""

    def __init__(self, inner: Background, forward: Callable[[Any], Any], adjoint: Callable[[Any], Any]) -> None:
        self.inner, self.forward, self.adjoint = inner, forward, adjoint
        self.size, self.rank = inner.size, inner.rank

    def root(self, c: Any) -> Any:
        """Return K U c."""
        return self.forward(self.inner.root(c))

    def root_adjoint(self, x: Any) -> Any:
        """Return U^T K^T x."""
        return self.inner.root_adjoint(self.adjoint(x))

    def times(self, x: Any) -> Any:
        """Return K B_u K^T x."""
        return self.forward(self.inner.times(self.adjoint(x)))


class Anomalies(Background):
    """B = A^T A for rows A ``[N, n]``, maybe times a correlation element by element: sum of diag(a_i) C diag(a_i)."""

    def __init__(self, rows: Any, localisation: Background | None = None) -> None:
        self.rows, self.localisation = rows, localisation
        members, self.size = rows.shape
        self.rank = members if localisation is None else members * localisation.rank
        self.anomalies = rows if localisation is None else None

    def root(self, c: Any) -> Any:
        """Return A^T c; localised, the sum of a_i times the localisation's U c_i."""
        if self.localisation is None:
            return ops.matmul(c, self.rows)
        c = ops.reshape(c, (*ops.shape(c)[:-1], self.rows.shape[0], self.localisation.rank))
        return ops.sum(self.rows * self.localisation.root(c), axis=-2)

    def root_adjoint(self, x: Any) -> Any:
        """Return A x; localised, U^T (a_i x) for each i."""
        if self.localisation is None:
            return ops.matmul(x, ops.transpose(self.rows))
        c = self.localisation.root_adjoint(self.rows * x[..., None, :])
        return ops.reshape(c, (*ops.shape(x)[:-1], self.rank))

    def times(self, x: Any) -> Any:
        """Return B x."""
        if self.localisation is None:
            return self.root(self.root_adjoint(x))
        return ops.sum(self.rows * self.localisation.times(self.rows * x[..., None, :]), axis=-2)

    def diagonal(self) -> Any:
        """Return the variances."""
        variance = ops.sum(ops.square(ops.convert_to_tensor(self.rows)), axis=0)
        return variance if self.localisation is None else variance * self.localisation.diagonal()
