"""Lyapunov exponents of any time step: how fast small errors grow along the orbit, direction by direction.

A frame of k directions is carried by the tangent linear of the step and made orthonormal again by a QR factorisation every
few steps; the exponents are the mean logarithms of diag R per unit of time (Benettin et al. 1980). The tangent linear is
exact, by forward differentiation, so that a trained network has a spectrum as well as the model that it stands for.

References
----------
Benettin, G., Galgani, L., Giorgilli, A. and Strelcyn, J.-M. (1980), doi:10.1007/BF02128236 and doi:10.1007/BF02128237.
Kaplan, J. L. and Yorke, J. A. (1979), doi:10.1007/BFb0064319.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from keras import ops
from numpy.typing import ArrayLike

from physml import _backend
from physml._errors import refuse
from physml.assimilation.steps import evaluate
from physml.provenance import stamp

BLOCKS = 50
"""Number of times at which the estimate so far is told, and of the blocks that its standard error is from."""


def lyapunov_spectrum(
    step: Callable[..., Any],
    initial: Any,
    n_steps: int,
    *,
    dt: float | None = None,
    exponents: int | None = None,
    every: int = 4,
    spin_up: int = 400,
    seed: int = 0,
    units: str = "1",
) -> xr.Dataset:
    """Return the leading Lyapunov exponents of a time step, with their standard errors.

    Parameters
    ----------
    step
        Any time step, ``step(state) -> state`` on ``[batch, *space, channel]``: a scheme, a network, a FieldModel.
    initial
        First states, ``[batch, *space, channel]``, or a DataArray on (*space), or on (member, *space). Several orbits are
        carried at once, each with its own frame, and their exponents are averaged; four to sixteen use the processor best.
    n_steps
        Number of steps on each orbit, after those of the spin-up.
    dt
        Length of a step, by default ``step.dt``.
    exponents
        Number of exponents, largest first; by default all, one for each element of the state.
    every
        Steps from one QR factorisation to the next. The frame keeps n digits fewer of its sixteen if the largest exponent
        exceeds the smallest by n log(10) / (every dt).
    spin_up
        Steps before the first that counts, in which the frame turns into the directions of growth.
    seed
        Seed of the first frame.
    units
        Units of *dt*: "1" for model time, "s" or "d" for a clock.

    Returns
    -------
    Dataset
        ``exponent`` and ``stderr`` on (index), per unit of time; ``running``, the estimate so far, on (elapsed, index);
        and where all exponents are asked for, or enough of them, ``kaplan_yorke`` and ``entropy`` (sum of the positive ones).

    Raises
    ------
    ValueError
        Where a number does not fit, or the orbit leaves for infinity; the message says which.

    Examples
    --------
    The map x -> x / 2 in two dimensions has two exponents of -log 2:

    >>> spectrum = lyapunov_spectrum(lambda x: 0.5 * x, np.ones((1, 2, 1)), 8, dt=1.0, spin_up=0)
    >>> spectrum.exponent.values.round(4).tolist()
    [-0.6931, -0.6931]
    """
    dt = getattr(step, "dt", None) if dt is None else dt
    if dt is None or not dt > 0:
        refuse("the length of the step is not known", "dt > 0", dt, "pass dt=, in the units of time of the exponents")
    x = _states(initial)
    runs, size = len(x), int(np.prod(x.shape[1:]))
    k = size if exponents is None else exponents
    if not 1 <= k <= size:
        refuse("the number of exponents does not fit the state", f"1 to {size}", k, "pass exponents=None for all")
    if every < 1 or n_steps < every or spin_up < 0:
        refuse("the numbers of steps do not fit", "1 <= every <= n_steps", (every, n_steps), "pass more steps")

    frame = np.linalg.qr(np.random.default_rng(seed).standard_normal((runs, size, k)))[0]
    calls, warm = n_steps // every, -(-spin_up // every)
    growth = np.zeros((calls, runs, k))
    with _backend.float64():
        carry = _carrier(step, x.shape, k, every)
        for call in range(-warm, calls):
            x, grown = (np.asarray(a) for a in carry(ops.convert_to_tensor(x), ops.convert_to_tensor(frame)))
            if not np.isfinite(grown).all():
                where = f"after {(call + warm + 1) * every} steps"
                refuse("the orbit or its tangent left for infinity", "finite states", where, "check the step, its dt")
            frame, stretched = np.linalg.qr(grown)
            if call >= 0:
                # An exactly singular tangent has an exponent of minus infinity.
                with np.errstate(divide="ignore"):
                    growth[call] = np.log(np.abs(np.diagonal(stretched, axis1=-2, axis2=-1)))
    return _label(growth / (every * dt), every * dt, size, units, step)


def kaplan_yorke(exponents: ArrayLike) -> float:
    """Return the dimension of the attractor that a full spectrum implies: j + (sum of the j largest) / |next|.

    j is the largest number of exponents, from the largest on, whose sum is not negative. NaN where the given exponents all
    together still have a positive sum: too few of them are known.

    Examples
    --------
    >>> kaplan_yorke([0.5, 0.0, -1.0])
    2.5
    """
    ordered = np.sort(np.asarray(exponents, np.float64))[::-1]
    sums = np.cumsum(ordered)
    inside = int((sums >= 0).sum())  # they come first: the sums rise, then fall
    if inside == 0:
        return 0.0
    if inside == len(ordered):
        return float("nan")
    return float(inside + sums[inside - 1] / abs(ordered[inside]))


def _states(initial: Any) -> np.ndarray:
    """Return first states ``[batch, *space, channel]`` in float64."""
    if isinstance(initial, xr.DataArray):
        member = [d for d in initial.dims if d == "member"]
        ordered = initial.transpose(*member, ...)
        values = np.asarray(ordered.values, np.float64)
        return values[..., None] if member else values[None, ..., None]
    values = np.asarray(initial, np.float64)
    if values.ndim < 2:
        refuse("the state has too few dimensions", "[batch, *space, channel]", list(values.shape), "add them")
    return values


def _carrier(step: Callable[..., Any], shape: tuple[int, ...], k: int, every: int) -> Callable[..., Any]:
    """Return a compiled function that takes states ``[run, ...]`` and frames ``[run, n, k]`` *every* steps further."""
    runs, *inner = shape
    size = int(np.prod(inner))

    def one(x: Any) -> Any:
        return ops.cast(evaluate(step, x), "float64")

    def carry(x: Any, frame: Any) -> tuple[Any, Any]:
        # One state for each direction: a single forward pass differentiates along all of them. A loop, for XLA would fuse
        # several steps into one kernel that computes the first again for each neighbour.
        states = ops.repeat(x, k, axis=0)
        directions = ops.reshape(ops.transpose(frame, (0, 2, 1)), (runs * k, *inner))
        ahead, grown = ops.fori_loop(0, every, lambda _, at: _backend.jvp(one, *at), (states, directions))
        ahead = ops.reshape(ahead, (runs, k, *inner))[:, 0]
        return ahead, ops.transpose(ops.reshape(grown, (runs, k, size)), (0, 2, 1))

    return _backend.traced(carry, fused=True)


def _label(rate: np.ndarray, interval: float, size: int, units: str, step: Any) -> xr.Dataset:
    """Return the Dataset of growth rates ``[call, run, index]``."""
    calls, runs, k = rate.shape
    per_time = "1" if units == "1" else f"{units}-1"
    mean = rate.mean((0, 1))
    blocks = np.array_split(rate, min(BLOCKS, calls))
    means = np.concatenate([b.mean(0) for b in blocks])
    ends = np.cumsum([len(b) for b in blocks])
    running = np.cumsum([b.sum((0, 1)) for b in blocks], axis=0) / (ends[:, None] * runs)
    stderr = means.std(0, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.full(k, np.nan)
    elapsed = {"long_name": "length of each orbit", "units": units}
    out = xr.Dataset(
        {
            "exponent": ("index", mean, {"long_name": "Lyapunov exponent", "units": per_time}),
            "stderr": ("index", stderr, {"long_name": "standard error of the exponent", "units": per_time}),
            "running": (
                ("elapsed", "index"),
                running,
                {"long_name": "Lyapunov exponent so far", "units": per_time},
            ),
        },
        {
            "index": ("index", np.arange(1, k + 1), {"long_name": "index", "units": "1"}),
            "elapsed": ("elapsed", ends * interval, elapsed),
        },
        {"orbits": runs, "time_on_each_orbit": calls * interval},
    )
    if mean.sum() < 0 or k == size:
        out["kaplan_yorke"] = ((), kaplan_yorke(mean), {"long_name": "Kaplan-Yorke dimension", "units": "1"})
        what = {"long_name": "sum of the positive exponents", "units": per_time}
        out["entropy"] = ((), float(mean[mean > 0].sum()), what)
    return stamp(out, f"lyapunov_spectrum of {getattr(step, 'name', None) or type(step).__name__}")
