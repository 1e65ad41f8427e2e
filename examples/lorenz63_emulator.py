"""A course in one figure: emulate Lorenz's model of 1963, and see what each choice in training does.

    python examples/lorenz63_emulator.py [--out lorenz63-course] [--short]

From 15 000 states of one run, 0.05 time units apart, three models learn the next state from the present one: a linear
regression, a network of 20, 10 and 10 tanh units, and the same network for the change in place of the state. Forecasts from 200
states of another run are scored by their rms distance from the truth over that of two states drawn at random, which is what a
forecast without skill comes to. It passes 60 % after 0.17 time units for the linear model, after 3.0 for the plain network and
after 3.3 for the residual one. Over the standard deviation of the climate, smaller than that distance by the root of two, the same
errors pass 60 % after 0.11, 2.1 and 2.8. Left alone for 50 000 steps, both networks stay on the attractor: the total variation between
their histograms of x, y and z and the truth's is 0.03 to 0.04, of another true run 0.01 to 0.02.

Then two experiments. Batch, mini-batch and stochastic descent see the same 1 000 states equally often, so that they cost the same
number of gradients: one step an epoch, 32, and 1 000; each with the best of four learning rates. And a network of 64 and 64 units
learns from 150 states with errors of three tenths of the standard deviation, far too few for it. Its error on
true states falls from 0.155 of the standard deviation to 0.115 by early stopping and to 0.145 by dropout; batch normalisation makes
it worse, 0.22.
"""

import argparse
from pathlib import Path

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

DT, COMPONENTS, THRESHOLD = 0.05, ["x", "y", "z"], 0.6
RATES = {"batch": 0.1, "mini-batch": 0.03, "stochastic": 0.003}
"""Learning rates of each descent: the best of 3, 1, 0.3, 0.1; of 0.3, 0.1, 0.03, 0.01; and of 0.03, 0.01, 0.003, 0.001."""
NOISE = 0.3
"""Error of the states of the second experiment, over the standard deviation of each component."""


def states(n: int, members: int, seed: int, start: float = 20.0) -> xr.Dataset:
    """Return runs of n steps of DT on (time, member), with the variables x, y and z."""
    from physml.testbeds import lorenz63

    run = lorenz63.simulate(5 * n, dt=DT / 5, every=5, spin_up=start, members=members, seed=seed)
    return run.x.to_dataset("component")


def array(ds: xr.Dataset) -> np.ndarray:
    """Return ``[time, member, component]``."""
    return ds[COMPONENTS].to_array().transpose("time", "member", "variable").values


def perceptron(scaling, increment: bool):
    """Return a FieldModel around 20, 10 and 10 tanh units."""
    import physml

    network = physml.networks.mlp(scaling.layout, hidden=(20, 10, 10), activation="tanh")
    return physml.FieldModel(network, scaling=scaling, increment=increment)


def regression(scaling, run: xr.Dataset):
    """Return the linear model of least squares, as a FieldModel without hidden layers."""
    import physml

    now = (x := array(run)[:, 0])[:-1]
    mean, std = x.mean(0), x.std(0)
    z = (x - mean) / std
    fit = np.linalg.lstsq(np.c_[z[:-1], np.ones(len(now))], z[1:], rcond=None)[0]
    network = physml.networks.mlp(scaling.layout, hidden=())
    model = physml.FieldModel(network, scaling=scaling)
    network.set_weights([fit[:-1], fit[-1]])
    return model


def growth(model, truth: xr.Dataset, apart: float) -> xr.DataArray:
    """Return the rms distance of forecasts from the truth by lead time, over that of two states drawn at random."""
    import physml

    steps, starts = truth.sizes["time"] - 1, truth.sizes["member"]
    forecast = physml.rollout(model, truth.isel(time=0), steps, batch_size=starts)
    error = np.sqrt(((array(forecast) - array(truth)[1:]) ** 2).sum(-1).mean(1)) / apart
    lead = xr.Variable("lead", DT * np.arange(1, steps + 1), {"long_name": "lead time", "units": "1"})
    return xr.DataArray(error, {"lead": lead}, "lead", attrs={"long_name": "error over distance of random states"})


def horizon(error: xr.DataArray, threshold: float) -> float | None:
    """Return the lead time at which an error first passes a threshold, between steps by a straight line; None: never."""
    above = np.flatnonzero(error.values > threshold)
    if not above.size:
        return None
    k, values = int(above[0]), np.r_[0.0, error.values]
    return DT * (k + (threshold - values[k]) / (values[k + 1] - values[k]))


def histograms(found: np.ndarray, truth: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return by component the distances of two samples: total variation of histograms, Wasserstein over the deviation."""
    from scipy.stats import wasserstein_distance

    out = {}
    for k, name in enumerate(COMPONENTS):
        edges = np.linspace(*(1.1 * truth[:, k].mean() + np.array([-1, 1]) * 4 * truth[:, k].std()), 61)
        edges[0], edges[-1] = -np.inf, np.inf
        p, q = (np.histogram(s[:, k], edges)[0] / len(s) for s in (found, truth))
        out[name] = 0.5 * np.abs(p - q).sum(), wasserstein_distance(found[:, k], truth[:, k]) / truth[:, k].std()
    return out


def alone(model, start: np.ndarray, steps: int) -> np.ndarray:
    """Return ``[time, component]`` of a model left alone: the loop of all its steps is compiled once."""
    from keras import ops

    from physml import _backend
    from physml.forecast import FieldStep

    step = FieldStep(model)

    def ahead(state, count):
        state = step(state)
        return state, state

    run = _backend.compiled(lambda state: _backend.scan(ahead, state, ops.zeros((steps,)))[1])
    return np.asarray(run(np.float32(start[None])))[:, 0]


def descents(run: xr.Dataset, scaling, epochs: int) -> dict:
    """Return the histories of batch, mini-batch and stochastic descent by name, on the same samples."""
    import physml
    from physml.training import fit

    histories = {}
    for descent, rate in RATES.items():
        history = fit(
            perceptron(scaling, increment=True),
            physml.Batches(run, scaling.layout, 32, shuffle=True),
            epochs=epochs,
            learning_rate=rate,
            optimizer={"type": "sgd", "momentum": 0.9},
            descent=descent,
            steps_per_execution=100 if descent == "stochastic" else 1,
        )
        histories[descent] = history
        print(f"{descent} descent: loss {history['loss'][-1]:.4f} after {epochs} epochs, learning rate {rate:g}")
    return histories


def noisy(n: int, seed: int) -> xr.Dataset:
    """Return states with errors."""
    rng = np.random.default_rng(seed)
    return states(n, 1, seed).map(lambda v: v + NOISE * float(v.std()) * rng.normal(size=v.shape))


def wide(scaling, dropout: float = 0.0, normalise: bool = False):
    """Return a FieldModel around 64 and 64 tanh units."""
    import keras
    from keras import layers

    import physml

    keras.utils.set_random_seed(0)
    x = start = keras.Input((3,))
    for _ in range(2):
        x = layers.Dense(64)(x)
        x = layers.BatchNormalization()(x) if normalise else x
        x = layers.Activation("tanh")(x)
        x = layers.Dropout(dropout)(x) if dropout else x
    return physml.FieldModel(keras.Model(start, layers.Dense(3)(x)), scaling=scaling)


def regularised(spec, truth: xr.Dataset, epochs: int) -> tuple[dict, dict]:
    """Return histories and errors on true states, by what keeps the network from learning the errors of its data."""
    import physml
    from physml.training import fit

    few, held_out = noisy(150, 11), noisy(300, 12)
    scaling = physml.Scaling.fit(few, spec)
    recipes = {
        "nothing": ({}, {}),
        "early stopping": ({}, {"patience": 20}),
        "dropout": ({"dropout": 0.1}, {}),
        "batch norm": ({"normalise": True}, {}),
    }
    x = array(truth)[:, 0]
    histories, errors = {}, {}
    for name, (options, stopping) in recipes.items():
        model = wide(scaling, **options)
        train, watched = physml.Batches(few, spec, 32, shuffle=True), physml.Batches(held_out, spec, 300)
        histories[name] = fit(
            model, train, watched, epochs=epochs, learning_rate=3e-3, seed=0, steps_per_execution=5, **stopping
        )
        miss = (model(x[:-1].astype("float32"), training=False) - x[1:]) / x.std(0)
        errors[name] = float(np.sqrt(np.mean(np.asarray(miss) ** 2)))
        best = histories[name].best_epoch
        print(f"{name}: error on true states {errors[name]:.3f}, least validation loss in epoch {best}")
    return histories, errors


def figure(errors, horizons, run, free, fit, descended, kept, errors_kept, path: Path) -> None:
    """Draw the course: what the networks can do above, what training does below."""
    from matplotlib.figure import Figure

    from physml import plot

    fig = Figure(figsize=(18, 10), layout="constrained", dpi=130)
    fig.get_layout_engine().set(w_pad=0.14, h_pad=0.16)
    upper, lower = fig.subfigures(2, 1)
    colours = {"plain": "#0072B2", "residual": "#D55E00", "linear": "#009E73"}
    one, two, three = upper.subplots(1, 3, width_ratios=(0.85, 1.1, 1.25))
    one.plot(*run[:3_000, [0, 2]].T, color="#BDBDBD", linewidth=1.4)
    one.plot(*free["residual"][-3_000:, [0, 2]].T, color=colours["residual"], linewidth=0.35)
    one.set_title("Left alone, truth in grey", fontsize=17, loc="left", pad=14)
    one.axis("off")
    plot.curves(errors, colors=colours, title="Forecast error", label=next(iter(errors.values())).long_name, ax=two)
    two.axhline(THRESHOLD, color="#636363", linewidth=1.2, linestyle=(0, (5, 3)))
    two.set_xlabel("lead time [time units]", fontsize=14)
    two.text(two.get_xlim()[1], THRESHOLD - 0.02, "60 %", fontsize=12, color="#636363", ha="right", va="top")
    for name, at in horizons.items():
        two.plot(at, THRESHOLD, "o", color=colours[name], markersize=9, markeredgecolor="white")

    three.axis("off")
    steps = len(free["plain"])
    three.set_title(f"Histograms of {steps:,} steps alone", fontsize=17, loc="left", pad=14)
    words = "numbers: total variation from the truth (grey)"
    three.text(0.5, 0.01, words, fontsize=13, color="#222222", ha="center", va="top", transform=three.transAxes)
    for k, name in enumerate(COMPONENTS):
        ax = three.inset_axes((0.02 + 0.34 * k, 0.32, 0.3, 0.56))
        edges = np.linspace(run[:, k].min() - 2, run[:, k].max() + 2, 61)
        ax.hist(run[:, k], edges, density=True, color="#C4C4C0")
        for label in ("plain", "residual"):
            ax.hist(free[label][:, k], edges, density=True, histtype="step", color=colours[label], linewidth=2)
        words = [f"{label} {fit[label][name][0]:.3f}" for label in ("plain", "residual")]
        for i, label in enumerate(("plain", "residual")):
            ax.text(
                0.5, -0.24 - 0.09 * i, words[i], color=colours[label], fontsize=12, ha="center", transform=ax.transAxes
            )
        ax.text(
            0.5,
            -0.42,
            f"true run {fit['truth'][name][0]:.3f}",
            color="#636363",
            fontsize=12,
            ha="center",
            transform=ax.transAxes,
        )
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.set_yticks([])
        ax.tick_params(labelsize=12)
        ax.set_title(name, fontsize=14)

    four, five, six = lower.subplots(1, 3, width_ratios=(1.1, 1.1, 0.85))
    plot.learning_curve(descended, together=True, log=True, title="Descent: as many gradients", ax=four)
    shades = plot.palette(kept)
    plot.learning_curve(kept, together=True, log=True, title="150 states with errors", colors=shades, ax=five)
    six.barh(list(errors_kept), list(errors_kept.values()), color=[shades[n] for n in errors_kept], height=0.6)
    for i, value in enumerate(errors_kept.values()):
        six.text(value, i, f" {value:.3f}", va="center", fontsize=13)
    six.invert_yaxis()
    six.set_xlim(right=1.2 * max(errors_kept.values()))
    six.set_title("Error on true states", fontsize=17, loc="left", pad=14)
    six.set_xlabel("rms of one step [std]", fontsize=14)
    six.spines[["top", "right", "left"]].set_visible(False)
    six.tick_params(axis="y", length=0, labelsize=14)
    six.tick_params(axis="x", labelsize=12)
    fig.savefig(path)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", default="lorenz63-course")
    options.add_argument("--short", action="store_true", help="few states and epochs")
    chosen = options.parse_args()
    start_backend()
    import physml
    from physml.training import fit

    samples, epochs, few, long = (2_000, 2, 3, 2_000) if chosen.short else (15_000, 60, 12, 50_000)
    run, truth = states(samples, 1, 0), states(20 if chosen.short else 120, 200, 1)
    climate = array(run)[:, 0]
    apart = float(np.sqrt(2 * climate.var(0).sum()))

    spec = physml.FieldSpec(COMPONENTS, COMPONENTS, target_offsets=1, members="member")
    scaling = physml.Scaling.fit(run, spec)
    models = {"linear": regression(scaling, run)}
    for name in ("plain", "residual"):
        models[name] = perceptron(scaling, increment=name == "residual")
        batches = physml.Batches(run, spec, 128, shuffle=True)
        recipe = {"learning_rate": 1e-2, "schedule": "cosine", "warmup": 1, "steps_per_execution": len(batches)}
        fit(models[name], batches, epochs=epochs, title=name, **recipe)

    errors = {name: growth(model, truth, apart) for name, model in models.items()}
    horizons = {}
    for name, error in errors.items():
        # Two states drawn at random are the root of two standard deviations apart.
        at, strict = (horizon(error, level) for level in (THRESHOLD, THRESHOLD / 2**0.5))
        if at is None:
            print(f"{name}: error below 60 % in all forecasts")
            continue
        horizons[name] = at
        print(f"{name}: error below 60 % for {at:.2f} time units; of the standard deviation for {strict:.2f}")

    long_run = array(states(long, 1, 5))[:, 0]
    free = {name: alone(models[name], climate[-1], long) for name in ("plain", "residual")}
    fitted = {name: histograms(free[name], long_run) for name in free}
    fitted["truth"] = histograms(array(states(long, 1, 6))[:, 0], long_run)
    for name, found in fitted.items():
        words = ", ".join(f"{n} {tv:.3f} and {w:.3f}" for n, (tv, w) in found.items())
        print(f"{name} after {long} steps alone, total variation and Wasserstein distance from the truth: {words}")

    descended = descents(states(100 if chosen.short else 1_000, 1, 7), scaling, few)
    kept, errors_kept = regularised(spec, states(2_000, 1, 3), 5 if chosen.short else 150)

    out = Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    models["residual"].save(out / "lorenz63.keras")
    for name, history in descended.items():
        history.save(out / f"{name}.json")
    figure(errors, horizons, long_run, free, fitted, descended, kept, errors_kept, out / "lorenz63_emulator.png")
    print(f"model, histories and figure in {out}")

    if not chosen.short:
        assert min(horizons["plain"], horizons["residual"]) > 2 > 0.25 > horizons["linear"], (
            "networks see far, lines do not"
        )
        for name in free:
            assert np.isfinite(free[name]).all() and max(tv for tv, _ in fitted[name].values()) < 0.1, (
                "it stays on the attractor"
            )


if __name__ == "__main__":
    main()
