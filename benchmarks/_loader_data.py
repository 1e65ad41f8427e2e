"""What the loader benchmarks share: a data set of 1.56 GB, a process for every measurement, one JSON line for every claim."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import xarray as xr

NAMES = ("a", "b", "c", "d")
SHAPE = (1500, 180, 360)
CHUNK = 50


def report(
    claim: str, measured: float, unit: str, target: float, peer: str, peer_measured: float | None, holds: bool
) -> None:
    line = {"claim": claim, "measured": round(measured, 3), "unit": unit, "target": target, "peer": peer}
    shown = None if peer_measured is None else round(peer_measured, 3)
    print(json.dumps({**line, "peer_measured": shown, "holds": bool(holds)}), flush=True)


def make(folder: Path) -> None:
    """Write four variables of travelling waves and weather: zarr with Blosc LZ4, netCDF with zlib, in chunks of 50 maps."""
    if (folder / "whole").exists():
        return
    from zarr.codecs import BloscCodec

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    lat, lon = np.linspace(-89.5, 89.5, SHAPE[1]), np.arange(SHAPE[2]) + 0.5
    ds = xr.Dataset(coords={"time": np.arange(SHAPE[0]), "lat": lat, "lon": lon})
    for i, name in enumerate(NAMES):
        data = np.empty(SHAPE, "f4")
        for t in range(SHAPE[0]):
            wave = np.cos(np.deg2rad(lat))[:, None] * np.cos(np.deg2rad((i + 1) * lon) + t / 10)
            data[t] = 280 + 20 * wave + rng.normal(0, 0.5, SHAPE[1:])
        ds[name] = (("time", "lat", "lon"), data)
    codec = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
    ds.chunk(time=CHUNK).to_zarr(
        folder / "a.zarr", consolidated=False, encoding={n: {"compressors": codec} for n in NAMES}
    )
    options = {"zlib": True, "complevel": 1, "shuffle": True, "chunksizes": (CHUNK, *SHAPE[1:])}
    ds.to_netcdf(folder / "a.nc", encoding={n: options for n in NAMES})
    (folder / "whole").touch()


def measured(
    script: str, case: str, folder: Path, rounds: int = 5, among: tuple[str, ...] = ()
) -> dict[str, dict[str, float]]:
    """Run cases in turn, each in a process of its own, and return the medians of what they print."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name in (case, *among):
            command = [sys.executable, script, "--case", name, "--folder", str(folder)]
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr[-2000:]}")
            found.setdefault(name, []).append(json.loads(done.stdout.splitlines()[-1]))
    return {n: {k: statistics.median(run[k] for run in runs) for k in runs[0]} for n, runs in found.items()}


def peak_mb() -> float:
    """Return the most memory this process has held [MB]."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the process that started this one
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1.024e-3
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1e-6
