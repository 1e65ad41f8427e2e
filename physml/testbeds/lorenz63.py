"""Lorenz's model of 1963: convection between two plates, cut down to three numbers.

    dx/dt = sigma (y - x),     dy/dt = x (rho - z) - y,     dz/dt = x y - beta z,

with x the strength of the overturning, y and z the departures of temperature that it brings about. Volumes in phase space
shrink at the constant rate sigma + 1 + beta, so that the Lyapunov exponents add up to minus that number; with sigma = 10,
rho = 28 and beta = 8/3 the largest is 0.906.

References
----------
Lorenz, E. N. (1963), doi:10.1175/1520-0469(1963)020<0130:DNF>2.0.CO;2.

Examples
--------
>>> ds = simulate(100, every=10)
>>> dict(ds.x.sizes)
{'time': 11, 'component': 3}
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

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0
START = np.array([1.509, -1.531, 25.46])  # on the attractor


def tendency(state: Any, *, sigma: float = SIGMA, rho: Any = RHO, beta: float = BETA) -> Any:
    """Return the rates of change of x, y and z, the component being the axis -2.

    Parameters
    ----------
    state
        ``[..., component, channel]``, a NumPy array or a tensor.
    sigma, rho, beta
        Prandtl number, reduced Rayleigh number, and aspect of the cells. *rho* may broadcast against one component.

    Returns
    -------
    array or tensor
        Rates [model time-1], as *state*.

    Examples
    --------
    >>> tendency(np.array([[1.0], [2.0], [3.0]]))[:, 0]
    array([10., 23., -6.])
    """
    x, y, z = state[..., 0:1, :], state[..., 1:2, :], state[..., 2:3, :]
    return namespace(state).concatenate([sigma * (y - x), x * (rho - z) - y, x * y - beta * z], axis=-2)


def simulate(
    n_steps: int,
    *,
    dt: float = 0.01,
    sigma: float = SIGMA,
    rho: float = RHO,
    beta: float = BETA,
    every: int = 1,
    spin_up: float = 0.0,
    members: int | None = None,
    seed: int = 0,
    initial: ArrayLike | None = None,
) -> xr.Dataset:
    """Return a trajectory by the classical Runge-Kutta scheme.

    Parameters
    ----------
    n_steps
        Number of steps of length *dt*.
    dt
        Length of a step, in model time units.
    sigma, rho, beta
        As in :func:`tendency`.
    every
        Steps between two states that are kept.
    spin_up
        Time before the first state kept.
    members
        Number of trajectories, each with its own initial noise; None makes one, without the dimension.
    seed
        Seed of that noise, of standard deviation sqrt(2) about a point on the attractor.
    initial
        First state before the spin-up instead, ``[3]`` or ``[members, 3]``; a single one for several members gets the noise.

    Returns
    -------
    xr.Dataset
        ``x`` on (member, time, component), ``time`` in model time units from 0 after the spin-up.

    Raises
    ------
    ValueError
        If an argument is out of range, or the model blows up; the message names it.
    """
    x = _integrate.start(initial, START, seed, members, np.sqrt(2.0))

    def slope(y: Any) -> Any:
        return tendency(y, sigma=sigma, rho=rho, beta=beta)

    x = _integrate.integrate(slope, x[..., None], dt, n_steps, every, spin_up)[..., 0]
    out = _integrate.labelled({"x": (("component",), x, "Lorenz-63 variable")}, dt, every)
    out = out.assign_coords(component=("component", ["x", "y", "z"], {"long_name": "component of the state"}))
    out.attrs = {"sigma": float(sigma), "rho": float(rho), "beta": float(beta), "dt": float(dt)}
    return provenance.stamp(out, f"testbeds.lorenz63.simulate, {n_steps} steps of {dt}, seed {seed}")
