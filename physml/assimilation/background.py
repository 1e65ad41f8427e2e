"""B on a state vector: products with B, with a root U of it (B = U U^T) and with U^T, without B itself where it is large."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from physml.assimilation.observations import refuse


class Background:
    """Base: a covariance of n elements. Subclasses give :meth:`root` and :meth:`root_adjoint`; the rest follows.

    Arrays are float64 tensors; vectors lie along the last axis.
    """

    size: int
    """n."""
    rank: int
    """Number of columns r of the root U."""

    def root(self, c: Any) -> Any:
        """Return U c, ``[..., n]`` from ``[..., r]``."""
        raise NotImplementedError

    def root_adjoint(self, x: Any) -> Any:
        """Return U^T x, ``[..., r]`` from ``[..., n]``."""
        raise NotImplementedError

    def times(self, x: Any) -> Any:
        """Return B x, ``[..., n]``."""
        return self.root(self.root_adjoint(x))

    def dense(self) -> Any:
        """Return B ``[n, n]``; for small n."""
        return self.times(ops.eye(self.size, dtype="float64"))

    def diagonal(self) -> Any:
        """Return the variances ``[n]``."""
        return ops.diagonal(self.dense())


class Dense(Background):
    """B as a matrix ``[n, n]``, symmetric and positive semi-definite; its root from the eigenvectors."""

    def __init__(self, matrix: Any) -> None:
        b = np.asarray(matrix, "float64")
        if b.ndim != 2 or b.shape[0] != b.shape[1]:
            refuse("Dense: B is no square matrix", "[n, n]", b.shape, "pass the covariance of the state vector")
        if not np.isfinite(b).all() or np.abs(b - b.T).max() > 1e-10 * np.abs(b).max():
            refuse("Dense: B is not symmetric", "B = B^T", f"they differ by {np.abs(b - b.T).max():g}", "(B + B.T) / 2")
        values, vectors = np.linalg.eigh((b + b.T) / 2)
        if values[0] < -1e-10 * max(values[-1], 0.0):
            refuse("Dense: B is not positive semi-definite", "eigenvalues >= 0", f"{values[0]:g}", "set them to 0")
        keep = values > 1e-14 * values[-1]
        self.matrix = b
        self._root = vectors[:, keep] * np.sqrt(values[keep])
        self.size, self.rank = self._root.shape

    def root(self, c: Any) -> Any:
        """Return U c."""
        return ops.matmul(c, self._root.T)

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
        return ops.convert_to_tensor(np.diag(self.matrix).copy())
