"""Products with B where B cannot be formed: time and memory on a million elements.

    python benchmarks/background_errors.py            all claims
    python benchmarks/background_errors.py plane      those of one part: plane, globe or million

prints one JSON line per claim; ``cpu`` is the time of all threads, which other work on the machine stretches less. Land is made of random waves on the sphere and covers 29 % of the cells. Parts run in processes of
their own, so that each peak of memory is its own; ``rest`` is that of the libraries alone.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np


def report(claim: str, measured: float | tuple[float, float], unit: str, target: float | None = None) -> None:
    measured, *cpu = measured if isinstance(measured, tuple) else (measured,)
    line = {"claim": claim, "measured": round(measured, 4), "unit": unit, "target": target}
    line["cpu"] = round(cpu[0], 4) if cpu else None
    print(json.dumps({**line, "holds": None if target is None else bool(measured <= target)}), flush=True)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def globe(rows: int, columns: int) -> dict:
    """Return a grid of latitude and longitude with land."""
    rng = np.random.default_rng(0)
    lat = -90 + 180 * (np.arange(rows) + 0.5) / rows
    lon = 360 * np.arange(columns) / columns
    waves = np.zeros((rows, columns))
    for k in range(1, 6):
        for j in range(6):
            phase = rng.uniform(0, 2 * np.pi, 2)
            along, across = np.cos(np.deg2rad(k * lon) + phase[0]), np.cos(np.deg2rad(j * lat) + phase[1])
            waves += rng.normal() / (k + j) * np.cos(np.deg2rad(lat))[:, None] * along * across[:, None]
    return {"latitude": lat, "longitude": lon, "periodic": True, "mask": waves > np.quantile(waves, 0.29)}


def timed(function, repeats: int = 1) -> tuple[float, float]:
    """Return the shortest time, and that of the processors, of some calls [s]."""
    runs = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        function()
        runs.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return tuple(map(min, zip(*runs, strict=True)))


def plane() -> None:
    from physml.assimilation import Matern, Plane, bind

    rest = peak()
    b = bind(Plane(Matern(1.0, 5.0), 1.0, True), shape=(1000, 1000))
    x = np.random.default_rng(0).normal(size=b.size)
    product = timed(lambda: np.asarray(b.times(x)), 5)
    report("B x through FFT, 1e6 cells of a torus", product, "s")
    report("peak memory of it, libraries apart", peak() - rest, "GB", 1.5)


def diffusion(grid: dict, length: float, name: str, target: float | None = None) -> None:
    from physml.assimilation import Diffusion, bind

    rest = peak()
    b = bind(Diffusion(1.0, length), **grid)
    n, correlation = b.size, b.inner
    factor = timed(lambda: correlation.solved())
    report(f"factor of the diffusion operator, {n} wet cells, {name}", factor, "s", target)
    variances = timed(lambda: correlation.solved().variances)
    report(f"exact variances of it, {n} wet cells", variances, "s")
    x = np.random.default_rng(0).normal(size=n)
    report(f"B x through diffusion round land, {n} wet cells", timed(lambda: np.asarray(b.times(x)), 3), "s")
    report("peak memory of all three, libraries apart", peak() - rest, "GB")


PARTS = {
    "plane": plane,
    "globe": lambda: diffusion(globe(255, 509), 500e3, "length 500 km, 0.7 degrees", 2.65),
    "million": lambda: diffusion(globe(840, 1680), 100e3, "length 100 km, 0.21 degrees"),
}

if __name__ == "__main__":
    if len(sys.argv) > 1:
        PARTS[sys.argv[1]]()
    else:
        for part in PARTS:
            subprocess.run([sys.executable, __file__, part], check=True)
