"""What lies behind a lazy variable: stored arrays, the part of them it shows, and how their values are decoded.

xarray wraps a stored array in indexing and decoding, and dask cuts it into blocks. Where nothing else was done to the
values, they can be read from the store directly and decoded by xarray's own functions: bit for bit the same, and faster.
Whatever is not understood here is read through dask.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

Selector = int | np.ndarray
"""Where one stored dimension is read: at one position, which drops it, or at several."""

_TRANSPARENT = {"MemoryCachedArray", "CopyOnWriteArray", "ImplicitToExplicitIndexingAdapter"}
_GETTERS = {"getter", "getter_nofancy", "getter_inline", "getitem"}
_JOINS = {"concatenate3", "concatenate_shaped"}


class Unrecognised(Exception):
    """A variable that has to be read through dask; the message is the reason."""


@dataclass(frozen=True)
class Segment:
    """A part of a variable that one stored array holds.

    Attributes
    ----------
    array
        xarray's wrapper of the stored array.
    selectors
        For every stored dimension where it is read.
    functions
        Elementwise decoding, innermost first, as ``(function, dtype)``.
    """

    array: Any
    selectors: tuple[Selector, ...]
    functions: tuple[tuple[Callable[[np.ndarray], np.ndarray], np.dtype], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of what it shows of the variable."""
        return tuple(len(s) for s in self.selectors if not isinstance(s, int))

    def decode(self, raw: np.ndarray) -> np.ndarray:
        """Return decoded values of raw ones."""
        for function, dtype in self.functions:
            raw = np.asarray(function(raw), dtype=dtype)
        return raw


def segments(variable: xr.Variable, axis: int) -> list[Segment]:
    """Return the stored arrays behind a variable, in order along *axis*.

    Raises
    ------
    Unrecognised
        Where the values are anything but stored values, selected and decoded by xarray.
    """
    data = variable._data
    if variable.chunks is None:
        return [peel(data)]
    return _behind_dask(variable.data, axis)


def peel(data: Any) -> Segment:
    """Return the stored array inside xarray's wrappers.

    Raises
    ------
    Unrecognised
        For wrappers that do more than select and decode element by element.
    """
    functions: list[tuple[Callable[[np.ndarray], np.ndarray], np.dtype]] = []
    while True:
        kind = type(data).__name__
        if kind in _TRANSPARENT:
            data = data.array
        elif kind == "_ElementwiseFunctionArray":
            if not _changes_nothing(data):
                functions.append((data.func, np.dtype(data.dtype)))
            data = data.array
        elif kind in ("NativeEndiannessArray", "BoolTypeArray"):
            functions.append((np.asarray, np.dtype(data.dtype)))
            data = data.array
        elif kind == "LazilyIndexedArray":
            selectors = tuple(_selector(k, n) for k, n in zip(data.key.tuple, data.array.shape, strict=True))
            if not hasattr(data.array, "get_array") and type(data.array).__name__ != "ScipyArrayWrapper":
                raise Unrecognised(f"the stored array is a {type(data.array).__name__}")
            return Segment(data.array, selectors, tuple(reversed(functions)))
        else:
            raise Unrecognised(f"its data are a {kind}")


def _changes_nothing(data: Any) -> bool:
    """Tell whether a decoding step is the identity: floats whose only missing value is NaN already."""
    keywords = getattr(data.func, "keywords", None) or {}
    if getattr(getattr(data.func, "func", None), "__name__", "") != "_apply_mask":
        return False
    fills = keywords.get("encoded_fill_values", ())
    same = np.dtype(keywords.get("dtype")) == np.dtype(data.array.dtype) == np.dtype(data.dtype)
    return same and np.dtype(data.dtype).kind == "f" and all(f != f for f in fills)


def _selector(key: Any, size: int) -> Selector:
    if isinstance(key, slice):
        return np.arange(size)[key]
    if isinstance(key, np.ndarray):
        return np.where(key < 0, key + size, key)
    return int(key) % size


# dask ---------------------------------------------------------------------------------------------------------------

Span = int | tuple[int, int, int]
"""Where a piece lies along one dimension of its base: a position, or start, length and step."""
Piece = tuple[tuple[int, ...], Any, tuple[Span, ...]]
"""Start within the block, name of the base, and where it lies in it."""


def _behind_dask(array: Any, axis: int) -> list[Segment]:
    try:
        from dask._task_spec import convert_legacy_graph
    except ImportError as error:
        raise Unrecognised("this dask describes its graphs differently") from error
    resolver = _Resolver(convert_legacy_graph(dict(array.__dask_graph__())))
    found: dict[Any, list[tuple[tuple[int, ...], tuple[Span, ...]]]] = {}
    starts = [np.concatenate([[0], np.cumsum(c)]).astype(int).tolist() for c in array.chunks]
    for at in itertools.product(*(range(len(c)) for c in array.chunks)):
        origin = [s[i] for s, i in zip(starts, at, strict=True)]
        for start, base, spans in resolver.pieces((array.name, *at)):
            dest = tuple(o + s for o, s in zip(origin, start, strict=True))
            found.setdefault((base, _placement(dest, spans)), []).append((dest, spans))
    parts = []
    for (base, placement), pieces in found.items():
        inner = peel(resolver.bases[base])
        low, high = _bounding(pieces)
        selectors = list(inner.selectors)
        open_dims = [i for i, s in enumerate(selectors) if not isinstance(s, int)]
        along = iter(zip(low, high, strict=True))
        for i, place in zip(open_dims, placement, strict=True):
            positions = np.asarray(selectors[i])
            if isinstance(place, int):
                selectors[i] = int(positions[place])
            else:
                a, b = next(along)
                selectors[i] = positions[place[0] + place[1] * np.arange(a, b)]
        parts.append((low, Segment(inner.array, tuple(selectors), inner.functions)))
    parts.sort(key=lambda p: p[0][axis])
    at_axis = 0
    for low, part in parts:
        rest = [i for i in range(array.ndim) if i != axis]
        if low[axis] != at_axis or any(low[i] or part.shape[i] != array.shape[i] for i in rest):
            raise Unrecognised("several stored arrays are joined along other dimensions than that of the samples")
        at_axis += part.shape[axis]
    if at_axis != array.shape[axis]:
        raise Unrecognised("its blocks do not lie side by side in the stored arrays")
    return [p for _, p in parts]


def _placement(dest: tuple[int, ...], spans: tuple[Span, ...]) -> tuple[int | tuple[int, int], ...]:
    """Return for every dimension of a base the position, or ``(shift, step)`` of ``position = shift + step * destination``."""
    at = iter(dest)
    return tuple(s if isinstance(s, int) else (s[0] - next(at) * s[2], s[2]) for s in spans)


def _bounding(pieces: Sequence[tuple[tuple[int, ...], tuple[Span, ...]]]) -> tuple[list[int], list[int]]:
    """Return where the box begins and ends that pieces fill.

    Raises
    ------
    Unrecognised
        Where they fill no box.
    """
    lows = np.array([dest for dest, _ in pieces])
    sizes = np.array([[s[1] for s in spans if not isinstance(s, int)] for _, spans in pieces])
    low, high = lows.min(0), (lows + sizes).max(0)
    if sizes.prod(1).sum() != (high - low).prod():
        raise Unrecognised("its blocks leave out parts of the stored array")
    return low.tolist(), high.tolist()


class _Resolver:
    """Follows the tasks of a graph of selections down to the stored arrays."""

    def __init__(self, graph: dict[Any, Any]) -> None:
        self.graph = graph
        self.bases: dict[Any, Any] = {}
        self._known: dict[Any, list[Piece]] = {}

    def pieces(self, key: Any) -> list[Piece]:
        """Return the pieces of stored arrays that make up a block."""
        if key not in self._known:
            self._known[key] = self._of(key, self.graph.get(key))
        return self._known[key]

    def _of(self, key: Any, node: Any) -> list[Piece]:
        kind = type(node).__name__
        if kind == "Alias":
            return self.pieces(node.target)
        if kind == "TaskRef":
            return self.pieces(node.key)
        if kind == "DataNode":
            return self._base(node.value)
        if kind == "Task":
            name = getattr(node.func, "__name__", "")
            if name in _GETTERS and len(node.args) >= 2:
                index = getattr(node.args[1], "value", node.args[1])
                return _cut(self._argument(key, node.args[0]), index)
            if name in _JOINS:
                return self._joined(key, node)
            raise Unrecognised(f"its values were computed ({name or node.func})")
        return self._base(node)

    def _argument(self, key: Any, argument: Any) -> list[Piece]:
        if type(argument).__name__ in ("TaskRef", "Alias", "Task", "DataNode"):
            return self._of(key, argument)
        return self._base(argument)

    def _base(self, data: Any) -> list[Piece]:
        if not hasattr(data, "array") or not hasattr(data, "shape"):
            raise Unrecognised("it was made in memory")
        self.bases[id(data)] = data
        return [((0,) * len(data.shape), id(data), tuple((0, n, 1) for n in data.shape))]

    def _joined(self, key: Any, node: Any) -> list[Piece]:
        """Return the pieces of blocks set side by side, as rechunking does."""
        parts = _plain_list(node.args[0])
        if node.func.__name__ == "concatenate_shaped":
            shape = tuple(int(n) for n in _plain_list(node.args[1]))
            grid = np.empty(shape, dtype=object)
            for at, part in zip(np.ndindex(*shape), parts, strict=True):
                grid[at] = self._argument(key, part)
        else:
            grid = _nested(parts, lambda p: self._argument(key, p))
        offsets = []
        for axis in range(grid.ndim):
            first = [grid[tuple(i if a == axis else 0 for a in range(grid.ndim))] for i in range(grid.shape[axis])]
            offsets.append(np.concatenate([[0], np.cumsum([_shape(p)[axis] for p in first])]).astype(int).tolist())
        return [
            (tuple(offsets[a][at[a]] + s for a, s in enumerate(start)), base, spans)
            for at in np.ndindex(*grid.shape)
            for start, base, spans in grid[at]
        ]


def _plain_list(node: Any) -> list[Any]:
    """Return the items of a list in any of the forms that dask gives it."""
    inner = getattr(node, "args", getattr(node, "value", node))
    items = list(inner)
    return list(items[0]) if len(items) == 1 and isinstance(items[0], list | tuple) else items


def _nested(parts: Any, leaf: Callable[[Any], list[Piece]]) -> np.ndarray:
    def depth(p: Any) -> int:
        return 1 + depth(_plain_list(p)[0]) if type(p).__name__ in ("list", "List", "tuple") else 0

    levels = depth(parts)
    shape, level = [], parts
    for _ in range(levels):
        shape.append(len(_plain_list(level)))
        level = _plain_list(level)[0]
    grid = np.empty(shape, dtype=object)
    for at in np.ndindex(*shape):
        part = parts
        for i in at:
            part = _plain_list(part)[i]
        grid[at] = leaf(part)
    return grid


def _shape(pieces: Sequence[Piece]) -> tuple[int, ...]:
    ends = []
    for start, _, spans in pieces:
        sizes = [s[1] for s in spans if not isinstance(s, int)]
        ends.append([a + n for a, n in zip(start, sizes, strict=True)])
    return tuple(max(e) for e in zip(*ends, strict=True))


def _cut(pieces: list[Piece], index: Any) -> list[Piece]:
    """Return the pieces of a block at an index of slices and integers."""
    shape = _shape(pieces)
    index = index if isinstance(index, tuple) else (index,)
    if any(i is Ellipsis or i is None or not isinstance(i, slice | int | np.integer) for i in index):
        raise Unrecognised("it was selected by a list, not a range")
    index = (*index, *(slice(None),) * (len(shape) - len(index)))
    wanted: list[Span] = []
    for i, n in zip(index, shape, strict=True):
        if isinstance(i, slice):
            first, stop, step = i.indices(n)
            if step != 1 and len(pieces) > 1:
                raise Unrecognised("blocks that were joined are selected with a stride")
            wanted.append((first, len(range(first, stop, step)), step))
        else:
            wanted.append(int(i) % n)
    out: list[Piece] = []
    for start, base, spans in pieces:
        new_start: list[int] = []
        new_spans: list[Span] = []
        dim, inside = 0, True
        for span in spans:
            if isinstance(span, int):
                new_spans.append(span)
                continue
            want, a, n = wanted[dim], start[dim], span[1]
            dim += 1
            if isinstance(want, int):
                inside &= a <= want < a + n
                new_spans.append(span[0] + (want - a) * span[2])
                continue
            if want[2] != 1:
                inside &= want[1] > 0
                new_start.append(0)
                new_spans.append((span[0] + want[0] * span[2], want[1], want[2] * span[2]))
                continue
            low, high = max(a, want[0]), min(a + n, want[0] + want[1])
            inside &= low < high
            new_start.append(low - want[0])
            new_spans.append((span[0] + (low - a) * span[2], high - low, span[2]))
        if inside:
            out.append((tuple(new_start), base, tuple(new_spans)))
    if not out:
        raise Unrecognised("a block is empty")
    return out
