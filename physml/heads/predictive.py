"""Reading predicted distributions: quantiles and intervals of labelled answers.

How well they are calibrated is told by ``physml.verify.reliability`` and ``physml.verify.coverage``. All of it is lazy where the
answers are, and works on what :func:`physml.predict` returned, whichever head it is from.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import xarray as xr

from physml import grid
from physml._errors import closest, describe, refuse


def quantiles_of(
    fields: xr.Dataset,
    name: str,
    levels: float | Sequence[float],
    *,
    quantile: str = "quantile",
    member: str = "member",
) -> xr.DataArray:
    """Return quantiles of a predicted variable.

    Parameters
    ----------
    fields
        What :func:`physml.predict` returned: mean and standard deviation, quantiles or members.
    name
        The variable.
    levels
        Between 0 and 1. Of predicted quantiles only their own levels can be had.
    quantile, member
        Names of the dimensions of predicted quantiles and members.

    Returns
    -------
    xarray.DataArray
        With the dimension ``quantile`` first; in the units of the variable.

    Raises
    ------
    KeyError
        Where there is no such variable.
    ValueError
        For levels out of range or not predicted, and where the fields hold no distribution of the variable.

    Examples
    --------
    >>> fields = xr.Dataset({"sst": ("time", [20.0]), "sst_std": ("time", [2.0])})
    >>> quantiles_of(fields, "sst", [0.5, 0.975]).values.round(2).tolist()
    [[20.0], [23.92]]
    """
    da = grid.variable(fields, name, "prediction")
    wanted = [float(v) for v in np.atleast_1d(np.asarray(levels, "float64"))]
    if not all(0 < v < 1 for v in wanted):
        refuse("the levels are no probabilities", "between 0 and 1", wanted, "levels=[.05, .95]")
    label = xr.Variable(quantile, wanted, {"long_name": "level of the quantile", "units": "1"})
    if f"{name}_std" in fields:
        z = xr.DataArray([NormalDist().inv_cdf(v) for v in wanted], dims=quantile)
        found = (da + (z * fields[f"{name}_std"]).astype(da.dtype)).assign_coords({quantile: label})
    elif quantile in da.dims:
        have = da[quantile].values.tolist()
        at = [int(np.argmin(np.abs(np.asarray(have) - v))) for v in wanted]
        lacking = [v for v, i in zip(wanted, at, strict=True) if abs(have[i] - v) > 1e-6]
        if lacking:
            refuse(
                f"the quantile {lacking[0]:g} of {name!r} was not predicted",
                ", ".join(f"{v:g}" for v in have),
                f"{lacking[0]:g}",
                "one of these levels, or a model with Quantiles(levels=...) that has it",
            )
        found = da.isel({quantile: at}).assign_coords({quantile: label})
    elif member in da.dims:
        whole = da.chunk({member: -1}) if da.chunks is not None else da
        found = whole.quantile(wanted, member, skipna=False).rename(quantile=quantile).astype(da.dtype)
        found = found.assign_coords({quantile: label})
    else:
        raise ValueError(
            describe(
                f"the prediction holds no distribution of {name!r}{closest(f'{name}_std', map(str, fields.data_vars))}",
                expected=f"{name}_std beside it, or a dimension {quantile!r} or {member!r}",
                received=f"{name}{da.dims}",
                remedy="train a model with a head: Gaussian(), Quantiles() or Samples(n)",
            )
        )
    found = found.transpose(quantile, ...).rename(name)
    found.attrs = {k: v for k, v in da.attrs.items() if k != "ancillary_variables"}
    return found


def interval(fields: xr.Dataset, name: str, level: float = 0.9, **dims: str) -> xr.DataArray:
    """Return the central interval that holds the truth with a probability.

    Parameters
    ----------
    fields, name
        As in :func:`quantiles_of`.
    level
        Probability of the interval.
    **dims
        ``quantile`` and ``member``, as in :func:`quantiles_of`.

    Returns
    -------
    xarray.DataArray
        With the dimension ``bound`` first: lower and upper.

    Raises
    ------
    KeyError, ValueError
        As :func:`quantiles_of`.

    Examples
    --------
    >>> fields = xr.Dataset({"sst": ("time", [20.0]), "sst_std": ("time", [2.0])})
    >>> interval(fields, "sst", 0.95).values.round(2).tolist()
    [[16.08], [23.92]]
    """
    if not 0 < level < 1:
        refuse("the level of the interval is no probability", "between 0 and 1", level, "level=.9")
    found = quantiles_of(fields, name, [(1 - level) / 2, (1 + level) / 2], **dims)
    found = found.rename({dims.get("quantile", "quantile"): "bound"}).assign_coords(bound=["lower", "upper"])
    said = f"{100 * level:g} % interval of {found.attrs.get('long_name', name)}"
    return found.assign_attrs(long_name=said)
