"""The page and the figures of the demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

TRACER = "tracer"
METHODS = ("unconstrained", "projected", "transport")


def write_report(
    out: Path,
    simulation: xr.Dataset,
    test: xr.Dataset,
    rolled: xr.Dataset,
    cycled: xr.Dataset,
    shares: xr.Dataset,
    maps: xr.Dataset,
    histories: dict[str, dict[str, list[float]]],
    scores: dict[str, Any],
    settings: Any,
    provenance: dict[str, str],
) -> None:
    """Draw the figures as PNG files and write ``report.html``, which holds them all."""
    from physml.report import Report
    from physml.run.explain_report import explanation_section

    figures = _figures(test, rolled, cycled, shares, maps, histories, scores)
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png", dpi=150, facecolor="white")
    network, da = scores["networks"], scores["assimilation"]
    last = {n: network[n]["rmse"][-1] for n in METHODS}
    units = test[TRACER].attrs["units"]
    steps = settings.steps
    page = Report(
        "A tracer in a gyre: networks that keep the physics",
        f"Three neural networks learned to carry a tracer through a simulated ocean gyre for one day. They are alike but for "
        f"their last layer. Run forward {steps} days on currents they had not seen, the one without constraints makes and loses "
        f"tracer and turns {100 * network['unconstrained']['negative_fraction']:.0f} % of the sea negative; the two that keep the "
        f"conservation law do not. The transport network was then drawn to sparse, noisy observations, and asked what its "
        f"forecasts rest on.",
        provenance,
    )
    page.number(
        f"{last['transport'] / last['unconstrained']:.2f} x",
        f"error after {steps} days",
        "Error of the transport network over that of the unconstrained one: below one is better.",
    )
    page.number(
        f"{abs(network['transport']['mass_drift']):.0e}".replace("e-0", "e-"),
        "relative change of the total",
        f"How much tracer the transport network made or lost in {steps} days; the unconstrained one: "
        f"{100 * abs(network['unconstrained']['mass_drift']):.0f} %.",
    )
    page.number(
        f"{da['rmse_analysis'] / da['rmse_free']:.2f} x",
        "error with observations",
        f"Observing {100 * settings.observed_fraction:.0f} % of the cells every {settings.every} days cuts the error to this part.",
    )
    page.number(
        f"{da['chi2']:.2f}",
        "chi-square of the innovations",
        "One means that the assimilation knows how wrong it is; its error bars can be believed.",
    )
    page.section(
        "What was done",
        f"A numerical model carried a tracer [{units}] through a double gyre whose two cells swing against each other (Shadden et "
        f"al. 2005, doi:10.1016/j.physd.2005.10.007), on {settings.shape[0]} x {settings.shape[1]} cells between 36 and 45 degrees "
        f"north. {settings.train_runs} runs of {steps} days trained the networks, {settings.test_runs} others test them. Each "
        f"network sees the tracer and the two velocity components and predicts the tracer one day later.\n\n"
        f"The unconstrained network predicts the change of the tracer. The projected one does the same, and its last layer moves "
        f"the result to the nearest field that is nowhere negative and holds the same total. The transport network predicts where "
        f"the content of every cell goes, as shares among its neighbours, so that nothing can be made, lost or turned negative.",
        [(figures["learning_curves"], "Error of a one-day forecast on the training runs, by epoch.")],
    )
    page.section(
        "Forecasts of an unseen run",
        f"All start from the same true state. Each day's forecast is the next day's input, up to day {steps}.",
        [(figures["maps"], "Tracer in one test run: the truth and the three networks, by day.")],
        [
            {
                "network": n,
                f"rmse day 1 [{units}]": round(network[n]["rmse"][0], 4),
                f"rmse day {steps} [{units}]": round(network[n]["rmse"][-1], 4),
                "drift of the total": f"{network[n]['mass_drift']:.1e}",
                "negative cells": f"{100 * network[n]['negative_fraction']:.1f} %",
            }
            for n in METHODS
        ],
    )
    page.section(
        "Conservation and positivity",
        "A tracer cannot be negative, and with closed coasts its total cannot change. Errors of the total grow with every step "
        "unless the network cannot make them.",
        [
            (
                figures["mass"],
                "Relative change of the total tracer since the start, in the test run where it is largest.",
            ),
            (figures["negative"], "Share of the sea where the tracer is negative."),
            (figures["error"], "Root-mean-square error against the numerical model, over all test runs."),
        ],
    )
    page.section(
        "Assimilating observations",
        f"The transport network starts from the mean of all training states, knowing nothing of where the tracer is. Every "
        f"{settings.every} days it is corrected by {100 * settings.observed_fraction:.0f} % of the cells, observed at random places "
        f"with an error of {settings.sigma_o:g} {units} (best linear unbiased estimate). The error covariance was learned from the "
        f"innovations of a training run: standard deviation {da['sigma_b']:.2f} {units}, length {da['length_km']:.0f} km. Once "
        f"settled, the mean error is {da['rmse_analysis']:.3f} {units}, and {da['rmse_free']:.3f} without observations; right after "
        f"an analysis it is {da['rmse_after_analysis']:.3f}, where the analysis itself expects {da['spread']:.3f}.",
        [
            (figures["assimilation_error"], "Error over time with and without observations."),
            (figures["assimilation_maps"], "The last analysis: truth, free run, analysis."),
            (figures["assimilation_std"], "How uncertain the last analysis is, and where it was observed."),
        ],
    )
    explanation_section(
        page,
        shares,
        heading="What the forecasts rest on",
        before="The network's steps were chained into a forecast of five days, under the currents of the day it starts from. Its "
        "tracer in the middle of the basin, between the two gyres, is shared among the tracer and the currents (u eastward, v "
        "northward) of each half of the basin.",
        figures={
            "shapley": (figures["shapley"], "Mean absolute contribution of each input in each half of the basin."),
            "shapley_waterfall": (
                figures["shapley_waterfall"],
                "One forecast, from the climatology to the prediction.",
            ),
            "shapley_time": (figures["shapley_time"], "Contributions to the forecasts over the run."),
            "shapley_maps": (
                figures["shapley_maps"],
                "One forecast, cell by cell: what the tracer and the currents contribute, each on its own scale.",
            ),
        },
    )
    page.section(
        "How long it took",
        "Seconds by stage, on the machine that wrote this page.",
        table=[{"stage": k, "seconds": v} for k, v in scores["seconds"].items()],
    )
    page.write(out / "report.html")


def _figures(
    test: xr.Dataset,
    rolled: xr.Dataset,
    cycled: xr.Dataset,
    shares: xr.Dataset,
    maps: xr.Dataset,
    histories: dict[str, dict[str, list[float]]],
    scores: dict[str, Any],
) -> dict[str, Any]:
    from physml import plot

    colors = plot.palette(METHODS)
    units = test[TRACER].attrs["units"]
    steps = rolled.sizes["time"]
    day = xr.Variable("day", np.arange(1, steps + 1), {"long_name": "forecast day"})

    def series(key: str, label: str, unit: str, factor: float = 1.0) -> dict[str, xr.DataArray]:
        return {
            n: xr.DataArray(
                factor * np.abs(scores["networks"][n][key]),
                {"day": day},
                ("day",),
                attrs={"long_name": label, "units": unit},
            )
            for n in METHODS
        }

    shown = [min(steps, max(1, round(f * steps))) - 1 for f in (1 / 6, 1 / 2, 1)]
    truth = test[[TRACER]].isel(time=slice(1, None)).expand_dims(network=["truth"])
    panels: Any = xr.concat(
        [truth, rolled[[TRACER]]],
        "network",
        join="exact",
        combine_attrs="override",
        coords="minimal",
        compat="override",
    )
    panels = panels[TRACER].isel(run=0, time=shown, drop=True)
    panels = panels.assign_coords(time=[f"day {i + 1}" for i in shown]).assign_attrs(test[TRACER].attrs)
    losses = {
        n: xr.DataArray(
            h["rmse"],
            {"epoch": ("epoch", np.arange(1, len(h["rmse"]) + 1))},
            ("epoch",),
            attrs={"long_name": "rmse of one day while training", "units": units},
        )
        for n, h in histories.items()
    }
    since = (cycled.time.values - test.time.values[0]) / np.timedelta64(1, "D")
    errors = {
        label: xr.DataArray(
            cycled[f"rmse_{name}"].values,
            {"day": xr.Variable("day", since, {"long_name": "day"})},
            ("day",),
            attrs={"long_name": "rmse", "units": units},
        )
        for label, name in (("without observations", "free"), ("with observations", "analysis"))
    }
    last = int(np.flatnonzero(cycled.used.values > 0)[-1])
    end = cycled.isel(time=last)
    top = float(np.nanpercentile(panels.sel(network="truth"), 99.8))
    sea = test.wet
    one = shares.isel(run=0, time=shares.sizes["time"] // 2)
    observed = {
        "latitude": end.observation_latitude.values,
        "longitude": end.observation_longitude.values,
    }
    return {
        "learning_curves": plot.curves(losses, log=True, colors=colors, title="Training"),
        "maps": plot.maps(
            panels, col="network", row="time", mask=sea, limits=(0.0, top), title="Forecasts of an unseen run"
        ),
        "mass": plot.curves(
            series("mass_drift_by_step", "change of the total tracer", "%", 100.0),
            log=True,
            colors=colors,
            title="Two of the three keep the total",
        ),
        "negative": plot.curves(
            series("negative_fraction_by_step", "negative cells", "%", 100.0),
            colors=colors,
            title="Negative tracer",
        ),
        "error": plot.curves(series("rmse", "rmse", units), log=True, colors=colors, title="Growth of the error"),
        "assimilation_error": plot.curves(errors, title="Observations keep the forecast on track"),
        "assimilation_maps": plot.maps(
            {"truth": end["truth"], "without observations": end["free"], "analysis": end[TRACER]},
            mask=sea,
            limits=(0.0, float(np.nanpercentile(end.truth, 99.8))),
            title="The last analysis",
        ),
        "assimilation_std": plot.error_map(
            end[f"{TRACER}_std"], observed, mask=sea, title="Uncertainty of the last analysis"
        ),
        "shapley": plot.bars(shares, title="What a five-day forecast of the middle rests on"),
        "shapley_waterfall": plot.waterfall(one, title="One five-day forecast"),
        "shapley_time": plot.time_by_group(shares.isel(run=0), title="Contributions over the run"),
        "shapley_maps": plot.attribution_maps(
            maps.isel(run=0, time=0), mask=sea, title="Contributions to one five-day forecast", share=False
        ),
    }
