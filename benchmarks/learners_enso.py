"""Settings of the learners of examples/enso.py, chosen by blocks of six years left out of 1960 to 1995; then its claims.

    python benchmarks/learners_enso.py [ersst_v3b_1960-2009.nc] [--only settings|claims]

The settings: one JSON line per choice, the errors of Niño 3.4 in the blocks left out at all leads, beside those of damped
persistence; then the choice of each learner, and whether the mean of all four is better than the best of them. Nothing of a block is
known: climatology, patterns, damping and scaling are those of the other years, and a year on each side belongs to neither. Only the
epoch at which a network stops is seen in the block, so that its errors are a little too small. The rule: the least sum over the
leads of the errors relative to damped persistence. Years from 1996 on are not read.

The claims: the example as it is, judged on 1996 to 2009.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import enso as example

from physml.run.quiet import start_backend

SEARCHED: dict[str, list[dict]] = {
    "ridge": [{"patterns": n, "alpha": a} for n in (10, 20, 30) for a in (5.0, 20.0, 80.0)],
    "forest": [{"min_samples_leaf": n, "max_features": f} for n in (5, 15) for f in (0.1, 0.3)],
    "CNN": [
        {"filters": (8, 16), "dropout": 0.3, "activation": "tanh"},
        {"filters": (16, 32), "dropout": 0.5, "activation": "tanh"},
        {"filters": (16, 32), "dropout": 0.3, "activation": "tanh"},
        {"filters": (16, 32), "dropout": 0.3, "activation": "relu"},
    ],
    "LSTM": [
        {"units": 8, "dropout": 0.3},
        {"units": 16, "dropout": 0.3},
        {"units": 32, "dropout": 0.3},
        {"units": 16, "dropout": 0.5},
    ],
}
TARGETS = {1: 0.25, 3: 0.51, 6: 0.73, 12: 0.85}
DAMPED = {1: 0.252, 3: 0.587, 6: 0.830, 12: 0.915}


def show(claim: str, measured, unit: str, target, peer, peer_measured, holds) -> None:
    """Print one line."""
    line = {"claim": claim, "measured": measured, "unit": unit, "target": target}
    print(json.dumps({**line, "peer": peer, "peer_measured": peer_measured, "holds": holds}), flush=True)


def rounded(values) -> list[float]:
    return [round(float(v), 3) for v in values]


def without(ds: xr.Dataset, rest: np.ndarray, patterns: int) -> xr.Dataset:
    """Return the data as the example makes them, from the months of *rest* alone."""
    data = example.departures(ds, rest, patterns)
    # Learners refuse a hole in the months they learn from: the same damping, from products.
    known = data.sel(time=rest)
    slope = (known.ahead * known.nino34).groupby("time.month").sum() / (known.nino34**2).groupby("time.month").sum()
    expected = (slope.sel(month=data.time.dt.month) * data.nino34).drop_vars("month")
    missed = (data.ahead - expected).transpose("time", "months").astype("float32").assign_attrs(data.ahead.attrs)
    return data.assign(missed=missed)


def forecast(
    name: str, data: xr.Dataset, rest: np.ndarray, left: np.ndarray, seed: int, settings: dict
) -> xr.DataArray:
    """Return what a learner of the months *rest* forecasts in the months *left*."""
    import physml

    chosen = {k: v for k, v in settings.items() if k != "patterns"}
    if name in ("CNN", "LSTM"):
        parts = data.sel(time=rest), data.sel(time=left)
        return physml.predict(example.network(name, *parts, seed, **chosen), parts[1]).missed
    # Inputs at all their offsets as one variable: then a hole in the months does no harm.
    packed = example.spec_of(name).bind(data).pack(data, "inputs").rename(channel="feature").drop_vars("feature")
    table = xr.Dataset({"x": packed, "missed": data.missed}).dropna("time")
    spec = physml.FieldSpec("x", "missed", levels=("feature", "months"))
    learner = getattr(physml.learners, name.capitalize())(spec, **{**example.SETTINGS[name], **chosen})
    learner.fit(table.sel(time=np.intersect1d(table.time, rest)))
    return learner.predict(table.sel(time=np.intersect1d(table.time, left))).missed


def settings(path: str) -> None:
    """Print the errors in the blocks left out."""
    ds = example.read(path).sel(time=slice(str(example.FIRST), str(example.LAST)))
    starts = ds.isel(time=slice(None, -max(example.LEADS)))
    folds = [tuple(part.time.values for part in pair) for pair in example.blocks(starts)]
    made: dict = {}
    kept: dict[str, list[xr.DataArray]] = {}

    def errors(name: str, chosen: dict) -> list[xr.DataArray]:
        found = []
        for number, (rest, left) in enumerate(folds):
            key = number, chosen.get("patterns", example.PATTERNS)
            if key not in made:
                made[key] = without(ds, rest, key[1])
            truth = made[key].missed.sel(time=left[len(example.YEAR) - 1 :])
            found.append((forecast(name, made[key], rest, left, number, chosen) if name else 0 * truth) - truth)
        return found

    def rmse(found: list[xr.DataArray]) -> np.ndarray:
        return np.sqrt((xr.concat(found, "time", join="outer") ** 2).mean("time").values)

    def relative(measured) -> float:
        return float(np.sum(np.asarray(measured) / peer))

    peer = rmse(errors("", {}))
    beside = "damped persistence by month", rounded(peer)
    for name, several in SEARCHED.items():
        ours, scores = {"patterns": example.PATTERNS, **example.SETTINGS[name]}, []
        for chosen in several:
            found = errors(name, chosen)
            scores.append(rmse(found))
            if all(ours[k] == v for k, v in chosen.items()):
                kept[name] = found
            text = f"{name}, {', '.join(f'{k} {v}' for k, v in chosen.items())}: rmse in blocks left out"
            show(f"{text}, {example.LEADS} months ahead", rounded(scores[-1]), "K", None, *beside, None)
        best = several[int(np.argmin([relative(s) for s in scores]))]
        show(
            f"{name}: the example has the settings of least error in blocks left out",
            best,
            "",
            {k: ours[k] for k in best},
            None,
            None,
            all(ours[k] == v for k, v in best.items()),
        )
    every = {name: rmse(found) for name, found in kept.items()}
    every["mean of the four"] = rmse([sum(parts) / len(kept) for parts in zip(*kept.values(), strict=True)])
    text = f"mean of the four: rmse in blocks left out, {example.LEADS} months ahead"
    show(text, rounded(every["mean of the four"]), "K", None, *beside, None)
    best = min(every, key=lambda n: relative(every[n]))
    text = "the forecasts drawn by the example are those of least error in blocks left out"
    show(text, best, "", example.BEST, None, None, best == example.BEST)


def claims(path: str) -> None:
    """Print what the example shows."""
    forecasts, truth = example.forecast(path)
    card = example.scores(forecasts, truth).value.sel(variable="nino34")
    learned = ["ridge", "forest", "CNN", "LSTM", example.BEST]
    for months, target in TARGETS.items():
        at = card.sel(score="rmse", months=months)
        known = float(at.sel(model="damped persistence"))
        beside = "damped persistence", round(known, 3)
        best = min(learned, key=lambda n: float(at.sel(model=n)))
        for name, what in ((best, "the best learner"), (example.BEST, "of least error in blocks left out")):
            measured = float(at.sel(model=name))
            text = f"{name}, {what}: rmse of Niño 3.4 {months} months ahead, 1996 to 2009"
            show(text, round(measured, 3), "K", target, *beside, measured <= target)
        text = f"damped persistence {months} months ahead as by plain NumPy"
        show(text, round(known, 3), "K", DAMPED[months], None, None, abs(known - DAMPED[months]) < 1e-3)
    for name in learned:
        covered = card.sel(score="coverage of 90 % intervals", model=name).values
        text = f"{name}: share of the truth in its 90 % intervals, {example.LEADS} months ahead"
        show(text, rounded(covered), "1", [0.85, 0.95], None, None, bool((abs(covered - 0.9) <= 0.05).all()))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", nargs="?", default=str(example.DATA))
    options.add_argument("--only", choices=("settings", "claims"))
    given = options.parse_args()
    start_backend()
    for part in (settings, claims):
        if given.only in (None, part.__name__):
            part(given.data)
