"""A truth with a cubic term, seen at every other site, and Lorenz 1996 as its imperfect model: the error is to be learned.

Truth: F = 8.5, lambda = 1.01, nu = 0.025 (:mod:`physml.testbeds.lorenz96`); model: F = 8, lambda = 1, nu = 0. Even sites
are seen at one step and odd sites at the next, with errors of standard deviation 0.2. The course's filter is an ETKF of 40
members with adaptive inflation and a model error of variance 0.3 x 0.05 added at each step.

References
----------
Bocquet, M., Brajard, J. and Farchi, A. (2023), data assimilation, machine learning and dynamical systems, part of the
ECMWF course on machine learning in weather and climate. Farchi, A., Laloyaux, P., Bonavita, M. and Bocquet, M. (2021),
doi:10.1002/qj.4116.

Examples
--------
>>> observations = twin(cycles=2).observations
>>> observations.notnull().values[:, :4].astype(int).tolist()
[[0, 1, 0, 1], [1, 0, 1, 0]]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from physml.testbeds import lorenz96
from physml.testbeds.setups._twin import Twin, build, check, draws

N, DT, EVERY = 40, 0.05, 1
TRUTH: dict[str, Any] = {"forcing": 8.5, "friction": 1.01, "cubic": 0.025}
MODEL: dict[str, Any] = {"forcing": 8.0, "friction": 1.0, "cubic": 0.0}
ERROR_STD, MODEL_ERROR_VARIANCE = 0.2, 0.3 * DT
MEMBERS, CYCLES, BURN_IN = 40, 5000, 1000

RMSE = {"ETKF, 40 members, adaptive inflation": 0.199, "cubic interpolation": 2.71}
SPREAD = {"ETKF, 40 members, adaptive inflation": 0.205}


def twin(seed: int = 314, cycles: int = CYCLES, members: int | None = MEMBERS) -> Twin:
    """Return truth, observations and first members.

    The truth starts on the attractor of the model, the members about it with a standard deviation of 0.2 in their mean
    and in themselves.

    Parameters
    ----------
    seed
        Seed of the random numbers.
    cycles
        Number of steps, each with observations.
    members
        Number of first members; None gives their expectation, without the dimension.

    Raises
    ------
    ValueError
        Where a number is no count.
    """
    check(cycles, members)
    rng = draws(seed)
    guess = 3.0 + rng.truth.standard_normal(N)
    start = lorenz96.simulate(0, n=N, initial=guess, dt=DT, spin_up=500 * DT, **MODEL).x.values[-1]
    centre = start + ERROR_STD * rng.members.standard_normal(N)
    first = centre if members is None else centre + ERROR_STD * rng.members.standard_normal((members, N))
    seen = (np.arange(1, cycles + 1)[:, None] + np.arange(N)) % 2 == 0
    truth = lorenz96.simulate(cycles, n=N, dt=DT, spin_up=0.0, initial=start, seed=seed, **TRUTH)
    return build(truth, first, rng.errors, ERROR_STD, seen)
