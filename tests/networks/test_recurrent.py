"""Recurrent networks pass along the offsets in their order, from the earliest to the latest, and see no place on a circle."""

import json

import keras
import numpy as np
import pytest
import xarray as xr

import physml
from physml import FieldModel, FieldSpec, Scaling, networks
from physml.networks import ConvLSTM, build
from physml.networks.sequences import sequence

RNG = np.random.default_rng(0)
ENDS = {"lat": "closed", "lon": "periodic"}


@pytest.fixture(scope="module")
def maps():
    """Two fields, a bathymetry and an index on 5 x 8 cells, twelve months."""
    shape = (12, 5, 8)
    return xr.Dataset(
        {
            "a": (("time", "lat", "lon"), RNG.normal(size=shape).astype("float32")),
            "b": (("time", "lat", "lon"), RNG.normal(size=shape).astype("float32")),
            "depth": (("lat", "lon"), RNG.normal(size=shape[1:]).astype("float32")),
            "index": ("time", RNG.normal(size=12).astype("float32")),
        },
        {"time": xr.date_range("2000-01-01", periods=12, freq="MS")},
    )


def bound(maps, inputs=("a", "b", "depth"), target="a", offsets=(-2, -1, 0)):
    offsets = {n: offsets for n in inputs if n in ("a", "b")}
    return FieldSpec(list(inputs), target, input_offsets=offsets, target_offsets=1).bind(maps)


def awake(network):
    """Give the zero-started last dense layer random weights."""
    last = [layer for layer in network.layers if isinstance(layer, keras.layers.Dense)][-1]
    for variable in last.trainable_variables:
        variable.assign(RNG.normal(0, 0.5, variable.shape))
    return network


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(x, kernel, recurrent, bias):
    """Return what an LSTM ``[row, step, feature]`` holds after its last step, in NumPy."""
    n = recurrent.shape[0]
    h, c = np.zeros((len(x), n)), np.zeros((len(x), n))
    for k in range(x.shape[1]):
        i, f, g, o = np.split(x[:, k] @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h


def test_channels_become_steps_and_what_stands_still_is_repeated(maps):
    layout = bound(maps, ["a", "time.month", "b", "depth"])
    names = np.array([str(c) for c in layout.inputs])[sequence(layout)]
    assert names.tolist() == [
        ["a -2", "time.month", "b -2", "depth"],
        ["a -1", "time.month", "b -1", "depth"],
        ["a", "time.month", "b", "depth"],
    ]


def test_every_cell_has_the_memory_that_is_computed_by_hand(maps):
    network = awake(networks.lstm(bound(maps), units=4))
    x = RNG.normal(size=(2, 5, 8, 7)).astype("float32")
    # Channels: a at -2, -1, 0, then b at -2, -1, 0, then the depth.
    steps = np.stack([x[..., [0, 3, 6]], x[..., [1, 4, 6]], x[..., [2, 5, 6]]], axis=-2).astype("float64")
    *memory, kernel, bias = [np.asarray(w, "float64") for w in network.get_weights()]
    expected = by_hand(steps.reshape(-1, 3, 3), *memory) @ kernel + bias
    np.testing.assert_allclose(network.predict_on_batch(x), expected.reshape(2, 5, 8, 1), atol=2e-6)


@pytest.mark.parametrize("encoder", [None, "dense", "convolutional"])
def test_an_index_is_told_from_the_sequence_of_whole_maps(maps, encoder):
    layout = bound(maps, target="index")
    network = awake(
        networks.gru(layout, units=3, flatten=True, encoder=encoder, encoder_units=4, boundary=ENDS, hidden=[5])
    )
    x = RNG.normal(size=(2, 5, 8, 7)).astype("float32")
    assert network.predict_on_batch(x).shape == (2, 1)
    order = [*(np.r_[2, 1, 0]), *(np.r_[5, 4, 3]), 6]
    assert np.abs(network.predict_on_batch(x[..., order]) - network.predict_on_batch(x)).max() > 1e-4


def test_a_flattened_network_may_answer_a_map(maps):
    network = networks.lstm(bound(maps), units=(3, 2), flatten=True, bidirectional=True, norm="layer", dropout=0.1)
    assert network.output_shape == (None, 5, 8, 1)
    assert not network.predict_on_batch(np.ones((1, 5, 8, 7), "float32")).any()


def test_the_same_seed_makes_the_same_network(maps):
    made = [networks.gru(bound(maps), units=3, hidden=[4], seed=s).get_weights() for s in (1, 1, 2)]
    for first, again, other in zip(*made, strict=True):
        np.testing.assert_array_equal(first, again)
        assert not first.any() or first.std() == 0 or (first != other).any()


def test_both_directions_begin_with_weights_of_their_own(maps):
    weights = networks.gru(bound(maps), units=3, bidirectional=True).get_weights()
    assert weights[0].shape == weights[3].shape
    assert (weights[0] != weights[3]).all()


def test_convolutional_memory_with_closed_ends_is_that_of_keras():
    x = RNG.normal(size=(2, 3, 5, 6, 2)).astype("float32")
    mine = ConvLSTM(4, 3, ("closed", "closed"), return_sequences=True)
    theirs = keras.layers.ConvLSTM2D(4, 3, padding="same", return_sequences=True)
    mine(x), theirs(x)
    weights = [RNG.normal(0, 0.3, w.shape) for w in mine.get_weights()]
    mine.set_weights(weights)
    theirs.set_weights(weights)
    np.testing.assert_allclose(np.asarray(mine(x)), np.asarray(theirs(x)), atol=1e-5)


@pytest.mark.parametrize("shift", [1, 3])
def test_convolutional_memory_knows_no_longitude(maps, shift):
    network = awake(networks.convlstm(bound(maps), boundary=ENDS, filters=(3, 2), norm="layer"))
    x = RNG.normal(size=(1, 5, 8, 7)).astype("float32")
    y = network.predict_on_batch(x)
    np.testing.assert_allclose(network.predict_on_batch(np.roll(x, shift, 2)), np.roll(y, shift, 2), atol=1e-5)
    assert np.abs(network.predict_on_batch(np.roll(x, 1, 1)) - np.roll(y, 1, 1)).max() > 1e-3


@pytest.mark.parametrize("sizes", [{"x": 6}, {"z": 3, "lat": 4, "lon": 4}])
def test_convolutional_memory_in_one_and_three_dimensions(sizes):
    ds = xr.Dataset({"a": (("time", *sizes), RNG.normal(size=(4, *sizes.values())))}, {"time": np.arange(4)})
    layout = FieldSpec("a", "a", input_offsets=(-1, 0), target_offsets=1).bind(ds)
    network = networks.convlstm(layout, boundary=dict.fromkeys(sizes, "open"), filters=2, dropout=0.1)
    assert network.predict_on_batch(np.ones((2, *sizes.values(), 2), "float32")).shape == (2, *sizes.values(), 1)


@pytest.mark.parametrize("name", ["lstm", "convlstm"])
def test_tiles_give_what_whole_maps_give(name):
    ds = xr.Dataset(
        {"a": (("time", "lat", "lon"), RNG.normal(size=(4, 12, 24)).astype("float32"))}, {"time": np.arange(4)}
    )
    spec = FieldSpec("a", "a", input_offsets=(-1, 0), target_offsets=1)
    scaling = Scaling.fit(ds, spec)
    arguments = {"units": 3} if name == "lstm" else {"filters": (2, 2)}
    network = awake(build(name, scaling.layout, boundary=ENDS, any_size=True, **arguments))
    model = FieldModel(network, scaling=scaling)
    whole = physml.predict(model, ds)
    tiled = physml.predict(model, ds, tiles={"lat": 4, "lon": 8})
    xr.testing.assert_allclose(tiled.compute(), whole, atol=1e-6)


def test_recurrent_models_learn_and_come_back_from_disk(maps, tmp_path):
    spec = FieldSpec(["a", "b"], "index", input_offsets=(-1, 0), target_offsets=1)
    scaling = Scaling.fit(maps, spec)
    network = networks.lstm(
        scaling.layout, units=3, flatten=True, encoder="convolutional", encoder_units=4, boundary=ENDS, dropout=0.2
    )
    model = FieldModel(network, scaling=scaling)
    model.compile(keras.optimizers.Adam(1e-2), "mse", jit_compile=False)
    model.fit(physml.Batches(maps, spec, 5, shuffle=True), epochs=1, verbose=0)
    model.save(tmp_path / "m.keras")
    out = physml.predict(model, maps)
    assert out["index"].dims == ("time",)
    xr.testing.assert_allclose(physml.predict(str(tmp_path / "m.keras"), maps.chunk(time=-1)).compute(), out)


@pytest.mark.parametrize("name", ["gru", "convlstm"])
def test_networks_survive_their_config_as_json(maps, name):
    network = awake(build(name, bound(maps), boundary=ENDS))
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(network)))
    again = keras.saving.deserialize_keras_object(config)
    again.set_weights(network.get_weights())
    x = RNG.normal(size=(2, 5, 8, 7)).astype("float32")
    np.testing.assert_array_equal(again.predict_on_batch(x), network.predict_on_batch(x))


def test_inputs_at_different_steps_are_refused(maps):
    spec = FieldSpec(["a", "b"], "a", input_offsets={"a": (-1, 0), "b": (0,)}, target_offsets=1)
    with pytest.raises(ValueError, match=r"no sequence: 'b' stands at other steps.*\(-1, 0\), as 'a' has.*\(0,\)"):
        networks.lstm(spec.bind(maps))


@pytest.mark.parametrize(
    ("name", "target", "arguments", "words"),
    [
        ("lstm", "index", {}, r"lstm: the targets lie nowhere on the grid.*pass flatten=True"),
        ("gru", "a", {"encoder": "dense"}, r"gru: an encoder needs the whole map.*flatten=True"),
        ("lstm", "a", {"flatten": True, "encoder": "dens"}, r"unknown encoder 'dens'; did you mean 'dense'"),
        ("lstm", "a", {"flatten": True, "encoder": "convolutional"}, r"boundary does not fit the grid"),
        ("gru", "a", {"norm": "batch"}, r"gru: unknown norm 'batch'"),
        ("lstm", "a", {"activation": "rely"}, r"unknown activation 'rely'; did you mean 'relu'"),
        ("lstm", "a", {"flatten": True, "any_size": True}, r"no maps of any size: it makes one vector"),
        ("convlstm", "a", {"boundary": ENDS, "kernel_size": 2}, r"no centre.*odd number of cells"),
        ("convlstm", "a", {"boundary": {"lat": "open"}}, r"boundary does not fit the grid"),
        ("convlstm", "a", {"boundary": ENDS, "filters": 0}, r"filters is no count"),
        ("convlstm", "a", {"boundary": ENDS, "dropout": 1.5}, r"dropout is no share"),
        ("lstm", "a", {"units": (3, 0)}, r"units is no count"),
        ("gru", "a", {"recurrent_dropout": -0.1}, r"recurrent_dropout is no share"),
    ],
)
def test_what_cannot_be_built_is_refused(maps, name, target, arguments, words):
    with pytest.raises(ValueError, match=words):
        build(name, bound(maps, target=target), **arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("lstm", {"units": 3}),
        pytest.param("convlstm", {"filters": 3}, marks=pytest.mark.long),
        ("autoencoder", {"kind": "variational", "latent": 2, "filters": (3,)}),
    ],
)
def test_half_precision_inside_comes_out_as_float32(maps, name, arguments):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        network = build(name, bound(maps), boundary=ENDS, **arguments)
    finally:
        keras.config.set_dtype_policy("float32")
    x = RNG.normal(size=(2, 5, 8, 7)).astype("float32")
    network.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    for _ in range(2):
        assert np.isfinite(network.train_on_batch(x, x[..., :1]))
    assert network.predict_on_batch(x).dtype == np.float32
    assert "float16" in {layer.compute_dtype for layer in network.layers}
