"""Laws that are not linear: kinetic energy and other sums of functions, and bounds on relative humidity, joined with linear laws."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import xarray as xr
from keras import ops

import physml
from physml import (
    Budget,
    Constraints,
    FieldModel,
    FieldSpec,
    KineticEnergy,
    Nonlinear,
    NonNegative,
    RelativeHumidity,
    Scaling,
    _backend,
)
from physml.constraints.nonlinear import saturation_humidity

N, LAT, LON = 4, 3, 5
JAX = keras.backend.backend() == "jax"


@keras.saving.register_keras_serializable(package="tests")
def cubic(a, b):
    return a**3 + 2 * a + ops.exp(0.3 * b)


@pytest.fixture
def flow():
    rng = np.random.default_rng(0)

    def maps(units, low=-1.0, high=1.0):
        return ("time", "lat", "lon"), rng.uniform(low, high, (N, LAT, LON)), {"units": units}

    ds = xr.Dataset(
        {
            "u": maps("m s-1"),
            "v": maps("m s-1"),
            "q": maps("kg kg-1", -0.005, 0.03),
            "t": maps("degC", 0.0, 30.0),
            "p": maps("hPa", 900.0, 1010.0),
        },
        {"time": np.arange(N), "lat": np.arange(LAT), "lon": np.arange(LON)},
    )
    ds["volume"] = (("lat", "lon"), rng.uniform(1, 2, (LAT, LON)), {"units": "m3"})
    wet = np.ones((LAT, LON), bool)
    wet[0, 1] = False
    return ds.assign(wet=(("lat", "lon"), wet))


def bound(ds, laws, inputs, targets, **options):
    laws = Constraints(laws, **options)
    return laws, laws.bind(FieldSpec(inputs, targets, mask="wet").bind(ds))


def tensors(layout, ds, noise=0.3, seed=1):
    rng = np.random.default_rng(seed)
    y = layout.pack(ds, "targets").fillna(0).values
    y = y * (1 + noise * rng.normal(size=y.shape)) * layout.valid("targets")
    return layout.split(y, "targets"), layout.split(layout.pack(ds, "inputs").fillna(0).values, "inputs")


def project(laws, layout, y, x):
    with _backend.float64():
        parts = [{n: ops.convert_to_tensor(v) for n, v in part.items()} for part in (y, x)]
        moved = laws.project(*parts, layout)
        found = laws.residuals(moved, parts[1], layout)
        return {n: np.asarray(v) for n, v in moved.items()}, {n: np.abs(np.asarray(v)).max() for n, v in found.items()}


def test_kinetic_energy_is_kept_at_the_nearest_flow(flow):
    laws, layout = bound(
        flow,
        [KineticEnergy(("u", "v"), ("lat", "lon"), "volume")],
        ["u", "v"],
        ["u", "v"],
        metric=dict.fromkeys("uv", "volume"),
    )
    y, x = tensors(layout, flow)
    moved, left = project(laws, layout, y, x)
    assert left["kineticenergy_kinetic_energy"] < 1e-12
    weight = np.where(flow.wet, flow.volume, 0)[None, ..., None]
    energy = [0.5 * (weight * (f["u"] ** 2 + f["v"] ** 2)).sum((1, 2, 3), keepdims=True) for f in (x, y)]
    for n in ("u", "v"):  # on a sphere the nearest point lies on the ray
        np.testing.assert_allclose(moved[n], y[n] * np.sqrt(energy[0] / energy[1]), rtol=0, atol=1e-10)


@pytest.mark.long
def test_any_function_may_be_kept_together_with_linear_laws_and_bounds(flow):
    laws, layout = bound(
        flow,
        [
            Nonlinear(cubic, ("u", "v"), equals="start", over="lon", weights="volume"),
            Budget(["u", "v"], ("lat", "lon"), "volume", equals=1.0),
            NonNegative("v"),
        ],
        ["u", "v"],
        ["u", "v"],
    )
    y, x = tensors(layout, flow, noise=0.1)
    moved, left = project(laws, layout, y, x)
    assert left["budget_u_v"] < 1e-12 and moved["v"].min() >= 0
    assert left["nonlinear_cubic"] < 1e-6, left
    many = Constraints(
        [Nonlinear(cubic, ("u", "v"), equals="start", over="lon", weights="volume", passes=8), *list(laws)[1:]]
    )
    assert project(many, many.bind(layout), y, x)[1]["nonlinear_cubic"] < 1e-12


def test_its_gradient_is_that_of_finite_differences(flow):
    laws, layout = bound(
        flow,
        [KineticEnergy(("u", "v"), "lon", "volume"), Budget(["u"], "lon", "volume", equals=0.3)],
        ["u", "v"],
        ["u", "v"],
    )
    y, x = tensors(layout, flow)
    g = {n: np.random.default_rng(3).normal(size=v.shape) for n, v in y.items()}

    def value(u):
        moved = laws.project(
            {"u": u, "v": ops.convert_to_tensor(y["v"])}, {n: ops.convert_to_tensor(v) for n, v in x.items()}, layout
        )
        return sum(ops.sum(ops.convert_to_tensor(g[n]) * moved[n]) for n in moved)

    with _backend.float64():
        _, gradient = _backend.value_and_gradient(value, y["u"])
    direction = np.random.default_rng(4).normal(size=y["u"].shape) * layout.valid("targets")[..., :1]
    ends = []
    for sign in (1, -1):
        moved, _ = project(laws, layout, {"u": y["u"] + sign * 1e-6 * direction, "v": y["v"]}, x)
        ends.append(sum((g[n] * moved[n]).sum() for n in moved))
    np.testing.assert_allclose((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-7)


@pytest.mark.parametrize("predicted", [False, True])
def test_humidity_stays_below_saturation(flow, predicted):
    targets = ["q", "t"] if predicted else ["q"]
    energy = [Budget({"q": (2.5e6, "J kg-1"), "t": (1004.0, "J kg-1 K-1")}, equals=5e4)] if predicted else []
    laws, layout = bound(flow, [RelativeHumidity("q", "t", "p"), *energy], ["t", "p"], targets)
    y, x = tensors(layout, flow, noise=0.0)
    moved, left = project(laws, layout, y, x)
    temperature = moved["t"] if predicted else x["t"]
    with _backend.float64():
        arguments = [ops.convert_to_tensor(v) for v in (temperature + 273.15, x["p"] * 100.0)]
        limit = np.asarray(saturation_humidity(*arguments))
    wet = flow.wet.values
    assert (moved["q"][:, wet] >= 0).all()
    above = moved["q"] / limit - 1
    assert above[:, wet].max() < 1e-8
    assert max(left.values()) < 1e-6
    if not predicted:
        assert np.abs(above[:, wet]).min() < 1e-8  # some are saturated
        np.testing.assert_allclose(moved["q"][:, wet], np.clip(y["q"], 0, limit)[:, wet], rtol=1e-12)


def test_saturation_humidity_is_that_of_the_tables():
    """Vapour pressures of 6.11, 12.27, 23.37 and 42.43 hPa at 0, 10, 20 and 30 degC (Smithsonian tables), at 1000 hPa."""
    found = np.asarray(saturation_humidity(np.array([273.15, 283.15, 293.15, 303.15]), np.full(4, 1e5)))
    np.testing.assert_allclose(
        1e3 * found, [622 * e / (1000 - 0.378 * e) for e in (6.11, 12.27, 23.37, 42.43)], rtol=2e-3
    )


@pytest.mark.long
def test_a_model_keeps_them_and_is_saved_with_them(flow, tmp_path):
    laws = [
        KineticEnergy(("u", "v"), ("lat", "lon"), "volume"),
        Nonlinear(cubic, ("q", "u"), equals=0.5, over=("lat", "lon"), passes=5),
        RelativeHumidity("q", "t", "p", upper=None),
    ]
    spec = FieldSpec(["u", "v", "q", "t", "p"], ["u", "v"], mask="wet", target_offsets=1)
    scaling = Scaling.fit(flow, spec)
    keras.utils.set_random_seed(0)
    start = keras.Input((LAT, LON, 5))
    model = FieldModel(keras.Model(start, keras.layers.Conv2D(2, 1)(start)), scaling=scaling, constraints=laws[:1])
    model.compile("adam", "mse")
    model.fit(physml.Batches(flow, spec, 2), epochs=1, verbose=0)
    x = model.layout.pack(flow, "inputs").fillna(0).values.astype("float32")
    y = model.predict_on_batch(x)
    weight = np.where(flow.wet, flow.volume, 0)
    energy = [(weight[..., None] * f.astype("float64")[..., :2] ** 2).sum((1, 2, 3)) for f in (x, y)]
    np.testing.assert_allclose(energy[1], energy[0], rtol=1e-6)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(physml.load(tmp_path / "model.keras").predict_on_batch(x), y)
    again = Constraints.from_config(json.loads(json.dumps(Constraints(laws).to_config())))
    assert json.dumps(again.to_config()) == json.dumps(Constraints(laws).to_config())
    assert again.laws[1].function is cubic


def test_datasets_are_moved_and_reported(flow):
    laws = Constraints([KineticEnergy(("u", "v"), ("lat", "lon"), "volume"), NonNegative("u")])
    outputs = flow[["u", "v", "wet", "volume"]].copy(deep=True) * 1.0
    outputs["u"], outputs["v"] = (1.4 * flow.u + 0.2).assign_attrs(flow.u.attrs), flow.v
    moved = laws.apply(outputs.assign(wet=flow.wet), flow, mask="wet")
    energy = [float(((f.u**2 + f.v**2) * flow.volume).where(flow.wet).isel(time=0).sum()) for f in (moved, flow)]
    np.testing.assert_allclose(energy[0], energy[1], rtol=1e-6)
    assert float(moved.u.where(flow.wet).min()) >= 0
    found = laws.report(outputs.assign(wet=flow.wet), flow, mask="wet")
    assert found.kineticenergy_kinetic_energy_after.max() < 1e-5 * found.kineticenergy_kinetic_energy_before.max()


@pytest.mark.parametrize(
    ("law", "words"),
    [
        (Nonlinear(cubic, ("u", "w")), r"Nonlinear 'cubic' acts on \['w'\], which are no targets"),
        (KineticEnergy(("u", "v"), "lev"), r"sums over \['lev'\]"),
        (RelativeHumidity("q", "t", "pp"), r"'pp' at offset 0 is not among the inputs"),
        (
            RelativeHumidity("q", "u", "p"),
            r"units of 'u' are not understood. Expected: units that convert to K.*'m s-1'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(flow, law, words):
    with pytest.raises((KeyError, ValueError), match=words):
        bound(flow, [law], ["u", "v", "t", "p"], ["u", "v", "q"])
    with pytest.raises(ValueError, match=r"Nonlinear\('cubic'\) is no law.*'start'"):
        Nonlinear(cubic, ("u",), equals="begin")
