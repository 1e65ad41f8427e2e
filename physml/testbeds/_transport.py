"""Finite-volume transport of a tracer on a C-grid with closed coasts.

The transport of one step is split by directions in Strang's order (1968),

    X(h/2) Y(h) X(h) Y(h) ... Y(h) X(h/2),

each a one-dimensional sweep with piecewise linear reconstruction and van Leer's harmonic limiter (1974, 1977).

Conserving
    What leaves a cell through a face is the number that enters its neighbour; no face of a coast is open.
A constant stays constant
    A sweep alone is divergent, so cells swell and shrink from sweep to sweep (Easter 1993): content *and* volume
    are advanced with the same transports, and the tracer is their ratio. Non-divergent transports bring every
    volume back after each pair of sweeps.
Positive
    A tracer >= 0 stays >= 0 exactly, not to round-off. (1) Slopes obey |slope| <= 2 |tracer| exactly, by a clip,
    and doubling does not round; rounding is monotone, so a face value tracer +- k slope with k <= 1/2 is never
    negative, hence no inflow is. (2) Sub-steps keep the outflow of a sweep below C = 0.9 of the cell's volume, so
    at least (1 - C)^2 = 1 % of its content stays: 10^13 times the rounding of the update, which therefore cannot
    reach below zero. (3) Relative rounding errors are bounded only above 1e-308, so cells below 1e-290 use the
    donor-cell scheme, whose outflows rounded to whole units of 5e-324 never add up to more than the cell holds.
Second order
    in space and time where the tracer is smooth and monotone; the limiter falls back to first order in the
    cells of an extremum, and in cells that touch a coast for the component across it (which vanishes there).

References
----------
Strang, G. (1968), doi:10.1137/0705041. Van Leer, B. (1974), doi:10.1016/0021-9991(74)90019-9, and
(1977), doi:10.1016/0021-9991(77)90095-X. Easter, R. C. (1993), doi:10.1175/1520-0493(1993)121<0297:TMVOBP>2.0.CO;2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from physml._errors import refuse

Array = NDArray[np.float64]

# Largest part of a cell's volume that may leave it in one sweep: the positivity argument above rests on it.
MAX_OUTFLOW = 0.9
# Largest divergence that passes for rounding, relative to the largest transport: that of float32 storage.
MAX_DIVERGENCE = 1e-6
SUBNORMAL_GUARD = 1e-290


class _Sweep(NamedTuple):
    """What a one-dimensional sweep needs at the interior faces along *axis*, and in the cells."""

    axis: int
    forward: Array  # volume through the face towards larger index [m3], >= 0
    backward: Array  # volume through the face towards smaller index [m3], <= 0
    reach_forward: Array  # distance from the donor's centre to the mean of what leaves, in cells, 0 to 1/2
    reach_backward: Array
    before: Array  # cell volume before the sweep [m3]
    after: Array  # and after it


def _along(axis: int, start: int | None, stop: int | None) -> tuple:
    return (..., slice(start, stop), *[slice(None)] * (-1 - axis))


def _plan(transport: Array, dt: float, before: Array, after: Array, axis: int) -> _Sweep:
    swept = dt * transport[_along(axis, 1, -1)]
    forward, backward = np.maximum(swept, 0.0), np.minimum(swept, 0.0)
    left, right = before[_along(axis, None, -1)], before[_along(axis, 1, None)]
    return _Sweep(axis, forward, backward, 0.5 - 0.5 * forward / left, 0.5 + 0.5 * backward / right, before, after)


def _sweep(c: Array, plan: _Sweep, interior: NDArray[np.bool_] | None) -> Array:
    """Carry *c* along one axis; *interior* is True at faces between two sea cells."""
    left, right = _along(plan.axis, None, -1), _along(plan.axis, 1, None)
    inner = _along(plan.axis, 1, -1)
    faces = list(c.shape)
    faces[plan.axis] += 1

    jump = np.zeros(faces)
    np.subtract(c[right], c[left], out=jump[inner])
    if interior is not None:
        jump[inner] *= interior
    # The harmonic mean 2 a b / (a + b) of the two jumps where they agree in sign, else 0, without a branch.
    both = jump[left] + jump[right]
    slope = 2.0 * np.maximum(jump[left] * jump[right], 0.0) * both / (both * both + 1e-300)
    limit = 2.0 * np.maximum(np.abs(c) - SUBNORMAL_GUARD, 0.0)
    np.clip(slope, -limit, limit, out=slope)

    flux = np.zeros(faces)
    flux[inner] = plan.forward * (c[left] + plan.reach_forward * slope[left])
    flux[inner] += plan.backward * (c[right] - plan.reach_backward * slope[right])
    return (c * plan.before - (flux[right] - flux[left])) / plan.after


def transports(psi: ArrayLike) -> tuple[Array, Array]:
    """Return the face transports of a corner streamfunction: differences, hence without divergence.

    The streamfunction is first rounded to a multiple of a power of two, 2^-22 of its largest value or finer. Its
    differences are then exact, even in float32: the net transport out of every cell is not small but zero, and so
    is the transport across a coast where psi is zero, or constant, to round-off.

    Parameters
    ----------
    psi
        Streamfunction at the cells' corners [m3 s-1], ``[..., y + 1, x + 1]``.

    Returns
    -------
    transport_x, transport_y
        Transports towards larger index [m3 s-1], ``[..., y, x + 1]`` and ``[..., y + 1, x]``.

    Examples
    --------
    >>> tx, ty = transports([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    >>> tx.tolist()
    [[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]]
    """
    corners = np.asarray(psi, np.float64)
    largest = np.abs(corners).max(axis=(-2, -1), keepdims=True)
    quantum = np.ldexp(1.0, np.maximum(np.frexp(largest)[1] - 23, -1000))  # not below what a float64 can divide by
    corners = np.round(corners / quantum) * quantum
    return corners[..., :-1, :] - corners[..., 1:, :], corners[..., 1:] - corners[..., :-1]


def outflow_rate(transport_x: ArrayLike, transport_y: ArrayLike, volume: ArrayLike) -> float:
    """Return the largest part of a cell's volume that leaves it in a sweep, per unit of time [s-1].

    A sub-step h is stable and positive when ``h * outflow_rate(...) <= MAX_OUTFLOW``. The sweeps start from volumes
    V +- h/2 div_x, hence the term in div_x.
    """
    tx, ty, v = (np.asarray(a, np.float64) for a in (transport_x, transport_y, volume))
    out_x = np.maximum(tx[..., 1:], 0.0) - np.minimum(tx[..., :-1], 0.0)
    out_y = np.maximum(ty[..., 1:, :], 0.0) - np.minimum(ty[..., :-1, :], 0.0)
    swelling = 0.5 * MAX_OUTFLOW * np.abs(np.diff(tx, axis=-1))
    return float(np.max((np.maximum(out_x, out_y) + swelling) / v))


def advance(
    tracer: ArrayLike,
    transport_x: ArrayLike,
    transport_y: ArrayLike,
    volume: ArrayLike,
    dt: float,
    source: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    substeps: int | None = None,
) -> NDArray[np.floating]:
    """Carry a tracer over one output step with given, non-divergent face transports.

    Conserves the sum of tracer x volume to round-off, keeps a tracer >= 0 exactly >= 0 and a constant constant; second
    order in smooth regions (see the module's text for the scheme). Any number of leading dimensions, such as runs.

    Parameters
    ----------
    tracer
        Concentration [kg m-3], ``[..., y, x]``. Negative values are carried too.
    transport_x, transport_y
        Volume transports towards larger index [m3 s-1], ``[..., y, x + 1]`` and ``[..., y + 1, x]``, means over
        the step: zero on the outer faces and on those of land, non-divergent in every cell.
    volume
        Cell volumes [m3], ``[y, x]``, positive (also on land).
    dt
        Length of the step [s].
    source
        Source [kg m-3 s-1], broadcastable to *tracer*: half of it enters before the transport, half after. A tracer
        stays positive for certain when *source* >= 0.
    mask
        ``[y, x]``, True = sea. Values on land are ignored and come back as they came. Default: all sea.
    substeps
        Number of sub-steps. Default: the smallest stable and positive one for these transports.

    Returns
    -------
    ndarray
        Concentration after the step [kg m-3], in the shape and floating dtype of *tracer* (computed in float64).

    Raises
    ------
    ValueError
        If shapes disagree, *dt* or a volume is not positive, a value is not finite, transports cross a coast or
        are divergent, or *substeps* are too few.

    Examples
    --------
    One step of a uniform tracer in one vortex of a closed box:

    >>> psi = np.zeros((4, 5))
    >>> psi[1:-1, 1:-1] = 1.0
    >>> tx, ty = -np.diff(psi, axis=0), np.diff(psi, axis=1)
    >>> advance(np.full((3, 4), 2.0), tx, ty, np.ones((3, 4)), dt=3.0).round(12).max()
    np.float64(2.0)
    """
    given = np.asarray(tracer)
    tx, ty, v = (np.asarray(a, np.float64) for a in (transport_x, transport_y, volume))
    wet = None if mask is None else np.asarray(mask, bool)
    _check_shapes(given, tx, ty, v, wet)
    _check_transports(tx, ty, wet)
    if not (np.isfinite(dt) and dt > 0):
        refuse("dt is not positive", "> 0 s", dt, "pass the length of the step [s]")
    if not (v > 0).all():
        bad = f"{int((~(v > 0)).sum())} cells at or below zero, or missing"
        refuse("volume is not positive", "> 0 m3 in every cell", bad, "give land its geometric volume and pass mask=")

    c = given.astype(np.float64) if wet is None else np.where(wet, given, 0.0)
    _check_finite("tracer", c)
    half_source = None
    if source is not None:
        half_source = 0.5 * dt * np.asarray(source, np.float64)
        if wet is not None:
            half_source = np.where(wet, half_source, 0.0)
        _check_finite("source", half_source)

    needed = max(1, math.ceil(dt * outflow_rate(tx, ty, v) / MAX_OUTFLOW))
    if substeps is None:
        substeps = needed
    elif substeps < needed:
        remedy = f"pass substeps={needed}, or None to let it be chosen"
        refuse("substeps are too few for these transports", f">= {needed}", substeps, remedy)

    h = dt / substeps
    swelling = 0.5 * h * np.diff(tx, axis=-1)
    shrunk, swollen = v - swelling, v + swelling
    first = _plan(tx, 0.5 * h, v, shrunk, axis=-1)
    across = _plan(ty, h, shrunk, swollen, axis=-2)
    along = _plan(tx, h, swollen, shrunk, axis=-1)
    last = _plan(tx, 0.5 * h, swollen, v, axis=-1)
    inner_x = None if wet is None else wet[:, 1:] & wet[:, :-1]
    inner_y = None if wet is None else wet[1:, :] & wet[:-1, :]

    if half_source is not None:
        c = c + half_source
    c = _sweep(c, first, inner_x)
    for k in range(substeps):
        c = _sweep(c, across, inner_y)
        c = _sweep(c, along if k < substeps - 1 else last, inner_x)
    if half_source is not None:
        c = c + half_source
    if wet is not None:
        c = np.where(wet, c, given)
    return c.astype(given.dtype if np.issubdtype(given.dtype, np.floating) else np.float64, copy=False)


def _check_shapes(c: NDArray, tx: Array, ty: Array, v: Array, wet: NDArray[np.bool_] | None) -> None:
    if c.ndim < 2:
        refuse("tracer has too few dimensions", "[..., y, x]", c.shape, "pass a field")
    ny, nx = c.shape[-2:]
    wanted: list[tuple[str, NDArray | None, tuple[int, int]]] = [
        ("transport_x", tx, (ny, nx + 1)),
        ("transport_y", ty, (ny + 1, nx)),
        ("volume", v, (ny, nx)),
        ("mask", wet, (ny, nx)),
    ]
    remedy = "transport_x has one face more along x, transport_y along y; volume and mask are as large as the tracer"
    for name, array, (rows, columns) in wanted:
        if array is not None and array.shape[-2:] != (rows, columns):
            what = f"{name} does not fit a tracer of shape {c.shape}"
            refuse(what, f"[..., {rows}, {columns}]", array.shape, remedy)


def _check_transports(tx: Array, ty: Array, wet: NDArray[np.bool_] | None) -> None:
    _check_finite("transport_x", tx)
    _check_finite("transport_y", ty)
    coast = [tx[..., 0], tx[..., -1], ty[..., 0, :], ty[..., -1, :]]
    if wet is not None:
        coast += [tx[..., 1:-1][..., ~(wet[:, 1:] & wet[:, :-1])], ty[..., 1:-1, :][..., ~(wet[1:] & wet[:-1])]]
    leak = max(np.abs(faces).max(initial=0.0) for faces in coast)
    if leak != 0:
        refuse(
            "transport crosses a coast",
            "0 m3 s-1 on the outer faces and on the faces of land",
            f"up to {leak:.3g} m3 s-1",
            "take differences of a corner streamfunction that is constant on every coast",
        )
    largest = max(np.abs(tx).max(), np.abs(ty).max())
    divergence = np.abs(np.diff(tx, axis=-1) + np.diff(ty, axis=-2)).max()
    if divergence > MAX_DIVERGENCE * largest:
        refuse(
            "transports are divergent",
            f"a net outflow of every cell below {MAX_DIVERGENCE:g} of the largest transport",
            f"{divergence / largest:.3g}",
            "take differences of a corner streamfunction",
        )


def _check_finite(name: str, values: NDArray) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        missing = f"{int((~finite).sum())} missing or infinite"
        refuse(f"{name} is not finite", "a number everywhere at sea", missing, "fill it, or pass mask= (True = sea)")
