"""Order: the nearest values that never decrease along a chain, and the blocks of equal values they form.

Adjacent values that violate the order are pooled into their weighted mean until none is left. All violators of a pass are pooled
at once, which ends with the same blocks as pooling them one by one, in any order.

References
----------
Barlow, Bartholomew, Bremner and Brunk (1972), *Statistical Inference under Order Restrictions*, ISBN 0-471-04970-0; Best and
Chakravarti (1990), doi:10.1007/BF01580873.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops


def isotonic(z: Any, weights: Any, low: Any = None, high: Any = None) -> tuple[Any, Any, Any, Any]:
    """Return the nearest values within bounds that do not decrease along the last axis, and the blocks they form.

    Parameters
    ----------
    z
        ``[..., n]`` float64.
    weights
        ``[..., n]`` float64 >= 0. A value without weight gives way to the others.
    low, high
        Bounds ``[..., n]``, None: none. Each also bounds what comes after it (below) and before it (above).

    Returns
    -------
    y, free, first, last
        The values, 1.0 where they are off their bounds, and the positions of the first and the last value of each block.
    """
    n = z.shape[-1]
    there = ops.cast(weights > 0, "float64")
    m = ops.where(weights > 0, weights, ops.full_like(weights, 1e-200))
    z = _carried(z, there)
    if low is not None:
        low = _scan(ops.maximum, ops.where(there > 0, low, ops.full_like(low, -np.inf)))
    if high is not None:
        high = ops.where(there > 0, high, ops.full_like(high, np.inf))
        high = ops.flip(_scan(ops.minimum, ops.flip(high, axis=-1)), axis=-1)
    sums, mass = (_running(x) for x in (m * z, m))
    at = ops.broadcast_to(ops.convert_to_tensor(np.arange(n, dtype="int32")), ops.shape(z))

    def blocks(starts: Any) -> tuple[Any, Any, Any, Any]:
        first = _scan(ops.maximum, ops.where(starts, at, ops.zeros_like(at)))
        ends = ops.concatenate([starts[..., 1:], ops.ones_like(starts[..., :1])], axis=-1)
        last = ops.flip(_scan(ops.minimum, ops.flip(ops.where(ends, at, ops.full_like(at, n - 1)), axis=-1)), axis=-1)
        total = ops.take_along_axis(sums, last + 1, axis=-1) - ops.take_along_axis(sums, first, axis=-1)
        weight = ops.take_along_axis(mass, last + 1, axis=-1) - ops.take_along_axis(mass, first, axis=-1)
        alone = ops.logical_or(first == last, weight <= 0)
        y = ops.where(alone, z, total / ops.where(alone, ops.ones_like(weight), weight))
        free = ops.ones_like(y)
        if low is not None:  # of a block the last bound is the highest, and the first one the lowest
            bound = ops.take_along_axis(low, last, axis=-1)
            y, free = ops.maximum(y, bound), free * ops.cast(y > bound, "float64")
        if high is not None:
            bound = ops.take_along_axis(high, first, axis=-1)
            y, free = ops.minimum(y, bound), free * ops.cast(y < bound, "float64")
        return y, free, first, last

    def violated(starts: Any) -> Any:
        y = blocks(starts)[0]
        down = ops.concatenate([ops.zeros_like(starts[..., :1]), y[..., 1:] < y[..., :-1]], axis=-1)
        return ops.logical_and(starts, down)

    def unfinished(i: Any, starts: Any, wrong: Any) -> Any:
        return ops.logical_and(i < n, ops.any(wrong))

    def merge(i: Any, starts: Any, wrong: Any) -> tuple[Any, Any, Any]:
        starts = ops.logical_and(starts, ops.logical_not(wrong))
        return i + 1, starts, violated(starts)

    starts = ops.ones_like(z) > 0
    _, starts, _ = ops.while_loop(unfinished, merge, (ops.zeros((), "int32"), starts, violated(starts)))
    return blocks(starts)


def averaged(x: Any, weights: Any, first: Any, last: Any) -> Any:
    """Return the weighted mean of ``x [..., n]`` over the block of each position; blocks without weight hold 0."""
    m = weights
    sums, mass = (_running(v) for v in (m * x, m))
    total = ops.take_along_axis(sums, last + 1, axis=-1) - ops.take_along_axis(sums, first, axis=-1)
    weight = ops.take_along_axis(mass, last + 1, axis=-1) - ops.take_along_axis(mass, first, axis=-1)
    alone = first == last
    mean = total / ops.where(weight > 0, weight, ops.ones_like(weight))
    return ops.where(alone, ops.where(m > 0, x, ops.zeros_like(x)), ops.where(weight > 0, mean, ops.zeros_like(mean)))


def carried_maximum(x: Any, there: Any) -> Any:
    """Return the greatest value so far along the last axis, among those where *there* is above zero; *x* where there is none."""
    low = ops.where(there > 0, x, ops.full_like(x, -np.inf))
    greatest = _scan(ops.maximum, low)
    return ops.where(ops.isfinite(greatest), greatest, x)


def _carried(z: Any, there: Any) -> Any:
    """Return *z* with values without weight replaced by the last one with weight before them, so that they violate nothing."""
    n = z.shape[-1]
    at = ops.broadcast_to(ops.convert_to_tensor(np.arange(n, dtype="int32")), ops.shape(z))
    latest = _scan(ops.maximum, ops.where(there > 0, at, ops.full_like(at, -1)))
    carried = ops.take_along_axis(z, ops.maximum(latest, 0), axis=-1)
    least = ops.min(z, axis=-1, keepdims=True)
    return ops.where(latest >= 0, carried, least + ops.zeros_like(z))


def _running(x: Any) -> Any:
    """Return the sums of the first 0, 1, ... n values along the last axis."""
    return ops.concatenate([ops.zeros_like(x[..., :1]), ops.cumsum(x, axis=-1)], axis=-1)


def _scan(combine: Any, x: Any) -> Any:
    """Return ``combine`` of the first 1, 2, ... n values along the last axis, in log2(n) passes."""
    n, reach = x.shape[-1], 1
    while reach < n:
        x = ops.concatenate([x[..., :reach], combine(x[..., reach:], x[..., :-reach])], axis=-1)
        reach *= 2
    return x
