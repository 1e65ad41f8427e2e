"""What Shapley values of named groups cost, how large their error is and how often their intervals hold the truth.

    python benchmarks/explain_shapley.py [exact accuracy coverage memory]

prints one JSON line per claim. The game: a convolutional network on 32 x 64 x 3 inputs, 12 groups (three variables in four
regions) against a baseline of zero, the mean of the output over a box. Errors and coverage are those of estimates from the
exact values of all coalitions, so that every method sees the same game.
"""

import itertools
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

start_backend()

import keras  # noqa: E402  after the start-up messages

from physml import FieldSpec  # noqa: E402
from physml.explain import (  # noqa: E402
    Explainer,
    PairedKernel,
    PairedPermutations,
    box_mean,
    groups,
    shapley_values,
    zero,
)
from physml.explain.shapley.designs import all_coalitions  # noqa: E402
from physml.explain.shapley.gathering import Accumulator  # noqa: E402
from physml.explain.shapley.sweep import t_quantile  # noqa: E402

G, NAMES, PAIRS = 12, ("a", "b", "c"), (5, 20, 85)
QUARTERS = {
    f"{ns}{ew}": {"lat": lat, "lon": lon}
    for ns, lat in (("south", slice(-90, 0)), ("north", slice(0, 90)))
    for ew, lon in (("east", slice(0, 178)), ("west", slice(180, 359)))
}
BOX = dict(lat=slice(-20, 20), lon=slice(120, 240))


def report(claim, measured, unit, target, peer, peer_measured, holds=None):
    holds = measured <= target if holds is None else holds
    line = {"claim": claim, "measured": measured, "unit": unit, "target": target, "peer": peer}
    line |= {"peer_measured": peer_measured, "holds": bool(holds), "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(line), flush=True)


def samples(n: int) -> xr.Dataset:
    rng = np.random.default_rng(0)
    lat, lon = np.linspace(-87.1875, 87.1875, 32), np.arange(64) * 5.625
    coords = {
        "time": np.arange(n),
        "lat": ("lat", lat, {"units": "degrees_north"}),
        "lon": ("lon", lon, {"units": "degrees_east"}),
    }
    values = rng.normal(size=(3, n, 32, 64)).astype("float32")
    ds = xr.Dataset({k: (("time", "lat", "lon"), v) for k, v in zip(NAMES, values, strict=True)}, coords)
    return ds.assign(area=np.cos(np.deg2rad(ds.lat)) * xr.ones_like(ds.lon))


def cnn(filters: int = 16) -> keras.Model:
    keras.utils.set_random_seed(0)
    start = x = keras.Input((32, 64, 3))
    for _ in range(2):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    return keras.Model(start, keras.layers.Conv2D(1, 3, padding="same")(x))


def game(ds: xr.Dataset, model: keras.Model) -> Explainer:
    layout = FieldSpec(NAMES, "a", area="area").bind(ds)
    return Explainer(model, zero(layout), groups(layout, box=QUARTERS), box_mean("a", **BOX), layout=layout)


def enumerated(explainer: Explainer, x: np.ndarray, batch: int = 512) -> np.ndarray:
    """Return the value of every coalition of one sample, the plain way."""
    owner, found = explainer.groups.owner, []
    members = all_coalitions(G)
    for start in range(0, 2**G, batch):
        rows = np.where(members[start : start + batch][:, owner], x, np.float32(0))
        found.append(explainer.measure.reduce(explainer.model.predict_on_batch(rows))[:, 0])
    return np.concatenate(found)


def exact() -> None:
    import shap

    ds = samples(32)
    explainer = game(ds, cnn())
    x = explainer.layout.pack(ds, "inputs").values
    explainer.shapley(ds.isel(time=slice(0, 1)))
    enumerated(explainer, x[0])
    start, busy = time.perf_counter(), time.process_time()
    ours = explainer.shapley(ds, "exact")
    took, busy = time.perf_counter() - start, time.process_time() - busy
    start, theirs = time.perf_counter(), time.process_time()
    values = np.stack([enumerated(explainer, one) for one in x])
    brute = np.stack([shapley_values(lambda s, v=v: v[s @ (1 << np.arange(G))], G)[0] for v in values], 1)
    peer, theirs = time.perf_counter() - start, time.process_time() - theirs
    name = f"exact values of {G} groups, CNN on 32 x 64 x 3, 32 samples"
    report(name, took, "s", 30.0, "enumeration in batches of 512", peer)
    cores = len(os.sched_getaffinity(0))
    report(f"{name}: processor time over {cores} cores", busy / cores, "s", 30.0, "enumeration", theirs / cores)
    gap = float(abs(ours.attribution - brute).max() / abs(brute).max())
    report(f"{name}: difference from enumeration, of the largest", gap, "1", 1e-5, "none", None)
    start, found = time.perf_counter(), []
    for one in x:

        def f(members, one=one):
            rows = np.where(members.astype(bool)[:, explainer.groups.owner], one, np.float32(0))
            return explainer.measure.reduce(explainer.model.predict_on_batch(rows))[:, 0]

        # A masker that is a function: the one for tables compiles for half a minute, and hands over all rows at once.
        def masker(mask, x):
            return (np.where(mask, x, 0.0)[None],)

        found.append(
            shap.explainers.Exact(f, masker)(np.ones((1, G)), max_evals=2**G, batch_size=512, silent=True).values[0]
        )
    peer = time.perf_counter() - start
    off = float(abs(np.stack(found, 1) - brute).max() / abs(brute).max())
    report(name, took, "s", 30.0, f"shap ExactExplainer (differs by {off:.1e})", peer)


def tables(n: int) -> list[np.ndarray]:
    ds = samples(n)
    explainer = game(ds, cnn())
    return [enumerated(explainer, x, 64) for x in explainer.layout.pack(ds, "inputs").values]


def lookup(values: np.ndarray):
    return lambda members: values[np.asarray(members).astype(bool) @ (1 << np.arange(G))]


def independent(value, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Return the mean over single random orders, each of G - 1 rows."""
    phi = []
    for _ in range(rows // (G - 1)):
        rank = rng.permutation(G)
        along = value(rank < np.arange(G + 1)[:, None])
        phi.append(np.diff(along)[rank])
    return np.mean(phi, 0)


def error(estimates: list[tuple[np.ndarray, np.ndarray]]) -> float:
    found, truth = (np.array(e) for e in zip(*estimates, strict=True))
    return float(np.sqrt(((found - truth) ** 2).mean() / (truth**2).mean()))


def accuracy(n: int = 8, draws: int = 25) -> None:
    import shap

    games = [lookup(v) for v in tables(n)]
    truth = [shapley_values(g, G)[0] for g in games]
    zero_row, one_row = np.zeros((1, G)), np.ones((1, G))
    targets = {"permutations": (0.105, 0.053, 0.025), "kernel": (0.092, 0.041, 0.019)}

    def shap_kernel(g, rows, seed, **settings):
        np.random.seed(seed)
        return shap.KernelExplainer(g, zero_row).shap_values(one_row, nsamples=rows, silent=True, **settings)[0]

    def shap_permutation(g, rows, seed):
        explain = shap.explainers.Permutation(g, shap.maskers.Independent(zero_row), seed=seed)
        return explain(one_row, max_evals=max(rows // (2 * G), 1) * 2 * G + 1, silent=True).values[0]

    for i, pairs in enumerate(PAIRS):
        rows = 2 * pairs * (G - 1) + 2
        plans = {
            "permutations": lambda s, p=pairs: PairedPermutations(p, s),
            "kernel": lambda s, p=pairs: PairedKernel(11 * p, s),
        }
        ours = {
            k: error(
                [
                    (shapley_values(g, G, plan(100 * j + s))[0], t)
                    for j, (g, t) in enumerate(zip(games, truth, strict=True))
                    for s in range(draws)
                ]
            )
            for k, plan in plans.items()
        }
        peers = {
            "independent permutations": lambda g, s, r=rows: independent(g, r, np.random.default_rng(s)),
            "shap PermutationExplainer": lambda g, s, r=rows: shap_permutation(g, r, s),
            "shap KernelExplainer": lambda g, s, r=rows: shap_kernel(g, r, s),
            "shap KernelExplainer, l1_reg=False": lambda g, s, r=rows: shap_kernel(g, r, s, l1_reg=False),
        }
        few = min(draws, 5)
        theirs = {
            k: error(
                [(f(g, 100 * j + s), t) for j, (g, t) in enumerate(zip(games, truth, strict=True)) for s in range(few)]
            )
            for k, f in peers.items()
        }
        for method, peer in itertools.product(ours, theirs):
            name = f"nRMSE at {rows} rows a sample, paired {method}"
            report(name, ours[method], "1", targets[method][i], peer, theirs[peer])


def coverage(n: int = 8, draws: int = 60) -> None:
    for pairs in PAIRS:
        for name, plan in (("permutations", PairedPermutations), ("kernel", lambda p, s: PairedKernel(11 * p, s))):
            hits = []
            for j, value in enumerate(map(lookup, TABLES or TABLES.extend(tables(n)) or TABLES)):
                truth = shapley_values(value, G)[0]
                ends = value(np.ones((1, G))), value(np.zeros((1, G)))[:, None]
                for seed in range(draws):
                    estimator = plan(pairs, 1000 * j + seed)
                    design, gathering = estimator.design(G, 1), estimator.gathering(G, 1, 1)
                    Accumulator(design, *ends, gathering).add(value(design.coalitions)[:, None])
                    phi, stderr, dof = gathering.result(*ends)
                    hits.append(abs(phi[:, 0] - truth) <= t_quantile(dof, 0.95) * stderr[:, 0])
            rows = 2 * pairs * (G - 1) + 2
            found = float(np.mean(hits))
            claim = f"coverage of the 95 % interval at {rows} rows a sample, paired {name}"
            report(claim, found, "1", "0.93 to 0.97", "shap: none", None, 0.93 <= found <= 0.97)


TABLES: list[np.ndarray] = []


def memory(n: int = 10_000) -> None:
    """Explain *n* samples that are made when they are asked for, in a process of its own."""
    if "--child" not in sys.argv:
        for chunk in (100, 37):
            command = [sys.executable, __file__, "memory", "--child", str(chunk)]
            line = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            claim = f"peak memory over that of the imports: {n} samples from dask in chunks of {chunk}, {G} groups, {line['rows']} model rows"
            report(claim, line["megabytes"], "MB", 1500.0, "inputs, MB", n * 32 * 64 * 3 * 4 / 2**20)
            FOUND.append(np.array(line["attribution"]))
        gap = float(abs(FOUND[0] - FOUND[1]).max() / abs(FOUND[0]).max())
        report(
            "the same in other chunks and batches: greatest difference, of the largest", gap, "1", 1e-5, "none", None
        )
        return
    import dask.array as da

    chunk = int(sys.argv[-1])
    like = samples(1)

    def make(block_info=None):
        first, last = block_info[None]["array-location"][0]
        return np.stack([np.random.default_rng(i).normal(size=(32, 64, 3)) for i in range(first, last)]).astype(
            "float32"
        )

    values = da.map_blocks(
        make,
        chunks=((chunk,) * (n // chunk) + ((n % chunk,) if n % chunk else ()), 32, 64, 3),
        dtype="float32",
        meta=np.zeros((0,) * 4, "float32"),
    )
    ds = xr.Dataset(
        {k: (("time", "lat", "lon"), values[..., i]) for i, k in enumerate(NAMES)},
        {"lat": like.lat, "lon": like.lon, "time": np.arange(n)},
    )
    ds = ds.assign(area=like.area)
    explainer = game(ds, cnn(4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = explainer.shapley(ds, "permutations", pairs=2, batch_rows=64 if chunk == 100 else 50).compute()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {
        "megabytes": (after - before) / 1024,
        "rows": int(result.rows.sum()),
        "attribution": result.attribution.values[:, ::500].tolist(),
    }
    print(json.dumps(found))


FOUND: list[np.ndarray] = []

if __name__ == "__main__":
    parts = {"exact": exact, "accuracy": accuracy, "coverage": coverage, "memory": memory}
    for chosen in [a for a in sys.argv[1:] if a in parts] or parts:
        parts[chosen]()
