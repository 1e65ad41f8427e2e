"""Memory of an epoch of training does not grow with the data: 2 GB and 20 GB of zarr.

    python benchmarks/loader_memory.py [--rounds 1]

prints one JSON line per claim. The stores are sparse: most chunks were never written and hold the fill value.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from _loader_data import measured, peak_mb, report

SHAPE, CHUNK = (180, 360), 50
STEPS = {"2 GB": 7_716, "20 GB": 77_160}
"""Steps of one float32 variable on 180 x 360 cells."""


def make(folder: Path) -> None:
    import zarr

    warnings.simplefilter("ignore")
    chunk = np.random.default_rng(0).normal(size=(CHUNK, *SHAPE)).astype("f4")
    for name, steps in STEPS.items():
        group = zarr.open_group(folder / f"{name}.zarr", mode="w")
        array = group.create_array(
            "a", shape=(steps, *SHAPE), chunks=(CHUNK, *SHAPE), dtype="f4", dimension_names=("time", "lat", "lon")
        )
        for i in range(0, steps, 20 * CHUNK):
            array[i : i + CHUNK] = chunk[: min(CHUNK, steps - i)]


def train(folder: Path, name: str) -> None:
    import keras

    from physml import Batches, FieldModel, FieldSpec, Scaling

    ds = xr.open_zarr(folder / f"{name}.zarr", consolidated=False, mask_and_scale=False)
    spec = FieldSpec("a", "a", target_offsets=1)
    scaling = Scaling.fit(ds.isel(time=slice(0, 100)), spec)
    model = FieldModel(keras.Sequential([keras.Input((*SHAPE, 1)), keras.layers.Conv2D(1, 1)]), scaling=scaling)
    model.compile("adam", "mse")
    batches = Batches(ds, spec, 32, shuffle=True, memory="256MB", threads=2)
    before, start = peak_mb(), time.perf_counter()
    model.fit(batches, epochs=1, verbose=0)
    print(json.dumps({"mb": peak_mb(), "more": peak_mb() - before, "s": time.perf_counter() - start}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--case", choices=STEPS)
    options = parser.parse_args()
    if options.case:
        train(options.folder, options.case)
        return
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch))
        got = measured(__file__, "2 GB", Path(scratch), options.rounds, ("20 GB",))
    small, large = got["2 GB"]["mb"], got["20 GB"]["mb"]
    report(
        "peak memory of training on 20 GB over that on 2 GB",
        large / small,
        "ratio",
        1.05,
        "2 GB, MB",
        small,
        large <= 1.05 * small,
    )


if __name__ == "__main__":
    main()
