"""Learn the heat fluxes at the sea surface so that they add up, cell by cell, in months the network has not seen.

    python examples/heat_budget.py [surface_heat_budget_jan-jun.nc] [--out heat-run] [--short]

Net longwave, latent, sensible, radiative and total heat flux from temperature, wind, humidity and sunshine, by a small
perceptron on single cells. Two laws tie them together: net radiation is solar minus longwave, and the heat that enters the sea
is net radiation minus latent and sensible heat. Two networks with the same weights to begin with and the same batches, one free
and one with the laws, are scored on each month in turn, trained on the other five.

Data: climatology of Esbensen and Kushnir (1981), January to June, 4 x 5 degrees, from NOAA-PMEL's FerretDatasets.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "surface_heat_budget_jan-jun.nc"
MONTHS = ("January", "February", "March", "April", "May", "June")
UNITS = {"DEG C": "degC", "M/S": "m s-1", "GR/KG": "g kg-1", "W/M2": "W m-2"}
KNOWN = ("SST", "SPD", "SAT", "AH", "FSR")
FLUXES = {
    "FUL": "net longwave, upward",
    "FLH": "latent heat, upward",
    "FSH": "sensible heat, upward",
    "FDR": "net radiation, downward",
    "FDH": "net heat, downward",
}


def cells(path: str) -> tuple[xr.Dataset, xr.DataArray]:
    """Return one sample for every cell of every month that has values, and the area of the cells [m2].

    The mask differs between months; as samples, no cell has to be left out or made up for the sake of another month.
    """
    with xr.open_dataset(path, decode_times=False) as ds:
        ds = ds[[*KNOWN, *FLUXES]].rename(TIME="month", ESKUY="lat", ESKUX="lon").load()
    ds = ds.assign_coords(month=np.arange(1, 7))
    for name in ds.data_vars:
        ds[name].attrs = {"long_name": FLUXES.get(name, ds[name].long_name.lower()), "units": UNITS[ds[name].units]}
    ds.lat.attrs, ds.lon.attrs = {"units": "degrees_north"}, {"units": "degrees_east"}
    import physml

    area = physml.grid.cell_area(ds)
    samples = ds.stack(sample=("month", "lat", "lon"), create_index=False).dropna("sample")
    return samples.assign_coords(sample=np.arange(samples.sizes["sample"])), area


def as_maps(samples: xr.Dataset) -> xr.Dataset:
    """Return samples on their months, latitudes and longitudes."""
    return samples.set_index(sample=["month", "lat", "lon"]).unstack("sample")


def imbalances(fluxes: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return what the two laws leave over [W m-2]."""
    left = {
        "radiation": fluxes.FSR - fluxes.FUL - fluxes.FDR,
        "heat": fluxes.FDR - fluxes.FLH - fluxes.FSH - fluxes.FDH,
    }
    return {name: field.assign_attrs(units="W m-2") for name, field in left.items()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", nargs="?", default=str(DATA))
    options.add_argument("--out", default="heat-run")
    options.add_argument("--short", action="store_true", help="one month held out, a few epochs")
    chosen = options.parse_args()
    if not os.path.exists(chosen.data):
        print(f"no data at {chosen.data}: pass the path of the heat budget climatology", file=sys.stderr)
        # The short form also runs where the data are not to be had.
        sys.exit(0 if chosen.short else 1)

    start_backend()
    import keras

    import physml
    from physml import plot

    samples, area = cells(chosen.data)
    print(f"{samples.sizes['sample']} samples: a cell in a month, wherever there are values")
    spec = physml.FieldSpec(list(KNOWN), list(FLUXES), sample_dim="sample")
    laws = [
        physml.Closure("FDR", sources="FSR", sinks="FUL"),
        physml.Closure("FDH", sources="FDR", sinks=("FLH", "FSH")),
    ]
    epochs = 3 if chosen.short else 24

    def trained(train: xr.Dataset, constraints: list, seed: int) -> physml.FieldModel:
        scaling = physml.Scaling.fit(train, spec)
        network = physml.networks.mlp(scaling.layout, hidden=(64, 64), activation="gelu", seed=seed)
        model = physml.FieldModel(network, scaling=scaling, constraints=constraints)
        batches = physml.Batches(train, spec, 256, shuffle=True, seed=seed)
        rate = keras.optimizers.schedules.CosineDecay(5e-3, epochs * len(batches))
        model.compile(keras.optimizers.Adam(rate), "mse")
        model.fit(batches, epochs=epochs, verbose=0)
        return model

    predicted = {"free": [], "with the laws": []}
    held_out = (3,) if chosen.short else range(1, 7)
    for month in held_out:
        train = samples.isel(sample=np.flatnonzero(samples.month.values != month))
        test = samples.isel(sample=np.flatnonzero(samples.month.values == month))
        for name, constraints in (("free", []), ("with the laws", laws)):
            predicted[name].append(physml.predict(trained(train, constraints, seed=month), test))

    truth = samples.isel(sample=np.flatnonzero(np.isin(samples.month.values, list(held_out))))
    maps = {}
    for name, parts in predicted.items():
        fluxes = xr.concat(parts, "sample", combine_attrs="drop_conflicts").assign(FSR=truth.FSR)
        maps[name] = as_maps(fluxes.assign_coords(month=truth.month, lat=truth.lat, lon=truth.lon))
    truth = as_maps(truth)

    def rms(error: xr.DataArray) -> float:
        return float(np.sqrt((error.astype("float64") ** 2).weighted(area.reindex_like(error)).mean()))

    score = {name: {n: rms(fluxes[n] - truth[n]) for n in FLUXES} for name, fluxes in maps.items()}
    left = {name: imbalances(fluxes.astype("float64")) for name, fluxes in maps.items()}
    print(f"rmse in months held out, one after another ({', '.join(MONTHS[m - 1] for m in held_out)}) [W m-2]")
    print(" " * 32 + "".join(f"{name:>16}" for name in maps))
    for n, what in FLUXES.items():
        print(f"{f'{n}  {what}':<32}" + "".join(f"{score[name][n]:16.2f}" for name in maps))
    mean = {name: float(np.sqrt(np.mean(np.square(list(found.values()))))) for name, found in score.items()}
    print(f"{'all five':<32}" + "".join(f"{mean[name]:16.2f}" for name in maps))
    print("greatest imbalance [W m-2]")
    for law in left["free"]:
        print(f"{law:<32}" + "".join(f"{float(abs(left[name][law]).max()):16.2g}" for name in maps))

    for law, field in left["with the laws"].items():
        assert float(abs(field).max()) < 1e-4, f"the law of {law} holds to the storage accuracy of float32"
    if not chosen.short:
        assert mean["with the laws"] <= mean["free"], "the laws cost no accuracy"
        for n in FLUXES:
            assert score["with the laws"][n] <= 1.02 * score["free"][n], f"nor do they for {n}"

    folder = Path(chosen.out)
    folder.mkdir(parents=True, exist_ok=True)
    month = 3
    panels = {}
    for name, words in (("free", "free network"), ("with the laws", "network with the laws")):
        field = left[name]["heat"].sel(month=month, drop=True)
        panels[f"{words}: {rms(field):.2g} W m⁻² rms"] = field
    figure = plot.maps(
        panels,
        diverging=True,
        mask=truth.FDH.sel(month=month, drop=True).notnull(),
        title="Heat that is lost between the fluxes of one cell (March, held out)",
        label="net radiation minus latent, sensible and net heat flux [W m⁻²]",
    )
    figure.savefig(folder / "imbalance.png", dpi=150)
    print(f"figure in {folder}")


if __name__ == "__main__":
    main()
