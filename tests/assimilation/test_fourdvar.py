"""4D-Var against the Kalman smoother, its own exact solution, finite differences; through networks in float32."""

import keras
import numpy as np
import pytest
from keras import ops

from physml import _backend
from physml.assimilation import FourDVar, WeakFourDVar
from physml.assimilation.errors.background import Dense
from physml.assimilation.method import Problem, Seen
from physml.assimilation.methods.gauss_newton import LeastSquares
from physml.assimilation.methods.runner import drive
from physml.testbeds import lorenz96

N, T, M = 5, 3, 4
KEEP = ("analysis", "forecast", "std", "forecast_std", "innovation", "innovation_std", "chi2", "used")


class Linear:
    """A linear model with dense H, one observation missing, and its Kalman filter and Rauch-Tung-Striebel smoother."""

    def __init__(self, q=0.1):
        rng = np.random.default_rng(3)
        self.M = 0.4 * rng.normal(size=(N, N)) + 0.5 * np.eye(N)
        self.H, self.r = rng.normal(size=(T, M, N)), rng.uniform(0.5, 1.5, (T, M))
        self.d = rng.normal(size=(T, M))
        self.d[1, 2] = np.nan
        a, b = rng.normal(size=(2, N, N))
        self.B, self.Q = a @ a.T + 0.3 * np.eye(N), q * (b @ b.T + 0.3 * np.eye(N))
        self.x0 = rng.normal(size=(1, N))
        index = np.tile(np.arange(N, dtype="int32"), (T, M, 1))
        self.seen = Seen(self.d, self.r, index, self.H)
        self.problem = Problem(N, lambda x, k: ops.matmul(x, self.M.T), model_error=Dense(self.Q) if q else None)

    def smoother(self, Q):
        x, P, steps, xs, Ps = self.x0[0], self.B, [], [], []
        for t in range(T):
            xf, Pf = self.M @ x, self.M @ P @ self.M.T + Q
            ok = np.isfinite(self.d[t])
            h, v = self.H[t][ok], self.d[t][ok] - self.H[t][ok] @ xf
            K = Pf @ h.T @ np.linalg.inv(h @ Pf @ h.T + np.diag(self.r[t][ok] ** 2))
            x, P = xf + K @ v, Pf - K @ h @ Pf
            steps.append((xf, Pf, x, P))
        xs, Ps = [x], [P]
        for t in range(T - 2, -1, -1):
            G = steps[t][3] @ self.M.T @ np.linalg.inv(steps[t + 1][1])
            xs.insert(0, steps[t][2] + G @ (xs[0] - steps[t + 1][0]))
            Ps.insert(0, steps[t][3] + G @ (Ps[0] - steps[t + 1][1]) @ G.T)
        return np.array(xs), np.sqrt(np.diagonal(Ps, axis1=1, axis2=2)), steps


def test_strong_4dvar_with_a_linear_model_is_the_kalman_smoother():
    case = Linear()
    method = FourDVar(background_error=Dense(case.B), window=T, iterations=1)
    out = drive(method, case.problem, case.x0, case.seen, keep=KEEP)
    states, std, steps = case.smoother(np.zeros((N, N)))
    np.testing.assert_allclose(out["analysis"][:, 0], states, atol=1e-10)
    np.testing.assert_allclose(out["std"], std, atol=1e-10)
    np.testing.assert_allclose(out["analysis"][-1, 0], steps[-1][2], atol=1e-10)  # the filter at the end of the window
    # Innovations are those of the background's own trajectory.
    x, P = case.x0[0], case.B
    for t in range(T):
        x, P = case.M @ x, case.M @ P @ case.M.T
        S = case.H[t] @ P @ case.H[t].T + np.diag(case.r[t] ** 2)
        v, ok = case.d[t] - case.H[t] @ x, np.isfinite(case.d[t])
        np.testing.assert_allclose(out["innovation"][t], v, atol=1e-12)
        np.testing.assert_allclose(out["innovation_std"][t][ok], np.sqrt(np.diag(S))[ok], rtol=1e-12)
        chi2 = v[ok] @ np.linalg.solve(S[np.ix_(ok, ok)], v[ok]) / ok.sum()
        np.testing.assert_allclose(out["chi2"][t], chi2, rtol=1e-12)
        np.testing.assert_allclose(out["forecast_std"][t], np.sqrt(np.diag(P)), rtol=1e-12)
    assert out["used"].tolist() == [4, 3, 4]


def test_weak_4dvar_with_a_linear_model_is_the_rauch_tung_striebel_smoother():
    case = Linear()
    method = WeakFourDVar(background_error=Dense(case.B), window=T, iterations=1)
    out = drive(method, case.problem, case.x0, case.seen, keep=KEEP)
    states, std, _ = case.smoother(case.Q)
    np.testing.assert_allclose(out["analysis"][:, 0], states, atol=1e-10)
    np.testing.assert_allclose(out["std"], std, atol=1e-10)


def test_weak_constraint_tends_to_strong_as_the_model_error_vanishes():
    """The gap is proportional to Q."""
    case = Linear()
    tiny = 1e-5 * case.Q
    method = WeakFourDVar(background_error=case.B, window=T, iterations=1, model_error=tiny)
    weak = drive(method, case.problem, case.x0, case.seen, keep=("analysis",))["analysis"][:, 0]
    strong, expected = case.smoother(np.zeros((N, N)))[0], case.smoother(tiny)[0]
    np.testing.assert_allclose(weak, expected, atol=1e-10)
    assert 1e-7 < np.abs(weak - strong).max() < 1e-3


def test_conjugate_gradients_find_the_same_minimum_and_samples_its_spread():
    case = Linear()
    method = FourDVar(
        background_error=case.B, window=T, iterations=1, dense_limit=0, inner_tolerance=1e-12, probes=4000
    )
    out = drive(method, case.problem, case.x0, case.seen, keep=KEEP)
    states, std, _ = case.smoother(np.zeros((N, N)))
    np.testing.assert_allclose(out["analysis"][:, 0], states, atol=1e-10)
    # Relative standard error of a standard deviation from 4000 samples: 0.011.
    np.testing.assert_allclose(out["std"], std, rtol=0.05)


@pytest.mark.parametrize("weak", [False, True])
def test_overlapping_windows_start_where_the_one_before_left_the_trajectory(weak):
    case = Linear()
    B, Q = 0.3 * case.B, case.Q if weak else np.zeros((N, N))
    kind = WeakFourDVar if weak else FourDVar
    method = kind(background_error=Dense(B), window=2, shift=1, iterations=1)
    out = drive(method, case.problem, case.x0, case.seen, keep=("analysis", "smoothed"))
    # The window begins at start; eta[0] is what the model errs by on its way to the first time in it.
    start, eta, smoothed = case.x0[0], np.zeros((2, N)), []
    for t, length in enumerate((1, 2, 2)):
        if t == 2:
            start, eta = case.M @ start + eta[0], np.array([eta[1], np.zeros(N)])
        # x at the new time = A start + sum of A_k eta_k; all are corrected by its observations alone.
        maps = [np.linalg.matrix_power(case.M, length - 1 - k) for k in range(length)]
        A = np.linalg.matrix_power(case.M, length)
        x = A @ start + sum(m @ e for m, e in zip(maps, eta, strict=False))
        P = A @ B @ A.T + sum(m @ Q @ m.T for m in maps)
        ok = np.isfinite(case.d[t])
        h = case.H[t][ok]
        w = h.T @ np.linalg.solve(h @ P @ h.T + np.diag(case.r[t][ok] ** 2), case.d[t][ok] - h @ x)
        start = start + B @ A.T @ w
        for k, m in enumerate(maps):
            eta[k] = eta[k] + Q @ m.T @ w
        np.testing.assert_allclose(out["analysis"][t, 0], x + P @ w, atol=1e-10)
        smoothed.append(case.M @ start + eta[0])
    assert np.isnan(out["smoothed"][0]).all()
    np.testing.assert_allclose(out["smoothed"][1:, 0], smoothed[1:], atol=1e-10)


def lorenz(n, parameter=None):
    """Return a problem of Lorenz-96 by Euler steps, whose forcing is F + parameter."""
    forcing = 8.0 if parameter is None else 8.0 + parameter
    return Problem(n, lambda x, k: x + 0.02 * lorenz96.tendency(x[..., None], forcing)[..., 0])


def observed(values, std, n):
    index = np.tile(np.arange(n, dtype="int32")[:, None], (len(values), 1, 1))
    return Seen(values, np.full(values.shape, std), index, np.ones(index.shape))


@pytest.fixture(scope="module")
def truth():
    states = [lorenz96.simulate(1, n=6, seed=4).x.values[:1]]
    for _ in range(3):
        states.append(states[-1] + 0.02 * lorenz96.tendency(states[-1][..., None])[..., 0])
    return np.concatenate(states)


def test_accurate_observations_of_a_perfect_model_give_the_truth_back(truth):
    method = FourDVar(background_error=Dense(np.eye(6)), window=3, tolerance=1e-10)
    start = truth[:1] + np.random.default_rng(0).normal(size=(1, 6))
    out = drive(method, lorenz(6), start, observed(truth[1:4], 1e-6, 6), keep=("analysis", "chi2"))
    np.testing.assert_allclose(out["analysis"][:, 0], truth[1:4], atol=1e-9)


@pytest.mark.parametrize(("limit", "window"), [(500, 2), pytest.param(0, 1, marks=pytest.mark.long)])
def test_the_gradient_of_an_analysis_agrees_with_finite_differences(truth, limit, window):
    """With respect to a parameter of the model, the background and the observations, through Gauss-Newton loops."""
    rng = np.random.default_rng(1)
    start, values = truth[:1] + rng.normal(size=(1, 6)), truth[1 : 1 + window] + 0.5 * rng.normal(size=(window, 6))
    direction = rng.normal(size=13)
    method = FourDVar(
        background_error=Dense(0.5 * np.eye(6)),
        window=window,
        iterations=30,
        tolerance=1e-10,
        dense_limit=limit,
        inner_tolerance=1e-10,
    )
    draws = {} if limit else {"probes": np.ones((2, 6))}

    def loss(a):
        t = a * direction
        x, d = start + t[None, 1:7], ops.concatenate([values[:1] + t[None, 7:], values[1:]])
        seen = observed(values, 0.5, 6)._replace(values=d)
        state, out = method(lorenz(6, t[0]), {"ensemble": x}, seen, draws)
        told = ops.sum(ops.square(out.analysis)) + ops.sum(state["ensemble"])
        # Spread and chi-square are differentiated where they are exact.
        return told + ops.sum(out.std) + ops.sum(out.chi2) if limit else told

    with _backend.float64():
        function = _backend.traced(loss)
        _, gradient = _backend.value_and_gradient(function, np.array(0.0))
        ahead, behind = (float(function(ops.convert_to_tensor(np.array(s)))) for s in (1e-4, -1e-4))
    assert float(gradient) == pytest.approx((ahead - behind) / 2e-4, rel=2e-6)


def test_no_observation_leaves_the_trajectory_of_the_background():
    case = Linear()
    method = FourDVar(background_error=Dense(case.B), window=T)
    out = drive(method, case.problem, case.x0, case.seen._replace(values=np.full((T, M), np.nan)), keep=KEEP)
    np.testing.assert_allclose(out["analysis"], out["forecast"], atol=1e-13)
    np.testing.assert_allclose(out["std"], out["forecast_std"], rtol=1e-12)
    assert out["used"].tolist() == [0, 0, 0] and np.isnan(out["chi2"]).all()


def test_a_network_in_float32_has_an_exact_tangent_and_adjoint():
    """<R^-1/2 H M v, w> = <v, M^T H^T R^-1/2 w>, and the gradient of J by finite differences."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [keras.layers.Input((6,)), keras.layers.Dense(12, activation="tanh"), keras.layers.Dense(6)]
    )

    def propagate(x, k):
        return ops.cast(network(ops.cast(x, "float32")), "float64")

    problem = Problem(6, propagate)
    rng = np.random.default_rng(2)
    with _backend.float64():
        x, z, v, w, d = (ops.convert_to_tensor(rng.normal(size=s)) for s in ((1, 6), (1, 6), (1, 6), (1, 12), (12,)))

        def predict(x, z):
            first = problem.propagate(x + 0.5 * z, 0)
            return ops.concatenate([first, problem.propagate(first, 1)], axis=-1)

        cost = LeastSquares(predict, x, d, ops.full((12,), 2.0, dtype="float64"), 6)
        _, tangent = _backend.jvp(lambda c: predict(x, c), z, v)
        _, adjoint = _backend.vjp(lambda c: predict(x, c), z)
        left, right = float(ops.sum(tangent * w)), float(ops.sum(v * adjoint(w)))
        assert left == pytest.approx(right, rel=1e-5)  # of float32
        slope = float(ops.sum(cost.gradient(z) * v))
        ahead, behind = (float(cost.cost(z + s * v)[0]) for s in (1e-2, -1e-2))
        assert slope == pytest.approx((ahead - behind) / 2e-2, rel=1e-3)
        seen = observed(np.asarray(predict(x, z)).reshape(2, 6), 0.1, 6)
    # Observations of the network's own trajectory from x + z / 2 draw that from x near.
    out = drive(FourDVar(background_error=1.0, window=2), problem, np.asarray(x), seen, keep=("forecast", "analysis"))
    misfit = [np.square(out[k][:, 0] - seen.values).sum() for k in ("forecast", "analysis")]
    assert misfit[1] < 0.05 * misfit[0]


def test_windows_and_model_errors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="moves on by more than its length"):
        FourDVar(background_error=Dense(np.eye(2)), window=2, shift=3)
    with pytest.raises(ValueError, match="iterations is too small"):
        FourDVar(background_error=Dense(np.eye(2)), iterations=0)
    case = Linear(q=0)
    with pytest.raises(ValueError, match="model error is not known"):
        drive(WeakFourDVar(background_error=Dense(case.B), window=T), case.problem, case.x0, case.seen)
    with pytest.raises(ValueError, match="does not fit the state"):
        drive(FourDVar(background_error=Dense(np.eye(2)), window=T), case.problem, case.x0, case.seen)
