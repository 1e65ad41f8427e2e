"""A run that was killed goes on as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from physml.training import History, fit

OPTIONS = {
    "epochs": 6,
    "learning_rate": 0.05,
    "optimizer": {"type": "sgd", "momentum": 0.9},
    "schedule": {"type": "plateau", "patience": 1, "factor": 0.5},
    "patience": 3,
    "seed": 5,
}


class Kill(keras.callbacks.Callback):
    """Stops a run in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.at, self.epoch = epoch, -1

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.at and batch == 1:
            raise KeyboardInterrupt


def test_a_run_that_goes_on_is_the_run_that_was_not_stopped(make, batches, tmp_path):
    def run(**options):
        model = make(dropout=0.3, units=32)
        order = {"shuffle": True, "seed": 7}
        history = fit(model, batches(8, **order), batches(16, 1), **OPTIONS, **options)
        return history, [*model.get_weights(), *map(keras.ops.convert_to_numpy, model.optimizer.variables)]

    whole, expected = run()
    state = tmp_path / "state.npz"
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=state, callbacks=[Kill(3)])
    keras.utils.set_random_seed(1)
    with pytest.raises(FileExistsError, match="holds the state of an earlier run"):
        run(checkpoint=state)
    seen = []
    note = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append(epoch))
    again, found = run(checkpoint=state, resume=True, callbacks=[note])
    assert seen[0] == 3 and len(again["loss"]) == len(whole["loss"])
    for name in whole:
        np.testing.assert_allclose(again[name], whole[name], rtol=1e-6)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]
    # A run that is done, stopped early or not, is not trained further: the best weights are there at once.
    seen.clear()
    done, kept = run(checkpoint=state, resume=True, callbacks=[note])
    assert not seen and done == again
    for ours, theirs in zip(kept[:4], found[:4], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_more_epochs_may_follow_unless_the_rate_falls_over_all_of_them(make, batches, tmp_path):
    state = {"checkpoint": tmp_path / "state.npz", "resume": True}
    model = make()
    fit(model, batches(16), epochs=2, optimizer="sgd", **state)
    history = fit(model, batches(16), epochs=3, optimizer="sgd", **state)
    assert len(history["loss"]) == 3 and isinstance(history, History)
    for options, words in (
        ({"optimizer": "sgd", "schedule": "cosine"}, r"other settings. Expected: schedule \{'type': 'constant'\}"),
        ({"optimizer": "adam"}, r"'type': 'sgd'.*Received: optimizer \{'type': 'adam'"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(model, batches(16), epochs=4, **options, **state)
    with pytest.raises(ValueError, match=r"other settings. Expected: parameters 25. Received: parameters 7"):
        fit(make(units=2), batches(16), epochs=4, optimizer="sgd", **state)
    (tmp_path / "state.npz").write_bytes(b"PK broken")
    with pytest.raises(ValueError, match=r"cannot be read.*remove it, and begin again"):
        fit(model, batches(16), epochs=4, optimizer="sgd", **state)


CHILD = """
import sys, time
from physml.run.quiet import start_backend
start_backend()
import keras, numpy as np
sys.path.insert(0, {tests!r})
from conftest import SPEC, noisy
from physml import Batches, FieldModel, Scaling
from physml.training import fit

out, state, sleep = sys.argv[1], sys.argv[2] or None, len(sys.argv) > 3
train, held_out = noisy(40, 0), noisy(16, 1)
scaling = Scaling.fit(train, SPEC)
start = keras.Input((3, 1))
x = keras.layers.Dense(8, "tanh", kernel_initializer=keras.initializers.GlorotUniform(0))(start)
x = keras.layers.BatchNormalization()(keras.layers.Dropout(0.3)(x))
end = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(1))(x)
model = FieldModel(keras.Model(start, end), scaling=scaling)

class Wait(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_end(self, batch, logs=None):
        if sleep and self.epoch == 3 and batch == 1:
            print("in epoch 4", flush=True)
            time.sleep(120)

history = fit(
    model, Batches(train, scaling.layout, 8, shuffle=True, seed=2), Batches(held_out, scaling.layout, 8), epochs=6,
    learning_rate=0.01, optimizer="adamw", schedule="cosine", warmup=1, clip_norm=1.0, patience=5, seed=4, callbacks=[Wait()],
    checkpoint=state, resume=state is not None,
)
history.save(out + ".json")
arrays = [*model.get_weights(), *map(keras.ops.convert_to_numpy, model.optimizer.variables)]
np.savez(out + ".npz", **{{str(i): a for i, a in enumerate(arrays)}})
"""


@pytest.mark.long
def test_a_run_ended_by_sigterm_goes_on_to_the_same_numbers(tmp_path):
    from pathlib import Path

    script = tmp_path / "train.py"
    script.write_text(CHILD.format(tests=str(Path(__file__).parent)))
    state = tmp_path / "state.npz"

    def command(out: str, kept: str, *more: str) -> list[str]:
        return [sys.executable, str(script), str(tmp_path / out), kept, *more]

    with subprocess.Popen(command("killed", str(state), "sleep"), stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "in epoch 4"
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == -signal.SIGTERM
    assert state.exists() and not (tmp_path / "killed.json").exists()
    subprocess.run(command("resumed", str(state)), check=True)
    subprocess.run(command("whole", ""), check=True)
    ours, theirs = (History.load(tmp_path / f"{name}.json") for name in ("resumed", "whole"))
    assert len(ours["loss"]) == 6
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6)
    with np.load(tmp_path / "resumed.npz") as found, np.load(tmp_path / "whole.npz") as expected:
        assert found.files == expected.files
        for name in expected.files:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-8)
