"""Laws on Datasets: any model's output is corrected with its labels untouched, lazily; data are checked before training."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from physml import Conserve, Constraints, FieldSpec, NonNegative

GLOBAL = Constraints(
    [NonNegative("tracer"), Conserve("tracer", ("lat", "lon"), weights="cell_volume", sources="source")]
)
ROLES = {"members": "run", "mask": "wet"}


@pytest.fixture
def steps(gyre):
    """Return states with sources, and the output of a poor model one day later."""
    rng = np.random.default_rng(0)
    inputs, after = gyre.isel(time=slice(0, 5)), gyre[["tracer", "u", "wet", "cell_volume"]].isel(time=slice(1, 6))
    noise = 0.05 * rng.normal(size=after.tracer.shape).astype("float32")
    outputs = after.assign(tracer=(after.tracer + noise).assign_attrs(after.tracer.attrs))
    return inputs, outputs.assign_attrs(title="a poor model")


def totals(ds, field="tracer"):
    return (ds[field].astype("float64") * ds.cell_volume).sum(["lat", "lon"]).values


def test_output_is_moved_onto_the_laws_and_nothing_else_is_touched(steps):
    inputs, outputs = steps
    moved = GLOBAL.apply(outputs, inputs, **ROLES)
    np.testing.assert_allclose(totals(moved), totals(inputs) + 86400 * totals(inputs, "source"), rtol=1e-7)
    assert moved.tracer.min() >= 0
    assert moved.tracer.isnull().equals(outputs.tracer.isnull())
    xr.testing.assert_identical(moved.drop_vars("tracer"), outputs.drop_vars("tracer"))
    assert moved.tracer.attrs == outputs.tracer.attrs
    assert moved.tracer.dims == outputs.tracer.dims
    assert moved.tracer.dtype == outputs.tracer.dtype
    again = GLOBAL.apply(moved, inputs, **ROLES)
    np.testing.assert_allclose(again.tracer, moved.tracer, rtol=0, atol=1e-6)


def test_lazy_output_is_moved_lazily_to_the_same(steps, nothing_computed):
    inputs, outputs = steps
    lazy_in, lazy_out = inputs.chunk(time=2, run=1), outputs.chunk(time=3, lat=5)
    static = lazy_in.assign(wet=inputs.wet, cell_volume=inputs.cell_volume)
    with nothing_computed():
        moved = GLOBAL.apply(lazy_out.assign(wet=inputs.wet), static, **ROLES)
    expected = GLOBAL.apply(outputs, inputs, **ROLES)
    np.testing.assert_allclose(moved.tracer.compute(), expected.tracer, rtol=0, atol=1e-6)


def test_double_precision_stays_double(steps):
    inputs, outputs = steps
    inputs, outputs = (
        inputs.astype("float64").assign(wet=inputs.wet),
        outputs.assign(tracer=outputs.tracer.astype("float64")),
    )
    moved = GLOBAL.apply(outputs, inputs, **ROLES)
    assert moved.tracer.dtype == "float64"
    np.testing.assert_allclose(totals(moved), totals(inputs) + 86400 * totals(inputs, "source"), rtol=1e-14)


def test_sources_count_over_the_time_between_the_labels(steps):
    inputs, outputs = (ds.isel(time=[0, 2, 4]) for ds in steps)  # forecasts of one day, begun every other day
    moved = GLOBAL.apply(outputs, inputs, **ROLES)
    np.testing.assert_allclose(totals(moved), totals(inputs) + 86400 * totals(inputs, "source"), rtol=1e-7)


def test_one_field_without_time_is_one_sample(steps):
    inputs, outputs = (ds.isel(time=2) for ds in steps)
    moved = GLOBAL.apply(outputs, inputs, **ROLES)
    np.testing.assert_allclose(totals(moved), totals(inputs) + 86400 * totals(inputs, "source"), rtol=1e-7)
    assert moved.tracer.dims == outputs.tracer.dims
    assert moved.time == outputs.time


def test_laws_on_levels_and_zonal_bands(sst):
    sst["temp"] = sst.temp + 20
    after = sst.assign(temp=sst.temp + np.random.default_rng(0).normal(size=sst.temp.shape).astype("float32"))
    laws = Constraints([Conserve("temp", ("depth", "lon"), weights="area"), NonNegative("temp")])
    moved = laws.apply(after, sst, levels="depth", mask="wet")
    before, now = ((ds.temp.astype("float64") * ds.area).sum(["depth", "lon"]) for ds in (sst, moved))
    np.testing.assert_allclose(now, before, rtol=2e-7)
    assert moved.temp.dims == ("time", "depth", "lat", "lon")


def test_data_that_close_pass_the_check_and_others_do_not(gyre, nothing_computed):
    spec = FieldSpec(["tracer", "source"], "tracer", target_offsets=1, members="run", mask="wet")
    with nothing_computed():
        lazy = GLOBAL.check(gyre.chunk(time=3).assign(wet=gyre.wet, cell_volume=gyre.cell_volume), spec)
    found = lazy.compute()
    assert found.conserve_tracer.dims == ("run", "time")
    assert found.conserve_tracer.max() < 2e-7
    assert (found.nonnegative_tracer == 0).all()
    assert found.conserve_tracer.attrs["units"] == "1"
    assert found.nonnegative_tracer.attrs["units"] == "kg m-3"
    xr.testing.assert_equal(found.time, gyre.time[:-1])
    leaky = gyre.assign(
        tracer=(gyre.tracer * 0.999 ** xr.DataArray(np.arange(9), dims="time")).assign_attrs(units="kg m-3")
    )
    np.testing.assert_allclose(GLOBAL.check(leaky, spec).conserve_tracer, 1e-3, rtol=0.2)


def test_the_check_of_double_precision_data_sees_double_precision():
    x = np.random.default_rng(0).random((6, 50))
    x = x / x.sum(-1, keepdims=True)
    ds = xr.Dataset({"x": (("time", "i"), x)}, {"time": np.arange(6)})
    found = Constraints(Conserve("x", "i")).check(ds, FieldSpec("x", "x", target_offsets=1))
    assert found.conserve_x.max() < 1e-15


def test_the_report_tells_before_after_and_what_moved(steps):
    inputs, outputs = steps
    found = GLOBAL.report(outputs, inputs, **ROLES)
    assert (found.conserve_tracer_before > 1e-4).any()
    assert found.conserve_tracer_after.max() < 2e-7
    assert (found.nonnegative_tracer_after == 0).all()
    moved = GLOBAL.apply(outputs, inputs, **ROLES)
    rms = (((moved.tracer.astype("float64") - outputs.tracer) ** 2).mean(["lat", "lon"])) ** 0.5
    np.testing.assert_allclose(found.moved_tracer, rms, rtol=1e-12)
    assert found.moved_tracer.attrs["units"] == "kg m-3"


def test_the_accessor_delegates(steps):
    inputs, outputs = steps
    xr.testing.assert_identical(
        outputs.physml.constrain(list(GLOBAL), inputs, **ROLES), GLOBAL.apply(outputs, inputs, **ROLES)
    )


def test_positivity_alone_needs_no_inputs_and_no_time():
    ds = xr.Dataset({"c": ("x", [-1.0, 2.0]), "n": ("x", [-3, 4])})
    moved = Constraints([NonNegative("c"), NonNegative("n")]).apply(ds)
    assert moved.c.values.tolist() == [0.0, 2.0]
    assert moved.n.values.tolist() == [0, 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i, o: (o, None, ROLES), r"follow from inputs \(tracer, source\) that were not given.*pass inputs"),
        (lambda i, o: (o, i.isel(time=slice(0, 4)), ROLES), r"differ in length along 'time'. Expected: 5.*Received: 4"),
        (lambda i, o: (o.drop_vars("tracer"), i, ROLES), r"'tracer' is not in the Dataset"),
        (lambda i, o: (o, i.drop_vars("source"), ROLES), r"'source' is not in the Dataset"),
        (lambda i, o: (o, i, {"members": "run"}), r"'tracer' is missing on valid cells.*there is no mask"),
        (lambda i, o: (o, i.assign(source=(-1 * i.source - 1e-3).assign_attrs(i.source.attrs)), ROLES), r"conserve_tracer cannot be satisfied.*in 15 of 15 samples"),
        (lambda i, o: (o.assign(tracer=o.tracer.assign_attrs(units="g m-3")), i, ROLES), r"has other units than before. Expected: 'kg m-3'. Received: 'g m-3'"),
        (lambda i, o: (o.isel(lat=slice(None, None, -1)), i, ROLES), r"coordinate 'lat' is not the one.*isel\(lat=slice"),
    ],
)  # fmt: skip
def test_what_cannot_be_corrected_is_refused(steps, change, words):
    outputs, inputs, roles = change(*steps)
    with pytest.raises((ValueError, KeyError), match=words):
        GLOBAL.apply(outputs, inputs, **roles)
