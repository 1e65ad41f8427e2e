"""Weighted projection onto one linear law within bounds, in float64, with an implicit gradient.

For every group of cells::

    min 1/2 sum m (y - z)^2   subject to   sum w y = b,   lower <= y <= upper

has the solution ``y(v) = clip(z - v w / m, lower, upper)`` with one dual variable ``v``; ``sum w y(v)`` never increases with
``v``, so a safeguarded Newton iteration on ``v`` ends after a few passes with the exact set of free cells ``A``. The gradient
follows from that set alone: with ``s = sum_A(g w / m) / sum_A(w^2 / m)``, ``dz = g - w s`` on ``A`` and ``db = s``.

References
----------
Michelot (1986), doi:10.1007/BF00938486; Brucker (1984), doi:10.1016/0167-6377(84)90010-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from physml import _backend
from physml.constraints.settle import settle

LEAK = 0.05
"""Share of the gradient that a cell at its bound receives with ``gradient="leaky"``."""
MAX_PASSES = 100
"""Passes of the dual iteration after which it stops; Newton needs about five, bisection is its safeguard."""


def clip(y: Any, low: np.ndarray | None, high: np.ndarray | None, gradient: str = "exact") -> Any:
    """Return ``y`` within bounds that broadcast to it, with the gradient asked for."""

    def forward_and_vjp(y: Any) -> tuple[Any, Any]:
        out = y if low is None else ops.maximum(y, ops.cast(low, y.dtype))
        out = out if high is None else ops.minimum(out, ops.cast(high, y.dtype))

        def vjp(upstream: Any) -> tuple[Any, ...]:
            if gradient == "straight-through":
                return (upstream,)
            free = ops.cast(ops.equal(out, y), y.dtype)
            return (upstream * (ops.maximum(free, LEAK) if gradient == "leaky" else free),)

        return out, vjp

    return _backend.custom_gradient(forward_and_vjp)(y)


def weighted_sum(x: Any, weights: Any) -> Any:
    """Return ``sum(weights * x)`` over the last axis in float64: multiplied, then summed, never as a dot product."""
    return ops.sum(ops.cast(x, "float64") * weights, axis=-1)


def project_sum(
    z: Any,
    terms: Sequence[Any] = (),
    *,
    weights: np.ndarray,
    coefficients: Sequence[float] = (),
    constant: Any = 0.0,
    metric: np.ndarray | None = None,
    lower: np.ndarray | float | None = None,
    upper: np.ndarray | float | None = None,
    gradient: str = "exact",
    settled: int = 0,
) -> Any:
    """Project ``z`` onto ``sum(weights * y) = constant + sum_k coefficients_k sum(weights * terms_k)`` within bounds.

    Parameters
    ----------
    z
        Fields ``[batch, group, cell]``.
    terms
        Fields of the same shape whose weighted sums make up the total: the state before the step, sources.
    weights
        ``[group, cell]`` or ``[1, cell]``, >= 0; cells of weight 0 take no part, but keep their bounds.
    coefficients
        One factor for each term.
    constant
        Added to the total; a number or ``[group]``.
    metric
        Cost of moving a cell, > 0, shaped as *weights*. None: the weights, so that the distance is the integral of the
        squared change and all free cells of a group change alike.
    lower, upper
        Bounds, broadcast against *z*; None: unbounded.
    gradient
        As in :class:`physml.Constraints`.
    settled
        Cells of a group on which the rounding of the result is settled, see :mod:`physml.constraints.settle`: the sum is then
        exact to about 1e-15 of itself instead of 1e-8. Bounds must then be numbers.

    Returns
    -------
    tensor
        The nearest feasible field, in the type of *z*, differentiable in *z* and *terms*. Where a total cannot be reached
        within the bounds the field lies at the bounds; the residual then tells.
    """
    w = np.asarray(weights, "float64")
    m = np.where(w > 0, w, 1.0) if metric is None else np.asarray(metric, "float64")
    direction = np.where(w > 0, w / m, 0.0)
    low = None if lower is None else np.asarray(lower, "float64")
    high = None if upper is None else np.asarray(upper, "float64")
    factors = np.asarray(list(coefficients), "float64")
    fixed = np.asarray(constant, "float64")
    leak = np.asarray(LEAK if gradient == "leaky" else 0.0)

    def forward_and_vjp(z: Any, *terms: Any) -> tuple[Any, Any]:
        out, free, total = _forward(z, list(terms), factors, fixed, w, direction, low, high)

        def vjp(upstream: Any) -> tuple[Any, ...]:
            if gradient == "straight-through":
                return ops.cast(upstream, z.dtype), *(ops.zeros_like(term) for term in terms)
            grads = _backward(upstream, free, factors, w, direction, leak)
            return tuple(ops.cast(g, a.dtype) for g, a in zip(grads, (z, *terms), strict=True))

        return settle(out, total, w, low, high, settled) if settled else out, vjp

    return _backend.custom_gradient(forward_and_vjp)(z, *terms)


@_backend.compiled
def _forward(
    z: Any, terms: list[Any], factors: Any, constant: Any, w: Any, direction: Any, low: Any, high: Any
) -> tuple[Any, Any, Any]:
    """Return the projection in the type of *z*, the free cells (1.0) and the totals."""
    z64 = ops.cast(z, "float64")
    total = ops.zeros_like(z64[..., 0]) + constant
    for k, term in enumerate(terms):
        total = total + factors[k] * weighted_sum(term, w)
    y, free = _solve(z64, total, w, direction, low, high)
    return ops.cast(y, z.dtype), free, total


@_backend.compiled
def _backward(upstream: Any, free: Any, factors: Any, w: Any, direction: Any, leak: Any) -> list[Any]:
    """Return the gradients of the field and of the terms, in the type of *upstream*."""
    g = ops.cast(upstream, "float64")
    moving = ops.maximum(free, leak)
    size = ops.sum(moving * w * direction, axis=-1)
    s = ops.sum(moving * g * direction, axis=-1) / ops.where(size > 0, size, ops.ones_like(size))
    s = s[..., None]
    grads = [moving * (g - w * s), *(factors[k] * (w * s) for k in range(factors.shape[0]))]
    return [ops.cast(d, upstream.dtype) for d in grads]


def _clip(x: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """Return x within the bounds, and 1.0 where it is free of them."""
    y, free = x, ops.ones_like(x)
    if low is not None:
        y = ops.maximum(y, low)
        free = free * ops.cast(x > low, "float64")
    if high is not None:
        y = ops.minimum(y, high)
        free = free * ops.cast(x < high, "float64")
    return y, free


def _solve(z: Any, total: Any, w: Any, direction: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """Return the projection and the free cells (1.0), both ``[batch, group, cell]`` float64."""
    size = ops.sum(w * direction, axis=-1)
    dual = (weighted_sum(z, w) - total) / ops.where(size > 0, size, ops.ones_like(size))
    if low is None and high is None:
        return z - dual[..., None] * direction, ops.ones_like(z)

    def step(dual: Any, left: Any, right: Any) -> tuple[Any, ...]:
        y, free = _clip(z - dual[..., None] * direction, low, high)
        excess = weighted_sum(y, w) - total
        slope = ops.sum(free * w * direction, axis=-1)
        left = ops.where(excess > 0, dual, left)
        right = ops.where(excess < 0, dual, right)
        newton = dual + excess / ops.where(slope > 0, slope, ops.ones_like(slope))
        newton = ops.where(slope > 0, newton, dual)
        middle = 0.5 * (left + right)
        inside = (newton >= left) & (newton <= right)
        stuck = (slope <= 0) & (excess != 0)
        bisect = ops.isfinite(middle) & (stuck | ops.logical_not(inside))
        landed = ops.abs(excess) <= 1e-12 * weighted_sum(ops.abs(y), w)
        return ops.where(bisect, middle, newton), left, right, ops.where(bisect, -ops.ones_like(slope), slope), landed

    reach = ops.where(direction > 0, direction, ops.ones_like(direction))
    weighty = w > 0
    infinity = ops.zeros_like(dual) + np.inf
    left, right = -infinity, infinity
    if high is not None:  # at this dual every cell has reached its upper bound
        left = ops.min(ops.where(weighty, (z - high) / reach, np.inf + ops.zeros_like(z)), axis=-1)
    if low is not None:
        right = ops.max(ops.where(weighty, (z - low) / reach, -np.inf + ops.zeros_like(z)), axis=-1)
    # A group without weight has no law: its dual is zero.
    left = ops.where(size > 0, left, ops.zeros_like(dual))
    right = ops.where(size > 0, right, ops.zeros_like(dual))
    dual = ops.where(dual < left, left, ops.where(dual > right, right, dual))

    def unfinished(i: Any, dual: Any, left: Any, right: Any, before: Any, moving: Any) -> Any:
        return (i < MAX_PASSES) & ops.any(moving)

    def body(i: Any, dual: Any, left: Any, right: Any, before: Any, moving: Any) -> tuple[Any, ...]:
        # When the slope repeats and the sum is met, Newton has landed on the exact solution of its set of free cells.
        new, left, right, slope, landed = step(dual, left, right)
        moving = (new != dual) & ops.logical_not((slope == before) & landed)
        return i + 1, new, left, right, slope, moving

    start = (ops.zeros((), "int32"), dual, left, right, ops.zeros_like(dual) - 2, ops.ones_like(dual) > 0)
    _, dual, *_ = ops.while_loop(unfinished, body, start)
    y, free = _clip(z - dual[..., None] * direction, low, high)
    # Where z exceeds the total by far the dual has lost digits that y still has.
    slope = ops.sum(free * w * direction, axis=-1)
    rest = (weighted_sum(y, w) - total) / ops.where(slope > 0, slope, ops.ones_like(slope))
    y = _clip(y - free * rest[..., None] * direction, low, high)[0]
    # Where the total is out of reach nothing moves the field off its bounds.
    missed = ops.abs(weighted_sum(y, w) - total) > 1e-6 * (weighted_sum(ops.abs(y), w) + ops.abs(total))
    return y, ops.where(missed[..., None] & (w > 0), ops.zeros_like(free), free)
