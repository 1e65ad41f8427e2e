"""Statistics of a variable by level and by group of samples, from one pass over its blocks, in bounded memory.

Moments are merged pairwise (Chan, Golub and LeVeque 1983, doi:10.1080/00031305.1983.10483115), so that a small anomaly on a
large mean keeps its digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from physml.data._methods import Method

COUNT, MEAN, SQUARES, LEAST, GREATEST, MISSING, OUTSIDE = range(7)
"""Rows of what :func:`moments` returns: values, their mean, the sum of squared departures, range, and what is not there."""
_SLAB = 2**21
"""Values taken at a time within a block: what is worked on fits into the cache, and blocks are never copied whole."""


def ordered(da: xr.DataArray, sample: str, levels: Sequence[str], *, whole: bool = False) -> xr.DataArray:
    """Return a variable as ``[sample, *others, *levels]`` in dask blocks, or a *whole* one; what is in memory stays there."""
    if sample not in da.dims:
        da = da.expand_dims(sample)
    da = da.transpose(sample, *(d for d in da.dims if d != sample and d not in levels), *levels)
    if da.chunks is None:
        import dask.array as dsa

        rows = len(da) if whole else max(1, 4 * _SLAB // max(1, da[0].size))
        # Without a name of its own dask would hash all values.
        da = da.copy(data=dsa.from_array(da.values, (rows, *da.shape[1:]), name=False))
    return da.chunk(-1) if whole else da


def moments(
    da: xr.DataArray, valid: xr.DataArray, groups: np.ndarray, n: int, depth: int, method: Method | None = None
) -> Any:
    """Return the moments ``[7, group, *levels]`` of an ordered variable, lazily.

    Parameters
    ----------
    da
        From :func:`ordered`.
    valid
        Cells that count, on some of its dimensions but the sample's.
    groups
        The group of every sample, below 0 for none.
    n
        Number of groups.
    depth
        Number of level dimensions.
    method
        Its transform is applied first.
    """
    import dask.array as dsa

    made = blockwise(partial(_moments, n=n, method=method), da, valid, groups, depth, (7, n))
    axes = tuple(range(da.ndim - depth))
    merged = dsa.reduction(
        made, _merge, _merge, combine=_merge, axis=axes, keepdims=True, dtype="float64", split_every=8, meta=made._meta
    )
    return dsa.moveaxis(merged[(0,) * len(axes)], (-2, -1), (0, 1))


def blockwise(
    function: Any,
    da: xr.DataArray,
    valid: xr.DataArray,
    groups: np.ndarray,
    depth: int,
    new: tuple[int, ...],
    *more: Any,
) -> Any:
    """Apply a function to every block, lazily.

    It takes ``[sample, cell, level]``, the valid ``[cell, level]``, the group of every sample and *more* arrays
    ``[level, ...]`` (given as ``[*levels, ...]``), and returns ``[level, *new]``.

    Returns
    -------
    dask.array.Array
        ``[1 a block along each dimension, *levels, *new]`` float64.
    """
    import dask.array as dsa

    dims = tuple(str(d) for d in da.dims)
    valid = valid.transpose(*(d for d in dims if d in valid.dims))
    present = [d in valid.dims for d in dims[1:]]
    axis = {d: i for i, d in enumerate(dims)}
    outer, every = range(len(dims) - depth), range(len(dims))
    added = range(len(dims), len(dims) + len(new))
    rest = {k: (*every[len(outer) :], *(100 * (k + 1) + i for i in range(m.ndim - depth))) for k, m in enumerate(more)}

    def block(x: np.ndarray, mask: np.ndarray, group: np.ndarray, *others: np.ndarray) -> np.ndarray:
        wide = mask.reshape([x.shape[i + 1] if there else 1 for i, there in enumerate(present)])
        inner = x.shape[len(outer) :]
        cells = np.broadcast_to(wide, x.shape[1:]).reshape(-1, *inner).reshape(-1, int(np.prod(inner)))
        rows = x.reshape(x.shape[0], *cells.shape)
        found = function(rows, cells, group, *(r.reshape(cells.shape[1], *r.shape[depth:]) for r in others))
        return found.reshape(*(1 for _ in outer), *inner, *found.shape[1:])

    return dsa.blockwise(
        block,
        (*every, *added),
        da.data,
        tuple(every),
        valid.values,
        tuple(axis[str(d)] for d in valid.dims),
        groups,
        (0,),
        *(x for k, m in enumerate(more) for x in (m, rest[k])),
        new_axes=dict(zip(added, new, strict=True)),
        adjust_chunks={i: (lambda size: 1) for i in outer},
        concatenate=True,
        dtype="float64",
        meta=np.empty((0,) * (len(dims) + len(added))),
    )


def slabs(rows: np.ndarray) -> list[slice]:
    step = max(1, _SLAB // max(1, rows[0].size if len(rows) else 1))
    return [slice(i, i + step) for i in range(0, len(rows), step)]


def _moments(rows: np.ndarray, cells: np.ndarray, group: np.ndarray, *, n: int, method: Method | None) -> np.ndarray:
    """Return the moments ``[level, 7, group]`` of a block ``[sample, cell, level]``."""
    parts = [_nothing(rows.shape[2], n)]
    for slab in slabs(rows):
        here = _nothing(rows.shape[2], n)
        for g in np.unique(group[slab][group[slab] >= 0]):
            x = rows[slab][group[slab] == g].astype("float64")
            finite = np.isfinite(x)
            there = finite & cells
            here[:, MISSING, g] = (cells & ~finite).sum((0, 1))
            if method is not None and method.nonlinear:
                here[:, OUTSIDE, g] = (method.outside(x) & there).sum((0, 1))
                x = method.forward(np.where(there, x, 1.0), 0.0, np)
            count = there.sum((0, 1))
            mean = x.sum((0, 1), where=there) / np.maximum(count, 1)
            here[:, COUNT, g], here[:, MEAN, g] = count, mean
            here[:, LEAST, g] = x.min((0, 1), where=there, initial=np.inf)
            here[:, GREATEST, g] = x.max((0, 1), where=there, initial=-np.inf)
            x -= mean
            here[:, SQUARES, g] = np.square(x, out=x).sum((0, 1), where=there)
        parts.append(here)
    return _merge(np.stack(parts), (0,), keepdims=False)


def _nothing(levels: int, n: int) -> np.ndarray:
    made = np.zeros((levels, 7, n))
    made[:, LEAST], made[:, GREATEST] = np.inf, -np.inf
    return made


def _merge(parts: np.ndarray, axis: tuple[int, ...], keepdims: bool = True) -> np.ndarray:
    """Return the moments ``[..., 7, group]`` of all parts along some axes together."""
    count, mean, squares, least, greatest, missing, outside = (parts[..., i, :] for i in range(7))
    total = count.sum(axis, keepdims=True)
    centre = (count * mean).sum(axis, keepdims=True) / np.maximum(total, 1)
    # The correction makes the mean of equal parts that part, to the last digit.
    centre = centre + (count * (mean - centre)).sum(axis, keepdims=True) / np.maximum(total, 1)
    spread = (squares + count * (mean - centre) ** 2).sum(axis, keepdims=True)
    ends = least.min(axis, keepdims=True), greatest.max(axis, keepdims=True)
    lost = missing.sum(axis, keepdims=True), outside.sum(axis, keepdims=True)
    found = np.stack([total, centre, spread, *ends, *lost], axis=-2)
    return found if keepdims else found.squeeze(axis)
