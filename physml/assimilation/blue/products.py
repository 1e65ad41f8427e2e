"""B seen by H: the products H x, H^T z, B H^T w and H B H^T of a covariance on a state vector.

Every form of solution (:mod:`physml.assimilation.blue.forms`) asks for these and for nothing else, so that the same formulae serve
a matrix, a Fourier transform, a sparse precision and an ensemble. :class:`physml.assimilation.errors.covariance.ObservedCovariance` is
the same for covariances that are functions of position.

Shapes: o sets of observations, each met by k states: all states of a batch (o = 1), or its own one (k = 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml.assimilation.errors.background import Background

BLOCK = 2**23
"""Largest number of elements of B H^T held at once when the posterior is computed (64 MB in float64)."""
LARGEST_DENSE = 5000
"""Number of elements up to which B is formed where it is not a matrix anyhow."""


def last(x: Any) -> Any:
    """Return x with its two last axes exchanged."""
    return ops.swapaxes(x, -1, -2)


@dataclass(frozen=True, eq=False)
class Rows:
    """H as weighted sums of a few elements each; weights of zero mean that the observation has no value."""

    index: Any
    """int32 ``[p, m, c]``, where p is 1 or o."""
    weights: Any
    """``[p, m, c]``."""
    size: int
    """n."""

    @property
    def valid(self) -> Any:
        """Whether an observation has a value, ``[p, m]``."""
        return ops.any(self.weights != 0, axis=-1)

    def sample(self, x: Any) -> Any:
        """Return H x, ``[o, m, k]``, from ``[o, n, k]``."""
        flat = ops.reshape(x, (-1, x.shape[-1] or ops.shape(x)[-1]))
        return ops.sum(ops.take(flat, self._apart(ops.shape(x)[0]), axis=0) * self.weights[..., None], axis=-2)

    def spread(self, z: Any) -> Any:
        """Return H^T z, ``[o, n, k]``, from ``[o, m, k]``."""
        o, columns = ops.shape(z)[0], z.shape[-1] or ops.shape(z)[-1]
        values = ops.reshape(ops.expand_dims(z, -2) * self.weights[..., None], (-1, columns))
        sums = ops.segment_sum(values, ops.reshape(self._apart(o), (-1,)), num_segments=o * self.size)
        return ops.reshape(sums, (o, self.size, columns))

    def _apart(self, o: Any) -> Any:
        """Return the elements in the flattened ``[o n]``, ``[o, m, c]``."""
        return self.index + self.size * ops.expand_dims(ops.arange(o, dtype="int32"), (1, 2))

    def of_rows(self, matrix: Any) -> Any:
        """Return H A ``[p, m, q]`` for a matrix A ``[n, q]``, one corner after the other."""
        corners = range(self.index.shape[-1])
        return sum(ops.take(matrix, self.index[..., c], axis=0) * self.weights[..., c, None] for c in corners)


@dataclass(frozen=True, eq=False)
class Matrix:
    """H as a matrix ``[m, n]``."""

    matrix: Any

    @property
    def size(self) -> int:
        """N."""
        return int(self.matrix.shape[-1])

    @property
    def valid(self) -> Any:
        """Whether an observation has a value, ``[1, m]``."""
        return ops.any(self.matrix != 0, axis=-1)[None]

    def sample(self, x: Any) -> Any:
        """Return H x, ``[o, m, k]``, from ``[o, n, k]``."""
        return ops.matmul(self.matrix, x)

    def spread(self, z: Any) -> Any:
        """Return H^T z, ``[o, n, k]``, from ``[o, m, k]``."""
        return ops.matmul(last(self.matrix), z)

    def of_rows(self, matrix: Any) -> Any:
        """Return H A ``[1, m, q]`` for a matrix A ``[n, q]``."""
        return ops.matmul(self.matrix, matrix)[None]


@dataclass(frozen=True, eq=False)
class ObservedBackground:
    """A :class:`Background` seen by :class:`Rows` or a :class:`Matrix`."""

    background: Background
    operator: Rows | Matrix

    @property
    def size(self) -> int:
        """N."""
        return self.background.size

    @property
    def valid(self) -> Any:
        """Whether an observation has a value, ``[p, m]``."""
        return self.operator.valid

    def sample(self, x: Any) -> Any:
        """Return H x, ``[o, m, k]``, from ``[o, n, k]``."""
        return self.operator.sample(x)

    def spread(self, z: Any, like: Any = None) -> Any:
        """Return H^T z, ``[o, n, k]``, from ``[o, m, k]``."""
        return self.operator.spread(z)

    def times(self, x: Any) -> Any:
        """Return B x, ``[o, n, k]``."""
        return last(self.background.times(last(x)))

    def gain(self, w: Any) -> Any:
        """Return B H^T w, ``[o, n, k]``, from ``[o, m, k]``."""
        return ops.matmul(self.columns, w) if "columns" in self.__dict__ else self.times(self.spread(w))

    def gain_adjoint(self, a: Any) -> Any:
        """Return H B a, ``[o, m, k]``, from ``[o, n, k]``."""
        return ops.matmul(last(self.columns), a) if "columns" in self.__dict__ else self.sample(self.times(a))

    def product(self, w: Any) -> Any:
        """Return H B H^T w, ``[o, m, k]``."""
        return self.sample(self.gain(w))

    def ready(self) -> None:
        """Compute what products share, before they are made within a loop."""

    @cached_property
    def columns(self) -> Any:
        """B H^T, ``[p, n, m]``; for n m that fits in memory."""
        matrix = getattr(self.background, "matrix", None)
        if isinstance(matrix, np.ndarray) and self.size > LARGEST_DENSE:
            # A large matrix is not copied into a tensor for the few rows that are wanted.
            h = [_backend.concrete(a) for a in vars(self.operator).values() if not isinstance(a, int)]
            if all(a is not None for a in h):
                return last(ops.convert_to_tensor(_rows_of(matrix, *h)))
        if self.size <= LARGEST_DENSE or matrix is not None:
            return last(self.operator.of_rows(self.background.dense()))
        p, m = ops.shape(self.valid)
        return self.times(self.spread(ops.broadcast_to(ops.eye(m, dtype="float64"), (p, m, m))))

    def at_cells(self, cells: slice = slice(None)) -> Any:
        """Return B H^T at some of the elements, ``[p, cells, m]``."""
        return self.columns[:, cells]

    def at_observations(self) -> Any:
        """Return H B H^T, ``[p, m, m]``."""
        return self.sample(self.columns)

    @property
    def variances(self) -> Any:
        """The diagonal of B, ``[n]``."""
        return self.background.diagonal()

    @property
    def rank(self) -> int:
        """Number of columns of the root of B."""
        return self.background.rank

    def draw(self, c: Any) -> Any:
        """Return U c, ``[o, n, k]``, from ``[o, r, k]``."""
        return last(self.background.root(last(c)))

    @cached_property
    def root(self) -> Any:
        """U as a matrix ``[n, r]``; for n r that fits in memory."""
        return last(self.background.root(ops.eye(self.background.rank, dtype="float64")))

    @cached_property
    def sampled_root(self) -> Any:
        """H U, ``[p, m, r]``."""
        return self.operator.of_rows(self.root)


def _rows_of(matrix: np.ndarray, *h: Any) -> np.ndarray:
    """Return H A ``[p, m, n]`` for a NumPy matrix A, and H as a matrix or as index and weights."""
    if len(h) == 1:
        return (h[0] @ matrix)[None]
    index, weights = h
    total = matrix[index[..., 0]]
    total *= weights[..., 0, None]
    for c in range(1, index.shape[-1]):
        row = matrix[index[..., c]]
        row *= weights[..., c, None]
        total += row
    return total


def blocks(n: int, per_element: int) -> list[slice]:
    """Return slices of the elements of which each holds at most BLOCK numbers."""
    step = max(1, BLOCK // max(1, per_element))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
