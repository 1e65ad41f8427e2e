"""The last digits of a sum: what the rounding of storage leaves is put on a few cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from physml import _backend


def settle(
    y: Any,
    total: Any,
    weights: np.ndarray,
    low: np.ndarray | float | None = None,
    high: np.ndarray | float | None = None,
    cells: int = 64,
) -> Any:
    """Return fields whose weighted sums are as near to their totals as their type can hold.

    A few cells of each group, spread over it, take what is missing one after the other, the largest first: each takes all
    but what its own rounding leaves, which the next, smaller one can hold.

    Parameters
    ----------
    y
        ``[batch, group, cell]``, near its totals.
    total
        ``[batch, group]`` float64.
    weights
        ``[group, cell]`` or ``[1, cell]`` float64, >= 0.
    low, high
        Bounds that hold for every cell, None: none.
    cells
        How many cells of a group may change.

    Returns
    -------
    tensor
        In the type of *y*.
    """
    groups, n = int(y.shape[1]), int(y.shape[2])
    w = np.broadcast_to(weights, (groups, n))
    at = np.stack([_spread(row, min(cells, n)) for row in w])
    share = np.take_along_axis(w, at, axis=1)
    share[:, 1:][at[:, 1:] == at[:, :-1]] = 0.0  # groups of fewer cells name the last one again
    return _settle(y, total, w, at.astype("int32"), share, low, high)


@_backend.compiled
def _settle(y: Any, total: Any, w: Any, at: Any, share: Any, low: Any, high: Any) -> Any:
    rest = total - ops.sum(ops.cast(y, "float64") * w, axis=-1)
    batch, k = ops.shape(y)[0], at.shape[1]
    where = ops.broadcast_to(ops.convert_to_tensor(at)[None], (batch, *at.shape))
    share = ops.broadcast_to(ops.convert_to_tensor(share)[None], (batch, *share.shape))
    values = ops.take_along_axis(y, where, axis=-1)
    order = ops.argsort(-ops.abs(ops.cast(values, "float64")) * share, axis=-1)
    values, share = (ops.take_along_axis(v, order, axis=-1) for v in (values, share))
    changed = []
    for i in range(k):
        old, weight = values[..., i], share[..., i]
        there = weight > 0
        new = ops.cast(old, "float64") + ops.where(
            there, rest / ops.where(there, weight, ops.ones_like(weight)), 0.0 * rest
        )
        new = ops.cast(new, y.dtype)
        new = new if low is None else ops.maximum(new, ops.cast(low, y.dtype))
        new = new if high is None else ops.minimum(new, ops.cast(high, y.dtype))
        new = ops.where(there, new, old)
        rest = rest - (ops.cast(new, "float64") - ops.cast(old, "float64")) * weight
        changed.append(new - old)
    gain = ops.take_along_axis(ops.stack(changed, axis=-1), ops.argsort(order, axis=-1), axis=-1)
    new = ops.take_along_axis(y, where, axis=-1) + gain
    return _put(y, where, new)


def _put(y: Any, where: Any, new: Any) -> Any:
    """Return *y* with the cells *where* of each row replaced; repeated cells hold the same value."""
    batch, groups, n = ops.shape(y)
    rows = ops.reshape(ops.arange(batch * groups, dtype="int32"), (batch, groups, 1)) * n
    flat = ops.reshape(rows + where, (-1, 1))
    out = ops.scatter_update(ops.reshape(y, (-1,)), flat, ops.reshape(new, (-1,)))
    return ops.reshape(out, (batch, groups, n))


def _spread(weights: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of k cells with weight, evenly spread; the last one again where there are fewer."""
    there = np.flatnonzero(weights > 0)
    if not there.size:
        return np.zeros(k, int)
    picked = there[np.unique(np.linspace(0, there.size - 1, k).round().astype(int))]
    return np.concatenate([picked, np.full(k - picked.size, picked[-1])])
