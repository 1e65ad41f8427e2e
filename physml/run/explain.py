"""A trained model explained from files: attributions as netCDF, figures, and a page that tells what they say."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from physml._atomic import replacing
from physml._errors import closest, refuse
from physml.explain.explainer import Explainer
from physml.explain.shapley.values import rows_each
from physml.plot import _style as style
from physml.provenance import record, stamp
from physml.run import explain_settings as settings
from physml.run.explain_fields import input_anomalies, painted
from physml.run.explain_report import explanation_section, kind_of, phrase
from physml.run.folder import place_for
from physml.run.train import IN_MEMORY, open_for

if TYPE_CHECKING:
    from physml.explain import Baseline
    from physml.model import FieldModel

RESULT, CELLS, PAGE = "explanation.nc", "explanation_cells.nc", "report.html"
LONG = 120.0
"""Length [s] from which on the reader is told how it could be shorter."""
SAMPLES = 100
"""Number of samples that are explained unless said otherwise."""


def explain_run(
    model: str | Path,
    data: str | Sequence[str],
    out: str | Path,
    *,
    target: Any = None,
    baseline: Any = "climatology",
    groups: Any = "variable",
    method: Any = "auto",
    samples: Any = SAMPLES,
    seed: int = 0,
    baseline_data: str | Sequence[str] | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Explain a trained model and write attributions, figures and a page into a folder, whole or not at all.

    Parameters
    ----------
    model
        A ``.keras`` file, or the folder of a run.
    data
        netCDF files or a zarr store with the inputs.
    out
        The folder.
    target
        What is explained: ``"box_mean(sst, lat=-5:5, lon=190:240)"``, ``"area_mean(sst)"``, ``"cell(sst, lat=0, lon=200)"``,
        ``"field(sst)"``, the name of an output, or None for the whole output.
    baseline
        What stands in for absent groups: ``"climatology"``, ``"climatology(by=month)"``, ``"samples(20)"``, ``"zero"``, and
        what else :mod:`physml.explain` has.
    groups
        Words, ``"variable, lag"``; a mapping of the arguments of :func:`physml.explain.groups`, its YAML, or a YAML file.
    method
        ``"auto"``, ``"exact"``, ``"permutations"``; with arguments ``"permutations(pairs=200)"``; or derivatives,
        ``"gradients(kind=integrated)"``, which give maps of input cells too.
    samples
        Number of samples, evenly spaced; a range ``"2015:2016-06"``; None: all.
    seed
        Seed of the method and of baselines that are drawn.
    baseline_data
        Data of the baseline, such as the training period; those that are explained by default.
    overwrite
        Replace an earlier explanation in that folder.
    say
        Receives a line at every stage.

    Returns
    -------
    pathlib.Path
        The folder: ``explanation.nc``, figures as PNG, ``report.html``; ``explanation_cells.nc`` for derivatives.

    Raises
    ------
    FileExistsError
        Where the folder holds something else, or something and *overwrite* is false.
    ValueError, KeyError
        For settings that cannot be read; the nearest name is offered.
    ImportError
        Where matplotlib is not installed.
    """
    settings.check(target, baseline, groups, method)
    place = place_for(out, (RESULT, PAGE), command="physml explain", what="explanation", overwrite=overwrite)
    network, prepared = open_for(model, data)
    reference = prepared if baseline_data is None else open_for(network, baseline_data)[1]
    explainer = Chosen(
        network,
        read_baseline(baseline, reference, network, seed),
        settings.read_groups(groups, prepared, network.layout),
        settings.read_target(target),
    )
    explainer.chosen = samples
    names = [style.shown(n) for n in explainer.players.names]
    say(f"{len(names)} groups: {'; '.join(names[:8])}{' ...' if len(names) > 8 else ''}")
    say(f"target: {explainer.measure.label}; baseline: {explainer.baseline.name}")
    ds = _in_memory(prepared, network.layout.spec.inputs)
    call = settings.read_call(method, "method")
    for line in cost(explainer, ds, call):
        say(line)
    result, cells = attribute(explainer, ds, call, seed)
    result = result.assign(input_anomaly=input_anomalies(explainer, ds))
    provenance = record(
        {"target": target, "baseline": baseline, "groups": groups, "method": method, "samples": samples, "seed": seed},
        model=Path(model).name,
        data=", ".join(Path(p).name for p in _listed(data)),
        baseline_data=", ".join(Path(p).name for p in _listed(baseline_data or data)),
        seed=str(seed),
    )
    with replacing(place) as made:
        made.mkdir()
        stamp(result, "physml explain", provenance).to_netcdf(made / RESULT)
        if cells is not None:
            stamp(cells, "physml explain", provenance).to_netcdf(made / CELLS)
        _write_page(made, explainer, result, cells, provenance)
    say(f"wrote {place / PAGE}")
    return place


class Chosen(Explainer):
    """An explainer of some of the samples of the data, chosen after their windows of inputs are cut.

    Attributes
    ----------
    chosen
        See :func:`physml.run.explain_settings.pick_samples`.
    """

    chosen: Any = None

    def read(self, ds: xr.Dataset, compared: bool = True) -> tuple[xr.DataArray, xr.DataArray | None]:
        """Return the chosen samples, and their own baselines where they have some."""
        packed, beside = super().read(ds, compared)
        dim = self.layout.spec.sample_dim
        axis = packed.indexes[dim] if dim in packed.indexes else pd.RangeIndex(packed.sizes[dim])
        at = {dim: settings.pick_samples(axis, self.chosen)}
        return packed.isel(at), None if beside is None else beside.isel(at)


def read_baseline(setting: Any, ds: xr.Dataset, model: FieldModel, seed: int) -> Baseline:
    """Return the baseline a setting names, made of *ds* for *model*.

    Raises
    ------
    ValueError
        For an unknown baseline or argument; the nearest is offered.
    """
    from physml import explain
    from physml.explain.players import baselines

    public = [n for n in explain.__all__ if callable(getattr(baselines, n, None)) and n[0].islower()]
    known = {n: getattr(baselines, n) for n in public if n != "groups"}
    given = {"ds": ds, "layout": model.layout, "model": model, "scaling": model.scaling, "seed": seed}
    return settings.make(settings.read_call(setting, "baseline"), known, given, "baseline")


def attribute(
    explainer: Explainer, ds: xr.Dataset, call: settings.Call, seed: int
) -> tuple[xr.Dataset, xr.Dataset | None]:
    """Return attributions by group and, for derivatives, by input cell.

    Parameters
    ----------
    explainer
        The game.
    ds
        The samples.
    call
        The method and its arguments; the seed where it takes one.
    seed
        Seed.
    """
    if call.name == "gradients":
        kind = call.positional[0] if call.positional else call.named.get("kind", "integrated")
        more = {k: v for k, v in call.named.items() if k != "kind"}
        cells = explainer.gradients(ds, kind, **more).compute()
        return explainer.players.sum(cells), cells
    known = [
        n for n in inspect.signature(type(explainer).shapley).parameters if n not in ("self", "ds", "method", "seed")
    ]
    for name in call.named:
        if name not in known:
            refuse(
                f"method {call.name!r} has no argument {name!r}{closest(name, known)}",
                ", ".join(known),
                name,
                "correct the name",
            )
    return explainer.shapley(ds, call.name, seed=seed, **call.named).compute(), None


def cost(explainer: Explainer, ds: xr.Dataset, call: settings.Call) -> list[str]:
    """Return how many model rows an explanation takes, how long that may be, and how it could be shorter; of Shapley values.

    The model is timed on a few rows of the baseline.
    """
    if call.name == "gradients" or set(call.named) - set(inspect.signature(rows_each).parameters):
        return []
    packed, _ = explainer.read(ds)
    each = rows_each(explainer, explainer.slots(packed), call.name, **call.named)
    if each is None:
        return []
    count = int(np.prod(packed.shape[: packed.get_axis_num(explainer.layout.spec.sample_dim) + 1]))
    some = np.repeat(explainer.baseline.rows[:1], min(64, each), axis=0).astype(explainer.adapted.dtype or packed.dtype)
    explainer.adapted(some)  # the first call compiles
    start = time.perf_counter()
    explainer.adapted(some)
    seconds = (time.perf_counter() - start) / len(some) * count * each
    length = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    told = [f"{count} samples of {each} model rows each: {count * each} rows, about {length}"]
    if seconds > LONG:
        told.append(f"shorter: fewer --samples (now {count}), fewer groups, or --method 'permutations(pairs=8)'")
    return told


def _listed(data: str | Sequence[str]) -> list[str]:
    return [data] if isinstance(data, str | Path) else [str(d) for d in data]


def _in_memory(ds: xr.Dataset, inputs: Sequence[str]) -> xr.Dataset:
    """Read small data once; larger data stay on disk, and are explained block by block."""
    return ds[list(inputs)].load() if sum(ds[n].nbytes for n in inputs) <= IN_MEMORY else ds[list(inputs)]


def _write_page(
    made: Path, explainer: Explainer, result: xr.Dataset, cells: xr.Dataset | None, provenance: dict[str, str]
) -> None:
    from physml.report import Report

    label, units = explainer.measure.label, style.units_of(result["attribution"]).strip(" []")
    maps = result if set(explainer.measure.dims) == set(explainer.layout.space) else cells
    maps = painted(explainer, result) if maps is None else maps
    size = abs(result["attribution"]).mean([d for d in result["attribution"].dims if d != "group"])
    first = int(np.argmax(size.values))
    share = 100 * float(size[first] / (size.sum() or 1.0))
    name = style.shown(str(size["group"].values[first]))
    what = kind_of(result)
    page = Report(
        f"What {phrase(label)} rests on" if what == "contribution" else f"How {phrase(label)} changes with its inputs",
        f"The model's predictions of {phrase(label)} were shared among {size.size} groups of its inputs. "
        f"The largest part is carried by {name}."
        if what == "contribution"
        else f"Derivatives of the model's predictions of {phrase(label)} were summed up over the cells of {size.size} groups of "
        f"its inputs. The largest is that of {name}.",
        provenance,
    )
    page.number(f"{share:.0f} %", name, f"Its part of the mean absolute {what}s of all groups.")
    if {"prediction", "base_value"} <= set(result):
        away = float(abs(result["prediction"] - result["base_value"]).mean())
        page.number(
            f"{away:.3g} {units}".strip(), "mean departure", "How far the predictions lie from their baselines."
        )
    anomalies = json.loads(explainer.model.provenance.get("preparation", "{}")).get("anomaly", [])
    before = (
        f"The model reads and predicts {', '.join(anomalies)} as departures from a monthly climatology."
        if anomalies
        else ""
    )
    many = set(result["input_anomaly"].dims) == set(result["attribution"].dims)
    drawn = explanation_section(
        page,
        result,
        heading=f"{what.capitalize()}s",
        before=before,
        maps=maps,
        values="input_anomaly" if many else None,
    )
    for figure_name, (figure, _) in drawn.items():
        figure.savefig(made / f"{figure_name}.png", dpi=150, facecolor="white")
    page.write(made / PAGE)
