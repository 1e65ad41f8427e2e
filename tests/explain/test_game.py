"""Targets reduce outputs with area and mask; coalitions stream through a model in batches of one size."""

import numpy as np
import pytest
import xarray as xr

from physml.explain import area_mean, box_mean, cell, field
from physml.explain.game import Request, coalition_values, default_rows
from physml.explain.targets import bind
from physml.fields import FieldSpec


def outputs(layout, rows=3, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, *layout.shape, len(layout.targets))).astype("float32")


def test_means_are_weighted_by_area_and_blind_to_land(ds, layout):
    out = outputs(layout)
    out[:, ~ds.wet.values] = np.nan
    labelled = xr.DataArray(out[..., 0], dims=("row", "lat", "lon"), coords={"lat": ds.lat, "lon": ds.lon})
    weights = ds.cell_area.where(ds.wet, 0)
    np.testing.assert_allclose(
        bind(area_mean("tracer"), layout).reduce(out)[:, 0], labelled.weighted(weights).mean(("lat", "lon")), rtol=1e-6
    )
    box = dict(lat=slice(-45, 0), lon=slice(60, 180))
    measure = bind(box_mean("tracer", **box), layout)
    expected = labelled.sel(box).weighted(weights.sel(box)).mean(("lat", "lon"))
    np.testing.assert_allclose(measure.reduce(out)[:, 0], expected, rtol=1e-6)
    assert measure.label == "mean of tracer +1 over lat -45 to 0, lon 60 to 180"
    assert (measure.units, measure.dims, measure.offset) == ("kg m-3", (), 1)


def test_a_cell_is_the_nearest_one_across_greenwich_too(layout):
    out = outputs(layout)
    np.testing.assert_array_equal(bind(cell(lat=14.0, lon=-10.0), layout).reduce(out)[:, 0], out[:, 2, 0, 0])
    np.testing.assert_array_equal(bind(cell(lat=46.0, lon=310.0), layout).reduce(out)[:, 0], out[:, 3, 5, 0])


def test_a_field_keeps_every_valid_cell(ds, layout):
    out = outputs(layout)
    for target in (field(), None, "field"):
        measure = bind(target, layout)
        assert measure.dims == ("lat", "lon")
        np.testing.assert_array_equal(measure.reduce(out), out[..., 0][:, ds.wet.values])


def test_a_function_of_the_labelled_output_is_a_target(ds, layout):
    out = outputs(layout)
    gradient = bind(lambda o: (o.tracer.sel(lat=45.0) - o.tracer.sel(lat=-45.0)).mean("lon"), layout)
    np.testing.assert_allclose(gradient.reduce(out)[:, 0], (out[:, 3] - out[:, 0]).mean(1)[:, 0], rtol=1e-5)

    ratio = bind(lambda o: (o.tracer / o.tracer.max(("lat", "lon"))).where(o.lat > 0), layout)
    np.testing.assert_array_equal(ratio.valid, ds.wet & (ds.lat > 0))

    def squared(o):
        return (o.tracer**2).rename("energy").assign_attrs(units="kg2 m-6").transpose("lon", "time", "lat")

    measure = bind(squared, layout)
    assert (measure.label, measure.units, measure.dims) == ("energy", "kg2 m-6", ("lat", "lon"))
    np.testing.assert_array_equal(measure.valid, ds.wet)
    np.testing.assert_allclose(measure.reduce(out), out[..., 0][:, ds.wet.values] ** 2, rtol=1e-6)


def test_levels_and_offsets_choose_a_channel():
    ds = xr.Dataset(
        {"t": (("time", "lev", "x"), np.zeros((6, 2, 4))), "ps": (("time", "x"), np.zeros((6, 4)))},
        {"time": np.arange(6), "lev": [500.0, 1000.0], "x": np.arange(4.0)},
    )
    layout = FieldSpec("t", ["t", "ps"], levels="lev", target_offsets=(1, 2)).bind(ds)
    out = np.broadcast_to(np.arange(6.0), (1, 4, 6))
    assert [str(c) for c in layout.targets].index("t lev=1000.0 +2") == 3
    assert bind(area_mean("t", lev=1000.0, offset=2), layout).reduce(out) == 3
    assert bind(cell("ps", x=2.0, offset=1), layout).reduce(out) == 4
    with pytest.raises(ValueError, match=r"fits 2 output channels.*Received: 't lev=500.0 .1', 't lev=1000.0 .1'"):
        bind(field("t", offset=1), layout)
    with pytest.raises(ValueError, match="target fits 6 output channels"):
        bind(None, layout)


@pytest.mark.parametrize(
    "target, error, text",
    [
        (box_mean("tracr"), KeyError, "unknown output 'tracr'; did you mean 'tracer'"),
        (box_mean("tracer", lat=slice(60, 90)), ValueError, "target 'mean of tracer .*selects no cell"),
        (box_mean("tracer", lat=slice(-20, 0), lon=slice(100, 200)), ValueError, "holds no valid cell"),
        (box_mean("tracer", lats=slice(0, 1)), KeyError, "unknown space coordinate 'lats'; did you mean 'lat'"),
        (cell("tracer", lat=-15, lon=120), ValueError, "lies on a masked cell.*box_mean"),
        (cell("tracer", lat=95, lon=0), ValueError, "outside the grid.*lat=95, 50 from the nearest"),
        (field("tracer", offset=4), ValueError, "target fits 0 output channels"),
        (3.0, TypeError, "target is no target"),
        (lambda o: o.tracer.mean(), ValueError, "the target function returned another shape"),
        (lambda o: o.tracer.where(o.lat > 99), ValueError, "the target function returned no valid cell"),
    ],
)
def test_bad_targets_say_what_is_wrong(layout, target, error, text):
    with pytest.raises(error, match=text):
        bind(target, layout)


@pytest.mark.parametrize("batch_rows", [1, 4, 7, 100])
def test_streaming_mixes_rows_and_calls_with_one_shape(batch_rows):
    rng = np.random.default_rng(0)
    background, owner = rng.normal(size=(2, 5)), np.array([0, 1, 1, -1, 2])
    requests = [Request(rng.normal(size=5), rng.random((k, 3)) < 0.5, rng.integers(0, 2, k)) for k in (3, 0, 9, 1)]
    shapes = set()

    def value(rows):
        shapes.add(rows.shape)
        return rows.copy()

    got = {i: np.zeros((0, 5)) for i in range(4)}
    for number, values in coalition_values(
        iter(requests), background=background, owner=owner, value=value, batch_rows=batch_rows
    ):
        got[number] = np.concatenate([got[number], values])
    assert shapes == {(batch_rows, 5)}
    for number, request in enumerate(requests):
        members = np.column_stack([request.coalitions, np.zeros(len(request.coalitions), bool)])
        expected = np.where(members[:, owner], request.inputs, background[request.slots])
        np.testing.assert_array_equal(got[number], expected)


def test_default_batches_are_bounded_by_bytes():
    assert default_rows(10) == 1024
    assert default_rows(32 * 64 * 3 * 4) == 170
    assert default_rows(10**9) == 1
