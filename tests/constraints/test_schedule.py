"""PenaltySchedule: the weight of soft laws follows its ramp, in the loss itself, without tracing again."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import xarray as xr

from physml import Closure, FieldModel, FieldSpec, PenaltySchedule, Scaling, load, networks

LAW = Closure(0.0, sources=("a", "b"), sinks="x")
SPEC = FieldSpec("x", ["a", "b"], sample_dim="case")


@pytest.fixture
def model():
    x = np.random.default_rng(0).normal(size=32).astype("float32")
    ds = xr.Dataset({"x": ("case", x), "a": ("case", 0.3 * x), "b": ("case", 0.7 * x)}, {"case": np.arange(32)})
    scaling = Scaling.fit(ds, SPEC)
    model = FieldModel(networks.mlp(scaling.layout, hidden=(4,)), scaling=scaling, penalties=LAW, penalty=0.5)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.data = x[:, None], np.stack([0.3 * x, 0.7 * x], axis=-1)
    return model


def test_the_ramp_is_linear_or_exponential_between_its_ends():
    line = PenaltySchedule(0.0, 1.0, epochs=4, begin=2)
    np.testing.assert_allclose([line.at(e) for e in range(9)], [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1])
    curve = PenaltySchedule(1.0, 1e-4, epochs=4, form="exponential")
    np.testing.assert_allclose([curve.at(e) for e in range(6)], [1, 0.1, 0.01, 1e-3, 1e-4, 1e-4])
    assert PenaltySchedule(**curve.get_config()).at(3) == curve.at(3)


def test_the_loss_is_the_free_one_plus_the_weight_of_each_epoch(model):
    x, y = model.data
    schedule = PenaltySchedule(0.0, 3.0, epochs=3)
    traces = []
    through = model.through
    model.through = lambda *args, **kwargs: traces.append(1) or through(*args, **kwargs)
    history = model.fit(x, y, batch_size=32, epochs=5, verbose=0, callbacks=[schedule]).history
    outputs = np.asarray(model.predict_on_batch(x))
    residual = float(np.mean((outputs.sum(-1) - x[:, 0]) ** 2))
    np.testing.assert_allclose(np.diff(history["loss"]), [residual] * 3 + [0], atol=1e-5)
    assert history["penalty"] == [0.0, 1.0, 2.0, 3.0, 3.0]
    assert model.penalty == 3.0
    assert len(traces) <= 3


def test_the_weight_travels_with_the_model(model, tmp_path):
    model.penalty = 0.1
    model.save(tmp_path / "m.keras")
    again = load(tmp_path / "m.keras")
    assert again.penalty == 0.1
    x, y = model.data
    for m in (model, again):
        m.compile("sgd", "mse")
    np.testing.assert_allclose(again.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-6)


def test_a_model_without_penalties_keeps_its_weight_and_refuses_a_schedule(model):
    plain = FieldModel(model.network, scaling=model.scaling, penalty=0.25)
    plain.penalty = 0.5
    assert plain.penalty == 0.5
    assert len(plain.non_trainable_weights) == 0
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"the model has no penalties.*a FieldModel without.*penalties=\.\.\."):
        plain.fit(*model.data, verbose=0, callbacks=[PenaltySchedule(0, 1, 2)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"start": -1, "end": 1, "epochs": 2}, r"start and end cannot be used. Expected: >= 0"),
        ({"start": 0, "end": 1, "epochs": 0}, r"epochs cannot be used. Expected: >= 1. Received: 0"),
        ({"start": 0, "end": 1, "epochs": 2, "form": "exponental"}, r"did you mean 'exponential'\?"),
        ({"start": 0, "end": 1, "epochs": 2, "form": "exponential"}, r"> 0 on an exponential ramp. Received: start=0"),
    ],
)
def test_ramps_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        PenaltySchedule(**arguments)
