"""A prediction of a stored data set: its cost beside a bare read and a bare graph, and tiles beside whole maps.

    python benchmarks/loader_apply.py

prints one JSON line per claim; times are medians of five, in one process, of 300 maps of 180 x 360 cells with three channels.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import numcodecs
import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

start_backend()

import keras  # noqa: E402  after the start-up messages
import tensorflow as tf  # noqa: E402
import zarr  # noqa: E402

import physml  # noqa: E402
from physml import FieldModel, FieldSpec, Scaling, networks  # noqa: E402

N, LAT, LON, STEP, NAMES = 300, 180, 360, 50, ("a", "b", "c")
PEER = "zarr read and tf.function over the same batches"


def report(claim: str, measured: float, unit: str, target: float, peer: str, peer_measured: float | None) -> None:
    line = {"claim": claim, "measured": measured, "unit": unit, "target": target, "peer": peer}
    print(json.dumps({**line, "peer_measured": peer_measured, "holds": bool(measured <= target)}), flush=True)


def medians(*functions, repeats: int = 5) -> list[float]:
    """Return the median time of each function [s], all of them in turn, so that a slow moment falls on all."""
    for function in functions:
        function()
    times = [[] for _ in functions]
    for _ in range(repeats):
        for function, found in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
    return [statistics.median(t) for t in times]


def stored(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    fields = {n: (("time", "lat", "lon"), rng.normal(size=(N, LAT, LON)).astype("float32")) for n in NAMES}
    coords = {"time": np.arange(N), "lat": np.linspace(-89.5, 89.5, LAT), "lon": np.arange(LON) + 0.5}
    path = folder / "maps.zarr"
    ds = xr.Dataset(fields, coords).chunk(time=STEP)
    ds.to_zarr(
        path,
        zarr_format=2,
        consolidated=False,
        encoding={n: {"compressors": numcodecs.Blosc(cname="lz4")} for n in NAMES},
    )
    return path


def convolutions(boundary: str | None = None) -> keras.Model:
    """Three convolutions of eight filters, and their weighted sum."""
    start = x = keras.Input((LAT, LON, len(NAMES)))
    for _ in range(3):
        if boundary is not None:
            x = networks.Pad(1, ("open", boundary))(x)
        x = keras.layers.Conv2D(8, 3, padding="valid" if boundary else "same", activation="relu")(x)
    return keras.Model(start, keras.layers.Conv2D(1, 1)(x))


def main() -> None:
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = stored(Path(folder))
        ds = xr.open_zarr(path, consolidated=False)
        spec = FieldSpec(NAMES, "a")
        network = convolutions()
        model = FieldModel(network, scaling=Scaling.fit(ds.isel(time=slice(50)), spec))
        batch = STEP // 2
        signature = [tf.TensorSpec((batch, LAT, LON, len(NAMES)), "float32")]
        graph = tf.function(lambda x: network(x, training=False), input_signature=signature)

        def bare() -> np.ndarray:
            group, out = zarr.open_group(path, mode="r"), np.empty((N, LAT, LON), "float32")
            for start in range(0, N, STEP):
                x = np.stack([group[n][start : start + STEP] for n in NAMES], axis=-1)
                for at in range(0, STEP, batch):
                    out[start + at : start + at + batch] = graph(tf.constant(x[at : at + batch]))[..., 0]
            return out

        def ours() -> xr.Dataset:
            return physml.predict(model, xr.open_zarr(path, consolidated=False)).compute()

        def theirs() -> xr.DataArray:
            lazy = xr.open_zarr(path, consolidated=False)[list(NAMES)].to_dataarray("channel").transpose(..., "channel")
            return xr.apply_ufunc(
                lambda x: network.predict(x, verbose=0, batch_size=32),
                lazy.chunk(channel=-1),
                input_core_dims=[["lat", "lon", "channel"]],
                output_core_dims=[["lat", "lon", "out"]],
                dask="parallelized",
                output_dtypes=["float32"],
                dask_gufunc_kwargs={"output_sizes": {"out": 1}},
            ).compute()

        mine, plain, ufunc = medians(ours, bare, theirs)
        report("lazy apply of 3 x Conv8 to 300 maps over read and graph alone", mine / plain, "1", 1.3, PEER, 1.0)
        report("lazy apply of 3 x Conv8 to 300 maps", mine, "s", 1.3 * plain, PEER, plain)
        report("lazy apply of 3 x Conv8 to 300 maps", mine, "s", ufunc, "apply_ufunc with keras predict", ufunc)

        few = ds.isel(time=slice(0, 10))
        for kind in ("periodic", "closed"):
            wrapped = FieldModel(convolutions(kind), scaling=model.scaling)
            whole = physml.predict(wrapped, few).a.values
            tiled = physml.predict(wrapped, few, tiles={"lat": 64, "lon": 100}).a.values
            across = np.abs(tiled - whole)[..., [-4, -3, -2, -1, 0, 1, 2, 3]].max()
            what = "across the date line" if kind == "periodic" else "at closed ends"
            report(
                f"tiled minus whole-map prediction, greatest, {kind}",
                float(np.abs(tiled - whole).max()),
                "1",
                0,
                "",
                None,
            )
            report(f"tiled minus whole-map prediction, greatest, {what}", float(across), "1", 0, "", None)


if __name__ == "__main__":
    main()
