"""Correlations that are functions of distance, on the cells of a domain.

On a grid whose longitudes are evenly spaced, any function of the chord is circulant along longitude: a Fourier transform
splits it into one small matrix ``[latitude, latitude]`` for each zonal wavenumber, exactly. Part of a circle and land are cut
out of the whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from keras import ops

from physml import _backend
from physml.assimilation.errors.background import LARGEST_DENSE, Background
from physml.assimilation.errors.domain import Domain, is_constant, unit_vectors
from physml.assimilation.errors.matrix import Matrix, Streamed, jitter
from physml.grid import EARTH_RADIUS

LARGEST_ZONAL = 2**27
"""Largest number of elements of the matrices of all wavenumbers (1 GB)."""


def correlated(kernel: Any, domain: Domain) -> Background:
    """Return the correlation *kernel* of the cells of a domain."""
    if domain.cells <= LARGEST_DENSE:
        return Matrix(_evaluate(lambda length: kernel.shape(_squared_distances(domain) / length**2), kernel.length))
    ring = _ring(domain)
    if ring is not None and len(domain.latitude) ** 2 * (ring // 2 + 1) <= LARGEST_ZONAL:
        return Zonal(kernel, domain, ring)
    points = domain.positions()
    geometry = domain.geometry

    def squared(rows: slice) -> Any:
        if geometry is not None:
            return ops.square(geometry.distance(ops.convert_to_tensor(points[rows]), ops.convert_to_tensor(points)))
        parts = [ops.square(points[rows, None, i] - points[None, :, i]) for i in range(3)]
        return parts[0] + parts[1] + parts[2]

    return Streamed(
        domain.cells,
        lambda rows, length: kernel.shape(squared(rows) / length**2),
        lambda rows, length: kernel.slope(squared(rows) / length**2),
        kernel.length,
    )


def _evaluate(function: Any, length: Any) -> Any:
    """Return ``function(length)``, as an array unless the length is a tensor."""
    if not is_constant(length):
        return function(ops.cast(length, "float64"))
    with _backend.eager():
        return np.array(ops.convert_to_numpy(function(float(length))), "float64")


def _squared_distances(domain: Domain) -> np.ndarray:
    points = domain.positions()
    if domain.geometry is not None:
        with _backend.eager():
            return np.square(ops.convert_to_numpy(domain.geometry.distance(points, points)))
    return np.sum([np.square(points[:, None, i] - points[None, :, i]) for i in range(points.shape[1])], axis=0)


def _ring(domain: Domain) -> int | None:
    """Return the number of columns of the whole circle where longitudes are evenly spaced."""
    if not domain.spherical or domain.geometry is not None:
        return None
    steps = np.diff(domain.longitude)
    step = float(np.mean(steps))
    columns = round(360 / abs(step))
    even = np.allclose(steps, step, rtol=0, atol=1e-6 * abs(step)) and abs(360 / abs(step) - columns) < 1e-6 * columns
    return columns if even and columns > len(steps) else None


class Zonal(Background):
    """A function of the chord on a grid of latitude and evenly spaced longitude, by Fourier transforms along longitude."""

    def __init__(self, kernel: Any, domain: Domain, columns: int) -> None:
        self.kernel, self.domain, self.columns = kernel, domain, columns
        self.rows = domain.shape[0]
        self.size, self.rank = domain.cells, self.rows * columns
        self._matrices: np.ndarray | None = None
        self._roots: np.ndarray | None = None
        if is_constant(kernel.length):
            self._matrices = self._fixed(float(kernel.length))

    def _kernel(self, length: Any, rows: slice = slice(None)) -> Any:
        """Return the correlations ``[rows, latitude, columns]`` of the first longitude with all."""
        latitude = self.domain.latitude
        first = unit_vectors(latitude, 0.0)[rows]
        others = unit_vectors(np.asarray(latitude)[:, None], np.arange(self.columns) * 360 / self.columns)
        r2 = sum(np.square(first[:, None, None, i] - others[None, :, :, i]) for i in range(3))
        return self.kernel.shape(ops.convert_to_tensor(r2) * (EARTH_RADIUS / length) ** 2)

    def _fixed(self, length: float) -> np.ndarray:
        out = np.empty((self.columns // 2 + 1, self.rows, self.rows))
        with _backend.eager():
            for i in range(self.rows):
                row = ops.convert_to_numpy(self._kernel(length, slice(i, i + 1)))[0]
                out[:, i] = np.fft.rfft(row, axis=-1).real.T
        return (out + np.swapaxes(out, -1, -2)) / 2

    @property
    def matrices(self) -> Any:
        """The symmetric matrix of each zonal wavenumber, ``[wavenumber, latitude, latitude]``."""
        if self._matrices is not None:
            return self._matrices
        real, _ = ops.rfft(self._kernel(ops.cast(self.kernel.length, "float64")))
        return ops.transpose(real, (2, 0, 1))

    @property
    def roots(self) -> Any:
        """Their Cholesky factors."""
        if self._matrices is None:
            matrices = self.matrices
            return ops.cholesky(matrices + jitter(matrices[0]) * ops.eye(self.rows, dtype="float64"))
        if self._roots is None:
            small = 1e-14 * np.abs(self._matrices[0]).sum(axis=-1).max() * np.eye(self.rows)
            self._roots = np.stack([scipy.linalg.cholesky(m + small, lower=True) for m in self._matrices])
        return self._roots

    def _filter(self, fields: Any, matrices: Any) -> Any:
        """Return fields ``[..., latitude, columns]`` multiplied by a matrix for each wavenumber."""
        lead = ops.shape(fields)[:-2]
        flat = ops.reshape(fields, (-1, self.rows, self.columns))
        # [wavenumber, latitude, 2 * fields]: real and imaginary parts are columns of one product.
        parts = ops.concatenate([ops.transpose(p, (2, 1, 0)) for p in ops.rfft(flat)], axis=-1)
        real, imaginary = ops.split(ops.matmul(matrices, parts), 2, axis=-1)
        out = ops.irfft((ops.transpose(real, (2, 1, 0)), ops.transpose(imaginary, (2, 1, 0))), fft_length=self.columns)
        return ops.reshape(out, (*lead, self.rows, self.columns))

    def _whole(self, x: Any) -> Any:
        fields = self.domain.to_grid(x)
        gap = self.columns - self.domain.shape[1]
        return ops.pad(fields, [(0, 0)] * (len(fields.shape) - 1) + [(0, gap)]) if gap else fields

    def _part(self, fields: Any) -> Any:
        return self.domain.to_cells(fields[..., : self.domain.shape[1]])

    def root(self, c: Any) -> Any:
        """Return U c, from white noise on the whole circle."""
        fields = ops.reshape(c, (*ops.shape(c)[:-1], self.rows, self.columns))
        return self._part(self._filter(fields, self.roots))

    def root_adjoint(self, x: Any) -> Any:
        """Return U^T x."""
        c = self._filter(self._whole(x), ops.swapaxes(ops.convert_to_tensor(self.roots), -1, -2))
        return ops.reshape(c, (*ops.shape(x)[:-1], self.rank))

    def times(self, x: Any) -> Any:
        """Return C x."""
        return self._part(self._filter(self._whole(x), self.matrices))

    def diagonal(self) -> Any:
        """Return ones."""
        return ops.ones((self.size,), dtype="float64")
