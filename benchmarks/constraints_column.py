"""A column whose enthalpy must close: the projection, the completion of one level, and a soft loss, beside a free network.

    python benchmarks/constraints_column.py

prints one JSON line per claim. A replica of the budget of Beucler et al. (2021, doi:10.1103/PhysRevLett.126.098302): heating and
moistening on 30 levels whose pressure thickness differs from sample to sample, from the state of the column, its surface
fluxes and its radiation. The data close the budget by construction: all transport goes through interfaces, and condensation
turns latent into sensible heat. Part of the convection is hidden from the networks, so that they must err. Medians over seeds.
"""

import json
import statistics

import numpy as np
import xarray as xr

from physml.run.quiet import start_backend

start_backend()

import keras  # noqa: E402  after the start-up messages

import physml  # noqa: E402

G, CP, LV = 9.80665, 1004.64, 2.501e6  # [m s-2], [J kg-1 K-1], [J kg-1]
LEVELS = 30
SEEDS = (0, 1, 2)
EPOCHS = 16


def columns(samples: int, seed: int) -> xr.Dataset:
    """Return columns [sample, level], level 0 at the top, whose enthalpy closes exactly."""
    rng = np.random.default_rng(seed)

    def draw(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (samples, 1))

    def smooth(amplitude: float, modes: int = 5) -> np.ndarray:
        depth = (np.arange(LEVELS) + 0.5) / LEVELS
        waves = np.cos(np.pi * np.outer(np.arange(1, modes + 1), depth))
        return amplitude * (rng.normal(size=(samples, modes)) / np.sqrt(np.arange(1, modes + 1))) @ waves

    surface = draw(96000.0, 103000.0)
    edges = np.linspace(0, 1, LEVELS + 1) ** 1.3
    edge = 1000.0 + (surface - 1000.0) * edges
    dp = np.diff(edge, axis=1)
    sigma = 0.5 * (edges[1:] + edges[:-1])
    pressure = 0.5 * (edge[:, 1:] + edge[:, :-1])
    temperature = np.maximum(draw(288, 303) * sigma**0.19, 200.0) + smooth(1.5)
    saturation = 0.622 * 611.2 * np.exp(17.67 * (temperature - 273.15) / (temperature - 29.65)) / pressure
    humidity = saturation * np.clip(0.65 - 0.3 * (1 - sigma) + 0.15 * smooth(1.0), 0.05, 1.1)
    sensible, latent, radiation = draw(0, 80), draw(20, 250), draw(-220, -20)

    # Upward fluxes of sensible and latent heat [W m-2] through the interfaces: those of the surface below, none at the top.
    mixing = np.exp(-(1 - edges[1:-1]) * draw(4, 12))
    below, above = slice(-3, None), slice(12, 18)
    instability = (CP * temperature + LV * humidity)[:, below].mean(1) - (CP * temperature + LV * saturation)[
        :, above
    ].mean(1)
    hidden = np.exp(0.1 * rng.normal(size=samples))
    mass_flux = 0.012 * hidden * np.log1p(np.exp((instability + 6e3) / 4e3))
    plume = mass_flux[:, None] * np.sin(np.pi * edges[1:-1]) ** 2
    potential = temperature * (1e5 / pressure) ** 0.286
    heat_flux, moist_flux = np.zeros((2, samples, LEVELS + 1))
    heat_flux[:, 1:-1] = sensible * mixing + 0.5 * plume * CP * np.clip(np.diff(potential, axis=1), -4, 0)
    moist_flux[:, 1:-1] = latent * mixing + plume * LV * np.clip(np.diff(humidity, axis=1), 0, None)
    heat_flux[:, -1:], moist_flux[:, -1:] = sensible, latent
    arriving = np.diff(moist_flux, axis=1)
    rain = 40 * np.clip(humidity / saturation - 0.75, 0, None) * sigma * dp / dp.mean() + 0.5 * np.clip(
        arriving, 0, None
    )
    cooling = np.clip(1.0 + smooth(0.3) + 0.4 * np.sin(np.pi * sigma), 0.1, None) * dp
    cooling = radiation * cooling / cooling.sum(1, keepdims=True)
    layer = {"heating": np.diff(heat_flux, axis=1) + rain + cooling, "moistening": arriving - rain}
    profile, number = ("sample", "level"), "sample"
    ds = xr.Dataset(
        {
            "temperature": (profile, temperature, {"units": "K"}),
            "humidity": (profile, humidity, {"units": "kg kg-1"}),
            "dp": (profile, dp, {"units": "Pa"}),
            "sensible": (number, sensible[:, 0], {"units": "W m-2"}),
            "latent": (number, latent[:, 0], {"units": "W m-2"}),
            "radiation": (number, radiation[:, 0], {"units": "W m-2"}),
            "heating": (profile, layer["heating"] * G / dp / CP, {"units": "K s-1"}),
            "moistening": (profile, layer["moistening"] * G / dp / LV, {"units": "kg kg-1 s-1"}),
        },
        {"sample": np.arange(samples), "level": np.arange(LEVELS)},
    )
    return ds


ENTHALPY = {
    "terms": {
        "heating": (CP, "J kg-1 K-1"),
        "moistening": (LV, "J kg-1"),
        "sensible": -1,
        "latent": -1,
        "radiation": -1,
    },
    "over": "level",
    "weights": "dp/g",
    "name": "enthalpy",
}
SPEC = physml.FieldSpec(
    ["temperature", "humidity", "dp", "sensible", "latent", "radiation"],
    ["heating", "moistening"],
    sample_dim="sample",
    levels="level",
)


def energy(ds: xr.Dataset, dp: xr.DataArray) -> xr.Dataset:
    """Return heating and moistening of each layer in W m-2, in float64."""
    thick = dp.astype("float64") / G
    return xr.Dataset({"heating": CP * thick * ds.heating, "moistening": LV * thick * ds.moistening})


def scores(prediction: xr.Dataset, test: xr.Dataset) -> dict[str, float]:
    """Return the mean squared error of a layer, and the mean squared residual of the column [W2 m-4]."""
    found, truth = energy(prediction.astype("float64"), test.dp), energy(test.astype("float64"), test.dp)
    error = (found - truth).to_array() ** 2
    fluxes = (test.sensible.astype("float64") + test.latent + test.radiation).astype("float64")
    residual = (found.heating + found.moistening).sum("level") - fluxes
    return {"mse": float(error.mean()), "closure": float((residual**2).mean())}


def report(
    claim: str, measured: float, unit: str, target: float, peer: str = "", peer_measured: float | None = None
) -> None:
    line = {"claim": claim, "measured": measured, "unit": unit, "target": target, "peer": peer}
    print(
        json.dumps({**line, "peer_measured": peer_measured, "holds": bool(measured <= target)}),
        flush=True,
    )


def main() -> None:
    train, test = columns(8000, seed=1).astype("float32"), columns(2000, seed=2).astype("float32")
    scaling = physml.Scaling.fit(train, SPEC)
    budget = physml.Budget(**ENTHALPY)
    lowest = int(test.level[-1])
    kinds = {
        "free": {},
        "projection": {"constraints": budget},
        "completion of the lowest heating": {"constraints": physml.Completion(budget, "heating", level=lowest)},
        "completion of the topmost heating": {"constraints": physml.Completion(budget, "heating", level=0)},
        "soft loss, weight 1e-5 to 1e-3": {"penalties": budget, "penalty": 1e-5},
    }
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for seed in SEEDS:
        for kind, laws in kinds.items():
            network = physml.networks.mlp(scaling.layout, hidden=(128, 128), activation="gelu", seed=seed)
            model = physml.FieldModel(network, scaling=scaling, **laws)
            batches = physml.Batches(train, SPEC, 256, shuffle=True, seed=seed)
            rate = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * len(batches))
            model.compile(keras.optimizers.Adam(rate), "mse")
            ramp = [physml.PenaltySchedule(1e-5, 1e-3, EPOCHS // 2, "exponential")] if "penalties" in laws else []
            model.fit(batches, epochs=EPOCHS, verbose=0, callbacks=ramp)
            found[kind].append(scores(physml.predict(model, test), test))
    median = {k: {n: statistics.median(s[n] for s in runs) for n in runs[0]} for k, runs in found.items()}
    data = scores(test, test)["closure"]

    ours, unit, backend = median["projection"], "W2 m-4", keras.backend.backend()
    ratio = statistics.median(p["mse"] / f["mse"] for p, f in zip(found["projection"], found["free"], strict=True))
    report(f"mean squared residual of the data, {backend}", data, unit, 1e-9)
    report(f"test error of the projection over that of the free network, {backend}", ratio, "1", 1.02, "free", 1.0)
    for peer, theirs in median.items():
        if peer != "projection":
            residual, error = f"mean squared residual, {backend}", f"mean squared error, {backend}"
            report(residual, ours["closure"], unit, 1e-9, peer, theirs["closure"])
            report(error, ours["mse"], unit, 1.02 * theirs["mse"], peer, theirs["mse"])


if __name__ == "__main__":
    main()
