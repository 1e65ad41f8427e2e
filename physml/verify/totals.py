"""Totals over cells, their drift, and how many values lie below zero."""

from __future__ import annotations

import numpy as np
import xarray as xr

from physml._errors import describe
from physml.verify.matching import Dims, checked_weights, dims_of, label_of, product_units, same_grid


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
    weights = checked_weights(weights, data)
    dims = list(weights.dims) if dim is ... else dims_of(dim, data)
    label, units = label_of(data), product_units(data, weights)
    data, weights = data.astype("float64"), weights.astype("float64")
    if mask is None:
        result = (data * weights).sum(dims, skipna=True, min_count=1)
    else:
        mask = same_grid(mask, data, "mask").astype(bool)
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
                f"the drift of {label_of(total)} is relative to a total of zero",
                expected="a reference total other than zero",
                received=0,
                remedy="compare the totals themselves: total - reference",
            )
        )
    result = (total - reference) / np.abs(reference)
    result.attrs = {"long_name": f"relative drift of the {label_of(total)}", "units": "1"}
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
    dims = dims_of(dim, data)
    counted = data.notnull()
    if mask is not None:
        counted = counted & same_grid(mask, data, "mask").astype(bool)
    result = (data < 0).astype("float64").where(counted).mean(dims)
    result.attrs = {"long_name": f"fraction of cells with negative {label_of(data)}", "units": "1"}
    return result.rename(data.name)
