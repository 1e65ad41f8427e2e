"""Chunks of netCDF4 and HDF5 files, read from their places in the file and inflated outside the lock of the HDF5 library.

The library reads one chunk at a time in one thread. Where the chunks lie and how they are filtered is asked of it once; then
the file is closed, and each thread reads and inflates its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from physml.data._stored import Backend, Stored, broken, regular, rows_of, scratch

Undo = Callable[[Any, int, np.ndarray | None], Any]
"""Takes filtered bytes, the size of the chunk and, for the last filter, memory that may be filled and returned."""

_DEFLATE, _SHUFFLE, _ZSTD = 1, 2, 32015
_FILTERS = {3: "fletcher32", 4: "szip", 5: "nbit", 6: "scale-offset", 32000: "lzf", 32001: "blosc", 307: "bzip2"}


def open_hdf5_array(wrapper: Any) -> Stored:
    """Return an array of a file that is read directly, or through xarray with the reason why."""
    path = getattr(wrapper.datastore, "_filename", None)
    if not isinstance(path, str) or not os.path.isfile(path):
        return Backend(wrapper, "it is no local file")
    try:
        return _look(path, wrapper)
    except _Unknown as reason:
        return Backend(wrapper, str(reason), reason.chunks)


class _Unknown(Exception):
    """An array that the HDF5 library has to read."""

    def __init__(self, reason: str, chunks: Sequence[int] | None = None) -> None:
        super().__init__(reason)
        self.chunks = chunks


@dataclass
class Hdf5(Stored):
    """An array of an HDF5 file by the places of its chunks.

    Attributes
    ----------
    version
        Size and time of the last change of the file when the places were asked for.
    places
        By number of the chunk: offset [bytes], size [bytes] and mask of the filters that were skipped.
    filters
        What undoes the filters, last applied first, with their bits in that mask.
    whole
        Every place holds a whole chunk, the last ones reaching beyond the array; not so for arrays stored in one piece.
    """

    path: str
    version: tuple[int, int]
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...]
    places: dict[tuple[int, ...], tuple[int, int, int]]
    filters: list[tuple[int, Undo]]
    fill: Any
    how: str = "HDF5, directly"
    whole: bool = True

    def __post_init__(self) -> None:
        self.bounds = regular(self.shape, self.chunks)

    def read(self, at: Sequence[int], into: np.ndarray | None = None) -> np.ndarray:
        """Return one chunk; one that was never written holds the fill value."""
        sizes = tuple(b.stop - b.start for b in self.box(at))
        place = self.places.get(tuple(int(i) for i in at))
        if place is None:
            return np.broadcast_to(self.fill, sizes)
        offset, size, skipped = place
        held = self.chunks if self.whole else sizes
        nbytes = int(np.prod(held, dtype=int)) * self.dtype.itemsize
        if into is not None and not self.filters and into.flags.c_contiguous:
            if into.dtype == self.dtype and into.nbytes == size == nbytes:
                self._fetch(at, offset, into.reshape(-1).view("u1"))
                return into
        data: Any = scratch(size)
        self._fetch(at, offset, data)
        undoing = [undo for bit, undo in self.filters if not skipped & (1 << bit)]
        straight = into is not None and into.flags.c_contiguous and into.dtype == self.dtype and into.nbytes == nbytes
        try:
            for i, undo in enumerate(undoing):
                data = undo(data, nbytes, into if straight and i == len(undoing) - 1 else None)
        except Exception as error:  # zlib, isal and numcodecs raise their own classes
            raise broken(self._where, at, "bytes that can be inflated", error) from error
        if data is into and into is not None:
            return into
        flat = data.reshape(-1).view("u1") if isinstance(data, np.ndarray) else np.frombuffer(data, "u1")
        if flat.nbytes != nbytes:
            raise broken(self._where, at, f"{nbytes} bytes", f"{flat.nbytes} bytes")
        chunk = flat.view(self.dtype).reshape(held)
        chunk = chunk if undoing else chunk.copy()  # its memory is used again for the next chunk
        return chunk if sizes == held else chunk[tuple(slice(0, n) for n in sizes)]

    @property
    def _where(self) -> str:
        return f"{self.path}: {self.name}"

    def _fetch(self, at: Sequence[int], offset: int, into: np.ndarray) -> None:
        """Fill bytes from the file, opened for this alone: a Dataset may lie in more files than a process may hold open."""
        view, got = into.data, 0
        try:
            number = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise broken(self._where, at, "the file it was opened from", error.strerror) from error
        try:
            if _version(os.fstat(number)) != self.version:
                raise broken(self._where, at, "the file it was opened from", "a file that was changed since")
            while got < len(view) and (n := os.preadv(number, [view[got:]], offset + got)):
                got += n
        finally:
            os.close(number)
        if got != len(view):
            raise broken(self._where, at, f"{len(view)} bytes at {offset}", f"{got} bytes: the file is cut off")


def _version(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _look(path: str, wrapper: Any) -> Stored:
    """Return the array of a file by its places.

    Raises
    ------
    _Unknown
        Where the library has to read it.
    """
    import h5py

    if not hasattr(os, "preadv"):
        raise _Unknown("this system has no preadv")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise _Unknown("the file is no HDF5") from error
    version = _version(os.stat(path))
    with file:
        group = getattr(wrapper.datastore, "_group", None) or "/"
        name = f"{group.rstrip('/')}/{wrapper.variable_name}"
        dataset = file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise _Unknown("it is no dataset of the file")
        dtype, shape = np.dtype(dataset.dtype), tuple(dataset.shape)
        if dtype != np.dtype(wrapper.dtype) or shape != tuple(wrapper.shape) or dtype.kind not in "iuf":
            raise _Unknown("the file declares it otherwise than it is shown", dataset.chunks)
        if dataset.external or dataset.is_virtual:
            raise _Unknown("its values lie in other files", dataset.chunks)
        if not shape or 0 in shape:
            raise _Unknown("it is a scalar or empty")
        fill = np.asarray(dataset.fillvalue, dtype)
        if dataset.chunks is None:
            return _contiguous(path, version, name, dataset, fill)
        filters = _filters(dataset)
        places: dict[tuple[int, ...], tuple[int, int, int]] = {}

        def note(chunk: Any) -> None:
            at = tuple(int(o // c) for o, c in zip(chunk.chunk_offset, dataset.chunks, strict=True))
            places[at] = (int(chunk.byte_offset), int(chunk.size), int(chunk.filter_mask))

        if hasattr(dataset.id, "chunk_iter"):
            dataset.id.chunk_iter(note)
        else:
            for i in range(dataset.id.get_num_chunks()):
                note(dataset.id.get_chunk_info(i))
        return Hdf5(path, version, name, shape, dtype, tuple(dataset.chunks), places, filters, fill)


def _contiguous(path: str, version: tuple[int, int], name: str, dataset: Any, fill: Any) -> Hdf5:
    offset = dataset.id.get_offset()
    shape, dtype = tuple(dataset.shape), np.dtype(dataset.dtype)
    if offset is None and dataset.id.get_storage_size():
        raise _Unknown("its values lie in the header of the file")
    chunks = rows_of(shape, dtype.itemsize)
    places = {}
    if offset is not None:
        row = int(np.prod(shape[1:], dtype=int)) * dtype.itemsize
        for i, start in enumerate(range(0, shape[0], chunks[0])):
            n = min(chunks[0], shape[0] - start)
            places[(i, *(0,) * (len(shape) - 1))] = (int(offset) + start * row, n * row, 0)
    return Hdf5(path, version, name, shape, dtype, chunks, places, [], fill, "HDF5 in one piece, directly", whole=False)


def _filters(dataset: Any) -> list[tuple[int, Undo]]:
    plist = dataset.id.get_create_plist()
    found: list[tuple[int, Undo]] = []
    for i in range(plist.get_nfilters()):
        code, _, values, _ = plist.get_filter(i)
        if code == _DEFLATE:
            found.append((i, inflate()))
        elif code == _SHUFFLE:
            found.append((i, _unshuffle(int(values[0]) if values else dataset.dtype.itemsize)))
        elif code == _ZSTD:
            found.append((i, _unzstd))
        else:
            raise _Unknown(f"it is filtered by {_FILTERS.get(code, f'HDF5 filter {code}')}", dataset.chunks)
    return found[::-1]


def _unzstd(data: Any, size: int, into: np.ndarray | None) -> Any:
    from numcodecs import zstd

    return zstd.decompress(data)


def inflate() -> Undo:
    """Return what undoes deflate: isal where it is installed, twice as fast as zlib."""
    try:
        from isal.isal_zlib import decompress
    except ImportError:
        from zlib import decompress
    # One byte to spare: a buffer that is just full is made larger, and copied, to see whether more comes.
    return lambda data, size, into: decompress(data, bufsize=size + 1)


def _unshuffle(itemsize: int) -> Undo:
    def undo(data: Any, size: int, into: np.ndarray | None) -> Any:
        if itemsize == 1:
            return data
        flat = np.frombuffer(data, "u1")
        whole = len(flat) // itemsize * itemsize
        direct = into is not None and len(flat) == whole == size
        out = into.reshape(-1).view("u1") if direct and into is not None else np.empty(len(flat), "u1")
        _interleave(flat[:whole].reshape(itemsize, -1), out[:whole].reshape(-1, itemsize))
        out[whole:] = flat[whole:]  # HDF5 leaves a remainder as it is
        return into if direct else out

    return undo


def _interleave(planes: np.ndarray, out: np.ndarray, block: int = 1 << 16) -> None:
    """Put the bytes of each value together again, a block at a time that stays in the cache."""
    for start in range(0, len(out), block):
        part = out[start : start + block]
        for k, plane in enumerate(planes):
            part[:, k] = plane[start : start + block]
