"""Learn the equations of Lorenz 1996 from noisy observations of half of its sites, drawn anew at each step.

Brajard et al. (2020, doi:10.1016/j.jocs.2020.101171): 40 sites, 4000 steps of 0.05, 20 sites observed at each with errors of
standard deviation 1. Nothing else is known. Three ways, each from the same first states (optimal interpolation with the
covariance that the observations have):

    network   Residual(brajard_cnn), 9389 weights, alternating learning: the published network
    scheme    RK4(bilinear_tendency), 72 weights, alternating learning: the scheme of Runge and Kutta is part of the network
    through   the same, then trained end to end through the filter by the likelihood of the observations

    python examples/learn_l96_from_sparse_observations.py [--short | --full] [--out learn-l96]

The default does without the published network. Beside them stand the interpolations and the true model. All analyses compared
are by the same filter, an EnKF-N of 30 members, over the last 3600 steps.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend
from physml.testbeds import lorenz96
from physml.testbeds.setups import brajard2020 as setup


def forecast_error(step, truth: xr.DataArray, leads: int) -> np.ndarray:
    """Return the rmse of forecasts from the truth, by lead."""
    x, every = truth.values[..., None], 10
    state, errors = x[: len(x) - leads : every].astype("float32"), []
    for lead in range(1, leads + 1):
        state = np.asarray(step(state))
        errors.append(np.sqrt(np.mean((state - x[lead : len(x) - leads + lead : every]) ** 2)))
    return np.array(errors)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", default="learn-l96")
    options.add_argument("--short", action="store_true", help="400 steps, a round and a pass")
    options.add_argument("--full", action="store_true", help="more rounds, and the published network")
    chosen = options.parse_args()
    start_backend()
    from physml import networks
    from physml.assimilation import (
        ETKF,
        RK4,
        AlternatingLearning,
        Cycle,
        EnKFN,
        GridObservations,
        Residual,
        interpolate_observations,
        train_through,
    )

    steps = 400 if chosen.short else setup.CYCLES
    burn_in, rounds, rates = (100, 1, [1e-2]) if chosen.short else (400, 1, [2e-2, 1e-2, 5e-3, 2e-3])
    rounds, rates = (8, [*rates[:2], 5e-3, *rates[2:], 1e-3]) if chosen.full else (rounds, rates)
    out = Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    twin = setup.twin(cycles=steps)
    observations = GridObservations(twin.observations, setup.ERROR_STD)
    truth, clock, rows, leads = twin.truth.x, time.perf_counter(), {}, {}

    def report(name: str, field: xr.DataArray) -> None:
        error = np.sqrt(((field - truth) ** 2).mean("site"))[burn_in:].mean().item()
        rows[name] = error
        print(f"{name:<44}{error:7.3f}   after {time.perf_counter() - clock:4.0f} s", flush=True)

    def analyses(step, model_error: float | None = None) -> xr.Dataset:
        return Cycle(step, EnKFN(), state_names=["x"], model_error=model_error).run(twin.initial, observations)

    print(f"{'rmse of the analysis':<44}{'':7}   time of learning")
    report("cubic interpolation", interpolate_observations(observations, method="cubic").x)
    true = RK4(lorenz96.tendency, setup.DT)
    best = analyses(true)
    report("true model", best.x)

    clock = time.perf_counter()
    first = interpolate_observations(observations)
    report("optimal interpolation", first.x)

    if chosen.full:
        step = Residual(networks.brajard_cnn([40], boundary=["periodic"]), time_step=setup.DT)
        learning = AlternatingLearning(
            step, EnKFN(), state_names=["x"], leads=2, epochs=(15, 8), learning_rate=(3e-3, 1e-3)
        )
        learnt = learning.run(observations, first, cycles=10, truth=twin.truth)
        print(learnt.log.round(3).to_string())
        report("published network, 10 rounds", analyses(step, learnt.log.model_error.iloc[-1]).x)
        leads["published network"] = forecast_error(step, truth, 40)
        clock = time.perf_counter()

    step = RK4(networks.bilinear_tendency([40], boundary=["periodic"], products=6), dt=setup.DT)
    batch, epochs = (64, (60, 10)) if chosen.short else (256, (25, 10))
    learning = AlternatingLearning(step, ETKF(inflation=1.02), state_names=["x"], epochs=epochs, batch_size=batch)
    learnt = learning.run(observations, first, cycles=rounds, truth=twin.truth)
    print(learnt.log.round(3).to_string())
    error = learnt.log.model_error.iloc[-1]
    report(f"bilinear tendency in RK4, {rounds} round{'s' * (rounds > 1)}", analyses(step, error).x)
    leads["RK4 network, alternating"] = forecast_error(step, truth, 40)

    cycle = Cycle(step, ETKF(), state_names=["x"])
    trained = train_through(
        cycle,
        observations,
        twin.initial,
        passes=len(rates),
        learning_rate=rates,
        parameters={"inflation": 1.05, "model_error": 0.5 * error},
        truth=twin.truth,
    )
    print(trained.log.round(3).to_string())
    step_analyses = analyses(step, trained.parameters["model_error"])
    report("the same, then trained through the filter", step_analyses.x)
    leads["RK4 network, through the filter"] = forecast_error(step, truth, 40)

    figure = draw(truth, twin.observations, first.x, step_analyses.x, rows, leads)
    figure.savefig(out / "learn_l96.png", dpi=150)
    print(f"figure in {out}")


def draw(truth, seen, first, analysis, rows, leads):
    """Return the figure: the fields, the errors of the analyses and the growth of forecast errors."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 7.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    piece = slice(-101, -1)
    panels = {
        "truth": truth[piece],
        "observations": seen[piece],
        "optimal interpolation, error": (first - truth)[piece],
        "learned model, error of the analysis": (analysis - truth)[piece],
    }
    axes = top.subplots(1, 4, sharey=True)
    for axis, (title, field) in zip(axes, panels.items(), strict=True):
        error = "error" in title
        limits = {"cmap": "RdBu_r", "vmin": -3, "vmax": 3} if error else {"cmap": "viridis", "vmin": -8, "vmax": 13}
        image = axis.pcolormesh(field.site, field.time, field, rasterized=True, **limits)
        axis.set(title=title, xlabel="site")
        axis.title.set_fontsize(10)
        if title in ("observations", "learned model, error of the analysis"):
            top.colorbar(image, ax=list(axes[:2] if not error else axes[2:]), shrink=0.9, label="x")
    axes[0].set_ylabel("time")
    left, right = bottom.subplots(1, 2, width_ratios=(1.25, 1))
    names = sorted(rows, key=lambda n: -rows[n])
    colours = ["#b0b7c3" if "interpolation" in n else "#222222" if "true" in n else "#1f6fb4" for n in names]
    left.barh(names[::-1], [rows[n] for n in names[::-1]], color=colours[::-1])
    for i, n in enumerate(names[::-1]):
        left.text(rows[n] + 0.02, i, f"{rows[n]:.3f}", va="center", fontsize=9)
    left.set(
        xlabel="rmse of the analysis", xlim=(0, 1.15 * max(rows.values())), title="what the filter makes of each model"
    )
    left.spines[["top", "right"]].set_visible(False)
    for name, error in leads.items():
        right.plot(setup.DT * np.arange(1, len(error) + 1), error, label=name, lw=2)
    right.axhline(float(truth.std()), color="0.6", ls=":", lw=1)
    right.text(0.02, float(truth.std()) * 1.04, "standard deviation", color="0.45", fontsize=8)
    right.set(
        xlabel="lead time", ylabel="rmse of forecasts from the truth", yscale="log", title="what each model forecasts"
    )
    right.legend(frameon=False, fontsize=9)
    right.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
