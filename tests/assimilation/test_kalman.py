"""The Kalman filter against its textbook form; the extended one against differences; optimal interpolation against BLUE."""

import numpy as np
import pytest
from keras import ops
from linear import Linear, call

from physml import _backend
from physml.assimilation import ExtendedKalman, Kalman, OptimalInterpolation
from physml.assimilation.errors.background import bind
from physml.assimilation.method import Problem
from physml.assimilation.methods.kalman import tangent
from physml.testbeds import lorenz96


def test_kalman_filter_is_the_textbook_one_for_each_of_its_runs():
    Q = np.diag(np.linspace(0.01, 0.1, 6))
    p = Linear(6, 4, times=3, model_error=bind(Q, 6))
    P = np.cov(p.rng.normal(size=(6, 12)))
    x, state = p.rng.normal(size=(2, 6)), None
    covariance = P
    for k in range(3):
        state, out = call(Kalman(initial_error=P), p.problem, x if state is None else state, p.seen(k))
        steps = [p.kalman(x[i], covariance, k, Q) for i in range(2)]
        x, covariance = np.array([s[2] for s in steps]), steps[0][3]
        np.testing.assert_allclose(state["ensemble"], x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(state["covariance"], [covariance] * 2, rtol=0, atol=1e-12)
        np.testing.assert_allclose(out.forecast[0], [s[0] for s in steps], rtol=0, atol=1e-12)
        np.testing.assert_allclose(out.innovation_std[0], steps[0][4], rtol=1e-12)
        np.testing.assert_allclose(out.chi2[0], np.mean([s[5] for s in steps]), rtol=1e-12)
        np.testing.assert_allclose(out.forecast_std[0] ** 2, np.diag(steps[0][1]), rtol=1e-12)
        np.testing.assert_allclose(out.std[0] ** 2, np.diag(covariance), rtol=1e-11)
        assert out.used[0] == 4 and out.rejected[0] == 0


def test_extended_filter_linearises_model_and_observation():
    p = Linear(5, 3)

    def m(x, k):
        return x + 0.1 * (x @ p.M.T) ** 3

    def h(x, seen):
        return (x @ p.H.T) ** 2

    def jacobian(f, x):
        return np.stack([(f(x + 1e-6 * e) - f(x - 1e-6 * e)) / 2e-6 for e in np.eye(5)], axis=-1)

    P, x = np.diag(np.linspace(0.1, 0.5, 5)), p.rng.normal(size=5)
    problem = Problem(5, m, observe=h)
    state, out = call(ExtendedKalman(initial_error=P, inflation=1.1), problem, x[None], p.seen())
    M = jacobian(lambda x: x + 0.1 * (x @ p.M.T) ** 3, x)
    xf = x + 0.1 * (x @ p.M.T) ** 3
    H = jacobian(lambda x: (x @ p.H.T) ** 2, xf)
    Pf = 1.21 * M @ P @ M.T
    K = Pf @ H.T @ np.linalg.inv(H @ Pf @ H.T + np.diag(p.std**2))
    np.testing.assert_allclose(out.forecast[0, 0], xf, rtol=0, atol=1e-14)
    np.testing.assert_allclose(state["ensemble"][0], xf + K @ (p.d[0] - (xf @ p.H.T) ** 2), rtol=0, atol=1e-8)
    np.testing.assert_allclose(state["covariance"][0], Pf - K @ H @ Pf, rtol=0, atol=1e-8)


@pytest.mark.parametrize("climatology", [False, True])
def test_optimal_interpolation_is_the_blue(climatology):
    p = Linear(6, 4)
    B, mean = np.cov(p.rng.normal(size=(6, 12))), p.rng.normal(size=6)
    x = p.rng.normal(size=(3, 6))
    method = OptimalInterpolation(background_error=B, mean=mean if climatology else None)
    state, out = call(method, p.problem, x, p.seen())
    xb = np.tile(mean, (3, 1)) if climatology else x @ p.M.T
    K = B @ p.H.T @ np.linalg.inv(p.H @ B @ p.H.T + np.diag(p.std**2))
    np.testing.assert_allclose(state["ensemble"], xb + (p.d[0] - xb @ p.H.T) @ K.T, rtol=0, atol=1e-13)
    np.testing.assert_allclose(out.std[0] ** 2, np.diag(B - K @ p.H @ B), rtol=1e-12)
    np.testing.assert_allclose(out.forecast[0], x @ p.M.T, rtol=0, atol=1e-14)
    np.testing.assert_allclose(out.innovation[0], p.d[0] - p.H @ xb.mean(0), rtol=0, atol=1e-13)


def test_the_tangent_linear_and_the_adjoint_of_a_step_agree(rng):
    def step(x):
        return x + 0.05 * lorenz96.tendency(x[..., None])[..., 0]

    x, u, v = rng.normal(size=(1, 40)), rng.normal(size=(1, 3, 40)), rng.normal(size=(1, 40))
    with _backend.float64():
        x = ops.convert_to_tensor(x)
        value, slopes = tangent(step, x, ops.convert_to_tensor(u))
        back = np.asarray(_backend.vjp(step, x)[1](ops.convert_to_tensor(v)))
    np.testing.assert_allclose(np.asarray(slopes)[0] @ v[0], u[0] @ back[0], rtol=1e-13)
    assert value.shape == (1, 40)


@pytest.mark.parametrize(
    "method", [Kalman(initial_error=0.5), OptimalInterpolation(background_error=0.5)], ids=["Kalman", "OI"]
)
def test_missing_observations_are_removed_ones_and_none_leave_the_forecast(method):
    p = Linear(6, 4, gross_error=4.0)
    x, keep = p.rng.normal(size=(1, 6)), np.array([0, 3])
    p.d[0, 1], p.d[0, 2] = np.nan, 1e3
    state, out = call(method, p.problem, x, p.seen())
    fewer, less = call(method, p.problem, x, p.seen(keep=keep))
    np.testing.assert_allclose(state["ensemble"], fewer["ensemble"], rtol=0, atol=1e-14)
    np.testing.assert_allclose(out.chi2, less.chi2, rtol=1e-12)
    assert out.used[0] == 2 and out.rejected[0] == 1
    assert np.array_equal(np.isnan(out.innovation[0]), [False, True, False, False])
    p.d[0] = np.nan
    state, out = call(method, p.problem, x, p.seen())
    assert np.array_equal(state["ensemble"], out.forecast[0]) and np.isnan(out.chi2[0]) and out.used[0] == 0


def test_a_covariance_of_another_size_is_refused():
    p = Linear(6, 4)
    with pytest.raises(ValueError, match="does not fit the state"):
        call(Kalman(initial_error=bind(np.eye(5), 5)), p.problem, np.zeros((1, 6)), p.seen())
