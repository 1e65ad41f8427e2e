"""The analysis where B^-1 is a sparse matrix: the precision of the posterior, B^-1 + H^T R^-1 H, is sparse too and is factorised.

References
----------
Lindgren, F., Rue, H. and Lindstrom, J. (2011), doi:10.1111/j.1467-9868.2011.00777.x.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
from keras import ops
from scipy.sparse.linalg import SuperLU, splu

from physml import _backend
from physml.assimilation.blue.iterative import Sampled
from physml.assimilation.blue.products import Matrix, last

EXACT = 3000
"""Largest n whose posterior variances are computed one by one; beyond, they are estimated from samples."""
KEPT = 4
"""Number of factorisations kept: those of one call and of its gradient."""


def factorised(matrix: Any) -> SuperLU:
    """Return the factors of a sparse, symmetric positive definite matrix."""
    # Minimum degree on A + A^T and pivots on the diagonal: what keeps a symmetric factorisation sparse.
    return splu(
        scipy.sparse.csc_matrix(matrix),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )


class Precision(Sampled):
    """By sparse factors of B^-1 + H^T R^-1 H, on the host also inside compiled functions."""

    name = "precision"

    def factorise(self) -> None:
        """Gather what the host needs to factorise."""
        operator = self.observed.operator
        self._h = [operator.matrix] if isinstance(operator, Matrix) else [operator.index, operator.weights]
        self._factors: OrderedDict[bytes, SuperLU] = OrderedDict()

    def over_precision(self, c: Any) -> Any:
        """Return (B^-1 + H^T R^-1 H)^-1 c, ``[o, n, k]``."""
        return _backend.outside(self._solve, tuple(c.shape), c, self.scale, *self._h)

    def _solve(self, c: np.ndarray, scale: np.ndarray, *h: np.ndarray) -> np.ndarray:
        out = np.empty_like(c)
        for i, right in enumerate(c):
            mine = [scale[min(i, len(scale) - 1)], *(a if len(h) == 1 else a[min(i, len(a) - 1)] for a in h)]
            key = b"".join(np.ascontiguousarray(a).tobytes() for a in mine)
            if key not in self._factors:
                self._factors[key] = factorised(self.observed.background.precision + self._observed_precision(*mine))
                while len(self._factors) > max(KEPT, len(c)):
                    self._factors.popitem(last=False)
            out[i] = self._factors[key].solve(np.ascontiguousarray(right))
        return out

    def _observed_precision(self, scale: np.ndarray, *h: np.ndarray) -> Any:
        """Return H^T R^-1 H."""
        if len(h) == 1:
            rows = scipy.sparse.csr_matrix(h[0])
        else:
            m, corners = h[0].shape
            place = (np.repeat(np.arange(m), corners), h[0].ravel())
            rows = scipy.sparse.csr_matrix((h[1].ravel(), place), shape=(m, self.observed.size))
        whitened = scipy.sparse.diags(scale) @ rows
        return whitened.T @ whitened

    @cached_property
    def increment(self) -> Any:
        """What the observations pull, over the precision of the posterior."""
        return self.gains(self.innovation)

    @cached_property
    def weights(self) -> Any:
        """R^-1 M (d - H x)."""
        return self.whiten(self.whiten(self.innovation - self.observed.sample(self.increment)))

    def adjoint(self, a: Any) -> Any:
        """Return R^-1 M H (B^-1 + H^T R^-1 H)^-1 a."""
        return self.whiten(self.whiten(self.observed.sample(self.over_precision(a))))

    def gains(self, y: Any) -> Any:
        """Return K y."""
        return self.over_precision(self.observed.spread(self.whiten(self.whiten(y))))

    @cached_property
    def _covariance(self) -> Any:
        """The posterior covariance ``[o, n, n]``, of a small state."""
        n = self.observed.size
        return self.over_precision(ops.broadcast_to(ops.eye(n, dtype="float64"), (ops.shape(self.scale)[0], n, n)))

    def variance(self) -> tuple[Any, Any]:
        """Return the posterior variances, and their standard errors where they are estimated."""
        if self.observed.size > EXACT:
            return super().variance()
        return ops.diagonal(self._covariance, axis1=-2, axis2=-1), None

    def influence(self) -> Any:
        """Return diag H A H^T R^-1, A the posterior covariance."""
        if self.observed.size > EXACT:
            return super().influence()
        seen = self.observed.sample(last(self.observed.sample(self._covariance)))
        return ops.square(self.scale) * ops.diagonal(seen, axis1=-2, axis2=-1)

    def observed_variance(self) -> Any:
        """Return diag H B H^T."""
        if self.observed.size > EXACT:
            return super().observed_variance()
        return ops.diagonal(self.observed.at_observations(), axis1=-2, axis2=-1)
