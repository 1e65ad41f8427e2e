"""The joint projection onto positivity and a total: exactness and cost, beside clamping and rescaling.

    python benchmarks/constraints_projection.py

prints one JSON line per claim.
"""

import json
import math
import statistics
import time

import numpy as np

from physml.run.quiet import start_backend

start_backend()

import keras  # noqa: E402  after the start-up messages

from physml import _backend  # noqa: E402
from physml.constraints.projection import project_sum  # noqa: E402

CELLS = 1_000_000


def report(claim: str, measured: float, unit: str, target: float, peer: str, peer_measured: float | None) -> None:
    holds = measured <= target
    line = {"claim": claim, "measured": measured, "unit": unit, "target": target, "peer": peer}
    print(json.dumps({**line, "peer_measured": peer_measured, "holds": bool(holds)}), flush=True)


def residual(y: np.ndarray, w: np.ndarray, total: float) -> float:
    return abs(math.fsum(y.astype("float64") * w) - total) / total


def clamp_and_rescale(z: np.ndarray, w: np.ndarray, total: float) -> np.ndarray:
    y = np.maximum(z, 0)
    return (y * np.float32(total / np.sum(y * w.astype("float32")))).astype("float32")


def median_ms(function, repeats: int = 5) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    rng = np.random.default_rng(0)
    w = rng.uniform(0.5, 1.5, (1, CELLS))
    state = np.abs(rng.normal(size=(1, 1, CELLS))).astype("float32")
    z = (state + 0.3 * rng.normal(size=state.shape)).astype("float32")
    total = math.fsum(state[0, 0].astype("float64") * w[0])

    def ours() -> np.ndarray:
        return np.asarray(project_sum(z, [state], weights=w, coefficients=[1.0], lower=0.0))

    y = ours()[0, 0]
    theirs = clamp_and_rescale(z[0, 0], w[0], total)
    name = "clamp and rescale"
    backend = keras.backend.backend()
    report(
        f"relative residual of the total on 1e6 float32 cells, {backend}",
        residual(y, w[0], total),
        "1",
        6e-8,
        name,
        residual(theirs, w[0], total),
    )
    report(f"negative cells, {backend}", int((y < 0).sum()), "cells", 0, name, int((theirs < 0).sum()))
    distance = [float(np.sqrt(np.sum(w[0] * (a.astype("float64") - z[0, 0]) ** 2))) for a in (y, theirs)]
    report(f"distance moved over that of {name}, {backend}", distance[0] / distance[1], "1", 1.0, name, 1.0)
    report(
        f"projection of 1e6 cells, {backend}",
        median_ms(ours),
        "ms",
        40.0,
        name,
        median_ms(lambda: clamp_and_rescale(z[0, 0], w[0], total)),
    )

    # The gradient against central differences, off the kinks, in float64.
    z64, w64 = rng.normal(size=(1, 1, 60)), rng.uniform(0.5, 1.5, (1, 60))
    state64, g = np.abs(rng.normal(size=z64.shape)), rng.normal(size=z64.shape)

    def value(x):
        moved = project_sum(x, [state64], weights=w64, coefficients=[1.0], lower=0.0)
        return keras.ops.sum(moved * keras.ops.convert_to_tensor(g))

    with _backend.float64():
        _, gradient = _backend.value_and_gradient(value, z64)
        step, numeric = 1e-6, np.zeros_like(z64)
        for i in range(z64.size):
            ends = []
            for sign in (1, -1):
                moved = z64.copy()
                moved.flat[i] += sign * step
                ends.append(float(value(keras.ops.convert_to_tensor(moved))))
            numeric.flat[i] = (ends[0] - ends[1]) / (2 * step)
    error = float(np.abs(gradient - numeric).max() / np.abs(numeric).max())
    report(f"vector-Jacobian product against finite differences, {backend}", error, "1", 1e-8, "", None)


if __name__ == "__main__":
    main()
