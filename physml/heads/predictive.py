"""Reading predicted distributions: quantiles and intervals of labelled answers, and how well they are calibrated.

All of it is lazy where the answers are, and works on what :func:`physml.predict` returned, whichever head it is from.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import xarray as xr

from physml import grid
from physml._errors import closest, describe, refuse

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


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


def calibration(
    fields: xr.Dataset,
    truth: xr.DataArray,
    name: str | None = None,
    levels: Sequence[float] | None = None,
    weights: xr.DataArray | None = None,
    **dims: str,
) -> xr.Dataset:
    """Return how often the truth lies below each predicted quantile: as often as the level says, if all is well.

    Parameters
    ----------
    fields
        What :func:`physml.predict` returned.
    truth
        What came true; where it is missing nothing counts.
    name
        The variable; None: the name of *truth*.
    levels
        Levels; by default those of predicted quantiles, else :data:`LEVELS`.
    weights
        Cell areas. None weighs every cell alike.
    **dims
        ``quantile`` and ``member``, as in :func:`quantiles_of`.

    Returns
    -------
    xarray.Dataset
        ``observed`` along ``level`` (the share of the truth at or below the quantile) and ``count``; lazy where the input is.

    Raises
    ------
    KeyError, ValueError
        As :func:`quantiles_of`; where no sample is common to both.

    References
    ----------
    Gneiting et al. (2007), Probabilistic forecasts, calibration and sharpness, doi:10.1111/j.1467-9868.2007.00587.x.
    """
    name = str(truth.name) if name is None else name
    along = dims.get("quantile", "quantile")
    if levels is None:
        here = grid.variable(fields, name, "prediction")
        levels = here[along].values.tolist() if along in here.dims else LEVELS
    predicted, truth = _matched(quantiles_of(fields, name, levels, **dims), truth)
    there = truth.notnull() & predicted.notnull()
    below = (truth <= predicted).where(there)
    every = [d for d in below.dims if d != along]
    observed = below.mean(every) if weights is None else below.weighted(weights.fillna(0)).mean(every)
    found = xr.Dataset({"observed": observed, "count": there.isel({along: 0}, drop=True).sum()}).rename(
        {along: "level"}
    )
    found["observed"].attrs = {"long_name": "share of the truth below the quantile", "units": "1"}
    found["level"].attrs = {"long_name": "level of the quantile", "units": "1"}
    found["count"].attrs = {"long_name": "values compared", "units": "1"}
    return found.assign_attrs(kind="quantiles", variable=name)


def reliability(
    probability: xr.DataArray,
    happened: xr.DataArray,
    bins: int = 10,
    weights: xr.DataArray | None = None,
) -> xr.Dataset:
    """Return how often an event happened, by the probability that was given to it.

    Parameters
    ----------
    probability
        Of the event: ``fields["regime_probability"].sel(category="ice")``.
    happened
        Whether it did: ``truth == 1``, missing where nothing counts.
    bins
        Number of classes of probability, all of one width.
    weights
        Cell areas. None weighs every cell alike.

    Returns
    -------
    xarray.Dataset
        Along ``bin``, by the middle of the class: ``predicted`` (mean probability), ``observed`` (frequency), ``count``; missing
        where the bin is empty. Lazy where the input is.

    Raises
    ------
    ValueError
        For fewer than two bins; where no sample is common to both.

    References
    ----------
    Bröcker and Smith (2007), Increasing the reliability of reliability diagrams, doi:10.1175/WAF993.1.
    """
    if bins < 2:
        refuse("reliability: too few bins", "bins >= 2", bins, "bins=10")
    p, true = _matched(probability, happened.where(happened.notnull()).astype("float64"))
    there = p.notnull() & true.notnull()
    w: Any = there.astype("float64") if weights is None else there * weights.fillna(0)
    middle = xr.DataArray((np.arange(bins) + 0.5) / bins, dims="bin", name="bin")
    number = np.floor(p.fillna(0) * bins).clip(0, bins - 1)
    parts = []
    for i in range(bins):  # one pass each over what is in memory or in a block: never all bins of all cells at once
        here = w.where(number == i, 0.0)
        parts.append(
            xr.Dataset({"w": here.sum(), "p": (here * p).sum(), "o": (here * true).sum(), "count": (here > 0).sum()})
        )
    total = xr.concat(parts, dim="bin").assign_coords(bin=middle)
    size = total["w"].where(total["w"] > 0)
    found = xr.Dataset({"predicted": total["p"] / size, "observed": total["o"] / size, "count": total["count"]})
    found["predicted"].attrs = {"long_name": "mean probability", "units": "1"}
    found["observed"].attrs = {"long_name": "observed frequency", "units": "1"}
    found["count"].attrs = {"long_name": "values in the bin", "units": "1"}
    return found.assign_attrs(kind="probability", variable=str(probability.name))


def _matched(a: xr.DataArray, b: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Return prediction and truth on their common labels."""
    a, b = xr.align(a, b, join="inner")
    if not b.size or not set(b.dims) <= set(a.dims):
        refuse(
            "prediction and truth have nothing in common",
            f"the dimensions and labels of the prediction {dict(a.sizes)}",
            dict(b.sizes),
            "give the truth at the times the prediction is valid at",
        )
    return a, b
