"""Under a mask nothing that stands on masked cells is seen, valid cells count for them, and without one nothing changes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from physml import FieldModel, FieldSpec, Scaling, load, networks, predict
from physml.networks import Pad, PartialConv, Valid
from physml.networks.blocks import Blocks, Maps
from physml.networks.sampling import Pool
from physml.networks.whole import GlobalPool, ValidGroupNorm

# Eager steps compile every operation by itself on JAX.
UNET = pytest.param(
    "unet", marks=pytest.mark.skipif(keras.backend.backend() == "jax", reason="slow without compilation")
)
RNG = np.random.default_rng(0)
WET = RNG.random((8, 12)) > 0.4
WET[:2, :4] = False


def ones(wet=WET, rows=2):
    return np.repeat(wet[None, ..., None].astype("float32"), rows, 0)


def test_without_a_mask_it_is_the_convolution_of_keras():
    for space, conv in ((1, keras.layers.Conv1D), (2, keras.layers.Conv2D), (3, keras.layers.Conv3D)):
        x = RNG.normal(size=(2, *(7, 6, 5)[:space], 3)).astype("float32")
        plain, partial = conv(4, 3, strides=2, bias_initializer="ones"), PartialConv(4, 3, 2)
        expected = np.asarray(plain(x))
        partial(x, np.ones_like(x))
        partial.set_weights(plain.get_weights())
        for depth in (1, 3):
            y, valid = partial(x, np.ones_like(x[..., :1])) if depth == 1 else (partial(x, np.ones_like(x)))
            np.testing.assert_allclose(np.asarray(y), expected, rtol=1e-5, atol=1e-6)
            assert np.asarray(valid).all()
        y, _ = partial(x, np.ones_like(x[..., :1]), np.full_like(x[:1, ..., :1], 2.5))
        np.testing.assert_allclose(np.asarray(y), expected, rtol=1e-5, atol=1e-6)


def test_it_is_the_sum_written_out():
    x = RNG.normal(size=(1, 8, 12, 2)).astype("float32")
    area = RNG.uniform(0.5, 2, (1, 8, 12, 1)).astype("float32")
    layer = PartialConv(3, (3, 2))
    y, valid = layer(x, ones(rows=1), area)
    kernel, bias = layer.get_weights()
    for i in range(6):
        for j in range(11):
            m = (ones(rows=1) * area)[0, i : i + 3, j : j + 2]
            expected = np.einsum("abc,abcf->f", x[0, i : i + 3, j : j + 2] * m, kernel) * 6 / max(m.sum(), 1e-9) + bias
            np.testing.assert_allclose(np.asarray(y)[0, i, j], expected if m.sum() else 0 * bias, rtol=1e-4, atol=1e-5)
            assert bool(np.asarray(valid)[0, i, j, 0]) == bool(m.sum())


@pytest.mark.parametrize("weighted", [False, True])
def test_a_constant_field_stays_constant_up_to_the_coast(weighted):
    layer = PartialConv(1, 3, kernel_initializer=keras.initializers.Constant(1 / 9))
    area = RNG.uniform(0.5, 2, (1, 8, 12, 1)).astype("float32") if weighted else None
    x = np.where(ones() > 0, 7.0, RNG.normal(0, 1e3, (2, 8, 12, 1))).astype("float32")
    y, valid = layer(x, ones(), area)
    np.testing.assert_allclose(np.asarray(y)[np.asarray(valid) > 0], 7.0, rtol=1e-6)
    plain = keras.layers.Conv2D(1, 3, kernel_initializer=keras.initializers.Constant(1 / 9))
    assert np.abs(np.asarray(plain(np.where(ones() > 0, x, 0)))[np.asarray(valid) > 0] - 7).max() > 1


def test_what_stands_on_masked_cells_is_not_seen_missing_values_included():
    layer = PartialConv(3, 3)
    x = RNG.normal(size=(2, 8, 12, 2)).astype("float32")
    y, _ = layer(x, ones())
    for there in (1e9, np.nan, np.inf):
        z, _ = layer(np.where(ones() > 0, x, np.float32(there)), ones())
        np.testing.assert_array_equal(np.asarray(z), np.asarray(y))


def test_the_coast_recedes_by_the_stencil():
    wet = np.zeros((9, 9), bool)
    wet[4, 4] = True
    values, valid = ones(wet), ones(wet)
    for n in (1, 2):
        values, valid = PartialConv(2, 3)(Pad(1, ("closed", "closed"))(values), Pad(1, ("closed", "closed"))(valid))
        assert np.asarray(valid)[0, ..., 0].sum() == (2 * n + 1) ** 2
    assert not np.asarray(values)[np.repeat(np.asarray(valid), 2, -1) == 0].any()


def test_beyond_a_closed_end_nothing_is_valid_and_beyond_an_open_one_it_goes_on():
    x = np.full((1, 4, 1), 3.0, "float32")
    layer = PartialConv(1, 3, kernel_initializer=keras.initializers.Constant(1 / 3))
    for kind in ("closed", "open", "periodic"):
        pad = Pad(1, (kind,))
        np.testing.assert_allclose(np.asarray(layer(pad(x), pad(np.ones_like(x)))[0]), 3.0, rtol=1e-6)


def test_pooling_takes_valid_cells_alone():
    x = RNG.normal(size=(2, 8, 12, 2)).astype("float32")
    blocks = np.where(ones() > 0, x, np.nan).reshape(2, 4, 2, 6, 2, 2)
    seen = ones().reshape(2, 4, 2, 6, 2, 1).any((2, 4))
    assert not seen.all()
    for kind, numpys in (("average", np.nanmean), ("max", np.nanmax)):
        y, valid = Pool((2, 2), kind)(np.where(ones() > 0, x, np.float32(np.nan)), ones())
        np.testing.assert_array_equal(np.asarray(valid) > 0, seen)
        expected = numpys(np.where(seen[:, :, None, :, None], blocks, 0), axis=(2, 4))
        np.testing.assert_allclose(np.asarray(y), expected, rtol=1e-5, atol=1e-6)
        flat = np.where(ones() > 0, x, np.nan).reshape(2, -1, 2)
        np.testing.assert_allclose(np.asarray(GlobalPool(kind)(x, ones())), numpys(flat, axis=1), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"Pool: unknown kind"):
        Pool((2,), "mean")


def test_valid_cells_are_those_of_the_grid_not_missing_or_of_a_channel():
    x = RNG.normal(size=(2, 8, 12, 2)).astype("float32")
    kept = Valid(WET)
    values, valid = kept(np.where(ones() > 0, x, np.float32(np.nan)))
    np.testing.assert_array_equal(np.asarray(valid), ones())
    np.testing.assert_array_equal(np.asarray(values), np.where(ones() > 0, x, 0))
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(kept))
    np.testing.assert_array_equal(copy.mask, WET)
    several = Valid(np.stack([WET, ~WET], -1))(x)[1]
    np.testing.assert_array_equal(np.asarray(several)[0], np.stack([WET, ~WET], -1))
    missing = np.where(np.stack([WET, ~WET], -1), x, np.float32(np.nan))
    np.testing.assert_array_equal(np.asarray(Valid("nan")(missing)[1]), np.asarray(several))
    x[..., 1] = np.where(WET, 1.0, -1.0)
    np.testing.assert_array_equal(np.asarray(Valid(channel=1)(x)[1]), ones())


@pytest.mark.parametrize("name", ["cnn", pytest.param("resnet", marks=pytest.mark.long), UNET])
def test_a_network_under_a_mask_is_the_plain_one_where_all_cells_are_valid(name, layout_of, awake):
    all_wet = layout_of("a", np.ones((8, 8), bool), lat=8, lon=8)
    arguments = {"filters": 3, "depth": 2} if name == "unet" else {"filters": 3 if name == "cnn" else (3,), "blocks": 1}
    made = [
        networks.build(name, all_wet, boundary={"lat": "open", "lon": "periodic"}, partial=p, **arguments)
        for p in (False, True)
    ]
    awake(made[0])
    made[1].set_weights(made[0].get_weights())
    x = RNG.normal(size=(2, 8, 8, 2)).astype("float32")
    plain, partial = (np.asarray(n(x)) for n in made)
    np.testing.assert_allclose(partial, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cnn", UNET])
def test_a_constant_sea_stays_constant_through_a_network(name, layout_of):
    """With kernels of equal weights, whose sum is one, a network without bias knows no coast."""
    layout = layout_of("a", WET, lat=8, lon=12)
    arguments = {"filters": 2, "depth": 2, "downsampling": "max"} if name == "unet" else {"filters": 2, "blocks": 0}
    network = networks.build(name, layout, boundary={"lat": "closed", "lon": "periodic"}, partial=True, **arguments)
    network.set_weights(
        [np.full_like(w, 1 / np.prod(w.shape[:-1])) if w.ndim > 1 else 0 * w for w in network.get_weights()]
    )
    y = np.asarray(network(np.where(ones() > 0, 5.0, -99.0) * np.ones((2, 8, 12, 2), "float32")))
    np.testing.assert_allclose(y[:, WET], 5.0, rtol=1e-5)


def test_a_model_under_its_mask_is_saved_and_says_why_it_takes_no_tiles(sst, tmp_path):
    spec = FieldSpec(["salt"], ["salt"], target_offsets=1, mask="wet", area="area")
    scaling = Scaling.fit(sst, spec)
    network = networks.cnn(
        scaling.layout, boundary={"lat": "closed", "lon": "periodic"}, filters=3, blocks=1, partial=True
    )
    model = FieldModel(network, scaling=scaling)
    expected = predict(model, sst)
    model.save(tmp_path / "m.keras")
    again = predict(load(tmp_path / "m.keras"), sst)
    np.testing.assert_array_equal(again["salt"].values, expected["salt"].values)
    with pytest.raises(ValueError, match=r"'valid.*' is the whole map.*it holds the mask of the grid"):
        predict(model, sst, tiles={"lon": 3})


@pytest.mark.parametrize("any_size", [False, True])
def test_in_a_model_the_cells_that_are_nan_are_those_of_its_mask(sst, any_size):
    spec = FieldSpec(["salt"], ["salt"], target_offsets=1, mask="wet", area="area")
    scaling = Scaling.fit(sst, spec)
    arguments = {"boundary": {"lat": "closed", "lon": "periodic"}, "filters": 3, "blocks": 0}
    by_mask = networks.cnn(scaling.layout, **arguments, partial=True)
    by_mask.set_weights([RNG.normal(size=w.shape) for w in by_mask.get_weights()])
    by_nan = networks.cnn(scaling.layout, **arguments, partial="nan", any_size=any_size)
    by_nan.set_weights(by_mask.get_weights())
    x = scaling.layout.pack(sst, "inputs").values[:2].astype("float32")
    assert not scaling.layout.valid("inputs").all()
    expected = np.asarray(FieldModel(by_mask, scaling=scaling)(x))
    np.testing.assert_array_equal(np.asarray(FieldModel(by_nan, scaling=scaling)(x)), expected)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_norms_under_a_mask_know_valid_cells_alone(norm):
    x = RNG.normal(3, 2, size=(4, 8, 12, 16)).astype("float32")
    values, valid = keras.Input((8, 12, 16)), keras.Input((8, 12, 1))
    blocks = Blocks(("open", "open"), norm=norm)
    masked = keras.Model([values, valid], blocks.normalise(Maps(values, valid)).values)
    plain = keras.Model(values, blocks.normalise(values))
    everywhere = np.asarray(masked([x, np.ones_like(x[..., :1])], training=True))
    np.testing.assert_allclose(everywhere, np.asarray(plain(x, training=True)), rtol=1e-4, atol=1e-5)
    y = np.asarray(masked([np.where(ones(rows=4) > 0, x, 0), ones(rows=4)], training=True))[:, WET]
    groups = y.reshape(-1, 16) if norm == "batch" else y.reshape(4, -1, 2, 8).transpose(1, 3, 0, 2).reshape(-1, 8)
    np.testing.assert_allclose(groups.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(groups.std(0), 1, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PartialConv(0, 3), r"PartialConv: filters is no count"),
        (lambda: PartialConv(2, (3, 0)), r"PartialConv: kernel_size is no count"),
        (lambda: PartialConv(2, 3, 1.5), r"PartialConv: strides is no count"),
        (lambda: PartialConv(2, (3, 3))(np.zeros((1, 4, 1)), np.zeros((1, 4, 1))), r"does not fit the map"),
        (lambda: PartialConv(2, 3)(np.zeros((1, 4, 3)), np.zeros((1, 4, 2))), r"validity has other channels.*1 or 3"),
        (
            lambda: ValidGroupNorm(3)(np.zeros((1, 4, 8)), np.zeros((1, 4, 1))),
            r"do not divide the channels.*divisor of 8",
        ),
        (lambda: Valid(), r"does not know which cells are valid"),
        (lambda: Valid("nam"), r"which cells are valid; did you mean 'nan'\?"),
        (lambda: Valid(WET)(np.zeros((1, 4, 4, 1))), r"the map is not the grid of the mask.*\(8, 12\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
