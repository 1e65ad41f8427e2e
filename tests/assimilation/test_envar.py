"""Hybrid EnVar: its limits are the ETKF and the variational analysis."""

import numpy as np
import pytest
from keras import ops

from physml.assimilation import ETKF, HybridEnVar
from physml.assimilation.method import Problem, Seen
from physml.assimilation.methods.runner import drive

N, M, MEMBERS, TIMES = 6, 4, 5, 2
KEEP = ("forecast", "analysis", "chi2", "innovation_std", "used", "rejected")


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(9)
    step, H = 0.6 * rng.normal(size=(N, N)), rng.normal(size=(M, N))
    index = np.arange(N, dtype="int32") + np.zeros((M, 1), "int32")
    values = rng.normal(size=(TIMES, M))
    values[1, 0] = np.nan
    seen = Seen(values, rng.uniform(0.3, 1, M), index, H)
    return step, H, Problem(N, lambda x, k: ops.matmul(x, step.T)), seen, rng.normal(size=(MEMBERS, N))


@pytest.mark.parametrize("window", [0, TIMES])
def test_with_the_ensemble_alone_and_linear_operators_it_is_the_ensemble_transform(case, window):
    _, _, problem, seen, ensemble = case
    method = HybridEnVar(background_error=np.eye(N), weight=1.0, window=window, rotate=False, iterations=1)
    out = drive(method, problem, ensemble, seen, keep=KEEP)
    filtered = drive(ETKF(rotate=False), problem, ensemble, seen, keep=KEEP)
    # A window's last analysis is that of the filter, up to a rotation: its first is the smoother's.
    mean, expected = (o["analysis"][-1].mean(axis=0) for o in (out, filtered))
    np.testing.assert_allclose(mean, expected, atol=1e-10)
    covariances = [np.cov(o["analysis"][-1].T) for o in (out, filtered)]
    np.testing.assert_allclose(*covariances, atol=1e-10)
    if not window:
        for name in KEEP:
            np.testing.assert_allclose(out[name], filtered[name], atol=1e-10)


def test_the_mean_leaves_the_space_of_the_members_as_the_hybrid_covariance_lets_it(case):
    step, H, problem, seen, ensemble = case
    A = np.diag(np.linspace(0.5, 1.0, N))
    method = HybridEnVar(background_error=A, weight=0.3, localisation=None, inflation=1.1, relaxation=0.2, iterations=1)
    out = drive(method, problem, ensemble, Seen(seen.values[:1], *seen[1:]), keep=KEEP)
    forecast = ensemble @ step.T
    B, R = 0.7 * A + 0.3 * np.cov(forecast.T), np.diag(seen.error_std**2)
    S = H @ B @ H.T + R
    mean = forecast.mean(axis=0) + B @ H.T @ np.linalg.solve(S, seen.values[0] - H @ forecast.mean(axis=0))
    np.testing.assert_allclose(out["analysis"][0].mean(axis=0), mean, atol=1e-10)
    np.testing.assert_allclose(out["innovation_std"][0], np.sqrt(np.diag(S)), rtol=1e-10)


def test_weights_and_windows_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="weight is not between 0 and 1"):
        HybridEnVar(background_error=np.eye(2), weight=1.5)
    with pytest.raises(ValueError, match="the window is negative"):
        HybridEnVar(background_error=np.eye(2), window=-1)
