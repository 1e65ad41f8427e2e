"""The demonstration: a tracer in a gyre learned three ways, rolled out, assimilated into and explained, in a few minutes."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xarray as xr
from rich.console import Console

from physml import verify
from physml._atomic import replacing
from physml.assimilation import (
    BLUE,
    Cycle,
    Gaussian,
    PointObservations,
    Unrolled,
    fit_background_error,
    observe,
    random_positions,
)
from physml.constraints.bounds import NonNegative
from physml.constraints.budget import Conserve
from physml.constraints.combine import Constraints
from physml.constraints.transport import Transport
from physml.data.batches import Batches
from physml.data.scaling import Scaling
from physml.explain import Explainer, box_mean, climatology, groups
from physml.fields import FieldSpec
from physml.forecast import FieldStep, rollout
from physml.model import FieldModel
from physml.networks.convolutional import cnn
from physml.provenance import record, stamp
from physml.run.demo_report import write_report
from physml.run.folder import place_for
from physml.testbeds.gyre import simulate
from physml.training import display, fit

TRACER, SPACE = "tracer", ("lat", "lon")
UNCONSTRAINED, PROJECTED, TRANSPORT = "unconstrained", "projected", "transport"
AHEAD = 5
"""Days ahead that the explained forecast looks."""
BOUNDARY = {"lat": "closed", "lon": "closed"}
LAWS = Constraints([NonNegative(TRACER), Conserve(TRACER, over=SPACE, weights="cell_volume")])
SPEC = FieldSpec(
    inputs=[TRACER, "u", "v"], targets=TRACER, target_offsets=1, members="run", mask="wet", area="cell_area"
)


@dataclass(frozen=True)
class Settings:
    """Sizes of the demonstration."""

    shape: tuple[int, int] = (48, 64)
    train_runs: int = 12
    test_runs: int = 4
    steps: int = 60
    epochs: int = 10
    filters: int = 32
    observed_fraction: float = 0.04
    sigma_o: float = 0.03
    every: int = 2
    explained: int = 12
    seed: int = 0


SHORT = Settings(
    shape=(24, 32), train_runs=4, test_runs=2, steps=16, epochs=2, filters=8, observed_fraction=0.08, explained=3
)


def demo(out: str, *, short: bool = False, seed: int = 0, overwrite: bool = False) -> Path:
    """Run the demonstration and write fields, figures, ``scores.json`` and ``report.html`` to a folder.

    Parameters
    ----------
    out
        The folder. Everything is made beside it and moved there when it is whole.
    short
        A small version of every stage, to see that all of it runs.
    seed
        Seed of the simulation, the networks and the observations.
    overwrite
        Replace an earlier demonstration.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    FileExistsError
        Where the folder is there and holds something, and *overwrite* is false.
    ImportError
        Where matplotlib is not installed.
    """
    target = place_for(
        out, ("report.html", "scores.json"), command="physml demo", what="demonstration", overwrite=overwrite
    )
    settings = replace(SHORT if short else Settings(), seed=seed)
    with replacing(target) as made:
        made.mkdir()
        _run(made, settings)
    Console().print(f"\nOpen [bold]{target / 'report.html'}[/bold] in a browser.")
    return target


def _run(out: Path, settings: Settings) -> None:
    clock = Clock()
    keras.utils.set_random_seed(settings.seed)
    with clock.stage("simulate"):
        ds = simulate(
            n_runs=settings.train_runs + settings.test_runs,
            n_steps=settings.steps,
            shape=settings.shape,
            seed=settings.seed,
        )
        train, test = (ds.isel(run=slice(0, settings.train_runs)), ds.isel(run=slice(settings.train_runs, None)))
    with clock.stage("train"):
        models, histories = train_networks(train, settings)
    with clock.stage("roll out"):
        forecasts = {name: rollout(model, test.isel(time=[0]), settings.steps, test) for name, model in models.items()}
        scores: dict[str, Any] = {"networks": {n: judge(f, test) for n, f in forecasts.items()}}
    with clock.stage("assimilate"):
        cycled, scores["assimilation"] = assimilate(models[TRANSPORT], train, test, settings)
    with clock.stage("explain"):
        shares, maps, scores["explanation"] = explain(models[TRANSPORT], train, test, settings)
    with clock.stage("write"):
        provenance = record(asdict(settings), seed=str(settings.seed), backend=keras.backend.backend())
        rolled = xr.concat(
            [f[[TRACER]] for f in forecasts.values()], xr.Variable("network", list(forecasts)), join="exact"
        )
        fields = {
            "truth": test,
            "rollouts": rolled,
            "assimilation": cycled,
            "explanation": shares,
            "explanation_maps": maps,
        }
        for name, field in fields.items():
            _stamped(field, name, provenance).to_netcdf(out / f"{name}.nc")
        _stamped(ds.isel(run=slice(0, 1)), "simulation", provenance).to_zarr(
            out / "simulation.zarr", consolidated=False
        )
        models[TRANSPORT].save(out / "transport.keras")
    scores["seconds"] = clock.seconds
    write_report(out, ds, test, rolled, cycled, shares, maps, histories, scores, settings, provenance)
    (out / "scores.json").write_text(json.dumps(scores, indent=1))


def _stamped(ds: xr.Dataset, name: str, provenance: dict[str, str]) -> xr.Dataset:
    return stamp(ds, f"demo: {name}", provenance)


class Clock:
    """Seconds by stage, told as each stage ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.console = Console()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)
        self.console.print(f"{name:<12} {self.seconds[name]:7.1f} s")


def train_networks(
    train: xr.Dataset, settings: Settings
) -> tuple[dict[str, FieldModel], dict[str, dict[str, list[float]]]]:
    """Return three trained networks, alike but for what makes their output, and their losses by epoch."""
    scaling = Scaling.fit(train, SPEC)
    head = Transport(5, BOUNDARY, volume="cell_volume", balance=1)
    kinds: dict[str, dict[str, Any]] = {
        UNCONSTRAINED: {"increment": True},
        PROJECTED: {"increment": True, "constraints": LAWS},
        TRANSPORT: {"head": head},
    }
    models: dict[str, FieldModel] = {}
    histories: dict[str, dict[str, list[float]]] = {}
    with display() as progress:
        for name, options in kinds.items():
            channels = head.channels(scaling.layout) if "head" in options else None
            network = cnn(
                scaling.layout, boundary=BOUNDARY, filters=settings.filters, outputs=channels, seed=settings.seed
            )
            models[name] = FieldModel(network, scaling=scaling, name=name, **options)
            batches = Batches(train, scaling.layout, 8, shuffle=True, seed=settings.seed)
            histories[name] = fit(
                models[name],
                batches,
                epochs=settings.epochs,
                learning_rate=2e-3,
                schedule="cosine",
                title=name,
                progress=progress,
            )
            # The loss is in scaled units, which differ between the heads: told as an rmse in those of the tracer.
            unit = float(models[name].loss_scale[0])
            histories[name]["rmse"] = [unit * loss**0.5 for loss in histories[name]["loss"]]
    return models, histories


def judge(forecast: xr.Dataset, test: xr.Dataset) -> dict[str, Any]:
    """Return rmse by step, relative drift of the total tracer, and the share of negative cells at the end."""
    truth = test[TRACER].isel(time=slice(1, None))
    error = verify.rmse(forecast[TRACER], truth, weights=test.cell_area, dim=("run", *SPACE))
    start = verify.total(test[TRACER].isel(time=0, drop=True), test.cell_volume, SPACE, mask=test.wet)
    drift = verify.drift(verify.total(forecast[TRACER], test.cell_volume, SPACE, mask=test.wet), start)
    worst = drift.isel(run=int(np.argmax(np.abs(drift.isel(time=-1).values))))
    negative = verify.negative_fraction(forecast[TRACER], test.wet, dim=("run", *SPACE))
    return {
        "rmse": [float(x) for x in error],
        "mass_drift": float(worst.isel(time=-1)),
        "mass_drift_by_step": [float(x) for x in worst],
        "negative_fraction": float(negative.max()),
        "negative_fraction_by_step": [float(x) for x in negative],
    }


def assimilate(
    model: FieldModel, train: xr.Dataset, test: xr.Dataset, settings: Settings
) -> tuple[xr.Dataset, dict[str, float]]:
    """Return a forecast from a wrong start drawn to sparse noisy observations, beside the same forecast without them."""
    rng = np.random.default_rng([settings.seed, 1])
    step, layout = FieldStep(model), model.layout
    seconds = None if layout.step is None else layout.step.seconds
    # The start is the mean of all training states: nothing is known of where the tracer is.
    guess = train[[TRACER]].mean(("run", "time"), keep_attrs=True)

    def after(state: Any) -> Any:
        return NonNegative(TRACER).project({TRACER: state}, {}, layout)[TRACER]

    def run_cycle(truth: xr.Dataset, background: Gaussian, seen: PointObservations | None) -> xr.Dataset:
        layer = None
        if seen is not None:
            layer = BLUE(background, latitude=truth.lat, longitude=truth.lon, periodic=False, mask=truth.wet.values)
        start = guess.assign_coords(time=truth.time[0])
        return Cycle(step, layer, after=after if seen is not None else None, mask=truth.wet).run(
            start,
            seen,
            truth,
            steps=settings.steps,
            every=settings.every,
            time_step=seconds,
        )

    def sample(truth: xr.Dataset) -> PointObservations:
        n = int(settings.observed_fraction * int(truth.wet.sum()))
        lat, lon = random_positions(truth.lat, truth.lon, truth.wet, (truth.sizes["time"], n), rng)
        exact = observe(truth, TRACER, lat, lon, periodic=False, mask="wet")
        return PointObservations(
            exact.values + rng.normal(0, settings.sigma_o, exact.shape),
            lat,
            lon,
            time=truth.time.values,
            error_std=settings.sigma_o,
            units=truth[TRACER].attrs["units"],
            variable=TRACER,
        )

    # B is learned on a training run, from the innovations of two cycles there.
    practice = train.isel(run=0, drop=True)
    seen = sample(practice)
    background = Gaussian(std=0.1, length=150e3)
    for _ in range(2):
        cycled = run_cycle(practice, background, seen)
        background = _fit(background, cycled, seen, practice, settings)

    truth = test.isel(run=0, drop=True)
    seen = sample(truth)
    cycled = run_cycle(truth, background, seen)
    free = run_cycle(truth, background, None)
    settled = slice(settings.steps // 3, None)
    area = truth.cell_area

    def error(field: xr.DataArray) -> xr.DataArray:
        return verify.rmse(field, truth[TRACER], weights=area, dim=SPACE)

    errors = {
        "free": error(free[TRACER]),
        "analysis": error(cycled[TRACER]),
        "forecast": error(cycled[f"{TRACER}_forecast"]),
    }
    analysed = cycled.used > 0
    places = cycled.innovation.dims
    rows = truth.indexes["time"].get_indexer(cycled.indexes["time"])
    out = cycled.assign_coords(
        observation_latitude=(
            places,
            seen.latitude[rows],
            {"units": "degree", "long_name": "latitude of the observation"},
        ),
        observation_longitude=(
            places,
            seen.longitude[rows],
            {"units": "degree", "long_name": "longitude of the observation"},
        ),
    )
    out = out.assign({"truth": truth[TRACER], "free": free[TRACER]}).assign(
        {
            f"rmse_{k}": v.assign_attrs(units=truth[TRACER].attrs["units"], long_name=f"rmse of the {k}")
            for k, v in errors.items()
        }
    )
    spread = (cycled[f"{TRACER}_std"] ** 2).weighted(area.fillna(0)).mean(SPACE) ** 0.5
    scores = {
        "rmse_free": float(errors["free"].isel(time=settled).mean()),
        "rmse_analysis": float(errors["analysis"].isel(time=settled).mean()),
        "rmse_after_analysis": float(errors["analysis"].isel(time=settled).where(analysed).mean()),
        "rmse_before_analysis": float(errors["forecast"].isel(time=settled).where(analysed).mean()),
        "spread": float(spread.isel(time=settled).where(analysed).mean()),
        "chi2": float(cycled.chi2.isel(time=settled).where(analysed).mean()),
        "observed_fraction": settings.observed_fraction,
        "sigma_o": settings.sigma_o,
        "sigma_b": float(np.asarray(background.std)),
        "length_km": float(background.length / 1e3),
    }
    return out, scores


def _fit(
    background: Gaussian, cycled: xr.Dataset, seen: PointObservations, truth: xr.Dataset, settings: Settings
) -> Gaussian:
    settled = cycled.isel(time=slice(settings.steps // 3, None))
    settled = settled.isel(time=np.flatnonzero(settled.used.values > 0))
    rows = truth.indexes["time"].get_indexer(settled.indexes["time"])
    innovations = replace(
        seen,
        values=settled.innovation.values,
        latitude=seen.latitude[rows],
        longitude=seen.longitude[rows],
        time=seen.time[rows],
        error_std=settings.sigma_o,
    )
    layer = BLUE(background, latitude=truth.lat, longitude=truth.lon, periodic=False, mask=truth.wet.values)
    found = fit_background_error(layer, innovations, fixed=("error_std",)).background_error
    assert isinstance(found, Gaussian)
    return found


def explain(
    model: FieldModel, train: xr.Dataset, test: xr.Dataset, settings: Settings
) -> tuple[xr.Dataset, xr.Dataset, dict[str, Any]]:
    """Return what each input in each half of the basin adds to a forecast for its middle, and maps by input.

    The forecast is :data:`AHEAD` steps of the network, unrolled into one, under the currents of the day it starts.
    """
    layout = replace(model.layout, spec=replace(SPEC, target_offsets=(AHEAD,)))
    x = keras.Input((*layout.shape, len(layout.inputs)))
    currents = keras.ops.repeat(keras.ops.expand_dims(x[..., 1:], 1), AHEAD, axis=1)
    ahead = keras.Model(x, Unrolled(FieldStep(model), AHEAD, return_sequence=False)(x[..., :1], currents))

    ends = [float(test.lon[i]) for i in (0, -1)]
    at = [float(v) for v in np.interp([3 / 8, 1 / 2, 5 / 8], [0, 1], ends)]
    west, east, middle = (
        dict(lon=slice(*pair)) for pair in ((ends[0], at[1]), (at[1], ends[1]), (round(at[0]), round(at[2])))
    )
    baseline = climatology(train, layout)
    samples = test.isel(run=[0], time=np.linspace(0, settings.steps - 1, settings.explained).astype(int))
    players = groups(layout, box={"west": west, "east": east})
    shares = Explainer(ahead, baseline, players, box_mean(TRACER, **middle), layout=layout).shapley(samples, "exact")
    one = samples.isel(time=[samples.sizes["time"] // 2])
    maps = Explainer(ahead, baseline, groups(layout), layout=layout).shapley(one, "exact")
    scores = {
        "groups": [str(g) for g in shares.group.values],
        "attributions": [float(x) for x in shares.attribution.mean(("run", "time"))],
        "mean_absolute": [float(x) for x in abs(shares.attribution).mean(("run", "time"))],
        "residual": float(abs(shares.residual).max()),
        "target": shares.attrs["target"],
        "units": shares.attribution.attrs.get("units", "1"),
    }
    return shares, maps, scores
