"""Lorenz 1996 seen at all sites every fourth step, 0.2 or one day: where a window of 4D-Var begins to pay.

Otherwise as :mod:`physml.testbeds.setups.sakov2008`.

References
----------
Bocquet, M. and Sakov, P. (2013), doi:10.5194/npg-20-803-2013, figure 4. The numbers are those that DAPPER documents for its
own 4D-Var (Raanes, P. N. et al. 2024, doi:10.21105/joss.05150).

Examples
--------
>>> twin(cycles=3).truth.time.values.round(9).tolist()
[0.0, 0.2, 0.4, 0.6]
"""

from __future__ import annotations

from physml.testbeds.setups import sakov2008
from physml.testbeds.setups._twin import Twin

N, FORCING, DT, EVERY = 40, 8.0, 0.05, 4
ERROR_STD = 1.0
CYCLES, BURN_IN = 1000, 100

RMSE = {
    "4D-Var, lag 1, B = 0.2 of the climate's": 0.46,
    "4D-Var, lag 2, B = 0.1 of the climate's": 0.39,
    "4D-Var, lag 4, B = 0.02 of the climate's": 0.37,
    "iterative ensemble Kalman smoother, 20 members, lag 4": 0.31,
}


def twin(seed: int = 3000, cycles: int = CYCLES, members: int | None = 40) -> Twin:
    """Return truth, observations and first members, as :func:`physml.testbeds.setups.sakov2008.twin`."""
    return sakov2008.twin(seed, cycles, members, every=EVERY)
