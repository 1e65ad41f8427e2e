"""Covariances that are functions of position, seen by H and solved in each form that suits them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from keras import ops

from physml.assimilation.observations import refuse
from physml.assimilation.observed import ObservedCovariance
from physml.assimilation.products import BLOCK, LARGEST_DENSE, Rows, blocks, last


@dataclass(frozen=True, eq=False)
class ObservedKernel(ObservedCovariance):
    """:class:`ObservedCovariance` as the forms of solution ask for it."""

    @property
    def size(self) -> int:
        """N."""
        return int(self.unit.shape[0])

    @property
    def valid(self) -> Any:
        """Whether an observation has a value, ``[p, m]``."""
        return ops.any(self.weights > 0, axis=-1)

    @cached_property
    def rows(self) -> Rows:
        """H."""
        return Rows(self.index, self.weights, self.size)

    def spread(self, z: Any, like: Any = None) -> Any:
        """Return H^T z, ``[o, n, k]``, from ``[o, m, k]``."""
        return self.rows.spread(z)

    @property
    def variances(self) -> Any:
        """The diagonal of B, ``[n]``."""
        return ops.square(self.std)

    @cached_property
    def columns(self) -> Any:
        """B H^T, ``[p, n, m]``."""
        return self.at_cells()

    @cached_property
    def _small(self) -> bool:
        p, m = self.weights.shape[:2]
        return (p or 1) * (m or 1) * self.size <= 8 * BLOCK

    def gain(self, w: Any) -> Any:
        """Return B H^T w, ``[o, n, k]``, in blocks of cells where B H^T is large."""
        if self._small:
            return ops.matmul(self.columns, w)
        cells = blocks(self.size, int(np.prod(self.weights.shape[:2])))
        return ops.concatenate([ops.matmul(self.at_cells(c), w) for c in cells], axis=1)

    def gain_adjoint(self, a: Any) -> Any:
        """Return H B a, ``[o, m, k]``, likewise."""
        if self._small:
            return ops.matmul(last(self.columns), a)
        cells = blocks(self.size, int(np.prod(self.weights.shape[:2])))
        return sum(ops.matmul(last(self.at_cells(c)), a[:, c]) for c in cells)

    def of_cells(self, x: Any) -> Any:
        """Return ``[n, k]`` at the cells of :meth:`at_cells`."""
        return x

    @cached_property
    def _observed(self) -> Any:
        return self.at_observations()

    def product(self, w: Any) -> Any:
        """Return H B H^T w, ``[o, m, k]``."""
        return ops.matmul(self._observed, w)

    @property
    def rank(self) -> int:
        """Number of columns of the root of B."""
        return self.size

    def draw(self, c: Any) -> Any:
        """Return U c, ``[o, n, k]``, from ``[o, n, k]``."""
        return ops.matmul(self.root, c)

    @cached_property
    def root(self) -> Any:
        """U ``[n, n]`` with B = U U^T, from the eigenvectors, which bear a B that is singular to rounding."""
        if self.size > LARGEST_DENSE:
            remedy = "method='observation' or 'local'; or Diffusion(...), whose root is an operator"
            refuse("B of a function of position has no root", f"at most {LARGEST_DENSE} cells", self.size, remedy)
        matrix = self.background.correlation(self.unit, self.unit) * self.std[:, None] * self.std[None, :]
        values, vectors = ops.eigh(matrix)
        return vectors * ops.sqrt(ops.maximum(values, 0.0))

    @cached_property
    def sampled_root(self) -> Any:
        """H U, ``[p, m, n]``."""
        return self.rows.of_rows(self.root)
