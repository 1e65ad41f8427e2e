"""Analyse Argo temperatures of the tropical Atlantic on the climatology of sea surface temperature, with an error map.

Every profile differs from the climatology by a little; the best linear unbiased estimate turns these differences into a
map, and says how far it can be trusted. To see whether it deserves trust, each float is then left out in turn and
predicted from all others.

    python examples/argo_analysis.py [SST.nc ARGO.nc] [--out argo-run] [--short]

Data: NOAA ERSST v3b, monthly, `sst` on (time, lat, lon); Argo profiles (doi:10.17882/42182), 0 to 20 dbar, `sst`,
`lat`, `lon`, `time` and `platform` by profile.
"""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MONTH = "2008-06"


def climatology(path: str, first: str) -> xr.Dataset:
    """Return the monthly climatology of 1981 to 2009 at every month from *first*, longitudes from -180."""
    with xr.open_dataset(path) as ds:
        sst = ds.sst.assign_coords(lon=((ds.lon + 180) % 360 - 180).assign_attrs(ds.lon.attrs)).sortby("lon")
        sst = sst.sel(lat=slice(-14, 14), lon=slice(-64, 14), time=slice("1981", "2009")).load()
    means = sst.groupby("time.month").mean()
    time = sst.time.sel(time=slice(first, None))
    forecast = means.sel(month=time.dt.month).drop_vars("month").assign_attrs(sst.attrs)
    return xr.Dataset({"sst": forecast, "wet": sst.notnull().all("time")})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("sst", nargs="?", default=str(DATA / "ersst_v3b_1960-2009.nc"))
    options.add_argument("argo", nargs="?", default=str(DATA / "argo_tropatl_1997-2009.nc"))
    options.add_argument("--out", default="argo-run")
    options.add_argument("--short", action="store_true", help="from 2007 on")
    chosen = options.parse_args()
    missing = [p for p in (chosen.sst, chosen.argo) if not os.path.exists(p)]
    if missing:
        print(f"no data at {', '.join(missing)}: pass the paths of ERSST v3b and of the profiles", file=sys.stderr)
        # The short form also runs where the data are not to be had.
        sys.exit(0 if chosen.short else 1)

    start_backend()
    from physml import plot
    from physml.assimilation import BLUE, Matern, PointObservations, analyse, leave_out

    first = "2007" if chosen.short else "1997"
    forecast = climatology(chosen.sst, first)
    with xr.open_dataset(chosen.argo) as profiles:
        profiles = profiles.isel(profile=np.flatnonzero(profiles.time.values >= np.datetime64(first)))
        floats = profiles.platform.values
        observations = PointObservations.from_dataset(profiles, "sst", error_std=0.4)

    background = Matern(std=0.6, length=500e3, time_length="30D", nu=0.5)
    common = dict(periodic=False, mask="wet", tolerance="16D")
    analysis = analyse(forecast, observations, background, window="90D", **common)
    out = Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    analysis.to_netcdf(out / "analysis.nc")

    layer = BLUE(background, latitude=forecast.lat, longitude=forecast.lon, periodic=False, mask=forecast.wet.values)
    innovations = replace(observations, values=analysis.innovation.values)
    scores = leave_out(layer, innovations, floats).attrs
    print(
        f"{scores['observations']} profiles of {len(np.unique(floats))} floats, each float left out in turn:\n"
        f"rms difference {scores['rmse_before']:.3f} K from the climatology, {scores['rmse_after']:.3f} K from the analysis; "
        f"chi-square {scores['chi2']:.2f}"
    )

    month = analysis.sel(time=MONTH).isel(time=0)
    near = observations.nearest(np.array([month.time.values]), "16D") >= 0
    dots = {"latitude": observations.latitude[near], "longitude": observations.longitude[near]}
    change = (month.sst - forecast.sst.sel(time=MONTH).isel(time=0)).assign_attrs(
        long_name="analysis minus climatology", units="K"
    )
    sea = forecast.wet
    plot.maps(change, diverging=True, mask=sea, title=f"Argo in {MONTH}: departure from the climatology").savefig(
        out / "departure.png", dpi=150
    )
    error = month.sst_std.assign_attrs(units="K")
    plot.error_map(error, dots, mask=sea, title=f"Argo in {MONTH}: how far to trust it").savefig(
        out / "error_map.png", dpi=150
    )
    print(f"figures in {out}")


if __name__ == "__main__":
    main()
