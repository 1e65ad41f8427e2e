"""What laws cost in training, how exact totals can be made, and how they stay over ten thousand float32 steps.

    python benchmarks/constraints_cost.py

prints one JSON line per claim; training steps are medians of fifteen, with and without laws in turn, in one process.
"""

import json
import math
import statistics
import time

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

start_backend()

import keras  # noqa: E402  after the start-up messages

from physml import Batches, Closure, Conserve, FieldModel, FieldSpec, NonNegative, Scaling, Simplex  # noqa: E402
from physml.constraints.projection import project_sum  # noqa: E402
from physml.predictor import Predictor  # noqa: E402

LAT, LON, BATCH, FILTERS, STEPS = 64, 128, 8, 32, 10_000
NAMES = ("a", "b", "c")


def report(claim: str, measured: float, unit: str, target: float, peer: str, peer_measured: float | None) -> None:
    line = {"claim": claim, "measured": measured, "unit": unit, "target": target, "peer": peer}
    print(json.dumps({**line, "peer_measured": peer_measured, "holds": bool(measured <= target)}), flush=True)


def maps(shape: tuple[int, int], n: int) -> xr.Dataset:
    rng = np.random.default_rng(0)
    field = {k: (("time", "lat", "lon"), np.abs(rng.normal(size=(n, *shape))).astype("float32")) for k in NAMES}
    ds = xr.Dataset(
        field, {"time": np.arange(n), "lat": np.linspace(-88, 88, shape[0]), "lon": np.arange(shape[1]) * 1.0}
    )
    return ds.assign(area=np.cos(np.deg2rad(ds.lat)) * xr.ones_like(ds.lon))


def cnn(layout, filters: int = FILTERS, depth: int = 4) -> keras.Model:
    start = x = keras.Input((*layout.shape, len(layout.inputs)))
    for _ in range(depth):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    return keras.Model(start, keras.layers.Conv2D(len(layout.targets), 1)(x))


SUMS = [Conserve(n, ("lat", "lon"), "area") for n in NAMES]
SETS = {
    "none": [],
    "three sums": SUMS,
    "three sums and positivity": [*SUMS, NonNegative("a"), NonNegative("b"), NonNegative("c")],
    "a closure, a sum and positivity, coupled": [NonNegative("a"), Closure("c", "a", "b"), SUMS[0]],
    "three fractions": [Simplex(NAMES)],
}


def training() -> None:
    ds = maps((LAT, LON), BATCH + 1)
    spec = FieldSpec(NAMES, NAMES, target_offsets=1, area="area")
    scaling = Scaling.fit(ds, spec)
    x, y = Batches(ds, spec, BATCH)[0][:2]
    models = {}
    for what, laws in SETS.items():
        keras.utils.set_random_seed(0)
        models[what] = FieldModel(cnn(scaling.layout), scaling=scaling, constraints=laws)
        models[what].compile("adam", "mse")
        for _ in range(2):
            models[what].train_on_batch(x, y)
    times: dict[str, list[float]] = {what: [] for what in SETS}
    for _ in range(15):
        for what, model in models.items():
            start = time.perf_counter()
            model.train_on_batch(x, y)
            times[what].append(time.perf_counter() - start)
    free = statistics.median(times["none"])
    for what in list(SETS)[1:]:
        more = statistics.median(t / f - 1 for t, f in zip(times[what], times["none"], strict=True))
        name = f"{what}: added to a training step of a {FILTERS}-channel CNN on {LAT} x {LON}"
        report(name, 100 * more, "%", 5.0, "no laws, ms", 1e3 * free)


def exact_totals() -> None:
    rng = np.random.default_rng(0)
    w = rng.uniform(0.5, 1.5, (1, 1_000_000))
    state = np.abs(rng.normal(size=(1, 1, w.size))).astype("float32")
    z = (state + 0.3 * rng.normal(size=state.shape)).astype("float32")
    total = math.fsum(state[0, 0].astype("float64") * w[0])
    found = []
    for settled in (64, 0):
        y = np.asarray(project_sum(z, [state], weights=w, coefficients=[1.0], lower=0.0, settled=settled))[0, 0]
        found.append(abs(math.fsum(y.astype("float64") * w[0]) - total) / total)
    report(
        "relative residual of the total on 1e6 float32 cells, settled on 64",
        found[0],
        "1",
        1e-14,
        "not settled",
        found[1],
    )


def long_run() -> None:
    ds = maps((16, 32), 9)
    spec = FieldSpec("a", "a", target_offsets=1, area="area")
    keras.utils.set_random_seed(0)
    scaling = Scaling.fit(ds, spec)
    network = cnn(scaling.layout, 8, 1)
    network.layers[-1].set_weights([0.3 * w for w in network.layers[-1].get_weights()])
    laws = [NonNegative("a"), Conserve("a", ("lat", "lon"), "area")]
    model = FieldModel(network, scaling=scaling, constraints=laws, increment=True)
    w = ds.area.values.astype("float64")
    drifts = {}
    for carrying in (True, False):
        step = Predictor(model, 1, carrying=carrying)
        x = ds.a.values[:1, ..., None]
        x = np.concatenate([x, np.zeros_like(x)], -1) if carrying else x
        first, found = (x[0, ..., 0].astype("float64") * w).sum(), []
        for _ in range(STEPS):
            x = step(x)
            found.append(((x[0, ..., 0].astype("float64") * w).sum() - first) / first)
        drifts[carrying] = np.array(found)
    worst = [float(np.abs(drifts[c]).max()) for c in (True, False)]
    report(
        f"greatest drift of the total in {STEPS} float32 steps, relative", worst[0], "1", 1e-6, "not carried", worst[1]
    )
    halves = [[float(half.mean()) for half in np.split(drifts[c], 2)] for c in (True, False)]
    trend = [abs(second - first) for first, second in halves]
    report(
        "mean drift of the second half of the run minus that of the first", trend[0], "1", 6e-8, "not carried", trend[1]
    )


if __name__ == "__main__":
    training()
    exact_totals()
    long_run()
