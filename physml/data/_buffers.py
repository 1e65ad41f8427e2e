"""Memory of batches that is used again once nobody holds the batch: new memory costs as much as filling it."""

from __future__ import annotations

from collections import deque

import numpy as np

ALIGNMENT = 64
"""TensorFlow and JAX take over an array that begins at a multiple of this [bytes], and copy any other."""


class _Lease:
    """Owns the memory of one array; when the last view of it ends, the memory goes back."""

    def __init__(self, raw: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, back: deque[np.ndarray]) -> None:
        self.raw, self.back = raw, back
        at = raw.ctypes.data
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (at + -at % ALIGNMENT, False),
            "version": 3,
        }

    def __del__(self) -> None:
        self.back.append(self.raw)


class Buffers:
    """Gives arrays to write to, in memory of earlier ones where those are gone.

    Parameters
    ----------
    keep
        Arrays of a size that are kept at most while nobody uses them.

    Examples
    --------
    >>> buffers = Buffers()
    >>> first = buffers.take((3, 5), np.dtype("f4"))
    >>> first.ctypes.data % 64
    0
    >>> at = first.ctypes.data
    >>> view = first[1:]
    >>> del first
    >>> buffers.take((3, 5), np.dtype("f4")).ctypes.data == at  # the view still needs it
    False
    >>> del view
    >>> buffers.take((3, 5), np.dtype("f4")).ctypes.data == at
    True
    """

    def __init__(self, keep: int = 4) -> None:
        self.keep = keep
        self._free: dict[int, deque[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array that nobody else holds, with any content, at a multiple of 64 bytes."""
        size = int(np.prod(shape, dtype=int)) * dtype.itemsize + ALIGNMENT
        free = self._free.setdefault(size, deque(maxlen=self.keep))
        try:
            raw = free.popleft()
        except IndexError:
            raw = np.empty(size, "u1")
        return np.asarray(_Lease(raw, shape, dtype, free))

    def clear(self) -> None:
        """Give back what is kept."""
        self._free.clear()
