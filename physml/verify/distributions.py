"""Scores of forecasts that say how sure they are: by mean and standard deviation, by quantiles, or by members."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from physml._errors import describe, refuse
from physml.verify.matching import Dims, in_units, label_of, matched, paired
from physml.verify.means import Measure, Terms, evaluate, measures

QUANTILE = "quantile"
"""The dimension of forecasts by quantiles; its labels are the levels."""


class Forecast(NamedTuple):
    """A forecast of a distribution beside the truth, in float64, matched.

    Attributes
    ----------
    kind
        ``"gaussian"``, ``"quantiles"``, ``"members"`` or ``"point"``.
    values
        The mean, the quantiles, the members or the forecast.
    std
        The standard deviation, of a Gaussian.
    truth, absent
        The truth; where it is known and the forecast is not.
    """

    kind: str
    values: xr.DataArray
    std: xr.DataArray | None
    truth: xr.DataArray
    absent: xr.DataArray


def forecast_of(
    forecast: xr.DataArray | xr.Dataset,
    truth: xr.DataArray,
    *,
    member: str = "member",
    point: bool = False,
    convert_units: bool = False,
) -> Forecast:
    """Return what kind of distribution a forecast is, beside its truth.

    Raises
    ------
    ValueError
        Where it is none, a dimension, coordinate or unit does not fit, or levels are no probabilities in ascending order.
    """
    if isinstance(forecast, xr.Dataset):
        name, std = truth.name, f"{truth.name}_std"
        if name not in forecast.data_vars or std not in forecast.data_vars:
            refuse(
                f"the forecast says of {label_of(truth)} no standard deviation",
                f"the variables {name!r} and {std!r}",
                ", ".join(map(str, forecast.data_vars)),
                "name the truth like the mean, or pass one variable with a dimension of quantiles or members",
            )
        mean, known = paired(forecast[name], truth, convert_units)
        spread = matched(in_units(forecast[std], known, convert_units, spread=True), known).astype("float64")
        # A spread below zero is none.
        spread = spread.where(spread >= 0)
        return Forecast("gaussian", mean, spread, known, (mean.isnull() | spread.isnull()) & known.notnull())
    values, known = paired(forecast, truth, convert_units)
    if QUANTILE in values.dims:
        values = _whole(values, QUANTILE)
        levels = values[QUANTILE].values if QUANTILE in values.coords else np.array([np.nan])
        if not (np.diff(levels) > 0).all() or not ((levels > 0) & (levels < 1)).all():
            refuse(
                "the quantiles have no levels in ascending order",
                f"a coordinate {QUANTILE!r} between 0 and 1",
                levels.tolist(),
                f"forecast.sortby({QUANTILE!r})",
            )
        return Forecast("quantiles", values, None, known, values.isnull().any(QUANTILE) & known.notnull())
    if member in values.dims:
        return Forecast("members", _whole(values, member), None, known, values.isnull().any(member) & known.notnull())
    if not point:
        raise ValueError(
            describe(
                f"the forecast of {label_of(truth)} is no distribution",
                expected=f"a dimension {member!r} or {QUANTILE!r}, or a Dataset with {truth.name!r} and '{truth.name}_std'",
                received=f"an array on {forecast.dims}",
                remedy="name its dimension of members: member=...; point=True scores one value, by its absolute error",
            )
        )
    return Forecast("point", values, None, known, values.isnull() & known.notnull())


def _whole(data: xr.DataArray, dim: str) -> xr.DataArray:
    return data.chunk({dim: -1}) if data.chunks is not None else data


def _normal(x: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the probability below and the density at standard normal deviates."""
    from scipy.special import ndtr

    return xr.apply_ufunc(ndtr, x, dask="allowed"), np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)


def _crps_terms(
    forecast: Any, truth: xr.DataArray, *, member: str = "member", fair: bool = True, **options: Any
) -> Terms:
    f = forecast_of(forecast, truth, member=member, **options)
    if f.kind == "gaussian":
        error, std = f.truth - f.values, f.std
        assert std is not None
        z = error / std.where(std > 0)
        below, density = _normal(z)
        value = std * (z * (2 * below - 1) + 2 * density - 1 / np.sqrt(np.pi))
        value = value.where(std != 0, abs(error))
    elif f.kind == "quantiles":
        value = _pinball(f).sum(QUANTILE, skipna=False)
    elif f.kind == "members":
        value = _of_members(f, member, fair)
    else:
        value = abs(f.values - f.truth)
    return Terms({"value": value}, f.absent, f.truth)


def _pinball(f: Forecast) -> xr.DataArray:
    """Return twice the quantile score of each level, times the part of all levels that it stands for."""
    from scores.continuous import quantile_score

    levels = f.values[QUANTILE].values
    edges = np.concatenate([[0.0], 0.5 * (levels[1:] + levels[:-1]), [1.0]])
    scored = [
        2 * part * quantile_score(f.values.isel({QUANTILE: i}, drop=True), f.truth, float(level), preserve_dims="all")
        for i, (level, part) in enumerate(zip(levels, np.diff(edges), strict=True))
    ]
    return xr.concat(scored, f.values[QUANTILE], coords="minimal", compat="override")


def _of_members(f: Forecast, member: str, fair: bool) -> xr.DataArray:
    from scores.probability import crps_for_ensemble

    least = 2 if fair else 1
    if f.values.sizes[member] < least:
        refuse(
            "the ensemble has too few members",
            f"{least} or more along {member!r}",
            dict(f.values.sizes),
            "pass one variable, and member= its dimension of members",
        )
    method: Any = "fair" if fair else "ecdf"
    return crps_for_ensemble(f.values, f.truth, member, method=method, preserve_dims="all")


CRPS = Measure("continuous ranked probability score", _crps_terms, distribution=True)


@measures(CRPS)
def crps(
    forecast: xr.DataArray | xr.Dataset,
    truth: xr.DataArray | xr.Dataset,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    member: str = "member",
    fair: bool = True,
    point: bool = False,
    convert_units: bool = False,
) -> Any:
    """Return the continuous ranked probability score, the mean absolute error of a distribution.

    Parameters
    ----------
    forecast
        One of three: an array with a dimension of members; an array with a dimension ``quantile`` of levels; or a Dataset with
        NAME and NAME_std, as :class:`physml.heads.gaussian.Gaussian` answers, of a Gaussian.
    truth
        An array NAME, or a Dataset where the forecast is one of several variables.
    dim, weights, convert_units
        As in :func:`physml.verify.rmse`.
    member
        Name of the dimension of the members.
    fair
        Of members: True: as of an ensemble without end from which the members are drawn (Ferro 2014); False: of the members
        themselves.
    point
        Score a forecast without members, quantiles or spread as a certain one: by its absolute error. Otherwise refuse it.

    Returns
    -------
    DataArray or Dataset
        In the units of the truth; smaller is better. Of quantiles it is twice the mean of the quantile scores, in which each
        level stands for the levels that are nearest to it: the integral over all levels up to the gaps between those given.

    Raises
    ------
    ValueError
        Where the forecast is no distribution, there are too few members, or as :func:`physml.verify.rmse`.

    References
    ----------
    Gneiting, T. and Raftery, A. E. (2007), doi:10.1198/016214506000001437. Hersbach, H. (2000),
    doi:10.1175/1520-0434(2000)015<0559:DOTCRP>2.0.CO;2. Ferro, C. A. T. (2014), doi:10.1002/qj.2270.

    Examples
    --------
    >>> members = xr.DataArray([[0.0], [2.0]], dims=("member", "x"))
    >>> crps(members, xr.DataArray([1.0], dims="x"), fair=False).item()
    0.5
    """
    options = {"member": member, "fair": fair, "point": point, "convert_units": convert_units}
    return evaluate(CRPS, forecast, truth, dim, weights, **options)


def _log_terms(forecast: Any, truth: xr.DataArray, *, convert_units: bool = False) -> Terms:
    f = forecast_of(forecast, truth, convert_units=convert_units)
    if f.std is None:
        refuse(
            "the logarithmic score needs a density",
            f"a Dataset with {truth.name!r} and '{truth.name}_std'",
            f.kind,
            "score members and quantiles by physml.verify.crps, probabilities by physml.verify.brier",
        )
    std = f.std.where(f.std > 0)
    log: xr.DataArray = np.log(2 * np.pi * std**2)  # type: ignore[assignment]
    value = 0.5 * (log + ((f.truth - f.values) / std) ** 2)
    # Certain of another value than the truth: nothing is worse.
    value = value.where((f.std != 0) | f.truth.isnull(), np.inf)
    return Terms({"value": value}, f.absent, f.truth)


LOG_SCORE = Measure("logarithmic score", _log_terms, units="1", distribution=True)


@measures(LOG_SCORE)
def log_score(
    forecast: xr.Dataset,
    truth: xr.DataArray | xr.Dataset,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    convert_units: bool = False,
) -> Any:
    """Return minus the logarithm of the Gaussian density that was forecast at the truth, in nats; smaller is better.

    The density is per unit of the truth: differences of two scores do not depend on the unit, their ratios do.

    Parameters
    ----------
    forecast
        A Dataset with NAME and NAME_std.
    truth, dim, weights, convert_units
        As in :func:`crps`.

    Raises
    ------
    ValueError
        As :func:`crps`.

    References
    ----------
    Good, I. J. (1952), doi:10.1111/j.2517-6161.1952.tb00104.x.

    Examples
    --------
    >>> forecast = xr.Dataset({"t": ("x", [0.0]), "t_std": ("x", [1.0])})
    >>> log_score(forecast, xr.DataArray([0.0], dims="x", name="t")).round(4).item()
    0.9189
    """
    return evaluate(LOG_SCORE, forecast, truth, dim, weights, convert_units=convert_units)


def quantile_at(f: Forecast, level: float, member: str) -> xr.DataArray:
    """Return the forecast's quantile of a level."""
    if f.std is not None:
        from scipy.special import ndtri

        return f.values + f.std * float(ndtri(level))
    if f.kind == "members":
        # Midway plotting positions: the truth lies below the k-th of n members in k of n + 1 cases.
        return f.values.quantile(level, member, method="weibull").drop_vars("quantile")
    levels = f.values[QUANTILE].values
    found = np.flatnonzero(np.isclose(levels, level, rtol=0, atol=1e-6))
    if not len(found):
        refuse(
            f"the forecast has no quantile {level:g}",
            f"{level:g} among the levels",
            ", ".join(f"{v:g}" for v in levels),
            "ask for the intervals that lie between levels of the forecast",
        )
    return f.values.isel({QUANTILE: int(found[0])}, drop=True)


def _coverage_terms(
    forecast: Any, truth: xr.DataArray, *, level: float | Sequence[float] = 0.9, member: str = "member", **options: Any
) -> Terms:
    f = forecast_of(forecast, truth, member=member, **options)
    inside = []
    for each in np.atleast_1d(level):
        if not 0 < each < 1:
            refuse("the level of an interval is no probability", "0 < level < 1", level, "pass level=0.9")
        low, high = (quantile_at(f, p, member) for p in ((1 - each) / 2, (1 + each) / 2))
        covered = ((f.truth >= low) & (f.truth <= high)).astype("float64")
        inside.append(covered.where(f.truth.notnull() & low.notnull()))
    if np.ndim(level) == 0:
        value = inside[0]
    else:
        labels = xr.DataArray(
            np.asarray(level, "float64"), dims="level", attrs={"long_name": "nominal coverage", "units": "1"}
        )
        value = xr.concat(inside, labels.assign_coords(level=labels), coords="minimal", compat="override")
    return Terms({"value": value}, f.absent, f.truth)


COVERAGE = Measure("coverage of the central interval", _coverage_terms, better="level", units="1", distribution=True)


@measures(COVERAGE)
def coverage(
    forecast: xr.DataArray | xr.Dataset,
    truth: xr.DataArray | xr.Dataset,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    level: float | Sequence[float] = 0.9,
    member: str = "member",
    convert_units: bool = False,
) -> Any:
    """Return how often the truth lies in the central interval of the forecast: *level* where the forecast is calibrated.

    Parameters
    ----------
    forecast, truth, dim, weights, convert_units
        As in :func:`crps`.
    level
        Probability of the interval; several are kept along a dimension ``level``. A forecast by quantiles must have both ends
        of each; of members the ends lie between ranks (Weibull positions): N members reach as far as N - 1 in N + 1.
    member
        Name of the dimension of the members.

    Raises
    ------
    ValueError
        As :func:`crps`, and where a level is no probability, or not between quantiles of the forecast.

    Examples
    --------
    >>> forecast = xr.Dataset({"t": ("x", [0.0, 0.0]), "t_std": ("x", [1.0, 1.0])})
    >>> coverage(forecast, xr.DataArray([1.0, 3.0], dims="x", name="t"), level=0.95).item()
    0.5
    """
    return evaluate(COVERAGE, forecast, truth, dim, weights, level=level, member=member, convert_units=convert_units)


def pit(
    forecast: xr.DataArray | xr.Dataset,
    truth: xr.DataArray,
    *,
    member: str = "member",
    convert_units: bool = False,
) -> xr.DataArray:
    """Return the probability that was forecast below the truth, at every case: uniform where the forecast is calibrated.

    Parameters
    ----------
    forecast, truth, member, convert_units
        As in :func:`crps`. Of N members of which k lie below the truth it is (k + 1/2) / (N + 1), ties counted half; of quantiles
        it is interpolated between the levels and ends at the outer ones.

    Returns
    -------
    DataArray
        From 0 to 1, NaN where truth or forecast is missing.

    Raises
    ------
    ValueError
        As :func:`crps`.

    References
    ----------
    Dawid, A. P. (1984), doi:10.2307/2981683.

    Examples
    --------
    >>> members = xr.DataArray([[0.0], [2.0], [4.0]], dims=("member", "x"))
    >>> pit(members, xr.DataArray([1.0], dims="x")).item()
    0.375
    """
    f = forecast_of(forecast, truth, member=member, convert_units=convert_units)
    if f.std is not None:
        value = _normal((f.truth - f.values) / f.std)[0]
    elif f.kind == "members":
        above = f.truth - f.values
        lower, ties = (above > 0).sum(member), (above == 0).sum(member)
        value = (lower + ties / 2 + 0.5) / (f.values.sizes[member] + 1)
    else:
        levels = f.values[QUANTILE].values
        value = xr.apply_ufunc(
            lambda q, y: _interpolated(q, y, levels),
            f.values,
            f.truth,
            input_core_dims=[[QUANTILE], []],
            dask="parallelized",
            output_dtypes=["float64"],
        )
    value = value.where(f.truth.notnull() & ~f.absent)
    value.attrs = {"long_name": f"probability forecast below {label_of(truth)}", "units": "1"}
    return value.rename("pit")


def _interpolated(quantiles: np.ndarray, truth: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the level of the truth among quantiles ``[..., level]``, linear between them."""
    truth = np.broadcast_to(truth, quantiles.shape[:-1])
    n = len(levels)
    at = (quantiles <= truth[..., None]).sum(-1)
    left, right = np.clip(at - 1, 0, n - 1), np.clip(at, 0, n - 1)
    low, high = (np.take_along_axis(quantiles, i[..., None], -1)[..., 0] for i in (left, right))
    gap = np.where(high > low, high - low, 1.0)
    part = np.clip((truth - low) / gap, 0.0, 1.0)
    return levels[left] + part * (levels[right] - levels[left])


def _calibration_terms(
    forecast: Any, truth: xr.DataArray, *, levels: Iterable[float], member: str = "member", **options: Any
) -> Terms:
    f = forecast_of(forecast, truth, member=member, **options)
    below = []
    for level in levels:
        edge = quantile_at(f, level, member)
        below.append((f.truth <= edge).astype("float64").where(f.truth.notnull() & edge.notnull()))
    labels = xr.DataArray(np.asarray(list(levels), "float64"), dims="probability")
    labels = labels.assign_coords(probability=labels)
    return Terms({"value": xr.concat(below, labels, coords="minimal", compat="override")}, f.absent, f.truth)


CALIBRATION = Measure("frequency of the truth below quantiles", _calibration_terms, units="1", distribution=True)
