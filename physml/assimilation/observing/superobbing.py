"""Superobbing: the observations of one cell as one observation of smaller error."""

from __future__ import annotations

from typing import Any

import numpy as np

from physml import grid
from physml._errors import refuse
from physml.assimilation.observing.observations import PointObservations


def superob(
    observations: PointObservations, on: Any, *, correlation: float = 0.0
) -> tuple[PointObservations, np.ndarray]:
    """Return the mean of the observations in each cell, at each time, and how many each is the mean of.

    With weights w = sigma_o^-2 / sum sigma_o^-2 the mean is sum w d, at the mean position, and its error variance
    (1 - c) sum (w sigma_o)^2 + c (sum w sigma_o)^2 for the correlation c of the errors within a cell.

    Parameters
    ----------
    observations
        With ``error_std``.
    on
        Dataset or DataArray with one-dimensional latitude and longitude, or the pair of these, centres of the cells
        [degrees]. Observations outside every cell stay as they are.
    correlation
        c: 0 where the errors are independent, 1 where averaging does not help (an error of the representation of the cell).

    Returns
    -------
    PointObservations
        A table, ``[obs]``, by time and cell; missing observations are left out.
    numpy.ndarray
        Number of observations in each, ``[obs]``.

    Raises
    ------
    ValueError
        Where the observations have no error or the correlation is not between 0 and 1.

    Examples
    --------
    >>> twice = PointObservations([1.0, 3.0], [0.1, -0.1], [0.0, 0.0], error_std=1.0)
    >>> mean, count = superob(twice, ([0.0, 1.0], [0.0, 1.0]))
    >>> mean.values.tolist(), (mean.error_std**2).round(12).tolist(), count.tolist()
    ([2.0], [0.5], [2])
    """
    if not 0 <= correlation <= 1:
        refuse("superob: the correlation is out of range", "0 to 1", correlation, "pass correlation=0")
    table = observations.table()
    if table.error_std is None:
        refuse("the observations have no error", "error_std, sigma_o", None, "PointObservations(..., error_std=...)")
    pair = on if isinstance(on, tuple) else grid.latitude_longitude(on)
    keep = np.flatnonzero(np.isfinite(table.values) & np.isfinite(table.latitude) & np.isfinite(table.longitude))
    d, lat, lon, std = (a[keep] for a in (table.values, table.latitude, table.longitude, table.error_std))
    row, column = _cell(pair[0], lat, False), _cell(pair[1], lon, True)
    inside = (row >= 0) & (column >= 0)
    # Outside, each is a cell of its own.
    cell = np.where(inside, row * np.size(pair[1]) + column, -1 - np.arange(d.size))
    moment = np.zeros(d.size, "int64") if table.time is None else np.unique(table.time[keep], return_inverse=True)[1]
    _, first, group = np.unique(np.stack([moment, cell]), axis=1, return_index=True, return_inverse=True)
    group, count = group.ravel(), np.bincount(group.ravel())

    def total(a: np.ndarray) -> np.ndarray:
        return np.bincount(group, a, minlength=first.size)

    w = std**-2.0
    w = w / total(w)[group]
    variance = (1 - correlation) * total((w * std) ** 2) + correlation * total(w * std) ** 2
    # Longitudes are averaged as differences from the first of the cell, so that the seam does no harm.
    east = np.mod(lon - lon[first][group] + 180, 360) - 180
    mean = PointObservations(
        total(w * d),
        total(w * lat),
        lon[first] + total(w * east),
        None if table.time is None else table.time[keep][first],
        np.sqrt(variance),
        table.units,
        table.variable,
    )
    return mean, count


def _cell(centres: Any, x: np.ndarray, wrap: bool) -> np.ndarray:
    """Return the cell of each x along an axis, -1 outside; edges lie half way between centres."""
    c = np.asarray(centres, "float64")
    if c.ndim != 1 or c.size < 2:
        refuse("superob: the grid is not regular", "one-dimensional latitude and longitude", c.shape, "pass a pair")
    order = np.argsort(c)
    s = c[order]
    edges = np.concatenate([[1.5 * s[0] - 0.5 * s[1]], 0.5 * (s[1:] + s[:-1]), [1.5 * s[-1] - 0.5 * s[-2]]])
    x = np.mod(x - edges[0], 360.0) + edges[0] if wrap else x
    k = np.searchsorted(edges, x, side="right") - 1
    k = np.where(x == edges[-1], s.size - 1, k)
    return np.where((k >= 0) & (k < s.size), order[np.clip(k, 0, s.size - 1)], -1)
