"""Lorenz 1996 seen at all sites at each step: the experiment on which most ensemble filters were compared.

n = 40, F = 8, Runge-Kutta steps of 0.05, observations of every site at every step with errors of variance 1.

References
----------
Sakov, P. and Oke, P. R. (2008), doi:10.1111/j.1600-0870.2007.00299.x. The numbers are those that DAPPER documents for its
own implementations (Raanes, P. N. et al. 2024, doi:10.21105/joss.05150), of the localised filter after Bocquet, M. (2011),
doi:10.5194/npg-18-735-2011. Over 1000 cycles they vary by 0.03 from seed to seed.

Examples
--------
>>> truth, observations, initial = twin(cycles=10, members=5)
>>> dict(observations.sizes), dict(initial.x.sizes)
({'time': 10, 'site': 40}, {'member': 5, 'site': 40})
"""

from __future__ import annotations

import numpy as np

from physml.testbeds import lorenz96
from physml.testbeds.setups._twin import Twin, build, check, draws

N, FORCING, DT, EVERY = 40, 8.0, 0.05, 1
ERROR_STD = 1.0
INITIAL_STD = np.sqrt(0.001)
CYCLES, BURN_IN = 1000, 400

RMSE = {
    "optimal interpolation": 0.95,
    "3D-Var, B = 0.02 of the climate's": 0.41,
    "extended Kalman filter, inflation 10": 0.24,
    "EnKF perturbed observations, 40 members, inflation 1.06": 0.22,
    "ETKF rotated, 24 members, inflation 1.013": 0.18,
    "EnKF-N, 24 members": 0.21,
    "EnKF-N, 24 members, prior for a known mean": 0.18,
    "LETKF, 7 members, inflation 1.04, radius 4": 0.22,
}


def twin(seed: int = 3000, cycles: int = CYCLES, members: int | None = 40, *, every: int = EVERY) -> Twin:
    """Return truth, observations and first members.

    Parameters
    ----------
    seed
        Seed of the random numbers.
    cycles
        Number of times with observations.
    members
        Number of first members; None gives their expectation, without the dimension.
    every
        Steps of 0.05 from one time with observations to the next.

    Raises
    ------
    ValueError
        Where a number is no count.
    """
    check(cycles, members)
    rng = draws(seed)
    rest = np.eye(N)[0]
    start = rest + INITIAL_STD * rng.truth.standard_normal(N)
    first = rest if members is None else rest + INITIAL_STD * rng.members.standard_normal((members, N))
    truth = lorenz96.simulate(
        cycles * every, n=N, dt=DT, forcing=FORCING, every=every, spin_up=0.0, initial=start, seed=seed
    )
    return build(truth, first, rng.errors, ERROR_STD)
