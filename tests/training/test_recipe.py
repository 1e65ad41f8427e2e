"""The recipe: what a step sees, what a seed fixes, when it stops, and what is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from physml import FieldModel
from physml.heads import Gaussian
from physml.training import fit
from physml.training.descent import whole_set

SGD = {"type": "sgd", "momentum": 0.5}


def weights(model) -> list[np.ndarray]:
    return model.get_weights()


def test_the_gathered_gradient_is_that_of_the_whole_set(make, batches):
    # 29 samples in parts of 8: three samples of weight zero fill up the last one.
    parts, whole = make(), make()
    options = {"epochs": 3, "learning_rate": 0.1, "optimizer": SGD, "schedule": "cosine", "descent": "batch"}
    gathered = fit(parts, batches(8), **options)
    at_once = fit(whole, batches(64), **options)
    assert int(parts.optimizer.iterations) == int(whole.optimizer.iterations) == 3
    for name in ("loss", "learning_rate"):
        np.testing.assert_allclose(gathered[name], at_once[name], rtol=2e-6)
    for ours, theirs in zip(weights(parts), weights(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-7)


def test_the_whole_set_keeps_every_sample_once(batches):
    parts = whole_set(batches(8, shuffle=True))
    x, y, w = (np.concatenate(t) for t in zip(*(parts[i] for i in range(len(parts))), strict=True))
    assert len(parts) == 4 and len(x) == 32
    ours, theirs, weight = next(iter(batches(29)))
    np.testing.assert_array_equal(x[:29], ours)
    np.testing.assert_array_equal(y[:29], theirs)
    np.testing.assert_allclose(w[:29], weight * 32 / 29, rtol=1e-6)
    assert not w[29:].any()


def test_stochastic_descent_takes_a_step_for_every_sample(make, batches):
    model = make()
    history = fit(model, batches(8), epochs=2, learning_rate=1e-3, optimizer="sgd", descent="stochastic")
    assert int(model.optimizer.iterations) == 2 * 29
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.long
def test_one_seed_makes_one_history(make, batches):
    def run(seed):
        return fit(make(0.5), batches(8, shuffle=True, seed=1), epochs=2, seed=seed)

    first = run(3)
    keras.utils.set_random_seed(99)  # what happened before does not matter
    assert run(3) == first
    assert run(4) != first


def test_the_best_weights_come_back(make, batches):
    model = make(units=32)
    history = fit(model, batches(8), batches(16, 1), epochs=40, learning_rate=0.1, patience=2, min_delta=1e-3)
    best = min(history["val_loss"])
    assert len(history["loss"]) < 40
    assert history["val_loss"][-1] > best == history["val_loss"][history.best_epoch - 1]
    assert model.evaluate(batches(16, 1), verbose=0) == pytest.approx(best, rel=1e-5)


def test_the_rate_falls_on_a_plateau_after_a_warm_up(make, batches):
    plateau = {"type": "plateau", "patience": 1, "factor": 0.5, "min_delta": 1e9}
    history = fit(make(), batches(8), batches(16, 1), epochs=5, learning_rate=0.01, schedule=plateau, warmup=2)
    # Eight steps of warm-up; nothing is better by 1e9 after the first epoch, so that the rate then halves every epoch.
    expected = [0.01 / 8, 0.01 * 5 / 8, 0.01, 0.005, 0.0025]
    np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-5)


def test_a_head_brings_its_loss_and_any_keras_model_may_come(scaling, batches):
    start = keras.Input((3, 1))
    network = keras.Model(start, keras.layers.Dense(2)(start))
    gaussian = FieldModel(network, scaling=scaling, head=Gaussian())
    fit(gaussian, batches(8), epochs=1)
    assert "nll" in gaussian.loss.name
    plain = keras.Sequential([keras.Input((3, 1)), keras.layers.Dense(1)])
    epochs = []
    seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    history = fit(plain, batches(8, shuffle=True), batches(16, 1), epochs=2, metrics=["mae"], callbacks=[seen])
    assert epochs == [0, 1] and {"mae", "val_mae"} < set(history)


@pytest.mark.long
def test_float16_trains_with_a_scaled_loss(scaling, batches):
    start = keras.Input((3, 1))
    half = keras.layers.Dense(4, "tanh", dtype="mixed_float16")(start)
    model = FieldModel(keras.Model(start, keras.layers.Dense(1, dtype="float32")(half)), scaling=scaling)
    history = fit(model, batches(8), epochs=2, learning_rate=0.01, clip_norm=1.0)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patience": 3}, "early stopping has nothing to watch"),
        ({"schedule": {"type": "plateau", "patience": 1, "factor": 0.5}}, "falls on a plateau has nothing to watch"),
        ({"schedule": "cosin"}, "schedule 'cosin' is not known; did you mean 'cosine'"),
        ({"optimizer": {"type": "sgd", "momentun": 0.9}}, "no argument 'momentun'; did you mean 'momentum'"),
        ({"descent": "minibatch"}, "descent 'minibatch' is not known; did you mean 'mini-batch'"),
        ({"epochs": 0}, "epochs is no number of epochs"),
        ({"learning_rate": 0.0}, "learning_rate is out of range. Expected: above 0. Received: 0.0"),
        ({"warmup": -1.0}, "warmup is out of range. Expected: at least 0"),
        ({"warmup": 2.0}, "warmup leaves no epoch"),
        ({"clip_norm": 1.0, "clip_value": 1.0}, "the gradient is clipped twice"),
        ({"resume": True}, "there is nothing to resume from"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_compiled(make, batches, options, words):
    model = make()
    with pytest.raises(ValueError, match=words):
        fit(model, batches(8), **{"epochs": 2, **options})
    assert not model.compiled


def test_a_run_that_diverges_says_so_and_leaves_no_state(make, batches, tmp_path):
    with pytest.raises(ValueError, match=r"training diverged in epoch 1.*a finite loss"):
        fit(make(), batches(8), epochs=3, learning_rate=1e30, optimizer="sgd", checkpoint=tmp_path / "state.npz")
    assert not list(tmp_path.iterdir())


def test_no_callback_makes_keras_wait_for_the_loss_of_every_batch(make, batches, monkeypatch):
    seen = []
    model = make()
    monkeypatch.setattr(type(model), "fit", lambda self, *data, **options: seen.extend(options["callbacks"]))
    with pytest.raises(ValueError, match="diverged"):  # nothing was trained
        fit(model, batches(8), epochs=1)
    assert len(seen) > 3
    hooks = ("on_batch_end", "on_train_batch_end")
    for callback in seen:
        plain = all(getattr(getattr(callback, hook), "_is_default", False) for hook in hooks)
        assert plain or callback.async_safe, type(callback).__name__
