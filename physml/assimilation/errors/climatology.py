"""B from what a model has done: its climatology, or forecasts that verify at the same time.

Neither knows the errors of a forecast; both know their shape. The climatology gives the errors of no forecast at all, and has to
be scaled down for any other (0.02 for Lorenz-96 observed at each step); differences between forecasts of two lead times to one
valid time have the growth of errors in them (the NMC method). Scale what comes out, ``Dense(scale * B.matrix)``, until the
chi-square of the innovations is 1.

References
----------
Parrish, D. F. and Derber, J. C. (1992), doi:10.1175/1520-0493(1992)120<1747:TNMCSS>2.0.CO;2 (NMC method).
Bannister, R. N. (2008), doi:10.1002/qj.339 (review).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.assimilation.errors.background import Dense


def climatology_error(trajectory: Any, *, scale: float = 1.0, time: str = "time") -> Dense:
    """Return the covariance of states about their mean in time.

    Parameters
    ----------
    trajectory
        States ``[time, n]``, or with more axes, flattened in their order: ``[time, *cells, channel]``. Or a DataArray or a
        Dataset, of whose variables the last axis is made; cells that are missing at some time, such as land, are left out.
    scale
        Factor on the covariance, for forecasts better than the climatology.
    time
        Name of the dimension of time of a DataArray or Dataset.

    Returns
    -------
    Dense
        B on the state vector, with ``matrix [n, n]``; its rank is at most the number of times less one.

    Raises
    ------
    ValueError
        For fewer than two times, or values missing in an array.

    Examples
    --------
    >>> climatology_error([[0.0, 1.0], [2.0, 5.0]]).matrix.tolist()
    [[2.0, 4.0], [4.0, 8.0]]
    """
    x = _states(trajectory, time, "climatology_error")
    anomalies = x - x.mean(axis=0)
    return Dense(scale * (anomalies.T @ anomalies) / (len(x) - 1))


def nmc_error(late: Any, early: Any, *, scale: float = 0.5, time: str = "time") -> Dense:
    """Return the covariance of the differences between two sets of forecasts that verify at the same times.

    Parameters
    ----------
    late, early
        Forecasts of a long and of a short lead time, such as 48 h and 24 h, by valid time; as for :func:`climatology_error`.
        DataArrays and Datasets are paired by the values of time, and must have the same.
    scale
        Factor on the covariance. One half makes it that of one forecast where the errors of the two are independent and alike.
    time
        Name of the dimension of valid time.

    Returns
    -------
    Dense
        B. The mean difference, the drift of the model, is taken away.

    Raises
    ------
    ValueError
        For forecasts of other shapes or times.

    Examples
    --------
    >>> nmc_error([[1.0], [3.0], [2.0]], [[0.0], [2.0], [4.0]]).matrix.tolist()
    [[1.5]]
    """
    if isinstance(late, xr.DataArray | xr.Dataset) and isinstance(early, xr.DataArray | xr.Dataset):
        if time in late.coords and time in early.coords and not np.array_equal(late[time].values, early[time].values):
            refuse("nmc_error: the forecasts verify at other times", "the same times", "others", "xr.align them first")
        difference: Any = late - early
    else:
        a, b = np.asarray(late, "float64"), np.asarray(early, "float64")
        if a.shape != b.shape:
            refuse("nmc_error: the forecasts have other shapes", a.shape, b.shape, "pair them by valid time")
        difference = a - b
    return climatology_error(difference, scale=scale, time=time)


def _states(given: Any, time: str, what: str) -> np.ndarray:
    """Return states ``[time, n]``, finite."""
    labelled = isinstance(given, xr.DataArray | xr.Dataset)
    if labelled:
        fields = [given] if isinstance(given, xr.DataArray) else list(given.data_vars.values())
        lost = [f.name for f in fields if time not in f.dims]
        if lost or not fields:
            refuse(f"{what}: a variable has no {time!r}", "one state for each time", lost, "pass time=, or select")
        # Channels are the last axis: element = cell * channels + channel.
        columns = [f.transpose(time, ...).reset_coords(drop=True) for f in fields]
        x = np.stack([np.asarray(f.values, "float64") for f in xr.broadcast(*columns)], axis=-1)
    else:
        x = np.asarray(given, "float64")
    if x.ndim < 2 or len(x) < 2:
        refuse(f"{what}: too few states", "[time, ...], two times at least", x.shape, "pass a longer trajectory")
    if labelled:
        wet = np.isfinite(x).all(axis=(0, x.ndim - 1))
        x = x[:, wet]
    x = x.reshape(len(x), -1)
    if not np.isfinite(x).all():
        refuse(f"{what}: states are missing", "finite values", "NaN or inf", "select the wet cells")
    return x
