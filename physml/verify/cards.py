"""Scorecards: scores of many models by variable and lead, each beside a reference, with what is significant."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from physml import verify
from physml._errors import closest, describe
from physml.verify.matching import Dims, common_times, is_time
from physml.verify.means import evaluate, measure_of
from physml.verify.resampling import block_bootstrap

Scores = Sequence[str | Callable[..., Any]] | Mapping[str, Callable[..., Any]]


def scorecard(
    forecasts: Mapping[str, xr.Dataset],
    truth: xr.Dataset,
    scores: Scores = ("rmse",),
    *,
    reference: str | None = "persistence",
    dim: Dims = "time",
    weights: xr.DataArray | None = None,
    bootstrap: bool | Mapping[str, Any] = True,
) -> xr.Dataset:
    """Return scores of forecasts by score, model, lead and variable, with intervals and the difference to a reference.

    Parameters
    ----------
    forecasts
        Forecasts by name of the model. All are scored at the times that all have in common. NAME_std beside NAME and the
        dimensions ``quantile`` and ``member`` are seen by the scores that take them; other scores see the mean of the members
        and the quantile nearest to the median.
    truth
        The truth; its variables are scored, each for the models that have it. Dimensions that the forecasts have more (lead)
        are kept.
    scores
        Names of functions of :mod:`physml.verify`, or functions, or functions by a name of one's own; arguments are given by
        ``functools.partial(verify.acc, climatology=...)``. By name, ``"crps"`` scores a forecast without a distribution by its
        absolute error.
    reference
        Name of the model to compare with. None: no comparison.
    dim, weights
        Dimensions to average over, and weights, as in :func:`physml.verify.rmse`.
    bootstrap
        Arguments of :func:`physml.verify.block_bootstrap` (``block``, ``n``, ``level``, ``seed``, ``along``); True for its
        defaults; False: no intervals.

    Returns
    -------
    Dataset
        On (score, model, ..., variable): ``value``; with intervals ``low`` and ``high``; with a reference ``difference`` and
        ``percent`` (difference over the reference), with both ``difference_low``, ``difference_high``, ``p_value``,
        ``significant`` and ``better`` (1, 0, -1). ``units`` is a coordinate on (score, variable), ``best`` (``smaller``, ``larger``,
        ``zero``, ``level``) on score. NaN where a model lacks a
        variable or lead. Draw it by ``physml.plot.scorecard``.

    Raises
    ------
    ValueError
        Where the reference is no model, a score is unknown, or as the scores.

    Examples
    --------
    >>> truth = xr.Dataset({"t": ("time", np.sin(np.arange(100.0)), {"units": "K"})})
    >>> models = {"persistence": truth + 0.5, "network": truth + 0.25}
    >>> card = scorecard(models, truth, ["rmse"], bootstrap={"block": 5})
    >>> float(card.percent.sel(score="rmse", model="network", variable="t"))
    -50.0
    """
    if reference is not None and reference not in forecasts:
        raise ValueError(
            describe(
                f"the reference {reference!r} is none of the models{closest(reference, forecasts)}",
                expected=f"one of {', '.join(forecasts) or 'none'}",
                received=repr(reference),
                remedy="name one of the forecasts, or pass reference=None",
            )
        )
    known = functions_of(scores)
    truth = _common(forecasts, truth)
    options = {} if isinstance(bootstrap, bool) else dict(bootstrap)
    rows, units = [], {}
    for name, function in known.items():
        models = []
        for model, forecast in forecasts.items():
            other = forecasts[reference] if reference is not None and model != reference else None
            each = []
            for variable in truth.data_vars:
                if variable not in forecast.data_vars or (other is not None and variable not in other.data_vars):
                    continue
                ours, theirs = (_one(data, variable, function) for data in (forecast, other))
                found = _entry(function, ours, theirs, truth[variable], dim, weights, bootstrap, options)
                units[name, str(variable)] = str(found.value.attrs.get("units", ""))
                each.append(found.expand_dims(variable=[str(variable)]))
            if each:
                models.append(_joined(each, "variable").expand_dims(model=[model]))
        rows.append(_joined(models, "model").expand_dims(score=[name]))
    card = _joined(rows, "score")
    kept = set(card["variable"].values.tolist())
    card = card.reindex(model=list(forecasts), variable=[str(v) for v in truth.data_vars if str(v) in kept])
    for flag in ("significant", "better"):
        if flag in card:
            kind = bool if flag == "significant" else "int8"
            card[flag] = card[flag].fillna(0).astype(kind)
    front = [d for d in ("score", "model") if d in card.dims]
    card = card.transpose(*front, ..., "variable")
    table = [[units.get((str(s), str(v)), "") for v in card["variable"].values] for s in card["score"].values]
    kinds = {name: measure.better if (measure := measure_of(f)[0]) else "unknown" for name, f in known.items()}
    best = ("score", [kinds[str(s)] for s in card["score"].values], {"long_name": "which values of the score are good"})
    card = card.assign_coords(units=(("score", "variable"), table), best=best)
    _describe(card)
    card.attrs = {"reference": reference or "", "level": options.get("level", 0.95) if bootstrap else ""}
    return card


def functions_of(scores: Scores) -> dict[str, Callable[..., Any]]:
    """Return functions by name.

    Raises
    ------
    ValueError
        For unknown names; the nearest is offered.
    """
    if isinstance(scores, str):
        scores = [scores]
    if isinstance(scores, Mapping):
        return dict(scores)
    known: dict[str, Callable[..., Any]] = {}
    for score in scores:
        if not isinstance(score, str):
            plain = score.func if isinstance(score, functools.partial) else score
            known[getattr(plain, "__name__", repr(plain))] = score
            continue
        function = getattr(verify, score, None) if score in verify.__all__ else None
        if function is None or measure_of(function)[0] is None:
            from physml.verify.means import MEASURES

            names = sorted(f.__name__ for f in MEASURES)
            raise ValueError(
                describe(
                    f"unknown score {score!r}{closest(score, names)}",
                    expected=f"one of {', '.join(names)}, or a function",
                    received=repr(score),
                    remedy="correct the name, or pass {name: function}",
                )
            )
        known[score] = functools.partial(function, point=True) if score == "crps" else function
    return known


def _common(forecasts: Mapping[str, xr.Dataset], truth: xr.Dataset) -> xr.Dataset:
    """Return the truth at the times that all forecasts have."""
    for model, forecast in forecasts.items():
        for dim in truth.dims:
            if is_time(truth.indexes.get(dim)) and is_time(forecast.indexes.get(dim)):
                index = xr.DataArray(np.zeros(truth.sizes[dim]), {dim: truth[dim]}, (dim,))
                truth = truth.sel({dim: common_times(index, forecast, f"{model} and truth")[dim]})
    return truth


def _one(data: xr.Dataset | None, name: Hashable, function: Any) -> Any:
    from physml.verify.means import one_variable

    measure, _ = measure_of(function)
    if data is None:
        return None
    found = one_variable(data, name, measure)
    if isinstance(found, xr.DataArray) and not (measure is not None and measure.distribution):
        found = found.mean("member", skipna=False, keep_attrs=True) if "member" in found.dims else found
        found = found.sel(quantile=0.5, method="nearest", drop=True) if "quantile" in found.dims else found
    return found


def _entry(
    function: Any,
    forecast: Any,
    other: Any,
    truth: xr.DataArray,
    dim: Dims,
    weights: xr.DataArray | None,
    bootstrap: Any,
    options: dict[str, Any],
) -> xr.Dataset:
    measure, held = measure_of(function)
    held = {k: v[truth.name] if isinstance(v, xr.Dataset) else v for k, v in held.items()}
    if bootstrap is not False:
        out = block_bootstrap(_plain(function), forecast, truth, dim, weights, reference=other, **options, **held)
        out = out.rename(score="value").reset_coords("block")
    else:
        plain = [_value(measure, function, f, truth, dim, weights, held) for f in (forecast, other) if f is not None]
        out = xr.Dataset({"value": plain[0]})
        if other is not None:
            kind = measure.better if measure else None
            ours, theirs = (_magnitude(v, kind, held) for v in plain)
            out = out.assign(difference=ours - theirs, reference=plain[1])
    if other is not None:
        kind = measure.better if measure else None
        out["percent"] = 100 * out.difference / abs(_magnitude(out.reference, kind, held))
    return out.drop_vars("reference", errors="ignore")


def _plain(function: Any) -> Any:
    while isinstance(function, functools.partial) and measure_of(function)[0] is not None:
        function = function.func
    return function


def _value(measure: Any, function: Any, forecast: Any, truth: Any, dim: Dims, weights: Any, held: Any) -> xr.DataArray:
    if measure is not None:
        found: xr.DataArray = evaluate(measure, forecast, truth, dim, weights, **held)
        return found
    return function(forecast, truth, dim, weights)


def _magnitude(value: xr.DataArray, kind: str | None, held: Mapping[str, Any]) -> xr.DataArray:
    from physml.verify.resampling import compared

    return compared(value, kind, held.get("level", 0.9))


def _joined(parts: Sequence[xr.Dataset], dim: str) -> xr.Dataset:
    """Return the parts along a dimension, with NaN where one lacks a variable or a label."""
    names = list(dict.fromkeys(str(n) for p in parts for n in p.data_vars))
    filled = []
    for part in parts:
        more = {n: xr.full_like(part["value"], np.nan, dtype="float64") for n in names if n not in part}
        part = part.assign({n: part[n].astype("float64") for n in part.data_vars}).assign(more)
        filled.append(part)
    return xr.concat(filled, dim, coords="different", compat="equals", combine_attrs="override", join="outer")


def _describe(card: xr.Dataset) -> None:
    labels = {
        "value": "score",
        "low": "lower end of the interval",
        "high": "upper end of the interval",
        "difference": "difference to the reference",
        "percent": "difference to the reference",
        "difference_low": "lower end of the interval of the difference",
        "difference_high": "upper end of the interval of the difference",
        "p_value": "probability of a difference as large by chance",
        "significant": "whether the interval of the difference leaves zero out",
        "better": "1: significantly better than the reference, -1: worse, 0: neither",
        "block": "length of the blocks",
    }
    units = {"percent": "%", "p_value": "1", "significant": "1", "better": "1", "block": "1"}
    for name in card.data_vars:
        card[name].attrs = {"long_name": labels[str(name)]} | ({"units": units[str(name)]} if name in units else {})
