"""What holds for every network built by name: shapes, a quiet beginning, seeds, saving, training, half precision, errors."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from physml.networks import build
from physml.networks.blocks import ACTIVATIONS, Blocks

WET = np.ones((8, 12), bool)
WET[2:5, 3:6] = False
GLOBE = {"lat": "closed", "lon": "periodic"}
SPHERE = {"lat": "pole", "lon": "periodic"}
COLUMN = {"z": "open", "lat": "closed", "lon": "periodic"}
REGULAR = {"norm": "batch", "dropout": 0.2, "weight_decay": 1e-3}

CASES = {
    "cnn": ("cnn", GLOBE, {"filters": 3, "blocks": 1, **REGULAR, "activation": "swish"}),
    "cnn, poles": ("cnn", SPHERE, {"filters": 3, "blocks": 1, "kernel_size": {"lat": 3, "lon": 5}, "norm": "layer"}),
    "cnn, partial": ("cnn", GLOBE, {"filters": 3, "blocks": 1, "partial": True, "coast": True, **REGULAR}),
    "cnn to numbers": ("cnn", GLOBE, {"filters": (3, 4), "pooling": 2, "dense": (5,), **REGULAR}),
    "cnn to numbers, partial": ("cnn", GLOBE, {"filters": (3, 4), "pooling": 2, "gather": "average", "partial": True}),
    "resnet": ("resnet", SPHERE, {"filters": (3, 4), "blocks": 1, **REGULAR}),
    "resnet, classic": ("resnet", GLOBE, {"filters": (3, 4), "blocks": 1, "preactivation": False, "norm": "group"}),
    "resnet to numbers": ("resnet", SPHERE, {"filters": (3, 4), "blocks": 1, "pooling": 2, "dense": (4,)}),
    "resnet to numbers, partial": ("resnet", GLOBE, {"filters": (3, 4), "blocks": 1, "pooling": 2, "partial": "a", "gather": "max"}),
    "unet": ("unet", GLOBE, {"filters": 3, "depth": 2, **REGULAR, "activation": "gelu"}),
    "unet, poles": ("unet", SPHERE, {"filters": 3, "depth": 1, "downsampling": "strides", "upsampling": "transposed"}),
    "unet, odd": ("unet", {"lat": "open", "lon": "closed"}, {"filters": (2, 3, 4, 5), "depth": 3, "convolutions": 1, "downsampling": "max"}),
    "unet, partial": ("unet", GLOBE, {"filters": 3, "depth": 2, "partial": True, "convolutions": 1}),
    "unet, partial, strides": ("unet", GLOBE, {"filters": 3, "depth": 1, "partial": "nan", "downsampling": "strides", "upsampling": "transposed"}),
    "mlp": ("mlp", GLOBE, {"hidden": (4,), **REGULAR}),
    "mlp of maps": ("mlp", GLOBE, {"hidden": (4,), "flatten": True, **REGULAR}),
    "mlp to numbers": ("mlp", GLOBE, {"hidden": (4,), "flatten": True, "norm": "layer"}),
}  # fmt: skip

RARE = (
    "cnn",
    "unet",
    "unet, poles",
    "resnet to numbers",
    "resnet, classic",
    "unet, odd",
    "unet, partial, strides",
    "cnn to numbers, partial",
    "resnet to numbers, partial",
)
EVERYDAY = [pytest.param(c, marks=pytest.mark.long) if c in RARE else c for c in CASES]


def network_of(case, layout_of, seed=0, **more):
    name, boundary, arguments = CASES[case]
    layout = layout_of("index" if "numbers" in case else "a", WET, lat=8, lon=12)
    return build(name, layout, boundary=boundary, seed=seed, **{**arguments, **more})


def in_half_precision(make):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return make()
    finally:
        keras.config.set_dtype_policy("float32")


# Eager steps compile every operation by itself on JAX.
ON_JAX = ("cnn, poles", "mlp of maps")
TENSORFLOW = keras.backend.backend() == "tensorflow"


@pytest.mark.parametrize("case", EVERYDAY if TENSORFLOW else ON_JAX)
def test_a_network_begins_quiet_follows_its_seed_learns_is_saved_and_works_in_half_precision(case, layout_of, tmp_path):
    network = network_of(case, layout_of)
    x = np.random.default_rng(1).normal(size=(4, 8, 12, 2)).astype("float32")
    wanted = (4, 1) if "numbers" in case else (4, 8, 12, 1)
    y = np.asarray(network(x))
    assert (y.shape, y.dtype) == (wanted, np.float32)
    assert not y.any()  # the mean, or no change
    assert network.output_shape == (None, *wanted[1:])

    half = in_half_precision(lambda: network_of(case, layout_of))
    assert "float16" in {layer.compute_dtype for layer in network.layers} | {
        layer.compute_dtype for layer in half.layers
    }
    for a, b in zip(network.get_weights(), half.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    before = network.get_weights()
    network.compile(keras.optimizers.Adam(0.03), "mse", run_eagerly=True)
    truth = np.random.default_rng(2).normal(size=wanted).astype("float32")
    for _ in range(2):  # the first step moves the last layer, the second all others
        assert np.isfinite(network.train_on_batch(x, truth))
    moved = {v.path for v, w in zip(network.weights, before, strict=True) if (np.asarray(v) != w).any()}
    assert {v.path for v in network.trainable_variables if v.path.endswith("kernel")} <= moved

    y = np.asarray(network(x))
    network.save(tmp_path / "n.keras")
    np.testing.assert_array_equal(np.asarray(keras.saving.load_model(tmp_path / "n.keras")(x)), y)
    half.set_weights(network.get_weights())
    z = np.asarray(half(x))
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, y, atol=0.02 * np.abs(y).max())


def test_seeds_and_dropout_are_reproduced(layout_of):
    x, truth = np.ones((4, 8, 12, 2), "float32"), np.ones((4, 8, 12, 1), "float32")
    losses = []
    for seed in (0, 0, 1):
        network = network_of("mlp", layout_of, seed=seed)
        network.compile(keras.optimizers.Adam(0.03), "mse", run_eagerly=True)
        losses.append([float(network.train_on_batch(x, truth)) for _ in range(3)])
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("case", "final"), [("cnn", "softmax"), ("resnet to numbers", "sigmoid"), ("mlp of maps", "tanh")]
)
def test_the_last_activation_is_that_named(case, final, layout_of, awake):
    plain, named = (awake(network_of(case, layout_of, outputs=3, final_activation=f)) for f in ("linear", final))
    x = np.random.default_rng(1).normal(size=(2, 8, 12, 2)).astype("float32")
    expected = keras.ops.convert_to_numpy(keras.activations.get(final)(plain(x)))
    np.testing.assert_allclose(np.asarray(named(x)), expected, atol=1e-6)


@pytest.mark.parametrize(
    "case",
    [
        "cnn",
        "unet, odd",
        *(pytest.param(c, marks=pytest.mark.long) for c in ("resnet, classic", "unet", "unet, partial, strides")),
    ],
)
def test_a_network_for_maps_of_any_size_is_that_of_the_grid(case, layout_of, awake):
    fixed, free = awake(network_of(case, layout_of)), network_of(case, layout_of, any_size=True)
    free.set_weights(fixed.get_weights())
    assert free.input_shape == (None, None, None, 2)
    x = np.random.default_rng(1).normal(size=(2, 8, 12, 2)).astype("float32")
    np.testing.assert_allclose(free.predict_on_batch(x), np.asarray(fixed(x)), rtol=1e-4, atol=1e-5)
    odd = np.random.default_rng(1).normal(size=(2, 13, 20, 2)).astype("float32")
    assert free.predict_on_batch(odd).shape == (2, 13, 20, 1)


@pytest.mark.parametrize(
    ("name", "sizes", "partial"),
    [
        ("unet", {"x": 9}, True),
        ("unet", {"z": 3, "lat": 4, "lon": 4}, False),
        ("unet", {"z": 3, "lat": 4, "lon": 4}, True),
        ("resnet", {"z": 3, "lat": 4, "lon": 4}, True),
        ("cnn", {"x": 9}, True),
    ],
)
def test_one_and_three_dimensions_and_what_stands_on_masked_cells(name, sizes, partial, layout_of, awake):
    mask = np.ones(tuple(sizes.values()), bool)
    mask[0] = False
    layout = layout_of("a", mask, **sizes)
    boundary = {d: COLUMN.get(d, "open") for d in sizes}
    arguments = {"filters": 2, "depth": 1} if name == "unet" else {"filters": 2 if name == "cnn" else (2,), "blocks": 1}
    network = awake(build(name, layout, boundary=boundary, partial=partial, **arguments))
    x = np.random.default_rng(1).normal(size=(2, *layout.shape, 2)).astype("float32")
    y = np.asarray(network(x))
    assert y.shape == (2, *layout.shape, 1)
    x[:, ~mask] += 9.0
    same = np.allclose(np.asarray(network(x))[:, mask], y[:, mask], atol=1e-6)
    assert same == partial


def test_every_activation_that_is_named_is_one_of_keras():
    for name in ACTIVATIONS:
        y = np.asarray(keras.activations.get(name)(keras.ops.convert_to_tensor([[-1.0, 0.5]])))
        assert y.shape == (1, 2)


def test_weight_decay_is_the_penalty_on_the_kernels_and_only_there(layout_of):
    network = network_of("unet", layout_of)
    kernels = [w for w in network.trainable_variables if w.path.endswith("kernel")]
    expected = 1e-3 * sum(float((np.asarray(w) ** 2).sum()) for w in kernels)
    np.testing.assert_allclose(float(sum(network.losses)), expected, rtol=1e-5)


def test_dropout_leaves_out_whole_channels_of_maps():
    blocks = Blocks(("open", "open"), dropout=0.5, seed=1)
    start = keras.Input((4, 4, 64))
    y = np.asarray(keras.Model(start, blocks.drop(start))(np.ones((2, 4, 4, 64), "float32"), training=True))
    assert set(np.unique(y)) == {0.0, 2.0}
    assert (y == y[:, :1, :1]).all()
    assert 0.2 < (y == 0).mean() < 0.8


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("cnn", {"activation": "rellu"}, r"unknown activation 'rellu'; did you mean 'relu'\?"),
        ("cnn", {"final_activation": "softmx"}, r"unknown final_activation 'softmx'; did you mean 'softmax'\?"),
        ("cnn", {"norm": "bach"}, r"unknown norm 'bach'; did you mean 'batch'\?"),
        ("cnn", {"dropout": 1.0}, r"dropout is no share.*0 <= share < 1.*Received: 1.0"),
        ("cnn", {"dropout": -0.1}, r"dropout is no share"),
        ("cnn", {"weight_decay": -1e-3}, r"weight_decay is no weight.*Received: -0.001"),
        ("cnn", {"filters": 0}, r"filters is no count.*Received: 0"),
        ("cnn", {"blocks": -1}, r"blocks is no count"),
        ("cnn", {"first_kernel_size": -3}, r"first_kernel_size does not fit"),
        ("cnn", {"kernel_size": {"lat": 3, "lno": 3}}, r"kernel_size names other dimensions; did you mean 'lon'\?"),
        ("cnn", {"kernel_size": (3, 3, 3)}, r"kernel_size does not fit.*each of \('lat', 'lon'\)"),
        ("cnn", {"filters": (3, 4)}, r"levels and dense layers belong to pooling"),
        ("cnn", {"pooling": 2}, r"pooling leaves the grid of the targets.*networks.unet"),
        ("cnn", {"partial": "c"}, r"partial='c' names no input"),
        ("resnet", {"pooling": 2}, r"pooling leaves the grid of the targets.*networks.unet"),
        ("resnet", {"pooling": (1, 2, 3)}, r"pooling does not fit the stages.*1 numbers"),
        ("unet", {"depth": 0}, r"depth is no count"),
        ("unet", {"depth": 4}, r"the grid is too small for a depth of 4.*at least 16 cells of 'lat'.*Received: 8"),
        ("unet", {"filters": (2, 3)}, r"filters do not fit the depth.*or 4"),
        ("unet", {"downsampling": "stride"}, r"unknown downsampling 'stride'; did you mean 'strides'\?"),
        ("unet", {"upsampling": "bilinear"}, r"unknown upsampling 'bilinear'"),
        ("unet", {"kernel_size": 2}, r"odd kernels.*Received: 2"),
        ("unet", {"factor": {"lat": 2}}, r"factor names other dimensions"),
        (
            "unet",
            {"any_size": True, "partial": True, "depth": 2},
            r"partial=True holds the mask of the grid.*partial='nan'",
        ),
        ("mlp", {"norm": "group"}, r"unknown norm of a perceptron 'group'"),
        ("mlp", {"flatten": True, "any_size": True}, r"no map of one size to flatten"),
        ("mlp", {"hidden": (0,)}, r"hidden is no count"),
        ("resnet", {"outputs": 0}, r"outputs is no count"),
    ],
)
def test_what_does_not_fit_is_refused(name, arguments, words, layout_of):
    with pytest.raises(ValueError, match=words):
        build(name, layout_of("a", WET, lat=8, lon=12), boundary=GLOBE, **arguments)


def test_boundaries_that_meet_want_levels_that_divide_them(layout_of):
    index = layout_of("index", None, lat=8, lon=10)
    with pytest.raises(ValueError, match=r"pooling does not divide 'lon'.*a multiple of 2 cells.*5 of 10 cells"):
        build("cnn", index, boundary=GLOBE, filters=(2, 2), pooling=2)
    with pytest.raises(ValueError, match=r"pooling leaves an odd number of 'lon'.*5 of 10 cells"):
        build("resnet", index, boundary=SPHERE, filters=(2, 2), pooling=2)
    with pytest.raises(
        ValueError, match=r"the grid is too small for its pooling.*at least 2 cells of 'lat'.*1 of 8 cells"
    ):
        build("cnn", index, boundary=SPHERE, filters=(2, 2), pooling=(1, 8), kernel_size=5)
    with pytest.raises(ValueError, match=r"no fixed number of cells.*gather='average'"):
        build("cnn", index, boundary=GLOBE, filters=2, pooling=2, any_size=True)
    with pytest.raises(ValueError, match=r"'lon' is no multiple of 8 cells, and shorter than the network sees"):
        build("unet", layout_of("a", None, lat=8, lon=10), boundary=GLOBE)
    with pytest.raises(ValueError, match=r"maps of any size cannot continue 'lon'.*a multiple of 4 cells"):
        build("unet", layout_of("a", None, lat=8, lon=10), boundary=GLOBE, depth=2, any_size=True)
    with pytest.raises(ValueError, match=r"partial=True without a mask"):
        build("unet", layout_of("a", None, lat=8, lon=8), boundary=GLOBE, partial=True)
    with pytest.raises(ValueError, match=r"a part of the sphere has no pole"):
        build("cnn", layout_of("a", None, lat=8, lon=8), boundary=SPHERE, any_size=True)
    with pytest.raises(ValueError, match=r"unet cannot be built.*mlp takes samples without space"):
        build("unet", layout_of("a"), boundary={})


def test_tables_have_a_perceptron(layout_of, awake):
    network = awake(build("mlp", layout_of("a"), hidden=(5,), norm="batch", dropout=0.1))
    assert np.asarray(network(np.zeros((7, 2), "float32"))).shape == (7, 1)
    with pytest.raises(ValueError, match=r"no map of one size to flatten"):
        build("mlp", layout_of("a"), flatten=True)


def test_a_flattened_perceptron_reads_and_answers_valid_cells_alone(layout_of, awake):
    layout = layout_of("a", WET, lat=8, lon=12)
    network = awake(build("mlp", layout, hidden=(4,), flatten=True))
    first, _, last, _ = (w.shape for w in network.weights)
    assert (first, last) == ((2 * WET.sum(), 4), (4, WET.sum()))
    x = np.random.default_rng(1).normal(size=(2, 8, 12, 2)).astype("float32")
    y = np.asarray(network(x))
    assert not y[:, ~WET].any()
    assert y[:, WET].all()
    x[:, ~WET] = np.nan
    np.testing.assert_array_equal(np.asarray(network(x)), y)
    heads = awake(build("mlp", layout, hidden=(4,), flatten=True, outputs=2, final_activation="softmax"))
    np.testing.assert_allclose(np.asarray(heads(x)).sum(-1), 1.0, rtol=1e-6)
