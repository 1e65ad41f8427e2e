"""Laws as a layer of any Keras model: hard or soft, in half precision too, saved and loaded with it."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from physml import Batches, Conserve, ConstraintLayer, Constraints, FieldSpec, NonNegative

SPEC = FieldSpec(["tracer", "u", "v"], "tracer", target_offsets=1, members="run", mask="wet")
LAWS = [NonNegative("tracer"), Conserve("tracer", ("lat", "lon"), weights="cell_volume")]


@pytest.fixture(scope="module")
def layout(gyre):
    return SPEC.bind(gyre)


def plain_model(layout, laws=LAWS, **options):
    """Return a user's own functional model with the laws at its end."""
    start = keras.Input((*layout.shape, 3))
    hidden = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(start)
    out = keras.layers.Conv2D(1, 3, padding="same")(hidden)
    return keras.Model(start, ConstraintLayer(laws, layout, name="laws", **options)(out, start))


def totals(tensor, gyre):
    volume = np.where(gyre.wet, gyre.cell_volume, 0)
    return (np.asarray(tensor, "float64")[..., 0] * volume).sum((1, 2))


def test_a_plain_model_obeys_while_it_learns_and_after_it_is_loaded(gyre, layout, tmp_path):
    model = plain_model(layout)
    model.compile("adam", "mse")
    batches = Batches(gyre, layout, 8)
    model.fit(batches, epochs=1, verbose=0, shuffle=False)
    x = batches[0][0]
    y = model.predict_on_batch(x)
    np.testing.assert_allclose(totals(y, gyre), totals(x, gyre), rtol=2e-7)
    assert y.min() >= 0
    model.save(tmp_path / "plain.keras")
    again = keras.saving.load_model(tmp_path / "plain.keras")
    np.testing.assert_array_equal(again.predict_on_batch(x), y)
    assert list(again.get_layer("laws").constraints) == LAWS


def test_the_layer_survives_its_config_as_json(gyre, layout):
    layer = Constraints(LAWS).layer(layout)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert list(again.constraints) == LAWS
    assert again.layout.spec == layer.layout.spec
    assert again.compute_output_shape((None, 12, 16, 1), (None, 12, 16, 3)) == (None, 12, 16, 1)


def test_half_precision_around_it_does_not_break_the_budget(gyre, layout):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = plain_model(layout)
    finally:
        keras.config.set_dtype_policy("float32")
    x = Batches(gyre, layout, 8)[0][0]
    y = model.predict_on_batch(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(totals(y, gyre), totals(x, gyre), rtol=2e-7)


def test_a_penalty_joins_the_loss_and_leaves_the_output(gyre, layout):
    soft, free = plain_model(layout, penalty=10.0), plain_model(layout, laws=[])
    free.set_weights(soft.get_weights())
    x, y, _ = Batches(gyre, layout, 8)[0]
    np.testing.assert_array_equal(soft.predict_on_batch(x), free.predict_on_batch(x))
    layer = soft.get_layer("laws")
    out = free.predict_on_batch(x)
    expected = 10 * float(
        layer.constraints.loss(layer.layout.split(out, "targets"), layer.layout.split(x, "inputs"), layer.layout)
    )
    for model in (soft, free):
        model.compile("sgd", "mse")
    added = soft.evaluate(x, y, verbose=0) - free.evaluate(x, y, verbose=0)
    assert expected > 0
    np.testing.assert_allclose(added, expected, rtol=1e-4)


def test_laws_that_do_not_fit_are_refused_when_the_layer_is_made(layout):
    with pytest.raises(KeyError, match=r"NonNegative acts on 'u', which is no target"):
        ConstraintLayer([NonNegative("u")], layout)
