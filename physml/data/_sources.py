"""A variable as the pieces of stored arrays that have to be read for a part of it, and reading them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from physml.data._recognise import Segment, Unrecognised, segments
from physml.data._stored import Dask, InMemory, Stored, named, open_stored

Index = slice | np.ndarray


@dataclass(frozen=True)
class Piece:
    """One chunk to read, where its values are taken from, and where they go in the part that was asked for."""

    stored: Stored
    segment: Segment | None
    chunk: tuple[int, ...]
    taken: tuple[int | Index, ...]
    goes: tuple[Index, ...]

    @property
    def nbytes(self) -> int:
        """Size of the whole chunk in memory [bytes]."""
        return (
            int(np.prod([s.stop - s.start for s in self.stored.box(self.chunk)], dtype=int))
            * self.stored.dtype.itemsize
        )


class Source:
    """A variable of a Dataset, wherever it lies.

    Parameters
    ----------
    variable, name
        The variable, and its name for messages.
    axis
        Number of the sample dimension, along which several files may be joined.

    Attributes
    ----------
    how
        In words, how it is read.
    memory
        The values, where they are in memory already.
    """

    def __init__(self, variable: xr.Variable, name: str, axis: int | None) -> None:
        self.name, self.dims = name, tuple(str(d) for d in variable.dims)
        self.shape, self.dtype = variable.shape, np.dtype(variable.dtype)
        self.axis = 0 if axis is None else axis
        self.memory: np.ndarray | None = None
        self._parts: list[tuple[int, Stored, Segment | None]] = []
        if variable.chunks is None and variable._in_memory:
            self.memory = np.asarray(variable.values)
            self._parts = [(0, InMemory(self.memory), None)]
        else:
            self._open(variable)
        kinds = list(dict.fromkeys(stored.how for _, stored, _ in self._parts))
        self.how = "; ".join(kinds) + (f", {len(self._parts)} files" if len(self._parts) > 1 else "")

    def _open(self, variable: xr.Variable) -> None:
        try:
            found = segments(variable, self.axis)
        except Unrecognised as reason:
            if variable.chunks is None:
                sizes = {d: "auto" if i == self.axis else -1 for i, d in enumerate(variable.dims)}
                variable = variable.chunk(sizes)
            self._parts = [(0, Dask(variable.data, str(reason)), None)]
            return
        start, opened = 0, {}
        for segment in found:
            if id(segment.array) not in opened:
                opened[id(segment.array)] = open_stored(segment.array)
            self._parts.append((start, opened[id(segment.array)], segment))
            start += segment.shape[self.axis] if segment.shape else 0

    @property
    def direct(self) -> bool:
        """Whether all of it is read without dask and without xarray's lock."""
        return all(isinstance(s, InMemory) or ", directly" in s.how for _, s, _ in self._parts)

    @property
    def stored_itemsize(self) -> int:
        """Size of a stored value [bytes]."""
        return self._parts[0][1].dtype.itemsize

    def bounds(self, dim: str) -> np.ndarray:
        """Return the first positions of the stored chunks along a dimension, and its size at the end."""
        axis = self.dims.index(dim)
        cuts: set[int] = {0, self.shape[axis]}
        for start, stored, segment in self._parts if axis == self.axis else self._parts[:1]:
            offset = start if axis == self.axis else 0
            if segment is None:
                cuts.update((stored.bounds[axis] + offset).tolist())
                continue
            stored_dim = [i for i, s in enumerate(segment.selectors) if not isinstance(s, int)][axis]
            positions = np.asarray(segment.selectors[stored_dim])
            chunk = np.searchsorted(stored.bounds[stored_dim], positions, side="right")
            cuts.update((np.flatnonzero(np.diff(chunk)) + 1 + offset).tolist())
            cuts.add(offset)
        return np.array(sorted(cuts))

    def pieces(self, wanted: Mapping[str, np.ndarray]) -> Iterator[Piece]:
        """Yield the chunks that hold a part of the variable.

        Parameters
        ----------
        wanted
            Positions by dimension; dimensions that are not named are taken whole.
        """
        at = [wanted.get(d) for d in self.dims]
        for start, stored, segment in self._parts:
            inner: list[tuple[np.ndarray, np.ndarray]] = []
            shape = self.shape if segment is None else segment.shape
            for axis, size in enumerate(shape):
                positions, offset = at[axis], start if axis == self.axis else 0
                if positions is None:
                    inner.append((np.arange(size), np.arange(size) + offset))
                else:
                    here = np.flatnonzero((positions >= offset) & (positions < offset + size))
                    inner.append((positions[here] - offset, here))
            if any(not p.size for p, _ in inner):
                continue
            yield from _chunks(stored, segment, inner)

    def read(self, piece: Piece, out: np.ndarray) -> None:
        """Write the values of one piece into the part that was asked for, in the order of the variable's dimensions.

        Raises
        ------
        OSError, ValueError
            For chunks that cannot be read, with the name of the variable.
        """
        target = out[piece.goes] if all(isinstance(g, slice) for g in piece.goes) else None
        # A whole chunk in its own order may be decoded into its place; the store compares the sizes.
        straight = target is not None and not (piece.segment and piece.segment.functions)
        straight = straight and not any(isinstance(t, np.ndarray) for t in piece.taken)
        try:
            raw = piece.stored.read(piece.chunk, target if straight else None)
            if raw is target:
                return
            part = _take(raw, piece.taken)
            values = part if piece.segment is None else piece.segment.decode(part)
        except Exception as error:  # whatever a store raises, the reader is told which variable it was
            raise named(self.name, error) from error
        if target is not None:
            np.copyto(target, values, casting="unsafe")
        else:
            out[np.ix_(*(np.arange(n)[g] for n, g in zip(out.shape, piece.goes, strict=True)))] = values


def _chunks(stored: Stored, segment: Segment | None, inner: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[Piece]:
    """Yield the pieces of one stored array at positions ``(in the segment, in the part asked for)`` by dimension."""
    selectors = [None] * len(inner) if segment is None else list(segment.selectors)
    along: list[list[tuple[int, int | Index, Index | None]]] = []
    open_dim = 0
    for dim, selector in enumerate(selectors):
        bounds = stored.bounds[dim]
        if isinstance(selector, int):
            chunk = int(np.searchsorted(bounds, selector, side="right")) - 1
            along.append([(chunk, selector - int(bounds[chunk]), None)])
            continue
        positions, goes = inner[open_dim]
        open_dim += 1
        positions = positions if selector is None else selector[positions]
        chunk_of = np.searchsorted(bounds, positions, side="right") - 1
        found: list[tuple[int, int | Index, Index | None]] = []
        for chunk in np.unique(chunk_of).tolist():
            here = np.flatnonzero(chunk_of == chunk)
            found.append((chunk, as_slice(positions[here] - bounds[chunk]), as_slice(goes[here])))
        along.append(found)
    for combination in itertools.product(*along):
        yield Piece(
            stored,
            segment,
            tuple(c for c, _, _ in combination),
            tuple(t for _, t, _ in combination),
            tuple(g for _, _, g in combination if g is not None),
        )


def as_slice(positions: np.ndarray) -> Index:
    """Return positions as a slice where they follow each other.

    Examples
    --------
    >>> as_slice(np.array([2, 3, 4])), as_slice(np.array([4, 2]))
    (slice(2, 5, None), array([4, 2]))
    """
    if positions.size and (np.diff(positions) == 1).all():
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def _take(raw: np.ndarray, taken: Sequence[int | Index]) -> np.ndarray:
    for axis in reversed(range(raw.ndim)):
        t = taken[axis]
        if isinstance(t, np.ndarray):
            raw = np.take(raw, t, axis=axis)
        else:
            raw = raw[(slice(None),) * axis + (t,)]
    return raw


def slab(source: Source, wanted: Mapping[str, Any], dtype: np.dtype) -> np.ndarray:
    """Return a part of a variable, read in this thread, in the order of its dimensions."""
    shape = [len(wanted[d]) if d in wanted else n for d, n in zip(source.dims, source.shape, strict=True)]
    out = np.empty(shape, dtype)
    for piece in source.pieces(wanted):
        source.read(piece, out)
    return out
