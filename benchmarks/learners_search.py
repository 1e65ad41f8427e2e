"""Grid, random and Bayesian search on one problem: trials until the same score; and a search that is killed.

    python benchmarks/learners_search.py [--figure search.png]

prints one JSON line per claim (target: Bayesian before random before grid). The problem: x of Lorenz's model of 1963, observed
with noise, 0.1 time units ahead by a network of one hidden layer whose inner weights are random and whose outer ones are fitted by
ridge regression. Of its five parameters the size of the inner weights and the ridge matter, and units, biases and activation
hardly do: the case for which Bergstra and Bengio (2012, https://www.jmlr.org/papers/v13/bergstra12a.html) explain why random trials
beat a grid of as many, which tries few values of what matters. The grid has three values of each parameter, evenly spaced over the
same ranges, in random order. A search has reached the score when its best trial is within 2 % of the best of all.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import erf

from physml import FieldSpec
from physml.testbeds import lorenz63
from physml.tuning import SearchResult, between, search

SEEDS, TRIALS, WITHIN = 20, 60, 0.02
SPEC = FieldSpec(["x", "y", "z"], "x", target_offsets=2)
ACTIVATIONS = {"tanh": np.tanh, "erf": erf, "arctan": np.arctan}
SPACE = {
    "weights": between(1e-3, 10.0, log=True, points=3),
    "ridge": between(1e-6, 1e4, log=True, points=3),
    "biases": between(0.5, 2.0, points=3),
    "units": between(100, 160, points=3),
    "activation": list(ACTIVATIONS),
}


class RandomFeatures:
    """One hidden layer with random inner weights; the outer ones by ridge regression."""

    def __init__(self, params: dict[str, Any], scaling: Any) -> None:
        self.params, self.layout, self.scaling = params, scaling.layout, scaling
        rng = np.random.default_rng(0)
        self.inner = params["weights"] * rng.normal(size=(3, params["units"]))
        self.biases = params["biases"] * rng.normal(size=params["units"])

    def hidden(self, packed: np.ndarray) -> np.ndarray:
        """Return the hidden layer and a constant."""
        mean, std = (
            np.concatenate([getattr(self.scaling, w)[n].ravel() for n in SPEC.inputs]) for w in ("mean", "std")
        )
        act = ACTIVATIONS[self.params["activation"]]
        return np.c_[act((packed - mean) / std @ self.inner + self.biases), np.ones(len(packed))]

    def fit(self, train: xr.Dataset) -> "RandomFeatures":
        """Fit the outer weights."""
        # The training part has a hole: windows are those of one piece each.
        cut = np.flatnonzero(np.diff(train.time.values) > 1) + 1
        pieces = [p for p in np.split(np.arange(train.sizes["time"]), cut) if p.size > 2]
        parts = [
            [self.layout.pack(train.isel(time=p), role, whole_window=True).values for p in pieces]
            for role in ("inputs", "targets")
        ]
        h, y = self.hidden(np.concatenate(parts[0])), np.concatenate(parts[1])
        self.outer = np.linalg.solve(h.T @ h + self.params["ridge"] * np.eye(h.shape[1]), h.T @ y)
        return self

    def predict(self, ds: xr.Dataset) -> xr.Dataset:
        """Return forecasts of x."""
        packed = self.layout.pack(ds, "inputs")
        out = packed.isel(channel=[0]).copy(data=self.hidden(packed.values) @ self.outer)
        return self.layout.unpack(out, "targets", predicted=True)


def data(n: int = 600) -> xr.Dataset:
    run = lorenz63.simulate(5 * n, every=5, spin_up=20.0).x.to_dataset("component")[["x", "y", "z"]].drop_vars("time")
    run = run.isel(time=slice(n))
    rng = np.random.default_rng(1)
    noisy = {k: v + rng.normal(0, 0.5, v.shape) for k, v in run.items()}
    return xr.Dataset(noisy, {"time": np.arange(run.sizes["time"])})


def find(method: str, seed: int = 0, **more: Any) -> SearchResult:
    trials = None if method == "grid" else TRIALS
    options = {"n_trials": trials, "validation": 2, "score": "rmse", "seed": seed, **more}
    return search(RandomFeatures, SPACE, data(), spec=SPEC, method=method, **options)


def report(
    claim: str, measured: Any, unit: str, target: Any, peer: str | None, peer_measured: Any, holds: bool
) -> None:
    line = {"claim": claim, "measured": measured, "unit": unit, "target": target, "peer": peer}
    print(json.dumps({**line, "peer_measured": peer_measured, "holds": bool(holds)}), flush=True)


def reached(best: np.ndarray, goal: float) -> float:
    """Return the trials until the best score is at most *goal*; infinity where it never is."""
    at = np.flatnonzero(best <= goal)
    return float(at[0] + 1) if at.size else np.inf


def in_orders(grid: SearchResult) -> list[xr.Dataset]:
    """Return the trials of a grid in as many random orders as there are seeds."""
    found = []
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(grid.dataset.sizes["trial"])
        ds = grid.dataset.isel(trial=order).assign_coords(trial=np.arange(order.size))
        found.append(ds.assign(best=ds.best.copy(data=np.minimum.accumulate(ds.score.values))))
    return found


def compare(figure: str | None) -> None:
    start = time.perf_counter()
    grid = find("grid")
    results: dict[str, list[Any]] = {m: [find(m, s) for s in range(SEEDS)] for m in ("random", "bayesian")}
    spent = time.perf_counter() - start
    curves = {m: [r.dataset.best.values for r in found] for m, found in results.items()}
    curves["grid"] = [ds.best.values for ds in in_orders(grid)]
    least = min(float(np.min(c)) for found in curves.values() for c in found)
    goal = (1 + WITHIN) * least
    needed = {m: [reached(c, goal) for c in found] for m, found in curves.items()}
    middle = {m: float(np.median(v)) for m, v in needed.items()}
    told = {m: v if np.isfinite(v) else f"more than {len(curves[m][0])}" for m, v in middle.items()}
    share = {m: float(np.mean(np.isfinite(v))) for m, v in needed.items()}
    what = f"median trials until within {WITHIN:.0%} of the best of all ({least:.3f}), {SEEDS} seeds"
    report(f"{what}: Bayesian", told["bayesian"], "trials", "fewer than random", "random", told["random"],
           middle["bayesian"] < middle["random"])  # fmt: skip
    report(f"{what}: random", told["random"], "trials", "fewer than grid", "grid", told["grid"],
           middle["random"] < middle["grid"])  # fmt: skip
    for m in ("bayesian", "random"):
        report(f"share of {m} searches that reach it in {TRIALS} trials", share[m], "1", None, "grid, all of it",
               share["grid"], share[m] >= share["grid"])  # fmt: skip
        after = float(np.median([c[TRIALS - 1] for c in curves[m]]))
        peer = float(np.median([c[TRIALS - 1] for c in curves["grid"]]))
        report(f"median best score after {TRIALS} trials: {m}", after, "1", "below grid", "grid", peer, after < peer)
    shares = results["bayesian"][0].importance()
    top = set(shares.parameter.values[:2].tolist())
    report("share of the variance of the score: weights and ridge", float(shares.sel(parameter=["weights", "ridge"]).sum()),
           "1", "the two largest", None, None, top == {"weights", "ridge"})  # fmt: skip
    count = grid.dataset.sizes["trial"] + 2 * SEEDS * TRIALS
    report("seconds for a trial of two folds, with all around it", spent / count, "s", 1.0, None, None, spent < count)
    if figure:
        from physml import plot

        plot.search_history(
            {"grid": [ds.isel(trial=slice(TRIALS)) for ds in in_orders(grid)], **results},
            title=f"Best score by trials, {SEEDS} seeds",
        ).savefig(figure)


def killed() -> None:
    """Kill a search by SIGKILL half-way, go on, and compare with one that was never killed."""
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        process = subprocess.Popen([sys.executable, __file__, "--study", str(study)])
        journal, half = study / "journal.log", TRIALS // 2
        while not journal.exists() or journal.read_text().count('"outcome"') < half:
            if process.poll() is not None:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = journal.read_text().count('"outcome"')
        resumed = find("random", study=study).dataset
    whole = find("random").dataset
    same = all((whole[n].values == resumed[n].values).all() for n in ("weights", "ridge", "score_fold"))
    report(f"a search killed after {kept} of {TRIALS} trials goes on: trials that differ from one never killed",
           0 if same else int((whole.score.values != resumed.score.values).sum()), "trials", 0, None, None,
           same and kept < TRIALS)  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--figure", help="where to draw the best score by trials")
    options.add_argument("--study", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.study:
        find("random", study=chosen.study)
        return
    compare(chosen.figure)
    killed()


if __name__ == "__main__":
    main()
