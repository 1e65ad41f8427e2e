"""The projection onto a weighted sum with bounds, beside cvxpylayers, jaxopt and a clamp-and-rescale, on the same cases.

    python benchmarks/constraints_peers.py

prints one JSON line per claim; needs the extra ``bench``. 64 groups of 60 cells, positive, with a given weighted sum.
"""

import importlib.util
import json
import math
import statistics
import time
import warnings

import numpy as np

from physml.run.quiet import start_backend

start_backend()

from physml.constraints.projection import project_sum  # noqa: E402  after the start-up messages

GROUPS, CELLS = 64, 60


def report(claim: str, measured: float, unit: str, target: float, peer: str, peer_measured: float | None) -> None:
    line = {"claim": claim, "measured": measured, "unit": unit, "target": target, "peer": peer}
    print(json.dumps({**line, "peer_measured": peer_measured, "holds": bool(measured <= target)}), flush=True)


def median_ms(function, repeats: int = 15) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def exact(z: np.ndarray, w: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the projection in the metric of the weights, by sorting, in extended precision."""
    out = np.empty(z.shape, np.longdouble)
    for g in range(len(z)):
        a, m = z[g].astype(np.longdouble), w[g].astype(np.longdouble)
        order = np.argsort(-a)
        sums, mass = np.cumsum((a * m)[order]), np.cumsum(m[order])
        shift = (sums - total[g]) / mass
        last = np.flatnonzero(a[order] > shift)[-1]
        out[g] = np.maximum(a - shift[last], 0)
    return out


def jaxopt_projection():
    import jax
    from jaxopt.projection import projection_box_section

    jax.config.update("jax_enable_x64", True)

    def one(z, w, total):  # in the coordinates sqrt(w) y the metric of the weights is the plain one
        root = jax.numpy.sqrt(w)
        return projection_box_section(z * root, (0.0, 1e6, root, total)) / root

    run = jax.jit(jax.vmap(one))
    return lambda z, w, total: np.asarray(run(z, w, total))


def cvxpy_projection():
    import cvxpy as cp
    import jax
    from cvxpylayers.jax import CvxpyLayer

    y, root_z, root_w, total = cp.Variable(CELLS), cp.Parameter(CELLS), cp.Parameter(CELLS), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y - root_z)), [root_w @ y == total, y >= 0])
    layer = CvxpyLayer(problem, parameters=[root_z, root_w, total], variables=[y])

    def run(z, w, b):
        root = np.sqrt(w)
        (found,) = layer(jax.numpy.asarray(z * root), jax.numpy.asarray(root), jax.numpy.asarray(b))
        return np.asarray(found) / root

    return run


def main() -> None:
    rng = np.random.default_rng(0)
    w = rng.uniform(0.5, 1.5, (GROUPS, CELLS))
    state = np.abs(rng.normal(size=(GROUPS, CELLS)))
    z = state + rng.normal(size=state.shape)
    total = (state * w).sum(-1)
    peers = {}
    for name, make in (("jaxopt", jaxopt_projection), ("cvxpylayers", cvxpy_projection)):
        if importlib.util.find_spec(name):
            peers[name] = make()

    def ours(z: np.ndarray, total: np.ndarray) -> np.ndarray:
        return np.asarray(project_sum(z[None], [], weights=w, constant=total, lower=0.0))[0]

    z32 = z.astype("float32")
    mine = median_ms(lambda: ours(z32, total))
    report("64 x 60, forward", mine, "ms", 1.5, "none", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers
        for name, run in peers.items():
            theirs = median_ms(lambda run=run: run(z, w, total), 5)
            report("64 x 60, forward", mine, "ms", 1.5, name, theirs)
        for what, scale in (("64 x 60", 1.0), ("the same with values of 1e-5", 1e-5)):
            wanted = exact(z * scale, w, total * scale)
            size = float(np.sqrt((wanted**2).sum()))

            def off(y, wanted=wanted, size=size):
                return float(np.sqrt(((y - wanted) ** 2).sum())) / size

            y = ours((z * scale).astype("float32"), total * scale)
            others = {name: run(z * scale, w, total * scale) for name, run in peers.items()} | {"none": None}
            for name, other in others.items():
                there = None if other is None else off(other)
                report(f"{what}: distance to the exact projection, relative", off(y), "1", 1e-6, name, there)
            left = max(
                abs(math.fsum(y[g].astype("float64") * w[g]) - scale * total[g]) / (scale * total[g])
                for g in range(GROUPS)
            )
            report(f"{what}: relative residual of the sum, at worst", left, "1", 1e-7, "none", None)
            report(f"{what}: negative cells", int((y < 0).sum()), "cells", 0, "none", None)
    clamped = np.maximum(z, 0)
    clamped *= (total / (clamped * w).sum(-1))[:, None]
    moved = [float(np.sqrt((w * (a - z) ** 2).sum())) for a in (ours(z, total), clamped)]
    report("distance moved over that of the projection", 1.0, "1", 1.0, "clamp and rescale", moved[1] / moved[0])


if __name__ == "__main__":
    main()
