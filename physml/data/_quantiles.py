"""Quartiles of a variable by level and by group of samples: exact where it can be held, else from histograms refined once."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from physml.data._moments import COUNT, GREATEST, LEAST, blockwise, slabs

EXACT = 2**24
"""Values up to which quartiles of lazy data are exact."""
QUARTILES = (0.25, 0.5, 0.75)


def exact(da: xr.DataArray, valid: xr.DataArray, groups: np.ndarray, n: int, depth: int) -> Any:
    """Return the quartiles ``[3, group, *levels]`` of a whole ordered variable, lazily; arguments as for the moments."""
    import dask.array as dsa

    made = blockwise(partial(_exact, n=n), da, valid, groups, depth, (3, n))
    return dsa.moveaxis(made[(0,) * (da.ndim - depth)], (-2, -1), (0, 1))


def _exact(rows: np.ndarray, cells: np.ndarray, group: np.ndarray, *, n: int) -> np.ndarray:
    found = np.full((rows.shape[2], 3, n), np.nan)
    for g in np.unique(group[group >= 0]):
        for level in range(rows.shape[2]):
            x = rows[group == g, :, level][:, cells[:, level]]
            x = x[np.isfinite(x)].astype("float64")
            if x.size:
                found[level, :, g] = np.quantile(x, QUARTILES, overwrite_input=True)
    return found


class Histogram:
    """Quartiles of a variable too large to hold, from two passes over it.

    The first pass counts values in equal bins between the least and the greatest, the second in equal bins within those that
    hold a quartile. The order statistics are then known to half such a bin: (greatest - least) / (2 bins**2), with
    2**16 bins for up to 16 levels and groups together, and 2**10 or more for up to a thousand.

    Parameters
    ----------
    da, valid, groups, n, depth
        As for :func:`physml.data._moments.moments`.
    found
        Those moments, ``[7, group, *levels]``.
    """

    def __init__(
        self, da: xr.DataArray, valid: xr.DataArray, groups: np.ndarray, n: int, depth: int, found: np.ndarray
    ) -> None:
        self.source, self.groups = (da, valid, groups, depth), n
        self.axes = tuple(range(da.ndim - depth))
        self.count, self.low, self.high = (np.moveaxis(found[i], 0, -1) for i in (COUNT, LEAST, GREATEST))
        pieces = max(1, self.count.size)
        self.bins = int(2 ** np.clip(np.floor(np.log2(2**20 / pieces)), 10, 16))
        empty = ~(self.count > 0)
        self.low, self.high = np.where(empty, 0.0, self.low), np.where(empty, 1.0, self.high)
        self.width = np.where(self.high > self.low, self.high - self.low, 1.0) / self.bins
        last = np.maximum(self.count - 1, 0)[..., None]
        self.at = last * np.array(QUARTILES)
        lower = np.floor(self.at)
        self.ranks = np.concatenate([lower, np.minimum(lower + 1, last)], axis=-1)
        self._chosen = self._below = np.zeros(0)

    def coarse(self) -> Any:
        """Return the counts of the first pass, lazily."""
        function = partial(_coarse, bins=self.bins)
        return blockwise(function, *self.source, (self.groups, self.bins), self.low, self.width).sum(self.axes)

    def fine(self, counts: np.ndarray) -> Any:
        """Return the counts of the second pass, lazily, from those of the first."""
        self._chosen, self._below = _find(counts[..., None, :], self.ranks)
        new = (self.groups, len(QUARTILES) * 2, self.bins)
        function = partial(_fine, bins=self.bins)
        return blockwise(function, *self.source, new, self.low, self.width, self._chosen).sum(self.axes)

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Return the quartiles ``[3, group, *levels]`` from the counts of the second pass."""
        inner, _ = _find(counts, self.ranks - self._below)
        low, width = self.low[..., None], self.width[..., None]
        x = np.clip(low + width * (self._chosen + (inner + 0.5) / self.bins), low, self.high[..., None])
        lower, upper = x[..., :3], x[..., 3:]
        found = lower + (self.at - np.floor(self.at)) * (upper - lower)
        return np.moveaxis(found, (-1, -2), (0, 1))


def _find(counts: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin of each rank, and how many values lie below that bin."""
    upto = np.cumsum(counts, axis=-1)
    chosen = np.minimum((upto <= ranks[..., None]).sum(-1), counts.shape[-1] - 1)
    whole = np.broadcast_to(upto - counts, (*ranks.shape, counts.shape[-1]))
    return chosen, np.take_along_axis(whole, chosen[..., None], -1)[..., 0]


def _coarse(
    rows: np.ndarray, cells: np.ndarray, group: np.ndarray, low: np.ndarray, width: np.ndarray, *, bins: int
) -> np.ndarray:
    """Return counts ``[level, group, bin]``."""
    found = np.zeros((*low.shape, bins))
    for _, _, place, coarse in _binned(rows, cells, group, low, width, bins):
        found += np.bincount(place * bins + coarse, minlength=found.size).reshape(found.shape)
    return found


def _fine(
    rows: np.ndarray,
    cells: np.ndarray,
    group: np.ndarray,
    low: np.ndarray,
    width: np.ndarray,
    chosen: np.ndarray,
    *,
    bins: int,
) -> np.ndarray:
    """Return counts ``[level, group, rank, bin]`` within the *chosen* bins ``[level, group, rank]`` of the first pass."""
    found = np.zeros((*chosen.shape, bins))
    flat = found.reshape(-1, chosen.shape[-1], bins)
    for offset, step, place, coarse in _binned(rows, cells, group, low, width, bins):
        inner = np.clip((offset / step - coarse) * bins, 0, bins - 1).astype("int64")
        for r, wanted in enumerate(chosen.reshape(-1, chosen.shape[-1]).T):
            here = coarse == wanted[place]
            flat[:, r] += np.bincount(place[here] * bins + inner[here], minlength=len(flat) * bins).reshape(-1, bins)
    return found


def _binned(
    rows: np.ndarray, cells: np.ndarray, group: np.ndarray, low: np.ndarray, width: np.ndarray, bins: int
) -> Any:
    """Yield the valid values slab by slab: above the least, their bin's width, their level and group as one, their bin."""
    levels, n = low.shape
    for slab in slabs(rows):
        x = rows[slab].astype("float64")
        there = np.isfinite(x) & cells & (group[slab] >= 0)[:, None, None]
        place = np.arange(levels) * n + np.maximum(group[slab], 0)[:, None, None]
        place = np.broadcast_to(place, x.shape)[there]
        offset, step = x[there] - low.reshape(-1)[place], width.reshape(-1)[place]
        yield offset, step, place, np.clip(offset / step, 0, bins - 1).astype("int64")
