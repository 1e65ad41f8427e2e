"""A model trains, is saved and predicts in the units of any scaling, by month too; its loss is that of scaled values."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr

import physml
from physml import Batches, FieldModel, FieldSpec, NonNegative, Scaling, networks

METHOD = {"rain": "log:1e-6", "temp": "robust", "snow": "sqrt"}


def climate(n=48):
    """Return rain, snow [kg m-2 s-1] and temperature of four years of months, with land."""
    rng = np.random.default_rng(0)
    wet = rng.random((3, 5)) < 0.8
    season = np.cos(2 * np.pi * np.arange(n) / 12)[:, None, None]
    ds = xr.Dataset(
        {
            "rain": (("time", "y", "x"), rng.gamma(0.5, 1e-4 * (1.5 + season), (n, 3, 5))),
            "snow": (("time", "y", "x"), rng.gamma(0.5, 1e-5, (n, 3, 5)) - 1e-6),
            "temp": (("time", "y", "x"), 280 + (5 + 3 * season) * rng.normal(size=(n, 3, 5))),
        },
        {"time": xr.date_range("2000-01-01", periods=n, freq="MS")},
    ).where(xr.DataArray(wet, dims=("y", "x")))
    return ds.assign(wet=(("y", "x"), wet))


def make(by=None, increment=False, method=METHOD, **options):
    names = ["rain", "temp", "snow"]
    spec = FieldSpec([*names, "time.month"], names, target_offsets=1, mask="wet")
    scaling = Scaling.fit(climate(), spec, method=method, by=by)
    model = FieldModel(networks.mlp(scaling.layout, hidden=(4,)), scaling=scaling, increment=increment, **options)
    rng = np.random.default_rng(1)
    for variable in model.network.layers[-1].trainable_variables:
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


@pytest.mark.parametrize(
    ("by", "increment"),
    [
        ("month", True),
        *[pytest.param(*a, marks=pytest.mark.long) for a in ((None, False), (None, True), ("month", False))],
    ],
)
def test_one_file_holds_the_scaling(by, increment, tmp_path):
    ds, model = climate(), make(by, increment, constraints=[NonNegative("rain")])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    losses = model.fit(Batches(ds, model.layout, 16), epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    again = physml.load(tmp_path / "model.keras")
    assert again.scaling.methods == model.scaling.methods
    assert again.scaling.period == ("2000-01-01T00:00:00", "2003-12-01T00:00:00")
    expected, found = physml.predict(model, ds), physml.predict(again, ds)
    for name in ("rain", "temp", "snow"):
        np.testing.assert_array_equal(found[name], expected[name])
        assert (found[name].notnull() == ds.wet).all()
    batch = Batches(ds, model.layout, 16)[0]
    losses = [m.evaluate(*batch[:2], sample_weight=batch[2], verbose=0) for m in (model, again)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("by", [None, "month"])
def test_the_loss_is_that_of_transformed_values_in_the_units_of_their_month(by):
    ds, model = climate(), make(by)
    model.compile(loss="mse")
    x, y, w = Batches(ds, model.layout, 47)[0]
    found = model.evaluate(x, y, sample_weight=w, verbose=0)
    out = model.predict_on_batch(x).astype("float64")
    error = [
        np.log1p(y[..., 0] / 1e-6) - np.log1p(out[..., 0] / 1e-6),
        y[..., 1] - out[..., 1],
        np.sign(y[..., 2]) * np.sqrt(abs(y[..., 2])) - np.sign(out[..., 2]) * np.sqrt(abs(out[..., 2])),
    ]
    month = ds.time.dt.month.values[:-1]
    scale = model.scaling.table("std", "targets")[month - 1][:, None, None, :]
    squares = (np.stack(error, axis=-1) / scale) ** 2
    np.testing.assert_allclose(found, squares[:, ds.wet.values].mean(), rtol=1e-3)


def test_a_silent_network_by_month_is_the_climatology():
    model = make("month", method="standard")
    for variable in model.network.layers[-1].trainable_variables:
        variable.assign(np.zeros(variable.shape))
    out = physml.predict(model, climate())
    at = model.layout.where("targets", "temp")
    table = model.scaling.table("mean", "targets")[:, at][:, 0]
    expected = table[climate().time.dt.month.values - 1]
    np.testing.assert_allclose(out.temp.mean(("y", "x")), expected, rtol=1e-6)


def test_garbage_on_land_does_not_change_the_month():
    ds, model = climate(), make("month")
    model.compile(loss="mse")
    x, y, w = Batches(ds, model.layout, 20)[0]
    bad = x.copy()
    bad[:, ~ds.wet.values] = np.nan
    assert model.evaluate(bad, y, sample_weight=w, verbose=0) == model.evaluate(x, y, sample_weight=w, verbose=0)
    bad[:, ~ds.wet.values] = 1e30
    np.testing.assert_array_equal(model.predict_on_batch(bad), model.predict_on_batch(x))


@pytest.mark.parametrize("by", [None, "month"])
def test_a_rollout_of_logarithms_stays_positive(by):
    model = make(by, increment=True, method={"rain": "log", "snow": "sqrt"})
    out = physml.rollout(model, climate().isel(time=[5]), 5)
    assert (out.rain.where(out.rain.notnull(), 1) > 0).all()
    assert np.isfinite(out.temp.where(climate().wet, 0)).all()


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no float64 unless the process says so")
def test_a_model_in_float64_brings_everything_back():
    ds = climate().fillna(0.5)
    spec = FieldSpec(["rain", "snow"], ["rain", "snow"])
    scaling = Scaling.fit(ds, spec, method={"rain": "log:1e-6", "snow": "sqrt"})
    same = keras.layers.Lambda(lambda z: z, dtype="float64")
    model = FieldModel(same, scaling=scaling, dtype="float64")
    xr.testing.assert_allclose(physml.predict(model, ds)[["rain", "snow"]], ds[["rain", "snow"]], rtol=1e-9)


def test_samples_without_space_are_samples_of_a_column_model():
    a, b = np.random.default_rng(0).normal(size=(2, 40)).astype("float32")
    ds = xr.Dataset({n: ("case", v) for n, v in {"a": a, "sum": a + b, "rest": a - b}.items()}, {"case": np.arange(40)})
    spec = FieldSpec("a", ["sum", "rest"], sample_dim="case")
    scaling = Scaling.fit(ds, spec)
    law = physml.Closure(0.0, sources=("sum", "rest"), sinks={"a": 2.0})
    model = FieldModel(networks.mlp(scaling.layout), scaling=scaling, constraints=law)
    model.compile("sgd", "mse")
    model.fit(Batches(ds, spec, 8), verbose=0)
    out = physml.predict(model, ds)
    np.testing.assert_allclose(out["sum"] + out["rest"], 2 * a, atol=1e-6)
