"""Correlations of points by their kernel: as a matrix for some thousand points, in blocks for more."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.errors.background import Background

BLOCK = 2**22
"""Number of elements of a block of the matrix (32 MB)."""


def jitter(matrix: Any) -> Any:
    """Return the number that makes a covariance positive definite in float64: 1e-14 of a bound of its eigenvalues."""
    return 1e-14 * ops.max(ops.sum(ops.abs(matrix), axis=-1))


class Matrix(Background):
    """B as a matrix ``[n, n]`` that is known to be a covariance: an array, or a tensor that depends on parameters."""

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix
        self.size = self.rank = int(matrix.shape[0])

    @cached_property
    def _fixed_root(self) -> Any:
        b = self.matrix
        bound = np.abs(b).sum(axis=-1).max()
        try:
            return scipy.linalg.cholesky(b + 1e-14 * bound * np.eye(self.size), lower=True)
        except scipy.linalg.LinAlgError:
            values, vectors = scipy.linalg.eigh(b)
            if values[0] < -1e-10 * values[-1]:
                received = f"an eigenvalue of {values[0]:g} beside {values[-1]:g}"
                remedy = "shorten the length, or use Plane(...), which is positive at any length"
                refuse("the correlation is not positive on these points", "eigenvalues >= 0", received, remedy)
            return vectors * np.sqrt(np.maximum(values, 0.0))

    @property
    def _root(self) -> Any:
        if isinstance(self.matrix, np.ndarray):
            return self._fixed_root
        return ops.cholesky(self.matrix + jitter(self.matrix) * ops.eye(self.size, dtype="float64"))

    def root(self, c: Any) -> Any:
        """Return U c."""
        return ops.matmul(c, ops.transpose(self._root))

    def root_adjoint(self, x: Any) -> Any:
        """Return U^T x."""
        return ops.matmul(x, self._root)

    def times(self, x: Any) -> Any:
        """Return B x."""
        return ops.matmul(x, self.matrix)

    def dense(self) -> Any:
        """Return B."""
        return ops.convert_to_tensor(self.matrix)

    def diagonal(self) -> Any:
        """Return the variances."""
        return ops.diagonal(ops.convert_to_tensor(self.matrix))


class Streamed(Background):
    """Products with the correlation of many points, block after block; it has no root.

    Parameters
    ----------
    rows
        ``(slice, length) -> [rows, n]``: a block of the correlation.
    slope
        The same of its derivative by the logarithm of the length.
    """

    def __init__(self, size: int, rows: Callable[..., Any], slope: Callable[..., Any], length: Any) -> None:
        self.size = self.rank = size
        self.rows, self.slope, self.length = rows, slope, length

    def _product(self, block: Callable[..., Any], x: Any, length: Any) -> Any:
        step = max(1, BLOCK // self.size)
        parts = [
            ops.matmul(x, ops.transpose(block(slice(i, min(i + step, self.size)), length)))
            for i in range(0, self.size, step)
        ]
        return ops.concatenate(parts, axis=-1)

    def times(self, x: Any) -> Any:
        """Return C x, differentiable in x and in the length without keeping the blocks."""
        return self._times(ops.convert_to_tensor(x), ops.convert_to_tensor(self.length, "float64"))

    def _times(self, x: Any, length: Any) -> Any:
        def function(x: Any, length: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
            def vjp(upstream: Any) -> tuple[Any, Any]:
                by_log = ops.sum(upstream * self._product(self.slope, x, length))
                return self._times(upstream, length), by_log / length

            return self._product(self.rows, x, length), vjp

        return _backend.custom_gradient(function)(x, length)

    def diagonal(self) -> Any:
        """Return ones."""
        return ops.ones((self.size,), dtype="float64")

    def root(self, c: Any) -> Any:
        """Refuse: a root of so large a matrix is out of reach."""
        remedy = "Diffusion(...) has the like correlation; or a grid of evenly spaced longitudes; or Plane(...)"
        refuse("the correlation of these points has no root", "at most 5000 points", self.size, remedy)

    def root_adjoint(self, x: Any) -> Any:
        """Refuse."""
        return self.root(x)
