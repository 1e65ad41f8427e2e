"""Lorenz's model of 1996: a quantity on a circle of latitude that is carried, damped and forced.

    dx_i/dt = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F - nu x_i^3,     i = 1 ... n, periodic,

with time in units of five days, in which damping takes e-folding time 1. The quadratic terms keep the energy
sum x_i^2 / 2, the divergence of the flow is -n (1 + 3 nu mean x^2), so that without the cubic term the Lyapunov exponents add
up to -n, and with n = 40, F = 8 thirteen of them are positive. The cubic damping nu is not Lorenz's; it is 0 unless
given, as is the factor *advection*, 1, of the quadratic terms.

References
----------
Lorenz, E. N. (1996), Predictability: a problem partly solved, ECMWF Seminar on Predictability I, 1-18, reprinted in
doi:10.1017/CBO9780511617652.004. Lorenz, E. N. and Emanuel, K. A. (1998),
doi:10.1175/1520-0469(1998)055<0399:OSFSWO>2.0.CO;2.

Examples
--------
>>> ds = simulate(20, n=40, seed=1)
>>> dict(ds.x.sizes)
{'time': 21, 'site': 40}
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from physml import provenance
from physml.testbeds import _integrate
from physml.testbeds._arrays import namespace

__all__ = ["simulate", "tendency"]

FORCING = 8.0


def tendency(x: Any, forcing: Any = FORCING, *, cubic: float = 0.0, advection: float = 1.0) -> Any:
    """Return dx/dt of the one-scale model, the site being the axis -2.

    Parameters
    ----------
    x
        State ``[..., site, channel]``, a NumPy array or a tensor.
    forcing
        F, a number or anything that broadcasts against the state.
    cubic
        nu, coefficient of the cubic damping -nu x^3.
    advection
        Factor of the quadratic terms.

    Returns
    -------
    array or tensor
        dx/dt [model time-1], as *x*.

    Examples
    --------
    >>> tendency(np.array([[1.0], [2.0], [3.0], [4.0]]))[:, 0]
    array([ 3.,  5., 11.,  1.])
    """
    xp = namespace(x)
    ahead, behind, behind2 = xp.roll(x, -1, axis=-2), xp.roll(x, 1, axis=-2), xp.roll(x, 2, axis=-2)
    carried = (ahead - behind2) * behind
    slope = (carried if advection == 1.0 else advection * carried) - x + forcing
    return slope - cubic * (x * x * x) if cubic else slope


def simulate(
    n_steps: int,
    *,
    n: int = 40,
    dt: float = 0.05,
    forcing: float = FORCING,
    cubic: float = 0.0,
    advection: float = 1.0,
    every: int = 1,
    spin_up: float = 20.0,
    members: int | None = None,
    seed: int = 0,
    initial: ArrayLike | None = None,
) -> xr.Dataset:
    """Return a trajectory of the one-scale model by the classical Runge-Kutta scheme, after a spin-up.

    Parameters
    ----------
    n_steps
        Number of steps of length *dt*.
    n
        Number of sites.
    dt
        Length of a step, in model time units (5 days).
    forcing, cubic, advection
        F, nu and the factor of the quadratic terms, as in :func:`tendency`.
    every
        Steps between two states that are kept.
    spin_up
        Time before the first state kept, which lets the start be forgotten.
    members
        Number of trajectories, each with its own initial noise; None makes one, without the dimension.
    seed
        Seed of that noise, of standard deviation 1 about F.
    initial
        First state before the spin-up instead, ``[n]`` or ``[members, n]``; a single one for several members gets the noise.

    Returns
    -------
    xr.Dataset
        ``x`` on (member, time, site), ``time`` in model time units from 0 after the spin-up.

    Raises
    ------
    ValueError
        If an argument is out of range, or the model blows up; the message names it.
    """
    if n < 4:
        _integrate.fail("n is too small: a site meets itself", "n >= 4", n, "pass n=40")
    x = _integrate.start(initial, np.full(n, float(forcing)), seed, members, 1.0)

    def slope(y: Any) -> Any:
        return tendency(y, forcing, cubic=cubic, advection=advection)

    x = _integrate.integrate(slope, x[..., None], dt, n_steps, every, spin_up)[..., 0]
    attrs = {"long_name": "Lorenz-96 variable", "units": "1"}
    values = x if x.ndim == 2 else np.moveaxis(x, 0, 1)
    dims = ("time", "site") if x.ndim == 2 else ("member", "time", "site")
    out = xr.Dataset(
        {"x": (dims, values, attrs)},
        {
            "time": _integrate.times(n_steps, dt, every),
            "site": ("site", np.arange(n), {"long_name": "site", "units": "1", "period": n}),
        },
        {
            "forcing": float(forcing),
            "cubic": float(cubic),
            "advection": float(advection),
            "dt": float(dt),
            "seed": int(seed),
        },
    )
    return provenance.stamp(out, f"testbeds.lorenz96.simulate, {n_steps} steps of {dt}")
