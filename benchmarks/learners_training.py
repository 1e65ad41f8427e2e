"""What the training recipe costs beside plain ``model.fit`` of Keras, and whether a run that was killed goes on exactly.

    python benchmarks/learners_training.py

prints one JSON line per claim. Times are medians of five, of epochs after the first, on the same batches and network.
"""

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

start_backend()

import keras  # noqa: E402  after the start-up messages

from physml import Batches, FieldModel, FieldSpec, Scaling, networks  # noqa: E402
from physml.training import fit  # noqa: E402

EPOCHS, REPEATS = 6, 5


def report(claim: str, measured: float, unit: str, target: float, peer: str, peer_measured: float | None, holds: bool):
    line = {"claim": claim, "measured": measured, "unit": unit, "target": target, "peer": peer}
    print(json.dumps({**line, "peer_measured": peer_measured, "holds": bool(holds)}), flush=True)


def data(n: int = 400) -> xr.Dataset:
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(size=(n, 24, 32)), axis=0).astype("float32")
    return xr.Dataset({"c": (("time", "y", "x"), x)}, {"time": np.arange(n)})


def model(scaling: Scaling, dropout: float = 0.0) -> FieldModel:
    keras.utils.set_random_seed(0)
    network = networks.cnn(scaling.layout, boundary={"y": "closed", "x": "periodic"}, filters=8, blocks=1)
    if dropout:
        start = keras.Input(network.input_shape[1:])
        network = keras.Model(start, network(keras.layers.Dropout(dropout)(start)))
    return FieldModel(network, scaling=scaling, increment=True)


class Clock(keras.callbacks.Callback):
    """Seconds of every epoch, with what is done after it."""

    def on_train_begin(self, logs=None):
        """Forget what was measured."""
        self.times = []

    def on_epoch_begin(self, epoch, logs=None):
        """Read the clock."""
        self.times.append(time.perf_counter())


def epoch_time(train) -> float:
    """Return the median seconds of an epoch, of those after the first."""
    clock = Clock()
    train(clock)
    return statistics.median(np.diff(clock.times)[1:])


def overhead() -> None:
    ds = data()
    scaling = Scaling.fit(ds, FieldSpec("c", "c", target_offsets=1))

    def batches():
        return Batches(ds, scaling.layout, 16, shuffle=True)

    def plain(clock):
        network = model(scaling)
        network.compile(keras.optimizers.Adam(1e-3), "mse")
        network.fit(batches(), epochs=EPOCHS, verbose=0, callbacks=[clock])

    def recipe(clock):
        with tempfile.TemporaryDirectory() as folder:
            fit(
                model(scaling),
                batches(),
                epochs=EPOCHS,
                schedule="cosine",
                warmup=1,
                seed=0,
                checkpoint=Path(folder) / "state.npz",
                callbacks=[clock],
            )

    # In turns, so that a busy machine is busy for both.
    pairs = [(epoch_time(recipe), epoch_time(plain)) for _ in range(REPEATS)]
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    peer = statistics.median(theirs for _, theirs in pairs)
    claim = "an epoch by the recipe (schedule, warm-up, record, state on disk) over one of keras fit, 25 steps of a small network"
    report(claim, ratio, "1", 1.1, "keras fit [s per epoch]", peer, ratio <= 1.1)


def child(out: str, state: str | None, wait: bool) -> None:
    """Train in a process of its own; *wait* in the fourth epoch to be killed."""
    ds = data(120)
    scaling = Scaling.fit(ds, FieldSpec("c", "c", target_offsets=1))
    network = model(scaling, dropout=0.1)

    class Wait(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if wait and epoch == 3:
                print("now", flush=True)
                time.sleep(300)

    history = fit(
        network,
        Batches(ds, scaling.layout, 16, shuffle=True, seed=3),
        epochs=EPOCHS,
        schedule="cosine",
        optimizer="adamw",
        seed=1,
        checkpoint=state,
        resume=state is not None,
        callbacks=[Wait()],
    )
    np.savez(out, loss=history["loss"], **{f"w{i}": w for i, w in enumerate(network.get_weights())})


def exactness() -> None:
    with tempfile.TemporaryDirectory() as folder:
        state, resumed, whole = (str(Path(folder) / n) for n in ("state.npz", "resumed.npz", "whole.npz"))

        def command(*arguments: str) -> list[str]:
            return [sys.executable, __file__, *arguments]

        with subprocess.Popen(command(resumed, state, "wait"), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            killed = process.wait() == -signal.SIGTERM
        subprocess.run(command(resumed, state), check=True)
        subprocess.run(command(whole, ""), check=True)
        with np.load(resumed) as ours, np.load(whole) as theirs:
            apart = max(float(np.abs(ours[n] - theirs[n]).max() / np.abs(theirs[n]).max()) for n in theirs.files)
    claim = "killed by SIGTERM in epoch 4 and resumed, with dropout, AdamW, cosine: greatest relative difference of weights and losses from the run not killed"
    report(claim, apart, "1", 1e-6, "the run not killed", None, killed and apart <= 1e-6)


def gathered() -> None:
    """Compare one step on 37 samples at once with one gathered from parts of 8."""
    ds = data(38)
    scaling = Scaling.fit(ds, FieldSpec("c", "c", target_offsets=1))
    found = []
    for size in (8, 64):
        network = model(scaling)
        before = network.get_weights()
        fit(network, Batches(ds, scaling.layout, size), epochs=1, learning_rate=1.0, optimizer="sgd", descent="batch")
        found.append([a - b for a, b in zip(network.get_weights(), before, strict=True)])
    largest = max(float(np.abs(g).max()) for g in found[1])
    apart = max(float(np.abs(a - b).max()) for a, b in zip(*found, strict=True)) / largest
    claim = (
        "gradient of the whole set gathered from parts of 8 of 37 samples: greatest difference over its greatest number"
    )
    report(claim, apart, "1", 1e-5, "all at once", None, apart <= 1e-5)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        child(sys.argv[1], sys.argv[2] or None, "wait" in sys.argv[3:])
    else:
        gathered()
        exactness()
        overhead()
