"""Forecast monthly sea surface temperature one, three and six months ahead from the command's own configuration.

The same as on the command line::

    physml train examples/sst_forecast.yaml data.path=ersst_v3b_1960-2009.nc
    physml predict sst-run ersst_v3b_1960-2009.nc --out sst-run/forecast.nc

and then the rmse of the Nino 3.4 index beside persistence and damped persistence.

    python examples/sst_forecast.py [ersst_v3b_1960-2009.nc] [--out sst-run] [--short]

Data: NOAA ERSST v3b, monthly, 1960 to 2009, as one netCDF file with `sst` on (time, lat, lon).
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data" / "ersst_v3b_1960-2009.nc"
LEADS = (1, 3, 6)
FITTED, TESTED = slice("1960", "1995"), slice("1996", "2009")


def nino34(sst: xr.DataArray) -> xr.DataArray:
    """Mean over 5S to 5N, 170W to 120W, weighted by area."""
    box = sst.sel(lat=slice(-5, 5), lon=slice(190, 240))
    return box.weighted(np.cos(np.deg2rad(box.lat))).mean(("lat", "lon"))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", nargs="?", default=str(DATA))
    options.add_argument("--out", default="sst-run")
    options.add_argument("--short", action="store_true", help="one epoch on a few filters")
    chosen = options.parse_args()
    if not os.path.exists(chosen.data):
        print(f"no data at {chosen.data}: pass the path of ERSST v3b as one netCDF file", file=sys.stderr)
        # The short form also runs where the data are not to be had.
        sys.exit(0 if chosen.short else 1)

    start_backend()
    from physml import plot
    from physml.run import config, train

    overrides = [f"data.path={chosen.data}", f"output.directory={chosen.out}", "output.overwrite=true"]
    if chosen.short:
        overrides += ["training.epochs=1", "network.arguments.filters=4", "data.select.time=['1980-01', '2009-12']"]
    folder = train.train(config.load(HERE / "sst_forecast.yaml", overrides))
    written = train.write_prediction(str(folder), chosen.data, str(folder / "forecast.nc"), overwrite=True)

    forecast = xr.open_dataset(written).sst
    observed = xr.open_dataset(chosen.data).sst.sel(lat=forecast.lat)
    masked = observed.isnull().all("time")
    assert (forecast.isnull() == masked).all(), "a prediction is missing exactly where the data are"
    assert forecast.attrs["units"] == observed.attrs["units"]

    index = nino34(observed)
    climatology = index.sel(time=FITTED).groupby("time.month").mean()
    anomaly = (index.groupby("time.month") - climatology).drop_vars("month")
    scores = {"network": [], "persistence": [], "damped persistence": []}
    for lead in LEADS:
        start = anomaly.isel(time=slice(None, -lead))
        target = xr.DataArray(anomaly.values[lead:], dims="time", coords={"time": start.time})
        fit = start.time < anomaly.sel(time=FITTED).time[-lead]
        damping = float((start * target).where(fit).sum() / (start**2).where(fit).sum())
        valid = forecast.valid_time.sel(lead=lead).drop_vars("lead")
        predicted = (
            nino34(forecast.sel(lead=lead, drop=True)).drop_vars("valid_time").assign_coords(month=valid.dt.month)
        )
        predicted = (predicted.groupby("month") - climatology).drop_vars("month")
        late = start.time.where(start.time >= np.datetime64("1996-01-01"), drop=True)
        for name, guess in (("network", predicted), ("persistence", start), ("damped persistence", damping * start)):
            error = guess.sel(time=late) - target.sel(time=late)
            scores[name].append(float(np.sqrt((error**2).mean())))
    print("Nino 3.4, forecasts from 1996 to 2009, rmse [K]")
    print("lead, months        " + "".join(f"{lead:>8}" for lead in LEADS))
    for name, values in scores.items():
        print(f"{name:<20}" + "".join(f"{v:8.3f}" for v in values))

    lead = xr.Variable("lead", list(LEADS), {"long_name": "lead time", "units": "month"})
    lines = {
        n: xr.DataArray(v, {"lead": lead}, ("lead",), attrs={"long_name": "rmse of Nino 3.4", "units": "K"})
        for n, v in scores.items()
    }
    plot.curves(lines, title="Forecasts of the Nino 3.4 index, 1996 to 2009").savefig(folder / "nino34.png", dpi=150)
    month = observed.time.sel(time="1997-12")[0]
    mean = observed.sel(time=FITTED).groupby("time.month").mean()
    panels = {"observed": observed.sel(time=month) - mean.sel(month=12, drop=True)}
    for k in LEADS:
        at = forecast.sel(lead=k, drop=True)
        hit = at.isel(time=int(np.flatnonzero(at.valid_time.values == month.values)[0]), drop=True)
        panels[f"{k} month{'s' * (k > 1)} ahead"] = (hit - mean.sel(month=12, drop=True)).drop_vars(
            "valid_time", errors="ignore"
        )
    figure = plot.maps(
        {n: p.drop_vars("time", errors="ignore") for n, p in panels.items()},
        diverging=True,
        limits=(-4, 4),
        wrap=2,
        mask=~masked,
        title="December 1997",
        label="departure from the climatology [K]",
    )
    figure.savefig(folder / "december_1997.png", dpi=150)
    print(f"figures in {folder}")


if __name__ == "__main__":
    main()
