"""Samples by number: read at once where they fit into memory, else as they are asked for; and a model's answers to them.

Methods over a whole data set (importance, curves) ask for samples in any order and give one number for all of them. Samples
are counted along the sample dimension, one member after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from physml.explain.blocks import BLOCK_BYTES, sample_name
from physml.explain.models.valued import accept_batch_rows, default_rows, valued
from physml.explain.players.baselines import clean

if TYPE_CHECKING:
    from physml.explain.models.adapting import Adapted
    from physml.explain.models.targets import Measure
    from physml.layout import Layout

MEMORY = 2**30
"""Bytes up to which samples are read at once."""

LOOSE_ROWS = 2**16
"""Most rows in a batch of a model that is not compiled for the size of its batches."""


class Rows:
    """Samples ``[*members, sample, ...]`` of a packed array, by number.

    Parameters
    ----------
    packed
        From ``layout.pack``.
    layout
        Of the model.
    memory
        Bytes up to which a lazy array is read at once; beyond, each request reads what it asks for through dask.
    inputs
        Whether they are inputs: masked cells become zero, and missing valid ones are refused.
    """

    def __init__(self, packed: xr.DataArray, layout: Layout, memory: int = MEMORY, inputs: bool = True) -> None:
        self.packed, self.layout, self._clean = packed, layout, inputs
        n_outer = packed.get_axis_num(layout.spec.sample_dim) + 1
        self.dims = tuple(str(d) for d in packed.dims[:n_outer])
        self.outer = packed.shape[:n_outer]
        self.each = packed.nbytes // math.prod(self.outer)
        self.loaded = packed.chunks is None or packed.nbytes <= memory
        self._bare = packed.drop_vars(list(packed.coords))
        self._values: np.ndarray | None = None

    def __len__(self) -> int:
        return math.prod(self.outer)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.packed.shape[len(self.outer) :])

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Return the samples with these *numbers*, ``[row, *space, channel]``.

        Raises
        ------
        ValueError
            Where a valid input is missing.
        """
        if self.loaded:
            if self._values is None:
                self._values = self._checked(self.packed.values.reshape(-1, *self.shape), np.arange(len(self)))
            return self._values[numbers]
        wanted, place = np.unique(numbers, return_inverse=True)
        if len(self.outer) == 1 and wanted[-1] - wanted[0] + 1 == len(
            wanted
        ):  # what lies side by side is cut out, not gathered
            found = self._bare[int(wanted[0]) : int(wanted[-1]) + 1]
        else:
            at = np.unravel_index(wanted, self.outer)
            where = {d: xr.DataArray(i, dims="_row") for d, i in zip(self.dims, at, strict=True)}
            found = self._bare.isel(where).transpose("_row", ...)
        return self._checked(found.values, wanted)[place]

    def _checked(self, values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        def where(row: int) -> str:
            labels = {d: self.packed[d] for d in self.dims if d in self.packed.coords}
            return sample_name(int(numbers[row]), self.outer, self.dims, labels)

        return clean(values, self.layout, where) if self._clean else values

    def blocks(self, copies: int = 1, most: int = BLOCK_BYTES) -> Iterator[np.ndarray]:
        """Yield the numbers of all samples in order, as many at a time as *copies* of them fit into *most* bytes."""
        step = max(1, most // max(1, self.each * copies))
        for start in range(0, len(self), step):
            yield np.arange(start, min(start + step, len(self)))


class Answers:
    """The target of a model for inputs ``[row, *space, channel]``: values ``[row, valid cell]``, in batches of one size.

    Parameters
    ----------
    adapted, measure
        The model and its target.
    each
        Bytes of one row.
    most
        Samples there are: a batch need not hold more of them.
    batch_rows
        Rows the model is given at a time; by default by size of the inputs.

    Attributes
    ----------
    rows
        Rows that were asked for so far.

    Raises
    ------
    ValueError
        Where *batch_rows* is not positive.
    """

    def __init__(self, adapted: Adapted, measure: Measure, each: int, most: int, batch_rows: int | None = None) -> None:
        accept_batch_rows(batch_rows)
        # A compiled model sees one size of batch; others gain by large ones.
        self.fixed = adapted.compiled
        loose = int(np.clip(2**26 // max(each, 1), 1, LOOSE_ROWS))
        self.batch_rows = batch_rows or (min(default_rows(each), most) if self.fixed else loose)
        self.dtype, self.rows = adapted.dtype, 0
        self._value = valued(adapted, measure)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the target of every row, ``[row, valid cell]`` float64."""
        self.rows += len(rows)
        found = []
        for start in range(0, len(rows), self.batch_rows):
            batch = rows[start : start + self.batch_rows].astype(self.dtype or rows.dtype, copy=False)
            n = len(batch)
            if self.fixed and n < self.batch_rows:
                batch = np.concatenate([batch, np.repeat(batch[-1:], self.batch_rows - n, axis=0)])
            found.append(self._value(batch)[:n])
        return np.concatenate(found)
