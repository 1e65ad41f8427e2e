"""Every head answers alike: a model with it trains, compiles, runs in half precision, and is whole in its file."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import xarray as xr
from keras import ops

import physml
from physml import FieldModel, FieldSpec, FluxForm, Helmholtz, Scaling, Streamfunction, Transport
from physml.constraints import HEADS, Head, make_head
from physml.receptive import receptive_field

CLOSED = {"lat": "closed", "lon": "closed"}
FLOW = {"lon": "east", "lat": "north"}
ONE = {"lon": 1.0, "lat": 1.0}
TRACER = {"inputs": ["tracer", "u", "v", "source"], "targets": "tracer", "target_offsets": 1}
VELOCITY = {"inputs": ["tracer", "u", "v", "rise"], "targets": ["east", "north"]}
CASES = {
    "Transport": (TRACER, Transport(3, CLOSED, volume="cell_volume")),
    "FluxForm": (TRACER, FluxForm(CLOSED, volume="cell_volume", positive=True, sources={"tracer": "source"})),
    "Streamfunction": (VELOCITY, Streamfunction(FLOW, CLOSED, {"lon": "dy", "lat": "dx"})),
    "Helmholtz": (VELOCITY, Helmholtz(FLOW, CLOSED, {"lon": "dy", "lat": "dx"}, ONE, "cell_area", "rise", -1)),
}


@pytest.fixture(scope="module")
def ocean(gyre):
    """The gyre with velocities on its faces, on lengths of its faces that vary like a curvilinear grid's."""
    rng = np.random.default_rng(0)
    ds = gyre.isel(lat_face=slice(1, None), lon_face=slice(1, None))
    for name, size in (("dy", 1e5), ("dx", 2e5)):
        ds[name] = (("lat", "lon"), size * rng.uniform(0.8, 1.2, (12, 16)), {"units": "m"})
    east = ds.transport_x.rename(lon_face="lon").drop_vars("lon") / (100 * ds.dy)
    north = ds.transport_y.rename(lat_face="lat").drop_vars("lat") / (100 * ds.dx)
    ds["east"], ds["north"] = (
        f.transpose("run", "time", "lat", "lon").astype("float32").assign_attrs(units="m s-1") for f in (east, north)
    )
    ds["rise"] = (2e-7 * ds.tracer).astype("float32").assign_attrs(units="s-1")
    return ds


@pytest.fixture(scope="module")
def batches(ocean):
    made = []
    for kind in (TRACER, VELOCITY):
        scaling = Scaling.fit(ocean, FieldSpec(**kind, members="run", mask="wet", area="cell_area"))
        made.append((kind, scaling, physml.Batches(ocean, scaling.layout, 16, shuffle=True)[0]))
    return made


def case(batches, name):
    wanted, head = CASES[name]
    return *next((scaling, batch) for kind, scaling, batch in batches if kind is wanted), head


def model_of(scaling, head, dtype="float32", **options):
    """Return a model with one small convolution, shaken so that it says something."""
    start = keras.Input((*scaling.layout.shape, len(scaling.layout.inputs)))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", dtype=dtype)(start)
    out = keras.layers.Conv2D(head.channels(scaling.layout), 1, dtype=dtype)(x)
    network = keras.Model(start, out)
    rng = np.random.default_rng(1)
    for v in network.trainable_variables:
        v.assign(rng.normal(0, 0.3, v.shape))
    return FieldModel(network, scaling=scaling, head=head, **options)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n != "Transport")) for n in CASES])
def test_a_model_learns_and_its_file_is_the_whole_of_it(batches, name, tmp_path):
    scaling, (x, y, w), head = case(batches, name)
    model = model_of(scaling, head)
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=True)
    losses = model.fit(x, y, sample_weight=w, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    model.save(tmp_path / "model.keras")
    again = physml.load(tmp_path / "model.keras")
    assert type(again.head) is type(head)
    assert again.head.get_config() == head.get_config()
    np.testing.assert_array_equal(again.predict_on_batch(x), model.predict_on_batch(x))


@pytest.mark.parametrize("name", CASES)
def test_compiled_and_plain_give_the_same(batches, name):
    scaling, (x, *_), head = case(batches, name)
    model = model_of(scaling, head)
    plain = np.asarray(model(ops.convert_to_tensor(x)))
    model.compile(jit_compile=True)
    scale = np.abs(plain).max()
    assert scale > 0
    np.testing.assert_allclose(model.predict_on_batch(x), plain, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("name", CASES)
def test_a_network_in_half_precision_keeps_the_law(batches, name):
    scaling, (x, *_), head = case(batches, name)
    model = model_of(scaling, head, dtype="mixed_float16")
    y = model.predict_on_batch(x)
    assert y.dtype == np.float32
    assert np.isfinite(y).all() and np.abs(y).max() > 0
    assert law_error(model, x, y) < 5e-7


def law_error(model, x, y):
    """Return by how much the law of a head is broken, relative to what it holds."""
    layout, head = model.layout, model.head
    x, y = x.astype("float64"), y.astype("float64")
    if "tracer" in layout.spec.targets:
        volume = layout.static("cell_volume")[..., 0] * layout.valid("targets")[..., 0]
        gained = 86400 * x[..., 3] if isinstance(head, FluxForm) else 0.0
        before = ((x[..., 0] + gained) * volume).sum((1, 2))
        return np.abs((y[..., 0] * volume).sum((1, 2)) / before - 1).max()
    east, north = (y[..., k] * layout.static(n)[..., 0] for k, n in enumerate(("dy", "dx")))
    out = east - np.roll(east, 1, 2) + north - np.roll(north, 1, 1)
    if isinstance(head, Helmholtz):
        rise = x[..., 3:4] - np.asarray(head.excess(ops.convert_to_tensor(x)), "float64")
        out = out + rise[..., 0] * layout.static("cell_area")[..., 0] * layout.valid("targets")[..., 0]
    return np.abs(out).max() / np.abs(np.stack([east, north])).max()


@pytest.mark.parametrize("name", CASES)
def test_a_head_on_maps_of_any_size_is_refused_with_its_name(batches, name):
    scaling, _, head = case(batches, name)
    start = keras.Input((None, None, len(scaling.layout.inputs)))
    network = keras.Model(start, keras.layers.Dense(head.channels(scaling.layout))(start))
    with pytest.raises(ValueError, match=rf"maps of any size.*the head {name}, which holds the masks"):
        FieldModel(network, scaling=scaling, head=head)
    with pytest.raises(ValueError, match=rf"the head {name}, which holds the masks"):
        receptive_field(model_of(scaling, head))


@pytest.mark.parametrize("name", CASES)
def test_a_head_is_its_configuration(name):
    head = CASES[name][1]
    stored = json.loads(json.dumps({"type": name, **head.get_config()}))
    assert make_head(stored).get_config() == head.get_config()
    assert repr(head).startswith(f"{name}(")


def test_a_head_of_ones_own_is_known_by_its_name(batches, tmp_path):
    class Warmer(Head):
        def channels(self, layout):
            return len(layout.targets)

        def bind(self, layout, unit=None):
            self.unit, self.seen = unit, np.ones(len(layout.inputs), "float32")

        def __call__(self, network_output, inputs):
            return inputs[..., :1] + self.unit * ops.softplus(network_output)

        def get_config(self):
            return {}

    try:
        scaling, (x, *_), _ = case(batches, "Transport")
        model = model_of(scaling, Warmer())
        model.save(tmp_path / "model.keras")
        y = physml.load(tmp_path / "model.keras").predict_on_batch(x)
        np.testing.assert_array_equal(y, model.predict_on_batch(x))
        wet = scaling.layout.valid("targets")[..., 0]
        assert (y[..., 0] > x[..., 0])[:, wet].all()
        np.testing.assert_allclose(model.head.unit, scaling.vector("std", "targets"), rtol=1e-6)
    finally:
        del HEADS["Warmer"]


def test_the_unit_of_a_transformed_target_is_in_its_own_units():
    c = np.exp(np.random.default_rng(0).normal(0, 1, (40, 6)))
    ds = xr.Dataset({"c": (("time", "x"), c)}, {"time": np.arange(40)})
    scaling = Scaling.fit(ds, FieldSpec("c", "c", target_offsets=1), method="log")
    head = FluxForm({"x": "periodic"})
    start = keras.Input((6, 1))
    model = FieldModel(keras.Model(start, keras.layers.Dense(1)(start)), scaling=scaling, head=head)
    logs = np.log(c)
    want = np.exp(logs.mean() + logs.std()) - np.exp(logs.mean())
    np.testing.assert_allclose(model.head._scales[0][0], want, rtol=1e-3)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"type": "Fluxform"},
            r"unknown head 'Fluxform'; did you mean 'FluxForm'\?.*one of Classes, FluxForm, Gaussian, Helm",
        ),
        ({"boundary": {}}, r"unknown head None. Expected: one of"),
        ({"type": "FluxForm", "bounday": {}}, r"head FluxForm has no argument 'bounday'; did you mean 'boundary'"),
        ({"type": "FluxForm"}, r"head FluxForm needs 'boundary'. Expected: boundary=...: it has no default"),
    ],
)
def test_heads_that_are_not_understood_are_refused(config, words):
    with pytest.raises(ValueError, match=words):
        make_head(config)
