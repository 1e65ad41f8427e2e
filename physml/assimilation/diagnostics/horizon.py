"""How far ahead a forecast has skill."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from physml._errors import refuse


def forecast_skill_horizon(
    error: xr.DataArray, reference: float | xr.DataArray, *, threshold: float = 0.5, lead: str = "lead"
) -> xr.DataArray:
    """Return the lead time at which the error first exceeds a part of a reference: the valid prediction time.

    Parameters
    ----------
    error
        Errors along *lead*, ascending, such as the rmse over space of each forecast.
    reference
        What they are measured by, usually the standard deviation of the climate, in the same units.
    threshold
        The part that is still called skill.
    lead
        Name of the dimension of lead time.

    Returns
    -------
    DataArray
        Horizons in the units of the lead, between two leads by a line, on the other dimensions. The coordinate
        ``reached`` is False where no lead exceeds the threshold: the horizon is then longer than the value, the last lead.

    Raises
    ------
    ValueError
        Where *lead* is no dimension with ascending numbers, or an error is missing before the threshold is passed.

    Examples
    --------
    >>> error = xr.DataArray([0.0, 0.4, 0.8], {"lead": [0.0, 1.0, 2.0]}, ["lead"])
    >>> forecast_skill_horizon(error, 1.0, threshold=0.6).item()
    1.5
    """
    if lead not in error.dims or lead not in error.coords:
        refuse("the errors have no lead time", f"a dimension and coordinate {lead!r}", error.dims, "pass lead=")
    coordinate = error[lead]
    days = coordinate.dtype.kind == "m"
    leads = coordinate.values / np.timedelta64(1, "D") if days else np.asarray(coordinate.values, "float64")
    if not (np.diff(leads) > 0).all():
        refuse(f"{lead} does not ascend", "ascending numbers", leads[:4].tolist(), f"error.sortby({lead!r})")
    part = error / reference

    def crossing(y: np.ndarray) -> tuple[Any, Any]:
        beyond = ~(y <= threshold)
        first = beyond.argmax(-1)
        reached = beyond.any(-1)
        at = np.take_along_axis(y, first[..., None], -1)[..., 0]
        before = np.take_along_axis(y, np.maximum(first - 1, 0)[..., None], -1)[..., 0]
        if np.isnan(at[reached]).any():
            refuse("an error is missing before the threshold is passed", "finite errors", "NaN", "drop that forecast")
        with np.errstate(invalid="ignore", divide="ignore"):
            inside = np.where(first > 0, (threshold - before) / (at - before), 0.0)
        # After a finite error an infinite one: the forecast blew up, somewhere between the two leads.
        inside = np.where(np.isinf(at), 0.0, inside)
        left = leads[np.maximum(first - 1, 0)]
        time = np.where(first > 0, left + inside * (leads[first] - left), leads[0])
        return np.where(reached, time, leads[-1]), reached

    time, reached = xr.apply_ufunc(
        crossing,
        part.chunk({lead: -1}) if part.chunks else part,
        input_core_dims=[[lead]],
        output_core_dims=[[], []],
        dask="parallelized",
        output_dtypes=["float64", "bool"],
    )
    units = "d" if days else coordinate.attrs.get("units")
    attrs = {"long_name": f"lead time with an error within {threshold:g} of the reference"}
    time.attrs = attrs | ({"units": units} if units else {})
    return time.rename("horizon").assign_coords(reached=reached)
