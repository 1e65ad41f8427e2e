"""Lorenz 1963 with all three components seen every 25 steps, 0.25: so rarely that errors grow nonlinear.

Runge-Kutta steps of 0.01, observation errors of variance 2.

References
----------
Sakov, P., Oliver, D. S. and Bertino, L. (2012), doi:10.1175/MWR-D-11-00176.1, table 1. The numbers are those that DAPPER
documents for its own implementations (Raanes, P. N. et al. 2024, doi:10.21105/joss.05150).

Examples
--------
>>> truth, observations, initial = twin(cycles=10, members=5)
>>> dict(observations.sizes), round(observations.attrs["error_std"] ** 2, 9)
({'time': 10, 'component': 3}, 2.0)
"""

from __future__ import annotations

import numpy as np

from physml.testbeds import lorenz63
from physml.testbeds.setups._twin import Twin, build, check, draws

DT, EVERY = 0.01, 25
ERROR_STD = np.sqrt(2.0)
INITIAL_STD = np.sqrt(2.0)
CYCLES, BURN_IN = 1000, 64

RMSE = {
    "optimal interpolation": 1.25,
    "3D-Var, B = 0.1 of the climate's": 1.04,
    "extended Kalman filter, inflation 180": 0.92,
    "ETKF rotated, 10 members, inflation 1.02": 0.60,
    "EnKF perturbed observations, 10 members, inflation 1.04": 0.65,
    "EnKF perturbed observations, 100 members, inflation 1.01": 0.56,
    "EnKF-N, 3 members": 0.60,
    "EnKF-N rotated, 10 members": 0.54,
}


def twin(seed: int = 3000, cycles: int = CYCLES, members: int | None = 10) -> Twin:
    """Return truth, observations and first members.

    Parameters
    ----------
    seed
        Seed of the random numbers.
    cycles
        Number of times with observations.
    members
        Number of first members; None gives their expectation, without the dimension.

    Raises
    ------
    ValueError
        Where a number is no count.
    """
    check(cycles, members)
    rng = draws(seed)
    rest = lorenz63.START
    start = rest + INITIAL_STD * rng.truth.standard_normal(3)
    first = rest if members is None else rest + INITIAL_STD * rng.members.standard_normal((members, 3))
    truth = lorenz63.simulate(cycles * EVERY, dt=DT, every=EVERY, initial=start, seed=seed)
    return build(truth, first, rng.errors, ERROR_STD)
