"""Arrays where they are stored, read chunk by chunk: the interface, and the ways that need no knowledge of a format."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from physml._errors import describe


class Stored:
    """An array in pieces that are read whole.

    Attributes
    ----------
    shape, dtype
        Size, and type of the raw values.
    bounds
        For every dimension the first positions of its chunks, and its size at the end.
    how
        In words, how it is read.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    bounds: tuple[np.ndarray, ...]
    how: str

    def read(self, at: Sequence[int], into: np.ndarray | None = None) -> np.ndarray:
        """Return the raw values of one chunk, cut at the ends of the array.

        Parameters
        ----------
        at
            Number of the chunk along every dimension.
        into
            Contiguous memory of the right size and type that may be filled and returned.
        """
        raise NotImplementedError

    def box(self, at: Sequence[int]) -> tuple[slice, ...]:
        """Return where a chunk lies."""
        return tuple(slice(int(b[i]), int(b[i + 1])) for b, i in zip(self.bounds, at, strict=True))


def regular(shape: Sequence[int], chunks: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Return the bounds of equal chunks.

    Examples
    --------
    >>> [b.tolist() for b in regular((5,), (2,))]
    [[0, 2, 4, 5]]
    """
    return tuple(np.append(np.arange(0, n, c), n) for n, c in zip(shape, chunks, strict=True))


_own = threading.local()


def scratch(size: int) -> np.ndarray:
    """Return bytes that belong to this thread until it asks again: new pages for every chunk cost as much as decoding it.

    They begin at a multiple of 64 bytes, where the kernel copies a file four times as fast as to an odd place.
    """
    held = getattr(_own, "held", None)
    if held is None or len(held) < size:
        raw = np.empty(size + size // 8 + 64, "u1")
        held = _own.held = raw[-raw.ctypes.data % 64 :]
    return held[:size]


def rows_of(shape: Sequence[int], itemsize: int, target: int = 1 << 24) -> tuple[int, ...]:
    """Return chunks of whole rows along the first dimension, of about *target* bytes, for arrays stored in one piece."""
    row = max(1, int(np.prod(shape[1:], dtype=int)) * itemsize)
    return (max(1, min(shape[0], target // row)), *shape[1:]) if shape else ()


class InMemory(Stored):
    """A NumPy array."""

    how = "in memory"

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.bounds = regular(self.shape, [max(n, 1) for n in self.shape])

    def read(self, at: Sequence[int], into: np.ndarray | None = None) -> np.ndarray:
        """Return the array itself."""
        return self.array


class Backend(Stored):
    """A file that xarray reads, one thread at a time where its library asks for that."""

    def __init__(self, wrapper: Any, why: str, chunks: Sequence[int] | None = None) -> None:
        self.wrapper, self.shape, self.dtype = wrapper, tuple(wrapper.shape), np.dtype(wrapper.dtype)
        self.bounds = regular(self.shape, chunks or rows_of(self.shape, self.dtype.itemsize))
        self.how = f"by {type(wrapper).__name__.removesuffix('ArrayWrapper') or 'xarray'} through xarray: {why}"

    def read(self, at: Sequence[int], into: np.ndarray | None = None) -> np.ndarray:
        """Return one chunk, read as xarray does."""
        from xarray.core.indexing import BasicIndexer

        return np.asarray(self.wrapper[BasicIndexer(self.box(at))])


class Dask(Stored):
    """A dask array, one block at a time."""

    def __init__(self, array: Any, why: str) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.bounds = tuple(np.concatenate([[0], np.cumsum(c)]).astype(int) for c in array.chunks)
        self.how = f"through dask: {why}"

    def read(self, at: Sequence[int], into: np.ndarray | None = None) -> np.ndarray:
        """Return one block, computed in this thread unless a dask client is at work."""
        block = self.array.blocks[tuple(at)]
        return np.asarray(block.compute() if _has_client() else block.compute(scheduler="synchronous"))


def _has_client() -> bool:
    import sys

    # Another thread may be importing it just now: then there is no client yet.
    get_client = getattr(sys.modules.get("distributed"), "get_client", None)
    if get_client is None:
        return False
    try:
        get_client()
    except ValueError:
        return False
    return True


def open_stored(wrapper: Any) -> Stored:
    """Return the fastest exact way to read the array behind one of xarray's wrappers."""
    kind = type(wrapper).__name__
    dtype = np.dtype(wrapper.dtype)
    if dtype.kind not in "biuf":
        return Backend(wrapper, f"values of type {dtype}")
    if kind == "ZarrArrayWrapper":
        from physml.data._zarr import open_zarr_array

        return open_zarr_array(wrapper)
    if kind in ("NetCDF4ArrayWrapper", "H5NetCDFArrayWrapper"):
        from physml.data._hdf5 import open_hdf5_array

        return open_hdf5_array(wrapper)
    return Backend(wrapper, "its format is not read directly")


def broken(where: str, chunk: Sequence[int], expected: object, received: object) -> OSError:
    """Return the error for a chunk that cannot be read."""
    return OSError(
        describe(
            f"{where}: chunk {tuple(int(i) for i in chunk)} cannot be read",
            expected=expected,
            received=received,
            remedy="copy or write the file again; the training stopped before this batch",
        )
    )


def named(name: str, error: Exception) -> Exception:
    """Return *error* with the name of the variable in front, of the same kind where that is possible."""
    text = f"{name!r}: {str(error) or type(error).__name__}"
    known = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, FileNotFoundError, MemoryError)
    return type(error)(text) if type(error) in known else OSError(f"{text} ({type(error).__name__})")
