"""What a layout remembers is applied in its order, and what does not fit it is refused before anything is computed."""

from __future__ import annotations

import tracemalloc

import dask
import dask.array as dsa
import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec, Layout
from physml import _packing as packing


@pytest.mark.parametrize("labels", [[50.0], [50.0, 0.0]])
def test_chosen_levels_come_back_in_the_order_asked_for(sst, labels):
    layout = FieldSpec("temp", "temp", levels={"depth": labels}, mask="wet").bind(sst)
    packed = layout.pack(sst, "targets")
    np.testing.assert_array_equal(packed[..., 0], sst.temp.sel(depth=50.0))
    back = layout.unpack(packed)
    xr.testing.assert_identical(back, sst[["temp"]].sel(depth=labels).drop_attrs(deep=False))
    assert layout.valid("inputs").shape == (4, 6, len(labels))


def test_levels_without_labels_are_counted(sst):
    bare = sst.drop_vars("depth")
    layout = FieldSpec("temp", "temp", levels={"depth": [1]}).bind(bare)
    packed = layout.pack(bare, "inputs")
    np.testing.assert_array_equal(packed[..., 0], sst.temp[:, 1])
    every = FieldSpec("temp", "temp", levels="depth").bind(bare)
    with pytest.raises(ValueError, match=r"'temp' lacks levels along 'depth', or has others. Expected: \[0, 1\]"):
        every.pack(bare.pad(depth=(0, 1)), "inputs")


def test_levels_are_found_by_label_whatever_their_order(sst):
    layout = FieldSpec("temp", "temp", levels="depth").bind(sst)
    turned = sst.isel(depth=[1, 0])
    xr.testing.assert_equal(layout.pack(turned, "inputs"), layout.pack(sst, "inputs"))
    with pytest.raises(ValueError, match=r"lacks levels along 'depth'.*Expected: \[0.0, 50.0\]. Received: \[0.0\]"):
        layout.pack(sst.isel(depth=[0]), "inputs")


def test_inputs_come_back_exactly_with_what_was_repeated(sst):
    sst["index"] = sst.salt.mean(["lat", "lon"])
    spec = FieldSpec(["temp", "bathymetry", "index"], "salt", levels="depth")
    layout = spec.bind(sst)
    back = layout.unpack(layout.pack(sst, "inputs"), "inputs")
    xr.testing.assert_identical(back, sst[["temp", "bathymetry", "index"]].drop_attrs(deep=False))


def test_inputs_at_unlike_offsets_are_labelled_by_lead(sst):
    layout = FieldSpec(["temp", "salt"], "salt", input_offsets={"temp": (-2,)}, levels="depth").bind(sst)
    back = layout.unpack(layout.pack(sst, "inputs"), "inputs")
    assert back.lead.values.tolist() == [-2, 0]
    np.testing.assert_array_equal(back.temp.sel(lead=-2), sst.temp[:-2])
    np.testing.assert_array_equal(back.salt.sel(lead=0), sst.salt[2:])
    np.testing.assert_array_equal(back.valid_time.sel(lead=-2), sst.time[:-2])


def test_a_missing_mask_is_land(sst):
    sst["wet"] = sst.wet.where(sst.wet)
    layout = FieldSpec("salt", "salt", mask="wet").bind(sst)
    assert layout.valid("inputs").sum() == 22


def test_areas_matter_on_valid_cells_alone(sst):
    sst["area"] = sst.area.where(sst.wet)
    weights = FieldSpec("salt", "salt", mask="wet", area="area").bind(sst).weights
    np.testing.assert_array_equal(weights, sst.area.fillna(0))
    sst["area"][0, 0] = -1
    with pytest.raises(ValueError, match=r"area 'area' is not a weight.*0 missing, 1 negative"):
        _ = FieldSpec("salt", "salt", mask="wet", area="area").bind(sst).weights


def test_starts_of_forecasts_may_be_chosen_freely(sst):
    layout = FieldSpec("salt", "salt", target_offsets=1).bind(sst)
    starts = sst.isel(time=[0, 5, 7, 23])
    dates = layout.unpack(layout.pack(starts, "inputs").rename(None), "targets").time
    expected = sst.time.to_index()[[1, 6, 8]]
    np.testing.assert_array_equal(dates[:3], expected)
    assert dates[3] == np.datetime64("2002-01-15")
    with pytest.raises(ValueError, match=r"'time' has no constant step.*2000-06-15.* followed by 2000-08-15"):
        layout.pack(starts, "inputs", whole_window=True)


def test_the_place_in_the_month_is_that_of_the_data(sst):
    layout = FieldSpec("salt", "salt", target_offsets=1).bind(sst)
    ends = sst.assign_coords(time=xr.date_range("2000-01-01", periods=24, freq="ME"))
    dates = layout.unpack(layout.pack(ends, "inputs").rename(None), "targets").time
    np.testing.assert_array_equal(dates[:-1], ends.time[1:])
    assert dates[-1] == np.datetime64("2002-01-31")


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_the_same_grid_in_another_type_fits(dtype):
    ds = xr.Dataset(
        {"a": (("time", "x"), np.zeros((3, 4)))}, {"time": range(3), "x": np.array([10, 20, 30, 40], dtype)}
    )
    layout = FieldSpec("a", "a").bind(ds)
    layout.check(ds.assign_coords(x=[10.0, 20, 30, 40]), "inputs")
    with pytest.raises(ValueError, match=r"'x' is not the one.*Received: 40 ... 10.*isel\(x=slice\(None, None, -1\)\)"):
        layout.check(ds.isel(x=slice(None, None, -1)), "inputs")
    with pytest.raises(ValueError, match=r"Expected: 10 ... 40. Received: 15 ... 45.*interp"):
        layout.check(ds.assign_coords(x=ds.x + 5), "inputs")


def test_lazy_blocks_hold_whole_fields_and_few_of_them():
    data = dsa.zeros((400, 16, 32), chunks=(-1, 4, 8))
    ds = xr.Dataset({"a": (("time", "lat", "lon"), data)}, {"time": np.arange(400)})
    layout = FieldSpec("a", "a").bind(ds)
    rows = []

    def count(x):
        rows.append(len(x))
        return x

    with dask.config.set({"array.chunk-size": "256KiB"}):
        out = packing.map_samples(count, [layout.pack(ds, "inputs")], layout.space, 1, "float64")
    out.compute()
    assert sum(rows) - 1 <= 401
    assert max(rows) <= 64


def test_parts_at_unlike_offsets_keep_the_blocks_of_the_data():
    ds = xr.Dataset({"a": (("time", "x"), dsa.zeros((100, 4), chunks=(10, 4)))}, {"time": np.arange(100)})
    layout = FieldSpec("a", "a", input_offsets=(-3, -1, 0)).bind(ds)
    assert layout.pack(ds, "inputs").data.numblocks[0] <= 11


def test_a_field_without_time_is_not_repeated_in_memory():
    shape = (2000, 50, 40)
    ds = xr.Dataset(
        {"a": (("time", "y", "x"), dsa.zeros(shape, chunks=(10, -1, -1), dtype="float32"))}, {"time": np.arange(2000)}
    )
    ds["h"] = (("y", "x"), np.ones((50, 40), "float32"))
    layout = FieldSpec(["a", "h"], "a").bind(ds)
    tracemalloc.start()
    packed = layout.pack(ds, "inputs")
    assert tracemalloc.get_traced_memory()[1] < 4e6  # the whole would be 16 MB
    tracemalloc.stop()
    assert (packed[7, ..., 1] == 1).all()


def test_a_field_in_pieces_does_not_gather_the_times():
    ds = xr.Dataset({"a": (("time", "y", "x"), dsa.zeros((90, 8, 8), chunks=(30, -1, -1)))}, {"time": np.arange(90)})
    ds["h"] = (("y", "x"), dsa.ones((8, 8), chunks=1))
    packed = FieldSpec(["a", "h"], "a").bind(ds).pack(ds, "inputs")
    assert packed.chunks[0] == (30, 30, 30)
    assert (packed[..., 1] == 1).all()


def test_a_layout_keeps_names_of_levels(sst):
    ds = sst.rename(depth="species").assign_coords(species=["a", "b"])
    layout = FieldSpec("temp", "temp", levels="species", mask="wet").bind(ds)
    again = Layout.from_config(layout.to_config(), layout.arrays())
    back = again.unpack(again.pack(ds, "targets"))
    xr.testing.assert_equal(back.temp, ds.temp)
    assert Layout.from_config(layout.to_config()).statics.species.values.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"levels": "dept"}, r"levels name 'dept', which is no dimension.*did you mean 'depth'"),
        ({"members": "ensemble"}, r"members name 'ensemble', which is no dimension of the data. Expected: among"),
        ({"levels": {"depth": [10.0]}}, r"'temp' has no level 10.0 along 'depth'. Expected: labels among \[0.0, 50.0\]"),
        ({"levels": "depth", "mask": "basin"}, r"mask 'basin' varies along \['basins'\]"),
        ({"levels": "depth", "mask": "salt"}, r"mask 'salt' varies along \['time'\].*finite_mask"),
        ({"inputs": ["other", "temp"], "levels": "depth"}, r"'other' does not lie on the grid.*\('lat', 'lon'\), as 'temp' has"),
    ],
)  # fmt: skip
def test_what_does_not_lie_on_the_grid_is_refused(sst, spec, words):
    sst["basin"] = (("basins", "lat", "lon"), np.ones((3, 4, 6)))
    sst["other"] = (("y", "x"), np.ones((3, 4)))
    with pytest.raises(ValueError, match=words):
        FieldSpec(**({"inputs": "temp", "targets": "temp"} | spec)).bind(sst)


def test_a_level_may_be_called_lead_where_there_is_one_target_offset():
    ds = xr.Dataset({"x": (("time", "lead"), np.arange(12.0).reshape(4, 3))}, {"time": np.arange(4), "lead": [1, 3, 6]})
    layout = FieldSpec("x", "x", levels="lead").bind(ds)
    back = layout.unpack(layout.pack(ds, "targets"), "targets")
    xr.testing.assert_identical(back.x, ds.x)
    several = FieldSpec("x", "x", levels="lead", target_offsets=(0, 1)).bind(ds)
    with pytest.raises(ValueError, match=r"a dimension 'lead', which several target offsets need.*rename"):
        several.unpack(several.pack(ds, "targets"), "targets")
