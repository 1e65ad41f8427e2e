"""A forest on ten million stacked cells of a lazy Dataset: in bounded memory, and the same trees as scikit-learn's.

    python benchmarks/learners_forest.py

prints one JSON line per claim; about five minutes on two cores. 500 maps of 100 x 200 cells in dask blocks of 20 maps: two fields, one
static field and the month are the features of every cell, 10 trees, each of 200 000 rows drawn from all ten million. Each memory is
that of a process of its own. The peer computes the same Dataset, stacks it with NumPy and fits scikit-learn's forest with the same seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time

import dask.array as dsa
import numpy as np
import xarray as xr
from _loader_data import peak_mb, report

SHAPE, BLOCK = (500, 100, 200), 20
SETTINGS = {"max_samples": 200_000, "min_samples_leaf": 5, "n_jobs": 1}
TREES, ASKED = 10, 20
INPUTS = ["a", "b", "depth", "time.month"]


def data() -> xr.Dataset:
    random = dsa.random.default_rng(0)
    a, b, noise = (random.standard_normal(SHAPE, chunks=(BLOCK, *SHAPE[1:]), dtype="float32") for _ in range(3))
    depth = np.random.default_rng(1).uniform(0, 1, SHAPE[1:]).astype("float32")
    fields = {"a": a, "b": b, "y": a * b + np.sin(3 * a) * depth + 0.1 * noise}
    ds = xr.Dataset({n: (("time", "lat", "lon"), v) for n, v in fields.items()} | {"depth": (("lat", "lon"), depth)})
    return ds.assign_coords(time=xr.date_range("1960-01-01", periods=SHAPE[0], freq="MS"))


def grown(estimator: object, predicted: np.ndarray) -> dict[str, str]:
    """Return digests of all splits and leaves, and of predictions."""
    made = hashlib.sha256()
    for member in estimator.estimators_:
        for array in (member.tree_.feature, member.tree_.threshold, member.tree_.value):
            made.update(np.ascontiguousarray(array).tobytes())
    return {"trees": made.hexdigest(), "predicted": hashlib.sha256(predicted.astype("float32").tobytes()).hexdigest()}


def ours() -> dict:
    from physml import FieldSpec
    from physml.learners import Forest

    ds = data()
    forest = Forest(FieldSpec(INPUTS, "y"), n_trees=TREES, **SETTINGS).fit(ds)
    out = forest.predict(ds.isel(time=slice(0, ASKED))).y.compute().values
    return grown(forest.estimator, out)


def peer() -> dict:
    from sklearn.ensemble import RandomForestRegressor

    ds = data().compute()
    fields = [ds[n].broadcast_like(ds.y).values.ravel() for n in INPUTS[:3]]
    month = ds.time.dt.month.broadcast_like(ds.y).values.ravel()
    x = np.stack([*fields, month], axis=1).astype("float32")
    forest = RandomForestRegressor(TREES, random_state=0, **SETTINGS).fit(x, ds.y.values.ravel())
    rows = ASKED * SHAPE[1] * SHAPE[2]
    return grown(forest, forest.predict(x[:rows]))


def drawn() -> dict:
    """Draw a million of the ten million rows, and give scikit-learn the same."""
    from sklearn.ensemble import RandomForestRegressor

    from physml import FieldSpec
    from physml.learners import Forest

    ds = data()
    settings = {**SETTINGS, "max_samples": 50_000}
    forest = Forest(FieldSpec(INPUTS, "y"), n_trees=2, max_rows=10**6, **settings).fit(ds)
    table = forest.stacking.stack(ds, "Forest", memory=2**32, max_rows=10**6, seed=0, area=False)
    same = RandomForestRegressor(2, random_state=0, **settings).fit(table.x, table.y[:, 0])
    first = ds.isel(time=slice(0, 1))
    mine = forest.predict(first).y.compute().values
    theirs = same.predict(forest.stacking.table(forest.layout.pack(first, "inputs").values))
    return {"gap": float(abs(mine.ravel() - theirs.astype("float32")).max())}


def child(case: str) -> dict:
    done = subprocess.run([sys.executable, __file__, "--case", case], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=["ours", "peer", "drawn"])
    case = parser.parse_args().case
    if case:
        start = time.perf_counter()
        found = globals()[case]()
        print(json.dumps({**found, "gb": peak_mb() / 1e3, "s": time.perf_counter() - start}))
        return
    a, b, c = (child(name) for name in ("ours", "peer", "drawn"))
    what = "forest on 10^7 cells of a dask Dataset, 10 trees of 200 000 rows"
    sklearn = "scikit-learn on the same rows, stacked by NumPy"
    report(f"peak memory: {what}", a["gb"], "GB", 4.0, sklearn, b["gb"], a["gb"] <= 4)
    same = a["trees"] == b["trees"]
    report(f"all splits and leaves the same: {what}", float(same), "1", 1.0, sklearn, 1.0, same)
    same = a["predicted"] == b["predicted"]
    report(f"predictions of {ASKED} maps the same to the last bit: {what}", float(same), "1", 1.0, sklearn, 1.0, same)
    report(f"time: {what}", a["s"], "s", 1.5 * b["s"], sklearn, b["s"], a["s"] <= 1.5 * b["s"])
    rows = "10^6 of 10^7 rows drawn at random, 2 trees"
    report(f"largest difference: {rows}", c["gap"], "1", 0.0, sklearn, 0.0, c["gap"] == 0)
    report(f"peak memory: {rows}", c["gb"], "GB", 4.0, sklearn, None, c["gb"] <= 4)


if __name__ == "__main__":
    main()
