"""Relevance is handed back layer by layer: none is made, and what biases absorb is told."""

import keras
import numpy as np
import pytest
import xarray as xr
from keras import layers, ops

from physml import FieldModel, NonNegative, Scaling
from physml.explain import Explainer, area_mean, box_mean, climatology, groups, zero
from physml.explain.gradients.cam import resized
from physml.explain.gradients.lrp import inspect, relevance, rule
from physml.fields import FieldSpec
from physml.networks import unet
from physml.networks.padding import Pad


def relevances(network, x, name="epsilon", epsilon=1e-9, weights=None):
    """Return the relevance of *x* for a functional of the output, and the functional itself."""
    x = np.asarray(x, "float32")
    out = ops.convert_to_numpy(network(x)).reshape(len(x), -1)
    weights = np.ones(out.shape[1]) if weights is None else weights
    inspect(network, (None, *x.shape[1:]), "float32")
    found, base = relevance(network, weights, rule(name, epsilon), x.shape, "float32")(x)
    assert not base.any()
    return found, out @ weights


def total(r):
    return r.reshape(len(r), -1).sum(1)


@pytest.fixture(scope="module")
def unbiased():
    """A network of many kinds of layers, without biases and with kinks only: its value is input times gradient."""
    keras.utils.set_random_seed(0)
    bare = {"use_bias": False, "padding": "same"}
    start = keras.Input((8, 6, 3))
    x = Pad(1, ("closed", "periodic"))(layers.Rescaling(2.0)(start))
    x = layers.ReLU()(layers.BatchNormalization(center=False)(layers.Conv2D(6, 3, use_bias=False)(x)))
    skip = x
    x = layers.DepthwiseConv2D(3, activation="relu", **bare)(x)
    x = layers.Add()([x, skip])
    x = layers.SeparableConv2D(6, 3, activation="relu", **bare)(x) + skip
    inner = keras.Sequential([keras.Input((8, 6, 6)), layers.MaxPooling2D(2), layers.Conv2D(5, 1, **bare)])
    x = layers.LeakyReLU()(inner(x))
    x = layers.Conv2DTranspose(5, 3, strides=2, activation="relu", **bare)(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.AveragePooling2D(2)(x))
    x = layers.Subtract()([layers.Dropout(0.2)(x), x[..., ::-1] * 0.5])
    x = layers.Flatten()(layers.Concatenate()([x, start]))
    network = keras.Model(start, layers.Dense(2, use_bias=False)(layers.Dense(9, "relu", use_bias=False)(x)))
    for variable in network.non_trainable_variables:  # the statistics of the normalisation
        if "variance" in variable.path:
            variable.assign(np.linspace(0.5, 2, 6))
    return network


def test_two_layers_by_hand():
    """z = (a, b) W, h = relu(z), f = h v, all relevance worked out on paper."""
    network = keras.Sequential([keras.Input((2,)), layers.Dense(2, "relu"), layers.Dense(1)])
    network.set_weights(
        [np.array([[1.0, -1.0], [2.0, 1.0]]), np.array([0.5, 0.0]), np.array([[1.0], [3.0]]), np.array([0.25])]
    )
    # h = (1 + 4 + 0.5, -1 + 2) = (5.5, 1); f = 5.5 + 3 + 0.25 = 8.75
    r, f = relevances(network, [[1.0, 2.0]])
    assert f[0] == pytest.approx(8.75)
    first = 5.5 * np.array([1.0, 4.0]) / 5.5
    second = 3.0 * np.array([-1.0, 2.0]) / 1.0
    np.testing.assert_allclose(r[0], first + second, rtol=1e-6)
    assert f[0] - total(r)[0] == pytest.approx(0.5 + 0.25, rel=1e-6)  # what the biases absorb
    r, _ = relevances(network, [[1.0, 2.0]], "zplus")
    share = 8.75 / (5.5 + 3)  # no relevance goes to biases
    np.testing.assert_allclose(r[0], share * (5.5 * np.array([0.2, 0.8]) + 3.0 * np.array([0.0, 1.0])), rtol=1e-6)


def test_without_biases_the_epsilon_rule_tends_to_input_times_gradient(unbiased):
    x = np.random.default_rng(1).normal(size=(3, 8, 6, 3)).astype("float32")
    weights = np.array([0.3, -1.2])
    from physml._backend import vjp

    column = ops.convert_to_tensor(weights[:, None].astype("float32"))
    _, pull = vjp(lambda t: ops.matmul(unbiased(t), column), ops.convert_to_tensor(x))
    expected = x * ops.convert_to_numpy(pull(ops.ones((3, 1))))
    scale = abs(expected).max()
    gaps = []
    for epsilon in (1e-2, 1e-8):
        r, f = relevances(unbiased, x, epsilon=epsilon, weights=weights)
        gaps.append(abs(r - expected).max() / scale)
    assert gaps[0] > 1e-4
    assert gaps[1] < 5e-6
    np.testing.assert_allclose(total(r), f, rtol=1e-5, atol=1e-6 * abs(f).max())


def test_zplus_makes_no_relevance_negative_and_none_is_lost_where_kinks_follow_sums():
    rng = np.random.default_rng(0)
    network = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(5, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, kernel_constraint="non_neg"),
        ]
    )
    for w in network.weights:  # biases that are not positive, as Montavon et al. ask for
        w.assign(-0.05 * abs(rng.normal(size=w.shape)) if "bias" in w.path else rng.normal(size=w.shape))
    network.layers[-1].set_weights([abs(rng.normal(size=(4, 1))), np.zeros(1)])
    r, f = relevances(network, rng.normal(size=(20, 6, 6, 2)), "zplus")
    assert f.min() > 0
    assert r.min() >= 0
    np.testing.assert_allclose(total(r), f, rtol=1e-5)


def test_a_normalisation_is_folded_into_the_convolution_before_it():
    rng = np.random.default_rng(0)
    start = keras.Input((5, 4))
    x = layers.Conv1D(3, 3, padding="causal", name="conv")(start)
    network = keras.Model(start, layers.Dense(1)(layers.ReLU()(layers.BatchNormalization(name="norm")(x))))
    network.get_layer("norm").set_weights(
        [rng.normal(size=3), rng.normal(size=3), rng.normal(size=3), rng.random(3) + 0.5]
    )
    gamma, beta, mean, variance = network.get_layer("norm").get_weights()
    factor = gamma / np.sqrt(variance + network.get_layer("norm").epsilon)
    kernel, bias = network.get_layer("conv").get_weights()
    again = keras.Input((5, 4))
    y = layers.Conv1D(3, 3, padding="causal", name="folded", activation="relu")(again)
    folded = keras.Model(again, layers.Dense(1)(y))
    folded.get_layer("folded").set_weights([kernel * factor, (bias - mean) * factor + beta])
    folded.layers[-1].set_weights(network.layers[-1].get_weights())
    x = rng.normal(size=(4, 5, 4))
    for name in ("epsilon", "zplus"):
        a, b = relevances(network, x, name), relevances(folded, x, name)
        np.testing.assert_allclose(a[1], b[1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-6)


def test_a_network_of_a_list_of_values_gives_cells_their_relevance(ds, layout):
    valid = np.flatnonzero(layout.valid("inputs"))
    keras.utils.set_random_seed(0)
    flat = keras.Sequential([keras.Input((valid.size,)), layers.Dense(4, "relu", use_bias=False), layers.Dense(1)])
    result = Explainer(flat, zero(layout), None, None, layout=layout).gradients(ds, "lrp", epsilon=1e-9)
    x = layout.pack(ds, "inputs").fillna(0).values
    r, f = relevances(flat, x.reshape(24, -1)[:, valid])
    np.testing.assert_allclose(result.prediction, f, rtol=1e-5, atol=1e-6)
    found = np.moveaxis(result.attribution.values, 0, -1).reshape(24, -1)
    np.testing.assert_allclose(found[:, valid], r, rtol=1e-4, atol=1e-6)
    assert np.isnan(np.delete(found, valid, 1)).all()
    with pytest.raises(ValueError, match=r"'grad_cam' looks into the layers.*on no grid"):
        Explainer(flat, zero(layout), None, None, layout=layout).gradients(ds, "grad_cam")


@pytest.mark.parametrize("name", ["epsilon", "zplus"])
def test_what_comes_in_twice_is_counted_once(name):
    """Copies, and layers that hand on the very tensor they were given, are told apart."""
    start = keras.Input((4,))
    kept = layers.Dropout(0.5)(start)
    twice = [start + start, layers.Add()([start, kept]), ops.stack([start, start], 1)[:, 0], kept / 3.0]
    joined = ops.concatenate(twice, axis=-1)
    x = np.array([[1.0, 2.0, 0.5, 3.0]])
    r, f = relevances(keras.Model(start, joined), np.repeat(x, 4, 0), name)
    np.testing.assert_allclose(r, x * (2 + 2 + 1 + 1 / 3) + 0 * r, rtol=1e-5)
    np.testing.assert_allclose(total(r), f, rtol=1e-5)


def test_a_constant_over_a_signal_is_no_affine_function():
    start = keras.Input((4,))
    for network in (keras.Model(start, ops.divide(1.0, start)), keras.Model(start, 1.0 / start)):
        with pytest.raises(NotImplementedError, match="Divide"):
            inspect(network, (None, 4), "float32")


def test_relevance_follows_cells_around_the_circle():
    network = keras.Sequential([keras.Input((4, 1)), Pad(1, ("periodic",)), layers.Conv1D(1, 3, use_bias=False)])
    network.set_weights([np.array([1.0, 0.0, 10.0])[:, None, None]])
    r, _ = relevances(network, [[[1.0], [2.0], [3.0], [4.0]]], weights=np.array([1.0, 0, 0, 0]))
    np.testing.assert_allclose(r[0, :, 0], [0, 20, 0, 4], rtol=1e-6)  # both neighbours of the first cell


def test_a_network_of_many_scales_keeps_its_relevance_and_one_under_a_mask_is_named():
    cells = xr.Dataset({"a": (("time", "x"), np.zeros((3, 10)))}, {"time": np.arange(3)})
    layout = FieldSpec("a", "a").bind(cells)
    network = unet(layout, boundary={"x": "open"}, filters=3, depth=2, convolutions=1)
    rng = np.random.default_rng(0)
    network.set_weights([rng.normal(0, 0.5, w.shape) if w.ndim > 1 else w for w in network.get_weights()])
    x = rng.normal(size=(2, 10, 1))
    r, f = relevances(network, x)
    np.testing.assert_allclose(total(r), f, rtol=1e-4)
    partial = unet(layout, boundary={"x": "open"}, filters=3, depth=1, partial="nan")
    with pytest.raises(
        NotImplementedError, match=r"relevance cannot pass.*\(Valid\).*\(PartialConv\).*kind='integrated'"
    ):
        inspect(partial, (None, 10, 1), "float32")


@pytest.mark.parametrize("increment", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_field_model_counts_inputs_from_their_means(ds, increment):
    spec = FieldSpec(["tracer", "u", "v"], "tracer", target_offsets=1, mask="wet", area="cell_area")
    ds["tracer"] = (300 + 5 * ds.tracer).assign_attrs(units="K").astype("float32")
    keras.utils.set_random_seed(3)
    network = keras.Sequential(
        [keras.Input((4, 6, 3)), layers.Conv2D(6, 3, padding="same", activation="relu"), layers.Conv2D(1, 1)]
    )
    scaling = Scaling.fit(ds, spec)
    model = FieldModel(network, scaling=scaling, increment=increment)
    explainer = Explainer(model, climatology(ds, model.layout), groups(model.layout), area_mean())
    result = explainer.gradients(ds, "lrp", epsilon=1e-9)
    assert result.attribution.attrs["units"] == "K"
    whole = result.base_value + result.attribution.sum(("channel", "lat", "lon")) + result.residual
    np.testing.assert_allclose(whole, result.prediction, atol=1e-9)
    assert abs(result.residual).max() < 2e-4  # the biases of the network are zero; float32 of 300 K
    np.testing.assert_allclose(result.base_value, scaling.vector("mean", "targets")[0], rtol=2e-7)
    slope = explainer.gradients(ds, "saliency").attribution
    means = xr.DataArray(scaling.vector("mean", "inputs"), dims="channel")
    away = ds[["tracer", "u", "v"]].to_dataarray("channel") - means
    np.testing.assert_allclose(result.attribution.where(ds.wet, 0), (away * slope).where(ds.wet, 0), atol=2e-5)
    np.testing.assert_array_equal(result.attribution.notnull().all(("channel", "time")), ds.wet)


def test_relevance_of_lazy_data_is_lazy_and_the_same(ds, layout):
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4, 6, 3)), layers.Conv2D(2, 3, padding="same"), layers.Dense(1, "tanh")])
    target = box_mean(lat=slice(-90, 0))
    explainer = Explainer(network, zero(layout), None, target, layout=layout)
    whole = explainer.gradients(ds, "lrp", rule="zplus")
    lazy = explainer.gradients(ds.chunk(time=7), "lrp", rule="zplus", batch_rows=2)
    assert lazy.attribution.chunks
    xr.testing.assert_allclose(lazy.compute().drop_attrs(), whole.drop_attrs(), rtol=0, atol=1e-6)
    assert whole.attrs["rule"] == "zplus"


def test_layers_that_relevance_cannot_pass_are_named_before_anything_is_computed(ds, layout, monkeypatch):
    class Own(keras.layers.Layer):
        def call(self, x):
            return x * 2

    start = keras.Input((4, 6, 3))
    x = Own(name="mine")(layers.LayerNormalization(name="norm")(start))
    network = keras.Model(start, layers.Dense(2, activation="softmax", name="last")(x)[..., :1])
    explainer = Explainer(network, zero(layout), None, area_mean(), layout=layout)
    ran = []
    monkeypatch.setattr(network, "call", lambda *a, **k: ran.append(1))
    with pytest.raises(NotImplementedError) as error:
        explainer.gradients(ds, "lrp")
    text = str(error.value)
    for part in (
        "3 of the layers",
        "'norm' (LayerNormalization)",
        "'mine' (Own)",
        "'last' (Dense, activation softmax)",
    ):
        assert part in text
    assert not ran
    assert "Conv1D/2D/3D" in text and "kind='integrated'" in text


def test_laws_and_transforms_of_a_field_model_are_named(ds):
    spec = FieldSpec(["tracer", "u", "v"], "tracer", mask="wet")
    network = keras.Sequential([keras.Input((4, 6, 3)), layers.Dense(1)])
    model = FieldModel(network, scaling=Scaling.fit(ds, spec), constraints=[NonNegative("tracer")])
    explainer = Explainer(model, zero(model.layout), None, area_mean())
    with pytest.raises(
        NotImplementedError, match=r"NonNegative.*Remedy: kind='integrated'; or explain the fields before the laws"
    ):
        explainer.gradients(ds, "lrp")
    with pytest.raises(ValueError, match="rule 'epsilo' is unknown; did you mean 'epsilon'"):
        explainer.gradients(ds, "lrp", rule="epsilo")
    with pytest.raises(ValueError, match="epsilon is not positive"):
        explainer.gradients(ds, "lrp", epsilon=0)
    logarithm = Scaling.fit(ds.assign(tracer=np.exp(ds.tracer)), spec, method={"tracer": "log"})
    transformed = FieldModel(network, scaling=logarithm)
    with pytest.raises(NotImplementedError, match=r"scaling 'log' of 'tracer'. Remedy: kind='integrated'\.$"):
        Explainer(transformed, zero(model.layout), None, area_mean()).gradients(ds, "lrp")
    alone = FieldModel(model.network, scaling=model.scaling, increment=model.increment)
    assert "residual" in Explainer(alone, zero(model.layout), None, area_mean()).gradients(ds, "lrp")


def test_maps_are_interpolated_on_the_extent_of_the_grid():
    field = np.random.default_rng(0).random((2, 3, 4))
    np.testing.assert_array_equal(resized(field, (3, 4)), field)
    ramp = np.broadcast_to((np.arange(6) + 0.5) / 6, (1, 6))
    finer = resized(ramp, (12,))
    np.testing.assert_allclose(finer[0, 1:-1], ((np.arange(12) + 0.5) / 12)[1:-1], rtol=1e-12)
