"""Heads that answer a distribution: spread recovered where it varies, means behind large spread, calibration; each against the truth.

    python benchmarks/learners_heads.py [--figure heads.png] [--only NAME ...]

prints one JSON line per claim. First data: y = 2 sin(2 pi x) + N(0, sigma(x)), sigma = 0.1 + 0.9 x^2 over 0 <= x <= 1, so that the
spread grows tenfold; 16 000 samples, one network of 2 x 32 units, the same optimizer for every loss. The error of sigma is the root mean
square of its relative error at 400 points over 0.01 <= x <= 0.99, against the sigma that made the data, not the residuals.

Second data, the trap of Seitzer et al. (2022, doi:10.48550/arXiv.2203.09168): y = 0.4 sin(2 pi x) + N(0, 0.01) over 0 <= x <= 6: a network
of the likelihood alone first calls the waves noise, and what is called noise is then no longer learned. Root mean square error of the mean,
over the 0.28 of a mean of zero.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

LEVELS = (0.05, 0.1587, 0.5, 0.8413, 0.95)
LOSSES = {
    "beta-NLL": ("Gaussian", "beta_nll"),
    "NLL": ("Gaussian", "nll"),
    "CRPS": ("Gaussian", "crps"),
    "quantiles": ("Quantiles", "pinball"),
    "16 members, CRPS": ("Samples", "crps"),
    "16 members, fair CRPS": ("Samples", "fair_crps"),
    "constant sigma": ("Gaussian constant", "nll"),
}


def report(claim, measured, unit, target, peer=None, peer_measured=None) -> None:
    holds = bool(measured <= target) if target is not None else None
    line = {"claim": claim, "measured": measured, "unit": unit, "target": target, "peer": peer}
    print(json.dumps({**line, "peer_measured": peer_measured, "holds": holds}), flush=True)


def sigma(x):
    return 0.1 + 0.9 * x**2


def noisy(n: int, seed: int) -> xr.Dataset:
    """Return samples of the first data."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, n)
    y = 2 * np.sin(2 * np.pi * x) + sigma(x) * rng.normal(size=n)
    return xr.Dataset({"x": ("sample", x.astype("float32")), "y": ("sample", y.astype("float32"))})


def waves(n: int, seed: int) -> xr.Dataset:
    """Return samples of the second data."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 6, n)
    y = 0.4 * np.sin(2 * np.pi * x) + 0.01 * rng.normal(size=n)
    return xr.Dataset({"x": ("sample", x.astype("float32")), "y": ("sample", y.astype("float32"))})


def learn(
    ds: xr.Dataset, kind: str, loss: str, *, steps: int, rate: float, hidden=(32, 32), seed: int = 0, repeats: int = 1
):
    """Return a trained model of y from x; an epoch sees every sample *repeats* times, as short epochs cost more than their steps."""
    import keras

    from physml import FieldModel, FieldSpec, Scaling, heads, networks

    keras.utils.set_random_seed(seed)
    head = {
        "Gaussian": heads.Gaussian(),
        "Gaussian constant": heads.Gaussian("constant"),
        "Quantiles": heads.Quantiles(LEVELS),
        "Samples": heads.Samples(16),
    }[kind]
    spec = FieldSpec("x", "y", sample_dim="sample")
    scaling = Scaling.fit(ds, spec)
    outputs = head.channels(scaling.layout)
    network = networks.mlp(scaling.layout, outputs=outputs, hidden=hidden, activation="tanh", seed=seed)
    model = FieldModel(network, scaling=scaling, head=head)
    falling = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(falling), loss, steps_per_execution=50)
    x, y = (scaling.layout.pack(ds, role).values for role in ("inputs", "targets"))
    batch = 256 if len(x) > 256 * 4 else len(x) // 4
    x, y = (np.tile(v, (repeats, *(1,) * (v.ndim - 1))) for v in (x, y))
    model.fit(x, y, batch_size=batch, epochs=max(1, steps * batch // len(x)), verbose=0)
    return model


def spread(fields: xr.Dataset) -> xr.DataArray:
    """Return the standard deviation that a prediction tells: itself, half of the middle 68 %, or that of the members."""
    from physml.heads import interval

    if "y_std" in fields:
        return fields.y_std
    if "member" in fields.dims:
        return fields.y.std("member", ddof=1)
    lower, upper = interval(fields, "y", 0.6826)
    return (upper - lower) / 2


def mean(fields: xr.Dataset) -> xr.DataArray:
    for dim in {"member", "quantile"} & {*fields.dims}:
        return fields.y.mean("member") if dim == "member" else fields.y.sel(quantile=0.5)
    return fields.y


def recovery(loss: str, n: int = 16_000, steps: int = 6000, seed: int = 0) -> dict:
    """Return the error of sigma, that of the mean, and coverage of the 90 % interval, of one loss."""
    from physml import predict, verify
    from physml.heads import interval

    model = learn(noisy(n, seed), *LOSSES[loss], steps=steps, rate=1e-2, seed=seed)
    points = xr.Dataset({"x": ("sample", np.linspace(0.01, 0.99, 400, dtype="float32"))})
    fields = predict(model, points, batch_size=400)
    true = sigma(points.x.values.astype("float64"))
    relative = spread(fields).values / true - 1
    off = mean(fields).values - 2 * np.sin(2 * np.pi * points.x.values)
    test = noisy(20_000, 1000 + seed)
    told = predict(model, test, batch_size=4096)
    found = {
        "sigma": float(np.sqrt(np.mean(relative**2))),
        "mean": float(np.sqrt(np.mean(off**2))),
        "fields": fields,
        "points": points,
        "calibration": verify.reliability(told if "y_std" in told else told.y, test.y, bars=None),
    }
    lower, upper = interval(told, "y", 0.9)
    return found | {"coverage": float(((test.y >= lower) & (test.y <= upper)).mean())}


def trap(loss: str, steps: int = 12_000, seed: int = 0) -> float:
    """Return the error of the mean of the waves."""
    from physml import predict

    model = learn(waves(1000, seed), *LOSSES[loss], steps=steps, rate=3e-3, hidden=(50, 50), seed=seed, repeats=25)
    points = xr.Dataset({"x": ("sample", np.linspace(0.05, 5.95, 1000, dtype="float32"))})
    off = mean(predict(model, points, batch_size=1000)).values - 0.4 * np.sin(2 * np.pi * points.x.values)
    return float(np.sqrt(np.mean(off**2)))


def figure(results: dict, path: Path) -> None:
    """Draw the data, what one model tells of them, sigma by loss, and calibration."""
    from physml import plot
    from physml.plot import _style as style

    fig = style.new_figure(17, 6.2)
    left, middle, right = fig.subplots(1, 3, width_ratios=(1.15, 1, 0.95))
    ds, told = noisy(1500, 7), results["beta-NLL"]
    x = told["points"].x.values
    left.plot(ds.x, ds.y, ".", color="#9A9A9A", markersize=3, alpha=0.6)
    center, std = told["fields"].y.values, told["fields"].y_std.values
    left.fill_between(x, center - 1.645 * std, center + 1.645 * std, color="#0072B2", alpha=0.2, linewidth=0)
    left.plot(x, center, color="#0072B2", linewidth=2.6)
    for side in (-1.645, 0, 1.645):
        truth = 2 * np.sin(2 * np.pi * x) + side * sigma(x)
        left.plot(x, truth, color=style.INK, linewidth=1.3, linestyle=(0, (4, 3)))
    style.style_axes(left, "x", "y")
    left.set_title("mean and 90 % interval (blue), truth (dashed)", fontsize=style.LABEL, loc="left")
    shown = ("beta-NLL", "NLL", "CRPS", "quantiles", "constant sigma")
    colors = style.palette(shown)
    middle.plot(x, sigma(x), color=style.INK, linewidth=1.3, linestyle=(0, (4, 3)), label="truth")
    for name in shown:
        label = f"{name}: {100 * results[name]['sigma']:.2g} %"
        middle.plot(x, spread(results[name]["fields"]).values, color=colors[name], linewidth=2.2, label=label)
    style.style_axes(middle, "x", "standard deviation")
    middle.legend(fontsize=style.TICK, frameon=False, loc="upper left")
    middle.set_title("spread, and its rms relative error", fontsize=style.LABEL, loc="left")
    plot.reliability(
        {n: results[n]["calibration"] for n in ("beta-NLL", "quantiles", "constant sigma")}, colors=colors, ax=right
    )
    right.set_title("calibration on new data", fontsize=style.LABEL, loc="left")
    fig.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", help="file for a figure")
    parser.add_argument("--only", nargs="*", choices=("recovery", "trap"), default=("recovery", "trap"))
    args = parser.parse_args()
    start_backend()
    if "recovery" in args.only:
        results = {name: recovery(name) for name in LOSSES}
        ours = results["beta-NLL"]
        for name, found in results.items():
            target = 0.1 if name in ("beta-NLL", "NLL", "CRPS", "quantiles") else None
            peer, theirs = ("beta-NLL", ours["sigma"]) if name != "beta-NLL" else (None, None)
            report(f"sigma(x) recovered, {name}", found["sigma"], "rms relative error", target, peer, theirs)
            report(f"mean recovered, {name}", found["mean"], "rms", None, peer, ours["mean"] if peer else None)
            off = abs(found["coverage"] - 0.9)
            report(f"90 % interval on new data, {name}", off, "coverage off .9", 0.02 if target else None)
        if args.figure:
            figure(results, Path(args.figure))
    if "trap" in args.only:
        ours, theirs = ([trap(name, seed=s) / (0.4 / 2**0.5) for s in range(3)] for name in ("beta-NLL", "NLL"))
        report("mean of waves that look like noise, beta-NLL, median of 3", float(np.median(ours)), "rms over that of zero", 0.1, "NLL", float(np.median(theirs)))  # fmt: skip


if __name__ == "__main__":
    main()
