"""Targets reduce outputs with area and mask, add up, and find what they name in whatever a model returns."""

import numpy as np
import pytest
import xarray as xr

from physml.explain import area_mean, box_mean, cell, field
from physml.explain.models import words
from physml.explain.models.outputs import Fields, Table, channels_named, outputs_of
from physml.explain.models.targets import bind
from physml.fields import FieldSpec
from physml.timeaxis import TimeStep


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
    assert measure.label == "mean of tracer over 45°S to 0°, 60°E to 180°, one month ahead"
    assert (measure.units, measure.dims, measure.offset) == ("kg m-3", (), 1)


def test_open_ranges_are_said_in_words(layout):
    where = dict(lat=slice(None, 0), lon=slice(180, None))
    label = "mean of tracer over latitudes up to 0°, longitudes from 180°, one month ahead"
    assert bind(box_mean("tracer", **where), layout).label == label


def test_a_cell_is_the_nearest_one_across_greenwich_too(layout):
    out = outputs(layout)
    np.testing.assert_array_equal(bind(cell(lat=14.0, lon=-10.0), layout).reduce(out)[:, 0], out[:, 2, 0, 0])
    np.testing.assert_array_equal(bind(cell(lat=46.0, lon=310.0), layout).reduce(out)[:, 0], out[:, 3, 5, 0])


def curvilinear():
    """A grid whose coordinates are missing in its first cell, as on land; at 80N longitudes lie close together."""
    lat, lon = np.array([[np.nan, 0.0, 0], [80, 80, 83]]), np.array([[np.nan, 10.0, 20], [0, 60, 10]])
    ds = xr.Dataset(
        {"t": (("time", "y", "x"), np.zeros((3, 2, 3)))},
        {
            "time": np.arange(3),
            "nav_lat": (("y", "x"), lat, {"units": "degrees_north"}),
            "nav_lon": (("y", "x"), lon, {"units": "degrees_east"}),
        },
    )
    return FieldSpec("t", "t").bind(ds.assign(wet=ds.nav_lat.notnull()))


@pytest.mark.parametrize("point, at", [((1, 12), 1), ((80, 5), 3), ((82.5, 60), 4), ((81, 21), 5)])
def test_the_nearest_cell_of_a_curvilinear_grid_has_coordinates_and_is_near_on_the_globe(point, at):
    lat, lon = point
    weights = bind(cell(lat=lat, lon=lon), curvilinear()).weights
    np.testing.assert_array_equal(np.flatnonzero(weights), [at])


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
        (cell("tracer"), ValueError, r"is no point.*along 'lat', 'lon'.*Received: none.*box_mean"),
        (cell("tracer", lat=15), ValueError, r"is no point.*anywhere along 'lon'.*Received: lat=15"),
        (field("tracer", offset=4), ValueError, "target fits 0 output channels"),
        (3.0, TypeError, "target is no target"),
        (lambda o: o.tracer.mean(), ValueError, "the target function returned another shape"),
        (lambda o: o.tracer.where(o.lat > 99), ValueError, "the target function returned no valid cell"),
    ],
)
def test_bad_targets_say_what_is_wrong(layout, target, error, text):
    with pytest.raises(error, match=text):
        bind(target, layout)


def apply(weights, out):
    return out.reshape(len(out), -1).astype("float64") @ weights


@pytest.mark.parametrize("target", [area_mean(), box_mean(lat=slice(-45, 0), lon=slice(60, 180)), cell(lat=45, lon=0)])
def test_the_weights_of_a_linear_target_are_the_target(layout, target):
    measure, out = bind(target, layout), outputs(layout)
    np.testing.assert_allclose(apply(measure.weights, out), measure.reduce(out)[:, 0], rtol=1e-12)
    np.testing.assert_allclose(measure.weights.sum(), 1, rtol=1e-14)
    assert (
        bind(field(), layout).weights is None and bind(lambda o: o.tracer.mean(("lat", "lon")), layout).weights is None
    )


def test_targets_add_up(ds, layout):
    out = outputs(layout)
    west, east = box_mean("tracer", lon=slice(0, 120)), box_mean("tracer", lon=slice(180, 300))
    value = lambda t: bind(t, layout).reduce(out)[:, 0]  # noqa: E731
    dipole = bind(east - west, layout)
    np.testing.assert_allclose(dipole.reduce(out)[:, 0], value(east) - value(west), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(apply(dipole.weights, out), value(east - west), rtol=1e-12, atol=1e-14)
    label = "mean of tracer over 180° to 60°W, one month ahead, minus mean of tracer over 0° to 120°E, one month ahead"
    assert (dipole.label, dipole.units, dipole.offset, dipole.dims) == (label, "kg m-3", 1, ())
    mean = (east + 2 * west) / 4
    np.testing.assert_allclose(value(mean), value(east) / 4 + value(west) / 2, rtol=1e-12)
    np.testing.assert_allclose(value(sum([east, -west])), value(east - west), rtol=1e-12)
    with pytest.raises(ValueError, match=r"target 'tracer, one month ahead' cannot be added to others.*lambda ds"):
        bind(field("tracer") - east, layout)
    with pytest.raises(TypeError, match="unsupported operand"):
        east + 1
    with pytest.raises(TypeError, match="unsupported operand"):
        east * west


def test_a_sum_over_levels_weighs_each_by_its_thickness():
    ds = xr.Dataset({"t": (("time", "lev", "x"), np.zeros((6, 3, 4)))}, {"time": np.arange(6), "lev": [5, 20, 50]})
    layout = FieldSpec("t", "t", levels="lev").bind(ds)
    out = outputs(layout)
    content = sum(dz * area_mean("t", lev=z) for z, dz in {5: 10.0, 20: 20.0, 50: 40.0}.items())
    np.testing.assert_allclose(bind(content, layout).reduce(out)[:, 0], out.mean(1) @ [10, 20, 40], rtol=1e-6)
    with pytest.raises(ValueError, match=r"fits 3 output channels.*can be added"):
        bind(area_mean("t"), layout)


def test_functions_may_return_a_part_of_the_grid_or_turn_it(ds, layout):
    out = outputs(layout)
    north = bind(lambda o: o.tracer.sel(lat=slice(0, 90)), layout)
    assert north.dims == ("lat", "lon") and north.valid.shape == (2, 6)
    np.testing.assert_array_equal(north.coords["lat"], [15, 45])
    np.testing.assert_array_equal(north.reduce(out), out[:, 2:, :, 0][:, ds.wet[2:].values])
    turned = bind(lambda o: o.tracer.isel(lat=slice(None, None, -1)), layout)
    np.testing.assert_array_equal(turned.valid, ds.wet[::-1])
    np.testing.assert_array_equal(turned.reduce(out), out[:, ::-1, :, 0][:, ds.wet[::-1].values])
    filled = bind(lambda o: o.tracer.fillna(0), layout)
    np.testing.assert_array_equal(filled.valid, ds.wet)


def test_numbers_are_known_by_name():
    table = Table(("nino34", "iod"), "time", ("K", "K"), (3, 3))
    out = np.array([[1.0, 2.0], [3.0, 5.0]], "float32")
    one = bind("iod", table)
    assert (one.label, one.units, one.offset, one.weights.tolist()) == ("iod", "K", 3, [0, 1])
    np.testing.assert_array_equal(one.reduce(out), [[2], [5]])
    every = bind(None, table)
    assert every.dims == ("output",) and every.coords["output"][1] == ["nino34", "iod"]
    gap = bind(field("nino34") - field("iod"), table)
    np.testing.assert_array_equal(gap.reduce(out), [[-1], [-2]])
    assert (gap.label, gap.units, gap.weights.tolist()) == ("nino34 - iod", "K", [1, -1])
    ratio = bind(lambda d: d.nino34 / d.iod, table)
    np.testing.assert_allclose(ratio.reduce(out), [[0.5], [0.6]], rtol=1e-6)
    with pytest.raises(KeyError, match="unknown output 'nino3'; did you mean 'nino34'"):
        bind("nino3", table)
    with pytest.raises(TypeError, match=r"'mean of the output over 0° to 9°N' needs fields.*nino34, iod"):
        bind(box_mean(lat=slice(0, 9)), table)


def test_other_channels_on_the_grid_have_names(layout):
    classes = channels_named(layout, ["dry", "wet"])
    out = np.random.default_rng(0).random((2, 4, 6, 2))
    labelled = classes.label(out)
    assert list(labelled) == ["dry", "wet"] and labelled.wet.dims == ("time", "lat", "lon")
    np.testing.assert_allclose(bind(cell("wet", lat=45, lon=0), classes).reduce(out)[:, 0], out[:, 3, 0, 1])
    assert isinstance(outputs_of((4, 6, 2), layout, ["dry", "wet"]), Fields)
    with pytest.raises(ValueError, match=r"outputs do not fit the model.*Expected: 3 names.*Received: 2"):
        outputs_of((4, 6, 3), layout, ["dry", "wet"])


def test_targets_are_told_in_plain_words():
    month, days = TimeStep("month", 3), TimeStep("duration", 5 * 86400e9)
    assert words.ahead(2, month) == ", 6 months ahead" and words.ahead(-1, days) == ", 5 days before"
    assert words.ahead(1, TimeStep("duration", 3600e9)) == ", one hour ahead"
    assert words.ahead(2, TimeStep("number", 0.1)) == ", 2 steps ahead"
    assert str(box_mean("t", lat=slice(None, -3), lon=slice(-50.90625, 40.0), lev=500)) == (
        "mean of t over latitudes up to 3°S, 50.91°W to 40°E, lev 500"
    )
    assert str(box_mean("t", lon=slice(0, 360))) == "mean of t over all longitudes"
    assert str(cell("t", lat=0.5, lon=330)) == "t at 0.5°N, 30°W"
