"""Which waters, and which months, carry a forecast of El Niño half a year ahead.

A network reads the sea surface temperature of now, three and six months earlier between 40S and 60N, and predicts the map six
months ahead: 30 patterns of departures from the monthly climatology, a small ensemble of dense layers between them, all inside
one Keras model with degrees Celsius at both ends. It is trained on 1960 to 1995 and judged on 1996 to 2009, beside persistence
and climatology.

Then its forecasts of Niño 3.4 (5S to 5N, 170W to 120W) are explained: Shapley values of regions and months, against the
climatology of the same month, with 95 % intervals; the contribution of every region over time; and a map, where each patch of
8 by 16 degrees is a player. They tell what this network does with the temperatures it reads: neighbouring waters vary together,
and another network of the same skill may lean on others.

Number of patterns, dropout and epochs are those of least error in blocks of six years left out of 1960 to 1995 in turn
(benchmarks/explain_enso_settings.py: 0.64 K, damped persistence 0.78 K; 20 or 40 patterns 0.69 to 0.73 K; other dropouts and
epochs 0.65 to 0.66 K, hardly to be told apart). Lags, widths and the size of the ensemble were not searched. The years from 1996
on took no part in that choice, but earlier versions of this example had been made with them in view.

    python examples/explain_enso.py [ersst_v3b_1960-2009.nc] [--out explain-enso] [--short]

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
LEAD, LAGS = 6, {"now": [0], "3 months ago": [-3], "6 months ago": [-6]}
PATTERNS, DROPOUT, EPOCHS = 30, 0.3, 80
NINO34 = {"lat": slice(-5, 5), "lon": slice(190, 240)}


def read(path: str) -> xr.Dataset:
    """Return sea surface temperature on 2 by 4 degrees, with wet cells and their area."""
    with xr.open_dataset(path) as file:
        sst = file.sst.sel(lat=slice(-40, 60)).load()
    weight = (np.cos(np.deg2rad(sst.lat)) * sst[0].notnull()).coarsen(lon=2).sum()
    mean = sst.coarsen(lon=2).mean().astype("float32").assign_attrs(sst.attrs)
    mean["lon"].attrs = sst.lon.attrs
    return xr.Dataset({"sst": mean, "wet": mean.notnull().all("time"), "area": weight})


def regions(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return where the waters lie that may matter; the coasts that part the oceans are lines between a few points."""
    lat, lon = xr.broadcast(ds.lat, ds.lon)
    americas = np.interp(lat, [-40, 5, 9, 13, 17, 21, 60], [290, 285, 280, 275, 266, 258, 255])
    asia = np.interp(lat, [-40, -10, -7, 30], [147, 142, 104, 100])
    indian = (lon >= 20) & (lon < asia) & (lat <= 30)
    pacific = (lon >= asia) & (lon <= americas)
    tropical = pacific & (abs(lat) <= 10)
    centre = (abs(lat) <= 5) & (lon >= 190) & (lon <= 240)
    return {
        "Niño 3.4": centre,
        "western tropical Pacific": tropical & ~centre & (lon < 200),
        "eastern tropical Pacific": tropical & ~centre & (lon >= 200),
        "North Pacific": pacific & (lat > 10),
        "South Pacific": pacific & (lat < -10),
        "Indian Ocean": indian,
        "Atlantic": ~pacific & ~indian,
    }


def patterns(anomaly: np.ndarray, area: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return matrices from maps ``[sample, cell]`` to leading principal components of variance 1, and back."""
    root = np.sqrt(area)
    _, size, pattern = np.linalg.svd(anomaly * root, full_matrices=False)
    size, pattern = size[:number, None] / np.sqrt(len(anomaly)), pattern[:number]
    return (pattern * root / size).T, pattern * size / root


def ensemble(inputs: int, outputs: int, dropout: float):
    """Return five dense networks side by side, ready to be trained, with their input and their outputs."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    start = keras.Input((inputs,))
    members, small = [], keras.regularizers.L2(3e-4)
    for _ in range(5):
        hidden = layers.Dense(32, "tanh", kernel_regularizer=small)(layers.Dropout(dropout)(start))
        members.append(layers.Dense(outputs, kernel_regularizer=small)(hidden))
    each = keras.Model(start, layers.Concatenate()(members))
    each.compile(keras.optimizers.Adam(5e-3), "mse")
    return each, start, members


def network(layout, climate, later, into, back, fit, short):
    """Return a Keras model from maps and month to the map six months ahead, trained in the space of the patterns.

    Parameters
    ----------
    layout
        Layout of inputs and target.
    climate, later
        Climatology of inputs ``[month, *space, channel]`` and of the target ``[month, *space]``.
    into, back
        From :func:`patterns`, for all cells of the grid.
    fit
        Components of the inputs ``[sample, 3 x pattern]`` and of the target, to train with.
    short
        Few epochs.
    """
    import keras
    from keras import layers, ops

    each, start, members = ensemble(fit[0].shape[1], len(back), DROPOUT)
    weight = np.linalg.norm(back, axis=1) / np.linalg.norm(back[0])  # errors count as they do on the map
    each.fit(fit[0], np.tile(fit[1] * weight, (1, 5)), batch_size=32, epochs=10 if short else EPOCHS, verbose=0)

    def frozen(kind, table, *size):
        layer = kind(*size, trainable=False)
        layer.build((None, table.shape[0]) if kind is layers.Dense else None)
        layer.set_weights([table, np.zeros(table.shape[1])] if kind is layers.Dense else [table])
        return layer

    def by_month(table):
        rows = np.concatenate([np.zeros((1, table[0].size)), table.reshape(12, -1)])
        return frozen(layers.Embedding, rows, 13, rows.shape[1])

    inputs = keras.Input((*layout.shape, len(layout.inputs)))
    wet = np.argwhere(layout.valid("inputs").all(-1))[0].tolist()
    month = ops.cast(inputs[:, wet[0], wet[1], -1], "int32")
    anomaly = inputs - layers.Reshape(inputs.shape[1:])(by_month(climate)(month))
    stacked = layers.Reshape((len(LAGS), into.shape[0]))(layers.Permute((3, 1, 2))(anomaly[..., : len(LAGS)]))
    components = layers.Flatten()(frozen(layers.Dense, into, into.shape[1])(stacked))
    mean = layers.Average()([layer for layer in keras.Model(start, members)(components)])
    change = frozen(layers.Dense, back / weight[:, None], back.shape[1])(mean)
    return keras.Model(
        inputs, layers.Reshape((*layout.shape, 1))(change + by_month(later)(month)), name="dense_ensemble"
    )


def rmse(error: xr.DataArray) -> float:
    return float(np.sqrt((error**2).mean()))


def figure(names, regional, observed, skill, ends, lagged, painted, path: Path) -> None:
    """Draw forecasts and what made them over time, and one of them by months and by patches."""
    import matplotlib.pyplot as plt

    from physml import plot

    fig = plt.figure(figsize=(17, 10), layout="constrained")
    left, right = fig.add_gridspec(1, 2, width_ratios=(1, 1.05), wspace=0.06)
    left, right = left.subgridspec(2, 1, height_ratios=(1, 1.6)), right.subgridspec(2, 1, height_ratios=(1, 1))
    heat = fig.add_subplot(left[1])
    lines = fig.add_subplot(left[0], sharex=heat)
    dots, chart = fig.add_subplot(right[0]), fig.add_subplot(right[1])

    over = regional.sel(group=names).swap_dims(time="valid_time")
    plot.time_by_group(over, ax=heat, title="What each region brings, against the climatology of the month")
    heat.set_xlabel("month forecast", fontsize=12)
    lines.axhline(0, color="0.6", lw=0.8)
    lines.plot(over.valid_time, observed, color="0.55", lw=1.6, label="observed")
    lines.plot(over.valid_time, over.prediction - over.base_value, color="#0072B2", lw=2, label="forecast")
    lines.legend(frameon=False, ncols=2, loc="upper right", fontsize=12)
    lines.set_ylabel("Niño 3.4 anomaly [°C]", fontsize=14)
    lines.set_ylim(top=1.25 * max(2.0, float(np.abs(observed).max())))
    beside = f"damped persistence {skill['damped persistence']:.2f}"
    lines.set_title(f"{LEAD} months ahead: rmse {skill['network']:.2f} °C; {beside}", loc="left", fontsize=14)
    lines.tick_params(labelbottom=False)

    month = str(lagged.valid_time.dt.strftime("%B %Y").values[0])
    dots.axvline(0, color="0.3", lw=1)
    for k, (lag, colour) in enumerate(zip(LAGS, ("#D55E00", "#0072B2", "0.45"), strict=True)):
        at = [f"{n}, {lag}" if f"{n}, {lag}" in lagged.group else f"{lag}, {n}" for n in names]
        middle, y = lagged.attribution.sel(group=at)[:, 0], np.arange(len(names)) + (k - 1) * 0.24
        reach = [abs(ends[e].sel(group=at)[:, 0] - middle) for e in ("lower", "upper")]
        dots.errorbar(middle, y, xerr=reach, fmt="o", ms=6, lw=2, capsize=3, color=colour, label=lag)
    for y in np.arange(len(names) - 1) + 0.5:
        dots.axhline(y, color="0.9", lw=0.8)
    dots.set_yticks(range(len(names)), names)
    dots.invert_yaxis()
    dots.legend(frameon=True, framealpha=1, edgecolor="white", fontsize=12, loc="best")
    dots.set_title(f"The forecast of {month}: which region, which month", loc="left", fontsize=14)
    half = float((ends.upper - ends.lower).max() / 2)
    dots.set_xlabel(f"contribution [°C], with 95 % intervals of at most ±{half:.3f} °C", fontsize=14)

    title = "The same by patches of 8° by 16°; box: Niño 3.4"
    label = "contribution of a patch, all three months [°C]"
    plot.maps(painted, diverging=True, ax=chart, title=title, label=label)
    chart.plot([190, 240, 240, 190, 190], [-5, -5, 5, 5, -5], color="black", lw=1.5)
    for ax in (lines, dots):
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=12)
    fig.savefig(path, dpi=150)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", nargs="?", default=str(DATA))
    options.add_argument("--out", default="explain-enso")
    options.add_argument("--short", action="store_true", help="few epochs, one year explained")
    chosen = options.parse_args()
    if not os.path.exists(chosen.data):
        print(f"no data at {chosen.data}: pass the path of ERSST v3b as one netCDF file", file=sys.stderr)
        # The short form also runs where the data are not to be had.
        sys.exit(0 if chosen.short else 1)

    start_backend()
    from physml import FieldSpec
    from physml.explain import Explainer, box_mean, climatology, groups, interval

    out = Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    ds = read(chosen.data)
    offsets = sorted(o for given in LAGS.values() for o in given)
    spec = FieldSpec(
        ["sst", "time.month"], "sst", input_offsets={"sst": offsets}, target_offsets=LEAD, mask="wet", area="area"
    )
    layout = spec.bind(ds)
    train = ds.sel(time=slice("1960", "1995"))
    base = climatology(train, layout, by="month")
    means = train.sst.groupby("time.month").mean().fillna(0).values
    later = np.roll(means, -LEAD, axis=0)

    packed = layout.pack(train, "inputs", whole_window=True).fillna(0)
    anomaly = (packed.values - base.rows[base.pick(packed.time)[:, 0]])[..., : len(LAGS)]
    target = layout.pack(train, "targets", whole_window=True).fillna(0).values[..., 0]
    target = target - later[packed.time.dt.month.values - 1]
    wet = ds.wet.values
    into, back = np.zeros((wet.size, PATTERNS)), np.zeros((PATTERNS, wet.size))
    into[wet.ravel()], back[:, wet.ravel()] = patterns(anomaly[..., -1][:, wet], ds.area.values[wet], PATTERNS)
    seen = np.moveaxis(anomaly, -1, 1).reshape(len(anomaly), len(LAGS), -1) @ into
    fit = seen.reshape(len(seen), -1), target.reshape(len(target), -1) @ into
    model = network(layout, base.rows, later, into, back, fit, chosen.short)

    nino34 = box_mean("sst", **NINO34)
    apart = groups(layout, variable={"sst": "sst", "month": "time.month"})

    def explain(players, samples, **settings):
        players = players.merge({n.removeprefix("sst, "): n for n in players.names})
        result = Explainer(model, base, players, nino34, layout=layout).shapley(samples, **settings)
        # Sample and baseline share the month, which tells the network what is normal: it has nothing to add.
        assert abs(result.attribution.sel(group="month")).max() < 1e-5
        return result, players

    # Years that neither the network nor the climatology has seen.
    late = ds.sel(time=slice("1996-07", "1997-12") if chosen.short else slice("1995-01", "2009-06"))
    where = regions(ds)
    regional, _ = explain(apart.split("sst", region=where), late)
    index = ds.sst.sel(NINO34).weighted(ds.area.sel(NINO34)).mean(("lat", "lon"))
    usual = index.sel(time=slice("1960", "1995")).groupby("time.month").mean()
    depart = (index.groupby("time.month") - usual).drop_vars("month")
    observed, now = (depart.sel(time=regional[n].values).values for n in ("valid_time", "time"))
    forecast = (regional.prediction - regional.base_value).values
    early = depart.sel(time=slice("1960", "1995")).values
    damping = (early[:-LEAD] * early[LEAD:]).sum() / (early[:-LEAD] ** 2).sum()
    guesses = {"network": forecast, "climatology": 0.0, "persistence": now, "damped persistence": damping * now}
    skill = {name: rmse(guess - observed) for name, guess in guesses.items()}
    print(f"Niño 3.4 {LEAD} months ahead, {observed.size} forecasts of years not trained on, rmse [K]")
    for name, value in skill.items():
        print(f"{name:<20}{value:8.3f}")

    # One forecast more closely: the months of each region, as unions, so that they add up to it; and patch by patch.
    start = ds.sel(time=slice("1996-12", "1997-06"))
    by_month = apart.split("sst", region=where, lag=LAGS).nested("region")
    lagged, _ = explain(by_month, start, method="permutations", pairs=8 if chosen.short else 32)
    whole = regional.sel(time=lagged.time).drop_sel(group="month")
    together = lagged.attribution.groupby("group_region").sum().sel(group_region=whole.group.values).values
    print(f"months of a region add up to it within {abs(together - whole.attribution.values).max():.3f} K")
    patched, patches = explain(
        apart.split("sst", patches={"lat": 4, "lon": 4}),
        start,
        method="permutations",
        pairs=2 if chosen.short else 8,
    )
    painted = patches.paint(patched).sst.isel(time=0, offset=0)

    regional.assign(observed=("time", observed, {"units": "degC", "long_name": "observed departure"})).to_netcdf(
        out / "regions.nc"
    )
    lagged.to_netcdf(out / "regions_and_months.nc")
    patched.to_netcdf(out / "patches.nc")
    figure(whole.group.values, regional, observed, skill, interval(lagged), lagged, painted, out / "explain_enso.png")
    print(f"figure and results in {out}")


if __name__ == "__main__":
    main()
