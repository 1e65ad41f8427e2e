"""Named variables become channels and come back, exactly, lazily, whatever the order of dimensions."""

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from physml.fields import FieldSpec
from physml.layout import Layout


def make(n_time=7, dims=("time", "lev", "lat", "lon"), dtype="float32", members=0, freq="D", seed=0):
    rng = np.random.default_rng(seed)
    sizes = {"time": n_time, "lev": 3, "lat": 4, "lon": 5, "run": members}
    coords = {
        "time": xr.date_range("2000-01-31", periods=n_time, freq=freq),
        "lev": ("lev", [1000.0, 500.0, 10.0], {"units": "hPa"}),
        "lat": ("lat", np.linspace(-60, 60, 4), {"units": "degrees_north"}),
        "lon": ("lon", np.arange(5) * 72.0, {"units": "degrees_east"}),
    }
    wet = np.ones((4, 5), bool)
    wet[1, 2:4] = False
    dims = (*dims, "run") if members else dims
    flat = tuple(d for d in dims if d != "lev")
    t = xr.DataArray(
        rng.normal(size=[sizes[d] for d in dims]).astype(dtype), dims=dims, attrs={"units": "K", "cell_methods": "x"}
    )
    s = xr.DataArray(rng.normal(size=[sizes[d] for d in flat]).astype("float64"), dims=flat, attrs={"units": "Pa"})
    ds = xr.Dataset({"t": t, "ps": s, "depth": (("lon", "lat"), rng.normal(size=(5, 4)))}, coords)
    ds["wet"] = (("lat", "lon"), wet)
    ds["area"] = (("lat", "lon"), rng.uniform(1, 2, (4, 5)))
    ds["t"], ds["ps"] = ds.t.where(ds.wet).astype(dtype), ds.ps.where(ds.wet)
    ds["t"].attrs, ds["ps"].attrs = t.attrs, s.attrs
    return ds.assign_coords(month=ds.time.dt.month, label=("lat", list("abcd")))


SPEC = FieldSpec(["t", "ps", "depth"], ["t", "ps"], levels="lev", mask="wet", area="area")


def test_channels_follow_variable_offset_level():
    spec = FieldSpec(
        ["t", "ps"], "ps", levels={"lev": [500.0, 10.0]}, input_offsets={"t": (-1, 0)}, target_offsets=(2,)
    )
    layout = spec.bind(make())
    assert [str(c) for c in layout.inputs] == ["t lev=500.0 -1", "t lev=10.0 -1", "t lev=500.0", "t lev=10.0", "ps"]
    assert [str(c) for c in layout.targets] == ["ps +2"]
    assert layout.where("inputs", "t", 0) == slice(2, 4)
    packed = layout.pack(make(), "inputs")
    assert packed.dims == ("time", "lat", "lon", "channel")
    np.testing.assert_array_equal(packed[3, ..., 1], make().t.sel(lev=10.0).isel(time=3))
    np.testing.assert_array_equal(packed[3, ..., 3], make().t.sel(lev=10.0).isel(time=4))


@settings(max_examples=40)
@given(
    dims=st.permutations(["time", "lev", "lat", "lon"]),
    dtype=st.sampled_from(["float32", "float64", "int16", "float16"]),
    members=st.sampled_from([0, 2]),
    chunks=st.sampled_from([None, 1, 3]),
)
def test_unpack_inverts_pack_exactly(dims, dtype, members, chunks):
    ds = make(dims=tuple(dims), members=members)
    if dtype == "int16":
        ds["t"] = (ds.t.fillna(-9) * 100).astype(dtype)
    ds["t"] = ds.t.astype(dtype)
    spec = FieldSpec(["t", "ps"], ["t", "ps"], levels="lev", mask="wet", members="run" if members else None)
    layout = spec.bind(ds)
    back = layout.unpack(layout.pack(ds if chunks is None else ds.chunk(time=chunks, lat=3), "targets"))
    xr.testing.assert_identical(back.compute(), ds[["t", "ps"]])
    for name in ("t", "ps"):
        assert back[name].dims == ds[name].dims
        assert back[name].dtype == ds[name].dtype


@pytest.mark.parametrize("freq", ["D", "6h", "ME", "MS"])
@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
@pytest.mark.parametrize("offset", [1, 3])
def test_later_targets_carry_the_dates_they_are_valid_at(freq, calendar, offset):
    ds = make().assign_coords(
        time=xr.date_range("2000-01-30", periods=7, freq=freq, calendar=calendar, use_cftime=True)
    )
    layout = FieldSpec("ps", "ps", target_offsets=offset).bind(ds)
    back = layout.unpack(layout.pack(ds, "targets"))
    xr.testing.assert_identical(back, ds[["ps"]].drop_vars("month").isel(time=slice(offset, None)))


def test_several_leads_become_a_dimension_with_valid_times():
    ds = make()
    layout = FieldSpec("ps", "ps", target_offsets=(1, 3)).bind(ds)
    back = layout.unpack(layout.pack(ds, "targets"))
    assert back.ps.dims == ("time", "lead", "lat", "lon")
    xr.testing.assert_equal(
        back.ps.sel(lead=3, drop=True).drop_vars("valid_time"),
        ds.ps[3:].assign_coords(time=ds.time[:-3], month=ds.month[:-3]),
    )
    np.testing.assert_array_equal(back.valid_time.sel(lead=3), ds.time[3:])


def test_packing_computes_nothing():
    ds = make().chunk(time=2)

    def refuse(*args, **kwargs):
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        layout = SPEC.bind(ds)
        packed = layout.pack(ds, "inputs")
    layout = layout.load()
    with dask.config.set(scheduler=refuse):
        layout.unpack(layout.pack(ds, "targets"), predicted=True)
    np.testing.assert_array_equal(packed.compute(), SPEC.bind(make()).pack(make(), "inputs"))


def test_a_file_opened_without_dask_is_not_read_by_packing(tmp_path):
    make().drop_vars("label").to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as ds:
        packed = SPEC.bind(ds).pack(ds, "inputs")
        assert packed.chunks is not None
        np.testing.assert_array_equal(packed.compute(), SPEC.bind(make()).pack(make(), "inputs"))


def test_predictions_are_masked_and_keep_floats():
    ds = make()
    layout = SPEC.bind(ds)
    array = layout.pack(ds, "targets").fillna(0) + 1
    out = layout.unpack(array, predicted=True)
    assert out.t.isnull().equals(make().t.isnull())
    assert out.t.attrs == ds.t.attrs


def test_a_mask_with_levels_masks_level_by_level():
    ds = make()
    ds["wet"] = ds.wet & (ds.lev != 10.0)
    layout = SPEC.bind(ds)
    valid = layout.valid("targets")
    assert valid.shape == (4, 5, 4)
    assert not valid[..., 2].any()
    assert valid[..., 1].sum() == 18


def test_layout_survives_its_config():
    ds = make()
    layout = FieldSpec(["t", "ps"], "ps", levels="lev", mask="wet", area="area", target_offsets=2).bind(ds)
    again = Layout.from_config(layout.to_config(), layout.arrays())
    assert again.spec == layout.spec
    assert again.step == layout.step
    assert again.inputs == layout.inputs
    np.testing.assert_array_equal(again.valid("inputs"), layout.valid("inputs"))
    np.testing.assert_array_equal(again.weights, layout.weights)
    xr.testing.assert_identical(again.pack(ds, "targets"), layout.pack(ds, "targets"))
