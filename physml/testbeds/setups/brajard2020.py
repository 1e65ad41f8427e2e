"""Lorenz 1996 of which half of the sites, drawn anew at each step, are seen: a model is to be learned from that alone.

n = 40, F = 8, Runge-Kutta steps of 0.05, 20 of 40 sites at every step with errors of variance 1. The published loop
alternates an EnKF-N of 30 members with the training of a convolutional network, starting from a cubic interpolation.

References
----------
Brajard, J., Carrassi, A., Bocquet, M. and Bertino, L. (2020), doi:10.1016/j.jocs.2020.101171. The numbers were measured with
the published scripts over 4000 steps.

Examples
--------
>>> observations = twin(cycles=100).observations
>>> observations.notnull().sum("site").values.min().item(), observations.notnull().sum("site").values.max().item()
(20, 20)
"""

from __future__ import annotations

import numpy as np

from physml.testbeds import lorenz96
from physml.testbeds.setups._twin import Twin, build, check, draws

N, SEEN, FORCING, DT, EVERY = 40, 20, 8.0, 0.05, 1
ERROR_STD = 1.0
MEMBERS, CYCLES, BURN_IN = 30, 4000, 400

RMSE = {
    "cubic interpolation in time and space": 2.35,
    "EnKF-N, convolutional network after 10 rounds": 0.943,
    "EnKF-N, bilinear tendency in a Runge-Kutta scheme after 8 rounds": 0.572,
    "EnKF-N, true model": 0.369,
}


def twin(seed: int = 0, cycles: int = CYCLES, members: int | None = MEMBERS) -> Twin:
    """Return truth, observations and first members.

    The truth starts on the attractor, the members about it with a standard deviation of 1 in their mean and in themselves.

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
    guess = FORCING + rng.truth.standard_normal(N)
    truth = lorenz96.simulate(cycles, n=N, dt=DT, forcing=FORCING, spin_up=20.0, initial=guess, seed=seed)
    centre = truth.x.values[0] + rng.members.standard_normal(N)
    first = centre if members is None else centre + rng.members.standard_normal((members, N))
    order = rng.places.permuted(np.tile(np.arange(N), (cycles, 1)), axis=1)
    return build(truth, first, rng.errors, ERROR_STD, seen=order < SEEN)
