"""Chunks of zarr arrays, decoded in the calling thread without zarr's event loop where their codecs allow it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from physml.data._stored import Backend, Stored, broken, regular, scratch

Decoder = Callable[[Any, np.ndarray | None], Any]
"""Takes encoded bytes and, for the last step, memory for the result; returns decoded bytes."""


def open_zarr_array(wrapper: Any) -> Stored:
    """Return a zarr array that is read directly, or through zarr with the reason why."""
    array = wrapper.get_array()
    chunks = getattr(array, "shards", None) or array.chunks
    if array.ndim == 0 or 0 in array.shape:
        return Backend(wrapper, "it has no chunks", [max(n, 1) for n in array.shape])
    try:
        decoders, order = _decoders(array)
    except _Unknown as reason:
        return Backend(wrapper, str(reason), chunks)
    return Zarr(array, decoders, order)


class _Unknown(Exception):
    """A zarr array that zarr has to read."""


class Zarr(Stored):
    """A zarr array of format 2 or 3 with bytes behind compressors."""

    def __init__(self, array: Any, decoders: list[Decoder], order: str) -> None:
        self.array, self.shape, self.dtype = array, array.shape, np.dtype(array.dtype)
        self.chunks, self.decoders, self.order = tuple(array.chunks), decoders, order
        self.bounds = regular(self.shape, self.chunks)
        self.nbytes = int(np.prod(self.chunks, dtype=int)) * self.dtype.itemsize
        store = array.store_path.store
        self.local = os.path.join(str(store.root), array.store_path.path) if hasattr(store, "root") else None
        self.how = f"zarr v{array.metadata.zarr_format}, directly" + (
            "" if self.local else f" from {type(store).__name__}"
        )
        self._fill: Any = None

    def read(self, at: Sequence[int], into: np.ndarray | None = None) -> np.ndarray:
        """Return one chunk; one that was never written holds the fill value."""
        box = self.box(at)
        sizes = tuple(b.stop - b.start for b in box)
        whole = sizes == self.chunks
        data = self._bytes(at)
        if data is None:
            return np.broadcast_to(self._fill_value(), sizes)
        direct = into is not None and whole and self.order == "C" and into.flags.c_contiguous
        direct = direct and into is not None and into.dtype == self.dtype and into.nbytes == self.nbytes
        try:
            for i, decode in enumerate(self.decoders):
                last = i == len(self.decoders) - 1
                data = decode(data, into if direct and last else None)
        except Exception as error:  # every compressor raises its own class for bytes it cannot decode
            raise broken(self._where, at, f"{self.nbytes} bytes behind its compressor", f"{error}") from error
        if direct and data is into:
            return into
        if not self.decoders and isinstance(data, np.ndarray):
            data = data.copy()  # the bytes of the file lie in memory that the next chunk will take
        flat = np.frombuffer(data, "u1") if not isinstance(data, np.ndarray) else data.reshape(-1).view("u1")
        if flat.nbytes != self.nbytes:
            raise broken(self._where, at, f"{self.nbytes} bytes", f"{flat.nbytes} bytes")
        chunk = flat.view(self.dtype).reshape(self.chunks, order=self.order)  # type: ignore[call-overload]
        return chunk if whole else chunk[tuple(slice(0, n) for n in sizes)]

    @property
    def _where(self) -> str:
        return f"zarr array {self.array.store_path}"

    def _bytes(self, at: Sequence[int]) -> Any:
        key = self.array.metadata.encode_chunk_key(tuple(int(i) for i in at))
        if self.local is not None:
            path = os.path.join(self.local, key)
            try:
                return _read_file(path)
            except FileNotFoundError:
                if not any(os.path.exists(os.path.join(self.local, m)) for m in ("zarr.json", ".zarray")):
                    raise broken(self._where, at, "the array it was opened from", "nothing there any more") from None
                return None
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        store, prefix = self.array.store_path.store, self.array.store_path.path
        found = sync(store.get(f"{prefix}/{key}" if prefix else key, default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def _fill_value(self) -> Any:
        if self._fill is None:
            value = self.array.metadata.fill_value
            # zarr knows best what a missing value stands for in its formats.
            self._fill = np.zeros((), self.dtype) if value is None else np.asarray(value, self.dtype)
        return self._fill


def _read_file(path: str) -> np.ndarray:
    """Return the bytes of a file, in memory that belongs to this thread until its next chunk is read."""
    with open(path, "rb", buffering=0) as file:
        held = scratch(os.fstat(file.fileno()).st_size)
        view, got = held.data, 0
        while got < len(view) and (n := file.readinto(view[got:])):
            got += n
    return held[:got]


def _decoders(array: Any) -> tuple[list[Decoder], str]:
    """Return what undoes the codecs of an array, last applied first, and the order of its values in memory."""
    metadata = getattr(array, "metadata", None)
    if metadata is None or not hasattr(array, "store_path"):
        raise _Unknown("this zarr has another interface")
    if not hasattr(metadata, "encode_chunk_key"):
        raise _Unknown("its chunk keys are not understood")
    if metadata.zarr_format == 2:
        if metadata.filters:
            raise _Unknown(f"it is filtered by {', '.join(type(f).__name__ for f in metadata.filters)}")
        return ([] if metadata.compressor is None else [_of(metadata.compressor)]), metadata.order
    grid = type(metadata.chunk_grid).__name__
    if grid != "RegularChunkGrid":
        raise _Unknown(f"its chunks are a {grid}")
    decoders: list[Decoder] = []
    for codec in metadata.codecs:
        kind = type(codec).__name__
        if kind == "BytesCodec":
            if array.dtype.itemsize > 1 and getattr(codec.endian, "value", None) != "little":
                raise _Unknown("its bytes are big-endian")
        elif kind in ("BloscCodec", "ZstdCodec", "GzipCodec"):
            decoders.append(_V3[kind]())
        elif hasattr(codec, "_codec") and kind in ("LZ4", "Zlib", "BZ2", "LZMA", "Blosc", "Zstd", "GZip"):
            decoders.append(_of(codec._codec))
        else:
            raise _Unknown(f"it is encoded by {kind}")
    return decoders[::-1], "C"


def _of(codec: Any) -> Decoder:
    def decode(data: Any, into: np.ndarray | None) -> Any:
        found = codec.decode(data) if into is None else codec.decode(data, out=into)
        return into if into is not None else found

    if type(codec).__name__ == "Blosc":
        return _blosc()
    if type(codec).__name__ not in ("Zstd", "LZ4", "Zlib", "GZip", "BZ2", "LZMA"):
        raise _Unknown(f"it is encoded by {type(codec).__name__}")
    return decode


def _blosc() -> Decoder:
    from numcodecs import blosc

    def decode(data: Any, into: np.ndarray | None) -> Any:
        # Blosc trusts the length in its header and would read on behind a chunk that was cut off.
        header = bytes(memoryview(data)[:16])
        length = int.from_bytes(header[12:16], "little")
        if len(header) < 16 or length != len(data):
            raise ValueError(f"{len(data)} bytes where the header says {length}: the chunk is cut off")
        if into is None:
            return blosc.decompress(data)
        blosc.decompress(data, into)
        return into

    return decode


def _zstd() -> Decoder:
    from numcodecs import zstd

    def decode(data: Any, into: np.ndarray | None) -> Any:
        if into is None:
            return zstd.decompress(data)
        zstd.decompress(data, into)
        return into

    return decode


def _gzip() -> Decoder:
    from numcodecs.gzip import GZip

    return _of(GZip())


_V3: dict[str, Callable[[], Decoder]] = {"BloscCodec": _blosc, "ZstdCodec": _zstd, "GzipCodec": _gzip}
