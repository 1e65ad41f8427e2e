"""Local optimal interpolation: each tile of cells is analysed with the observations nearest to its cells.

A distant observation weighs little, and less where nearer ones are. A tile uses all observations that are among the K nearest
of any of its cells, so that the analysis has no seams where K observations tell what there is to tell, and is the global one
where there are no more than K. The cost grows with the number of cells, and no longer with the cube of that of observations.

References
----------
Daley, R. (1991), Atmospheric Data Analysis, Cambridge University Press, chapter 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from keras import ops
from scipy.spatial import cKDTree

from physml import _backend
from physml._errors import refuse
from physml.assimilation.blue.forms import ObservationSpace
from physml.assimilation.blue.pointwise import ObservedKernel
from physml.assimilation.blue.products import last
from physml.assimilation.observing.observations import pad


@dataclass(frozen=True, eq=False)
class Tiles:
    """Which cells and which observations belong together; -1 fills what is shorter."""

    cells: np.ndarray
    """``[tile, c]`` of the n cells."""
    near: np.ndarray
    """``[tile, K]`` of the m observations."""
    size: int
    """n."""
    count: int
    """m."""

    @cached_property
    def place(self) -> np.ndarray:
        """Where each cell stands among the flattened ``[tile c]``, ``[n]``."""
        place = np.empty(self.size, "int32")
        place[self.cells[self.cells >= 0]] = np.flatnonzero(self.cells.ravel() >= 0)
        return place

    @cached_property
    def own(self) -> np.ndarray:
        """Where each observation stands in the tile that it lies in, or in another that uses it, ``[m]``; -1: in none."""
        own = np.full(self.count, -1, "int32")
        flat = np.flatnonzero(self.near.ravel() >= 0)
        # Backwards, so that the first tile of each observation is the one that stays.
        own[self.near.ravel()[flat[::-1]]] = flat[::-1]
        return own


def tiles(unit: np.ndarray, index: Any, weights: Any, values: Any, neighbours: int, cells: int) -> Tiles:
    """Return tiles of some *cells* cells each, with the observations that are among the nearest of any of them.

    Parameters
    ----------
    unit
        Unit vectors of the cells ``[n, 3]``.
    index, weights
        Corners of the observations ``[m, 4]`` and their weights.
    values
        ``[m]``: NaN where missing, which are nobody's neighbours.
    neighbours
        K.
    cells
        Largest number of cells in a tile.
    """
    index, weights = (_backend.concrete(a) for a in (index, weights))
    if index is None or weights is None:
        remedy = "call it outside compiled functions (run_eagerly=True), or method='observation'"
        refuse("local analyses need to know where observations are", "arrays", "tensors without values", remedy)
    known = _backend.concrete(values)
    there = np.flatnonzero(weights.any(axis=-1) & (True if known is None else np.isfinite(known)))
    groups = _halves(unit, np.arange(len(unit)), cells)
    if not there.size:
        return Tiles(pad(groups), np.full((len(groups), 1), -1), len(unit), len(index))
    at = (unit[index[there]] * weights[there, :, None]).sum(axis=-2)
    _, nearest = cKDTree(at).query(unit, k=min(neighbours, there.size))
    nearest = there[np.reshape(nearest, (len(unit), -1))]
    near = [np.unique(nearest[g]) for g in groups]
    return Tiles(pad(groups), pad(near), len(unit), len(index))


def _halves(unit: np.ndarray, chosen: np.ndarray, most: int) -> list[np.ndarray]:
    """Return cells in groups of neighbours, halved across their widest direction until they are small."""
    if chosen.size <= most:
        return [chosen]
    points = unit[chosen]
    order = np.argsort(points[:, np.argmax(np.ptp(points, axis=0))], kind="stable")
    half = chosen.size // 2
    return [*_halves(unit, chosen[order[:half]], most), *_halves(unit, chosen[order[half:]], most)]


@dataclass(frozen=True, eq=False)
class LocalKernel(ObservedKernel):
    """B between the cells of each tile and its observations; p counts tiles."""

    tiles: Tiles | None = None

    @property
    def _layout(self) -> Tiles:
        assert self.tiles is not None
        return self.tiles

    def of_cells(self, x: Any) -> Any:
        """Return ``[tile, c, ...]`` from ``[n, ...]``, 0 where a tile has no cell."""
        cells = self._layout.cells
        there = np.reshape(cells >= 0, (*cells.shape, *[1] * (len(x.shape) - 1)))
        return ops.where(there, ops.take(x, np.maximum(cells, 0), axis=0), 0.0)

    def to_cells(self, x: Any) -> Any:
        """Return ``[n, ...]`` from ``[tile, c, ...]``."""
        flat = ops.reshape(x, (-1, *x.shape[2:]))
        return ops.take(flat, self._layout.place, axis=0)

    def sample(self, x: Any) -> Any:
        """Return H x, ``[tile, K, k]``, from ``[1, n, k]``."""
        return ops.sum(ops.take(x[0], self.index, axis=0) * self.weights[..., None], axis=-2)

    def spread(self, z: Any, like: Any = None) -> Any:
        """Return H^T z, ``[1, n, k]``, from ``[tile, K, k]``."""
        values = ops.reshape(ops.expand_dims(z, -2) * self.weights[..., None], (-1, z.shape[-1]))
        return ops.segment_sum(values, ops.reshape(self.index, (-1,)), num_segments=self.size)[None]

    def at_cells(self, cells: slice = slice(None), kernels: Any = None) -> Any:
        """Return B H^T between the cells and the observations of each tile, ``[tile, c, K]``."""
        return self.columns if kernels is None else self._between(cells, kernels)

    def _between(self, cells: slice = slice(None), kernels: Any = None) -> Any:
        now = ops.zeros((1,), dtype="float64")
        return self.cross(self.of_cells(self.unit), self.of_cells(self.std), now, kernels)

    def gain(self, w: Any) -> Any:
        """Return B H^T w, ``[1, n, k]``, from ``[tile, K, k]``."""
        return self.to_cells(ops.matmul(self.columns, w))[None]

    def gain_adjoint(self, a: Any) -> Any:
        """Return H B a, ``[tile, K, k]``, from ``[1, n, k]``."""
        return ops.matmul(last(self.columns), self.of_cells(a[0]))

    def std_gradient(self, gain: Any, w: Any, z: Any, a: Any) -> Any:
        """Return dl/dstd ``[n]``: cells count as targets in their tile, and as corners in every tile that uses them."""
        a = self.of_cells(a[0])
        total = self.to_cells(ops.sum(a * ops.matmul(gain, w), axis=2)) / self.std
        now, targets = ops.zeros((1,), dtype="float64"), (self.of_cells(self.unit), self.of_cells(self.std))
        for k in range(4):
            unit, std = self.corner(k)
            to_observations = self.cross(unit, std, self.lag)
            both = z * ops.matmul(to_observations, w) + w * ops.matmul(to_observations, z)
            to_cells = self.cross(*targets, now, corners=[k])
            at = w * ops.matmul(last(to_cells), a) - self.weights[..., k, None] * both
            values = ops.sum(at, axis=2) / std
            total = total + ops.segment_sum(
                ops.reshape(values, (-1,)), ops.reshape(self.index[..., k], (-1,)), num_segments=self.size
            )
        return total


class Local(ObservationSpace):
    """Observation space in each tile, all tiles at once."""

    name = "local"

    def met(self, values: Any) -> Any:
        """Return ``[tile, K]`` from ``[1, m]``."""
        near = self.observed.tiles.near
        return ops.where(near >= 0, ops.take(values[0], np.maximum(near, 0), axis=0), np.nan)

    def told(self, values: Any) -> Any:
        """Return ``[1, m, ...]`` from ``[tile, K, ...]``: what the tile says that an observation lies in."""
        own = self.observed.tiles.own
        flat = ops.take(ops.reshape(values, (-1, *values.shape[2:])), np.maximum(own, 0), axis=0)
        return ops.where(np.reshape(own >= 0, (-1, *[1] * (len(values.shape) - 2))), flat, ops.cast(0, values.dtype))[
            None
        ]

    def gradient(self, z: Any) -> tuple[Any, Any]:
        """Return dl/dd and dl/dsigma_o ``[1, m]``, summed over tiles."""
        near = np.where(self.observed.tiles.near >= 0, self.observed.tiles.near, self.observed.tiles.count).ravel()
        sums = [
            ops.segment_sum(ops.reshape(part, (-1,)), near.astype("int32"), num_segments=self.observed.tiles.count + 1)
            for part in super().gradient(z)
        ]
        return sums[0][None, :-1], sums[1][None, :-1]

    def variance(self) -> tuple[Any, Any]:
        """Return the posterior variances ``[1, n]``."""
        rows = self.scale[..., None] * last(self.observed.columns)
        explained = ops.sum(ops.square(ops.solve_triangular(self.cholesky, rows, lower=True)), axis=-2)
        return ops.maximum(self.observed.variances - self.observed.to_cells(explained), 0.0)[None], None
