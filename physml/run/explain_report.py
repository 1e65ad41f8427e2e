"""The section of a report that tells an explanation: what was asked, how sure the answer is, figures, and a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from physml.plot import _explain as intervals
from physml.plot import _style as style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from physml.report import Report

ROUND_OFF = 1e-5
"""Part of the largest contribution below which what is left over is called round-off."""
SHARED = 8.0
"""How much larger the greatest contribution of one map may be than that of another on the same colour scale."""
FEW = 60
"""Regions of one map up to which the maps are there to be compared, and so share a scale."""
Figures = dict[str, tuple["Figure", str]]


def explanation_section(
    report: Report,
    result: xr.Dataset,
    *,
    heading: str = "What the predictions rest on",
    before: str = "",
    figures: Figures | None = None,
    table: int = 40,
    **drawing: Any,
) -> Figures:
    """Add a section on an explanation to a report.

    Parameters
    ----------
    report
        The page.
    result
        What :meth:`physml.explain.Explainer.shapley` returned, or another Dataset with ``attribution`` along ``group``.
    heading
        Heading of the section.
    before
        Text before what was asked and how; an empty line begins a paragraph.
    figures
        Figures with captions by name, in place of those that :func:`explanation_figures` draws.
    table
        Largest number of groups in the table.
    **drawing
        Arguments of :func:`explanation_figures`.

    Returns
    -------
    dict
        The figures with their captions by name, to be written as files too.

    Raises
    ------
    ValueError
        Where the Dataset holds no attribution by group.
    """
    drawn = explanation_figures(result, **drawing) if figures is None else figures
    text = "\n\n".join(t for t in (before, explanation_text(result)) if t)
    report.section(heading, text, list(drawn.values()), explanation_table(result, table))
    return drawn


def explanation_text(result: xr.Dataset) -> str:
    """Return what was asked, how it was answered, and how sure the answer is, in sentences."""
    whole, result = result, style.attribution_of(result)
    phi, attrs = result["attribution"], result.attrs
    units = style.units_of(phi).strip(" []")
    target, baseline = attrs.get("target", "the prediction"), attrs.get("baseline", "not recorded")
    told = f"{phrase(target)}{_samples(result, whole)}"
    asked = f"What each of {phi.sizes['group']} groups of inputs adds to {told}."
    if kind_of(result) == "derivative":
        asked = f"How {told} changes with each of {phi.sizes['group']} groups of inputs: derivatives, summed up over its cells."
    if baseline != "none":
        asked += f" A group that is absent is filled from the baseline: {baseline}."
    if "group_lag" in result.coords and any(re.search(r"\bt-\d", str(n)) for n in result["group_lag"].values):
        before = style.shown("t-1")
        asked += f" Inputs at t are those of the time the prediction starts from, those at {before} of one step before."
    how = f"Method: {attrs.get('method', 'not recorded')}"
    tol, rtol = (attrs.get(n) for n in ("tol", "rtol"))
    if "converged" in result and any(isinstance(t, Real) for t in (tol, rtol)):
        wide = [f"{tol:g} {units}".strip()] if isinstance(tol, Real) else []
        wide += [f"{100 * rtol:g} % of the largest contribution"] if isinstance(rtol, Real) else []
        how += f", until the half-width of every interval is below {' and '.join(wide)}"
    if "rows" in attrs:
        each = f", {_count(attrs['rows_per_sample'])} for each sample" if "rows_per_sample" in attrs else ""
        how += f"; the model was run on {_count(attrs['rows'])} rows of inputs{each}"
    seed = attrs.get("seed", "none")
    how += "." if str(seed) == "none" else f"; seed {seed}."
    return f"{asked}\n\n{how} {_certainty(result, units)} {_left_over(result, units)}".strip()


def kind_of(result: xr.Dataset) -> str:
    """Return what a result holds of each group: its contribution, or its derivative."""
    return "derivative" if result.attrs.get("kind") in ("saliency", "smoothgrad") else "contribution"


def phrase(target: str) -> str:
    """Return what is explained as part of a sentence.

    Examples
    --------
    >>> f"What {phrase('mean of sst, one month ahead')} rests on"
    'What the mean of sst, one month ahead, rests on'
    """
    article = "the " if target.startswith(("mean of ", "area mean of ")) else ""
    return f"{article}{target}{',' if ', ' in target else ''}"


def explanation_table(result: xr.Dataset, most: int = 40) -> list[dict[str, Any]]:
    """Return one row for each group: contribution and, if estimated, its 95 % interval, by mean absolute contribution."""
    result = style.attribution_of(result)
    phi = result["attribution"]
    many = phi.ndim > 1
    units = style.units_of(phi)
    mean, half = intervals.mean_of(result, True, "estimate")
    size, around = intervals.mean_of(result, False, "estimate")
    sure, kind = not float(half.max()) > 0, kind_of(result)
    decimals = 3 - int(np.floor(np.log10(float(abs(size).max()) or 1.0)))
    total = float(abs(size).sum()) or 1.0
    rows = []
    for i in np.argsort(-abs(size).values, kind="stable")[:most]:
        row: dict[str, Any] = {"group": style.shown(str(phi["group"].values[i]))}
        row[f"mean {kind}{units}" if many else f"{kind}{units}"] = round(float(mean[i]), decimals) + 0.0
        if not sure:
            row["95 % interval"] = _interval(float(mean[i]), float(half[i]))
        if many:
            row[f"mean absolute {kind}{units}"] = round(float(size[i]), decimals)
        if many and not sure:
            row["95 % interval of it"] = _interval(float(size[i]), float(around[i]))
        row["share of all"] = f"{100 * abs(float(size[i])) / total:.0f} %"
        rows.append(row)
    return rows


def explanation_figures(
    result: xr.Dataset,
    *,
    sample: Mapping[str, Any] | None = None,
    values: str | xr.DataArray | None = None,
    maps: xr.Dataset | None = None,
    mask: xr.DataArray | None = None,
) -> Figures:
    """Return the figures that suit a result, with captions, by name.

    Parameters
    ----------
    result
        Dataset with ``attribution`` along ``group``.
    sample
        Labels of the sample that the waterfall shows; by default the one whose prediction is furthest from its baseline.
    values
        What colours the beeswarm; see :func:`physml.plot.beeswarm`.
    maps
        Attributions on space to be drawn as maps: of cells or patches, or those of a target that is a field.
    mask
        Valid cells of the maps.

    Returns
    -------
    dict
        ``bars``, and as far as the result has them ``waterfall`` (one number a sample), ``beeswarm`` (8 samples or more),
        ``time`` (one dimension of samples) and ``maps``.
    """
    from physml import plot

    result = style.attribution_of(result)
    phi = result["attribution"]
    outer, kind = intervals.samples_of(result), kind_of(result)
    space = [d for d in phi.dims if d != "group" and d not in outer]
    exact = float(intervals.half_width(result).max()) == 0
    sure = "" if exact else " Whiskers: 95 % intervals."
    drawn: Figures = {}
    what = (
        f"Mean absolute {kind} of each group"
        if phi.ndim > 1
        else f"{kind.capitalize()} of each group, of one prediction"
    )
    title = "What each group contributes" if kind == "contribution" else "What the prediction changes with"
    drawn["bars"] = (plot.bars(result, title=title), f"{what}.{sure}")
    if not space and {"prediction", "base_value"} <= set(result):
        one = _one(result, outer, sample)
        named = ", ".join(style.entry(one[d], 0) for d in outer if d in one.coords)
        one = one.squeeze(outer)
        caption = f"From the baseline to the prediction, group by group{f': {named}' if named else ''}.{sure}"
        drawn["waterfall"] = (plot.waterfall(one, title=named or "One prediction"), caption)
    count = int(np.prod([phi.sizes[d] for d in outer]))
    if not space and outer and count >= 8:
        colour = "" if values is None else " Colour: the inputs of the group."
        figure = plot.beeswarm(
            result,
            values=values,
            title=f"{kind.capitalize()}s {'to' if kind == 'contribution' else 'of'} every prediction",
        )
        drawn["beeswarm"] = (figure, f"One dot for each of {count} predictions, by group.{colour}")
    if not space and len(outer) == 1 and phi.sizes[outer[0]] >= 4:
        figure = plot.time_by_group(result, title=f"{kind.capitalize()}s by {outer[0]}")
        below = ", below the prediction and its baseline" if "base_value" in result else ""
        drawn["time"] = (figure, f"{kind.capitalize()}s by group and {outer[0]}{below}.")
    if maps is not None:
        along = [d for d in maps["attribution"].dims if d in outer]
        where = _one(maps, along, sample)
        named = ", ".join(style.entry(where[d], 0) for d in along if d in where.coords)
        where = where.squeeze()
        share = _alike(where["attribution"])
        title = f"Where the {kind}s lie{f': {named}' if named else ''}"
        figure = plot.attribution_maps(where, mask=mask, title=title, share=share)
        scale = "each on its own scale, which is" if share is False else "on a scale that is"
        drawn["maps"] = (
            figure,
            f"{kind.capitalize()}s on the map{f', {named}' if named else ''}, {scale} white at zero.",
        )
    return drawn


def _one(result: xr.Dataset, outer: list[Any], sample: Mapping[str, Any] | None) -> xr.Dataset:
    """Return one sample, its dimensions kept: that of these labels, or the one furthest from its baseline."""
    if not outer:
        return result
    if sample is not None:
        return result.sel({d: [v] for d, v in sample.items()})
    away = abs(result["attribution"].sum([d for d in result["attribution"].dims if d not in outer]))
    if {"prediction", "base_value"} <= set(result) and set(result["prediction"].dims) == set(outer):
        away = abs(result["prediction"] - result["base_value"]).transpose(*away.dims)
    at = np.unravel_index(int(np.nanargmax(away.values)), away.shape)
    return result.isel({d: [int(i)] for d, i in zip(away.dims, at, strict=True)})


def _alike(phi: xr.DataArray) -> bool | None:
    """Return whether one scale shows all maps; None where their units decide."""
    along = next((d for d in ("group", "channel") if d in phi.dims), None)
    if along is None or "channel_units" in phi.coords:
        return None
    if np.unique(phi.values[np.isfinite(phi.values)]).size <= FEW * phi.sizes[along]:
        return True
    most = abs(phi).max([d for d in phi.dims if d != along]).values
    return bool(most[most > 0].min(initial=np.inf) > most.max() / SHARED)


def _samples(result: xr.Dataset, whole: xr.Dataset) -> str:
    """Return how many samples, and from when to when; *whole* still has the dimensions of one entry."""
    phi = result["attribution"]
    outer = intervals.samples_of(result)
    space = [d for d in phi.dims if d != "group" and d not in outer]
    where = ", cell by cell" if space else ""
    if not outer:
        single = [d for d in intervals.samples_of(whole) if d in whole.coords and whole.sizes[d] == 1]
        named = ", ".join(style.entry(whole[d], 0) for d in single)
        return f"{where} for one sample{f', {named}' if named else ''}"
    count = int(np.prod([phi.sizes[d] for d in outer]))
    dated = next((d for d in outer if d in phi.coords and phi[d].dtype.kind in "MO"), None)
    if dated is None or phi.sizes[dated] < 2:
        return f"{where} in {_count(count)} samples"
    first, last = style.entry(phi[dated], 0), style.entry(phi[dated], -1)
    return f"{where} in {_count(count)} samples from {first} to {last}"


def _certainty(result: xr.Dataset, units: str) -> str:
    phi = float(abs(result["attribution"]).max())
    if "stderr" not in result:
        return ""
    stderr = float(result["stderr"].max())
    if not stderr > 0:
        return "The contributions are exact for this model, these groups and this baseline."
    told = f"The largest standard error is {stderr:.2g} {units}".strip()
    told += f", {100 * stderr / phi:.2g} % of the largest contribution" if phi > 0 else ""
    if "converged" not in result:
        return f"{told}."
    done = result["converged"].values.astype(bool)
    if done.all():
        return f"{told}; every sample reached the tolerance."
    left = _count((~done).sum())
    return f"{told}; {left} of {_count(done.size)} samples did not reach the tolerance within their rows."


def _left_over(result: xr.Dataset, units: str) -> str:
    if "residual" not in result:
        return ""
    left, most = float(abs(result["residual"]).max()), float(abs(result["attribution"]).max())
    told = f"The contributions add up to prediction minus baseline to {left:.1g} {units}".strip()
    if left <= ROUND_OFF * most:
        return f"{told}, which is round-off."
    return f"{told} at worst, {100 * left / (most or 1.0):.2g} % of the largest contribution."


def _interval(value: float, half: float) -> str:
    if not half > 0:
        return "exact"
    digits = max(0, -int(np.floor(np.log10(half)))) + 1
    low, high = (f"{x:.{digits}f}".replace("-", "\N{MINUS SIGN}") for x in (value - half, value + half))
    return f"{low} to {high}"


def _count(value: Any) -> str:
    return f"{int(value):_}".replace("_", "\N{NARROW NO-BREAK SPACE}")
