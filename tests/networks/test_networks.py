"""Networks see beyond their edges what they were told, know no place on a periodic axis, and begin by saying nothing."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec, networks
from physml.networks import Pad, build
from physml.networks.padding import Inside

RNG = np.random.default_rng(0)


def layout_of(**sizes):
    """Return a layout with two inputs and one target on a grid of these sizes."""
    shape = (3, *sizes.values())
    ds = xr.Dataset({n: (("time", *sizes), RNG.normal(size=shape)) for n in ("a", "b")}, {"time": np.arange(3)})
    return FieldSpec(["a", "b"], "a", target_offsets=1).bind(ds)


def awake(network):
    """Give the zero-started last layer random weights."""
    for variable in network.layers[-1].trainable_variables:
        variable.assign(RNG.normal(0, 0.3, variable.shape))
    return network


@pytest.mark.parametrize(("kind", "mode"), [("periodic", "wrap"), ("closed", "constant"), ("open", "edge")])
@pytest.mark.parametrize("width", [0, 1, 3])
def test_padding_is_numpys(kind, mode, width):
    x = RNG.normal(size=(2, 3, 4, 5)).astype("float32")
    layer = Pad(width, (kind, "open"))
    expected = np.pad(x, ((0, 0), (width, width), (0, 0), (0, 0)), mode=mode)
    expected = np.pad(expected, ((0, 0), (0, 0), (width, width), (0, 0)), mode="edge")
    np.testing.assert_array_equal(np.asarray(layer(x)), expected)
    assert layer.compute_output_shape((None, 3, None, 5)) == (None, 3 + 2 * width, None, 5)


def test_a_periodic_axis_shorter_than_the_stencil_is_refused():
    with pytest.raises(
        ValueError, match=r"a periodic dimension of 2 cells is shorter than the stencil.*smaller kernel"
    ):
        Pad(3, ("periodic",))(np.zeros((1, 2, 1)))


def test_inside_tells_where_the_grid_is():
    x = RNG.normal(size=(2, 3, 1)).astype("float32")
    y = np.asarray(Inside()(x))
    np.testing.assert_array_equal(y[..., :1], x)
    assert (y[..., 1] == 1).all()
    assert Inside().compute_output_shape((None, 3, 1)) == (None, 3, 2)


@pytest.mark.parametrize("shift", [1, 5])
def test_a_periodic_network_knows_no_longitude(shift):
    layout = layout_of(lat=5, lon=8)
    network = awake(networks.cnn(layout, boundary={"lat": "closed", "lon": "periodic"}, filters=4, blocks=2))
    x = RNG.normal(size=(2, 5, 8, 2)).astype("float32")
    y = network.predict_on_batch(x)
    np.testing.assert_allclose(network.predict_on_batch(np.roll(x, shift, 2)), np.roll(y, shift, 2), atol=1e-5)
    assert np.abs(network.predict_on_batch(np.roll(x, 1, 1)) - np.roll(y, 1, 1)).max() > 1e-2


@pytest.mark.parametrize("sizes", [{"x": 9}, {"lat": 5, "lon": 6}, {"z": 5, "lat": 5, "lon": 5}])
@pytest.mark.parametrize("coast", [False, True])
def test_networks_begin_at_zero_in_one_to_three_dimensions(sizes, coast):
    layout = layout_of(**sizes)
    boundary = dict.fromkeys(sizes, "closed")
    for network in (
        networks.cnn(layout, boundary=boundary, filters=3, blocks=1, coast=coast),
        networks.mlp(layout, hidden=(3,)),
        networks.cnn(layout, boundary=boundary, filters=3, blocks=1, outputs=7),
    ):
        y = network.predict_on_batch(RNG.normal(size=(2, *layout.shape, 2)).astype("float32"))
        assert y.shape[:-1] == (2, *layout.shape)
        assert y.shape[-1] in (1, 7)
        assert not y.any()


def test_weights_begin_apart_and_follow_the_seed():
    layout = layout_of(x=9)

    def kernels(seed):
        network = networks.cnn(layout, boundary={"x": "open"}, filters=4, blocks=2, seed=seed)
        return [np.asarray(w) for w in network.trainable_variables if w.shape == (3, 4, 4)]

    first, again, other = kernels(0), kernels(0), kernels(1)
    assert len({k.tobytes() for k in first}) == 4
    np.testing.assert_array_equal(first, again)
    assert all((a != b).any() for a, b in zip(first, other, strict=True))


@pytest.mark.long
def test_half_precision_inside_comes_out_as_float32():
    layout = layout_of(lat=4, lon=6)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        made = [networks.cnn(layout, boundary={"lat": "open", "lon": "periodic"}, filters=4), networks.mlp(layout)]
    finally:
        keras.config.set_dtype_policy("float32")
    for network in made:
        assert network.predict_on_batch(np.zeros((1, 4, 6, 2), "float32")).dtype == np.float32
        assert network.layers[2].compute_dtype == "float16"


@pytest.mark.long
def test_networks_survive_their_config_as_json():
    layout = layout_of(lat=5, lon=6)
    network = awake(networks.cnn(layout, boundary={"lat": "closed", "lon": "periodic"}, filters=3, coast=True))
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(network)))
    again = keras.saving.deserialize_keras_object(config)
    again.set_weights(network.get_weights())
    x = RNG.normal(size=(2, 5, 6, 2)).astype("float32")
    np.testing.assert_array_equal(again.predict_on_batch(x), network.predict_on_batch(x))


def test_networks_are_built_by_name():
    layout = layout_of(lat=5, lon=6)
    assert build("mlp", layout, hidden=[8], boundary={"lat": "open", "lon": "open"}).output_shape == (None, 5, 6, 1)
    assert build("cnn", layout, 9, boundary={"lat": "open", "lon": "open"}, blocks=1).output_shape == (None, 5, 6, 9)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("cnm", {}, r"unknown network 'cnm'; did you mean 'cnn'\?"),
        ("cnn", {}, r"network 'cnn' needs 'boundary'.*it has no default"),
        (
            "cnn",
            {"boundary": {"lat": "open", "lon": "open"}, "filter": 3},
            r"no argument 'filter'; did you mean 'filters'",
        ),
        ("cnn", {"boundary": {"lat": "open"}}, r"the boundary does not fit the grid.*for each of \('lat', 'lon'\)"),
        ("cnn", {"boundary": {"lat": "open", "lon": "perodic"}}, r"does not fit the grid; did you mean 'periodic'\?"),
        ("cnn", {"boundary": {"lat": "open", "long": "open"}}, r"does not fit the grid; did you mean 'lon'\?"),
        (
            "cnn",
            {"boundary": {"lat": "open", "lon": "open"}, "kernel_size": 4},
            r"kernel_size does not fit.*odd kernels.*Received: 4",
        ),
        ("mlp", {"units": 3}, r"network 'mlp' has no argument 'units'"),
    ],
)
def test_what_cannot_be_built_is_refused(name, arguments, words):
    with pytest.raises(ValueError, match=words):
        build(name, layout_of(lat=5, lon=6), **arguments)


def test_four_dimensions_are_too_many_for_a_convolution():
    layout = layout_of(a=2, b=2, c=2, d=2)
    with pytest.raises(ValueError, match=r"one to three space dimensions.*levels or members"):
        networks.cnn(layout, boundary=dict.fromkeys("abcd", "open"))


@pytest.mark.parametrize("kind", ["periodic", "closed", "open"])
def test_a_padding_of_unknown_sizes_is_that_of_known_ones(kind):
    x = RNG.normal(size=(2, 5, 6, 1)).astype("float32")
    free, fixed = keras.Input((None, None, 1)), keras.Input((5, 6, 1))
    made = [keras.Model(start, networks.Pad(2, (kind, "open"))(start)) for start in (free, fixed)]
    assert made[0].output_shape == (None, None, None, 1)
    np.testing.assert_array_equal(made[0].predict_on_batch(x), made[1].predict_on_batch(x))
    np.testing.assert_array_equal(networks.Pad(0, (kind, "open"))(x), x)
