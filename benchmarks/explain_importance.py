"""Permutation importance and curves beside scikit-learn and scikit-explain: the same numbers, the time, and which intervals hold.

    python benchmarks/explain_importance.py

prints one JSON line per claim; each peer runs on the same forest, data and orders of the samples. scikit-explain runs in a process of
its own.
"""

import json
import multiprocessing
import sys
import time
import warnings

import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor

from physml import FieldSpec
from physml.explain import ale, groups, partial_dependence, permutation_importance
from physml.explain.models.adapting import Adapted
from physml.explain.models.outputs import outputs_of

NAMES = list("abcdefgh")
ROWS, TREES, REPEATS = 2000, 100, 10


def report(claim, measured, unit, target, peer, peer_measured, holds=None) -> None:
    line = {"claim": claim, "measured": measured, "unit": unit, "target": target, "peer": peer}
    holds = measured <= target if holds is None else holds
    print(json.dumps({**line, "peer_measured": peer_measured, "holds": bool(holds)}), flush=True)


def data(n: int = ROWS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(NAMES)))
    x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    y = x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + 0.5 * x[:, 3] + 0.3 * rng.normal(size=n)
    return x, y


def labelled(x: np.ndarray, y: np.ndarray):
    ds = xr.Dataset({n: ("time", x[:, i]) for i, n in enumerate(NAMES[: x.shape[1]])}, {"time": np.arange(len(x))})
    ds["y"] = ("time", y)
    return ds, FieldSpec(NAMES[: x.shape[1]], "y").bind(ds)


def forest(x: np.ndarray, y: np.ndarray):
    return RandomForestRegressor(TREES, min_samples_leaf=3, random_state=0, n_jobs=1).fit(x, y)


class Known(RegressorMixin, BaseEstimator):
    """A function in the form of an estimator that is fitted."""

    def __init__(self, function=None):
        self.function = function
        self.n_features_in_ = 2

    def fit(self, x, y):
        """Return itself."""
        return self

    def predict(self, x):
        """Return the function of the features."""
        return self.function(np.asarray(x))

    def __sklearn_is_fitted__(self):
        return True


def product(x: np.ndarray) -> np.ndarray:
    return x[:, 0] * x[:, 1]


def timed(call, repeats: int = 1):
    """Return a result and the least seconds it took."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = call()
        seconds.append(time.perf_counter() - start)
    return found, min(seconds)


def beside_scikit_learn(model, x, y) -> None:
    from sklearn.inspection import partial_dependence as their_curve
    from sklearn.inspection import permutation_importance as their_importance
    from sklearn.utils import check_random_state

    ds, layout = labelled(x, y)
    theirs, seconds = timed(
        lambda: their_importance(model, x, y, n_repeats=REPEATS, random_state=1, scoring="neg_mean_squared_error")
    )
    generator = np.random.RandomState(check_random_state(1).randint(np.iinfo(np.int32).max + 1))
    order, column, orders = np.arange(len(x)), np.arange(len(x)), []
    for _ in range(REPEATS):
        generator.shuffle(order)
        column = column[order]
        orders.append(column)
    settings = {"score": "mse", "permutations": np.array(orders), "layout": layout}
    made = groups(layout)
    ours, bare = timed(lambda: permutation_importance(model, ds, made, n_bootstrap=0, **settings))
    _, full = timed(lambda: permutation_importance(model, ds, made, n_bootstrap=1000, **settings))
    gap = float(abs(ours.importances.values - theirs.importances).max())
    report("importance, same orders, greatest difference", gap, "1", 1e-10, "scikit-learn", 0.0)
    what = f"importance of {len(NAMES)} inputs, {REPEATS} orders, {len(x)} samples, {TREES} trees"
    report(f"{what}, no interval", bare, "s", 1.1 * seconds, "scikit-learn", seconds)
    report(f"{what}, interval of 1000 resamples", full, "s", 1.25 * seconds, "scikit-learn, no interval", seconds)
    theirs, seconds = timed(lambda: their_curve(model, x, [2], grid_resolution=20, method="brute"))
    grid = theirs["grid_values"][0]
    ours, own = timed(lambda: partial_dependence(model, ds, "c", values=grid, layout=layout, n_bootstrap=0))
    gap = float(abs(ours.effect.values - theirs["average"][0]).max())
    report("partial dependence, greatest difference", gap, "1", 1e-10, "scikit-learn", 0.0)
    report("partial dependence at 20 values", own, "s", 1.1 * seconds, "scikit-learn", seconds)


def scikit_explain(queue, model, x, y) -> None:
    import pandas as pd

    warnings.simplefilter("ignore")
    try:
        import skexplain

        explain = skexplain.ExplainToolkit(
            ("forest", model), X=pd.DataFrame(x, columns=NAMES), y=y, estimator_output="raw"
        )
        found = {}
        for direction in ("backward", "forward"):
            result, seconds = timed(
                lambda d=direction: explain.permutation_importance(
                    n_vars=4, evaluation_fn="mse", n_permute=REPEATS, direction=d, n_jobs=1
                )
            )
            ranks = result[f"{direction}_multipass_rankings__forest"].values.tolist()
            found[direction] = (list(map(str, ranks)), seconds)
        curve, seconds = timed(lambda: explain.ale(features=["c"], n_bins=20, n_bootstrap=1), 3)
        found["ale"] = (curve["c__forest__ale"].values.ravel(), seconds)
        table = pd.DataFrame(x[:, :2], columns=NAMES[:2])
        explain = skexplain.ExplainToolkit(("product", Known(product)), X=table, y=y, estimator_output="raw")
        two = explain.ale(features=[("a", "b")], n_bins=8, n_bootstrap=1)
        found["ale 2"] = two["a__b__product__ale"].values.squeeze()
        queue.put(found)
    except Exception as error:  # a peer that does not run is a finding, not a failure
        queue.put(f"{type(error).__name__}: {error}")


def beside_scikit_explain(model, x, y) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=scikit_explain, args=(queue, model, x, y))
    process.start()
    theirs = queue.get(timeout=900)
    process.join()
    if isinstance(theirs, str):
        print(f"scikit-explain does not run here: {theirs}", file=sys.stderr)
        return
    ds, layout = labelled(x, y)
    for direction in ("backward", "forward"):
        # Its groups take the values of one sample going forward, and of several going backward.
        settings = {"kind": "multi", "direction": direction, "together": direction == "forward"}
        ours, own = timed(
            lambda s=settings: permutation_importance(
                model, ds, groups(layout), score="mse", layout=layout, n_permutations=REPEATS, **s
            )
        )
        first = ours.group.values[np.argsort(ours["rank"].values)][:4].tolist()
        ranks, seconds = theirs[direction]
        what = f"multi pass, {direction}: of the first four groups of {len(NAMES)}, those in another place"
        report(what, sum(a != b for a, b in zip(first, ranks, strict=False)), "1", 0, "scikit-explain", 0)
        # It makes four passes, of 8 + 7 + 6 + 5 trials; here all eight are made, of 36.
        what = f"multi pass, {direction}, for each trial of a group, intervals included"
        report(what, own / 36, "s", seconds / 26, "scikit-explain, no intervals", seconds / 26)
    curve, seconds = theirs["ale"]
    edges = np.unique(np.percentile(x[:, 2], np.linspace(0, 100, 21), method="lower"))
    ours, own = timed(lambda: ale(model, ds, "c", bins=edges, layout=layout, n_bootstrap=0), 3)
    middle = (ours.effect.values[1:] + ours.effect.values[:-1]) / 2
    gap = float(np.ptp(middle - curve) if middle.size == curve.size else np.nan)
    report("local effects, spread of the difference (their constant aside)", gap, "1", 1e-10, "scikit-explain", 0.0)
    report("local effects, 20 bins, no interval", own, "s", 1.25 * seconds, "scikit-explain", seconds)
    two, layout = labelled(x[:, :2], y)
    edges = [np.unique(np.percentile(x[:, i], np.linspace(0, 100, 9), method="lower")) for i in (0, 1)]
    both = ale(Known(product), two, ("a", "b"), bins=tuple(edges), layout=layout, n_bootstrap=0)
    # Known at the samples; told there by the surface between the corners of a cell, or by the one number of the cell.
    rho, (a, b) = 0.8, x[:, :2].T
    known = a * b - rho - rho / 2 * (a**2 - 1) - rho / 2 * (b**2 - 1)
    at = {n: xr.DataArray(x[:, i], dims="time") for i, n in enumerate("ab")}
    own = both.effect.interp(at).values
    cells = [np.clip(np.searchsorted(e, x[:, i], "left") - 1, 0, e.size - 2) for i, e in enumerate(edges)]
    off = [float(np.sqrt(np.mean((found - known) ** 2))) for found in (own, theirs["ale 2"][tuple(cells)])]
    what = f"interaction of a product of correlated normals, 8 x 8 bins, root mean square error at {len(x)} samples"
    report(what, off[0], "1", off[1], "scikit-explain", off[1])


def intervals(simulations: int = 400, n: int = 200) -> None:
    """How often intervals of the increase of the mean square error hold its true value, for a linear model."""
    from sklearn.inspection import permutation_importance as their_importance

    coefficients = np.array([2.0, -1.0])

    held, theirs = np.zeros(2), np.zeros(2)
    truth = 2 * coefficients**2
    for s in range(simulations):
        rng = np.random.default_rng(s)
        x = rng.normal(size=(n, 2))
        y = x @ coefficients + rng.normal(size=n)
        ds, layout = labelled(x, y)
        model = Adapted("linear", layout, outputs_of((1,), layout), lambda z: z @ coefficients[:, None])
        found = permutation_importance(model, ds, groups(layout), score="mse", seed=s, n_bootstrap=300)
        held += ((found.lower <= truth) & (truth <= found.upper)).values
        peer = their_importance(
            Known(lambda z: z @ coefficients), x, y, n_repeats=10, random_state=s, scoring="neg_mean_squared_error"
        )
        theirs += abs(peer.importances_mean - truth) <= 1.96 * peer.importances_std
    found = float(held.mean() / simulations)
    report(
        f"coverage of the 95 % interval, {n} samples, 10 orders, {2 * simulations} cases",
        found,
        "1",
        "0.93 to 0.97",
        "scikit-learn, mean and 1.96 standard deviations of its repeats",
        float(theirs.mean() / simulations),
        0.93 <= found <= 0.97,
    )


if __name__ == "__main__":
    x, y = data()
    model = forest(*data(seed=1))
    beside_scikit_learn(model, x, y)
    beside_scikit_explain(model, x, y)
    intervals()
