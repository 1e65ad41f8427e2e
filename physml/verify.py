"""Scores of forecasts against the truth, totals and their drift: labelled, and lazy when the input is.

A score counts the cells where the truth is finite. Where the truth has a value and the forecast has none, the
score is NaN: a forecast that breaks down must not look better for it. To leave such cells out on purpose, say so:
``truth.where(forecast.notnull())``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from types import EllipsisType
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import xarray as xr

from physml._errors import closest, describe
from physml.provenance import parse_units, same_units

Labelled = TypeVar("Labelled", xr.DataArray, xr.Dataset)
Dims = str | Iterable[Hashable] | EllipsisType | None


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
        lead time), not the other way round. Times are matched by label; all other coordinates must be the same.
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
    return _score("root mean square error", _squared, np.sqrt, forecast, truth, dim, weights, convert_units)


def mae(
    forecast: Labelled,
    truth: Labelled,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    convert_units: bool = False,
) -> Labelled:
    """Return the mean absolute error over *dim*; arguments and errors as in :func:`rmse`."""
    return _score("mean absolute error", _absolute, None, forecast, truth, dim, weights, convert_units)


def bias(
    forecast: Labelled,
    truth: Labelled,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
    *,
    convert_units: bool = False,
) -> Labelled:
    """Return the mean of forecast minus truth over *dim*; arguments and errors as in :func:`rmse`."""
    return _score("mean error", _difference, None, forecast, truth, dim, weights, convert_units)


def skill(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    reference: xr.DataArray,
    dim: Dims = ...,
    weights: xr.DataArray | None = None,
) -> xr.DataArray:
    """Return one minus the ratio of the mean square errors of *forecast* and of *reference* over *dim*.

    One is a perfect forecast, zero is no better than the reference (climatology, persistence), less is worse.
    Both are scored on the times that all three have in common. Leave the lead out of *dim* to see it by lead.

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
    truth = _common_times(truth, forecast, "forecast and truth")
    truth = _common_times(truth, reference, "reference and truth")
    ratio = rmse(forecast, truth, dim, weights) / rmse(reference, truth, dim, weights)
    result = 1 - ratio**2
    result.attrs = {"long_name": f"skill score of {_label(truth)}", "units": "1"}
    return result.rename(forecast.name)


def total(data: xr.DataArray, weights: xr.DataArray, dim: Dims = ..., mask: xr.DataArray | None = None) -> xr.DataArray:
    """Return the weighted sum over *dim* in float64: mass [kg] from density [kg m-3] and cell volume [m3].

    Parameters
    ----------
    data
        The density of what is summed.
    weights
        Cell volume or area: non-negative, without NaN.
    dim
        Dimensions to sum over. By default those of *weights*, so that times and runs are kept.
    mask
        Cells to sum over (True). Inside it a missing value makes the total NaN. Without a mask, missing cells
        are left out.

    Raises
    ------
    ValueError
        Where dimensions or coordinates do not match, or a weight is negative or NaN.

    Examples
    --------
    >>> density = xr.DataArray([1.0, 2.0], dims="x", name="tracer", attrs={"units": "kg m-3"})
    >>> mass = total(density, xr.DataArray([10.0, 10.0], dims="x", attrs={"units": "m3"}))
    >>> mass.item(), mass.attrs["units"]
    (30.0, 'kg')
    """
    weights = _checked_weights(weights, data)
    dims = list(weights.dims) if dim is ... else _dims(dim, data)
    label, units = _label(data), _product_units(data, weights)
    data, weights = data.astype("float64"), weights.astype("float64")
    if mask is None:
        result = (data * weights).sum(dims, skipna=True, min_count=1)
    else:
        mask = _same_grid(mask, data, "mask").astype(bool)
        result = (data * weights).where(mask, 0.0).sum(dims, skipna=False)
    result.attrs = {"long_name": f"total of {label}"} | ({"units": units} if units else {})
    return result.rename(data.name)


def drift(total: xr.DataArray, reference: xr.DataArray | float) -> xr.DataArray:
    """Return the relative departure of a total from what it should be.

    Parameters
    ----------
    total
        From :func:`total`.
    reference
        The total that ought to be there: the initial one, plus the integrated sources if there are any.

    Raises
    ------
    ValueError
        Where the reference is zero, so that no relative drift exists.

    Examples
    --------
    >>> mass = xr.DataArray([2.0, 2.5], dims="step")
    >>> drift(mass, mass[0]).values
    array([0.  , 0.25])
    """
    lazy = isinstance(reference, xr.DataArray) and reference.chunks is not None
    if not lazy and bool(np.any(np.asarray(reference) == 0)):
        raise ValueError(
            describe(
                f"the drift of {_label(total)} is relative to a total of zero",
                expected="a reference total other than zero",
                received=0,
                remedy="compare the totals themselves: total - reference",
            )
        )
    result = (total - reference) / np.abs(reference)
    result.attrs = {"long_name": f"relative drift of the {_label(total)}", "units": "1"}
    return result.rename(total.name)


def negative_fraction(data: xr.DataArray, mask: xr.DataArray | None = None, dim: Dims = ...) -> xr.DataArray:
    """Return the fraction of cells below zero, among those that have a value and, if given, lie in *mask*.

    Raises
    ------
    ValueError
        Where the mask lies on another grid.

    Examples
    --------
    >>> negative_fraction(xr.DataArray([-1.0, 0.0, 2.0, np.nan], dims="x")).round(3).item()
    0.333
    """
    dims = _dims(dim, data)
    counted = data.notnull()
    if mask is not None:
        counted = counted & _same_grid(mask, data, "mask").astype(bool)
    result = (data < 0).astype("float64").where(counted).mean(dims)
    result.attrs = {"long_name": f"fraction of cells with negative {_label(data)}", "units": "1"}
    return result.rename(data.name)


def _squared(forecast: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    from scores.continuous import mse

    return mse(forecast, truth, preserve_dims="all")


def _absolute(forecast: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    from scores.continuous import mae

    return mae(forecast, truth, preserve_dims="all")


def _difference(forecast: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    from scores.continuous import additive_bias

    return additive_bias(forecast, truth, preserve_dims="all")


def _score(
    what: str,
    pointwise: Callable[[xr.DataArray, xr.DataArray], xr.DataArray],
    finish: Callable[[xr.DataArray], xr.DataArray] | None,
    forecast: Any,
    truth: Any,
    dim: Dims,
    weights: xr.DataArray | None,
    convert_units: bool,
) -> Any:
    if isinstance(forecast, xr.Dataset) or isinstance(truth, xr.Dataset):
        if type(forecast) is not type(truth):
            raise TypeError(
                describe(
                    "forecast and truth are of different types",
                    expected="two DataArrays or two Datasets",
                    received=f"{type(forecast).__name__} and {type(truth).__name__}",
                    remedy="select one variable of the Dataset by name",
                )
            )
        scored = {}
        for name in forecast.data_vars:
            if name not in truth.data_vars:
                raise KeyError(
                    describe(
                        f"the truth has no variable {name!r}{closest(str(name), truth.data_vars)}",
                        expected=", ".join(map(str, forecast.data_vars)),
                        received=", ".join(map(str, truth.data_vars)) or "no variables",
                        remedy="rename it, or select the forecast's variables to score",
                    )
                )
            arrays = forecast[name], truth[name]
            scored[name] = _score(what, pointwise, finish, *arrays, dim, weights, convert_units)
        return xr.Dataset(scored, attrs=forecast.attrs)

    truth = _common_times(truth, forecast, "forecast and truth")
    forecast = _match(_in_units(forecast, truth, convert_units), truth)
    dims = _dims(dim, forecast)
    error = pointwise(forecast.astype("float64"), truth.astype("float64"))
    absent = forecast.isnull() & truth.notnull()
    if weights is None:
        result = error.mean(dims)
    else:
        weights = _checked_weights(weights, forecast).astype("float64")
        result = error.weighted(weights).mean(dims)
        absent = absent & (weights > 0)
    result = result.where(~absent.any(dims))
    result = result if finish is None else finish(result)
    result.attrs = {"long_name": f"{what} of {_label(truth)}"}
    units = truth.attrs.get("units") or forecast.attrs.get("units")
    if units:
        result.attrs["units"] = units
    return result.rename(forecast.name)


def _label(data: xr.DataArray) -> str:
    return str(data.attrs.get("long_name") or data.name or "the field")


def _dims(dim: Dims, data: xr.DataArray) -> list[Hashable]:
    if dim is ... or dim is None:
        return list(data.dims)
    dims: list[Hashable] = [dim] if isinstance(dim, str) else list(dim)
    for name in dims:
        if name not in data.dims:
            raise ValueError(
                describe(
                    f"{_label(data)} has no dimension {name!r}{closest(str(name), data.dims)}",
                    expected=f"some of {data.dims}",
                    received=f"dim={dim!r}",
                    remedy="correct dim",
                )
            )
    return dims


def _is_time(index: pd.Index | None) -> bool:
    return isinstance(index, pd.DatetimeIndex | xr.CFTimeIndex)


def _common_times(truth: xr.DataArray, forecast: xr.DataArray, who: str) -> xr.DataArray:
    """Return *truth* at the times that *forecast* has too."""
    for dim in truth.dims:
        ours, theirs = truth.indexes.get(dim), forecast.indexes.get(dim)
        if ours is None or theirs is None or not (len(ours) and len(theirs) and _is_time(ours)):
            continue
        common = ours[ours.isin(theirs)] if type(ours) is type(theirs) else ours[:0]
        if not len(common):
            raise ValueError(
                describe(
                    f"{who} have no {dim} in common",
                    expected=f"labels within {ours[0]} to {ours[-1]} ({type(ours).__name__})",
                    received=f"{theirs[0]} to {theirs[-1]} ({type(theirs).__name__})",
                    remedy="select the same period in both, in one calendar",
                )
            )
        truth = truth.sel({dim: common})
    return truth


def _match(forecast: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    """Return *forecast* at the labels of *truth*, after checking that both lie on one grid."""
    missing = [d for d in truth.dims if d not in forecast.dims]
    if missing:
        raise ValueError(
            describe(
                f"the forecast lacks the dimension {missing[0]!r} of the truth",
                expected=f"at least {truth.dims}",
                received=f"{forecast.dims}",
                remedy="rename it, or forecast.broadcast_like(truth) where one map serves all times",
            )
        )
    times = {d: i for d, i in truth.indexes.items() if d in forecast.indexes and _is_time(i)}
    return _same_grid(forecast.sel(times), truth, "forecast")


def _same_grid(data: xr.DataArray, like: xr.DataArray, role: str) -> xr.DataArray:
    """Return *data* with the labels of *like* on their common dimensions, after checking that they agree."""
    if role != "forecast" and (extra := [d for d in data.dims if d not in like.dims]):
        raise ValueError(
            describe(
                f"the {role} has a dimension {extra[0]!r} that {_label(like)} lacks",
                expected=f"some of {like.dims}",
                received=f"{data.dims}",
                remedy=f"rename the dimension of the {role}, or select along it",
            )
        )
    labels = {}
    for dim in (d for d in data.dims if d in like.dims):
        ours, theirs = data.indexes.get(dim), like.indexes.get(dim)
        if data.sizes[dim] != like.sizes[dim] or (ours is not None and theirs is not None and not _equal(ours, theirs)):
            raise ValueError(
                describe(
                    f"the {role} lies at other places along {dim!r} than {_label(like)}",
                    expected=_span(theirs, like.sizes[dim]),
                    received=_span(ours, data.sizes[dim]),
                    remedy=f"select or interpolate one onto the {dim!r} of the other",
                )
            )
        if ours is not None and theirs is not None:
            labels[dim] = like.coords[dim]
    return data.assign_coords(labels)


def _equal(a: pd.Index, b: pd.Index) -> bool:
    """Tell whether two indexes agree, up to the rounding of single precision."""
    if a.equals(b):
        return True
    numbers = a.dtype.kind in "iuf" and b.dtype.kind in "iuf"
    return numbers and bool(np.allclose(a, b, rtol=1e-6, atol=1e-6 * max(abs(b).max(), 1e-30)))


def _span(index: pd.Index | None, size: int) -> str:
    return f"{size} labels" if index is None or not size else f"{size} labels, {index[0]} to {index[-1]}"


def _in_units(forecast: xr.DataArray, truth: xr.DataArray, convert: bool) -> xr.DataArray:
    ours, theirs = forecast.attrs.get("units"), truth.attrs.get("units")
    if not ours or not theirs or same_units(ours, theirs):
        return forecast
    alike = parse_units(ours).dimensionality == parse_units(theirs).dimensionality
    if not (convert and alike):
        raise ValueError(
            describe(
                f"forecast and truth of {_label(truth)} are in different units",
                expected=repr(theirs),
                received=repr(ours),
                remedy="pass convert_units=True, or correct attrs['units']"
                if alike
                else "score the same quantity, or correct attrs['units']",
            )
        )
    import cf_xarray.units

    zero, one = cf_xarray.units.units.Quantity(np.array([0.0, 1.0]), ours).to(theirs).magnitude
    return (forecast.astype("float64") * (one - zero) + zero).assign_attrs(forecast.attrs | {"units": theirs})


def _product_units(data: xr.DataArray, weights: xr.DataArray) -> str | None:
    a, b = data.attrs.get("units"), weights.attrs.get("units")
    if not a or not b:
        return None
    product = f"{parse_units(a) * parse_units(b):cf}"
    return product if product.isascii() else f"{a} {b}"


def _checked_weights(weights: xr.DataArray, data: xr.DataArray) -> xr.DataArray:
    weights = _same_grid(weights, data, "weight array")
    name = f" {weights.name!r}" if weights.name else ""

    def check(block: np.ndarray) -> np.ndarray:
        for bad, kind in ((np.isnan(block), "NaN"), (block < 0, "negative")):
            if bad.any():
                raise ValueError(
                    describe(
                        f"the weights{name} hold {kind} values",
                        expected="finite weights >= 0",
                        received=f"{int(bad.sum())} {kind} of {block.size}",
                        remedy="give masked cells the weight 0: weights.where(mask, 0)",
                    )
                )
        return block

    if weights.chunks is None:
        check(weights.values)
        return weights
    # dask tries functions on empty blocks of ones unless told the dtype and meta
    return weights.copy(data=weights.data.map_blocks(check, dtype=weights.dtype, meta=weights.data._meta))
