"""Lorenz's model of 1996: a quantity on a circle of latitude that is carried, damped and forced.

    dx_i/dt = (x_{i+1} - x_{i-2}) x_{i-1} + nu (g_{i-1} - g_i) - lambda x_i + F,     i = 1 ... n, periodic,
    g_i = x_{i+1} x_{i-1} (x_{i+2} - x_{i-2}),

with time in units of five days. Lorenz's own model has lambda = 1 and nu = 0: its quadratic terms keep the energy
sum x_i^2 / 2, its flow shrinks volumes at the constant rate n, so that the Lyapunov exponents add up to -n, and with n = 40
and F = 8 thirteen of them are positive.

The cubic term is that of Bocquet, Brajard and Farchi's course on model error (ECMWF 2023), in the form that the course's
own code integrates; the formula printed there has g_i - g_{i+1}, which gives other statistics than the printed ones.
It keeps the sum of x_i.

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
from physml._errors import refuse
from physml.testbeds import _integrate
from physml.testbeds._arrays import namespace

__all__ = ["simulate", "tendency"]

FORCING = 8.0


def tendency(x: Any, forcing: Any = FORCING, *, friction: float = 1.0, cubic: float = 0.0) -> Any:
    """Return dx/dt of the one-scale model, the site being the axis -2.

    Parameters
    ----------
    x
        State ``[..., site, channel]``, a NumPy array or a tensor.
    forcing
        F, a number or anything that broadcasts against the state.
    friction
        lambda, rate of the linear damping.
    cubic
        nu, coefficient of the cubic term.

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
    slope = (ahead - behind2) * behind - (x if friction == 1.0 else friction * x) + forcing
    if not cubic:
        return slope
    flux = ahead * behind * (xp.roll(x, -2, axis=-2) - behind2)
    return slope + cubic * (xp.roll(flux, 1, axis=-2) - flux)


def simulate(
    n_steps: int,
    *,
    n: int = 40,
    dt: float = 0.05,
    forcing: float = FORCING,
    friction: float = 1.0,
    cubic: float = 0.0,
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
    forcing, friction, cubic
        F, lambda and nu, as in :func:`tendency`.
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
        refuse("n is too small: a site meets itself", "n >= 4", n, "pass n=40")
    x = _integrate.start(initial, np.full(n, float(forcing)), seed, members, 1.0)

    def slope(y: Any) -> Any:
        return tendency(y, forcing, friction=friction, cubic=cubic)

    x = _integrate.integrate(slope, x[..., None], dt, n_steps, every, spin_up)[..., 0]
    out = _integrate.labelled({"x": (("site",), x, "Lorenz-96 variable")}, dt, every)
    out = out.assign_coords(site=("site", np.arange(n), {"long_name": "site", "units": "1", "period": n}))
    out.attrs = {"forcing": float(forcing), "friction": float(friction), "cubic": float(cubic), "dt": float(dt)}
    return provenance.stamp(out, f"testbeds.lorenz96.simulate, {n_steps} steps of {dt}, seed {seed}")
