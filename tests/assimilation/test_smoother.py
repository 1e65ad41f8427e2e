"""The ensemble smoother against the Rauch-Tung-Striebel smoother."""

import numpy as np
import pytest
from linear import Linear, call, moments

from physml.assimilation import ETKF, EnKS


def rts(p, x, P, times):
    """Return means and covariances at each time by all observations, the initial time first."""
    steps = [(None, None, x, P)]
    for k in range(times):
        steps.append(p.kalman(steps[-1][2], steps[-1][3], k)[:4])
    found = [steps[-1][2:]]
    for (_, _, xa, Pa), (xf, Pf, _, _) in zip(steps[-2::-1], steps[:0:-1], strict=True):
        J = Pa @ p.M.T @ np.linalg.inv(Pf)
        found.insert(0, (xa + J @ (found[0][0] - xf), Pa + J @ (found[0][1] - Pf) @ J.T))
    return found


def test_smoothed_ensembles_are_the_rts_smoother_and_the_filter_is_unchanged():
    p, lag, times = Linear(5, 4, times=6), 3, 6
    first = p.rng.normal(size=(9, 5))
    method, rng = EnKS(smoothing_lag=lag), np.random.default_rng(3)
    state, filtered = first, first
    for k in range(times):
        draws = method.draws(rng, 9, 5, 4, 1)
        state, out = call(method, p.problem, state, p.seen(k), draws)
        filtered = call(ETKF(), p.problem, filtered, p.seen(k), draws)[0]["ensemble"]
        np.testing.assert_allclose(state["ensemble"], filtered, rtol=0, atol=1e-13)
        best = rts(p, *moments(first), k + 1)
        # What was told, then what is kept; times before the first are the initial one and stay as they were.
        for j, ensemble in enumerate((out.smoothed[0], *state["past"])):
            at = k + 1 - lag + j
            if at >= 0:
                np.testing.assert_allclose(moments(ensemble)[0], best[at][0], rtol=0, atol=1e-12)
                np.testing.assert_allclose(moments(ensemble)[1], best[at][1], rtol=0, atol=1e-12)


def test_a_lag_of_zero_is_refused():
    with pytest.raises(ValueError, match="smoothing_lag is too small"):
        EnKS(smoothing_lag=0)
