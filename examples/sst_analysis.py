"""Argo temperatures analysed into the climatology of sea surface temperature, monthly, on the globe, with their error.

Every profile differs from the climatology by a little; the best linear unbiased estimate (BLUE) turns these differences into
maps, and says how far they can be trusted. How large the errors are and how far they reach is not known beforehand: maximum
likelihood finds it in the differences of every second float. To see whether the result deserves trust, each float is then
left out in turn and predicted from all others.

    python examples/sst_analysis.py [SST.nc ARGO.nc] [--out sst-analysis] [--short]

Data: NOAA ERSST v3b, monthly, `sst` on (time, lat, lon), land NaN; Argo profiles (doi:10.17882/42182), 0 to 20 dbar, `sst`,
`lat`, `lon`, `time` and `platform` by profile.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MONTH = "2008-06"


def climatology(path: str, first: str) -> xr.Dataset:
    """Return the monthly climatology of 1981 to 2009 at every month from *first* to 2009, and where it is wet."""
    with xr.open_dataset(path) as ds:
        sst = ds.sst.sel(time=slice("1981", "2009")).load()
    means = sst.groupby("time.month").mean()
    forecast = means.sel(month=sst.time.sel(time=slice(first, None)).dt.month).drop_vars("month")
    return xr.Dataset({"sst": forecast.assign_attrs(sst.attrs), "wet": sst.notnull().all("time")})


def figure(change: xr.DataArray, error: xr.DataArray, dots: tuple, left_out: xr.Dataset, path: Path) -> None:
    """Draw what the floats change, how far to trust it, and whether the residuals are as large as expected."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(15, 4), width_ratios=(1.15, 1.15, 0.9), layout="constrained")
    limit = float(np.abs(change).max())
    for ax, field, style, text in (
        (axes[0], change, {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}, "Floats depart from the climatology"),
        (axes[1], error, {"cmap": "viridis", "vmin": 0}, "Error of the analysis"),
    ):
        drawn = ax.pcolormesh(field.lon, field.lat, field, **style)
        ax.plot(*dots, "o", ms=3, mfc="white", mec="black", mew=0.6)
        ax.set(facecolor="0.75", title=f"{text}, {MONTH}", xlabel="longitude [degrees]", aspect="equal")
        ax.set_ylabel("latitude [degrees]")
        fig.colorbar(drawn, ax=ax, label="[K]", shrink=0.75)
    z = (left_out.residual / left_out.residual_std).values.ravel()
    z, scores, edges = z[np.isfinite(z)], left_out.attrs, np.linspace(-4, 4, 41)
    axes[2].hist(np.clip(z, -4, 4), edges, density=True, color="#4477aa", label="floats left out")
    axes[2].plot(edges, np.exp(-(edges**2) / 2) / np.sqrt(2 * np.pi), color="#cc3311", label="normal distribution")
    rms = f"rms {scores['rmse_before']:.2f} K to {scores['rmse_after']:.2f} K"
    axes[2].set(title=f"{rms}, chi-square {scores['chi2']:.2f}", xlabel="residual / expected standard deviation")
    axes[2].legend(frameon=False, loc="upper left", fontsize=9)
    axes[2].set_ylim(top=1.35 * axes[2].get_ylim()[1])
    axes[2].spines[["top", "right", "left"]].set_visible(False)
    axes[2].set_yticks([])
    fig.savefig(path, dpi=150)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("sst", nargs="?", default=str(DATA / "ersst_v3b_1960-2009.nc"))
    options.add_argument("argo", nargs="?", default=str(DATA / "argo_tropatl_1997-2009.nc"))
    options.add_argument("--out", default="sst-analysis")
    options.add_argument("--short", action="store_true", help="from 2007 on")
    chosen = options.parse_args()
    missing = [p for p in (chosen.sst, chosen.argo) if not os.path.exists(p)]
    if missing:
        print(f"no data at {', '.join(missing)}: pass the paths of ERSST v3b and of the profiles", file=sys.stderr)
        # The short form also runs where the data are not to be had.
        sys.exit(0 if chosen.short else 1)

    start_backend()
    from physml.assimilation import BLUE, Matern, PointObservations, analyse, leave_out

    first = "2007" if chosen.short else "2000"
    forecast = climatology(chosen.sst, first)
    with xr.open_dataset(chosen.argo) as profiles:
        profiles = profiles.isel(profile=np.flatnonzero(profiles.time.values >= np.datetime64(first)))
        floats = profiles.platform.values
        observations = PointObservations.from_dataset(profiles, "sst", error_std=0.4)

    # A first guess of the covariances, corrected by what the climatology lacks at every second float.
    guess, options = (
        Matern(std=0.6, length=500e3, time_length="30D", nu=0.5),
        dict(periodic=True, mask="wet", tolerance="16D"),
    )
    layer = BLUE(guess, latitude=forecast.lat, longitude=forecast.lon, periodic=True, mask=forecast.wet.values)
    # Lazily: nothing but the innovations is computed here.
    first_guess = analyse(forecast.chunk(time=12), observations, guess, **options)
    innovations = replace(observations, values=first_guess.innovation.values)
    second = np.isin(floats, np.unique(floats)[::2])
    parts = (getattr(innovations, k)[second] for k in ("values", "latitude", "longitude", "time", "error_std"))
    found = layer.fit(PointObservations(*parts, innovations.units, "sst"))
    b, sigma_o = found.background_error, found.error_std
    print(
        f"likeliest for {second.sum()} of {len(floats)} profiles: sigma_b {b.std:.2f} K, {b.length / 1e3:.0f} km, "
        f"{b.time_length / 86400:.0f} days, sigma_o {sigma_o:.2f} K"
    )

    observations = replace(observations, error_std=sigma_o)
    out = Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    analysis = analyse(forecast.chunk(time=12), observations, b, window="90D", **options)
    analysis.to_netcdf(out / "analysis.nc")
    print(
        f"{analysis.sizes['time']} months of {int(forecast.wet.sum())} wet cells analysed and written in "
        f"{time.perf_counter() - start:.0f} s, in {analysis.attrs['solution']}"
    )

    left_out = leave_out(layer, replace(innovations, error_std=sigma_o), floats)
    scores = left_out.attrs
    print(
        f"{scores['observations']} profiles of {len(np.unique(floats))} floats, each float left out in turn:\n"
        f"rms difference {scores['rmse_before']:.3f} K from the climatology, {scores['rmse_after']:.3f} K from the analysis; "
        f"chi-square {scores['chi2']:.2f}"
    )

    with xr.open_dataset(out / "analysis.nc") as written:
        month = written.sel(time=MONTH).isel(time=0).load()
    change = month.sst - forecast.sst.sel(time=MONTH).isel(time=0)
    there = observations.nearest(np.array([month.time.values]), "16D") >= 0
    change, error = (
        f.assign_coords(lon=(f.lon + 180) % 360 - 180).sortby("lon").sel(lat=slice(-22, 22), lon=slice(-70, 18))
        for f in (change, month.sst_std)
    )
    dots = ((observations.longitude[there] + 180) % 360 - 180, observations.latitude[there])
    figure(change, error, dots, left_out, out / "sst_analysis.png")
    print(f"figure in {out}")


if __name__ == "__main__":
    main()
