"""One epoch of full maps through the loader, beside xbatcher and the mere decoding of the store.

    python benchmarks/loader_epoch.py [--rounds 5] [--folder DIR]

prints one JSON line per claim. Every measurement runs in a process of its own; in each the second epoch is timed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xarray as xr
from _loader_data import CHUNK, NAMES, SHAPE, make, measured, peak_mb, report

BATCH = 32


def decode(folder: Path) -> Callable[[], object]:
    """Read and decode all chunks of the store on two threads, into the same two buffers."""
    from numcodecs import blosc

    own = threading.local()

    def one(path: str) -> None:
        if not hasattr(own, "buffer"):
            own.buffer = np.empty((CHUNK, *SHAPE[1:]), "f4")
        with open(path, "rb") as file:
            blosc.decompress(file.read(), own.buffer)

    paths = [str(folder / "a.zarr" / n / "c" / str(i) / "0" / "0") for i in range(SHAPE[0] // CHUNK) for n in NAMES]

    def run() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, paths))

    return run


def opened(folder: Path, kind: str) -> xr.Dataset:
    if kind == "zarr":
        return xr.open_zarr(folder / "a.zarr", consolidated=False)
    return xr.open_dataset(folder / "a.nc", chunks={})


def loader(folder: Path, kind: str) -> Callable[[], object]:
    from physml import FieldSpec, Loader

    batches = Loader(
        opened(folder, kind), FieldSpec(NAMES[:3], NAMES[3]), BATCH, shuffle=True, memory="256MB", threads=2
    )

    def run() -> None:
        batches.epoch = getattr(batches, "epoch", 0) + 1
        assert sum(len(x) for x, _, _ in batches) == SHAPE[0]

    return run


def xbatcher_maps(folder: Path, kind: str) -> Callable[[], object]:
    import xbatcher

    generator = xbatcher.BatchGenerator(
        opened(folder, kind), {"time": BATCH, "lat": SHAPE[1], "lon": SHAPE[2]}, preload_batch=False
    )

    def batches() -> Iterator[np.ndarray]:
        for batch in generator:
            yield batch.to_dataarray().transpose("time", "lat", "lon", "variable").values

    # It leaves out the last maps, which fill no batch.
    return lambda: sum(len(x) for x in batches())


def pointwise():
    import keras

    model = keras.Sequential([keras.Input((*SHAPE[1:], 3)), keras.layers.Conv2D(1, 1)])
    model.compile("sgd", "mse")
    return model


def fit_ours(folder: Path) -> Callable[[], object]:
    from physml import Batches, FieldSpec

    model = pointwise()
    batches = Batches(
        opened(folder, "zarr"), FieldSpec(NAMES[:3], NAMES[3]), BATCH, shuffle=True, memory="256MB", threads=2
    )
    data = batches.tf_data(weights=False)  # as xbatcher, which gives none
    return lambda: model.fit(data, epochs=1, verbose=0, shuffle=False)


def fit_xbatcher(folder: Path) -> Callable[[], object]:
    import tensorflow as tf
    import xbatcher
    from xbatcher.loaders.keras import CustomTFDataset

    warnings.simplefilter("ignore")
    model = pointwise()
    ds = opened(folder, "zarr")
    sizes = {"time": BATCH, "lat": SHAPE[1], "lon": SHAPE[2]}
    x = xbatcher.BatchGenerator(ds[list(NAMES[:3])].to_dataarray(), {"variable": 3, **sizes}, preload_batch=False)
    y = xbatcher.BatchGenerator(ds[NAMES[3]], sizes, preload_batch=False)
    data = CustomTFDataset(
        x, y, transform=lambda t: tf.transpose(t, (1, 2, 3, 0)), target_transform=lambda t: t[..., None]
    )
    data.workers = 2
    return lambda: model.fit(data, epochs=1, verbose=0, shuffle=False)


CASES: dict[str, Callable[[Path], Callable[[], object]]] = {
    "decode": decode,
    "zarr": lambda f: loader(f, "zarr"),
    "netcdf": lambda f: loader(f, "netcdf"),
    "xbatcher zarr": lambda f: xbatcher_maps(f, "zarr"),
    "xbatcher netcdf": lambda f: xbatcher_maps(f, "netcdf"),
    "fit": fit_ours,
    "xbatcher fit": fit_xbatcher,
}


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
        run()
        print(json.dumps({"s": time.perf_counter() - start, "mb": peak_mb()}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        make(folder)
        got = measured(__file__, "decode", folder, options.rounds, tuple(c for c in CASES if c != "decode"))
    s = {n: v["s"] for n, v in got.items()}

    def faster(claim: str, ours: str, peer: str, target: float) -> None:
        report(
            claim,
            s[peer] / s[ours],
            "times as fast",
            target,
            f"{peer}, s (ours {s[ours]:.2f} s)",
            s[peer],
            s[peer] / s[ours] >= target,
        )

    faster("epoch from zarr LZ4, shuffled", "zarr", "xbatcher zarr", 3.5)
    ratio = s["zarr"] / s["decode"]
    report(
        "epoch from zarr LZ4, shuffled, over the decoding alone",
        ratio,
        "ratio",
        1.6,
        "LZ4 on two threads, s",
        s["decode"],
        ratio <= 1.6,
    )
    report(
        "peak memory of that epoch",
        got["zarr"]["mb"],
        "MB",
        700,
        "xbatcher zarr, MB",
        got["xbatcher zarr"]["mb"],
        got["zarr"]["mb"] <= 700,
    )
    faster("epoch from netCDF zlib, shuffled", "netcdf", "xbatcher netcdf", 3)
    report(
        "peak memory of that epoch",
        got["netcdf"]["mb"],
        "MB",
        700,
        "xbatcher netcdf, MB",
        got["xbatcher netcdf"]["mb"],
        got["netcdf"]["mb"] <= 700,
    )
    faster("epoch into fit of a 1x1 convolution", "fit", "xbatcher fit", 3)


if __name__ == "__main__":
    main()
