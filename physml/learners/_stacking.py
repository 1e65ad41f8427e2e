"""Samples of a lazy Dataset as one table within a bound on memory: all rows, or some drawn at random, whatever the chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr

from physml._errors import describe
from physml.fields import Role
from physml.layout import Layout
from physml.learners import _blocks, _points
from physml.learners._points import cells_of

_ROLES: tuple[Role, Role] = ("inputs", "targets")


class Table(NamedTuple):
    """Features ``[row, feature]`` float32, targets ``[row, target]`` float64, and weights of the rows or None."""

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None


@dataclass(frozen=True)
class Stacking:
    """Where features and targets stand in a layout.

    Attributes
    ----------
    layout
        The layout.
    cells
        ``[*space]`` booleans, the cells that are rows; None where each sample is one.
    features
        Channels of a cell, or positions among the flattened inputs ``[*space, channel]`` of a sample.
    targets
        Of samples: positions among the flattened targets. Of cells: the channels.
    """

    layout: Layout
    cells: np.ndarray | None
    features: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, layout: Layout, samples: str, name: str) -> Stacking:
        """Return how a layout is stacked: by ``"cells"`` or by ``"maps"``."""
        if samples == "cells" and layout.space:
            if layout.series:
                raise ValueError(
                    describe(
                        f"{name}: the target lies nowhere on the grid, so cells do not predict it",
                        expected="samples='maps'",
                        received="samples='cells'",
                        remedy="samples='maps'",
                    )
                )
            return cls(layout, cells_of(layout, name), np.arange(len(layout.inputs)), np.arange(len(layout.targets)))
        return cls(layout, None, _values(layout, "inputs"), _values(layout, "targets"))

    def table(self, x: np.ndarray) -> np.ndarray:
        """Return the features of inputs ``[sample, *space, channel]``: ``[row, feature]`` float32."""
        if self.cells is None:
            return x.reshape(len(x), -1)[:, self.features].astype("float32")
        return x[:, self.cells].reshape(-1, x.shape[-1]).astype("float32")

    def truth(self, y: np.ndarray) -> np.ndarray:
        """Return the targets ``[row, target]`` float64."""
        if self.cells is None:
            return y.reshape(len(y), -1)[:, self.targets].astype("float64")
        return y[:, self.cells].reshape(-1, y.shape[-1]).astype("float64")

    def back(self, found: np.ndarray, samples: int) -> np.ndarray:
        """Return ``[row, target, ...]`` as ``[sample, *space, target channel, ...]``, or ``[sample, target channel, ...]``."""
        layout, more = self.layout, found.shape[2:]
        channels = len(layout.targets)
        if self.cells is not None:
            out = np.zeros((samples, *layout.shape, channels, *more))
            out[:, self.cells] = found.reshape(samples, -1, channels, *more)
            return out
        if layout.series or not layout.space:
            return found.reshape(samples, channels, *more)
        flat = np.zeros((samples, int(np.prod(layout.shape)) * channels, *more))
        flat[:, self.targets] = found
        return flat.reshape(samples, *layout.shape, channels, *more)

    def stack(self, train: xr.Dataset, name: str, *, memory: int, max_rows: int | None, seed: int, area: bool) -> Table:
        """Return all rows of training data, or *max_rows* of them drawn with equal chances and without repetition.

        Raises
        ------
        ValueError
            Where the rows do not fit into *memory* and no *max_rows* is said.
        """
        layout = self.layout
        packed = _blocks.packed(layout, train, _ROLES)
        maps = int(np.prod(packed[0].shape[: packed[0].ndim - len(layout.space) - 1], dtype=int))
        each = 1 if self.cells is None else int(self.cells.sum())
        n = maps * each
        size = 4 * len(self.features) + 8 * len(self.targets) + (8 if area else 0)
        rows = n if max_rows is None else min(n, max_rows)
        if rows * size > memory:
            raise ValueError(
                describe(
                    f"{name}: {rows} rows of {len(self.features)} features do not fit into memory",
                    expected=f"at most {memory} bytes: {memory // size} rows",
                    received=f"{rows * size} bytes" + ("" if max_rows is None else f", max_rows={max_rows}"),
                    remedy=f"draw rows at random, max_rows={memory // size}, or allow more: memory=...",
                )
            )
        drawn = None if rows == n else draw(n, rows, seed)
        x = np.empty((rows, len(self.features)), "float32")
        y = np.empty((rows, len(self.targets)))
        weights = np.empty(rows) if area else None
        of_cells = layout.weights[self.cells].ravel() if area and self.cells is not None else np.ones(each)
        done = 0
        for piece in _blocks.blocks(packed, layout, _ROLES):
            here_x, here_y = self.table(piece.arrays[0]), self.truth(piece.arrays[1])
            first = piece.start * each
            if drawn is None:
                at = np.arange(len(here_x))
            else:
                low, high = np.searchsorted(drawn, [first, first + len(here_x)])
                at = drawn[low:high] - first
            x[done : done + len(at)], y[done : done + len(at)] = here_x[at], here_y[at]
            if weights is not None:
                weights[done : done + len(at)] = of_cells[at % each]
            done += len(at)
        return Table(x, y, weights)


def draw(n: int, rows: int, seed: int) -> np.ndarray:
    """Return *rows* different numbers below *n*, increasing; all sets of them have equal chances.

    Examples
    --------
    >>> len(np.unique(draw(1000, 999, seed=0))), len(draw(10**15, 3, seed=0))
    (999, 3)
    """
    rng = np.random.default_rng(seed)
    if 2 * rows > n:
        out = np.ones(n, bool)
        out[draw(n, n - rows, seed)] = False
        return np.flatnonzero(out)
    found = np.empty(0, "int64")
    while len(found) < rows:
        found = np.unique(np.concatenate([found, rng.integers(n, size=rows - len(found) + rows // 8 + 1)]))
    if len(found) == rows:
        return found
    keep = np.ones(len(found), bool)
    keep[rng.choice(len(found), len(found) - rows, replace=False)] = False
    return found[keep]


def _values(layout: Layout, role: Role) -> np.ndarray:
    """Return which of the flattened values ``[*space, channel]`` are read: valid ones, and numbers once."""
    valid = layout.valid(role).copy()
    for i, channel in enumerate(layout.channels(role)):
        if layout.space and not set(layout.space) & set(layout.variables[channel.name].dims):
            flat = np.zeros(layout.shape, bool).ravel()
            flat[_points.first_cells(layout, role)[i]] = True
            valid[..., i] = flat.reshape(layout.shape)
    return np.flatnonzero(valid)
