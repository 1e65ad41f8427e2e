"""Refine sea surface temperature four-fold, so that every block of fine cells keeps the mean of its coarse cell.

    python examples/downscaling.py [ersst_v3b_1960-2009.nc] [--out fine-run] [--short]

Monthly fields of 2 degrees are averaged over blocks of 4 x 4 cells, by area, over the sea alone; from the coarse fields a small
network is to tell the fine ones. It starts from the bilinear interpolation of the departures from the climatology and adds what
is missing. Two networks with the same weights to begin with and the same batches: a free one, and one whose blocks have exactly
the mean they came from and whose sea is nowhere colder than it freezes.

Data: NOAA ERSST v3b, monthly, 1960 to 2009, as one netCDF file with `sst` on (time, lat, lon).
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ersst_v3b_1960-2009.nc"
FACTOR = {"lat": 4, "lon": 4}
FREEZING = -1.8  # of sea water, in these data [degC]
FITTED, TESTED = slice("1960", "1999"), slice("2000", "2009")


def block_means(field: xr.DataArray, area: xr.DataArray) -> xr.DataArray:
    """Return means over blocks weighted by area, missing cells left out."""
    here = area.where(field.notnull(), 0.0)
    total = here.coarsen(FACTOR).sum()
    return (field * here).coarsen(FACTOR).sum() / total.where(total > 0)


def bilinear(coarse: xr.DataArray, like: xr.DataArray) -> xr.DataArray:
    """Interpolate between the centres of the coarse cells, around the globe, from those that hold sea alone."""

    def weights(n: int, factor: int, periodic: bool) -> np.ndarray:
        at = (np.arange(n * factor) + 0.5) / factor - 0.5
        out, low = np.zeros((n * factor, n)), np.floor(at).astype(int)
        for corner, share in ((low, low + 1 - at), (low + 1, at - low)):
            out[np.arange(n * factor), corner % n if periodic else corner.clip(0, n - 1)] += share
        return out

    up = weights(coarse.sizes["lat"], FACTOR["lat"], False)
    across = weights(coarse.sizes["lon"], FACTOR["lon"], True)
    values, there = (up @ x @ across.T for x in (coarse.fillna(0).values, coarse.notnull().values.astype(float)))
    return like.copy(data=values / np.where(there > 0, there, np.nan)).where(like.notnull())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", nargs="?", default=str(DATA))
    options.add_argument("--out", default="fine-run")
    options.add_argument("--short", action="store_true", help="four years, a few filters")
    chosen = options.parse_args()
    if not os.path.exists(chosen.data):
        print(f"no data at {chosen.data}: pass the path of ERSST v3b as one netCDF file", file=sys.stderr)
        # The short form also runs where the data are not to be had.
        sys.exit(0 if chosen.short else 1)

    start_backend()
    import keras

    import physml
    from physml import plot

    fitted, tested = (slice("1997", "1999"), slice("2000", "2000")) if chosen.short else (FITTED, TESTED)
    with xr.open_dataset(chosen.data) as stored:
        sst = stored.sst.sel(lat=slice(-64, 70), time=slice(fitted.start, tested.stop)).load()
    area = physml.grid.cell_area(sst)

    def of_its_month(field: xr.DataArray) -> xr.DataArray:
        return field.sel(month=sst.time.dt.month).drop_vars("month")

    climatology = of_its_month(sst.sel(time=fitted).groupby("time.month").mean())
    departure = sst - climatology
    coarse = block_means(departure, area)
    fields = {
        "departure": departure,
        "first_guess": bilinear(coarse, departure),
        "coarse": coarse.reindex_like(departure, method="nearest").where(departure.notnull()),
        "freezing": FREEZING - climatology,
    }
    ds = xr.Dataset({n: f.astype("float32").assign_attrs(units="K") for n, f in fields.items()})
    ds = ds.assign(area=area, sea=sst.notnull().all("time"))

    inputs = ["first_guess", "coarse", "freezing"]
    spec = physml.FieldSpec(inputs, "departure", mask="sea", area="area")
    train, test = ds.sel(time=fitted), ds.sel(time=tested)
    # The first guess is in units of what it guesses, so that the network can add to it.
    scaling = physml.Scaling.fit(train.assign(first_guess=train.departure), spec)
    laws = [
        physml.BlockMean("departure", "coarse", FACTOR, weights="area"),
        physml.Bounds("departure", lower="freezing"),
    ]
    epochs, filters = (1, 4) if chosen.short else (5, 16)

    def trained(constraints: list) -> physml.FieldModel:
        layout = scaling.layout
        channels = keras.Input((*layout.shape, len(layout.inputs)))
        adds = physml.networks.cnn(
            layout, boundary={"lat": "closed", "lon": "periodic"}, filters=filters, blocks=1, coast=True
        )
        network = keras.Model(channels, channels[..., :1] + adds(channels))
        model = physml.FieldModel(network, scaling=scaling, constraints=constraints)
        batches = physml.Batches(train, spec, 8, shuffle=True)
        model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(4e-3, epochs * len(batches))), "mse")
        model.fit(batches, epochs=epochs, verbose=0)
        return model

    truth = test.departure + climatology
    found = {
        "coarse": block_means(truth, area).reindex_like(truth, method="nearest").where(truth.notnull()),
        "bilinear": bilinear(block_means(sst.sel(time=tested), area), truth),
        "bilinear departures": test.first_guess + climatology,
        "free network": physml.predict(trained([]), test).departure + climatology,
        "network with the laws": physml.predict(trained(laws), test).departure + climatology,
    }

    means = block_means(truth.astype("float64"), area)
    score, miss, cold = {}, {}, {}
    for name, field in found.items():
        score[name] = float(physml.verify.rmse(field, truth, weights=area))
        miss[name] = float(abs(block_means(field.astype("float64"), area) - means).max())
        cold[name] = int((field < FREEZING - 1e-5).sum())
    print(f"four-fold finer sea surface temperature, {tested.start} to {tested.stop}")
    print(f"{'':<24}{'rmse [K]':>10}{'worst block mean [K]':>24}{'cells below freezing':>24}")
    for name in found:
        print(f"{name:<24}{score[name]:10.3f}{miss[name]:24.1g}{cold[name]:24d}")
    best = "network with the laws"
    assert miss[best] < 2e-6, "every block keeps its mean to the storage accuracy of float32"
    assert cold[best] == 0, "no water is colder than it freezes"
    assert score[best] < score["bilinear"]
    if not chosen.short:
        assert score[best] < min(score["bilinear departures"], score["free network"]), "the laws make it better"

    folder = Path(chosen.out)
    folder.mkdir(parents=True, exist_ok=True)
    # Where the Gulf Stream and the Labrador Current meet, in the last winter.
    window = dict(lat=slice(20, 62), lon=slice(278, 330))
    month = found[best].time.values[np.flatnonzero(found[best].time.dt.month == 2)[-1]]
    shown = {f"coarse, {score['coarse']:.2f} K": "coarse", f"bilinear, {score['bilinear']:.2f} K": "bilinear"}
    shown |= {f"{best}, {score[best]:.2f} K": best}
    panels = {words: found[name].sel(time=month, drop=True).sel(window) for words, name in shown.items()}
    panels["truth"] = truth.sel(time=month, drop=True).sel(window)
    figure = plot.maps(
        panels,
        wrap=2,
        cmap="RdYlBu_r",
        mask=ds.sea.sel(window),
        title=f"Sea surface temperature, {str(month)[:7]}, four times finer; rmse on all seas, {tested.start} to {tested.stop}",
        label="sea surface temperature [°C]",
    )
    figure.savefig(folder / "downscaled.png", dpi=150)
    print(f"figure in {folder}")


if __name__ == "__main__":
    main()
