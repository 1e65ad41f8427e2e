"""Fill the gaps that clouds leave in sea surface temperature, with a network trained on patches of gappy maps.

    python examples/fill_gaps.py [ersst_v3b_1960-2009.nc] [--out gaps-run] [--short]

Monthly anomalies are covered by made-up clouds, which also hide half of the month before. The loader cuts patches where
there is sea, across the date line too, straight from a zarr store; the network takes missing cells at their mean, and knows
the season. It is then applied to whole maps by tiles and its result streamed into a file.

Data: NOAA ERSST v3b, monthly, 1960 to 2009, as one netCDF file with `sst` on (time, lat, lon); without it, a sample that is
made on the spot.
"""

import argparse
import os
import tempfile
from pathlib import Path

import keras
import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ersst_v3b_1960-2009.nc"


def anomalies(sst: xr.DataArray) -> xr.DataArray:
    """Departures from the mean of each calendar month [K], missing where any month is."""
    departure = sst.groupby("time.month") - sst.groupby("time.month").mean()
    return departure.drop_vars("month").where(sst.notnull().all("time")).astype("float32")


def clouds(field: xr.DataArray, seed: int = 0, cover: float = 0.5) -> xr.DataArray:
    """Cells that are hidden: smooth noise above its own quantile, periodic in longitude."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=field.shape)
    smooth = gaussian_filter(noise, (0, 4, 6), mode=("nearest", "nearest", "wrap"))
    limit = np.quantile(smooth, 1 - cover, axis=(1, 2), keepdims=True)
    return xr.DataArray(smooth > limit, field.coords, field.dims)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", nargs="?", default=str(DATA))
    options.add_argument("--out", default="gaps-run")
    options.add_argument("--short", action="store_true", help="one epoch on a few filters")
    chosen = options.parse_args()

    start_backend()
    import physml
    from physml import plot
    from physml.data import catalog

    if os.path.exists(chosen.data):
        sst = xr.open_dataset(chosen.data).sst.sel(lat=slice(-60, 70)).load()
    else:
        print(f"no data at {chosen.data}: a sample takes its place")
        sst = catalog.open("sst-sample").sst
    truth = anomalies(sst)
    hidden = clouds(truth)
    ds = xr.Dataset(
        {
            "anomaly": truth.assign_attrs(units="K", long_name="departure from the climatology"),
            "seen": truth.where(~hidden).assign_attrs(units="K", long_name="departure seen between clouds"),
            "clear": (~hidden).astype("float32").assign_attrs(units="1"),
            "sea": truth.isel(time=0, drop=True).notnull(),
        }
    )
    ds["cell_area"] = physml.grid.cell_area(ds)
    folder = Path(chosen.out)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        ds.chunk(time=24).to_zarr(f"{scratch}/gappy.zarr", consolidated=False)
        stored = xr.open_zarr(f"{scratch}/gappy.zarr", consolidated=False)

        spec = physml.FieldSpec(
            ["seen", "clear", "time.dayofyear.sin", "time.dayofyear.cos"],
            "anomaly",
            input_offsets={"seen": (-1, 0), "clear": (-1, 0)},
            mask="sea",
            area="cell_area",
        )
        n = stored.sizes["time"]
        split = [str(stored.time.values[int(0.7 * n)])[:10], str(stored.time.values[int(0.8 * n)])[:10]]
        train, validation, test = physml.split_time(stored, split, spec)
        scaling = physml.Scaling.fit(train.assign(seen=train.anomaly), spec)
        rows, columns = (min(24, stored.sizes["lat"]), min(48, stored.sizes["lon"]))
        patches = physml.Patches({"lat": rows, "lon": columns}, per_sample=3, periodic="lon", min_valid=0.4)
        how = {"patches": patches, "missing": "mask", "memory": "64MB"}
        batches = physml.Batches(train, spec, 32, shuffle=True, **how)
        print(batches.report())
        network = physml.networks.cnn(
            scaling.layout,
            boundary={"lat": "closed", "lon": "periodic"},
            filters=4 if chosen.short else 24,
            blocks=2,
            any_size=True,
        )
        model = physml.FieldModel(network, scaling=scaling, missing="mean")
        model.compile("adam", "mse")
        stop = keras.callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True)
        model.fit(
            batches,
            validation_data=physml.Batches(validation, spec, 32, **how),
            epochs=1 if chosen.short else 12,
            callbacks=[stop],
            verbose=0,
        )
        tiles = {"lat": rows, "lon": columns}
        physml.predict_to(model, test, folder / "filled.nc", tiles=tiles, overwrite=True)
    filled = xr.open_dataset(folder / "filled.nc").anomaly.load()
    truth, hidden = truth.sel(time=filled.time), hidden.sel(time=filled.time)
    assert (filled.isnull() == truth.isnull()).all(), "a filled map is missing exactly where there is land"

    def rmse(error: xr.DataArray) -> float:
        return float(np.sqrt((error.where(hidden) ** 2).weighted(ds.cell_area).mean()))

    scores = {"climatology": rmse(truth), "network": rmse(filled - truth)}
    print(f"under clouds, {str(filled.time.values[0])[:7]} to {str(filled.time.values[-1])[:7]}, rmse [K]")
    for name, value in scores.items():
        print(f"{name:<12}{value:8.3f}")

    month = int((truth**2).mean(("lat", "lon")).argmax("time"))
    panels = {
        "truth": truth.isel({"time": month}, drop=True),
        "seen between clouds": truth.where(~hidden).isel({"time": month}, drop=True),
        "filled": filled.isel({"time": month}, drop=True),
    }
    figure = plot.maps(
        panels,
        diverging=True,
        limits=(-3, 3),
        wrap=3,
        mask=ds.sea,
        title=f"Sea surface temperature, {str(filled.time.values[month])[:7]}: gaps filled to {scores['network']:.2f} K rmse "
        f"(climatology {scores['climatology']:.2f} K)",
        label="departure from the climatology [K]",
    )
    figure.savefig(folder / "filled.png", dpi=150)
    print(f"figure in {folder}")


if __name__ == "__main__":
    main()
