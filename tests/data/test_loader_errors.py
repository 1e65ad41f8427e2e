"""What cannot be read ends the epoch with one clear error, and leaves no thread behind."""

import shutil
import threading

import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec, Loader

SPEC = FieldSpec("a", "a", target_offsets=1)
ROW = 4 * 50 * 4


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {"a": (("time", "y", "x"), rng.normal(size=(24, 4, 50)).astype("float32"))}, {"time": np.arange(24)}
    )


def fails(loader, kind, words):
    """Run an epoch until it fails; the threads end, and the loader fails again, not hangs, when it is asked again."""
    before = set(threading.enumerate())
    served = 0
    with loader, pytest.raises(kind, match=words) as caught:
        for _ in loader:
            served += 1
    for _ in range(2):
        with loader, pytest.raises(kind, match=words):
            for _ in loader:
                pass
    for t in [t for t in threading.enumerate() if t not in before and t.name.startswith("physml")]:
        t.join(10)
        assert not t.is_alive()
    return served, str(caught.value)


@pytest.mark.parametrize("codec", ["blosc", "zstd", "none"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_truncated_chunk_is_named(data, tmp_path, codec, shuffle):
    from zarr.codecs import BloscCodec, ZstdCodec

    made = {"blosc": BloscCodec(cname="lz4"), "zstd": ZstdCodec(level=1), "none": None}[codec]
    data.to_zarr(tmp_path / "a.zarr", consolidated=False, encoding={"a": {"chunks": (4, 4, 50), "compressors": made}})
    chunk = tmp_path / "a.zarr" / "a" / "c" / "3" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    loader = Loader(xr.open_zarr(tmp_path / "a.zarr", consolidated=False), SPEC, 2, shuffle=shuffle, memory=12 * ROW)
    served, text = fails(loader, OSError, r"'a': zarr array .*: chunk \(3, 0, 0\) cannot be read. Expected: 3200 bytes")
    assert "Remedy" in text
    if not shuffle:
        assert served >= 3


def test_a_store_that_vanished_is_named(data, tmp_path):
    data.to_zarr(tmp_path / "a.zarr", consolidated=False, encoding={"a": {"chunks": (4, 4, 50)}})
    loader = Loader(xr.open_zarr(tmp_path / "a.zarr", consolidated=False), SPEC, 2, memory=12 * ROW)
    assert len(loader.order()) == 23
    shutil.rmtree(tmp_path / "a.zarr")
    fails(loader, OSError, r"Expected: the array it was opened from. Received: nothing there any more")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_a_changed_and_a_vanished_file_are_named(data, tmp_path, compressed):
    options = {"zlib": True, "chunksizes": (4, 4, 50)} if compressed else {}
    path = tmp_path / "a.nc"
    data.to_netcdf(path, encoding={"a": options})
    with xr.open_dataset(path, chunks={"time": 4}) as ds:
        loader = Loader(ds, SPEC, 2, memory=12 * ROW)
        assert len(loader.plan().groups) > 1
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        fails(loader, OSError, r"a\.nc: /a: chunk .* Received: a file that was changed since")
    path.unlink()
    fails(loader, OSError, r"a\.nc: /a: chunk .* Received: No such file or directory")
    path.write_bytes(whole)
    with xr.open_dataset(path, chunks={"time": 4}) as ds:
        loader = Loader(ds, SPEC, 2, memory=12 * ROW)
        ((_, stored, _),) = loader._moving()["a"].source._parts
        stored.places = {k: (v[0] + len(whole) - 100, v[1], v[2]) for k, v in stored.places.items()}
        fails(loader, OSError, r"chunk .* Expected: \d+ bytes at \d+. Received: \d+ bytes: the file is cut off")


def test_bytes_that_cannot_be_inflated_are_named(data, tmp_path):
    path = tmp_path / "a.nc"
    data.to_netcdf(path, encoding={"a": {"zlib": True, "chunksizes": (4, 4, 50)}})
    with xr.open_dataset(path, chunks={}) as ds:
        loader = Loader(ds, SPEC, 2, memory=12 * ROW)
        ((_, stored, _),) = loader._moving()["a"].source._parts
        stored.places = {k: (v[0] + 7, v[1], v[2]) for k, v in stored.places.items()}
        fails(loader, OSError, r"a\.nc: /a: chunk .* Expected: bytes that can be inflated")


def test_an_error_inside_dask_is_passed_on_with_the_variable(data):
    def broken(block, block_info=None):
        if block_info and block_info[0]["chunk-location"][0] == 3:
            raise ValueError("the sensor was off")
        return block

    lazy = data.chunk(time=4)
    lazy["a"] = lazy.a.copy(data=lazy.a.data.map_blocks(broken, dtype="float32", meta=np.empty((0, 0, 0), "f4")))
    served, _ = fails(Loader(lazy, SPEC, 2, memory=12 * ROW), ValueError, "'a': the sensor was off")
    assert served >= 3


def test_a_value_missing_from_a_store_is_named_with_its_time(data, tmp_path):
    data["a"][9, 0, 1:3] = np.nan
    data.to_zarr(tmp_path / "a.zarr", consolidated=False, encoding={"a": {"chunks": (4, 4, 50)}})
    loader = Loader(xr.open_zarr(tmp_path / "a.zarr", consolidated=False), SPEC, 2, memory=12 * ROW)
    fails(loader, ValueError, r"input 'a' is missing on valid cells at time 9.*Received: 2 cells")


def test_closing_while_another_thread_waits_does_not_hang(data):
    import time

    def slow(block):
        time.sleep(0.3)
        return block

    lazy = data.chunk(time=4)
    lazy["a"] = lazy.a.copy(data=lazy.a.data.map_blocks(slow, dtype="float32", meta=np.empty((0, 0, 0), "f4")))
    loader = Loader(lazy, SPEC, 2, memory=12 * ROW)
    found = []

    def wait():
        try:
            loader[len(loader) - 1]
        except BaseException as error:
            found.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    loader.close()
    waiting.join(20)
    assert not waiting.is_alive()
    assert type(found[0]).__name__ in ("RuntimeError", "CancelledError")
