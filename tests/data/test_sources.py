"""What is read directly equals what xarray reads, bit for bit, however it is stored, encoded, cut and selected."""

import warnings

import dask.array as dsa
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from physml.data._sources import Source, slab

SHAPE = (7, 3, 5)

CODECS = {
    "plain": {},
    "zlib": {"zlib": True, "complevel": 4},
    "shuffle": {"zlib": True, "complevel": 1, "shuffle": True},
    "fletcher": {"zlib": True, "fletcher32": True},
    "zstd": {"compression": "zstd"},
}


def values(dtype, seed=0):
    """Return values with gaps that scale, offset and fill encode exactly."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=SHAPE).astype(dtype)
    return rng.integers(-100, 100, SHAPE).astype(dtype)


def dataset(dtype, packed):
    ds = xr.Dataset({"a": (("time", "y", "x"), values(dtype))}, {"time": np.arange(SHAPE[0])})
    if packed:
        ds["a"] = ds.a.where(ds.a > np.median(ds.a)).astype("float64")
        ds.a.encoding = {
            "scale_factor": 0.25,
            "add_offset": 3.0,
            "dtype": dtype,
            "_FillValue": np.array(-99, dtype)[()],
        }
    return ds


def equal(variable, axis=0):
    """Read a variable whole and in part, compare bit for bit, and return how it was read."""
    source = Source(variable, "a", axis)
    want = variable.values
    np.testing.assert_array_equal(slab(source, {}, want.dtype), want)
    if want.ndim and want.shape[axis] > 1:
        rows = np.arange(want.shape[axis])[::-2]
        got = slab(source, {variable.dims[axis]: rows}, want.dtype)
        np.testing.assert_array_equal(got, np.take(want, rows, axis=axis))
    assert source.dtype == want.dtype
    return source


@pytest.mark.filterwarnings("ignore:The specified chunks separate:UserWarning")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(["float32", "float64", "int16", "uint8", "int32"]),
    packed=st.booleans(),
    codec=st.sampled_from(sorted(CODECS)),
    chunks=st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 5)),
    dask_chunks=st.sampled_from([None, {}, {"time": 3}, {"time": 2, "x": 2}]),
    start=st.integers(0, 3),
    step=st.sampled_from([1, -1]),
    point=st.booleans(),
)
def test_netcdf_is_read_as_xarray_reads_it(
    tmp_path_factory, dtype, packed, codec, chunks, dask_chunks, start, step, point
):
    packed = packed and dtype in ("int16", "int32", "float32")
    ds = dataset(dtype, packed)
    path = tmp_path_factory.mktemp("netcdf") / "a.nc"
    options = dict(CODECS[codec])
    if codec != "plain" or chunks[0] < 7:
        options["chunksizes"] = chunks
    try:
        ds.to_netcdf(path, encoding={"a": {**ds.a.encoding, **options}})
    except (RuntimeError, ValueError):  # the library was built without that filter
        ds.to_netcdf(path, encoding={"a": {**ds.a.encoding, "chunksizes": chunks}})
    with xr.open_dataset(path, chunks=dask_chunks) as opened:
        part = opened.isel(time=slice(start, None), y=slice(None, None, step))
        source = equal((part.isel(x=2) if point else part).a.variable)
        known = "fletcher" not in codec
        assert source.direct == known, source.how


@pytest.mark.filterwarnings("ignore:The specified chunks separate:UserWarning")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(["float32", "float64", "int16", "uint8"]),
    packed=st.booleans(),
    version=st.sampled_from([2, 3]),
    codec=st.sampled_from(["none", "blosc", "bitshuffle", "zstd", "gzip", "default"]),
    chunks=st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 5)),
    dask_chunks=st.sampled_from([None, {}, {"time": 3}]),
    start=st.integers(0, 3),
    consolidated=st.booleans(),
)
def test_zarr_is_read_as_xarray_reads_it(
    tmp_path_factory, dtype, packed, version, codec, chunks, dask_chunks, start, consolidated
):
    packed = packed and dtype in ("int16", "float32")
    ds = dataset(dtype, packed)
    path = tmp_path_factory.mktemp("zarr") / "a.zarr"
    encoding = {**ds.a.encoding, "chunks": chunks}
    if codec != "default":
        encoding["compressors"] = compressors(codec, version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata of format 3
        ds.to_zarr(path, zarr_format=version, encoding={"a": encoding}, consolidated=consolidated)
        opened = xr.open_zarr(path, chunks=dask_chunks, consolidated=consolidated)
    source = equal(opened.isel(time=slice(start, None)).a.variable)
    assert source.direct, source.how


def compressors(codec, version):
    if codec == "none":
        return None
    if version == 2:
        import numcodecs

        made = {
            "blosc": numcodecs.Blosc("lz4", 5, 1),
            "bitshuffle": numcodecs.Blosc("zstd", 3, 2),
            "zstd": numcodecs.Zstd(1),
            "gzip": numcodecs.GZip(1),
        }
        return made[codec]
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    made = {
        "blosc": BloscCodec(cname="lz4", shuffle="shuffle"),
        "bitshuffle": BloscCodec(cname="zstd", shuffle="bitshuffle"),
        "zstd": ZstdCodec(level=1),
        "gzip": GzipCodec(level=1),
    }
    return made[codec]


def zarr_array(path, data, **options):
    group = zarr.open_group(path, mode="w", zarr_format=options.pop("zarr_format", 3))
    array = group.create_array(
        "a", shape=data.shape, dtype=data.dtype, dimension_names=options.pop("names", None), **options
    )
    return group, array


@pytest.mark.parametrize("version", [2, 3])
def test_chunks_never_written_hold_the_fill_value(tmp_path, version):
    path = tmp_path / "a.zarr"
    data = values("float32")
    names = ("time", "y", "x") if version == 3 else None
    _, array = zarr_array(path, data, chunks=(2, 3, 5), fill_value=-7.5, zarr_format=version, names=names)
    if version == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = ["time", "y", "x"]
    array[0:2] = data[0:2]
    source = equal(xr.open_zarr(path, consolidated=False, mask_and_scale=False).a.variable)
    assert source.direct
    assert slab(source, {"time": np.array([3])}, source.dtype).tolist() == np.full((1, 3, 5), -7.5).tolist()


def test_what_zarr_must_decode_is_left_to_zarr(tmp_path):
    data = values("float32")
    _, array = zarr_array(tmp_path / "s.zarr", data, chunks=(1, 3, 5), shards=(4, 3, 5), names=("time", "y", "x"))
    array[...] = data
    source = equal(xr.open_zarr(tmp_path / "s.zarr", consolidated=False).a.variable)
    assert "through xarray: it is encoded by ShardingCodec" in source.how
    assert source.bounds("time").tolist() == [0, 4, 7]
    import numcodecs

    group = zarr.open_group(tmp_path / "f.zarr", mode="w", zarr_format=2)
    array = group.create_array("a", shape=SHAPE, dtype="i4", chunks=(2, 3, 5), filters=[numcodecs.Delta("i4")])
    array.attrs["_ARRAY_DIMENSIONS"] = ["time", "y", "x"]
    array[...] = values("int32")
    source = equal(xr.open_zarr(tmp_path / "f.zarr", consolidated=False).a.variable)
    assert "filtered by Delta" in source.how


def test_fortran_order_big_endian_and_other_stores_are_exact(tmp_path):
    group = zarr.open_group(tmp_path / "o.zarr", mode="w", zarr_format=2)
    array = group.create_array("a", shape=SHAPE, dtype=">f4", chunks=(2, 3, 5), order="F")
    array.attrs["_ARRAY_DIMENSIONS"] = ["time", "y", "x"]
    array[...] = values("float32")
    assert equal(xr.open_zarr(tmp_path / "o.zarr", consolidated=False).a.variable).direct
    store = zarr.storage.MemoryStore()
    dataset("int16", True).to_zarr(store, consolidated=False)
    source = equal(xr.open_zarr(store, consolidated=False).a.variable)
    assert source.direct
    assert "MemoryStore" in source.how


def test_zarr_through_fsspec_is_read_directly():
    dataset("float32", False).to_zarr("memory://physml-test.zarr", consolidated=False)
    source = equal(xr.open_zarr("memory://physml-test.zarr", consolidated=False).a.variable)
    assert source.direct
    assert "FsspecStore" in source.how


@pytest.mark.parametrize("codec", ["plain", "shuffle"])
def test_files_joined_in_time_are_read_one_by_one(tmp_path, codec):
    paths = []
    for i in range(3):
        ds = dataset("int16", True).assign_coords(time=np.arange(7) + 7 * i)
        ds["a"] = ds.a + 4 * i
        ds.a.encoding = {"scale_factor": 0.25 + i, "add_offset": 3.0 * i, "dtype": "int16", "_FillValue": np.int16(-99)}
        paths.append(tmp_path / f"{i}.nc")
        ds.to_netcdf(paths[-1], encoding={"a": {**CODECS[codec], "chunksizes": (2, 3, 5)} if codec != "plain" else {}})
    with xr.open_mfdataset(paths, combine="nested", concat_dim="time") as joined:
        source = equal(joined.isel(time=slice(3, 18)).a.variable)
        assert source.direct
        assert source.how.endswith("3 files")
        equal(joined.a.variable.chunk(time=4))


def test_classic_files_and_groups_and_unlimited_dimensions(tmp_path):
    ds = dataset("float32", False)
    ds.to_netcdf(tmp_path / "3.nc", format="NETCDF3_64BIT")
    with xr.open_dataset(tmp_path / "3.nc") as opened:
        assert "no HDF5" in equal(opened.a.variable).how
    with xr.open_dataset(tmp_path / "3.nc", engine="scipy") as opened:
        equal(opened.a.variable)
    ds.to_netcdf(tmp_path / "g.nc", group="/one/two", unlimited_dims=["time"])
    with xr.open_dataset(tmp_path / "g.nc", group="/one/two") as opened:
        assert equal(opened.a.variable).direct


def test_chunks_that_skipped_a_filter_and_empty_files_are_exact(tmp_path):
    with h5py.File(tmp_path / "h.nc", "w") as file:
        made = file.create_dataset("a", SHAPE, "f4", chunks=(2, 3, 5), compression="gzip", shuffle=True, fillvalue=5.0)
        made[0:2] = values("float32")[0:2]
        raw = values("float32", 1)[2:4].tobytes()
        made.id.write_direct_chunk((2, 0, 0), raw, filter_mask=3)
        file.create_dataset("never", SHAPE, "f4", fillvalue=2.0)
        for dim, n in zip("tyx", SHAPE, strict=True):
            file[dim] = np.arange(n)
            file[dim].make_scale(dim)
        for i, dim in enumerate("tyx"):
            made.dims[i].attach_scale(file[dim])
            file["never"].dims[i].attach_scale(file[dim])
    with xr.open_dataset(tmp_path / "h.nc", mask_and_scale=False) as opened:
        assert equal(opened.a.variable).direct
        assert equal(opened.never.variable).direct


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda ds: ds + 1, "its values were computed (add)"),
        (lambda ds: ds.isel(time=[0, 2, 3]), "its values were computed"),
        (lambda ds: ds.where(ds.a > 0), "its values were computed"),
        (lambda ds: ds.transpose("x", "time", "y"), "its values were computed (transpose)"),
        (lambda ds: ds.isel(time=slice(0, 4)).load().chunk(time=2), "it was made in memory"),
        (lambda ds: ds.rolling(time=2).mean(), "through dask"),
    ],
)
def test_what_was_computed_goes_through_dask_and_says_why(tmp_path, change, reason):
    dataset("float32", False).to_zarr(tmp_path / "a.zarr", consolidated=False, encoding={"a": {"chunks": (2, 3, 5)}})
    ds = change(xr.open_zarr(tmp_path / "a.zarr", consolidated=False))
    source = equal(ds.a.variable, ds.a.dims.index("time"))
    assert reason in source.how


def test_dask_arrays_of_any_chunks_are_read():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(11, 4))
    array = dsa.from_array(data, chunks=((3, 1, 7), (2, 2)))
    source = equal(xr.Variable(("time", "x"), array))
    assert source.bounds("time").tolist() == [0, 3, 4, 11]


def test_a_list_of_positions_without_dask_is_read_directly(tmp_path):
    dataset("float32", False).to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as ds:
        assert equal(ds.isel(time=[0, 3, 5], x=[4, 0]).a.variable).direct
