"""Lorenz's model of 1996 with two scales: J fast variables at each of K slow ones.

    dX_k/dt     = (X_{k+1} - X_{k-2}) X_{k-1} - X_k + F - (h c / b) sum_j Y_{j,k},
    dY_{j,k}/dt = c b (Y_{j-1,k} - Y_{j+2,k}) Y_{j+1,k} - c Y_{j,k} + (h c / b) X_k,

where the Y follow each other round the whole circle, Y_{J+1,k} being Y_{1,k+1}. The fast variables fluctuate c times as
fast and with 1/b of the amplitude. Products and coupling together keep the energy sum X^2 / 2 + sum Y^2 / 2.

In arrays the slow variable is channel 0 of a site and its fast ones are the channels 1 to J.

References
----------
Lorenz, E. N. (1996), Predictability: a problem partly solved, ECMWF Seminar on Predictability I, 1-18, reprinted in
doi:10.1017/CBO9780511617652.004.

Examples
--------
>>> ds = simulate(20, spin_up=0.1)
>>> dict(ds.x.sizes), dict(ds.y.sizes)
({'time': 21, 'site': 36}, {'time': 21, 'site': 36, 'fast': 10})
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from physml import provenance
from physml._errors import refuse
from physml.testbeds import _integrate, lorenz96
from physml.testbeds._arrays import namespace

__all__ = ["simulate", "tendency"]

FORCING, COUPLING, SPEED, RATIO = 10.0, 1.0, 10.0, 10.0


def tendency(state: Any, forcing: Any = FORCING, *, h: float = COUPLING, c: float = SPEED, b: float = RATIO) -> Any:
    """Return the rates of change of both scales, the site being the axis -2 and the scale the axis -1.

    Parameters
    ----------
    state
        ``[..., site, 1 + J]``, a NumPy array or a tensor; X in channel 0.
    forcing
        F, a number or anything that broadcasts against X.
    h, c, b
        Strength of the coupling, ratio of the rates, ratio of the amplitudes.

    Returns
    -------
    array or tensor
        Rates [model time-1], as *state*.
    """
    xp = namespace(state)
    slow, fast = state[..., :1], state[..., 1:]
    sites, per_site = fast.shape[-2], fast.shape[-1]
    ring = xp.reshape(fast, (*xp.shape(state)[:-2], sites * per_site, 1))
    carried = (xp.roll(ring, 1, axis=-2) - xp.roll(ring, -2, axis=-2)) * xp.roll(ring, -1, axis=-2)
    coupling = h * c / b
    d_slow = lorenz96.tendency(slow, forcing) - coupling * xp.sum(fast, axis=-1, keepdims=True)
    d_fast = xp.reshape(c * b * carried, xp.shape(fast)) - c * fast + coupling * slow
    return xp.concatenate([d_slow, d_fast], axis=-1)


def simulate(
    n_steps: int,
    *,
    n: int = 36,
    n_fast: int = 10,
    dt: float = 0.005,
    forcing: float = FORCING,
    h: float = COUPLING,
    c: float = SPEED,
    b: float = RATIO,
    every: int = 1,
    spin_up: float = 10.0,
    members: int | None = None,
    seed: int = 0,
    initial: ArrayLike | None = None,
) -> xr.Dataset:
    """Return a trajectory of both scales by the classical Runge-Kutta scheme, after a spin-up.

    Parameters
    ----------
    n_steps
        Number of steps of length *dt*.
    n, n_fast
        K, number of sites, and J, number of fast variables at each.
    dt
        Length of a step, in model time units (5 days).
    forcing, h, c, b
        As in :func:`tendency`.
    every
        Steps between two states that are kept.
    spin_up
        Time before the first state kept, which lets the start be forgotten.
    members
        Number of trajectories, each with its own initial noise; None makes one, without the dimension.
    seed
        Seed of that noise, of standard deviation 1 in X about F and 0.1 in Y about 0.
    initial
        First state before the spin-up instead, ``[n, 1 + n_fast]`` or ``[members, n, 1 + n_fast]``.

    Returns
    -------
    xr.Dataset
        ``x`` on (member, time, site) and ``y`` on (member, time, site, fast), ``time`` in model time units.

    Raises
    ------
    ValueError
        If an argument is out of range, or the model blows up; the message names it.
    """
    if n < 4 or n * n_fast < 4:
        refuse("n is too small: a site meets itself", "n >= 4, n_fast >= 1", (n, n_fast), "pass n=36")
    rest = np.zeros((n, 1 + n_fast))
    rest[:, 0] = forcing
    std = np.where(np.arange(1 + n_fast) == 0, 1.0, 0.1)
    if initial is not None:
        initial = np.asarray(initial, np.float64)
        initial = initial.reshape(*initial.shape[:-2], -1)
    x = _integrate.start(initial, rest.ravel(), seed, members, np.tile(std, n))

    def slope(y: Any) -> Any:
        return tendency(y, forcing, h=h, c=c, b=b)

    x = _integrate.integrate(slope, x.reshape(*x.shape[:-1], n, 1 + n_fast), dt, n_steps, every, spin_up)
    fields = {
        "x": (("site",), x[..., 0], "slow Lorenz-96 variable"),
        "y": (("site", "fast"), x[..., 1:], "fast Lorenz-96 variable"),
    }
    out = _integrate.labelled(fields, dt, every).assign_coords(
        site=("site", np.arange(n), {"long_name": "site", "units": "1", "period": n}),
        fast=("fast", np.arange(n_fast), {"long_name": "fast variable of a site", "units": "1"}),
    )
    out.attrs = {"forcing": float(forcing), "h": float(h), "c": float(c), "b": float(b), "dt": float(dt)}
    return provenance.stamp(out, f"testbeds.lorenz96_two_scale.simulate, {n_steps} steps of {dt}, seed {seed}")
