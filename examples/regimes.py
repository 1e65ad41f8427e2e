"""Which way the heat goes through the surface of the sea, told from the weather above it.

Each ocean cell of a monthly climatology (January to June, 4 by 5 degrees) belongs to one of four regimes of its surface heat budget:

- gain: the sea takes up more than 25 W m-2;
- balance: it takes up or loses no more than that;
- evaporation: it loses more, and evaporation takes more than longwave radiation and sensible heat together;
- cold air: it loses more, and longwave radiation and sensible heat take the greater part.

A network sees, cell by cell, the temperature of sea and air, humidity, wind, cloudiness and the sun's daily radiation at the top of the
atmosphere (astronomy), and none of the fluxes. It answers the probability of each regime, a head `Classes` with weights that balance
the regimes. It is judged where it has not been: six sectors of 60 degrees of longitude are left out in turn, with 10 degrees on either
side, and every cell of the maps is predicted by the network that never saw its sector.

Beside it: always the most frequent regime; multinomial logistic regression; a random forest. All see the same cells in training, and are
scored by area: the share of the sea that is right, and its mean over the regimes (balanced accuracy).

By area 86 % are right, 86 % in the mean of the regimes: logistic regression has 85 and 85, a forest 82 and 81, the most frequent
regime 45 and 25. What is wrong lies at the borders between regimes, and in the Southern Ocean in June, where the network calls cold air what
is evaporation by 14 W m-2 in the median.

    python examples/regimes.py [surface_heat_budget_jan-jun.nc] [--out regimes] [--short]

Data: Esbensen and Kushnir (1981) surface heat budget climatology, from NOAA-PMEL's FerretDatasets, one netCDF file.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "surface_heat_budget_jan-jun.nc"
REGIMES = ("gain", "balance", "evaporation", "cold_air")
TITLES = ("heat gain", "near balance", "loss, evaporation leads", "loss, cold air leads")
COLORS = ("#D98841", "#F2E6C4", "#5AA5C8", "#2B3F7E")
LIMIT, SECTOR, MARGIN = 25.0, 60, 10
INPUTS = ("sst", "air", "humidity", "wind", "cloud", "sun")


def read(path: str) -> xr.Dataset:
    """Return what is seen, the regime, ocean cells and their area."""
    with xr.open_dataset(path, decode_times=False) as file:
        raw = file.rename(TIME="month", ESKUY="lat", ESKUX="lon").drop_vars("ESKUYedges").load()
    raw = raw.assign_coords(month=np.arange(1, 7), lon=raw.lon % 360).sortby("lon")
    ds = xr.Dataset(
        {
            "sst": raw.SST.assign_attrs(units="degC"),
            "air": raw.AT.assign_attrs(units="degC"),
            "humidity": raw.AH.assign_attrs(units="g kg-1"),
            "wind": raw.SPD.assign_attrs(units="m s-1"),
            "cloud": raw.CLD.assign_attrs(units="1"),
            "sun": sunshine(raw.month, raw.lat).astype("float32"),
            "wet": raw.FDH.notnull().all("month"),
            "area": np.cos(np.deg2rad(raw.lat)).broadcast_like(raw.FDH[0]).transpose("lat", "lon"),
        }
    )
    loses = raw.FDH < -LIMIT
    evaporation = raw.FLH > raw.FUL + raw.FSH
    number = xr.where(raw.FDH > LIMIT, 0, xr.where(loses & evaporation, 2, xr.where(loses, 3, 1)))
    flags = {"long_name": "regime", "flag_values": np.arange(4, dtype="int8"), "flag_meanings": " ".join(REGIMES)}
    return ds.assign(regime=number.astype("int8").transpose("month", "lat", "lon").assign_attrs(flags))


def sunshine(month: xr.DataArray, lat: xr.DataArray) -> xr.DataArray:
    """Return the sun's mean radiation of a day at the top of the atmosphere [W m-2], in the middle of the month."""
    day = 30.4 * (month - 0.5)
    declination = np.deg2rad(-23.44) * np.cos(2 * np.pi * (day + 10) / 365.25)
    phi = np.deg2rad(lat)
    noon_to_sunset = np.arccos((-np.tan(phi) * np.tan(declination)).clip(-1, 1))
    height = noon_to_sunset * np.sin(phi) * np.sin(declination)
    height = height + np.cos(phi) * np.cos(declination) * np.sin(noon_to_sunset)
    return (1361 / np.pi * height).transpose("month", "lat").assign_attrs(units="W m-2")


def sectors(lon: xr.DataArray, first: int) -> tuple[xr.DataArray, xr.DataArray]:
    """Return which longitudes are left out, and which are trained on: not those within the margin."""
    beyond = (lon - first) % 360
    return beyond < SECTOR, (beyond >= SECTOR + MARGIN) & (beyond < 360 - MARGIN)


def classify(ds: xr.Dataset, seen: xr.DataArray, epochs: int):
    """Return a model trained on some longitudes that answers on all."""
    import keras

    from physml import Batches, FieldModel, FieldSpec, Scaling, networks
    from physml.heads import Classes

    keras.utils.set_random_seed(0)
    ds = ds.assign(learn=ds.wet & seen)
    spec = FieldSpec(INPUTS, "regime", sample_dim="month", mask="learn", area="area")
    scaling = Scaling.fit(ds, spec)
    head = Classes(class_weights="balanced").fit(ds, spec)
    network = networks.mlp(scaling.layout, hidden=(48, 48), activation="tanh", outputs=head.channels(scaling.layout))
    model = FieldModel(network, scaling=scaling, head=head)
    batches = Batches(ds, spec, 2, shuffle=True)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, epochs * len(batches))
    model.compile(keras.optimizers.Adam(rate), "cross_entropy")
    model.fit(batches, epochs=epochs, verbose=0)
    everywhere = FieldSpec(INPUTS, "regime", sample_dim="month", mask="wet", area="area").bind(ds)
    return FieldModel(network, scaling=Scaling.from_config(scaling.to_config(), everywhere), head=head)


def peers(ds: xr.Dataset, seen: xr.DataArray, trees: int) -> dict[str, xr.DataArray]:
    """Return the regimes that other methods tell, trained on the same cells."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.stack([ds[n].broadcast_like(ds.regime).transpose(*ds.regime.dims).values for n in INPUTS], axis=-1)
    wet, learn = (v.broadcast_like(ds.regime).transpose(*ds.regime.dims).values for v in (ds.wet, ds.wet & seen))
    y, area = ds.regime.values[learn], ds.area.broadcast_like(ds.regime).transpose(*ds.regime.dims).values[learn]
    balanced = area / np.bincount(y, area)[y]
    forest = RandomForestClassifier(trees, min_samples_leaf=5, random_state=0)
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    fitted = {
        "logistic regression": logistic.fit(x[learn], y, logisticregression__sample_weight=len(y) * balanced / 4),
        "random forest": forest.fit(x[learn], y, sample_weight=balanced),
    }
    found = {n: ds.regime.astype("float32").where(False) for n in fitted}
    for name, model in fitted.items():
        found[name].values[wet] = model.predict(x[wet])
    most = float(np.bincount(y, area).argmax())
    return {"most frequent regime": ds.regime.astype("float32").where(False).fillna(most).where(ds.wet), **found}


def scores(regime: xr.DataArray, ds: xr.Dataset) -> tuple[float, float, np.ndarray]:
    """Return accuracy, balanced accuracy and the shares of each true regime told as each, all by area."""
    area = (ds.area * ds.wet).broadcast_like(ds.regime)
    table = np.array([[float(area.where((ds.regime == a) & (regime == b)).sum()) for b in range(4)] for a in range(4)])
    shares = table / table.sum(1, keepdims=True)
    return float(np.trace(table) / table.sum()), float(np.diag(shares).mean()), shares


def figure(
    ds: xr.Dataset, out: xr.Dataset, table: np.ndarray, lines: dict[str, tuple[float, float]], path: Path
) -> None:
    """Draw truth, prediction and its probability of the two ends of the half-year, the confusion matrix and the scores."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import BoundaryNorm, ListedColormap

    shades, norm = ListedColormap(COLORS), BoundaryNorm(np.arange(-0.5, 4), 4)
    fig = plt.figure(figsize=(17, 10), layout="constrained")
    left, right = fig.add_gridspec(1, 2, width_ratios=(2.25, 1), wspace=0.05)
    maps = left.subgridspec(3, 2, wspace=0.02, hspace=0.04)
    start = 20  # the maps begin at Africa, so that no ocean is cut
    view = {"lon": np.roll(np.arange(ds.sizes["lon"]), -int(np.argmax(ds.lon.values >= start)))}
    lon, lat = start + 5 * np.arange(ds.sizes["lon"]), ds.lat.values
    certain = out.regime_probability.max("category")
    for column, (month, title) in enumerate(((1, "January"), (6, "June"))):
        rows = (
            ("truth", ds.regime.where(ds.wet)),
            ("prediction, sectors left out", out.regime),
            ("probability of the predicted regime", certain),
        )
        for row, (what, field) in enumerate(rows):
            ax = fig.add_subplot(maps[row, column])
            ax.set_facecolor("#BDBDB8")
            style = {"cmap": shades, "norm": norm} if row < 2 else {"cmap": "magma", "vmin": 0.25, "vmax": 1.0}
            mesh = ax.pcolormesh(lon, lat, field.sel(month=month).isel(view).values, shading="nearest", **style)
            ax.set(ylim=(-68, 80), xlim=(lon[0] - 2.5, lon[-1] + 2.5), yticks=(-60, -30, 0, 30, 60))
            ax.set_xticks(np.arange(60, 361, 60))
            ax.set_xticklabels([f"{x}°E" if x < 180 else "180°" if x == 180 else f"{360 - x}°W" if x < 360 else "0°" for x in range(60, 361, 60)])  # fmt: skip
            ax.set_yticklabels(["60°S", "30°S", "0°", "30°N", "60°N"] if column == 0 else [])
            ax.tick_params(labelsize=12, labelbottom=row == 2)
            ax.set_title(f"{title}: {what}", fontsize=14.5, loc="left")
            if row == 1:
                for edge in range(30, 390, SECTOR):
                    ax.axvline(
                        edge if edge >= 17.5 else edge + 360, color="#222222", linewidth=1, linestyle=(0, (4, 4))
                    )
            if row == 2 and column == 1:
                bar = fig.colorbar(mesh, ax=fig.axes, orientation="horizontal", location="bottom", shrink=0.45, aspect=45, pad=0.015)  # fmt: skip
                bar.ax.tick_params(labelsize=12)
                bar.set_label("probability of the predicted regime", fontsize=13)
    beside = right.subgridspec(3, 1, height_ratios=(0.42, 1.25, 1.0), hspace=0.08)
    key = fig.add_subplot(beside[0])
    key.axis("off")
    for k, (title, color) in enumerate(zip(TITLES, COLORS, strict=True)):
        key.add_patch(plt.Rectangle((0.06, 0.86 - 0.27 * k), 0.09, 0.19, color=color, transform=key.transAxes))
        key.text(0.19, 0.955 - 0.27 * k, title, fontsize=15, va="center", transform=key.transAxes)
    ax = fig.add_subplot(beside[1])
    ax.imshow(100 * table, cmap="YlGnBu", vmin=0, vmax=100, aspect="auto")
    for a in range(4):
        for b in range(4):
            ax.text(b, a, f"{100 * table[a, b]:.0f} %", ha="center", va="center", fontsize=15, color="white" if table[a, b] > 0.55 else "#222222")  # fmt: skip
    short = ("gain", "balance", "evap-\noration", "cold\nair")
    ax.set_xticks(range(4), short, fontsize=13)
    ax.set_yticks(range(4), short, fontsize=13)
    ax.set_xlabel("predicted regime", fontsize=14)
    ax.set_ylabel("true regime", fontsize=14)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("where the area of each regime goes", fontsize=15, loc="left")
    ax = fig.add_subplot(beside[2])
    names = list(lines)[::-1]
    for i, name in enumerate(names):
        ours = name == "network"
        accuracy, balanced = (100 * v for v in lines[name])
        ax.barh(i - 0.16, accuracy, height=0.2, color="#2B3F7E" if ours else "#A9A9A4")
        ax.barh(i - 0.37, balanced, height=0.2, color="#5AA5C8" if ours else "#D2D2CD")
        ax.text(0.5, i + 0.02, name, fontsize=14, fontweight="bold" if ours else "normal", va="bottom")
        for at, value in ((i - 0.16, accuracy), (i - 0.37, balanced)):
            ax.text(value + 1, at, f"{value:.0f} %", fontsize=12, va="center")
    ax.set(xlim=(0, 104), ylim=(-0.5, len(names) - 0.55), xticks=(), yticks=())
    ax.spines[:].set_visible(False)
    ax.set_title("share of the sea that is right,\nand its mean over the regimes", fontsize=15, loc="left")
    fig.suptitle(
        "Regimes of the surface heat budget, told from weather and sun without a flux", fontsize=21, x=0.01, ha="left"
    )
    fig.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.15)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=str(DATA))
    parser.add_argument("--out", default="regimes", help="folder for the figure")
    parser.add_argument("--short", action="store_true", help="few epochs and trees: a minute's check")
    args = parser.parse_args()
    if not Path(args.data).exists():
        print(f"no data at {args.data}")
        sys.exit(0 if args.short else 1)
    start_backend()
    from physml import predict

    ds = read(args.data)
    parts: list[xr.Dataset] = []
    told: dict[str, list[xr.DataArray]] = {}
    for first in range(30, 390, SECTOR):
        left_out, seen = sectors(ds.lon, first)
        model = classify(ds, seen, 10 if args.short else 150)
        parts.append(predict(model, ds).where(left_out))
        for name, regime in peers(ds, seen, 20 if args.short else 300).items():
            told.setdefault(name, []).append(regime.where(left_out))
    out = parts[0]
    for part in parts[1:]:
        out = out.fillna(part)
    total = out.regime_probability.sum("category").where(ds.wet)
    print(f"probabilities sum to 1 within {float(abs(total - 1).max()):.1e}")
    table, lines = np.empty(0), {}
    for name, regime in (*((n, sum_up(r)) for n, r in told.items()), ("network", out.regime)):
        accuracy, balanced, table = scores(regime, ds)
        lines[name] = accuracy, balanced
        print(f"{name:22s} accuracy {accuracy:.3f}, balanced {balanced:.3f}")
    path = Path(args.out)
    path.mkdir(parents=True, exist_ok=True)
    figure(ds, out, table, lines, path / "regimes.png")
    print(f"wrote {path / 'regimes.png'}")


def sum_up(parts: list[xr.DataArray]) -> xr.DataArray:
    """Return the map that the sectors make together."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.fillna(part)
    return whole


if __name__ == "__main__":
    main()
