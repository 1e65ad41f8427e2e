"""Whether intervals of scores hold as often as they say, and what scores and intervals cost.

    python benchmarks/learners_verify.py [coverage bootstrap memory]

prints one JSON line per claim. Each case runs in a process of its own, so that its peak memory is its own.

``coverage``: errors that follow an autoregressive process, of which the true score is known, with the default length of blocks.
``bootstrap``: intervals of an area-weighted rmse by lead, beside those of scores.processing.block_bootstrap, which draws the
fields themselves. ``memory``: scores of lazy fields that do not fit into it.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np
import xarray as xr

CASES = ("coverage", "bootstrap", "memory")


def report(claim: str, measured: float, unit: str, target: str, holds: bool, **more: object) -> None:
    line = {"claim": claim, "measured": round(measured, 4), "unit": unit, "target": target, **more}
    print(json.dumps({**line, "holds": bool(holds)}), flush=True)


def red_noise(rng: np.random.Generator, size: int, memory: float, cases: int) -> np.ndarray:
    e = rng.normal(size=(size + 200, cases))
    x = np.zeros_like(e)
    x[0] = e[0]
    for t in range(1, len(e)):
        x[t] = memory * x[t - 1] + np.sqrt(1 - memory**2) * e[t]
    return x[200:]


def coverage() -> None:
    """How often 95 % intervals hold the true rmse, and zero for two forecasts that are equally good."""
    from physml import verify

    for memory, size in ((0.0, 400), (0.6, 500), (0.8, 1000), (0.8, 400), (0.8, 168)):
        rng = np.random.default_rng(11)
        error = red_noise(rng, size, memory, 1000)
        other = 0.6 * error + 0.8 * red_noise(rng, size, memory, 1000)
        a, b = (xr.DataArray(e, dims=("time", "case")) for e in (error, other))
        found = verify.block_bootstrap(verify.rmse, a, 0 * a, reference=b)
        held = {
            "the true rmse": (found.low < 1) & (found.high > 1),
            "no difference of equal forecasts": (found.difference_low < 0) & (found.difference_high > 0),
        }
        where = f"errors with memory {memory} over {size} steps, blocks of {int(found.block)}"
        for what, inside in held.items():
            share = float(inside.mean())
            report(f"95 % intervals hold {what}: {where}", share, "part", ".90 to .97", 0.90 <= share <= 0.97)


def bootstrap() -> None:
    """1000 samples of 600 times, 4 leads and 10 x 20 cells: each time's sums once, beside the fields drawn anew."""
    import scores

    from physml import verify

    rng = np.random.default_rng(0)
    lat = xr.DataArray(np.linspace(-81.0, 81.0, 10), dims="lat")
    sizes = {"time": 600, "lead": 4, "lat": 10, "lon": 20}
    forecast = xr.DataArray(rng.normal(size=tuple(sizes.values())), dims=tuple(sizes))
    truth = xr.DataArray(rng.normal(size=(600, 10, 20)), dims=("time", "lat", "lon"))
    weights, space = np.cos(np.deg2rad(lat)), ["time", "lat", "lon"]

    def ours() -> xr.Dataset:
        return verify.block_bootstrap(verify.rmse, forecast, truth, space, weights, block=10, n=1000).compute()

    def theirs(n: int) -> xr.DataArray:
        drawn = scores.processing.block_bootstrap([forecast, truth], blocks={"time": 10}, n_iteration=n)
        error = scores.continuous.rmse(*drawn, reduce_dims=space, weights=weights)
        return error.quantile([0.025, 0.975], "iteration")

    ours()
    start = time.perf_counter()
    found = ours()
    mine = time.perf_counter() - start
    few = 50  # 1000 would hold 4 GB
    np.random.seed(0)
    start = time.perf_counter()
    peer = theirs(few)
    other = (time.perf_counter() - start) * 1000 / few
    near = float(abs(found.low - peer.isel(quantile=0)).max() / found.score.mean())
    more = {"peer": "scores.processing.block_bootstrap, time of 50 samples times 20", "peer_measured": round(other, 2)}
    report("an interval of 1000 samples by time sums", mine, "s", "a twentieth of the peer", mine < other / 20, **more)
    report("its lower end beside the peer's, over the score", near, "1", "<= .02", near <= 0.02)


def memory() -> None:
    """Area-weighted rmse, anomaly correlation and interval of 2 x 1.2 GB of lazy fields."""
    import dask
    import dask.array as da

    from physml import verify

    shape, chunk = (2400, 180, 360), (60, 180, 360)
    coords = {"lat": np.arange(-89.5, 90.0)}
    fields = [da.random.default_rng(i).normal(size=shape, chunks=chunk) for i in range(2)]
    forecast, truth = (xr.DataArray(f, coords, ("time", "lat", "lon")) for f in fields)
    weights = np.cos(np.deg2rad(truth.lat))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    start = time.perf_counter()
    with dask.config.set(scheduler="threads", num_workers=2):
        space = ("time", "lat", "lon")
        found = verify.block_bootstrap(verify.rmse, forecast, truth, space, weights, block=20)
        score = verify.acc(forecast, truth, space, weights, climatology=0.0)
        # One after the other: together they would hold each field until both have seen it.
        found, score = found.compute(), score.compute()
    assert abs(float(found.score) - np.sqrt(2)) < 1e-3, float(found.score)
    assert abs(float(score)) < 1e-3, float(score)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    gigabytes = 2 * np.prod(shape) * 8 / 1e9
    what = f"peak memory of scores and interval of {gigabytes:.1f} GB"
    took = {"seconds": round(time.perf_counter() - start, 1), "before": round(before, 2)}
    report(what, held, "GB", "<= 1", held <= 1, **took)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--one":
        globals()[sys.argv[2]]()
    else:
        for case in sys.argv[1:] or CASES:
            subprocess.run([sys.executable, __file__, "--one", case], check=True)
