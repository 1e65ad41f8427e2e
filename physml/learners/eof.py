"""Empirical orthogonal functions: the patterns that carry most of the variance of a field, and its components along them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
import xarray as xr

from physml._errors import describe, is_count, refuse
from physml._packing import ready
from physml.learners._blocks import BLOCK, pieces
from physml.learners._patterns import patterns

MEMORY = 2**30
"""Bytes up to which all values are held at once."""


class EOF:
    """Leading patterns of a field ``[sample, *others]`` and their principal components.

    Parameters
    ----------
    n
        Number of patterns.
    dim
        Dimension of the samples.
    weights
        Area of the cells, on some of the other dimensions: squares count with it. None: all cells alike.
    memory
        Bytes up to which the values are held at once, in float64, and the patterns are exact. Beyond, they are found from random
        projections in ten passes over the data.
    seed
        Of these projections.

    Attributes
    ----------
    patterns
        ``[mode, *others]`` in units of the field: what it departs from its mean by for a component of 1; missing where it is.
    explained
        Share of the variance, ``[mode]``.
    mean
        The mean over the samples, ``[*others]``.

    Examples
    --------
    >>> t = np.arange(8.0)
    >>> field = xr.DataArray(np.outer(np.cos(t), [1.0, 2.0]), dims=("time", "x"))
    >>> eof = EOF(1).fit(field)
    >>> bool(np.allclose(eof.reconstruct(eof.project(field)), field)), eof.explained.values.round(12)
    (True, array([1.]))
    """

    def __init__(
        self, n: int, *, dim: str = "time", weights: xr.DataArray | None = None, memory: int = MEMORY, seed: int = 0
    ) -> None:
        if not is_count(n):
            refuse("EOF: n is no number of patterns", "a whole number of at least 1", n, "EOF(10)")
        self.n, self.dim, self.weights, self.memory, self.seed = int(n), dim, weights, memory, seed
        self.patterns: xr.DataArray
        self.explained: xr.DataArray
        self.mean: xr.DataArray

    def fit(self, field: xr.DataArray) -> Self:
        """Find the patterns of a field, lazily read.

        Raises
        ------
        ValueError
            Where values are missing at some times only, or there are fewer samples or cells than patterns.
        """
        if self.dim not in field.dims:
            refuse(f"EOF: no dimension {self.dim!r}", f"samples along {self.dim!r}", field.dims, "dim=...")
        field = field.transpose(self.dim, ...)
        summed, there = np.zeros(field.shape[1:]), np.zeros(field.shape[1:], int)
        for block in _pieces(field):
            finite = np.isfinite(block)
            summed += np.where(finite, block, 0.0).sum(0)
            there += finite.sum(0)
        whole = there == len(field)
        if (part := (there > 0) & ~whole).any() or not whole.any():
            refuse(
                "EOF: the field is missing at some times",
                "cells that are there at all times or at none",
                f"{int(part.sum())} cells that are missing now and then, {int(whole.sum())} that are always there",
                "fill the gaps, or mask these cells: field.where(physml.grid.finite_mask(field))",
            )
        mean = field.isel({self.dim: 0}, drop=True).copy(data=np.where(whole, summed / len(field), np.nan))
        n, width = field.sizes[self.dim], int(whole.sum())
        if self.n > min(n, width):
            refuse(f"EOF: {self.n} patterns are too many", f"at most {min(n, width)}", self.n, "fewer patterns")
        root = self._root(mean)[whole]
        centre = mean.values[whole]

        def rows() -> Iterator[np.ndarray]:
            for block in _pieces(field):
                yield (block.reshape(len(block), -1)[:, whole.ravel()] - centre) * root

        v, s, total = patterns(rows, n, width, self.n, self.memory, self.seed)
        size = s / np.sqrt(n)
        mode = np.arange(1, self.n + 1)
        shape = np.full((self.n, *whole.shape), np.nan)
        shape[:, whole] = np.where(root > 0, (v * size).T / np.where(root > 0, root, 1), 0.0)
        coords = {k: c for k, c in field.coords.items() if self.dim not in c.dims}
        attrs = {"long_name": "pattern for a principal component of 1"}
        attrs |= {"units": u} if (u := field.attrs.get("units")) else {}
        self.patterns = xr.DataArray(shape, dims=("mode", *mean.dims), coords={**coords, "mode": mode}, attrs=attrs)
        self.explained = xr.DataArray(
            s**2 / total if total else np.zeros(self.n),
            dims="mode",
            coords={"mode": mode},
            attrs={"units": "1", "long_name": "share of the variance"},
        )
        self.mean = mean
        inverse = np.zeros_like(shape)
        inverse[:, whole] = np.where(size[:, None] > 0, v.T * root / np.where(size > 0, size, 1)[:, None], 0.0)
        self._into = self.patterns.copy(data=inverse)
        return self

    def project(self, field: xr.DataArray) -> xr.DataArray:
        """Return the principal components ``[sample, mode]``, of variance 1 over the training data; lazy where the field is."""
        anomaly = (field - self.mean).fillna(0.0)
        missing = (field.isnull() & self.mean.notnull()).any(self.mean.dims)
        found = xr.dot(anomaly, self._into, dim=self.mean.dims).where(~missing)
        return found.transpose(..., "mode").assign_attrs(units="1", long_name="principal component").rename("pc")

    def reconstruct(self, components: xr.DataArray) -> xr.DataArray:
        """Return the field ``[sample, *others]`` that some components stand for."""
        found = self.mean + xr.dot(components, self.patterns.fillna(0.0), dim="mode")
        return found.transpose(..., *self.mean.dims).assign_attrs(self.mean.attrs).rename(self.mean.name)

    def _root(self, mean: xr.DataArray) -> np.ndarray:
        if self.weights is None:
            return np.ones(mean.shape)
        strange = set(self.weights.dims) - set(mean.dims)
        if strange:
            raise ValueError(
                describe(
                    f"EOF: the weights lie along {sorted(map(str, strange))}",
                    expected=f"dimensions among {mean.dims}",
                    received=self.weights.dims,
                    remedy="give the area of the cells of the field",
                )
            )
        wide = self.weights.broadcast_like(mean).transpose(*mean.dims).values.astype("float64")
        if not (wide[mean.notnull().values] >= 0).all():
            refuse("EOF: the weights are no areas", "finite and >= 0 on all cells", "others", "mask those cells")
        return np.sqrt(np.where(mean.notnull().values, wide, 0.0))


def _pieces(field: xr.DataArray) -> Iterator[np.ndarray]:
    """Yield samples in float64, few at a time, in pieces that do not depend on the chunks."""
    rows = max(1, BLOCK // (8 * max(1, int(np.prod(field.shape[1:], dtype=int)))))
    lazy = ready(field, str(field.dims[0]))
    for (block,) in pieces([lazy], rows):
        yield block.astype("float64")
