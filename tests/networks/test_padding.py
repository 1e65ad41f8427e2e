"""What lies beyond a pole is the far side of the circle; widths are said for each end."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr

from physml import FieldSpec, networks
from physml.networks import Pad
from physml.networks.padding import boundaries, check_poles

RNG = np.random.default_rng(0)


def sphere(n, m):
    """Return the unit vectors to the cells of a globe of n rows and m columns: fields that are smooth across the poles."""
    lat, lon = np.deg2rad(-90 + 180 / n * (np.arange(n) + 0.5)), np.deg2rad(360 / m * np.arange(m))
    lat, lon = np.meshgrid(lat, lon, indexing="ij")
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)


def extended(n, m, rows, columns):
    """Return the same vectors on a grid continued over the poles and round the circle."""
    lat = np.deg2rad(-90 + 180 / n * (np.arange(-rows, n + rows) + 0.5))
    lon = np.deg2rad(360 / m * np.arange(-columns, m + columns))
    lat, lon = np.meshgrid(lat, lon, indexing="ij")
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)


@pytest.mark.parametrize(("rows", "columns"), [(1, 0), (2, 3), (6, 8)])
def test_over_a_pole_the_sphere_goes_on(rows, columns):
    x = sphere(6, 8)[None].astype("float32")
    y = np.asarray(Pad((rows, columns), ("pole", "periodic"))(x))
    np.testing.assert_allclose(y[0], extended(6, 8, rows, columns), atol=1e-6)
    # In whatever order the dimensions stand.
    turned = np.asarray(Pad((columns, rows), ("periodic", "pole"))(x.swapaxes(1, 2)))
    np.testing.assert_array_equal(turned.swapaxes(1, 2), y)


def test_components_of_vectors_turn_round_at_a_pole():
    # A uniform flow over the pole along x: its eastward and northward components on the grid.
    lat = np.deg2rad(-90 + 30 * (np.arange(-1, 7) + 0.5))
    lon = np.deg2rad(45 * np.arange(8))
    lat, lon = np.meshgrid(lat, lon, indexing="ij")
    flow = np.stack([-np.sin(lon), -np.sin(lat) * np.cos(lon)], -1)
    x = flow[None, 1:-1].astype("float32")
    y = np.asarray(Pad((1, 0), ("pole", "periodic"), flip=(0, 1))(x))
    # Continued over the pole, latitude counts on beyond 90 and the unit vectors turn back.
    north = np.asarray(Pad((1, 0), ("pole", "periodic"))(x))
    np.testing.assert_allclose(y[0, [0, -1]], -north[0, [0, -1]], atol=1e-6)
    np.testing.assert_allclose(y[0], flow, atol=1e-6)


def test_widths_are_for_each_dimension_and_each_end():
    x = RNG.normal(size=(2, 4, 6, 3)).astype("float32")
    layer = Pad(((1, 2), 0), ("open", "closed"))
    np.testing.assert_array_equal(np.asarray(layer(x)), np.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0)), mode="edge"))
    assert layer.compute_output_shape((None, 4, None, 3)) == (None, 7, None, 3)
    one = Pad((0, (0, 2)), ("open", "periodic"))
    np.testing.assert_array_equal(np.asarray(one(x)), np.pad(x, ((0, 0), (0, 0), (0, 2), (0, 0)), mode="wrap"))
    copy = Pad.from_config(keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(one)).get_config())
    assert copy.ends == one.ends


def test_a_pole_of_unknown_sizes_is_that_of_known_ones():
    x = RNG.normal(size=(2, 4, 6, 1)).astype("float32")
    start = keras.Input((None, None, 1))
    free = keras.Model(start, Pad(2, ("pole", "periodic"))(start))
    np.testing.assert_array_equal(free.predict_on_batch(x), np.asarray(Pad(2, ("pole", "periodic"))(x)))


@pytest.mark.parametrize("name", ["cnn", "resnet", "unet"])
def test_a_network_with_poles_commutes_with_the_rotation_about_them(name, layout_of, awake):
    layout = layout_of(lat=4, lon=8)
    arguments = {"filters": 3, "depth": 1} if name == "unet" else {"filters": 3 if name == "cnn" else (3,), "blocks": 1}
    network = awake(networks.build(name, layout, boundary={"lat": "pole", "lon": "periodic"}, **arguments))
    x = RNG.normal(size=(2, 4, 8, 2)).astype("float32")
    y = np.asarray(network(x))
    for shift in (2, 4):
        np.testing.assert_allclose(np.asarray(network(np.roll(x, shift, 2))), np.roll(y, shift, 2), atol=1e-5)
    over = x.copy()
    over[:, 0, 0] += 1.0
    changed = (np.abs(np.asarray(network(over)) - y) > 1e-6).any((0, 3))
    assert changed[0, 4]  # the cell across the pole


def test_a_pole_is_seen_by_a_convolution_as_any_other_place():
    """A kernel that is the same seen from all four sides gives on the sphere's vectors what it gives on their continuation."""
    start = keras.Input((6, 8, 3))
    y = keras.layers.DepthwiseConv2D(3)(Pad(1, ("pole", "periodic"))(start))
    network = keras.Model(start, y)
    cross = np.array([[0, 1, 0], [1, 2, 1], [0, 1, 0]], "float32")
    network.set_weights([np.repeat(cross[:, :, None, None], 3, 2), np.zeros(3)])
    wide = extended(6, 8, 1, 1)
    expected = sum(cross[i, j] * wide[i : i + 6, j : j + 8] for i in range(3) for j in range(3))
    np.testing.assert_allclose(np.asarray(network(sphere(6, 8)[None]))[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("boundary", "words"),
    [
        ({"lat": "pole", "lon": "closed"}, r"a pole needs the circle of longitudes.*exactly one 'periodic'"),
        ({"lat": "pole", "lon": "pole"}, r"more than one dimension has poles"),
        ({"lat": "pol", "lon": "periodic"}, r"did you mean 'pole'\?"),
    ],
)
def test_a_pole_wants_a_circle(boundary, words):
    with pytest.raises(ValueError, match=words):
        boundaries(boundary, ("lat", "lon"))


def test_what_is_no_width_or_no_circle_is_refused():
    with pytest.raises(ValueError, match=r"a pole needs an even number of longitudes.*Received: 5"):
        Pad(1, ("pole", "periodic"))(np.zeros((1, 3, 5, 1)))
    with pytest.raises(ValueError, match=r"a dimension of 3 cells is shorter than the stencil reaches"):
        Pad(4, ("pole", "periodic"))(np.zeros((1, 3, 6, 1)))
    for width in (-1, 1.5, (1,), ((1, 2, 3), 0), "1"):
        with pytest.raises(ValueError, match=r"Pad: width is no number of cells"):
            Pad(width, ("open", "open"))
    with pytest.raises(ValueError, match=r"Pad: unknown boundary; did you mean 'periodic'\?"):
        Pad(1, ("perodic",))
    with pytest.raises(ValueError, match=r"flip without a pole"):
        Pad(1, ("open",), flip=(0,))


def latitudes(values, cells=8):
    lat = ("lat", np.asarray(values, float), {"units": "degrees_north"})
    ds = xr.Dataset(
        {"a": (("time", "lat", "lon"), np.zeros((3, len(values), cells)))}, {"time": np.arange(3), "lat": lat}
    )
    return FieldSpec("a", "a", target_offsets=1).bind(ds)


def test_a_map_that_does_not_reach_the_poles_has_none():
    globe = {"lat": "pole", "lon": "periodic"}
    arguments = {"boundary": globe, "filters": 2, "blocks": 0}
    networks.cnn(latitudes([-75, -45, -15, 15, 45, 75]), **arguments)
    networks.cnn(latitudes(np.arange(-88, 89, 2.0)), **arguments)
    for rows in ([-90, -45, 0, 45, 90], [0, 20, 40, 60], np.arange(-60, 61, 10.0)):
        with pytest.raises(
            ValueError, match=r"the rows of 'lat' do not lie round the poles.*89.5 for rows of one degree"
        ):
            networks.cnn(latitudes(rows), **arguments)
    with pytest.raises(ValueError, match=r"even number of longitudes.*Received: 7"):
        networks.cnn(latitudes([-75, -45, -15, 15, 45, 75], 7), **arguments)
    check_poles(("pole", "periodic"), ("y", "x"), (3, 4), {})
