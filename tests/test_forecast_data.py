"""Forecasts of awkward data: chosen dates, ragged blocks, forcing of another grid, threads, and graphs that travel."""

from __future__ import annotations

import threading

import cloudpickle
import dask
import keras
import numpy as np
import pytest
import xarray as xr

import physml
from physml import Conserve, FieldModel, FieldSpec, NonNegative, Scaling
from physml.forecast import Predictor

SPEC = FieldSpec(["x", "f", "h"], "x", target_offsets=1, members="run", mask="wet")


def data(n=12, time=None, runs=3):
    """Return a state, a forcing and a static field on 2 x 5 cells, one of them land."""
    rng = np.random.default_rng(0)
    time = xr.date_range("2000-01-01", periods=n) if time is None else time
    ds = xr.Dataset(
        {
            "x": (("run", "time", "lat", "lon"), rng.random((runs, n, 2, 5)), {"units": "K", "long_name": "state"}),
            "f": (("time", "lat", "lon"), rng.random((n, 2, 5)).astype("float32"), {"units": "W m-2"}),
            "h": (("lat", "lon"), rng.random((2, 5)), {"units": "m"}),
            "wet": (("lat", "lon"), np.arange(10).reshape(2, 5) != 3),
        },
        {"time": time, "run": np.arange(runs), "lat": [0.0, 1.0], "lon": np.arange(5.0)},
        {"title": "some data", "institution": "here"},
    )
    return ds.assign(x=ds.x.where(ds.wet))


def linear(ds, spec, weights, **options):
    """Return a model whose network is one known matrix."""
    scaling = Scaling.fit(ds, spec)
    network = keras.Sequential(
        [keras.Input((*scaling.layout.shape, len(weights))), keras.layers.Dense(np.shape(weights)[1])]
    )
    network.layers[0].set_weights([np.asarray(weights, "float32"), np.zeros(np.shape(weights)[1], "float32")])
    return FieldModel(network, scaling=scaling, **options)


@pytest.fixture(scope="module")
def ds():
    return data()


@pytest.fixture(scope="module")
def model(ds):
    laws = [NonNegative("x"), Conserve("x", ("lat", "lon"))]
    return linear(ds, SPEC, [[0.5], [0.2], [-0.3]], increment=True, constraints=laws)


def rows_of(monkeypatch):
    """Record how many rows the network is given at a time."""
    rows = []
    given = Predictor._compile

    def counted(self, shape):
        run = given(self, shape)

        def count(x, valid):
            rows.append(len(x))
            return run(x, valid)

        return count

    monkeypatch.setattr(Predictor, "_compile", counted)
    return rows


def test_labels_and_attributes_survive_and_type_and_order_are_those_of_the_data(ds, model):
    out = physml.predict(model, ds)
    assert out.attrs["title"] == "some data"
    assert out.attrs["institution"] == "here"
    assert out.x.dtype == "float64"
    assert out.x.dims == ("run", "time", "lat", "lon")
    assert out.x.attrs == ds.x.attrs
    rolled = physml.rollout(model, ds.isel(time=[0]), 2, ds)
    assert rolled.attrs["institution"] == "here"
    assert rolled.x.attrs == ds.x.attrs


def test_forecasts_start_where_they_are_asked_to(ds, model):
    whole = physml.predict(model, ds)
    for chosen in ([3], [0, 7], [1, 2, 9], slice(0, None, 4)):
        some = physml.predict(model, ds.isel(time=chosen))
        xr.testing.assert_allclose(some, whole.isel(time=chosen), atol=1e-6)
        np.testing.assert_array_equal(some.time, ds.time[chosen] + np.timedelta64(1, "D"))


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
@pytest.mark.parametrize("freq", ["MS", "ME", "6h"])
def test_leads_are_dated_in_every_calendar(calendar, freq):
    time = xr.date_range("2000-01-30", periods=14, freq=freq, calendar=calendar)
    ds = data(14, time)
    model = linear(
        ds, FieldSpec("x", "x", target_offsets=(1, 3, 6), members="run", mask="wet"), [[1.0, 1, 1]], increment=True
    )
    out = physml.predict(model, ds.isel(time=slice(0, 8)))
    assert out.x.dims == ("run", "time", "lead", "lat", "lon")
    for lead in (1, 3, 6):
        np.testing.assert_array_equal(out.valid_time.sel(lead=lead), time[lead : lead + 8])
    assert out.lead.attrs["long_name"] == "steps after time"


@pytest.mark.parametrize("chunks", [{"time": 1}, {"time": (5, 1, 4, 2)}, {"time": 4, "run": 2}, {"lat": 1, "lon": 2}])
def test_windows_over_the_borders_of_blocks(ds, chunks, nothing_computed):
    spec = FieldSpec(
        ["x", "f"], "x", input_offsets={"x": (-2, 0), "f": (-1, 0, 1)}, target_offsets=(1, 2), members="run", mask="wet"
    )
    weights = np.random.default_rng(1).normal(size=(5, 2))
    model = linear(ds, spec, weights, increment=True)
    eager = physml.predict(model, ds)
    assert eager.sizes["time"] == 9
    with nothing_computed():
        lazy = physml.predict(model, ds.chunk(chunks), batch_size=4)
    xr.testing.assert_allclose(lazy.compute(), eager, atol=1e-6)


def test_small_blocks_are_not_blown_up(ds, model, monkeypatch):
    rows = rows_of(monkeypatch)
    physml.predict(model, ds.chunk(time=1, run=1)).compute(scheduler="synchronous")
    assert rows == [1] * 36
    rows.clear()
    physml.predict(model, ds, batch_size=32)
    assert rows == [19, 19]  # two halves, and a row to spare
    rows.clear()
    physml.rollout(model, ds.isel(time=[0], run=[1]), 4, ds.isel(run=[1]))
    assert rows == [1] * 4


def test_a_graph_travels_to_other_processes(ds, model):
    lazy = physml.predict(model, ds.chunk(time=5))
    rolled = physml.rollout(model, ds.isel(time=[0]).chunk(run=2), 3, ds.chunk(time=5))
    for made in (lazy, rolled):
        again = cloudpickle.loads(cloudpickle.dumps(made))  # as dask.distributed does
        xr.testing.assert_allclose(again.compute(scheduler="threads"), made.compute(scheduler="threads"), atol=1e-6)


def test_two_models_in_many_threads_do_not_disturb_each_other(ds, model):
    other = linear(ds, SPEC, [[-0.5], [0.1], [0.3]], increment=True)
    wanted = [physml.predict(m, ds) for m in (model, other)]
    lazy = [physml.predict(m, ds.chunk(time=1), batch_size=2) for m in (model, other)]
    with dask.config.set(scheduler="threads", num_workers=8):
        found = dask.compute(*lazy)
    for a, b in zip(found, wanted, strict=True):
        xr.testing.assert_allclose(a, b, atol=1e-6)
    x = np.nan_to_num(model.layout.pack(ds.isel(run=0), "inputs").values)
    predictor, results = Predictor(model, 5), []
    threads = [threading.Thread(target=lambda: results.append(predictor(x))) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all((r == results[0]).all() for r in results)


@pytest.mark.parametrize("where", ["initial", "forcing", "scalar"])
def test_static_inputs_may_come_with_either(ds, model, where):
    initial = ds[["x", "h"] if where != "forcing" else ["x"]].isel(time=0 if where == "scalar" else [0])
    forcing = ds[["f", "h"] if where == "forcing" else ["f"]]
    out = physml.rollout(model, initial, 3, forcing)
    xr.testing.assert_allclose(out.x, physml.rollout(model, ds.isel(time=[0]), 3, ds).x)


def test_a_rollout_with_a_stride_takes_the_forcing_of_its_dates(ds):
    spec = FieldSpec(["x", "f"], "x", target_offsets=3, members="run", mask="wet")
    model = linear(ds, spec, [[0.1], [1.0]], increment=True)
    out = physml.rollout(model, ds.isel(time=[1]), 3, ds)
    np.testing.assert_array_equal(out.time, ds.time[[4, 7, 10]])
    state = ds.isel(time=[1])
    for i, t in enumerate((1, 4, 7)):
        now = ds.isel(time=[t]).assign(x=state.x.assign_coords(time=ds.time[[t]]))
        state = physml.predict(model, now)
        np.testing.assert_allclose(out.x[:, i], state.x[:, 0], atol=1e-6)


def test_forcing_is_found_on_axes_of_numbers_in_spite_of_rounding(ds):
    numbers = ds.assign_coords(time=np.arange(12) * 0.1)
    model = linear(numbers, SPEC, [[0.5], [0.2], [-0.3]], increment=True)
    rounded = ds.assign_coords(time=np.round(np.arange(12) * 0.1, 1))
    out = physml.rollout(model, rounded.isel(time=[0]), 9, rounded)
    np.testing.assert_allclose(out.time, np.arange(1, 10) * 0.1)


def test_data_without_time_labels_are_counted(ds, model):
    bare = ds.drop_vars("time")
    model = linear(bare, SPEC, [[0.5], [0.2], [-0.3]], increment=True)
    out = physml.rollout(model, bare.isel(time=[0]), 3, bare)
    assert "time" not in out.coords
    np.testing.assert_allclose(out.x[:, 0], physml.predict(model, bare).x[:, 0], atol=1e-6)


def test_a_single_run_is_a_member_less(ds, model):
    one = ds.isel(run=1)
    xr.testing.assert_allclose(physml.predict(model, one).x, physml.predict(model, ds).x.isel(run=1), atol=1e-6)
    rolled = physml.rollout(model, one.isel(time=[0]), 2, one)
    assert rolled.x.dims == ("time", "lat", "lon")
    assert rolled.run == 1


def test_a_mask_with_levels_masks_the_forecast_level_by_level(sst):
    sst["wet3"] = sst.wet & ((sst.depth < 10) | (sst.lat > 0))
    sst["temp"] = sst.temp.where(sst.wet3)
    model = linear(sst, FieldSpec("temp", "temp", target_offsets=1, levels="depth", mask="wet3"), np.eye(2))
    out = physml.predict(model, sst)
    assert (out.temp.isnull() == ~sst.wet3).all()
    assert out.temp.dims == sst.temp.dims


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ds: {"forcing": ds.assign(f=ds.f.assign_attrs(units="K"))}, r"forcing 'f' has other units than before. Expected: 'W m-2'. Received: 'K'"),
        (lambda ds: {"forcing": ds.isel(lat=slice(None, None, -1))}, r"'lat' is not the one.*it runs the other way"),
        (lambda ds: {"forcing": ds.isel(lon=slice(0, 4))}, r"forcing 'f' lies on another grid. Expected: \{'lon': 5\}"),
        (lambda ds: {"initial": ds.isel(time=[0], run=[0, 1]), "forcing": ds.assign(f=ds.f * ds.run).isel(run=[1, 2])}, r"other members along 'run'.*\[0, 1\]. Received: \[1, 2\]"),
        (lambda ds: {"forcing": ds.isel(time=[0, 2, 1])}, r"forcing 'f': the coordinate 'time' is not strictly increasing"),
        (lambda ds: {"forcing": ds.drop_vars("h"), "initial": ds[["x"]].isel(time=[0])}, r"the input 'h' is no target and has to be given. Expected: forcing=Dataset with 'h'\. Received: x, f, wet"),
        (lambda ds: {"initial": ds.drop_vars("x").isel(time=[0])}, r"initial state 'x' is not in the Dataset"),
        (lambda ds: {"steps": 0}, r"rollout: no steps. Expected: steps >= 1"),
        (lambda ds: {"batch_size": 0}, r"batch_size is not positive"),
    ],
)  # fmt: skip
def test_roll_outs_from_data_that_do_not_fit_are_refused(ds, model, change, words):
    options = {"initial": ds.isel(time=[0]), "steps": 3, "forcing": ds} | change(ds)
    with pytest.raises((ValueError, KeyError), match=words):
        physml.rollout(model, **options)


def test_past_states_must_follow_each_other(ds):
    spec = FieldSpec("x", "x", input_offsets=(-1, 0), target_offsets=1, members="run", mask="wet")
    model = linear(ds, spec, [[0.5], [0.2]])
    with pytest.raises(ValueError, match=r"the initial state: the step of 'time' is not the one.*Received: 3 days"):
        physml.rollout(model, ds.isel(time=[0, 3]), 2)
