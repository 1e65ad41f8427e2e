"""What two fields need to be compared: labels, times and units that agree, and weights that can weigh."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from types import EllipsisType
from typing import TypeVar

import numpy as np
import pandas as pd
import xarray as xr

from physml._errors import closest, describe, refuse
from physml.provenance import parse_units, same_units

Labelled = TypeVar("Labelled", xr.DataArray, xr.Dataset)
Dims = str | Iterable[Hashable] | EllipsisType | None


def label_of(data: xr.DataArray) -> str:
    """Return the long name, or the name, of a field."""
    return str(data.attrs.get("long_name") or data.name or "the field")


def dims_of(dim: Dims, data: xr.DataArray) -> list[Hashable]:
    """Return the dimensions to average over, all by default; refuse those that *data* lacks."""
    if dim is ... or dim is None:
        return list(data.dims)
    dims: list[Hashable] = [dim] if isinstance(dim, str) else list(dim)
    for name in dims:
        if name not in data.dims:
            raise ValueError(
                describe(
                    f"{label_of(data)} has no dimension {name!r}{closest(str(name), data.dims)}",
                    expected=f"some of {data.dims}",
                    received=f"dim={dim!r}",
                    remedy="correct dim",
                )
            )
    return dims


def is_time(index: pd.Index | None) -> bool:
    """Return whether an index is one of times."""
    return isinstance(index, pd.DatetimeIndex | xr.CFTimeIndex)


def common_times(truth: xr.DataArray, forecast: xr.DataArray | xr.Dataset, who: str) -> xr.DataArray:
    """Return *truth* at the times that *forecast* has too."""
    for dim in truth.dims:
        ours, theirs = truth.indexes.get(dim), forecast.indexes.get(dim)
        if ours is None or theirs is None or not (is_time(ours) or (is_time(theirs) and not len(ours))):
            continue
        for index in (ours, theirs):
            if not index.is_unique:
                twice = index[index.duplicated()][0]
                refuse(
                    f"{who}: a time along {dim!r} is there twice",
                    "each time once",
                    f"{twice} twice",
                    f"drop_duplicates({dim!r}), or give forecasts of several starts a dimension of their own",
                )
        common = ours[ours.isin(theirs)] if type(ours) is type(theirs) else ours[:0]
        if not len(common):
            raise ValueError(
                describe(
                    f"{who} have no {dim} in common",
                    expected=f"labels within {_ends(ours)}",
                    received=_ends(theirs),
                    remedy="select the same period in both, in one calendar",
                )
            )
        truth = truth.sel({dim: common})
    return truth


def _ends(index: pd.Index) -> str:
    return f"{index[0]} to {index[-1]} ({type(index).__name__})" if len(index) else "no labels"


def matched(forecast: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
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
    times = {d: i for d, i in truth.indexes.items() if d in forecast.indexes and is_time(i)}
    return same_grid(forecast.sel(times), truth, "forecast")


def same_grid(data: xr.DataArray, like: xr.DataArray, role: str) -> xr.DataArray:
    """Return *data* with the labels of *like* on their common dimensions, after checking that they agree."""
    if role != "forecast" and (extra := [d for d in data.dims if d not in like.dims]):
        raise ValueError(
            describe(
                f"the {role} has a dimension {extra[0]!r} that {label_of(like)} lacks",
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
                    f"the {role} lies at other places along {dim!r} than {label_of(like)}",
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


def in_units(forecast: xr.DataArray, truth: xr.DataArray, convert: bool, *, spread: bool = False) -> xr.DataArray:
    """Return the forecast in the units of the truth, or say that they differ."""
    ours, theirs = forecast.attrs.get("units"), truth.attrs.get("units")
    if not ours or not theirs or same_units(ours, theirs):
        return forecast
    alike = parse_units(ours).dimensionality == parse_units(theirs).dimensionality
    if not (convert and alike):
        raise ValueError(
            describe(
                f"forecast and truth of {label_of(truth)} are in different units",
                expected=repr(theirs),
                received=repr(ours),
                remedy="pass convert_units=True, or correct attrs['units']"
                if alike
                else "score the same quantity, or correct attrs['units']",
            )
        )
    import cf_xarray.units

    zero, one = cf_xarray.units.units.Quantity(np.array([0.0, 1.0]), ours).to(theirs).magnitude
    # A difference or a standard deviation has no zero of its own: 1 degC of spread is 1 K.
    shift = 0.0 if spread else zero
    return (forecast.astype("float64") * (one - zero) + shift).assign_attrs(forecast.attrs | {"units": theirs})


def product_units(data: xr.DataArray, weights: xr.DataArray) -> str | None:
    """Return the units of a product, where both factors have some."""
    a, b = data.attrs.get("units"), weights.attrs.get("units")
    if not a or not b:
        return None
    product = f"{parse_units(a) * parse_units(b):cf}"
    return product if product.isascii() else f"{a} {b}"


def checked_weights(weights: xr.DataArray, data: xr.DataArray) -> xr.DataArray:
    """Return the weights with the labels of *data*; negative and missing ones are refused, when they are computed if lazy."""
    weights = same_grid(weights, data, "weight array")
    name = f" {weights.name!r}" if weights.name else ""

    def check(block: np.ndarray) -> None:
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

    return checked(weights, check)


def checked(data: xr.DataArray, check: Callable[[np.ndarray], None]) -> xr.DataArray:
    """Return the data after *check* has seen every block: now, or when they are computed if they are lazy."""
    if data.chunks is None:
        check(data.values)
        return data

    def see(block: np.ndarray) -> np.ndarray:
        check(block)
        return block

    # dask tries functions on empty blocks of ones unless told the dtype and meta
    return data.copy(data=data.data.map_blocks(see, dtype=data.dtype, meta=data.data._meta))


def paired(forecast: xr.DataArray, truth: xr.DataArray, convert: bool = False) -> tuple[xr.DataArray, xr.DataArray]:
    """Return forecast and truth in float64, at the times they share, on one grid and in the units of the truth."""
    truth = common_times(truth, forecast, "forecast and truth")
    forecast = matched(in_units(forecast, truth, convert), truth)
    return forecast.astype("float64"), truth.astype("float64")
