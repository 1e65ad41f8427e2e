"""Correct a model whose equations are not quite right by what its own analyses tell of its errors.

The set-up of the ECMWF course on machine learning (:mod:`physml.testbeds.setups.mooc2023`): the truth is Lorenz 1996 with
F = 8.5, damping 1.01 and a cubic term; the model has F = 8, damping 1 and no such term. Every other site is seen, with errors of
0.2. An ETKF of 40 members with the wrong model and a model error added at each step makes analyses; a small network within the
tendency of the model is trained on them over several steps, the observations are assimilated again with the corrected model,
and the correction is trained once more.

    python examples/correct_model_error.py [--short] [--out model-error]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend
from physml.testbeds import lorenz96
from physml.testbeds.setups import mooc2023 as setup


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", default="model-error")
    options.add_argument("--short", action="store_true", help="400 steps, one round")
    chosen = options.parse_args()
    start_backend()
    from physml import networks
    from physml.assimilation import RK4, AlternatingLearning, CorrectedTendency, Cycle, EnKFN, GridObservations

    cycles, burn_in, rounds = (400, 100, 1) if chosen.short else (setup.CYCLES, setup.BURN_IN, 2)
    out = Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    twin = setup.twin(cycles=cycles)
    truth, clock = twin.truth.x, time.perf_counter()
    observations = GridObservations(twin.observations, setup.ERROR_STD)
    runs: dict[str, xr.Dataset] = {}

    def assimilate(name: str, step, model_error: float | None) -> xr.Dataset:
        cycle = Cycle(step, EnKFN(), state_names=["x"], model_error=model_error)
        run = runs[name] = cycle.run(twin.initial, observations)
        error = np.sqrt(((run.x - truth) ** 2).mean("site"))[burn_in:].mean().item()
        spread = np.sqrt((run.x_std**2).mean("site"))[burn_in:].mean().item()
        print(f"{name:<32}{error:7.3f}{spread:9.3f}   after {time.perf_counter() - clock:4.0f} s", flush=True)
        return run

    print(f"{'analyses with':<32}{'rmse':>7}{'spread':>9}")
    model_error = float(np.sqrt(setup.MODEL_ERROR_VARIANCE))
    first = assimilate("the wrong model", RK4(lorenz96.tendency, setup.DT, dtype="float64"), model_error)

    correction = networks.brajard_cnn([40], boundary=["periodic"], filters=(12, 12))
    step = RK4(CorrectedTendency(lorenz96.tendency, correction), dt=setup.DT)
    learning = AlternatingLearning(
        step,
        EnKFN(),
        state_names=["x"],
        members=setup.MEMBERS,
        leads=2,
        epochs=(20, 10),
        learning_rate=(3e-3, 1e-3),
        model_error=0.5 * model_error,
    )
    learnt = learning.run(observations, first[["x", "x_std"]], cycles=rounds, truth=twin.truth, burn_in=burn_in // 4)
    print(learnt.log.round(3).to_string())
    assimilate("the corrected model", step, float(learnt.log.model_error.iloc[-1]))

    def exact(x):
        return lorenz96.tendency(x, **setup.TRUTH)

    assimilate("the true model", RK4(exact, setup.DT, dtype="float64"), None)
    figure = draw(truth, runs, step, burn_in)
    figure.savefig(out / "model_error.png", dpi=150)
    print(f"figure in {out}")


def draw(truth: xr.DataArray, runs: dict[str, xr.Dataset], step, burn_in: int):
    """Return the figure: the errors of the analyses, and the correction beside the error of the tendency."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 4.2), layout="constrained", width_ratios=(1, 1.3, 1)
    )
    colours = ["#D55E00", "#0072B2", "#4D4D4D"]
    for i, run in enumerate(runs.values()):
        error = np.sqrt(((run.x - truth) ** 2).mean("site"))[burn_in:].mean().item()
        left.bar(i, error, color=colours[i], width=0.65)
        left.text(i, error + 0.004, f"{error:.3f}", ha="center")
    left.set_xticks(range(len(runs)), [n.replace(" model", "\nmodel") for n in runs], fontsize=9)
    left.set(ylabel="rmse of the analysis")
    for colour, (name, run) in zip(colours, runs.items(), strict=True):
        error = np.sqrt(((run.x - truth) ** 2).mean("site"))
        smooth = error.rolling(time=max(burn_in // 10, 1), center=True).mean()
        middle.plot(smooth.time, smooth, color=colour, label=name, lw=1.5)
    middle.set(xlabel="time", ylabel="rmse of the analysis, running mean")
    middle.set_ylim(0, 1.6 * middle.get_ylim()[1])
    middle.legend(frameon=False, fontsize=9, loc="upper left", ncols=1)
    x = truth.values[::20, :, None]
    wrong = lorenz96.tendency(x, **setup.TRUTH) - lorenz96.tendency(x, **setup.MODEL)
    found = np.asarray(step.tendency.network(x.astype("float32")))
    right.plot(wrong.ravel(), found.ravel(), ".", ms=1.5, alpha=0.25, color="#0072B2", rasterized=True)
    low, high = np.quantile(wrong, [0.002, 0.998])
    right.plot([low, high], [low, high], color="0.3", lw=1)
    r = np.corrcoef(wrong.ravel(), found.ravel())[0, 1]
    right.set(xlim=(low, high), ylim=(low, high), xlabel="error of the model's tendency", ylabel="correction")
    right.set_title(f"correlation {r:.2f}", fontsize=10)
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
