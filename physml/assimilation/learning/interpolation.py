"""First states from observations alone, before there is any model: interpolation of gridded observations in space and time."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from physml._errors import refuse
from physml.assimilation.observing.gridded import GridObservations
from physml.assimilation.times import find_time
from physml.assimilation.vector import state_vector
from physml.provenance import stamp

FEWEST = 10
"""Observations that a sample covariance needs at least."""


def interpolate_observations(
    observations: GridObservations, *, method: str = "optimal", window: int = 3, period: Any = None
) -> xr.Dataset:
    """Return the observed field where and when it was not observed.

    Parameters
    ----------
    observations
        On the grid of the model and evenly spaced times, with gaps.
    method
        ``"optimal"``: optimal interpolation with the covariance in space and time that the observations themselves have: the
        sample covariance at each lag, the same everywhere and at all times, made positive by its spectrum. It knows sigma_o
        and gives its own error, on the large side where the record is short. ``"cubic"``: by piecewise cubic functions through the observations (Clough and Tocher), as
        Brajard et al. (2020) do; in one dimension of space.
    window
        Optimal: observations up to so many times before and after are used.
    period
        Period of each dimension of space, ``{"site": 40}``; by default the attribute ``period`` of its coordinate. An
        interpolation knows no other boundary than periodic or open.

    Returns
    -------
    Dataset
        ``<name>`` and, by optimal interpolation, ``<name>_std``, its expected error.

    Raises
    ------
    ValueError
        For observations without time or name, or too few of them.

    References
    ----------
    Alfeld, P. (1984), doi:10.1016/0167-8396(84)90029-3. Brajard, J., Carrassi, A., Bocquet, M. and Bertino, L. (2020),
    doi:10.1016/j.jocs.2020.101171. Bretherton, F. P., Davis, R. E. and Fandry, C. B. (1976),
    doi:10.1016/0011-7471(76)90001-2.
    """
    when = find_time(observations.values)
    name = observations.variable
    if when is None or when.ndim != 1 or name is None:
        refuse("interpolate_observations: no named field in time", "a name, and a time dimension", name, "rename('x')")
    time = str(when.dims[0])
    space = tuple(str(d) for d in observations.values.dims if d != time)
    values = observations.values.transpose(time, *space)
    std = observations.error_std.transpose(time, *space).values
    layout = state_vector([values.isel({time: 0})], space, np.ones(values.shape[1:], bool), period)
    around = tuple(d in (layout.period or {}) for d in space)
    if method == "cubic":
        found, error = _cubic(values.values, around), None
    elif method == "optimal":
        found, error = _optimal(values.values, std, around, window)
    else:
        refuse("interpolate_observations: unknown method", "'optimal' or 'cubic'", method, "pass one of these")
    units = {"units": observations.units} if observations.units else {}
    text = f"{method} interpolation of observations"
    attrs = {k: v for k, v in values.attrs.items() if k != "error_std"}
    out = xr.Dataset({name: (values.dims, found, {"long_name": text, **attrs, **units})}, values.coords)
    if error is not None:
        out[f"{name}_std"] = (values.dims, error, {"long_name": "expected error of the interpolation", **units})
    return stamp(out, text)


def _cubic(values: np.ndarray, around: tuple[bool, ...]) -> np.ndarray:
    from scipy.interpolate import griddata

    if values.ndim != 2:
        refuse("cubic interpolation", "one dimension of space", values.ndim - 1, "method='optimal'")
    times, n = values.shape
    t, s = np.nonzero(np.isfinite(values))
    d = values[t, s]
    margin = min(8, n) if around[0] else 0
    left, right = s >= n - margin, s < margin
    points = np.concatenate([np.c_[t, s], np.c_[t[left], s[left] - n], np.c_[t[right], s[right] + n]])
    d = np.concatenate([d, d[left], d[right]])
    out = np.empty(values.shape)
    # Pieces that overlap: a triangulation knows nothing of what is far, and one of all times takes long.
    for first in range(0, times, 500):
        inside = (points[:, 0] >= first - 8) & (points[:, 0] < first + 508)
        grid = np.meshgrid(np.arange(first, min(first + 500, times)), np.arange(n), indexing="ij")
        piece = griddata(points[inside], d[inside], tuple(grid), method="cubic")
        near = griddata(points[inside], d[inside], tuple(grid), method="nearest")
        out[first : first + 500] = np.where(np.isfinite(piece), piece, near)
    return out


def _optimal(
    values: np.ndarray, std: np.ndarray, around: tuple[bool, ...], window: int
) -> tuple[np.ndarray, np.ndarray]:
    times, shape = len(values), values.shape[1:]
    cells = int(np.prod(shape))
    window = min(window, (times - 1) // 2)
    there = np.isfinite(values)
    if there.sum() < FEWEST:
        refuse("too few observations", f"{FEWEST} or more", int(there.sum()), "give a longer record")
    mean = float(values[there].mean())
    covariance: np.ndarray = _sample_covariance(np.where(there, values - mean, 0.0), there, std, around, 2 * window)
    flat, seen, error = (a.reshape(times, cells) for a in (np.where(there, values - mean, 0.0), there, std))
    lags = [covariance[k].ravel() for k in range(2 * window + 1)]
    place = np.stack(np.unravel_index(np.arange(cells), shape), axis=-1)
    steps = np.array([2 * s if not p else s for s, p in zip(shape, around, strict=True)])

    def between(a: np.ndarray, b: np.ndarray, lag: np.ndarray) -> np.ndarray:
        """Covariance of cells a and b, b so many times later; that of an earlier time is the mirror image."""
        gap = np.where(lag[..., None] >= 0, place[b] - place[a], place[a] - place[b]) % steps
        return np.asarray(lags)[np.abs(lag), np.ravel_multi_index(np.moveaxis(gap, -1, 0), tuple(steps))]

    most = max(int(seen[max(0, t - window) : t + window + 1].sum()) for t in range(times))
    out, variance = np.empty((times, cells)), np.empty((times, cells))
    block = max(1, min(256, int(2e7) // max(most * max(most, cells), 1)))
    for first in range(0, times, block):
        rows = np.arange(first, min(first + block, times))
        t = np.repeat(rows[:, None], most, axis=1)
        at, there_too = np.zeros((len(rows), most), int), np.zeros((len(rows), most), bool)
        for i, row in enumerate(rows):
            low = min(max(0, int(row) - window), times - 2 * window - 1)
            when, where = np.nonzero(seen[low : low + 2 * window + 1])
            when, where = when[:most], where[:most]
            t[i, : len(when)], at[i, : len(when)], there_too[i, : len(when)] = low + when, where, True
        d = np.where(there_too, flat[t, at], 0.0)
        both = there_too[:, :, None] & there_too[:, None, :]
        c = np.where(both, between(at[:, :, None], at[:, None, :], t[:, None, :] - t[:, :, None]), 0.0)
        diagonal = np.arange(most)
        c[:, diagonal, diagonal] += np.where(there_too, error[t, at] ** 2, 1.0)
        to = between(at[:, :, None], np.arange(cells)[None, None, :], (rows[:, None] - t)[:, :, None])
        to = np.where(there_too[..., None], to, 0.0)
        solved = np.linalg.solve(c, np.concatenate([d[..., None], to], axis=-1))
        out[rows] = mean + np.einsum("bqn,bq->bn", to, solved[..., 0])
        variance[rows] = lags[0][0] - np.einsum("bqn,bqn->bn", to, solved[..., 1:])
    floor = 1e-3 * lags[0][0]
    return out.reshape(values.shape), np.sqrt(np.maximum(variance, floor)).reshape(values.shape)


def _sample_covariance(
    z: np.ndarray, there: np.ndarray, std: np.ndarray, around: tuple[bool, ...], most: int
) -> np.ndarray:
    """Return the covariance at lags 0 ... most in time and all gaps in space, ``[most + 1, *gap]``, positive semi-definite.

    Gaps in space wrap around where the dimension does; else they count to twice its size, the second half being negative.
    """
    pad = [(0, 2 * most), *[(0, 0 if p else s) for s, p in zip(z.shape[1:], around, strict=True)]]
    axes = tuple(range(z.ndim))

    def correlate(a: np.ndarray) -> np.ndarray:
        spectrum = np.abs(np.fft.rfftn(np.pad(a, pad), axes=axes)) ** 2
        return np.fft.irfftn(spectrum, s=[a.shape[i] + pad[i][1] for i in axes], axes=axes)

    pairs = np.rint(correlate(there.astype(float)))
    c = np.where(pairs > 0, correlate(z) / np.maximum(pairs, 1.0), 0.0)
    c[0].flat[0] -= np.mean(std[there] ** 2)
    # Lags -most ... most, tapered, as one period: then no negative power.
    lag = np.abs(np.arange(-most, most + 1)) / (most + 1.0)
    c = np.concatenate([c[-most:], c[: most + 1]]) * np.cos(0.5 * np.pi * lag).reshape(-1, *[1] * (z.ndim - 1)) ** 2
    power = np.maximum(np.fft.fftn(np.fft.ifftshift(c, axes=0)).real, 0.0)
    return np.fft.ifftn(power).real[: most + 1]
