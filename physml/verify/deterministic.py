"""Scores of single forecasts: errors, their mean, correlation of anomalies, skill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from physml._errors import describe
from physml.verify.matching import Dims, Labelled, common_times, in_units, is_time, label_of, paired, same_grid
from physml.verify.means import Measure, Terms, evaluate, measure_of, measures, one_variable, require_alike, variables


def _pointwise(function: Callable[[xr.DataArray, xr.DataArray], xr.DataArray]) -> Callable[..., Terms]:
    def terms(forecast: xr.DataArray, truth: xr.DataArray, *, convert_units: bool = False) -> Terms:
        forecast, truth = paired(forecast, truth, convert_units)
        return Terms({"value": function(forecast, truth)}, forecast.isnull() & truth.notnull(), truth)

    return terms


def _squared(forecast: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    from scores.continuous import mse

    return mse(forecast, truth, preserve_dims="all")


def _absolute(forecast: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    from scores.continuous import mae

    return mae(forecast, truth, preserve_dims="all")


def _difference(forecast: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    from scores.continuous import additive_bias

    return additive_bias(forecast, truth, preserve_dims="all")


def _root(means: xr.Dataset) -> xr.DataArray:
    root: xr.DataArray = np.sqrt(means["value"])  # type: ignore[assignment]
    return root


RMSE = Measure("root mean square error", _pointwise(_squared), _root)
MSE = Measure("mean square error", _pointwise(_squared), units="squared")
MAE = Measure("mean absolute error", _pointwise(_absolute))
BIAS = Measure("mean error", _pointwise(_difference), better="zero")


@measures(RMSE)
def rmse(
    forecast: Labelled,
    truth: Labelled,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    convert_units: bool = False,
) -> Labelled:
    """Return the root mean square error over *dim*, weighted by *weights*.

    Parameters
    ----------
    forecast, truth
        Two DataArrays, or two Datasets. The forecast may have dimensions that the truth lacks (ensemble member,
        lead time), not the other way round. Times are matched by label; all other coordinates must be the same. In a
        Dataset a variable NAME_std beside NAME, which the truth lacks, is the standard deviation of NAME and not scored.
    dim
        Dimension or dimensions to average over; all of them by default.
    weights
        Non-negative weights without NaN, usually the cell area. None weighs every cell alike.
    convert_units
        Convert the forecast to the units of the truth, where they differ. Otherwise that is an error.

    Returns
    -------
    DataArray or Dataset
        In the units of the truth, float64.

    Raises
    ------
    ValueError
        Where dimensions, coordinates or units differ, no time is common, or a weight is negative or NaN.
    KeyError
        Where the truth lacks a variable of the forecast.

    Examples
    --------
    >>> truth = xr.DataArray([1.0, 2.0], dims="x", attrs={"units": "K"})
    >>> rmse(truth + [3.0, 0.0], truth, weights=xr.DataArray([1.0, 3.0], dims="x")).item()
    1.5
    """
    return evaluate(RMSE, forecast, truth, dim, weights, convert_units=convert_units)


@measures(MSE)
def mse(
    forecast: Labelled,
    truth: Labelled,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    convert_units: bool = False,
) -> Labelled:
    """Return the mean square error over *dim*; arguments and errors as in :func:`rmse`."""
    return evaluate(MSE, forecast, truth, dim, weights, convert_units=convert_units)


@measures(MAE)
def mae(
    forecast: Labelled,
    truth: Labelled,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    convert_units: bool = False,
) -> Labelled:
    """Return the mean absolute error over *dim*; arguments and errors as in :func:`rmse`."""
    return evaluate(MAE, forecast, truth, dim, weights, convert_units=convert_units)


@measures(BIAS)
def bias(
    forecast: Labelled,
    truth: Labelled,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    convert_units: bool = False,
) -> Labelled:
    """Return the mean of forecast minus truth over *dim*; arguments and errors as in :func:`rmse`."""
    return evaluate(BIAS, forecast, truth, dim, weights, convert_units=convert_units)


def _anomaly_terms(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    climatology: xr.DataArray | float,
    centred: bool = True,
    convert_units: bool = False,
) -> Terms:
    forecast, truth = paired(forecast, truth, convert_units)
    normal = _at_times(climatology, truth, convert_units) if isinstance(climatology, xr.DataArray) else climatology
    f, o = forecast - normal, truth - normal
    valid = o.notnull() & f.notnull()
    values = {"fo": f * o, "ff": (f * f).where(valid), "oo": (o * o).where(valid)}
    if centred:
        values |= {"f": f.where(valid), "o": o.where(valid)}
    return Terms(values, f.isnull() & truth.notnull(), truth)


def _correlation(means: xr.Dataset) -> xr.DataArray:
    if "f" not in means:
        size = means["ff"] * means["oo"]
        return means["fo"] / np.sqrt(size.where(size > 0))
    f, o = means["f"], means["o"]
    # A variance below the rounding of the squares is none.
    vary = [v.where(v > ROUNDING * means[k]) for k, v in (("ff", means["ff"] - f**2), ("oo", means["oo"] - o**2))]
    return (means["fo"] - f * o) / np.sqrt(vary[0] * vary[1])


ROUNDING = 1e-13
"""Variance over mean square, below which anomalies do not vary."""
ACC = Measure("anomaly correlation", _anomaly_terms, _correlation, better="larger", units="1")


@measures(ACC)
def acc(
    forecast: Labelled,
    truth: Labelled,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    climatology: Labelled | float,
    centred: bool = True,
    convert_units: bool = False,
) -> Labelled:
    """Return the correlation of the anomalies of forecast and truth from a climatology.

    Parameters
    ----------
    forecast, truth, dim, weights, convert_units
        As in :func:`rmse`.
    climatology
        What is normal, in the units of the truth: one map, one for each ``month`` (1 to 12), ``dayofyear`` or ``season``, of
        which each time of the truth takes its own, or a series over the times of the truth; 0.0 where both are anomalies.
        Take it from other years than those that are scored.
    centred
        Subtract the weighted means of both anomalies over *dim* first. False: a mean error lowers the correlation.

    Returns
    -------
    DataArray or Dataset
        From -1 to 1; NaN where an anomaly does not vary.

    Raises
    ------
    ValueError
        As :func:`rmse`, and where the climatology does not cover a time.

    References
    ----------
    Jolliffe, I. T. and Stephenson, D. B. (2012), Forecast Verification, section 6.4, doi:10.1002/9781119960003.

    Examples
    --------
    >>> truth = xr.DataArray([1.0, -1.0, 3.0], dims="time")
    >>> acc(2 * truth + 1, truth, climatology=0.0).round(12).item()
    1.0
    """
    options: dict[str, Any] = {"climatology": climatology, "centred": centred, "convert_units": convert_units}
    return evaluate(ACC, forecast, truth, dim, weights, **options)


def _at_times(climatology: xr.DataArray, truth: xr.DataArray, convert: bool) -> xr.DataArray:
    """Return the climatology at the times of the truth."""
    normal = in_units(climatology, truth, convert)
    parts = [d for d in normal.dims if d not in truth.dims and d in ("month", "dayofyear", "season", "hour")]
    if parts:
        times = [d for d in truth.dims if is_time(truth.indexes.get(d))]
        if not times:
            raise ValueError(
                describe(
                    f"the climatology is one by {parts[0]}, and {label_of(truth)} has no time",
                    expected="a dimension of dates",
                    received=f"{dict(truth.sizes)}",
                    remedy=f"pass the climatology of one {parts[0]}",
                )
            )
        for part in parts:
            wanted = getattr(truth[times[0]].dt, str(part))
            lacking = [v for v in np.unique(wanted.values) if v not in climatology[part].values]
            if lacking:
                raise ValueError(
                    describe(
                        f"the climatology has no {part} {lacking[0]}",
                        expected=f"every {part} of the truth",
                        received=_listed(climatology[part].values),
                        remedy=f"make it from whole years: truth.groupby('{times[0]}.{part}').mean()",
                    )
                )
            normal = normal.sel({part: wanted}).drop_vars(str(part))
    normal = normal.sel({d: i for d, i in truth.indexes.items() if d in normal.indexes and is_time(i)})
    return same_grid(normal, truth, "climatology").astype("float64")


def _listed(values: np.ndarray) -> str:
    return ", ".join(map(str, values)) if len(values) <= 12 else f"{len(values)} of them, {values[0]} to {values[-1]}"


def skill(
    forecast: Any,
    truth: Any,
    reference: Any,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    score: Callable[..., Any] = mse,
) -> Any:
    """Return one minus the ratio of the scores of *forecast* and of *reference* over *dim*.

    One is a perfect forecast, zero is no better than the reference (climatology, persistence), less is worse.
    Both are scored on the times that all three have in common. Leave the lead out of *dim* to see it by lead.

    Parameters
    ----------
    forecast, truth, reference, dim, weights
        As in :func:`rmse`.
    score
        The score whose perfect value is zero: :func:`mse` by default, ``physml.verify.crps``, ``physml.verify.brier``, or
        any function of forecast, truth, dim and weights.

    Raises
    ------
    ValueError
        As :func:`rmse`.

    Examples
    --------
    >>> truth = xr.DataArray([1.0, -1.0], dims="time")
    >>> skill(0.5 * truth, truth, reference=0 * truth).item()
    0.75
    """
    if isinstance(truth, xr.Dataset):
        require_alike(forecast, truth)
        known, scored = measure_of(score)[0], {}
        for name in variables(forecast, truth):
            ours, theirs = (one_variable(data, name, known) for data in (forecast, reference))
            scored[name] = skill(ours, truth[name], theirs, dim, weights, score=score)
        return xr.Dataset(scored, attrs=forecast.attrs)
    truth = common_times(truth, forecast, "forecast and truth")
    truth = common_times(truth, reference, "reference and truth")
    result = 1 - score(forecast, truth, dim, weights) / score(reference, truth, dim, weights)
    result.attrs = {"long_name": f"skill score of {label_of(truth)}", "units": "1"}
    return result.rename(forecast.name if isinstance(forecast, xr.DataArray) else truth.name)
