"""Coasts of a masked C-grid: which corners lie on the same coast, and the one value that each coast has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml.constraints._cgrid import components

Array = np.ndarray


def _around(cells: Array, periodic: Sequence[bool]) -> list[Array]:
    """Return, for the corner ahead of every cell of a padded grid, its four cells."""
    inner = tuple(slice(None) if wraps else slice(1, -1) for wraps in periodic)
    y, x = (-1, 0), (0, -1)
    return [np.roll(cells, step, (0, 1))[inner] for step in ((0, 0), y, x, (-1, -1))]


def corner_coasts(wet: Array, periodic: Sequence[bool]) -> Array:
    """Return which coast the corner ahead of every cell lies on, ``[y, x]`` integers.

    Cells that are masked, and those beyond closed ends, are land; land cells that touch at a corner are one coast, for no
    water passes between them. 0: in open water. 1: on the coast along the closed ends of smaller index, where there are
    closed ends. 2, 3, ...: on the others, islands and the opposite wall of a channel.

    Examples
    --------
    >>> wet = np.ones((4, 5), bool)
    >>> wet[1, 1] = False
    >>> corner_coasts(wet, (False, False)).tolist()
    [[2, 2, 0, 0, 1], [2, 2, 0, 0, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
    """
    pads = [(0, 0) if wraps else (1, 1) for wraps in periodic]
    labels = components(np.pad(~wet, pads, constant_values=True), periodic, diagonal=True)
    first = labels[0, 0] if not all(periodic) else 0
    corners = np.maximum.reduce(_around(labels, periodic))
    others = np.setdiff1d(corners, [0, first])
    return np.where(corners == 0, 0, np.where(corners == first, 1, 2 + np.searchsorted(others, corners)))


class Coasts:
    """Sets corner values to one constant on every coast: 0 on the first, their mean on every other.

    Parameters
    ----------
    valid
        Cells ``[y, x, column]``; each column has its own coasts.
    periodic
        Whether y and x are.
    """

    def __init__(self, valid: Array, periodic: Sequence[bool]) -> None:
        pads = [(0, 0) if wraps else (1, 1) for wraps in periodic]
        ids, by_water, count = np.zeros(valid.shape, "int32"), np.zeros(valid.shape), 1
        self._free = np.zeros(valid.shape)
        for c in range(valid.shape[-1]):
            coast = corner_coasts(valid[..., c], periodic)
            self._free[..., c] = coast == 0
            by_water[..., c] = np.logical_or.reduce(_around(np.pad(valid[..., c], pads), periodic))
            ids[..., c] = np.where(coast > 1, coast - 2 + count, 0)  # 0: no coast whose value is learned
            count += max(int(coast.max(initial=0)) - 1, 0)
        self._ids = ids.reshape(-1)
        around = np.bincount(self._ids, by_water.reshape(-1), count)[self._ids].reshape(valid.shape)
        self._weights = np.where(ids > 0, by_water / np.maximum(around, 1), 0.0)
        self.count = count - 1
        """Coasts whose value is learned, of all columns together."""

    def __call__(self, corners: Any) -> Any:
        """Return corner values ``[batch, y, x, column]``, the same all along each coast."""
        kind = _backend.widest_float()
        free = corners * ops.cast(self._free, kind)
        if not self.count:
            return free
        cells = int(self._ids.size)
        shares = ops.reshape(corners * ops.cast(self._weights, kind), (-1, cells))
        means = ops.segment_sum(ops.transpose(shares), self._ids, num_segments=self.count + 1)
        along = ops.transpose(ops.take(means, self._ids, axis=0))
        return free + ops.reshape(along, (-1, *self._free.shape)) * ops.cast(
            (self._ids > 0).reshape(self._free.shape), kind
        )
