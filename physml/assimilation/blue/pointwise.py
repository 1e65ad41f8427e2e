"""Covariances that are functions of position, seen by H and solved in each form that suits them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from keras import ops

from physml import _backend
from physml._errors import refuse
from physml.assimilation.blue.observed import ObservedCovariance
from physml.assimilation.blue.products import BLOCK, LARGEST_DENSE, Rows, blocks, last
from physml.assimilation.errors.covariance import PointCovariance

CORNERS = 4
FUSED = 2**16
"""Number of covariances above which compiling their evaluation pays."""
_FUSED: dict[Any, Callable[..., Any]] = {}


def _fused(background: PointCovariance) -> Callable[..., Any]:
    """Return B H^T as one compiled function of parameters, points and observations; the sums over corners stay in the cache."""
    key = (type(background), getattr(background, "nu", None), background.in_time)
    if key not in _FUSED:
        kind = replace(background, std=1.0)

        def function(parameters: dict[str, Any], unit: Any, std: Any, lag: Any, *observed: Any) -> Any:
            cells, cell_std, index, weights, since = observed
            at = cast(PointCovariance, kind.with_parameters(parameters))
            seen = ObservedCovariance(at, cells, cell_std, index, weights, since)
            return seen.cross(unit, std, lag)

        _FUSED[key] = _backend.compiled(function)
    return _FUSED[key]


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

    def cross(self, unit: Any, std: Any, lag: Any, kernels: Any = None, corners: Iterable[int] = range(CORNERS)) -> Any:
        """Return B H^T between points and the observations, in one pass where it is large."""
        if kernels is not None or len(list(corners)) < CORNERS or self._many(unit) < FUSED:
            return super().cross(unit, std, lag, kernels, corners)
        return _fused(self.background)(
            {k: ops.cast(v, "float64") for k, v in self.background.parameters.items() if k != "std"},
            *(unit, std, lag, self.unit, self.std, self.index, self.weights, self.lag),
        )

    def _many(self, unit: Any) -> int:
        return int(np.prod([d or 1 for d in (*unit.shape[:-1], self.weights.shape[1])]))

    @cached_property
    def columns(self) -> Any:
        """B H^T, ``[p, n, m]``."""
        return self._between()

    def at_cells(self, cells: slice = slice(None), kernels: Any = None) -> Any:
        """Return B H^T at some of the cells, ``[p, cells, m]``."""
        if kernels is None and self._small:
            return self.columns[:, cells]
        return self._between(cells, kernels)

    def _between(self, cells: slice = slice(None), kernels: Any = None) -> Any:
        return super().at_cells(cells, kernels)

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

    def at_observations(self, kernels: Any = None) -> Any:
        """Return H B H^T, ``[p, m, m]``; each pair of cells is met once where observations share them."""
        index = _backend.concrete(self.index) if self.index.shape[0] == 1 else None
        if index is None:
            return super().at_observations(kernels)
        cells, place = np.unique(index[0], return_inverse=True)
        place = place.reshape(index[0].shape)
        if cells.size > 2 * len(place):
            return super().at_observations(kernels)
        space, time = kernels or (self.background.correlation, self.background.time_correlation)
        unit, std = ops.take(self.unit, cells, axis=0), ops.take(self.std, cells, axis=0)
        matrix = space(unit, unit) * std[:, None] * std[None, :]
        h = Rows(ops.convert_to_tensor(place[None], "int32"), self.weights, cells.size)
        matrix = h.of_rows(last(h.of_rows(matrix)[0]))
        if self.lag is not None and self.background.in_time:
            matrix = matrix * time(self.lag, self.lag)
        return matrix

    def ready(self) -> None:
        """Compute what products share, before they are made within a loop."""
        self._observed  # noqa: B018

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
