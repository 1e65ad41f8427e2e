"""Training data block by block: of fixed size, whatever the chunks, so that what is summed over them is the same to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import xarray as xr

from physml import _packing
from physml.data._assemble import missing_value
from physml.data._fitting import pairs
from physml.fields import Role
from physml.layout import Layout

BLOCK = 2**25
"""Bytes of a block of float64 values."""


class Piece(NamedTuple):
    """Samples that follow each other.

    Attributes
    ----------
    start
        Number of the first sample, over all members one after the other.
    arrays
        One ``[sample, *space, channel]`` for each packed array.
    """

    start: int
    arrays: tuple[np.ndarray, ...]


def packed(layout: Layout, ds: xr.Dataset, roles: tuple[Role, ...], *, whole_window: bool = True) -> list[xr.DataArray]:
    """Return inputs and targets in dask blocks, one row for each sample whose window lies in *ds* and has no gap."""
    sample = layout.spec.sample_dim
    channels = sum(len(layout.channels(r)) for r in roles)
    rows = size_of(layout, channels)
    lazy = ds.assign(
        {
            n: ds[n].chunk({sample: rows})
            for n in ds.data_vars
            if sample in ds[n].dims and ds[n].chunks is None and ds[n].variable._in_memory
        }
    )
    parts = _stretches(layout, lazy) if whole_window else [lazy]
    packed = [[_packing.pack(layout, p, r, whole_window=whole_window) for r in roles] for p in parts]
    if len(packed) == 1:
        return packed[0]
    return [
        xr.concat(p, sample, join="override", coords="minimal", compat="override") for p in zip(*packed, strict=True)
    ]


def _stretches(layout: Layout, ds: xr.Dataset) -> list[xr.Dataset]:
    """Return the parts of a Dataset without gaps that hold a whole window; all of it where none does, for packing to refuse."""
    sample, (low, high) = layout.spec.sample_dim, layout.spec.window()
    need = max(high, 0) - min(low, 0) + 1
    if need == 1 or layout.step is None or sample not in ds.coords:
        return [ds]
    n = ds.sizes[sample]
    earlier = np.arange(n)[pairs(ds[sample], layout.step, n, 1)[0]]
    ends = [*np.setdiff1d(np.arange(n - 1), earlier), n - 1]
    cuts = [0, *(int(e) + 1 for e in ends)]
    long = [(a, b) for a, b in pairwise(cuts) if b - a >= need]
    if len(cuts) == 2 or not long:
        return [ds]
    return [ds.isel({sample: slice(a, b)}) for a, b in long]


def size_of(layout: Layout, channels: int) -> int:
    """Return the samples in a block: a matter of the layout alone."""
    return max(1, BLOCK // (8 * max(1, channels) * int(np.prod(layout.shape, dtype=int))))


def blocks(
    arrays: list[xr.DataArray], layout: Layout, roles: tuple[Role, ...], rows: int | None = None
) -> Iterator[Piece]:
    """Yield all samples in pieces of *rows*, the last of a member shorter; values missing on valid cells are refused.

    Every chunk is computed once; between chunk and piece lies a buffer of one piece.
    """
    n_lead = arrays[0].ndim - len(layout.space) - 1
    times = arrays[0].shape[n_lead - 1]
    rows = rows or size_of(layout, sum(a.shape[-1] for a in arrays))
    valid = [layout.valid(r) for r in roles]
    sample = layout.spec.sample_dim
    labels = arrays[0][sample].values if sample in arrays[0].coords else range(times)
    for number, member in enumerate(product(*(range(n) for n in arrays[0].shape[: n_lead - 1]))):
        start = number * times
        for whole in pieces([a[member] for a in arrays], rows):
            for array, ok, role in zip(whole, valid, roles, strict=True):
                bad = ~np.isfinite(array) & ok
                if bad.any():
                    row = start - number * times + int(bad.reshape(len(bad), -1).any(-1).argmax())
                    raise missing_value(layout, role, bad, f"{sample} {labels[row]}")
            yield Piece(start, whole)
            start += len(whole[0])


def pieces(arrays: list[xr.DataArray], rows: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield pieces of *rows* along the first dimension, the last shorter; every chunk is computed once, in its turn."""
    buffer: list[tuple[np.ndarray, ...]] = []
    for part in _chunks(arrays):
        buffer.append(part)
        while sum(len(p[0]) for p in buffer) >= rows:
            whole, buffer = _cut(buffer, rows)
            yield whole
    if buffer:
        yield _cut(buffer, rows)[0]


def _chunks(arrays: list[xr.DataArray]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the chunks along the first dimension, computed."""
    import dask

    sizes = arrays[0].chunks[0] if arrays[0].chunks is not None else (arrays[0].shape[0],)
    stop = 0
    for size in sizes:
        start, stop = stop, stop + size
        yield dask.compute(*(a.data[start:stop] for a in arrays))


def _cut(
    buffer: list[tuple[np.ndarray, ...]], rows: int
) -> tuple[tuple[np.ndarray, ...], list[tuple[np.ndarray, ...]]]:
    """Return the first rows of a buffer, and the rest."""
    joined = buffer[0] if len(buffer) == 1 else tuple(np.concatenate(p) for p in zip(*buffer, strict=True))
    rest = tuple(a[rows:] for a in joined)
    return tuple(a[:rows] for a in joined), [rest] if len(rest[0]) else []
