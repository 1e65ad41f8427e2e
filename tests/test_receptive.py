"""The receptive field read off the graph is the one that shows when single cells are changed; what sees all is refused."""

import contextlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from physml import FieldModel, FieldSpec, Scaling, networks
from physml.constraints import Conserve
from physml.networks import Pad
from physml.networks.padding import Inside
from physml.receptive import receptive_field
from physml.testbeds import gyre


def seen(network, cells):
    """Return which outputs change with which inputs along each dimension: [output cell, input cell] booleans."""
    shape = network.input_shape[1:]
    shape = (*(n or c for n, c in zip(shape[:-1], cells, strict=True)), shape[-1])
    rng = np.random.default_rng(0)
    base = rng.normal(size=(1, *shape)).astype("float32")
    where = [*np.ndindex(*shape[:-1])] * 2  # more and less: a maximum may hide either
    x = np.repeat(base, len(where) + 1, axis=0)
    for row, at in enumerate(where):
        x[(row, *at)] += 50 if 2 * row < len(where) else -50
    network.set_weights(
        [np.sign(w - 1e-9) * (0.5 + rng.random(w.shape)) if w.ndim > 1 else w for w in network.get_weights()]
    )
    y = np.asarray(network(x, training=False), "float64")
    changed = (abs(y[:-1] - y[-1:]) > 1e-4).any(-1)
    found = []
    for axis, n in enumerate(shape[:-1]):
        m = y.shape[1 + axis]
        table = np.zeros((m, n), bool)
        for row, at in enumerate(where):
            other = tuple(a for a in range(len(shape) - 1) if a != axis)
            table[:, at[axis]] |= changed[row].any(axis=other)
        found.append(table)
    return found


def agree(network, cells=None):
    """Check every output cell whose field lies inside the map."""
    cells = cells or network.input_shape[1:-1]
    checked = 0
    for axis, (table, extent) in enumerate(zip(seen(network, cells), receptive_field(network, cells), strict=True)):
        n = cells[axis]
        for j, row in enumerate(table):
            cell = extent.reach.at(j)
            if not cell or (min(cell) >= 0 and max(cell) < n):
                assert set(np.flatnonzero(row)) == set(cell), (axis, j)
                checked += 1
                if len(table) == n and cell:
                    assert j - extent.before <= min(cell)
                    assert max(cell) <= j + extent.after
    assert checked > 0
    return receptive_field(network, cells)


LAYERS_2D = [
    lambda a, b, p: layers.Conv2D(2, (a, b), padding=p),
    lambda a, b, p: layers.Conv2D(2, (a, 2), padding=p, dilation_rate=(b, 1)),
    lambda a, b, p: layers.Conv2D(2, (a, b), strides=(2, 1), padding=p),
    lambda a, b, p: layers.DepthwiseConv2D((b, a), padding=p),
    lambda a, b, p: layers.SeparableConv2D(2, (a, b), padding=p),
    lambda a, b, p: layers.Conv2DTranspose(2, (a, b), strides=(2, 1), padding=p),
    lambda a, b, p: layers.AveragePooling2D((a, 1), strides=(b, 1), padding=p),
    lambda a, b, p: layers.MaxPooling2D((1, b), padding=p),
    lambda a, b, p: layers.UpSampling2D((b, 1)),
    lambda a, b, p: layers.UpSampling2D((1, 2), interpolation="bilinear"),
    lambda a, b, p: layers.Cropping2D(((a - 1, 0), (0, b - 1))),
    lambda a, b, p: layers.ZeroPadding2D(((a, 0), (b, 1))),
    lambda a, b, p: Pad(a, ("open", "closed")),
    lambda a, b, p: layers.BatchNormalization(),
    lambda a, b, p: Inside(),
]

TRANSPOSE, CROP = 5, 10


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.sampled_from(range(len(LAYERS_2D))), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["same", "valid"])),
        min_size=1,
        max_size=4,
    ),
    st.tuples(st.integers(9, 12), st.integers(9, 12)),
)  # fmt: skip
def test_the_field_is_that_of_changed_cells(chosen, cells):
    start = x = keras.Input((*cells, 2))
    for which, a, b, p in chosen:
        with contextlib.suppress(ValueError):  # nothing would be left of the map
            y = LAYERS_2D[which](a, b, p)(x)
            x = y if 1 <= min(y.shape[1:3]) and max(y.shape[1:3]) <= 30 else x
    extents = receptive_field(keras.Model(start, x))
    kinds = [which for which, *_ in chosen]
    cropped = CROP in kinds[:-1]
    if cropped and {*kinds} & {9, 12}:  # an end is repeated from further inside
        return
    holed = any(which == TRANSPOSE and a == 1 for which, a, *_ in chosen)
    for axis, (table, extent) in enumerate(zip(seen(keras.Model(start, x), cells), extents, strict=True)):
        for j, row in enumerate(table):
            cell = extent.reach.at(j)
            if not all(0 <= c < cells[axis] for c in cell):
                continue  # near the ends a layer sees its own padding
            found = set(np.flatnonzero(row))
            # Behind a crop some of what would be seen is gone; a kernel smaller than its stride leaves cells that see nothing.
            assert found <= cell if cropped or holed else found == cell, (axis, j)


def unet(cells, pad=None, levels=2):
    """A small U-Net: convolutions, two poolings, repetitions, and joins."""

    def conv(x, filters=3):
        x = Pad(1, pad)(x) if pad else x
        return layers.Conv2D(filters, 3, padding="valid" if pad else "same", activation="linear")(x)

    start = x = keras.Input((*cells, 2))
    kept = []
    for _ in range(levels):
        x = conv(x)
        kept.append(x)
        x = layers.AveragePooling2D(2)(x)
    x = conv(x)
    for y in reversed(kept):
        x = layers.Concatenate()([layers.UpSampling2D(2)(x), y])
        x = conv(x)
    return keras.Model(start, conv(x, 1), name="unet")


def test_a_unet_has_the_field_and_the_stride_of_its_poolings():
    extents = agree(unet((48, 4), levels=2))
    assert extents[0].stride == 4
    assert extents[0].before == extents[0].after == 14
    assert unet((48, 4)).output_shape == (None, 48, 4, 1)


def test_branches_and_operations_in_the_graph_are_followed():
    start = keras.Input((16, 12, 2))
    a = layers.Conv2D(2, (5, 1), padding="same")(start)
    b = ops.tanh(layers.Conv2D(2, (1, 3), padding="same")(start)) * 1e-3 + 2.0
    c = ops.pad(start, [[0, 0], [3, 3], [0, 0], [0, 0]])[:, 2:-4, :, :]
    inner = keras.Sequential([keras.Input((16, 12, 2)), layers.Conv2D(2, 3, padding="same"), layers.Dense(2)])
    network = keras.Model(start, ops.concatenate([layers.add([a, b]), layers.Subtract()([c, inner(start)])], -1))
    assert [tuple(e) for e in receptive_field(network)] == [(2, 2, 1), (1, 1, 1)]
    only = keras.Model(start, c)
    assert [tuple(e) for e in agree(only)] == [(1, 0, 1), (0, 0, 1)]


def test_ends_repeated_behind_a_crop_are_seen_from_further_away():
    start = keras.Input((20, 1))
    x = Pad(2, ["open"])(layers.Conv1D(2, 5)(start))
    (extent,) = receptive_field(keras.Model(start, x))
    (table,) = seen(keras.Model(start, x), (20,))
    for j, row in enumerate(table):
        assert j - extent.before <= np.flatnonzero(row).min()
        assert np.flatnonzero(row).max() <= j + extent.after
    assert np.flatnonzero(table[0]).max() == 4


def test_one_and_three_dimensions_and_causal_convolutions():
    start = keras.Input((20, 1))
    x = layers.Conv1D(2, 4, padding="causal", dilation_rate=2)(start)
    x = layers.Conv1DTranspose(2, 4, strides=2, padding="same")(layers.Conv1D(2, 3, strides=2, padding="same")(x))
    (extent,) = agree(keras.Model(start, x))
    assert extent.stride == 2
    assert extent.before > extent.after
    start = keras.Input((6, 5, 4, 1))
    x = layers.Conv3D(2, (3, 1, 2), padding="same")(start)
    assert [tuple(e)[:2] for e in agree(keras.Model(start, x))] == [(1, 1), (0, 0), (0, 1)]


def test_boundaries_are_read_off_the_pads():
    ds = gyre.simulate(n_runs=1, n_steps=3, shape=(12, 16), seed=0)
    layout = Scaling.fit(ds, FieldSpec(["tracer", "u"], "tracer", members="run", target_offsets=1)).layout
    network = networks.cnn(layout, boundary={"lat": "closed", "lon": "periodic"}, filters=2, blocks=1)
    lat, lon = receptive_field(network)
    assert (lat.before, lat.edge) == (4, "own")
    assert (lon.before, lon.edge) == (4, "periodic")
    start = keras.Input((8, 2))
    mixed = layers.Conv1D(2, 3, padding="same")(layers.Conv1D(2, 3)(Pad(1, ["periodic"], name="ring")(start)))
    (extent,) = receptive_field(keras.Model(start, mixed))
    assert extent.edge == "mixed"
    assert "'ring' reads the other end" in extent.why
    (twice,) = receptive_field(
        keras.Model(start, layers.Conv1D(2, 5)(Pad(1, ["periodic"])(Pad(1, ["periodic"])(start))))
    )
    assert (twice.edge, "not the whole circle" in twice.why) == ("mixed", True)
    (odd,) = receptive_field(unet_ring(10))
    assert odd.edge == "mixed"
    (whole,) = receptive_field(unet_ring(12))
    assert (whole.edge, whole.stride) == ("periodic", 4)
    (pointwise,) = receptive_field(keras.Model(start, layers.Dense(1)(start)))
    assert tuple(pointwise) == (0, 0, 1)
    assert pointwise.edge == "none"


def unet_ring(n):
    start = keras.Input((n, 1))
    x = layers.AveragePooling1D(4)(layers.Conv1D(2, 3)(Pad(1, ["periodic"])(start)))
    x = layers.UpSampling1D(4)(x)
    return keras.Model(start, x)


def test_a_field_model_has_the_field_of_its_network_unless_a_law_needs_the_whole_map():
    ds = gyre.simulate(n_runs=1, n_steps=3, shape=(12, 16), seed=0)
    scaling = Scaling.fit(ds, FieldSpec("tracer", "tracer", members="run", target_offsets=1))
    network = networks.cnn(scaling.layout, boundary={"lat": "closed", "lon": "closed"}, filters=2, blocks=1)
    assert tuple(receptive_field(FieldModel(network, scaling=scaling))[0]) == (4, 4, 1)
    law = Conserve("tracer", ("lat", "lon"), "cell_volume")
    with pytest.raises(ValueError, match=r"is the whole map.*Conserve.*blend=True"):
        receptive_field(FieldModel(network, scaling=scaling, constraints=[law]))


@keras.saving.register_keras_serializable(package="test")
class Roll(layers.Layer):
    def call(self, x):
        return ops.roll(x, 1, axis=1)


@keras.saving.register_keras_serializable(package="test")
class Behind(Roll):
    receptive_field = ((1, 0), 0)


def test_a_layer_of_ones_own_says_what_it_sees():
    start = keras.Input((8, 8, 1))
    with pytest.raises(ValueError, match=r"'mine' \(Roll\) is not known.*receptive_field = \(\(before, after\).*halo="):
        receptive_field(keras.Model(start, Roll(name="mine")(start)))
    network = keras.Model(start, layers.Conv2D(1, 3, padding="same")(Behind()(start)))
    assert [tuple(e)[:2] for e in receptive_field(network)] == [(2, 1), (1, 1)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: layers.Flatten(name="flat")(x), r"of 'flat' is the whole map.*one vector"),
        (lambda x: layers.Reshape((16, 4, 2))(x), r"reshapes the map"),
        (lambda x: layers.GlobalAveragePooling2D(keepdims=True)(x) + x, r"sees all cells"),
        (lambda x: layers.GroupNormalization(1)(x), r"mean and variance over the whole map"),
        (lambda x: layers.LayerNormalization(axis=(1, 2, 3))(x), r"LayerNormalization over axis 1"),
        (lambda x: layers.BatchNormalization(axis=1)(x), r"BatchNormalization over axis 1"),
        (lambda x: layers.PReLU()(x), r"one slope for every cell"),
        (lambda x: layers.EinsumDense("abcd,be->aecd", (8, 8, 2))(x), r"acts on a dimension of the map"),
        (lambda x: layers.MultiHeadAttention(1, 2)(x, x), r"attends to all others"),
        (lambda x: x * np.ones((8, 8, 1), "float32"), r"a constant of shape \(8, 8, 1\)"),
        (lambda x: layers.Concatenate(axis=1)([x, x]), r"joins maps along axis 1; physml.networks.Pad"),
        (lambda x: ops.mean(x, axis=1, keepdims=True) + x, r"keras.ops: Mean"),
        (lambda x: x[:, :4], r"a crop counts from both ends"),
        (lambda x: layers.UpSampling2D(2, interpolation="bicubic")(x), r"interpolation 'bicubic'"),
        (lambda x: layers.Lambda(lambda a: a)(x), r"\(Lambda\) is not known"),
    ],
)  # fmt: skip
def test_layers_that_see_the_whole_map_are_refused_with_the_reason(make, words):
    start = keras.Input((8, 8, 2))
    with pytest.raises(ValueError, match=words):
        receptive_field(keras.Model(start, make(start)))


def test_a_strided_padding_layer_needs_the_size_of_the_map():
    start = keras.Input((None, 1))
    network = keras.Model(start, layers.Conv1D(1, 3, strides=2, padding="same")(start))
    with pytest.raises(ValueError, match=r"depends on the size of the map.*shape=\(cells"):
        receptive_field(network)
    assert receptive_field(network, (9,))[0].before == 1
    assert receptive_field(network, (8,))[0].before == 0
    with pytest.raises(ValueError, match="built for another map"):
        receptive_field(keras.Model(k := keras.Input((8, 1)), layers.Dense(1)(k)), (9,))
