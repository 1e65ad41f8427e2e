"""Random patches through the loader, beside xbatcher.

    python benchmarks/loader_patches.py [--rounds 5] [--folder DIR]

prints one JSON line per claim: 64 x 64 patches of four variables from a zarr store, ten of each map in an epoch, and how well
the buffer mixes them. Every measurement runs in a process of its own; in each the second epoch is timed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from _loader_data import NAMES, SHAPE, make, measured, report

CELLS = 64


def opened(folder: Path) -> xr.Dataset:
    return xr.open_zarr(folder / "a.zarr", consolidated=False)


def ours(folder: Path, per_sample: int, memory: str = "512MB") -> Callable[[], int]:
    from physml import FieldSpec, Loader, Patches

    patches = Patches({"lat": CELLS, "lon": CELLS}, per_sample=per_sample, periodic="lon")
    spec = FieldSpec(NAMES[:3], NAMES[3])
    batches = Loader(opened(folder), spec, 64, shuffle=True, memory=memory, threads=2, patches=patches)

    def run() -> int:
        batches.epoch += 1
        return sum(len(x) for x, _, _ in batches)

    return run


def xbatcher_patches(folder: Path, in_memory: bool) -> Callable[[], int]:
    import xbatcher

    ds = opened(folder).isel(time=slice(0, 100))
    ds = ds.load() if in_memory else ds
    generator = xbatcher.BatchGenerator(ds, {"lat": CELLS, "lon": CELLS}, batch_dims={"time": 1}, preload_batch=False)
    order = np.random.default_rng(0).permutation(len(generator))[: 1000 if in_memory else 60]

    def run() -> int:
        for i in order:
            np.asarray(generator[int(i)].to_dataarray().transpose("lat", "lon", ..., "variable"))
        return len(order)

    return run


CASES: dict[str, Callable[[Path], Callable[[], int]]] = {
    "10 a map": lambda f: ours(f, 10),
    "1 a map": lambda f: ours(f, 1),
    "xbatcher in memory": lambda f: xbatcher_patches(f, True),
    "xbatcher through dask": lambda f: xbatcher_patches(f, False),
}


def mixing(folder: Path, memory: str) -> float:
    """Return how far apart in time the patches of a batch lie, over what a full shuffle gives; of one epoch."""
    from physml import FieldSpec, Loader, Patches

    patches = Patches({"lat": CELLS, "lon": CELLS}, per_sample=10)
    batches = Loader(opened(folder), FieldSpec("a", "a"), 64, shuffle=True, memory=memory, patches=patches)
    spread = [np.std(batches.labels(i).time) for i in range(len(batches))]
    batches.close()
    return float(np.mean(spread) / (SHAPE[0] / np.sqrt(12)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--case", choices=CASES)
    options = parser.parse_args()
    if options.case:
        run = CASES[options.case](options.folder)
        run()
        start = time.perf_counter()
        n = run()
        print(json.dumps({"rate": n / (time.perf_counter() - start)}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        make(folder)
        first, *others = CASES
        rate = {n: v["rate"] for n, v in measured(__file__, first, folder, options.rounds, tuple(others)).items()}
        for case, target in (("10 a map", 10_000), ("1 a map", 1_000)):
            for peer in ("xbatcher in memory", "xbatcher through dask"):
                claim = f"random 64 x 64 x 4 patches from zarr, {case}"
                report(claim, rate[case], "patches a second", target, peer, rate[peer], rate[case] >= target)
        for memory, target in (("64MB", 0.2), ("256MB", 0.5), ("2GB", 0.95)):
            found = mixing(folder, memory)
            claim = f"spread in time of a batch of patches with memory={memory}, over that of a full shuffle"
            report(claim, found, "ratio", target, "a full shuffle", 1.0, found >= target)


if __name__ == "__main__":
    main()
