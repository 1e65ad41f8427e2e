"""Emulate Lorenz's model of 1963 by a small network, and see whether it is as chaotic as the model.

    python examples/emulate_lorenz63.py [--out lorenz63-run] [--short]

A perceptron of 20, 10 and 10 units learns the change over one Runge-Kutta step of 0.01 from 15 000 steps of one run. It is
scored by forecasts from 200 states of another run: how long its error stays below 60 % of the climate's standard deviation,
beside a linear model fitted to the same steps; by where it goes when left alone for 100 time units; and by its Lyapunov
exponents, which nobody trained it for.
"""

import argparse
from pathlib import Path

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

DT = 0.01
COMPONENTS = ["x", "y", "z"]
THRESHOLD = 0.6


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", default="lorenz63-run")
    options.add_argument("--short", action="store_true", help="few epochs, short forecasts")
    chosen = options.parse_args()
    start_backend()
    import keras
    from matplotlib.figure import Figure

    import physml
    from physml import plot
    from physml.assimilation import RK4, forecast_skill_horizon, lyapunov_spectrum
    from physml.forecast import FieldStep
    from physml.testbeds import lorenz63

    samples, epochs, starts, steps, alone = (
        (2_000, 3, 20, 50, 100) if chosen.short else (15_000, 150, 200, 1_000, 10_000)
    )
    run = lorenz63.simulate(samples, spin_up=20.0, members=1).x.to_dataset("component")
    other = lorenz63.simulate(steps, spin_up=20.0, members=starts, seed=1).x.to_dataset("component")

    spec = physml.FieldSpec(COMPONENTS, COMPONENTS, target_offsets=1, members="member")
    scaling = physml.Scaling.fit(run, spec)
    network = physml.networks.mlp(scaling.layout, hidden=(20, 10, 10), activation="tanh")
    model = physml.FieldModel(network, scaling=scaling, increment=True)
    batches = physml.Batches(run, spec, 128, shuffle=True)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-3, epochs * len(batches))), "mse")
    model.fit(batches, epochs=epochs, verbose=0)

    first = other.isel(time=0)
    forecasts = {"network": physml.rollout(model, first, steps, batch_size=starts)}
    states = run.isel(member=0)[COMPONENTS].to_array().transpose("time", "variable").values
    fit = np.linalg.lstsq(np.c_[states[:-1], np.ones(samples)], states[1:], rcond=None)[0]
    x, linear = first[COMPONENTS].to_array().transpose("member", "variable").values, []
    for _ in range(steps):
        x = np.c_[x, np.ones(starts)] @ fit
        linear.append(x)
    truth = other[COMPONENTS].to_array().transpose("time", "member", "variable").isel(time=slice(1, None))
    forecasts["linear model"] = truth.copy(data=np.array(linear)).to_dataset("variable")

    climate = states.std(0)
    lead = xr.Variable("lead", DT * np.arange(1, steps + 1), {"long_name": "lead time", "units": "1"})
    errors = {}
    for name, forecast in forecasts.items():
        values = forecast[COMPONENTS].to_array().transpose("time", "member", "variable").values
        errors[name] = xr.DataArray(
            np.sqrt((((values - truth.values) / climate) ** 2).mean(-1)),
            {"lead": lead},
            ("lead", "member"),
            attrs={"long_name": "error over the climate's standard deviation", "units": "1"},
        )
    mean = {n: ((e**2).mean("member") ** 0.5).assign_attrs(e.attrs) for n, e in errors.items()}
    whole = {n: forecast_skill_horizon(e, 1.0, threshold=THRESHOLD) for n, e in mean.items()}
    single = {n: forecast_skill_horizon(e, 1.0, threshold=THRESHOLD) for n, e in errors.items()}
    for n in errors:
        sign = "" if bool(whole[n].reached) else "more than "
        print(
            f"{n}: error below 60 % for {sign}{float(whole[n]):.2f} time units, median {float(single[n].median()):.2f}"
        )

    free = physml.rollout(model, first.isel(member=[0]), alone, batch_size=1).isel(member=0)
    moments = {n: (float(free[n].mean()), float(free[n].std())) for n in COMPONENTS}
    for k, n in enumerate(COMPONENTS):
        print(
            f"{n} of {alone * DT:g} time units alone: mean {moments[n][0]:6.2f}, standard deviation {moments[n][1]:5.2f}; "
            f"of the model {states[:, k].mean():6.2f}, {climate[k]:5.2f}"
        )

    begin = first[COMPONENTS].to_array().transpose("member", "variable").values[:16]
    length = 200 if chosen.short else 4_000
    spectra = {
        "model": lyapunov_spectrum(RK4(lorenz63.tendency, DT, dtype="float64"), begin[..., None], length, every=20),
        "network": lyapunov_spectrum(FieldStep(model), begin, length, dt=DT, every=20),
    }
    for n, found in spectra.items():
        print(f"Lyapunov exponents of the {n}: " + ", ".join(f"{v:.2f}" for v in found.exponent.values))

    out = Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    model.save(out / "lorenz63.keras")
    figure = Figure(figsize=(17, 5.6), layout="constrained", dpi=150)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.15, 1))
    colours = plot.palette(["network", "linear model", "model"])
    left.plot(states[:10_000, 0], states[:10_000, 2], color="#BDBDBD", linewidth=0.9)
    left.plot(free.x, free.z, color=colours["network"], linewidth=0.45)
    left.set_title("Network left alone, model in grey", fontsize=17, color="#222222", loc="left", pad=14)
    left.axis("off")
    plot.curves(mean, colors=colours, title="Error of forecasts", ax=middle)
    middle.axhline(THRESHOLD, color="#636363", linewidth=1.2, linestyle=(0, (5, 3)))
    plot.lyapunov_spectra(spectra, colors=colours, title="Lyapunov exponents", ax=right)
    figure.savefig(out / "lorenz63.png")
    print(f"model and figure in {out}")

    if not chosen.short:
        assert float(whole["network"]) > 2 > 1 > float(whole["linear model"]), (
            "the network is useful, a linear one is not"
        )
        for k, n in enumerate(COMPONENTS):
            assert abs(moments[n][0] - states[:, k].mean()) < 0.3 * climate[k], "left alone it stays on the attractor"
            assert abs(moments[n][1] / climate[k] - 1) < 0.1, "and as variable"
        gap = abs(spectra["network"].exponent - spectra["model"].exponent)
        assert float(gap[0]) < 0.15, "it is as chaotic as the model"


if __name__ == "__main__":
    main()
